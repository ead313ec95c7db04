"""An embedded index that is mapped into memory from a file: usearch."""

import contextlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..models.checkpoint_files import named_file
from ..models.whole_saves import write_out, write_whole
from .item_index import as_rows, as_scores, emptied, values_by_column


_ITEMS = "items.json"  # names the file of the graph that belongs to it
_DTYPES = ("f32", "f16", "bf16")
_GRAPH = re.compile(r"graph-[0-9a-f]{32}\.usearch")
_ROWS_AT_A_TIME = 10_000
_SMALL = 4096  # an index of fewer items is searched whole


class UsearchIndex:
    """
    A graph of neighbours (HNSW) in this process, which follows changes; saved, it is read from its file as needed.

    It finds most of the best items, not always all.

    Args:
        dtype: of the vectors in the graph: `"f32"`, `"f16"` or `"bf16"`; scores are rounded likewise. In usearch's
            `"i8"` all vectors have the same length, so that its scores are cosines: it is refused.
        connectivity: neighbours of an item in the graph.
        expansion_add: items looked at to find the neighbours of a new one.
        expansion_search: items looked at for a query, at least; more find more of the best.

    Raises:
        ImportError: if usearch is not installed.
        ValueError: if there is no such `dtype`.
    """

    follows_changes, filters_itself = True, False

    def __init__(
        self, dtype: str = "f32", connectivity: int = 16, expansion_add: int = 128, expansion_search: int = 128
    ):
        try:
            from usearch.index import Index
        except ImportError as error:
            raise ImportError("searching with usearch needs it: pip install modeling_transrec[usearch]") from error
        if dtype not in _DTYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}: other vectors lose their lengths"
            )
        self._make: Any = Index
        self.options = {
            "dtype": dtype,
            "connectivity": connectivity,
            "expansion_add": expansion_add,
            "expansion_search": expansion_search,
        }
        self.checkpoint: str | None = None
        self.clear()

    def clear(self) -> None:
        self.index: Any = None
        self._is_mapped = False
        self._next = 0
        self._ids: dict[int, str] = {}
        self._keys: dict[str, int] = {}
        self._columns: dict[str, dict] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, item_ids: Sequence[str], vectors: torch.Tensor, columns: pa.Table | None = None) -> None:
        values = np.ascontiguousarray(vectors.float().cpu().numpy())
        if self.index is None:
            self.index = self._make(ndim=values.shape[1], metric="ip", **self.options)
        if values.shape[1] != self.index.ndim:
            raise ValueError(f"the index has vectors of width {self.index.ndim}; these have {values.shape[1]}")
        self._columns |= dict(zip(item_ids, as_rows(columns, len(item_ids)), strict=True))
        new = [place for place, item_id in enumerate(item_ids) if not self._has(item_id, values[place])]
        if not new:
            return
        self._make_writable()
        keys = np.arange(self._next, self._next + len(new))
        before = [self._keys[item_ids[place]] for place in new if item_ids[place] in self._keys]
        self._next += len(new)
        self._ids |= {int(key): item_ids[place] for key, place in zip(keys, new, strict=True)}
        self.index.add(keys, values[new], threads=torch.get_num_threads())
        self._keys |= {item_ids[place]: int(key) for key, place in zip(keys, new, strict=True)}
        for key in before:
            self.index.remove(key)
            del self._ids[key]

    def _has(self, item_id: str, vector: np.ndarray) -> bool:
        """Returns whether an item is there with this very vector, which then need not be put in again."""
        key = self._keys.get(item_id)
        return key is not None and self.options["dtype"] == "f32" and np.array_equal(self.index.get(key), vector)

    def _make_writable(self) -> None:
        if self._is_mapped:
            self.index, self._is_mapped = self.index.copy(), False

    def remove(self, item_ids: Sequence[str]) -> None:
        there = [item_id for item_id in dict.fromkeys(item_ids) if item_id in self._keys]
        if there:
            self._make_writable()
        for item_id in there:
            key = self._keys.pop(item_id)
            self.index.remove(key)
            del self._ids[key], self._columns[item_id]

    def search(
        self, queries: torch.Tensor, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, list[list[str]]]:
        wanted = values_by_column(where or {})
        found = [self._search_one(query, k, wanted) for query in queries.float().cpu().numpy()]
        scores = as_scores([[score for score, _ in one] for one in found], queries.device)
        return scores, [[item_id for _, item_id in one] for one in found]

    def _search_one(self, query: np.ndarray, k: int, wanted: Mapping[str, list]) -> list[tuple[float, str]]:
        count, total = min(k, len(self)), len(self)
        while count:
            matches = self.index.search(query, count, exact=total < _SMALL)
            pairs = zip((1 - matches.distances).tolist(), matches.keys.tolist(), strict=True)
            named = [(score, self._ids.get(key)) for score, key in pairs]  # one may be removed meanwhile
            found = [
                (score, item_id)
                for score, item_id in named
                if item_id is not None and _passes(self._columns.get(item_id, {}), wanted)
            ]
            if len(found) >= min(k, total) or count == total or len(matches) < count:
                return found[:k]
            count = min(2 * count, total)
        return []

    def item_ids(self) -> list[str]:
        return [*self._keys]

    def rows(self) -> Iterator[tuple[list[str], torch.Tensor, pa.Table]]:
        item_ids = self.item_ids()
        for start in range(0, len(item_ids), _ROWS_AT_A_TIME):
            some = item_ids[start : start + _ROWS_AT_A_TIME]
            vectors = np.stack([self.index.get(self._keys[item_id]) for item_id in some])
            yield some, torch.from_numpy(vectors), pa.Table.from_pylist([self._columns[one] for one in some])

    def another(self, checkpoint: str) -> "UsearchIndex":
        return emptied(self, checkpoint)

    def drop_others(self) -> None:
        pass

    def check(self) -> None:
        pass

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        graph = None if self.index is None else f"graph-{uuid.uuid4().hex}.usearch"
        if graph is not None:
            self.index.save(str(folder / graph))
            write_out(folder / graph)
        facts = {
            "checkpoint": self.checkpoint,
            "options": self.options,
            "graph": graph,
            "columns": self._columns,
            "keys": self._keys,
        }
        write_whole(folder / _ITEMS, json.dumps(facts, default=str))
        for path in folder.glob("graph-*.usearch"):
            if path.name != graph and _GRAPH.fullmatch(path.name):
                with contextlib.suppress(PermissionError):  # on Windows, while it is mapped
                    path.unlink()

    def load(self, folder: Path) -> None:
        with named_file(str(folder / _ITEMS)):
            facts = json.loads((folder / _ITEMS).read_text(encoding="utf-8"))
            graph = facts["graph"]
            if graph is not None and not _GRAPH.fullmatch(graph):
                raise ValueError(f"{graph!r} is no name of a graph's file")
            self.clear()
            self.checkpoint, self.options = facts["checkpoint"], facts["options"]
            self._keys, self._columns = facts["keys"], facts["columns"]
            self._ids = {key: item_id for item_id, key in self._keys.items()}
            self._next = max(self._ids, default=-1) + 1
        if graph is not None:
            with named_file(str(folder / graph)):
                self.index, self._is_mapped = self._make.restore(str(folder / graph), view=True), True


def _passes(row: Mapping[str, Any], wanted: Mapping[str, list]) -> bool:
    """Returns whether an item's columns have the wanted values."""
    return all(row.get(name) in values for name, values in wanted.items())
