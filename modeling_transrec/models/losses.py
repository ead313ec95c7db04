"""Defines the training losses: pure functions of tensors.

A loss gets the `M` positions of a batch that have a target, which the model has gathered: their states `(M, D)`,
targets `(M,)` and users `(M,)`, and the [`Candidates`] that the targets compete with. It returns the SUM over the
targets. The model divides by their number over all accumulation steps and processes, so that every target weighs the
same. `bce` and `full_softmax` are then the same loss however a batch is divided; the candidates of the others are
those of one process and accumulation step.

Embeddings are gathered by `F.embedding`: on a CPU several threads add up the gradient of plain indexing in any order,
so that a run would not repeat itself.

Shapes: `B` users, `M` targets, `U` distinct items of the batch, `N` negatives, `V` catalogue, `D` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F


if TYPE_CHECKING:
    from .candidates import Candidates


def full_precision(scores: torch.Tensor) -> torch.Tensor:
    """Returns scores as float32 at least: exponentials of half-precision scores are too coarse."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def bce_loss(states: torch.Tensor, targets: torch.Tensor, users: torch.Tensor, candidates: Candidates) -> torch.Tensor:
    """Computes the binary cross entropy of each target against sampled negatives of its own.

    The loss of NineRec. Choose it to reproduce published numbers; `in_batch` is better in most of our comparisons. It
    needs `num_negatives` sampled negatives per position, which are encoded like any item. The terms of several
    negatives are averaged, so that targets and negatives weigh the same.

    Papers: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; NineRec, arXiv 2309.07705.

    Args:
        states: `(M, D)`.
        targets: `(M,)` indices into `candidates.embeddings`.
        users: `(M,)` each target's user, an index into `candidates.own_index`.
        candidates: with `negative_index` `(M, N)`, sampled outside the user's items.

    Example:

    >>> import torch
    >>> from modeling_transrec.models.candidates import Candidates
    >>> items, own = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[-1, 0]])
    >>> candidates = Candidates(items, own, negative_index=torch.tensor([[1]]))
    >>> bce_loss(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), candidates)
    tensor(0.2539)
    """
    positive_scores = (states * F.embedding(targets, candidates.embeddings)).sum(-1)  # (M,)
    negatives = F.embedding(candidates.negative_index, candidates.embeddings)  # (M, N, D)
    negative_scores = (states[:, None] * negatives).sum(-1)  # (M, N)
    loss = F.softplus(-full_precision(positive_scores)) + F.softplus(full_precision(negative_scores)).mean(-1)
    return loss.sum()


def in_batch_loss(
    states: torch.Tensor, targets: torch.Tensor, users: torch.Tensor, candidates: Candidates
) -> torch.Tensor:
    """Computes the cross entropy of each target against all items of the batch.

    The default. The other users' items serve as negatives at no extra encoding, so that it suits expensive item
    encoders; it needs large batches, which gradient caching makes possible. Popular items are in the batch more often
    than other items; the logQ correction makes up for that. A user's own items are never negatives.

    Paper: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.

    Arguments as in [`bce_loss`]; of the candidates, `log_q` for the logQ correction, and `synthetic` for one more
    negative of each target.

    Example:

    >>> import torch
    >>> from modeling_transrec.models.candidates import Candidates
    >>> items, own = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]), torch.tensor([[2, 0]])
    >>> in_batch_loss(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), Candidates(items, own))
    tensor(0.0181)
    """
    scores = full_precision(states @ candidates.embeddings.T)  # (M, U)
    if candidates.log_q is not None:
        scores = scores - candidates.log_q
    excluded = candidates.excluded[users]  # (M, U)
    excluded.scatter_(1, targets[:, None], False)
    scores = scores.masked_fill(excluded, float("-inf"))
    if candidates.synthetic is not None:
        of_synthetic = (states * F.embedding(targets, candidates.synthetic)).sum(-1, keepdim=True)  # (M, 1)
        scores = torch.cat([scores, full_precision(of_synthetic)], dim=1)
    return F.cross_entropy(scores, targets, reduction="sum")


