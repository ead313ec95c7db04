"""Check pair and behaviour files: every row, also after one that is wrong.

What must be known of all actions goes to a temporary file (28 bytes an action, in the folder of `TMPDIR`), which is
then read a part of the users at a time.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from ..tables.columns import pair_roles
from ..tables.interaction_rows import behaviour_header, time_is_date
from ..tables.problems import Problems
from ..tables.timestamps import TIMES, to_numbers
from .validate_rows import CONTROL, add_empty, check_encoding, checked_chunks, field_chunks, head, shown


ROWS_PER_PART = 1 << 23
EARLIEST = 631_152_000  # 1990 in seconds
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
ACTION = np.dtype([("user", "u8"), ("item", "i4"), ("timestamp", "i8"), ("line", "i8")])


def check_pairs(
    path: Path,
    items_path: Path,
    items: pl.DataFrame,
    problems: Problems,
    min_actions: int,
    pair_columns: tuple[str, ...] | None = None,
    columns: dict[str, str] | None = None,
) -> None:
    """Users, items and, where known, timestamps, in a `_pair.csv`."""
    check_encoding(path, problems)
    columns, header_line = _pair_columns(path, items, pair_columns, columns)
    if columns is None:
        add_empty(path, problems)
        return
    timed, has_dates = "timestamp" in columns, _has_dates(path, columns, header_line)
    used = np.zeros(items.height, dtype=bool)
    clock = None
    num_parts = path.stat().st_size // (ROWS_PER_PART * 16) + 1
    with tempfile.TemporaryDirectory(prefix="validate-") as folder:
        parts = [open(Path(folder, str(part)), "w+b") for part in range(num_parts)]
        try:
            for rows in checked_chunks(path, columns, header_line, problems):
                if timed:
                    rows = _parse_timestamps(path, rows, has_dates, problems)
                    clock = clock or (_Clock(path, rows, has_dates, problems) if rows.height else None)
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
            users = _Users(path, items, timed, min_actions, problems)
            for file in parts:
                file.seek(0)
                users.check(np.fromfile(file, ACTION))
        finally:
            for file in parts:
                file.close()
    users.report(columns, header_line)
    _report_unused(items_path, items, used, problems)


def _pair_columns(
    path: Path, items: pl.DataFrame, pair_columns: tuple[str, ...] | None, columns: dict[str, str] | None
) -> tuple[list[str | None] | None, int | None]:
    """What each column is and the line of the header, if any; without header by the overlap with the items table."""
    chunk = next((chunk for chunk in field_chunks(path, Problems()) if chunk.height), None)
    if chunk is None:
        return None, None
    try:
        roles, header_line = pair_roles(path, pair_columns, columns)
        if "user_id" in roles:
            return roles, header_line
    except ValueError:  # which is what `load_dataset` stops at
        pass
    known = items["item_id"]
    overlap = []
    for place in (0, 1):
        values = chunk["fields"].list.get(place, null_on_oob=True).drop_nulls().str.strip_chars().unique()
        common = int(values.is_in(known.implode()).sum())
        overlap.append(common / max(len(values) + len(known) - common, 1))
    order = ["item_id", "user_id"] if overlap[0] > overlap[1] else ["user_id", "item_id"]
    return order + ["timestamp"] * (len(chunk["fields"][0]) > 2), None


def _has_dates(path: Path, columns: list[str | None], header_line: int | None) -> bool:
    try:
        return time_is_date(path, columns, header_line)
    except ValueError:  # no row at all, or one that is reported
        return False


def _parse_timestamps(path: Path, rows: pl.DataFrame, has_dates: bool, problems: Problems) -> pl.DataFrame:
    parsed = rows.with_columns(to_numbers(rows["timestamp"], has_dates))
    bad = rows.filter(parsed["timestamp"].is_null()).select("line", "timestamp")
    lines = ((line, shown(text)) for line, text in head(bad, problems))
    form = "date, unlike the first" if has_dates else "whole number"
    what = f"timestamps that are no {form}; write all times in one form: {TIMES}"
    problems.add_lines("error", path, what, bad.height, lines)
    return parsed.drop_nulls("timestamp")


class _Clock:
    """Whether timestamps are plausible, in the unit that the first block has; dates are microseconds."""

    def __init__(self, path: Path, rows: pl.DataFrame, has_dates: bool, problems: Problems):
        self.path, self.problems, self.has_dates = path, problems, has_dates
        median = rows["timestamp"].median()
        # Any unit reads the years from 1990 to 2100 as numbers that no other unit does.
        self.unit = next((name for name, factor in UNITS.items() if median < 4.2e9 * factor), "nanoseconds")
        if has_dates:
            self.unit = "microseconds"
        self.factor = UNITS[self.unit]
        if not has_dates and self.unit != "seconds":
            problems.add("note", path, f"timestamps are in {self.unit}: kept in this unit", count=1)

    def check(self, rows: pl.DataFrame) -> None:
        tomorrow = int((time.time() + 86_400) * self.factor)
        for what, bad in (
            ("timestamps before 1990", rows.filter(pl.col("timestamp") < EARLIEST * self.factor)),
            ("timestamps in the future", rows.filter(pl.col("timestamp") > tomorrow)),
        ):
            when = pl.from_epoch("timestamp", time_unit="us") if self.has_dates else pl.col("timestamp")
            lines = head(bad.select("line", when.cast(pl.String)), self.problems)
            what = f"{what}{'' if self.has_dates else f' (in {self.unit})'}: kept, and sorted by"
            self.problems.add_lines("warning", self.path, what, bad.height, lines)


def _known(path: Path, rows: pl.DataFrame, items: pl.DataFrame, used: np.ndarray, problems: Problems) -> pl.DataFrame:
    """Rows on known items, with the item's row in `item`; the others are reported."""
    numbered = pl.DataFrame({"item_id": items["item_id"], "item": np.arange(items.height, dtype=np.int32)})
    rows = rows.join(numbered, on="item_id", how="left", maintain_order="left")
    unknown = rows.filter(pl.col("item").is_null()).select("line", "item_id")
    lines = ((line, f"item {shown(item)}") for line, item in head(unknown, problems))
    problems.add_lines(
        "warning", path, "actions on items that are not in the items table: dropped", unknown.height, lines
    )
    odd = rows.filter(pl.col("user_id").str.contains(CONTROL)).select("line", "user_id")
    lines = ((line, shown(user)) for line, user in head(odd, problems))
    problems.add_lines("note", path, "user ids with control characters", odd.height, lines)
    rows = rows.drop_nulls("item")
    used[rows["item"].to_numpy()] = True
    return rows


