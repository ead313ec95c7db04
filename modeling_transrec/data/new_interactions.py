"""What is new on a platform, to train a model on: interactions from a time on, and a share of the older ones.

Shapes: `N` users.
"""

import datetime
import logging

import datasets
import numpy as np
import pyarrow.compute as pc

from .loading import CONTEXT, values_of_interactions


logger = logging.getLogger(__name__)

_LISTS = ("item_ids", "timestamps", "weights")


def as_time(value: str) -> int:
    """Returns a time in the data's unit: a whole number as it is, a date in seconds since 1970 (UTC).

    >>> as_time("1700000000"), as_time("2024-01-01")
    (1700000000, 1704067200)
    """
    try:
        return int(value)
    except ValueError:
        pass
    try:
        time = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is no time: give a whole number in the unit of the data's timestamps, or a date such as "
            "2024-01-31"
        ) from None
    return int((time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp())


def select_new(
    sequences: datasets.Dataset, since: int, max_seq_len: int, replay_share: float = 0.0, seed: int = 0
) -> datasets.Dataset:
    """Returns training histories whose targets are new, and some of before.

    A user with new interactions has a history in which older ones are read, but are no targets: the column
    `num_context` says how many. A replayed one ends before `since`.

    Args:
        sequences: whole training histories with `timestamps`, in time order.
        since: the time from which on interactions are new, in the unit of `timestamps`.
        max_seq_len: longest history of the model; one more item is kept, the last target.
        replay_share: share of the returned histories that are of before, drawn at random from all users that have
            two older interactions; all of these, with a warning, where there are fewer.
        seed: of that draw.

    Raises:
        ValueError: if the interactions have no times, or none or all of them are new.

    Example:

    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a", "b", "c"]], "timestamps": [[1, 2, 3]]})
    >>> select_new(sequences, since=3, max_seq_len=20, replay_share=0.5)["item_ids"][:]
    [['a', 'b', 'c'], ['a', 'b']]
    """
    if not 0 <= replay_share < 1:
        raise ValueError(f"replay_share must be at least 0 and below 1, got {replay_share}")
    num_old, lengths = _count_old(sequences, since)
    is_new = (num_old < lengths) & (lengths >= 2)
    new = _cut(sequences, np.flatnonzero(is_new), num_old, max_seq_len, is_old=False)
    num_replayed = round(replay_share / (1 - replay_share) * len(new))
    if not num_replayed:
        return new
    old = np.flatnonzero(num_old >= 2)
    if len(old) < num_replayed:
        logger.warning("%d older histories are replayed, in place of %d: there are no more", len(old), num_replayed)
    chosen = np.sort(np.random.default_rng(seed).permutation(old)[:num_replayed])
    return datasets.concatenate_datasets([new, _cut(sequences, chosen, num_old, max_seq_len, is_old=True)])


def _count_old(sequences: datasets.Dataset, since: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many interactions of each user are older, and how many there are `(N,)`."""
    if values_of_interactions(sequences.select(range(min(1, len(sequences)))), "timestamps") is None:
        raise ValueError(
            "what is new is a matter of time, and these interactions have no times: give them a column timestamp, or "
            "leave out --since"
        )
    num_old, lengths, first, last = [], [], [], []
    for batch in sequences.select_columns(["timestamps"]).with_format("arrow").iter(100_000):
        lists = batch["timestamps"].combine_chunks()
        lengths.append(pc.list_value_length(lists).to_numpy())
        times = pc.list_flatten(lists).to_numpy()
        ends = np.concatenate([[0], lengths[-1].cumsum()])
        num_old.append(np.diff(np.concatenate([[0], np.cumsum(times < since)])[ends]))
        first.append(times.min())
        last.append(times.max())
    if max(last) < since or min(first) >= since:
        what = "no training interaction is" if max(last) < since else "all training interactions are"
        raise ValueError(
            f"{what} at or after the time {since}: the first one is at {min(first)}, the last one at {max(last)}, and "
            "--since must lie between them"
        )
    return np.concatenate(num_old), np.concatenate(lengths)


def _cut(
    sequences: datasets.Dataset, users: np.ndarray, num_old: np.ndarray, max_seq_len: int, is_old: bool
) -> datasets.Dataset:
    """Returns the last items of users' histories, before the new ones or with them, and the column `num_context`."""
    names = [name for name in _LISTS if name in sequences.column_names]

    def cut(batch: dict) -> dict:
        stops = batch[CONTEXT] if is_old else [len(one) for one in batch["item_ids"]]
        starts = [max(0, stop - max_seq_len - 1) for stop in stops]
        cuts = {
            name: [one[start:stop] for one, start, stop in zip(batch[name], starts, stops, strict=True)]
            for name in names
        }
        context = [max(0, old - start) for old, start in zip(batch[CONTEXT], starts, strict=True)]
        return {**cuts, CONTEXT: [0] * len(stops) if is_old else context}

    chosen = sequences.select(users).add_column(CONTEXT, num_old[users])
    return chosen.map(
        cut, batched=True, batch_size=10_000, keep_in_memory=not sequences.cache_files, desc="Cutting histories"
    )
