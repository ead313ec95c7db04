"""Rows of a text file whatever is wrong with it; in blocks, so that memory is bounded."""

import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from ..tables.problems import Problems
from ..tables.text_files import separator


BLOCK_SIZE = 1 << 25  # bytes read at a time
LONGEST_LINE = 1 << 25
MAX_BROKEN_ROWS = 100
CONTROL = r"[\x00-\x1f\x7f]"


def shown(text: str) -> str:
    """A field as it is printed: on one line and not long."""
    quoted = repr(text[:80])
    return quoted if len(quoted) <= 80 else quoted[:77] + "…"


def check_encoding(path: Path, problems: Problems) -> bool:
    """Whether a file is UTF-8."""
    is_utf8 = True
    for first, block in _blocks(path, problems):
        try:
            block.decode()
        except UnicodeDecodeError:
            for number, line in enumerate(block.split(b"\n"), first):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    is_utf8 = False
                    text = f"byte 0x{line[error.start]:02x} in {shown(line[:60].decode(errors='replace'))}"
                    what = "lines that are not UTF-8; convert the file to UTF-8, or unpack it first"
                    problems.add_lines("error", path, what, 1, [(number, text)])
    return is_utf8


def _blocks(path: Path, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """The file in blocks of whole lines, each with the number of its first line; without byte order mark.

    A carriage return ends a line, too.
    """
    first, rest = 1, b""
    with open(path, "rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while block := file.read(BLOCK_SIZE):
            head, line_break, rest_of_block = block.rpartition(b"\n" if b"\n" in block else b"\r")
            if not line_break:
                rest += block
                if len(rest) > LONGEST_LINE:
                    what = f"a line of more than {LONGEST_LINE:,} bytes; the file is not checked from there on"
                    problems.add_lines("warning", path, what, 1, [(first, shown(rest[:60].decode(errors="replace")))])
                    return
                continue
            whole = rest + head + line_break
            rest = rest_of_block
            if b"\r" in whole:
                whole = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            yield first, whole
            first += whole.count(b"\n")
    if rest:
        yield first, rest.replace(b"\r", b"\n")


def add_empty(path: Path, problems: Problems, what: str = "the file is empty; unpack or copy it again") -> None:
    """A file without rows, unless these were not read."""
    if path.stat().st_size <= LONGEST_LINE:
        problems.add("error", path, what, count=1)


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
                for row in csv.reader(lines(), strict=True, delimiter=separator(path)):
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


def field_chunks(path: Path, problems: Problems, literal: bool = False) -> Iterator[pl.DataFrame]:
    """Rows of a CSV or TSV file as frames of `line` and `fields` (list of string). Quotes are literal on demand."""
    if not literal and any(b'"' in block for _, block in _blocks(path, Problems())):
        rows = csv_rows(path, problems)
        while chunk := list(islice(rows, 500_000)):
            lines, fields = zip(*chunk, strict=True)
            fields = pl.from_arrow(pa.array(fields, pa.large_list(pa.large_string())))  # many times faster than rows
            yield pl.DataFrame({"line": lines, "fields": fields}, schema_overrides={"line": pl.Int64})
        return
    for chunk in _line_chunks(path):
        yield chunk.select("line", pl.col("text").str.split(separator(path)).alias("fields"))


def checked_chunks(
    path: Path, columns: list[str | None], header_line: int | None, problems: Problems, literal: bool = False
) -> Iterator[pl.DataFrame]:
    """`line` and the columns, stripped, of the rows that are complete; the others are reported."""
    found = False
    for chunk in field_chunks(path, problems, literal):
        rows = chunk.filter(pl.col("line") != header_line) if header_line else chunk
        found = found or not rows.is_empty()
        wrong = rows.filter(pl.col("fields").list.len() != len(columns))
        what = f"rows that have not {len(columns)} columns ({', '.join(name or 'not used' for name in columns)})"
        lines = ((line, f"{len(fields)} columns: {shown(','.join(fields))}") for line, fields in head(wrong, problems))
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
            lines = ((row[0], shown(",".join(row[1:]))) for row in head(empty, problems))
            problems.add_lines(
                "error", path, f"rows with an empty {name}; fill it in or remove them", empty.height, lines
            )
            rows = rows.filter(pl.col(name) != "")
        yield rows
    if not found:
        add_empty(path, problems, "no rows; unpack or copy the file again")


def head(rows: pl.DataFrame, problems: Problems) -> list[tuple]:
    return rows.head(problems.max_examples).rows()
