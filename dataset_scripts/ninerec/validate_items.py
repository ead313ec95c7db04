"""Check items tables: every row, also after one that is wrong."""

import re
from itertools import chain
from pathlib import Path

import polars as pl

from .problems import Problems
from .reader import header_roles
from .validate_rows import CONTROL, add_empty, check_encoding, csv_rows, shown


def check_items(path: Path, problems: Problems) -> pl.DataFrame:
    """The distinct ids of an items table and the lines they stand on: `item_id`, `line`."""
    check_encoding(path, problems)
    rows = csv_rows(path, problems)
    first = next(rows, None)
    if first is None:
        add_empty(path, problems)
        return pl.DataFrame(schema={"item_id": pl.String, "line": pl.Int64})
    columns, has_header = _item_columns(first[1])
    found: dict[str, int] = {}
    texts: dict[int, int] = {}  # hash of the text: line of the first item that has it
    num_missing, num_items = dict.fromkeys(("text_zh", "text_en"), 0), 0
    missing_at: dict[str, list] = {language: [] for language in num_missing}

    def add(severity: str, what: str, line: int, text: str) -> None:
        problems.add_lines(severity, path, what, 1, [(line, text)])

    for line, row in rows if has_header else chain([first], rows):
        if len(row) != len(columns):
            what = f"rows that have not {len(columns)} columns ({', '.join(name or 'not used' for name in columns)})"
            add(
                "error",
                f"{what}; texts with commas need double quotes",
                line,
                f"{len(row)} columns: {shown(','.join(row))}",
            )
            continue
        fields = dict(zip(columns, row, strict=True))
        item_id = fields["item_id"].strip()
        if not item_id:
            add("error", "rows with an empty item_id; fill it in or remove them", line, shown(",".join(row)))
            continue
        if item_id in found:
            what = "rows that repeat an item id: the first row is kept"
            add("warning", what, line, f"{item_id!r} stands in line {found[item_id]}")
            continue
        found[item_id] = line
        if reason := _odd_id(item_id):
            what = "ids that are no plain names: such an item has no cover; never make a file name of the id"
            add("warning", what, line, f"{shown(item_id)}: {reason}")
        given = {language: fields.get(language, "") for language in num_missing}
        empty = [language for language, text in given.items() if not text.strip()]
        if len(empty) == 2:
            add("warning", "items with an empty text in both languages: kept without text", line, repr(item_id))
            continue
        num_items += 1
        for language in empty:
            num_missing[language] += 1
            missing_at[language] += [(line, repr(item_id))][: problems.max_examples - len(missing_at[language])]
        both = " / ".join(text for text in given.values() if text.strip())
        if "\ufffd" in both:
            add("note", "texts with U+FFFD: they were once decoded wrongly", line, shown(both))
        if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", both):
            add("note", "texts with control characters", line, shown(both))
        if len(both.split()) == 1 and both.isascii():
            add("note", "texts of a single word", line, shown(both))
        earlier = texts.setdefault(hash(both), line)
        if earlier != line:
            add("note", "items with the same text as an earlier one", line, f"{shown(both)} stands in line {earlier}")
    for language, count in num_missing.items():
        if 0 < count == num_items:
            problems.add_lines("note", path, f"no item has a {language}: load with the other language", 1)
        else:
            problems.add_lines(
                "note", path, f"items without {language}, which the other language has", count, missing_at[language]
            )
    if not found:
        add_empty(path, problems, "no item can be read from this file")
    return pl.DataFrame(
        {"item_id": list(found), "line": list(found.values())}, schema={"item_id": pl.String, "line": pl.Int64}
    )


def _item_columns(first: list[str]) -> tuple[list[str | None], bool]:
    """What each column is, as the reader sees it, and whether the first row is a header."""
    roles = header_roles(first)
    if "item_id" in roles and {"text_zh", "text_en", "title"} & set(roles):
        title = "text_zh" if "text_en" in roles else "text_en"
        used = ("item_id", "text_zh", "text_en")
        return [title if role == "title" else role if role in used else None for role in roles], True
    return ["item_id", "text_zh", "text_en"], False


def _odd_id(item_id: str) -> str | None:
    if re.search(CONTROL, item_id):
        return "holds control characters"
    if "/" in item_id or "\\" in item_id or item_id in (".", ".."):
        return "is a path"
    return "is longer than a file name can be" if len(item_id.encode(errors="replace")) > 250 else None
