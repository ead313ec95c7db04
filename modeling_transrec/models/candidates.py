"""Candidates: the items that the targets of a batch are told apart from.

Shapes: `B` users, `L` history length, `M` targets, `U` distinct items of the batch, `N` negatives, `V` catalogue, `D`
hidden size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.nn.functional import all_gather as all_gather_with_gradient

from .auxiliary_losses import AUXILIARY_LOSSES
from .batch import IGNORE_INDEX, MASK_INDEX, PADDING_INDEX, LossInputs
from .losses import LOSSES, full_precision


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


NO_NEGATIVES = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The items that targets are told apart from, and what a loss may want to know of them.

    Args:
        embeddings: `(U, D)` item embeddings in the space of scores; targets and negatives are indices into them.
        own_index: `(B, 2 L)` indices of the items of each user's history and targets, below 0 where there is none.
        negative_index: indices of sampled negatives: `(B, L, N)` for each position, `(M, N)` for each target once
            [`of`] has chosen them, or `(N,)` shared by all; none by default.
        log_q: `(U,)` log of each item's probability to be a candidate, where the loss is to correct for it.
        is_repeated: `(U,)` booleans, true at items that stand before in `embeddings`.
        num_catalogue_items: `V`.
        synthetic: `(U, D)` of an item that does not exist for each item, one more negative of that item as a target.
        epoch: number of the epoch, from 0, for a loss whose weights change.
    """

    embeddings: torch.Tensor
    own_index: torch.Tensor
    negative_index: torch.Tensor = NO_NEGATIVES
    log_q: torch.Tensor | None = None
    is_repeated: torch.Tensor | None = None
    num_catalogue_items: torch.Tensor | int = 0
    synthetic: torch.Tensor | None = None
    epoch: torch.Tensor | int = 0

    @functools.cached_property
    def excluded(self) -> torch.Tensor:
        """Items that are no negatives of a user, `(B, U)` booleans: the user's own, and repetitions of others."""
        excluded = own_items(self.own_index, len(self.embeddings))
        return excluded if self.is_repeated is None else excluded | self.is_repeated

    def of(self, users: slice, positions: tuple[torch.Tensor, torch.Tensor]) -> Candidates:
        """Returns the candidates of some users, with the negatives of those positions that have a target.

        Args:
            users: which of the batch's users.
            positions: among these users, each target's user and position in the history, `(M,)` both.
        """
        negative_index = self.negative_index
        if negative_index.ndim == 3:
            negative_index = negative_index[users][positions]
        return replace(self, own_index=self.own_index[users], negative_index=negative_index)


