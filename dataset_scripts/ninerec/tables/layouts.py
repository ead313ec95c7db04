"""Tables as others have released them: what their columns mean. A layout is a row of `LAYOUTS`, and no other code.

A table with a header, or with named columns, is one where it has all the columns that its row names; a table without
one, where the fields of its first row are of the form that its row says.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .forms import form_of
from .options import EVERYTHING, TableOptions, named_columns
from .problems import RAISE, Problems
from .text_files import first_row


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One table of a data set, as it is released.

    Args:
        name: of the data set.
        role: `"items"` or `"interactions"`.
        columns: see [`TableOptions`]; columns without a name are `column 1`, `column 2`, …
        beside: further columns by which it is recognised.
        fields: of a table without a header: the form of each field of the first row.
        options: further options of reading it.
    """

    name: str
    role: str
    columns: Mapping[str, str | None]
    beside: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, row: list[str]) -> bool:
        """Returns whether a first row is that of such a table."""
        if self.fields:
            return len(row) == len(self.fields) and all(map(re.fullmatch, self.fields, row))
        return {*filter(None, self.columns.values()), *self.beside} <= {name.strip() for name in row}


ANYTHING, NUMBER, RATING, SECONDS = r"(?s:.*)", r"\d+", r"[0-5](\.[05])?", r"\d{8,10}"
ASIN, REVIEWER = r"[A-Z0-9]{10}", r"A[A-Z0-9]{9,}"
LAYOUTS = (
    Layout(
        "MIND",
        "items",
        {"item_id": "column 1", "text_en": "column 4"},
        fields=(r"N\d+", "[a-z]*", "[a-z0-9-]*", ANYTHING, ANYTHING, r"https?://.*", r"(\[.*\])?", r"(\[.*\])?"),
        options={"separator": "\t", "quoting": "none"},
    ),
    Layout(
        "MIND",
        "interactions",
        {"user_id": "column 2", "timestamp": "column 3", "history": "column 4", "impressions": "column 5"},
        fields=(NUMBER, r"U\d+", r"\d+/\d+/\d{4} [\d:]+ [AP]M", r"(N\d+ ?)*", r"(N\d+(-[01])? ?)+"),
        options={"separator": "\t", "quoting": "none", "time_format": "%m/%d/%Y %I:%M:%S %p"},
    ),
    Layout(
        "MovieLens",
        "items",
        {"item_id": "column 1", "text_en": "column 2"},
        fields=(NUMBER, r".+ \(\d{4}\)", r"[\w' ()-]+(\|[\w' ()-]+)*"),
        options={"separator": "::"},
    ),
    Layout(
        "MovieLens",
        "items",
        {"item_id": "column 1", "text_en": "column 2"},
        fields=(NUMBER, r".+ \(\d{4}\)", r"[\w-]*", ANYTHING, ANYTHING, *["[01]"] * 19),
        options={"separator": "|"},
    ),
    Layout(
        "MovieLens",
        "interactions",
        {"user_id": "column 1", "item_id": "column 2", "timestamp": "column 4", "rating": "column 3"},
        fields=(NUMBER, NUMBER, RATING, SECONDS),
        options={"separator": "::"},
    ),
    Layout(
        "MovieLens",
        "interactions",
        {"user_id": "column 1", "item_id": "column 2", "timestamp": "column 4", "rating": "column 3"},
        fields=(NUMBER, NUMBER, RATING, SECONDS),
        options={"separator": "\t"},
    ),
    Layout("Amazon Reviews 2023", "items", {"item_id": "parent_asin", "text_en": "title"}, ("main_category",)),
    Layout(
        "Amazon Reviews 2023",
        "interactions",
        {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"},
    ),
    Layout("Amazon Reviews 2018", "items", {"item_id": "asin", "text_en": "title"}, ("also_buy",)),
    Layout(
        "Amazon Reviews 2018",
        "interactions",
        {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"},
    ),
    Layout(
        "Amazon Reviews 2018, ratings only",
        "interactions",
        {"user_id": "column 2", "item_id": "column 1", "timestamp": "column 4", "rating": "column 3"},
        fields=(ASIN, REVIEWER, r"[1-5]\.0", SECONDS),
    ),
    Layout(
        "Amazon Reviews 2014, ratings only",
        "interactions",
        {"user_id": "column 1", "item_id": "column 2", "timestamp": "column 4", "rating": "column 3"},
        fields=(REVIEWER, ASIN, r"[1-5]\.0", SECONDS),
    ),
    Layout("KuaiRec", "items", {"item_id": "video_id", "text_zh": "caption"}, ("manual_cover_text", "topic_tag")),
    Layout(
        "KuaiRec",
        "interactions",
        {"user_id": "user_id", "item_id": "video_id", "timestamp": "timestamp"},
        ("time", "date", "watch_ratio"),
    ),
    Layout(
        "KuaiRand",
        "interactions",
        {"user_id": "user_id", "item_id": "video_id", "timestamp": "time_ms"},
        ("date", "hourmin", "is_click"),
    ),
    Layout("H&M", "items", {"item_id": "article_id", "text_en": "prod_name"}, ("product_code", "detail_desc")),
    Layout(
        "H&M",
        "interactions",
        {"user_id": "customer_id", "item_id": "article_id", "timestamp": "t_dat"},
        ("sales_channel_id",),
    ),
    Layout("Steam", "items", {"item_id": "id", "text_en": "app_name"}, ("release_date",)),
    Layout("Steam", "interactions", {"user_id": "username", "item_id": "product_id", "timestamp": "date"}, ("hours",)),
    Layout("Goodreads", "items", {"item_id": "book_id", "text_en": "title"}, ("title_without_series",)),
    Layout(
        "Goodreads",
        "interactions",
        {"user_id": "user_id", "item_id": "book_id", "timestamp": "date_added", "rating": "rating"},
        ("date_updated", "read_at"),
    ),
    Layout("Yambda", "interactions", {"user_id": "uid", "item_id": "item_id", "timestamp": "timestamp"}),
)


@dataclass(frozen=True)
class Release:
    """What the tables of a data set are called where they are released under one name for all.

    Args:
        name: the form of the names by which such a data set is loaded; its group `rest`, if any, may be in those of
            the tables.
        items, interactions: stems of the tables, the preferred first.
    """

    name: str
    items: tuple[str, ...]
    interactions: tuple[str, ...]


RELEASES = (
    Release("MIND.*", ("news",), ("behaviors",)),
    Release(r"(ml|movielens)([-_].*)?", ("movies",), ("ratings",)),
    Release("kuairec.*", ("kuairec_caption_category",), ("big_matrix", "small_matrix")),
    Release("(hm|h-m|h_m|handm|h_and_m)([-_].*)?", ("articles",), ("transactions_train",)),
    Release("steam.*", ("steam_games",), ("steam_reviews", "steam_new")),
    Release(
        "goodreads(?P<rest>.*)",
        ("goodreads_books{rest}",),
        ("goodreads_interactions{rest}", "goodreads_interactions_dedup"),
    ),
    Release(".+", ("meta_{name}",), ("{name}", "{name}_5", "reviews_{name}", "reviews_{name}_5")),  # Amazon Reviews
)


# Files that are known and not found by their names, and what to do with them.
NOT_FOUND = (
    (
        r"u\.(data|item)",
        "u.data and u.item of MovieLens 100K are read as {name}_interactions.tsv and {name}_items.txt, with "
        'encoding="latin-1": copy them to these names.',
    ),
    (
        r"(train|test)\.txt",
        "train.txt and test.txt, as LightGCN has them, have a line a user with items in no order, already split, and "
        "nothing that says what the items are: take the tables that they were made from.",
    ),
    (
        r".*users_items\.json(\.gz)?",
        "users_items of Steam says what users own and not when, in Python's notation: take steam_reviews.",
    ),
)


def advice_on_files(name: str, files: Iterable[str]) -> str:
    """Returns what to do with the files of a folder that are known, but not found by their names; `""` for no such.

    >>> advice_on_files("X", ["readme.txt", "australian_users_items.json.gz"])[:43]
    ' users_items of Steam says what users own a'
    """
    seen = list(files)
    return "".join(
        f" {advice.format(name=name)}"
        for pattern, advice in NOT_FOUND
        if any(re.fullmatch(pattern, file, re.IGNORECASE) for file in seen)
    )


def released_names(name: str) -> dict[str, str]:
    """Returns the stems of tables that a released data set of a name has, the preferred first, each with its kind.

    >>> released_names("KuaiRec")["big_matrix"], released_names("All_Beauty")["meta_All_Beauty"]
    ('interactions', 'items')
    """
    found: dict[str, str] = {}
    for release in RELEASES:
        if match := re.fullmatch(release.name, name, re.IGNORECASE):
            parts = {"rest": "", **{key: value.lower() for key, value in match.groupdict().items()}, "name": name}
            for kind, stems in (("items", release.items), ("interactions", release.interactions)):
                found |= {stem.format(**parts): kind for stem in stems}
    return found


def layout_of(
    path: Path, role: str, options: TableOptions = EVERYTHING, on_problem: Problems = RAISE
) -> tuple[Layout | None, TableOptions]:
    """Returns the layout of a table, `None` where it is of none, and how its rows are read."""
    rows: dict[tuple, tuple[list[str], TableOptions]] = {}
    given = {name: value for name, value in vars(options).items() if value is not None}
    for layout in LAYOUTS:
        if layout.role != role or (layout.fields and form_of(path).has_names):
            continue
        if any(given.get(name, value) != value for name, value in layout.options.items()):
            continue
        key = tuple(layout.options.items())
        if key not in rows:
            try:
                how = replace(options, **layout.options)
                rows[key] = first_row(path, how, on_problem=on_problem)[1], how
            except ValueError:  # the options do not go together, or the rows are of another form
                rows[key] = [], options
        row, how = rows[key]
        if layout.fits(row):
            return layout, how
    return None, options


def assumed_layout(path: Path, options: TableOptions) -> Layout | None:
    """Returns the layout of a table whose columns of users and items only their places tell, if nobody named them.

    Their ids are of one form, and what separates them is as usual, so that another table may look the same.
    """
    if options.pair_columns is not None or {"user_id", "item_id"} <= set(options.of_interactions):
        return None
    layout, _ = layout_of(path, "interactions", options)
    if layout is None or not layout.fields or len(layout.options.get("separator", ",")) > 1:
        return None
    places = [int((layout.columns.get(role) or "column 0").split()[1]) - 1 for role in ("user_id", "item_id")]
    user, item = (layout.fields[place] for place in places)
    return layout if user == item else None


def with_layout(path: Path, role: str, options: TableOptions, on_problem: Problems = RAISE) -> TableOptions:
    """Returns the options with what the layout of a table says, if it is of one; what is given counts more.

    Args:
        path: of the table.
        role: `"items"` or `"interactions"`.
        options: as they are given.
        on_problem: as for [`first_row`].
    """
    if role == "interactions" and options.pair_columns is not None:
        return options
    layout, options = layout_of(path, role, options, on_problem)
    if layout is None:
        return options
    logger.info("%s is read as a table of %s", path.name, layout.name)
    own = named_columns(options.of_items if role == "items" else options.of_interactions)
    has_text = any(name.startswith("text_") for name in own)
    kept = {name: column for name, column in layout.columns.items() if not (has_text and name.startswith("text_"))}
    return replace(
        options,
        columns={**{name: column for name, column in kept.items() if name not in own}, **(options.columns or {})},
    )
