"""What a service does with a recommender: answers, learns from interactions, changes its catalogue, loses nothing."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from .event_log import EventLog
from .recommender import Recommender


logger = logging.getLogger(__name__)


class NotKeptError(OSError):
    """A change could not be written to the log, and was not made."""


class Service:
    """
    Recommends, and keeps what it is told in a log, so that a process that is killed loses nothing that was confirmed.

    Readers never wait: they see the catalogue before a change or after it. Changes are made one after the other.

    Args:
        load: makes the recommender as it is saved, with its catalogue; called again when it is reloaded.
        log: file of events, see [`EventLog`]; without one, changes are lost when the process ends.

    Example:

    ```python
    service = Service(lambda: Recommender.from_pretrained("my-shop"), log="events.jsonl")
    service.add_interactions([{"user_id": "u1", "item_id": "b", "timestamp": 1700000000}])
    service.recommend([{"history": ["a", "b"]}], k=10)
    ```
    """

    def __init__(self, load: Callable[[], Recommender], log: str | os.PathLike | None = None):
        self.load = load
        self._changing = threading.Lock()
        self._log = None if log is None else EventLog(log)
        self.recommender = self._loaded()

    def _loaded(self) -> Recommender:
        """Returns the recommender as it is saved, with all that has happened since."""
        recommender, count = self.load(), 0
        if recommender.snapshot is None:
            raise ValueError(
                "this checkpoint has no catalogue: save it with one (Recommender.index, then save_pretrained), or "
                "name a data set to encode"
            )
        for event in self._log.events() if self._log is not None else ():
            _apply(recommender, event)
            count += 1
        if count:
            logger.info("%d changes of the catalogue and its counts were made again from the log", count)
        return recommender

    def close(self) -> None:
        """Gives the log back."""
        if self._log is not None:
            self._log.close()

    def reload(self) -> None:
        """Loads the recommender again, a new checkpoint or catalogue; until it is there, the old one answers."""
        with self._changing:
            self.recommender = self._loaded()

    def recommend(self, users: Sequence[dict[str, Any]], **options: Any) -> list:
        """Returns recommendations for several users; one that fails gets its error in place of them.

        Args:
            users: each with `history` and, where the model reads them, `timestamps` or `user_id`; all with the same.
            options: those of [`Recommender.recommend`].
        """
        recommender = self.recommender

        def answer(some: Sequence[dict[str, Any]]) -> list:
            fields: dict[str, Any] = {name: [user[name] for user in some] for name in some[0]}
            return recommender.recommend(fields.pop("history"), **fields, **options)

        def answer_one(user: dict[str, Any]) -> Any:
            try:
                return answer([user])[0]
            except ValueError as error:
                return error

        try:
            return answer(users)
        except ValueError:  # of one of them: which one is found by itself
            return [answer_one(user) for user in users]

    def similar_items(self, item_id: str, k: int) -> list[dict]:
        """Returns the items most like one, see [`Recommender.similar_items`]."""
        return self.recommender.similar_items(item_id, k)

    def score(self, history: Sequence[str], item_ids: Sequence[str]) -> list[float]:
        """Returns scores of some items, see [`Recommender.score`]."""
        return self.recommender.score(history, item_ids)

    def put_items(self, items: Sequence[dict]) -> None:
        """Adds items, or replaces those with the same id; returns when that is on the disk."""
        self._change({"kind": "put", "items": list(items)})

    def delete_items(self, item_ids: Sequence[str]) -> None:
        """Takes items out of the catalogue; returns when that is on the disk."""
        self._change({"kind": "remove", "item_ids": list(item_ids)})

    def add_interactions(self, interactions: Sequence[dict]) -> None:
        """Counts interactions; returns when they are on the disk.

        Args:
            interactions: each with `user_id`, `item_id` and, where known, `timestamp` and `weight`, all with the same.
        """
        self._change({"kind": "observe", "interactions": list(interactions)})

    def _change(self, event: dict) -> None:
        """Makes a change, and keeps it; one that cannot be kept is not made."""
        with self._changing:
            before = self.recommender.snapshot
            _apply(self.recommender, event)
            if self._log is None:
                return
            try:
                self._log.append(event)
            except OSError as error:
                self.recommender.restore(before)
                raise NotKeptError(str(error)) from error


def _apply(recommender: Recommender, event: dict) -> None:
    kind = event["kind"]
    if kind == "put":
        recommender.add_items(event["items"])
    elif kind == "remove":
        known: Any = recommender.snapshot
        unknown = [item_id for item_id in event["item_ids"] if item_id not in known]
        if unknown:
            raise ValueError(f"item {unknown[0]!r} is not in the catalogue")
        recommender.remove_items(event["item_ids"])
    elif kind == "observe":
        rows = event["interactions"]
        names = list(rows[0])
        if any(row.keys() != rows[0].keys() for row in rows):
            raise ValueError("all interactions of a request must have the same fields")
        recommender.observe({name: [row[name] for row in rows] for name in names})
    else:
        raise ValueError(f"a log has an event of kind {kind!r}, which this version does not know")
