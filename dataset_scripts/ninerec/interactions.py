"""Read and check interactions in NineRec's layout: `_pair.csv` and `_behaviour.tsv` files to sequences.

A file is read in chunks, and never held as a whole: users become hashes and items rows of the items table, which go to
a file on disk; sequences are then made of a part of the users at a time. Errors and warnings as in `reader.py`.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from modeling_transrec.sequences import Sequences, filter_actions, find_repeated, keep_last, sort_actions

from .reader import as_strings, header_roles, warn
from .text_files import (
    Irregular,
    field_chunks,
    first_row,
    is_quoted,
    parquet_chunks,
    parquet_columns,
    regular_chunks,
)


logger = logging.getLogger(__name__)

PAIR_COLUMNS = ("user_id", "item_id", "timestamp")
PARQUET_ROWS = 1 << 21  # rows read at a time
ROWS_PER_PART = 1 << 24  # actions that are sorted at a time
DISTINCT_BITS = 24  # size of the bitmap that counts distinct values
SEVERAL_ITEMS = ("item_ids", "items", "video_ids")  # headers of a column that holds all items of a user
DATE_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M%#z", "%Y-%m-%d")
TIMES = "a whole number such as 1620390600, or a date such as 2021-05-07 12:30:00 or 2021-05-07T12:30:00+08:00"

# Makes a new iterator over the rows of a file, in its order: `user_id`, `item_id` and, where known, `timestamp`.
Chunks = Callable[[], Iterator[pl.DataFrame]]


def read_sequences(
    path: Path,
    item_ids: pl.Series,
    min_actions: int = 5,
    max_actions: int | None = None,
    min_item_actions: int = 1,
    pair_columns: tuple[str, ...] | None = None,
    columns: dict[str, str] | None = None,
    scratch_dir: str | Path | None = None,
) -> Sequences:
    """The sequences of a file of interactions, users in order of first appearance.

    Args:
        path: CSV, TSV or Parquet with a row an action, or TSV with a line a user (user, TAB, items).
        item_ids: the distinct ids of the items table; actions on other items are dropped.
        min_actions, min_item_actions: see [`filter_actions`].
        max_actions: the last actions of a user that are kept; by default all.
        pair_columns: what the columns of a file without header are; detected where not given.
        columns: what the columns of the header are called, where it is not by one of the usual names.
        scratch_dir: folder for a temporary file of 32 bytes an action, and for the columns of a file hard to parse.
    """
    if scratch_dir is not None:
        Path(scratch_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_dir, prefix="actions-") as name:
        folder = Path(name)
        build = partial(_build, path, folder, item_ids, min_actions, max_actions, min_item_actions)
        if is_behaviour(path, pair_columns, columns):
            return build(behaviour_chunks(path, columns))
        roles, header_line = pair_roles(path, pair_columns, columns)
        has_dates = time_is_date(path, roles, header_line)
        if path.suffix == ".parquet":
            return build(partial(_parquet_pairs, path, roles, has_dates), has_dates)
        try:
            chunks = partial(_regular_pairs, path, roles, header_line, has_dates, is_quoted(path))
            return build(_with_roles(path, chunks, roles, item_ids), has_dates)
        except Irregular as reason:
            logger.info("%s is read line by line: %s", path, reason)
        chunks = _kept(partial(_read_columns, path, roles, header_line, has_dates), folder / "rows.arrow")
        return build(_with_roles(path, chunks, roles, item_ids), has_dates)


def is_behaviour(
    path: Path, pair_columns: tuple[str, ...] | None = None, columns: dict[str, str] | None = None
) -> bool:
    """Whether a file has a line a user, not a row an action.

    That is a TSV file named so, or one of two columns the second of which holds several items: by its header, or,
    where there is none, by spaces.
    """
    if path.suffix != ".tsv" or path.stem.endswith("_behaviour"):
        return path.suffix == ".tsv"
    first = first_row(path)[1]
    if len(first) != 2 or pair_columns is not None:
        return False
    if set(header_roles(first, columns)) == {"user_id", "item_id"}:
        return first[1].strip().lower() in SEVERAL_ITEMS and "item_id" not in (columns or {})
    return " " in first[1].strip()


# Rows of the files


def time_is_date(path: Path, columns: list[str | None], header_line: int | None) -> bool:
    """Whether the first time is a date, not a number; all others must be of the same form."""
    if "timestamp" not in columns:
        return False
    place = columns.index("timestamp")
    if path.suffix == ".parquet":
        name = parquet_columns(path)[place]
        first = next((chunk[name].drop_nulls() for chunk in parquet_chunks(path, [name], 1000)), pl.Series([]))
        if isinstance(first.dtype, pl.Datetime | pl.Date):
            return True
        first = first.head(1).cast(pl.String) if isinstance(first.dtype, pl.Categorical | pl.Enum) else first.head(1)
    else:
        row = first_row(path, after=header_line)[1]
        first = pl.Series(row[place : place + 1], dtype=pl.String)
    return first.dtype == pl.String and len(first) > 0 and to_microseconds(first).null_count() == 0


def _whole_numbers(values: pl.Series) -> pl.Series:
    """Whole numbers, also with zeros behind the point; null where there is none."""
    return values.str.strip_chars().str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)


def to_microseconds(dates: pl.Series) -> pl.Series:
    """Dates and times of ISO 8601 to microseconds since 1970; null where there is none.

    Without a zone they are taken as UTC.

    >>> to_microseconds(pl.Series(["2021-05-07 12:30:00.25", "2021-05-07T20:30+08:00", "7 May"])).to_list()
    [1620390600250000, 1620390600000000, None]
    """
    text = dates.str.strip_chars().str.replace(r" ?(Z|UTC)$", "+00:00").str.replace("T", " ", literal=True)
    found = pl.Series([None] * len(text), dtype=pl.Int64)
    for date_format in DATE_FORMATS:  # nearly always all are of one
        parsed = text.str.to_datetime(date_format, strict=False, time_unit="us").dt.epoch("us")
        found = parsed.zip_with(found.is_null(), found)
        if found.null_count() == 0:
            break
    return found


def to_numbers(times: pl.Series, has_dates: bool) -> pl.Series:
    """Times as they are sorted: microseconds of dates, or the whole numbers of the file; null where there is none."""
    return to_microseconds(times) if has_dates else _whole_numbers(times)


def wrong_time(time: object, has_dates: bool) -> str:
    """What to say of a time that is of neither form, or not of that of the first row."""
    form = "date, unlike that of the first row" if has_dates else "whole number"
    return f"timestamp {time!r} is no {form}; write all times in one form: {TIMES}"


def _regular_pairs(
    path: Path, columns: list[str | None], header_line: int | None, has_dates: bool, quoted: bool
) -> Iterator[pl.DataFrame]:
    """The rows of a pair file that is plain enough for a fast reader."""
    for chunk in regular_chunks(path, columns, header_line or 0, quoted):
        chunk = chunk.with_columns(pl.col(pl.String).str.strip_chars())
        if any(chunk.select((pl.col(pl.String) == "").any()).row(0)):
            raise Irregular("it has empty ids")
        if "timestamp" in chunk.columns:
            times = to_numbers(chunk["timestamp"], has_dates)
            if times.null_count():
                raise Irregular("it has timestamps of another form")
            chunk = chunk.with_columns(times.alias("timestamp"))
        yield chunk


def _kept(chunks: Chunks, file: Path) -> Chunks:
    """The same chunks, which are read only once and then come from a file."""
    with pa.OSFile(str(file), "wb") as sink:
        writer = None
        for chunk in chunks():
            table = chunk.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table)
        writer.close()

    def read() -> Iterator[pl.DataFrame]:
        with pa.OSFile(str(file), "rb") as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield pl.from_arrow(reader.get_batch(number))

    return read


def _parquet_pairs(path: Path, columns: list[str | None], has_dates: bool) -> Iterator[pl.DataFrame]:
    """The rows of a Parquet file."""
    names = {name: role for name, role in zip(parquet_columns(path), columns, strict=True) if role is not None}
    row = 1
    for frame in parquet_chunks(path, list(names), PARQUET_ROWS):
        chunk = {}
        for name, role in names.items():
            if role == "timestamp":
                chunk[role] = _parquet_times(path, name, frame[name], has_dates, row)
            else:
                chunk[role] = as_strings(path, name, frame[name]).str.strip_chars()
            missing = frame[name].is_null() | (chunk[role] == "" if role != "timestamp" else False)
            if missing.any():
                raise ValueError(
                    f"{path}, row {row + missing.arg_true()[0]}: empty {name}; fill it in or remove the row"
                )
        row += frame.height
        yield pl.DataFrame(chunk)
    if row == 1:
        raise ValueError(f"{path}: the file has no rows")


def _parquet_times(path: Path, name: str, values: pl.Series, has_dates: bool, row: int) -> pl.Series:
    """Times as [`to_numbers`] has them; `row` is the number of the first."""
    if isinstance(values.dtype, pl.Datetime | pl.Date):
        return values.dt.epoch("us")
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        times = to_numbers(values, has_dates)
        wrong = times.is_null() & values.is_not_null()
    elif values.dtype.is_numeric():
        times = values.cast(pl.Int64, strict=False)
        wrong = (times.is_null() & values.is_not_null()) | (times != values).fill_null(False)
    else:
        raise ValueError(f"{path}: column {name!r} is of type {values.dtype}; write all times in one form: {TIMES}")
    if wrong.any():
        first = wrong.arg_true()[0]
        raise ValueError(f"{path}, row {row + first}: {wrong_time(values[first], has_dates)}")
    return times


def _read_columns(
    path: Path, columns: list[str | None], header_line: int | None, has_dates: bool = False, literal: bool = False
) -> Iterator[pl.DataFrame]:
    """All rows, strings but for `timestamp`; every field must be there and not be empty."""
    index = {column: place for place, column in enumerate(columns) if column is not None}
    found = False
    for chunk in field_chunks(path, literal):
        rows = chunk.filter(pl.col("line") != header_line) if header_line else chunk
        wrong = rows.filter(pl.col("fields").list.len() != len(columns))
        if wrong.height:
            line, fields = wrong.row(0)
            raise ValueError(
                f"{path}:{line}: {len(fields)} columns where {len(columns)} are expected "
                f"({', '.join(column or 'not used' for column in columns)}): {fields[:4]}; correct or remove this line"
            )
        rows = rows.select(
            "line", *(pl.col("fields").list.get(place).str.strip_chars().alias(name) for name, place in index.items())
        )
        for column in index:
            empty = rows.filter(pl.col(column) == "")
            if empty.height:
                raise ValueError(f"{path}:{empty['line'][0]}: empty {column}; fill it in or remove this line")
        found = found or rows.height > 0
        yield _parse_timestamps(path, rows, has_dates).drop("line")
    if not found:
        raise ValueError(f"{path}: the file has a header but no rows")


def _parse_timestamps(path: Path, rows: pl.DataFrame, has_dates: bool) -> pl.DataFrame:
    if "timestamp" not in rows.columns:
        return rows
    times = to_numbers(rows["timestamp"], has_dates)
    wrong = times.is_null()
    if wrong.any():
        line, text = rows.filter(wrong).select("line", "timestamp").row(0)
        hint = " (if this line is a header: name its columns user_id,item_id,timestamp)" if line == 1 else ""
        raise ValueError(f"{path}:{line}: {wrong_time(text, has_dates)}{hint}")
    return rows.with_columns(times.alias("timestamp"))


def behaviour_header(path: Path, columns: dict[str, str] | None = None) -> int | None:
    """The line of a behaviour file's header, if any."""
    line, first = first_row(path, literal=True)
    return line if header_roles(first, columns) == ["user_id", "item_id"] else None


