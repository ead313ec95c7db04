"""Base of the maps from a backbone's features to item embeddings."""

from typing import ClassVar

from torch import nn


class ItemProjection(nn.Module):
    """Base of the rows of [`PROJECTIONS`], from features `(…, H)` to embeddings `(…, D)`.

    A subclass is made of `H`, `D` and the model's configuration.

    Attributes:
        starts_at_content: Whether the features' cosines are kept at first, see [`WhitenedProjection`].
        quantises: Whether it needs a quantiser of its first catalogue, and gives the backbone no gradient, see
            [`CodesProjection`].
        options: Fields of the configuration that it reads.
    """

    starts_at_content: ClassVar[bool] = False
    quantises: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
