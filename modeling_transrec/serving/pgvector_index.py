"""A table of PostgreSQL with the extension pgvector as an index."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from .item_index import as_rows, as_scores, load_rows, save_rows, values_by_column


_ROWS_AT_A_TIME = 1_000
_MOST_BY_GRAPH = 1_000  # that pgvector finds by its graph of neighbours


class PgvectorIndex:
    """
    A table of PostgreSQL with pgvector: `item_id`, `vector`, `checkpoint` and `columns` (`jsonb`), for SQL, too.

    What is searched for, the values of filters included, is always a parameter of a statement and never a part of it.

    Args:
        conninfo: where the server is, in the words of libpq; a password is better left to `PGPASSWORD` or a `.pgpass`.
        table: name of the table, which is created when the first items are added.
        hnsw: whether a graph of neighbours is made when the table is; else every item is looked at.

    Raises:
        ImportError: if the client is not installed.
        psycopg.Error: if the server cannot be reached, or does not have the extension.
    """

    follows_changes = filters_itself = True

    def __init__(self, conninfo: str = "", table: str = "transrec_items", hnsw: bool = False):
        try:
            import pgvector.psycopg
            import psycopg
            from psycopg import sql
            from psycopg.types.json import Jsonb
        except ImportError as error:
            raise ImportError("searching with pgvector needs it: pip install modeling_transrec[pgvector]") from error
        self._sql, self._jsonb = sql, Jsonb
        self._table, self.table, self.hnsw = sql.Identifier(table), table, hnsw
        self.connection: Any = psycopg.connect(conninfo, autocommit=True)
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        (version,) = self._ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        self._graph_goes_on = [*map(int, version.split(".")[:2])] >= [0, 8]  # until enough items pass a filter
        self._one_at_a_time = threading.Lock()  # transactions of a connection
        pgvector.psycopg.register_vector(self.connection)
        found = self._ask("SELECT checkpoint FROM {table} LIMIT 1").fetchone() if self._exists() else None
        self.checkpoint: str | None = None if found is None else found[0]

    def _ask(self, statement: str, *parameters: Any) -> Any:
        return self.connection.execute(self._statement(statement), parameters)

    def _statement(self, statement: str, **parts: Any) -> Any:
        return self._sql.SQL(statement).format(table=self._table, **parts)

    def _exists(self) -> bool:
        return self._ask("SELECT to_regclass(quote_ident(%s))", self.table).fetchone()[0] is not None

    def __len__(self) -> int:
        return self._ask("SELECT count(*) FROM {table}").fetchone()[0] if self._exists() else 0

    def clear(self) -> None:
        self._ask("DROP TABLE IF EXISTS {table}")
        self.checkpoint = None

    def _create(self, width: int) -> None:
        kind = self._sql.SQL(f"vector({int(width)})")
        self.connection.execute(
            self._statement(
                "CREATE TABLE IF NOT EXISTS {table} (item_id text PRIMARY KEY, vector {kind} NOT NULL, "
                "checkpoint text, columns jsonb NOT NULL)",
                kind=kind,
            )
        )
        if self.hnsw:
            self._ask("CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops)")

    def add(self, item_ids: Sequence[str], vectors: torch.Tensor, columns: pa.Table | None = None) -> None:
        values, rows = vectors.float().cpu().numpy(), as_rows(columns, len(item_ids))
        places = range(len(item_ids))
        with self._one_at_a_time, self.connection.transaction():
            if not self._exists():
                self._create(vectors.shape[1])
            with self.connection.cursor() as cursor:
                cursor.executemany(
                    self._statement(
                        "INSERT INTO {table} VALUES (%s, %s, %s, %s) ON CONFLICT (item_id) DO UPDATE SET "
                        "vector = excluded.vector, checkpoint = excluded.checkpoint, columns = excluded.columns"
                    ),
                    [(item_ids[one], values[one], self.checkpoint, self._jsonb(rows[one])) for one in places],
                )

    def remove(self, item_ids: Sequence[str]) -> None:
        with self._one_at_a_time, self.connection.transaction():
            gone = self._ask("DELETE FROM {table} WHERE item_id = ANY(%s) RETURNING item_id", [*item_ids]).fetchall()
            missing = set(item_ids) - {item_id for (item_id,) in gone}
            if missing:
                raise KeyError(min(missing))

    def search(
        self, queries: torch.Tensor, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, list[list[str]]]:
        wanted = values_by_column(where or {})
        conditions = ["coalesce(columns -> %s, 'null') = ANY(%s::jsonb[])"] * len(wanted) or ["true"]
        parameters = [part for name, values in wanted.items() for part in (name, [*map(self._jsonb, values)])]
        statement = self._statement(
            "SELECT item_id, -(vector <#> %s) FROM {table} WHERE {condition} ORDER BY vector <#> %s LIMIT %s",
            condition=self._sql.SQL(" AND ".join(conditions)),
        )
        vectors = queries.float().cpu().numpy()

        def best_of(number: int) -> list:
            vector = vectors[number]
            return self.connection.execute(statement, [vector, *parameters, vector, k]).fetchall()

        with self._one_at_a_time, self.connection.transaction():
            if self.hnsw:
                self._search_graph(k)
            found = [best_of(number) for number in range(len(vectors))]
            few = [number for number, best in enumerate(found) if len(best) < k]
            if self.hnsw and few:  # the graph may not have led to all that hold
                self._look_at_all()
                for number in few:
                    found[number] = best_of(number)
        scores = as_scores([[score for _, score in one] for one in found], queries.device)
        return scores, [[item_id for item_id, _ in one] for one in found]

    def _search_graph(self, k: int) -> None:
        """Has the graph of neighbours find `k` items, or looks at all items if it cannot find so many."""
        if k > _MOST_BY_GRAPH:
            self._look_at_all()
            return
        self._ask("SELECT set_config('hnsw.ef_search', %s, true)", str(min(_MOST_BY_GRAPH, max(40, 2 * k))))
        if self._graph_goes_on:
            self._ask("SET LOCAL hnsw.iterative_scan = strict_order")

    def _look_at_all(self) -> None:
        self._ask("SELECT set_config('enable_indexscan', 'off', true), set_config('enable_seqscan', 'on', true)")

    def item_ids(self) -> list[str]:
        return [one for (one,) in self._ask("SELECT item_id FROM {table}").fetchall()] if self._exists() else []

    def rows(self) -> Iterator[tuple[list[str], torch.Tensor, pa.Table]]:
        last = ""
        while self._exists():
            found = self._ask(
                "SELECT item_id, vector, columns FROM {table} WHERE item_id > %s ORDER BY item_id LIMIT %s",
                last,
                _ROWS_AT_A_TIME,
            ).fetchall()
            if not found:
                return
            item_ids, vectors, columns = zip(*found, strict=True)
            stacked = torch.tensor([_as_list(vector) for vector in vectors])
            yield [*item_ids], stacked, pa.Table.from_pylist([*columns])
            last = item_ids[-1]

    def save(self, folder: Path) -> None:
        save_rows(self, folder)

    def load(self, folder: Path) -> None:
        load_rows(self, folder)


def _as_list(vector: Any) -> list[float]:
    return vector.to_list() if hasattr(vector, "to_list") else vector.tolist()
