"""Read and check items tables and cover folders in NineRec's layout.

Ids are strings everywhere. A malformed file is a `ValueError` that names FILE:LINE; everything that is left out by
rule is logged as a warning with a count and an example. The rules are listed in this folder's README.md.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from .archives import Member, covers_of
from .text_files import csv_rows, first_row, parquet_chunks, parquet_columns


logger = logging.getLogger(__name__)

ITEM_ROWS = 1 << 20  # of a Parquet file that are read at a time
COVER_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in order of preference
HEADER_NAMES = {
    "user_id": "user_id user uid userid user_ids users customer_id visitor_id reviewer_id".split(),
    "item_id": (
        "item_id item iid itemid id video_id video vid item_ids items video_ids movie_id movieid product_id asin "
        "article_id news_id"
    ).split(),
    "timestamp": "timestamp timestamps time ts unixtime unix_time date datetime event_time created_at".split(),
    "text_zh": "text_zh zh chinese title_zh zh_title chinese_title title_cn cn".split(),
    "text_en": "text_en en english title_en en_title english_title".split(),
    "title": "title text name product_name".split(),  # in the language that it is written in
}
ITEM_COLUMNS = ("item_id", "text_zh", "text_en")


def is_cover(entry: os.DirEntry) -> bool:
    return _is_picture(entry.name) and entry.is_file()


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in COVER_SUFFIXES


def _cover_preference(name: str) -> tuple[int, str]:
    """Sort key: first suffix first; names that differ in case (`1.JPG`, `1.jpg`) by name, in any folder alike."""
    return COVER_SUFFIXES.index(os.path.splitext(name)[1].lower()), name


def warn(count: int, what: str, example: object) -> None:
    """Log one defined outcome; nothing is logged where it did not occur."""
    if count:
        logger.warning("%s %s (e.g. %r)", f"{count:,}", what, example)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Within it, what is left out is not logged."""
    package = logging.getLogger("modeling_transrec.ninerec")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)


# Columns


def header_roles(row: list[str], columns: dict[str, str] | None = None) -> list[str | None]:
    """For each field of a possible header row the column it names, None where unknown.

    Args:
        row: the fields.
        columns: what the columns are called, where it is not by one of the usual names: `{"user_id": "customer"}`.
    """
    names = [field.strip().lower() for field in row]
    given = {name.strip().lower(): role for role, name in (columns or {}).items() if name.strip().lower() in names}
    taken = set(given.values()) | ({"title"} if {"text_zh", "text_en"} & set(given.values()) else set())
    usual = {name: role for role, known in HEADER_NAMES.items() for name in known if role not in taken}
    return [given.get(name, usual.get(name)) for name in names]


def check_columns(columns: dict[str, str] | None, items: Path, interactions: Path) -> None:
    """Every name that is given must be in a header, the one for the user in that of the interactions, and so on.

    A name that is misspelt would otherwise mean the column of a usual name.
    """
    tables = {"user_id": [interactions], "timestamp": [interactions], "text_zh": [items], "text_en": [items]}
    for role, name in (columns or {}).items():
        there = {}
        for path in tables.get(role, [items, interactions]):
            _, there[path] = first_row(path, literal=path.stem.endswith("_behaviour"))
        if not any(name.strip().lower() == field.strip().lower() for row in there.values() for field in row):
            listed = "; ".join(f"{path} has {row}" for path, row in there.items())
            raise ValueError(f"there is no column {name!r} for {role}: {listed}")


# Items


def item_roles(path: Path, columns: dict[str, str] | None = None) -> tuple[list[str | None], int | None]:
    """What each column of an items table is, None where it is not used, and the line of the header, if any."""
    line, first = first_row(path)
    roles = header_roles(first, columns)
    texts = {"text_zh", "text_en", "title"} & set(roles)
    if "item_id" in roles and texts:
        roles = [role if role in (*ITEM_COLUMNS, "title") else None for role in roles]
        used = [role for role in roles if role is not None]
        if len(set(used)) < len(used):
            raise ValueError(
                f"{path}:{line}: two columns of the header mean the same: {first}; say which to use: "
                'columns={"text_en": …}'
            )
        if "title" in roles and len(texts) > 1:
            title = "text_zh" if "text_en" in roles else "text_en"
            roles = [title if role == "title" else role for role in roles]
            if len(set(roles) - {None}) < len(used):
                raise ValueError(f"{path}:{line}: three columns of text where there are two languages: {first}")
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


