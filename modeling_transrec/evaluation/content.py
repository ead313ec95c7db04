"""Content kNN: recommends what is like the history, by features of a frozen backbone; nothing is trained.

A catalogue's features are partly whitened, see [`~models.whitening`], by statistics of its own, stored with it. A
model with `item_projection="whitened"` and a `history_decay` starts as content kNN.

Shapes: `V` catalogue items, `H` width of a modality's features, `D` width of the item embeddings, `B` users, `L`
history length.
"""

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import nn

from ..models.whitening import Whitening, decayed_history, unit_length


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
        self.config = SimpleNamespace(max_seq_len=max_seq_len, width=sum(map(len, self.means)))
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
        parts = [
            whitening(features[name], present.get(name)) * self.weights[name] ** 0.5
            for name, whitening in self.whitenings.items()
        ]
        return torch.cat(parts, dim=1)

    def get_user_features(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Maps item embeddings of histories `(B, L, D)` and their mask `(B, L)` to user embeddings `(B, D)`."""
        sums = decayed_history(embeddings, mask, self.history_decay)
        if not self.whitenings:  # nothing is known of the items
            return sums
        parts = zip(sums.split([len(mean) for mean in self.means], dim=1), self.weights.values(), strict=True)
        return torch.cat([unit_length(part) * weight**0.5 for part, weight in parts], dim=1)

    def to_scoring_space(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings as they are: their dot products are the scores."""
        return vectors
