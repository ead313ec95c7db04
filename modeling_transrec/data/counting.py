"""Counts how often one item follows another in users' histories; [`~data.transitions`] reads the counts.

Shapes: `V` items, `N` interactions.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from .loading import as_ids, values_of_interactions
from .tables import Table, as_arrow


if TYPE_CHECKING:
    import polars as pl


_PAIRS_AT_A_TIME = 2**23  # that are counted by one thread
_EXACT = 2.0**30  # weights are multiples of 1 / _EXACT, so that a count is the same in whatever order it is summed up
_LONGEST_WINDOW = 100_000

Event = tuple[int, float | None, float]  # item, time and weight of an interaction


@dataclass(frozen=True)
class TransitionSettings:
    """How pairs of interactions are counted, and how the counts are read.

    Args:
        window: how many interactions apart two items may be.
        decay: a pair `d` interactions apart weighs `decay ** (d - 1)`.
        backward: what a pair weighs for the way back, from the later item to the earlier.
        half_life: after how much time, in the unit of the timestamps, an interaction weighs half; `None`: it never
            loses weight.
        power: of the item counts by which the transitions are divided.
        history_decay: what an item of the history weighs for each step back from its end.
    """

    window: int = 20
    decay: float = 0.9
    backward: float = 0.5
    half_life: float | None = None
    power: float = 0.3
    history_decay: float = 0.6

    def __post_init__(self):
        if not isinstance(self.window, int) or not 1 <= self.window <= _LONGEST_WINDOW:
            raise ValueError(f"window must be at least 1, a whole number up to {_LONGEST_WINDOW:,}, got {self.window}")
        for name in ("decay", "history_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        for name in ("backward", "power"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.half_life is not None and not 0 < self.half_life < np.inf:
            raise ValueError(f"half_life must be above 0, got {self.half_life}")

    def pair_weights(self) -> np.ndarray:
        """Returns what a pair weighs by its distance, of the way forward and of the way back: `(2, window)`."""
        forward = self.decay ** np.arange(self.window)
        return np.round(np.stack([forward, self.backward * forward]) * _EXACT) / _EXACT


@dataclass(frozen=True)
class UserInteractions:
    """Interactions, one user's in time order after the other's.

    Args:
        items: `(N,)` indices of items, -1 where the catalogue does not have the item.
        offsets: `(users + 1,)`: user `u` has the interactions from `offsets[u]` to `offsets[u + 1]`.
        times, weights: `(N,)`, where known.
        users: indices of the users by their ids, where these are kept.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None
    weights: np.ndarray | None
    users: Mapping[str, int]

    @classmethod
    def read(
        cls,
        sequences: datasets.Dataset,
        item_ids: Sequence[str] | None,
        weights: np.ndarray | None,
        with_users: bool = False,
    ) -> tuple["UserInteractions", list[str], int]:
        """Reads a data set; arguments as in [`Transitions.from_sequences`].

        Returns: the interactions; the ids of all items, those of the catalogue first; and how many the catalogue has.
        """
        lists = whole_column(sequences, "item_ids")
        flat, lengths = lists.flatten().cast(pa.string()), lists.value_lengths().to_numpy(zero_copy_only=False)
        if lists.null_count or flat.null_count:
            raise ValueError("a history or an item id is null; leave such rows out")
        found = flat.unique()
        known = found if item_ids is None else as_ids(item_ids) if len(item_ids) else found.slice(0, 0)
        everything = pa.concat_arrays([known, found.filter(pc.invert(pc.is_in(found, value_set=known)))])
        items = pc.index_in(flat, value_set=everything).to_numpy(zero_copy_only=False).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        weights = values_of_interactions(sequences, "weights") if weights is None else weights
        if weights is not None and (len(weights) != len(items) or not (np.asarray(weights) >= 0).all()):
            raise ValueError(f"weights must be {len(items)} numbers of at least 0, one an interaction")
        users: dict[str, int] = {}
        if with_users:
            if "user_id" not in sequences.column_names:
                raise ValueError("keep_histories needs a column user_id")
            users = {user_id: user for user, user_id in enumerate(whole_column(sequences, "user_id").to_pylist())}
            if len(users) != len(lengths):
                raise ValueError("a user has several histories; join them into one to keep them")
        times = values_of_interactions(sequences, "timestamps")
        return cls(items, offsets, times, weights, users), everything.to_pylist(), len(known)

    def of(self, user_id: str) -> tuple[Event, ...]:
        """Returns the interactions of a user, none of one who is not known."""
        user = self.users.get(user_id)
        if user is None:
            return ()
        events = slice(self.offsets[user], self.offsets[user + 1])
        items = self.items[events].tolist()
        times = [None] * len(items) if self.times is None else self.times[events].tolist()
        weights = [1.0] * len(items) if self.weights is None else self.weights[events].tolist()
        return tuple(zip(items, times, weights, strict=True))

    def aged_weights(self, half_life: float | None) -> np.ndarray | None:
        """Returns what each interaction counts `(N,)` at the time of the last one; `None` where all count 1."""
        if half_life is None:
            return self.weights
        if self.times is None:
            raise ValueError("half_life needs timestamps; the histories have none")
        ages = self.times.max(initial=-np.inf) - self.times
        return 0.5 ** (ages / half_life) * (1.0 if self.weights is None else self.weights)

    def stamp(self, item_ids: list[str]) -> dict:
        """Returns what tells these interactions from others, and how many users and interactions there are."""
        digest = hashlib.sha256(json.dumps(item_ids).encode())
        digest.update(self.items.tobytes() + self.offsets.tobytes())
        digest.update(b"" if self.weights is None else self.weights.tobytes())
        return {
            "fingerprint": digest.hexdigest()[:16],
            "num_users": len(self.offsets) - 1,
            "num_interactions": len(self.items),
            "num_changes": 0,
        }


