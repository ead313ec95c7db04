"""Statistics of rankings: intervals over users and over seeds, and comparisons of models on the same users."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch

from ..evaluation.metrics import METRICS, Rankings, hit_rate, ndcg, reciprocal_rank


CONFIDENCE = 0.95
RESAMPLES = 2000
_USERS_AT_A_TIME = 50  # samples that are drawn at a time: of 100,000 users, 40 MB
PER_USER = {"hr": hit_rate, "ndcg": ndcg, "mrr": reciprocal_rank}


def values_of_users(
    num_better: np.ndarray, num_tied: np.ndarray, metric: str = "ndcg", k: int | None = 10
) -> np.ndarray:
    """Returns a metric of each user `(N,)` from the rank of the user's target; without a cut-off the MRR's.

    >>> values_of_users(np.array([0, 9, 10]), np.array([0, 0, 0]), "hr").tolist()
    [1.0, 1.0, 0.0]
    """
    measure: Callable[..., torch.Tensor] = PER_USER[metric]
    return measure(torch.from_numpy(num_better), torch.from_numpy(num_tied), k).numpy()


def values_of_lists(rankings: Rankings, measured: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns two numbers of each user `(2, N)` for the metrics of lists at 10 that were measured, see [`Metric`]."""
    rows = {f"{name}@10": row for name, row in METRICS.items()}
    functions = {name: rows[name].of_users for name in measured if name in rows}
    return {name: of_users(rankings, 10).astype(np.float32) for name, of_users in functions.items() if of_users}


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

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.4f}"
        return f"{self.mean:.4f}{spread} ({self.low:.4f} to {self.high:.4f})"


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


def estimate_quotient(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Returns mean and interval of a quotient of two sums over users, `(S, N)` each, such as one of means.

    Args:
        above, below: what is divided, and by what; both 0 of users that do not count, as of those who are not tested
            with a seed.

    >>> found = estimate_quotient(np.array([[1.0, 2.0, 0.0]]), np.array([[2.0, 2.0, 0.0]]))
    >>> found.mean, found.low, found.high
    (0.75, 0.5, 1.0)
    """
    counts = (below != 0).any(axis=0)
    above, below = above[:, counts].astype(np.float64), below[:, counts].astype(np.float64)
    of_seeds = above.sum(axis=1) / below.sum(axis=1)
    spread = float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None
    if (below == below[0]).all():  # the mean of the seeds' quotients is one quotient
        above, below = above.mean(axis=0, keepdims=True), below[:1]
    if (below == below[0, 0]).all():
        low, high = _interval(above / below)
    else:
        low, high = _bootstrap((*above, *below), _mean_quotient)
    return Estimate(float(of_seeds.mean()), low, high, spread, len(of_seeds))


def _mean_quotient(*parts: np.ndarray, axis: int) -> np.ndarray:
    """Returns the mean over seeds of quotients of sums; a seed of whose users none was drawn says nothing."""
    sums = np.stack([part.sum(axis=axis) for part in parts])
    above, below = np.split(sums, 2)
    with np.errstate(invalid="ignore"):
        return np.nanmean(above / below, axis=0)


def _tested(values: np.ndarray) -> np.ndarray:
    """Returns the columns of the users that are tested with any seed."""
    return values[:, np.isfinite(values).any(axis=0)]


def _interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the interval of the mean of values `(S, N)` over users, each drawn with all of the user's seeds."""
    of_users, counts = np.nanmean(values, axis=0), np.isfinite(values).sum(axis=0)
    if of_users.min() == of_users.max():  # the bootstrap of a constant
        return float(of_users[0]), float(of_users[0])
    if counts.min() == counts.max():
        return _bootstrap((of_users,), np.mean)
    return _bootstrap((of_users * counts, counts), _mean_quotient)


def _bootstrap(of_users: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> tuple[float, float]:
    """Returns the interval of a statistic of arrays `(N,)` over users, who are drawn again."""
    found = scipy.stats.bootstrap(
        of_users,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_USERS_AT_A_TIME,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def intervals_of(rankings: Rankings, measured: Iterable[str]) -> dict[str, list[float]]:
    """Returns low and high end of the interval of each measured metric at 1 or 10, and of the MRR.

    Coverage has none: it is of all lists together, see [`~report.beyond_accuracy`].

    Args:
        rankings: of the users.
        measured: names of metrics, such as `hr@10`.

    Example:

    >>> rankings = Rankings(torch.tensor([0, 0, 30, 30]), torch.tensor([0, 0, 0, 0]))
    >>> intervals_of(rankings, ["hr@10", "hr@20"])
    {'hr@10': [0.0, 1.0]}
    """
    ranks = rankings.num_better.numpy(), rankings.num_tied.numpy()
    wanted: dict[str, tuple[str, int | None]] = {f"{name}@{k}": (name, k) for name in ("hr", "ndcg") for k in (1, 10)}
    wanted["mrr"] = ("mrr", None)
    measured = [*measured]
    found = {name: estimate(values_of_users(*ranks, *wanted[name])[None]) for name in measured if name in wanted}
    for name, (above, below) in values_of_lists(rankings, measured).items():
        found[name] = estimate_quotient(above[None], below[None])
    return {name: [round(one.low, 6), round(one.high, 6)] for name, one in found.items()}


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
