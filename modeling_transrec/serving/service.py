"""What a service does with a recommender: answers, learns from interactions, changes its catalogue, loses nothing."""

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .event_log import EventLog
from .indexes import make_index
from .recommender import Recommender


logger = logging.getLogger(__name__)

_ROWS = {"put": "items", "remove": "item_ids", "observe": "interactions"}  # of each kind of event
_KIND_OF_ROW = {"items": "items", "item_ids": "items", "interactions": "interactions"}
_COUNTED_TOGETHER = 10_000  # interactions of a log


class NotKeptError(OSError):
    """A change could not be written to the log, and was not made."""


class NotLoadedError(RuntimeError):
    """The checkpoint could not be loaded again; the old one answers."""


class Service:
    """
    Recommends, and keeps what it is told in a log, so that a process that is killed loses nothing that was confirmed.

    Readers never wait: they see the catalogue before a change or after it. Changes are made one after the other.

    The log has the events that the checkpoint does not have. They are replayed on whatever checkpoint is loaded, at
    the start or by [`reload`]. What does not fit its catalogue is left out, and stays in the log: interactions of
    items that it does not have and items that it does not take, which are counted (`skipped`), and columns of items.

    Args:
        load: makes the recommender as it is saved, with its catalogue; called again when it is reloaded.
        log: file of events, see [`EventLog`]; without one, changes are lost when the process ends.
        index: name of the index that searches the catalogue, see [`Recommender.search_with`].
        index_options: options of the index.

    Attributes:
        skipped: items and interactions of the log that did not fit the checkpoint when it was loaded.

    Example:

    ```python
    service = Service(lambda: Recommender.from_pretrained("my-shop"), log="events.jsonl")
    service.add_interactions([{"user_id": "u1", "item_id": "b", "timestamp": 1700000000}])
    service.recommend([{"history": ["a", "b"]}], k=10)
    ```
    """

    def __init__(
        self,
        load: Callable[[], Recommender],
        log: str | os.PathLike | None = None,
        index: str = "exact",
        index_options: Mapping[str, Any] | None = None,
    ):
        self.load = load
        self._changing, self._loading = threading.Lock(), threading.Lock()
        self._index_name, self._index_options = index, dict(index_options or {})
        self._index: Any = None  # one that follows changes; each recommender gets another of its kind
        with contextlib.ExitStack() as opened:
            self._log = None if log is None else opened.enter_context(EventLog(log))
            self.recommender = self._loaded()
            self.skipped = self._replay(self.recommender)
            self._search_with_index(self.recommender)
            opened.pop_all()

    def _loaded(self) -> Recommender:
        """Returns the recommender as it is saved."""
        recommender = self.load()
        if recommender.snapshot is None:
            raise ValueError(
                "this checkpoint has no catalogue: save it with one (Recommender.index, then save_pretrained), or "
                "name a data set to encode"
            )
        return recommender

    def _replay(self, recommender: Recommender, since: float | None = None) -> int:
        """Replays the events of the log, and returns how many items and interactions did not fit."""
        if self._log is None:
            return 0
        count, left_out, first = 0, Counter[str](), None
        for events in _together(self._log.events(since)):
            for event, skipped in zip(events, _replay_what_fits(recommender, events), strict=True):
                left_out += skipped
                first = first or (event["line"] if skipped else None)
            count += len(events)
        if count:
            logger.info("%d changes of the catalogue and its counts were replayed from the log", count)
        if left_out:
            logger.warning(
                "%s of %s were left out, because they do not fit the checkpoint: interactions of items that it does "
                "not have, columns that it lacks; the first stand in line %d",
                " and ".join(f"{number} {what}" for what, number in left_out.items()),
                self._log.path,
                first,
            )
        return left_out["items"] + left_out["interactions"]

    def _search_with_index(self, recommender: Recommender) -> None:
        if self._index_name == "exact" and not self._index_options:
            return
        made = make_index(self._index_name, **self._index_options) if self._index is None else self._index
        if not made.follows_changes:
            recommender.search_with(self._index_name, **self._index_options)
            return
        self._index = made
        catalogue: Any = recommender.snapshot
        recommender.search_with(made.another(catalogue.stamp))

    def close(self) -> None:
        """Gives the log back."""
        if self._log is not None:
            self._log.close()

    def check(self) -> None:
        """Raises [`IndexUnavailableError`] if the index cannot be searched, such as without its database."""
        if self._index is not None:
            self._index.check()

    def reload(self, since: float | None = None) -> None:
        """Loads the recommender again, a new checkpoint or catalogue; until it is there, the old one answers.

        Args:
            since: seconds since 1970; what was logged before is in the checkpoint. It is not replayed, and is moved
                into a file beside the log, `events.jsonl.1`, `.2`, …. By default, all of the log is replayed.

        Raises:
            ValueError: if `since` is in the future, or there is no log.
            NotLoadedError: if the recommender cannot be loaded, or its index not be filled.
        """
        if since is not None and self._log is None:
            raise ValueError("there is no log of events, of which some could be left out: leave out since")
        if since is not None and since > time.time():
            raise ValueError("since is in the future: give seconds since 1970")
        with self._loading:
            try:
                recommender = self._loaded()
                with self._changing:
                    skipped = self._replay(recommender, since)
                    if since is not None and self._log is not None:
                        self._log.move_before(since)
                    self._search_with_index(recommender)
                    self.recommender, self.skipped = recommender, skipped
            except Exception as error:
                raise NotLoadedError("the checkpoint could not be loaded again; the old one answers") from error

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

    def similar_items(self, item_ids: Sequence[str], k: int) -> Any:
        """Returns the items most like each of several, see [`Recommender.similar_items`]."""
        return self.recommender.similar_items(item_ids, k)

    def score(self, histories: Sequence[Sequence[str]], item_ids: Sequence[Sequence[str]]) -> Any:
        """Returns scores of some items for each history, see [`Recommender.score`]."""
        return self.recommender.score(histories, item_ids)

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
        """Keeps a change, and makes it; one that cannot be made is not kept, and the other way round."""
        with self._changing:
            if self._log is None:
                _apply(self.recommender, event)
                return
            try:
                size = self._log.append(event)
            except OSError as error:
                raise NotKeptError(str(error)) from error
            try:
                _apply(self.recommender, event)
            except BaseException:
                self._log.truncate(size)
                raise


