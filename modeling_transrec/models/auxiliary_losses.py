"""Auxiliary losses: a second term, of two views of each user, beside the training loss.

A view is another form of a user's history: a part of it, one with items left out, or the beginning of another history
that ends at the same target. Both views go through the user encoder, and their last states are to be alike, and unlike
those of the batch's other users. Views are indices into the batch's items, which are encoded once.

An auxiliary loss gets the states of both views `(B, D)`, each user's target `(B,)` and a temperature, and where it
reads clusters of users their centres and what they weigh. It returns the MEAN over the users. The users of one process
and accumulation step are told apart; with gradient caching all of a batch.

Shapes: `B` users, `D` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from .losses import full_precision
from .whitening import unit_length


def _cosines(one: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns the cosines of all pairs of states `(B, D)`, divided by the temperature, `(B, B)`."""
    return full_precision(unit_length(one) @ unit_length(other).T) / temperature


def _without_same_target(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Takes out of scores `(B, B)` other users who have the same target: they are alike for a reason."""
    others = ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    return scores.masked_fill((targets[:, None] == targets) & others, float("-inf"))


def _both_ways(scores: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross entropy of the diagonal of scores `(B, B)`, over the rows and over the columns."""
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def user_contrastive_loss(
    one: torch.Tensor, other: torch.Tensor, targets: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """Computes a symmetric InfoNCE between two changed views of each user: CLUE.

    Choose it for a user encoder whose states are to stand for users, not only for their next items; on the next item
    itself it brings little. The views are parts of the history (`"crop"`), leave items out (`"drop"`), change the
    order (`"reorder"`) or differ by dropout only, see `view_augmentations`.

    Paper: Cheng et al., "Learning Transferable User Representations with Sequential Behaviors via Contrastive
    Pre-training" (CLUE), ICDM 2021.

    Args:
        one, other: `(B, D)` states of each user's two views; their cosines are compared.
        targets: `(B,)` each user's target, an index into the batch's items.
        temperature: that the cosines are divided by.

    Example:

    >>> import torch
    >>> states = torch.eye(2)
    >>> user_contrastive_loss(states, states, torch.tensor([0, 1]), temperature=1.0)
    tensor(0.3133)
    """
    return _both_ways(_cosines(one, other, temperature))


def sequence_contrastive_loss(
    one: torch.Tensor, other: torch.Tensor, targets: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """Computes the InfoNCE between each history and the same history with items left out: UniSRec's second term.

    Choose it, with a weight of 0.001, to pretrain as UniSRec does. Users who have the same target are no negatives of
    each other.

    Paper: Hou et al., "Towards Universal Sequence Representation Learning for Recommender Systems" (UniSRec), KDD
    2022.

    Arguments as in [`user_contrastive_loss`].

    Example:

    >>> import torch
    >>> states = torch.eye(2)
    >>> sequence_contrastive_loss(states, states, torch.tensor([7, 7]), temperature=1.0)
    tensor(0.)
    """
    scores = _without_same_target(_cosines(one, other, temperature), targets)
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def same_target_loss(
    one: torch.Tensor, other: torch.Tensor, targets: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """Computes a symmetric InfoNCE between two histories that lead to the same item: ICSRec's coarse intents.

    Choose it for ids on a small platform: what two users did before the same item is a second label. The other
    history is the beginning of a training sequence, drawn among all that have this item next; its items join the
    batch. Users who have the same target are no negatives of each other.

    Paper: Qin et al., "Intent Contrastive Learning with Cross Subsequences for Sequential Recommendation" (ICSRec),
    WSDM 2024, whose clusters of intents [`intents_loss`] adds; it compares dot products, this cosines.

    Arguments as in [`user_contrastive_loss`].

    Example:

    >>> import torch
    >>> states = torch.eye(2)
    >>> same_target_loss(states, states, torch.tensor([7, 8]), temperature=1.0)
    tensor(0.3133)
    """
    return _both_ways(_without_same_target(_cosines(one, other, temperature), targets))


def intents_loss(
    one: torch.Tensor,
    other: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 0.1,
    centres: torch.Tensor | None = None,
    intent_weight: float = 0.3,
) -> torch.Tensor:
    """Computes [`same_target_loss`], and an InfoNCE between each view's state and its cluster of users: ICSRec, whole.

    Choose it for ids on a small platform. The clusters are those of all users' states at the beginning of the epoch,
    by k-means; a state belongs to the nearest centre. Views of the same cluster are no negatives of each other.

    Paper: as of [`same_target_loss`].

    Args:
        one, other, targets, temperature: as in [`user_contrastive_loss`].
        centres: `(K, D)` of the clusters, of length 1.
        intent_weight: what the clusters weigh beside the same target.

    Example:

    >>> import torch
    >>> states = torch.eye(2)
    >>> intents_loss(states, states, torch.tensor([7, 8]), temperature=1.0, centres=torch.eye(2), intent_weight=1.0)
    tensor(0.6265)
    """
    if centres is None:
        raise ValueError("intents_loss needs the centres of clusters of users: find_intents makes them")
    fine = torch.zeros((), device=one.device)
    for states in (one, other):
        cluster = (unit_length(states.detach()) @ centres.to(states).T).argmax(dim=1)
        scores = _cosines(states, centres[cluster].to(states), temperature)
        fine = fine + _both_ways(_without_same_target(scores, cluster)) / 2
    return same_target_loss(one, other, targets, temperature) + intent_weight * fine


class AuxiliaryLoss(NamedTuple):
    """An auxiliary loss and the two views that it compares.

    Args:
        function: takes the states of both views, the targets and the temperature.
        views: of each user: the `"history"` itself, `"augmented"`, changed by one of the augmentations, or the history
            of some user before the `"same_target"`.
        augmentations: names in [`AUGMENTATIONS`] that it uses where the configuration has no `view_augmentations`.
        reads_intents: whether it takes the centres of clusters of users, and what they weigh.
    """

    function: Callable[..., torch.Tensor]
    views: tuple[Literal["history", "augmented", "same_target"], ...]
    augmentations: tuple[str, ...] = ()
    reads_intents: bool = False

    @property
    def brings_items(self) -> bool:
        """Whether its views have items of other users."""
        return "same_target" in self.views


AUXILIARY_LOSSES = {
    "user_contrastive": AuxiliaryLoss(user_contrastive_loss, ("augmented", "augmented"), ("crop", "drop", "reorder")),
    "sequence_contrastive": AuxiliaryLoss(sequence_contrastive_loss, ("history", "augmented"), ("drop",)),
    "same_target": AuxiliaryLoss(same_target_loss, ("history", "same_target")),
    "intents": AuxiliaryLoss(intents_loss, ("history", "same_target"), reads_intents=True),
}
