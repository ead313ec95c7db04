"""Base classes of the modules of `evaluate` in the repository's folder `metrics`.

A module, as in `evaluate.load("metrics/ndcg_at_k")`, is a class with a docstring and what is the metric's own.
`evaluate` takes the first class of a metric that it finds in a module's file, so that those files import this module,
not its classes.

Shapes: `N` users, `P` relevant items that are ranked, `V` catalogue items, `K` cut-off.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
import pyarrow as pa
import torch

from .metrics import METRICS, Rankings
from .ranking import rank_targets


ID, IDS = datasets.Value("string"), datasets.List(datasets.Value("string"))
NUMBER, NUMBERS = datasets.Value("int64"), datasets.List(datasets.Value("float64"))
_OPTIONS_OF_EVALUATE = inspect.signature(evaluate.Metric.__init__).parameters


class RankingMetric(evaluate.Metric):
    """
    A metric whose docstring is what `evaluate` shows of it.

    Arguments of `compute` can be given to `evaluate.load`, and then hold for every `compute` that has none, so that
    metrics that need different ones can be combined. `k` is one cut-off, or several.

    Class attributes: `title`, for its card; `row`, the metric's name in results; `inputs`, the features of each
    configuration (of a list of several the first that fit are taken); `k`, the cut-off where none is given; `bibtex`
    and `urls` of the metric's definition.
    """

    title: str
    row: str
    inputs: dict[str, datasets.Features | list[datasets.Features]]
    k: int | None = 10
    bibtex = ""
    urls: tuple[str, ...] = ()

    def __init__(self, **options):
        self.given = {name: options.pop(name) for name in options.keys() - _OPTIONS_OF_EVALUATE.keys()}
        super().__init__(**options)
        known = inspect.signature(self._compute).parameters.keys() - self._feature_names()
        unknown = sorted(self.given.keys() - known)
        if unknown:
            raise ValueError(f"{self.name} has no argument {unknown[0]}; it has {', '.join(sorted(known))}")

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.inputs:
            raise ValueError(f"there is no configuration {self.config_name!r}; there are {', '.join(self.inputs)}")
        description, _, arguments = inspect.cleandoc(type(self).__doc__ or "").partition("\nArgs:")
        return evaluate.MetricInfo(
            description=description.strip(),
            citation=self.bibtex,
            inputs_description=f"Args:{arguments}",
            features=self.inputs[self.config_name],
            reference_urls=list(self.urls),
        )

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, float] | None:
        """Returns the metric over all users, also of those that were added before."""
        return super().compute(predictions=predictions, references=references, **{**self.given, **kwargs})

    def at_cutoffs(self, measure: Callable[[Any], float], k: int | Sequence[int] | None) -> dict[str, float]:
        """Returns what is measured at each cut-off, by the metric's name and the cut-off."""
        k = self.k if k is None else k
        if k is None:
            return {self.row: measure(None)}
        cutoffs = np.atleast_1d(k).tolist()
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return {f"{self.row}@{one}": measure(one) for one in cutoffs}

    def need(self, **argument) -> Any:
        """Returns the value of an argument; one that is `None` is an error."""
        ((name, value),) = argument.items()
        if value is None:
            raise ValueError(f"{self.name} needs {name}: give it to compute, or to evaluate.load")
        return value


def check_lists(lists: Sequence[Sequence[str]]) -> None:
    """Raises `ValueError` if there are no users, or an item stands twice in a list."""
    if not lists:
        raise ValueError("there are no users to evaluate: predictions are empty")
    for user, ranked in enumerate(lists):
        if len(set(ranked)) < len(ranked):
            twice = next(one for one in ranked if ranked.count(one) > 1)
            raise ValueError(f"item {twice!r} stands twice among the predictions of user {user}; rank it once")


