"""The interactions in a file, chunk by chunk, as `user_id`, `item_id` and, where known, `timestamp`.

Where options ask for them, there are `rating` and `event_type`, too.

A file has a row an interaction, or a line a user. While problems are collected, chunks have a column `line` as well.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa

from .forms import LINES_A_USER, dialect_of, form_of
from .json_files import as_field
from .lists import is_list, read_list
from .numbers import (
    DATE,
    SAMPLE_ROWS,
    TIMES,
    WHOLE,
    TimeForm,
    decimal_form,
    form_of_format,
    form_of_times,
    to_ratings,
    wrong_rating,
)
from .options import EVERYTHING, TableOptions
from .parquet_files import as_strings, parquet_chunks, parquet_columns, parquet_lists
from .problems import RAISE, Problems, shown
from .text_files import (
    Irregular,
    advice_on_quotes,
    check_encoding,
    field_chunks,
    first_row,
    is_quoted,
    regular_chunks,
    strip,
    text_rows,
)


PARQUET_ROWS = 1 << 21  # rows read at a time
ROW = "row in the file"
HISTORIES = 1 << 14  # rows read at a time where each has lists
NUMBERS = ("timestamp", "rating")
OBJECT = r'^\{("|\})'  # how JSON begins one, and no id

# Makes a new iterator over the rows of a file, in its order: `user_id`, `item_id` and, where known, `timestamp`.
Chunks = Callable[[], Iterator[pl.DataFrame]]


def list_columns(
    path: Path,
    columns: list[str | None],
    header_line: int | None,
    options: TableOptions = EVERYTHING,
    on_problem: Problems = RAISE,
) -> list[str]:
    """Returns the columns whose first value is a list: each row then has a history, not one interaction."""
    if form_of(path).kind == "parquet":
        lists = parquet_lists(path)
        return [role for name, role in zip(parquet_columns(path), columns, strict=True) if role and name in lists]
    row = first_row(path, options, after=header_line, on_problem=on_problem)[1]
    fields = zip(columns, map(as_field, row), strict=False)
    return [role for role, field in fields if role is not None and is_list(strip(field))]


def find_time_form(
    path: Path,
    columns: list[str | None],
    header_line: int | None,
    options: TableOptions = EVERYTHING,
    on_problem: Problems = RAISE,
) -> TimeForm:
    """Returns how the times of a file are written, by the first of them; all others must be of the same form."""
    if "timestamp" not in columns:
        return WHOLE
    place = columns.index("timestamp")
    if form_of(path).kind == "parquet":
        return _form_of_column(path, parquet_columns(path)[place], options)
    if options.time_format is not None:
        return form_of_format(options.time_format)
    first_row(path, options, after=header_line, on_problem=on_problem)
    rows = text_rows(path, dialect_of(path, options), Problems() if on_problem.collects else RAISE)
    values = (strip(as_field(row[place])) for line, row in rows if line != header_line and place < len(row))
    fields = (one for value in values for one in ((read_list(value) or []) if is_list(value) else [value]))
    chunks = iter(lambda: list(islice(fields, SAMPLE_ROWS)), [])
    return form_of_times(path, (pl.Series(chunk, dtype=pl.String) for chunk in chunks))


def _form_of_column(path: Path, name: str, options: TableOptions) -> TimeForm:
    chunks = (chunk[name] for chunk in parquet_chunks(path, [name], SAMPLE_ROWS))
    if name in parquet_lists(path):
        chunks = (chunk.explode() for chunk in chunks)
    first = next(chunks, pl.Series([]))
    if isinstance(first.dtype, pl.Datetime | pl.Date):
        return DATE
    if options.time_format is not None:
        return form_of_format(options.time_format)
    if first.dtype.is_float() or isinstance(first.dtype, pl.Decimal):
        return decimal_form(path, first.cast(pl.Float64))
    if not isinstance(first.dtype, pl.String | pl.Categorical | pl.Enum):
        return WHOLE
    return form_of_times(path, (chunk.cast(pl.String) for chunk in itertools.chain([first], chunks)))


def regular_pairs(
    path: Path, options: TableOptions, columns: list[str | None], header_line: int | None, times: TimeForm, file: Path
) -> Chunks:
    """Returns the rows of a pair file that is plain enough for a fast reader; after the first reading, from `file`.

    Raises:
        Irregular: here or while rows are read, if it is not.
    """
    if list_columns(path, columns, header_line, options):
        raise Irregular("its rows have lists")
    dialect = dialect_of(path, options)
    rows = partial(regular_chunks, path, dialect.separator, columns, header_line or 0, quoted=is_quoted(path, dialect))
    return _Kept(lambda: (_regular_numbers(chunk, times) for chunk in rows()), file)


def _regular_numbers(chunk: pl.DataFrame, times: TimeForm) -> pl.DataFrame:
    if any(chunk.select((pl.col(pl.String) == "").any()).row(0)):
        raise Irregular("it has empty ids")
    for role in [name for name in NUMBERS if name in chunk.columns]:
        numbers = _to_numbers(role, chunk[role], times)
        if numbers.null_count():
            raise Irregular(f"it has a {role} of another form")
        chunk = chunk.with_columns(numbers.alias(role))
    return chunk


def _to_numbers(role: str, values: pl.Series, times: TimeForm) -> pl.Series:
    """Returns strings as ratings or times; null where there is none."""
    return to_ratings(values) if role == "rating" else times.parse(values)


def _wrong_number(role: str, value: object, times: TimeForm) -> str:
    return wrong_rating(value) if role == "rating" else times.wrong(value)


def _what_is_wrong(role: str, times: TimeForm) -> str:
    return "ratings that are no numbers" if role == "rating" else times.wrong_ones


class _Kept:
    """Chunks that are kept in a file while they are read for the first time, and come from it afterwards."""

    def __init__(self, chunks: Chunks, file: Path):
        self.chunks, self.file, self.is_whole = chunks, file, False

    def __call__(self) -> Iterator[pl.DataFrame]:
        return self._read() if self.is_whole else self._keep()

    def _keep(self) -> Iterator[pl.DataFrame]:
        with pa.OSFile(str(self.file), "wb") as sink:
            writer = None
            for chunk in self.chunks():
                table = chunk.to_arrow(compat_level=pl.CompatLevel.oldest())
                writer = writer or pa.ipc.new_file(sink, table.schema)
                writer.write_table(table)
                yield chunk
            if writer is not None:
                writer.close()
                self.is_whole = True

    def _read(self) -> Iterator[pl.DataFrame]:
        with pa.OSFile(str(self.file), "rb") as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield cast(pl.DataFrame, pl.from_arrow(reader.get_batch(number)))


def kept_in_file(path: Path, chunks: Chunks, file: Path) -> Chunks:
    """Returns the same chunks, which are read only once, here, and then come from a file."""
    kept = _Kept(chunks, file)
    deque(kept(), maxlen=0)
    if not kept.is_whole:
        raise ValueError(f"{path}: no row can be read from this file")
    return kept


def parquet_pairs(
    path: Path, columns: list[str | None], times: TimeForm, on_problem: Problems = RAISE
) -> Iterator[pl.DataFrame]:
    """Yields the rows of a Parquet file; while problems are collected, `line` is a row's number."""
    names = {name: role for name, role in zip(parquet_columns(path), columns, strict=True) if role is not None}
    row = 1
    lists = [name for name in names if name in parquet_lists(path)]
    for read in parquet_chunks(path, list(names), HISTORIES if lists else PARQUET_ROWS):
        frame = read.with_columns(pl.int_range(row, row + read.height).alias(ROW))
        if lists:
            frame = _exploded(path, frame, lists, on_problem)
        chunk: dict[str, pl.Series] = {"line": frame[ROW]}
        kept = pl.repeat(True, frame.height, eager=True)
        for name, role in names.items():
            if role in NUMBERS:
                chunk[role] = _parquet_numbers(path, role, frame[name], times)
                wrong = kept & chunk[role].is_null() & ~_is_missing(frame[name])
                if wrong.any():
                    value = frame[name].filter(wrong)[0]
                    what, message = _what_is_wrong(role, times), _wrong_number(role, value, times)
                    _report_rows(path, what, chunk["line"], frame[name], wrong, message, on_problem)
                    kept &= ~wrong
            else:
                chunk[role] = as_strings(path, name, frame[name]).str.strip_chars()
            missing = kept & (chunk[role].is_null() | (chunk[role].cast(pl.String) == "").fill_null(False))
            if missing.any():
                what, message = (
                    f"rows with an empty {role}; fill it in or remove them",
                    f"empty {name}; fill it in or remove the row",
                )
                _report_rows(path, what, chunk["line"], frame[name], missing, message, on_problem)
                kept &= ~missing
        row += read.height
        yield pl.DataFrame(chunk).filter(kept).drop([] if on_problem.collects else "line")
    if row == 1:
        raise ValueError(f"{path}: the file has no rows")


