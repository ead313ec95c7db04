"""Defines what an index of item vectors is, and those that lie in memory."""

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..data.growing import GrowingRows
from ..evaluation.ranking import best_of, top_items
from ..models.checkpoint_files import named_file
from .filters import matching


FILE = "index.parquet"
_ROWS_AT_A_TIME = 10_000
T = TypeVar("T", bound="ItemIndex")


class IndexUnavailableError(ConnectionError):
    """The database of an index cannot be reached, or has lost its items."""


class ItemIndex(Protocol):
    """
    Vectors of items by id, with the items' columns; finds those of the highest dot product with a query.

    Attributes:
        checkpoint: hash of what made the vectors, see [`claim`]; `None` as long as nothing did.
        follows_changes: whether items can be added and removed while others search, so that a recommender does so as
            they come and go; else it builds an index anew when an eighth of the items has changed.
        filters_itself: whether `search` filters by means of its own, so that a few items that pass are found as fast
            as many; else a recommender leaves out of what is found what does not pass.
    """

    checkpoint: str | None
    follows_changes: bool
    filters_itself: bool

    def __len__(self) -> int: ...

    def add(self, item_ids: Sequence[str], vectors: torch.Tensor, columns: pa.Table | None = None) -> None:
        """Adds items with their vectors `(N, D)`, or replaces those that are there."""

    def remove(self, item_ids: Sequence[str]) -> None:
        """Takes items out; one that is not there need not be."""

    def search(
        self, queries: torch.Tensor, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, list[list[str]]]:
        """Returns scores `(B, K)` and ids of the best items for queries `(B, D)`, best first.

        Args:
            queries: `(B, D)`.
            k: number of items.
            where: a value or a list of values for each column; all must hold. It is part of the search, so that fewer
                than `k` items are found only where no more hold.

        Returns: as many scores as the longest list has ids, -inf behind the end of a shorter one.
        """

    def item_ids(self) -> list[str]:
        """Returns the ids of all items, in any order."""

    def rows(self) -> Iterator[tuple[list[str], torch.Tensor, pa.Table]]:
        """Yields all items in parts: their ids, vectors and columns."""

    def clear(self) -> None:
        """Takes all items out."""

    def another(self, checkpoint: str) -> "ItemIndex":
        """Returns an index of the same kind and options for the vectors of a checkpoint; this one stays as it is.

        In memory it is empty. In a database it is the checkpoint's own table or collection under the same name.
        """

    def drop_others(self) -> None:
        """Drops what a database has of other checkpoints under the same name; in memory there is nothing."""

    def check(self) -> None:
        """Raises [`IndexUnavailableError`] if the index cannot be searched, such as without its database."""

    def save(self, folder: Path) -> None:
        """Writes all items into a folder, from which [`load`] fills an index of any kind."""

    def load(self, folder: Path) -> None:
        """Fills the index with what was saved."""


def claim(index: ItemIndex, checkpoint: str) -> None:
    """Says which checkpoint makes the vectors of an index.

    Raises:
        ValueError: if it has vectors of another one, which cannot be compared with these.
    """
    if index.checkpoint != checkpoint and len(index):
        raise ValueError(
            f"the index has vectors of another checkpoint or catalogue ({str(index.checkpoint)[:12]} in place of "
            f"{checkpoint[:12]}), which cannot be compared with these: name another table, collection or folder, or "
            "empty it by its method clear()"
        )
    index.checkpoint = checkpoint


def name_of(base: str, checkpoint: str | None) -> str:
    """Returns the name of the table or collection with a checkpoint's vectors.

    >>> name_of("shop", "0f3a"), name_of("shop", None)
    ('shop_fc5f05b91159', 'shop')
    """
    return base if checkpoint is None else f"{base}_{hashlib.sha256(checkpoint.encode()).hexdigest()[:12]}"


def is_name_of(name: str, base: str) -> bool:
    """Returns whether a name is one that [`name_of`] gives to some checkpoint's vectors."""
    return name.startswith(f"{base}_") and re.fullmatch("[0-9a-f]{12}", name[len(base) + 1 :]) is not None


def emptied(index: T, checkpoint: str) -> T:
    """Returns an empty index with the options of one in memory, for the vectors of a checkpoint."""
    other = copy.copy(index)
    other.clear()
    other.checkpoint = checkpoint
    return other


