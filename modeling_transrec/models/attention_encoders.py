"""The user encoders that are made of attention layers: SASRec, BERT4Rec, LiGR.

Shapes: `B` users, `L` history length, `M` items in all histories, `D` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import SelfAttention, attention_mask_of
from .histories import Histories, positions_from_the_end
from .user_adapters import make_adapter
from .user_encoder_base import LAYER_NORM_EPS, UserEncoder


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


class TransformerUserEncoder(UserEncoder):
    """Base of the user encoders that are made of attention layers, which are in `layers`.

    Attention is causal, or bidirectional where masked items are predicted.

    Attributes:
        attends_back_only: Whether an item attends only to itself and those before it, except where masked items are
            predicted.
    """

    attends_back_only: ClassVar[bool] = True
    layers: nn.ModuleList

    def embed(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Makes the first layer's input `(M, D)` from item embeddings `(B, L, D)`."""
        raise NotImplementedError

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Makes states from the last layer's output, both `(…, D)`."""
        return hidden

    def through(self, layers: Sequence[nn.Module], hidden: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Passes items `(M, D)` through some layers."""
        if layers:
            causal = self.attends_back_only and not self.predicts_masked_items
            attention_mask = attention_mask_of(histories.mask, hidden.dtype, causal)
        for layer in layers:
            histories.record(hidden)
            hidden = layer(hidden, histories, attention_mask)
        return hidden

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        hidden = self.through([*self.layers], self.embed(item_embeddings, histories), histories)
        return histories.pad(self.finish(hidden))

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes histories as [`UserEncoder.last`] says; in the last layer only each user's last item attends."""
        *layers, last_layer = self.layers
        hidden = self.through(layers, self.embed(item_embeddings, histories), histories)
        visible = torch.zeros(histories.mask.shape, dtype=hidden.dtype, device=hidden.device)
        visible = visible.masked_fill(~histories.mask, torch.finfo(hidden.dtype).min)[:, None, None]  # (B, 1, 1, L)
        states = self.finish(last_layer(hidden, histories, visible, last=True))
        return states * histories.mask.any(dim=1)[:, None]


class SASRecLayer(GradientCheckpointingLayer):
    """Attention, then a feed-forward network of width `4 D` with ReLU; both residual and post-norm."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.user_width, eps=LAYER_NORM_EPS)
        self.up = nn.Linear(config.user_width, 4 * config.user_width)
        self.down = nn.Linear(4 * config.user_width, config.user_width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layer_norm = nn.LayerNorm(config.user_width, eps=LAYER_NORM_EPS)
        self.attention_adapter, self.feed_forward_adapter = make_adapter(config), make_adapter(config)

    def forward(
        self, hidden: torch.Tensor, histories: Histories, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        attended = self.dropout(self.attention(hidden, histories, attention_mask, last))
        hidden = histories.last_of(histories.pad(hidden)) if last else hidden
        hidden = self.attention_norm(hidden + self.attention_adapter(hidden, attended))
        inner = self.dropout(self.down(self.up(hidden).relu()))
        return self.layer_norm(hidden + self.feed_forward_adapter(hidden, inner))


class SASRecUserEncoder(TransformerUserEncoder):
    """SASRec: a causal transformer with learned positions, in the form of NineRec.

    The default, and the paper's main model. Choose it to compare with published numbers; it does well on ids and on
    content. It needs nothing beside the history. Positions are counted from the end of the history, so that how much
    padding a batch has does not matter.

    Paper: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
    """

    layer_class: ClassVar[type[nn.Module]] = SASRecLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        # One position more where a mask embedding is appended to a history, to predict the item after it.
        self.num_positions = config.max_seq_len + self.predicts_masked_items
        self.position_embedding = nn.Embedding(self.num_positions, config.user_width)
        self.layer_norm = nn.LayerNorm(config.user_width, eps=LAYER_NORM_EPS)
        self.layers = nn.ModuleList([self.layer_class(config) for _ in range(config.num_hidden_layers)])

    def embed(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Packs item embeddings `(B, L, D)` as `(M, D)` and adds position embeddings."""
        positions = positions_from_the_end(histories.mask, self.num_positions)
        hidden = histories.pack(item_embeddings) + self.position_embedding(histories.pack(positions))
        return self.dropout(self.layer_norm(hidden))


class BERT4RecUserEncoder(SASRecUserEncoder):
    """BERT4Rec: SASRec's layers reading both sides of masked items, in the form of NineRec.

    Choose it to compare with published numbers. It needs more epochs than the causal encoders, since only the masked
    share of the items is predicted in a step. The mask is a learned embedding beside those of items, not a
    pseudo-item that goes through the backbone.

    Paper: Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer", CIKM 2019.
    """

    causal = attends_back_only = False
    supports_masked_item = True
    default_objective = "masked_item"


class LiGRLayer(GradientCheckpointingLayer):
    """Pre-norm attention with rotary positions and pre-norm SwiGLU, each behind a learned gate on its residual."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        width = config.user_width
        self.attention = SelfAttention(config, rotary=True)
        self.attention_norm = nn.RMSNorm(width, eps=LAYER_NORM_EPS)
        self.attention_gate = nn.Linear(width, width)
        self.gate = nn.Linear(width, 4 * width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(width, eps=LAYER_NORM_EPS)
        self.feed_forward_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_adapter, self.feed_forward_adapter = make_adapter(config), make_adapter(config)

    def forward(
        self, hidden: torch.Tensor, histories: Histories, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        attended = self.dropout(self.attention(self.attention_norm(hidden), histories, attention_mask, last))
        hidden = histories.last_of(histories.pad(hidden)) if last else hidden
        hidden = hidden + self.attention_adapter(hidden, attended) * self.attention_gate(hidden).sigmoid()
        inner = self.feed_forward_norm(hidden)
        inner = self.dropout(self.down(nn.functional.silu(self.gate(inner)) * self.up(inner)))
        return hidden + self.feed_forward_adapter(hidden, inner) * self.feed_forward_gate(hidden).sigmoid()


class LiGRUserEncoder(TransformerUserEncoder):
    """LiGR: a transformer of gated, pre-norm layers with SwiGLU and rotary positions, as in eSASRec.

    Choose it in place of SASRec for a current architecture; it needs nothing beside the history, and has no table of
    positions. With `objective="masked_item"` it reads both sides, as BERT4Rec does.

    Papers: Borisyuk et al., "From Features to Transformers", arXiv 2502.03417; Tikhonovich et al., "eSASRec", arXiv
    2508.06450.
    """

    supports_masked_item = True
    layer_class = LiGRLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([LiGRLayer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = nn.RMSNorm(config.user_width, eps=LAYER_NORM_EPS)

    def embed(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Packs item embeddings `(B, L, D)` without padding, as `(M, D)`."""
        return self.dropout(histories.pack(item_embeddings))

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Applies the last norm of a pre-norm transformer."""
        return self.layer_norm(hidden)
