"""Baselines of other people that need no gradient: ItemKNN, SKNN, EASE and SLIM, by SciPy and scikit-learn.

Histories are read as sets of items `X` `(N, V)`, as their authors do. What they learn is scored as [`SparseScores`].

Shapes: `N` users of the training split, `V` items, `B` users to score, `L` history length, `K` neighbours.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import pyarrow.compute as pc
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import ElasticNet
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from ..data.loading import history_lengths


def interactions(histories: datasets.Dataset, num_items: int) -> scipy.sparse.csr_array:
    """Returns which user took which item, `(N, V)` of zeros and ones.

    Args:
        histories: columns `history` of indices into the catalogue and `length`, see [`index_histories`].
        num_items: size of the catalogue.
    """
    items = pc.list_flatten(histories.with_format("arrow")[:]["history"]).to_numpy()
    lengths = history_lengths(histories)
    return _as_sets(items, np.repeat(np.arange(len(lengths)), lengths), (len(lengths), num_items))


def _as_sets(items: np.ndarray, users: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    places = users.astype(np.int32), items.astype(np.int32)  # scikit-learn takes no longer ones
    found = scipy.sparse.csr_array((np.ones(len(items), dtype=np.float32), places), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1
    return found


def _sets_of(histories: np.ndarray, num_items: int) -> scipy.sparse.csr_array:
    """Returns histories `(B, L)` of indices into the catalogue, -1 at padding, as sets `(B, V)`."""
    users, places = np.nonzero(histories >= 0)
    return _as_sets(histories[users, places], users, (len(histories), num_items))


class ItemWeights:
    """
    Scores a history by the sum of its items' weights to every item.

    Args:
        weights: `(V, V)`, sparse or dense, from an item of the history to one that is scored.
    """

    def __init__(self, weights: scipy.sparse.csr_array | np.ndarray):
        self.weights = weights

    def __len__(self) -> int:
        return self.weights.shape[0]

    def scores(self, histories: np.ndarray) -> scipy.sparse.csr_array:
        """Returns the scores `(B, V)` of histories `(B, L)`, padded with -1."""
        return scipy.sparse.csr_array(_sets_of(histories, len(self)) @ self.weights)

    def aligned(self, item_ids: Sequence[str]) -> "ItemWeights":
        raise ValueError("a baseline belongs to the catalogue that it was made from")


def item_knn(taken: scipy.sparse.csr_array, num_neighbours: int, tf_idf: bool) -> ItemWeights:
    """Returns ItemKNN: the cosine of two items' users, of the nearest items only (Sarwar et al., WWW 2001).

    Args:
        taken: `(N, V)` of zeros and ones.
        num_neighbours: of each item.
        tf_idf: whether a user who took many items counts less.

    Example:

    >>> taken = scipy.sparse.csr_array(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], dtype=np.float32))
    >>> item_knn(taken, num_neighbours=1, tf_idf=False).scores(np.array([[0]])).toarray().round(2)
    array([[0.  , 0.82, 0.  ]], dtype=float32)
    """
    of_items = taken.T.tocsr()  # (V, N)
    if tf_idf:
        of_items = TfidfTransformer(norm=None).fit_transform(of_items)
    found = NearestNeighbors(n_neighbors=min(num_neighbours, taken.shape[1] - 1), metric="cosine", algorithm="brute")
    graph = found.fit(of_items).kneighbors_graph(mode="distance")  # of each item, without itself
    graph.data = np.maximum(1 - graph.data, 0)
    return ItemWeights(scipy.sparse.csr_array(graph.T, dtype=np.float32))  # an item is scored by its own neighbours


class SessionNeighbours:
    """
    SKNN: scores items by the histories of the users nearest to the one at hand, by cosine (Jannach and Ludewig, RecSys
    2017).

    Args:
        taken: `(N, V)` of zeros and ones.
        num_neighbours: users.
    """

    def __init__(self, taken: scipy.sparse.csr_array, num_neighbours: int):
        self.taken = taken
        self.neighbours = NearestNeighbors(
            n_neighbors=min(num_neighbours, taken.shape[0]), metric="cosine", algorithm="brute"
        ).fit(taken)

    def __len__(self) -> int:
        return self.taken.shape[1]

    def scores(self, histories: np.ndarray) -> scipy.sparse.csr_array:
        """Returns the scores `(B, V)` of histories `(B, L)`, padded with -1."""
        likeness = self.neighbours.kneighbors_graph(_sets_of(histories, len(self)), mode="distance")  # (B, N)
        likeness.data = np.maximum(1 - likeness.data, 0)
        return scipy.sparse.csr_array(likeness @ self.taken)

    def aligned(self, item_ids: Sequence[str]) -> "SessionNeighbours":
        raise ValueError("a baseline belongs to the catalogue that it was made from")


def ease(taken: scipy.sparse.csr_array, regularization: float) -> ItemWeights:
    """Returns EASE: the best linear weights with a diagonal of zeros, in closed form (Steck, WWW 2019).

    It inverts a dense `(V, V)` matrix: four of them, in float64, are in memory at its height, 11 GB for 18,357 items.

    Args:
        taken: `(N, V)` of zeros and ones.
        regularization: of the ridge regression.

    Raises:
        MemoryError: where less is free, which the operating system would answer by killing the process.

    Example:

    >>> taken = scipy.sparse.csr_array(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], dtype=np.float32))
    >>> ease(taken, regularization=1.0).weights.diagonal()
    array([0., 0., 0.], dtype=float32)
    """
    needed, free = 4 * 8 * taken.shape[1] ** 2, psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"EASE of {taken.shape[1]:,} items needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        )
    gram = (taken.T @ taken).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += regularization
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return ItemWeights(weights.astype(np.float32))


def slim(taken: scipy.sparse.csr_array, alpha: float, l1_ratio: float = 0.1, num_candidates: int = 200) -> ItemWeights:
    """Returns SLIM: for each item an elastic net of the items that share most users with it (Ning and Karypis, ICDM
    2011; fsSLIM, by which each item has few candidates).

    Args:
        taken: `(N, V)` of zeros and ones.
        alpha: factor of the penalty, as scikit-learn has it.
        l1_ratio: share of the L1 norm in it.
        num_candidates: items that may have a weight for another.
    """
    columns, together = taken.tocsc(), normalize((taken.T @ taken).tocsr())
    model = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, positive=True, fit_intercept=False, max_iter=100, tol=1e-3)
    weights = scipy.sparse.lil_array((taken.shape[1], taken.shape[1]), dtype=np.float32)  # of the items' rows
    for item in range(taken.shape[1]):
        row = together[[item]]
        others = row.indices[row.indices != item]
        if not len(others):
            continue
        likeness = row.data[row.indices != item]
        others = np.sort(others[np.argsort(-likeness, kind="stable")[:num_candidates]])
        target = columns[:, [item]].toarray().ravel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 passes are enough to rank by
            found = model.fit(columns[:, others], target).coef_
        weights[[item], others] = found
    return ItemWeights(scipy.sparse.csr_array(weights.T))


MAKERS: dict[str, Callable[..., Any]] = {
    "item-knn": item_knn,
    "session-knn": SessionNeighbours,
    "ease": ease,
    "slim": slim,
}
