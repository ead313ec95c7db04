"""BSARec: attention beside a filter of frequencies over the whole history.

Shapes: `B` users, `L` history length, `M` items in all histories, `D` hidden size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import SelfAttention
from .attention_encoders import SASRecUserEncoder
from .histories import Histories
from .user_adapters import make_adapter
from .user_encoder_base import LAYER_NORM_EPS


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


def low_pass_weights(distances: torch.Tensor, length: int, num_frequencies: int) -> torch.Tensor:
    """Returns what an item at some distance weighs in a low-pass filter, of any shape, float32.

    Keeping the first frequencies of the discrete Fourier transform of `length` places and transforming back is a sum
    with these weights, which depend only on the distance of two places.

    Args:
        distances: of two places, whole numbers.
        length: of what is transformed.
        num_frequencies: how many are kept, the constant among them; there are `length // 2 + 1`.

    Example:

    >>> low_pass_weights(torch.arange(3), length=4, num_frequencies=2)
    tensor([ 0.7500,  0.2500, -0.2500])
    """
    frequencies = torch.arange(min(num_frequencies, length // 2 + 1), device=distances.device)
    is_paired = (frequencies > 0) & (2 * frequencies != length)  # with the negative frequency
    angles = (2 * math.pi / length) * frequencies * distances[..., None]
    return ((1.0 + is_paired) * angles.cos()).sum(dim=-1) / length


class BSARecLayer(GradientCheckpointingLayer):
    """A weighted sum of a filter of frequencies and attention, then a feed-forward network of width `4 D` with GELU.

    Each of the three has a residual and a norm behind it. The filter keeps the low frequencies of a history and
    multiplies the rest by a learned factor for each dimension.
    """

    def __init__(self, config: TransRecConfig):
        super().__init__()
        width = config.user_width
        self.length, self.num_frequencies = config.max_seq_len, config.num_low_frequencies
        self.frequency_weight = config.frequency_weight
        self.root_of_factor = nn.Parameter(torch.empty(width))
        self.frequency_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_adapter, self.feed_forward_adapter = make_adapter(config), make_adapter(config)

    def init_own_weights(self) -> None:
        """Starts the factors of the high frequencies as squares of normal numbers, as the paper's code does."""
        init.normal_(self.root_of_factor)

    def low_frequencies(self, padded: torch.Tensor, histories: Histories, last: bool) -> torch.Tensor:
        """Filters histories `(B, L, D)`, zero at padding: `(M, D)`; with `last`, each user's last item `(B, D)`."""
        places = torch.arange(padded.shape[1], device=padded.device)
        if last:
            distances = histories.last[:, None] - places  # (B, L)
            weights = low_pass_weights(distances, self.length, self.num_frequencies).to(padded.dtype)
            return (weights[:, None] @ padded).squeeze(1)
        distances = places[:, None] - places
        weights = low_pass_weights(distances, self.length, self.num_frequencies).to(padded.dtype)  # (L, L)
        return histories.pack(weights @ padded)

    def forward(
        self, hidden: torch.Tensor, histories: Histories, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        padded = histories.pad(hidden)
        attended = self.dropout(self.attention(hidden, histories, attention_mask, last))
        low = self.low_frequencies(padded, histories, last)
        hidden = histories.last_of(padded) if last else hidden
        filtered = self.dropout(low + self.root_of_factor.square() * (hidden - low))
        attended = self.attention_adapter(hidden, attended)
        hidden = self.frequency_weight * self.frequency_norm(hidden + filtered) + (
            1 - self.frequency_weight
        ) * self.attention_norm(hidden + attended)
        inner = self.dropout(self.down(nn.functional.gelu(self.up(hidden))))
        return self.layer_norm(hidden + self.feed_forward_adapter(hidden, inner))


class BSARecUserEncoder(SASRecUserEncoder):
    """BSARec: attention beside a filter that keeps a history's slow changes and weighs the fast ones.

    Choose it where the best published numbers with ids are to be met, and a step may cost several of SASRec's: the
    filter reads the whole history, so that each prefix is encoded on its own (`objective="every_prefix"`).
    `frequency_weight` is the paper's alpha; `num_low_frequencies` its `c // 2 + 1`. Histories are filtered as if
    padded to `max_seq_len` with zeros, where the paper's code has position embeddings.

    Paper: Shin et al., "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention", AAAI
    2024.
    """

    causal = False
    default_objective = "every_prefix"
    layer_class = BSARecLayer
    options = ("frequency_weight", "num_low_frequencies")
