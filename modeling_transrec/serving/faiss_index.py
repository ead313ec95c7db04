"""Search in catalogues of millions of items with FAISS, by whole or quantised vectors."""

from typing import Any

import torch

from ..evaluation.ranking import best_of
from .item_index import ExactIndex


class FaissIndex(ExactIndex):
    """
    Searches by an index of FAISS.

    Args:
        string_factory: the kind of index, in FAISS's words: `"Flat"`, `"IVF4096,Flat"`, `"HNSW32"`, … It learns from
            the items that are added first.
        rescore: with more than 1, so many times `k` items are searched for, and the best of them chosen by their whole
            vectors: for kinds that quantise, whose scores are rounded.

    Raises:
        ImportError: if FAISS is not installed.
        ValueError: if FAISS does not know this kind of index, or it needs more items; when items are added.
    """

    def __init__(self, string_factory: str = "Flat", rescore: int = 1):
        _faiss()
        self.string_factory, self.rescore = string_factory, rescore
        super().__init__()

    def clear(self) -> None:
        super().clear()
        self.index: Any = None

    def _append(self, vectors: torch.Tensor) -> None:
        values = vectors.float().cpu().numpy()
        try:
            if self.index is None:
                faiss = _faiss()
                index = faiss.index_factory(values.shape[1], self.string_factory, faiss.METRIC_INNER_PRODUCT)
                index.train(values)
                index.add(values)
                self.index = index
            else:
                self.index.add(values)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot make an index {self.string_factory!r} of {len(values)} items: it does not know it or "
                'needs more items ("IVF4096,Flat" at least 4,096); "Flat" takes any number'
            ) from error

    def nearest(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        count = min(self.rescore * k, len(self._ids))
        found = self.index.search(queries.float().cpu().numpy(), count)
        scores, rows = (torch.from_numpy(one).to(queries.device) for one in found)
        if self.rescore > 1:
            whole = torch.einsum("bd,bcd->bc", queries, self.vectors[rows.clamp(min=0)])
            scores, rows = best_of(whole.masked_fill(rows < 0, float("-inf")), rows, k)
        return scores, rows


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("searching with FAISS needs it: pip install modeling_transrec[faiss]") from error
    return faiss
