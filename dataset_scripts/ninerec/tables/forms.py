"""The forms of tables: what the name of a file and its first rows say about how its rows are written.

A new form is a row of `FORMS`. Compression is a layer of its own, see `unpacking`: `X_pair.csv.gz` is a `.csv`.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from .options import EVERYTHING, TableOptions


@dataclass(frozen=True)
class Form:
    """How the rows of a table are written.

    Args:
        kind: `"text"`: fields in lines; `"json"`: an object a line; `"parquet"`.
        separator: what separates the fields of a text, as its suffix says; `None` where it does not.
        role: `"items"` or `"interactions"`, where the suffix says which table it is.
        is_usual: whether a file of any name may be a table; its header tells which.
    """

    kind: str = "text"
    separator: str | None = None
    role: str | None = None
    is_usual: bool = False

    @property
    def has_names(self) -> bool:
        """Returns whether columns always have names."""
        return self.kind != "text"


FORMS = {
    ".csv": Form(separator=",", is_usual=True),
    ".tsv": Form(separator="\t", is_usual=True),
    ".parquet": Form("parquet", is_usual=True),
    ".pq": Form("parquet"),
    ".jsonl": Form("json"),
    ".ndjson": Form("json"),
    ".json": Form("json"),
    ".txt": Form(),
    ".dat": Form(),
    ".inter": Form(separator="\t", role="interactions"),  # RecBole's atomic files
    ".item": Form(separator="\t", role="items"),
}
# As programs write that a value is missing; NA may be a name. It is kept as it is, and told.
MISSING = ("NULL", "null", "\\N", "NaN", "nan", "NaT", "None", "<NA>", "#N/A")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
SEPARATORS = ("\t", "::", ",", ";", "|", " ")
SAMPLE_BYTES = 1 << 16  # of a file, that tell its separator
SAMPLE_ROWS = 100
TYPED_NAME = re.compile(r"(.+):(token|token_seq|float|float_seq)")  # a header as RecBole writes it


class TableName(NamedTuple):
    """The parts of a table's file name; suffixes are in lower case.

    Args:
        stem: the name without suffixes.
        suffix: that of the form, `""` where it is none of `FORMS`.
        packing: that of the compression, `""` where there is none.
    """

    stem: str
    suffix: str
    packing: str


def split_name(name: str) -> TableName:
    """Returns the parts of a file name.

    >>> split_name("X_pair.CSV.gz")
    TableName(stem='X_pair', suffix='.csv', packing='.gz')
    >>> split_name("notes.md")
    TableName(stem='notes.md', suffix='', packing='')
    """
    path, packing = PurePath(name), ""
    if path.suffix.lower() in COMPRESSIONS:
        path, packing = path.with_suffix(""), path.suffix.lower()
    if path.suffix.lower() not in FORMS:
        return TableName(name, "", "")
    return TableName(path.stem, path.suffix.lower(), packing)


def form_of(path: Path) -> Form:
    """Returns the form of a file that is not compressed, by its name; other files are text."""
    return FORMS.get(path.suffix.lower(), Form())


def is_table(path: Path) -> bool:
    """Returns whether there is a table: a file or, of Parquet, a folder of parts."""
    return path.is_file() or (form_of(path).kind == "parquet" and path.is_dir())


class Dialect(NamedTuple):
    """How the fields of a text are separated and quoted.

    Args:
        separator: one or more characters.
        quoting: see [`TableOptions`].
    """

    separator: str
    quoting: str | None = None

    @property
    def is_literal(self) -> bool:
        """Returns whether quotes mean nothing; between separators of several characters they never do."""
        return self.quoting == "none" or len(self.separator) > 1

    @property
    def csv_format(self) -> dict:
        """Returns how Python's `csv` reads it."""
        escape = {"doublequote": False, "escapechar": "\\"} if self.quoting == "backslash" else {}
        return {"delimiter": self.separator, "strict": True, **escape}

    def split(self, lines: Iterable[str]) -> list[list[str]]:
        """Returns the fields of lines, of which the first may break the rules."""
        if self.is_literal:
            return [line.rstrip("\r\n").split(self.separator) for line in lines]
        return list(csv.reader(lines, **{**self.csv_format, "strict": False}))


