"""What the columns of a table are: by its header, by options or, without a header, by their values."""

import logging
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.compute as pc

from .advice import (
    ROW_KEYS,
    call_of,
    guess,
    guess_places,
    likeliest_time,
    may_be_names,
    most_usual,
    or_header,
    separated_by,
)
from .forms import FORMS, dialect_of, form_of, is_lines_a_user
from .interaction_rows import Chunks, to_arrow
from .layouts import Layout, with_layout
from .options import INTERACTION_COLUMNS, ITEM_COLUMNS, ITEMS_OWN_ID, OPTION_OF, TableOptions, named_columns, text_of
from .problems import RAISE, Problems
from .spellings import advice_on_unknown
from .text_files import first_row, text_rows


logger = logging.getLogger(__name__)

HEADER_NAMES = {
    "user_id": "user_id user uid userid user_ids users customer_id visitor_id visitorid reviewer_id".split(),
    "item_id": (
        "item_id item iid itemid id video_id video vid item_ids items video_ids movie_id movieid product_id asin "
        "article_id news_id"
    ).split(),
    "timestamp": "timestamp timestamps time ts unixtime unix_time date datetime event_time created_at".split(),
    "text_zh": "text_zh zh chinese title_zh zh_title chinese_title title_cn cn".split(),
    "text_en": "text_en en english title_en en_title english_title".split(),
    "title": "title text name product_name".split(),  # in the language that it is written in
    "rating": "rating ratings score stars overall".split(),
    "event_type": (
        "event_type event event_name action action_type behavior_type behaviour_type interaction_type"
    ).split(),
}
SEVERAL_ITEMS = ("item_ids", "items", "video_ids")  # headers of a column that holds all items of a user
PLACE = re.compile(r"column [1-9]\d*")
TIME_NAME = re.compile(r"(^|_)(time|date|datetime|timestamp|ts)(_|$)|_at$")
DAY_NAME = re.compile(r"(^|_)date$|^day$")
TIME_OF_DAY_NAME = re.compile(r"(^|_)(time|hour|hours|hourmin|hour_min|hour_of_day|time_of_day|minute)$")
# What is clearly a time: seconds or milliseconds from 1990 to 2033, and days.
CLEAR_TIME = re.compile(
    r"(1\d{9}|[6-9]\d{8})(\d{3})?(\.\d+)?|(19|20)\d\d(0[1-9]|1[0-2])[0-3]\d|\d{4}[-/.]\d\d?[-/.]\d\d?.*"
    r"|\d\d?[-/.]\d\d?[-/.]\d{4}.*"
)
SAMPLE_ROWS = 100  # that tell whether a column is one of times
DISTINCT_BITS = 24  # size of the bitmap that counts distinct values


def header_roles(row: list[str], columns: Mapping[str, str | None] | None = None) -> list[str | None]:
    """Returns for each field of a possible header row the column it names, None where unknown.

    Args:
        row: the fields.
        columns: what the columns are called, where it is not by one of the usual names: `{"user_id": "customer"}`.
    """
    names = [field.strip().lower() for field in row]
    spelled = [_spelled(name) for name in row]
    named = {role: name and name.strip().lower() for role, name in (columns or {}).items()}
    given = {name: role for role, name in named.items() if name in names}
    absent = {role for role, name in named.items() if name is None}
    found = {text_of(role) for role in given.values()}
    taken = absent | found | ({"title"} if {"text_zh", "text_en"} & found else set())
    usual = {name: role for role, known in HEADER_NAMES.items() for name in known if role not in taken}
    return [given.get(name, usual.get(other)) for name, other in zip(names, spelled, strict=True)]


