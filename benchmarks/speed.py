"""What a training step and an evaluation cost, beside a naive implementation and the floor.

    python benchmarks/speed.py                                  # CPU
    python benchmarks/speed.py --device cuda --dtype bfloat16   # BERT-base, Swin-T and ids on a GPU

All that is compared runs in one process, in turn, on the same batches; ratios are medians over the rounds. A step is
forward and backward pass, without the optimizer, which costs all the same.

- naive: every position's positive and negative, padding included, texts of 30 tokens; see naive.py;
- ours: the collator's batch through the model;
- floor: the bare backbone over the batch's distinct items, texts padded to the longest; for ids the table, the user
  encoder and the loss over the batch as one padded block.

Data have the lengths, popularity and text lengths of Amazon_Beauty and ML100K, synthetic unless `--data_dir` holds the
files; pictures are noise. Results: `benchmarks/results/speed_cpu.json`, `.md` and `.png`, or `speed_cuda`.
"""

import argparse
import copy
import functools
import gc
import itertools
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import mock

import datasets
import naive
import numpy as np
import psutil
import torch
import transformers
from optimisations import measure_optimisations, operations
from rendering import plot, plot_growth, render
from timing import check_same, command_line, fits, in_turn, seconds_of, summary, synchronize
from torch.utils.flop_counter import FlopCounterMode
from workload import BACKBONES, MAX_SEQ_LEN, SHAPES, USERS_PER_BATCH, Bench, Shape

from modeling_transrec import (
    FullRankingEvaluator,
    TransRecDataCollator,
    TransRecTrainer,
    TransRecTrainingArguments,
    __version__,
)
from modeling_transrec.data.loading import read_histories
from modeling_transrec.data.precomputed_items import PrecomputedItems
from modeling_transrec.evaluation.encoding import encode_catalogue
from modeling_transrec.evaluation.metrics import Rankings, ranking_metrics
from modeling_transrec.evaluation.ranking import rank_targets
from modeling_transrec.evaluation.scoring import CatalogueScorer
from modeling_transrec.models import modalities, user_encoders
from modeling_transrec.models.backbones import layers_of
from modeling_transrec.models.content_encoders import PixelNormalization
from modeling_transrec.training.arguments import usual_workers
from modeling_transrec.training.precomputed import precompute
from modeling_transrec.training.splits import choose_users


RESULTS = Path(__file__).parent / "results"
NAIVE_GIGABYTES = {"text: BERT 6 x 384": 18}  # that a naive step takes, where that is much
WARM_UP_STEPS = 6  # of loading: after workers are started, the first steps copy the memory shared with them
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989}  # dense bfloat16, by part of the name


def measure_training(args: argparse.Namespace) -> Iterable[dict]:
    """Naive, ours and floor for every backbone and data set."""
    for (backbone, fields), name in itertools.product(args.backbones.items(), args.shapes):
        bench = Bench(name, fields, args)
        if args.device == "cuda":
            does_fit = fits(bench.steps(bench.features(0, args.batch_size))["naive"])
        else:
            does_fit = NAIVE_GIGABYTES.get(backbone, 0) < psutil.virtual_memory().available / 1e9
        left_out = set() if does_fit else {"naive"}
        if left_out:
            print(f"{backbone}, {name}: the naive step is left out: the memory is too small for it")

        def steps(number: int, bench=bench, left_out=left_out) -> dict[str, Callable[[], float]]:
            found = bench.steps(bench.features(number, args.batch_size))
            return {step: run for step, run in found.items() if step not in left_out}

        times = in_turn(map(steps, itertools.count()), bench.device, args.seconds)
        batch = bench.to_device(bench.collator(bench.features(0, args.batch_size)))
        row = {"backbone": backbone, "data": name, **summary(times)}
        row["peak MB"] = {step: bench.peak_megabytes(run) for step, run in steps(0).items()}
        bench.model.eval()  # without dropout, the losses are the same; of a few users, since naive takes long
        few = bench.steps(bench.features(0, min(args.batch_size, 16)))
        check_same({step: few[step]() for step in ("naive", "ours") if step not in left_out}, backbone, args.dtype)
        bench.model.train()
        row |= throughput(bench, batch)
        yield row


