"""Layers whose weights start at zero, so that they change nothing at first."""

from torch import nn
from transformers import initialization as init


class LinearFromZero(nn.Linear):
    """A linear layer without bias, whose weights start from zero: a residual that changes nothing at first."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def init_own_weights(self) -> None:
        """Sets the weights to zero."""
        init.zeros_(self.weight)


class EmbeddingFromZero(nn.Embedding):
    """A table of embeddings that start at zero, so that they change nothing at first."""

    def init_own_weights(self) -> None:
        """Sets the weights to zero."""
        init.zeros_(self.weight)
