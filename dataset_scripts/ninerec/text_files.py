"""Text files to rows: fields as strings, with the line on which each row starts; no types, no guessing.

What is no text file, or breaks its format, is a `ValueError` that names FILE:LINE.
"""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import polars as pl


CHUNK_ROWS = 2_000_000


def _bad_utf8(path: Path) -> ValueError | None:
    """The error that names the first line which is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return ValueError(
                    f"{path}:{number}: byte 0x{byte:02x} is not UTF-8; convert the file to UTF-8, or unpack it first"
                )
    return None


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of an RFC 4180 file with the line on which each starts; blank lines are left out."""
    line = 1
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
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


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n").split("\t")
        except UnicodeDecodeError:
            raise _bad_utf8(path) from None


def first_row(path: Path) -> tuple[int, list[str]]:
    """Line number and fields of the first row; splits at tabs in a .tsv file."""
    rows = _tsv_rows(path) if path.suffix == ".tsv" else csv_rows(path)
    for line, row in rows:
        return line, row
    raise ValueError(f"{path}: the file is empty; unpack or copy it again")


def _line_chunks(path: Path) -> Iterator[pl.DataFrame]:
    """The non-blank lines of a file as frames of `line` (number from 1) and `text`."""
    with open(path, "rb") as file:
        breaks, last = 0, b""
        while block := file.read(1 << 24):
            breaks, last = breaks + block.count(b"\n"), block[-1:]
        file.seek(0)
        lines = _read_lines(path, file)
    expected = breaks + (last != b"\n")
    if lines.width != 1 or lines.height != expected:
        raise ValueError(f"{path}: {expected} lines, of which {lines.height} could be read; is this a text file?")
    numbered = lines.select((pl.int_range(pl.len()) + 1).alias("line"), pl.nth(0).alias("text"))
    numbered = numbered.filter(pl.col("text").str.strip_chars().fill_null("") != "")
    if numbered.is_empty():
        raise ValueError(f"{path}: the file is empty; unpack or copy it again")
    yield from numbered.iter_slices(CHUNK_ROWS)


def _read_lines(path: Path, file: BinaryIO) -> pl.DataFrame:
    """Every line as one string. The open file is given, not its path, which polars would expand as a pattern."""
    try:
        # A separator that no line contains gives whole lines; no quotes, no comments, no guessing of types.
        return pl.read_csv(file, has_header=False, separator="\x1f", quote_char=None, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise ValueError(f"{path}: the file is empty; unpack or copy it again") from None
    except pl.exceptions.PolarsError as error:
        raise _bad_utf8(path) or ValueError(
            f"{path}: cannot be read as lines of text; does it hold control characters (0x1f)?"
        ) from error


def field_chunks(path: Path) -> Iterator[pl.DataFrame]:
    """The rows of a CSV or TSV file as frames of `line` and `fields` (list of string)."""
    separator = "\t" if path.suffix == ".tsv" else ","
    if separator == "," and _has_quotes(path):
        rows = csv_rows(path)
        while chunk := list(islice(rows, CHUNK_ROWS // 4)):
            yield pl.DataFrame(chunk, schema={"line": pl.Int64, "fields": pl.List(pl.String)}, orient="row")
        return
    for chunk in _line_chunks(path):
        yield chunk.select("line", pl.col("text").str.split(separator).alias("fields"))


def _has_quotes(path: Path) -> bool:
    with open(path, "rb") as file:
        return any(b'"' in block for block in iter(lambda: file.read(1 << 24), b""))
