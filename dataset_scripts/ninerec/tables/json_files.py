"""Files of JSON to rows: an object a line or, in `.json`, an array of objects."""

import ast
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from .problems import RAISE, Problems, shown


NAMED_BY = 1_000  # first rows that tell the names of the columns
LARGEST_ARRAY = 1 << 30  # bytes of a file that is read as a whole
# Numbers stay as they are written; what is none is missing.
DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda _: None)
EACH_LINE = "write an object a line; pandas does so with to_json(…, orient='records', lines=True)"


def json_columns(path: Path, on_problem: Problems = RAISE) -> list[str]:
    """Returns the names in the first rows, in order of appearance."""
    return list(dict.fromkeys(name for _, row in islice(_objects(path, on_problem), NAMED_BY) for name in row))


def json_rows(path: Path, on_problem: Problems = RAISE) -> Iterator[tuple[int, list[Any]]]:
    """Yields each row's values in the order of [`json_columns`], with its line; in an array with its number.

    Numbers are as they are written, what is missing is empty, and lists and objects are what they are.
    """
    names = json_columns(path, Problems() if on_problem.collects else on_problem)
    known = set(names)
    for line, row in _objects(path, on_problem):
        for name in row.keys() - known:
            known.add(name)
            what = f"names that none of the first {NAMED_BY:,} rows has: not read"
            on_problem.add_lines("warning", path, what, 1, [(line, shown(name))])
        yield line, [value if type(value := row.get(name)) is str else _value(value) for name in names]


def _value(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return json.dumps(value)
    return value if isinstance(value, list | dict) else str(value)


def as_field(value: Any) -> str:
    """Returns a value as a field of a text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def what_is_wrong(value: Any) -> str | None:
    r"""Returns why a value is no id and no text: an object, or a text cut within a character; else `None`.

    >>> what_is_wrong({"$oid": "5f"}), what_is_wrong("a")
    ('an object, \'{"$oid": "5f"}\'; write the value in it that is meant', None)
    """
    if isinstance(value, dict):
        return f"an object, {shown(as_field(value))}; write the value in it that is meant"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"cut within a character, {shown(value[-40:])}; cut texts between characters, or remove its rest"
    return None


def _objects(path: Path, on_problem: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig", errors="replace" if on_problem.collects else "strict") as file:
        if path.suffix.lower() == ".json" and file.read(1) == "[":
            yield from enumerate(_array(path), 1)
            return
        file.seek(0)
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            found = _parse(text.removeprefix("\ufeff"))
            if isinstance(found, dict) and not _is_of_columns(found):
                yield line, found
                continue
            what = f"lines that are no JSON object; {EACH_LINE}"
            message = f"{shown(text.strip())} is no JSON object; {EACH_LINE}"
            on_problem.error(path, what, 1, [(line, shown(text.strip()))], message)


def _parse(text: str) -> Any:
    """Returns what a line says, in JSON or as Python prints it; `None` where it says nothing."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_of_columns(found: dict) -> bool:
    """Returns whether an object has a table's columns, as pandas writes it, not the fields of a row."""
    if not isinstance(next(iter(found.values()), None), dict) or len(found) < 2:
        return False
    keys = {tuple(value) if isinstance(value, dict) else None for value in found.values()}
    return len(keys) == 1 and None not in keys and keys != {()}


def _array(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > LARGEST_ARRAY:
        raise ValueError(f"{path}: an array of more than {LARGEST_ARRAY:,} bytes; {EACH_LINE}")
    found = _parse(path.read_text(encoding="utf-8-sig"))
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{path} is no JSON array of objects; {EACH_LINE}")
    return found
