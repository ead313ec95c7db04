"""Maps a backbone's features to item embeddings, and has what stands for content that an item lacks.

Shapes: `U` distinct items of the batch, `P` of them that have the content, `S` tokens (of a text, an image or a
sound), `D` hidden size, `H` width of a backbone.
"""

import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .codes import CodesProjection
from .from_zero import LinearFromZero
from .item_projection import ItemProjection
from .offloading import align_module_device
from .user_adapters import make_projection_adapter
from .whitening import Moments, Whitening, unit_length


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


class LinearGelu(ItemProjection, nn.Sequential):
    """A linear layer with GELU, from `(…, H)` to `(…, D)`: NineRec's (arXiv 2309.07705).

    Args:
        width: `H`.
        hidden_size: `D`.
        config: the model's.
    """

    def __init__(self, width: int, hidden_size: int, config: "TransRecConfig"):
        super().__init__(nn.Linear(width, hidden_size), nn.GELU())


class LinearProjection(ItemProjection, nn.Linear):
    """A linear layer, which keeps the features' geometry for `normalize_scores`. Arguments as in [`LinearGelu`]."""

    def __init__(self, width: int, hidden_size: int, config: "TransRecConfig"):
        super().__init__(width, hidden_size)


class WhitenedProjection(ItemProjection):
    """Whitens features by the statistics of their catalogue, and adds a linear residual that starts from zero.

    An untrained model then compares items as content kNN does. Mean and axes belong to a catalogue: they are computed
    whenever one is encoded, in training for its own, and saved with the model. Until a catalogue is known, features
    are taken as they are. If `D` is less than `H`, the leading principal axes of the first catalogue are kept, for all
    later ones, too. In training on several platforms the items of each are whitened by its own statistics; saved are
    those of all items together.

    Args:
        width: `H`.
        hidden_size: `D`, at most `H`.
        config: the model's, with `whitening_power`.
    """

    starts_at_content = True
    options: ClassVar[tuple[str, ...]] = ("whitening_power",)

    mean: torch.Tensor
    matrix: torch.Tensor
    basis: torch.Tensor | None
    platform_means: torch.Tensor | None
    platform_matrices: torch.Tensor | None

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
        self.register_buffer("platform_means", None, persistent=False)  # of several platforms, in training
        self.register_buffer("platform_matrices", None, persistent=False)
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
        if self.basis is not None and not self.basis.any():
            self.basis.copy_(moments.axes()[2][:, -self.basis.shape[1] :])
        for buffer, values in zip((self.mean, self.matrix), self._statistics(moments), strict=True):
            buffer.copy_(values)

    @torch.no_grad()
    def fit_platforms(self, moments: Sequence[Moments]) -> None:
        """Takes the statistics of several platforms, of each for its own items, and those of all together."""
        self.fit(functools.reduce(operator.add, moments))
        means, matrices = zip(*map(self._statistics, moments), strict=True)
        self.platform_means = torch.stack(means).to(self.mean)
        self.platform_matrices = torch.stack(matrices).to(self.matrix)

    def _statistics(self, moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a catalogue's mean `(H,)` and the matrix `(H, D)` that its centred features are multiplied with."""
        whitening = Whitening.of(moments, self.power)
        if self.basis is None:
            return whitening.mean, whitening.matrix
        return whitening.mean, whitening.matrix @ self.basis.float().to(whitening.matrix.device)

    def whiten(self, features: torch.Tensor, platform_index: torch.Tensor | None = None) -> torch.Tensor:
        """Maps `(…, H)` to vectors `(…, D)` of length 1, float32; arguments as in [`forward`]."""
        if platform_index is None:
            return unit_length((features.float() - self.mean.float()) @ self.matrix.float())
        if self.platform_means is None or self.platform_matrices is None:
            raise ValueError("platform_index needs the statistics of several platforms: call fit_platforms before")
        whitened = features.new_zeros(len(features), self.matrix.shape[1], dtype=torch.float32)
        for number, (mean, matrix) in enumerate(zip(self.platform_means, self.platform_matrices, strict=True)):
            (rows,) = (platform_index == number).nonzero(as_tuple=True)
            centred = features.index_select(0, rows).float() - mean.float()
            whitened = whitened.index_copy(0, rows, unit_length(centred @ matrix.float()))
        return whitened

    def forward(self, features: torch.Tensor, platform_index: torch.Tensor | None = None) -> torch.Tensor:
        """Maps features to embeddings that start as whitened features of length 1.

        Args:
            features: `(…, H)`, mapped to `(…, D)`; with `platform_index` `(P, H)`.
            platform_index: `(P,)` whose statistics they are whitened by, see [`fit_platforms`]; by default those of
                the catalogue that was fitted last.
        """
        with torch.autocast(features.device.type, enabled=False):  # kNN is as exact as its features
            whitened = self.whiten(features, platform_index)
        whitened = whitened.to(floating_dtype(self.residual))
        return whitened + self.residual(whitened)


class WhiteningExpert(nn.Module):
    """Centres features by a learned mean and maps them without a bias, `W (dropout(x) - b)`: parametric whitening."""

    def __init__(self, width: int, hidden_size: int, dropout_prob: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.mean = nn.Parameter(torch.zeros(width))
        self.linear = nn.Linear(width, hidden_size, bias=False)

    def init_own_weights(self) -> None:
        """Starts at a mean of zero."""
        init.zeros_(self.mean)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps `(…, H)` to `(…, D)`."""
        return self.linear(self.dropout(features) - self.mean)


class MixtureOfExperts(ItemProjection):
    """Mixes whitening experts with weights that depend on the features: UniSRec's adaptor.

    Choose it for a frozen text backbone that is to serve several platforms: a gate chooses for each item how much each
    of `num_experts` linear maps counts. All experts weigh the same at first. In training, noise of a learned size is
    added to the gate's scores, so that no expert is left out early.

    Papers: Hou et al., "Towards Universal Sequence Representation Learning for Recommender Systems" (UniSRec), KDD
    2022; for the noisy gate Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017.

    Args:
        width: `H`.
        hidden_size: `D`.
        config: the model's, with `num_experts`, `expert_dropout_prob` and `gate_noise`.

    Example:

    >>> from modeling_transrec import TransRecConfig
    >>> config = TransRecConfig(num_items=1, item_projection="moe", num_experts=2)
    >>> MixtureOfExperts(4, 3, config)(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    options: ClassVar[tuple[str, ...]] = ("num_experts", "expert_dropout_prob", "gate_noise")

    def __init__(self, width: int, hidden_size: int, config: "TransRecConfig"):
        super().__init__()
        experts = [WhiteningExpert(width, hidden_size, config.expert_dropout_prob) for _ in range(config.num_experts)]
        self.experts = nn.ModuleList(experts)
        self.gate = LinearFromZero(width, config.num_experts)
        self.noise = LinearFromZero(width, config.num_experts) if config.gate_noise else None

    def weights(self, features: torch.Tensor) -> torch.Tensor:
        """Returns what each expert counts, `(…, num_experts)`, of features `(…, H)`."""
        scores = self.gate(features)
        if self.noise is not None and self.training:
            scores = scores + torch.randn_like(scores) * (F.softplus(self.noise(features)) + 0.01)
        return scores.softmax(dim=-1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps `(…, H)` to `(…, D)`."""
        embeddings: list[torch.Tensor] = [expert(features) for expert in self.experts]
        weights = self.weights(features).split(1, dim=-1)
        return functools.reduce(operator.add, map(operator.mul, weights, embeddings))


# Name → the map from features of width `H` to embeddings of width `D`; "gelu" is the paper's.
PROJECTIONS: dict[str, type[ItemProjection]] = {
    "gelu": LinearGelu,
    "linear": LinearProjection,
    "whitened": WhitenedProjection,
    "moe": MixtureOfExperts,
    "codes": CodesProjection,
}


def floating_dtype(module: nn.Module) -> torch.dtype:
    """Returns the type of a module's weights that are no integers; float32 where all are quantised."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)


class Projection(nn.Module):
    """Maps a backbone's features to item embeddings by the configuration's row of [`PROJECTIONS`].

    An item without the content has a learned embedding in its place, or zeros.

    Args:
        width: `H` of the features.
        config: with `item_projection`.
        hidden_size: `D`, that of the configuration by default.
        has_missing: whether an embedding is learnt for items that lack the content.
    """

    def __init__(self, width: int, config: "TransRecConfig", hidden_size: int | None = None, has_missing: bool = True):
        super().__init__()
        hidden_size = config.width if hidden_size is None else hidden_size
        make: Any = PROJECTIONS[config.item_projection]
        self.layers: Any = make(width, hidden_size, config)
        # Items that a quantiser makes up have codes and no features to read.
        self.adapter = None if make.quantises else make_projection_adapter(config, width, hidden_size)
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

    def project(self, features: torch.Tensor, platform_index: torch.Tensor | None = None) -> torch.Tensor:
        """Maps `(…, H)` of any precision, as precomputed features may have, to `(…, D)`."""
        features = features.to(self.dtype)
        made = self.layers(features) if platform_index is None else self.layers(features, platform_index)
        return made if self.adapter is None else self.adapter(features, made)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; of those that are quantised, that in which they compute."""
        return floating_dtype(self)

    def forward(
        self,
        features: torch.Tensor,
        index: torch.Tensor | None = None,
        platform_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Maps features `(P, H)` to the embeddings of items `(U, D)`.

        Args:
            features: `(P, H)`.
            index: `(U,)` index of each item's features, -1 where it has none; by default each has its own, in order.
            platform_index: `(U,)` the items' platforms, for a [`WhitenedProjection`] that knows several.
        """
        if platform_index is not None and index is not None:
            has_content = index >= 0
            of_features = platform_index.new_zeros(len(features))
            platform_index = of_features.index_copy(0, index[has_content], platform_index[has_content])
        embeddings = self.project(features, platform_index)
        if index is None:
            return embeddings
        table = torch.cat([embeddings, self._missing_beside(embeddings)[None]])
        return F.embedding(index % table.shape[0], table)  # -1 is the last: the missing one

    def _missing_beside(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Returns the embedding `(D,)` of what an item lacks, in the type of others; zeros where none is learned."""
        if self.missing is None:
            return embeddings.new_zeros(embeddings.shape[-1])
        return self.missing.to(embeddings.dtype)

    def tokens(
        self, hidden: torch.Tensor, mask: torch.Tensor, index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps token vectors `(P, S, H)` and their mask `(P, S)` to those of items, `(U, S, D)` and `(U, S)`.

        Missing content is a single token, the learned embedding.
        """
        tokens = self.project(hidden)
        if index is None:
            return tokens, mask
        with align_module_device(self):
            absent = F.pad(self._missing_beside(tokens)[None, None], (0, 0, 0, tokens.shape[1] - 1))
        absent_mask = torch.arange(tokens.shape[1], device=mask.device)[None] == 0
        index = index % (tokens.shape[0] + 1)
        return torch.cat([tokens, absent]).index_select(0, index), torch.cat([mask, absent_mask])[index]
