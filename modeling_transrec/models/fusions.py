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
        keeps_widths: Whether each embedding keeps a width of its own, of which the result's is the sum; `scales` are
            then the embeddings' lengths in it.
    """

    reads_tokens: ClassVar[bool] = False
    reads_presence: ClassVar[bool] = False
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


class AttentionLayer(nn.Module):
    """Attends from queries to a context; then come the residual and a layer norm."""

    def __init__(self, config: "TransRecConfig"):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.hidden_dropout_prob
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(self, queries: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor) -> torch.Tensor:
        """Maps queries `(U, T, D)`, a context `(U, S, D)` and its mask `(U, S)` to `(U, T, D)`."""
        query, key, value = (
            projection(values).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (U, heads, tokens, D / heads)
            for projection, values in ((self.query, queries), (self.key, context), (self.value, context))
        )
        attended = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=context_mask[:, None, None],
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
}
