"""Advice of errors: which call of `columns` settles what a table leaves in doubt."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from .forms import dialect_of, form_of
from .options import TableOptions


ROW_KEYS = ("id", "index", "")  # of a table of interactions: never the item, unless an option says so


# What names of columns contain that are likely to be of a role, the likeliest first.
LIKELY = {
    "user_id": ("user", "customer", "member", "visitor", "reader", "account", "session", "client"),
    "item_id": (
        "item",
        "product_id",
        "asin",
        "sku",
        "article",
        "isbn",
        "movie",
        "book",
        "song",
        "video",
        "_id",
        "id",
        "code",
    ),
    "text_en": ("title", "name", "caption", "headline", "product", "text", "description", "summary"),
    "timestamp": ("timestamp", "time", "date", "_at", "when"),
}


def guess(roles: tuple[str, ...], first: list[str]) -> dict[str, str]:
    """Returns which columns may be of some roles, by their names or, of a table without a header, their places."""
    if not may_be_names(first):
        first = [f"column {number}" for number in range(1, len(first) + 1)]
    free = list(first)
    found = {}
    for role in roles:
        likely = (name for part in LIKELY[role] for name in free if part in name.lower())
        found[role] = next(likely, None) or next((name for name in free if name.lower() not in ROW_KEYS), free[0])
        free.remove(found[role])
        if not free:
            break
    return found


def may_be_names(row: list[str]) -> bool:
    """Returns whether a first row looks like a header: short, without digits, nothing twice."""
    return len(set(row)) == len(row) and all(
        0 < len(name.strip()) <= 40 and not re.search(r"\d", name) for name in row
    )


def call_of(columns: Mapping[str, str | None]) -> str:
    """Returns how `columns` is given.

    >>> call_of({"item_id": "sku", "timestamp": None})
    'columns={"item_id": "sku", "timestamp": None}'
    """
    names = (f"{json.dumps(role)}: {json.dumps(name, ensure_ascii=False)}" for role, name in columns.items())
    return f"columns={{{', '.join(names)}}}".replace(": null", ": None")


def or_header(path: Path, header: str) -> str:
    return "" if form_of(path).has_names else f", or, where this row is no header, add one such as {header}"


def separated_by(path: Path, options: TableOptions) -> str:
    """Returns what is taken for the separator of a text, and how to say that it is another one."""
    name = {",": "commas", "\t": "tabs", " ": "spaces"}.get(found := dialect_of(path, options).separator, repr(found))
    return f'{name} (if it is something else, say what: separator="…")'


def most_usual(known: list[str], names: list[str]) -> str:
    """Returns the name that comes first among the usual ones of a role."""
    return min(names, key=lambda name: known.index(name.lower()) if name.lower() in known else len(known))


def likeliest_time(names: list[str]) -> str:
    """Returns the finest of several times: a timestamp, or whatever is called by a unit, before a date."""
    fine = [name for name in names if "date" not in name.lower()]
    return next((name for name in fine if "timestamp" in name.lower()), (fine or names)[-1])


def guess_places(row: list[str]) -> dict[str, str | None]:
    """Returns what the places of a row without a header may mean; for advice only."""
    if may_be_names(row):
        return {**guess(("user_id", "item_id", "timestamp"), row)}
    places = [f"column {number}" for number in range(1, len(row) + 1)]
    is_time = [bool(re.fullmatch(r"\d{8,}(\.\d*)?|\d+[-/.]\d+[-/.]\d+.*", value.strip())) for value in row]
    time = places[is_time.index(True)] if any(is_time) else None
    user, item, *_ = [place for place in places if place != time]
    return {"user_id": user, "item_id": item, "timestamp": time}
