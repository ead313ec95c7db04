"""What a service was told since its catalogue was made, in a file that is only added to."""

import base64
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


_BYTES = "$base64"  # the only key of what stands for bytes


class EventLog:
    """
    Keeps events as JSON lines, each of which is on the disk before [`append`] returns; bytes in them are base64.

    A process has the file for itself. An event that a kill has cut was never confirmed: it is cut off when the file is
    opened again.

    Args:
        path: the file, which is made if there is none.

    Raises:
        RuntimeError: if another process has it open.
        ValueError: if a line in the middle of it is damaged; the line is named.

    Example:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/events.jsonl"
    >>> with EventLog(path) as log:
    ...     log.append({"kind": "remove", "item_ids": ["a"]})
    >>> with EventLog(path) as log:
    ...     print(*log.events())
    {'kind': 'remove', 'item_ids': ['a']}
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock", thread_local=False)  # whichever thread closes it
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise RuntimeError(f"another process writes {self.path}: a log belongs to one service") from None
        self._file = self.path.open("ab", buffering=0)
        self._cut_unfinished()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()
        self._lock.release()

    def append(self, event: dict) -> None:
        """Adds an event. If it cannot be written whole, the file is as it was before.

        Raises:
            OSError: if it cannot be written.
        """
        size = self._file.seek(0, os.SEEK_END)
        line = json.dumps(event, ensure_ascii=False, default=_as_json).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            raise

    def events(self) -> Iterator[dict]:
        """Yields all events, the first one first."""
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    event = json.loads(line, object_hook=_as_it_was)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{self.path}:{number}: the line is damaged: {error}") from error
                if not isinstance(event, dict) or "kind" not in event:
                    raise ValueError(f"{self.path}:{number}: this is no event of a service")
                yield event

    def _cut_unfinished(self) -> None:
        whole = self.path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)


def _as_json(value: Any) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"a log cannot keep a value of {type(value).__name__}")
    return {_BYTES: base64.b64encode(value).decode()}


def _as_it_was(value: dict) -> Any:
    return base64.b64decode(value[_BYTES], validate=True) if value.keys() == {_BYTES} else value
