"""Joins several columns of an items table to one text: "Title: Jump rope; Brand: Acme"."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def join_columns(table: Mapping[str, Iterable] | Any, names: Sequence[str]) -> list[str]:
    """Returns a text for each item, with what its columns say.

    A value that is missing is left out with its name. The elements of a list, such as an item's categories, are
    separated by commas. Numbers without a fraction are written without one.

    Args:
        table: the items: a DataFrame, a `datasets.Dataset` or a dictionary of columns.
        names: the columns, in the order of the text.

    Raises:
        ValueError: if there is no such column, or a value is neither text, number nor a list of these.

    Example:

    >>> items = {"title": ["Jump rope", "Tent"], "brand": ["Acme", None], "categories": [["Sports", "Fitness"], []]}
    >>> join_columns(items, ["title", "brand", "categories"])
    ['Title: Jump rope; Brand: Acme; Categories: Sports, Fitness', 'Title: Tent']
    """
    there = list(getattr(table, "column_names", table))
    for name in names:
        if name not in there:
            raise ValueError(f"there is no column {name!r} to join; the table has {', '.join(map(str, there))}")
    labels = [_label(name) for name in names]
    columns = [[_as_text(name, value) for value in table[name]] for name in names]
    return [
        "; ".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True) if text)
        for texts in zip(*columns, strict=True)
    ]


def _label(name: str) -> str:
    """Returns a column's name as it stands in a text: `Main category` for `main_category`."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _as_text(name: str, value: Any) -> str:
    """Returns one value as text, empty where it is missing."""
    to_list = getattr(value, "to_list", None) or getattr(value, "tolist", None)  # of polars and numpy
    if to_list is not None:
        value = to_list()
    if isinstance(value, list | tuple):
        return ", ".join(text for text in (_as_text(name, one) for one in value) if text)
    if isinstance(value, str):
        return value.strip()
    if value is None or str(value) in ("nan", "NaT", "<NA>"):  # as numpy and pandas write what is missing
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict | set | bytes):
        raise ValueError(f"column {name!r} has a {type(value).__name__} ({value!r}); give texts, numbers or lists")
    return str(value)
