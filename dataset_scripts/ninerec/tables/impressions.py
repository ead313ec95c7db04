"""Tables with a row an impression, as MIND is released: what a user had clicked before, and what was shown.

Of what was shown, only what was clicked is an interaction: `N6-1`, not `N7-0`. What a user had clicked before has no
times; it is taken from the user's first row, and stands before all that the table has a time for.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import polars as pl

from .columns import column_names, header_roles
from .forms import dialect_of, form_of
from .interaction_rows import Chunks, find_time_form
from .numbers import TimeForm
from .options import OPTION_OF, TableOptions
from .problems import RAISE, Problems, shown
from .text_files import field_chunks


ROLES = ("user_id", "timestamp", "history", "impressions")


def impression_chunks(path: Path, options: TableOptions, on_problem: Problems = RAISE) -> tuple[Chunks, TimeForm]:
    """Returns the interactions of a table whose columns are `user_id`, `timestamp`, `history` and `impressions`.

    Args:
        path: of the table, a text.
        options: with `impressions` in `columns`.
        on_problem: what happens to a row that is wrong.

    Raises:
        ValueError: if one of the columns is not there, or options ask for a rating or a type of event.
    """
    if form_of(path).kind != "text":
        raise ValueError(f"{path}: a table with a row an impression must be a text; write it as .tsv")
    for role in options.asked_for:
        raise ValueError(f"{path}: {OPTION_OF[role]} needs a column {role}, which a table of impressions has not")
    line, names, may_be_header = column_names(path, options, "interactions", on_problem)
    roles = header_roles(names, options.of_interactions)
    for role in ROLES:
        if roles.count(role) != 1:
            raise ValueError(
                f"{path}:{line}: a table of impressions needs a column {role}; say which of {names} it is: "
                f'columns={{"{role}": "…"}}'
            )
    header_line = line if may_be_header else None
    times = find_time_form(path, roles, header_line, options, on_problem)
    places = {role: roles.index(role) for role in ROLES}

    def rows(problems: Problems) -> Iterator[pl.DataFrame]:
        for chunk in field_chunks(path, dialect_of(path, options), problems):
            rows = chunk.filter(pl.col("line") != (header_line or 0))
            wrong = rows.filter(pl.col("fields").list.len() != len(roles))
            if not wrong.is_empty():
                what = f"{{}} columns where {len(roles)} are expected; correct or remove this line"
                _report(path, wrong, f"rows that have not {len(roles)} columns", what, problems)
            rows = rows.filter(pl.col("fields").list.len() == len(roles)).select(
                "line", "fields", *(pl.col("fields").list.get(place).alias(role) for role, place in places.items())
            )
            rows = rows.with_columns(
                user_id=pl.col("user_id").str.strip_chars(), timestamp=times.parse(rows["timestamp"])
            )
            wrong = rows.filter(pl.col("timestamp").is_null() | (pl.col("user_id") == ""))
            if not wrong.is_empty():
                what = f"rows without a user, or whose time is no {times.name}"
                _report(path, wrong, what, f"no user, or a time that is no {times.name}", problems)
            yield rows.filter(pl.col("timestamp").is_not_null() & (pl.col("user_id") != "")).drop("fields")

    quiet = Problems() if on_problem.collects else RAISE
    times_of_chunks = (chunk["timestamp"].min() for chunk in rows(quiet))
    earliest = min((cast(int, time) for time in times_of_chunks if time is not None), default=0)

    def chunks() -> Iterator[pl.DataFrame]:
        seen: set[str] = set()
        for chunk in rows(on_problem):
            is_new = chunk["user_id"].is_first_distinct() & ~chunk["user_id"].is_in(list(seen))
            seen.update(chunk["user_id"].unique())
            yield pl.concat([_before(chunk.filter(is_new), earliest), _clicked(chunk)]).select(
                "user_id", "item_id", "timestamp", *(["line"] if on_problem.collects else [])
            )

    return chunks, times


def _before(rows: pl.DataFrame, earliest: int) -> pl.DataFrame:
    """Returns what users had clicked before, one tick apart."""
    items = rows.select("line", "user_id", item_id=pl.col("history").str.extract_all(r"\S+"))
    ranks = pl.int_ranges(pl.col("item_id").list.len(), 0, step=-1)
    return items.with_columns(timestamp=earliest - ranks).explode("item_id", "timestamp").drop_nulls("item_id")


def _clicked(rows: pl.DataFrame) -> pl.DataFrame:
    shown_items = (
        pl.col("impressions")
        .str.extract_all(r"\S+-1(?:\s|$)")
        .list.eval(pl.element().str.strip_chars().str.strip_suffix("-1"))
    )
    items = rows.select("line", "user_id", shown_items.alias("item_id"), "timestamp")
    return items.explode("item_id").drop_nulls("item_id")


def _report(path: Path, wrong: pl.DataFrame, what: str, message: str, on_problem: Problems) -> None:
    first = wrong.head(max(on_problem.max_examples, 1))
    lines = [(line, shown("\t".join(row))) for line, row in zip(first["line"], first["fields"].to_list(), strict=True)]
    on_problem.error(path, what, wrong.height, lines, message.format(len(wrong["fields"][0])))
