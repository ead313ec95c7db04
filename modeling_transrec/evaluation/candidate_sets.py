"""Ranks the target among a few sampled candidates: 1 of 4, 10 of 100.

That is how prompted language models are measured, which cannot rank a catalogue. The numbers are far above those of a
full ranking and say less (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020): they compare
only with others on the same candidates.

Shapes: `N` users of a split, `B` of them at a time, `L` history length, `C` candidates, the target the first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..data.loading import read_histories
from .evaluator import FullRankingEvaluator
from .metrics import hit_rate, ndcg, reciprocal_rank
from .ranking import check_finite
from .scoring import CatalogueScorer


# From histories `(B, L)` and candidates `(B, C)`, indices into the catalogue, to scores `(B, C)`.
CandidateScores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def sample_candidates(evaluator: FullRankingEvaluator, users: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Draws candidates of users, given by index: the target, then other items outside the history, each once.

    What a user gets is a function of the seed and the user's index.

    Returns:
        Indices into the catalogue `(B, C)`.

    Raises:
        ValueError: if the catalogue has too few items for a user.
    """
    chosen, num_items = [], len(evaluator.items)
    for user, history in zip(users, read_histories(evaluator.histories, users), strict=True):
        target = evaluator.targets[user]
        others = np.setdiff1d(np.arange(num_items), [*history, target])
        if len(others) < count - 1:
            raise ValueError(
                f"user {user} has {len(others)} items outside the history, and {count} candidates need {count - 1}; "
                "give fewer"
            )
        rng = np.random.default_rng([seed, int(user)])
        chosen.append([target, *rng.choice(others, count - 1, replace=False)])
    return np.array(chosen, dtype=np.int64)


def scores_of(scorer: CatalogueScorer) -> CandidateScores:
    """Returns the scores that a model, or a baseline, has for candidates."""

    def score(histories: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return scorer.scores(histories.to(scorer.item_embeddings.device)).cpu().gather(1, candidates)

    return score


def evaluate_candidates(
    evaluator: FullRankingEvaluator,
    score: CandidateScores,
    num_candidates: int,
    ks: Sequence[int] = (1, 10),
    num_users: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Ranks each user's target among sampled candidates; ties count as their expected value.

    Args:
        evaluator: has the split.
        score: a language model's, see [`LanguageModelRanker`], or [`scores_of`] a model.
        num_candidates: `C`, the target among them.
        ks: cut-offs.
        num_users: users that are ranked, the same for every model; by default all.
        seed: of the users and their candidates.

    Returns:
        The metrics and the protocol that belongs to them.

    Example:

    >>> import datasets
    >>> items = datasets.Dataset.from_dict({"item_id": ["a", "b", "c", "d"]})
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a"], ["b"]], "target": ["b", "d"]})
    >>> evaluator = FullRankingEvaluator(items, sequences, ks=[1])
    >>> evaluate_candidates(evaluator, lambda histories, candidates: -candidates.float(), 3, ks=[1])["metrics"]
    {'hr@1': 0.5, 'ndcg@1': 0.5, 'mrr': 0.6667}
    """
    users = np.arange(len(evaluator.targets))
    if num_users is not None and num_users < len(users):
        users = np.sort(np.random.default_rng(seed).choice(users, num_users, replace=False))
    better, tied = [], []
    for block in np.array_split(users, max(1, -(-len(users) // evaluator.batch_size))):
        candidates = torch.from_numpy(sample_candidates(evaluator, block, num_candidates, seed))
        scores = score(torch.from_numpy(read_histories(evaluator.histories, block)), candidates)
        check_finite(scores)
        better.append((scores[:, 1:] > scores[:, :1]).sum(dim=1))
        tied.append((scores[:, 1:] == scores[:, :1]).sum(dim=1))
    counts = torch.cat(better), torch.cat(tied)
    found = {f"{name}@{k}": metric(*counts, k) for name, metric in (("hr", hit_rate), ("ndcg", ndcg)) for k in ks}
    found["mrr"] = reciprocal_rank(*counts)
    protocol = {
        **evaluator.protocol,
        "num_users": len(users),
        "num_candidates": num_candidates,
        "ranking": f"sampled: the target and {num_candidates - 1} items outside the history, seed {seed}",
        "ks": list(ks),
    }
    return {"metrics": {name: round(float(gains.mean()), 4) for name, gains in found.items()}, "protocol": protocol}