def throughput(bench: Bench, batch: dict) -> dict:
    """Tokens or pictures a second of our step and, on a GPU, the share of its peak FLOPs that are used."""
    found = {}
    seconds = statistics.median(seconds_of(functools.partial(bench.our_step, batch), bench.device) for _ in range(5))
    if "attention_mask" in batch:
        found["tokens per second"] = round(int(batch["attention_mask"].sum()) / seconds)
    if "pixel_values" in batch:
        found["images per second"] = round(len(batch["pixel_values"]) / seconds)
    if bench.device.type == "cuda" and found:
        with FlopCounterMode(display=False) as counter:
            bench.our_step(batch)
        achieved = counter.get_total_flops() / seconds / 1e12
        device = torch.cuda.get_device_name()
        known = [peak for part, peak in PEAK_TFLOPS.items() if part in device]
        peak = bench.args.peak_tflops or (known[0] if known else None)
        found |= {"TFLOP/s": round(achieved, 1), "MFU": None if peak is None else round(achieved / peak, 3)}
    return found


def measure_floor_by_length(args: argparse.Namespace) -> Iterable[dict]:
    """Our step of texts beside a floor without padded texts: the bare backbone over the same chunks of texts of like
    length, then projection, user encoder and loss over one padded block. The backbone by itself is most of a step if
    it is large, less if it is smaller than the user encoder of width 256 behind it."""
    for (backbone, fields), name in itertools.product(args.backbones.items(), args.shapes):
        if "text_config" not in fields:
            continue
        bench = Bench(name, fields, args)

        def steps(number: int, bench=bench) -> dict[str, Callable[[], float]]:
            batch = bench.to_device(bench.collator(bench.features(number, args.batch_size)))
            return {
                "ours": lambda: bench.our_step(batch),
                "floor": lambda: bench.step(lambda: bench.floor_by_length(batch)),
                "backbone": lambda: bench.step(lambda: bench.features_by_length(batch).float().sum()),
            }

        times = in_turn(map(steps, itertools.count()), bench.device, args.seconds)
        row = {"backbone": backbone, "data": name, **summary(times)}
        bench.model.eval()  # without dropout, the losses are the same
        check_same({step: run() for step, run in steps(0).items() if step != "backbone"}, backbone, args.dtype)
        yield row


def measure_frozen_layers(args: argparse.Namespace) -> Iterable[dict]:
    """Reading a batch and a step, where only the last layers are trained: the frozen ones computed in every step
    (naive), and their outputs read from disk (ours); predicted is the ratio of operations. On the first data set."""
    name = args.shapes[0]
    for (backbone, fields), last in itertools.product(args.backbones.items(), (1, 2)):
        if not {"text_config", "vision_config"} & fields.keys():
            continue
        bench = Bench(name, fields, args)
        if last >= len(layers_of(bench.model.item_encoder.backbones[0])):
            continue
        bench.model.freeze_backbone(train_last_n_layers=last)
        bench.model.eval()  # without dropout, the losses are the same
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            with bench.autocast():
                items = precompute(bench.model, bench.data.items, bench.processor, cache_dir=folder)
            if not isinstance(items, PrecomputedItems):
                raise RuntimeError(f"{backbone}: the frozen layers' outputs cannot stand for them")
            seconds = time.perf_counter() - start
            ours = copy.copy(bench.collator)
            ours.items = items
            collators = {"naive": bench.collator, "ours": ours}
            features = bench.features(0, args.batch_size)
            losses = {step: read_and_step(bench, collator, features) for step, collator in collators.items()}
            check_same(losses, backbone, args.dtype)
            counts = [operations(functools.partial(read_and_step, bench, one, features)) for one in collators.values()]
            bench.model.train()
            times = in_turn(rounds_of_reading(bench, collators), bench.device, args.seconds)
            stored = sum(array.values.nbytes for array in items.arrays.values())
            row = {"backbone": backbone, "data": name, "layers trained": last}
            row |= {"predicted": round(counts[0] / counts[1], 2), **summary(times)}
            yield {**row, "seconds to store": round(seconds, 1), "MB stored": round(stored / 1e6)}


def read_and_step(bench: Bench, collator: TransRecDataCollator, features: list[dict]) -> float:
    return bench.our_step(bench.to_device(collator(features)))


