"""Check what only validation asks of tables whose rows are read: whether texts, ids, times and users look right."""

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from ..tables.coded import read_parts, write_coded
from ..tables.columns import is_behaviour
from ..tables.forms import MISSING
from ..tables.interaction_rows import Chunks, to_arrow
from ..tables.interactions import OF_NOBODY, interaction_chunks
from ..tables.items import add_repeated
from ..tables.numbers import TimeForm
from ..tables.options import TableOptions
from ..tables.problems import Problems, shown
from ..tables.spellings import canonical


ROUNDED = r"^\d(\.\d+)?[eE]\+?\d+$"
ROUNDED_IDS = "ids as spreadsheets round them: different ids may have become one; export the table again, ids as text"
CONTROL = r"[\x00-\x1f\x7f]"
ROWS_PER_PART = 1 << 21  # interactions that are sorted at a time
ODD = r"[^\x21-\x7e]|\.0+$"  # in an id that may be written otherwise
LANGUAGES = ("text_zh", "text_en")
EARLIEST = 631_152_000  # 1990 in seconds
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


def check_items(path: Path, items: pl.DataFrame, problems: Problems) -> None:
    """Checks ids and texts of the items.

    Args:
        path: of the items table.
        items: see [`read_items`], with the column `line`.
        problems: where they are added.
    """

    def add(severity: str, what: str, rows: pl.DataFrame, column: str = "item_id") -> None:
        problems.add_rows(severity, path, what, rows, column)

    for item_id, line in (
        items.filter(pl.col("item_id").str.contains(rf"{CONTROL}|[/\\]|^\.\.?$|.{{80}}"))
        .select("item_id", "line")
        .iter_rows()
    ):
        if reason := _odd_id(item_id):
            what = "ids that are no plain names: such an item has no cover; never make a file name of the id"
            problems.add_lines("warning", path, what, 1, [(line, f"{shown(item_id)}: {reason}")])
    add("warning", ROUNDED_IDS, items.filter(pl.col("item_id").str.contains(ROUNDED)))
    _check_spellings(path, [items["item_id"]], "item_id", problems)
    has_text = {language: pl.col(language).str.strip_chars() != "" for language in LANGUAGES}
    what = "items with an empty text in both languages: kept without text"
    add("warning", what, items.filter(~pl.any_horizontal(has_text.values())))
    items = items.filter(pl.any_horizontal(has_text.values()))
    for language in LANGUAGES:
        without = items.filter(~has_text[language])
        if without.height < items.height:
            add("note", f"items without {language}, which have the other text", without)
        elif items.height:
            do = "commands need --language zh" if language == "text_en" else "commands read text_en, as by default"
            problems.add("note", path, f"no item has a text in {language}: {do}", count=1)
    texts = [pl.when(has_text[language]).then(language) for language in LANGUAGES]
    items = items.with_columns(pl.concat_str(texts, separator=" / ", ignore_nulls=True).alias("text"))
    if not any("not UTF-8" in problem.what for problem in problems.found()):
        add("note", "texts with U+FFFD: they were once decoded wrongly", _containing(items, "\ufffd"), "text")
    add("note", "texts with control characters", _containing(items, r"[\x00-\x08\x0e-\x1f\x7f]"), "text")
    one_word = (pl.col("text").str.count_matches(r"\S+") == 1) & ~pl.col("text").str.contains(r"[^\x00-\x7f]")
    add("note", "texts of a single word", items.filter(one_word), "text")
    again = items.filter(~pl.col("text").is_first_distinct())
    add_repeated(problems, "note", path, "items with the same text as an earlier one", items, again, "text")


def _containing(items: pl.DataFrame, pattern: str) -> pl.DataFrame:
    return items.filter(pl.col("text").str.contains(pattern))


def _odd_id(item_id: str) -> str | None:
    if re.search(CONTROL, item_id):
        return "holds control characters"
    if "/" in item_id or "\\" in item_id or item_id in (".", ".."):
        return "is a path"
    return "is longer than a file name can be" if len(item_id.encode(errors="replace")) > 250 else None


