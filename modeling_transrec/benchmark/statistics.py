"""Statistics of rankings: intervals over users and over seeds, and comparisons of models on the same users."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch

from ..evaluation.metrics import hit_rate, ndcg


CONFIDENCE = 0.95
RESAMPLES = 2000
_USERS_AT_A_TIME = 50  # samples that are drawn at a time: of 100,000 users, 40 MB
PER_USER = {"hr": hit_rate, "ndcg": ndcg}


def values_of_users(num_better: np.ndarray, num_tied: np.ndarray, metric: str = "ndcg", k: int = 10) -> np.ndarray:
    """Returns a metric of each user `(N,)` from the rank of the user's target.

    >>> values_of_users(np.array([0, 9, 10]), np.array([0, 0, 0]), "hr").tolist()
    [1.0, 1.0, 0.0]
    """
    return PER_USER[metric](torch.from_numpy(num_better), torch.from_numpy(num_tied), k).numpy()


@dataclass(frozen=True)
class Estimate:
    """
    A mean over users and seeds.

    Args:
        mean: over all.
        low, high: 95 % interval over users, who are drawn again 2,000 times (percentile bootstrap).
        spread: standard deviation of the seeds' means; `None` with one seed.
        num_seeds: number of seeds.
    """

    mean: float
    low: float
    high: float
    spread: float | None
    num_seeds: int


def estimate(values: np.ndarray) -> Estimate:
    """Returns mean and interval of values `(S, N)` of `S` seeds and `N` users.

    >>> found = estimate(np.array([[0.0, 1.0, 0.5, 0.5]] * 3))
    >>> found.mean, found.spread, found.low < 0.5 < found.high
    (0.5, 0.0, True)
    """
    of_seeds = values.mean(axis=1)
    low, high = _interval(values.mean(axis=0))
    spread = float(of_seeds.std(ddof=1)) if len(values) > 1 else None
    return Estimate(float(values.mean()), low, high, spread, len(values))


def _interval(values: np.ndarray) -> tuple[float, float]:
    if values.min() == values.max():  # the bootstrap of a constant
        return float(values[0]), float(values[0])
    found = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_USERS_AT_A_TIME,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Difference:
    """
    A model beside another one, on the same users.

    Args:
        mean: of the differences.
        low, high: 95 % interval over users (paired bootstrap).
        p_users: p-value of the paired t-test over users.
        p_seeds: p-value of the t-test over seeds, paired where both models have several; `None` with fewer than three.
        p_corrected: the larger of both, corrected for the number of comparisons (Benjamini and Hochberg, 1995).
    """

    mean: float
    low: float
    high: float
    p_users: float
    p_seeds: float | None
    p_corrected: float = float("nan")

    @property
    def in_words(self) -> str:
        """What is shown."""
        if not self.p_corrected < 1 - CONFIDENCE or self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if self.mean > 0 else "worse"


def compare(models: Sequence[np.ndarray], reference: np.ndarray) -> list[Difference]:
    """Compares models with a reference, and corrects for how many they are.

    Args:
        models: values `(S, N)` of each model, of `S` seeds and the same `N` users.
        reference: values `(S, N)`, or `(1, N)` of what has no seed.

    Example:

    >>> generator = np.random.default_rng(0)
    >>> reference = generator.random((1, 500))
    >>> same, better = compare([reference + 0.2 * generator.normal(size=(3, 500)), reference + 0.1], reference)
    >>> same.in_words, better.in_words
    ('no difference shown', 'better')
    """
    found = [_compare(values, reference) for values in models]
    if not found:
        return []
    worst = [max(one.p_users, one.p_users if one.p_seeds is None else one.p_seeds) for one in found]
    corrected = scipy.stats.false_discovery_control(worst, method="bh")
    return [
        Difference(one.mean, one.low, one.high, one.p_users, one.p_seeds, float(value))
        for one, value in zip(found, corrected, strict=True)
    ]


def _compare(values: np.ndarray, reference: np.ndarray) -> Difference:
    of_users = (values.mean(axis=0) - reference.mean(axis=0)).round(12)  # means of the same values differ by less
    seeds = values.mean(axis=1) - (reference.mean(axis=1) if len(reference) == len(values) else reference.mean())
    low, high = _interval(of_users)
    p_seeds = _p_value(seeds) if len(seeds) > 2 else None
    return Difference(float(of_users.mean()), low, high, _p_value(of_users), p_seeds)


def _p_value(differences: np.ndarray) -> float:
    if differences.min() == differences.max():  # nothing varies: the test has no denominator
        return 1.0 if differences[0] == 0 else 0.0
    return float(scipy.stats.ttest_1samp(differences, 0).pvalue)
