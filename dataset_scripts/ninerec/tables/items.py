"""Read items tables: ids and texts, all strings.

A malformed file is an error that names FILE:LINE; everything that is left out by rule is logged as a warning with a
count and an example. The rules are listed in this folder's README.md.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .advice import call_of
from .columns import item_roles
from .forms import MISSING, dialect_of, form_of
from .joined_texts import join_columns
from .json_files import as_field, what_is_wrong
from .layouts import with_layout
from .options import EVERYTHING, ITEM_COLUMNS, TableOptions, named_columns, text_of
from .parquet_files import as_strings, parquet_chunks, parquet_columns
from .problems import RAISE, Problems, shown, warn
from .text_files import advice_on_quotes, check_encoding, strip, text_rows


ITEM_ROWS = 1 << 20  # of a Parquet file that are read at a time


def read_items(path: Path, options: TableOptions = EVERYTHING, on_problem: Problems = RAISE) -> pl.DataFrame:
    """Reads the items table: `item_id`, `text_zh`, `text_en`, all string, in file order, each id once.

    Args:
        path: a table of one of `FORMS`.
        options: what its columns are called; a text of several is made by [`join_columns`].
        on_problem: what happens to a row of text that is wrong. While problems are collected, there is a column
            `line` as well.
    """
    options = with_layout(path, "items", options, on_problem)
    if form_of(path).kind == "parquet":
        found = _read_item_parquet(path, options, on_problem)
    else:
        found = _read_item_text(path, options, on_problem)
    _tell_missing(path, found, on_problem)
    for role, names in (options.columns or {}).items():
        if not isinstance(names, str | None):
            joined = join_columns({name: found.pop(f"{role}/{name}") for name in names}, names)
            found[role] = pl.Series(joined, dtype=pl.String)
    table = pl.DataFrame(found)
    if "title" in table.columns:
        table = table.rename({"title": language_of(table["title"])})
    absent = [pl.lit("").alias(column) for column in ITEM_COLUMNS if column not in table.columns]
    table = table.with_columns(absent).select(*ITEM_COLUMNS, "line")
    if table.is_empty():
        what = "no item can be read from this file" if on_problem.collects else "the file has a header but no items"
        raise ValueError(f"{path}: {what}")
    items = table.unique("item_id", keep="first", maintain_order=True)
    if items.height < table.height:
        again = table.filter(~pl.col("item_id").is_first_distinct())
        what = "rows that repeat an item id: the first row is kept"
        add_repeated(on_problem, "warning", path, what, items, again, "item_id")
    return items if on_problem.collects else items.drop("line")


def _tell_missing(path: Path, found: dict[str, pl.Series], on_problem: Problems) -> None:
    """Reports ids and texts that stand for a missing value; they are kept, as another program may mean them."""
    for role, values in found.items():
        if values.dtype == pl.Object:
            values = pl.Series([one if isinstance(one, str) else "" for one in values], dtype=pl.String)
        if values.dtype != pl.String:
            continue
        is_missing = values.str.strip_chars().is_in(MISSING).fill_null(False)
        if is_missing.any():
            name = role.rpartition("/")[2]
            what = f"values of {name} that stand for a missing value: kept as they are; leave such fields empty"
            lines = [
                (line, shown(value))
                for line, value in zip(
                    found["line"].filter(is_missing).head(max(on_problem.max_examples, 1)),
                    values.filter(is_missing),
                    strict=False,
                )
            ]
            on_problem.add_lines("warning", path, what, int(is_missing.sum()), lines)


def add_repeated(
    problems: Problems, severity: str, path: Path, what: str, items: pl.DataFrame, again: pl.DataFrame, column: str
) -> None:
    """Adds rows of an items table that repeat the value of an earlier row in a column."""
    earlier = items.unique(column, keep="first").select(column, pl.col("line").alias("first"))
    found = again.head(problems.max_examples).join(earlier, on=column, how="left", maintain_order="left")
    rows = found.select("line", column, "first").rows()
    lines = [(line, f"{shown(value)} stands in line {first}") for line, value, first in rows]
    problems.add_lines(severity, path, what, again.height, lines)


def language_of(titles: pl.Series) -> str:
    """Returns `text_zh` where most of the first titles have a Chinese character, else `text_en`."""
    first = titles.filter(titles.str.strip_chars() != "").head(1000)
    chinese = int(first.str.contains(r"\p{Han}").sum())
    return "text_zh" if 2 * chinese > len(first) else "text_en"


def _read_item_parquet(path: Path, options: TableOptions, on_problem: Problems) -> dict[str, pl.Series]:
    roles, _ = item_roles(path, options, on_problem)
    names = parquet_columns(path)
    used = [name for name, role in zip(names, roles, strict=True) if role]
    frames = list(parquet_chunks(path, used, ITEM_ROWS))
    nothing = pl.DataFrame({name: [] for name in used}, dict.fromkeys(used, pl.String))
    frame = pl.concat(frames, how="vertical_relaxed") if frames else nothing
    found = {"line": pl.int_range(1, frame.height + 1, eager=True)}
    for name, role in zip(names, roles, strict=True):
        if role is not None:
            as_it_is = "/" in role and frame[name].dtype != pl.Binary
            found[role] = frame[name] if as_it_is else as_strings(path, name, frame[name])
            if role.startswith("t") and "/" not in role:
                found[role] = found[role].fill_null("")
    found["item_id"] = found["item_id"].str.strip_chars()
    empty = found["item_id"].is_null() | (found["item_id"] == "").fill_null(False)
    if not empty.any():
        return found
    rows = found["line"].filter(empty)
    if not on_problem.collects:
        raise ValueError(f"{path}, row {rows[0]}: empty item_id; fill it in or remove this row")
    what = "rows with an empty item_id; fill it in or remove them"
    on_problem.add_lines(
        "error", path, what, len(rows), [(row, "no id") for row in rows.head(on_problem.max_examples)]
    )
    return {role: values.filter(~empty) for role, values in found.items()}


def _read_item_text(path: Path, options: TableOptions, on_problem: Problems) -> dict[str, pl.Series]:
    if on_problem.collects:
        check_encoding(path, on_problem)
    roles, header_line = item_roles(path, options, on_problem)
    index = {role: number for number, role in enumerate(roles) if role is not None}
    lines: list[int] = []
    found: dict[str, list[Any]] = {role: [] for role in index}
    dialect = dialect_of(path, options)
    for line, row in text_rows(path, dialect, on_problem):
        if line == header_line:
            continue
        if len(row) != len(roles):
            names = ", ".join(role or "not used" for role in roles)
            on_problem.error(
                path,
                f"rows that have not {len(roles)} columns ({names}); texts with commas need double quotes",
                1,
                [(line, f"{len(row)} columns: {shown(','.join(map(as_field, row)))}")],
                f"{len(row)} columns where {len(roles)} are expected: {row[:4]}; texts with commas or line breaks "
                f"need double quotes around them{advice_on_quotes(row, dialect)}",
            )
        elif odd := [(role, why) for role, number in index.items() if (why := what_is_wrong(row[number]))]:
            name, why = text_of(odd[0][0]), odd[0][1]
            what = f"rows whose {name} is an object, or cut within a character; ids and texts are strings or numbers"
            of_item = f" of item {row[index['item_id']]!r}" if name != "item_id" else ""
            on_problem.error(path, what, 1, [(line, f"{name} is {why}")], f"{name}{of_item} is {why}")
        elif wrong := [role for role, number in index.items() if "/" not in role and isinstance(row[number], list)]:
            what = f"rows with a list as {wrong[0]}; ids and texts are strings or numbers"
            fix = f'columns={{"{wrong[0]}": ["NAME"]}} makes a text of the lists in column NAME'
            on_problem.error(path, what, 1, [(line, "")], f"{wrong[0]} is a list; {fix}")
        elif not strip(row[index["item_id"]]):
            what = "rows with an empty item_id; fill it in or remove them"
            message = "empty item_id; fill it in or remove this line"
            on_problem.error(path, what, 1, [(line, shown(",".join(map(as_field, row))))], message)
        else:
            lines.append(line)
            for role, number in index.items():
                found[role].append(strip(row[number]) if role == "item_id" else row[number])
    # A text of several columns may be made of lists, too.
    texts = {role: pl.Series(values, dtype=pl.Object if "/" in role else pl.String) for role, values in found.items()}
    if header_line is None and roles == list(ITEM_COLUMNS) and not named_columns(options.of_items):
        _check_places(path, texts["text_zh"])
    return {**texts, "line": pl.Series(lines, dtype=pl.Int64)}


def _check_places(path: Path, chinese: pl.Series) -> None:
    """Refuses a table without a header that is not NineRec's, whose columns are id, Chinese text, English text."""
    texts = chinese.filter(chinese.str.strip_chars() != "")
    if len(texts) and language_of(chinese) != "text_zh":
        raise ValueError(
            f"{path}: without a header its columns are taken for NineRec's (id, Chinese text, English text), and most "
            f"of column 2 is not Chinese, such as {texts[0]!r}; say what they are: "
            f"{call_of({'item_id': 'column 1', 'text_en': 'column 2'})}, or add a header line such as item_id,text_en"
        )


def select_catalogue(items: pl.DataFrame, used: np.ndarray, catalogue: str) -> pl.DataFrame:
    """Returns the rows of the items table that can be recommended, in table order.

    Args:
        items: see [`read_items`].
        used: `(V,)` whether each item occurs in a kept sequence.
        catalogue: `"interacted"`: items that occur in a kept sequence; `"all"`: every item of the table.
    """
    if catalogue == "interacted":
        unused = items.filter(~used)["item_id"]
        what = 'items occur in no kept sequence: not in the catalogue (catalogue="all" keeps them)'
        warn(unused.len(), what, unused.first())
        items = items.filter(used)
    empty = items.filter((pl.col("text_zh").str.strip_chars() == "") & (pl.col("text_en").str.strip_chars() == ""))
    warn(empty.height, "items have an empty text in both languages: kept", empty["item_id"].first())
    return items
