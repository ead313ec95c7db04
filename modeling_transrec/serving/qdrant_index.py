"""A collection of Qdrant as an index."""

import contextlib
import copy
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from .item_index import (
    IndexUnavailableError,
    as_rows,
    as_scores,
    is_name_of,
    load_rows,
    name_of,
    save_rows,
    values_by_column,
)


logger = logging.getLogger(__name__)

_SPACE = uuid.UUID("7a0e3ad5-40a5-4c17-9d40-5b1e1bb7a1c6")  # ids of items become ids of points in it
_ROWS_AT_A_TIME = 1_000


class QdrantIndex:
    """
    A collection of Qdrant, on a server, or of the client in this process.

    A point has the payload `item_id`, `checkpoint` and `columns`. Each checkpoint's vectors have a collection of their
    own, whose `name` is `collection` and twelve letters and digits, so that one checkpoint can be searched while
    another's collection is filled. A server filters a large collection fast by columns of which it has a payload
    index: `client.create_payload_index(index.name, "columns.in_stock", "bool")`; a new checkpoint's collection needs
    its own.

    Args:
        collection: what the collections' names begin with; they are created when the first items are added.
        client: those of `QdrantClient`: `url` and `api_key`, `path`, …; by default `location=":memory:"`.

    Raises:
        ImportError: if the client is not installed.
        IndexUnavailableError: if the server cannot be reached.
        ValueError: if the client does not take an option.
    """

    follows_changes = filters_itself = True

    def __init__(self, collection: str = "transrec_items", **client: Any):
        try:
            import qdrant_client
        except ImportError as error:
            raise ImportError("searching with Qdrant needs it: pip install modeling_transrec[qdrant]") from error
        self._models: Any = qdrant_client.models
        self._refused = qdrant_client.http.exceptions.UnexpectedResponse
        try:
            self.client = qdrant_client.QdrantClient(**(client or {"location": ":memory:"}))
        except TypeError as error:
            raise ValueError(f"Qdrant's client does not take one of {', '.join(client)}: {error}") from error
        self.collection = collection
        self._had_collection = False
        self.checkpoint: str | None = self._found_checkpoint()

    @property
    def name(self) -> str:
        """Name of the collection."""
        return name_of(self.collection, self.checkpoint)

    def _found_checkpoint(self) -> str | None:
        """Returns a checkpoint of which there are vectors."""
        with _reached():
            for name in self._names():
                for point in self.client.scroll(name, limit=1)[0]:
                    return _stored(point, "checkpoint")
        return None

    def _names(self) -> list[str]:
        """Returns the names of all checkpoints' collections."""
        there = self.client.get_collections().collections
        return sorted(one.name for one in there if is_name_of(one.name, self.collection))

    def _exists(self) -> bool:
        return self.client.collection_exists(self.name)

    def __len__(self) -> int:
        with _reached():
            return self.client.count(self.name, exact=True).count if self._exists() else 0

    def clear(self) -> None:
        with _reached():
            self.client.delete_collection(self.name)
        self.checkpoint, self._had_collection = None, False

    def another(self, checkpoint: str) -> "QdrantIndex":
        other = copy.copy(self)
        other.checkpoint, other._had_collection = checkpoint, False
        return other

    def drop_others(self) -> None:
        try:
            with _reached():
                for name in self._names():
                    if name != self.name:
                        self.client.delete_collection(name)
        except (IndexUnavailableError, self._refused) as error:  # such as by a key that may not delete them
            logger.warning("collections of earlier checkpoints are left in the database: %s", error)

    def check(self) -> None:
        with _reached():
            self._exists()

    def _is_there(self) -> bool:
        """Returns whether there is a collection to change.

        Raises:
            IndexUnavailableError: if there was one.
        """
        if self._exists():
            self._had_collection = True
        elif self._had_collection:
            raise IndexUnavailableError(
                f"the collection {self.name!r} is gone: another recommender searches with {self.collection!r}, too; "
                "give each a collection of its own"
            )
        return self._had_collection

    def add(self, item_ids: Sequence[str], vectors: torch.Tensor, columns: pa.Table | None = None) -> None:
        models, rows = self._models, as_rows(columns, len(item_ids))
        values = vectors.float().cpu().numpy()
        with _reached():
            if not self._is_there():
                size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
                self.client.create_collection(self.name, vectors_config=size)
                self._had_collection = True
            for start in range(0, len(item_ids), _ROWS_AT_A_TIME):
                points = [
                    models.PointStruct(
                        id=_point(item_ids[place]),
                        vector=values[place].tolist(),
                        payload={"item_id": item_ids[place], "checkpoint": self.checkpoint, "columns": rows[place]},
                    )
                    for place in range(start, min(start + _ROWS_AT_A_TIME, len(item_ids)))
                ]
                self.client.upsert(self.name, points)

    def remove(self, item_ids: Sequence[str]) -> None:
        with _reached():
            if self._is_there():
                points = [_point(item_id) for item_id in item_ids]
                self.client.delete(self.name, self._models.PointIdsList(points=points))

    def search(
        self, queries: torch.Tensor, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, list[list[str]]]:
        wanted = values_by_column(where or {})
        nothing: list[list[str]] = [[] for _ in queries]
        if not all(wanted.values()):  # in Qdrant, no value would allow all of them
            return queries.new_empty(len(queries), 0), nothing
        options = {"limit": k, "with_payload": ["item_id"], "filter": self._filter(wanted)}
        requests = [self._models.QueryRequest(query=query, **options) for query in queries.float().cpu().tolist()]
        with _reached():
            try:
                found = [one.points for one in self.client.query_batch_points(self.name, requests)]
            except (ValueError, self._refused):  # by the client in this process, by a server
                if self._exists():
                    raise
                return queries.new_empty(len(queries), 0), nothing  # another checkpoint has taken its place
        scores = as_scores([[point.score for point in one] for one in found], queries.device)
        return scores, [[_stored(point, "item_id") for point in one] for one in found]

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
            points, offset = self.client.scroll(self.name, limit=_ROWS_AT_A_TIME, offset=offset, **options)
            if points:
                yield points
            if offset is None:
                return

    def save(self, folder: Path) -> None:
        save_rows(self, folder)

    def load(self, folder: Path) -> None:
        load_rows(self, folder)


def _stored(point: Any, name: str) -> str:
    """Returns what stands beside a point's vector."""
    return point.payload[name]


def _point(item_id: str) -> str:
    return str(uuid.uuid5(_SPACE, item_id))


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    """Within it, a server that cannot be reached is an [`IndexUnavailableError`]."""
    from qdrant_client.http.exceptions import ResponseHandlingException

    try:
        yield
    except ResponseHandlingException as error:
        raise IndexUnavailableError(f"Qdrant cannot be reached: {error}") from error
