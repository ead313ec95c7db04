"""Padded histories: where their items are.

A few users have long histories, so that most positions of a batch are padding. Computations that treat positions one
by one run only on the `M` items, `(M, D)`; only those that mix positions read the padded histories `(B, L, D)`.
[`Histories`] converts between the two forms.

Shapes: `B` users, `L` history length, `M` items in all histories, `U` distinct items of the batch, `D` hidden size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .batch import PADDING_INDEX


def gather_histories(item_embeds: torch.Tensor, item_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gathers item embeddings `(U, D)` to histories `(B, L, D)`, zero where there is no item, and makes their mask."""
    mask = item_index != PADDING_INDEX
    return F.embedding(item_index.clamp(min=0), item_embeds) * mask[:, :, None], mask


@dataclasses.dataclass
class Recorded:
    """What a user encoder computes on the way, where it is asked for.

    Args:
        hidden_states: gets the input of each layer, `(B, L, width)`.
        attentions: gets the attention weights of each layer, `(B, heads, L, L)`.
        layers: of which layers the hidden states are returned; by default of all.
    """

    hidden_states: list[torch.Tensor] | None = None
    attentions: list[torch.Tensor | None] | None = None
    layers: Sequence[int] | None = None

    @property
    def is_kept(self) -> bool:
        """Whether anything is asked for."""
        return self.hidden_states is not None or self.attentions is not None


class Histories:
    """Knows at which positions of padded histories there are items, and whose histories they are.

    Args:
        mask: `(B, L)` booleans, false at padding.
        user_ids: `(B,)` indices into the table of user ids, for user encoders that read them.
        is_masked: `(B, L)` booleans, true at items that a mask embedding replaces; none by default.
        recorded: gets what is computed on the way; by default nothing is kept.
        timestamps: `(B, L)` times of the interactions, for user encoders that read them.

    Example:

    >>> histories = Histories(torch.tensor([[False, True], [True, True]]))
    >>> histories.pack(torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]]))
    tensor([[1.],
            [2.],
            [3.]])
    """

    def __init__(
        self,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        is_masked: torch.Tensor | None = None,
        recorded: Recorded | None = None,
        timestamps: torch.Tensor | None = None,
    ):
        self.mask = mask
        self.timestamps = timestamps
        self.user_ids = user_ids
        self.is_masked = is_masked
        self.recorded = Recorded() if recorded is None else recorded

    @property
    def visible(self) -> torch.Tensor:
        """`(B, L)` booleans, true at items that are not masked."""
        return self.mask if self.is_masked is None else self.mask & ~self.is_masked

    @functools.cached_property
    def index(self) -> torch.Tensor:
        """Indices of the items `(M,)` into the flattened mask."""
        return self.mask.flatten().nonzero().squeeze(1)

    @functools.cached_property
    def is_full(self) -> bool:
        """Whether there is no padding, so that both forms are the same numbers in the same order."""
        return len(self.index) == self.mask.numel()

    @functools.cached_property
    def last(self) -> torch.Tensor:
        """Position of each user's last item `(B,)`; 0 where the history is empty."""
        return self.mask.long().cumsum(1).argmax(1)

    def to(self, *args, **kwargs) -> Histories:
        """Returns the same on another device."""
        others = (self.user_ids, self.is_masked, self.timestamps)
        user_ids, is_masked, times = (None if tensor is None else tensor.to(*args, **kwargs) for tensor in others)
        return Histories(self.mask.to(*args, **kwargs), user_ids, is_masked, self.recorded, times)

    def prefixes(self, users: torch.Tensor, ends: torch.Tensor) -> Histories:
        """Returns parts of the histories, each up to an item, as histories of their own.

        Args:
            users: `(M,)` whose history it is a part of.
            ends: `(M,)` the position of its last item.
        """
        places = torch.arange(self.mask.shape[1], device=self.mask.device)
        is_inside = places <= ends[:, None]  # (M, L)
        others = (self.user_ids, self.is_masked, self.timestamps)
        user_ids, is_masked, times = (None if tensor is None else tensor[users] for tensor in others)
        recorded = self.recorded
        asked = Recorded(*(None if kept is None else [] for kept in (recorded.hidden_states, recorded.attentions)))
        return Histories(self.mask[users] & is_inside, user_ids, is_masked, asked, times)

    def record(self, hidden: torch.Tensor) -> None:
        """Keeps the input of a layer, `(M, width)` or `(B, L, width)`, where it is asked for."""
        if self.recorded.hidden_states is not None:
            self.recorded.hidden_states.append(self.pad(hidden) if hidden.dim() == 2 else hidden)

    def record_attention(self, weights: torch.Tensor | None) -> None:
        """Keeps attention weights `(B, heads, L, L)`, where they are asked for."""
        if self.recorded.attentions is not None:
            self.recorded.attentions.append(weights)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Takes the items out of `(B, L, …)`: `(M, …)`.

        In `torch.export` all positions are taken out, since the number of items is no size of the inputs.
        """
        if torch.compiler.is_exporting():
            return padded.flatten(0, 1)
        return padded.flatten(0, 1) if self.is_full else padded.flatten(0, 1).index_select(0, self.index)

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """Puts items `(M, D)` back into `(B, L, D)`, zero at padding."""
        if torch.compiler.is_exporting():
            return packed.view(*self.mask.shape, -1).masked_fill(~self.mask[:, :, None], 0)
        if self.is_full:
            return packed.view(*self.mask.shape, -1)
        padded = packed.new_zeros(self.mask.numel(), packed.shape[-1])
        return padded.index_copy(0, self.index, packed).view(*self.mask.shape, -1)

    def last_of(self, padded: torch.Tensor) -> torch.Tensor:
        """Takes each user's last item out of `(B, L, D)`: `(B, D)`."""
        if not torch.compiler.is_exporting() and self.is_full:
            return padded[:, -1]
        return padded[torch.arange(padded.shape[0], device=padded.device), self.last]


def positions_from_the_end(mask: torch.Tensor, num_positions: int) -> torch.Tensor:
    """Counts positions `(B, L)` such that the last is `num_positions - 1`, however much padding a batch has.

    >>> positions_from_the_end(torch.tensor([[False, True, True]]), num_positions=5)
    tensor([[3, 3, 4]])
    """
    num_remaining = mask.long().flip(1).cumsum(1).flip(1)  # this item and those after it
    return (num_positions - num_remaining).clamp(max=num_positions - 1)
