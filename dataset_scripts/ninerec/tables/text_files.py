"""Text files to rows: fields as strings, with the line on which each row starts; no types, no guessing.

CSV and TSV differ only in the separator: quoting is that of RFC 4180. A behaviour file is `literal`: quotes mean
nothing there. What is no text file, or breaks its format, is a `ValueError` that names FILE:LINE, or is collected and
passed over.
"""

import contextlib
import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from .problems import RAISE, Problems, shown


BLOCK_SIZE = 1 << 24  # bytes read at a time
LONGEST_LINE = 1 << 25  # bytes of a line that is still checked
MAX_BROKEN_ROWS = 100  # after which a file is not checked further
CHUNK_ROWS = 500_000  # rows of a file that needs Python's CSV reader
csv.field_size_limit(1 << 30)  # a text may be long; Python's own limit is 131,072 characters


def check_encoding(path: Path, on_problem: Problems = RAISE) -> bool:
    """Returns whether a file is UTF-8; the lines that are not are errors. Lines without end are reported here, too."""
    is_utf8 = True
    for first, block in _whole_lines(path, on_problem):
        try:
            block.decode()
        except UnicodeDecodeError:
            for number, line in enumerate(block.split(b"\n"), first):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    is_utf8 = False
                    byte = f"byte 0x{line[error.start]:02x}"
                    fix = "convert the file to UTF-8, or unpack it first"
                    text = f"{byte} in {shown(line[:60].decode(errors='replace'))}"
                    what = f"lines that are not UTF-8; {fix}"
                    on_problem.error(path, what, 1, [(number, text)], f"{byte} is not UTF-8; {fix}")
    return is_utf8


def _errors(on_problem: Problems) -> str:
    """Returns how bytes are decoded that are not UTF-8; those that are replaced [`check_encoding`] reports."""
    return "replace" if on_problem.collects else "strict"


def separator(path: Path) -> str:
    """Returns what separates the fields of a file, by its suffix."""
    return "\t" if path.suffix == ".tsv" else ","


def csv_rows(path: Path, on_problem: Problems = RAISE) -> Iterator[tuple[int, list[str]]]:
    """Yields rows of an RFC 4180 file with the line on which each starts; blank lines are left out.

    After a row that breaks quoting, the next line is read.
    """
    line, num_broken = 1, 0
    while num_broken <= MAX_BROKEN_ROWS:
        with open(path, encoding="utf-8-sig", errors=_errors(on_problem), newline="") as file:
            start = line
            deque(islice(file, start - 1), maxlen=0)
            reader = csv.reader(file, strict=True, delimiter=separator(path))
            try:
                for row in reader:
                    if len(row) > 1 or row and row[0].strip():
                        yield line, row
                    line = start + reader.line_num
                return
            except csv.Error as error:
                _report_broken_row(path, line, error, num_broken, on_problem)
            except UnicodeDecodeError:
                check_encoding(path)
        num_broken += 1
        line += 1


def _report_broken_row(path: Path, line: int, error: csv.Error, num_broken: int, on_problem: Problems) -> None:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        text = shown(next(islice(file, line - 1, None)))
    if num_broken == MAX_BROKEN_ROWS:
        what = f"more than {MAX_BROKEN_ROWS} broken rows; the file is not checked from there on"
        on_problem.add_lines("error", path, what, 1, [(line, text)])
        return
    fix = 'put fields with commas, quotes or newlines in double quotes and double the quotes inside ("")'
    message = f"the row that starts here breaks CSV quoting ({error}); {fix}"
    on_problem.error(path, f"rows that break CSV quoting; {fix}", 1, [(line, f"{text} ({error})")], message)


def _literal_rows(path: Path, on_problem: Problems) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig", errors=_errors(on_problem)) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n").split("\t")
        except UnicodeDecodeError:
            check_encoding(path)


