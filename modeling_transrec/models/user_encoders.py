"""Defines the user encoders, which map histories of item embeddings `(B, L, D)` to states `(B, L, D)`.

A state summarises the history up to its position; the state at a user's last item is the user embedding. A user
encoder is one class and one row of [`USER_ENCODERS`]; [`UserEncoder`] lists the attributes that other code reads.

Shapes: `B` users, `L` history length, `M` items in all histories, `D` hidden size. Padding is never read;
[`Histories`] knows where the items are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_encoders import BERT4RecUserEncoder, LiGRUserEncoder, SASRecUserEncoder
from .frequency_encoder import BSARecUserEncoder
from .from_zero import LinearFromZero
from .histories import Histories
from .time_encoder import HSTUUserEncoder
from .user_adapters import make_adapter
from .user_encoder_base import UserEncoder
from .whitening import decayed_histories, decayed_history, scale_segments


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


class ResidualUserEncoder(UserEncoder):
    """Adds what another user encoder makes of a history, from zero on, to the decayed sum of its item embeddings.

    An untrained model then predicts what is like the history, as content kNN does. The sum at a position is that of
    the items up to it; masked ones have no part in it. Made where the configuration has a `history_decay`, around the
    user encoder that it names; [`USER_ENCODERS`] has no row for it.

    Args:
        config: with `history_decay` and, for the width of the other user encoder, `user_hidden_size`.
        segments: width and L2 norm of each segment of an item embedding, and of the sum.
    """

    def __init__(self, config: TransRecConfig, segments: Sequence[tuple[int, float]]):
        super().__init__(config)
        self.segments = segments
        self.decay: Any = config.history_decay  # never None with this user encoder
        self.inner = USER_ENCODERS[config.user_encoder_type](config)
        self.inner.mask_embedding = None  # this one's stands in the histories
        self.padding_embedding = None  # the inner one's is read
        self.layer_class = self.inner.layer_class  # type: ignore[misc]  # one class wraps all
        self.reads_timestamps = self.inner.reads_timestamps  # type: ignore[misc]  # the same
        narrows = config.user_width != config.width
        self.down = nn.Linear(config.width, config.user_width, bias=False) if narrows else nn.Identity()
        self.out = LinearFromZero(config.user_width, config.width)

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        total = decayed_histories(item_embeddings, histories.visible, self.decay)
        states = self.inner(self.down(item_embeddings), histories)
        return (scale_segments(total, self.segments) + self.out(states)) * histories.mask[:, :, None]

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes histories as [`UserEncoder.last`] says; one sum per user."""
        total = decayed_history(item_embeddings, histories.visible, self.decay)
        states = self.inner.last(self.down(item_embeddings), histories)
        return scale_segments(total, self.segments) + self.out(states)


class ViewsUserEncoder(UserEncoder):
    """Reads each view of the items by a user encoder of its own; their states lie side by side.

    Made where the fusion makes several views of an item, around the user encoder that the configuration names;
    [`USER_ENCODERS`] has no row for it.

    Paper: Ji et al., "Online Distillation-enhanced Multi-modal Transformer for Sequential Recommendation" (ODMT), ACM
    MM 2023.

    Args:
        config: with a fusion that makes views.
    """

    views: Any

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.config, of_view = config, copy.copy(config)
        of_view.hidden_size = config.width // config.num_views
        self.of_view = of_view
        views = [USER_ENCODERS[config.user_encoder_type](of_view) for _ in range(config.num_views)]
        for view in views:
            view.mask_embedding = None  # this one's stands in the histories
        self.views = nn.ModuleList(views)
        self.padding_embedding = None  # the views' are read
        self.layer_class = views[0].layer_class  # type: ignore[misc]  # one class wraps all
        self.reads_user_ids = views[0].reads_user_ids  # type: ignore[misc]  # the same
        self.reads_timestamps = views[0].reads_timestamps  # type: ignore[misc]  # the same

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        parts = self._split(item_embeddings)
        return torch.cat([view(part, histories) for view, part in zip(self.views, parts, strict=True)], dim=-1)

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes histories as [`UserEncoder.last`] says."""
        parts = self._split(item_embeddings)
        return torch.cat([view.last(part, histories) for view, part in zip(self.views, parts, strict=True)], dim=-1)

    def _split(self, item_embeddings: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.of_view._attn_implementation = self.config._attn_implementation  # it may be set at any time
        return item_embeddings.chunk(len(self.views), dim=-1)


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
        self.adapters = nn.ModuleList([make_adapter(config) for _ in range(2)])

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inner = hidden
        parts = (self.paddings, self.convolutions, self.adapters, self.layer_norms)
        for padding, convolution, adapter, layer_norm in zip(*parts, strict=True):
            inputs = inner * mask[:, :, None]  # padding is zero, as before the first item
            inner = convolution(nn.functional.pad(inputs.transpose(1, 2), (padding, 0))).transpose(1, 2)
            inner = layer_norm(adapter(inputs, inner)).relu()
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
        self.adapter = make_adapter(config)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Without biases, zeros as input keep a zero state at zero, so that padding on the left has no effect.
        inputs = hidden * mask[:, :, None]
        outputs = self._scanned(inputs) if torch.compiler.is_exporting() else self.gru(inputs)[0]
        return self.adapter(inputs, outputs)

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
        self.adapter = make_adapter(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.adapter(hidden, nn.functional.gelu(self.linear(hidden))))


def make_mlp(config: TransRecConfig) -> nn.Sequential:
    """Makes a multi-layer perceptron: `num_hidden_layers` layers, then a linear one."""
    layers = [MLPLayer(config) for _ in range(config.num_hidden_layers)]
    return nn.Sequential(*layers, nn.Linear(config.user_width, config.user_width))


class MLPUserEncoder(UserEncoder):
    """MLP: a perceptron with GELU and a linear last layer over the mean of the history, trained on its last item.

    Choose it as a baseline that does not know the order of a history; it is the cheapest that transfers. NineRec's
    form is `"dnn"`.
    """

    default_objective = "last_item"
    layer_class = MLPLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        layers = [MLPLayer(config) for _ in range(config.num_hidden_layers)]
        self.mlp = nn.Sequential(*layers, nn.Linear(config.user_width, config.user_width))

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        mask = histories.mask
        count = mask.cumsum(1).clamp(min=1)[:, :, None]
        mean = (self.dropout(item_embeddings) * mask[:, :, None]).cumsum(1) / count  # of the history up to each item
        return histories.pad(self.mlp(histories.pack(mean)))

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes histories as [`UserEncoder.last`] says; the perceptron reads one mean per user."""
        count = histories.mask.sum(dim=1, keepdim=True)
        mean = (self.dropout(item_embeddings) * histories.mask[:, :, None]).sum(dim=1) / count.clamp(min=1)
        return self.mlp(mean) * (count > 0)


