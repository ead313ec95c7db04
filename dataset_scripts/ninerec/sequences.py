"""Pure functions on interactions: user sequences, filters, and splits into training, validation and test.

Interactions are numbers here, so that hundreds of millions fit into memory: a user is a number, an item an index into
the items table. Nothing here reads a file, and nothing loops over users.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa


@dataclass(frozen=True)
class Sequences:
    """Every user's interactions in time order, one user after the other.

    Args:
        user_ids: `(users,)` strings.
        offsets: `(users + 1,)`; the interactions of user `u` are those from `offsets[u]` to `offsets[u + 1]`.
        items: `(interactions,)` rows of `item_ids`.
        timestamps: `(interactions,)`, `None` where unknown.
        item_ids: `(V,)` strings, the ids of the items table.
        weights: `(interactions,)` what each counts, `None` where all count the same.
    """

    user_ids: pa.Array
    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    item_ids: pa.Array
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def columns(self) -> list[str]:
        """Returns the names of what is known of each interaction."""
        return [name for name in ("items", "timestamps", "weights") if getattr(self, name) is not None]

    @property
    def lengths(self) -> np.ndarray:
        """Returns the number of interactions of each user, `(users,)`."""
        return np.diff(self.offsets)

    def item_counts(self) -> np.ndarray:
        """Returns the number of interactions with each item, `(V,)`."""
        return np.bincount(self.items, minlength=len(self.item_ids))

    def select_interactions(self, keep: np.ndarray) -> "Sequences":
        """Keeps only the interactions where `keep` `(interactions,)` is true; users that have none left are gone."""
        kept = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        left = np.diff(kept) > 0
        user_ids = self.user_ids if left.all() else self.user_ids.filter(pa.array(left))
        offsets = np.concatenate([[0], kept[1:][left]])
        columns = {name: getattr(self, name)[keep] for name in self.columns}
        return replace(self, user_ids=user_ids, offsets=offsets, **columns)


def by_first_row(interactions: pl.DataFrame) -> pl.DataFrame:
    """Orders interactions by their user's first row, and within a user in time order; equal times keep their order.

    Whole numbers are sorted that have all of it in their bits, which is many times faster than rows.

    Args:
        interactions: `user`, any number, `row` in ascending order, and, where known, `timestamp`; further columns go
            along.

    Returns:
        The columns but for `row`; `user` is the first row of each user.

    Example:

    >>> interactions = pl.DataFrame({"user": [9, 4, 9], "row": [0, 1, 2], "item": [7, 8, 6], "timestamp": [5, 3, 1]})
    >>> by_first_row(interactions).rows()
    [(0, 6, 1), (0, 7, 5), (1, 8, 3)]
    """
    if interactions.is_empty():
        return interactions.with_columns(user="row").drop("row")
    rows, starts = _group(interactions["user"].cast(pl.UInt64).to_numpy())
    lengths = np.diff(starts, append=len(rows))
    order = np.argsort(rows[starts])  # of users
    lengths, offsets = lengths[order], np.cumsum(lengths[order]) - lengths[order]
    start_of = np.repeat(offsets, lengths)
    place = np.arange(len(rows)) - start_of  # among the user's rows
    rows = rows[np.repeat(starts[order], lengths) + place]
    user = interactions["row"].to_numpy()[rows[offsets]]
    if "timestamp" in interactions.columns:
        times = interactions["timestamp"].to_numpy()
        first, last = int(times.min()), int(times.max())
        time_bits, place_bits = (last - first).bit_length(), int(lengths.max() - 1).bit_length()
        if (len(user) - 1).bit_length() + time_bits + place_bits > 64:
            rows = rows[np.lexsort((times[rows], start_of))]
        else:
            keys = np.repeat(np.arange(len(user), dtype=np.uint64) << np.uint64(time_bits), lengths)
            keys |= (times[rows] - first).astype(np.uint64)
            keys <<= np.uint64(place_bits)
            keys |= place.astype(np.uint64)
            keys.sort()
            keys &= np.uint64(2**place_bits - 1)
            rows = rows[start_of + keys.astype(np.int64)]
    further = interactions.drop("user", "row").select(pl.all().gather(rows))
    return further.insert_column(0, pl.Series("user", np.repeat(user, lengths)))


def _group(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups equal numbers `(n,)`; returns their places, ascending in a group, and where each group starts."""
    bits = (len(numbers) - 1).bit_length()
    keys = numbers - numbers.min()
    keys >>= np.uint64(max(0, int(keys.max()).bit_length() + bits - 64))
    keys <<= np.uint64(bits)
    keys |= np.arange(len(numbers), dtype=np.uint64)
    keys.sort()
    places = (keys & np.uint64(2**bits - 1)).astype(np.int64)
    keys >>= np.uint64(bits)
    found = numbers[places]
    mixed = (keys[1:] == keys[:-1]) & (found[1:] != found[:-1])
    for key in np.unique(keys[1:][mixed]):  # a few, whose numbers differ only in the bits that had no room
        one = slice(np.searchsorted(keys, key), np.searchsorted(keys, key, side="right"))
        order = np.argsort(found[one], kind="stable")
        places[one], found[one] = places[one][order], found[one][order]
    return places, np.concatenate([[0], np.flatnonzero(found[1:] != found[:-1]) + 1])