def _is_missing(values: pl.Series) -> pl.Series:
    return values.is_nan().fill_null(True) if values.dtype.is_float() else values.is_null()


def _report_rows(
    path: Path, what: str, lines: pl.Series, values: pl.Series, wrong: pl.Series, message: str, on_problem: Problems
) -> None:
    """Collects the rows of a Parquet file that are wrong, or raises an error with the number of the first."""
    numbers, found = (
        lines.filter(wrong),
        values.filter(wrong).head(on_problem.max_examples if on_problem.collects else 1),
    )
    if not on_problem.collects:
        raise ValueError(f"{path}, row {numbers[0]}: {message}")
    shown_values = [shown(str(value)) for value in found]
    on_problem.error(path, what, len(numbers), list(zip(numbers, shown_values, strict=False)), message)


def _exploded(path: Path, frame: pl.DataFrame, lists: list[str], on_problem: Problems) -> pl.DataFrame:
    """Returns a row for each element of the lists, which are equally long in a row."""
    lengths = [pl.col(name).list.len() for name in lists]
    wrong = frame.select(pl.any_horizontal(length.ne_missing(lengths[0]) for length in lengths)).to_series()
    if wrong.any():
        counts = frame.filter(wrong).select(lengths).head(1).row(0)
        what = "rows with lists that are not equally long"
        told = " and ".join(f"{count} in {name}" for count, name in zip(counts, lists, strict=True))
        message = f"elements: {told}; lists of one row must be equally long"
        _report_rows(path, what, frame[ROW], frame[lists[0]], wrong, message, on_problem)
    return frame.filter(~wrong & (frame[lists[0]].list.len() > 0).fill_null(False)).explode(lists)