def behaviour_chunks(path: Path, columns: dict[str, str] | None = None) -> Chunks:
    """The actions of a behaviour file; equal lines count once."""
    header_line = behaviour_header(path, columns)
    lines = partial(_read_columns, path, ["user_id", "item_ids"], header_line, literal=True)
    hashes = pl.concat(
        chunk.select(
            *(pl.col("user_id").hash(seed).alias(f"user {seed}") for seed in (0, 1)),
            *(pl.struct("user_id", "item_ids").hash(seed).alias(f"line {seed}") for seed in (0, 1)),
        )
        for chunk in lines()
    )
    is_first = hashes.select(pl.struct("line 0", "line 1").is_first_distinct()).to_series()
    again = is_first & ~hashes.select(pl.struct("user 0", "user 1").is_first_distinct()).to_series()

    def user_at(wanted: pl.Series) -> str | None:
        return _values_at(lines, "user_id", wanted.arg_true().head(1).to_numpy())[0].as_py() if wanted.any() else None

    warn((~is_first).sum(), f"lines of {path.name} repeat an earlier line: dropped", user_at(~is_first))
    what = f"further lines of {path.name} are of an earlier user: appended to that user's actions"
    warn(again.sum(), what, user_at(again))

    def chunks() -> Iterator[pl.DataFrame]:
        row = 0
        items = pl.col("item_ids").str.replace_all(r" +", " ").str.split(" ")
        for chunk in lines():
            kept = chunk.filter(is_first.slice(row, chunk.height))
            row += chunk.height
            yield kept.select("user_id", items.alias("item_id")).explode("item_id")

    return chunks


