"""Transitions: how often one item of a platform follows another, counted in its users' histories; nothing is trained.

The counts `C (V, V)` are sparse and raw; the item counts `D (V,)` normalise them when they are read, so that one more
interaction changes a few numbers. With the score of a history, `sum over its items of history_decay ** (steps back) *
T[item, :]` and `T = D ** -power * C * D ** -power`, they are a recommender by themselves, and a sparse part that is
added to any dense score (item-based nearest neighbours: Linden et al., "Amazon.com Recommendations", IEEE Internet
Computing 2003; weighted by distance as in session-based ones: Ludewig and Jannach, "Evaluation of Session-based
Recommendation Algorithms", UMUAI 2018).

Shapes: `V` items, `N` interactions, `P` stored pairs, `B` users, `L` history length.
"""

import copy
import functools
import hashlib
import json
import math
import operator
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_array

from ..models.checkpoint_files import named_file
from ..models.whole_saves import whole_save
from .counting import Event, TransitionSettings, UserInteractions, count_pairs, square_matrix
from .growing import GrowingList, Layers
from .loading import as_ids


TRANSITIONS_FILE = "transitions.safetensors"
_ROWS_AT_A_TIME = 10_000  # that are pruned
_ROUNDING = 2.0**-20  # share of a change that may be left of a count of float32 when the change is taken back


