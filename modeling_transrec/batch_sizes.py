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
    """Sizes of a batch of the collator. Who changes the batch's histories, targets or items must leave them out.

    Args:
        num_history_items: items in the histories `item_index`, masked ones too.
        num_targets: positions of `labels` that have a target.
        text_lengths: `(U,)` tokens of each distinct item's text, which is padded on the right.
        has_picture: `(U,)` whether each distinct item has a picture, where there is an `image_index`.
    """

    num_history_items: int | None = None
    num_targets: int | None = None
    text_lengths: np.ndarray | None = None
    has_picture: np.ndarray | None = None

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
