"""Ranks the target among a few sampled candidates: 1 of 4, 10 of 100.

That is how prompted language models are measured, which are too slow to rank a catalogue. The numbers are far above
those of a full ranking and say less (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020):
they compare only with others on the same candidates.

Shapes: `N` users of a split, `B` of them at a time, `L` history length, `V` catalogue items, `C` candidates, of which
the target is the first.
"""

import functools

import datasets
import numpy as np
import torch

from ..data.collator import hash_integers
from ..data.loading import read_histories
from ..models.batch import UserInputs
from .evaluator import FullRankingEvaluator
from .scoring import CatalogueScorer


class SampledRankingEvaluator(FullRankingEvaluator):
    """
    Evaluates a model on one split, the target ranked among sampled items outside the history.

    A user's candidates follow from the seed, the history, the target and the catalogue's ids, so that everything that
    is compared ranks the same ones; the protocol and its fingerprint say which.

    Args:
        items, sequences: as of [`FullRankingEvaluator`].
        num_candidates: `C`, the target among them.
        seed: of the draws.
        kwargs: other arguments of [`FullRankingEvaluator`].

    Raises:
        ValueError: if the catalogue has too few items, or a metric reads lists of the whole catalogue.

    Example:

    >>> import datasets
    >>> items = datasets.Dataset.from_dict({"item_id": ["a", "b", "c", "d"]})
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a"], ["b"]], "target": ["b", "d"]})
    >>> evaluator = SampledRankingEvaluator(items, sequences, num_candidates=3, ks=[1])
    >>> evaluator.candidates.tolist()
    [[1, 2, 3], [3, 2, 0]]
    """

    def __init__(
        self, items: datasets.Dataset, sequences: datasets.Dataset, num_candidates: int, seed: int = 0, **kwargs
    ):
        super().__init__(items, sequences, **kwargs)
        if num_candidates < 2:
            raise ValueError(f"num_candidates must be at least 2, the target and another item; got {num_candidates}")
        if self._needs_lists:
            raise ValueError(f"a metric of {', '.join(self.metrics)} reads lists of the whole catalogue; leave it out")
        self.num_candidates, self.seed = num_candidates, seed

    @property
    def protocol(self) -> dict:
        """As of the full ranking, with the number of the candidates."""
        return {**super().protocol, "num_candidates": self.num_candidates}

    @property
    def _rules(self) -> dict[str, str]:
        drawn = f"the target and {self.num_candidates - 1} items outside the history, seed {self.seed}"
        candidates = int(hash_integers(self.item_hashes[self.candidates].sum(axis=1)[:, None], seed=[0]).sum())
        return {**super()._rules, "ranking": f"sampled: {drawn} ({candidates % 2**64:016x})"}

    @functools.cached_property
    def candidates(self) -> np.ndarray:
        """The candidates of each user `(N, C)`, indices into the catalogue."""
        users = np.arange(len(self.targets))
        return np.concatenate([self._draw(users[start : start + 1000]) for start in range(0, len(users), 1000)])

    def _draw(self, users: np.ndarray) -> np.ndarray:
        histories, count = read_histories(self.histories, users), self.num_candidates - 1
        drawn = np.empty((len(users), count), dtype=np.int64)
        for row, (history, target) in enumerate(zip(histories, self.targets[users], strict=True)):
            known = np.append(history[history >= 0], target)
            user = hash_integers(self.item_hashes[known][None], seed=[self.seed])
            keys = hash_integers(np.stack(np.broadcast_arrays(self.item_hashes, user), axis=-1), seed=[self.seed])
            others = np.delete(np.arange(len(keys)), known)
            if len(others) < count:
                raise ValueError(
                    f"a user has {len(others)} items outside the history, and {self.num_candidates} candidates need "
                    f"{count}; give fewer"
                )
            first = others[np.argpartition(keys[others], count - 1)[:count]]
            drawn[row] = first[np.argsort(keys[first], kind="stable")]
        return np.column_stack([self.targets[users], drawn])

    def scores(
        self, scorer: CatalogueScorer, histories: torch.Tensor, users: np.ndarray, inputs: UserInputs | None
    ) -> torch.Tensor:
        """Returns the scores of the candidates `(B, C)`, minus infinity in the columns of all other items `(B, V)`."""
        candidates = torch.from_numpy(self.candidates[users]).to(histories.device)
        found = scorer.scores_of(histories, candidates, inputs)
        scores = found.new_full((len(users), len(self.items)), float("-inf"))
        return scores.scatter_(1, candidates, found)
