"""Fusions: the vectors or tokens of an item's text and picture, or of its content and id, to one vector.

Shapes: `U` distinct items, `T` text tokens, `S` tokens of a picture, `D` hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .pooling import mean_pooling


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


class SumFusion(nn.Module):
    """Text vector plus image vector."""

    reads_tokens = False

    def __init__(self, config: TransRecConfig):
        super().__init__()

    def forward(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Two `(U, D)` to one."""
        return text + image


class ConcatFusion(nn.Module):
    """A linear layer over both vectors, one after the other."""

    reads_tokens = False

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.linear = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Two `(U, D)` to one."""
        return self.linear(torch.cat([text, image], dim=-1))


class GatedFusion(nn.Module):
    """Per dimension a learned mixture of both (Arevalo et al., "Gated Multimodal Units", ICLR workshop 2017)."""

    reads_tokens = False

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.gate = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Two `(U, D)` to one."""
        gate = self.gate(torch.cat([text, image], dim=-1)).sigmoid()
        return gate * text + (1 - gate) * image


class FilmFusion(nn.Module):
    """The text scales and shifts the image vector (Perez et al., "FiLM", AAAI 2018)."""

    reads_tokens = False

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.scale_and_shift = nn.Linear(config.hidden_size, 2 * config.hidden_size)

    def forward(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Two `(U, D)` to one."""
        scale, shift = self.scale_and_shift(text).chunk(2, dim=-1)
        return (1 + scale) * image + shift


class CoAttentionFusion(nn.Module):
    """Text tokens attend to the picture's and the other way round (Lu et al., "ViLBERT", NeurIPS 2019); both are
    averaged and added."""

    reads_tokens = True

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.text_to_image = AttentionLayer(config)
        self.image_to_text = AttentionLayer(config)

    def forward(self, text, text_mask, image, image_mask) -> torch.Tensor:
        """Token vectors `(U, T, D)` and `(U, S, D)` and their masks to `(U, D)`."""
        new_text = self.text_to_image(text, image, image_mask)
        new_image = self.image_to_text(image, text, text_mask)
        return mean_pooling(new_text, text_mask) + mean_pooling(new_image, image_mask)


class MergedAttentionFusion(nn.Module):
    """One attention over the tokens of both (Dou et al., "METER", CVPR 2022), averaged."""

    reads_tokens = True

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.layer = AttentionLayer(config)

    def forward(self, text, text_mask, image, image_mask) -> torch.Tensor:
        """Token vectors `(U, T, D)` and `(U, S, D)` and their masks to `(U, D)`."""
        tokens, mask = torch.cat([text, image], dim=1), torch.cat([text_mask, image_mask], dim=1)
        return mean_pooling(self.layer(tokens, tokens, mask), mask)


class AttentionLayer(nn.Module):
    """Attention from queries to a context, residual and layer norm."""

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.hidden_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, queries: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor) -> torch.Tensor:
        """Queries `(U, T, D)`, context `(U, S, D)` and its mask `(U, S)` to `(U, T, D)`."""
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


FUSIONS = {
    "sum": SumFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "film": FilmFusion,
    "co_attention": CoAttentionFusion,
    "merged_attention": MergedAttentionFusion,
}
