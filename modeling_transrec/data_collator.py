"""Histories to the batch contract: the batch's distinct items once, and rows into them.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `N` negatives.
"""

from collections.abc import Sequence

import datasets
import numpy as np
import torch

from .losses import IGNORE_INDEX, PADDING_INDEX
from .processing_transrec import TransRecProcessor


class TransRecDataCollator:
    """
    Makes a training batch: every distinct item of the batch, negatives included, is there once; texts are padded to
    the longest of the batch; histories, targets and negatives are rows into the distinct items.

    Negatives are a fixed function of `seed`, epoch, user and position, not of the state of a random generator. So a
    resumed run, or one on another number of processes, draws the same ones.

    Args:
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        item_counts: `(V,)` number of training actions on each item.
        max_seq_len: longest history; a training sequence is cut to its last `max_seq_len + 1` items.
        num_negatives: sampled negatives per position; 0 for losses that need none.
        seed: of the negatives.

    Returns (when called on a list of `{"history": rows, "user": number}`): the processor's item inputs `(U, …)`,
    `item_index` `(B, L)`, `labels` `(B, L)`, `item_log_popularity` `(U,)` and, if asked for, `negative_index`
    `(B, L, N)`.
    """

    def __init__(
        self,
        items: datasets.Dataset,
        processor: TransRecProcessor,
        item_counts: np.ndarray,
        max_seq_len: int,
        num_negatives: int = 0,
        seed: int = 0,
    ):
        if len(items) != len(item_counts):
            raise ValueError(f"{len(items)} items, but popularity counts of {len(item_counts)}")
        self.items = items
        self.processor = processor
        with np.errstate(divide="ignore"):
            self.item_log_popularity = np.log(item_counts / max(item_counts.sum(), 1))
        self.max_seq_len = max_seq_len
        self.num_negatives = num_negatives
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by running workers, too

    def set_epoch(self, epoch: int) -> None:
        """Makes the following batches draw the negatives of this epoch."""
        self._epoch.fill_(epoch)

    def __call__(self, features: Sequence[dict]) -> dict[str, torch.Tensor]:
        sequences = [feature["history"][-(self.max_seq_len + 1) :] for feature in features]
        rows = left_pad(sequences)  # (B, L + 1) rows into the catalogue
        inputs, targets = rows[:, :-1], rows[:, 1:]
        has_target = inputs != PADDING_INDEX
        parts = [rows]
        if self.num_negatives:
            negatives = self.sample_negatives(rows, np.array([feature["user"] for feature in features]))
            parts.append(np.where(has_target[:, :, None], negatives, PADDING_INDEX).reshape(len(rows), -1))
        distinct, index = np.unique(np.concatenate(parts, axis=1), return_inverse=True)
        index = index.reshape(len(rows), -1)
        if distinct[0] == PADDING_INDEX:
            distinct, index = distinct[1:], index - 1  # padding is row -1 again
        batch = dict(self.processor.pad(self.items[distinct]))
        length = rows.shape[1]
        batch["item_index"] = torch.from_numpy(index[:, : length - 1].copy())
        batch["labels"] = torch.from_numpy(np.where(has_target, index[:, 1:length], IGNORE_INDEX))
        batch["item_log_popularity"] = torch.from_numpy(self.item_log_popularity[distinct].astype(np.float32))
        if self.num_negatives:
            batch["negative_index"] = torch.from_numpy(index[:, length:].reshape(*targets.shape, -1).copy())
        return batch

    def sample_negatives(self, rows: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Uniform draws from the items outside each user's sequence, as far as the model reads it.

        Args:
            rows: `(B, L + 1)` sequences, -1 at padding.
            users: `(B,)` numbers of the users.

        Returns: `(B, L, N)` rows into the catalogue. Position is counted from the end, so padding does not matter.
        """
        num_items, length = len(self.items), rows.shape[1]
        own, num_own = sorted_distinct(rows)  # (B, L + 1), (B,)
        if (num_own >= num_items).any():
            user = users[np.argmax(num_own >= num_items)]
            raise ValueError(f"user {user} has all {num_items} items in the history: there is no negative to sample")
        positions = np.arange(length - 1)[::-1] * self.num_negatives  # (L,)
        counters = positions[:, None] + np.arange(self.num_negatives)  # (L, N)
        keys = np.stack(np.broadcast_arrays(users[:, None, None], counters[None]), axis=-1)
        draws = hash_integers(keys, seed=(self.seed, int(self._epoch)))  # (B, L, N)
        draws = draws % (num_items - num_own).astype(np.uint64)[:, None, None]
        draws = draws.astype(np.int64)
        # The draw-th item that is not one's own: skip every own item at or before it.
        skipped = own - np.arange(length)  # own items before which this many others lie; non-decreasing
        return draws + (skipped[:, None, None, :] <= draws[..., None]).sum(-1)


def left_pad(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Lists to one array, padded with -1 on the left to the longest.

    >>> left_pad([[5], [1, 2]])
    array([[-1,  5],
           [ 1,  2]])
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    padded = np.full((len(sequences), lengths.max()), PADDING_INDEX, dtype=np.int64)
    filled = np.arange(lengths.max()) >= (lengths.max() - lengths)[:, None]
    padded[filled] = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    return padded


def sorted_distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each line's distinct non-negative values in ascending order, then a huge filler; and how many they are.

    >>> sorted_distinct(np.array([[7, 3, 7], [-1, -1, 4]]))[1]
    array([2, 1])
    """
    filler = np.iinfo(np.int64).max // 2
    values = np.sort(np.where(rows < 0, filler, rows), axis=1)
    repeated = np.zeros_like(values, dtype=bool)
    repeated[:, 1:] = values[:, 1:] == values[:, :-1]
    values = np.sort(np.where(repeated, filler, values), axis=1)
    return values, (values < filler).sum(axis=1)


def hash_integers(keys: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Integer keys `(…, K)` to uniform 64-bit numbers `(…)`, by SplitMix64 (Steele et al., OOPSLA 2014)."""
    state = np.zeros(keys.shape[:-1], dtype=np.uint64)
    parts = [np.uint64(part % 2**64) for part in seed]
    parts += [keys[..., k].astype(np.uint64) for k in range(keys.shape[-1])]
    for part in parts:
        state = (state ^ part) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
