"""Read and check raw files in NineRec's layout: files to polars frames.

Ids are strings everywhere. A malformed file is a `ValueError` that names FILE:LINE; everything that is left out by
rule is logged as a warning with a count and an example. The rules are listed in this folder's README.md.
"""

import csv
import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl

from modeling_transrec.sequences import build_sequences


logger = logging.getLogger(__name__)

COVER_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in order of preference
HEADER_NAMES = {
    "user_id": "user_id user uid userid user_ids users".split(),
    "item_id": "item_id item iid itemid id video_id video vid item_ids items video_ids".split(),
    "timestamp": "timestamp timestamps time ts unixtime".split(),
    "text_zh": "text_zh zh chinese title_zh zh_title chinese_title title_cn cn".split(),
    "text_en": "text_en en english title_en en_title english_title title".split(),
}
PAIR_COLUMNS = ("user_id", "item_id", "timestamp")
CHUNK_ROWS = 2_000_000


def is_cover(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in COVER_SUFFIXES and entry.is_file()


def _warn(count: int, what: str, example: object) -> None:
    """Log one defined outcome; nothing is logged where it did not occur."""
    if count:
        logger.warning("%s %s (e.g. %r)", f"{count:,}", what, example)


# Reading rows


def _bad_utf8(path: Path) -> ValueError | None:
    """The error that names the first line which is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return ValueError(f"{path}:{number}: byte 0x{byte:02x} is not UTF-8; convert the file to UTF-8")
    return None


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of an RFC 4180 file with the line on which each starts; blank lines are left out."""
    line = 1
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if row:
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
    rows = _tsv_rows(path) if path.suffix == ".tsv" else _csv_rows(path)
    for line, row in rows:
        return line, row
    raise ValueError(f"{path}: the file is empty; unpack or copy it again")


def _line_chunks(path: Path) -> Iterator[pl.DataFrame]:
    """The non-blank lines of a file as frames of `line` (number from 1) and `text`."""
    with open(path, "rb") as file:
        breaks, last = 0, b""
        while block := file.read(1 << 24):
            breaks, last = breaks + block.count(b"\n"), block[-1:]
    try:
        # A separator that no line contains gives whole lines; no quotes, no comments, no guessing of types.
        lines = pl.read_csv(path, has_header=False, separator="\x1f", quote_char=None, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise ValueError(f"{path}: the file is empty; unpack or copy it again") from None
    except pl.exceptions.PolarsError as error:
        raise _bad_utf8(path) or ValueError(f"{path}: cannot be read as text: {error}") from None
    expected = breaks + (last != b"\n")
    if lines.width != 1 or lines.height != expected:
        raise ValueError(f"{path}: {expected} lines, of which {lines.height} could be read; is this a text file?")
    numbered = lines.select((pl.int_range(pl.len()) + 1).alias("line"), pl.nth(0).alias("text"))
    numbered = numbered.filter(pl.col("text").str.strip_chars().fill_null("") != "")
    if numbered.is_empty():
        raise ValueError(f"{path}: the file is empty; unpack or copy it again")
    yield from numbered.iter_slices(CHUNK_ROWS)


def _field_chunks(path: Path) -> Iterator[pl.DataFrame]:
    """The rows of a CSV or TSV file as frames of `line` and `fields` (list of string)."""
    separator = "\t" if path.suffix == ".tsv" else ","
    if separator == "," and _has_quotes(path):
        rows = _csv_rows(path)
        while chunk := list(islice(rows, CHUNK_ROWS // 4)):
            yield pl.DataFrame(chunk, schema={"line": pl.Int64, "fields": pl.List(pl.String)}, orient="row")
        return
    for chunk in _line_chunks(path):
        yield chunk.select("line", pl.col("text").str.split(separator).alias("fields"))


def _has_quotes(path: Path) -> bool:
    with open(path, "rb") as file:
        return any(b'"' in block for block in iter(lambda: file.read(1 << 24), b""))


def _header_roles(row: list[str]) -> list[str | None]:
    """For each field of a possible header row the column it names, None where unknown."""
    names = [field.strip().lower() for field in row]
    return [next((role for role, known in HEADER_NAMES.items() if n in known), None) for n in names]


def _read_columns(path: Path, roles: list[str], skip_line: int | None) -> pl.DataFrame:
    """All rows as string columns named by `roles`, with `line`; every field must be there and not be empty."""
    chunks = []
    for chunk in _field_chunks(path):
        rows = chunk.filter(pl.col("line") != skip_line) if skip_line else chunk
        wrong = rows.filter(pl.col("fields").list.len() != len(roles))
        if wrong.height:
            line, fields = wrong.row(0)
            raise ValueError(
                f"{path}:{line}: {len(fields)} columns where {len(roles)} are expected ({', '.join(roles)}): "
                f"{fields[:4]}; correct or remove this line"
            )
        rows = rows.select(
            "line", *(pl.col("fields").list.get(i).str.strip_chars().alias(role) for i, role in enumerate(roles))
        )
        for role in roles:
            empty = rows.filter(pl.col(role) == "")
            if empty.height:
                raise ValueError(f"{path}:{empty['line'][0]}: empty {role}; fill it in or remove this line")
        chunks.append(_parse_timestamps(path, rows))
    table = pl.concat(chunks)
    if table.is_empty():
        raise ValueError(f"{path}: the file has a header but no rows")
    return table


def _parse_timestamps(path: Path, rows: pl.DataFrame) -> pl.DataFrame:
    if "timestamp" not in rows.columns:
        return rows
    seconds = pl.col("timestamp").str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
    parsed = rows.with_columns(seconds)
    bad = parsed["timestamp"].is_null()
    if bad.any():
        line, text = rows.filter(bad).select("line", "timestamp").row(0)
        hint = " (if this line is a header: name its columns user_id,item_id,timestamp)" if line == 1 else ""
        raise ValueError(f"{path}:{line}: timestamp {text!r} is not a whole number of seconds{hint}")
    return parsed


# Items


def read_items(path: Path) -> pl.DataFrame:
    """Read the items table: `item_id`, `text_zh`, `text_en`, all string, in file order, each id once."""
    first_line, first = first_row(path)
    roles = _header_roles(first)
    header = "item_id" in roles and bool({"text_zh", "text_en"} & set(roles))
    if not header:
        if len(first) != 3:
            raise ValueError(
                f"{path}:{first_line}: {len(first)} columns where 3 are expected (id, Chinese text, English text); "
                "if the columns are others, add a header line such as: item_id,text_en"
            )
        roles = ["item_id", "text_zh", "text_en"]
    index = {role: i for i, role in enumerate(roles) if role is not None}
    if len(index) != len([role for role in roles if role is not None]):
        raise ValueError(f"{path}:{first_line}: two columns of the header mean the same: {first}")

    columns: dict[str, list[str]] = {"item_id": [], "text_zh": [], "text_en": []}
    for line, row in _csv_rows(path):
        if header and line == first_line:
            continue
        if len(row) != len(roles):
            raise ValueError(
                f"{path}:{line}: {len(row)} columns where {len(roles)} are expected: {row[:4]}; "
                "texts with commas need double quotes around them"
            )
        if not row[index["item_id"]].strip():
            raise ValueError(f"{path}:{line}: empty item_id; fill it in or remove this line")
        columns["item_id"].append(row[index["item_id"]].strip())
        for language in ("text_zh", "text_en"):
            columns[language].append(row[index[language]] if language in index else "")
    table = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    if table.is_empty():
        raise ValueError(f"{path}: the file has a header but no items")
    items = table.unique("item_id", keep="first", maintain_order=True)
    if items.height < table.height:
        example = table.filter(pl.col("item_id").is_duplicated())["item_id"][0]
        _warn(table.height - items.height, f"rows of {path.name} repeat an item id: the first row is kept", example)
    return items


def find_covers(folder: Path | None, item_ids: pl.Series) -> list[str | None]:
    """Path of each item's cover, None where there is none or the file has no bytes. One listing, no guessed path."""
    covers: dict[str, str] = {}
    rank: dict[str, int] = {}
    if folder is not None:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                if is_cover(entry) and entry.stat().st_size > 0:
                    order = COVER_SUFFIXES.index(suffix.lower())
                    if order < rank.get(stem, len(COVER_SUFFIXES)):
                        rank[stem], covers[stem] = order, os.path.abspath(entry.path)
    paths = [covers.get(item_id) for item_id in item_ids]
    missing = [item_id for item_id, path in zip(item_ids, paths, strict=True) if path is None]
    where = "there is no cover folder" if folder is None else f"in {folder.name}"
    _warn(len(missing), f"items have no cover: their image is null; {where}", missing[0] if missing else None)
    return paths


# Interactions


def read_interactions(path: Path, item_ids: pl.Series, pair_columns: tuple[str, ...] | None = None) -> pl.DataFrame:
    """Read the actions in file order: `user_id`, `item_id`, `timestamp` (int64, null where unknown).

    Args:
        path: a `_pair.csv` or `_behaviour.tsv` file.
        item_ids: the ids of the items table; actions on other items are dropped.
        pair_columns: what the columns of a pair file without header are; detected where not given.
    """
    read = _read_behaviour(path) if path.suffix == ".tsv" else _read_pair(path, item_ids, pair_columns)
    known = read["item_id"].is_in(item_ids)
    if not known.any():
        raise ValueError(
            f"{path}: none of its item ids (e.g. {read['item_id'][0]!r}) is in the items table "
            f"(e.g. {item_ids[0]!r}); are these files of the same data set?"
        )
    if not known.all():
        unknown = read.filter(~known)["item_id"]
        _warn(
            unknown.len(),
            f"actions in {path.name} are on {unknown.n_unique():,} items that are not in the items table: dropped",
            unknown[0],
        )
    return read.filter(known)


def _read_behaviour(path: Path) -> pl.DataFrame:
    line, first = first_row(path)
    header = len(first) == 2 and _header_roles(first) == ["user_id", "item_id"]
    rows = _read_columns(path, ["user_id", "item_ids"], skip_line=line if header else None)
    distinct = rows.unique(["user_id", "item_ids"], keep="first", maintain_order=True)
    if distinct.height < rows.height:
        example = rows.filter(rows.select("user_id", "item_ids").is_duplicated())["user_id"][0]
        _warn(rows.height - distinct.height, f"lines of {path.name} repeat an earlier line: dropped", example)
    again = distinct.filter(~pl.col("user_id").is_first_distinct())["user_id"]
    _warn(
        again.len(),
        f"further lines of {path.name} are of an earlier user: appended to that user's actions",
        again[0] if again.len() else None,
    )
    items = pl.col("item_ids").str.replace_all(r" +", " ").str.split(" ")
    actions = distinct.select("user_id", items.alias("item_id")).explode("item_id")
    return actions.with_columns(pl.lit(None, dtype=pl.Int64).alias("timestamp"))


def _read_pair(path: Path, item_ids: pl.Series, pair_columns: tuple[str, ...] | None) -> pl.DataFrame:
    line, first = first_row(path)
    if len(first) not in (2, 3):
        raise ValueError(f"{path}:{line}: {len(first)} columns where 2 or 3 are expected (user, item, timestamp)")
    roles = _header_roles(first)
    header = {"user_id", "item_id"} <= set(roles)
    if header and (None in roles or len(set(roles)) < len(roles) or not set(roles) <= set(PAIR_COLUMNS)):
        raise ValueError(
            f"{path}:{line}: the header {first} does not name user, item and timestamp once each; "
            f"name its columns {','.join(PAIR_COLUMNS)} in the order of the file"
        )
    if pair_columns is not None:
        if len(pair_columns) != len(first) or (header and list(pair_columns) != roles):
            raise ValueError(f"{path}:{line}: pair_columns={pair_columns} does not fit the file's columns {first}")
        roles = list(pair_columns)
    elif not header:
        roles = ["column 1", "column 2", "timestamp"][: len(first)]
    rows = _read_columns(path, roles, skip_line=line if header else None)
    if "user_id" not in roles:
        user, item = _detect_order(path, rows, item_ids)
        rows = rows.rename({user: "user_id", item: "item_id"})
    if "timestamp" not in roles:
        return rows.select("user_id", "item_id", pl.lit(None, dtype=pl.Int64).alias("timestamp"))
    rows = rows.select(PAIR_COLUMNS)
    distinct = rows.unique(keep="first", maintain_order=True)
    if distinct.height < rows.height:
        example = rows.filter(rows.is_duplicated()).row(0)
        _warn(
            rows.height - distinct.height,
            f"rows of {path.name} repeat user, item and timestamp of an earlier row: dropped",
            example,
        )
    return distinct


def _detect_order(path: Path, rows: pl.DataFrame, item_ids: pl.Series) -> tuple[str, str]:
    """Which column holds users and which items, by the overlap of distinct values with the items table.

    Containment does not suffice: where both ids are integers from 1, all users are item ids, too. The Jaccard
    overlap also asks that the column covers the table.
    """
    table = item_ids.unique()
    jaccard, contained = {}, {}
    for column in ("column 1", "column 2"):
        values = rows[column].unique()
        common = values.is_in(table).sum()
        jaccard[column] = common / (values.len() + table.len() - common)
        contained[column] = common / values.len()
    user, item = sorted(jaccard, key=jaccard.get)
    overlaps = ", ".join(f"{column} {value:.3f}" for column, value in jaccard.items())
    both_look_like_items = contained[user] >= 0.5 and jaccard[item] < 0.5
    if both_look_like_items or jaccard[item] == 0 or jaccard[item] < 1.25 * jaccard[user]:
        raise ValueError(
            f"{path}: cannot tell users from items: overlap with the items table is {overlaps}. "
            'Give the option pair_columns=("user_id", "item_id", "timestamp") in the order of the file '
            "(without timestamp where there is none)."
        )
    logger.info("%s: %s holds items, %s users (overlap with the items table: %s)", path.name, item, user, overlaps)
    return user, item


# Both tables of a data set


def read_sequences(
    interactions_path: Path,
    item_ids: pl.Series,
    min_actions: int,
    max_actions: int,
    pair_columns: tuple[str, ...] | None = None,
) -> pl.DataFrame:
    """Kept sequences, see `modeling_transrec.sequences.build_sequences`; an error where no user is left."""
    interactions = read_interactions(interactions_path, item_ids, pair_columns)
    sequences = build_sequences(interactions, min_actions, max_actions)
    users = interactions["user_id"].unique(maintain_order=True)
    if sequences.is_empty():
        raise ValueError(
            f"{interactions_path}: none of {users.len():,} users has {min_actions} actions on known items; "
            "lower min_actions or check the files"
        )
    if sequences.height < users.len():
        dropped = users.filter(~users.is_in(sequences["user_id"]))
        _warn(dropped.len(), f"users have fewer than {min_actions} actions: dropped", dropped[0])
    return sequences


def select_catalogue(items: pl.DataFrame, sequences: pl.DataFrame, catalogue: str) -> pl.DataFrame:
    """Rows of the items table that can be recommended, in table order.

    Args:
        items: see [`read_items`].
        sequences: kept sequences with `item_ids`.
        catalogue: `"interacted"`: items that occur in a kept sequence; `"all"`: every item of the table.
    """
    if catalogue == "interacted":
        occurs = items["item_id"].is_in(sequences["item_ids"].explode().unique())
        unused = items.filter(~occurs)["item_id"]
        _warn(
            unused.len(),
            'items occur in no kept sequence: not in the catalogue (catalogue="all" keeps them)',
            unused[0] if unused.len() else None,
        )
        items = items.filter(occurs)
    empty = items.filter((pl.col("text_zh").str.strip_chars() == "") & (pl.col("text_en").str.strip_chars() == ""))
    _warn(
        empty.height,
        "items have an empty text in both languages: kept",
        empty["item_id"][0] if empty.height else None,
    )
    return items
