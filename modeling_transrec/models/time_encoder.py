"""HSTU: attention without softmax whose weights know positions and times.

Shapes: `B` users, `L` history length, `M` items in all histories, `D` hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_encoders import TransformerUserEncoder
from .histories import Histories, positions_from_the_end
from .user_adapters import make_adapter
from .user_encoder_base import LAYER_NORM_EPS


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


NUM_TIME_BUCKETS = 128
_BUCKET_WIDTH = 0.301  # of the natural logarithm of a time: a bucket is 1.35 times as long as the one before


def time_buckets(timestamps: torch.Tensor) -> torch.Tensor:
    """Returns the bucket of the time between each two interactions: `(B, L, L)` of `(B, L)`.

    Buckets grow with the time, from a second to beyond a lifetime; the order of the two does not matter.

    >>> time_buckets(torch.tensor([[0, 1, 60, 86_400]]))[0, 0]
    tensor([ 0,  0, 13, 37])
    """
    between = (timestamps[:, :, None] - timestamps[:, None, :]).abs().clamp(min=1)
    return (between.float().log() / _BUCKET_WIDTH).long().clamp(max=NUM_TIME_BUCKETS - 1)


class RelativeBias(nn.Module):
    """A learned number for each distance of two items in a history, and for each bucket of the time between them."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.of_distance = nn.Parameter(torch.empty(config.max_seq_len))
        self.of_time = nn.Parameter(torch.empty(NUM_TIME_BUCKETS))

    def init_own_weights(self) -> None:
        """Starts near zero, as HSTU's code does."""
        init.normal_(self.of_distance, std=0.02)
        init.normal_(self.of_time, std=0.02)

    def forward(self, timestamps: torch.Tensor) -> torch.Tensor:
        """Returns what is added to the weights `(B, L, L)` of histories with these times `(B, L)`."""
        places = torch.arange(timestamps.shape[1], device=timestamps.device)
        distances = (places[:, None] - places).clamp(min=0)
        return self.of_distance[distances] + self.of_time[time_buckets(timestamps)]


class HSTULayer(GradientCheckpointingLayer):
    """Pre-norm attention by SiLU in place of softmax, divided by `max_seq_len`, and gated; a residual around it."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        width = config.user_width
        self.head_dim, self.longest = width // config.num_attention_heads, config.max_seq_len
        self.input_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.inputs = nn.Linear(width, 4 * width, bias=False)  # gate, value, query and key
        self.bias = RelativeBias(config)
        self.attended_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.adapter = make_adapter(config)

    def forward(
        self, hidden: torch.Tensor, histories: Histories, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        parts = nn.functional.silu(self.inputs(self.input_norm(hidden))).chunk(4, dim=-1)  # (M, D) each
        gate, (value, query, key) = parts[0], (histories.pad(part) for part in parts[1:])
        bias = self.bias(histories.timestamps)
        if last:
            gate, hidden = (histories.last_of(histories.pad(one)) for one in (gate, hidden))
            query, bias = (histories.last_of(one)[:, None] for one in (query, bias))
        query, key, value = (
            one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in (query, key, value)
        )  # (B, heads, L, D / heads)
        weights = nn.functional.silu(query @ key.transpose(2, 3) + bias[:, None]) / self.longest
        weights = weights.masked_fill(attention_mask < 0, 0.0)
        histories.record_attention(weights)
        attended = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        attended = attended.squeeze(1) if last else histories.pack(attended)
        return hidden + self.adapter(hidden, self.output(self.dropout(self.attended_norm(attended) * gate)))


class HSTUUserEncoder(TransformerUserEncoder):
    """HSTU: gated attention without softmax, whose weights know how far apart, and how long apart, two items are.

    Choose it where interactions have times and these say something: sessions, long breaks. It needs the times of the
    histories (`timestamps`) in training and in use. They are those of the items that are read: where the paper's code
    looks at the time of the item that is to be predicted, too, this does not.

    Paper: Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
    Recommendations", ICML 2024.
    """

    reads_timestamps = True
    layer_class = HSTULayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.num_positions = config.max_seq_len
        self.position_embedding = nn.Embedding(self.num_positions, config.user_width)
        self.layers = nn.ModuleList([HSTULayer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = nn.LayerNorm(config.user_width, eps=LAYER_NORM_EPS)

    def embed(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Packs item embeddings `(B, L, D)` as `(M, D)`, times the root of `D` as HSTU's code, and adds positions."""
        positions = positions_from_the_end(histories.mask, self.num_positions)
        items = histories.pack(item_embeddings) * item_embeddings.shape[-1] ** 0.5
        return self.dropout(items + self.position_embedding(histories.pack(positions)))

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Applies the last norm of a pre-norm transformer."""
        return self.layer_norm(hidden)
