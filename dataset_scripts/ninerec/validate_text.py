"""Check the text files of a data set and go on after an error: items tables, pair files, behaviour files.

A file is read in blocks. What must be known of all actions goes to a temporary file (28 bytes an action, in the folder
of `TMPDIR`), which is then read a part of the users at a time.
"""

import csv
import re
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from .problems import Problems
from .reader import header_roles


BLOCK_SIZE = 1 << 25  # bytes read at a time
LONGEST_LINE = 1 << 25
MAX_BROKEN_ROWS = 100
ROWS_PER_PART = 1 << 23
MIN_ACTIONS = 5  # of a user, by default
EARLIEST = 631_152_000  # 1990 in seconds
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
ACTION = np.dtype([("user", "u8"), ("item", "i4"), ("timestamp", "i8"), ("line", "i8")])
CONTROL = r"[\x00-\x1f\x7f]"


def shown(text: str) -> str:
    """A field as it is printed: on one line and not long."""
    return repr(text if len(text) <= 60 else text[:57] + "…")


# Lines and rows


def check_encoding(path: Path, problems: Problems) -> None:
    for first, block in _blocks(path, problems):
        try:
            block.decode()
        except UnicodeDecodeError:
            for number, line in enumerate(block.split(b"\n"), first):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    text = f"byte 0x{line[error.start]:02x} in {shown(line[:60].decode(errors='replace'))}"
                    what = "lines that are not UTF-8; convert the file to UTF-8, or unpack it first"
                    problems.add_lines("error", path, what, 1, [(number, text)])