def _parquet_numbers(path: Path, role: str, values: pl.Series, times: TimeForm) -> pl.Series:
    """Returns times or ratings as [`_to_numbers`] has them, null where there are none."""
    if role == "timestamp" and isinstance(values.dtype, pl.Datetime | pl.Date):
        return values.dt.epoch("us")
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        return _to_numbers(role, values, times)
    if not values.dtype.is_numeric():
        form = "numbers" if role == "rating" else f"all times in one form: {TIMES}"
        raise ValueError(f"{path}: column {values.name!r} is of type {values.dtype}; write {form}")
    if role == "rating":
        return values.cast(pl.Float64).fill_nan(None)
    if times.is_date:
        return times.parse(values.cast(pl.String))
    if times.ticks > 1:
        return (values.cast(pl.Float64) * times.ticks).round().cast(pl.Int64, strict=False)
    return values.cast(pl.Int64, strict=False)


def pairs_line_by_line(
    path: Path,
    columns: list[str | None],
    header_line: int | None,
    times: TimeForm = WHOLE,
    options: TableOptions = EVERYTHING,
    literal: bool = False,
    on_problem: Problems = RAISE,
) -> Iterator[pl.DataFrame]:
    """Yields all rows, strings but for `timestamp` and `rating`; every field must be there and not be empty."""
    if on_problem.collects:
        check_encoding(path, on_problem)
    index = {column: number for number, column in enumerate(columns) if column is not None}
    names = ", ".join(column or "not used" for column in columns)
    found = False
    dialect = LINES_A_USER if literal else dialect_of(path, options)
    lists = [] if literal else list_columns(path, columns, header_line, options, on_problem)
    for chunk in field_chunks(path, dialect, on_problem):
        rows = chunk.filter(pl.col("line") != header_line) if header_line else chunk
        found = found or not rows.is_empty()
        wrong = rows.filter(pl.col("fields").list.len() != len(columns))
        if not wrong.is_empty():
            first = wrong["fields"][0].to_list()
            lines = [(line, f"{len(row)} columns: {shown(','.join(row))}") for line, row in _head(wrong, on_problem)]
            message = (
                f"{len(first)} columns where {len(columns)} are expected ({names}): {first[:4]}; "
                f"correct or remove this line{advice_on_quotes(first, dialect)}"
            )
            on_problem.error(
                path, f"rows that have not {len(columns)} columns ({names})", wrong.height, lines, message
            )
            rows = rows.filter(pl.col("fields").list.len() == len(columns))
        rows = rows.select(
            "line",
            *(pl.col("fields").list.get(number).str.strip_chars().alias(name) for name, number in index.items()),
        )
        if lists:
            rows = _with_lists(path, rows, lists, on_problem)
        for name in index if form_of(path).kind == "json" else ():
            objects = rows.filter(pl.col(name).str.contains(OBJECT))
            if not objects.is_empty():
                lines = [(line, shown(text)) for line, text in _head(objects.select("line", name), on_problem)]
                what = f"rows whose {name} is an object; write the value in it that is meant"
                message = f"{name} is an object, {lines[0][1]}; write the value in it that is meant"
                on_problem.error(path, what, objects.height, lines, message)
                rows = rows.filter(~pl.col(name).str.contains(OBJECT))
        for name in index:
            empty = rows.filter(pl.col(name) == "")
            if not empty.is_empty():
                lines = [(line, shown(",".join(row))) for line, *row in _head(empty, on_problem)]
                what = f"rows with an empty {name}; fill it in or remove them"
                message = f"empty {name}; fill it in or remove this line"
                on_problem.error(path, what, empty.height, lines, message)
                rows = rows.filter(pl.col(name) != "")
        for role in [name for name in NUMBERS if name in rows.columns]:
            rows = _parse_numbers(path, role, rows, times, on_problem)
        yield rows if literal or on_problem.collects else rows.drop("line")
    if not found:
        raise ValueError(f"{path}: the file has a header but no rows")


