"""Transitions: how often one item of a platform follows another, counted in its users' histories; nothing is trained.

The counts `C (V, V)` are sparse and raw; the item counts `D (V,)` normalise them when they are read, so that one more
interaction changes a few numbers. With the score of a history, `sum over its items of history_decay ** (steps back) *
T[item, :]` and `T = D ** -power * C * D ** -power`, they are a recommender by themselves, and a sparse part that is
added to any dense score (item-based nearest neighbours: Linden et al., "Amazon.com Recommendations", IEEE Internet
Computing 2003; weighted by distance as in session-based ones: Ludewig and Jannach, "Evaluation of Session-based
Recommendation Algorithms", UMUAI 2018).

Shapes: `V` items, `N` interactions, `P` stored pairs, `B` users, `L` history length.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse
from safetensors import safe_open
from safetensors.numpy import save_file

from .loading import as_ids, values_of_interactions


TRANSITIONS_FILE = "transitions.safetensors"
_PAIRS_AT_A_TIME = 2**23  # that are sorted by one thread
_EXACT = 2.0**30  # weights are multiples of 1 / _EXACT, so that a count is the same in whatever order it is summed up


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
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        for name in ("decay", "history_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        for name in ("backward", "power"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.half_life is not None and self.half_life <= 0:
            raise ValueError(f"half_life must be above 0, got {self.half_life}")

    def pair_weights(self) -> np.ndarray:
        """`(2, window)`: by distance, of the way forward and of the way back."""
        forward = self.decay ** np.arange(self.window)
        return np.round(np.stack([forward, self.backward * forward]) * _EXACT) / _EXACT


@dataclass
class _Counts:
    """A sparse matrix `(V, V)` in compressed rows: columns and values of row `a` lie from `offsets[a]` on."""

    offsets: np.ndarray  # (V + 1,) int64
    columns: np.ndarray  # (P,) int32
    values: np.ndarray  # (P,) float32

    @classmethod
    def sum_pairs(cls, num_items: int, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> "_Counts":
        """From pairs in any order; those that occur twice are added up, what adds up to nothing is left out."""
        keys = rows.astype(np.int64) * num_items + columns
        order = np.argsort(keys)
        keys, values = keys[order], values[order]
        starts = _starts(keys)
        sums, sizes = _sum_from(values, starts), _sum_from(np.abs(values), starts)
        kept = np.abs(sums) > 2.0**-20 * sizes  # what is taken away again leaves at most the rounding of float32
        rows, columns = np.divmod(keys[starts][kept], num_items)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_items))])
        return cls(offsets.astype(np.int64), columns.astype(np.int32), sums[kept].astype(np.float32))

    def rows(self) -> np.ndarray:
        """The row of each stored pair `(P,)`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the pairs of these rows `(R,)` are stored, one row's after the other's, and how many of each."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        first = np.repeat(self.offsets[rows] - (np.cumsum(lengths) - lengths), lengths)
        return first + np.arange(len(first)), lengths


def _starts(keys: np.ndarray) -> np.ndarray:
    """Where a new value begins in sorted keys."""
    if len(keys) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])


