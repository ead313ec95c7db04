"""Preparation: every item's model inputs, made once and kept on disk."""

import dataclasses
import inspect
import logging
import os
from collections.abc import Sequence
from typing import Protocol

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets.fingerprint import Hasher

from ..models import media, modalities
from ..models.modalities import MODALITIES
from ..models.processing_transrec import TransRecProcessor
from ..models.whole_saves import named_disk_errors
from ..ninerec.content_hashes import ContentHashes
from .loading import check_columns


logger = logging.getLogger(__name__)

_ITEMS_AT_A_TIME = 1000
_LARGE_ITEMS_AT_A_TIME = 64  # with images or sounds
_READERS = (media, modalities)  # the code that decides what is stored


class PreparedItems(Protocol):
    """Prepared items in catalogue order: a data set, or one whose columns are precomputed."""

    column_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray) -> dict[str, Sequence]: ...


def prepare_items(
    items: datasets.Dataset, processor: TransRecProcessor, num_proc: int | None = None, is_catalogue: bool = True
) -> datasets.Dataset:
    """Makes every item's model inputs, unpadded, in catalogue order; each is prepared only once.

    The result is cached on disk, beside the data set's other caches, by the items and all that the processor does.

    Args:
        items: with columns `item_id` and those that the processor reads.
        processor: the model's.
        num_proc: processes to prepare in; the result is the same.
        is_catalogue: whether the items are a whole catalogue, in which no modality may be missing altogether.

    Raises:
        ValueError: if a modality is missing in all items.
    """
    columns = processor.item_columns
    check_columns(items, columns, "the items table")
    has_texts = "text" in processor.modalities and is_catalogue
    if has_texts and not any(items[MODALITIES["text"].column(processor)]):
        raise ValueError(
            f"no item has a text in {MODALITIES['text'].column(processor)}; choose another language than "
            f"{processor.language!r}"
        )
    sparse = [MODALITIES[name] for name in processor.modalities if MODALITIES[name].is_sparse]
    features, selected = stored_features(processor), items.select_columns(columns)
    made_of = (items._fingerprint, processor.fingerprint, features, *map(inspect.getsource, _READERS))
    for column in (modality.column(processor) for modality in sparse):
        feature = selected.features[column]
        if getattr(feature, "decode", False):  # the processor reads the file itself
            selected = selected.cast_column(column, dataclasses.replace(feature, decode=False))
    place = os.path.dirname(items.cache_files[0]["filename"]) if items.cache_files else "memory"
    with named_disk_errors(place, "nothing half-made is used"):
        prepared = selected.map(
            processor.prepare,
            batched=True,
            batch_size=_LARGE_ITEMS_AT_A_TIME if sparse else _ITEMS_AT_A_TIME,
            remove_columns=columns,
            features=features,
            desc="Preparing items",
            num_proc=num_proc,
            keep_in_memory=not items.cache_files,
            new_fingerprint=Hasher.hash((*made_of, _content_of_files(selected))),
        )
    for modality in sparse:
        missing = prepared.data[next(iter(modality.stored))].null_count
        if missing == len(prepared) and is_catalogue:
            raise ValueError(f"no item has {modality.content}; leave {modality.name} out, or give the folder")
        if missing:
            logger.warning("%s of %s items have no %s", f"{missing:,}", f"{len(prepared):,}", modality.name)
    return prepared


def _content_of_files(items: datasets.Dataset) -> str:
    """Returns a hash of the contents of the files whose paths stand in place of images or sounds."""
    paths: list[str] = []
    for column, feature in items.features.items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            for batch in items.select_columns([column]).with_format("arrow").iter(batch_size=100_000):
                values = batch[column].combine_chunks()
                without_bytes = pc.is_null(pc.struct_field(values, "bytes"))
                paths += pc.drop_null(pc.filter(pc.struct_field(values, "path"), without_bytes)).to_pylist()
    return ContentHashes().of_files(path for path in paths if os.path.isfile(path))


def stored_features(processor: TransRecProcessor) -> datasets.Features:
    """Returns the columns of prepared items, and their types."""

    def feature(kind):
        return datasets.List(feature(kind[0])) if isinstance(kind, list) else datasets.Value(kind)

    stored = [MODALITIES[name].stored for name in processor.modalities]
    return datasets.Features({name: feature(kind) for columns in stored for name, kind in columns.items()})


def text_lengths(items: PreparedItems) -> np.ndarray:
    """Returns the number of tokens of each item's text `(V,)`."""
    if not isinstance(items, datasets.Dataset):
        return text_lengths(items.items)  # type: ignore[attr-defined]  # precomputed ones have these
    batches = items.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=100_000)
    return np.concatenate([pc.list_value_length(batch["input_ids"]).to_numpy() for batch in batches])


def item_chunks(items: PreparedItems, chunk_size: int) -> list[np.ndarray]:
    """Divides the catalogue into chunks of indices, items of like text length together, so that little is padded."""
    if "input_ids" in items.column_names:
        order = np.argsort(text_lengths(items), kind="stable")
    else:
        order = np.arange(len(items))
    return [order[start : start + chunk_size] for start in range(0, len(order), chunk_size)]


def items_at(items: PreparedItems, catalogue_index: np.ndarray) -> dict[str, Sequence]:
    """Reads a chunk of prepared items; in a data set, items that follow each other are read at once, not one by one.

    >>> items = datasets.Dataset.from_dict({"item_ids": [5, 6, 7, 8]})
    >>> items_at(items, np.array([1, 2])), items_at(items, np.array([2, 0]))
    ({'item_ids': [6, 7]}, {'item_ids': [7, 5]})
    """
    start, stop = int(catalogue_index[0]), int(catalogue_index[-1]) + 1
    if isinstance(items, datasets.Dataset) and np.array_equal(catalogue_index, np.arange(start, stop)):
        return items[start:stop]
    return items[catalogue_index]
