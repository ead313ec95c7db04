"""Content kNN: recommends what is like the history, by features of a frozen backbone; nothing is trained.

A backbone's features share a common direction and a few strong axes, which say little about how items differ. Centring
them and dividing their principal axes by a power of the standard deviation ("partial whitening") takes both out; the
mean and the axes are the catalogue's own, and are stored with it (Su et al., "Whitening Sentence Representations for
Better Semantics and Faster Retrieval", 2021; for recommendation Zhang et al., "Are ID Embeddings Necessary? Whitening
Pre-trained Text Embeddings for Effective Sequential Recommendation", ICDE 2024).

Shapes: `V` catalogue items, `H` width of a modality's features, `D` width of the item embeddings, `B` users, `L`
history length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


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
    def fit(cls, features: torch.Tensor, power: float = 0.75, has_content: torch.Tensor | None = None) -> "Whitening":
        """The statistics of a catalogue.

        Args:
            features: `(V, H)`.
            power: see [`Whitening`].
            has_content: `(V,)`, false where an item has no content, which then has no part in the statistics.
        """
        if not 0 <= power <= 1:
            raise ValueError(f"power must be between 0 and 1, got {power}")
        known = (features if has_content is None else features[has_content]).double()
        if len(known) == 0:
            raise ValueError("no item has any content, so there is nothing to compare items by")
        mean = known.mean(dim=0)
        centred = known - mean
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(known))
        # Axes along which the catalogue does not differ are left as they are: dividing by nothing would blow up noise.
        deviations = variances.clamp(min=0).sqrt()
        varies = deviations > 1e-5 * deviations[-1]
        divisors = torch.where(varies, deviations.clamp(min=1e-30) ** power, deviations[-1].clamp(min=1e-30) ** power)
        matrix = (axes / divisors) @ axes.T
        return cls(mean.float(), matrix.float(), power)

    def __call__(self, features: torch.Tensor, has_content: torch.Tensor | None = None) -> torch.Tensor:
        """Features `(V, H)` to vectors `(V, H)` of length 1; of an item without content to zeros."""
        vectors = F.normalize((features.float() - self.mean) @ self.matrix, dim=1)
        return vectors if has_content is None else vectors * has_content[:, None]


def decayed_history(embeddings: torch.Tensor, mask: torch.Tensor, decay: float) -> torch.Tensor:
    """Histories `(B, L, D)` and their mask `(B, L)` to sums `(B, D)`; each step back from the end weighs less.

    >>> import torch
    >>> decayed_history(torch.tensor([[[1.0], [1.0], [1.0]]]), torch.tensor([[False, True, True]]), decay=0.5)
    tensor([[1.5]])
    """
    steps = mask.flip(1).cumsum(1).flip(1) - 1  # of the items, counted from the last one
    weights = torch.where(mask, decay ** steps.to(embeddings.dtype), 0)
    return torch.einsum("bl,bld->bd", weights, embeddings)


class ContentKNN(nn.Module):
    """
    Item embeddings from the features of one or more modalities, and user embeddings as decayed sums of them.

    Each modality is whitened by itself; its vectors lie side by side, so that a score is the weighted sum of the
    modalities' cosines (late fusion). Items and users that lack a modality score nothing by it. To a
    [`~scoring.CatalogueScorer`] it is a model.

    Args:
        whitenings: by modality; without any, all items score the same.
        weights: of the modalities, by default equal; their sum is made 1.
        history_decay: what an item of the history weighs for each step back from its end.
        max_seq_len: how many items of the history are read, counted from its end.

    Example:

    >>> import torch
    >>> features = {"text": torch.tensor([[2.0, 0.0], [2.0, 0.5], [0.0, 2.0], [0.5, 2.0]])}
    >>> knn = ContentKNN.fit(features)
    >>> items = knn.embed_items(features)
    >>> user = knn.get_user_features(items[torch.tensor([[2]])], torch.tensor([[True]]))
    >>> (user @ items.T).argsort(descending=True)
    tensor([[2, 3, 0, 1]])
    """

    def __init__(
        self,
        whitenings: Mapping[str, Whitening],
        weights: Mapping[str, float] | None = None,
        history_decay: float = 0.7,
        max_seq_len: int = 50,
    ):
        super().__init__()
        if not 0 < history_decay <= 1:
            raise ValueError(f"history_decay must be above 0 and at most 1, got {history_decay}")
        weights = dict(weights or dict.fromkeys(whitenings, 1.0))
        known = set(weights) == set(whitenings) and min(weights.values(), default=0) >= 0
        if not known or (whitenings and not sum(weights.values())):
            raise ValueError(f"weights must be one of at least 0 for each of {', '.join(whitenings)}, got {weights}")
        self.whitenings = dict(whitenings)
        self.weights = {name: weights[name] / sum(weights.values()) for name in self.whitenings}
        self.history_decay = history_decay
        self.config = SimpleNamespace(max_seq_len=max_seq_len, hidden_size=sum(map(len, self.means)))
        self.device = self.means[0].device if whitenings else torch.device("cpu")
        self.dtype = torch.float32

    @property
    def means(self) -> list[torch.Tensor]:
        """The modalities' means, of the width of their features."""
        return [whitening.mean for whitening in self.whitenings.values()]

    @classmethod
    def fit(
        cls,
        features: Mapping[str, torch.Tensor],
        has_content: Mapping[str, torch.Tensor] | None = None,
        power: float = 0.75,
        **options,
    ) -> "ContentKNN":
        """Takes the catalogue's statistics.

        Args:
            features: `(V, H)` by modality.
            has_content: `(V,)` by modality, false where an item lacks it; by default every item has all.
            power: of the whitening.
            options: `weights`, `history_decay`, `max_seq_len`, see [`ContentKNN`].
        """
        present = has_content or {}
        whitenings = {name: Whitening.fit(values, power, present.get(name)) for name, values in features.items()}
        return cls(whitenings, **options)

    def embed_items(
        self, features: Mapping[str, torch.Tensor], has_content: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Features `(V, H)` by modality to item embeddings `(V, D)`."""
        present = has_content or {}
        return torch.cat(
            [
                whitening(features[name], present.get(name)) * self.weights[name] ** 0.5
                for name, whitening in self.whitenings.items()
            ],
            dim=1,
        )

    def get_user_features(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Item embeddings of histories `(B, L, D)` and their mask `(B, L)` to user embeddings `(B, D)`."""
        sums = decayed_history(embeddings, mask, self.history_decay)
        if not self.whitenings:  # nothing is known of the items
            return sums
        parts = zip(sums.split([len(mean) for mean in self.means], dim=1), self.weights.values(), strict=True)
        return torch.cat([F.normalize(part, dim=1) * weight**0.5 for part, weight in parts], dim=1)

    def to_scoring_space(self, vectors: torch.Tensor) -> torch.Tensor:
        """Dot products are the scores as they are."""
        return vectors