def save_rows(index: ItemIndex, folder: Path) -> None:
    """Writes the items of an index as a table of Parquet: `item_id`, `vector`, and `columns` as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{FILE}.unfinished"
    schema = pa.schema(
        [("item_id", pa.string()), ("vector", pa.list_(pa.float32())), ("columns", pa.string())],
        metadata={"checkpoint": index.checkpoint or ""},
    )
    with pq.ParquetWriter(unfinished, schema) as writer:
        for item_ids, vectors, columns in index.rows():
            rows = [json.dumps(row) for row in as_rows(columns, len(item_ids))]
            table = {"item_id": item_ids, "vector": [*vectors.cpu().numpy()], "columns": rows}
            writer.write_table(pa.table(table, schema))
    unfinished.replace(folder / FILE)


def load_rows(index: ItemIndex, folder: Path) -> None:
    """Fills an index with the items that [`save_rows`] wrote.

    Raises:
        ValueError: if the file is damaged, or of another checkpoint than what the index has; it names the file.
    """
    with named_file(str(folder / FILE)):
        opened = pq.ParquetFile(folder / FILE)
        claim(index, (opened.schema_arrow.metadata or {}).get(b"checkpoint", b"").decode())
        for batch in opened.iter_batches(_ROWS_AT_A_TIME):
            vectors = torch.tensor(batch["vector"].to_pylist(), dtype=torch.float32)
            columns = pa.Table.from_pylist([json.loads(row) for row in batch["columns"].to_pylist()])
            index.add(batch["item_id"].to_pylist(), vectors, columns)


def as_rows(columns: pa.Table | None, count: int) -> list[dict]:
    """Returns columns as a dictionary for each item, of values that JSON has."""
    return [{} for _ in range(count)] if columns is None else _in_json(columns.to_pylist())


def values_by_column(where: Mapping[str, Any]) -> dict[str, list]:
    """Returns the values that a filter allows in each column, as [`as_rows`] gives them.

    >>> values_by_column({"kind": "a", "price": [1.5, float("nan")]})
    {'kind': ['a'], 'price': [1.5, None]}
    """
    several = list | tuple | set | frozenset
    return {name: _in_json([*value] if isinstance(value, several) else [value]) for name, value in where.items()}


def _in_json(value: Any) -> Any:
    """Returns a value as JSON has it: times as text, and numbers that are not finite as missing."""
    if isinstance(value, dict):
        return {name: _in_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_in_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_scores(found: Sequence[Sequence[float]], device: torch.device) -> torch.Tensor:
    """Returns the scores that each query found as `(B, K)`, -inf behind the end of a shorter list."""
    scores = torch.full((len(found), max(map(len, found), default=0)), float("-inf"))
    for row, one in enumerate(found):
        scores[row, : len(one)] = torch.tensor(one)
    return scores.to(device)


class ExactIndex:
    """
    Looks at every item, in the memory of this process; the others are measured against it.

    Example:

    >>> index = ExactIndex()
    >>> index.add(["a", "b", "c"], torch.eye(3), pa.table({"in_stock": [True, False, True]}))
    >>> index.search(torch.tensor([[0.1, 0.9, 0.5]]), k=2, where={"in_stock": True})
    (tensor([[0.5000, 0.1000]]), [['c', 'a']])
    """

    follows_changes = filters_itself = False

    def __init__(self) -> None:
        self.checkpoint: str | None = None
        self.clear()

    def clear(self) -> None:
        self._ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._columns: list[pa.Table] = []
        self._vectors: GrowingRows | None = None

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def vectors(self) -> torch.Tensor:
        """Vectors `(N, D)` in the order in which they came, also of items that have been removed."""
        return torch.empty(0, 0) if self._vectors is None else self._vectors.rows

    def add(self, item_ids: Sequence[str], vectors: torch.Tensor, columns: pa.Table | None = None) -> None:
        self._append(vectors)
        if self._vectors is None:
            self._vectors = GrowingRows(vectors)
            self._vectors.room = len(vectors) // 8 + 1024  # from the next ones on; these are not copied
        else:
            self._vectors = self._vectors.grown(vectors)
        self._row_of |= dict(zip(item_ids, range(len(self._ids), len(self._ids) + len(item_ids)), strict=True))
        self._ids += item_ids
        columns = pa.table({"item_id": [*item_ids]}) if columns is None else columns
        self._columns.append(columns)

    def remove(self, item_ids: Sequence[str]) -> None:
        for item_id in item_ids:
            self._row_of.pop(item_id, None)

    def search(
        self, queries: torch.Tensor, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, list[list[str]]]:
        passes = self._passing(where)
        total = len(self._ids)
        count = k = min(k, int(passes.sum()))
        if k == 0:
            return queries.new_empty(len(queries), 0), [[] for _ in queries]
        while True:
            scores, rows = self.nearest(queries, min(count, total))
            left_out = (rows < 0) | ~passes[rows]
            is_enough = ((~left_out).sum(dim=1) >= k) | (rows < 0).any(dim=1)
            if count >= total or is_enough.all():
                break
            count *= 2  # too many have been removed, or do not pass
        scores, rows = best_of(scores.masked_fill(left_out, float("-inf")), rows, k)
        found = zip(scores.tolist(), rows.tolist(), strict=True)
        return scores, [
            [self._ids[row] for score, row in zip(*one, strict=True) if score > float("-inf")] for one in found
        ]

    def _passing(self, where: Mapping[str, Any] | None) -> torch.Tensor:
        """Returns which vectors belong to items that are there and pass the filter: `(N,)` booleans."""
        passes = torch.zeros(len(self._ids), dtype=torch.bool)
        passes[torch.tensor([*self._row_of.values()], dtype=torch.long)] = True
        if where:
            columns = pa.concat_tables(self._columns, promote_options="permissive")
            passes &= torch.from_numpy(matching(columns, where))
        return passes.to(self.vectors.device)

    def nearest(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns scores and the numbers of the best vectors, `(B, K)`; -1 where it finds fewer than `k`."""
        return top_items(queries @ self.vectors.T, k)

    def _append(self, vectors: torch.Tensor) -> None:
        """Adds vectors to what searches; here these are all that is needed."""

    def item_ids(self) -> list[str]:
        return [*self._row_of]

    def rows(self) -> Iterator[tuple[list[str], torch.Tensor, pa.Table]]:
        columns = pa.concat_tables(self._columns, promote_options="permissive") if self._columns else pa.table({})
        numbers = [*self._row_of.values()]
        for start in range(0, len(numbers), _ROWS_AT_A_TIME):
            some = numbers[start : start + _ROWS_AT_A_TIME]
            yield [self._ids[row] for row in some], self.vectors[some], columns.take(some)

    def another(self, checkpoint: str) -> "ExactIndex":
        return emptied(self, checkpoint)

    def drop_others(self) -> None:
        pass

    def check(self) -> None:
        pass

    def save(self, folder: Path) -> None:
        save_rows(self, folder)

    def load(self, folder: Path) -> None:
        load_rows(self, folder)