def check_interactions(
    path: Path,
    items_path: Path,
    items: pl.DataFrame,
    problems: Problems,
    min_actions: int,
    options: TableOptions,
) -> None:
    """Checks users, items and, where known, timestamps.

    What must be known of all interactions goes to a temporary file, which is read a part of the users at a time.

    Args:
        path: of the interactions.
        items_path, items: see [`check_items`].
        problems: where they are added.
        min_actions: fewest interactions of a user.
        options: see [`read_sequences`].
    """
    with tempfile.TemporaryDirectory(prefix="validate-") as scratch:
        folder, item_ids = Path(scratch), items["item_id"]
        by_line = is_behaviour(path, options, problems)
        chunks, times = interaction_chunks(path, folder, item_ids, options, on_problem=problems)
        clock, used = _Clock(path, times, problems), np.zeros(items.height, dtype=bool)

        def checked() -> Iterator[pl.DataFrame]:
            for chunk in chunks():
                clock.check(chunk)
                odd = chunk.filter(pl.col("user_id").str.contains(CONTROL))
                problems.add_rows("note", path, "user ids with control characters", odd, "user_id")
                nobody = chunk.filter(pl.col("user_id").is_in(MISSING))
                problems.add_rows("warning", path, f"interactions that {OF_NOBODY}", nobody, "user_id")
                rounded = chunk.filter(pl.any_horizontal(pl.col("user_id", "item_id").str.contains(ROUNDED)))
                problems.add_rows("warning", path, ROUNDED_IDS, rounded, "user_id")
                yield chunk

        coded = folder / "coded.arrow"
        num_known = write_coded(path, checked, to_arrow(item_ids), coded, options, on_problem=problems)
        users = _Users(path, item_ids, by_line, min_actions, problems)
        for part in read_parts(coded, num_known, ROWS_PER_PART):
            used[part["item"].to_numpy()] = True
            users.check(part.drop("check", "row"))
        users.report(chunks)
        _check_spellings(path, [chunk["user_id"].unique() for chunk in chunks()], "user_id", problems)
    what = 'items that nobody interacted with: not in the catalogue, unless catalogue="all"'
    problems.add_rows("warning", items_path, what, items.filter(~used), "item_id")


def _check_spellings(path: Path, ids: list[pl.Series], role: str, problems: Problems) -> None:
    """Warns of ids that differ only in how they are written, which are counted as those of several."""
    odd = pl.concat([one.filter(one.str.contains(ODD)) for one in ids]).unique()
    spelled = pl.DataFrame({"id": odd, "key": canonical(odd)}).filter(pl.col("id") != pl.col("key"))
    if spelled.is_empty():
        return
    plain = pl.concat([one.filter(one.is_in(spelled["key"].unique().to_list())) for one in ids]).unique()
    both = pl.concat([pl.DataFrame({"id": plain, "key": plain}), spelled])
    several = both.group_by("key").agg(pl.col("id").unique().sort()).filter(pl.col("id").list.len() > 1).sort("key")
    if several.height:
        what = f"ids in {role} that differ only in accents, invisible characters or .0: taken for different ones"
        found = several["id"].head(problems.max_examples).to_list()
        problems.add("warning", path, what, *(" and ".join(map(ascii, one)) for one in found), count=several.height)


class _Clock:
    """Whether timestamps are plausible, in the unit that the first chunk has; dates are microseconds."""

    def __init__(self, path: Path, times: TimeForm, problems: Problems):
        self.path, self.problems, self.times = path, problems, times
        self.unit = "microseconds" if times.is_date else None

    def check(self, rows: pl.DataFrame) -> None:
        """Checks the times of a chunk."""
        if "timestamp" not in rows.columns or rows.is_empty():
            return
        if not self.times.is_date:
            rows = rows.with_columns(self.times.to_units(pl.col("timestamp")))
        if self.unit is None:
            median = rows.select(pl.col("timestamp").median()).item()
            # Any unit reads the years from 1990 to 2100 as numbers that no other unit does.
            self.unit = next((name for name, factor in UNITS.items() if median < 4.2e9 * factor), "nanoseconds")
            if self.unit != "seconds":
                self.problems.add("note", self.path, f"timestamps are in {self.unit}: kept in this unit", count=1)
        factor, tomorrow = UNITS[self.unit], time.time() + 86_400
        for what, wrong in (
            ("timestamps before 1990", rows.filter(pl.col("timestamp") < EARLIEST * factor)),
            ("timestamps in the future", rows.filter(pl.col("timestamp") > int(tomorrow * factor))),
        ):
            if self.times.is_date:
                wrong = wrong.with_columns(pl.from_epoch("timestamp", time_unit="us").cast(pl.String))
            what = f"{what}{'' if self.times.is_date else f' (in {self.unit})'}: kept, and sorted by"
            self.problems.add_rows("warning", self.path, what, wrong, "timestamp", str)


