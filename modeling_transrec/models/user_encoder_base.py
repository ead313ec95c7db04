"""The base of all user encoders, and how every prefix of a history is encoded as one of its own.

Shapes: `B` users, `L` history length, `M` items in all histories, `D` hidden size. Padding is never read;
[`Histories`] knows where the items are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from .histories import Histories


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


LAYER_NORM_EPS = 1e-6


class UserEncoder(nn.Module):
    """Base of the user encoders.

    A subclass defines `forward(item_embeddings, histories)`, which maps item embeddings `(B, L, D)`, oldest first, and
    [`Histories`] to states `(B, L, D)`. Nothing else in the package names the subclass, except [`USER_ENCODERS`].

    Attributes:
        causal: Whether a state of `forward` does not depend on later items, so that it can predict the next one.
            Where it does, every history that is to predict an item has to be encoded on its own (`"every_prefix"`).
        supports_masked_item: Whether it can read both sides of a masked item and predict that item. It does so with
            `config.objective="masked_item"`, and then has a learned `mask_embedding` `(D,)` in place of such items.
        supports_other_items: Whether, with `config.objective="other_items"`, a state says nothing of its own item, so
            that it can predict that item.
        supports_adapters: Whether its layers have adapters, with `config.user_adapter`.
        default_objective: The objective if the configuration names none.
        reads_user_ids: Whether it has a table of user ids, and reads `histories.user_ids`.
        reads_timestamps: Whether it reads the times of the interactions, `histories.timestamps`.
        supports_padding: Whether it can read padding as an item, with `config.padding_embedding`.
        layer_class: The class of its layers, which are never split over devices.
        options: Fields of the configuration that it reads and others may not.
    """

    causal: ClassVar[bool] = True
    supports_masked_item: ClassVar[bool] = False
    supports_other_items: ClassVar[bool] = False
    supports_adapters: ClassVar[bool] = True
    default_objective: ClassVar[str] = "next_item"
    reads_user_ids: ClassVar[bool] = False
    reads_timestamps: ClassVar[bool] = False
    supports_padding: ClassVar[bool] = False
    layer_class: ClassVar[type[nn.Module]]
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.predicts_masked_items = config.objective == "masked_item"
        self.mask_embedding = nn.Parameter(torch.empty(config.width)) if self.predicts_masked_items else None
        self.padding_embedding = nn.Parameter(torch.empty(config.user_width)) if config.padding_embedding else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes histories of item embeddings `(B, L, D)` to the state at each user's last item `(B, D)`.

        A subclass may override this to skip the computation that only the other states need.
        """
        return histories.last_of(self(item_embeddings, histories))

    def at_every_prefix(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes each history up to each of its items on its own, to states `(B, L, D)`.

        The state at an item is that of the history that ends there, whatever `forward` reads. The item embeddings
        `(B, L, D)` are gathered, not encoded, once for each of the `M` prefixes.
        """
        length = histories.mask.shape[1]
        users, ends = histories.index // length, histories.index % length  # (M,)
        prefixes = histories.prefixes(users, ends)
        embeddings = item_embeddings.index_select(0, users)  # (M, L, D)
        if not prefixes.recorded.is_kept:
            return histories.pad(self.last(embeddings, prefixes))
        states = prefixes.last_of(self(embeddings, prefixes))  # `last` computes less on the way
        for hidden in prefixes.recorded.hidden_states or ():
            histories.record(prefixes.last_of(hidden))
        for weights in prefixes.recorded.attentions or ():  # (M, heads, L, L), or none
            histories.record_attention(None if weights is None else _of_last_items(weights, ends, histories))
        return histories.pad(states)


def _of_last_items(weights: torch.Tensor, ends: torch.Tensor, histories: Histories) -> torch.Tensor:
    """Makes attention weights `(B, heads, L, L)` of those of every prefix `(M, heads, L, L)`, from its last item."""
    of_last = weights[torch.arange(len(ends), device=ends.device), :, ends]  # (M, heads, L)
    return histories.pad(of_last.flatten(1)).unflatten(2, of_last.shape[1:]).transpose(1, 2)
