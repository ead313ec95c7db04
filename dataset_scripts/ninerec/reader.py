"""Read and check items tables and cover folders in NineRec's layout.

Ids are strings everywhere. A malformed file is a `ValueError` that names FILE:LINE; everything that is left out by
rule is logged as a warning with a count and an example. The rules are listed in this folder's README.md.
"""

import logging
import os
from pathlib import Path

import numpy as np
import polars as pl

from .text_files import csv_rows, first_row


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


def is_cover(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in COVER_SUFFIXES and entry.is_file()


def _cover_preference(entry: os.DirEntry) -> tuple[int, str]:
    """Sort key: first suffix first; names that differ in case (`1.JPG`, `1.jpg`) by name, in any folder alike."""
    return COVER_SUFFIXES.index(os.path.splitext(entry.name)[1].lower()), entry.name


def warn(count: int, what: str, example: object) -> None:
    """Log one defined outcome; nothing is logged where it did not occur."""
    if count:
        logger.warning("%s %s (e.g. %r)", f"{count:,}", what, example)


# Columns


def header_roles(row: list[str]) -> list[str | None]:
    """For each field of a possible header row the column it names, None where unknown."""
    names = [field.strip().lower() for field in row]
    return [next((role for role, known in HEADER_NAMES.items() if n in known), None) for n in names]


# Items


def _item_roles(path: Path) -> tuple[list[str | None], int | None]:
    """What each column of an items table is, None where it is not used, and the line of the header, if any."""
    line, first = first_row(path)
    roles = header_roles(first)
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
        warn(table.height - items.height, f"rows of {path.name} repeat an item id: the first row is kept", example)
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
    warn(len(missing), f"items have no cover: their image is null; {where}", missing[0] if missing else None)
    return paths


def select_catalogue(items: pl.DataFrame, used: np.ndarray, catalogue: str) -> pl.DataFrame:
    """Rows of the items table that can be recommended, in table order.

    Args:
        items: see [`read_items`].
        used: `(V,)` whether each item occurs in a kept sequence.
        catalogue: `"interacted"`: items that occur in a kept sequence; `"all"`: every item of the table.
    """
    if catalogue == "interacted":
        unused = items.filter(~used)["item_id"]
        warn(
            unused.len(),
            'items occur in no kept sequence: not in the catalogue (catalogue="all" keeps them)',
            unused[0] if unused.len() else None,
        )
        items = items.filter(used)
    empty = items.filter((pl.col("text_zh").str.strip_chars() == "") & (pl.col("text_en").str.strip_chars() == ""))
    warn(
        empty.height,
        "items have an empty text in both languages: kept",
        empty["item_id"][0] if empty.height else None,
    )
    return items