def rounds_of_reading(bench: Bench, collators: dict[str, TransRecDataCollator]) -> Iterable[dict[str, Callable]]:
    """The steps of all collators on one batch after the other."""
    for number in itertools.count():
        features = bench.features(number, bench.args.batch_size)
        yield {step: functools.partial(read_and_step, bench, one, features) for step, one in collators.items()}


class RankingBench(Bench):
    """A model with users to rank every item for; targets are drawn at random."""

    def __init__(self, name: str, fields: dict, args: argparse.Namespace, shape: Shape):
        super().__init__(name, fields, args, shape)
        self.model.eval()
        item_ids = [str(row) for row in range(shape.num_items)]
        targets = np.random.default_rng(1).choice(item_ids, shape.num_users)
        lists = [[item_ids[row] for row in history] for history in self.data.histories["history"]]
        self.split = datasets.Dataset.from_dict({"item_ids": lists, "target": targets})
        self.evaluator = self.evaluator_of(shape.num_users)
        self.catalogue = self.encode()
        self.batches = [rows for rows, _ in self.evaluator.batches(self.device)]

    def evaluator_of(self, num_users: int) -> FullRankingEvaluator:
        """Of so many of the users."""
        items = datasets.Dataset.from_dict({"item_id": [str(row) for row in range(len(self.data.items))]})
        return FullRankingEvaluator(items, choose_users(self.split, num_users), prepared_items=self.data.items)

    def encode(self) -> torch.Tensor:
        with self.autocast():
            return encode_catalogue(self.model, self.data.items, self.processor)

    @torch.no_grad()
    def encode_naively(self) -> None:
        for start in range(0, len(self.data.items), 256):
            inputs = naive.pad_texts(self.processor.pad(self.data.items[start : start + 256]))
            with self.autocast():
                naive.encode(self.model.item_encoder, self.to_device(inputs))

    @torch.no_grad()
    def states(self, histories: torch.Tensor) -> torch.Tensor:
        """User vectors `(B, D)` of histories `(B, L)`."""
        inputs = histories[:, -MAX_SEQ_LEN:]
        mask = inputs >= 0
        with self.autocast():
            return self.model.get_user_features(self.catalogue[inputs.clamp(min=0)] * mask[:, :, None], mask).float()

    def rank(self) -> dict[str, float]:
        return self.evaluator.rank(CatalogueScorer(self.model, self.catalogue, autocast=self.autocast))

    def rank_naively(self) -> dict[str, float]:
        evaluator, ranks = self.evaluator, []
        for start in range(0, len(evaluator.targets), evaluator.batch_size):
            users = np.arange(start, min(start + evaluator.batch_size, len(evaluator.targets)))
            rows = read_histories(evaluator.histories, users)
            states = self.states(torch.from_numpy(rows).to(self.device))
            ranks += naive.rank_users(states, self.catalogue, rows, evaluator.targets[users])
        ranks = torch.tensor(ranks)
        return ranking_metrics(Rankings(ranks, torch.zeros_like(ranks)), evaluator.ks)

    def floor_of_ranking(self) -> None:
        for rows in self.batches:
            self.states(rows) @ self.catalogue.T

    def encode_users(self) -> None:
        for rows in self.batches:
            self.states(rows)

    def encode_users_at_every_position(self) -> None:
        def last(encoder, vectors, histories):
            return histories.last_of(encoder(vectors, histories))

        with mock.patch.object(user_encoders.SASRecUserEncoder, "last", last):
            self.encode_users()


