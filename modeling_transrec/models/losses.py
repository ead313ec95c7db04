"""Training losses: pure functions of tensors.

Every loss takes the user encoder's output at every position, the vectors of the batch's distinct items, and rows into
those items; it returns the SUM over the positions that have a target. The model divides by the number of targets over
all accumulation steps and processes, so that every target weighs the same. `bce` and `full_softmax` are then the same
loss however a batch is divided; the candidates of the others are those of one process and accumulation step.

Only positions that have a target are scored, not the padding. Rows are taken by `F.embedding`: the gradient of plain
indexing is added up by several threads in any order, and a run would not repeat itself on a CPU.

Shapes: `B` users, `L` history length, `M` targets, `U` distinct items of the batch, `N` negatives, `V` catalogue, `D`
hidden size.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F


IGNORE_INDEX = -100  # in `labels`: the position has no target
PADDING_INDEX = -1  # in `item_index` and `negative_index`: no item
MASK_INDEX = -2  # in `item_index`: an item that is masked, to be predicted


def full_precision(scores: torch.Tensor) -> torch.Tensor:
    """Scores as float32 at least: exponentials of half-precision scores are too coarse."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def at_targets(user_hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    """States `(M, D)` and targets `(M,)` of the positions that have one, and these positions: rows and columns.

    >>> import torch
    >>> hidden = torch.arange(6.0).view(2, 3, 1)
    >>> at_targets(hidden, torch.tensor([[-100, -100, 7], [-100, 5, 6]]))
    (tensor([[2.],
            [4.],
            [5.]]), tensor([7, 5, 6]), (tensor([0, 1, 1]), tensor([2, 1, 2])))
    """
    places = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)  # (M,)
    states = user_hidden.flatten(0, 1).index_select(0, places)
    rows_and_columns = places // labels.shape[1], places % labels.shape[1]
    return states, labels.flatten()[places], rows_and_columns


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
    states, targets, places = at_targets(user_hidden, labels)
    positive_scores = (states * F.embedding(targets, item_embeds)).sum(-1)  # (M,)
    negative_scores = (states[:, None] * F.embedding(negative_index[places], item_embeds)).sum(-1)  # (M, N)
    loss = F.softplus(-full_precision(positive_scores)) + F.softplus(full_precision(negative_scores)).mean(-1)
    return loss.sum()


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


def in_batch_loss(
    user_hidden: torch.Tensor,
    item_embeds: torch.Tensor,
    labels: torch.Tensor,
    item_index: torch.Tensor,
    item_log_popularity: torch.Tensor | None = None,
    num_draws: torch.Tensor | None = None,
    is_candidate: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy of each target against all items of the batch, summed over positions.

    The other users' items serve as negatives at no extra encoding. Popular items are in the batch more often than
    their share of the catalogue; the logQ correction (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large
    Corpus Item Recommendations", RecSys 2019) takes that out. The user's own items are never negatives.

    Args:
        user_hidden: `(B, L, D)`.
        item_embeds: `(U, D)`, distinct items.
        labels: `(B, L)` rows of the targets in `item_embeds`, -100 where there is none.
        item_index: `(B, L)` rows of the history, below 0 where there is no item.
        item_log_popularity: `(U,)` log of each item's share of the training actions; `None` leaves out the correction.
        num_draws: number of actions that brought the items into the batch; by default those of these users.
        is_candidate: `(U,)` booleans, false at items that are not negatives, such as repetitions of others.

    Example:

    >>> import torch
    >>> user, items = torch.ones(1, 1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    >>> in_batch_loss(user, items, labels=torch.tensor([[0]]), item_index=torch.tensor([[2]]))
    tensor(0.0181)
    """
    states, targets, (users, _) = at_targets(user_hidden, labels)
    scores = full_precision(states @ item_embeds.T)  # (M, U)
    if item_log_popularity is not None:
        if num_draws is None:
            num_draws = count_draws(item_index, labels)
        scores = scores - log_inclusion_probability(item_log_popularity.to(scores.dtype), num_draws)
    if is_candidate is not None:
        scores = scores.masked_fill(~is_candidate, float("-inf"))
    excluded = own_items(labels, item_index, len(item_embeds))[users]  # (M, U)
    excluded.scatter_(1, targets[:, None], False)
    return F.cross_entropy(scores.masked_fill(excluded, float("-inf")), targets, reduction="sum")