def _spelled(name: str) -> str:
    """Returns a name as one of `HEADER_NAMES` is spelled: "User ID" is user_id."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def check_columns(options: TableOptions, items: Path, interactions: Path) -> None:
    """Checks that every name that is given is in a header: that for the user in that of the interactions, and so on.

    A name that is misspelt would otherwise mean the column of a usual name.
    """
    own = {"text_zh": [items], "text_en": [items], ITEMS_OWN_ID: [items], "item_id": [items, interactions]}
    for role, name in named_columns(options.columns).items():
        if name is None:
            continue
        there = {}
        for path in own.get(text_of(role), [interactions]):
            kind = "items" if path == items else "interactions"
            _, there[path], _ = column_names(path, with_layout(path, kind, options), kind)
        if not any(name.strip().lower() == field.strip().lower() for row in there.values() for field in row):
            listed = "; ".join(f"{path} has {row}" for path, row in there.items())
            raise ValueError(f"there is no column {name!r} for {text_of(role)}: {listed}")


def column_names(
    path: Path, options: TableOptions, role: str, on_problem: Problems = RAISE
) -> tuple[int, list[str], bool]:
    """Returns what the columns of a table are called: by its first row, or by their places.

    Args:
        path: of the table.
        options: how it is read, and what columns are called; `column 1` and the like are places.
        role: `"items"` or `"interactions"`. The other table may have a header, and `item_id` may be meant for it.
        on_problem: see [`first_row`].

    Returns:
        The line of the first row, the names, and whether that row may be a header.
    """
    line, first = first_row(path, options, on_problem=on_problem)
    columns = {text_of(name): column or "" for name, column in named_columns(options.columns).items()}
    own = ("text_zh", "text_en", ITEMS_OWN_ID) if role == "items" else (*INTERACTION_COLUMNS[::2], "impressions")
    if form_of(path).has_names or not any(PLACE.fullmatch(columns.get(name, "").strip().lower()) for name in own):
        return line, first, True
    return line, [f"column {number}" for number in range(1, len(first) + 1)], False


def item_roles(path: Path, options: TableOptions, on_problem: Problems = RAISE) -> tuple[list[str | None], int | None]:
    """Returns what each column of an items table is, None where it is not used, and the header's line, if any."""
    line, first, may_be_header = column_names(path, options, "items", on_problem)
    roles = header_roles(first, options.of_items)
    texts = {"text_zh", "text_en", "title"} & {text_of(role) for role in roles}
    if "item_id" in roles and texts:
        roles = [role if text_of(role) in (*ITEM_COLUMNS, "title") else None for role in roles]
        _check_distinct(path, line, first, roles)
        if "title" in roles and len(texts) > 1:
            title = "text_zh" if "text_en" in roles else "text_en"
            roles = [title if role == "title" else role for role in roles]
            if roles.count(title) > 1:
                raise ValueError(f"{path}:{line}: three columns of text where there are two languages: {first}")
        return roles, line if may_be_header else None
    if path.stem.endswith("_title_en") and len(first) == 2:  # as MicroLens is released
        return ["item_id", "text_en"], None
    if len(first) > 1 and (form_of(path).has_names or not path.stem.endswith("_item")):
        raise ValueError(
            f"{path}:{line}: {first} does not name an id and a text; say what the columns are called, such as "
            f"{call_of(guess(('item_id', 'text_en'), first))}{or_header(path, 'item_id,text_en')}"
        )
    if len(first) != 3:
        raise ValueError(
            f"{path}:{line}: {len(first)} columns where 3 are expected (id, Chinese text, English text), separated by "
            f"{separated_by(path, options)}; if the columns are others, add a header line such as: item_id,text_en"
        )
    if roles[0] == "item_id":
        raise ValueError(f"{path}:{line}: the header {first} names no text; name a column text_zh or text_en")
    if texts and not on_problem.collects:
        logger.warning("%s:%d: %s is read as an item; if it is a header, name item_id in it", path, line, first)
    return list(ITEM_COLUMNS), None


def _check_distinct(path: Path, line: int, names: list[str], roles: list[str | None]) -> None:
    for role in [role for role in dict.fromkeys(roles) if role is not None]:
        twice = [name for name, other in zip(names, roles, strict=True) if other == role]
        if len(twice) > 1:
            own = {"item_id": ITEMS_OWN_ID, "title": "text_en"}.get(role, role)
            chosen = next((name for name in twice if name.strip().lower() not in ROW_KEYS), twice[0])
            raise ValueError(
                f"{path}:{line}: two columns of the header mean the same ({role}): {' and '.join(map(repr, twice))}; "
                f"say which to use: {call_of({own: chosen})}"
            )


