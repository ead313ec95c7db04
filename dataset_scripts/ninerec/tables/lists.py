"""Lists in a field of a text, as JSON, Python, numpy and Spark write them."""

import ast
import json
import re


_ELEMENT = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,'"\[\]]+"""
_ELEMENTS = re.compile(_ELEMENT)
_LIST = re.compile(rf"\[\s*(?:(?:{_ELEMENT})(?:(?:\s*,\s*(?:{_ELEMENT}))*\s*,?|(?:\s+(?:{_ELEMENT}))*))?\s*\]")
MISSING = ("...", "None", "nan", "null", "NaN", "NULL")  # what stands for more or for nothing


def is_list(text: str) -> bool:
    """Returns whether a field looks like a list."""
    return text.startswith("[") and text.endswith("]")


def read_list(text: str) -> list[str] | None:
    """Returns the elements of a list as they are written; `None` where it is none, or holds others or nothing.

    >>> read_list('["i1", 2]'), read_list("['i1', 'it''s']"), read_list("['a' 'b']"), read_list("[1 2 ... 9]")
    (['i1', '2'], None, ['a', 'b'], None)
    """
    try:
        found = json.loads(text, parse_int=str, parse_float=str, parse_constant=lambda _: None)
    except ValueError:
        if _LIST.fullmatch(text) is None:
            return None
        found = [_literal(element) for element in _ELEMENTS.findall(text)]
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def _literal(element: str) -> str | None:
    if element[0] in "\"'":
        return ast.literal_eval(element)
    return None if element in MISSING else element
