"""User encoders: a history of item vectors `(B, L, D)` to hidden states `(B, L, D)`.

Each is one class and one row of [`USER_ENCODERS`]. The state at a position summarises the history up to it and never
looks ahead, but for BERT4Rec, which looks at both sides; padded positions never reach the others. Where the state at
each user's last item is all that is wanted, [`UserEncoder.last`] leaves out what only the others need.

Most positions of a batch are padding, since a few users have long histories. What is computed position by position is
computed for the `M` items alone, `(M, D)`; only what mixes positions sees the padded histories. A user encoder gets
item vectors `(B, L, D)` and a [`Packing`], which knows where the items are.
"""

import functools

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_transrec import TransRecConfig


LAYER_NORM_EPS = 1e-6


class Packing:
    """Where the items of padded histories are.

    Args:
        mask: `(B, L)` booleans, false at padding.

    Example:

    >>> packing = Packing(torch.tensor([[False, True], [True, True]]))
    >>> packing.pack(torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]]))
    tensor([[1.],
            [2.],
            [3.]])
    """

    def __init__(self, mask: torch.Tensor):
        self.mask = mask

    @functools.cached_property
    def index(self) -> torch.Tensor:
        """The items' places `(M,)` in the flattened mask."""
        return self.mask.flatten().nonzero().squeeze(1)

    def to(self, *args, **kwargs) -> "Packing":
        """The same on another device."""
        return Packing(self.mask.to(*args, **kwargs))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(B, L, …)` to `(M, …)`: the items alone."""
        return padded.flatten(0, 1).index_select(0, self.index)

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """`(M, D)` to `(B, L, D)`, zero at padding."""
        padded = packed.new_zeros(self.mask.numel(), packed.shape[-1])
        return padded.index_copy(0, self.index, packed).view(*self.mask.shape, -1)

    @functools.cached_property
    def last(self) -> torch.Tensor:
        """The place of each user's last item `(B,)`; 0 where there is none."""
        return self.mask.long().cumsum(1).argmax(1)

    def last_of(self, padded: torch.Tensor) -> torch.Tensor:
        """`(B, L, D)` to `(B, D)`: at each user's last item."""
        return padded[torch.arange(len(padded), device=padded.device), self.last]


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Plain softmax attention, what `attn_implementation="eager"` runs; tensors `(B, heads, L, D / heads)`."""
    weights = query @ key.transpose(2, 3) * scaling + attention_mask
    weights = nn.functional.dropout(weights.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class SelfAttention(nn.Module):
    """Multi-head self-attention without biases; with `rotary`, positions turn queries and keys."""

    def __init__(self, config: TransRecConfig, rotary: bool = False):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.rotary = rotary
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, hidden: torch.Tensor, packing: Packing, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        """States `(M, D)` and additive mask `(B, 1, L, L)` to `(M, D)`; with `last`, and mask `(B, 1, 1, L)`, to those
        of the last items `(B, D)`."""
        asking = packing.last_of(packing.pad(hidden))[:, None] if last else None  # (B, 1, D)
        query = packing.pad(self.query(hidden)) if asking is None else self.query(asking)
        key, value = packing.pad(self.key(hidden)), packing.pad(self.value(hidden))
        query, key, value = (  # (B, heads, L, D / heads)
            vectors.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for vectors in (query, key, value)
        )
        if self.rotary:
            places = torch.arange(key.shape[2], device=key.device)
            query, key = rotate(query, packing.last[:, None, None] if last else places), rotate(key, places)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.config.hidden_dropout_prob if self.training else 0.0,
            is_causal=False,  # the mask says it
        )
        attended = attended.flatten(2)
        return self.output(attended.squeeze(1) if last else packing.pack(attended))


def rotate(vectors: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al., "RoFormer", arXiv 2104.09864): each pair of dimensions turned by its position's
    angle, so that products depend on distances alone.

    Args:
        vectors: `(B, heads, L, D / heads)`.
        places: `(L,)`, or `(B, 1, L)` where users' differ.
    """
    half = vectors.shape[-1] // 2
    frequencies = 10_000.0 ** (-torch.arange(half, device=vectors.device) / half)
    angles = places[..., None] * frequencies  # (L, half) or (B, 1, L, half)
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second, rest = vectors[..., :half], vectors[..., half : 2 * half], vectors[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def attention_mask_of(mask: torch.Tensor, dtype: torch.dtype, causal: bool = True) -> torch.Tensor:
    """Additive mask `(B, 1, L, L)`: a position sees real items, only up to itself if `causal`; a padded one itself."""
    L = mask.shape[1]
    visible = mask[:, None, :].expand(-1, L, -1)
    if causal:
        visible = visible & torch.ones(L, L, dtype=torch.bool, device=mask.device).tril()
    visible = visible | torch.eye(L, dtype=torch.bool, device=mask.device)  # (B, L, L)
    additive = torch.zeros(visible.shape, dtype=dtype, device=mask.device)
    return additive.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def positions_from_the_end(mask: torch.Tensor, num_positions: int) -> torch.Tensor:
    """Positions `(B, L)` that end at `num_positions - 1`, so that how much padding a batch has does not matter.

    >>> positions_from_the_end(torch.tensor([[False, True, True]]), num_positions=5)
    tensor([[3, 3, 4]])
    """
    num_remaining = mask.long().flip(1).cumsum(1).flip(1)  # this item and those after it
    return (num_positions - num_remaining).clamp(max=num_positions - 1)


class UserEncoder(nn.Module):
    """What all user encoders have."""

    reads_user_ids = False

    def forward(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Item vectors `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        raise NotImplementedError

    def last(self, item_vectors: torch.Tensor, packing: Packing, **inputs: torch.Tensor) -> torch.Tensor:
        """Item vectors `(B, L, D)`, oldest first, to the state at each user's last item `(B, D)`."""
        return packing.last_of(self(item_vectors, packing, **inputs))


