"""Multi-head self-attention over histories, by any attention implementation of transformers.

Shapes: `B` users, `L` history length, `M` items in all histories, `D` hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .histories import Histories


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Computes softmax attention of `(B, heads, L, D / heads)`, for `attn_implementation="eager"`."""
    weights = query @ key.transpose(2, 3) * scaling + attention_mask
    weights = nn.functional.dropout(weights.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class SelfAttention(nn.Module):
    """Multi-head self-attention without biases; with `rotary`, queries and keys are rotated by their positions."""

    def __init__(self, config: TransRecConfig, rotary: bool = False):
        super().__init__()
        self.config = config
        self.head_dim = config.user_width // config.num_attention_heads
        self.rotary = rotary
        self.query = nn.Linear(config.user_width, config.user_width, bias=False)
        self.key = nn.Linear(config.user_width, config.user_width, bias=False)
        self.value = nn.Linear(config.user_width, config.user_width, bias=False)
        self.output = nn.Linear(config.user_width, config.user_width, bias=False)

    def forward(
        self, hidden: torch.Tensor, histories: Histories, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        """Attends from every item to the others of its history.

        Args:
            hidden: `(M, D)`.
            histories: where the items are.
            attention_mask: added to the scores, `(B, 1, L, L)`; with `last`, `(B, 1, 1, L)`.
            last: whether only each user's last item attends.

        Returns:
            `(M, D)`; with `last`, `(B, D)`.
        """
        if last:
            query = self.query(histories.last_of(histories.pad(hidden))[:, None])  # (B, 1, D)
        else:
            query = histories.pad(self.query(hidden))
        key, value = histories.pad(self.key(hidden)), histories.pad(self.value(hidden))
        query, key, value = (  # (B, heads, L, D / heads)
            vectors.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for vectors in (query, key, value)
        )
        if self.rotary:
            positions = histories.mask.cumsum(1)[:, None]  # (B, 1, L), of items, so that padding adds no distance
            query, key = rotate(query, positions[:, :, -1:] if last else positions), rotate(key, positions)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.config.hidden_dropout_prob if self.training else 0.0,
            is_causal=False,  # attention_mask has it already
        )
        histories.record_attention(weights)
        attended = attended.flatten(2)
        return self.output(attended.squeeze(1) if last else histories.pack(attended))


def rotate(vectors: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rotates each pair of dimensions by an angle that grows with the position (RoPE), as if in a complex plane.

    Products of rotated vectors depend only on the distance of their positions (Su et al., "RoFormer", arXiv
    2104.09864).

    Args:
        vectors: `(B, heads, L, D / heads)`.
        positions: `(B, 1, L)`.
    """
    half = vectors.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half, device=vectors.device) / half)
    angles = positions[..., None] * frequencies  # (B, 1, L, half)
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second, rest = vectors[..., :half], vectors[..., half : 2 * half], vectors[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def attention_mask_of(mask: torch.Tensor, dtype: torch.dtype, causal: bool = True) -> torch.Tensor:
    """Makes an additive attention mask `(B, 1, L, L)` from one of items `(B, L)`.

    An item sees the items of its history, if `causal` only up to itself; padding sees itself, so that its softmax is
    defined.
    """
    visible = mask[:, None, :] | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)  # (B, L, L)
    if causal:
        visible = visible.tril()
    additive = torch.zeros(visible.shape, dtype=dtype, device=mask.device)
    return additive.masked_fill(~visible, torch.finfo(dtype).min)[:, None]