def measure_evaluation(args: argparse.Namespace) -> Iterable[dict]:
    """Ranking every item for every user: a loop with a sort, ours, users and one matrix product; users' vectors from
    states at every position or at the last alone; the catalogue; and, on a CPU, the count of better items among scores
    that are there, as booleans all at once, or as numbers, so many as its cache holds. Predicted is the ratio of
    operations."""
    backbone = next(name for name in args.backbones if name.startswith("text"))
    for name in args.shapes:
        shape = SHAPES[name]._replace(num_users=min(SHAPES[name].num_users, args.eval_users))
        bench = RankingBench(name, args.backbones[backbone], args, shape)
        found, expected = bench.rank(), bench.rank_naively()
        tolerance = 1e-4 if args.dtype == "float32" else 1e-2  # users of like length are together in one alone
        if any(abs(found[metric] - expected[metric]) > tolerance for metric in expected):
            raise RuntimeError(f"the loop's metrics are not ours: {expected}, {found}")
        size = {"users": shape.num_users, "items": shape.num_items}
        ranking = {"naive": bench.rank_naively, "ours": bench.rank, "floor": bench.floor_of_ranking}
        encoding = {"naive": bench.encode_naively, "ours": bench.encode}
        states = {"naive": bench.encode_users_at_every_position, "ours": bench.encode_users}
        parts = {"ranking": ranking, "user vectors": states, "catalogue encoding": encoding}
        for what, functions in parts.items():
            times = in_turn(itertools.repeat(functions), bench.device, args.seconds)
            row = {"what": what, "data": name, "backbone": backbone, **size}
            row["predicted"] = round(operations(functions["naive"]) / operations(functions["ours"]), 2)
            peak = {step: bench.peak_megabytes(run) for step, run in functions.items()}
            yield {**row, **summary(times), "peak MB": peak}
    if args.device == "cpu":
        yield measure_counting(args)


def measure_counting(args: argparse.Namespace) -> dict:
    """A row of the evaluation: scores of 256 users for many items."""
    scores = torch.randn(256, args.scale_items)
    targets = torch.arange(len(scores))

    def count_booleans() -> tuple[torch.Tensor, torch.Tensor]:
        target_scores = scores.gather(1, targets[:, None])
        return (scores > target_scores).sum(dim=1), (scores == target_scores).sum(dim=1) - 1

    ways = {"naive": count_booleans, "ours": functools.partial(rank_targets, scores, targets)}
    if not all(map(torch.equal, ways["naive"](), ways["ours"]())):
        raise RuntimeError("the counts of better items are not the same")
    times = in_turn(itertools.repeat(ways), torch.device("cpu"), args.seconds)
    size = {"users": len(scores), "items": args.scale_items}
    return {"what": "count of better items", **size, "predicted": 1.0, **summary(times)}


