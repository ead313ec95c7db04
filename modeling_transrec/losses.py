"""Training losses: pure functions of tensors.

Every loss takes the user encoder's output at every position, the vectors of the batch's distinct items, and rows into
those items; it returns the SUM over the positions that have a target. The model divides by the number of targets over
all accumulation steps and processes, so that every target weighs the same. `bce` is then the same loss however a batch
is divided; the candidates of `in_batch` are those of one process and accumulation step.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `N` negatives, `D` hidden size.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F


IGNORE_INDEX = -100  # in `labels`: the position has no target
PADDING_INDEX = -1  # in `item_index` and `negative_index`: no item


def full_precision(scores: torch.Tensor) -> torch.Tensor:
    """Scores as float32 at least: exponentials of half-precision scores are too coarse."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def bce_loss(
    user_hidden: torch.Tensor,
    item_embeds: torch.Tensor,
    labels: torch.Tensor,
    negative_index: torch.Tensor,
) -> torch.Tensor:
    """Binary cross entropy of each target against sampled negatives, summed over positions: the loss of NineRec.

    As in SASRec (Kang and McAuley, ICDM 2018) and NineRec (arXiv 2309.07705). With several negatives their terms are
    averaged, so that targets and negatives weigh the same.

    Args:
        user_hidden: `(B, L, D)`.
        item_embeds: `(U, D)`.
        labels: `(B, L)` rows of the targets in `item_embeds`, -100 where there is none.
        negative_index: `(B, L, N)` rows of the negatives; where `labels` is -100 they are not read.

    Example:

    >>> import torch
    >>> user, items = torch.ones(1, 1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> bce_loss(user, items, labels=torch.tensor([[0]]), negative_index=torch.tensor([[[1]]]))
    tensor(0.2539)
    """
    valid = labels != IGNORE_INDEX  # (B, L)
    positives = item_embeds[labels.clamp(min=0)]  # (B, L, D)
    negatives = item_embeds[negative_index.clamp(min=0)]  # (B, L, N, D)
    positive_scores = (user_hidden * positives).sum(-1)  # (B, L)
    negative_scores = (user_hidden[:, :, None] * negatives).sum(-1)  # (B, L, N)
    loss = F.softplus(-full_precision(positive_scores)) + F.softplus(full_precision(negative_scores)).mean(-1)
    return loss.masked_fill(~valid, 0.0).sum()


def log_inclusion_probability(item_log_popularity: torch.Tensor, num_draws: int | torch.Tensor) -> torch.Tensor:
    """Log of the probability `1 - (1 - p)^n` that an item of popularity `p` is among `n` independent draws `(U,)`.

    It is the logQ of a candidate that is counted once however often it was drawn; for rare items it tends to the
    usual `log p + log n`.

    Example:

    >>> import torch
    >>> log_inclusion_probability(torch.tensor([0.5, 0.001]).log(), num_draws=2).exp()
    tensor([0.7500, 0.0020])
    """
    log_absent = num_draws * torch.log1p(-item_log_popularity.exp().clamp(1e-12, 1 - 1e-6))
    return torch.log(-torch.expm1(log_absent))


def mask_own_items(scores: torch.Tensor, labels: torch.Tensor, item_index: torch.Tensor) -> torch.Tensor:
    """Removes accidental negatives: a user's own items, except the target of the position `(B, L, U)`.

    Args:
        scores: `(B, L, U)` of every position against the batch's items.
        labels: `(B, L)` rows of the targets, -100 where there is none.
        item_index: `(B, L)` rows of the user's history, -1 at padding. Targets count as the user's own items too.
    """
    num_items = scores.shape[-1]
    own = torch.cat([item_index, labels], dim=1)  # (B, 2L)
    own = torch.where(own < 0, num_items, own)  # padding goes to an extra column
    is_own = scores.new_zeros(len(scores), num_items + 1, dtype=torch.bool).scatter_(1, own, True)[:, :-1]  # (B, U)
    target = labels.clamp(min=0)[:, :, None]  # (B, L, 1)
    masked = scores.masked_fill(is_own[:, None], float("-inf"))
    return masked.scatter(2, target, scores.gather(2, target))


def in_batch_loss(
    user_hidden: torch.Tensor,
    item_embeds: torch.Tensor,
    labels: torch.Tensor,
    item_index: torch.Tensor,
    item_log_popularity: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy of each target against all items of the batch, summed over positions.

    The other users' items serve as negatives at no extra encoding. Popular items are in the batch more often than
    their share of the catalogue; the logQ correction (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large
    Corpus Item Recommendations", RecSys 2019) takes that out. The user's own items are never negatives.

    Args:
        user_hidden: `(B, L, D)`.
        item_embeds: `(U, D)`, distinct items.
        labels: `(B, L)` rows of the targets in `item_embeds`, -100 where there is none.
        item_index: `(B, L)` rows of the history, -1 at padding.
        item_log_popularity: `(U,)` log of each item's share of the training actions; `None` leaves out the correction.

    Example:

    >>> import torch
    >>> user, items = torch.ones(1, 1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    >>> in_batch_loss(user, items, labels=torch.tensor([[0]]), item_index=torch.tensor([[2]]))
    tensor(0.0181)
    """
    scores = full_precision(user_hidden @ item_embeds.T)  # (B, L, U)
    if item_log_popularity is not None:
        num_draws = (item_index >= 0).sum() + (labels[:, -1] >= 0).sum()  # the actions in the batch
        scores = scores - log_inclusion_probability(item_log_popularity.to(scores.dtype), num_draws)
    scores = mask_own_items(scores, labels, item_index)
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


class Loss(NamedTuple):
    """A loss and the fields of the batch that it reads beside `user_hidden`, `item_embeds` and `labels`."""

    function: Callable[..., torch.Tensor]
    batch_fields: tuple[str, ...]


LOSSES = {
    "bce": Loss(bce_loss, ("negative_index",)),
    "in_batch": Loss(in_batch_loss, ("item_index", "item_log_popularity")),
}
