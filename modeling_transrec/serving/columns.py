"""Columns of a catalogue: which are taken along, and what is checked of them."""

import base64
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.tables import Table, as_dataset
from ..models.modalities import MODALITIES


logger = logging.getLogger(__name__)

EMBEDDING, CHECKPOINT = "vector", "checkpoint"  # columns of a catalogue beside the items' own
_READ_AT_A_TIME, _MEDIA_AT_A_TIME = 100_000, 1_000


def checked_items(items: Table | Iterable[Mapping]) -> datasets.Dataset:
    """Returns items as a data set.

    Raises:
        ValueError: if there are none, or their ids are missing, not strings or not distinct.
    """
    items = as_dataset(items)
    if len(items) == 0:
        raise ValueError("there are no items to index")
    if "item_id" not in items.column_names:
        raise ValueError(f"items need a column item_id; they have {', '.join(items.column_names)}")
    item_ids = items["item_id"][:]
    if not all(isinstance(item_id, str) for item_id in item_ids):
        wrong = next(item_id for item_id in item_ids if not isinstance(item_id, str))
        raise ValueError(
            f"item_id must be a string in every item, and one is {wrong!r}: ids are never numbers; with pandas, "
            'read them with dtype={"item_id": str}'
        )
    check_distinct(item_ids)
    return items


def check_distinct(item_ids: Sequence[str]) -> None:
    """Raises `ValueError` for ids of which one is there twice."""
    first_row: dict[str, int] = {}
    for row, item_id in enumerate(item_ids):
        if first_row.setdefault(item_id, row) != row:
            raise ValueError(
                f"the items have an item_id twice: {item_id!r} is in rows {first_row[item_id]} and {row}, counted "
                "from 0; ids must be distinct"
            )


def warn_of_items_without_content(items: datasets.Dataset, columns: Sequence[str]) -> None:
    """Logs how many items have nothing in the columns that a model reads, and the first of them.

    Args:
        items: with `item_id`.
        columns: texts, images or sounds, of which an item needs one; those that `items` lack have nothing.
    """
    table = items.select_columns(["item_id", *(name for name in columns if name in items.column_names)])
    table = table.with_format("arrow")
    count, first = 0, None
    for start in range(0, len(table), _MEDIA_AT_A_TIME):
        block = table[start : start + _MEDIA_AT_A_TIME]
        empty = np.ones(len(block), dtype=bool)
        for name in block.column_names[1:]:
            column = block[name]
            if name in MODALITIES:  # images and sounds, whose bytes are not copied
                empty &= pc.is_null(column).to_numpy()
            else:
                empty &= [value is None or not str(value).strip() for value in column.to_pylist()]
        if first is None and empty.any():
            first = block["item_id"][int(empty.argmax())].as_py()
        count += int(empty.sum())
    if count:
        logger.warning(
            "%d of %d items have nothing in %s, so that they are like no other item (e.g. %r)",
            count,
            len(items),
            " or ".join(columns),
            first,
        )