def _with_lists(path: Path, rows: pl.DataFrame, lists: list[str], on_problem: Problems) -> pl.DataFrame:
    """Returns a row for each element of the lists in some columns, which are equally long in a row."""
    for name in lists:
        # An empty field is a history of nothing.
        parsed = pl.Series(name, [read_list(text or "[]") for text in rows[name]], dtype=pl.List(pl.String))
        wrong = rows.filter(parsed.is_null())
        if wrong.height:
            lines = [(line, shown(text)) for line, text in _head(wrong.select("line", name), on_problem)]
            fix = 'write it as ["a", "b"] or [1, 2]; "…" stands for elements that are lost'
            message = f"{lines[0][1]} is no list of ids or numbers, unlike the {name} of the first row; {fix}"
            on_problem.error(path, f"{name} that is no list, unlike the first; {fix}", wrong.height, lines, message)
        rows = rows.with_columns(parsed).filter(parsed.is_not_null())
    lengths = [pl.col(name).list.len() for name in lists]
    wrong = rows.filter(pl.any_horizontal(length != lengths[0] for length in lengths))
    if wrong.height:
        counts = wrong.select("line", *lengths)
        lines = [
            (line, " and ".join(f"{n} in {name}" for n, name in zip(found, lists, strict=True)))
            for line, *found in _head(counts, on_problem)
        ]
        what = "rows with lists that are not equally long"
        on_problem.error(
            path, what, wrong.height, lines, f"elements: {lines[0][1]}; lists of one row must be equally long"
        )
        rows = rows.join(wrong.select("line"), on="line", how="anti", maintain_order="left")
    rows = rows.filter(pl.col(lists[0]).list.len() > 0).explode(lists)
    return rows.with_columns(pl.col(name).str.strip_chars() for name in lists)