class Transitions:
    r"""
    A platform's counted item-to-item transitions.

    They belong to a catalogue, not to a checkpoint. Made by [`from_sequences`], merged from shards by [`merge`], saved
    by [`save_pretrained`]. They never change: [`update`], [`forget`] and the others return new transitions, which
    share nearly everything with these, so that threads can read them.

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
        self.item_ids: GrowingList[str] = GrowingList(as_ids(item_ids).to_pylist() if len(item_ids) else [])
        self.settings = settings or TransitionSettings()
        self.stamp: dict = {}  # of the data: fingerprint and numbers of users and interactions
        index = {item_id: index for index, item_id in enumerate(self.item_ids)}
        if len(index) != len(self.item_ids):
            raise ValueError("an item id is given twice; ids must be distinct")
        self._index: Layers[str, int] = Layers(index)
        self._counts = csr_array((len(self.item_ids),) * 2, dtype=np.float32)
        self._counted = np.zeros(len(self.item_ids))  # item counts that belong to the counts
        self._changes: Layers[int, dict[int, float]] = Layers()  # to be added to the counts, by row
        self._changed: Layers[int, float] = Layers()  # to be added to the item counts
        self._num_changes = 0  # pairs that were changed
        self._base: Transitions | None = None  # the transitions without the changes
        self._pair_weights = [weights.tolist() for weights in self.settings.pair_weights()]
        self._kept: UserInteractions | None = None  # of users, as they were counted
        self._histories: Layers[str, tuple[Event, ...]] = Layers()  # of users whose history has changed since
        self._reference: float | None = None  # the time at which an interaction weighs 1
        self._latest: float | None = None  # the last time that was seen

    def _replace(self, **changes) -> "Transitions":
        """Returns a copy with other attributes; what was derived from the old ones is derived anew."""
        other = copy.copy(self)
        for name in ("item_counts", "_scales", "_settled"):
            vars(other).pop(name, None)
        vars(other).update(changes)
        return other

    @classmethod
    def from_sequences(
        cls,
        sequences: datasets.Dataset | pa.Table | Sequence[Sequence[str]],
        item_ids: Sequence[str] | None = None,
        keep_histories: bool = False,
        weights: np.ndarray | None = None,
        num_threads: int | None = None,
        **settings,
    ) -> "Transitions":
        """Counts the transitions of users' histories. The histories should be whole: a cut at some length loses pairs.

        Args:
            sequences: a data set or table of Arrow with columns `item_ids` and, where known, `user_id`, `timestamps`
                and `weights`; or lists of item ids.
            item_ids: the catalogue; other items count for distances, but are left out of the result. By default the
                items of the histories.
            keep_histories: whether the histories stay known, by the column `user_id`, so that [`update`] goes on from
                their ends and [`forget`] can take them away.
            weights: `(N,)` of each interaction, the first user's first, by default those of the data set; a pair
                weighs what its later interaction weighs.
            num_threads: by default as many as there are cores.
            settings: those of [`TransitionSettings`].
        """
        if not isinstance(sequences, datasets.Dataset | pa.Table):
            sequences = pa.table({"item_ids": pa.array(map(list, sequences), pa.list_(pa.string()))})
        if isinstance(sequences, pa.Table):
            sequences = datasets.Dataset(sequences)
        chosen = TransitionSettings(**settings)
        read, all_ids, num_known = UserInteractions.read(sequences, item_ids, weights, keep_histories)
        aged = read.aged_weights(chosen.half_life)
        whole = cls(all_ids, chosen)
        whole._kept = read if keep_histories else None
        if read.times is not None and len(read.times):
            whole._latest = float(read.times.max())
        if chosen.half_life is not None:
            whole._reference = whole._latest
        whole._counts = count_pairs(read.items, read.offsets, len(all_ids), chosen, aged, num_threads)
        whole._counted = np.bincount(read.items, weights=aged, minlength=len(all_ids)).astype(np.float64)
        whole.stamp = read.stamp(all_ids)
        return whole.aligned(all_ids[:num_known])

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: str) -> bool:
        return self._index.get(item_id, -1) >= 0

    def __repr__(self) -> str:
        return f"Transitions({len(self):,} items, {self.num_pairs:,} pairs, {self.settings})"

    def __getitem__(self, item_id: str) -> dict[str, float]:
        """Returns the raw counts from one item to others, by item id."""
        if item_id not in self:
            raise KeyError(item_id)
        row = self._settled._counts[self.index_of([item_id])]
        return {self.item_ids[column]: count for column, count in zip(row.indices, row.data.tolist(), strict=True)}

    def index_of(self, item_ids: Sequence[str]) -> np.ndarray:
        """Returns the indices `(N,)` of items, -1 for those that are not known."""
        return np.array([self._index.get(item_id, -1) for item_id in item_ids], dtype=np.int64)

    @property
    def num_pairs(self) -> int:
        """How many pairs of items have a count."""
        return self._settled._counts.nnz

    def to_dense(self) -> np.ndarray:
        """Returns the raw counts `(V, V)`; for few items."""
        return self._settled._counts.toarray().astype(np.float64)

    # Reading

    @functools.cached_property
    def item_counts(self) -> np.ndarray:
        """`D` `(V,)`: how often each item occurs."""
        changed = self._changed.as_dict()
        counts = self._counted.copy() if changed else self._counted
        counts[list(changed)] += list(changed.values())
        return counts

    @functools.cached_property
    def _scales(self) -> np.ndarray:
        """`D ** -power` `(V,)`; computed anew only for items that have been counted since the base."""
        computed = slice(None) if self._base is None else list(self._changed.as_dict())
        scales = np.zeros(len(self)) if self._base is None else self._base._scales.copy()
        counts, power = self.item_counts[computed], self.settings.power
        scales[computed] = np.power(counts, -power, out=np.zeros(len(counts)), where=counts > 0)
        return scales

    def with_settings(self, **settings) -> "Transitions":
        """Returns the same counts, read with another `power` or `history_decay`; nothing is copied."""
        fixed = {"window", "decay", "backward", "half_life"} & set(settings)
        if fixed:
            raise ValueError(f"{', '.join(sorted(fixed))} belong to counting; make the transitions anew")
        return self._replace(settings=replace(self.settings, **settings), _base=None)

    def scores(self, histories: np.ndarray) -> csr_array:
        """Returns the scores `(B, V)` of a batch of histories, of which only those above zero are stored.

        Args:
            histories: `(B, L)` indices of items, -1 at padding on the left.
        """
        rows, users, _, row, weights = self._read(histories)
        return csr_array((weights, (users, row)), shape=(len(histories), rows.shape[0])) @ rows

    def contributions(self, history: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns what each item of a history `(L,)` adds to the scores of some items `(K,)`: `(L, K)`."""
        rows, _, places, row, weights = self._read(np.asarray(history)[None])
        found = np.zeros((len(history), len(items)))
        found[places] = weights[:, None] * rows[:, items].toarray()[row]
        return found

    def _read(self, histories: np.ndarray) -> tuple[csr_array, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns the normalised rows of the distinct items in histories and, for each interaction `(N,)`, its user,
        its place in the history, its row, and the weight of this row in the user's score.
        """
        decay, length = self.settings.history_decay, histories.shape[1]
        # What weighs less than a millionth is not read.
        reach = length if decay == 1 else min(length, int(np.log(1e-6) / np.log(decay)) + 1)
        users, places = np.nonzero(histories[:, length - reach :] >= 0)
        places += length - reach
        items, row = np.unique(histories[users, places], return_inverse=True)
        current = self if len(items) < 1000 else self._settled
        rows = current._counts[items].astype(np.float64)
        changed = [
            (number, column, value)
            for number, item in enumerate(items.tolist())
            for column, value in current._changes.get(item, {}).items()
        ]
        if changed:
            numbers, columns, values = zip(*changed, strict=True)
            rows += csr_array((values, (numbers, columns)), shape=rows.shape)
        latest, reference, half_life = self._latest, self._reference, self.settings.half_life
        if half_life is not None and latest is not None and reference is not None and latest != reference:
            # Counts and item counts become those of the last time that was seen.
            age = (latest - reference) / half_life
            rows *= 0.5 ** (age * (1 - 2 * self.settings.power))
        rows.data *= self._scales[rows.indices]
        return rows, users, places, row, decay ** (length - 1.0 - places) * self._scales[items][row]

    # Change

    def update(
        self,
        user_id: str,
        new_items: Sequence[str],
        timestamps: Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
    ) -> "Transitions":
        """Returns these transitions with new interactions of a user, in about 90 microseconds each.

        They follow those of the user that are kept, see [`from_sequences`]; of a user who is not known they are the
        first. An interaction with the item and time of one that is kept already does not count again.

        Args:
            user_id: the user.
            new_items: item ids, in time order.
            timestamps: their times; needed where there is a half-life.
            weights: what each of them counts, by default 1.
        """
        if isinstance(new_items, str):
            raise ValueError("new_items must be a list of item ids, not one id")
        if timestamps is None and self.settings.half_life is not None:
            raise ValueError("these transitions have a half-life: give the timestamps of the interactions")
        history = self._history(user_id)
        seen = {event[:2] for event in history}
        events: list[Event] = []
        times = [None] * len(new_items) if timestamps is None else timestamps
        weights = [1.0] * len(new_items) if weights is None else weights
        for item_id, time, weight in zip(new_items, times, weights, strict=True):
            index = self._index.get(item_id, -1)
            if index < 0:
                raise ValueError(f"item {item_id!r} is not among the {len(self)} items; with_items([…]) adds it")
            event = index, time
            if time is None or event not in seen:
                events.append((*event, weight))
                seen.add(event)
        if not events:
            return self
        whole = (*history, *events)
        kept = whole if self._kept is not None else whole[-self.settings.window :]
        return self._with_events(history, events, 1)._with_user(user_id, kept, len(events), int(not history))

    def forget(self, user_id: str, history: Sequence[str] | None = None) -> "Transitions":
        """Returns these transitions without a user: those that are counted without this user.

        Args:
            user_id: the user.
            history: the user's whole history, where it is not kept here (`keep_histories`) and all of it counted 1.
        """
        if history is not None:
            if self.settings.half_life is not None:
                raise ValueError("with a half-life the times are needed: count with keep_histories=True")
            unknown = [item_id for item_id in history if self._index.get(item_id, -1) < 0]
            if unknown:
                raise ValueError(f"item {unknown[0]!r} is not counted, so this is not what was counted of {user_id!r}")
            events: Sequence[Event] = [(self._index.get(item_id, -1), None, 1.0) for item_id in history]
        elif self._kept is not None:
            events = self._history(user_id)
        else:
            raise ValueError("histories are not kept here: give the user's, or count with keep_histories=True")
        if not events:
            raise ValueError(f"there is no history of user {user_id!r}")
        return self._with_events((), events, -1)._with_user(user_id, (), -len(events), -1)

    def _history(self, user_id: str) -> tuple[Event, ...]:
        """Returns the interactions of a user that are kept."""
        counted = self._kept.of(user_id) if self._kept is not None else ()
        return self._histories.get(user_id, counted)

    def _with_user(self, user_id: str, history: tuple[Event, ...], added: int, added_users: int) -> "Transitions":
        numbers = {"num_interactions": added, "num_users": added_users, "num_changes": abs(added)}
        stamp = self.stamp | {name: self.stamp.get(name, 0) + number for name, number in numbers.items()}
        return self._replace(stamp=stamp, _histories=self._histories.changed({user_id: history}))

    def _with_events(self, history: Sequence[Event], events: Sequence[Event], sign: int) -> "Transitions":
        """Returns the transitions with the pairs of events that follow a history added, or taken away."""
        forward, backward = self._pair_weights
        window, half_life = self.settings.window, self.settings.half_life
        reference, latest = self._reference, self._latest
        rows: dict[int, dict[int, float]] = {}
        counts: dict[int, float] = {}

        def row(index: int) -> dict[int, float]:
            if index not in rows:
                rows[index] = self._changes.get(index, {}).copy()
            return rows[index]

        recent, num_pairs = [index for index, _, _ in history[-window:]], 0
        for index, time, weight in events:
            weight *= sign
            if half_life is not None and time is not None:
                reference = time if reference is None else reference
                latest = time if latest is None else max(latest, time)
                weight *= 0.5 ** ((reference - time) / half_life)
            if index >= 0:
                to_others = row(index)
                for distance, other in enumerate(reversed(recent)):
                    if other >= 0:
                        from_other = row(other)
                        from_other[index] = from_other.get(index, 0.0) + weight * forward[distance]
                        to_others[other] = to_others.get(other, 0.0) + weight * backward[distance]
                        num_pairs += 2
                counts[index] = counts.get(index, self._changed.get(index, 0.0)) + weight
            recent = [*recent, index][-window:]
        changed = self._replace(
            _changes=self._changes.changed(rows),
            _changed=self._changed.changed(counts),
            _num_changes=self._num_changes + num_pairs,
            _base=self._base or self,
            _reference=reference,
            _latest=latest,
        )
        is_due = changed._num_changes > max(2**16, self._counts.nnz // 8)
        return changed._settled if is_due else changed

    @functools.cached_property
    def _settled(self) -> "Transitions":
        """The same transitions, the changes added to the matrix."""
        if self._base is None:
            return self
        by_row = self._changes.as_dict()
        rows = np.repeat(list(by_row), [len(changes) for changes in by_row.values()])
        columns = np.array([column for changes in by_row.values() for column in changes], dtype=np.int64)
        values = np.array([value for changes in by_row.values() for value in changes.values()])
        before = self._counts[rows, columns]
        values = np.where(np.abs(before + values) > _ROUNDING * np.abs(values), values, -before).astype(np.float32)
        changes = csr_array((values, (rows, columns)), shape=self._counts.shape)
        return self._replace(
            _counts=self._counts + changes,  # which leaves out what adds up to nothing
            _counted=self.item_counts,
            _changes=Layers(),
            _changed=Layers(),
            _num_changes=0,
            _base=None,
        )

    def with_items(self, item_ids: Sequence[str]) -> "Transitions":
        """Returns these transitions with more items, which get the next indices and have no counts yet.

        >>> Transitions.from_sequences([["a", "b"]]).with_items(["c"]).item_counts
        array([1., 1., 0.])
        """
        if len(item_ids) == 0:
            return self
        known = next((item_id for item_id in item_ids if item_id in self), None)
        if known is not None or len(set(item_ids)) < len(item_ids):
            raise ValueError(f"ids must be distinct, and {'one' if known is None else known!r} is there already")
        old, more = len(self), len(item_ids)
        arrays = {
            name: np.append(vars(self)[name], np.zeros(more, vars(self)[name].dtype))
            for name in ("_counted", "item_counts", "_scales")
            if name in vars(self)  # the last two are derived where they are asked for
        }
        row_starts = np.append(self._counts.indptr, np.full(more, self._counts.indptr[-1]))
        return self._replace(
            item_ids=self.item_ids.grown(item_ids),
            _index=self._index.changed(dict(zip(item_ids, range(old, old + more), strict=True))),
            _counts=square_matrix(self._counts.data, self._counts.indices, row_starts),
            _base=None if self._base is None else self._base.with_items(item_ids),
            **arrays,
        )

    # Whole matrices

    def aligned(self, item_ids: Sequence[str]) -> "Transitions":
        """Returns the transitions of another catalogue: items that it lacks are left out, new ones get no counts.

        Args:
            item_ids: the catalogue's ids, in its order.
        """
        if self.item_ids == list(item_ids):
            return self
        settled, other = self._settled, Transitions(item_ids, self.settings)
        old_index = self.index_of(other.item_ids)
        new_index = np.full(len(self) + 1, -1)  # the last is that of unknown items
        stay = np.flatnonzero(old_index >= 0)
        new_index[old_index[stay]] = stay
        counts = settled._counts
        if not np.array_equal(old_index[stay], np.arange(len(self))):  # more than items added at the end
            counts = counts[old_index[stay]][:, old_index[stay]]
            counts.sort_indices()
        row_lengths = np.zeros(len(other), np.int64)
        row_lengths[stay] = np.diff(counts.indptr)
        columns = stay.astype(counts.indices.dtype)[counts.indices]
        other._counts = square_matrix(counts.data, columns, np.concatenate([[0], np.cumsum(row_lengths)]))
        other._counted[stay] = settled._counted[old_index[stay]]
        kept = self._kept and replace(self._kept, items=new_index[self._kept.items])
        histories = {
            user: tuple((int(new_index[index]), time, weight) for index, time, weight in history)
            for user, history in self._histories.as_dict().items()
        }
        same = {name: getattr(self, name) for name in ("stamp", "_reference", "_latest")}
        return other._replace(_kept=kept, _histories=Layers(histories), **same)

    @classmethod
    def merge(cls, shards: Sequence["Transitions"]) -> "Transitions":
        """Returns the transitions of all users together, each of whom is in one shard; counted the same way."""
        if not shards:
            raise ValueError("there is nothing to merge")
        if any(shard.settings != shards[0].settings for shard in shards):
            raise ValueError("the shards were counted with different settings")
        if len({shard._reference for shard in shards}) > 1:
            raise ValueError("the shards weigh interactions from different times on; count them together")
        item_ids = list(dict.fromkeys(item_id for shard in shards for item_id in shard.item_ids))
        shards = [shard.aligned(item_ids)._settled for shard in shards]
        fingerprints = "".join(sorted(str(shard.stamp.get("fingerprint")) for shard in shards))
        totals = {
            name: sum(shard.stamp.get(name, 0) for shard in shards)
            for name in ("num_users", "num_interactions", "num_changes")
        }
        return cls(item_ids, shards[0].settings)._replace(
            _counts=functools.reduce(operator.add, (shard._counts for shard in shards)),
            _counted=np.sum([shard._counted for shard in shards], axis=0),
            _reference=shards[0]._reference,
            _latest=shards[0]._latest,
            stamp={"fingerprint": hashlib.sha256(fingerprints.encode()).hexdigest()[:16], **totals},
        )

    def pruned(self, max_per_item: int | None = None, min_count: float = 0.0) -> "Transitions":
        """Returns only the strongest pairs. No user's kept history goes along.

        A pair that is left out begins at 0 in later updates. Where a tenth of the users came after a pruning to 100
        pairs an item, NDCG@10 was that of all users counted first and pruned then, within 0.0001; with 50, within
        0.0012 (`benchmarks/results/counts.md`).

        Args:
            max_per_item: for each item, how many transitions from it stay: those of the largest normalised count.
            min_count: the least raw count that stays. Where no user comes back to an item and no interaction weighs
                more than 1, one user adds at most 1 to a pair, so what is above `n - 1` stems from at least `n` users.
        """
        if max_per_item is not None and max_per_item < 1:
            raise ValueError(f"max_per_item must be at least 1, got {max_per_item}")
        if not 0 <= min_count < float("inf"):
            raise ValueError(f"min_count must be a number of at least 0, got {min_count}")
        settled = self._settled
        counts, scales = settled._counts, settled._scales
        kept = counts.data >= min_count
        for first in range(0, len(self) if max_per_item is not None else 0, _ROWS_AT_A_TIME):
            starts = counts.indptr[first : first + _ROWS_AT_A_TIME + 1]
            rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
            pairs = slice(starts[0], starts[-1])
            strength = np.where(kept[pairs], counts.data[pairs] * scales[counts.indices[pairs]], 0)
            strongest = np.lexsort((-strength, rows))  # row by row
            kept[pairs][strongest[np.arange(len(rows)) - (starts - starts[0])[rows] >= max_per_item]] = False
        row_starts = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
        return settled._replace(
            _counts=square_matrix(counts.data[kept], counts.indices[kept], row_starts),
            _kept=None,
            _histories=Layers(),
        )

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
        saved = self._settled if max_per_item is None and not min_count else self.pruned(max_per_item, min_count)
        ids = pa.array(list(saved.item_ids), pa.large_string())
        tensors = {
            "offsets": saved._counts.indptr.astype(np.int64),
            "columns": saved._counts.indices.astype(np.int32),
            "counts": saved._counts.data,
            "item_counts": saved._counted,
            "item_id_lengths": pc.binary_length(ids).to_numpy().astype(np.int32),
            "item_id_bytes": np.frombuffer("".join(saved.item_ids).encode(), dtype=np.uint8),
        }
        pruning = {"max_per_item": max_per_item, "min_count": min_count}
        facts: dict[str, Any] = {"settings": asdict(saved.settings), "stamp": saved.stamp, "pruning": pruning}
        facts["times"] = [saved._reference, saved._latest]
        with whole_save(save_directory) as folder:
            save_file(
                tensors, folder / TRANSITIONS_FILE, metadata={name: json.dumps(value) for name, value in facts.items()}
            )
        return Path(save_directory) / TRANSITIONS_FILE

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike) -> "Transitions":
        """Loads what [`save_pretrained`] saved, from the folder or the file.

        Raises:
            ValueError: if the file is damaged; it names the file.
        """
        file = Path(name_or_path)
        file = file / TRANSITIONS_FILE if file.is_dir() else file
        with named_file(file):
            with safe_open(file, "numpy") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
                facts = {name: json.loads(value) for name, value in opened.metadata().items()}
            counts, item_counts, item_ids = _checked(tensors)
            (reference, latest), stamp = facts["times"], facts["stamp"]
            numbers = [stamp.get(name, 0) for name in ("num_users", "num_interactions", "num_changes")]
            if not all(isinstance(one, int) for one in numbers):
                raise ValueError("the stamp must have whole numbers of users and interactions")
            if not all(time is None or math.isfinite(time) for time in (reference, latest)):
                raise ValueError("times must be numbers")
            return cls(item_ids, TransitionSettings(**facts["settings"]))._replace(
                _counts=counts, _counted=item_counts, stamp=stamp, _reference=reference, _latest=latest
            )


def _checked(tensors: dict[str, np.ndarray]) -> tuple[csr_array, np.ndarray, list[str]]:
    """Returns counts `(V, V)`, item counts `(V,)` and item ids, from the tensors of a file."""
    lengths, names = tensors["item_id_lengths"], tensors["item_id_bytes"].tobytes()
    ends = np.cumsum(lengths).tolist()
    if (lengths < 0).any() or sum(ends[-1:]) != len(names):
        raise ValueError("the lengths of the item ids are not those of their names")
    item_ids = [names[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    if len(tensors["offsets"]) != len(item_ids) + 1 or tensors["item_counts"].shape != (len(item_ids),):
        raise ValueError(f"it has {len(item_ids)} item ids, and counts of another number of items")
    if not all(np.isfinite(tensors[name]).all() for name in ("counts", "item_counts")):
        raise ValueError("counts must be finite")
    if not all(np.issubdtype(tensors[name].dtype, np.integer) for name in ("columns", "offsets")):
        raise ValueError("columns and offsets must be whole numbers")
    try:
        counts = square_matrix(tensors["counts"], tensors["columns"], tensors["offsets"])
        counts.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(
            f"its counts are no whole matrix of {len(item_ids)} items ({error}); count them anew"
        ) from error
    return counts, tensors["item_counts"], item_ids