def at_targets(
    hidden: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Gathers states `(M, D)` and targets `(M,)` of the positions that have one, and each one's user and position.

    >>> import torch
    >>> hidden = torch.arange(6.0).view(2, 3, 1)
    >>> at_targets(hidden, torch.tensor([[-100, -100, 7], [-100, 5, 6]]))
    (tensor([[2.],
            [4.],
            [5.]]), tensor([7, 5, 6]), (tensor([0, 1, 1]), tensor([2, 1, 2])))
    """
    index = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)  # (M,)
    users_and_positions = index // labels.shape[1], index % labels.shape[1]
    return hidden.flatten(0, 1).index_select(0, index), labels.flatten()[index], users_and_positions


def make_candidates(
    config: TransRecConfig,
    embeddings: torch.Tensor,
    item_index: torch.Tensor,
    labels: torch.Tensor,
    inputs: LossInputs,
    synthetic: torch.Tensor | None = None,
) -> Candidates:
    """Makes the candidates of the configuration's loss.

    Args:
        config: the model's.
        embeddings: `(U, D)` of the batch's distinct items, in the space of scores.
        item_index: `(B, L)` histories as indices into the items.
        labels: `(B, L)` targets as indices into the items; with the objective of the next `K` items `(B, K)`.
        inputs: what the loss reads beside them.
        synthetic: `(U, D)` of items that do not exist, in the space of scores.

    Raises:
        ValueError: if the loss reads an input that is not there.
    """
    loss = LOSSES[config.loss_type]
    is_by_popularity = loss.reads_batch or config.negative_sampling == "popularity"
    needed = [*loss.inputs, *["catalogue_index"] * config.gather_negatives]
    if config.auxiliary_loss_type is not None:
        needed += ["view_index", "view_target"]
        needed += ["intents"] * AUXILIARY_LOSSES[config.auxiliary_loss_type].reads_intents
    if not (config.logq_correction and is_by_popularity):
        needed = [name for name in needed if name != "item_log_popularity"]
    missing = [name for name in needed if inputs.get(name) is None]
    if missing:
        raise ValueError(
            f"loss_type={config.loss_type!r}"
            + (f" with auxiliary_loss_type={config.auxiliary_loss_type!r}" if config.auxiliary_loss_type else "")
            + f" needs {', '.join(missing)} in the batch; TransRecDataCollator provides them"
        )
    log_q = inputs["item_log_popularity"] if "item_log_popularity" in needed else None
    num_draws, is_repeated = count_draws(item_index, labels, config.objective == "next_k_items"), None
    if config.auxiliary_loss_type is not None and AUXILIARY_LOSSES[config.auxiliary_loss_type].brings_items:
        num_draws = num_draws + (inputs["view_index"][1] >= 0).sum()
    if config.predicts_within:
        num_draws = (item_index != PADDING_INDEX).sum()
    if config.gather_negatives and dist.is_available() and dist.is_initialized():
        embeddings, log_q, num_draws, is_repeated = gather_candidates(
            embeddings, log_q, num_draws, inputs["catalogue_index"]
        )
    if loss.reads_batch and log_q is not None:
        num_uniform = 0
        if loss.samples and config.negative_sampling == "popularity":
            num_draws = num_draws + config.num_negatives
        elif loss.samples:
            num_uniform = config.num_negatives
        log_q = log_inclusion_probability(
            full_precision(log_q), num_draws, num_uniform, inputs.get("num_catalogue_items", 1)
        )
    return Candidates(
        embeddings=embeddings,
        own_index=torch.cat([item_index, labels], dim=1),
        negative_index=inputs["negative_index"] if "negative_index" in loss.inputs else NO_NEGATIVES,
        log_q=log_q,
        is_repeated=is_repeated,
        num_catalogue_items=inputs.get("num_catalogue_items", 0),
        synthetic=synthetic,
        epoch=inputs.get("epoch", 0),
    )


def own_items(own_index: torch.Tensor, num_items: int) -> torch.Tensor:
    """Marks which of the batch's items are each user's own: `(B, U)` booleans.

    >>> import torch
    >>> own_items(torch.tensor([[-1, 0, -100, 2]]), num_items=4)
    tensor([[ True, False,  True, False]])
    """
    own = torch.where(own_index < 0, num_items, own_index)  # padding goes to an extra column
    is_own = torch.zeros(len(own), num_items + 1, dtype=torch.bool, device=own.device)
    return is_own.scatter_(1, own, True)[:, :-1]


def count_draws(item_index: torch.Tensor, labels: torch.Tensor, all_follow: bool = False) -> torch.Tensor:
    """Counts the interactions of a batch: those of the histories, masked ones too, and the targets after their ends.

    Args:
        item_index, labels: `(B, L)`; where all targets follow, `labels` are `(B, K)`.
        all_follow: whether all targets come after the history's end.

    >>> import torch
    >>> count_draws(torch.tensor([[-1, 4, 2]]), labels=torch.tensor([[-100, 2, 0]]))
    tensor(3)
    """
    if all_follow:
        return (item_index != PADDING_INDEX).sum() + (labels >= 0).sum()
    follows = (labels[:, -1] >= 0) & (item_index[:, -1] != MASK_INDEX)
    return (item_index != PADDING_INDEX).sum() + follows.sum()


def log_inclusion_probability(
    item_log_popularity: torch.Tensor,
    num_draws: int | torch.Tensor,
    num_uniform: int = 0,
    num_items: int | torch.Tensor = 1,
) -> torch.Tensor:
    """Returns the log of the probability that an item is among `n` draws by popularity and `m` uniform ones, `(U,)`.

    It is `1 - (1 - p)^n (1 - 1 / V)^m`, the logQ of a candidate that counts once however often it was drawn; for rare
    items and `m = 0` it tends to the usual `log p + log n`.

    Args:
        item_log_popularity: `(U,)` log of `p`.
        num_draws: `n`.
        num_uniform: `m`.
        num_items: `V`.

    Example:

    >>> import torch
    >>> log_inclusion_probability(torch.tensor([0.5, 0.001]).log(), num_draws=2).exp()
    tensor([0.7500, 0.0020])
    """
    log_absent = num_draws * torch.log1p(-item_log_popularity.exp().clamp(1e-12, 1 - 1e-6))
    if num_uniform:
        log_absent = log_absent + num_uniform * torch.log1p(-1 / torch.as_tensor(num_items).clamp(min=2))
    return torch.log(-torch.expm1(log_absent))


def gather_candidates(
    embeddings: torch.Tensor,
    log_popularity: torch.Tensor | None,
    num_draws: torch.Tensor,
    catalogue_index: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Gathers the items of all processes, this one's first, so that its indices stay as they are.

    Gradients flow back to the processes that encoded the items. An item that several processes have counts once.

    Args:
        embeddings: `(U, D)` of this process; `U` may differ between processes.
        log_popularity: `(U,)`, where the loss corrects for it.
        num_draws: interactions in this process's batch.
        catalogue_index: `(U,)` index of each item in the catalogue.

    Returns:
        Embeddings and log popularity of all items, the number of interactions in all batches, and which items are
        repetitions.
    """
    sizes = torch.tensor([len(embeddings), int(num_draws)], device=embeddings.device)
    all_sizes = [torch.empty_like(sizes) for _ in range(dist.get_world_size())]
    dist.all_gather(all_sizes, sizes)
    counts, draws = torch.stack(all_sizes).T.tolist()
    rank, longest = dist.get_rank(), max(counts)

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        padding = [0, 0] * (tensor.ndim - 1) + [0, longest - len(tensor)]
        parts = all_gather_with_gradient(F.pad(tensor, padding))
        parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
        return torch.cat([tensor, *parts[:rank], *parts[rank + 1 :]])

    catalogue_index = gather(catalogue_index)
    order = catalogue_index.argsort(stable=True)  # of equal items the first, this process's, comes first
    is_repeated = torch.zeros_like(catalogue_index, dtype=torch.bool)
    is_repeated[order[1:]] = catalogue_index[order[1:]] == catalogue_index[order[:-1]]
    if log_popularity is not None:
        log_popularity = gather(log_popularity)
    return gather(embeddings), log_popularity, num_draws.new_tensor(sum(draws)), is_repeated