class _Users:
    """What only all interactions of a user together tell; see `check`, which takes some of the users at a time."""

    def __init__(self, path: Path, item_ids: pl.Series, by_line: bool, min_actions: int, problems: Problems):
        self.path, self.item_ids, self.by_line, self.problems = path, item_ids, by_line, problems
        self.min_actions = min_actions
        self.num_short = 0
        self.short: list[tuple[int, int]] = []
        self.num_steps = self.num_back = 0  # from one interaction of a user to the next, and those back in time
        self.num_tied = 0  # interactions at the time of an earlier one of the same user
        self.back: list[tuple[int, str]] = []

    def check(self, rows: pl.DataFrame) -> None:
        """Checks all interactions of some users with known items, in the order of the file."""
        rows = rows.sort("user", maintain_order=True)
        if "timestamp" in rows.columns:
            same_user = pl.col("user") == pl.col("user").shift()
            step = rows.select(pl.when(same_user).then(pl.col("timestamp").diff().sign()))["timestamp"]
            back = rows.filter((step == -1).fill_null(False))
            self.num_steps += step.count()
            self.num_back += back.height
            self.num_tied += rows.height - rows.select("user", "timestamp").n_unique()
            self.back = sorted([*self.back, *self._examples(back)])[: self.problems.max_examples]
            is_first = rows.select(pl.struct("user", "item", "timestamp").is_first_distinct()).to_series()
            self._add("warning", "rows equal in user, item and timestamp to an earlier row: dropped", rows, ~is_first)
            rows = rows.filter(is_first)
        if self.by_line:
            where, key, more = "that stands earlier in the same line", pl.struct("line", "item"), " again"
        else:
            when = ", at another time" if "timestamp" in rows.columns else ""
            where, key, more = f"that the same user had before{when}", pl.struct("user", "item"), ""
        again = ~rows.select(key.is_first_distinct()).to_series()
        self._add("note", f"interactions with an item {where}: kept", rows, again, more)
        counts = rows.group_by("user").agg(pl.col("line").min(), pl.len().alias("count"))
        short = counts.filter(pl.col("count") < self.min_actions)
        self.num_short += short.height
        examples = short.select("line", "count").bottom_k(self.problems.max_examples, by="line").rows()
        self.short = sorted([*self.short, *examples])[: self.problems.max_examples]

    def _add(self, severity: str, what: str, rows: pl.DataFrame, wanted: pl.Series, more: str = "") -> None:
        rows = rows.filter(wanted)
        self.problems.add_lines(severity, self.path, what, rows.height, self._examples(rows, more))

    def _examples(self, rows: pl.DataFrame, more: str = "") -> list[tuple[int, str]]:
        first = rows.select("line", "item").bottom_k(self.problems.max_examples, by="line").sort("line").rows()
        return [(line, f"item {shown(self.item_ids[item])}{more}") for line, item in first]

    def report(self, chunks: Chunks) -> None:
        """Adds what was found; the ids of users are looked up in the file."""
        if self.num_back > 0.1 * self.num_steps:
            what = (
                "interactions stand after a later one of the same user: the file is not in time order, and is sorted"
            )
            self.problems.add_lines("note", self.path, what, self.num_back)
        else:
            what = (
                "interactions stand after a later one of the same user in a file that is otherwise in time order: "
                "sorted"
            )
            self.problems.add_lines("note", self.path, what, self.num_back, self.back)
        what = "interactions at the very time of another one of the same user: these keep the order of the file"
        self.problems.add_lines("note", self.path, what, self.num_tied)
        if self.short:
            is_wanted = pl.col("line").is_in([line for line, _ in self.short])
            found = (chunk.filter(is_wanted).select("line", "user_id") for chunk in chunks())
            users = dict(pl.concat(found).rows())
            lines = [(line, f"user {shown(users[line])} has {count}") for line, count in self.short]
            what = (
                f"users with fewer than {self.min_actions} interactions with known items: dropped, unless min_actions "
                "is lower"
            )
            self.problems.add_lines("warning", self.path, what, self.num_short, lines)