def distilled_in_batch_loss(
    states: torch.Tensor,
    targets: torch.Tensor,
    users: torch.Tensor,
    candidates: Candidates,
    num_views: int = 2,
    distillation_temperature: float = 0.5,
    distillation_weight: float = 1.0,
    distillation_warmup_epochs: int = 0,
) -> torch.Tensor:
    """Computes the cross entropy of each view, and what the views learn from each other: ODMT's online distillation.

    Choose it with `fusion="id_aware"`, whose item embeddings and states are views side by side, the id's last. Each
    view has an [`in_batch_loss`] of its own scores; those of the contents are drawn to the id's, and the id's to the
    mean of all. A teacher gets no gradient from its students. In the authors' code it does: all views then agree on
    the same rare items, whose scores the logQ correction raises, which costs nothing and ranks below chance.

    Paper: Ji et al., "Online Distillation-enhanced Multi-modal Transformer for Sequential Recommendation" (ODMT), ACM
    MM 2023.

    Arguments as in [`in_batch_loss`], and the number of views, the temperature at which they are compared, the weight
    of that, and the epochs over which the weight rises, see [`rampup`]; they need `candidates.epoch`.

    Example:

    >>> import torch
    >>> from modeling_transrec.models.candidates import Candidates
    >>> items, own = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]), torch.tensor([[2, 0]])
    >>> distilled_in_batch_loss(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), Candidates(items, own))
    tensor(0.0378)
    """
    excluded = candidates.excluded[users]  # (M, U)
    excluded.scatter_(1, targets[:, None], False)
    pairs = zip(states.chunk(num_views, dim=-1), candidates.embeddings.chunk(num_views, dim=-1), strict=True)
    views = torch.stack([full_precision(state @ embedding.T) for state, embedding in pairs])  # (views, M, U)
    views = views * num_views  # in the space of scores their sum is the mean
    if candidates.log_q is not None:
        views = views - candidates.log_q
    views = views.masked_fill(excluded, float("-inf"))
    total = sum(F.cross_entropy(view, targets, reduction="sum") for view in views)

    def distillation(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        expected = (teacher.detach() / distillation_temperature).softmax(dim=-1)
        found = (student / distillation_temperature).log_softmax(dim=-1).masked_fill(excluded, 0.0)
        return -(distillation_temperature**2) * (expected * found).sum()

    *contents, of_id = views
    distilled = [distillation(content, of_id) for content in contents]
    weight = distillation_weight * rampup(candidates.epoch, distillation_warmup_epochs)
    return total + weight * sum(distilled, distillation(of_id, views.mean(dim=0)))


def rampup(epoch: torch.Tensor | int, num_epochs: int) -> torch.Tensor | float:
    """Returns a factor that rises to 1 along a sigmoid, `exp(-5 (1 - e / E)²)`, `e` counted from 1.

    Paper: Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017.

    Args:
        epoch: the epoch, counted from 0.
        num_epochs: `E`, after which it is 1; with 0 it is from the beginning.

    >>> rampup(0, 20), rampup(torch.tensor(99), 20), rampup(0, 0)
    (tensor(0.0110), tensor(1.), 1.0)
    """
    if not num_epochs:
        return 1.0
    done = torch.as_tensor(epoch + 1).clamp(max=num_epochs) / num_epochs
    return torch.exp(-5 * (1 - done) ** 2)


def mixed_loss(
    states: torch.Tensor, targets: torch.Tensor, users: torch.Tensor, candidates: Candidates
) -> torch.Tensor:
    """Computes the cross entropy of each target against all items of the batch and sampled ones.

    Choose it where items are cheap to encode, such as ids or the features of a frozen backbone, with thousands of
    negatives (`num_negatives`): rare items, which are seldom in a batch, are then told apart, too. It is
    [`in_batch_loss`] with more candidates; the logQ correction is that of both sources together.

    Paper: Yang et al., "Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations", WWW 2020.

    Arguments as in [`in_batch_loss`].

    Example:

    >>> import torch
    >>> from modeling_transrec.models.candidates import Candidates
    >>> items, own = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]), torch.tensor([[2, 0]])
    >>> mixed_loss(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), Candidates(items, own))
    tensor(0.0181)
    """
    return in_batch_loss(states, targets, users, candidates)


def sampled_softmax_loss(
    states: torch.Tensor, targets: torch.Tensor, users: torch.Tensor, candidates: Candidates
) -> torch.Tensor:
    """Computes the cross entropy of each target against itself and sampled negatives that the batch shares.

    Choose it for large catalogues with cheap item encoders, with hundreds of negatives (`num_negatives`): they are
    encoded once for all positions. A user's own items are no negatives. With `negative_sampling="popularity"` the logQ
    correction makes up for popular items being sampled more often.

    Papers: Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation", ACL 2015; for
    sequential recommendation Klenitskiy and Vasilev, "Turning Dross Into Gold Loss", RecSys 2023.

    Arguments as in [`bce_loss`]; of the candidates, `negative_index` `(N,)`, and `log_q` for the logQ correction.

    Example:

    >>> import torch
    >>> from modeling_transrec.models.candidates import Candidates
    >>> items, own = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[-1, 0]])
    >>> candidates = Candidates(items, own, negative_index=torch.tensor([1]))
    >>> sampled_softmax_loss(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), candidates)
    tensor(0.0181)
    """
    positive_scores, negative_scores, excluded = _scores_of_shared_negatives(states, targets, users, candidates)
    if candidates.log_q is not None:
        positive_scores = positive_scores - candidates.log_q[targets]
        negative_scores = negative_scores - candidates.log_q[candidates.negative_index]
    negative_scores = negative_scores.masked_fill(excluded, float("-inf"))
    partition = torch.cat([positive_scores[:, None], negative_scores], dim=-1).logsumexp(-1)  # (M,)
    return (partition - positive_scores).sum()


def gbce_loss(
    states: torch.Tensor,
    targets: torch.Tensor,
    users: torch.Tensor,
    candidates: Candidates,
    gbce_t: float = 0.75,
) -> torch.Tensor:
    """Computes a generalised binary cross entropy: sampled negatives without overconfidence.

    Choose it where scores are to be read as probabilities, with hundreds of negatives that the batch shares. The
    positive's probability is raised to the power `beta`, which makes up for the share `N / (V - 1)` of the negatives
    that are sampled.

    Paper: Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
    Sampling", RecSys 2023.

    Arguments as in [`bce_loss`]; of the candidates, `negative_index` `(N,)` and `num_catalogue_items`. `gbce_t` is the
    calibration, from 0 (plain binary cross entropy) to 1 (fully calibrated).

    Example:

    >>> import torch
    >>> from modeling_transrec.models.candidates import Candidates
    >>> items, own = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[-1, 0]])
    >>> candidates = Candidates(items, own, negative_index=torch.tensor([1]), num_catalogue_items=5)
    >>> gbce_loss(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), candidates)
    tensor(0.1824)
    """
    num_others = torch.as_tensor(candidates.num_catalogue_items - 1, device=states.device).clamp(min=1)
    sampled = (len(candidates.negative_index) / num_others).clamp(max=1.0)
    beta = sampled * (gbce_t * (1 - 1 / sampled) + 1 / sampled)
    positive_scores, negative_scores, excluded = _scores_of_shared_negatives(states, targets, users, candidates)
    negative_terms = F.softplus(negative_scores).masked_fill(excluded, 0.0)
    return beta * F.softplus(-positive_scores).sum() + negative_terms.sum()


def _scores_of_shared_negatives(
    states: torch.Tensor, targets: torch.Tensor, users: torch.Tensor, candidates: Candidates
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the targets' scores `(M,)`, the negatives' `(M, N)`, and which are the user's own items `(M, N)`."""
    negatives = F.embedding(candidates.negative_index, candidates.embeddings)  # (N, D)
    positive_scores = full_precision((states * F.embedding(targets, candidates.embeddings)).sum(-1))
    negative_scores = full_precision(states @ negatives.T)
    return positive_scores, negative_scores, candidates.excluded[:, candidates.negative_index][users]


def full_softmax_loss(
    states: torch.Tensor, targets: torch.Tensor, users: torch.Tensor, candidates: Candidates
) -> torch.Tensor:
    """Computes the cross entropy of each target against the whole catalogue.

    Choose it for catalogues whose items are cheap to encode, such as ids or precomputed features, and small enough
    for scores `(M, V)` to fit the memory.

    Arguments as in [`bce_loss`]; the candidates are every item of the catalogue.

    Example:

    >>> import torch
    >>> from modeling_transrec.models.candidates import Candidates
    >>> items, own = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[-1, 0]])
    >>> full_softmax_loss(torch.ones(1, 2), torch.tensor([0]), torch.tensor([0]), Candidates(items, own))
    tensor(0.0181)
    """
    return F.cross_entropy(full_precision(states @ candidates.embeddings.T), targets, reduction="sum")  # over (M, V)


class Loss(NamedTuple):
    """A loss function and its requirements.

    Args:
        function: takes states, targets, users, candidates and the fields in `options`.
        candidates: their source: the `"batch"`, `"position"` (negatives sampled for every position),
            `"shared"` (negatives sampled for the whole batch), `"mixed"` (the batch and such negatives) or the whole
            `"catalogue"`.
        inputs: keys of [`LossInputs`] that the collator provides.
        options: fields of the configuration that it reads.
        reads_views: whether it is for items of several views, side by side.
    """

    function: Callable[..., torch.Tensor]
    candidates: Literal["batch", "position", "shared", "mixed", "catalogue"]
    inputs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    reads_views: bool = False

    @property
    def samples(self) -> bool:
        """Whether it needs sampled negatives."""
        return self.candidates in ("position", "shared", "mixed")

    @property
    def reads_batch(self) -> bool:
        """Whether all items of the batch are candidates."""
        return self.candidates in ("batch", "mixed")


LOSSES = {
    "bce": Loss(bce_loss, "position", ("negative_index",)),
    "in_batch": Loss(in_batch_loss, "batch", ("item_log_popularity",)),
    "distilled_in_batch": Loss(
        distilled_in_batch_loss,
        "batch",
        ("item_log_popularity", "epoch"),
        ("num_views", "distillation_temperature", "distillation_weight", "distillation_warmup_epochs"),
        reads_views=True,
    ),
    "mixed": Loss(mixed_loss, "mixed", ("item_log_popularity", "num_catalogue_items")),
    "sampled_softmax": Loss(sampled_softmax_loss, "shared", ("negative_index", "item_log_popularity")),
    "gbce": Loss(gbce_loss, "shared", ("negative_index", "num_catalogue_items"), ("gbce_t",)),
    "full_softmax": Loss(full_softmax_loss, "catalogue"),
}
