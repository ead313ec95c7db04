"""The indexes by which a recommender searches, one row each."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..data.growing import Layers
from .faiss_index import FaissIndex
from .item_index import ExactIndex, ItemIndex
from .pgvector_index import PgvectorIndex
from .qdrant_index import QdrantIndex
from .usearch_index import UsearchIndex


INDEXES: dict[str, Callable[..., ItemIndex]] = {
    "exact": ExactIndex,
    "faiss": FaissIndex,
    "int8": functools.partial(FaissIndex, "SQ8", rescore=2),
    "binary": functools.partial(FaissIndex, "RaBitQ", rescore=10),
    "usearch": UsearchIndex,
    "qdrant": QdrantIndex,
    "pgvector": PgvectorIndex,
}


def make_index(name: str, **options: Any) -> ItemIndex:
    """Makes an empty index, or opens one that is in a database.

    Args:
        name: a row of `INDEXES`.
        options: those of its class.

    Raises:
        ValueError: if there is no such row, or it has no such option.
    """
    if name not in INDEXES:
        raise ValueError(f"there is no index {name!r}; there are {', '.join(INDEXES)}")
    known = inspect.signature(INDEXES[name]).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in known.values())  # for the client of a database
    unknown = [option for option in options if option not in known]
    if unknown and not takes_any:
        raise ValueError(f"the index {name!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return INDEXES[name](**options)


class BuiltIndex:
    """
    An index of the first items of a catalogue as [`NearestItems`][modeling_transrec.evaluation.scoring.NearestItems].

    Args:
        index: has the items in the catalogue's order.
    """

    finds_candidates = False

    def __init__(self, index: Any):
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.index.nearest(queries, k)

    def filtered(self, where: Mapping[str, list]) -> "BuiltIndex":
        """Returns itself: what does not pass a filter is left out of what it finds."""
        return self


class FollowingIndex:
    """
    An index that follows a catalogue, as [`NearestItems`][modeling_transrec.evaluation.scoring.NearestItems].

    Args:
        index: has the items of the catalogue, and perhaps others that came or went since.
        index_of: catalogue index of each id.
        count: number of indices of the catalogue.
        where: values of each column, by which the index itself filters.
    """

    def __init__(
        self, index: ItemIndex, index_of: Layers[str, int], count: int, where: Mapping[str, list] | None = None
    ):
        self.index, self.index_of, self.count, self.where = index, index_of, count, where

    @property
    def finds_candidates(self) -> bool:
        return self.where is not None

    def filtered(self, where: Mapping[str, list]) -> "FollowingIndex":
        """Returns the same for items with one of the wanted values in each column, or itself if it cannot filter."""
        return FollowingIndex(self.index, self.index_of, self.count, where) if self.index.filters_itself else self

    def __len__(self) -> int:
        return self.count

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        scores, ids = self.index.search(queries, k, self.where)
        found = torch.full(scores.shape, -1)
        for row, one in enumerate(ids):
            places = [self.index_of.get(item_id, -1) for item_id in one]
            found[row, : len(one)] = torch.tensor([-2 if place < 0 else place for place in places])
        if found.shape[1] < k:
            scores = torch.nn.functional.pad(scores, (0, k - scores.shape[1]), value=float("-inf"))
            found = torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1)
        return scores, found.to(scores.device)


def fill(index: ItemIndex, item_ids: Sequence[str], vectors: torch.Tensor, columns: Any) -> None:
    """Makes an index have these items and no others."""
    known = set(item_ids)
    gone = [item_id for item_id in index.item_ids() if item_id not in known]
    index.add(item_ids, vectors, columns)
    if gone:
        index.remove(gone)
