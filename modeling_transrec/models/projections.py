"""From a backbone's features to item embeddings, and what stands for content that an item lacks.

Shapes: `U` distinct items of the batch, `P` of them that have the content, `S` tokens (of a text, an image or a
sound), `D` hidden size, `H` width of a backbone.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .whitening import Moments, Whitening, unit_length


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


class LinearGelu(nn.Sequential):
    """A linear layer with GELU, from `(…, H)` to `(…, D)`: NineRec's (arXiv 2309.07705).

    Args:
        width: `H`.
        hidden_size: `D`.
        config: the model's.
    """

    starts_at_content = False  # whether the features' cosines are kept at first, see [`WhitenedProjection`]

    def __init__(self, width: int, hidden_size: int, config: "TransRecConfig"):
        super().__init__(nn.Linear(width, hidden_size), nn.GELU())


class LinearProjection(nn.Linear):
    """A linear layer, which keeps the features' geometry for `normalize_scores`. Arguments as in [`LinearGelu`]."""

    starts_at_content = False

    def __init__(self, width: int, hidden_size: int, config: "TransRecConfig"):
        super().__init__(width, hidden_size)


class LinearFromZero(nn.Linear):
    """A linear layer without bias, whose weights start from zero: a residual that changes nothing at first."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def init_own_weights(self) -> None:
        """Sets the weights to zero."""
        init.zeros_(self.weight)


class WhitenedProjection(nn.Module):
    """Whitens features by the statistics of their catalogue, and adds a linear residual that starts from zero.

    An untrained model then compares items as content kNN does. Mean and axes belong to a catalogue: they are computed
    whenever one is encoded, in training for its own, and saved with the model. Until a catalogue is known, features
    are taken as they are. If `D` is less than `H`, the leading principal axes of the first catalogue are kept, for all
    later ones, too.

    Args:
        width: `H`.
        hidden_size: `D`, at most `H`.
        config: the model's, with `whitening_power`.
    """

    starts_at_content = True

    mean: torch.Tensor
    matrix: torch.Tensor
    basis: torch.Tensor | None

    def __init__(self, width: int, hidden_size: int, config: "TransRecConfig"):
        super().__init__()
        if hidden_size > width:
            raise ValueError(
                f"item_projection='whitened' keeps at most the {width} axes of the backbone's features; "
                f"hidden_size={hidden_size} asks for more: leave it out, or give less"
            )
        self.power = config.whitening_power
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width, hidden_size))
        self.register_buffer("basis", None if hidden_size == width else torch.zeros(width, hidden_size))
        self.residual = LinearFromZero(hidden_size, hidden_size)

    def init_own_weights(self) -> None:
        """Sets the statistics to those of no catalogue."""
        init.zeros_(self.mean)
        init.copy_(self.matrix, torch.eye(*self.matrix.shape))
        if self.basis is not None:
            init.zeros_(self.basis)

    @torch.no_grad()
    def fit(self, moments: Moments) -> None:
        """Takes the statistics of a catalogue."""
        whitening = Whitening.of(moments, self.power)
        matrix = whitening.matrix
        if self.basis is not None:
            if not self.basis.any():
                self.basis.copy_(moments.axes()[2][:, -self.basis.shape[1] :])
            matrix = matrix @ self.basis.float().to(matrix.device)
        self.mean.copy_(whitening.mean)
        self.matrix.copy_(matrix)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps `(…, H)` to `(…, D)`; the whitened features have length 1."""
        with torch.autocast(features.device.type, enabled=False):  # kNN is as exact as its features
            whitened = unit_length((features.float() - self.mean.float()) @ self.matrix.float())
        whitened = whitened.to(self.residual.weight.dtype)
        return whitened + self.residual(whitened)


# Name → the map from features of width `H` to embeddings of width `D`; "gelu" is the paper's.
PROJECTIONS: dict[str, type[LinearGelu] | type[LinearProjection] | type[WhitenedProjection]] = {
    "gelu": LinearGelu,
    "linear": LinearProjection,
    "whitened": WhitenedProjection,
}


class Projection(nn.Module):
    """Maps a backbone's features to item embeddings by the configuration's row of [`PROJECTIONS`].

    An item without the content has a learned embedding in its place.

    Args:
        width: `H` of the features.
        config: with `item_projection`.
        hidden_size: `D`, that of the configuration by default.
        has_missing: whether items may lack the content.
    """

    def __init__(self, width: int, config: "TransRecConfig", hidden_size: int | None = None, has_missing: bool = True):
        super().__init__()
        hidden_size = config.width if hidden_size is None else hidden_size
        self.layers = PROJECTIONS[config.item_projection](width, hidden_size, config)
        self.missing = nn.Parameter(torch.zeros(hidden_size)) if has_missing else None

    def init_own_weights(self) -> None:
        """Draws the missing embedding from a generator of its own, so that the other weights do not depend on it.

        A projection that starts at content has zeros there: what an item lacks says nothing.
        """
        if self.missing is not None and self.layers.starts_at_content:
            init.zeros_(self.missing)
        elif self.missing is not None:
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
