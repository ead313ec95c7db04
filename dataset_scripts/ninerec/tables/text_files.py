"""Text files to rows: fields as strings, with the line on which each row starts; no types, no guessing.

A [`Dialect`] says how fields are separated and quoted. What is no text file, or breaks its format, is a `ValueError`
that names FILE:LINE, or is collected and passed over.
"""

import contextlib
import csv
import re
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv

from .forms import LINES_A_USER, Dialect, dialect_of, form_of, without_types
from .json_files import as_field, json_columns, json_rows, what_is_wrong
from .options import EVERYTHING, TableOptions
from .parquet_files import parquet_columns
from .problems import RAISE, Problems, shown


BLOCK_SIZE = 1 << 24  # bytes read at a time
LONGEST_LINE = 1 << 25  # bytes of a line that is still checked
MAX_BROKEN_ROWS = 100  # after which a file is not checked further
CHUNK_ROWS = 500_000  # rows of a file that needs Python's CSV reader
# As Unicode and polars have it; Python's `strip()` takes the separators of ASCII, 0x1c to 0x1f, for white space, too.
WHITE_SPACE = "".join(char for char in map(chr, range(0x3001)) if char.isspace() and not "\x1c" <= char <= "\x1f")
MARK = "\ufeff"  # the byte order mark
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
                    fix = f"say which encoding it is, such as {call_of('encoding', 'gbk')}, or convert the file"
                    text = f"{byte} in {shown(line[:60].decode(errors='replace'))}"
                    message = f"{byte} is not UTF-8; {fix}; {_readings(line)}"
                    on_problem.error(path, f"lines that are not UTF-8; {fix}", 1, [(number, text)], message)
    return is_utf8


def _readings(line: bytes) -> str:
    """Returns what a line would be in other encodings, for somebody to choose."""
    found = []
    for encoding in ("gbk", "big5", "shift_jis", "euc-kr", "cp1251", "cp1252", "latin-1"):
        with contextlib.suppress(UnicodeDecodeError):
            found.append(f"{encoding} {shown(line.decode(encoding))}")
    return f"it would be in {', '.join(found)}"


def _errors(on_problem: Problems) -> str:
    """Returns how bytes are decoded that are not UTF-8; those that are replaced [`check_encoding`] reports."""
    return "replace" if on_problem.collects else "strict"


def strip(text: str) -> str:
    """Returns a text without the white space around it.

    >>> strip(" a\\x1f "), strip("\\u3000b")
    ('a\\x1f', 'b')
    """
    return text.strip(WHITE_SPACE)


def text_rows(path: Path, dialect: Dialect, on_problem: Problems = RAISE) -> Iterator[tuple[int, list[Any]]]:
    """Yields the rows of a text file with the line on which each starts; blank lines are left out.

    Fields are strings, but for the lists of JSON.
    """
    if form_of(path).kind == "json":
        return _checked(path, json_rows(path, on_problem))
    return (_literal_rows if dialect.is_literal else _csv_rows)(path, dialect, on_problem)


def _checked(path: Path, rows: Iterator[tuple[int, list[Any]]]) -> Iterator[tuple[int, list[Any]]]:
    try:
        yield from rows
    except UnicodeDecodeError:
        check_encoding(path)


def _csv_rows(path: Path, dialect: Dialect, on_problem: Problems) -> Iterator[tuple[int, list[str]]]:
    """Reads rows; after one that breaks quoting, the next line is read."""
    line, num_broken = 1, 0
    while num_broken <= MAX_BROKEN_ROWS:
        with open(path, encoding="utf-8-sig", errors=_errors(on_problem), newline="") as file:
            start = line
            deque(islice(file, start - 1), maxlen=0)
            reader = csv.reader(map(_without_mark, file), **dialect.csv_format)
            try:
                for row in reader:
                    end = start + reader.line_num
                    if end - line > 1:
                        _report_swallowed(path, line, row, dialect, on_problem)
                    if len(row) > 1 or row and strip(row[0]):
                        yield line, row
                    line = end
                return
            except csv.Error as error:
                _report_broken_row(path, line, error, num_broken, dialect, on_problem)
            except UnicodeDecodeError:
                check_encoding(path)
        num_broken += 1
        line += 1


def _without_mark(line: str) -> str:
    """Returns a line without the mark that begins a file, which may be one of several that were joined."""
    return line.removeprefix(MARK)