def read_items(path: Path, columns: dict[str, str] | None = None) -> pl.DataFrame:
    """Read the items table: `item_id`, `text_zh`, `text_en`, all string, in file order, each id once.

    Args:
        path: CSV, TSV or Parquet.
        columns: what its columns are called, where it is not by one of the usual names.
    """
    roles, header_line = item_roles(path, columns)
    read = _read_item_parquet if path.suffix == ".parquet" else _read_item_text
    table = pl.DataFrame(read(path, roles, header_line))
    if "title" in table.columns:
        table = table.rename({"title": language_of(table["title"])})
    absent = [pl.lit("").alias(column) for column in ITEM_COLUMNS if column not in table.columns]
    table = table.with_columns(absent).select(ITEM_COLUMNS)
    if table.is_empty():
        raise ValueError(f"{path}: the file has a header but no items")
    items = table.unique("item_id", keep="first", maintain_order=True)
    if items.height < table.height:
        example = table.filter(pl.col("item_id").is_duplicated())["item_id"][0]
        warn(table.height - items.height, f"rows of {path.name} repeat an item id: the first row is kept", example)
    return items


def language_of(titles: pl.Series) -> str:
    """`text_zh` where most of the first titles have a Chinese character, else `text_en`."""
    first = titles.filter(titles.str.strip_chars() != "").head(1000)
    share = first.str.contains(r"\p{Han}").mean() or 0.0
    return "text_zh" if share > 0.5 else "text_en"


def _read_item_parquet(path: Path, roles: list[str | None], header_line: int | None) -> dict[str, pl.Series]:
    names = parquet_columns(path)
    used = [name for name, role in zip(names, roles, strict=True) if role]
    frames = list(parquet_chunks(path, used, ITEM_ROWS))
    frame = pl.concat(frames) if frames else pl.DataFrame({name: [] for name in used}, dict.fromkeys(used, pl.String))
    found = {}
    for name, role in zip(names, roles, strict=True):
        if role is not None:
            found[role] = as_strings(path, name, frame[name])
    ids = found["item_id"].str.strip_chars()
    if ids.null_count() or (ids == "").any():
        row = (ids.is_null() | (ids == "")).arg_true()[0]
        raise ValueError(f"{path}, row {row + 1}: empty item_id; fill it in or remove this row")
    return {**{role: values.fill_null("") for role, values in found.items()}, "item_id": ids}


def as_strings(path: Path, name: str, values: pl.Series) -> pl.Series:
    """Ids or texts of a Parquet column as strings; numbers with a fraction are no ids.

    A column without any value is of no type, or, as pandas writes it, of numbers that are none.
    """
    if values.is_null().all() or (values.dtype.is_float() and values.is_nan().fill_null(True).all()):
        return pl.Series(values.name, [None] * len(values), dtype=pl.String)
    if values.dtype == pl.String or values.dtype.is_integer():
        return values.cast(pl.String)
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    raise ValueError(f"{path}: column {name!r} is of type {values.dtype}; ids and texts must be strings or integers")


def _read_item_text(path: Path, roles: list[str | None], header_line: int | None) -> dict[str, list[str]]:
    index = {role: i for i, role in enumerate(roles) if role is not None}
    columns: dict[str, list[str]] = {role: [] for role in index}
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
        for role, place in index.items():
            columns[role].append(row[place].strip() if role == "item_id" else row[place])
    return {role: pl.Series(values, dtype=pl.String) for role, values in columns.items()}


def find_covers(folder: Path | tuple[Member, ...] | None, item_ids: pl.Series) -> list[str | Member | None]:
    """Each item's cover, None where there is none or the file has no bytes. One listing, no guessed path."""
    found: dict[str, str | Member] = {}
    if isinstance(folder, tuple):
        found = {name: one for name, (one, size) in covers_of(folder).items() if _is_picture(name) and size > 0}
        where = f"in {', '.join(map(str, folder))}"
    elif folder is not None:
        with os.scandir(folder.absolute()) as entries:
            found = {entry.name: entry.path for entry in entries if is_cover(entry) and entry.stat().st_size > 0}
        where = f"in {folder.name}"
    else:
        where = "there is no cover folder"
    covers: dict[str, str | Member] = {}
    for name in sorted(found, key=_cover_preference, reverse=True):  # the best one is set last
        covers[os.path.splitext(name)[0]] = found[name]
    paths = [covers.get(item_id) for item_id in item_ids]
    missing = [item_id for item_id, path in zip(item_ids, paths, strict=True) if path is None]
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