LINES_A_USER = Dialect("\t", "none")  # of NineRec's behaviour files


def is_lines_a_user(path: Path) -> bool:
    """Returns whether a file is a behaviour file by its name."""
    return path.suffix.lower() == ".tsv" and path.stem.endswith("_behaviour")


def dialect_of(path: Path, options: TableOptions = EVERYTHING) -> Dialect:
    """Returns how the fields of a text file are separated: as options or its suffix say, else as its first rows do.

    The separator of the suffix counts where it gives rows of one length, or is in the first and no other gives such.

    Raises:
        ValueError: if several separators fit, or none.
    """
    form = form_of(path)
    usual = form.separator
    if is_lines_a_user(path):
        return LINES_A_USER
    if form.kind != "text":
        return Dialect(",")  # which nothing asks for
    if options.separator is not None:
        return Dialect(options.separator, options.quoting)
    lines, is_whole = _first_lines(path)
    if lines and re.fullmatch(r'"?sep=.*', lines[0].strip()):
        raise ValueError(f"{path}:1: {lines[0].strip()!r} is a note for spreadsheets; remove this line")
    if lines and usual and lines[0].lstrip().startswith('{"'):
        raise ValueError(f"{path}:1: the rows are JSON objects; let the name of the file end in .jsonl")
    shares = {one: _share(Dialect(one, options.quoting), lines, is_whole) for one in SEPARATORS}
    if not lines or (usual and shares[usual] == 1):
        return Dialect(usual or ",", options.quoting)
    if usual:
        del shares[" "]
    best = max(shares.values())
    found = [one for one, share in shares.items() if share == best]
    if usual and shares[usual] > 0 and (best < 1 or len(found) > 1):
        return Dialect(usual, options.quoting)
    if best == 0:
        return Dialect(usual or ",", options.quoting)  # one column
    if len(found) > 1 and found[0] not in ("\t", "::"):  # which no text has by chance
        raise ValueError(
            f"{path}:1: cannot tell what separates the fields of {lines[0][:80].rstrip()!r}: "
            f"{' or '.join(map(repr, found))}; say which: separator={found[0]!r}, in a script --separator {found[0]!r}"
        )
    return Dialect(found[0], options.quoting)


def _first_lines(path: Path) -> tuple[list[str], bool]:
    """Returns the first lines that are not blank, and whether they are all of the file."""
    with open(path, "rb") as file:
        start = file.read(SAMPLE_BYTES)
        is_whole = len(start) < SAMPLE_BYTES
    text = start.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = [f"{line}\n" for line in text.split("\n")]
    if not is_whole:
        lines = lines[:-1] or lines
    return [line for line in lines if line.strip()], is_whole


def _share(dialect: Dialect, lines: list[str], is_whole: bool) -> float:
    """Returns the share of the first rows that have as many fields as the first one; 0 where that has only one."""
    try:
        rows = [row for row in dialect.split(lines) if row]
    except csv.Error:
        return 0
    rows = (rows if is_whole or len(rows) == 1 else rows[:-1])[:SAMPLE_ROWS]
    if not rows or len(rows[0]) < 2:
        return 0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def without_types(names: list[str]) -> list[str]:
    """Returns the names of a header that RecBole has written, without their types; others as they are.

    >>> without_types(["user_id:token", "timestamp:float"]), without_types(["time:token", "b"])
    (['user_id', 'timestamp'], ['time:token', 'b'])
    """
    found = [TYPED_NAME.fullmatch(name.strip()) for name in names]
    return [match[1] for match in found if match] if all(found) else names
