"""Search in catalogues of millions of items with FAISS."""

import torch


class FaissIndex:
    """
    A FAISS index of candidates, by dot product; a [`NearestItems`] for [`CatalogueScorer`].

    Args:
        candidates: `(V, D)`, see [`CatalogueScorer`].
        string_factory: the kind of index, in FAISS's words: `"Flat"`, `"IVF4096,Flat"`, `"HNSW32"`, …

    Raises:
        ImportError: if FAISS is not installed.
        ValueError: if FAISS does not know this kind of index, or it needs more items.
    """

    def __init__(self, candidates: torch.Tensor, string_factory: str):
        try:
            import faiss
        except ImportError as error:
            raise ImportError("searching with FAISS needs it: pip install modeling_transrec[faiss]") from error
        vectors = candidates.float().cpu().numpy()
        try:
            self.index = faiss.index_factory(vectors.shape[1], string_factory, faiss.METRIC_INNER_PRODUCT)
            self.index.train(vectors)
            self.index.add(vectors)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot make an index {string_factory!r} of {len(vectors)} items: it does not know it or needs "
                'more items ("IVF4096,Flat" at least 4,096); "Flat" takes any number'
            ) from error

    def __len__(self) -> int:
        return self.index.ntotal

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns scores and indices into the catalogue `(B, K)`, best first; -1 where it finds fewer than `k`."""
        scores, catalogue_index = self.index.search(queries.float().cpu().numpy(), k)
        return torch.from_numpy(scores).to(queries.device), torch.from_numpy(catalogue_index).to(queries.device)
