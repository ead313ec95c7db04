"""One writer at a time in a folder: a lock that vanishes with its process, and says whose it is."""

import contextlib
import datetime
import json
import logging
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout


logger = logging.getLogger(__name__)

# Both are there only while somebody writes, or was killed; names that start with "_" are never published.
LOCK_NAME, OWNER_NAME = "_lock", "_locked_by.json"
_FOR_WORKERS = 15.0  # seconds; workers that load data hold the lock of a killed process until they find it gone
_SECRET = re.compile(r"hf_\w{4,}|(?<=token[ =])\S+")


@contextlib.contextmanager
def locked(folder: str | os.PathLike, wait: float = 0.0) -> Iterator[None]:
    """Keeps other processes and threads that take this lock, too, from writing into a folder.

    The operating system holds the lock, so that it goes with its process however that ends, and none is ever stale.
    A thread that has it may take it again.

    Args:
        folder: the folder, which is made where there is none.
        wait: how many seconds to wait for whoever has it.

    Raises:
        BlockingIOError: if another one has it, with its process, host and command.
        PermissionError: if the folder cannot be written to.
    """
    folder = Path(folder)
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, is_singleton=True)
    if not lock.lock_counter:
        wait = max(wait, _FOR_WORKERS if _is_gone(read_owner(folder)) else 0.0)
    _acquire(lock, folder, wait)
    try:
        if lock.lock_counter == 1:
            (folder / OWNER_NAME).write_text(json.dumps(_describe_process()), encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            (folder / OWNER_NAME).unlink(missing_ok=True)
            (folder / LOCK_NAME).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, folder: Path, wait: float) -> None:
    """Takes a lock; one whose file its owner has removed in the meantime is none."""
    while True:
        with _writable(folder):
            (folder / LOCK_NAME).touch()
            before = _inode(folder / LOCK_NAME)
            try:
                lock.acquire(timeout=wait)
            except Timeout:
                raise BlockingIOError(f"{_in_words(folder)}; wait for its end, or choose another folder") from None
        if before is not None and before == _inode(folder / LOCK_NAME):
            return
        lock.release()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise PermissionError(f"{folder} cannot be written to: {error}; choose another folder") from error


def read_owner(folder: Path) -> dict:
    """Returns what is known about the process that writes into a folder, or was killed there."""
    try:
        return json.loads((folder / OWNER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _in_words(folder: Path) -> str:
    owner = read_owner(folder)
    if not owner:
        return f"another process writes into {folder}"
    return (
        f"process {owner.get('process')} on {owner.get('host')} writes into {folder} since {owner.get('since')} "
        f"({owner.get('command')})"
    )


def _describe_process() -> dict:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = without_secrets(shlex.join(sys.argv))
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}


def _is_gone(owner: dict) -> bool:
    """Returns whether the process that had a lock is known to have ended."""
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("process"), int):
        return False
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def without_secrets(text: str | Sequence[str]) -> str:
    """Returns a command or a message without the tokens in it.

    >>> without_secrets("train.py --hub_token abc --seed 1"), without_secrets("--hub_token=X")
    ('train.py --hub_token *** --seed 1', '--hub_token=***')
    """
    return _SECRET.sub("***", text if isinstance(text, str) else " ".join(text))