def behaviour_header(path: Path, options: TableOptions, on_problem: Problems = RAISE) -> int | None:
    """Returns the line of a behaviour file's header, if any."""
    for role in options.asked_for:
        raise ValueError(
            f"{path}: {OPTION_OF[role]} needs a column {role}, but the file has a line a user, which holds items "
            "only; give a table with a row an interaction"
        )
    line, first = first_row(path, options, literal=True, on_problem=on_problem)
    return line if header_roles(first, options.of_interactions) == ["user_id", "item_id"] else None


def is_behaviour(path: Path, options: TableOptions, on_problem: Problems = RAISE) -> bool:
    """Returns whether a file has a line a user, not a row an interaction.

    That is a TSV file named so, or one of two columns the second of which holds several items: by its header, or,
    where there is none, by spaces.
    """
    if form_of(path) is not FORMS[".tsv"] or is_lines_a_user(path):
        return is_lines_a_user(path)
    _, first = first_row(path, options, on_problem=on_problem)
    if len(first) != 2 or options.pair_columns is not None:
        return False
    columns = options.of_interactions
    if set(header_roles(first, columns)) == {"user_id", "item_id"}:
        return first[1].strip().lower() in SEVERAL_ITEMS and "item_id" not in columns
    return " " in first[1].strip()


def pair_roles(path: Path, options: TableOptions, on_problem: Problems = RAISE) -> tuple[list[str | None], int | None]:
    """Returns what each column of a pair file is, None where it is not used, and the line of the header, if any."""
    columns, wanted = options.of_interactions, (*INTERACTION_COLUMNS, *options.asked_for)
    line, first, may_be_header = column_names(path, options, "interactions", on_problem)
    keys = set(ROW_KEYS) - {name.strip().lower() for name in columns.values() if name is not None}
    named = [
        role if role in wanted and name.strip().lower() not in keys else None
        for name, role in zip(first, header_roles(first, columns), strict=True)
    ]
    header = {"user_id", "item_id"} <= set(named)
    if not header and (form_of(path).has_names or "user_id" in named or "item_id" in named):
        absent = tuple(role for role in ("user_id", "item_id") if role not in named)
        free = [name for name, role in zip(first, named, strict=True) if role is None]
        call = call_of(guess(absent, free)) if free else "columns={…}"
        raise ValueError(
            f"{path}:{line}: its columns {first} name no {' and no '.join(role[:-3] for role in absent)}; say what "
            f"they are called, such as {call}"
        )
    if header:
        _check_header(f"{path}:{line}", first, named, options)
    roles: list[str | None]
    if options.pair_columns is not None:
        roles = [column if column in wanted else None for column in options.pair_columns]
        if len(roles) != len(first) or (header and roles != named):
            raise ValueError(
                f"{path}:{line}: pair_columns={options.pair_columns} does not fit the file's columns {first}"
            )
    elif header:
        roles = named
    elif len(first) == 3 and may_be_header and may_be_names(first):
        raise ValueError(
            f"{path}:{line}: timestamp {first[2]!r} is no time; if {first} is the header, say what its columns are "
            f"called, such as {call_of(guess(INTERACTION_COLUMNS, first))}"
        )
    elif len(first) in (2, 3):
        roles = [*("column 1", "column 2", "timestamp")[: len(first)]]
        if len(first) == 3:
            _check_time_is_last(path, line, options)
    else:
        raise ValueError(
            f"{path}:{line}: {len(first)} columns where 2 or 3 are expected (user, item, timestamp), separated by "
            f"{separated_by(path, options)}: {first[:6]}; say which is which, such as {call_of(guess_places(first))}, "
            "or add a header line such as "
            f"{','.join(INTERACTION_COLUMNS)},rating"
        )
    for role in options.asked_for:
        if role not in roles:
            how = f'columns={{"{role}": "…"}}' if header else f"pair_columns={(*INTERACTION_COLUMNS, role)}"
            raise ValueError(
                f"{path}:{line}: {OPTION_OF[role]} needs a column {role}, and none of {first} is called so; say which "
                f"it is: {how}"
            )
    return roles, line if header and may_be_header else None


