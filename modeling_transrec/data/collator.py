"""Makes batches of histories: each distinct item of a batch once, and indices into these items.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `N` negatives.
"""

import itertools
from collections.abc import Sequence

import datasets
import numpy as np
import torch

from ..models.auxiliary_losses import AUXILIARY_LOSSES, AuxiliaryLoss
from ..models.batch import IGNORE_INDEX, MASK_INDEX, PADDING_INDEX
from ..models.configuration_transrec import TransRecConfig
from ..models.losses import LOSSES
from ..models.processing_transrec import TransRecProcessor
from ..models.views import AUGMENTATIONS
from .loading import CONTEXT, left_pad, read_timestamps
from .platforms import PlatformRanges
from .same_targets import SameTargets


class TransRecDataCollator:
    """
    Makes a training batch: it holds every distinct item of the batch, negatives included, once; texts are padded to
    the longest of the batch; histories, targets and negatives are indices into the distinct items.

    Negatives and masks are a fixed function of `seed`, epoch, user and position, not of the state of a random
    generator, so that a resumed run draws the same ones. So does a run on another number of processes where negatives
    are drawn for every position; negatives that a batch shares are a function of the batch's users.

    Args:
        config: the model's configuration; `max_seq_len`, `objective` and `loss_type` decide what a batch holds.
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        item_counts: `(V,)` number of training interactions with each item.
        user_index: `(number of users,)` each user's index into the table of user ids, for DSSM.
        seed: of negatives and masks.
        platforms: of the items, where they are of several.
        sequences: the histories with their `timestamps`, for user encoders that read them.
        mixes_platforms: whether a batch has users of several platforms, so that items of all are negatives.
        histories: those of all training users, among which the auxiliary loss `"same_target"` draws.
    """

    def __init__(
        self,
        config: TransRecConfig,
        items: datasets.Dataset,
        processor: TransRecProcessor,
        item_counts: np.ndarray,
        user_index: np.ndarray | None = None,
        seed: int = 0,
        platforms: PlatformRanges | None = None,
        mixes_platforms: bool = False,
        histories: datasets.Dataset | None = None,
        sequences: datasets.Dataset | None = None,
    ):
        if config.reads_timestamps and sequences is None:
            raise ValueError(
                f"user_encoder_type={config.user_encoder_type!r} needs the sequences with their timestamps"
            )
        if len(items) != len(item_counts):
            raise ValueError(f"{len(items)} items, but popularity counts of {len(item_counts)}")
        self.config = config
        self.items = items
        self.processor = processor
        self.user_index = user_index
        self.sequences = sequences
        self.seed = seed
        self.platforms = platforms
        # Items that are drawn from together: those of a platform or, as a rule, the catalogue.
        self._ranges = PlatformRanges([0, len(items)]) if platforms is None or mixes_platforms else platforms
        totals = np.add.reduceat(item_counts, self._ranges.starts[:-1]).clip(min=1)
        with np.errstate(divide="ignore"):
            self.item_log_popularity = np.log(item_counts / np.repeat(totals, np.diff(self._ranges.starts)))
        # Items are sampled by inverse CDF: a draw from 0 to the sum of the weights belongs to the first item whose
        # cumulative weight exceeds it.
        self._weights = np.ones_like(item_counts) if config.negative_sampling == "uniform" else item_counts
        self._ends = np.cumsum(self._weights)
        self._bounds = np.concatenate([[0], self._ends])[self._ranges.starts]  # of the ranges' cumulative weights
        auxiliary = config.auxiliary_loss_type
        self.auxiliary = None if auxiliary is None else AUXILIARY_LOSSES[auxiliary]
        self._others: dict[str, SameTargets] = {}  # by kind of view, what draws histories of other users
        if self.auxiliary is not None and self.auxiliary.brings_items:
            if histories is None:
                raise ValueError(f"auxiliary_loss_type={auxiliary!r} draws among the training histories; give them")
            self._others["same_target"] = SameTargets(histories, len(items))
        self.intents: torch.Tensor | None = None
        if self.auxiliary is not None and self.auxiliary.reads_intents:
            self.intents = torch.zeros(config.num_intents, config.width).share_memory_()  # seen by running workers
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by running workers, too

    def set_epoch(self, epoch: int) -> None:
        """Makes the following batches draw the negatives and masks of this epoch."""
        self._epoch.fill_(epoch)

    def __call__(self, features: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            features: of each user `"history"`, indices into the catalogue, `"user"`, the index into the split, and
                optionally `"num_context"`, how many items at the history's beginning are no targets.

        Returns:
            The distinct items as the processor's `pad` collates them, images as bytes, and:

            - `item_index`, `labels`: `(B, L)` histories and targets; `labels` are `(B, K)` with the objective
              `"next_k_items"`.
            - `negative_index`: `(B, L, N)`, or `(N,)` where the batch shares them; for losses with sampled negatives.
            - `item_log_popularity`: `(U,)`; for losses that correct for popularity.
            - `num_catalogue_items`, `epoch`: scalars; for losses that read them.
            - `catalogue_index`: `(U,)`; with `gather_negatives`.
            - `view_index`, `view_target`: `(2, B, L)` and `(B,)`; with an auxiliary loss.
            - `intents`: `(K, D)`; with an auxiliary loss that reads clusters of users.
            - `user_ids`: `(B,)`; for DSSM.
            - `timestamps`: `(B, L)`; for user encoders that read times (HSTU).
            - `platform_index`: `(U,)`; on several platforms, where the model has statistics of each.
        """
        config, loss, length = self.config, LOSSES[self.config.loss_type], self.config.max_seq_len + 1
        if config.objective == "next_k_items":
            length += config.num_next_items - 1
        users = np.array([feature["user"] for feature in features])
        rows = left_pad_lists([feature["history"][-length:] for feature in features])  # (B, L + 1)
        num_new = np.array([len(feature["history"]) - feature.get(CONTEXT, 0) for feature in features])
        inputs, targets = self.split(rows, users, num_new)  # (B, L) indices into the catalogue
        parts = [inputs, targets]
        if loss.candidates == "position":
            negatives = self.sample_negatives(rows, users)[:, -targets.shape[1] :]  # (B, L, N)
            parts.append(np.where((targets >= 0)[:, :, None], negatives, PADDING_INDEX))
        elif loss.samples:
            parts.append(self.sample_shared_negatives(rows, users))  # (N,)
        views = None if self.auxiliary is None else self.make_views(self.auxiliary, rows, users)  # (2, B, L)
        if views is not None:
            parts += [views, rows[:, -1]]
        range_index = self._range_of(rows)[0]  # all users of a batch have the same
        start, end = self._ranges.starts[range_index : range_index + 2]
        if loss.candidates == "catalogue":
            distinct = np.arange(start, end)
        else:
            distinct = np.unique(np.concatenate([part.ravel() for part in parts]))
            distinct = distinct[distinct >= 0]
        indices = [np.where(part < 0, part, np.searchsorted(distinct, part)) for part in parts]

        batch = dict(self.processor.pad(self.items[distinct]))
        batch["item_index"] = torch.from_numpy(indices[0])
        batch["labels"] = torch.from_numpy(np.where(indices[1] < 0, IGNORE_INDEX, indices[1]))
        if "negative_index" in loss.inputs:
            batch["negative_index"] = torch.from_numpy(indices[2])
        if "item_log_popularity" in loss.inputs:
            batch["item_log_popularity"] = torch.from_numpy(self.item_log_popularity[distinct].astype(np.float32))
        if "num_catalogue_items" in loss.inputs:
            batch["num_catalogue_items"] = torch.tensor(int(end - start))
        if "epoch" in loss.inputs:
            batch["epoch"] = self._epoch.clone()
        if views is not None:
            batch["view_index"], batch["view_target"] = map(torch.from_numpy, indices[-2:])
        if self.intents is not None:
            batch["intents"] = self.intents.clone()
        if config.gather_negatives:
            batch["catalogue_index"] = torch.from_numpy(distinct)
        if self.user_index is not None:
            batch["user_ids"] = torch.from_numpy(self.user_index[users])
        if config.reads_timestamps:
            times = read_timestamps(self.sequences, users, rows.shape[1])
            if config.objective == "next_k_items":
                times = self._before_the_end(times, self._num_at_the_end(rows))
            batch["timestamps"] = torch.from_numpy(times[:, : inputs.shape[1]])
        if self.platforms is not None and config.starts_at_content:
            batch["platform_index"] = torch.from_numpy(self.platforms.of_items(distinct))
        return batch

    def _range_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns the index of the range `(B,)` from which each sequence's negatives are drawn."""
        return self._ranges.of_items(rows.max(axis=1))

    def split(
        self, rows: np.ndarray, users: np.ndarray, num_new: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Splits sequences `(B, L + 1)` into inputs and targets; -1 where there is none, -2 where masked.

        Only the last `num_new` `(B,)` items of each are targets; by default all. With the objective of the next `K`
        items the targets are `(B, K)`, fewer for a sequence of at most `K` items, of which the first is the history.
        """
        from_end = np.arange(rows.shape[1])[::-1]
        may_be_target = rows >= 0 if num_new is None else (rows >= 0) & (from_end < num_new[:, None])
        if self.config.objective == "masked_item":
            is_masked = self.sample_masks(rows, users, may_be_target)
            return np.where(is_masked, MASK_INDEX, rows), np.where(is_masked, rows, PADDING_INDEX)
        if self.config.objective == "next_k_items":
            return self._split_at_the_end(rows, may_be_target)
        if self.config.objective == "other_items":
            has_others = (rows >= 0).sum(axis=1, keepdims=True) > 1
            return rows, np.where(may_be_target & has_others, rows, PADDING_INDEX)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        targets = np.where((inputs == PADDING_INDEX) | ~may_be_target[:, 1:], PADDING_INDEX, targets)
        if self.config.objective == "last_item":
            targets = np.where(np.arange(targets.shape[1]) == targets.shape[1] - 1, targets, PADDING_INDEX)
        return inputs, targets

    def _split_at_the_end(self, rows: np.ndarray, may_be_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Splits sequences `(B, L + K)` into histories and the items after them `(B, K)`."""
        num_next, num_targets = min(self.config.num_next_items, rows.shape[1] - 1), self._num_at_the_end(rows)
        is_target = np.arange(num_next)[::-1] < num_targets
        targets = np.where(is_target & may_be_target[:, -num_next:], rows[:, -num_next:], PADDING_INDEX)
        return self._before_the_end(rows, num_targets), targets

    def _num_at_the_end(self, rows: np.ndarray) -> np.ndarray:
        """Returns how many of the last items of sequences `(B, L + K)` are targets, `(B, 1)`."""
        num_next = min(self.config.num_next_items, rows.shape[1] - 1)
        return np.minimum((rows >= 0).sum(axis=1) - 1, num_next)[:, None]

    def _before_the_end(self, values: np.ndarray, num_targets: np.ndarray) -> np.ndarray:
        """Takes what comes before the targets out of `(B, L + K)`, moved to the end: `(B, L)`."""
        before = np.arange(values.shape[1]) - num_targets
        moved = np.where(before >= 0, np.take_along_axis(values, before.clip(min=0), axis=1), PADDING_INDEX)
        return moved[:, -self.config.max_seq_len :]

    def make_views(self, auxiliary: AuxiliaryLoss, rows: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Makes the two views of each history that the auxiliary loss compares, `(2, B, L)`.

        The last item of a sequence is the target, and no part of its views; `rows` and `users` as in
        [`sample_negatives`].
        """
        histories, views = rows[:, :-1][:, -self.config.max_seq_len :], []
        for number, kind in enumerate(auxiliary.views):
            keys = self._keys(users, histories.shape[1] + 1)[:, :, 0]
            draws = hash_integers(keys, seed=(self.seed, int(self._epoch), 2 + number)) / 2.0**64
            draws = np.minimum(draws, np.nextafter(1.0, 0.0))  # (B, L + 1), rounding may give 1
            if kind == "augmented":
                names = self.config.view_augmentations or auxiliary.augmentations
                made = np.stack([AUGMENTATIONS[name](histories, draws[:, 1:]) for name in names])
                chosen = np.floor(draws[:, 0] * len(names)).astype(np.int64)
                views.append(made[chosen, np.arange(len(rows))])
            elif kind == "history":
                views.append(histories)
            else:
                views.append(self._others[kind].draw(rows[:, -1], draws[:, 0], self.config.max_seq_len))
        length = max(view.shape[1] for view in views)
        widths = [((0, 0), (length - view.shape[1], 0)) for view in views]
        return np.stack([np.pad(view, width, constant_values=-1) for view, width in zip(views, widths, strict=True)])

    def sample_masks(self, rows: np.ndarray, users: np.ndarray, may_be_masked: np.ndarray | None = None) -> np.ndarray:
        """Returns which items `(B, L + 1)` are masked: each with `mask_probability`; at least one, but not all."""
        may_be_masked = rows >= 0 if may_be_masked is None else may_be_masked
        keys = self._keys(users, rows.shape[1])[:, :, 0]
        draws = hash_integers(keys, seed=(self.seed, int(self._epoch), 1)).astype(np.float64) / 2.0**64
        draws = np.where(may_be_masked, draws, 2.0)  # never masked
        is_masked = draws < self.config.mask_probability
        line = np.arange(len(rows))
        is_masked[line, draws.argmin(axis=1)] = True
        is_masked[line, np.where(rows == PADDING_INDEX, -1.0, draws).argmax(axis=1)] = False
        return is_masked

    def sample_negatives(self, rows: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Draws negatives from the items outside each user's sequence.

        Items that the user had before the part of the sequence that the model reads may be drawn.

        Args:
            rows: `(B, L + 1)` sequences, -1 at padding.
            users: `(B,)` indices of the users into the split.

        Returns: `(B, L + 1, N)` indices into the catalogue. Positions are counted from the end, so that a draw does
        not depend on padding.
        """
        own, num_own = sorted_distinct(rows)  # (B, L + 1), (B,)
        is_own = np.arange(own.shape[1]) < num_own[:, None]
        own = np.where(is_own, own, 0)
        weights = np.where(is_own, self._weights[own], 0)
        low, high = (self._bounds[self._range_of(rows) + side] for side in (0, 1))  # (B,)
        totals = high - low - weights.sum(axis=1)  # (B,) weight of all items outside the user's own
        if (totals == 0).any():
            user = users[np.argmax(totals == 0)]
            raise ValueError(f"user {user} has every item in the history: there is no negative to sample")
        keys = self._keys(users, rows.shape[1], self.config.num_negatives)
        draws = hash_integers(keys, seed=(self.seed, int(self._epoch)))
        draws = (draws % totals.astype(np.uint64)[:, None, None]).astype(np.int64)  # (B, L + 1, N)
        draws += low[:, None, None]
        # These draws are from the cumulative weights without the user's own items. To look them up in those of all
        # items, each own item adds its weight to the draws at and after its start.
        starts = np.where(is_own, self._ends[own] - weights.cumsum(axis=1), self._ends[-1])  # (B, L + 1)
        moved = draws.copy()
        for start, weight in zip(starts.T, weights.T, strict=True):
            moved += np.where(start[:, None, None] <= draws, weight[:, None, None], 0)
        return self._item_of(moved)

    def sample_shared_negatives(self, rows: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Draws negatives `(N,)` for the whole batch, from the catalogue or the batch's platform; an item may be drawn
        twice. Arguments as in [`sample_negatives`]."""
        keys = np.arange(self.config.num_negatives)[:, None]
        draws = hash_integers(keys, seed=(self.seed, int(self._epoch), int(users.min()), int(users.sum())))
        range_index = self._range_of(rows)[0]
        low, high = self._bounds[range_index : range_index + 2]
        return self._item_of(low + (draws % np.uint64(high - low)).astype(np.int64))

    def _item_of(self, draws: np.ndarray) -> np.ndarray:
        """Looks up the items to which draws from the cumulative weights belong."""
        if self.config.negative_sampling == "uniform":
            return draws  # all weights are 1
        return np.searchsorted(self._ends, draws, side="right")

    @staticmethod
    def _keys(users: np.ndarray, length: int, count: int = 1) -> np.ndarray:
        """Returns the keys `(B, L, N, 2)` of the random numbers of every user, position (from the end) and draw."""
        counters = np.arange(length)[::-1, None] * count + np.arange(count)  # (L, N)
        return np.stack(np.broadcast_arrays(users[:, None, None], counters[None]), axis=-1)


def left_pad_lists(lists: Sequence[Sequence[int]]) -> np.ndarray:
    """Pads lists with -1 on the left to the longest, as one array.

    >>> left_pad_lists([[5], [1, 2]])
    array([[-1,  5],
           [ 1,  2]])
    """
    return left_pad(np.array(list(itertools.chain.from_iterable(lists)), dtype=np.int64), np.array([*map(len, lists)]))


def sorted_distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each row's distinct non-negative values in ascending order, then a huge filler; and their number.

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
    """Hashes integer keys `(…, K)` to uniform 64-bit numbers `(…)` by SplitMix64 (Steele et al., OOPSLA 2014)."""
    state = np.zeros(keys.shape[:-1], dtype=np.uint64)
    parts: list[np.uint64 | np.ndarray] = [np.uint64(part % 2**64) for part in seed]
    parts += [keys[..., k].astype(np.uint64) for k in range(keys.shape[-1])]
    for part in parts:
        state = (state ^ part) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
