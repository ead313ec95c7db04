"""Check items tables: every row, also after one that is wrong."""

import re
from itertools import islice
from pathlib import Path

import polars as pl

from ..tables.items import ITEM_COLUMNS, item_roles, language_of, without_warnings
from ..tables.problems import Problems
from .validate_rows import CONTROL, add_empty, check_encoding, csv_rows, shown


LANGUAGES = ("text_zh", "text_en")


def check_items(path: Path, columns: dict[str, str] | None, problems: Problems) -> pl.DataFrame:
    """The distinct ids of an items table and the lines they stand on: `item_id`, `line`."""
    texts = _Texts(path, check_encoding(path, problems), problems)
    if next(csv_rows(path, Problems()), None) is None:
        add_empty(path, problems)
        return pl.DataFrame(schema={"item_id": pl.String, "line": pl.Int64})
    columns, header_line = _item_columns(path, columns)
    found: dict[str, int] = {}

    def add(severity: str, what: str, line: int, text: str) -> None:
        problems.add_lines(severity, path, what, 1, [(line, text)])

    for line, row in csv_rows(path, problems):
        if line == header_line:
            continue
        if len(row) != len(columns):
            names = ", ".join(name or "not used" for name in columns)
            what = f"rows that have not {len(columns)} columns ({names}); texts with commas need double quotes"
            add("error", what, line, f"{len(row)} columns: {shown(','.join(row))}")
            continue
        fields = dict(zip(columns, row, strict=True))
        item_id = fields["item_id"].strip()
        if not item_id:
            add("error", "rows with an empty item_id; fill it in or remove them", line, shown(",".join(row)))
            continue
        if item_id in found:
            what = "rows that repeat an item id: the first row is kept"
            add("warning", what, line, f"{shown(item_id)} stands in line {found[item_id]}")
            continue
        found[item_id] = line
        if reason := _odd_id(item_id):
            what = "ids that are no plain names: such an item has no cover; never make a file name of the id"
            add("warning", what, line, f"{shown(item_id)}: {reason}")
        texts.check(line, item_id, {language: fields.get(language, "") for language in LANGUAGES})
    texts.report()
    if not found:
        add_empty(path, problems, "no item can be read from this file")
    return pl.DataFrame(
        {"item_id": list(found), "line": list(found.values())}, schema={"item_id": pl.String, "line": pl.Int64}
    )


class _Texts:
    """Which items have no text, and which texts look wrong."""

    def __init__(self, path: Path, is_utf8: bool, problems: Problems):
        self.path, self.is_utf8, self.problems = path, is_utf8, problems
        self.num_items = 0  # with a text
        self.num_missing = dict.fromkeys(LANGUAGES, 0)
        self.missing_at: dict[str, list[tuple[int, str]]] = {language: [] for language in LANGUAGES}
        self.lines: dict[int, int] = {}  # hash of a text: line of the first item that has it

    def check(self, line: int, item_id: str, texts: dict[str, str]) -> None:
        """The texts of one item."""

        def add(severity: str, what: str, text: str) -> None:
            self.problems.add_lines(severity, self.path, what, 1, [(line, text)])

        empty = [language for language, text in texts.items() if not text.strip()]
        if len(empty) == len(texts):
            add("warning", "items with an empty text in both languages: kept without text", shown(item_id))
            return
        self.num_items += 1
        for language in empty:
            self.num_missing[language] += 1
            if len(self.missing_at[language]) < self.problems.max_examples:
                self.missing_at[language].append((line, shown(item_id)))
        both = " / ".join(text for text in texts.values() if text.strip())
        if self.is_utf8 and "\ufffd" in both:
            add("note", "texts with U+FFFD: they were once decoded wrongly", shown(both))
        if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", both):
            add("note", "texts with control characters", shown(both))
        if len(both.split()) == 1 and both.isascii():
            add("note", "texts of a single word", shown(both))
        earlier = self.lines.setdefault(hash(both), line)
        if earlier != line:
            add("note", "items with the same text as an earlier one", f"{shown(both)} stands in line {earlier}")

    def report(self) -> None:
        for language, count in self.num_missing.items():
            what, examples = f"items without {language}, which have the other text", self.missing_at[language]
            if 0 < count == self.num_items:
                what, count, examples = f"no item has a {language}: load with the other language", 1, []
            self.problems.add_lines("note", self.path, what, count, examples)


def _item_columns(path: Path, columns: dict[str, str] | None) -> tuple[list[str | None], int | None]:
    """What each column is, as the reader sees it, and the line of the header, if any."""
    try:
        with without_warnings():
            roles, header_line = item_roles(path, columns)
    except ValueError:  # which is what `load_dataset` stops at
        return list(ITEM_COLUMNS), None
    if "title" in roles:
        place = roles.index("title")
        rows = islice(csv_rows(path, Problems()), 1, 1001)
        language = language_of(pl.Series([row[place] for _, row in rows if len(row) > place], dtype=pl.String))
        roles = [language if role == "title" else role for role in roles]
    return roles, header_line


def _odd_id(item_id: str) -> str | None:
    if re.search(CONTROL, item_id):
        return "holds control characters"
    if "/" in item_id or "\\" in item_id or item_id in (".", ".."):
        return "is a path"
    return "is longer than a file name can be" if len(item_id.encode(errors="replace")) > 250 else None