def find_repeated(ordered: pl.DataFrame) -> np.ndarray:
    """Rows `(n,)` of sorted interactions that repeat user, item and timestamp of an earlier row: booleans.

    >>> find_repeated(pl.DataFrame({"user": [1, 1, 1], "item": [7, 8, 7], "timestamp": [5, 5, 5]}))
    array([False, False,  True])
    """
    user, timestamp = ordered["user"].to_numpy(), ordered["timestamp"].to_numpy()
    repeated = np.zeros(len(user), dtype=bool)
    tied = (user[1:] == user[:-1]) & (timestamp[1:] == timestamp[:-1])
    rows = np.flatnonzero(np.concatenate([[False], tied]) | np.concatenate([tied, [False]]))
    if len(rows):  # equal interactions stand within one tie
        keys = ordered.select("user", "item", "timestamp")[rows].select(pl.struct(pl.all())).to_series()
        repeated[rows] = ~keys.is_first_distinct().to_numpy()
    return repeated


def filter_interactions(sequences: Sequences, min_actions: int = 5, min_item_actions: int = 1) -> Sequences:
    """Drops users with fewer than `min_actions` interactions.

    With `min_item_actions`, items with fewer interactions go first, then users, and so on until all that is left has
    enough: the k-core, as NineRec makes Bili_warm20 and Bili_warm50 (Table 15).
    """
    for name, value in (("min_actions", min_actions), ("min_item_actions", min_item_actions)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    while True:
        before = len(sequences.items)
        if min_item_actions > 1:
            enough = sequences.item_counts() >= min_item_actions
            if not enough[sequences.items].all():
                sequences = sequences.select_interactions(enough[sequences.items])
        long_enough = sequences.lengths >= min_actions
        if not long_enough.all():
            sequences = sequences.select_interactions(np.repeat(long_enough, sequences.lengths))
        if min_item_actions == 1 or len(sequences.items) == before:
            return sequences


def keep_last(sequences: Sequences, max_actions: int) -> Sequences:
    """Keeps only each user's last `max_actions` interactions."""
    if max_actions < 1:
        raise ValueError(f"max_actions must be at least 1, got {max_actions}")
    if len(sequences) == 0 or sequences.lengths.max() <= max_actions:
        return sequences
    to_end = np.repeat(sequences.offsets[1:], sequences.lengths) - np.arange(len(sequences.items))
    return sequences.select_interactions(to_end <= max_actions)


class Split(NamedTuple):
    """One split: a history of each of its users, and what comes next.

    Args:
        users: `(B,)` numbers of the users.
        start, stop: `(B,)`; the history is the interactions from `start` to `stop`.
        has_target: whether the interaction at `stop` is the target.
    """

    users: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    has_target: bool


def leave_one_out(sequences: Sequences) -> dict[str, Split]:
    """Splits so that the last interaction tests and the last but one validates (the protocol of NineRec).

    | split | history | target |
    |---|---|---|
    | train | all but the last two | none |
    | validation | all but the last two | the last but one |
    | test | all but the last | the last |
    """
    _check_long_enough(sequences, "leave-one-out")
    users, start, end = np.arange(len(sequences)), sequences.offsets[:-1], sequences.offsets[1:]
    return {
        "train": Split(users, start, end - 2, has_target=False),
        "validation": Split(users, start, end - 2, has_target=True),
        "test": Split(users, start, end - 1, has_target=True),
    }


def _check_long_enough(sequences: Sequences, split: str) -> None:
    too_short = sequences.lengths < 3
    if too_short.any():
        user = sequences.user_ids[int(np.argmax(too_short))].as_py()
        raise ValueError(
            f"{too_short.sum()} sequences have fewer than 3 items (e.g. user {user!r}); {split} needs a history, a "
            "validation and a test item"
        )


def random_split(sequences: Sequences, max_history: int, seed: int = 0) -> tuple[Sequences, dict[str, Split]]:
    """Splits so that two interactions of each user, drawn at random, test and validate; what is later trains, too.

    It is there to measure how much such a split flatters, see [`~leakage.leakage`].

    | split | history | target |
    |---|---|---|
    | train | all but two | none |
    | validation | the same | one of them |
    | test | all but one | the other |

    Histories are in time order; their last `max_history` interactions are kept.

    Args:
        sequences: whole, at least 3 interactions a user, so that the draw does not depend on `max_history`.
        max_history: the last interactions of a history that are kept.
        seed: of the generator that draws.

    Returns:
        The interactions in another order, each user's first without those for testing, then with all, so that
        histories lie before their targets; and the splits of these.
    """
    _check_long_enough(sequences, "a random split")
    generator, lengths = np.random.default_rng(seed), sequences.lengths
    test = generator.integers(0, lengths)
    validation = generator.integers(0, lengths - 1)
    validation += validation >= test  # another one
    owner, place = np.repeat(np.arange(len(sequences)), lengths), np.arange(len(sequences.items))
    is_test, is_validation = (place == (sequences.offsets[:-1] + one)[owner] for one in (test, validation))
    first, second = place[~is_test], place
    users, parts = np.concatenate([owner[first], owner]), np.repeat([0, 1], [len(first), len(second)])
    is_target = np.concatenate([is_validation[first], is_test])
    order = np.concatenate([first, second])[np.lexsort((is_target, parts, users))]  # which is stable
    offsets = np.concatenate([[0], np.cumsum(2 * lengths - 1)])
    columns = {name: getattr(sequences, name)[order] for name in sequences.columns}
    validates, tests = offsets[:-1] + lengths - 2, offsets[1:] - 1  # places of the targets
    everybody = np.arange(len(sequences))
    known = np.maximum(offsets[:-1], validates - max_history)
    splits = {
        "train": Split(everybody, known, validates, has_target=False),
        "validation": Split(everybody, known, validates, has_target=True),
        "test": Split(everybody, np.maximum(validates + 1, tests - max_history), tests, has_target=True),
    }
    return replace(sequences, offsets=offsets, **columns), splits


def _times_of(sequences: Sequences) -> np.ndarray:
    if sequences.timestamps is None:
        raise ValueError("a temporal split needs timestamps")
    return sequences.timestamps


def temporal_boundaries(sequences: Sequences) -> tuple[int, int]:
    """Returns the times before which 80 and 90 % of all interactions are: the starts of validation and test."""
    validation_start, test_start = np.quantile(_times_of(sequences), (0.8, 0.9), method="higher")
    return int(validation_start), int(test_start)


def temporal_split(sequences: Sequences, validation_start: int, test_start: int, max_history: int) -> dict[str, Split]:
    """Splits by time: training knows nothing that happened later than what is tested, on the whole platform.

    Where it does, results are optimistic (Ji et al., "A Critical Study on Data Leakage in Recommender System Offline
    Evaluation", TOIS 2023). Train holds the interactions before `validation_start`. Validation predicts each user's
    first interaction from then on and before `test_start`, test the first from `test_start` on, both from all that the
    user did before that time. Users without an interaction before, or without one in the period, are not in that
    split.

    Args:
        sequences: with timestamps.
        validation_start, test_start: in the timestamps' unit.
        max_history: the last interactions before the boundary that are kept.
    """
    timestamps = _times_of(sequences)
    if validation_start >= test_start:
        raise ValueError(f"validation_start {validation_start} must be before test_start {test_start}")

    def before(time: int) -> np.ndarray:
        """Returns the position of each user's first interaction at or after `time`."""
        earlier = np.concatenate([[0], np.cumsum(timestamps < time)])
        return sequences.offsets[:-1] + np.diff(earlier[sequences.offsets])

    def split(stop: np.ndarray, end: np.ndarray | None) -> Split:
        start = np.maximum(sequences.offsets[:-1], stop - max_history)
        chosen = (stop > start) if end is None else (stop > start) & (stop < end)
        users = np.flatnonzero(chosen)
        return Split(users, start[users], stop[users], has_target=end is not None)

    validation, test = before(validation_start), before(test_start)
    splits = {
        "train": split(validation, None),
        "validation": split(validation, test),
        "test": split(test, sequences.offsets[1:]),
    }
    for name, one in splits.items():
        if len(one.users) == 0:
            raise ValueError(
                f"no user is in the {name} split; choose other times than {validation_start}, {test_start}"
            )
    return splits


def used_items(sequences: Sequences, splits: Iterable[Split]) -> np.ndarray:
    """Returns whether each item occurs in a history or target of the splits: `(V,)` booleans."""
    change = np.zeros(len(sequences.items) + 1, dtype=np.int64)
    for split in splits:
        np.add.at(change, split.start, 1)
        np.add.at(change, split.stop + split.has_target, -1)
    used = np.zeros(len(sequences.item_ids), dtype=bool)
    used[sequences.items[np.cumsum(change[:-1]) > 0]] = True
    return used


def to_table(sequences: Sequences, split: Split, first: int = 0, count: int | None = None) -> pa.Table:
    """Rows of a split, `count` of them from `first` on: `user_id`, `item_ids` (history), `target`, `timestamps`.

    `target` is null where the split has none; `timestamps`, those of the history, where they are unknown. Where
    interactions do not all count the same, there are `weights` of the history, too.
    """
    rows = slice(first, None if count is None else first + count)
    users, start, stop = split.users[rows], split.start[rows], split.stop[rows]
    offsets = np.concatenate([[0], np.cumsum(stop - start)])
    places = np.repeat(start - offsets[:-1], stop - start) + np.arange(offsets[-1])
    ends = pa.array(offsets.astype(np.int32))
    if sequences.timestamps is None:
        timestamps = pa.nulls(len(users), pa.list_(pa.int64()))
    else:
        timestamps = pa.ListArray.from_arrays(ends, pa.array(sequences.timestamps[places], pa.int64()))
    if split.has_target:
        target = sequences.item_ids.take(pa.array(sequences.items[stop]))
    else:
        target = pa.nulls(len(users), pa.string())
    table = {
        "user_id": sequences.user_ids.take(pa.array(users)),
        "item_ids": pa.ListArray.from_arrays(ends, sequences.item_ids.take(pa.array(sequences.items[places]))),
        "target": target,
        "timestamps": timestamps,
    }
    if sequences.weights is not None:
        table["weights"] = pa.ListArray.from_arrays(ends, pa.array(sequences.weights[places], pa.float32()))
    return pa.table(table)
