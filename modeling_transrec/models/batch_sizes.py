"""What the host knows of a batch, so that a training step need not wait for the device to say it.

How many rows `mask.nonzero()` has depends on what is in the mask: the host waits until the device has worked off all
that was asked of it before, and the device then waits for the host. The collator counts beforehand.

Two waits remain: `gather_negatives` exchanges how many items each process has; and flash attention and the own code of
a few text backbones (XLM, FlauBERT, Longformer, X-MOD) ask for padding, as the others do not, see `text_masks`.
"""

from dataclasses import dataclass

import numpy as np
import torch


SORTS_STABLY = ("cuda", "meta")


@dataclass(frozen=True, eq=False)
class BatchSizes:
    """Sizes of a batch of the collator, as far as they are known. Who changes the batch's histories, targets or items
    must leave them out.

    Args:
        history_lengths: `(B,)` items of each history in `item_index`, masked ones too.
        target_counts: `(B,)` positions of each user's `labels` that have a target.
        text_lengths: `(U,)` tokens of each distinct item's text, which is padded on the right.
        has_picture: `(U,)` whether each distinct item has a picture, where there is an `image_index`.
    """

    history_lengths: np.ndarray | None = None
    target_counts: np.ndarray | None = None
    text_lengths: np.ndarray | None = None
    has_picture: np.ndarray | None = None

    @property
    def num_history_items(self) -> int | None:
        """Items in all histories."""
        return None if self.history_lengths is None else int(self.history_lengths.sum())

    @property
    def num_targets(self) -> int | None:
        """Targets of all users."""
        return None if self.target_counts is None else int(self.target_counts.sum())

    def of_users(self, users: slice) -> "BatchSizes":
        """Those of some users."""
        lengths, counts = self.history_lengths, self.target_counts
        return BatchSizes(
            history_lengths=None if lengths is None else lengths[users],
            target_counts=None if counts is None else counts[users],
        )

    def to(self, *args, **kwargs) -> "BatchSizes":
        """Itself: it stays on the host where a batch's tensors are moved."""
        return self


def true_places(mask: torch.Tensor, count: int | None = None) -> torch.Tensor:
    """Where a flat mask is true, in order `(count,)`; given the count, no CUDA device is waited for.

    >>> true_places(torch.tensor([False, True, False, True]))
    tensor([1, 3])
    """
    if count is not None and mask.device.type in SORTS_STABLY:
        return mask.byte().argsort(descending=True, stable=True)[:count]
    places = mask.nonzero().squeeze(1)
    if count is not None and len(places) != count:
        raise ValueError(
            f"the batch's sizes say {count} where there are {len(places)}; leave out sizes, or correct them"
        )
    return places
