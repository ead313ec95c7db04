"""Checks of what a recommender is called with."""

import difflib
import numbers
from collections.abc import Collection, Iterable
from typing import Any


def check_number_of_items(k: Any) -> None:
    """Refuses a number of recommended items that is no whole number of at least 1."""
    if not isinstance(k, numbers.Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")


def check_names(given: Iterable[str], known: Collection[str], function: str) -> None:
    """Refuses arguments by names that a function does not have, which would be ignored further down.

    >>> check_names(["min_cout"], ["min_count"], "save_pretrained")
    Traceback (most recent call last):
    TypeError: save_pretrained has no argument 'min_cout'; did you mean min_count?
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"{function} has no argument {name!r}" + (f"; did you mean {close[0]}?" if close else ""))
