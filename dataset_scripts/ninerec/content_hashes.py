"""Hashes of the contents of files, by which caches are keyed; each is computed once, and kept until it changes."""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import datasets

from .whole_folders import scratch_folder


# A file that is written twice within a tick of the file system's clock may have one time for two contents.
COARSE_TICK, FINE_TICK = 2_000_000_000, 100_000_000  # nanoseconds


class ContentHashes:
    """Hashes files, and keeps what it found under path, size, times (of modification and of change) and inode.

    A cache that cannot be written is no error: files are then hashed at every start.

    Args:
        cache_dir: of `datasets`, by default the usual one.
    """

    def __init__(self, cache_dir: str | Path | None = None):
        self.folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "content_hashes"

    def of_files(self, paths: Iterable[str | Path]) -> str:
        """Returns a hash of the contents of files, in their order."""
        places = [os.path.split(os.path.realpath(path)) for path in paths]
        names: dict[str, list[str]] = {}
        for parent, name in places:
            names.setdefault(parent, []).append(name)
        found = {parent: self._of_names(parent, inside) for parent, inside in names.items()}
        return hashlib.sha256("\n".join(found[parent][name] for parent, name in places).encode()).hexdigest()

    def of_folder(self, folder: str | Path) -> str:
        """Returns a hash of everything in a folder, but for what is hidden: names and contents."""
        root = Path(folder)
        inside = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        names = sorted(path for path in inside if not any(part.startswith(".") for part in path.parts))
        state = "\n".join([*map(os.fspath, names), self.of_files(root / name for name in names)])
        return hashlib.sha256(state.encode(errors="surrogateescape")).hexdigest()

    def _of_names(self, parent: str, names: list[str]) -> dict[str, str]:
        record = self.folder / f"{hashlib.sha256(os.fsencode(parent)).hexdigest()[:32]}.json"
        try:
            kept = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        found, changed = {}, False
        for name in names:
            path = os.path.join(parent, name)
            state, began = _state(path), time.time_ns()
            *known, content = kept.get(name, [None])
            if known != state:
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                tick = FINE_TICK if state[2] % 1_000_000 else COARSE_TICK
                if _state(path) == state and state[2] + tick < began:
                    kept[name], changed = [*state, content], True
            found[name] = content
        if changed:
            _write(record, kept)
        return found


def _state(path: str) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _write(record: Path, kept: dict) -> None:
    try:
        with scratch_folder(record.parent) as unfinished:
            (unfinished / record.name).write_text(json.dumps(kept), encoding="utf-8")
            (unfinished / record.name).replace(record)
    except OSError:  # the cache may be read-only
        return