class _Users:
    """What only all actions of a user together tell; see `check`, which takes some of the users at a time."""

    def __init__(self, path: Path, items: pl.DataFrame, timed: bool, min_actions: int, problems: Problems):
        self.path, self.items, self.timed, self.problems = path, items, timed, problems
        self.min_actions = min_actions
        self.num_short, self.short = 0, pl.DataFrame(schema={"line": pl.Int64, "count": pl.Int64})
        self.num_steps = self.num_back = 0  # from one action of a user to the next, and those back in time
        self.num_tied = 0  # actions at the time of an earlier one of the same user
        self.back: list[pl.DataFrame] = []

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
            self.back.append(rows.filter((step == -1).fill_null(False)).select("line", "item"))
            self.back = [pl.concat(self.back).bottom_k(self.problems.max_examples, by="line")]
            copies = rows.filter(~rows.select(pl.struct(keys).is_first_distinct()).to_series())
            self._add("warning", "rows equal in user, item and timestamp to an earlier row: dropped", copies)
            rows = rows.unique(keys, keep="first", maintain_order=True)
        again = rows.filter(~rows.select(pl.struct("user", "item").is_first_distinct()).to_series())
        when = ", at another time" if self.timed else ""
        self._add("note", f"actions on an item that the same user had before{when}: kept", again)
        counts = rows.group_by("user").agg(pl.col("line").min(), pl.len().cast(pl.Int64).alias("count"))
        self.add_short(counts.filter(pl.col("count") < self.min_actions).select("line", "count"))

    def add_short(self, rows: pl.DataFrame) -> None:
        """Users with too few actions: the first `line` of each, and `count`."""
        self.num_short += rows.height
        self.short = pl.concat([self.short, rows]).bottom_k(self.problems.max_examples, by="line").sort("line")

    def _add(self, severity: str, what: str, rows: pl.DataFrame) -> None:
        """Rows with `line` and `item`."""
        first = rows.select("line", "item").bottom_k(self.problems.max_examples, by="line").sort("line").rows()
        examples = [(line, f"item {shown(self.items['item_id'][item])}") for line, item in first]
        self.problems.add_lines(severity, self.path, what, rows.height, examples)

    def report(self, columns: list[str | None], header_line: int | None, literal: bool = False) -> None:
        """Adds what was found; ids are looked up in the file."""
        if self.num_back > 0.1 * self.num_steps:
            what = "actions stand after a later one of the same user: the file is not in time order, and is sorted"
            self.problems.add_lines("note", self.path, what, self.num_back)
        else:
            what = "actions stand after a later one of the same user in a file that is otherwise in time order: sorted"
            for rows in self.back:
                self._add("note", what, rows)
                self.problems.add_lines("note", self.path, what, self.num_back - rows.height)
        what = "actions at the very time of another action of the same user: these keep the order of the file"
        self.problems.add_lines("note", self.path, what, self.num_tied)
        users = _users_at(self.path, self.short["line"], columns, header_line, literal)
        counts = dict(self.short.rows())
        examples = ((line, f"user {shown(user)} has {counts[line]}") for line, user in users)
        what = f"users with fewer than {self.min_actions} actions on known items: dropped, unless min_actions is lower"
        self.problems.add_lines("warning", self.path, what, self.num_short, examples)


