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

    Args:
        values: NaN where a user is not tested with a seed, as where few users are known.

    >>> found = estimate(np.array([[0.0, 1.0, 0.5, 0.5]] * 3))
    >>> found.mean, found.spread, found.low < 0.5 < found.high
    (0.5, 0.0, True)
    """
    values = _tested(values)
    of_seeds = np.nanmean(values, axis=1)
    low, high = _interval(values)
    spread = float(of_seeds.std(ddof=1)) if len(values) > 1 else None
    return Estimate(float(np.nanmean(values)), low, high, spread, len(values))


def _tested(values: np.ndarray) -> np.ndarray:
    """Returns the columns of the users that are tested with any seed."""
    return values[:, np.isfinite(values).any(axis=0)]


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the interval of the mean of values `(S, N)` over users, each drawn with all of the user's seeds."""
    of_users, counts = np.nanmean(values, axis=0), np.isfinite(values).sum(axis=0)
    if of_users.min() == of_users.max():  # the bootstrap of a constant
        return float(of_users[0]), float(of_users[0])
    is_even = counts.min() == counts.max()
    found = scipy.stats.bootstrap(
        (of_users,) if is_even else (of_users * counts, counts),
        np.mean if is_even else lambda sums, numbers, axis: sums.sum(axis=axis) / numbers.sum(axis=axis),
        paired=True,
        vectorized=True,
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
        p_seeds: p-value of the t-test over seeds, each paired with itself where both models have several; `None` with
            fewer than three.
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


def compare(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Difference]:
    """Compares models, each with its reference, and corrects for how many they are.

    Args:
        pairs: of each model its values and the reference's `(S, N)`, of the same users and the same seeds in their
            order; `(1, N)` of one that has no seed. NaN where a user is not tested with a seed, in both.

    Example:

    >>> generator = np.random.default_rng(0)
    >>> reference = generator.random((1, 500))
    >>> models = [reference + 0.2 * generator.normal(size=(3, 500)), reference + 0.1]
    >>> same, better = compare([(model, reference) for model in models])
    >>> same.in_words, better.in_words
    ('no difference shown', 'better')
    """
    found = [_compare(*pair) for pair in pairs]
    if not found:
        return []
    worst = [max(one.p_users, one.p_users if one.p_seeds is None else one.p_seeds) for one in found]
    corrected = scipy.stats.false_discovery_control(worst, method="bh")
    return [
        Difference(one.mean, one.low, one.high, one.p_users, one.p_seeds, float(value))
        for one, value in zip(found, corrected, strict=True)
    ]


def _compare(values: np.ndarray, reference: np.ndarray) -> Difference:
    differences = _tested(values - reference).round(12)  # `(S, N)`; means of the same values differ by less
    seeds = np.nanmean(differences, axis=1)
    low, high = _interval(differences)
    p_users = _p_value(np.nanmean(differences, axis=0).round(12))
    return Difference(float(np.nanmean(differences)), low, high, p_users, _p_value(seeds) if len(seeds) > 2 else None)


def _p_value(differences: np.ndarray) -> float:
    if differences.min() == differences.max():  # nothing varies: the test has no denominator
        return 1.0 if differences[0] == 0 else 0.0
    return float(scipy.stats.ttest_1samp(differences, 0).pvalue)
