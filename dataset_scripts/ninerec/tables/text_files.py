"""Text files to rows: fields as strings, with the line on which each row starts; no types, no guessing.

CSV and TSV differ in the separator alone: quoting is that of RFC 4180. Only a behaviour file is `literal`: quotes mean
nothing there. What is no text file, or breaks its format, is a `ValueError` that names FILE:LINE.
"""

import contextlib
import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet


BLOCK_SIZE = 1 << 26  # bytes read at a time
CHUNK_ROWS = 500_000  # rows of a file that needs Python's CSV reader
csv.field_size_limit(1 << 30)  # a text may be long; Python's own limit is 131,072 characters


def _bad_utf8(path: Path) -> ValueError | None:
    """The error that names the first line which is not UTF-8."""
    number = 1
    for block in _whole_lines(path):
        for line in io.BytesIO(block):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return ValueError(
                    f"{path}:{number}: byte 0x{byte:02x} is not UTF-8; convert the file to UTF-8, or unpack it first"
                )
            number += 1
    return None


def separator(path: Path) -> str:
    """What separates the fields of a file, by its suffix."""
    return "\t" if path.suffix == ".tsv" else ","


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of an RFC 4180 file with the line on which each starts; blank lines are left out."""
    line = 1
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=separator(path))
        try:
            for row in reader:
                if len(row) > 1 or row and row[0].strip():
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{path}:{line}: the row that starts here breaks CSV quoting ({error}); put fields with commas, "
                'quotes or newlines in double quotes and double the quotes inside ("")'
            ) from None
        except UnicodeDecodeError:
            raise _bad_utf8(path) from None


def _literal_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n").split("\t")
        except UnicodeDecodeError:
            raise _bad_utf8(path) from None


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
    """The rows of a Parquet file, `num_rows` at a time."""
    with _whole_parquet(path):
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=num_rows, columns=columns)
    while True:
        with _whole_parquet(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield pl.from_arrow(batch)


def first_row(path: Path, after: int | None = None, literal: bool = False) -> tuple[int, list[str]]:
    """Line number and fields of the first row, or of the first after the header's line.

    Of a Parquet file the names of the columns.
    """
    if path.suffix == ".parquet":
        return 0, parquet_columns(path)
    for line, row in _literal_rows(path) if literal else csv_rows(path):
        if after is None or line > after:
            return line, row
    if after is not None:
        raise ValueError(f"{path}: the file has a header but no rows")
    raise ValueError(f"{path}: the file is empty; unpack or copy it again")


def _line_chunks(path: Path) -> Iterator[pl.DataFrame]:
    """The non-blank lines of a file as frames of `line` (number from 1) and `text`."""
    first, found = 1, False
    for block in _whole_lines(path):
        num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
        lines = _read_lines(path, block)
        if lines.width != 1 or lines.height != num_lines:
            raise ValueError(
                f"{path}: of {num_lines} lines from {first} on, {lines.height} could be read; is this a text file?"
            )
        numbered = lines.select((pl.int_range(pl.len()) + first).alias("line"), pl.nth(0).alias("text"))
        numbered = numbered.filter(pl.col("text").str.strip_chars().fill_null("") != "")
        first += num_lines
        if not numbered.is_empty():
            found = True
            yield numbered
    if not found:
        raise ValueError(f"{path}: the file is empty; unpack or copy it again")


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The bytes of a file in blocks that end where a line ends; every line ends with LF."""
    rest = b""
    with open(path, "rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":  # the byte order mark
            file.seek(0)
        while block := file.read(BLOCK_SIZE):
            head, line_break, tail = block.rpartition(b"\n")
            if line_break:
                yield _with_line_feeds(rest + head + line_break)
                rest = tail
            else:
                rest += block
    if rest:
        yield _with_line_feeds(rest)


def _with_line_feeds(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def _read_lines(path: Path, block: bytes) -> pl.DataFrame:
    """Every line as one string."""
    try:
        # A separator that no line contains gives whole lines; no quotes, no comments, no guessing of types.
        return pl.read_csv(block, has_header=False, separator="\x1f", quote_char=None, infer_schema=False)
    except pl.exceptions.NoDataError:
        return pl.DataFrame({"text": [""] * block.count(b"\n")})
    except pl.exceptions.PolarsError as error:
        raise _bad_utf8(path) or ValueError(
            f"{path}: cannot be read as lines of text; does it hold control characters (0x1f)?"
        ) from error


def field_chunks(path: Path, literal: bool = False) -> Iterator[pl.DataFrame]:
    """The rows of a CSV or TSV file as frames of `line` and `fields` (list of string)."""
    if not literal and _has_quotes(path):
        rows = csv_rows(path)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            lines, fields = zip(*chunk, strict=True)
            fields = pl.from_arrow(pa.array(fields, pa.large_list(pa.large_string())))  # much faster than row by row
            yield pl.DataFrame({"line": lines, "fields": fields}, schema_overrides={"line": pl.Int64})
        return
    for chunk in _line_chunks(path):
        yield chunk.select("line", pl.col("text").str.split(separator(path)).alias("fields"))


class Irregular(Exception):
    """A file is not as regular as the fast reader needs; the careful one reads it, or finds the line at fault."""


def is_quoted(path: Path) -> bool:
    """Whether a file has quotes, as [`regular_chunks`] must know.

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
    """The rows of a plain CSV or TSV file, many times faster than by [`field_chunks`].

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
