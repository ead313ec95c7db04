"""Folders that are there whole or not at all, each made by one process."""

import contextlib
import errno
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


_UNFINISHED, _LOCK = ".unfinished", ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def made_once(folder: Path, wait: bool = True) -> Iterator[Path | None]:
    """Yields an empty folder that gets the name of another one once it is whole; `None` if that is there already.

    What killed processes have left half-written beside it is removed.

    Args:
        folder: to be made.
        wait: whether to wait for another process that makes it, and then take what it made.

    Raises:
        BlockingIOError: if another process makes it, and is not waited for.
        OSError: if the disk is full; nothing is left.
    """
    if folder.exists():
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_overs(folder.parent)
    lock, unfinished = (folder.with_name(f".{folder.name}{ending}") for ending in (_LOCK, _UNFINISHED))
    with _locked(lock, -1 if wait else 0, folder):
        if folder.exists():
            yield None
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()  # with the mode of the umask
        try:
            yield unfinished
            unfinished.rename(folder)
        except Exception as error:
            if not _is_full(error):
                raise
            raise OSError(f"the disk has no room left for {folder}: make room, and try again") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(parent: str | Path | None = None, prefix: str = "scratch-") -> Iterator[Path]:
    """Yields a new folder, which is removed in the end; those that killed processes have left beside it are, too.

    Args:
        parent: where it is made; by default where the system has temporary files.
        prefix: of its name.
    """
    parent = Path(tempfile.gettempdir() if parent is None else parent)
    parent.mkdir(parents=True, exist_ok=True)
    _remove_left_overs(parent)
    name = f".{prefix}{uuid.uuid4().hex}"
    folder, lock = parent / f"{name}{_UNFINISHED}", parent / f"{name}{_LOCK}"
    with _locked(lock, -1, folder):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(lock: Path, timeout: float, folder: Path) -> Iterator[None]:
    """Holds a lock on what is written into a folder; its file is gone in the end."""
    while True:
        lock.touch()
        before = _inode(lock)
        try:
            held = FileLock(lock).acquire(timeout=timeout)
        except Timeout:
            raise BlockingIOError(
                f"another process is making {folder}; wait for its end, or choose another folder"
            ) from None
        with held:
            if before is None or _inode(lock) != before:
                continue  # whoever had it has removed the file, so that it locks nothing any more
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _inode(file: Path) -> int | None:
    """Returns the inode of a file; `None` if it is gone, which another process may do at any time."""
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return None


def _remove_left_overs(parent: Path) -> None:
    """Removes what processes that are gone have left, and nothing of living ones."""
    for unfinished in parent.glob(f".*{_UNFINISHED}"):
        lock = unfinished.with_name(unfinished.name.removesuffix(_UNFINISHED) + _LOCK)
        if not lock.exists():
            continue
        in_use = (BlockingIOError, PermissionError)
        with contextlib.suppress(*in_use), _locked(lock, 0, unfinished):
            shutil.rmtree(unfinished, ignore_errors=True)


def _is_full(error: BaseException | None) -> bool:
    """Returns whether an error came from a full disk, a quota or a limit of file sizes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
