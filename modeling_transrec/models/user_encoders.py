"""Defines the user encoders, which map histories of item embeddings `(B, L, D)` to states `(B, L, D)`.

A state summarises the history up to its position; the state at a user's last item is the user embedding. A user
encoder is one class and one row of [`USER_ENCODERS`]; [`UserEncoder`] lists the attributes that other code reads.

Shapes: `B` users, `L` history length, `M` items in all histories, `D` hidden size. Padding is never read;
[`Histories`] knows where the items are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import SelfAttention, attention_mask_of
from .histories import Histories, positions_from_the_end
from .projections import LinearFromZero
from .whitening import decayed_histories, decayed_history, unit_parts


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


LAYER_NORM_EPS = 1e-6


class UserEncoder(nn.Module):
    """Base of the user encoders.

    A subclass defines `forward(item_embeddings, histories)`, which maps item embeddings `(B, L, D)`, oldest first, and
    [`Histories`] to states `(B, L, D)`. Nothing else in the package names the subclass, except [`USER_ENCODERS`].

    Attributes:
        causal: Whether a state does not depend on later items, so that it can predict the next one.
        supports_masked_item: Whether it can read both sides of a masked item and predict that item. It does so with
            `config.objective="masked_item"`, and then has a learned `mask_embedding` `(D,)` in place of such items.
        default_objective: The objective if the configuration names none.
        reads_user_ids: Whether it has a table of user ids, and reads `histories.user_ids`.
        supports_padding: Whether it can read padding as an item, with `config.padding_embedding`.
        layer_class: The class of its layers, which are never split over devices.
    """

    causal: ClassVar[bool] = True
    supports_masked_item: ClassVar[bool] = False
    default_objective: ClassVar[str] = "next_item"
    reads_user_ids: ClassVar[bool] = False
    supports_padding: ClassVar[bool] = False
    layer_class: ClassVar[type[nn.Module]]

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


class ResidualUserEncoder(UserEncoder):
    """Adds what another user encoder makes of a history, from zero on, to the decayed sum of its item embeddings.

    An untrained model then predicts what is like the history, as content kNN does. The sum at a position is that of
    the items up to it; masked ones have no part in it. Made where the configuration has a `history_decay`, around the
    user encoder that it names; [`USER_ENCODERS`] has no row for it.

    Args:
        config: with `history_decay` and, for the width of the other user encoder, `user_hidden_size`.
        lengths: width and usual length of the parts that lie side by side in an item embedding, and in the sum.
    """

    def __init__(self, config: TransRecConfig, lengths: Sequence[tuple[int, float]]):
        super().__init__(config)
        self.lengths = lengths
        self.decay: Any = config.history_decay  # never None with this user encoder
        self.inner = USER_ENCODERS[config.user_encoder_type](config)
        self.inner.mask_embedding = None  # this one's stands in the histories
        self.padding_embedding = None  # the inner one's is read
        self.layer_class = self.inner.layer_class  # type: ignore[misc]  # one class wraps all
        narrows = config.user_width != config.width
        self.down = nn.Linear(config.width, config.user_width, bias=False) if narrows else nn.Identity()
        self.out = LinearFromZero(config.user_width, config.width)

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        total = decayed_histories(item_embeddings, histories.visible, self.decay)
        states = self.inner(self.down(item_embeddings), histories)
        return (unit_parts(total, self.lengths) + self.out(states)) * histories.mask[:, :, None]

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """As in [`UserEncoder`]; one sum per user."""
        total = decayed_history(item_embeddings, histories.visible, self.decay)
        states = self.inner.last(self.down(item_embeddings), histories)
        return unit_parts(total, self.lengths) + self.out(states)


class TransformerUserEncoder(UserEncoder):
    """Base of the user encoders that are made of attention layers, which are in `layers`.

    Attention is causal, or bidirectional where masked items are predicted.
    """

    layers: nn.ModuleList

    def embed(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Makes the first layer's input `(M, D)` from item embeddings `(B, L, D)`."""
        raise NotImplementedError

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Makes states from the last layer's output, both `(…, D)`."""
        return hidden

    def through(self, layers: nn.ModuleList, hidden: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Passes items `(M, D)` through some layers."""
        if len(layers):
            attention_mask = attention_mask_of(histories.mask, hidden.dtype, causal=not self.predicts_masked_items)
        for layer in layers:
            histories.record(hidden)
            hidden = layer(hidden, histories, attention_mask)
        return hidden

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        hidden = self.through(self.layers, self.embed(item_embeddings, histories), histories)
        return histories.pad(self.finish(hidden))

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """As in [`UserEncoder`]; in the last layer only each user's last item attends."""
        hidden = self.through(self.layers[:-1], self.embed(item_embeddings, histories), histories)
        visible = torch.zeros(histories.mask.shape, dtype=hidden.dtype, device=hidden.device)
        visible = visible.masked_fill(~histories.mask, torch.finfo(hidden.dtype).min)[:, None, None]  # (B, 1, 1, L)
        states = self.finish(self.layers[-1](hidden, histories, visible, last=True))
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

    def forward(
        self, hidden: torch.Tensor, histories: Histories, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        attended = self.dropout(self.attention(hidden, histories, attention_mask, last))
        hidden = histories.last_of(histories.pad(hidden)) if last else hidden
        hidden = self.attention_norm(hidden + attended)
        return self.layer_norm(hidden + self.dropout(self.down(self.up(hidden).relu())))


class SASRecUserEncoder(TransformerUserEncoder):
    """SASRec: a causal transformer with learned positions, in the form of NineRec.

    The default, and the paper's main model. Choose it to compare with published numbers; it does well on ids and on
    content. It needs nothing beside the history. Positions are counted from the end of the history, so that how much
    padding a batch has does not matter.

    Paper: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
    """

    layer_class = SASRecLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        # One position more where a mask embedding is appended to a history, to predict the item after it.
        self.num_positions = config.max_seq_len + self.predicts_masked_items
        self.position_embedding = nn.Embedding(self.num_positions, config.user_width)
        self.layer_norm = nn.LayerNorm(config.user_width, eps=LAYER_NORM_EPS)
        self.layers = nn.ModuleList([SASRecLayer(config) for _ in range(config.num_hidden_layers)])

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

    causal = False
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

    def forward(
        self, hidden: torch.Tensor, histories: Histories, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        attended = self.dropout(self.attention(self.attention_norm(hidden), histories, attention_mask, last))
        hidden = histories.last_of(histories.pad(hidden)) if last else hidden
        hidden = hidden + attended * self.attention_gate(hidden).sigmoid()
        inner = self.feed_forward_norm(hidden)
        inner = self.dropout(self.down(nn.functional.silu(self.gate(inner)) * self.up(inner)))
        return hidden + inner * self.feed_forward_gate(hidden).sigmoid()


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


class StackedUserEncoder(UserEncoder):
    """Base of the user encoders whose layers, in `layers`, read padded states `(B, L, D)` and their mask `(B, L)`.

    With `config.padding_embedding` each history starts with that learned vector `(D,)`, up to `max_seq_len` items, as
    NineRec's code has it.
    """

    supports_padding = True
    layers: nn.ModuleList

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.max_seq_len = config.max_seq_len

    def embed(self, item_embeddings: torch.Tensor) -> torch.Tensor:
        """Makes the first layer's input from item embeddings, both `(B, L, D)`."""
        return self.dropout(item_embeddings)

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        mask, num_before = histories.mask, 0
        if self.padding_embedding is not None:
            num_before = max(self.max_seq_len - mask.shape[1], 0)
            before = self.padding_embedding.expand(len(mask), num_before, -1)
            filled = item_embeddings.where(mask[:, :, None], self.padding_embedding)
            item_embeddings = torch.cat([before, filled], dim=1)
            mask = torch.ones_like(item_embeddings[:, :, 0], dtype=torch.bool)
        hidden = self.embed(item_embeddings)
        for layer in self.layers:
            histories.record(hidden[:, num_before:])
            hidden = layer(hidden, mask)
        return hidden[:, num_before:]


class NextItNetLayer(GradientCheckpointingLayer):
    """Two causal convolutions with dilations `d` and `2 d`, each with layer norm and ReLU; a residual around both."""

    def __init__(self, config: TransRecConfig, dilation: int, kernel_size: int = 3):
        super().__init__()
        width = config.user_width
        self.paddings = [(kernel_size - 1) * d for d in (dilation, 2 * dilation)]
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(width, width, kernel_size, dilation=d) for d in (dilation, 2 * dilation)]
        )
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-8) for _ in range(2)])

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inner = hidden
        for padding, convolution, layer_norm in zip(self.paddings, self.convolutions, self.layer_norms, strict=True):
            inner = (inner * mask[:, :, None]).transpose(1, 2)  # padding is zero, as before the first item
            inner = convolution(nn.functional.pad(inner, (padding, 0))).transpose(1, 2)
            inner = layer_norm(inner).relu()
        return hidden + inner


