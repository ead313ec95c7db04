"""What a service was told since its checkpoint was made, in a file that is only added to."""

import base64
import errno
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


_BYTES = "$base64"  # the only key of what stands for bytes


class LogInUseError(RuntimeError):
    """Another process has the log of a service open."""


class EventLog:
    """
    Keeps events and their times as JSON lines, each of which is on the disk before [`append`] returns; bytes in them
    are base64.

    A process has the file for itself. An event that a kill has cut was never confirmed: it is cut off when the file is
    opened again.

    Args:
        path: the file, which is made if there is none.

    Raises:
        LogInUseError: if another process has it open.
        ValueError: if a line in the middle of it is damaged; the line is named.

    Example:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/events.jsonl"
    >>> with EventLog(path) as log:
    ...     size = log.append({"kind": "remove", "item_ids": ["a"]})
    >>> with EventLog(path) as log:
    ...     print(*(event["item_ids"] for event in log.events()))
    ['a']
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock", thread_local=False)  # whichever thread closes it
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise LogInUseError(f"another process writes {self.path}: a log belongs to one service") from None
        self._file = self.path.open("ab", buffering=0)
        self._cut_unfinished()
        self._sync_folder()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()
        self._lock.release()

    def append(self, event: dict) -> int:
        """Adds an event, with its `time` in seconds since 1970. If it cannot be written whole, the file is as before.

        Returns: the size of the file without the event, to which [`truncate`] brings it back.

        Raises:
            OSError: if it cannot be written.
        """
        event = {"time": round(time.time(), 3), **event}
        size = self._file.seek(0, os.SEEK_END)
        line = json.dumps(event, ensure_ascii=False, default=_as_json).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise
        return size

    def truncate(self, size: int) -> None:
        """Takes out what was added since the file had a size."""
        self._file.truncate(size)

    def events(self, since: float | None = None) -> Iterator[dict]:
        """Yields all events, or those since a time, the first one first; each with the `line` in which it stands."""
        for number, line in enumerate(self._lines(), start=1):
            event = self._parsed(number, line)
            if since is None or event["time"] >= since:
                yield event | {"line": number}

    def move_before(self, since: float) -> Path | None:
        """Moves the events before a time into a file beside this one: its name and `.1`, `.2`, ….

        Returns: that file; `None` if there are no such events.

        Raises:
            OSError: if the files cannot be written; this one is as it was before.
        """
        number = next(number for number in itertools.count(1) if not self._beside(str(number)).exists())
        older, newer = self._beside(f"{number}.unfinished"), self._beside("unfinished")
        try:
            with older.open("wb") as before, newer.open("wb") as after:
                for place, line in enumerate(self._lines(), start=1):
                    (before if self._parsed(place, line)["time"] < since else after).write(line)
                for file in (before, after):
                    file.flush()
                    os.fsync(file.fileno())
            if older.stat().st_size == 0:
                return None
            moved = older.replace(self._beside(str(number)))
            newer.replace(self.path)
        finally:
            older.unlink(missing_ok=True)
            newer.unlink(missing_ok=True)
        self._file.close()
        self._file = self.path.open("ab", buffering=0)
        self._sync_folder()
        return moved

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from file

    def _parsed(self, number: int, line: bytes) -> dict:
        """Returns the event of a line."""
        try:
            event = json.loads(line, object_hook=_as_it_was)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path}:{number}: the line is damaged: {error}") from error
        if not isinstance(event, dict) or "kind" not in event or not isinstance(event.get("time"), int | float):
            raise ValueError(f"{self.path}:{number}: this is no event of a service")
        return event

    def _sync_folder(self) -> None:
        """Waits until the folder's names are on the disk, too."""
        if os.name == "posix":
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _cut_unfinished(self) -> None:
        whole = self.path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)


def _as_json(value: Any) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"a log cannot keep a value of {type(value).__name__}")
    return {_BYTES: base64.b64encode(value).decode()}


def _as_it_was(value: dict) -> Any:
    return base64.b64decode(value[_BYTES], validate=True) if value.keys() == {_BYTES} else value
