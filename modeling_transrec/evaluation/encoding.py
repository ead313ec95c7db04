"""Encodes a catalogue's items to embeddings, without dropout whatever mode the model is in."""

import contextlib
import functools
import operator
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

from ..data.preparation import PreparedItems, item_chunks, items_at
from ..models.modalities import MODALITIES
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..models.whitening import Moments


IDS_AT_A_TIME = 2**13


@torch.no_grad()
def encode_items(
    model: TransRecPreTrainedModel,
    items: PreparedItems,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    process_index: int = 0,
    num_processes: int = 1,
    fits_statistics: bool = True,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Encodes the chunks of the catalogue that fall to this process, without dropout.

    Args:
        model: the model.
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time; of ids, which no backbone encodes, at least `IDS_AT_A_TIME`.
        process_index, num_processes: chunks are dealt out in turn, so they are the same for any number of processes.
        fits_statistics: whether the items are a whole catalogue, by whose statistics a model that whitens features
            does so from now on; otherwise by those that it has, as for items that are added to a catalogue.

    Yields: indices into the catalogue `(C,)` and the items' embeddings `(C, D)`, float32.
    """

    if not model.config.contents:
        chunk_size = max(chunk_size, IDS_AT_A_TIME)

    def inputs_of_chunks() -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        for catalogue_index in item_chunks(items, chunk_size)[process_index::num_processes]:
            yield catalogue_index, dict(processor.pad(items_at(items, catalogue_index)).to(model.device))

    chunks: Iterable[tuple[np.ndarray, dict[str, torch.Tensor]]] = inputs_of_chunks()
    if fits_statistics and model.item_encoder.whitened:
        with evaluation_mode(model):
            chunks = [(catalogue_index, with_features(model, inputs)) for catalogue_index, inputs in chunks]
        _fit(model, _moments(model, [inputs for _, inputs in chunks], num_processes))
    for catalogue_index, inputs in chunks:
        with evaluation_mode(model):
            item_embeddings = model.get_item_features(**inputs).float()
        yield catalogue_index, item_embeddings


def with_features(model: TransRecPreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns inputs of items with the features that a model whitens in place of what they are computed from."""
    encoder = model.item_encoder
    if not encoder.whitened.keys() <= inputs.keys():
        inputs |= encoder.features(**inputs)
    kept = {*encoder.whitened, "has_text", "item_ids", *(f"{name}_index" for name in MODALITIES)}
    return {name: values for name, values in inputs.items() if name in kept}


def fit_statistics(
    model: TransRecPreTrainedModel,
    items: PreparedItems,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    platforms: Sequence[np.ndarray] | None = None,
) -> None:
    """Gives a model that whitens features the statistics of a catalogue; nothing happens to others.

    All processes call it together; arguments as in [`encode_items`].

    Args:
        model, items, processor, chunk_size: as there.
        platforms: indices of the items of each platform, where there are several, which then have statistics of their
            own.
    """
    if not model.item_encoder.whitened:
        return
    state = PartialState()

    def moments_of(chunks: Sequence[np.ndarray]) -> dict[str, Moments]:
        with torch.no_grad(), evaluation_mode(model):
            found = [
                with_features(model, dict(processor.pad(items_at(items, catalogue_index)).to(model.device)))
                for catalogue_index in chunks[state.process_index :: state.num_processes]
            ]
        return _moments(model, found, state.num_processes)

    if platforms is None:
        _fit(model, moments_of(item_chunks(items, chunk_size)))
        return
    parts = [moments_of(np.array_split(index, max(1, round(len(index) / chunk_size)))) for index in platforms]
    for name, projection in model.item_encoder.whitened.items():
        projection.fit_platforms([found[name] for found in parts])


def _moments(
    model: TransRecPreTrainedModel, chunks: Sequence[dict[str, torch.Tensor]], num_processes: int
) -> dict[str, Moments]:
    """Returns the moments of the features that the model whitens, of the chunks of all processes together."""
    found: dict[str, Moments] = {}
    for inputs in chunks:
        for name in model.item_encoder.whitened:
            features = inputs[name]
            if name == "text_features" and "has_text" in inputs:
                features = features[inputs["has_text"]]
            moments = Moments.of(features)
            found[name] = found[name] + moments if name in found else moments
    parts = gather_object([found]) if num_processes > 1 else [found]
    totals = {name: [part[name] for part in parts if name in part] for name in model.item_encoder.whitened}
    return {name: functools.reduce(operator.add, total) for name, total in totals.items()}


def _fit(model: TransRecPreTrainedModel, moments: dict[str, Moments]) -> None:
    for name, projection in model.item_encoder.whitened.items():
        projection.fit(moments[name])


@contextlib.contextmanager
def kept_statistics(model: TransRecPreTrainedModel) -> Iterator[None]:
    """Gives a model back the statistics of its catalogue at the end, whichever others it was given meanwhile."""
    buffers = [buffer for one in model.item_encoder.whitened.values() for buffer in one.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, values in zip(buffers, before, strict=True):
            buffer.copy_(values)


def encode_catalogue(
    model: TransRecPreTrainedModel,
    items: PreparedItems,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    fits_statistics: bool = True,
    in_shares: bool = False,
) -> torch.Tensor:
    """Returns all item embeddings `(V, D)` in catalogue order, float32, on the model's device: [`encode_items`].

    Args:
        model, items, processor, chunk_size, fits_statistics: as there.
        in_shares: whether the processes of this run, which then all call it, encode a share each.
    """
    state = PartialState() if in_shares else None
    process_index, num_processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    parts: Iterable[tuple[np.ndarray, torch.Tensor]] = encode_items(
        model, items, processor, chunk_size, process_index, num_processes, fits_statistics
    )
    if num_processes > 1:
        parts = gather_object([(catalogue_index, chunk.cpu()) for catalogue_index, chunk in parts])
    item_embeddings = None
    for catalogue_index, chunk in parts:
        if item_embeddings is None:
            item_embeddings = torch.empty(len(items), chunk.shape[1], device=model.device)
        item_embeddings[torch.from_numpy(catalogue_index).to(model.device)] = chunk.to(model.device)
    if item_embeddings is None:
        raise ValueError("there are no items to encode")
    return item_embeddings


_threads_inside: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model -> how many, and its mode before
_mode_lock = threading.Lock()


def with_whole_weights(model: TransRecPreTrainedModel) -> TransRecPreTrainedModel:
    """Returns the model itself or, of one that FSDP has divided, a copy with whole weights, in evaluation mode.

    Processes that rank some of the users each are not in step, as those that share weights have to be.
    """
    if not isinstance(model, FSDPModule):
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    whole = type(model)(model.config)
    whole.load_state_dict(weights)
    return torch.nn.Module.to(whole, model.device).eval()


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode while any thread is inside, and then back into the mode that it had."""
    with _mode_lock:
        threads, was_training = _threads_inside.get(model, (0, model.training))
        _threads_inside[model] = threads + 1, was_training
        if model.training:
            model.eval()
    try:
        yield
    finally:
        with _mode_lock:
            threads, was_training = _threads_inside.pop(model)
            if threads > 1:
                _threads_inside[model] = threads - 1, was_training
            elif was_training:
                model.train()
