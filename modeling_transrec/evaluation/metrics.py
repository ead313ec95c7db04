"""Ranking metrics from the position of the one relevant item: hit rate, NDCG and MRR, fair to ties.

A position is given by two counts per user: how many candidates score strictly better than the target and how many
others score the same. Where candidates tie with the target, a metric is its expected value over a random order of the
tied candidates. So a model that gives every candidate the same score is worth exactly as much as a random ranking
(McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
Scores", ECIR 2008).
"""

from collections.abc import Sequence

import torch


def _mean_gain(gains: torch.Tensor, num_better: torch.Tensor, num_tied: torch.Tensor) -> torch.Tensor:
    """Expected gain `(B,)` of a target placed uniformly on the ranks `num_better + 1 ... num_better + num_tied + 1`.

    `gains` `(R,)` is the gain of ranks 1 to R; ranks beyond R gain nothing.
    """
    cumulative = torch.cat([gains.new_zeros(1), gains.cumsum(0)])  # (R + 1,)
    first = num_better.clamp(max=len(gains))
    last = (num_better + num_tied + 1).clamp(max=len(gains))
    return (cumulative[last] - cumulative[first]) / (num_tied + 1)


def _check(num_better: torch.Tensor, num_tied: torch.Tensor) -> None:
    if num_better.shape != num_tied.shape or num_better.dim() != 1:
        raise ValueError(
            f"num_better and num_tied must both have shape (B,), got {tuple(num_better.shape)} and "
            f"{tuple(num_tied.shape)}"
        )
    if num_better.is_floating_point() or num_tied.is_floating_point():
        raise ValueError("num_better and num_tied are counts and must have an integer type")
    if len(num_better) and min(int(num_better.min()), int(num_tied.min())) < 0:
        raise ValueError("num_better and num_tied are counts and cannot be negative")


def hit_rate(num_better: torch.Tensor, num_tied: torch.Tensor, k: int) -> torch.Tensor:
    """HR@K per user `(B,)`: 1 when the target is among the first `k`. With one relevant item it equals recall@K.

    Args:
        num_better: `(B,)` integers, candidates that score strictly better than the target.
        num_tied: `(B,)` integers, other candidates with the target's very score.
        k: cut-off, in items.

    Example:

    >>> import torch
    >>> hit_rate(torch.tensor([0, 9, 10, 0]), torch.tensor([0, 0, 0, 19]), k=10)
    tensor([1.0000, 1.0000, 0.0000, 0.5000], dtype=torch.float64)
    """
    _check(num_better, num_tied)
    return _mean_gain(torch.ones(k, dtype=torch.float64, device=num_better.device), num_better, num_tied)


def ndcg(num_better: torch.Tensor, num_tied: torch.Tensor, k: int) -> torch.Tensor:
    """NDCG@K per user `(B,)`: `1 / log2(rank + 1)` when the target is among the first `k`, else 0.

    With a single relevant item the ideal gain is 1 (Järvelin and Kekäläinen, TOIS 2002).

    Example:

    >>> import torch
    >>> ndcg(torch.tensor([0, 1, 10]), torch.tensor([0, 0, 0]), k=10)
    tensor([1.0000, 0.6309, 0.0000], dtype=torch.float64)
    """
    _check(num_better, num_tied)
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=num_better.device)
    return _mean_gain(1 / torch.log2(ranks + 1), num_better, num_tied)


def reciprocal_rank(num_better: torch.Tensor, num_tied: torch.Tensor) -> torch.Tensor:
    """Reciprocal rank per user `(B,)`, without a cut-off; its mean is the MRR.

    Example:

    >>> import torch
    >>> reciprocal_rank(torch.tensor([0, 3]), torch.tensor([0, 0]))
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    _check(num_better, num_tied)
    size = int((num_better + num_tied).max()) + 1 if len(num_better) else 0
    ranks = torch.arange(1, size + 1, dtype=torch.float64, device=num_better.device)
    return _mean_gain(1 / ranks, num_better, num_tied)


def ranking_metrics(num_better: torch.Tensor, num_tied: torch.Tensor, ks: Sequence[int] = (5, 10, 20)) -> dict:
    """Means over all users: `{"hr@5": …, "ndcg@5": …, …, "mrr": …}`.

    Example:

    >>> import torch
    >>> ranking_metrics(torch.tensor([0, 4]), torch.tensor([0, 0]), ks=[3])
    {'hr@3': 0.5, 'ndcg@3': 0.5, 'mrr': 0.6}
    """
    if len(num_better) == 0:
        raise ValueError("there are no users to evaluate: the split is empty")
    metrics = {}
    for k in ks:
        metrics[f"hr@{k}"] = hit_rate(num_better, num_tied, k).mean().item()
        metrics[f"ndcg@{k}"] = ndcg(num_better, num_tied, k).mean().item()
    metrics["mrr"] = reciprocal_rank(num_better, num_tied).mean().item()
    return metrics