# Columns of a pair file


def are_pair_columns(columns: Iterable[str | None]) -> bool:
    """Whether there are user and item once each and timestamp once, or nothing else.

    Without that rule an unknown name for the time would silently mean that the file has none.
    """
    columns = list(columns)
    known = sorted(column for column in columns if column in PAIR_COLUMNS)
    return known == sorted(PAIR_COLUMNS) or (known == sorted(PAIR_COLUMNS[:2]) and len(columns) == 2)


def pair_roles(
    path: Path, pair_columns: tuple[str, ...] | None, columns: dict[str, str] | None = None
) -> tuple[list[str | None], int | None]:
    """What each column of a pair file is, None where it is not used, and the line of the header, if any."""
    line, first = first_row(path)
    named = [role if role in PAIR_COLUMNS else None for role in header_roles(first, columns)]
    header = {"user_id", "item_id"} <= set(named)
    if path.suffix == ".parquet" and not header:
        raise ValueError(
            f"{path}: its columns {first} name no user or no item; say what they are called: "
            'columns={"user_id": …, "item_id": …, "timestamp": …}'
        )
    for role in PAIR_COLUMNS if header else ():
        twice = [name for name, other in zip(first, named, strict=True) if other == role]
        if len(twice) > 1:
            raise ValueError(
                f"{path}:{line}: {' and '.join(map(repr, twice))} are both taken for {role}; say which column it is: "
                f'columns={{"{role}": {json.dumps(twice[-1])}}}'
            )
    if header and not are_pair_columns(named):
        raise ValueError(
            f"{path}:{line}: the header {first} does not name user, item and timestamp once each; name its columns "
            f"{','.join(PAIR_COLUMNS)} in the order of the file, or say what they are called: "
            'columns={"timestamp": …}'
        )
    if pair_columns is not None:
        columns = [column if column in PAIR_COLUMNS else None for column in pair_columns]
        if len(columns) != len(first) or (header and columns != named):
            raise ValueError(f"{path}:{line}: pair_columns={pair_columns} does not fit the file's columns {first}")
    elif header:
        columns = named
    elif len(first) in (2, 3):
        columns = ["column 1", "column 2", "timestamp"][: len(first)]
    else:
        raise ValueError(
            f"{path}:{line}: {len(first)} columns where 2 or 3 are expected (user, item, timestamp), separated by "
            f"commas; if there are more, name all in a header line such as: {','.join(PAIR_COLUMNS)},rating"
        )
    return columns, line if header else None