def count_pairs(
    items: np.ndarray,
    offsets: np.ndarray,
    num_items: int,
    settings: TransitionSettings,
    weights: np.ndarray | None = None,
    num_threads: int | None = None,
) -> csr_array:
    """Counts all pairs of interactions of one user that are at most `window` apart: `(V, V)`, float32.

    A block of rows is counted at a time, from all interactions with its items. So memory is bounded by the blocks and
    the result, which is the same for any blocks, threads and order of the users.

    Args:
        items: `(N,)` int32, one user's items in time order after the other's.
        offsets: `(users + 1,)`: user `u` has the interactions from `offsets[u]` to `offsets[u + 1]`.
        num_items: `V`.
        settings: window, decay and weight of the way back.
        weights: `(N,)`, by default 1: a pair weighs what its later interaction weighs.
        num_threads: by default as many as there are cores.
    """
    window, table = settings.window, settings.pair_weights().ravel()
    integer = np.int32 if len(items) + window < 2**31 else np.int64
    steps = np.arange(1, window + 1)
    distances: np.ndarray = np.concatenate([steps, -steps]).astype(integer)  # (2 window,) as in the table
    lengths = np.diff(offsets)
    first, end = (np.repeat(of_user.astype(integer), lengths) for of_user in (offsets[:-1], offsets[1:]))
    by_item: np.ndarray = np.argsort(items, kind="stable").astype(integer)
    starts = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=num_items))])  # of each item's interactions

    def count_rows(from_item: int, to_item: int) -> csr_array:
        places = by_item[starts[from_item] : starts[to_item]]
        others = places[:, None] + distances
        exists = (first[places, None] <= others) & (others < end[places, None])
        values = np.broadcast_to(table, exists.shape)[exists]
        if weights is not None:
            values *= weights[np.maximum(places[:, None], others)[exists]]
        pairs_before = np.concatenate([[0], np.cumsum(exists.sum(axis=1))])
        row_starts = pairs_before[starts[from_item : to_item + 1] - starts[from_item]]
        rows = csr_array((values, items[others[exists]], row_starts), shape=(to_item - from_item, num_items))
        rows.sum_duplicates()
        rows.eliminate_zeros()  # a weight may be zero
        return rows.astype(np.float32)

    bounds = np.searchsorted(starts, np.arange(0, len(items), max(1, _PAIRS_AT_A_TIME // (2 * window))))
    bounds = np.unique(np.concatenate([[0], bounds, [num_items]]))
    # As large as if no pair occurred twice; memory is taken only for what is written.
    most = 2 * int(np.minimum(np.arange(len(items)) - first, window).sum())
    columns, values = np.empty(most, np.int32), np.empty(most, np.float32)
    row_starts, stored = [np.zeros(1, np.int64)], 0
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        for rows in pool.map(count_rows, bounds[:-1], bounds[1:]):
            start, stored = stored, stored + rows.nnz
            columns[start:stored], values[start:stored] = rows.indices, rows.data
            row_starts.append(start + rows.indptr[1:].astype(np.int64))
    return square_matrix(values[:stored], columns[:stored], np.concatenate(row_starts))


def square_matrix(values: np.ndarray, columns: np.ndarray, row_starts: np.ndarray) -> csr_array:
    """Makes a square matrix in compressed rows, which shares these arrays: `scipy` asks for indices of one type."""
    integer = np.int32 if row_starts[-1] < 2**31 else np.int64
    shape = (len(row_starts) - 1,) * 2
    return csr_array((values, columns.astype(integer, copy=False), row_starts.astype(integer)), shape=shape)


def whole_column(sequences: datasets.Dataset, column: str) -> pa.Array:
    """Returns a column as one array."""
    values = sequences.select_columns([column]).with_format("arrow")[:][column]
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _check_names(table: pa.Table) -> None:
    """Refuses columns that another name would make a user, an item, a time or a weight: none is left out in silence.

    What columns are usually called is known to the reader of files.
    """
    from ..ninerec.tables.advice import ROW_KEYS
    from ..ninerec.tables.columns import TIME_NAME, header_roles

    names = table.column_names
    roles = dict(zip(names, header_roles(names), strict=True))
    for name, role in roles.items():
        if name.strip().lower() in ("weight", "weights"):
            roles[name] = "weight"
        elif role is None and (TIME_NAME.search(name.strip().lower()) or _is_of_times(table[name].type)):
            roles[name] = "timestamp"
    for role in ("user_id", "item_id", "timestamp", "weight"):
        called = [name for name in names if roles[name] == role and name.strip().lower() not in ROW_KEYS]
        if role not in names and called:
            leave_out = "" if role in ("user_id", "item_id") else ", or leave it out"
            raise ValueError(f"interactions have no column {role}, but {called[0]}: rename it to {role}{leave_out}")
    if not {"user_id", "item_id"} <= set(names):
        raise ValueError(f"interactions need columns user_id and item_id; they have {', '.join(names)}")


def _is_of_times(arrow_type: pa.DataType) -> bool:
    return pa.types.is_timestamp(arrow_type) or pa.types.is_date(arrow_type)


def _unknown(column: "pl.Series") -> tuple[int, int | None]:
    """Returns how many values are null or not a number, and the row of the first one."""
    values = column.fill_nan(None) if column.dtype.is_float() else column
    count = values.null_count()
    return count, values.is_null().arg_max() if count else None


def _as_ids(column: "pl.Series") -> "pl.Series":
    import polars as pl

    name = column.name
    if isinstance(column.dtype, pl.List | pl.Array):
        raise ValueError(
            f"{name} holds lists, and must hold one id in a row; for a row a user, call the lists item_ids, and give "
            "them in time order"
        )
    count, row = _unknown(column)
    if count:
        raise ValueError(
            f"{count} interactions have no {name}, the first in row {row}: leave them out; "
            "visitors without an account need an id for each session"
        )
    if not (column.dtype == pl.String or column.dtype.is_integer()):
        raise ValueError(f"{name} must hold strings or whole numbers, not {column.first()!r}")
    return column.cast(pl.String)


def _as_numbers(column: "pl.Series") -> "pl.Series":
    import polars as pl

    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise ValueError(f"{column.name} must hold numbers, not {column.drop_nulls().first()!r}")
    return column.cast(pl.Float64)


def _as_times(column: "pl.Series") -> "pl.Series":
    """Returns times as numbers; dates as seconds since 1970."""
    import polars as pl

    if isinstance(column.dtype, pl.Datetime | pl.Date):
        column = column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    elif not column.dtype.is_numeric():
        what = "text" if column.dtype == pl.String else "durations or times of day"
        raise ValueError(
            f"timestamp must hold numbers or dates, not {what} such as {str(column.drop_nulls().first())!r}: convert "
            "it, with pandas by pandas.to_datetime"
        )
    count, row = _unknown(column)
    if count:
        raise ValueError(
            f"{count} interactions have no timestamp, the first in row {row}: fill them in, or "
            "leave these interactions out"
        )
    return column


def from_interactions(interactions: Table, turns: Sequence[int] | None = None) -> pa.Table:
    """Makes histories in time order, a row a user, of interactions, as [`Transitions.from_sequences`] reads them.

    Args:
        interactions: columns `user_id`, `item_id` and, where known, `timestamp` and `weight`: a DataFrame, data set
            or dict. Without times the rows of a user are taken to be in time order. The weight is what an interaction
            counts, such as 0.1 for a click and 1 for a purchase; those of weight 0 are left out. Of rows that are
            equal, their time included, one counts. Other columns, such as ratings, are not read.
        turns: `(N,)` numbers, one an interaction: the interactions of each are made histories by themselves, which
            follow those of lower numbers. By default, all are of one turn.

    Raises:
        ValueError: if a column is missing or has another name, or a user, an item or a time is unknown.

    >>> table = {"user_id": ["u", "v", "u"], "item_id": ["b", "a", "a"], "timestamp": [5, 1, 3]}
    >>> from_interactions(table)["item_ids"].to_pylist()
    [['a', 'b'], ['a']]
    >>> from_interactions(table, turns=[0, 0, 1])["item_ids"].to_pylist()
    [['b'], ['a'], ['a']]
    """
    import polars as pl

    given = as_arrow(interactions)
    if given.num_columns == 0 or given.num_rows == 0:
        raise ValueError("the table has no interactions")
    _check_names(given)
    lists = {"item_id": "item_ids", "timestamp": "timestamps", "weight": "weights"}
    names = [name for name in ("user_id", *lists) if name in given.column_names]
    table = cast(pl.DataFrame, pl.from_arrow(given.select(names)))
    read = {"user_id": _as_ids, "item_id": _as_ids, "weight": _as_numbers, "timestamp": _as_times}
    numbers = pl.Series("turn", np.zeros(len(table), np.int64) if turns is None else turns)
    table = pl.DataFrame([numbers, *(read[name](table[name]) for name in names)])
    if "weight" in names:
        if not (table["weight"].ge(0) & table["weight"].is_finite()).fill_null(False).all():
            raise ValueError("the weight of an interaction must be a finite number of at least 0")
        table = table.filter(pl.col("weight") > 0)
    if "timestamp" in names:
        table = table.unique(maintain_order=True).sort("timestamp", maintain_order=True)
    columns = [pl.col(name).alias(alias) for name, alias in lists.items() if name in names]
    by_user = table.group_by("turn", "user_id").agg(columns).sort("turn", "user_id")
    return by_user.to_arrow().drop_columns(["turn"])
