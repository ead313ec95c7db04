"""Encodes a catalogue's items to embeddings, without dropout whatever mode the model is in."""

import contextlib
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import torch

from ..data.preparation import PreparedItems, item_chunks
from ..models.modeling_transrec import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor


@torch.no_grad()
def encode_items(
    model: TransRecPreTrainedModel,
    items: PreparedItems,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    process_index: int = 0,
    num_processes: int = 1,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Encodes the chunks of the catalogue that fall to this process, without dropout.

    Args:
        model: the model.
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.
        process_index, num_processes: chunks are dealt out in turn, so they are the same for any number of processes.

    Yields: indices into the catalogue `(C,)` and the items' embeddings `(C, D)`, float32.
    """
    for catalogue_index in item_chunks(items, chunk_size)[process_index::num_processes]:
        with evaluation_mode(model):
            inputs = processor.pad(items[catalogue_index]).to(model.device)
            item_embeddings = model.get_item_features(**inputs).float()
        yield catalogue_index, item_embeddings


def encode_catalogue(
    model: TransRecPreTrainedModel, items: PreparedItems, processor: TransRecProcessor, chunk_size: int = 256
) -> torch.Tensor:
    """Returns all item embeddings `(V, D)` in catalogue order, float32, on the model's device: [`encode_items`]."""
    item_embeddings = None
    for catalogue_index, chunk in encode_items(model, items, processor, chunk_size):
        if item_embeddings is None:
            item_embeddings = chunk.new_empty(len(items), chunk.shape[1])
        item_embeddings[torch.from_numpy(catalogue_index).to(chunk.device)] = chunk
    if item_embeddings is None:
        raise ValueError("there are no items to encode")
    return item_embeddings


_threads_inside: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model -> how many, and its mode before
_mode_lock = threading.Lock()


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