def with_media_decoded(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns items that a client sent, the files of their images and sounds as bytes in place of base64.

    Nothing else stands for a file: a path would be opened on this machine.

    Raises:
        ValueError: if an image or a sound is not base64.
    """
    media = [name for name, modality in MODALITIES.items() if modality.is_sparse]
    found = [dict(item) for item in items]
    for number, item in enumerate(found):
        for name in media:
            if item.get(name) is None:
                continue
            try:
                item[name] = base64.b64decode(item[name], validate=True)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"items.{number}.{name}: give the bytes of the file in base64; paths and addresses are not read"
                ) from error
    return found


def with_types(columns: datasets.Dataset, features: datasets.Features) -> datasets.Dataset:
    """Returns columns of items in the types of a catalogue's.

    Raises:
        ValueError: if a value is of another type; its column is named.
    """

    def cast(some: datasets.Dataset, types: datasets.Features) -> datasets.Dataset | Exception:
        try:
            return some.cast(types)
        except (TypeError, ValueError, NotImplementedError) as error:  # of datasets, of Arrow
            return error

    found = cast(columns, features)
    if isinstance(found, datasets.Dataset):
        return found
    for name, feature in features.items():
        error = cast(columns.select_columns([name]), datasets.Features({name: feature}))
        if isinstance(error, Exception):
            kind = feature.dtype if isinstance(feature, datasets.Value) else feature
            raise ValueError(f"the column {name} of the catalogue holds {kind}: {error}") from error
    raise found


def check_names(columns: Iterable[str]) -> None:
    """Refuses columns that are not those of a catalogue."""
    missing = {"item_id", EMBEDDING, CHECKPOINT} - set(columns)
    if missing:
        raise ValueError(f"this is no catalogue of a Recommender: it lacks {', '.join(sorted(missing))}")


def checked_catalogue(dataset: datasets.Dataset) -> tuple[datasets.Dataset, str]:
    """Returns the items of a catalogue, and the hash of the checkpoint that made their embeddings.

    Raises:
        ValueError: if a column is missing, ids are not as [`checked_items`] wants them, or several checkpoints are
            named.
    """
    check_names(dataset.column_names)
    made_by = dataset.unique(CHECKPOINT)
    if not all(isinstance(one, str) for one in made_by) or len(made_by) > 1:
        raise ValueError(
            "the rows of a catalogue must name one checkpoint; some of these vectors were made by another checkpoint "
            "than others, or by one that is not named"
        )
    return checked_items(dataset), *made_by


def embeddings_of(catalogue: datasets.Dataset, width: int) -> np.ndarray:
    """Returns the item embeddings `(V, D)` of a catalogue, float32.

    Raises:
        ValueError: if they are not finite, or not of this width.
    """
    wrong = ValueError(f"the catalogue's vectors must be finite numbers and of width {width}")
    kind = catalogue.with_format("arrow")[:1][EMBEDDING].type
    lists = pa.ListType | pa.LargeListType | pa.FixedSizeListType
    if not isinstance(kind, lists) or not pa.types.is_floating(kind.value_type):
        raise wrong
    embeddings = np.empty((len(catalogue), width), dtype=np.float32)
    for start in range(0, len(catalogue), _READ_AT_A_TIME):
        block = catalogue.with_format("arrow")[start : start + _READ_AT_A_TIME][EMBEDDING]
        has_width = block.null_count == 0 and pc.all(pc.equal(pc.list_value_length(block), width)).as_py()
        with np.errstate(over="ignore"):  # what is too large for float32 is not finite then
            values = pc.list_flatten(block).to_numpy().astype(np.float32)
        if not has_width or not np.isfinite(values).all():
            raise wrong
        embeddings[start : start + _READ_AT_A_TIME] = values.reshape(-1, width)
    return embeddings


def item_columns(items: datasets.Dataset) -> datasets.Dataset:
    """Returns the columns that are saved with a catalogue: numbers, texts, times, and lists and groups of them.

    Others stay here, above all images and sounds, also nested ones, which would take files of this machine along; so
    do the columns that a catalogue adds itself. What is left out unexpectedly is named in a warning.
    """
    contents = {name for name, modality in MODALITIES.items() if modality.is_sparse}
    own = {*contents, EMBEDDING, CHECKPOINT} & set(items.column_names)
    others = sorted(name for name, feature in items.features.items() if name not in own and not _is_plain(feature))
    media = [name for name in others if isinstance(items.features[name], datasets.Image | datasets.Audio)]
    if unexpected := [name for name in others if name not in media]:
        logger.warning(
            "The catalogue is saved without the column%s %s, which %s not made of numbers, texts and times",
            "s" if len(unexpected) > 1 else "",
            ", ".join(unexpected),
            "are" if len(unexpected) > 1 else "is",
        )
    return items.remove_columns(sorted({*own, *others}))


def _is_plain(feature: Any) -> bool:
    """Returns whether a column holds values only: numbers, texts, times, and lists and groups of them."""
    if isinstance(feature, datasets.Value):
        return "binary" not in feature.dtype
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _is_plain(feature.feature)
    if isinstance(feature, dict):
        return all(map(_is_plain, feature.values()))
    return isinstance(feature, datasets.ClassLabel)
