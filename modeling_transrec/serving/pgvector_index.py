"""A table of PostgreSQL with the extension pgvector as an index."""

import copy
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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

R = TypeVar("R")
_ROWS_AT_A_TIME = 1_000
_MOST_BY_GRAPH = 1_000  # that pgvector finds by its graph of neighbours
_LONGEST_NAME = 50  # bytes; PostgreSQL cuts names at 63, and 13 tell checkpoints apart
_PATIENCE = {"connect_timeout": "10", "tcp_user_timeout": "10000"}  # seconds, milliseconds
_LOST = ("08", "57P")  # classes of errors: of the connection, and of a server that is shutting down or starting


class PgvectorIndex:
    """
    A table of PostgreSQL with pgvector: `item_id`, `vector`, `checkpoint` and `columns` (`jsonb`), for SQL, too.

    Each checkpoint's vectors have a table of their own, whose `name` is `table` and twelve letters and digits, so that
    one checkpoint can be searched while another's table is filled. What is searched for, the values of filters
    included, is always a parameter of a statement and never a part of it. Searches do not wait for changes, and a lost
    connection is opened again.

    Args:
        conninfo: where the server is, in the words of libpq; a password is better left to `PGPASSWORD` or a `.pgpass`.
        table: what the tables' names begin with; they are created when the first items are added.
        hnsw: whether a graph of neighbours is made when the table is; else every item is looked at.

    Raises:
        ImportError: if the client is not installed.
        IndexUnavailableError: if the server cannot be reached.
        ValueError: if the table's name is too long, or `conninfo` cannot be read.
        psycopg.Error: if the server does not have the extension.
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
        if len(table.encode()) > _LONGEST_NAME:
            raise ValueError(f"the table's name {table!r} is longer than {_LONGEST_NAME} bytes: name a shorter one")
        self._psycopg: Any = psycopg
        self._sql, self._jsonb, self.table, self.hnsw = sql, Jsonb, table, hnsw
        try:
            options: dict[str, Any] = {**_PATIENCE, **psycopg.conninfo.conninfo_to_dict(conninfo)}
        except psycopg.ProgrammingError as error:
            raise ValueError(f"conninfo cannot be read: {error}") from error

        def connect() -> Any:
            connection = psycopg.connect(**options, autocommit=True)
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            pgvector.psycopg.register_vector(connection)
            return connection

        self._reading, self._writing = _Connection(connect), _Connection(connect)
        self.checkpoint: str | None = None
        version = self._ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'")[0][0]
        self._graph_goes_on = [*map(int, version.split(".")[:2])] >= [0, 8]  # until enough items pass a filter
        self._had_table = False
        self.checkpoint = self._last_checkpoint()

    @property
    def name(self) -> str:
        """Name of the table."""
        return name_of(self.table, self.checkpoint)

    def _last_checkpoint(self) -> str | None:
        """Returns the checkpoint of the last table that was made and has items."""
        for name in self._names():
            for (checkpoint,) in self._ask("SELECT checkpoint FROM {name} LIMIT 1", name=name):
                return checkpoint
        return None

    def _names(self) -> list[str]:
        """Returns the names of all checkpoints' tables, the last one first."""
        tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_table_is_visible(oid) ORDER BY oid DESC"
        return [name for (name,) in self._ask(tables) if is_name_of(name, self.table)]

    def _ask(self, statement: str, *parameters: Any, **names: str) -> list[tuple]:
        """Returns the rows of an answer."""
        whole = self._statement(statement, **{part: self._sql.Identifier(name) for part, name in names.items()})
        return self._reading.run(lambda connection: connection.execute(whole, parameters).fetchall())

    def _statement(self, statement: str, **parts: Any) -> Any:
        return self._sql.SQL(statement).format(table=self._sql.Identifier(self.name), **parts)

    def _exists(self, connection: Any) -> bool:
        return connection.execute("SELECT to_regclass(quote_ident(%s))", [self.name]).fetchone()[0] is not None

    def _ask_of_table(self, statement: str, *parameters: Any) -> list[tuple]:
        """Returns the rows of an answer; none if there is no table."""
        try:
            return self._ask(statement, *parameters)
        except self._psycopg.errors.UndefinedTable:
            return []

    def __len__(self) -> int:
        return sum(count for (count,) in self._ask_of_table("SELECT count(*) FROM {table}"))

    def clear(self) -> None:
        self._drop(self.name)
        self.checkpoint, self._had_table = None, False

    def _drop(self, name: str) -> None:
        statement = self._statement("DROP TABLE IF EXISTS {name}", name=self._sql.Identifier(name))
        self._writing.run(lambda connection: connection.execute(statement))

    def another(self, checkpoint: str) -> "PgvectorIndex":
        other = copy.copy(self)
        other.checkpoint, other._had_table = checkpoint, False
        return other

    def drop_others(self) -> None:
        try:
            for name in self._names():
                if name != self.name:
                    self._drop(name)
        except (IndexUnavailableError, self._psycopg.Error) as error:  # such as of a role that may not drop them
            logger.warning("tables of earlier checkpoints are left in the database: %s", error)

    def check(self) -> None:
        self._ask("SELECT 1")

    def _create(self, connection: Any, width: int) -> None:
        kind = self._sql.SQL(f"vector({int(width)})")
        connection.execute(
            self._statement(
                "CREATE TABLE IF NOT EXISTS {table} (item_id text PRIMARY KEY, vector {kind} NOT NULL, "
                "checkpoint text, columns jsonb NOT NULL)",
                kind=kind,
            )
        )
        if self.hnsw:
            connection.execute(self._statement("CREATE INDEX ON {table} USING hnsw (vector vector_ip_ops)"))

    def _is_there(self, connection: Any) -> bool:
        """Returns whether there is a table to change.

        Raises:
            IndexUnavailableError: if there was one.
        """
        if self._exists(connection):
            self._had_table = True
        elif self._had_table:
            raise IndexUnavailableError(
                f"the table {self.name!r} is gone: another recommender searches with {self.table!r}, too; give each "
                "a table of its own"
            )
        return self._had_table

    def add(self, item_ids: Sequence[str], vectors: torch.Tensor, columns: pa.Table | None = None) -> None:
        values, rows = vectors.float().cpu().numpy(), as_rows(columns, len(item_ids))
        statement = self._statement(
            "INSERT INTO {table} VALUES (%s, %s, %s, %s) ON CONFLICT (item_id) DO UPDATE SET "
            "vector = excluded.vector, checkpoint = excluded.checkpoint, columns = excluded.columns"
        )

        def put(connection: Any) -> None:
            if not self._is_there(connection):
                self._create(connection, vectors.shape[1])
            with connection.cursor() as cursor:
                cursor.executemany(
                    statement,
                    [
                        (item_id, value, self.checkpoint, self._jsonb(row))
                        for item_id, value, row in zip(item_ids, values, rows, strict=True)
                    ],
                )

        try:
            self._writing.run(put)
        except self._psycopg.DataError as error:  # such as a text with the character 0
            raise ValueError(f"PostgreSQL does not take one of these items: {error}") from error
        self._had_table = True

    def remove(self, item_ids: Sequence[str]) -> None:
        statement = self._statement("DELETE FROM {table} WHERE item_id = ANY(%s)")

        def delete(connection: Any) -> None:
            if self._is_there(connection):
                connection.execute(statement, [[*item_ids]])

        self._writing.run(delete)

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

        def find(connection: Any) -> list[list[tuple]]:
            def best_of(vector: Any) -> list[tuple]:
                return connection.execute(statement, [vector, *parameters, vector, k]).fetchall()

            if self.hnsw:
                self._search_graph(connection, k)
            found = [best_of(vector) for vector in vectors]
            few = [number for number, best in enumerate(found) if len(best) < k]
            if self.hnsw and few:  # the graph may not have led to all that hold
                self._look_at_all(connection)
                for number in few:
                    found[number] = best_of(vectors[number])
            return found

        try:
            found = self._reading.run(find)
        except self._psycopg.errors.UndefinedTable:  # another checkpoint has taken its place
            found = [[] for _ in vectors]
        scores = as_scores([[score for _, score in one] for one in found], queries.device)
        return scores, [[item_id for item_id, _ in one] for one in found]

    def _search_graph(self, connection: Any, k: int) -> None:
        """Has the graph of neighbours find `k` items, or looks at all items if it cannot find so many."""
        if k > _MOST_BY_GRAPH:
            self._look_at_all(connection)
            return
        width = str(min(_MOST_BY_GRAPH, max(40, 2 * k)))
        connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [width])
        if self._graph_goes_on:
            connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")

    def _look_at_all(self, connection: Any) -> None:
        connection.execute(
            "SELECT set_config('enable_indexscan', 'off', true), set_config('enable_seqscan', 'on', true)"
        )

    def item_ids(self) -> list[str]:
        return [one for (one,) in self._ask_of_table("SELECT item_id FROM {table}")]

    def rows(self) -> Iterator[tuple[list[str], torch.Tensor, pa.Table]]:
        last = ""
        while True:
            found = self._ask_of_table(
                "SELECT item_id, vector, columns FROM {table} WHERE item_id > %s ORDER BY item_id LIMIT %s",
                last,
                _ROWS_AT_A_TIME,
            )
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


