"""Baselines that need no training: the table of what is evaluated beside a model."""

import functools
from collections.abc import Callable

import datasets
import numpy as np
import torch

from ..data.loading import count_interactions, index_histories, values_of_interactions
from ..data.transitions import Transitions
from .evaluator import FullRankingEvaluator
from .scoring import Scorer


class TrainingInteractions:
    """
    The catalogue and the training interactions of a platform, of which a baseline takes what it needs.

    Args:
        items: the catalogue, `item_id` and its content.
        sequences: training histories, column `item_ids`; or a function that loads them, which is called when a
            baseline asks for them.
        whole_sequences: loads the training histories uncut, from which transitions are counted; by default they are
            counted from `sequences`.
    """

    def __init__(
        self,
        items: datasets.Dataset,
        sequences: datasets.Dataset | Callable[[], datasets.Dataset],
        whole_sequences: Callable[[], datasets.Dataset] | None = None,
    ):
        self.items = items
        self._sequences = sequences
        self._whole_sequences = whole_sequences

    @functools.cached_property
    def sequences(self) -> datasets.Dataset:
        """Training histories as item ids."""
        return self._sequences() if callable(self._sequences) else self._sequences

    @functools.cached_property
    def histories(self) -> datasets.Dataset:
        """Training histories as indices into the catalogue, see [`index_histories`]."""
        return index_histories(self.sequences, self.items["item_id"][:])

    @functools.cached_property
    def num_interactions(self) -> np.ndarray:
        """Number of training interactions with each item `(V,)`."""
        return count_interactions(self.histories, len(self.items))

    @functools.cached_property
    def item_counts(self) -> np.ndarray:
        """What the training interactions with each item count `(V,)`: their number, or the sum of their weights."""
        weights = values_of_interactions(self.sequences, "weights")
        if weights is None:
            return self.num_interactions
        return count_interactions(self.histories, len(self.items), weights)

    @functools.cached_property
    def transitions(self) -> Transitions:
        """How often one item of the catalogue follows another in the training histories."""
        whole = self.sequences if self._whole_sequences is None else self._whole_sequences()
        return Transitions.from_sequences(whole, self.items["item_id"])


def random_scorer(interactions: TrainingInteractions) -> Scorer:
    """Scores all items the same, which is worth exactly what a random ranking is."""
    num_items = len(interactions.items)
    return lambda histories, users: torch.zeros(len(histories), num_items, device=histories.device)


def popularity_scorer(interactions: TrainingInteractions) -> Scorer:
    """Scores items by what their training interactions count, the same for everybody."""
    counts = torch.from_numpy(interactions.item_counts.astype(np.float64))
    return lambda histories, users: counts.to(histories.device).repeat(len(histories), 1)


def transition_scorer(interactions: TrainingInteractions, **settings) -> Scorer:
    """Scores items by the transitions from the history's items to them, see [`Transitions`]."""
    transitions = interactions.transitions.with_settings(**settings)

    def score(histories: torch.Tensor, users: np.ndarray) -> torch.Tensor:
        scores = transitions.scores(histories.cpu().numpy()).toarray()
        return torch.from_numpy(scores.astype(np.float32)).to(histories.device)

    return score


def last_item_scorer(interactions: TrainingInteractions) -> Scorer:
    """Scores items by the transitions from the history's last item only."""
    return transition_scorer(interactions, history_decay=1e-9)


# Name → what makes a scorer from the training interactions. Scripts, cards and tables have a row of each.
BASELINES: dict[str, Callable[[TrainingInteractions], Scorer]] = {
    "random": random_scorer,
    "popularity": popularity_scorer,
    "last-item-transitions": last_item_scorer,
    "transitions": transition_scorer,
}


def evaluate_baselines(
    evaluator: FullRankingEvaluator, interactions: TrainingInteractions | datasets.Dataset
) -> dict[str, dict[str, float]]:
    """Returns the metrics of every baseline.

    Args:
        evaluator: ranks a split.
        interactions: those of the training, or only the training histories, column `item_ids`.

    Example:

    >>> import datasets
    >>> items = datasets.Dataset.from_dict({"item_id": ["a", "b", "c", "d"]})
    >>> training = datasets.Dataset.from_dict({"item_ids": [["a", "b"], ["a", "b", "c"], ["a"]]})
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a"], ["b"]], "target": ["b", "d"]})
    >>> evaluator = FullRankingEvaluator(items, sequences, ks=[1])
    >>> evaluate_baselines(evaluator, training)["popularity"]
    {'hr@1': 0.5, 'ndcg@1': 0.5, 'mrr': 0.667}
    """
    if isinstance(interactions, datasets.Dataset):
        interactions = TrainingInteractions(evaluator.items, interactions)
    return {name: evaluator.evaluate(build(interactions)) for name, build in BASELINES.items()}