def _with_roles(path: Path, chunks: Chunks, columns: list[str | None], item_ids: pl.Series) -> Chunks:
    """The same chunks, with the columns of users and items named."""
    if "user_id" in columns:
        return chunks
    user, item = _detect_order(path, chunks, item_ids)

    def renamed() -> Iterator[pl.DataFrame]:
        return (chunk.rename({user: "user_id", item: "item_id"}) for chunk in chunks())

    return renamed


def _detect_order(path: Path, chunks: Chunks, item_ids: pl.Series) -> tuple[str, str]:
    """Which column holds users and which items, by the overlap of distinct values with the items table.

    Containment does not suffice: where both ids are integers from 1, all users are item ids, too. Then only the usual
    order, user before item, is believed, and only if the items are nearly all of the table, and the users are not.
    """
    names = ("column 1", "column 2")
    table = _arrow(item_ids)
    counters = {name: DistinctCounter() for name in names}
    in_table = {name: np.zeros(len(table), dtype=bool) for name in names}
    example = None
    for chunk in chunks():
        example = example or chunk.row(0)[:2]
        for name in names:
            counters[name].add(chunk[name])
            in_table[name][pc.index_in(_arrow(chunk[name]), value_set=table).drop_null()] = True
    jaccard, contained = {}, {}
    for name in names:
        common, distinct = int(in_table[name].sum()), counters[name].estimate()
        jaccard[name] = common / (distinct + len(table) - common)
        contained[name] = common / distinct
    user, item = sorted(jaccard, key=jaccard.get)
    if jaccard[item] == 0:
        raise ValueError(
            f"{path}: no user or item id (e.g. {example}) is in the items table (e.g. {item_ids[0]!r}); "
            "are these files of the same data set?"
        )
    overlaps = ", ".join(f"{column} {value:.3f}" for column, value in jaccard.items())
    both_look_like_items = min(contained.values()) >= 0.5
    unusual = item != "column 2" or jaccard[item] < 0.9
    if (both_look_like_items and unusual) or jaccard[item] < 1.25 * jaccard[user]:
        raise ValueError(
            f"{path}: cannot tell users from items: overlap with the items table is {overlaps}. "
            "Add a header line such as user_id,item_id,timestamp in the order of the file, or give the option "
            'pair_columns=("user_id", "item_id", "timestamp"), in a script --pair_columns user_id item_id timestamp '
            "(without timestamp where there is none)."
        )
    logger.info("%s: %s holds items, %s users (overlap with the items table: %s)", path.name, item, user, overlaps)
    return user, item