class Positions(NamedTuple):
    """Where the relevant items of all users stand.

    Args:
        owner: `(P,)` users of the relevant items that are ranked, in ascending order.
        num_better: `(P,)` items that are ranked before them, in ascending order within a user.
        num_tied: `(P,)` other items with the same score.
        num_relevant: `(N,)` relevant items of each user, ranked or not.

    Example:

    >>> import torch
    >>> from modeling_transrec.evaluation.metrics import hit_rate
    >>> positions = Positions.of_lists([["a", "b", "c"], ["c", "a", "b"]], [["c", "a"], "d"])
    >>> positions.total(hit_rate, k=1), positions.num_relevant
    (tensor([1., 0.], dtype=torch.float64), tensor([2, 1]))
    """

    owner: torch.Tensor
    num_better: torch.Tensor
    num_tied: torch.Tensor
    num_relevant: torch.Tensor

    @classmethod
    def of_ranks(cls, num_better: Sequence[int] | torch.Tensor, num_tied: Sequence[int] | torch.Tensor) -> "Positions":
        """Takes the counts of [`Rankings`], of one relevant item a user."""
        if not len(num_better):
            raise ValueError("there are no users to evaluate: num_better is empty")
        ranks, users = (torch.as_tensor(num_better), torch.as_tensor(num_tied)), torch.arange(len(num_better))
        return cls(users, *ranks, torch.ones_like(users))

    @classmethod
    def of_scores(cls, scores: Sequence[Sequence[float]], targets: Sequence[int]) -> "Positions":
        """Takes the scores of each user's candidates, and the place of the one relevant item among them."""
        check_lists([[] for _ in scores])
        padded = np.full((len(scores), max(map(len, scores))), -np.inf)  # what is no candidate is never ahead
        for user, (row, target) in enumerate(zip(scores, targets, strict=True)):
            if not 0 <= target < len(row):
                raise ValueError(f"reference {target} of user {user} is no index into the {len(row)} predictions")
            padded[user, : len(row)] = row
        return cls.of_ranks(*rank_targets(torch.from_numpy(padded), torch.as_tensor(targets)))

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[str]], relevant: Sequence[str | Sequence[str]]) -> "Positions":
        """Takes ranked item ids, best first, and the id or ids of the relevant ones."""
        check_lists(lists)
        found, num_relevant = [], []
        for user, (ranked, ids) in enumerate(zip(lists, relevant, strict=True)):
            wanted = {ids} if isinstance(ids, str) else set(ids)
            if not wanted:
                raise ValueError(f"user {user} has no references, so that nothing can be found; leave such users out")
            found += [(user, rank) for rank, item_id in enumerate(ranked) if item_id in wanted]
            num_relevant.append(len(wanted))
        owner, ranks = torch.tensor(found, dtype=torch.long).view(-1, 2).T
        return cls(owner, ranks, torch.zeros_like(ranks), torch.tensor(num_relevant))

    def total(self, gain: Callable[..., torch.Tensor], k: int | None) -> torch.Tensor:
        """Returns the sum of the gains of each user's relevant items, `(N,)`.

        Args:
            gain: a function of [`~evaluation.metrics`], of `num_better`, `num_tied` and the cut-off.
            k: the cut-off.
        """
        sums = torch.zeros(len(self.num_relevant), dtype=torch.float64)
        return sums.index_add(0, self.owner, gain(self.num_better, self.num_tied, k))

    @property
    def first(self) -> "Positions":
        """The best relevant item of each user."""
        is_first = torch.ones_like(self.owner, dtype=torch.bool)
        is_first[1:] = self.owner[1:] != self.owner[:-1]
        return Positions(self.owner[is_first], self.num_better[is_first], self.num_tied[is_first], self.num_relevant)