def _head(rows: pl.DataFrame, on_problem: Problems) -> list[tuple]:
    return rows.head(max(on_problem.max_examples, 1)).rows()


def _parse_numbers(path: Path, role: str, rows: pl.DataFrame, times: TimeForm, on_problem: Problems) -> pl.DataFrame:
    parsed = rows.with_columns(_to_numbers(role, rows[role], times).alias(role))
    wrong = rows.filter(parsed[role].is_null()).select("line", role)
    if not wrong.is_empty():
        line, text = wrong.row(0)
        message = _wrong_number(role, text, times)
        if line == 1:
            message += " (if this line is a header: name its columns user_id,item_id,timestamp)"
        lines = [(line, shown(text)) for line, text in _head(wrong, on_problem)]
        on_problem.error(path, _what_is_wrong(role, times), wrong.height, lines, message)
        parsed = parsed.drop_nulls(role)
    return parsed


def behaviour_chunks(path: Path, lines: Chunks, on_problem: Problems = RAISE) -> Chunks:
    """Returns the interactions of a behaviour file; equal lines count once.

    Args:
        path: of the file.
        lines: its rows, `user_id` and `item_ids`.
        on_problem: where lines that are dropped or appended are reported.
    """
    hashes = pl.concat(
        chunk.select(
            *(pl.col("user_id").hash(seed).alias(f"user {seed}") for seed in (0, 1)),
            *(pl.struct("user_id", "item_ids").hash(seed).alias(f"line {seed}") for seed in (0, 1)),
        )
        for chunk in lines()
    )
    is_first = hashes.select(pl.struct("line 0", "line 1").is_first_distinct()).to_series()
    again = is_first & ~hashes.select(pl.struct("user 0", "user 1").is_first_distinct()).to_series()
    for wanted, what in (
        (~is_first, "lines equal to an earlier one: dropped"),
        (again, "further, different lines of a user: appended to that user's interactions"),
    ):
        if wanted.any():
            rows = wanted.arg_true().head(max(on_problem.max_examples, 1)).to_numpy()
            users = values_at(lines, "user_id", rows).to_pylist()
            numbers = values_at(lines, "line", rows).to_pylist()
            examples = [(line, f"user {shown(user)}") for line, user in zip(numbers, users, strict=True)]
            on_problem.add_lines("warning", path, what, int(wanted.sum()), examples)

    def chunks() -> Iterator[pl.DataFrame]:
        row = 0
        replaced = ["item_ids"] if on_problem.collects else ["item_ids", "line"]
        items = pl.col("item_ids").str.replace_all(r" +", " ").str.split(" ")
        for chunk in lines():
            kept = chunk.filter(is_first.slice(row, chunk.height))
            row += chunk.height
            is_bracketed = kept["item_ids"].str.contains(r"^\[.*\]$")
            if is_bracketed.any():
                listed = _with_lists(path, kept.filter(is_bracketed), ["item_ids"], on_problem)
                yield listed.rename({"item_ids": "item_id"}).drop(replaced, strict=False)
                kept = kept.filter(~is_bracketed)
            yield kept.select(items.alias("item_id"), pl.exclude(replaced)).explode("item_id")

    return chunks


def values_at(chunks: Chunks, column: str, rows: np.ndarray) -> pa.Array:
    """Returns the values of a column at some rows of a file, which are given in ascending order."""
    found, row = [], 0
    for chunk in chunks():
        low, high = np.searchsorted(rows, [row, row + chunk.height])
        values = chunk[column].gather(rows[low:high] - row)
        found.append(to_arrow(values) if values.dtype == pl.String else pa.array(values.to_numpy()))
        row += chunk.height
        if high == len(rows):
            break
    return pa.concat_arrays(found)


def to_arrow(strings: pl.Series) -> pa.Array:
    """Returns strings as an Arrow array whose offsets have 64 bits."""
    array = strings.to_arrow()
    return (array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array).cast(pa.large_string())
