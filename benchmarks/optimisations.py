"""Each optimisation of the training step, switched off by itself: a section of speed.py.

Predicted is the ratio of floating-point operations without and with it, as torch counts them; measured that of time.
"""

import argparse
import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from unittest import mock

import naive
import torch
from timing import check_same, in_turn, summary
from torch.utils.flop_counter import FlopCounterMode
from workload import MAX_SEQ_LEN, Bench

from modeling_transrec import TransRecForSequentialRecommendation
from modeling_transrec.models import content_encoders, histories, text_chunks


PER_ITEM = (
    "input_ids",
    "attention_mask",
    "has_text",
    "item_ids",
    "image_index",
    "pixel_values",
)  # here all have a picture
ROWS = ("item_index", "labels", "negative_index")


def take(batch: dict, rows: torch.Tensor) -> dict:
    """The batch with these items."""
    taken = {**batch, **{name: batch[name][rows] for name in PER_ITEM if name in batch}}
    if "image_index" in batch:
        taken["image_index"] = torch.arange(len(rows), device=rows.device)
    return taken


def encode_every_occurrence(bench: Bench, batch: dict) -> dict:
    """An item as often as it stands in the histories, targets and negatives."""
    used = torch.cat([batch[name][batch[name] >= 0] for name in ROWS])
    repeated, start = take(batch, used), 0
    for name in ROWS:
        is_there = batch[name] >= 0
        count = int(is_there.sum())
        repeated[name] = batch[name].clone()
        repeated[name][is_there] = torch.arange(start, start + count, device=used.device)
        start += count
    return repeated


def encode_padding(bench: Bench, batch: dict) -> dict:
    """An item, the first, for every padded position, as positive and as negative."""
    num_items = len(batch["input_ids"] if "input_ids" in batch else batch["image_index"])
    num_positions = batch["item_index"].shape[0] * (MAX_SEQ_LEN + 1)
    num_padded = 2 * (num_positions - int((batch["item_index"] >= 0).sum()) - batch["item_index"].shape[0])
    rows = torch.cat([torch.arange(num_items), torch.zeros(num_padded, dtype=torch.long)])
    return take(batch, rows.to(batch["item_index"].device))


def pad_to_30_tokens(bench: Bench, batch: dict) -> dict:
    return naive.pad_texts(batch)


def from_features(bench: Bench, batch: dict) -> dict:
    """What a frozen backbone gives out, in place of what it reads."""
    encoder, kept = bench.model.item_encoder, {name: value for name, value in batch.items() if name not in PER_ITEM}
    with torch.no_grad(), bench.autocast():
        if encoder.text is not None:
            features = encoder.text.features(**{name: batch[name] for name in encoder.text.inputs})
            return {**kept, "text_features": features}
        features = encoder.image.features(pixel_values=batch["pixel_values"])
        return {**kept, "image_features": features, "image_index": batch["image_index"]}


@contextlib.contextmanager
def texts_in_one_piece(bench: Bench) -> Iterator[None]:
    """All texts of a batch are padded to its longest."""
    limits = {"TOKENS_AT_A_TIME": 10**9, "TOKENS_AT_A_TIME_ON_CPU": 10**9}
    with mock.patch.multiple(text_chunks, **limits):
        yield


@contextlib.contextmanager
def texts_as_given(bench: Bench) -> Iterator[None]:
    """Texts go through the backbone with all their padding."""

    def features(encoder, input_ids, attention_mask, **_):
        return encoder.pooling(encoder.token_vectors(input_ids, attention_mask), attention_mask)

    with mock.patch.object(content_encoders.TextEncoder, "features", features):
        yield


@contextlib.contextmanager
def user_encoder_over_padding(bench: Bench) -> Iterator[None]:
    """The user encoder computes every position of a padded history."""

    def all_positions(histories):
        return torch.arange(histories.mask.numel(), device=histories.mask.device)

    with mock.patch.object(histories.Histories, "index", property(all_positions)):
        yield


@contextlib.contextmanager
def in_chunks(bench: Bench) -> Iterator[None]:
    with mock.patch.object(bench.model.item_encoder, "chunk_size", 256):
        yield


@contextlib.contextmanager
def activation_checkpointing(bench: Bench) -> Iterator[None]:
    bench.model.activation_checkpointing_enable()
    try:
        yield
    finally:
        bench.model.activation_checkpointing_disable()


def freeze(bench: Bench) -> None:
    bench.model.freeze_backbone()