class TransformerUserEncoder(UserEncoder):
    """Attention layers, `self.layers`; what comes before and after them is up to the class."""

    causal = True

    def embed(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Item vectors `(B, L, D)` to what the first layer reads `(M, D)`."""
        raise NotImplementedError

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """What comes after the last layer, `(…, D)` to the same."""
        return hidden

    def through(self, layers: nn.ModuleList, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """States `(M, D)` through layers, to the same."""
        if len(layers):
            attention_mask = attention_mask_of(packing.mask, hidden.dtype, self.causal)
        for layer in layers:
            hidden = layer(hidden, packing, attention_mask)
        return hidden

    def forward(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Item vectors `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        return packing.pad(self.finish(self.through(self.layers, self.embed(item_vectors, packing), packing)))

    def last(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """As in [`UserEncoder`]; the last layer has one query a user."""
        hidden = self.through(self.layers[:-1], self.embed(item_vectors, packing), packing)
        visible = torch.zeros(packing.mask.shape, dtype=hidden.dtype, device=hidden.device)
        visible = visible.masked_fill(~packing.mask, torch.finfo(hidden.dtype).min)[:, None, None]  # (B, 1, 1, L)
        states = self.finish(self.layers[-1](hidden, packing, visible, last=True))
        return states * packing.mask.any(dim=1)[:, None]


class SASRecLayer(GradientCheckpointingLayer):
    """Attention, then a feed-forward network of width `4 D` with ReLU; both residual and post-norm."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.up = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.down = nn.Linear(4 * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def forward(
        self, hidden: torch.Tensor, packing: Packing, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        attended = self.dropout(self.attention(hidden, packing, attention_mask, last))
        hidden = packing.last_of(packing.pad(hidden)) if last else hidden
        hidden = self.attention_norm(hidden + attended)
        return self.layer_norm(hidden + self.dropout(self.down(self.up(hidden).relu())))


class SASRecUserEncoder(TransformerUserEncoder):
    """SASRec (Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018), in the form of NineRec.

    Learned positions are counted from the end of the history, so that how much padding a batch has does not matter.
    """

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.num_positions = config.max_seq_len if self.causal else config.max_seq_len + 1
        self.position_embedding = nn.Embedding(self.num_positions, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList([SASRecLayer(config) for _ in range(config.num_hidden_layers)])

    def embed(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Items and their positions, `(M, D)`."""
        positions = self.position_embedding(packing.pack(positions_from_the_end(packing.mask, self.num_positions)))
        return self.dropout(self.layer_norm(packing.pack(item_vectors) + positions))


class BERT4RecUserEncoder(SASRecUserEncoder):
    """BERT4Rec (Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer", CIKM 2019), in the form of NineRec: SASRec's layers, looking at both sides.

    The mask is a learned vector of item vectors' kind, not a pseudo-item that goes through the backbone. Its positions
    are one more than a history's, for the mask that is appended to predict what comes next.
    """

    causal = False

    def __init__(self, config: TransRecConfig):
        super().__init__(config)
        self.mask_vector = nn.Parameter(torch.empty(config.hidden_size))


class NextItNetLayer(GradientCheckpointingLayer):
    """Two causal convolutions with dilations `d` and `2 d`, each with layer norm and ReLU, around a residual."""

    def __init__(self, config: TransRecConfig, dilation: int, kernel_size: int = 3):
        super().__init__()
        width = config.hidden_size
        self.paddings = [(kernel_size - 1) * d for d in (dilation, 2 * dilation)]
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(width, width, kernel_size, dilation=d) for d in (dilation, 2 * dilation)]
        )
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width, eps=LAYER_NORM_EPS) for _ in range(2)])

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inner = hidden
        for padding, convolution, layer_norm in zip(self.paddings, self.convolutions, self.layer_norms, strict=True):
            inner = (inner * mask[:, :, None]).transpose(1, 2)  # padding is silence, as before the first item
            inner = convolution(nn.functional.pad(inner, (padding, 0))).transpose(1, 2)
            inner = layer_norm(inner).relu()
        return hidden + inner


class NextItNetUserEncoder(UserEncoder):
    """NextItNet (Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019), in
    the form of NineRec: each layer is a block of dilation 1 and 2, then one of dilation 4 and 8."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            [NextItNetLayer(config, dilation) for _ in range(config.num_hidden_layers) for dilation in (1, 4)]
        )

    def forward(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Item vectors `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        hidden = self.dropout(item_vectors)
        for layer in self.layers:
            hidden = layer(hidden, packing.mask)
        return hidden


class GRU4RecLayer(GradientCheckpointingLayer):
    """One gated recurrent layer without biases."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.gru = nn.GRU(config.hidden_size, config.hidden_size, bias=False, batch_first=True)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # Zeros leave a zero state zero where there is no bias: padding on the left is not read.
        return self.gru(hidden * mask[:, :, None])[0]


class GRU4RecUserEncoder(UserEncoder):
    """GRU4Rec (Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016), in the form
    of NineRec: dropout, then recurrent layers without biases."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList([GRU4RecLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Item vectors `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        hidden = self.dropout(item_vectors)
        for layer in self.layers:
            hidden = layer(hidden, packing.mask)
        return hidden


class MLPLayer(GradientCheckpointingLayer):
    """Linear layer, GELU, dropout."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.dropout(nn.functional.gelu(self.linear(hidden)))


class MLP(nn.Module):
    """`num_hidden_layers` layers, then a linear one."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.layers = nn.ModuleList([MLPLayer(config) for _ in range(config.num_hidden_layers)])
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return self.output(hidden)


class DNNUserEncoder(UserEncoder):
    """The DSSM variant of NineRec (Table 13; after Huang et al., "Learning Deep Structured Semantic Models for Web
    Search using Clickthrough Data", CIKM 2013): a multi-layer perceptron over the mean of the history."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.mlp = MLP(config)

    def forward(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Item vectors `(B, L, D)`, oldest first, to states `(B, L, D)`."""
        mask = packing.mask
        count = mask.cumsum(1).clamp(min=1)[:, :, None]
        mean = (self.dropout(item_vectors) * mask[:, :, None]).cumsum(1) / count  # over the history up to each item
        return packing.pad(self.mlp(packing.pack(mean)))

    def last(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """As in [`UserEncoder`]; the perceptron sees one mean a user."""
        count = packing.mask.sum(dim=1, keepdim=True)
        mean = (self.dropout(item_vectors) * packing.mask[:, :, None]).sum(dim=1) / count.clamp(min=1)
        return self.mlp(mean) * (count > 0)


class DSSMUserEncoder(UserEncoder):
    """DSSM (Huang et al., CIKM 2013) with a user-id tower, NineRec's baseline of Table 13: the user is a row of a
    table, the history is not read. It serves only the users that it was trained on, and nothing of it transfers."""

    reads_user_ids = True

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.user_embedding = nn.Embedding(config.num_users, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.mlp = MLP(config)

    def forward(self, item_vectors: torch.Tensor, packing: Packing, user_ids: torch.Tensor) -> torch.Tensor:
        """Rows of the user-id table `(B,)` to states `(B, L, D)`, the same at every position."""
        user = self.mlp(self.dropout(self.user_embedding(user_ids)))  # (B, D)
        return user[:, None].expand(-1, packing.mask.shape[1], -1)


class LiGRLayer(GradientCheckpointingLayer):
    """Pre-norm attention with rotary positions and pre-norm SwiGLU, each behind a learned gate on its residual."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        width = config.hidden_size
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
        self, hidden: torch.Tensor, packing: Packing, attention_mask: torch.Tensor, last: bool = False
    ) -> torch.Tensor:
        attended = self.dropout(self.attention(self.attention_norm(hidden), packing, attention_mask, last))
        hidden = packing.last_of(packing.pad(hidden)) if last else hidden
        hidden = hidden + attended * self.attention_gate(hidden).sigmoid()
        inner = self.feed_forward_norm(hidden)
        inner = self.dropout(self.down(nn.functional.silu(self.gate(inner)) * self.up(inner)))
        return hidden + inner * self.feed_forward_gate(hidden).sigmoid()


class LiGRUserEncoder(TransformerUserEncoder):
    """A transformer of today's kind: the gated layers of LiGR (Borisyuk et al., "From Features to Transformers", arXiv
    2502.03417), as in eSASRec (Tikhonovich et al., arXiv 2508.06450), with rotary positions."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList([LiGRLayer(config) for _ in range(config.num_hidden_layers)])
        self.layer_norm = nn.RMSNorm(config.hidden_size, eps=LAYER_NORM_EPS)

    def embed(self, item_vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """The items alone, `(M, D)`."""
        return self.dropout(packing.pack(item_vectors))

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last norm of a pre-norm transformer."""
        return self.layer_norm(hidden)


USER_ENCODERS = {
    "sasrec": SASRecUserEncoder,
    "bert4rec": BERT4RecUserEncoder,
    "nextitnet": NextItNetUserEncoder,
    "gru4rec": GRU4RecUserEncoder,
    "dnn": DNNUserEncoder,
    "dssm": DSSMUserEncoder,
    "ligr": LiGRUserEncoder,
}


def build_user_encoder(config: TransRecConfig) -> nn.Module:
    """The user encoder that the configuration asks for."""
    if config.user_encoder_type not in USER_ENCODERS:
        raise ValueError(
            f"user_encoder_type={config.user_encoder_type!r} is unknown; choose from "
            f"{', '.join(map(repr, USER_ENCODERS))}"
        )
    return USER_ENCODERS[config.user_encoder_type](config)
