"""A collection of Qdrant as an index."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from .item_index import as_rows, as_scores, load_rows, save_rows, values_by_column


_SPACE = uuid.UUID("7a0e3ad5-40a5-4c17-9d40-5b1e1bb7a1c6")  # ids of items become ids of points in it
_ROWS_AT_A_TIME = 1_000


class QdrantIndex:
    """
    A collection of Qdrant, on a server, or of the client in this process.

    A point has the payload `item_id`, `checkpoint` and `columns`. A server filters a large collection fast by columns
    of which it has a payload index: `client.create_payload_index(collection, "columns.in_stock", "bool")`.

    Args:
        collection: its name; it is created when the first items are added.
        client: those of `QdrantClient`: `url` and `api_key`, `path`, …; by default `location=":memory:"`.

    Raises:
        ImportError: if the client is not installed.
    """

    follows_changes = filters_itself = True

    def __init__(self, collection: str = "transrec_items", **client: Any):
        try:
            import qdrant_client
        except ImportError as error:
            raise ImportError("searching with Qdrant needs it: pip install modeling_transrec[qdrant]") from error
        self._models: Any = qdrant_client.models
        self.client = qdrant_client.QdrantClient(**(client or {"location": ":memory:"}))
        self.collection = collection
        self.checkpoint: str | None = None
        if self._exists():
            first, _ = self.client.scroll(collection, limit=1)
            self.checkpoint = first[0].payload["checkpoint"] if first else None

    def _exists(self) -> bool:
        return self.client.collection_exists(self.collection)

    def __len__(self) -> int:
        return self.client.count(self.collection, exact=True).count if self._exists() else 0

    def clear(self) -> None:
        self.client.delete_collection(self.collection)
        self.checkpoint = None

    def add(self, item_ids: Sequence[str], vectors: torch.Tensor, columns: pa.Table | None = None) -> None:
        models, rows = self._models, as_rows(columns, len(item_ids))
        if not self._exists():
            size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
            self.client.create_collection(self.collection, vectors_config=size)
        values = vectors.float().cpu().numpy()
        for start in range(0, len(item_ids), _ROWS_AT_A_TIME):
            points = [
                models.PointStruct(
                    id=_point(item_ids[place]),
                    vector=values[place].tolist(),
                    payload={"item_id": item_ids[place], "checkpoint": self.checkpoint, "columns": rows[place]},
                )
                for place in range(start, min(start + _ROWS_AT_A_TIME, len(item_ids)))
            ]
            self.client.upsert(self.collection, points)

    def remove(self, item_ids: Sequence[str]) -> None:
        points = [_point(item_id) for item_id in item_ids]
        there = {point.id for point in self.client.retrieve(self.collection, points, with_payload=False)}
        missing = [item_id for item_id, point in zip(item_ids, points, strict=True) if point not in there]
        if missing:
            raise KeyError(missing[0])
        self.client.delete(self.collection, self._models.PointIdsList(points=points))

    def search(
        self, queries: torch.Tensor, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, list[list[str]]]:
        wanted = values_by_column(where or {})
        if not all(wanted.values()):  # in Qdrant, no value would allow all of them
            return queries.new_empty(len(queries), 0), [[] for _ in queries]
        options = {"limit": k, "with_payload": ["item_id"], "filter": self._filter(wanted)}
        requests = [self._models.QueryRequest(query=query, **options) for query in queries.float().cpu().tolist()]
        found = [one.points for one in self.client.query_batch_points(self.collection, requests)]
        scores = as_scores([[point.score for point in one] for one in found], queries.device)
        return scores, [[point.payload["item_id"] for point in one] for one in found]

    def _filter(self, wanted: Mapping[str, list]) -> Any:
        models, columns = self._models, []
        for name, values in wanted.items():
            if '"' in name:
                raise ValueError(f"Qdrant cannot filter by a column with a double quote in its name: {name!r}")
            columns.append(models.Filter(should=[self._condition(f'columns."{name}"', one) for one in values]))
        return models.Filter(must=columns)

    def _condition(self, key: str, value: Any) -> Any:
        models = self._models
        if value is None:
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
        if isinstance(value, float):
            return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))

    def item_ids(self) -> list[str]:
        return [point.payload["item_id"] for part in self._parts(with_payload=["item_id"]) for point in part]

    def rows(self) -> Iterator[tuple[list[str], torch.Tensor, pa.Table]]:
        for points in self._parts(with_payload=True, with_vectors=True):
            payloads = [point.payload for point in points]
            vectors = torch.tensor([point.vector for point in points])
            columns = pa.Table.from_pylist([payload["columns"] for payload in payloads])
            yield [payload["item_id"] for payload in payloads], vectors, columns

    def _parts(self, **options: Any) -> Iterator[list]:
        offset: Any = None
        while self._exists():
            points, offset = self.client.scroll(self.collection, limit=_ROWS_AT_A_TIME, offset=offset, **options)
            if points:
                yield points
            if offset is None:
                return

    def save(self, folder: Path) -> None:
        save_rows(self, folder)

    def load(self, folder: Path) -> None:
        load_rows(self, folder)


def _point(item_id: str) -> str:
    return str(uuid.uuid5(_SPACE, item_id))
