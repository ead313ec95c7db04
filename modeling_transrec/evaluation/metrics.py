"""Metrics of rankings: hit rate, NDCG and MRR of the one relevant item; coverage, novelty, popularity, diversity and
calibration of lists.

A target's position is given by two counts per user: how many candidates score strictly better than the target and how
many others score the same. Where candidates tie with the target, a metric is its expected value over a random order of
the tied candidates. So a model that gives every candidate the same score is worth exactly as much as a random ranking
(McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
Scores", ECIR 2008).

[`METRICS`] is the table of all metrics: any function of [`Rankings`] is one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.spatial.distance import jensenshannon


T = TypeVar("T")
_VALUES_AT_A_TIME = 2**24  # of items' features: 64 MB
HEAD, TAIL = 0.2, 0.2  # shares of the interactions that the most and the least popular items have


@dataclasses.dataclass(frozen=True)
class Rankings:
    """
    What an evaluation knows about the rankings of its users.

    Args:
        num_better: `(N,)` integers, candidates that score strictly better than the user's target.
        num_tied: `(N,)` integers, other candidates with the target's very score.
        top_items: `(N, K)` indices into the catalogue of each user's best items, best first, -1 where fewer are left;
            items that tie stand in random order.
        item_counts: `(V,)` training interactions with each item of the catalogue.
        item_features: `(V, H)` vectors of the items' content, zeros where an item has none.
        histories: `(N,)` lists of indices into the catalogue, what each user has interacted with.
    """

    num_better: torch.Tensor
    num_tied: torch.Tensor
    top_items: torch.Tensor | None = None
    item_counts: np.ndarray | None = None
    item_features: torch.Tensor | None = None
    histories: pa.ListArray | pa.ChunkedArray | None = None

    def of_users(self, chosen: torch.Tensor) -> "Rankings":
        """Returns the rankings of some users, by `(N,)` booleans or by indices."""
        users = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
        return dataclasses.replace(
            self,
            num_better=self.num_better[users],
            num_tied=self.num_tied[users],
            top_items=None if self.top_items is None else self.top_items[users],
            histories=None if self.histories is None else self.histories.take(pa.array(users.numpy())),
        )

    def recommended(self, k: int) -> np.ndarray:
        """Returns the items of all users' lists of length `k`, one after the other."""
        listed = _given(self.top_items, "top_items")[:, :k].flatten()
        return listed[listed >= 0].numpy()


def _given(field: T | None, name: str) -> T:
    """Returns a field of [`Rankings`] that may be left out; raises `ValueError` where it is."""
    if field is None:
        raise ValueError(f"this metric reads {name} of the rankings, and there are none")
    return field


def _mean_gain(gains: torch.Tensor, num_better: torch.Tensor, num_tied: torch.Tensor) -> torch.Tensor:
    """Returns the mean gain `(B,)` of a target over the ranks from `num_better + 1` to `num_better + num_tied + 1`.

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
    """Returns HR@K of each user `(B,)`: 1 when the target is among the first `k`. Of one relevant item it is recall@K.

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
    """Returns NDCG@K of each user `(B,)`: `1 / log2(rank + 1)` when the target is among the first `k`, else 0.

    With a single relevant item the ideal gain is 1 (Järvelin and Kekäläinen, TOIS 2002).

    Example:

    >>> import torch
    >>> ndcg(torch.tensor([0, 1, 10]), torch.tensor([0, 0, 0]), k=10)
    tensor([1.0000, 0.6309, 0.0000], dtype=torch.float64)
    """
    _check(num_better, num_tied)
    ranks = torch.arange(1, k + 1, dtype=torch.float64, device=num_better.device)
    return _mean_gain(1 / torch.log2(ranks + 1), num_better, num_tied)