def _sum_from(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sums of the values from one start to the next."""
    return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)


def count_pairs(
    items: np.ndarray,
    offsets: np.ndarray,
    num_items: int,
    settings: TransitionSettings,
    weights: np.ndarray | None = None,
    num_threads: int | None = None,
) -> _Counts:
    """Counts all pairs of interactions of one user that are at most `window` apart.

    The interactions are sorted by item. A block of items then finds the pairs of its rows, forward and backward, with
    one shifted read for each distance, and adds them up by sorting: memory is bounded by the blocks and the result,
    which is the same for any blocks, threads and order of the users.

    Args:
        items: `(N,)`, one user's items in time order after the other's.
        offsets: `(users + 1,)`: user `u` has the interactions from `offsets[u]` to `offsets[u + 1]`.
        num_items: `V`.
        settings: window, decay and weight of the way back.
        weights: `(N,)`, by default 1: a pair weighs what its later interaction weighs.
        num_threads: by default as many as there are cores.
    """
    window, table = settings.window, settings.pair_weights().ravel()
    lengths = np.diff(offsets)
    position = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    before = np.minimum(position, window).astype(np.uint16)  # interactions of the same user within the window
    after = np.minimum(np.repeat(lengths, lengths) - position - 1, window).astype(np.uint16)
    del position
    place_bits = max(1, len(items).bit_length())
    order = np.sort((items.astype(np.int64) << place_bits) | np.arange(len(items))) & ((1 << place_bits) - 1)
    item_starts = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=num_items))])
    pairs_before = np.concatenate([[0], np.cumsum(before[order].astype(np.int64) + after[order])])[item_starts]
    code_bits = (2 * window - 1).bit_length()
    distances = np.arange(1, window + 1)
    # All items that follow, and all that precede, an interaction lie side by side.
    padded = np.concatenate([np.zeros(window, np.int32), items.astype(np.int32), np.zeros(window + 1, np.int32)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    ways = (after, window + 1, distances, 1), (before, 0, distances[::-1], -1)

    def find_pairs(first: int, last: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Of a block of rows: pairs with their way and distance as one number each, and the later interaction."""
        keys = np.empty(pairs_before[last] - pairs_before[first], dtype=np.int64)
        later = np.empty(len(keys), dtype=np.int64) if weights is not None else None
        end = 0
        for start in range(item_starts[first], item_starts[last], 2**15):
            places = order[start : min(start + 2**15, item_starts[last])]
            rows = ((items[places].astype(np.int64) - first) * num_items)[:, None]
            for way, (available, shift, distance, sign) in enumerate(ways):
                exists = distance <= available[places][:, None]
                pairs = ((rows + windows[places + shift]) << code_bits) | (way * window + distance - 1)
                found = pairs[exists]
                keys[end : end + len(found)] = found
                if later is not None:
                    later[end : end + len(found)] = (places[:, None] + np.maximum(sign * distance, 0))[exists]
                end += len(found)
        return keys, later

    def count_block(first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        keys, later = find_pairs(first, last)
        if later is None:
            keys.sort()
            values = table[keys & ((1 << code_bits) - 1)]
        else:
            by_key = np.argsort(keys, kind="stable")
            keys = keys[by_key]
            values = table[keys & ((1 << code_bits) - 1)] * weights[later[by_key]]
        keys >>= code_bits
        starts = _starts(keys)
        pairs, values = keys[starts], _sum_from(values, starts)
        if later is not None:  # a weight may be zero
            pairs, values = pairs[values != 0], values[values != 0]
        rows = pairs // num_items
        columns = (pairs - rows * num_items).astype(np.int32)
        return np.bincount(rows, minlength=last - first), columns, values.astype(np.float32)

    bounds = np.searchsorted(pairs_before, np.arange(0, pairs_before[-1] + 1, _PAIRS_AT_A_TIME))
    bounds = np.unique(np.concatenate([[0], bounds, [num_items]]))
    # As large as if no pair occurred twice; memory is taken only for what is written.
    columns, values = np.empty(pairs_before[-1], np.int32), np.empty(pairs_before[-1], np.float32)
    row_lengths, end = [np.zeros(0, np.int64)], 0
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        for lengths_of_rows, its_columns, its_values in pool.map(count_block, bounds[:-1], bounds[1:]):
            start, end = end, end + len(its_columns)
            columns[start:end], values[start:end] = its_columns, its_values
            row_lengths.append(lengths_of_rows)
    columns.resize(end, refcheck=False)
    values.resize(end, refcheck=False)
    return _Counts(np.concatenate([[0], np.cumsum(np.concatenate(row_lengths))]).astype(np.int64), columns, values)


class Transitions:
    r"""
    A platform's counted item-to-item transitions.

    They belong to a catalogue, not to a checkpoint. Made by [`from_sequences`], kept up to date by [`update`] and
    [`forget`], merged from shards by [`merge`], saved by [`save_pretrained`].

    Args:
        item_ids: `(V,)` ids of the items.
        settings: how pairs are counted and read.

    Example:

    >>> transitions = Transitions.from_sequences([["a", "b", "c"], ["a", "b"]], window=1)
    >>> transitions["a"], transitions["b"]
    ({'b': 2.0}, {'a': 1.0, 'c': 1.0})
    >>> transitions.update("somebody", ["a", "c"])["a"]
    {'b': 2.0, 'c': 1.0}
    """

    def __init__(self, item_ids: Sequence[str], settings: TransitionSettings | None = None):
        self.item_ids = as_ids(item_ids).to_pylist() if len(item_ids) else []
        self.settings = settings or TransitionSettings()
        self.item_counts = np.zeros(len(self.item_ids))  # D (V,)
        self.stamp: dict = {}  # of the data: fingerprint and numbers of users and interactions
        self._index = {item_id: index for index, item_id in enumerate(self.item_ids)}
        if len(self._index) != len(self.item_ids):
            raise ValueError("an item id is given twice; ids must be distinct")
        self._counts = _Counts(
            np.zeros(len(self.item_ids) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
        )
        self._changes: dict[int, dict[int, float]] = {}  # to be added to the counts
        self._scale: np.ndarray | None = None  # item_counts ** -power
        self._changing = threading.RLock()  # readers see whole changes
        self._pair_weights = [weights.tolist() for weights in self.settings.pair_weights()]
        # Of users who are kept: items, times and weights.
        self._histories: dict[str, list[tuple[int, float | None, float]]] = {}
        self._kept = 0  # how many of each user's last interactions are kept; None: all
        self._reference: float | None = None  # the time at which an interaction weighs 1
        self._latest: float | None = None  # the last time that was seen

    @classmethod
    def from_sequences(
        cls,
        sequences: datasets.Dataset | Sequence[Sequence[str]],
        item_ids: Sequence[str] | None = None,
        keep: str = "nothing",
        weights: np.ndarray | None = None,
        num_threads: int | None = None,
        **settings,
    ) -> "Transitions":
        """Counts the transitions of users' histories. The histories should be whole: a cut at some length loses pairs.

        Args:
            sequences: a data set with columns `item_ids` and, where known, `user_id`, `timestamps` and `weights`;
                or lists of item ids.
            item_ids: the catalogue; other items count for distances, but are left out of the result. By default the
                items of the histories.
            keep: which interactions of the users stay known: `"nothing"`, `"recent"` (as many as [`update`] needs) or
                `"all"` ([`forget`] needs them).
            weights: `(N,)` of each interaction, the first user's first, by default those of the data set; a pair
                weighs what its later interaction weighs.
            num_threads: by default as many as there are cores.
            settings: those of [`TransitionSettings`].
        """
        if keep not in ("nothing", "recent", "all"):
            raise ValueError(f"keep must be 'nothing', 'recent' or 'all', got {keep!r}")
        if not isinstance(sequences, datasets.Dataset):
            lists = pa.array(map(list, sequences), pa.list_(pa.string()))
            sequences = datasets.Dataset(pa.table({"item_ids": lists}))
        chosen = TransitionSettings(**settings)
        lists = _whole(sequences, "item_ids")
        flat, lengths = lists.flatten().cast(pa.string()), lists.value_lengths().to_numpy(zero_copy_only=False)
        if lists.null_count or flat.null_count:
            raise ValueError("a history or an item id is null; leave such rows out")
        found = flat.unique()
        known = found if item_ids is None else as_ids(item_ids) if len(item_ids) else found.slice(0, 0)
        everything = pa.concat_arrays([known, found.filter(pc.invert(pc.is_in(found, value_set=known)))])
        items = pc.index_in(flat, value_set=everything).to_numpy(zero_copy_only=False).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        weights = values_of_interactions(sequences, "weights") if weights is None else weights
        needs_times = chosen.half_life is not None or keep != "nothing"
        times = values_of_interactions(sequences, "timestamps") if needs_times else None
        if chosen.half_life is not None and times is None:
            raise ValueError("half_life needs timestamps; the histories have none")
        if weights is not None and (len(weights) != len(items) or not (np.asarray(weights) >= 0).all()):
            raise ValueError(f"weights must be {len(items)} numbers of at least 0, one an interaction")

        whole = cls(everything.to_pylist(), chosen)
        if times is not None and len(times):
            whole._latest = float(times.max())
        aged = weights
        if chosen.half_life is not None:
            whole._reference = whole._latest
            aged = 0.5 ** ((whole._latest - times) / chosen.half_life) * (1.0 if weights is None else weights)
        whole._counts = count_pairs(items, offsets, len(everything), chosen, aged, num_threads)
        whole.item_counts = np.bincount(items, weights=aged, minlength=len(everything)).astype(np.float64)
        digest = hashlib.sha256(json.dumps(whole.item_ids).encode())
        digest.update(items.tobytes() + offsets.tobytes() + (b"" if weights is None else weights.tobytes()))
        whole.stamp = {
            "fingerprint": digest.hexdigest()[:16],
            "num_users": len(lengths),
            "num_interactions": len(items),
            "num_changes": 0,
        }
        if keep != "nothing":
            if "user_id" not in sequences.column_names:
                raise ValueError(f"keep={keep!r} needs a column user_id")
            whole._keep(sequences["user_id"], items, times, weights, offsets, keep)
        return whole if len(known) == len(everything) else whole.aligned(known.to_pylist())

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        return f"Transitions({len(self):,} items, {self.num_pairs:,} pairs, {self.settings})"

    def __getitem__(self, item_id: str) -> dict[str, float]:
        """The raw counts from one item to others, by item id."""
        index = self._index[item_id]
        found: dict[int, float] = {}
        row = slice(self._counts.offsets[index], self._counts.offsets[index + 1])
        for column, value in zip(self._counts.columns[row].tolist(), self._counts.values[row].tolist(), strict=True):
            found[column] = value
        for column, value in self._changes.get(index, {}).items():
            found[column] = found.get(column, 0.0) + value
        return {self.item_ids[column]: value for column, value in sorted(found.items()) if value != 0}

    @property
    def num_pairs(self) -> int:
        """How many pairs of items have a count."""
        self._settle()
        return len(self._counts.columns)

    def to_dense(self) -> np.ndarray:
        """The raw counts `(V, V)`; for few items."""
        self._settle()
        dense = np.zeros((len(self), len(self)))
        dense[self._counts.rows(), self._counts.columns] = self._counts.values
        return dense

    # Reading

    def with_settings(self, **settings) -> "Transitions":
        """The same counts, read with another `power` or `history_decay`; nothing is copied."""
        fixed = {"window", "decay", "backward", "half_life"} & set(settings)
        if fixed:
            raise ValueError(f"{', '.join(sorted(fixed))} belong to counting; make the transitions anew")
        other = object.__new__(Transitions)
        other.__dict__.update(self.__dict__)
        other.settings, other._scale = TransitionSettings(**{**asdict(self.settings), **settings}), None
        return other

    def scores(self, histories: np.ndarray) -> scipy.sparse.csr_array:
        """Returns the scores `(B, V)` of a batch of histories, of which only those above zero are stored.

        Args:
            histories: `(B, L)` indices of items, -1 at padding on the left.
        """
        with self._changing:
            users, items, scores, _ = self._entries(histories)
        entries = scipy.sparse.coo_array((scores, (users, items)), shape=(len(histories), len(self)))
        return entries.tocsr()  # sums what several items of a history give

    def select(self, catalogue_index: np.ndarray) -> "Transitions":
        """Returns the transitions of these items only, which get the indices 0, 1, …"""
        return self.aligned([self.item_ids[index] for index in catalogue_index])

    def contributions(self, history: np.ndarray, items: np.ndarray) -> np.ndarray:
        """What each item of a history `(L,)` adds to the scores of some items `(K,)`: `(L, K)`."""
        _, columns, scores, places = self._entries(np.asarray(history)[None])
        found = np.zeros((len(history), len(self)))
        np.add.at(found, (places, columns), scores)
        return found[:, items]

    def _entries(self, histories: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Users, items and scores of every stored pair that starts at an item of a history, and its place there."""
        decay, length = self.settings.history_decay, histories.shape[1]
        # What weighs less than a millionth is not read.
        reach = length if decay == 1 else min(length, int(np.log(1e-6) / np.log(decay)) + 1)
        read = histories[:, length - reach :]
        if self._changes and read.size > 1000:
            self._settle()
        users, places = np.nonzero(read >= 0)
        rows = read[users, places]
        scale = self._scales()
        weights = decay ** (reach - 1.0 - places) * scale[rows]
        stored, lengths = self._counts.find(rows)
        which = np.repeat(np.arange(len(rows)), lengths)
        columns, values = self._counts.columns[stored].astype(np.int64), self._counts.values[stored].astype(np.float64)
        if self._changes:
            changed = [
                (number, column, value)
                for number, row in enumerate(rows.tolist())
                for column, value in self._changes.get(row, {}).items()
            ]
            if changed:
                numbers, others, added = (np.array(part) for part in zip(*changed, strict=True))
                which, columns = np.concatenate([which, numbers]), np.concatenate([columns, others])
                values = np.concatenate([values, added])
        scores = values * weights[which] * scale[columns]
        return users[which], columns, scores, places[which] + (length - reach)

    def _scales(self) -> np.ndarray:
        """`D ** -power` `(V,)`; with a half-life counts and item counts are those of the last time that was seen."""
        if self._scale is None:
            with np.errstate(divide="ignore"):
                self._scale = np.where(self.item_counts > 0, self.item_counts**-self.settings.power, 0.0)
        if self.settings.half_life is None or self._latest == self._reference:
            return self._scale
        aged = 0.5 ** ((self._latest - self._reference) / self.settings.half_life)
        return self._scale * aged ** (0.5 - self.settings.power)

    # Change

    def update(
        self,
        user_id: str,
        new_items: Sequence[str],
        timestamps: Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
    ) -> "Transitions":
        """Counts new interactions of a user, in microseconds each.

        They follow those of the user that are kept, see `keep` of [`from_sequences`]; of a user who is not known they
        are the first. An interaction with the item and time of one that is kept already does not count again.

        Args:
            user_id: the user.
            new_items: item ids, in time order.
            timestamps: their times; needed where there is a half-life.
            weights: what each of them counts, by default 1.

        Returns: itself.
        """
        if isinstance(new_items, str):
            raise ValueError("new_items must be a list of item ids, not one id")
        if timestamps is None and self.settings.half_life is not None:
            raise ValueError("these transitions have a half-life: give the timestamps of the interactions")
        times = [None] * len(new_items) if timestamps is None else list(timestamps)
        weights = [1.0] * len(new_items) if weights is None else list(weights)
        indices = [self._known(item_id) for item_id in new_items]
        history = self._histories.setdefault(user_id, [])
        is_new_user, added = not history, 0
        with self._changing:
            for index, time, weight in zip(indices, times, weights, strict=True):
                if time is not None and any(event[:2] == (index, time) for event in history):
                    continue
                self._add_event(history, index, time, weight)
                history.append((index, time, weight))
                added += 1
        self.stamp["num_changes"] = self.stamp.get("num_changes", 0) + added
        self.stamp["num_interactions"] = self.stamp.get("num_interactions", 0) + added
        self.stamp["num_users"] = self.stamp.get("num_users", 0) + is_new_user
        if self._kept is not None:
            del history[: -max(self._kept, self.settings.window)]
        return self

    def forget(self, user_id: str, history: Sequence[str] | None = None) -> "Transitions":
        """Takes all that a user has added out of the counts, which are then those made without this user.

        Args:
            user_id: the user.
            history: the user's whole history, where it is not kept here (`keep="all"`) and all of it counted 1.

        Returns: itself.
        """
        if history is None:
            if self._kept is not None:
                raise ValueError(
                    "whole histories are not kept here; give the user's history, or count with keep='all'"
                )
            if user_id not in self._histories:
                raise ValueError(f"there is no history of user {user_id!r}")
            events = self._histories[user_id]
        else:
            if self.settings.half_life is not None:
                raise ValueError("with a half-life the times are needed: count with keep='all'")
            events = [(self._known(item_id), None, 1.0) for item_id in history]
        past: list[tuple[int, float | None, float]] = []
        for index, time, weight in events:
            self._add_event(past, index, time, -weight)
            past.append((index, time, weight))
        self._histories.pop(user_id, None)
        self.stamp["num_changes"] = self.stamp.get("num_changes", 0) + len(events)
        self.stamp["num_interactions"] = self.stamp.get("num_interactions", 0) - len(events)
        self.stamp["num_users"] = self.stamp.get("num_users", 0) - 1
        return self

    def add_items(self, item_ids: Sequence[str]) -> "Transitions":
        """Makes new items known, which have no counts yet. Returns: itself."""
        self._settle()
        new = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in self._index]
        self._index.update((item_id, len(self.item_ids) + number) for number, item_id in enumerate(new))
        self.item_ids = self.item_ids + new
        self.item_counts = np.concatenate([self.item_counts, np.zeros(len(new))])
        end = self._counts.offsets[-1]
        self._counts.offsets = np.concatenate([self._counts.offsets, np.full(len(new), end)])
        self._scale = None
        return self

    def _add_event(self, history: list, index: int, time: float | None, weight: float) -> None:
        if self.settings.half_life is not None:
            if self._reference is None:
                self._reference = self._latest = time
            self._latest = max(self._latest, time)
            weight *= 0.5 ** ((self._reference - time) / self.settings.half_life)
        forward, backward = self._pair_weights
        to_others = self._changes.setdefault(index, {})
        for distance, (other, _, _) in enumerate(reversed(history[-self.settings.window :])):
            from_other = self._changes.setdefault(other, {})
            from_other[index] = from_other.get(index, 0.0) + weight * forward[distance]
            to_others[other] = to_others.get(other, 0.0) + weight * backward[distance]
        self.item_counts[index] += weight
        if self._scale is not None:
            count = self.item_counts[index]
            self._scale[index] = count**-self.settings.power if count > 0 else 0.0

    def _known(self, item_id: str) -> int:
        if item_id not in self._index:
            raise ValueError(f"item {item_id!r} is not among the {len(self)} items; add_items([…]) makes it known")
        return self._index[item_id]

    def _settle(self) -> None:
        """Adds the changes to the sparse matrix."""
        if not self._changes:
            return
        rows = np.repeat(list(self._changes), [len(row) for row in self._changes.values()])
        columns = np.array([column for row in self._changes.values() for column in row], dtype=np.int64)
        values = np.array([value for row in self._changes.values() for value in row.values()])
        self._changes = {}
        parts = (self._counts.rows(), rows), (self._counts.columns, columns), (self._counts.values, values)
        self._counts = _Counts.sum_pairs(len(self), *map(np.concatenate, parts))

    def _keep(self, user_ids: Sequence[str], items, times, weights, offsets, keep: str) -> None:
        self._kept = None if keep == "all" else self.settings.window
        ends = offsets[1:].tolist()
        starts = (offsets[:-1] if keep == "all" else np.maximum(offsets[:-1], offsets[1:] - self._kept)).tolist()
        items = items.tolist()
        times = [None] * len(items) if times is None else times.tolist()
        weights = [1.0] * len(items) if weights is None else weights.tolist()
        self._histories = {
            user: list(zip(items[start:end], times[start:end], weights[start:end], strict=True))
            for user, start, end in zip(user_ids, starts, ends, strict=True)
        }

    # Whole matrices

    @classmethod
    def merge(cls, shards: Sequence["Transitions"]) -> "Transitions":
        """The transitions of all users together, each of whom is in one shard; counted the same way."""
        if not shards:
            raise ValueError("there is nothing to merge")
        if any(shard.settings != shards[0].settings for shard in shards):
            raise ValueError("the shards were counted with different settings")
        if shards[0].settings.half_life is not None and len({shard._reference for shard in shards}) > 1:
            raise ValueError("the shards weigh interactions from different times on; count them together")
        item_ids = list(dict.fromkeys(item_id for shard in shards for item_id in shard.item_ids))
        shards = [shard.aligned(item_ids) for shard in shards]
        merged = cls(item_ids, shards[0].settings)
        pairs = [(shard._counts.rows(), shard._counts.columns, shard._counts.values) for shard in shards]
        merged._counts = _Counts.sum_pairs(len(merged), *map(np.concatenate, zip(*pairs, strict=True)))
        merged.item_counts = np.sum([shard.item_counts for shard in shards], axis=0)
        merged._reference, merged._latest = shards[0]._reference, shards[0]._latest
        fingerprints = "".join(sorted(str(shard.stamp.get("fingerprint")) for shard in shards))
        totals = {
            name: sum(shard.stamp.get(name, 0) for shard in shards)
            for name in ("num_users", "num_interactions", "num_changes")
        }
        merged.stamp = {"fingerprint": hashlib.sha256(fingerprints.encode()).hexdigest()[:16], **totals}
        return merged

    def aligned(self, item_ids: Sequence[str]) -> "Transitions":
        """The same transitions for another catalogue: items that are not in it are left out, new ones have no counts.

        Args:
            item_ids: the catalogue's ids, in its order.
        """
        self._settle()
        if list(item_ids) == self.item_ids:
            return self
        other = Transitions(item_ids, self.settings)
        new_index = np.array([other._index.get(item_id, -1) for item_id in self.item_ids], dtype=np.int64)
        rows, columns = new_index[self._counts.rows()], new_index[self._counts.columns]
        kept = (rows >= 0) & (columns >= 0)
        other._counts = _Counts.sum_pairs(len(other), rows[kept], columns[kept], self._counts.values[kept])
        stay = new_index >= 0
        other.item_counts[new_index[stay]] = self.item_counts[stay]
        other.stamp = dict(self.stamp)
        other._reference, other._latest, other._kept = self._reference, self._latest, self._kept
        mapped = new_index.tolist()
        other._histories = {
            user: [(mapped[index], time, weight) for index, time, weight in history if mapped[index] >= 0]
            for user, history in self._histories.items()
        }
        return other

    def pruned(self, max_per_item: int | None = None, min_count: float = 0.0) -> "Transitions":
        """Only the strongest pairs. No user's kept history goes along.

        Args:
            max_per_item: for each item, how many transitions from it stay: those of the largest normalised count.
            min_count: the least raw count that stays. Where no user comes back to an item, one user adds at most 1 to
                a pair, so what is above `n - 1` stems from at least `n` users.
        """
        self._settle()
        rows, columns, values = self._counts.rows(), self._counts.columns, self._counts.values
        kept = values >= min_count
        rows, columns, values = rows[kept], columns[kept], values[kept]
        if max_per_item is not None:
            strength = values * self._scales()[columns]
            order = np.lexsort((-strength, rows))  # rows stay in order
            rank = (
                np.arange(len(rows)) - np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(self)))])[rows]
            )
            chosen = np.sort(order[rank < max_per_item])
            rows, columns, values = rows[chosen], columns[chosen], values[chosen]
        other = Transitions(self.item_ids, self.settings)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(self)))]).astype(np.int64)
        other._counts = _Counts(offsets, columns, values)
        other.item_counts, other.stamp = self.item_counts.copy(), dict(self.stamp)
        other._reference, other._latest = self._reference, self._latest
        return other

    # Files

    def save_pretrained(
        self, save_directory: str | os.PathLike, max_per_item: int | None = None, min_count: float = 0.0
    ) -> Path:
        """Saves counts, item counts, item ids, settings and the stamp of the data as one safetensors file.

        Nothing of a single user is saved, but a count to which one user alone contributed says what that user did:
        `min_count` leaves such counts out.

        Args:
            save_directory: the folder.
            max_per_item, min_count: see [`pruned`].

        Returns: the file.
        """
        saved = self if max_per_item is None and not min_count else self.pruned(max_per_item, min_count)
        saved._settle()
        ids = pa.array(saved.item_ids, pa.large_string())
        names = "".join(saved.item_ids).encode()
        tensors = {
            "offsets": saved._counts.offsets,
            "columns": saved._counts.columns,
            "counts": saved._counts.values,
            "item_counts": saved.item_counts,
            "item_id_lengths": pc.binary_length(ids).to_numpy().astype(np.int32),
            "item_id_bytes": np.frombuffer(names, dtype=np.uint8),
        }
        pruning = {"max_per_item": max_per_item, "min_count": min_count}
        facts: dict[str, Any] = {"settings": asdict(saved.settings), "stamp": saved.stamp, "pruning": pruning}
        facts["times"] = [saved._reference, saved._latest]
        file = Path(save_directory) / TRANSITIONS_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        save_file(tensors, unfinished, metadata={name: json.dumps(value) for name, value in facts.items()})
        unfinished.replace(file)
        return file

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike) -> "Transitions":
        """Loads what [`save_pretrained`] saved, from the folder or the file."""
        file = Path(name_or_path)
        file = file / TRANSITIONS_FILE if file.is_dir() else file
        with safe_open(file, "numpy") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            facts = {name: json.loads(value) for name, value in opened.metadata().items()}
        ends = np.cumsum(tensors["item_id_lengths"]).tolist()
        names = tensors["item_id_bytes"].tobytes()
        item_ids = [names[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
        loaded = cls(item_ids, TransitionSettings(**facts["settings"]))
        loaded._counts = _Counts(tensors["offsets"], tensors["columns"], tensors["counts"])
        loaded._counts_are_whole(file)
        loaded.item_counts, loaded.stamp = tensors["item_counts"], facts["stamp"]
        loaded._reference, loaded._latest = facts["times"]
        return loaded

    def _counts_are_whole(self, file: Path) -> None:
        counts, num_items = self._counts, len(self)
        if (
            len(counts.offsets) != num_items + 1
            or counts.offsets[0] != 0
            or (np.diff(counts.offsets) < 0).any()
            or not counts.offsets[-1] == len(counts.columns) == len(counts.values)
            or (len(counts.columns) and not (0 <= counts.columns.min() and counts.columns.max() < num_items))
            or not np.isfinite(counts.values).all()
        ):
            raise ValueError(f"{file} is no whole file of transitions; count them again")


def _whole(sequences: datasets.Dataset, column: str) -> pa.Array:
    """A column as one array."""
    values = sequences.select_columns([column]).with_format("arrow")[:][column]
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def from_interactions(interactions: Mapping[str, Sequence]) -> datasets.Dataset:
    """One row an interaction to one row a user: histories in time order, as [`Transitions.from_sequences`] reads them.

    Args:
        interactions: columns `user_id`, `item_id` and, where known, `timestamp` and `weight`: a DataFrame, data set
            or dict. Without times the rows of a user are taken to be in time order. The weight is what an interaction
            counts, such as 0.1 for a click and 1 for a purchase; those of weight 0 are left out.

    >>> table = {"user_id": ["u", "v", "u"], "item_id": ["b", "a", "a"], "timestamp": [5, 1, 3]}
    >>> from_interactions(table)["item_ids"][:]
    [['a', 'b'], ['a']]
    """
    import polars as pl

    lists = {"item_id": "item_ids", "timestamp": "timestamps", "weight": "weights"}
    names = [name for name in ("user_id", *lists) if name in interactions]
    if not {"user_id", "item_id"} <= set(names):
        raise ValueError(f"interactions need columns user_id and item_id; they have {', '.join(interactions)}")
    table = pl.DataFrame({name: list(interactions[name]) for name in names})
    table = table.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    if "weight" in names:
        if not table["weight"].cast(pl.Float64).ge(0).fill_null(False).all():
            raise ValueError("the weight of an interaction must be a number of at least 0")
        table = table.filter(pl.col("weight") > 0)
    if "timestamp" in names:
        table = table.sort("timestamp", maintain_order=True)
    columns = [pl.col(name).alias(alias) for name, alias in lists.items() if name in names]
    grouped = table.group_by("user_id", maintain_order=True).agg(columns).sort("user_id").to_arrow()
    # Polars' large types as those of `datasets`.
    types = {"user_id": pa.string(), "item_ids": pa.list_(pa.string()), "weights": pa.list_(pa.float64())}
    small = [(field.name, types.get(field.name, pa.list_(pa.int64()))) for field in grouped.schema]
    return datasets.Dataset(grouped.cast(pa.schema(small)))