class _Connection:
    """A connection for the transactions of one thread at a time, which is opened again when it is lost."""

    def __init__(self, connect: Callable[[], Any]):
        self._connect = connect
        self._one_at_a_time = threading.Lock()
        self._opened: Any = None

    def run(self, work: Callable[[Any], R]) -> R:
        """Returns what is made in a transaction. If the connection is lost meanwhile, it is made again.

        Raises:
            IndexUnavailableError: if the server cannot be reached, or cannot do it.
        """
        with self._one_at_a_time:
            was_open = self._opened is not None
            try:
                return self._run(work)
            except IndexUnavailableError:
                if not was_open or self._opened is not None:
                    raise
            return self._run(work)

    def _run(self, work: Callable[[Any], R]) -> R:
        from psycopg import OperationalError

        try:
            if self._opened is None:
                self._opened = self._connect()
            with self._opened.transaction():
                return work(self._opened)
        except OperationalError as error:
            if self._opened is not None and (self._opened.closed or (error.sqlstate or "").startswith(_LOST)):
                self._opened.close()
                self._opened = None
            raise IndexUnavailableError(f"PostgreSQL cannot be reached, or cannot do it: {error}") from error


def _as_list(vector: Any) -> list[float]:
    return vector.to_list() if hasattr(vector, "to_list") else vector.tolist()