def reciprocal_rank(num_better: torch.Tensor, num_tied: torch.Tensor, k: int | None = None) -> torch.Tensor:
    """Returns the reciprocal rank of each user `(B,)`, by default without a cut-off; its mean is the MRR.

    Example:

    >>> import torch
    >>> reciprocal_rank(torch.tensor([0, 3]), torch.tensor([0, 0]))
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    _check(num_better, num_tied)
    size = int((num_better + num_tied).max()) + 1 if len(num_better) else 0
    size = size if k is None else min(size, k)
    ranks = torch.arange(1, size + 1, dtype=torch.float64, device=num_better.device)
    return _mean_gain(1 / ranks, num_better, num_tied)


def coverage(rankings: Rankings, k: int) -> float:
    """Returns the share of the catalogue that is in at least one user's first `k` items (Ge et al., RecSys 2010).

    Example:

    >>> none = torch.tensor([0, 0])
    >>> rankings = Rankings(none, none, top_items=torch.tensor([[0, 1], [0, 2]]), item_counts=np.array([6, 1, 0, 1]))
    >>> coverage(rankings, k=1), coverage(rankings, k=2)
    (0.25, 0.75)
    """
    return len(np.unique(rankings.recommended(k))) / len(_given(rankings.item_counts, "item_counts"))


def novelty(rankings: Rankings, k: int) -> float:
    """Returns the mean information of the first `k` items: `-log2` of their share of the training interactions.

    Every item counts as taken once more than it was, so that a new one has a finite value (Zhou et al., PNAS 2010;
    Vargas and Castells, RecSys 2011).

    Example:

    >>> none = torch.tensor([0, 0])
    >>> rankings = Rankings(none, none, top_items=torch.tensor([[0, 1], [0, 2]]), item_counts=np.array([7, 1, 0, 4]))
    >>> novelty(rankings, k=1), novelty(rankings, k=2)
    (1.0, 2.25)
    """
    return _quotient(novelty_of_users(rankings, k), f"novelty@{k} reads lists, and no user has an item to recommend")


def novelty_of_users(rankings: Rankings, k: int) -> np.ndarray:
    """Returns of each user the information of the listed items, summed, and their number, `(2, N)`."""
    counts = _given(rankings.item_counts, "item_counts") + 1.0
    listed = _given(rankings.top_items, "top_items")[:, :k].numpy()
    is_listed = listed >= 0
    information = -np.log2(counts / counts.sum())[np.where(is_listed, listed, 0)]
    return np.stack([(information * is_listed).sum(axis=1), is_listed.sum(axis=1)])


def _quotient(of_users: np.ndarray, problem: str) -> float:
    """Returns the quotient of the sums of `(2, N)`; a sum of zero below is a problem."""
    above, below = of_users.sum(axis=1)
    if not below > 0:
        raise ValueError(problem)
    return float(above / below)


def popularity_bias(rankings: Rankings, k: int) -> float:
    """Says how many times as popular the first `k` items are as the items of the users' own histories.

    It is the group average popularity of the lists divided by that of the histories: the mean number of training
    interactions of a list's items, and of a history's, each averaged over users. 1 says that users are shown items as
    popular as those that they take; what it is above 1 is the ΔGAP of Abdollahpouri et al., "The Unfairness of
    Popularity Bias in Recommendation" (RMSE at RecSys 2019), also called popularity lift. Users whose list is empty
    are left out.

    Example:

    >>> none, counts = torch.tensor([0, 0]), np.array([6, 4, 2, 0])
    >>> rankings = Rankings(none, none, torch.tensor([[0, 1], [0, -1]]), counts, histories=pa.array([[2, 3, 2], [1]]))
    >>> popularity_bias(rankings, k=1), popularity_bias(rankings, k=2)
    (2.25, 2.0625)
    """
    problem = (
        f"popularity_bias@{k} compares lists with histories, and no user has both a list and a history with an item "
        "that has training interactions"
    )
    return _quotient(popularity_of_users(rankings, k), problem)


def popularity_of_users(rankings: Rankings, k: int) -> np.ndarray:
    """Returns the mean training interactions of each user's listed items, and of those of the history, `(2, N)`.

    Both are 0 of users whose list or history is empty.
    """
    counts = _given(rankings.item_counts, "item_counts").astype(np.float64)
    owner, items, of_history, taken = _lists_and_histories(rankings, k)
    num_users = len(rankings.num_better)
    of_lists = _mean_of_users(counts[items], owner, num_users)
    of_histories = _mean_of_users(counts[taken], of_history, num_users)
    return np.where(np.isfinite(of_lists) & np.isfinite(of_histories), [of_lists, of_histories], 0.0)


def _lists_and_histories(rankings: Rankings, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns users and items of the lists of length `k`, and users and items of the histories, `(E,)` and `(H,)`."""
    listed = _given(rankings.top_items, "top_items")[:, :k].numpy()
    histories = _given(rankings.histories, "histories")
    owner, place = np.nonzero(listed >= 0)
    lengths = pc.list_value_length(histories).to_numpy(zero_copy_only=False)
    taken = pc.list_flatten(histories).to_numpy(zero_copy_only=False)
    return owner, listed[owner, place], np.repeat(np.arange(len(lengths)), lengths), taken


