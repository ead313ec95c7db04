"""Reads what people hold items and histories in: lists, numpy, pandas, polars, Arrow, data sets."""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa

from ..models.modalities import as_text


Table: TypeAlias = datasets.Dataset | datasets.DatasetDict | pd.DataFrame | pa.Table | Mapping[str, Sequence] | Any


def is_table(given: Any) -> bool:
    """Returns whether something has named columns, as opposed to a list of rows."""
    known = datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | pd.DataFrame | Mapping
    is_arrow = hasattr(given, "__arrow_c_stream__") and hasattr(given, "columns")
    return isinstance(given, known) or is_arrow or _is_lazy(given)


def _is_lazy(given: Any) -> bool:
    """Returns whether something is a query of polars that was not run yet."""
    return hasattr(given, "collect_schema") and not hasattr(given, "__len__")


def is_rows(given: Any) -> bool:
    """Returns whether something is a list of rows, each a dictionary."""
    return isinstance(given, list | tuple) and len(given) > 0 and all(isinstance(row, Mapping) for row in given)


def is_columns(given: Mapping) -> bool:
    """Returns whether a dictionary has the columns of one table, as opposed to several tables by name."""
    return not any(is_table(value) or isinstance(value, Mapping) for value in given.values())


def as_dataset(table: Table | Iterable[Mapping]) -> datasets.Dataset:
    """Returns a table, or a list of rows, as a data set.

    Columns of numbers and texts mixed become texts. A row lacks what other rows have: `None` stands for it.

    Args:
        table: a data set, one of several splits if it is the only one, a DataFrame of pandas or polars, a table of
            Arrow, a dictionary of columns, or dictionaries, one a row: in a list, a data set of torch or a stream.

    Raises:
        ValueError: if there are several splits, or rows are no dictionaries.

    >>> as_dataset([{"item_id": "a", "text_en": "Tea"}, {"item_id": "b", "text_en": 1984, "price": 2.5}])[1]
    {'item_id': 'b', 'text_en': '1984', 'price': 2.5}
    """
    given = _as_columns(table)
    if isinstance(given, dict):
        return datasets.Dataset.from_dict(given)
    return datasets.Dataset(given) if isinstance(given, pa.Table) else given


def as_arrow(table: Table | Iterable[Mapping]) -> pa.Table:
    """Returns a table, or a list of rows, as the table of Arrow that [`as_dataset`] holds; arguments as there.

    A data set takes milliseconds to make, however few rows it has; this takes microseconds.

    >>> as_arrow({"item_id": ["a", "b"]}).num_rows
    2
    """
    given = _as_columns(table)
    if isinstance(given, dict):
        try:
            return pa.table({name: pa.array(values) for name, values in given.items()})
        except (pa.ArrowException, TypeError, OverflowError):  # such as images, which `datasets` encodes
            given = datasets.Dataset.from_dict(given)
    return given if isinstance(given, pa.Table) else given.with_format("arrow")[:]


def _as_columns(table: Table | Iterable[Mapping]) -> datasets.Dataset | pa.Table | dict[str, Any]:
    """Returns a data set as it is, and anything else as a table of Arrow or as columns; as in [`as_dataset`]."""
    if isinstance(table, datasets.DatasetDict | datasets.IterableDatasetDict):
        if len(table) != 1:
            raise ValueError(f"there are several splits; give one of them: data[{next(iter(table), 'train')!r}]")
        table = next(iter(table.values()))
    if isinstance(table, datasets.Dataset):
        return table
    if _is_lazy(table):
        table = cast(Any, table).collect()
    if isinstance(table, pd.DataFrame):
        if not table.columns.is_unique:
            twice = table.columns[table.columns.duplicated()][0]
            raise ValueError(f"the table has two columns {str(twice)!r}; rename or drop one of them")
        table = table.reset_index() if any(name is not None for name in table.index.names) else table
        return _of_columns({str(name): table[name].array for name in table.columns})
    if isinstance(table, Mapping):
        return _of_columns(table)
    if is_table(table) and not isinstance(table, datasets.IterableDataset):
        return _without_categories(pa.table(table))
    given: Any = table
    is_indexed = hasattr(given, "__getitem__") and hasattr(given, "__len__")  # as a data set of torch
    rows: list = [given[index] for index in range(len(given))] if is_indexed else list(given)
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError('give items as a table, or as dictionaries, one an item: [{"item_id": "a", "text_en": "…"}]')
    names = dict.fromkeys(name for row in rows for name in row)
    return _of_columns({name: [row.get(name) for row in rows] for name in names})


def _without_categories(table: pa.Table) -> pa.Table:
    """Returns a table with the texts of its categories in every row; views of texts are texts, too."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            chunks = [chunk.dictionary.cast(pa.large_string()).take(chunk.indices) for chunk in table[place].chunks]
            table = table.set_column(place, field.name, pa.chunked_array(chunks, pa.large_string()))
    return table


def _of_columns(columns: Mapping[str, Sequence]) -> dict[str, Any]:
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise ValueError(f"the columns have different lengths: {lengths}")
    return {name: _as_column(values) for name, values in columns.items()}


def _as_column(values: Any) -> Any:
    """Returns the values of a column as Arrow has them; images and the like as they are."""
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return values
    try:
        return pa.array(values, from_pandas=True).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        values = [None if value is pd.NA else value for value in values]
    if all(value is None or isinstance(value, str | numbers.Number | np.generic) for value in values):
        return [as_text(value) for value in values]
    return values


def as_histories(given: Any) -> tuple[list[list[str]], bool]:
    """Returns histories as lists of item ids, and whether a single one was given.

    Args:
        given: item ids, or histories of them: lists, tuples, arrays of numpy or Arrow, columns of pandas or polars.

    >>> as_histories(np.array([["a", "b"], ["c", "d"]]))
    ([['a', 'b'], ['c', 'd']], False)
    """
    if given is None or isinstance(given, str | bytes):
        raise ValueError(f"history must be a list of item ids, not {'None' if given is None else 'one id'}")
    if is_table(given):
        raise ValueError('history must be item ids, or lists of them, not a table: give its column, table["item_ids"]')
    values = _as_list(given)
    several = [not isinstance(value, str | numbers.Number) and value is not None for value in values]
    if not any(several):
        return [values], True
    if not all(several):
        raise ValueError(f"a history is {values[several.index(False)]!r}, and the others are lists of item ids")
    return [_as_list(value) for value in values], False


def _as_list(values: Any) -> list:
    for method in ("to_pylist", "tolist", "to_list"):  # of Arrow, of numpy and pandas, of polars
        if hasattr(values, method):
            return getattr(values, method)()
    return list(values)