def _check_header(place: str, first: list[str], named: list[str | None], options: TableOptions) -> None:
    """Raises if names of columns may mean several things; `named` has the role of each name in `first`."""
    columns = options.of_interactions
    times = [name for name in first if TIME_NAME.search(name.strip().lower())]
    if "timestamp" not in columns:
        _check_day_and_time(place, first, times)
    if len(times) > 1 and "timestamp" not in columns:
        raise ValueError(
            f"{place}: {' and '.join(map(repr, times))} may both be the time; say which: "
            f"{call_of({'timestamp': likeliest_time(times)})}"
        )
    for role in (*INTERACTION_COLUMNS, *options.asked_for):
        twice = [name for name, other in zip(first, named, strict=True) if other == role]
        if len(twice) > 1:
            raise ValueError(
                f"{place}: {' and '.join(map(repr, twice))} are both taken for {role}; say which column it is: "
                f"{call_of({role: most_usual(HEADER_NAMES.get(role, []), twice)})}"
            )
    if not options.are_interactions(named):
        raise ValueError(
            f"{place}: the header {first} does not name user, item and timestamp once each; name its columns "
            f"{','.join(INTERACTION_COLUMNS)} in the order of the file, or say what the time is called: "
            f"{call_of({'timestamp': times[0] if times else '…'})}, or {call_of({'timestamp': None})} where there is "
            "none"
        )


def _check_day_and_time(place: str, names: list[str], times: list[str]) -> None:
    """Raises if the time may be in two columns: one of the day, and one of the time of day."""
    day = next((name for name in names if DAY_NAME.search(_spelled(name))), None)
    of_day = next((name for name in names if TIME_OF_DAY_NAME.search(_spelled(name))), None)
    if day is not None and of_day is not None and not set(times) - {day, of_day}:
        raise ValueError(
            f"{place}: {day!r} and {of_day!r} may be the day and the time of day: join them in one column, such as "
            "2021-05-07 12:30:00; where one of them is the whole time, or all that counts, say which: "
            f"{call_of({'timestamp': '…'})}"
        )


def _check_time_is_last(path: Path, line: int, options: TableOptions) -> None:
    """Refuses a table without header whose third column can be no time while another clearly is one."""
    rows = islice(text_rows(path, dialect_of(path, options), Problems()), SAMPLE_ROWS)
    columns = list(zip(*(row for _, row in rows if len(row) == 3), strict=True))
    are_times = [all(CLEAR_TIME.fullmatch(value.strip()) for value in column) for column in columns]
    if any(are_times[:2]) and not are_times[2]:
        place = are_times.index(True)
        call = call_of(guess_places([values[0] for values in columns]))
        raise ValueError(
            f"{path}:{line}: without a header the third column is taken for the time, but column {place + 1} is like "
            f"one ({columns[place][0]!r}) and the third is not ({columns[2][0]!r}); say which is which, such as {call}"
        )


def check_layout(path: Path, chunks: Chunks, item_ids: pl.Series, layout: Layout) -> None:
    """Refuses a table that only looks like that of a layout: its users overlap more with the items than its items."""
    jaccard, _, example = _overlaps(path, chunks, item_ids, ("user_id", "item_id"))
    if jaccard["item_id"] == 0 or jaccard["user_id"] > jaccard["item_id"]:
        user, item = example
        raise ValueError(
            f"{path}: its rows look like those of {layout.name}, read by {call_of(layout.columns)}, but "
            f"users (e.g. {user!r}) are in the items table (e.g. {item_ids[0]!r}) as often as items (e.g. {item!r}), "
            "or more; say which column is which: columns={…}"
        )