class Optimisation(NamedTuple):
    """What one step does and the other does not.

    Args:
        name: of the optimisation.
        parts: item encoders that have it.
        batch_without, batch_with: change the batch of the step without it, and of the step with it.
        within_without, within_with: hold while that step runs.
        prepare: changes the model, for both.
        compiles: what it compiles of the model.
    """

    name: str
    parts: tuple[str, ...] = ("text", "image")
    batch_without: Callable[[Bench, dict], dict] | None = None
    batch_with: Callable[[Bench, dict], dict] | None = None
    within_without: Callable = contextlib.nullcontext
    within_with: Callable = contextlib.nullcontext
    prepare: Callable[[Bench], None] | None = None
    compiles: Callable[[TransRecForSequentialRecommendation], None] | None = None


OPTIMISATIONS = (
    Optimisation("each distinct item once", batch_without=encode_every_occurrence),
    Optimisation("no padded positions", batch_without=encode_padding),
    Optimisation(
        "texts not padded to 30 tokens",
        ("text",),
        batch_without=pad_to_30_tokens,
        within_without=texts_as_given,
        within_with=texts_in_one_piece,
    ),
    Optimisation("texts of like length together", ("text",), within_without=texts_in_one_piece),
    Optimisation("user encoder over items alone", ("id",), within_without=user_encoder_over_padding),
    Optimisation("frozen backbone's features computed once", batch_with=from_features, prepare=freeze),
    Optimisation("gradient caching, 256 items at a time (for memory)", within_with=in_chunks),
    Optimisation("activation checkpointing (for memory)", within_with=activation_checkpointing),
    Optimisation("torch.compile of the backbone", ("text",), compiles=lambda model: model.compile_backbone()),
    Optimisation(
        "torch.compile of the user encoder",
        ("id",),
        compiles=lambda model: model.model.user_encoder.compile(dynamic=True),
    ),
)


def measure_optimisations(args: argparse.Namespace) -> Iterable[dict]:
    """A step without (naive) and with (ours) one optimisation, all others on; predicted is the ratio of operations. On
    the first data set."""
    asked = [one for one in OPTIMISATIONS if any(part in one.name for part in args.optimisations)]
    name = args.shapes[0]
    for optimisation, (backbone, fields) in itertools.product(asked, args.backbones.items()):
        if backbone.split(":")[0] in optimisation.parts:
            labels = {"optimisation": optimisation.name, "backbone": backbone, "data": name}
            try:
                yield labels | measure(optimisation, Bench(name, fields, args), args)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                print(f"{optimisation.name}, {backbone}: left out: the GPU's memory is too small without it")


def measure(optimisation: Optimisation, bench: Bench, args: argparse.Namespace) -> dict:
    """One row, but for its labels."""
    if optimisation.prepare is not None:
        optimisation.prepare(bench)
    compiled = bench
    if optimisation.compiles is not None:
        compiled = copy.copy(bench)
        compiled.model = copy.deepcopy(bench.model)
        optimisation.compiles(compiled.model)

    def steps(number: int) -> dict[str, Callable[[], float]]:
        batch = bench.to_device(bench.collator(bench.features(number, args.batch_size)))
        without = batch if optimisation.batch_without is None else optimisation.batch_without(bench, batch)
        with_it = batch if optimisation.batch_with is None else optimisation.batch_with(bench, batch)

        def step_without() -> float:
            with optimisation.within_without(bench):
                return bench.our_step(without)

        def step_with() -> float:
            with optimisation.within_with(compiled):
                return compiled.our_step(with_it)

        return {"naive": step_without, "ours": step_with}

    both = steps(0)
    bench.model.eval(), compiled.model.eval()  # without dropout, the losses are the same
    check_same({step: run() for step, run in both.items()}, optimisation.name, args.dtype)
    bench.model.train(), compiled.model.train()
    compiles = optimisation.compiles is not None  # which changes no operation, and hides them from the counter
    row = {"predicted": 1.0 if compiles else round(operations(both["naive"]) / operations(both["ours"]), 2)}
    row |= summary(in_turn(map(steps, itertools.count()), bench.device, args.seconds))
    models = {"naive": bench, "ours": compiled}
    return row | {"peak MB": {step: models[step].peak_megabytes(run) for step, run in both.items()}}


def operations(step: Callable[[], float]) -> int:
    """Floating-point operations of a step's products, attentions and convolutions."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