def _report_broken_row(
    path: Path, line: int, error: csv.Error, num_broken: int, dialect: Dialect, on_problem: Problems
) -> None:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        text = shown(next(islice(file, line - 1, None)))
    if num_broken == MAX_BROKEN_ROWS:
        what = f"more than {MAX_BROKEN_ROWS} broken rows; the file is not checked from there on"
        on_problem.add_lines("error", path, what, 1, [(line, text)])
        return
    fix = 'put fields with commas, quotes or newlines in double quotes and double the quotes inside ("")'
    if dialect.quoting == "backslash":
        fix = 'put a backslash before the quotes inside (\\")'
    else:
        other = "backslash" if '\\"' in text.replace("\\\\", "\\") else "none"
        means = {"backslash": 'quotes inside are written as \\"', "none": "quotes are part of the text"}[other]
        fix += f", or, where {means}, say {call_of('quoting', other)}"
    message = f"the row that starts here breaks CSV quoting ({error}); {fix}"
    on_problem.error(path, f"rows that break CSV quoting; {fix}", 1, [(line, f"{text} ({error})")], message)


def call_of(option: str, value: str) -> str:
    """Returns how an option is given, in Python and on the command line."""
    return f'{option}="{value}" (in a script --{option} {value})'


def advice_on_quotes(row: list[Any], dialect: Dialect) -> str:
    """Returns what to add to the error of a row of too few or too many fields, if quotes may be the cause."""
    marks = ('"', "\n", "\r", dialect.separator)
    is_sign = any(mark in as_field(field) for field in row for mark in marks)
    if dialect.is_literal or dialect.quoting is not None or not is_sign:
        return ""
    return f"; where quotes are part of the text, say {call_of('quoting', 'none')}"


def _report_swallowed(path: Path, line: int, row: list[str], dialect: Dialect, on_problem: Problems) -> None:
    """Reports the lines within a quoted text that have as many columns as the row, and an id of the same form.

    They are probably rows, and a quote before them is none, or is not closed where it should be.
    """
    found, number = [], line
    for place, field in enumerate(row):
        _, *more = re.split(r"\r\n|\n|\r", field)
        for left, text in zip(reversed(range(len(more))), more, strict=True):
            number += 1
            rest = 0 if left else len(row) - 1 - place  # of the line on which the text ends
            if text.count(dialect.separator) + rest == len(row) - 1 and len(row) > 1:
                found.append((number, text))
    if not found:
        return
    told = [(number, shown(text)) for number, text in found]
    what = "lines within a text that look like rows"
    if dialect.quoting is not None or not any(
        _are_alike(row[0], text.split(dialect.separator)[0]) for _, text in found
    ):
        on_problem.add_lines("warning", path, f"{what}: kept as they are", len(told), told)
        return
    fix = (
        "close the quote of the row before them, or, where quotes are part of the text, say "
        f"{call_of('quoting', 'none')}; if they do belong to the text, {call_of('quoting', 'double')}"
    )
    lines = f"lines {line} to {found[-1][0]}"
    message = f"{lines} are one row, within whose text there are lines that look like rows ({told[0][1]}); {fix}"
    on_problem.error(path, f"{what}; {fix}", len(told), [(line, f"{lines} are one row"), *told], message)


def _are_alike(one: str, other: str) -> bool:
    """Returns whether two ids are of one form, or both a word that mixes letters and digits, or as long.

    >>> _are_alike("B001", "B7"), _are_alike("da844010", "6d80cbd2"), _are_alike("da844010", "hello")
    (True, True, False)
    """
    words = [word for word in map(strip, (one, other)) if re.fullmatch(r"[\w-]{4,}", word)]
    are_mixed = all(re.search(r"\d", word) and re.search(r"[^\W\d_]", word) for word in words)
    are_long = len(strip(one)) == len(strip(other)) >= 8
    return _form_of_id(one) == _form_of_id(other) or (len(words) == 2 and (are_mixed or are_long))


def _form_of_id(text: str) -> str:
    """Returns an id with one `a` for its letters and one `9` for its digits: those of one table look alike.

    >>> _form_of_id("B00x7"), _form_of_id(" n-12 ")
    ('a9a9', 'a-9')
    """
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", strip(text)))


def _literal_rows(path: Path, dialect: Dialect, on_problem: Problems) -> Iterator[tuple[int, list[str]]]:
    with open(path, encoding="utf-8-sig", errors=_errors(on_problem)) as file:
        try:
            for number, line in enumerate(file, 1):
                if strip(line):
                    yield number, _without_mark(line).rstrip("\n").split(dialect.separator)
        except UnicodeDecodeError:
            check_encoding(path)


def first_row(
    path: Path,
    options: TableOptions = EVERYTHING,
    after: int | None = None,
    literal: bool = False,
    on_problem: Problems = RAISE,
) -> tuple[int, list[str]]:
    """Returns line number and fields of the first row, or of the first after the header's line.

    Of a form that always has names, such as Parquet, it returns those of the columns, and line 0. While problems are
    collected, they are passed over here: they are reported when the file is read.
    """
    passed_over, kind = Problems() if on_problem.collects else RAISE, form_of(path).kind
    if kind == "parquet":
        return 0, parquet_columns(path)
    if kind == "json" and after is None:
        return 0, _json_names(path, passed_over)
    for line, row in text_rows(path, LINES_A_USER if literal else dialect_of(path, options), passed_over):
        if after is None:
            return line, without_types(row)
        if line > after:
            return line, row
    if after is not None:
        raise ValueError(f"{path}: the file has a header but no rows")
    raise ValueError(f"{path}: the file is empty; unpack or copy it again")