class DNNLayer(GradientCheckpointingLayer):
    """Dropout, linear layer, ReLU."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.linear = nn.Linear(config.user_width, config.user_width)
        self.adapter = make_adapter(config)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.adapter(hidden, self.linear(self.dropout(hidden)).relu())


class DNNUserEncoder(UserEncoder):
    """DNN: a perceptron with ReLU over the mean of the history, NineRec's DSSM variant (Table 13).

    Choose it to compare with published numbers. Each item of a window is predicted from all others, later ones too
    (`objective="other_items"`), and the next one from the whole history.

    Paper: after Huang et al., "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", CIKM
    2013.
    """

    default_objective = "other_items"
    supports_other_items = True
    layer_class = DNNLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.predicts_other_items = config.objective == "other_items"
        self.mlp = nn.Sequential(*[DNNLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes item embeddings `(B, L, D)` to states `(B, L, D)`: of all other items, or of those up to each."""
        read = histories.visible[:, :, None]
        items = item_embeddings * read
        if self.predicts_other_items:
            total, count = items.sum(1, keepdim=True) - items, read.sum(1, keepdim=True) - read.long()
        else:
            total, count = items.cumsum(1), read.cumsum(1)
        return histories.pad(self.mlp(histories.pack(total / count.clamp(min=1))))

    def last(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Encodes histories as [`UserEncoder.last`] says; the perceptron reads one mean per user."""
        read = histories.visible[:, :, None]
        items = item_embeddings * read
        total, count = items.sum(1), read.sum(1)
        if self.predicts_other_items:
            total, count = total - histories.last_of(items), count - histories.last_of(read).long()
        return self.mlp(total / count.clamp(min=1)) * histories.mask.any(dim=1)[:, None]


class DSSMLayer(GradientCheckpointingLayer):
    """Dropout: a layer, so that activation checkpointing finds one in every model."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dropout(hidden)


class DSSMUserEncoder(UserEncoder):
    """DSSM: an embedding of the user's id, NineRec's baseline of Table 13, without layers, as in its code's default.

    Choose it only to reproduce that baseline. It needs `num_users` and `user_ids`, does not read the history, serves
    only the users that it was trained on, and nothing of it transfers. All items of a user are predicted.

    Paper: Huang et al., "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", CIKM 2013.
    """

    default_objective = "other_items"
    supports_other_items = True
    supports_adapters = False
    reads_user_ids = True
    layer_class = DSSMLayer

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        num_users: Any = config.num_users  # never None with this user encoder
        self.user_embedding = nn.Embedding(num_users, config.user_width)
        self.layer = DSSMLayer(config)

    def forward(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Looks up user ids `(B,)`: states `(B, L, D)`, the same at every position."""
        user = self.layer(self.user_embedding(histories.user_ids))  # (B, D)
        return user[:, None].expand(-1, histories.mask.shape[1], -1)


def make_user_encoder(config: TransRecConfig, segments: Sequence[tuple[int, float]]) -> UserEncoder:
    """Makes the user encoder that the configuration names, with a `history_decay` beside the decayed history, or one
    for each view of the items.

    Args:
        config: the model's.
        segments: see [`ResidualUserEncoder`].
    """
    if config.history_decay is not None:
        return ResidualUserEncoder(config, segments)
    if config.num_views > 1:
        return ViewsUserEncoder(config)
    return USER_ENCODERS[config.user_encoder_type](config)


USER_ENCODERS: dict[str, type[UserEncoder]] = {
    "sasrec": SASRecUserEncoder,
    "bert4rec": BERT4RecUserEncoder,
    "nextitnet": NextItNetUserEncoder,
    "gru4rec": GRU4RecUserEncoder,
    "mlp": MLPUserEncoder,
    "dnn": DNNUserEncoder,
    "dssm": DSSMUserEncoder,
    "ligr": LiGRUserEncoder,
    "bsarec": BSARecUserEncoder,
    "hstu": HSTUUserEncoder,
}