class NextItNetUserEncoder(StackedUserEncoder):
    """NextItNet: causal dilated convolutions, in the form of NineRec.

    Choose it to compare with published numbers, or where attention's cost in the length of histories matters. Each
    layer is a block of dilations 1 and 2, then one of 4 and 8: a state reads its item and the last 30 per layer.

    Paper: Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019.
    """

    layer_class = NextItNetLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(
            [NextItNetLayer(config, dilation) for _ in range(config.num_hidden_layers) for dilation in (1, 4)]
        )

    def embed(self, item_embeddings: torch.Tensor) -> torch.Tensor:
        """Leaves item embeddings `(B, L, D)` as they are: NineRec's form has no dropout on them."""
        return item_embeddings


class GRU4RecLayer(GradientCheckpointingLayer):
    """One gated recurrent layer without biases."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.gru = nn.GRU(config.user_width, config.user_width, bias=False, batch_first=True)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Without biases, zeros as input keep a zero state at zero, so that padding on the left has no effect.
        inputs = hidden * mask[:, :, None]
        return self._scanned(inputs) if torch.compiler.is_exporting() else self.gru(inputs)[0]

    def _scanned(self, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the same as a loop in the graph; torch.export unrolls nn.GRU, which fixes the length."""
        from torch._higher_order_ops.scan import scan

        of_inputs, of_state = self.gru.all_weights[0]

        def step(state: torch.Tensor, gates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            reset, update, new = gates.chunk(3, dim=-1)
            of_reset, of_update, of_new = nn.functional.linear(state, of_state).chunk(3, dim=-1)
            candidate = (new + (reset + of_reset).sigmoid() * of_new).tanh()
            state = candidate + (update + of_update).sigmoid() * (state - candidate)
            return state, state.clone()

        gates = nn.functional.linear(inputs, of_inputs)  # (B, L, 3 D)
        return scan(step, torch.zeros_like(inputs[:, 0]), gates.transpose(0, 1))[1].transpose(0, 1)


class GRU4RecUserEncoder(StackedUserEncoder):
    """GRU4Rec: recurrent layers without biases, in the form of NineRec.

    Choose it to compare with published numbers. It needs padding on the left, as the collator makes it.

    Paper: Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016.
    """

    layer_class = GRU4RecLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([GRU4RecLayer(config) for _ in range(config.num_hidden_layers)])


class MLPLayer(GradientCheckpointingLayer):
    """Linear layer, GELU, dropout."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.linear = nn.Linear(config.user_width, config.user_width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dropout(nn.functional.gelu(self.linear(hidden)))


def make_mlp(config: TransRecConfig) -> nn.Sequential:
    """Makes a multi-layer perceptron: `num_hidden_layers` layers, then a linear one."""
    layers = [MLPLayer(config) for _ in range(config.num_hidden_layers)]
    return nn.Sequential(*layers, nn.Linear(config.user_width, config.user_width))


class DNNUserEncoder(UserEncoder):
    """DNN: a multi-layer perceptron over the mean of the history, NineRec's DSSM variant (Table 13).

    Choose it as a baseline that does not know the order of a history; it is the cheapest that transfers.

    Paper: after Huang et al., "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", CIKM
    2013.
    """

    default_objective = "last_item"
    layer_class = MLPLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.mlp = make_mlp(config)

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        mask = histories.mask
        count = mask.cumsum(1).clamp(min=1)[:, :, None]
        mean = (self.dropout(item_embeddings) * mask[:, :, None]).cumsum(1) / count  # of the history up to each item
        return histories.pad(self.mlp(histories.pack(mean)))

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """As in [`UserEncoder`]; the perceptron reads one mean per user."""
        count = histories.mask.sum(dim=1, keepdim=True)
        mean = (self.dropout(item_embeddings) * histories.mask[:, :, None]).sum(dim=1) / count.clamp(min=1)
        return self.mlp(mean) * (count > 0)


class DSSMUserEncoder(UserEncoder):
    """DSSM: a multi-layer perceptron over an embedding of the user's id, NineRec's baseline of Table 13.

    Choose it only to reproduce that baseline. It needs `num_users` and `user_ids`, does not read the history, serves
    only the users that it was trained on, and nothing of it transfers.

    Paper: Huang et al., "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", CIKM 2013.
    """

    default_objective = "last_item"
    reads_user_ids = True
    layer_class = MLPLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        num_users: Any = config.num_users  # never None with this user encoder
        self.user_embedding = nn.Embedding(num_users, config.user_width)
        self.mlp = make_mlp(config)

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes user ids `(B,)` to states `(B, L, D)`, the same at every position."""
        user = self.mlp(self.dropout(self.user_embedding(histories.user_ids)))  # (B, D)
        return user[:, None].expand(-1, histories.mask.shape[1], -1)


def make_user_encoder(config: TransRecConfig, lengths: Sequence[tuple[int, float]]) -> UserEncoder:
    """Makes the user encoder that the configuration names, with a `history_decay` beside the decayed history.

    Args:
        config: the model's.
        lengths: see [`ResidualUserEncoder`].
    """
    if config.history_decay is not None:
        return ResidualUserEncoder(config, lengths)
    return USER_ENCODERS[config.user_encoder_type](config)


USER_ENCODERS: dict[str, type[UserEncoder]] = {
    "sasrec": SASRecUserEncoder,
    "bert4rec": BERT4RecUserEncoder,
    "nextitnet": NextItNetUserEncoder,
    "gru4rec": GRU4RecUserEncoder,
    "dnn": DNNUserEncoder,
    "dssm": DSSMUserEncoder,
    "ligr": LiGRUserEncoder,
}