def _together(events: Iterable[dict]) -> Iterator[list[dict]]:
    """Yields events in their order: those of interactions with the same fields together, others one by one."""
    fields_before: list[str] | None = None
    found: list[dict] = []
    size = 0
    for event in events:
        fields = _common_fields(event)
        if found and (fields is None or fields != fields_before or size >= _COUNTED_TOGETHER):
            yield found
            found, size = [], 0
        found.append(event)
        fields_before, size = fields, size + len(event.get("interactions", ()))
    if found:
        yield found


def _common_fields(event: dict) -> list[str] | None:
    """Returns the fields that all interactions of an event have; `None` if they differ, or there are none."""
    fields = [sorted(row) for row in event["interactions"]] if event["kind"] == "observe" else []
    return fields[0] if fields and all(one == fields[0] for one in fields) else None


def _replay_what_fits(recommender: Recommender, events: list[dict]) -> list[Counter[str]]:
    """Replays events of a log, several only of interactions, as if one by one.

    Returns: for each event, how many of its items or interactions did not fit the catalogue.
    """
    if len(events) == 1:
        return [_apply_what_fits(recommender, events[0])]
    turns = [_fitting(recommender, "interactions", event["interactions"]) for event in events]
    try:
        if any(turns):
            _observe(recommender, turns)
    except (ValueError, TypeError):  # of one of them: which one is found by halves
        middle = len(events) // 2
        return _replay_what_fits(recommender, events[:middle]) + _replay_what_fits(recommender, events[middle:])
    left_out = (len(event["interactions"]) - len(turn) for event, turn in zip(events, turns, strict=True))
    return [Counter({"interactions": number} if number else {}) for number in left_out]


def _apply_what_fits(recommender: Recommender, event: dict) -> Counter[str]:
    """Replays an event of a log, and returns how many of its items or interactions did not fit the catalogue."""
    try:
        _apply(recommender, event)
        return Counter()
    except (ValueError, TypeError):
        if event["kind"] not in _ROWS:
            raise
    name = _ROWS[event["kind"]]
    rows, fitting = event[name], _fitting(recommender, name, event[name])
    if fitting == rows:
        if len(rows) == 1:
            return Counter([_KIND_OF_ROW[name]])
        return sum((_apply_what_fits(recommender, event | {name: [row]}) for row in rows), Counter())
    left_out = Counter({_KIND_OF_ROW[name]: len(rows) - len(fitting)} if name == "interactions" else {})
    return left_out + _apply_what_fits(recommender, event | {name: fitting}) if fitting else left_out


def _fitting(recommender: Recommender, name: str, rows: list) -> list:
    """Returns what a catalogue takes: columns of items that it has, of ids and interactions those of its items."""
    known: Any = recommender.snapshot
    if name == "items":
        columns = {*known.features, *recommender.processor.item_columns}
        return [{column: value for column, value in row.items() if column in columns} for row in rows]
    if name == "item_ids":
        return [item_id for item_id in rows if item_id in known]  # others are gone already
    return [] if known.scorer.transitions is None else [row for row in rows if row["item_id"] in known]


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
        _observe(recommender, [event["interactions"]])
    else:
        raise ValueError(f"a log has an event of kind {kind!r}, which this version does not know")


def _observe(recommender: Recommender, turns: Sequence[Sequence[dict]]) -> None:
    """Counts interactions, those of one turn after those of the other."""
    rows = [row for turn in turns for row in turn]
    names = list(rows[0]) if rows else []
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("all interactions of a request must have the same fields")
    numbers = [number for number, turn in enumerate(turns) for _ in turn]
    recommender.observe_in_turn({name: [row[name] for row in rows] for name in names}, numbers)