def _blocks(path: Path, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """The file in blocks of whole lines, each with the number of its first line; without byte order mark."""
    first, rest = 1, b""
    with open(path, "rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while block := file.read(BLOCK_SIZE):
            head, line_break, rest_of_block = block.rpartition(b"\n")
            if not line_break:
                rest += block
                if len(rest) > LONGEST_LINE:
                    what = f"a line of more than {LONGEST_LINE:,} bytes; the file is not checked from there on"
                    problems.add_lines("warning", path, what, 1, [(first, shown(rest[:60].decode(errors="replace")))])
                    return
                continue
            whole = rest + head + line_break
            rest = rest_of_block
            yield first, whole
            first += whole.count(b"\n")
    if rest:
        yield first, rest


def _line_chunks(path: Path) -> Iterator[pl.DataFrame]:
    """The non-blank lines, whatever bytes they hold, as frames of `line` (number from 1) and `text`."""
    for first, block in _blocks(path, Problems()):
        data = block.decode(errors="replace").encode()
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
        offsets = np.concatenate([[0], ends, [] if data.endswith(b"\n") else [len(data)]]).astype(np.int64)
        text = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
        lines = pl.DataFrame({"line": np.arange(first, first + len(text)), "text": pl.from_arrow(text)})
        lines = lines.with_columns(pl.col("text").str.strip_chars_end("\r\n"))
        yield lines.filter(pl.col("text").str.strip_chars() != "")


def csv_rows(path: Path, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file with the line on which each starts; after a row that breaks quoting the next line is read."""
    number, num_broken = 1, 0
    taken: list[str] = []  # lines of the current row
    again: deque[str] = deque()  # lines after a broken row, which are read anew

    def lines() -> Iterator[str]:
        while line := again.popleft() if again else file.readline(LONGEST_LINE):
            taken.append(line)
            yield line

    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        while True:
            try:
                for row in csv.reader(lines(), strict=True):
                    if len(row) > 1 or row and row[0].strip():
                        yield number, row
                    number += len(taken)
                    taken.clear()
                return
            except csv.Error as error:
                what = (
                    "rows that break CSV quoting; put fields with commas, quotes or newlines in double quotes and "
                    'double the quotes inside ("")'
                )
                problems.add_lines("error", path, what, 1, [(number, f"{shown(taken[0])} ({error})")])
                num_broken += 1
                if num_broken == MAX_BROKEN_ROWS:
                    what = f"more than {MAX_BROKEN_ROWS} broken rows; the file is not checked from there on"
                    problems.add_lines("error", path, what, 1, [(number, shown(taken[0]))])
                    return
                again.extendleft(reversed(taken[1:]))
                taken.clear()
                number += 1


def _field_chunks(path: Path, problems: Problems) -> Iterator[pl.DataFrame]:
    """Rows of a CSV or TSV file as frames of `line` and `fields` (list of string)."""
    if path.suffix == ".csv" and any(b'"' in block for _, block in _blocks(path, Problems())):
        rows = csv_rows(path, problems)
        while chunk := list(islice(rows, 500_000)):
            yield pl.DataFrame(chunk, schema={"line": pl.Int64, "fields": pl.List(pl.String)}, orient="row")
        return
    separator = "\t" if path.suffix == ".tsv" else ","
    for chunk in _line_chunks(path):
        yield chunk.select("line", pl.col("text").str.split(separator).alias("fields"))


def _checked_chunks(
    path: Path, columns: list[str | None] | None, header_line: int | None, problems: Problems
) -> Iterator[pl.DataFrame]:
    """`line` and the columns, stripped, of the rows that are complete; the others are reported."""
    found = False
    for chunk in _field_chunks(path, problems):
        rows = chunk.filter(pl.col("line") != header_line) if header_line else chunk
        found = found or not rows.is_empty()
        wrong = rows.filter(pl.col("fields").list.len() != len(columns))
        what = f"rows that have not {len(columns)} columns ({', '.join(name or 'not used' for name in columns)})"
        lines = ((line, f"{len(fields)}: {shown(str(fields[:4]))}") for line, fields in _head(wrong, problems))
        problems.add_lines("error", path, what, wrong.height, lines)
        rows = rows.filter(pl.col("fields").list.len() == len(columns)).select(
            "line",
            *(
                pl.col("fields").list.get(place).str.strip_chars().alias(name)
                for place, name in enumerate(columns)
                if name
            ),
        )
        for name in rows.columns[1:]:
            empty = rows.filter(pl.col(name) == "")
            lines = ((row[0], shown(",".join(row[1:]))) for row in _head(empty, problems))
            problems.add_lines(
                "error", path, f"rows with an empty {name}; fill it in or remove them", empty.height, lines
            )
            rows = rows.filter(pl.col(name) != "")
        yield rows
    if not found:
        problems.add("error", path, "no rows; unpack or copy the file again", count=1)


def _head(rows: pl.DataFrame, problems: Problems) -> list[tuple]:
    return rows.head(problems.max_examples).rows()


# Items


def check_items(path: Path, problems: Problems) -> pl.DataFrame:
    """The distinct ids of an items table and the lines they stand on: `item_id`, `line`."""
    check_encoding(path, problems)
    rows = csv_rows(path, problems)
    first = next(rows, None)
    if first is None:
        problems.add("error", path, "the file is empty; unpack or copy it again", count=1)
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
            add("error", f"{what}; texts with commas need double quotes", line, f"{len(row)}: {shown(str(row[:4]))}")
            continue
        fields = dict(zip(columns, row, strict=True))
        item_id = fields["item_id"].strip()
        if not item_id:
            add("error", "rows with an empty item_id; fill it in or remove them", line, shown(str(row[:4])))
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
        if count == num_items:
            problems.add_lines("note", path, f"no item has a {language}: load with the other language", 1)
        else:
            problems.add_lines(
                "note", path, f"items without {language}, which the other language has", count, missing_at[language]
            )
    if not found:
        problems.add("error", path, "no item can be read from this file", count=1)
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


# Interactions


def check_pairs(
    path: Path, items_path: Path, items: pl.DataFrame, pair_columns: tuple[str, ...] | None, problems: Problems
) -> None:
    """Users, items and, where known, timestamps, in a `_pair.csv`."""
    check_encoding(path, problems)
    columns, header_line = _pair_columns(path, items, pair_columns)
    if columns is None:
        problems.add("error", path, "the file is empty; unpack or copy it again", count=1)
        return
    timed = "timestamp" in columns
    used = np.zeros(items.height, dtype=bool)
    clock = None
    num_parts = path.stat().st_size // (ROWS_PER_PART * 16) + 1
    with tempfile.TemporaryDirectory(prefix="validate-") as folder:
        parts = [open(Path(folder, str(part)), "w+b") for part in range(num_parts)]
        try:
            for rows in _checked_chunks(path, columns, header_line, problems):
                if timed:
                    rows = _parse_timestamps(path, rows, problems)
                    clock = clock or (_Clock(path, rows, problems) if rows.height else None)
                    if clock:
                        clock.check(rows)
                rows = _known(path, rows, items, used, problems)
                actions = np.empty(rows.height, ACTION)
                actions["user"] = rows["user_id"].hash().to_numpy()
                actions["item"], actions["line"] = rows["item"].to_numpy(), rows["line"].to_numpy()
                actions["timestamp"] = rows["timestamp"].to_numpy() if timed else 0
                part_of = actions["user"] % np.uint64(num_parts)
                for part, file in enumerate(parts):
                    actions[part_of == part].tofile(file)
            users = _Users(path, timed, problems)
            for file in parts:
                file.seek(0)
                users.check(np.fromfile(file, ACTION))
        finally:
            for file in parts:
                file.close()
    users.report(columns, header_line)
    _report_unused(items_path, items, used, problems)


def _pair_columns(
    path: Path, items: pl.DataFrame, pair_columns: tuple[str, ...] | None
) -> tuple[list[str | None] | None, int | None]:
    """What each column is and the line of the header, if any; without header by the overlap with the items table."""
    chunk = next((chunk for chunk in _field_chunks(path, Problems()) if chunk.height), None)
    if chunk is None:
        return None, None
    line, first = chunk.row(0)
    names = ("user_id", "item_id", "timestamp")
    roles = [role if role in names else None for role in header_roles(first)]
    header_line = line if {"user_id", "item_id"} <= set(roles) else None
    if header_line:
        return roles, header_line
    if pair_columns is not None:
        return [name if name in names else None for name in pair_columns], None
    known = items["item_id"]
    overlap = []
    for place in (0, 1):
        values = chunk["fields"].list.get(place, null_on_oob=True).drop_nulls().str.strip_chars().unique()
        common = int(values.is_in(known.implode()).sum())
        overlap.append(common / max(len(values) + len(known) - common, 1))
    order = ["item_id", "user_id"] if overlap[0] > overlap[1] else ["user_id", "item_id"]
    return order + ["timestamp"] * (len(first) > 2), None


def _parse_timestamps(path: Path, rows: pl.DataFrame, problems: Problems) -> pl.DataFrame:
    whole = pl.col("timestamp").str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
    parsed = rows.with_columns(whole)
    bad = rows.filter(parsed["timestamp"].is_null()).select("line", "timestamp")
    lines = ((line, shown(text)) for line, text in _head(bad, problems))
    problems.add_lines("error", path, "timestamps that are no whole number", bad.height, lines)
    return parsed.drop_nulls("timestamp")


class _Clock:
    """Whether timestamps are plausible, in the unit that the first block has."""

    def __init__(self, path: Path, rows: pl.DataFrame, problems: Problems):
        self.path, self.problems = path, problems
        median = rows["timestamp"].median()
        # Any unit reads the years from 1990 to 2100 as numbers that no other unit does.
        self.unit = next((name for name, factor in UNITS.items() if median < 4.2e9 * factor), "nanoseconds")
        self.factor = UNITS[self.unit]
        if self.unit != "seconds":
            problems.add("note", path, f"timestamps are in {self.unit}: kept in this unit", count=1)

    def check(self, rows: pl.DataFrame) -> None:
        tomorrow = int((time.time() + 86_400) * self.factor)
        for what, bad in (
            ("timestamps before 1990", rows.filter(pl.col("timestamp") < EARLIEST * self.factor)),
            ("timestamps in the future", rows.filter(pl.col("timestamp") > tomorrow)),
        ):
            lines = _head(bad.select("line", pl.col("timestamp").cast(pl.String)), self.problems)
            what = f"{what} (in {self.unit}): kept, and sorted by"
            self.problems.add_lines("warning", self.path, what, bad.height, lines)


def _known(path: Path, rows: pl.DataFrame, items: pl.DataFrame, used: np.ndarray, problems: Problems) -> pl.DataFrame:
    """Rows on known items, with the item's row in `item`; the others are reported."""
    numbered = pl.DataFrame({"item_id": items["item_id"], "item": np.arange(items.height, dtype=np.int32)})
    rows = rows.join(numbered, on="item_id", how="left", maintain_order="left")
    unknown = rows.filter(pl.col("item").is_null()).select("line", "item_id")
    lines = ((line, f"item {shown(item)}") for line, item in _head(unknown, problems))
    problems.add_lines(
        "warning", path, "actions on items that are not in the items table: dropped", unknown.height, lines
    )
    odd = rows.filter(pl.col("user_id").str.contains(CONTROL)).select("line", "user_id")
    lines = ((line, shown(user)) for line, user in _head(odd, problems))
    problems.add_lines("note", path, "user ids with control characters", odd.height, lines)
    rows = rows.drop_nulls("item")
    used[rows["item"].to_numpy()] = True
    return rows


class _Users:
    """What only all actions of a user together tell; see `check`, which takes some of the users at a time."""

    def __init__(self, path: Path, timed: bool, problems: Problems):
        self.path, self.timed, self.problems = path, timed, problems
        self.num_short, self.short = 0, pl.DataFrame(schema={"line": pl.Int64, "count": pl.Int64})
        self.num_steps = self.num_back = 0  # from one action of a user to the next, and those back in time
        self.num_tied = 0  # actions at the time of an earlier one of the same user
        self.back: list[int] = []  # lines

    def check(self, actions: np.ndarray) -> None:
        """All actions of some users on known items, in the order of the file."""
        rows = pl.DataFrame({name: actions[name] for name in ACTION.names}).sort("user", maintain_order=True)
        keys = ["user", "item", "timestamp"]  # without timestamps they are all 0
        if self.timed:
            same_user = pl.col("user") == pl.col("user").shift()
            step = rows.select(pl.when(same_user).then(pl.col("timestamp").diff().sign()))["timestamp"]
            self.num_steps += step.count()
            self.num_back += int((step == -1).sum())
            self.num_tied += rows.height - rows.select("user", "timestamp").n_unique()
            self.back += (
                rows["line"].filter((step == -1).fill_null(False)).sort().head(self._left(self.back)).to_list()
            )
            copies = rows.filter(~rows.select(pl.struct(keys).is_first_distinct()).to_series())["line"].sort()
            what = "rows equal in user, item and timestamp to an earlier row: dropped"
            self._add("warning", what, copies, "copy of an earlier row")
            rows = rows.unique(keys, keep="first", maintain_order=True)
        again = rows.filter(~rows.select(pl.struct("user", "item").is_first_distinct()).to_series())["line"].sort()
        when = ", at another time" if self.timed else ""
        self._add("note", f"actions on an item that the same user had before{when}: kept", again, "the item again")
        counts = rows.group_by("user").agg(pl.col("line").min(), pl.len().cast(pl.Int64).alias("count"))
        self.add_short(counts.filter(pl.col("count") < MIN_ACTIONS).select("line", "count"))

    def add_short(self, rows: pl.DataFrame) -> None:
        """Users with too few actions: the first `line` of each, and `count`."""
        self.num_short += rows.height
        self.short = pl.concat([self.short, rows]).bottom_k(self.problems.max_examples, by="line").sort("line")

    def _left(self, examples: list) -> int:
        return self.problems.max_examples - len(examples)

    def _add(self, severity: str, what: str, lines: pl.Series, text: str) -> None:
        examples = [(line, text) for line in lines.head(self.problems.max_examples)]
        self.problems.add_lines(severity, self.path, what, len(lines), examples)

    def report(self, columns: list[str | None], header_line: int | None) -> None:
        """Adds what was found; ids are looked up in the file."""
        if self.num_back > 0.1 * self.num_steps:
            what = "actions stand after a later one of the same user: the file is not in time order, and is sorted"
            self.problems.add_lines("note", self.path, what, self.num_back)
        else:
            what = "actions stand after a later one of the same user in a file that is otherwise in time order: sorted"
            self._add("note", what, pl.Series(self.back, dtype=pl.Int64), "earlier than the user's action before")
            self.problems.add_lines("note", self.path, what, self.num_back - len(self.back))
        what = "actions at the very time of another action of the same user: these keep the order of the file"
        self.problems.add_lines("note", self.path, what, self.num_tied)
        counts = dict(self.short.rows())
        examples = []
        if counts:
            for chunk in _checked_chunks(self.path, columns, header_line, Problems()):
                wanted = chunk.filter(pl.col("line").is_in(list(counts))).select("line", "user_id").rows()
                examples += [(line, f"user {shown(user)} has {counts[line]}") for line, user in wanted]
                if len(examples) == len(counts):
                    break
        what = f"users with fewer than {MIN_ACTIONS} actions on known items: dropped, unless min_actions is lower"
        self.problems.add_lines("warning", self.path, what, self.num_short, examples)


def _report_unused(items_path: Path, items: pl.DataFrame, used: np.ndarray, problems: Problems) -> None:
    unused = items.filter(~used)
    examples = ((line, shown(item_id)) for item_id, line in _head(unused, problems))
    what = 'items that no action is on: not in the catalogue, unless catalogue="all"'
    problems.add_lines("warning", items_path, what, unused.height, examples)


def check_behaviour(path: Path, items_path: Path, items: pl.DataFrame, problems: Problems) -> None:
    """Users and their items, in a `_behaviour.tsv`."""
    check_encoding(path, problems)
    chunk = next((chunk for chunk in _field_chunks(path, Problems()) if chunk.height), None)
    if chunk is None:
        problems.add("error", path, "the file is empty; unpack or copy it again", count=1)
        return
    columns = ["user_id", "item_ids"]
    header_line = chunk["line"][0] if header_roles(chunk["fields"][0].to_list()) == ["user_id", "item_id"] else None
    used = np.zeros(items.height, dtype=bool)
    lines = []  # of the whole file: line, hashes of user and items, number of known items
    for rows in _checked_chunks(path, columns, header_line, problems):
        split = pl.col("item_ids").str.replace_all(r" +", " ").str.split(" ").alias("item_id")
        actions = _known(path, rows.select("line", "user_id", split).explode("item_id"), items, used, problems)
        again = actions.filter(~actions.select(pl.struct("line", "item").is_first_distinct()).to_series())
        what = "actions on an item that stands in the line before: kept"
        examples = ((line, f"item {shown(item)} again") for line, item in _head(again["line", "item_id"], problems))
        problems.add_lines("note", path, what, again.height, examples)
        known = actions.group_by("line").agg(pl.len().cast(pl.Int64).alias("count"))
        hashes = (pl.col("user_id").hash().alias("user"), pl.col("item_ids").hash().alias("items"))
        lines.append(rows.select("line", *hashes).join(known, on="line", how="left", maintain_order="left"))
    if not lines:
        return
    table = pl.concat(lines)
    is_first = table.select(pl.struct("user", "items").is_first_distinct()).to_series()
    users = _Users(path, False, problems)
    users._add("warning", "lines equal to an earlier one: dropped", table.filter(~is_first)["line"], "copy")
    table = table.filter(is_first)
    further = table.filter(~table["user"].is_first_distinct())["line"]
    what = "further, different lines of a user: appended to that user's actions"
    users._add("warning", what, further, "the user has an earlier line")
    counts = table.group_by("user").agg(pl.col("line").min(), pl.col("count").fill_null(0).sum())
    users.add_short(counts.filter(pl.col("count") < MIN_ACTIONS).select("line", "count"))
    users.report(columns, header_line)
    _report_unused(items_path, items, used, problems)
