"""From a backbone's features to item embeddings, and what stands for content that an item lacks.

Shapes: `U` distinct items of the batch, `P` of them that have the content, `S` tokens (of a text, an image or a
sound), `D` hidden size, `H` width of a backbone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


def linear_gelu(width: int, hidden_size: int) -> nn.Module:
    """Returns a linear layer with GELU, from `(…, H)` to `(…, D)`: NineRec's (arXiv 2309.07705)."""
    return nn.Sequential(nn.Linear(width, hidden_size), nn.GELU())


# Name → what makes the map from features of width `H` to embeddings of width `D`.
# "linear" keeps the features' geometry, which the cosine of `normalize_scores` reads; "gelu" is the paper's.
PROJECTIONS: dict[str, Callable[[int, int], nn.Module]] = {"gelu": linear_gelu, "linear": nn.Linear}


class Projection(nn.Module):
    """Maps a backbone's features to item embeddings by the configuration's row of [`PROJECTIONS`].

    An item without the content has a learned embedding in its place.

    Args:
        width: `H` of the features.
        config: with the hidden size `D` and `item_projection`.
        has_missing: whether items may lack the content.
    """

    def __init__(self, width: int, config: "TransRecConfig", has_missing: bool = True):
        super().__init__()
        self.layers = PROJECTIONS[config.item_projection](width, config.hidden_size)
        self.missing = nn.Parameter(torch.zeros(config.hidden_size)) if has_missing else None

    def init_own_weights(self) -> None:
        """Draws the missing embedding from a generator of its own, so that the other weights do not depend on it."""
        if self.missing is not None:
            drawn = torch.randn(len(self.missing), generator=torch.Generator().manual_seed(0))
            init.copy_(self.missing, 0.02 * drawn)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Maps `(…, H)` of any precision, as precomputed features may have, to `(…, D)`."""
        return self.layers(features.to(self.dtype))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def forward(self, features: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Maps features `(P, H)` to the embeddings of items `(U, D)`.

        Args:
            features: `(P, H)`.
            index: `(U,)` index of each item's features, -1 where it has none; by default each has its own, in order.
        """
        embeddings = self.project(features)
        if index is None:
            return embeddings
        table = torch.cat([embeddings, self.missing.to(embeddings.dtype)[None]])
        return F.embedding(index % len(table), table)  # -1 is the last: the missing one

    def tokens(
        self, hidden: torch.Tensor, mask: torch.Tensor, index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps token vectors `(P, S, H)` and their mask `(P, S)` to those of items, `(U, S, D)` and `(U, S)`.

        Missing content is a single token, the learned embedding.
        """
        tokens = self.project(hidden)
        if index is None:
            return tokens, mask
        absent = F.pad(self.missing.to(tokens.dtype)[None, None], (0, 0, 0, tokens.shape[1] - 1))
        absent_mask = torch.arange(tokens.shape[1], device=mask.device)[None] == 0
        index = index % (len(tokens) + 1)
        return torch.cat([tokens, absent]).index_select(0, index), torch.cat([mask, absent_mask])[index]