def _json_names(path: Path, on_problem: Problems) -> list[str]:
    try:
        names = json_columns(path, on_problem)
    except UnicodeDecodeError:
        check_encoding(path)
        raise
    if not names:
        raise ValueError(f"{path}: no object in the file has a name and a value; unpack or copy it again")
    return names


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
        lines = lines.with_columns(pl.col("text").str.strip_suffix("\n").str.strip_prefix(MARK))
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


def field_chunks(path: Path, dialect: Dialect, on_problem: Problems = RAISE) -> Iterator[pl.DataFrame]:
    """Yields the rows of a text file as frames of `line` and `fields` (list of string)."""
    is_json = form_of(path).kind == "json"
    if is_json or (not dialect.is_literal and _has_quotes(path, dialect)):
        rows = text_rows(path, dialect, on_problem)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            lines, rows_of_fields = zip(*chunk, strict=True)
            if is_json:
                rows_of_fields = [[_whole_field(path, line, value) for value in row] for line, row in chunk]
            fields = pl.from_arrow(pa.array(rows_of_fields, pa.large_list(pa.large_string())))  # faster than by row
            yield pl.DataFrame({"line": lines, "fields": fields}, schema_overrides={"line": pl.Int64})
        return
    for text in _line_chunks(path, on_problem):
        yield text.select("line", pl.col("text").str.split(dialect.separator).alias("fields"))


def _whole_field(path: Path, line: int, value: Any) -> str:
    if not isinstance(value, dict) and (why := what_is_wrong(value)):
        raise ValueError(f"{path}:{line}: a value is {why}")
    return as_field(value)


class Irregular(Exception):
    """A file is not as regular as the fast reader needs; the careful one reads it, or finds the line at fault."""


def is_quoted(path: Path, dialect: Dialect) -> bool:
    """Returns whether a file has quotes, as [`regular_chunks`] must know.

    Raises:
        Irregular: if a quoted field goes over several lines or breaks the rules, which the fast reader would not see,
            or if the file is of a dialect that it does not read.
    """
    if form_of(path).kind != "text":
        raise Irregular("it is no text")
    if len(dialect.separator) > 1:
        raise Irregular(f"its fields are separated by {dialect.separator!r}")
    if dialect.is_literal or not _has_quotes(path, dialect):
        return False
    if dialect.quoting == "backslash":
        raise Irregular("it has quotes or backslashes")
    separator = re.escape(dialect.separator)
    other = f"[^{separator}]"
    field = f'(?:"(?:[^"]|"")*"|[^"{separator}]{other}*|)'
    regular = f"^{field}(?:{separator}{field})*$"
    for chunk in _line_chunks(path):
        quoted = chunk.filter(pl.col("text").str.contains('"', literal=True))
        wrong = quoted.filter(~pl.col("text").str.contains(regular))
        if wrong.height:
            raise Irregular(f"line {wrong['line'][0]} has quotes of another form")
    return True


def regular_chunks(
    path: Path, separator: str, columns: list[str | None], skip_lines: int, quoted: bool
) -> Iterator[pl.DataFrame]:
    """Yields the rows of a plain text file without white space around fields, many times faster than [`field_chunks`].

    Args:
        path: with each row on a line.
        separator: of the fields, one character.
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
            _stripped,
            pyarrow.csv.open_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=skip_lines, block_size=BLOCK_SIZE),
                parse_options=pyarrow.csv.ParseOptions(delimiter=separator, quote_char='"' if quoted else False),
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


def _stripped(batch: pa.RecordBatch) -> pl.DataFrame:
    """Returns columns of strings without white space around each."""
    frame = cast(pl.DataFrame, pl.from_arrow(batch))
    spaced = [name for name, column in zip(batch.column_names, batch.columns, strict=True) if _may_have_space(column)]
    if any(frame[name].str.contains(MARK, literal=True).any() for name in spaced):
        raise Irregular("there is a byte order mark within it")
    return frame.with_columns(pl.col(spaced).str.strip_chars()) if spaced else frame


def _may_have_space(strings: pa.StringArray) -> bool:
    """Returns whether there is anything but visible ASCII characters, which is told far faster than stripped."""
    data = strings.buffers()[2]
    found = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return len(found) > 0 and (int(found.min()) <= 32 or int(found.max()) > 126)


def _has_quotes(path: Path, dialect: Dialect) -> bool:
    """Returns whether a file has anything that quoting could change."""
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 24), b""):
            if b'"' in block or (dialect.quoting == "backslash" and b"\\" in block):
                return True
    return False
