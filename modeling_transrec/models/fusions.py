"""Fusions: the embeddings or tokens of an item's text, image and audio, or of its content and id, to one embedding.

Shapes: `U` distinct items, `S` tokens (of a text, an image or a sound), `D` hidden size.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from .pooling import mean_pooling


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


class Fusion(nn.Module):
    """Base of the fusions.

    Args:
        config: the model's.
        count: number of embeddings, at least 2.

    Attributes:
        reads_tokens: Whether it reads the contents' tokens, not one embedding of each.
        reads_presence: Whether it is told which items have each content; what an item lacks then has no learned
            embedding in its place, but zeros.
        reads_ids: Whether it reads the id, too, and makes a view of each content and one of the id, side by side.
        keeps_widths: Whether each embedding keeps a width of its own, of which the result's is the sum; `scales` are
            then the embeddings' lengths in it.
    """

    reads_tokens: ClassVar[bool] = False
    reads_presence: ClassVar[bool] = False
    reads_ids: ClassVar[bool] = False
    keeps_widths: ClassVar[bool] = False

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__()


class SumFusion(Fusion):
    """Adds the embeddings. To be chosen first: it has no weights, and is hard to beat. Arguments as in [`Fusion`]."""

    def forward(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        """Fuses several `(U, D)` to one."""
        total = embeddings[0]
        for embedding in embeddings[1:]:
            total = total + embedding
        return total


class MixtureFusion(Fusion):
    """Takes the mean of those embeddings whose content an item has: its text's, its image's, or both.

    To be chosen for catalogues in which some items have only a text and others only an image: no learned vector stands
    for what an item lacks. An item that has nothing is zero. Arguments as in [`Fusion`].

    Paper: Wang et al., "TransRec: Learning Transferable Recommendation from Mixture-of-Modality Feedback", APWeb-WAIM
    2024, whose items have one content each, and whose user encoder may be told which.

    Example:

    >>> from modeling_transrec import TransRecConfig
    >>> fusion = MixtureFusion(TransRecConfig(num_items=1), count=2)
    >>> text, image = torch.tensor([[2.0], [2.0]]), torch.tensor([[4.0], [0.0]])
    >>> fusion([text, image], [None, torch.tensor([True, False])])
    tensor([[3.],
            [2.]])
    """

    reads_presence = True

    def forward(self, embeddings: list[torch.Tensor], presence: list[torch.Tensor | None]) -> torch.Tensor:
        """Fuses several `(U, D)` to one.

        Args:
            embeddings: `(U, D)` each.
            presence: of each content `(U,)`, true where an item has it; `None` if all have.
        """
        is_there = torch.stack(
            [torch.ones_like(embeddings[0][:, 0], dtype=torch.bool) if one is None else one for one in presence]
        )[:, :, None]  # (count, U, 1)
        total = (torch.stack(embeddings) * is_there).sum(dim=0)
        return total / is_there.sum(dim=0).clamp(min=1)


class ConcatFusion(Fusion):
    """Maps the embeddings, one after the other, by a linear layer. Arguments as in [`Fusion`]."""

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__(config, count)
        self.linear = nn.Linear(count * config.width, config.width)

    def forward(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        """Fuses several `(U, D)` to one."""
        return self.linear(torch.cat(embeddings, dim=-1))


class WeightedConcatFusion(Fusion):
    """Lays the embeddings side by side, so that a dot product is the weighted mean of theirs.

    It learns nothing, and keeps what each content says of likeness; the weights are `config.fusion_weights`, equal by
    default. Arguments as in [`Fusion`].
    """

    keeps_widths = True

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__(config, count)
        weights = config.fusion_weights or [1.0] * count
        if len(weights) != count or min(weights) < 0 or not sum(weights):
            raise ValueError(f"fusion_weights must be {count} numbers from 0 on, one a content, got {weights}")
        self.scales = [(weight / sum(weights)) ** 0.5 for weight in weights]

    def forward(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        """Fuses `(U, D1)`, `(U, D2)`, … to `(U, D1 + D2 + …)`."""
        return torch.cat([one * scale for one, scale in zip(embeddings, self.scales, strict=True)], dim=-1)


class GatedFusion(Fusion):
    """Mixes the embeddings with learned weights, for each dimension (Arevalo et al., "Gated Multimodal Units", ICLR
    workshop 2017). For items whose content is of uneven worth. Arguments as in [`Fusion`]."""

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__(config, count)
        self.gate = nn.Linear(count * config.width, (count - 1) * config.width)

    def forward(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        """Fuses several `(U, D)` to one; of two, the weights are a sigmoid and its complement."""
        stacked = torch.stack(embeddings)  # (count, U, D)
        scores = torch.stack(self.gate(torch.cat(embeddings, dim=-1)).chunk(len(embeddings) - 1, dim=-1))
        weights = torch.cat([scores, torch.zeros_like(scores[:1])]).softmax(dim=0)
        return (weights * stacked).sum(dim=0)


class FilmFusion(Fusion):
    """Lets the first embedding, the text's, scale and shift each other one (Perez et al., "FiLM", AAAI 2018), and adds
    those up. Arguments as in [`Fusion`]."""

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__(config, count)
        self.scale_and_shift = nn.Linear(config.width, 2 * (count - 1) * config.width)

    def forward(self, embeddings: list[torch.Tensor]) -> torch.Tensor:
        """Fuses several `(U, D)` to one."""
        first, *others = embeddings
        scales, shifts = self.scale_and_shift(first).chunk(2, dim=-1)
        parts = zip(others, scales.chunk(len(others), dim=-1), shifts.chunk(len(others), dim=-1), strict=True)
        return torch.stack([(1 + scale) * other + shift for other, scale, shift in parts]).sum(dim=0)


class CoAttentionFusion(Fusion):
    """Lets the tokens of each modality attend to those of all others (Lu et al., "ViLBERT", NeurIPS 2019); they are
    averaged, and the averages added. Arguments as in [`Fusion`]."""

    reads_tokens = True

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__(config, count)
        self.layers = nn.ModuleList(AttentionLayer(config) for _ in range(count))

    def forward(self, tokens: list[torch.Tensor], masks: list[torch.Tensor]) -> torch.Tensor:
        """Fuses token vectors `(U, S, D)` and masks `(U, S)` of each modality to `(U, D)`."""
        parts = []
        for place, layer in enumerate(self.layers):
            others = [other for other in range(len(tokens)) if other != place]
            context = torch.cat([tokens[other] for other in others], dim=1)
            context_mask = torch.cat([masks[other] for other in others], dim=1)
            parts.append(mean_pooling(layer(tokens[place], context, context_mask), masks[place]))
        return torch.stack(parts).sum(dim=0)


class MergedAttentionFusion(Fusion):
    """Lets the tokens of all modalities attend to one another (Dou et al., "METER", CVPR 2022), and averages them.
    Arguments as in [`Fusion`]."""

    reads_tokens = True

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__(config, count)
        self.layer = AttentionLayer(config)

    def forward(self, tokens: list[torch.Tensor], masks: list[torch.Tensor]) -> torch.Tensor:
        """Fuses token vectors `(U, S, D)` and masks `(U, S)` of each modality to `(U, D)`."""
        merged, mask = torch.cat(tokens, dim=1), torch.cat(masks, dim=1)
        return mean_pooling(self.layer(merged, merged, mask), mask)


class IdAwareFusion(Fusion):
    """Lets the tokens of all contents attend to one another, and the id to all of them: ODMT's ID-aware transformer.

    Choose it, with `loss_type="distilled_in_batch"`, for a known platform whose ids, texts and images should each
    learn from the others. The contents never see the id. Each content and the id give a view of their own, which a
    user encoder of its own reads; the score is the mean of the views' scores. It needs `num_items`, and a
    `hidden_size` that the views divide. Ids do not transfer, and no view can do without them.

    Paper: Ji et al., "Online Distillation-enhanced Multi-modal Transformer for Sequential Recommendation" (ODMT), ACM
    MM 2023.
    A content's view is the mean of its tokens, theirs the first one, which not every backbone has.

    Arguments as in [`Fusion`]; `count` contents may be a single one.
    """

    reads_tokens = True
    reads_ids = True

    def __init__(self, config: "TransRecConfig", count: int):
        super().__init__(config, count)
        width = config.width // (count + 1)
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(IdAwareLayer(config, width) for _ in range(2))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width)) for _ in range(count + 1)
        )

    def forward(self, tokens: list[torch.Tensor], masks: list[torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        """Fuses token vectors `(U, S, D / views)`, their masks `(U, S)` and ids `(U, D / views)` to `(U, D)`."""
        hidden = torch.cat([*tokens, ids[:, None]], dim=1)
        mask = nn.functional.pad(torch.cat(masks, dim=1), (0, 1), value=True)
        is_id = torch.arange(hidden.shape[1], device=hidden.device) == hidden.shape[1] - 1
        visible = mask[:, None] & (~is_id | is_id[:, None])  # (U, S + 1, S + 1): only the id sees the id
        hidden = self.dropout(self.layer_norm(hidden))
        for layer in self.layers:
            hidden = layer(hidden, visible)
        parts = hidden[:, :-1].split([one.shape[1] for one in tokens], dim=1)
        views = [mean_pooling(part, its_mask) for part, its_mask in zip(parts, masks, strict=True)]
        pairs = zip(self.heads, [*views, hidden[:, -1]], strict=True)
        return torch.cat([head(view) for head, view in pairs], dim=-1)


class IdAwareLayer(nn.Module):
    """Attention, then a feed-forward network of width `4 D` with ReLU; both residual and post-norm."""

    def __init__(self, config: "TransRecConfig", width: int):
        super().__init__()
        self.attention = AttentionLayer(config, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Maps tokens `(U, S, D)`, and which of them each one sees `(U, S, S)`, to `(U, S, D)`."""
        hidden = self.attention(hidden, hidden, visible)
        return self.layer_norm(hidden + self.dropout(self.down(self.up(hidden).relu())))


