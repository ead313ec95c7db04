"""Partial whitening of a catalogue's features, and histories as decayed sums: what content kNN is made of.

A backbone's features share a common direction and a few strong axes, which say little about how items differ. Centring
them and dividing their principal axes by a power of the standard deviation ("partial whitening") takes both out (Su et
al., "Whitening Sentence Representations for Better Semantics and Faster Retrieval", 2021; for recommendation Zhang et
al., "Are ID Embeddings Necessary? Whitening Pre-trained Text Embeddings for Effective Sequential Recommendation", ICDE
2024). Mean and axes are a catalogue's own: on another one they are computed anew.

Shapes: `V` catalogue items, `P` of them that have the content, `H` width of a backbone's features, `D` of the item
embeddings, `B` users, `L` history length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass
class Moments:
    """Sums over a catalogue's features, from which mean and axes follow; those of parts of a catalogue add up.

    Args:
        count: number of items that have the content.
        total: `(H,)` their sum, float64.
        products: `(H, H)` the sum of their outer products, float64.
    """

    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> Moments:
        """Returns those of features `(P, H)`."""
        known = features.double().cpu()
        return cls(len(known), known.sum(dim=0), known.T @ known)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def axes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns the mean `(H,)`, the standard deviations along the principal axes `(H,)`, ascending, and these axes,
        the columns of `(H, H)`; all float64.

        Raises:
            ValueError: if there is no item.
        """
        if self.count == 0:
            raise ValueError("no item has any content, so there is nothing to compare items by")
        mean = self.total / self.count
        variances, axes = torch.linalg.eigh(self.products / self.count - mean[:, None] * mean)
        return mean, variances.clamp(min=0).sqrt(), axes


@dataclass
class Whitening:
    """A catalogue's mean and axes for the features of one modality.

    Args:
        mean: `(H,)`.
        matrix: `(H, H)`, symmetric: rotates to the principal axes, divides them, and rotates back.
        power: of the standard deviations that the axes are divided by: 0 only centres, 1 whitens.

    Example:

    >>> import torch
    >>> features = torch.tensor([[3.0, 1.0], [1.0, 1.0], [2.0, 1.1], [2.0, 0.9]])
    >>> Whitening.fit(features, power=1.0)(features)
    tensor([[ 1.0,  0.0],
            [-1.0,  0.0],
            [ 0.0,  1.0],
            [ 0.0, -1.0]])
    """

    mean: torch.Tensor
    matrix: torch.Tensor
    power: float

    @classmethod
    def fit(cls, features: torch.Tensor, power: float = 0.75, has_content: torch.Tensor | None = None) -> Whitening:
        """Takes the statistics of a catalogue.

        Args:
            features: `(V, H)`.
            power: see [`Whitening`].
            has_content: `(V,)`, false where an item has no content, which then has no part in the statistics.
        """
        return cls.of(Moments.of(features if has_content is None else features[has_content]), power)

    @classmethod
    def of(cls, moments: Moments, power: float) -> Whitening:
        """Returns the whitening by a catalogue's moments."""
        if not 0 <= power <= 1:
            raise ValueError(f"power must be between 0 and 1, got {power}")
        mean, deviations, axes = moments.axes()
        # Axes along which the catalogue does not differ, or by less than float32 features resolve, are left as they
        # are: dividing by nothing would blow up noise.
        varies = deviations > 1e-5 * max(deviations[-1], torch.linalg.vector_norm(mean))
        divisors = torch.where(varies, deviations, deviations[-1]).clamp(min=1e-30) ** power
        return cls(mean.float(), ((axes / divisors) @ axes.T).float(), power)

    def __call__(self, features: torch.Tensor, has_content: torch.Tensor | None = None) -> torch.Tensor:
        """Maps features `(V, H)` to vectors `(V, H)` of length 1, those of an item without content to zeros."""
        vectors = unit_length((features.float() - self.mean) @ self.matrix)
        return vectors if has_content is None else vectors * has_content[:, None]


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Divides vectors `(…, D)` by their length; a vector of zeros stays one, and its gradient is finite.

    >>> import torch
    >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.where(length > 0, 1)


def scale_segments(vectors: torch.Tensor, segments: Sequence[tuple[int, float]]) -> torch.Tensor:
    """Scales each segment of vectors `(…, D)` to its own L2 norm; a segment of zeros stays zero, see [`unit_length`].

    Args:
        vectors: segments lie side by side along `D`.
        segments: width and norm of each segment.

    >>> import torch
    >>> scale_segments(torch.tensor([[3.0, 4.0, 7.0], [0.0, 2.0, 0.0]]), [(2, 1.0), (1, 0.5)])
    tensor([[0.6000, 0.8000, 0.5000],
            [0.0000, 1.0000, 0.0000]])
    """
    parts = zip(vectors.split([width for width, _ in segments], dim=-1), segments, strict=True)
    return torch.cat([unit_length(part) * norm for part, (_, norm) in parts], dim=-1)


def decayed_history(embeddings: torch.Tensor, mask: torch.Tensor, decay: float) -> torch.Tensor:
    """Sums histories `(B, L, D)` with their mask `(B, L)` to `(B, D)`; each step back from the last item weighs less.

    >>> import torch
    >>> decayed_history(torch.tensor([[[1.0], [1.0], [1.0]]]), torch.tensor([[False, True, True]]), decay=0.5)
    tensor([[1.5]])
    """
    last = mask.long().cumsum(1).argmax(1)  # counted from the row's end, short prefixes of long rows would vanish
    steps = (last[:, None] - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0)
    weights = mask * decay ** steps.to(embeddings.dtype)
    return torch.einsum("bl,bld->bd", weights, embeddings)


def decayed_histories(embeddings: torch.Tensor, mask: torch.Tensor, decay: float) -> torch.Tensor:
    """Sums histories `(B, L, D)` up to each position, `(B, L, D)`; see [`decayed_history`].

    >>> import torch
    >>> decayed_histories(torch.ones(1, 3, 1), torch.tensor([[False, True, True]]), decay=0.5).flatten()
    tensor([0.0000, 1.0000, 1.5000])
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    steps = positions[:, None] - positions  # back from each position
    weights = torch.where(steps >= 0, decay ** steps.clamp(min=0).to(embeddings.dtype), 0)  # (L, L)
    return weights @ (embeddings * mask[:, :, None])
