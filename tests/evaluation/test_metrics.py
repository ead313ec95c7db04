import math

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

from modeling_transrec.evaluation.metrics import Rankings, hit_rate, ndcg, ranking_metrics, reciprocal_rank


def test_equals_torchmetrics_where_nothing_ties():
    rng = np.random.default_rng(1)
    users, candidates, k = 37, 23, 7
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(1, candidates + 1), (users, 1)), axis=1)).float()
    targets = torch.from_numpy(rng.integers(candidates, size=users))
    num_better = (scores > scores.gather(1, targets[:, None])).sum(1)
    ours = ranking_metrics(Rankings(num_better, torch.zeros_like(num_better)), ks=[k])

    relevant = torch.nn.functional.one_hot(targets, candidates).flatten()
    indexes = torch.arange(users).repeat_interleave(candidates)
    theirs = {
        f"hr@{k}": RetrievalHitRate(top_k=k)(scores.flatten(), relevant, indexes),
        f"ndcg@{k}": RetrievalNormalizedDCG(top_k=k)(scores.flatten(), relevant, indexes),
        "mrr": RetrievalMRR()(scores.flatten(), relevant, indexes),
    }
    assert ours == pytest.approx({name: value.item() for name, value in theirs.items()}, abs=1e-6)


@pytest.mark.parametrize(("num_better", "num_tied"), [(0, 0), (3, 4), (8, 5), (12, 2), (0, 30)])
def test_ties_are_worth_the_mean_over_their_orders(num_better, num_tied):
    k = 10
    ranks = range(num_better + 1, num_better + num_tied + 2)
    better, tied = torch.tensor([num_better]), torch.tensor([num_tied])
    assert hit_rate(better, tied, k).item() == pytest.approx(np.mean([rank <= k for rank in ranks]))
    gains = [1 / math.log2(rank + 1) if rank <= k else 0 for rank in ranks]
    assert ndcg(better, tied, k).item() == pytest.approx(np.mean(gains))
    assert reciprocal_rank(better, tied).item() == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_floats_negatives_and_no_users_are_errors():
    with pytest.raises(ValueError, match="integer"):
        hit_rate(torch.tensor([1.0]), torch.tensor([0.0]), 10)
    with pytest.raises(ValueError, match="negative"):
        hit_rate(torch.tensor([-1]), torch.tensor([0]), 10)
    with pytest.raises(ValueError, match="shape"):
        hit_rate(torch.tensor([1, 2]), torch.tensor([0]), 10)
    with pytest.raises(ValueError, match="no users"):
        ranking_metrics(Rankings(*torch.empty(2, 0, dtype=torch.long)))