class DistinctCounter:
    """Counts distinct values in fixed memory, to a fraction of a per cent (linear counting, Whang et al., TODS 1990).

    >>> counter = DistinctCounter()
    >>> counter.add(pl.Series(["a", "b"]))
    >>> counter.add(pl.Series(["b", "c"]))
    >>> counter.estimate()
    3
    """

    def __init__(self):
        self.seen = np.zeros(1 << DISTINCT_BITS, dtype=bool)

    def add(self, values: pl.Series) -> None:
        self.seen[values.hash().to_numpy() >> np.uint64(64 - DISTINCT_BITS)] = True

    def estimate(self) -> int:
        num_seen = min(int(self.seen.sum()), len(self.seen) - 1)
        return round(-len(self.seen) * np.log1p(-num_seen / len(self.seen)))


# Rows to sequences


def _build(
    path: Path,
    folder: Path,
    item_ids: pl.Series,
    min_actions: int,
    max_actions: int | None,
    min_item_actions: int,
    chunks: Chunks,
    has_dates: bool = False,
) -> Sequences:
    """`folder` is for a temporary file. Dates are sorted as microseconds; in the result they are seconds."""
    table = _arrow(item_ids)
    limits = (min_actions, max_actions, min_item_actions)
    for seed in range(4):
        try:
            report = _Report()
            num_actions = _write_coded(path, chunks, table, folder / "actions.arrow", seed)
            parts = _read_parts(folder / "actions.arrow", num_actions)
            sequences = _merge([_sequences_of(part, table, *limits, report) for part in parts])
            break
        except _Collision:
            logger.info("%s: two users have the same hash; their ids are hashed anew", path.name)
    else:
        raise RuntimeError(f"{path}: two user ids have the same hash, whatever the seed")
    if min_item_actions > 1:
        before = sequences
        sequences = filter_actions(sequences, min_actions, min_item_actions)
        gone = len(before.items) - len(sequences.items)
        warn(
            gone,
            f"actions went with items of fewer than {min_item_actions} and users of fewer than {min_actions} actions",
            path.name,
        )
        if max_actions is not None:
            sequences = keep_last(sequences, max_actions)
    if len(sequences) == 0:
        raise ValueError(
            f"{path}: none of {report.num_users:,} users has {min_actions} actions on known items; "
            "lower min_actions or check the files"
        )
    if has_dates:
        sequences = replace(sequences, timestamps=sequences.timestamps // 10**6)
    named = _values_at(chunks, "user_id", sequences.user_ids.to_numpy())
    if report.num_repeated:
        row, item, timestamp = report.repeated
        timestamp = timestamp // 10**6 if has_dates else timestamp
        example = (_values_at(chunks, "user_id", np.array([row]))[0].as_py(), table[item].as_py(), timestamp)
        what = f"rows of {path.name} repeat user, item and timestamp of an earlier row: dropped"
        warn(report.num_repeated, what, example)
    if report.num_short:
        example = _values_at(chunks, "user_id", np.array([report.short]))[0].as_py()
        warn(report.num_short, f"users have fewer than {min_actions} actions: dropped", example)
    return Sequences(named, sequences.offsets, sequences.items, sequences.timestamps, table.cast(pa.string()))


class _Collision(Exception):
    """Two users have one hash."""


def _write_coded(path: Path, chunks: Chunks, table: pa.Array, file: Path, seed: int) -> int:
    """Writes the actions on known items as numbers, and returns how many there are.

    `user` and `check` are hashes of the user's id, `item` is a row of the items table, `row` a row of the file.
    """
    num_known = row = 0
    unknown_items, num_unknown, example, writer = set(), 0, None, None
    with pa.OSFile(str(file), "wb") as sink:
        for chunk in chunks():
            item = pc.index_in(_arrow(chunk["item_id"]), value_set=table)
            coded = chunk.select(
                pl.col("user_id").hash(seed).alias("user"),
                (pl.col("user_id").hash(seed + 1000) // 2**32).cast(pl.UInt32).alias("check"),
                pl.Series("item", pl.from_arrow(item), dtype=pl.Int32),
                pl.int_range(row, row + chunk.height, dtype=pl.Int64).alias("row"),
                *(["timestamp"] if "timestamp" in chunk.columns else []),
            )
            row += chunk.height
            if item.null_count:
                missing = chunk["item_id"].filter(coded["item"].is_null())
                example = (missing[0], chunk["item_id"][0]) if example is None else example
                unknown_items.update(missing.unique())
                num_unknown += missing.len()
                coded = coded.filter(pl.col("item").is_not_null())
            batch = coded.to_arrow()
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_table(batch)
            num_known += coded.height
        if writer is not None:
            writer.close()
    if num_known == 0:
        raise ValueError(
            f"{path}: none of its item ids (e.g. {example[1]!r}) is in the items table "
            f"(e.g. {table[0].as_py()!r}); are these files of the same data set?"
        )
    if num_unknown:
        what = f"actions in {path.name} are on {len(unknown_items):,} items that are not in the items table: dropped"
        warn(num_unknown, what, example[0])
    return num_known


@dataclass
class _Report:
    """What was left out on the way, with the first example; users are named by their first row in the file."""

    num_users: int = 0
    num_short: int = 0
    short: int | None = None
    num_repeated: int = 0
    repeated: tuple[int, int, int] | None = None  # user, item, timestamp


def _read_parts(file: Path, num_actions: int) -> Iterator[pl.DataFrame]:
    """The actions of a part of the users at a time, those whose hashes lie in one range."""
    num_parts = -(-num_actions // ROWS_PER_PART)
    bounds = [2**64 * part // num_parts for part in range(num_parts + 1)]
    with pa.OSFile(str(file), "rb") as source:
        reader = pa.ipc.open_file(source)
        for low, high in zip(bounds, bounds[1:], strict=False):
            is_here = pl.col("user").is_between(pl.lit(low, pl.UInt64), pl.lit(high - 1, pl.UInt64))
            batches = (pl.from_arrow(reader.get_batch(number)) for number in range(reader.num_record_batches))
            yield pl.concat(batch.filter(is_here) for batch in batches)


def _sequences_of(
    actions: pl.DataFrame,
    table: pa.Array,
    min_actions: int,
    max_actions: int | None,
    min_item_actions: int,
    report: _Report,
) -> Sequences:
    """Sequences of some users, whose `user_ids` are the first rows of each in the file, in this order."""
    timed = "timestamp" in actions.columns
    first_row = pl.col("row").min().over("user").alias("user")
    ordered = sort_actions(actions.select(first_row, "check", "item", *(["timestamp"] if timed else [])))
    user, check = ordered["user"].to_numpy(), ordered["check"].to_numpy()
    if ((user[1:] == user[:-1]) & (check[1:] != check[:-1])).any():
        raise _Collision
    if timed:
        repeated = find_repeated(ordered)
        if repeated.any():
            report.num_repeated += int(repeated.sum())
            example = ordered.select("user", "item", "timestamp").row(int(np.argmax(repeated)))
            report.repeated = min(report.repeated or example, example)
            ordered = ordered.filter(~repeated)
            user = ordered["user"].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]])) if len(user) else np.zeros(0, np.int64)
    sequences = Sequences(
        pa.array(user[starts]),
        np.concatenate([starts, [len(user)]]),
        ordered["item"].to_numpy(),
        ordered["timestamp"].to_numpy() if timed else None,
        table,
    )
    report.num_users += len(sequences)
    if min_item_actions > 1:  # which only all users together tell
        return sequences
    short = sequences.lengths < min_actions
    if short.any():
        report.num_short += int(short.sum())
        example = int(user[starts][np.argmax(short)])
        report.short = example if report.short is None else min(report.short, example)
    sequences = filter_actions(sequences, min_actions)
    return sequences if max_actions is None else keep_last(sequences, max_actions)