def measure_ranking_scale(args: argparse.Namespace) -> Iterable[dict]:
    """Ranking many items of 512 dimensions for many users, and the most memory that the process ever had."""
    shape = SHAPES["Amazon_Beauty"]._replace(num_users=args.scale_users, num_items=args.scale_items)
    bench = RankingBench("", {"hidden_size": 512}, args, shape)
    found = {
        "users": shape.num_users,
        "items": shape.num_items,
        "seconds": round(seconds_of(bench.rank, bench.device), 1),
    }
    if bench.device.type == "cuda":
        found["peak GB of the GPU"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    yield {**found, "peak GB of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}


def measure_validation(args: argparse.Namespace) -> Iterable[dict]:
    """An epoch of training, by the median of its steps with the optimizer's, and the validation after it, in which the
    catalogue is encoded and every item ranked for every user, or for as many as `--max_eval_users` has chosen; its
    share of both together."""
    for (backbone, fields), name in itertools.product(args.backbones.items(), args.shapes):
        bench = RankingBench(name, fields, args, SHAPES[name])
        optimizer = torch.optim.AdamW(bench.model.parameters(), fused=True)
        train = functools.partial(train_on, bench, optimizer, args.batch_size)
        rounds = map(lambda number, train=train: {"step": functools.partial(train, number)}, itertools.count())
        bench.model.train()
        seconds = statistics.median(in_turn(rounds, bench.device, args.seconds)["step"])
        bench.model.eval()
        num_users = SHAPES[name].num_users
        num_steps = -(-num_users // args.batch_size)
        epoch = num_steps * seconds
        row = {"backbone": backbone, "data": name, "steps": num_steps, "seconds of an epoch": round(epoch, 2)}
        for count in sorted({num_users, min(num_users, args.max_eval_users)}, reverse=True):
            validate = functools.partial(bench.evaluator_of(count), bench.model, bench.processor, bench.autocast)
            rounds = itertools.repeat({"validation": validate})
            validation = statistics.median(in_turn(rounds, bench.device, args.seconds, least=1)["validation"])
            found = {"users ranked": count, "seconds of validation": round(validation, 2)}
            yield {**row, **found, "share of validation": round(validation / (epoch + validation), 4)}


class NormalizingCollator(TransRecDataCollator):
    """Its images are floats, four times the bytes."""

    def __call__(self, features: list[dict]) -> dict:
        batch = super().__call__(features)
        if "pixel_values" in batch:
            batch["pixel_values"] = PixelNormalization(self.config)(batch["pixel_values"])
        return batch


def measure_loading(args: argparse.Namespace) -> Iterable[dict]:
    """Share of an epoch's time in which the Trainer's step waits for its batch, by number of workers; pictures are
    handed over as bytes, or as floats that the workers have normalised: predicted is the ratio of what is handed over,
    and naive ÷ ours that of the waits. Of texts also how long a batch takes to make, where the tokenizer pads them
    (naive), and ours. On the first data set."""
    name = args.shapes[0]
    for backbone, fields in args.backbones.items():
        if "text_config" in fields:
            yield {"backbone": backbone, "data": name, "what": "making a batch", **measure_padding(args, fields)}
    ways = itertools.product(args.backbones.items(), (0, args.workers), ("bytes", "floats"))
    for (backbone, fields), workers, pictures in ways:
        if pictures == "floats" and "vision_config" not in fields:
            continue
        bench = Bench(name, fields, args)
        if pictures == "floats":
            parts = (bench.model.config, bench.data.items, bench.processor, bench.data.item_counts)
            bench.collator, bench.to_device = NormalizingCollator(*parts), bench.send
        ids = [str(row) for row in range(len(bench.data.items))]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TransRecTrainingArguments(
                output_dir=folder,
                use_cpu=args.device == "cpu",
                bf16=args.dtype == "bfloat16",
                per_device_train_batch_size=args.batch_size,
                dataloader_num_workers=workers,
                eval_strategy="no",
                load_best_model_at_end=False,
                report_to="none",
            )
            items = datasets.Dataset.from_dict({"item_id": ids})
            trainer = TransRecTrainer(bench.model, arguments, items, processing_class=bench.processor)
            trainer.train_dataset, trainer.data_collator = bench.data.histories, bench.collator
            loader = trainer.get_train_dataloader()
            num_steps = min(args.loading_steps, len(loader) - WARM_UP_STEPS)
            waited, computed, batches = 0.0, 0.0, iter(loader)
            bench.model.train()
            for number in range(-WARM_UP_STEPS, num_steps):
                synchronize(bench.device)
                start = time.perf_counter()
                batch = next(batches)
                there = time.perf_counter()
                bench.our_step(bench.to_device(batch))
                synchronize(bench.device)
                if number >= 0:
                    waited, computed = waited + there - start, computed + time.perf_counter() - there
            del batches
        row = {"backbone": backbone, "data": name, "workers": workers}
        if "vision_config" in fields:
            row["pictures"] = pictures
        seconds = {"wait": waited / num_steps, "step": computed / num_steps}
        row["seconds"] = {part: round(value, 5) for part, value in seconds.items()}
        row["waits"] = round(waited / (waited + computed), 4)
        if pictures == "bytes":
            with_bytes = waited
        else:
            row |= {
                "predicted": torch.float32.itemsize / torch.uint8.itemsize,
                "naive ÷ ours": round(waited / with_bytes, 2),
            }
        yield row


def measure_padding(args: argparse.Namespace, fields: dict) -> dict:
    """Seconds of the collator where the tokenizer pads texts, one by one, and where they are padded at once."""
    bench = Bench(args.shapes[0], fields, args)

    def pad(lists, filler):
        padded = bench.processor.tokenizer.pad({"input_ids": lists}, padding_side="right", return_tensors="pt")
        return padded["input_ids"].numpy(), padded["attention_mask"].numpy()

    def make_naively(features: list[dict]) -> None:
        with mock.patch.object(modalities, "pad_right", pad):
            bench.collator(features)

    batches = (bench.features(number, args.batch_size) for number in itertools.count())
    functions = {"naive": make_naively, "ours": bench.collator}
    rounds = ({name: functools.partial(make, one) for name, make in functions.items()} for one in batches)
    return summary(in_turn(rounds, torch.device("cpu"), args.seconds))


def measure_growth(args: argparse.Namespace) -> Iterable[dict]:
    """Seconds and peak memory of our step against batch, history, catalogue and users; the last three with ids."""
    base = SHAPES["Amazon_Beauty"]
    fields = next(fields for name, fields in args.backbones.items() if name.startswith("text"))

    def step_row(along: str, size: int, bench: Bench, batch_size: int, **labels) -> Iterable[dict]:
        def rounds():
            for number in itertools.count():
                batch = bench.to_device(bench.collator(bench.features(number, batch_size)))
                yield {"ours": lambda batch=batch: bench.our_step(batch)}

        if args.device == "cuda" and not fits(next(rounds())["ours"]):
            print(f"growth, {size} {along}: left out: the GPU's memory is too small for it")
            return
        times = in_turn(rounds(), bench.device, args.seconds / 4)
        peak = bench.peak_megabytes(next(rounds())["ours"])
        seconds = round(statistics.median(times["ours"]), 6)
        yield {"along": along, "size": size, **labels, "seconds": seconds, "peak MB": peak}

    for chunk_size, loss_type in ((None, "bce"), (256, "bce"), (256, "in_batch")):
        bench = Bench("Amazon_Beauty", {**fields, "loss_type": loss_type}, args, base)
        bench.model.item_encoder.chunk_size = chunk_size
        labels = {"gradient_caching_chunk_size": chunk_size, "loss_type": loss_type}
        for users in args.growth_batches:
            yield from step_row("users in the batch", users, bench, users, **labels)
    for length in args.growth_lengths:
        shape = base._replace(num_users=2_000, history_lengths=(length + 1,) * 11)
        yield from step_row("history length", length, Bench("", {"max_seq_len": length}, args, shape), args.batch_size)
    for num_items in args.growth_catalogues:
        shape = base._replace(num_users=2_000, num_items=num_items)
        yield from step_row("catalogue", num_items, Bench("", {}, args, shape), args.batch_size)
    for num_users in args.growth_users:
        shape = base._replace(num_users=num_users)
        yield from step_row("users of the data set", num_users, Bench("", {}, args, shape), args.batch_size)


def measure_largest_batch(args: argparse.Namespace) -> Iterable[dict]:
    """Most users in a batch that fit into 24 GB of a GPU, with and without gradient caching, by doubling."""
    gc.collect()
    torch.cuda.empty_cache()  # what is kept counts otherwise as the section's
    share = 24e9 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))
    try:
        for (backbone, fields), chunk_size in itertools.product(args.backbones.items(), (None, 256)):
            if backbone == "id":
                continue
            bench = Bench("Amazon_Beauty", fields, args)
            if chunk_size is not None:
                bench.model.enable_gradient_caching(chunk_size)
                bench.to_device = bench.send
            optimizer = torch.optim.AdamW(bench.model.parameters(), fused=True)
            users = 1
            while users <= 65_536 and fits(functools.partial(train_on, bench, optimizer, users, 0)):
                users *= 2
            del bench, optimizer
            gc.collect()
            torch.cuda.empty_cache()
            row = {"backbone": backbone, "gradient_caching_chunk_size": chunk_size, "users": users // 2}
            yield row | {"more do not fit": users <= 65_536}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def train_on(bench: Bench, optimizer: torch.optim.Optimizer, users: int, number: int) -> None:
    """A batch is read, and the weights are changed."""
    read_and_step(bench, bench.collator, bench.features(number, users))
    optimizer.step()


SECTIONS = {
    "training": measure_training,
    "largest_batch": measure_largest_batch,
    "floor_by_length": measure_floor_by_length,
    "optimisations": measure_optimisations,
    "frozen_layers": measure_frozen_layers,
    "evaluation": measure_evaluation,
    "ranking_scale": measure_ranking_scale,
    "validation": measure_validation,
    "loading": measure_loading,
    "growth": measure_growth,
}
OF_ONE_BACKBONE = ("evaluation", "ranking_scale", "growth")  # they choose it; the others go through all


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="Autocast to it.")
    parser.add_argument("--data_dir", help="Folder of the raw files; by default data of the same shape are made.")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, help="By default all that the device can run.")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--backbones", nargs="+", help="Parts of their names; by default all.")
    parser.add_argument("--optimisations", nargs="+", default=[""], help="Parts of their names; by default all.")
    parser.add_argument("--batch_size", type=int, default=USERS_PER_BATCH)
    parser.add_argument("--seconds", type=float, default=20.0, help="For the rounds of a row; at least 3 are run.")
    parser.add_argument("--eval_users", type=int, default=4096)
    parser.add_argument(
        "--max_eval_users", type=int, default=2000, help="Of the validation, beside that of all users."
    )
    parser.add_argument("--scale_users", type=int, default=100_000)
    parser.add_argument("--scale_items", type=int, default=150_000)
    parser.add_argument("--workers", type=int, help="By default 1, on a GPU as many as in training.")
    parser.add_argument("--loading_steps", type=int, default=20)
    parser.add_argument("--growth_batches", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--growth_lengths", type=int, nargs="+", default=[10, 20, 50, 100, 200])
    parser.add_argument("--growth_catalogues", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--growth_users", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--peak_tflops", type=float, help="Of the GPU, for the model FLOPs utilisation.")
    parser.add_argument("--output_file", type=Path, help="By default benchmarks/results/speed_DEVICE.json.")
    parser.add_argument("--append", action="store_true", help="Keep what is in the output file, and add to it.")
    parser.add_argument("--render", action="store_true", help="Only write the table of what is there.")
    args = parser.parse_args(argv)
    args.output_file = args.output_file or RESULTS / f"speed_{args.device}.json"
    if args.workers is None:
        args.workers = usual_workers(True) if args.device == "cuda" else 1
    known = BACKBONES[args.device]
    parts = args.backbones or [""]
    args.backbones = {name: fields for name, fields in known.items() if any(part in name for part in parts)}
    for_gpu = ("largest_batch", "ranking_scale")  # the second can be asked for on a CPU, and takes long
    args.sections = args.sections or [name for name in SECTIONS if name not in for_gpu or args.device == "cuda"]
    return args


def joined(before: dict, record: dict) -> dict:
    """An earlier record, to which the rows of a later one on the same machine will be added."""
    if record["command"] in before["command"].split("\n"):
        raise SystemExit("the results of this command are there already; take out its rows, or leave --append out")
    if before["machine"] != record["machine"]:
        raise SystemExit(f"the results are of {before['machine']}, this is {record['machine']}; leave --append out")
    return {**before, "command": f"{before['command']}\n{record['command']}"}


def new_record(args: argparse.Namespace) -> dict:
    """Machine, versions and command; no results yet."""
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    machine["memory GB"] = round(psutil.virtual_memory().total / 1e9)
    if args.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    machine |= {**versions, "modeling_transrec": __version__, "dtype": args.dtype}
    command = command_line({args.data_dir: "DATA", args.output_file: "FILE"})
    return {"machine": machine, "command": command, "results": {}}


def measure(args: argparse.Namespace) -> list[str]:
    """Runs the sections and writes each row as it comes; what could not be measured, and why."""
    record, failures = new_record(args), []
    if args.append and args.output_file.exists():
        record = joined(json.loads(args.output_file.read_text(encoding="utf-8")), record)
    for section in args.sections:
        alone = [args] if section in OF_ONE_BACKBONE else [with_backbone(args, name) for name in args.backbones]
        for part in alone:
            try:
                for row in SECTIONS[section](part):
                    print(section, json.dumps(row), flush=True)
                    record["results"].setdefault(section, []).append(row)
                    args.output_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            except RuntimeError as error:  # too little memory, a kernel that does not compile: the rest goes on
                failures.append(f"{section}, {', '.join(part.backbones)}: {error}")
                print("not measured:", failures[-1], flush=True)
    return failures


def with_backbone(args: argparse.Namespace, name: str) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "backbones": {name: args.backbones[name]}})


def main() -> None:
    args, failures = parse(), []
    if not args.render:
        datasets.disable_progress_bars()
        transformers.logging.set_verbosity_error()
        failures = measure(args)
    if args.output_file.exists():
        record = json.loads(args.output_file.read_text(encoding="utf-8"))
        table = render(record, args.output_file.stem, SECTIONS)
        args.output_file.with_suffix(".md").write_text(table, encoding="utf-8")
        plot(record, args.output_file.with_suffix(".png"))
        plot_growth(record, args.output_file.with_name(f"{args.output_file.stem}_growth.png"))
        print(f"all rows as tables: {args.output_file.with_suffix('.md')}")
    if failures:
        raise SystemExit("not measured:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
