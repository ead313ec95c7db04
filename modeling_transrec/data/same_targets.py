"""Finds histories that lead to the same item, for the auxiliary loss `"same_target"`.

Shapes: `B` users, `L` history length.
"""

import datasets
import numpy as np
import pyarrow.compute as pc


class SameTargets:
    """Knows of every item the places of the training histories where it comes next.

    It holds two numbers for every training interaction.

    Args:
        histories: training histories, a column `history` of indices into the catalogue.
        num_items: size of the catalogue.

    Example:

    >>> histories = datasets.Dataset.from_dict({"history": [[3, 1, 2], [0, 2]]})
    >>> SameTargets(histories, num_items=4).draw(np.array([2, 2]), np.array([0.1, 0.9]), length=3)
    array([[-1,  3,  1],
           [-1, -1,  0]])
    """

    def __init__(self, histories: datasets.Dataset, num_items: int):
        column = histories.with_format("arrow")[:]["history"]
        self._items = pc.list_flatten(column).to_numpy().astype(np.int32)
        lengths = pc.list_value_length(column).to_numpy()
        starts = np.repeat(lengths.cumsum() - lengths, lengths)  # of each interaction's history
        self._num_before = np.arange(len(self._items)) - starts
        places = np.flatnonzero(self._num_before)  # the first item of a history is no target
        self._places = places[np.argsort(self._items[places], kind="stable")]
        self._bounds = np.searchsorted(self._items[self._places], np.arange(num_items + 1))

    def draw(self, targets: np.ndarray, draws: np.ndarray, length: int) -> np.ndarray:
        """Draws for each target one of the histories before it, `(B, L)`, padded with -1 on the left.

        Args:
            targets: `(B,)` indices into the catalogue, each of which follows some item in training.
            draws: `(B,)` numbers drawn uniformly from 0 to 1.
            length: `L`, of the history's end.
        """
        low, high = self._bounds[targets], self._bounds[targets + 1]
        place = self._places[low + np.floor(draws * (high - low)).astype(np.int64)]  # (B,)
        steps = np.arange(length, 0, -1)  # back from the target
        found = self._items[(place[:, None] - steps).clip(min=0)]
        return np.where(steps <= self._num_before[place][:, None], found, -1).astype(np.int64)