def _merge(parts: list[Sequences]) -> Sequences:
    """Sequences of parts of the users as one, in order of their first rows; `parts` is emptied on the way."""
    if len(parts) == 1:
        return parts.pop()
    user_ids = pa.concat_arrays([part.user_ids for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    order = np.argsort(user_ids.to_numpy())
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    starts = np.empty_like(lengths)
    starts[order] = offsets[:-1]
    items, timestamps, table, done = np.empty(offsets[-1], np.int32), None, parts[0].item_ids, 0
    if parts[0].timestamps is not None:
        timestamps = np.empty(offsets[-1], np.int64)
    while parts:
        part = parts.pop(0)
        shift = starts[done : done + len(part)] - part.offsets[:-1]
        places = np.repeat(shift, part.lengths) + np.arange(len(part.items))
        items[places] = part.items
        if timestamps is not None:
            timestamps[places] = part.timestamps
        done += len(part)
    return Sequences(user_ids.take(pa.array(order)), offsets, items, timestamps, table)


def _values_at(chunks: Chunks, column: str, rows: np.ndarray) -> pa.Array:
    """The strings of a column at some rows of a file, which are given in ascending order."""
    found, row = [], 0
    for chunk in chunks():
        low, high = np.searchsorted(rows, [row, row + chunk.height])
        found.append(_arrow(chunk[column].gather(rows[low:high] - row)))
        row += chunk.height
        if high == len(rows):
            break
    return pa.concat_arrays(found)


def _arrow(strings: pl.Series) -> pa.Array:
    """Strings as an Arrow array whose offsets have 64 bits."""
    array = strings.to_arrow()
    return (array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array).cast(pa.large_string())