class TargetMetric(RankingMetric):
    """
    A metric of where relevant items stand, by a method `measure` of [`Positions`] and the cut-off.

    Its configurations are `default` (ranked ids, and the relevant ones), `scores` (scores of candidates, and the index
    of the one relevant item) and `ranks` (the counts `num_better` and `num_tied` of [`Rankings`]).
    """

    inputs = {
        "default": [
            datasets.Features({"predictions": IDS, "references": IDS}),
            datasets.Features({"predictions": IDS, "references": ID}),
        ],
        "scores": datasets.Features({"predictions": NUMBERS, "references": NUMBER}),
        "ranks": datasets.Features({"num_better": NUMBER, "num_tied": NUMBER}),
    }

    def measure(self, positions: Positions, k: Any) -> torch.Tensor:
        """Returns the metric of each user, `(N,)`."""
        raise NotImplementedError

    def _compute(
        self,
        predictions=None,
        references=None,
        num_better=None,
        num_tied=None,
        k: int | Sequence[int] | None = None,
    ) -> dict[str, float]:
        if self.config_name == "ranks":
            positions = Positions.of_ranks(num_better, num_tied)
        elif self.config_name == "scores":
            positions = Positions.of_scores(predictions, references)
        else:
            positions = Positions.of_lists(predictions, references)
        return self.at_cutoffs(lambda one: self.measure(positions, one).mean().item(), k)


class ListMetric(RankingMetric):
    """A metric of what is recommended: each user's ranked item ids, best first. `row` is one of [`METRICS`]."""

    inputs = {"default": datasets.Features({"predictions": IDS})}

    def measure_lists(
        self, lists: Sequence[Sequence[str]], catalogue: Sequence[str | int], k: int | Sequence[int] | None, **known
    ) -> dict[str, float]:
        """Returns the metric at each cut-off.

        Args:
            lists: ranked item ids.
            catalogue: `(V,)` all item ids.
            k: the cut-offs.
            known: other fields of [`Rankings`].
        """
        check_lists(lists)
        top_items = torch.full((len(lists), max(1, *map(len, lists))), -1)
        for user, indices in enumerate(look_up(lists, catalogue)):
            top_items[user, : len(indices)] = torch.tensor(indices, dtype=torch.long)
        none = torch.zeros(len(lists), dtype=torch.long)
        rankings = Rankings(none, none, top_items, **known)
        return self.at_cutoffs(lambda one: METRICS[self.row].function(rankings, one), k)


def look_up(lists: Sequence[Sequence[str]], catalogue: Sequence[str | int]) -> list[list[int]]:
    """Returns indices into the catalogue.

    >>> look_up([["b"], ["c", "a"]], ["a", "b", "c"])
    [[1], [2, 0]]
    """
    index = {str(item_id): place for place, item_id in enumerate(catalogue)}
    unknown = next((item_id for ids in lists for item_id in ids if item_id not in index), None)
    if unknown is not None:
        raise ValueError(f"item {unknown!r} is not among the {len(index)} items that are given; name every item")
    return [[index[item_id] for item_id in ids] for ids in lists]


class CountedListMetric(ListMetric):
    """A metric of how popular listed items are."""

    def _compute(
        self, predictions, item_counts: Mapping[str, float] | None = None, k: int | Sequence[int] | None = None
    ) -> dict[str, float]:
        counts = self.need(item_counts=item_counts)
        return self.measure_lists(predictions, [*counts], k, item_counts=np.array([*counts.values()], dtype=float))


class HistoryListMetric(ListMetric):
    """A metric of how popular listed items are beside those of the user's history."""

    inputs = {"default": datasets.Features({"predictions": IDS, "histories": IDS})}

    def _compute(
        self,
        predictions,
        histories,
        item_counts: Mapping[str, float] | None = None,
        k: int | Sequence[int] | None = None,
    ) -> dict[str, float]:
        counts = self.need(item_counts=item_counts)
        taken = pa.array(look_up(histories, [*counts]), pa.list_(pa.int64()))
        numbers = np.array([*counts.values()], dtype=float)
        return self.measure_lists(predictions, [*counts], k, item_counts=numbers, histories=taken)
