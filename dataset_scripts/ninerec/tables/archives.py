"""Zip archives, read as they come: tables are taken out one by one, images and audio are read where they lie.

`zipfile` reads them, kept open by [`Archives`]: 20,000 JPEGs of 2 kB take 0.4 s, and 2,000 of them at random 0.13 s.
`fsspec.filesystem("zip")`, with `cat_file`, takes 0.6 s and 0.2 s; a URL `zip://NAME::ARCHIVE` opens the archive anew
for every file, which takes 0.17 s each.
"""

import contextlib
import hashlib
import logging
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from ..whole_folders import scratch_folder
from .unpacking import LARGEST_RATIO, check_growth, copy_within_budget


logger = logging.getLogger(__name__)

# What a damaged member raises, or one that is encrypted or compressed in a way that Python does not know (Deflate64).
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, NotImplementedError, RuntimeError)


_ALWAYS_UNPACKED = 2**20  # bytes, however well they were packed
_LARGEST_FILE = 2**28  # bytes of an image or a sound; one that is compressed says its size before it is unpacked


@dataclass(frozen=True)
class Member:
    """A file in an archive, or a folder, whose `name` ends with `/`; the archive's top has an empty one."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}::{self.name}" if self.name else str(self.archive)

    @property
    def is_folder(self) -> bool:
        return not self.name or self.name.endswith("/")

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)

    @property
    def parent(self) -> Path:
        """Returns the folder in which it would lie, were the archive unpacked where it is."""
        return self.archive.parent / self.path.parent

    def state(self) -> str:
        """Changes with the archive, and with the checksums that it has of the file, or of what is in the folder."""
        stat = self.archive.stat()
        with zipfile.ZipFile(self.archive) as opened:
            inside = sorted(
                (info.filename, info.file_size, info.CRC)
                for info in opened.infolist()
                if info.filename == self.name or (self.is_folder and info.filename.startswith(self.name))
            )
        times = f"{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\t{stat.st_ino}"
        return f"{self.archive.absolute()}\t{times}\t{self.name}\t{inside}"

    def extract(self, folder: Path) -> Path:
        """Writes the file below `folder`, once, and returns where it is; folders in its name have no say in that."""
        target = folder / hashlib.sha256(self.state().encode()).hexdigest()[:16] / self.path.name
        if not target.exists():
            with scratch_folder(target.parent) as unfinished:
                self.copy_to(unfinished).replace(target)
        return target

    def copy_to(self, folder: Path, num_bytes: int | None = None) -> Path:
        """Writes the file, or its first bytes, into a folder under its own name."""
        target = folder / self.path.name
        try:
            with (
                zipfile.ZipFile(self.archive) as archive,
                archive.open(self.name) as source,
                open(target, "wb") as sink,
            ):
                info = archive.getinfo(self.name)
                check_growth(self, info.compress_size, info.file_size if num_bytes is None else num_bytes)
                copy_within_budget(cast(BinaryIO, source), sink, self, info.compress_size, num_bytes)
        except UNREADABLE as error:
            raise ValueError(f"{self} cannot be read ({error}); copy the archive again, or unpack it") from error
        return target


def list_members(archive: Path) -> list[Member]:
    """Returns the files of an archive and their folders; a file that is no whole zip archive is logged, with none."""
    try:
        with zipfile.ZipFile(archive) as opened:
            files = [info.filename for info in opened.infolist() if not info.is_dir() and not info.flag_bits & 1]
    except (zipfile.BadZipFile, OSError) as error:
        logger.warning("%s is no whole zip archive and is not searched: %s", archive, error)
        return []
    hidden = [name for name in files if any(p.startswith(".") or p == "__MACOSX" for p in PurePosixPath(name).parts)]
    files = sorted(set(files) - set(hidden))
    if backslashes := [name for name in files if "\\" in name]:
        logger.warning(
            "%s separates folders by backslashes, as in %r, and is not searched for them: unpack it, and pack it anew",
            archive,
            backslashes[0],
        )
    folders = {f"{parent}/" for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
    return [Member(archive, name) for name in [*files, *sorted(folders)]]


def members_of(folders: Iterable[Member]) -> dict[str, tuple[Member, int]]:
    """Returns the files in a folder of one or several archives, by their path from there, with their sizes."""
    found: dict[str, tuple[Member, int]] = {}
    checksums: dict[str, int] = {}
    for folder in folders:
        with zipfile.ZipFile(folder.archive) as archive:
            for info in archive.infolist():
                if info.is_dir() or not info.filename.startswith(folder.name):
                    continue
                name = info.filename.removeprefix(folder.name)
                if any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts[:-1]):
                    continue
                if checksums.setdefault(name, info.CRC) != info.CRC:
                    raise ValueError(
                        f"{found[name][0]} and {folder.archive}::{info.filename} differ; remove one of them"
                    )
                found[name] = (Member(folder.archive, info.filename), info.file_size)
    return found


class Archives(contextlib.ExitStack):
    """Reads files, of folders and of archives, which it opens once and closes together.

    Opening an archive reads the list of what it holds, which for 20,000 images takes as long as reading 1,000.
    """

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[Path, zipfile.ZipFile] = {}

    def read(self, files: Iterable[str | Member | None]) -> list[bytes | None]:
        """Returns the bytes of files, `None` for `None`; damaged ones of archives are empty, which no image is."""
        return [None if file is None else self._read(file) for file in files]

    def sizes(self, files: Sequence[str | Member | None]) -> np.ndarray:
        """Returns the bytes of files, those of archives unpacked; 0 for `None`."""
        sizes = np.zeros(len(files), dtype=np.int64)
        for index, file in enumerate(files):
            if isinstance(file, Member):
                sizes[index] = self._open(file.archive).getinfo(file.name).file_size
            elif file is not None:
                sizes[index] = os.path.getsize(file)
        return sizes

    def _read(self, file: str | Member) -> bytes:
        return _read_member(self._open(file.archive), file.name) if isinstance(file, Member) else _read_file(file)

    def _open(self, archive: Path) -> zipfile.ZipFile:
        if archive not in self._opened:
            self._opened[archive] = self.enter_context(zipfile.ZipFile(archive))
        return self._opened[archive]


def _read_file(path: str) -> bytes:
    return Path(path).read_bytes() if _is_no_bomb(path, os.path.getsize(path)) else b""


def _is_no_bomb(name: str, size: int, packed: int | None = None) -> bool:
    if size > _LARGEST_FILE:
        logger.warning("%s has %d MB, as no image of an item has, and counts as missing", name, size // 10**6)
        return False
    if packed is not None and size > max(_ALWAYS_UNPACKED, LARGEST_RATIO * packed):
        logger.warning("%s has %d bytes for %d packed ones, as no image has: it is missing", name, size, packed)
        return False
    return True


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
        return archive.read(name) if _is_no_bomb(name, info.file_size, info.compress_size) else b""
    except UNREADABLE as error:
        logger.warning("%s in %s cannot be read and counts as missing: %s", name, archive.filename, error)
        return b""
