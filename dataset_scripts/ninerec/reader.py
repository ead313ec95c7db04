"""Read and check raw files in NineRec's layout: files to polars frames.

Ids are strings everywhere. A malformed file is a `ValueError` that names FILE:LINE; everything that is left out by
rule is logged as a warning with a count and an example. The rules are listed in this folder's README.md.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from modeling_transrec.sequences import build_sequences

from .text_files import csv_rows, field_chunks, first_row


logger = logging.getLogger(__name__)

COVER_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in order of preference
HEADER_NAMES = {
    "user_id": "user_id user uid userid user_ids users".split(),
    "item_id": (
        "item_id item iid itemid id video_id video vid item_ids items video_ids movie_id movieid product_id asin"
    ).split(),
    "timestamp": "timestamp timestamps time ts unixtime".split(),
    "text_zh": "text_zh zh chinese title_zh zh_title chinese_title title_cn cn".split(),
    "text_en": "text_en en english title_en en_title english_title".split(),
    "title": ["title"],  # English, or Chinese beside a column that is English
}
ITEM_COLUMNS = ("item_id", "text_zh", "text_en")
PAIR_COLUMNS = ("user_id", "item_id", "timestamp")


def is_cover(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in COVER_SUFFIXES and entry.is_file()


def _cover_preference(entry: os.DirEntry) -> tuple[int, str]:
    """Sort key: first suffix first; names that differ in case (`1.JPG`, `1.jpg`) by name, in any folder alike."""
    return COVER_SUFFIXES.index(os.path.splitext(entry.name)[1].lower()), entry.name


def _warn(count: int, what: str, example: object) -> None:
    """Log one defined outcome; nothing is logged where it did not occur."""
    if count:
        logger.warning("%s %s (e.g. %r)", f"{count:,}", what, example)


# Columns


def _header_roles(row: list[str]) -> list[str | None]:
    """For each field of a possible header row the column it names, None where unknown."""
    names = [field.strip().lower() for field in row]
    return [next((role for role, known in HEADER_NAMES.items() if n in known), None) for n in names]


def _read_columns(path: Path, roles: list[str | None], skip_line: int | None) -> pl.DataFrame:
    """All rows as string columns named by `roles`, with `line`; every field must be there and not be empty.

    Columns whose role is None are left out.
    """
    index = {role: i for i, role in enumerate(roles) if role is not None}
    chunks = []
    for chunk in field_chunks(path):
        rows = chunk.filter(pl.col("line") != skip_line) if skip_line else chunk
        wrong = rows.filter(pl.col("fields").list.len() != len(roles))
        if wrong.height:
            line, fields = wrong.row(0)
            raise ValueError(
                f"{path}:{line}: {len(fields)} columns where {len(roles)} are expected "
                f"({', '.join(role or 'not used' for role in roles)}): {fields[:4]}; correct or remove this line"
            )
        rows = rows.select(
            "line", *(pl.col("fields").list.get(i).str.strip_chars().alias(role) for role, i in index.items())
        )
        for role in index:
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


def _item_roles(path: Path) -> tuple[list[str | None], int | None]:
    """What each column of an items table is, None where it is not used, and the line of the header, if any."""
    line, first = first_row(path)
    roles = _header_roles(first)
    texts = {"text_zh", "text_en", "title"} & set(roles)
    if "item_id" in roles and texts:
        title = "text_zh" if "text_en" in roles else "text_en"
        roles = [title if role == "title" else role if role in ITEM_COLUMNS else None for role in roles]
        used = [role for role in roles if role is not None]
        if len(set(used)) < len(used):
            raise ValueError(f"{path}:{line}: two columns of the header mean the same: {first}")
        return roles, line
    if len(first) != 3:
        raise ValueError(
            f"{path}:{line}: {len(first)} columns where 3 are expected (id, Chinese text, English text), separated "
            "by commas; if the columns are others, add a header line such as: item_id,text_en"
        )
    if roles[0] == "item_id":
        raise ValueError(f"{path}:{line}: the header {first} names no text; name a column text_zh or text_en")
    if texts:
        logger.warning("%s:%d: %s is read as an item; if it is a header, name item_id in it", path, line, first)
    return list(ITEM_COLUMNS), None


def read_items(path: Path) -> pl.DataFrame:
    """Read the items table: `item_id`, `text_zh`, `text_en`, all string, in file order, each id once."""
    roles, header_line = _item_roles(path)
    index = {role: i for i, role in enumerate(roles) if role is not None}
    columns: dict[str, list[str]] = {column: [] for column in ITEM_COLUMNS}
    for line, row in csv_rows(path):
        if line == header_line:
            continue
        if len(row) != len(roles):
            raise ValueError(
                f"{path}:{line}: {len(row)} columns where {len(roles)} are expected: {row[:4]}; "
                "texts with commas or line breaks need double quotes around them"
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
    if folder is not None:
        with os.scandir(folder.absolute()) as entries:
            found = [entry for entry in entries if is_cover(entry) and entry.stat().st_size > 0]
        for entry in sorted(found, key=_cover_preference, reverse=True):  # the best one is set last
            covers[os.path.splitext(entry.name)[0]] = entry.path
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


def are_pair_columns(roles: Iterable[str | None]) -> bool:
    """Whether `roles` has user and item once each and timestamp once, or nothing else.

    Without that rule an unknown name for the time would silently mean that the file has none.
    """
    roles = list(roles)
    known = sorted(role for role in roles if role in PAIR_COLUMNS)
    return known == sorted(PAIR_COLUMNS) or (known == sorted(PAIR_COLUMNS[:2]) and len(roles) == 2)


def _pair_roles(path: Path, pair_columns: tuple[str, ...] | None) -> tuple[list[str | None], int | None]:
    """What each column of a pair file is, None where it is not used, and the line of the header, if any."""
    line, first = first_row(path)
    named = [role if role in PAIR_COLUMNS else None for role in _header_roles(first)]
    header = {"user_id", "item_id"} <= set(named)
    if header and not are_pair_columns(named):
        raise ValueError(
            f"{path}:{line}: the header {first} does not name user, item and timestamp once each; "
            f"name its columns {','.join(PAIR_COLUMNS)} in the order of the file"
        )
    if pair_columns is not None:
        roles = [column if column in PAIR_COLUMNS else None for column in pair_columns]
        if len(roles) != len(first) or (header and roles != named):
            raise ValueError(f"{path}:{line}: pair_columns={pair_columns} does not fit the file's columns {first}")
    elif header:
        roles = named
    elif len(first) in (2, 3):
        roles = ["column 1", "column 2", "timestamp"][: len(first)]
    else:
        raise ValueError(
            f"{path}:{line}: {len(first)} columns where 2 or 3 are expected (user, item, timestamp), separated by "
            f"commas; if there are more, name all in a header line such as: {','.join(PAIR_COLUMNS)},rating"
        )
    return roles, line if header else None


def _read_pair(path: Path, item_ids: pl.Series, pair_columns: tuple[str, ...] | None) -> pl.DataFrame:
    roles, header_line = _pair_roles(path, pair_columns)
    rows = _read_columns(path, roles, skip_line=header_line)
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
    if jaccard[item] == 0:
        raise ValueError(
            f"{path}: no user or item id (e.g. {rows.row(0)[1:3]}) is in the items table (e.g. {item_ids[0]!r}); "
            "are these files of the same data set?"
        )
    overlaps = ", ".join(f"{column} {value:.3f}" for column, value in jaccard.items())
    both_look_like_items = contained[user] >= 0.5 and jaccard[item] < 0.5
    if both_look_like_items or jaccard[item] < 1.25 * jaccard[user]:
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
