import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torchmetrics.functional import retrieval

from modeling_transrec.evaluation.metrics import (
    Rankings,
    hit_rate,
    ndcg,
    popularity_bias,
    ranking_metrics,
    reciprocal_rank,
)
from modeling_transrec.evaluation.ranking import rank_targets


USERS, CANDIDATES, K = 37, 23, 7


def draw(levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns scores and targets; of few levels nearly all scores tie."""
    rng = np.random.default_rng(levels)
    scores = rng.integers(1, levels + 1, size=(USERS, CANDIDATES)).astype(np.float64)
    return torch.from_numpy(scores), torch.from_numpy(rng.integers(CANDIDATES, size=USERS))


def our_metrics(scores: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    return ranking_metrics(Rankings(*rank_targets(scores.clone(), targets)), ks=[K])


def orders(scores: np.ndarray, target: int):
    """Yields scores without ties, of each place that the target may have among those that tie with it."""
    others = np.flatnonzero((scores == scores[target]) & (np.arange(len(scores)) != target))
    for place in range(len(others) + 1):
        untied = scores.copy()
        untied[others] += np.where(np.arange(len(others)) < place, 0.25, -0.25)
        yield untied


@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_equals_torchmetrics(in_float64, levels):
    """Their NDCG averages over ties; their hit rate and reciprocal rank are averaged over the target's places."""
    scores, targets = draw(levels)
    relevant = torch.nn.functional.one_hot(targets, CANDIDATES).bool()
    users = list(zip(scores, relevant, strict=True))
    theirs = {f"ndcg@{K}": [retrieval.retrieval_normalized_dcg(*user, top_k=K).item() for user in users]}
    theirs |= {f"hr@{K}": [], "mrr": []}
    for own, wanted, target in zip(scores.numpy(), relevant, targets.tolist(), strict=True):
        untied = [torch.from_numpy(one) for one in orders(own, target)]
        hits = [retrieval.retrieval_hit_rate(one, wanted, top_k=K).item() for one in untied]
        theirs[f"hr@{K}"].append(np.mean(hits))
        theirs["mrr"].append(np.mean([retrieval.retrieval_reciprocal_rank(one, wanted).item() for one in untied]))
    expected = {name: np.mean(values) for name, values in theirs.items()}
    assert our_metrics(scores, targets) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("levels", [3, 1000])
def test_equals_ranx(levels):
    """It has no ties: each of the places that the target may have is a query."""
    ranx = pytest.importorskip("ranx", reason="ranx is not installed; `pip install ranx` for this test")
    scores, targets = draw(levels)
    values: dict[str, list] = {f"hr@{K}": [], f"ndcg@{K}": [], "mrr": []}
    for own, target in zip(scores.numpy(), targets.tolist(), strict=True):
        untied = {
            f"q{place}": {f"i{item}": float(score) for item, score in enumerate(one)}
            for place, one in enumerate(orders(own, target))
        }
        wanted = ranx.Qrels({query: {f"i{target}": 1} for query in untied})
        found = ranx.evaluate(wanted, ranx.Run(untied), [f"hit_rate@{K}", f"ndcg@{K}", "mrr"])
        for name, value in zip(values, found.values(), strict=True):
            values[name].append(value)
    expected = {name: np.mean(one) for name, one in values.items()}
    assert our_metrics(scores, targets) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("num_better", "num_tied"), [(0, 0), (3, 4), (8, 5), (12, 2), (0, 30)])
def test_ties_are_worth_the_mean_over_their_orders(num_better, num_tied):
    k = 10
    ranks = range(num_better + 1, num_better + num_tied + 2)
    better, tied = torch.tensor([num_better]), torch.tensor([num_tied])
    assert hit_rate(better, tied, k).item() == pytest.approx(np.mean([rank <= k for rank in ranks]))
    gains = [1 / math.log2(rank + 1) if rank <= k else 0 for rank in ranks]
    assert ndcg(better, tied, k).item() == pytest.approx(np.mean(gains))
    assert reciprocal_rank(better, tied).item() == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_popularity_is_that_of_each_users_own_history():
    """Every user counts once, however long the history; one without a list is left out, and so is its history."""
    counts = np.array([100, 10, 1, 0])
    none, lists = torch.zeros(3, dtype=torch.long), torch.tensor([[0, 1], [2, -1], [-1, -1]])
    rankings = Rankings(none, none, lists, counts, histories=pa.array([[1], [0] * 20 + [3] * 20, [0]]))
    assert popularity_bias(rankings, k=2) == pytest.approx(((100 + 10) / 2 + 1) / (10 + 50))
    unknown = dataclasses.replace(rankings, histories=pa.array([[3], [3, 3], [0]]))
    with pytest.raises(ValueError, match="no user has both a list and a history with an item that has training"):
        popularity_bias(unknown, k=2)


def test_floats_negatives_and_no_users_are_errors():
    with pytest.raises(ValueError, match="integer"):
        hit_rate(torch.tensor([1.0]), torch.tensor([0.0]), 10)
    with pytest.raises(ValueError, match="negative"):
        hit_rate(torch.tensor([-1]), torch.tensor([0]), 10)
    with pytest.raises(ValueError, match="shape"):
        hit_rate(torch.tensor([1, 2]), torch.tensor([0]), 10)
    with pytest.raises(ValueError, match="no users"):
        ranking_metrics(Rankings(*torch.empty(2, 0, dtype=torch.long)))