def name_roles(path: Path, chunks: Chunks, columns: list[str | None], item_ids: pl.Series) -> list[str | None]:
    """Returns what each column is, with the columns of users and items told apart by their values where need be."""
    if "user_id" in columns:
        return columns
    user, item = _detect_order(path, chunks, item_ids)
    roles: dict[str | None, str] = {user: "user_id", item: "item_id"}
    return [roles.get(column, column) for column in columns]


def _detect_order(path: Path, chunks: Chunks, item_ids: pl.Series) -> tuple[str, str]:
    """Finds which column holds users and which items, by the overlap of distinct values with the items table.

    Containment does not suffice: where both ids are integers from 1, all users are item ids, too. Then only the usual
    order, user before item, is believed, and only if the items are nearly all of the table, and the users are not.
    """
    jaccard, contained, example = _overlaps(path, chunks, item_ids, ("column 1", "column 2"))
    user, item = sorted(jaccard, key=jaccard.__getitem__)
    if jaccard[item] == 0:
        raise ValueError(
            f"{path}: no user or item id (e.g. {example}) is in the items table (e.g. {item_ids[0]!r}); "
            f"{advice_on_unknown(pl.Series(example), item_ids)}"
        )
    overlaps = ", ".join(f"{column} {value:.3f}" for column, value in jaccard.items())
    both_look_like_items = min(contained.values()) >= 0.5
    unusual = item != "column 2" or jaccard[item] < 0.9
    if (both_look_like_items and unusual) or jaccard[item] < 1.25 * jaccard[user]:
        raise ValueError(
            f"{path}: cannot tell users from items: overlap with the items table is {overlaps}. "
            "Add a header line such as user_id,item_id,timestamp in the order of the file, or give the option "
            'pair_columns=("user_id", "item_id", "timestamp"), in a script --pair_columns user_id item_id timestamp '
            "(without timestamp where there is none)."
        )
    logger.info("%s: %s holds items, %s users (overlap with the items table: %s)", path.name, item, user, overlaps)
    return user, item


def _overlaps(
    path: Path, chunks: Chunks, item_ids: pl.Series, names: tuple[str, str]
) -> tuple[dict[str, float], dict[str, float], tuple[str, str]]:
    """Returns how far the distinct values of two columns are those of the items table, and the values of a row.

    Returns: by column the share of both together that is common; the share of the column's; and the first row.
    """
    table = to_arrow(item_ids)
    counters = {name: DistinctCounter() for name in names}
    in_table = {name: np.zeros(len(table), dtype=bool) for name in names}
    example = None
    for chunk in chunks():
        if chunk.is_empty():
            continue
        example = example or chunk.select(names).row(0)
        for name in names:
            counters[name].add(chunk[name])
            in_table[name][pc.index_in(to_arrow(chunk[name]), value_set=table).drop_null()] = True
    if example is None:
        raise ValueError(f"{path}: no row can be read from this file")
    jaccard, contained = {}, {}
    for name in names:
        common, distinct = int(in_table[name].sum()), counters[name].estimate()
        jaccard[name] = common / (distinct + len(table) - common)
        contained[name] = common / distinct
    return jaccard, contained, example


class DistinctCounter:
    """Counts distinct values in fixed memory, to a fraction of a per cent (linear counting, Whang et al., TODS 1990).

    >>> counter = DistinctCounter()
    >>> counter.add(pl.Series(["a", "b"]))
    >>> counter.add(pl.Series(["b", "c"]))
    >>> counter.estimate()
    3
    """

    def __init__(self):
        self.seen = np.zeros(1 << DISTINCT_BITS, dtype=bool)

    def add(self, values: pl.Series) -> None:
        self.seen[values.hash().to_numpy() >> np.uint64(64 - DISTINCT_BITS)] = True

    def estimate(self) -> int:
        num_seen = min(int(self.seen.sum()), len(self.seen) - 1)
        return round(-len(self.seen) * np.log1p(-num_seen / len(self.seen)))
