"""User encoders: a history of item vectors `(B, L, D)` to hidden states `(B, L, D)`.

Each is one class and one row of [`USER_ENCODERS`]. The state at a position summarises the history up to it and never
looks ahead; padded positions (`mask` false) never reach the others.
"""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_transrec import TransRecConfig


LAYER_NORM_EPS = 1e-6


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Plain softmax attention, what `attn_implementation="eager"` runs; tensors `(B, heads, L, D / heads)`."""
    weights = query @ key.transpose(2, 3) * scaling + attention_mask
    weights = nn.functional.dropout(weights.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class SASRecAttention(nn.Module):
    """Multi-head self-attention without biases, residual, post-norm."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        B, L, _ = hidden.shape
        query, key, value = (
            projection(hidden).view(B, L, -1, self.head_dim).transpose(1, 2)  # (B, heads, L, D / heads)
            for projection in (self.query, self.key, self.value)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.dropout.p if self.training else 0.0,
            is_causal=False,  # the mask says it
        )
        attended = attended.reshape(B, L, -1)  # (B, L, D)
        return self.layer_norm(hidden + self.dropout(self.output(attended)))


class SASRecLayer(GradientCheckpointingLayer):
    """Attention, then a feed-forward network of width `4 D` with ReLU; both post-norm."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.attention = SASRecAttention(config)
        self.up = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.down = nn.Linear(4 * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.attention(hidden, attention_mask)
        return self.layer_norm(hidden + self.dropout(self.down(self.up(hidden).relu())))


class SASRecUserEncoder(nn.Module):
    """SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018), in the form of NineRec.

    Learned positions are counted from the end of the history, so that how much padding a batch has does not matter.
    """

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.max_seq_len = config.max_seq_len
        self.position_embedding = nn.Embedding(config.max_seq_len, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList([SASRecLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, item_vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            item_vectors: `(B, L, D)`, oldest item first, `L` at most `max_seq_len`.
            mask: `(B, L)` booleans, false at padding.
        """
        num_remaining = mask.long().flip(1).cumsum(1).flip(1)  # (B, L): this item and those after it
        positions = (self.max_seq_len - num_remaining).clamp(max=self.max_seq_len - 1)
        hidden = self.dropout(self.layer_norm(item_vectors + self.position_embedding(positions)))
        attention_mask = causal_attention_mask(mask, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return hidden


def causal_attention_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask `(B, 1, L, L)`: a position sees real items up to itself; a padded one sees just itself."""
    L = mask.shape[1]
    causal = torch.ones(L, L, dtype=torch.bool, device=mask.device).tril()
    diagonal = torch.eye(L, dtype=torch.bool, device=mask.device)
    visible = (causal & mask[:, None, :]) | diagonal  # (B, L, L)
    return torch.zeros(visible.shape, dtype=dtype, device=mask.device).masked_fill(~visible, torch.finfo(dtype).min)[
        :, None
    ]


USER_ENCODERS = {"sasrec": SASRecUserEncoder}


def build_user_encoder(config: TransRecConfig) -> nn.Module:
    """The user encoder that the configuration asks for."""
    if config.user_encoder_type not in USER_ENCODERS:
        raise ValueError(
            f"user_encoder_type={config.user_encoder_type!r} is unknown; choose from "
            f"{', '.join(map(repr, USER_ENCODERS))}"
        )
    return USER_ENCODERS[config.user_encoder_type](config)