@contextlib.contextmanager
def _whole_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole Parquet file, copy it again: {error}") from None


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a Parquet file."""
    with _whole_parquet(path):
        return pyarrow.parquet.read_schema(path).names


def parquet_chunks(path: Path, columns: list[str], num_rows: int) -> Iterator[pl.DataFrame]:
    """Yields the rows of a Parquet file, `num_rows` at a time."""
    with _whole_parquet(path):
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=num_rows, columns=columns)
    while True:
        with _whole_parquet(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield cast(pl.DataFrame, pl.from_arrow(batch))


def as_strings(path: Path, name: str, values: pl.Series) -> pl.Series:
    """Returns ids or texts of a Parquet column as strings; numbers with a fraction are no ids.

    A column without any value is of no type, or, as pandas writes it, of numbers that are none.
    """
    if values.is_null().all() or (values.dtype.is_float() and values.is_nan().fill_null(True).all()):
        return pl.Series(values.name, [None] * len(values), dtype=pl.String)
    if values.dtype.is_integer() or isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    raise ValueError(f"{path}: column {name!r} is of type {values.dtype}; ids and texts must be strings or integers")


def first_row(
    path: Path, after: int | None = None, literal: bool = False, on_problem: Problems = RAISE
) -> tuple[int, list[str]]:
    """Returns line number and fields of the first row, or of the first after the header's line.

    Of a Parquet file it returns the names of the columns. While problems are collected, they are passed over here:
    they are reported when the file is read.
    """
    if path.suffix == ".parquet":
        return 0, parquet_columns(path)
    passed_over = Problems() if on_problem.collects else RAISE
    for line, row in _literal_rows(path, passed_over) if literal else csv_rows(path, passed_over):
        if after is None or line > after:
            return line, row
    if after is not None:
        raise ValueError(f"{path}: the file has a header but no rows")
    raise ValueError(f"{path}: the file is empty; unpack or copy it again")


def _line_chunks(path: Path, on_problem: Problems = RAISE) -> Iterator[pl.DataFrame]:
    """Yields the non-blank lines of a file as frames of `line` (number from 1) and `text`."""
    found = False
    for first, block in _whole_lines(path, Problems() if on_problem.collects else RAISE):  # see `check_encoding`
        if on_problem.collects:
            block = block.decode(errors="replace").encode()
        bytes_of = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(bytes_of == ord("\n")) + 1
        if len(ends) == 0 or ends[-1] != len(block):
            ends = np.append(ends, len(block))
        offsets = np.concatenate([[0], ends]).astype(np.int64)
        text = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(block))
        try:
            text.validate(full=True)
        except pa.ArrowInvalid:
            check_encoding(path)
        lines = pl.DataFrame({"line": np.arange(first, first + len(text)), "text": pl.from_arrow(text)})
        lines = lines.with_columns(pl.col("text").str.strip_suffix("\n"))
        lines = lines.filter(pl.col("text").str.strip_chars() != "")
        if not lines.is_empty():
            found = True
            yield lines
    if not found and not on_problem.collects:
        raise ValueError(f"{path}: the file is empty; unpack or copy it again")


def _whole_lines(path: Path, on_problem: Problems = RAISE) -> Iterator[tuple[int, bytes]]:
    """Yields a file in blocks that end where a line ends, each with the number of its first line.

    Every line ends with LF, whether it was LF, CRLF or CR in the file; there is no byte order mark.
    """
    first, rest = 1, b""
    with open(path, "rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while block := file.read(BLOCK_SIZE):
            head, line_break, tail = block.rpartition(b"\n" if b"\n" in block else b"\r")
            if line_break:
                whole = _with_line_feeds(rest + head + line_break)
                yield first, whole
                first += whole.count(b"\n")
                rest = tail
                continue
            rest += block
            if on_problem.collects and len(rest) > LONGEST_LINE:
                what = f"a line of more than {LONGEST_LINE:,} bytes; the file is not checked from there on"
                on_problem.add_lines("warning", path, what, 1, [(first, shown(rest[:60].decode(errors="replace")))])
                return
    if rest:
        yield first, _with_line_feeds(rest)


def _with_line_feeds(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def field_chunks(path: Path, literal: bool = False, on_problem: Problems = RAISE) -> Iterator[pl.DataFrame]:
    """Yields the rows of a CSV or TSV file as frames of `line` and `fields` (list of string)."""
    if not literal and _has_quotes(path):
        rows = csv_rows(path, on_problem)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            lines, rows_of_fields = zip(*chunk, strict=True)
            fields = pl.from_arrow(pa.array(rows_of_fields, pa.large_list(pa.large_string())))  # faster than by row
            yield pl.DataFrame({"line": lines, "fields": fields}, schema_overrides={"line": pl.Int64})
        return
    for text in _line_chunks(path, on_problem):
        yield text.select("line", pl.col("text").str.split(separator(path)).alias("fields"))


class Irregular(Exception):
    """A file is not as regular as the fast reader needs; the careful one reads it, or finds the line at fault."""


def is_quoted(path: Path) -> bool:
    """Returns whether a file has quotes, as [`regular_chunks`] must know.

    Raises:
        Irregular: if a quoted field goes over several lines or breaks the rules, which the fast reader would not see.
    """
    if not _has_quotes(path):
        return False
    other = f"[^{separator(path)}]"
    field = f'(?:"(?:[^"]|"")*"|[^"{separator(path)}]{other}*|)'
    regular = f"^{field}(?:{separator(path)}{field})*$"
    for chunk in _line_chunks(path):
        quoted = chunk.filter(pl.col("text").str.contains('"', literal=True))
        wrong = quoted.filter(~pl.col("text").str.contains(regular))
        if wrong.height:
            raise Irregular(f"line {wrong['line'][0]} has quotes of another form")
    return True


def regular_chunks(path: Path, columns: list[str | None], skip_lines: int, quoted: bool) -> Iterator[pl.DataFrame]:
    """Yields the rows of a plain CSV or TSV file, many times faster than [`field_chunks`].

    Args:
        path: with each row on a line.
        columns: what each column is, `None` where it is not used.
        skip_lines: number of lines before the first row.
        quoted: see [`is_quoted`].

    Raises:
        Irregular: if any row is not plainly of this form.
    """
    names = [column or f"column {place} is not used" for place, column in enumerate(columns)]
    used = [column for column in columns if column is not None]
    try:
        yield from map(
            pl.from_arrow,
            pyarrow.csv.open_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=skip_lines, block_size=BLOCK_SIZE),
                parse_options=pyarrow.csv.ParseOptions(delimiter=separator(path), quote_char='"' if quoted else False),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(used, pa.string()),
                    include_columns=used,
                    null_values=[],
                    strings_can_be_null=False,
                ),
            ),
        )
    except pa.ArrowInvalid as error:
        raise Irregular(str(error)) from error


def _has_quotes(path: Path) -> bool:
    with open(path, "rb") as file:
        return any(b'"' in block for block in iter(lambda: file.read(1 << 24), b""))