def own_items(labels: torch.Tensor, item_index: torch.Tensor, num_items: int) -> torch.Tensor:
    """Which of the batch's items are in a user's history or targets: `(B, U)` booleans.

    >>> import torch
    >>> own_items(torch.tensor([[-100, 2]]), item_index=torch.tensor([[-1, 0]]), num_items=4)
    tensor([[ True, False,  True, False]])
    """
    own = torch.cat([item_index, labels], dim=1)  # (B, 2L)
    own = torch.where(own < 0, num_items, own)  # padding goes to an extra column
    is_own = torch.zeros(len(own), num_items + 1, dtype=torch.bool, device=own.device)
    return is_own.scatter_(1, own, True)[:, :-1]


def count_draws(item_index: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Number of actions in a batch: those of the histories, masked ones too, and the targets after their ends.

    >>> import torch
    >>> count_draws(torch.tensor([[-1, 4, 2]]), labels=torch.tensor([[-100, 2, 0]]))
    tensor(3)
    """
    follows = (labels[:, -1] >= 0) & (item_index[:, -1] != MASK_INDEX)
    return (item_index != PADDING_INDEX).sum() + follows.sum()


def sampled_softmax_loss(
    user_hidden: torch.Tensor,
    item_embeds: torch.Tensor,
    labels: torch.Tensor,
    item_index: torch.Tensor,
    negative_index: torch.Tensor,
    item_log_popularity: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy of each target against itself and sampled negatives, summed over positions.

    The batch shares its negatives, so that they are encoded just once (Jean et al., "On Using Very Large Target
    Vocabulary for Neural Machine Translation", ACL 2015; for sequential recommendation Klenitskiy and Vasilev,
    RecSys 2023). A user's own items are no negatives.

    Args:
        user_hidden: `(B, L, D)`.
        item_embeds: `(U, D)`.
        labels: `(B, L)` rows of the targets in `item_embeds`, -100 where there is none.
        item_index: `(B, L)` rows of the history, below 0 where there is no item.
        negative_index: `(N,)` rows of the negatives.
        item_log_popularity: `(U,)` log of each item's chance to be sampled; `None` if all have the same.

    Example:

    >>> import torch
    >>> user, items = torch.ones(1, 1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> sampled_softmax_loss(user, items, torch.tensor([[0]]), torch.tensor([[-1]]), negative_index=torch.tensor([1]))
    tensor(0.0181)
    """
    states, targets, (users, _) = at_targets(user_hidden, labels)
    positive_scores = full_precision((states * F.embedding(targets, item_embeds)).sum(-1))  # (M,)
    negative_scores = full_precision(states @ F.embedding(negative_index, item_embeds).T)  # (M, N)
    if item_log_popularity is not None:
        positive_scores = positive_scores - item_log_popularity[targets]
        negative_scores = negative_scores - item_log_popularity[negative_index]
    own = own_items(labels, item_index, len(item_embeds))[:, negative_index]  # (B, N)
    negative_scores = negative_scores.masked_fill(own[users], float("-inf"))
    partition = torch.cat([positive_scores[:, None], negative_scores], dim=-1).logsumexp(-1)  # (M,)
    return (partition - positive_scores).sum()


def gbce_loss(
    user_hidden: torch.Tensor,
    item_embeds: torch.Tensor,
    labels: torch.Tensor,
    item_index: torch.Tensor,
    negative_index: torch.Tensor,
    num_catalogue_items: torch.Tensor | int,
    gbce_t: float = 0.75,
) -> torch.Tensor:
    """Generalised binary cross entropy, summed over positions: sampled negatives without overconfidence.

    gSASRec (Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
    Sampling", RecSys 2023): the positive's probability is raised to the power `beta`, which makes up for the share
    `N / (V - 1)` of the negatives that are sampled. The batch shares its negatives.

    Args:
        user_hidden, item_embeds, labels, item_index, negative_index: as in [`sampled_softmax_loss`].
        num_catalogue_items: `V`.
        gbce_t: calibration, from 0 (plain binary cross entropy) to 1 (fully calibrated).

    Example:

    >>> import torch
    >>> user, items = torch.ones(1, 1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> gbce_loss(user, items, torch.tensor([[0]]), torch.tensor([[-1]]), torch.tensor([1]), num_catalogue_items=5)
    tensor(0.1824)
    """
    num_others = torch.as_tensor(num_catalogue_items - 1, device=user_hidden.device).clamp(min=1)
    sampled = (len(negative_index) / num_others).clamp(max=1.0)
    beta = sampled * (gbce_t * (1 - 1 / sampled) + 1 / sampled)
    states, targets, (users, _) = at_targets(user_hidden, labels)
    positive_scores = full_precision((states * F.embedding(targets, item_embeds)).sum(-1))  # (M,)
    negative_scores = full_precision(states @ F.embedding(negative_index, item_embeds).T)  # (M, N)
    own = own_items(labels, item_index, len(item_embeds))[:, negative_index]  # (B, N)
    negative_terms = F.softplus(negative_scores).masked_fill(own[users], 0.0)
    return beta * F.softplus(-positive_scores).sum() + negative_terms.sum()


def full_softmax_loss(user_hidden: torch.Tensor, item_embeds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each target against the whole catalogue, summed over positions.

    For catalogues whose items are cheap to encode: ids, or precomputed features.

    Args:
        user_hidden: `(B, L, D)`.
        item_embeds: `(V, D)`, every item of the catalogue.
        labels: `(B, L)` rows of the targets, -100 where there is none.

    Example:

    >>> import torch
    >>> user, items = torch.ones(1, 1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    >>> full_softmax_loss(user, items, labels=torch.tensor([[0]]))
    tensor(0.0181)
    """
    states, targets, _ = at_targets(user_hidden, labels)
    return F.cross_entropy(full_precision(states @ item_embeds.T), targets, reduction="sum")  # over (M, V)


class Loss(NamedTuple):
    """A loss, and what it needs.

    Args:
        function: takes `user_hidden`, `item_embeds`, `labels`, and the fields and options named here.
        batch_fields: fields of the batch that it reads beside those.
        options: fields of the configuration that it reads.
        candidates: where its negatives come from: the `"batch"`, `"position"` (sampled for every position), `"shared"`
            (sampled for the whole batch) or the whole `"catalogue"`.
    """

    function: Callable[..., torch.Tensor]
    batch_fields: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    candidates: str = "batch"

    @property
    def samples(self) -> bool:
        """Whether it needs sampled negatives in the batch."""
        return self.candidates in ("position", "shared")

    @property
    def user_fields(self) -> tuple[str, ...]:
        """Of the fields that it may read, those with a line for each user."""
        return ("item_index", "negative_index") if self.candidates == "position" else ("item_index",)


_SHARED = ("item_index", "negative_index")
LOSSES = {
    "bce": Loss(bce_loss, ("negative_index",), candidates="position"),
    "in_batch": Loss(in_batch_loss, ("item_index", "item_log_popularity")),
    "sampled_softmax": Loss(sampled_softmax_loss, (*_SHARED, "item_log_popularity"), candidates="shared"),
    "gbce": Loss(gbce_loss, (*_SHARED, "num_catalogue_items"), ("gbce_t",), candidates="shared"),
    "full_softmax": Loss(full_softmax_loss, candidates="catalogue"),
}