def _mean_of_users(values: np.ndarray, owner: np.ndarray, num_users: int) -> np.ndarray:
    """Returns the mean of each user's values `(N,)`, NaN of users without any."""
    number = np.bincount(owner, minlength=num_users)
    return np.where(number > 0, np.bincount(owner, values, num_users) / np.maximum(number, 1), np.nan)


def diversity(rankings: Rankings, k: int) -> float:
    """Says how unlike the first `k` items of a list are: 1 - cosine of their content, the mean over pairs and users.

    Items without content are left out, and so are lists that have fewer than two others (Smyth and McClave, ICCBR
    2001; Ziegler et al., "Improving Recommendation Lists Through Topic Diversification", WWW 2005).

    Raises:
        ValueError: if no list has two items with content.

    Example:

    >>> none = torch.tensor([0, 0])
    >>> features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> rankings = Rankings(none, none, top_items=torch.tensor([[0, 1], [0, 2]]), item_features=features)
    >>> diversity(rankings, k=2)
    0.5
    """
    problem = f"diversity@{k} compares the items of a list, and no list has two items with content"
    return _quotient(diversity_of_users(rankings, k), problem)


def diversity_of_users(rankings: Rankings, k: int) -> np.ndarray:
    """Returns how unlike the items of each user's list are, and 1, `(2, N)`; 0 and 0 where there are no two."""
    features = torch.nn.functional.normalize(_given(rankings.item_features, "item_features").float(), dim=1)
    has_content = (features != 0).any(dim=1)
    lists = _given(rankings.top_items, "top_items")[:, :k]
    users_at_a_time = max(1, _VALUES_AT_A_TIME // max(1, lists.shape[1] * features.shape[1]))
    found = []
    for block in lists.split(users_at_a_time):
        is_listed = (block >= 0) & has_content[block.clamp(min=0)]  # (B, K)
        vectors = (features[block.clamp(min=0)] * is_listed[:, :, None]).double()  # (B, K, H)
        number = is_listed.sum(dim=1).double()
        is_pair = number >= 2
        # The square of a sum has each pair's product twice, and each item's with itself, which is 1.
        products = vectors.sum(dim=1).square().sum(dim=1) - vectors.square().sum(dim=(1, 2))
        distances = 1 - products / (number * (number - 1)).clamp(min=1)
        found.append(torch.stack([distances * is_pair, is_pair.double()]))
    return torch.cat(found, dim=1).numpy()


def popularity_groups(item_counts: np.ndarray) -> np.ndarray:
    """Returns the group of each item `(V,)`: 0 for popular, 1 for middle, 2 for rare ones.

    The popular items have the first 20 % of the interactions, the rare ones the last 20 %; items that were taken
    equally often are in one group.

    >>> popularity_groups(np.array([10, 4, 3, 2, 1, 0]))
    array([0, 1, 1, 2, 2, 2])
    """
    counts = np.asarray(item_counts, dtype=np.float64)
    values, of_value, number = np.unique(counts, return_inverse=True, return_counts=True)
    if not counts.sum() > 0:
        raise ValueError("no item has training interactions, so none is popular; count those of the training split")
    taken = values * number
    more_popular = (taken.sum() - taken.cumsum()) / taken.sum()  # share of interactions with items above this value
    groups = np.where(more_popular < HEAD, 0, np.where(more_popular >= 1 - TAIL, 2, 1))
    return groups[of_value]


def calibration(rankings: Rankings, k: int) -> float:
    """Says how far the first `k` items are in popularity from a user's history: 0 is calibrated, 1 as far as can be.

    It is the mean over users of the Jensen-Shannon divergence, in bits, between the shares of popular, middle and rare
    items in the list and in the history, see [`popularity_groups`] (the user popularity deviation of Abdollahpouri et
    al., "User-centered Evaluation of Popularity Bias in Recommender Systems", UMAP 2021). Users whose list is empty
    are left out.

    Example:

    >>> none, counts = torch.tensor([0, 0]), np.array([6, 4, 2, 1])
    >>> lists = torch.tensor([[0, -1], [0, 3]])
    >>> calibration(Rankings(none, none, lists, counts, histories=pa.array([[0, 0], [3, 0]])), k=2)
    0.0
    >>> calibration(Rankings(none, none, lists, counts, histories=pa.array([[3], [2, 3]])), k=2)
    0.75
    """
    problem = f"calibration@{k} compares lists with histories, and no user has both"
    return _quotient(divergence_of_users(rankings, k), problem)


def divergence_of_users(rankings: Rankings, k: int) -> np.ndarray:
    """Returns how far each user's list is in popularity from the history, and 1, `(2, N)`; 0 and 0 without both."""
    groups = popularity_groups(_given(rankings.item_counts, "item_counts"))
    owner, items, of_history, taken = _lists_and_histories(rankings, k)
    num_users = len(rankings.num_better)
    in_list = _group_shares(owner, groups[items], num_users)
    in_history = _group_shares(of_history, groups[taken], num_users)
    has_both = (in_list.sum(axis=1) > 0) & (in_history.sum(axis=1) > 0)
    found = np.zeros((2, num_users))
    found[0, has_both] = jensenshannon(in_list[has_both], in_history[has_both], base=2, axis=1) ** 2
    found[1, has_both] = 1
    return found


def _group_shares(owner: np.ndarray, groups: np.ndarray, num_users: int) -> np.ndarray:
    """Returns the share of each group among a user's items, `(N, 3)`; zeros for users without any."""
    counts = np.bincount(owner * 3 + groups, minlength=num_users * 3).reshape(num_users, 3)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


@dataclasses.dataclass(frozen=True)
class Metric:
    """
    A row of [`METRICS`].

    Args:
        function: called with [`Rankings`], and with the cut-off where there is one; returns a number.
        has_cutoff: whether it has a value for each cut-off.
        needs: the optional fields of [`Rankings`] that it reads.
        of_users: of a metric of lists the function that returns two numbers of each user, `(2, N)`, whose sums'
            quotient it is, so that it has an interval over users; none of a metric of all lists together.
    """

    function: Callable[..., float]
    has_cutoff: bool = True
    needs: tuple[str, ...] = ()
    of_users: Callable[[Rankings, int], np.ndarray] | None = None

    @property
    def needs_lists(self) -> bool:
        """Whether it reads the users' lists of items."""
        return "top_items" in self.needs


METRICS = {
    "hr": Metric(lambda rankings, k: hit_rate(rankings.num_better, rankings.num_tied, k).mean().item()),
    "ndcg": Metric(lambda rankings, k: ndcg(rankings.num_better, rankings.num_tied, k).mean().item()),
    "mrr": Metric(
        lambda rankings: reciprocal_rank(rankings.num_better, rankings.num_tied).mean().item(), has_cutoff=False
    ),
    "coverage": Metric(coverage, needs=("top_items", "item_counts")),
    "novelty": Metric(novelty, needs=("top_items", "item_counts"), of_users=novelty_of_users),
    "popularity_bias": Metric(
        popularity_bias, needs=("top_items", "item_counts", "histories"), of_users=popularity_of_users
    ),
    "diversity": Metric(diversity, needs=("top_items", "item_features"), of_users=diversity_of_users),
    "calibration": Metric(calibration, needs=("top_items", "item_counts", "histories"), of_users=divergence_of_users),
}
DEFAULT_METRICS = ("hr", "ndcg", "mrr")


def ranking_metrics(
    rankings: Rankings, ks: Sequence[int] = (5, 10, 20), metrics: Sequence[str] = DEFAULT_METRICS
) -> dict[str, float]:
    """Returns metrics over all users: `{"hr@5": …, "ndcg@5": …, …, "mrr": …}`.

    Raises:
        ValueError: if there are no users, or a metric reads a field of the rankings that is not given.

    Example:

    >>> import torch
    >>> ranking_metrics(Rankings(num_better=torch.tensor([0, 4]), num_tied=torch.tensor([0, 0])), ks=[3])
    {'hr@3': 0.5, 'ndcg@3': 0.5, 'mrr': 0.6}
    """
    if len(rankings.num_better) == 0:
        raise ValueError("there are no users to evaluate: the split is empty")
    rows = {name: METRICS[name] for name in metrics}
    for name, row in rows.items():
        missing = [field for field in row.needs if getattr(rankings, field) is None]
        if missing:
            raise ValueError(f"{name} reads {', '.join(missing)} of the rankings, and there are none")
    found = {f"{name}@{k}": row.function(rankings, k) for k in ks for name, row in rows.items() if row.has_cutoff}
    return found | {name: row.function(rankings) for name, row in rows.items() if not row.has_cutoff}