def _users_at(
    path: Path, lines: pl.Series, columns: list[str | None], header_line: int | None, literal: bool
) -> list[tuple[int, str]]:
    """Line and user of some lines, which are few."""
    found: list[tuple[int, str]] = []
    if len(lines):
        for chunk in checked_chunks(path, columns, header_line, Problems(), literal):
            found += chunk.filter(pl.col("line").is_in(lines.implode())).select("line", "user_id").rows()
            if len(found) == len(lines):
                break
    return found


def _report_unused(items_path: Path, items: pl.DataFrame, used: np.ndarray, problems: Problems) -> None:
    unused = items.filter(~used)
    examples = ((line, shown(item_id)) for item_id, line in head(unused, problems))
    what = 'items that no action is on: not in the catalogue, unless catalogue="all"'
    problems.add_lines("warning", items_path, what, unused.height, examples)


def check_behaviour(
    path: Path,
    items_path: Path,
    items: pl.DataFrame,
    problems: Problems,
    min_actions: int,
    columns: dict[str, str] | None = None,
) -> None:
    """Users and their items, in a `_behaviour.tsv`."""
    check_encoding(path, problems)
    if not any(chunk.height for chunk in field_chunks(path, Problems(), literal=True)):
        add_empty(path, problems)
        return
    try:
        header_line = behaviour_header(path, columns)
    except ValueError:  # not UTF-8, which is reported
        header_line = None
    columns = ["user_id", "item_ids"]
    used = np.zeros(items.height, dtype=bool)
    table = []  # of all lines: number, hashes of user and items, number of known items
    for rows in checked_chunks(path, columns, header_line, problems, literal=True):
        split = pl.col("item_ids").str.replace_all(r" +", " ").str.split(" ").alias("item_id")
        actions = _known(path, rows.select("line", "user_id", split).explode("item_id"), items, used, problems)
        again = actions.filter(~actions.select(pl.struct("line", "item").is_first_distinct()).to_series())
        what = "actions on an item that stands in the line before: kept"
        examples = ((line, f"item {shown(item)} again") for line, item in head(again["line", "item_id"], problems))
        problems.add_lines("note", path, what, again.height, examples)
        known = actions.group_by("line").agg(pl.len().cast(pl.Int64).alias("count"))
        hashes = (pl.col("user_id").hash().alias("user"), pl.col("item_ids").hash().alias("items"))
        table.append(rows.select("line", *hashes).join(known, on="line", how="left", maintain_order="left"))
    if not table:
        return
    table = pl.concat(table)
    is_first = table.select(pl.struct("user", "items").is_first_distinct()).to_series()
    users = _Users(path, items, False, min_actions, problems)
    copies, table = table.filter(~is_first)["line"], table.filter(is_first)
    further = table.filter(~table["user"].is_first_distinct())["line"]
    for what, lines in (
        ("lines equal to an earlier one: dropped", copies),
        ("further, different lines of a user: appended to that user's actions", further),
    ):
        examples = _users_at(path, lines.head(problems.max_examples), columns, header_line, literal=True)
        examples = ((line, f"user {shown(user)}") for line, user in examples)
        problems.add_lines("warning", path, what, len(lines), examples)
    counts = table.group_by("user").agg(pl.col("line").min(), pl.col("count").fill_null(0).sum())
    users.add_short(counts.filter(pl.col("count") < min_actions).select("line", "count"))
    users.report(columns, header_line, literal=True)
    _report_unused(items_path, items, used, problems)
