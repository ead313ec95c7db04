"""How tables are read: what their columns are called, and which of their interactions count."""

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .numbers import form_of_format


INTERACTION_COLUMNS = ("user_id", "item_id", "timestamp")
ITEM_COLUMNS = ("item_id", "text_zh", "text_en")
# Columns of interactions that are read only where an option asks for them.
OPTION_OF = {"rating": "min_rating", "event_type": "event_weights"}
QUOTINGS = ("double", "backslash", "none")
ITEMS_OWN_ID = "items.item_id"
ColumnNames: TypeAlias = Mapping[str, str | Sequence[str] | None]  # what the columns are called; None: there is none
# Columns of a table with a row an impression: the items that a user had clicked before, and those that were shown.
IMPRESSION_COLUMNS = ("history", "impressions")
_OF_ITEMS = (*ITEM_COLUMNS, ITEMS_OWN_ID)
ROLES = tuple(dict.fromkeys((*INTERACTION_COLUMNS, *ITEM_COLUMNS, *OPTION_OF, ITEMS_OWN_ID, *IMPRESSION_COLUMNS)))


@dataclass(frozen=True)
class TableOptions:
    """The options of `load_dataset` that decide how tables are read.

    Args:
        columns: what the columns of tables are called (without a header: `column 1`, `column 2`, …), where it is not
            by one of the usual names, e.g.
            `{"user_id": "customer", "item_id": "sku", "timestamp": "bought_at", "text_en": "product"}`;
            `{"items.item_id": "parent_sku"}` where the items table has another name for the item than the
            interactions; `{"timestamp": None}` where there is no time and the rows are in time order;
            `{"text_en": ["title", "brand"]}` for a text of several columns: "Title: …; Brand: …".
        pair_columns: columns of a pair file without header, e.g. `("user_id", "item_id", "timestamp")`; detected
            where not given. Columns of other names are not used.
        min_rating: interactions with a lower rating are left out; by default all count.
        event_weights: what an interaction counts by its event type, e.g. `{"click": 0.1, "purchase": 1}`; types of
            weight 0, or without one, are left out. By default all count 1.
        separator: what separates the fields of a text, e.g. `";"` or `"::"`; found where not given.
        quoting: `"double"`: a quote within quotes is doubled, as RFC 4180 has it; `"backslash"`: it has a backslash
            before it; `"none"`: quotes are part of the text. By default double, and lines within a text that look
            like rows are an error.
        encoding: of texts that are not UTF-8, as Python calls it, e.g. `"gbk"` or `"latin-1"`; tables that are UTF-8
            or begin with a byte order mark are read as what they are.
        time_format: of dates that are written in none of the usual ways, or may be read in two: that of `strftime`,
            e.g. `"%d/%m/%Y %H:%M"`. It needs a year (`%y`: of two digits); offsets are `%z`, names of zones are
            refused; integers, too, are read by it, with the zeros that they lost at their front.
    """

    columns: ColumnNames | None = None
    pair_columns: Sequence[str] | None = None
    min_rating: float | None = None
    event_weights: Mapping[str, float] | None = None
    separator: str | None = None
    quoting: str | None = None
    encoding: str | None = None
    time_format: str | None = None

    def __post_init__(self):
        if not isinstance(self.columns, Mapping | None):
            raise ValueError(f'columns must be names such as {{"user_id": "customer"}}, got {self.columns!r}')
        for role, column in (self.columns or {}).items():
            names: Sequence[object] = [column]
            if role.startswith("text_") and isinstance(column, list | tuple) and column:
                names = column
            are_names = all(isinstance(name, str) for name in names)
            if role not in ROLES or not (are_names or (role == "timestamp" and column is None)):
                raise ValueError(f"columns must give names of {', '.join(ROLES)}, got {role!r}: {column!r}")
        if self.pair_columns is not None:
            columns = () if isinstance(self.pair_columns, str) else tuple(self.pair_columns)
            if not self.are_interactions(columns):
                raise ValueError(
                    "pair_columns must name 'user_id', 'item_id' and, where the file has it, 'timestamp' once each, "
                    f"in the order of the file (other names: not used); got {self.pair_columns!r}"
                )
            object.__setattr__(self, "pair_columns", columns)
        if self.separator is not None and not (
            isinstance(self.separator, str) and self.separator and not set(self.separator) & set('\r\n"\\')
        ):
            raise ValueError(f'separator must be what separates fields, such as ";" or "::", got {self.separator!r}')
        if self.quoting not in (None, *QUOTINGS):
            raise ValueError(f"quoting must be {' or '.join(map(repr, QUOTINGS))}, got {self.quoting!r}")
        if self.quoting not in (None, "none") and len(self.separator or "") > 1:
            raise ValueError(f"between separators such as {self.separator!r} quotes mean nothing; leave quoting out")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except (LookupError, TypeError):
                raise ValueError(
                    f"encoding must be one that Python knows, such as 'gbk' or 'latin-1', got {self.encoding!r}"
                ) from None
        if self.time_format is not None and "%" not in str(self.time_format):
            raise ValueError(
                f"time_format must be one of strftime, such as '%d/%m/%Y %H:%M', got {self.time_format!r}"
            )
        if self.time_format is not None:
            form_of_format(str(self.time_format))  # raises an error of one that does not tell times
        if self.min_rating is not None and not _is_number(self.min_rating):
            raise ValueError(f"min_rating must be a number, got {self.min_rating!r}")
        if self.event_weights is not None:
            weights = self.event_weights if isinstance(self.event_weights, Mapping) else {}
            if not all(_is_number(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
                raise ValueError(
                    'event_weights must be what each type counts, at least 0, such as {"click": 0.1, "purchase": 1}; '
                    f"got {self.event_weights!r}"
                )
            weights = {str(name): float(weight) for name, weight in sorted(weights.items())}
            object.__setattr__(self, "event_weights", weights)

    def are_interactions(self, columns: Sequence[str | None]) -> bool:
        """Returns whether there are user, item and time once each and nothing twice.

        A time may be missing beside nothing but user and item, or where `columns` says so. Without that rule an
        unknown name for the time would silently mean that the file has none.
        """
        known = [column for column in columns if column in (*INTERACTION_COLUMNS, *OPTION_OF)]
        may_lack_time = len(columns) == 2 or self.has_no_time
        wanted = {"user_id", "item_id"} if may_lack_time else set(INTERACTION_COLUMNS)
        return len(set(known)) == len(known) and wanted <= set(known)

    @property
    def has_no_time(self) -> bool:
        """Returns whether `columns` says that there is no time."""
        return "timestamp" in self.of_interactions and self.of_interactions["timestamp"] is None

    @property
    def of_interactions(self) -> dict[str, str | None]:
        """Returns the names of columns of interactions."""
        own = (*ITEM_COLUMNS[1:], ITEMS_OWN_ID)
        return {role: name for role, name in named_columns(self.columns).items() if text_of(role) not in own}

    @property
    def of_items(self) -> dict[str, str | None]:
        """Returns the names of columns of the items table."""
        named = {role: name for role, name in named_columns(self.columns).items() if text_of(role) in _OF_ITEMS}
        own = named.pop(ITEMS_OWN_ID, None)
        return named if own is None else {**named, "item_id": own}

    @property
    def asked_for(self) -> tuple[str, ...]:
        """Returns the further columns of interactions that are read: `rating`, `event_type`."""
        return tuple(role for role, option in OPTION_OF.items() if getattr(self, option) is not None)

    @property
    def protocol(self) -> dict:
        """Returns which interactions count, where not all do."""
        return {OPTION_OF[role]: getattr(self, OPTION_OF[role]) for role in self.asked_for}


def named_columns(columns: ColumnNames | None) -> dict[str, str | None]:
    """Returns the name of each column; a text of several columns has one role for each of them.

    >>> named_columns({"item_id": "sku", "text_en": ["title", "brand"]})
    {'item_id': 'sku', 'text_en/title': 'title', 'text_en/brand': 'brand'}
    """
    named: dict[str, str | None] = {}
    for role, names in (columns or {}).items():
        if names is None or isinstance(names, str):
            named[role] = names
        else:
            named |= {f"{role}/{name}": name for name in names}
    texts = [name for role, name in named.items() if role.startswith("text_")]
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"columns has {twice!r} in text_zh and in text_en; a column is of one language")
    return named


def text_of(role: str | None) -> str:
    """Returns the column that a role is a part of, which is most often itself."""
    return (role or "").partition("/")[0]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


EVERYTHING = TableOptions()