class AttentionLayer(nn.Module):
    """Attends from queries to a context; then come the residual and a layer norm.

    Args:
        config: the model's.
        width: `D`; by default that of the item embeddings.
    """

    def __init__(self, config: "TransRecConfig", width: int | None = None):
        super().__init__()
        width = config.width if width is None else width
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.hidden_dropout_prob
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, queries: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor) -> torch.Tensor:
        """Maps queries `(U, T, D)`, a context `(U, S, D)` and its mask `(U, S)` or `(U, T, S)` to `(U, T, D)`."""
        if context_mask.ndim == 2:
            context_mask = context_mask[:, None]
        query, key, value = (
            projection(values).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (U, heads, tokens, D / heads)
            for projection, values in ((self.query, queries), (self.key, context), (self.value, context))
        )
        attended = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=context_mask[:, None],
            dropout_p=self.dropout_prob if self.training else 0.0,
        )
        return self.layer_norm(queries + self.output(attended.transpose(1, 2).flatten(2)))


FUSIONS: dict[str, type[Fusion]] = {
    "sum": SumFusion,
    "concat": ConcatFusion,
    "weighted_concat": WeightedConcatFusion,
    "mixture": MixtureFusion,
    "gated": GatedFusion,
    "film": FilmFusion,
    "co_attention": CoAttentionFusion,
    "merged_attention": MergedAttentionFusion,
    "id_aware": IdAwareFusion,
}
