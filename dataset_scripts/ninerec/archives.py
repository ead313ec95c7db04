"""Zip archives, read as they come: tables are taken out one by one, covers are read where they lie."""

import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A file in an archive, or a folder, whose `name` ends with `/`."""

    archive: Path
    name: str

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)

    def state(self) -> str:
        """Changes with the archive."""
        stat = self.archive.stat()
        return f"{self.archive.absolute()}\t{stat.st_size}\t{stat.st_mtime_ns}\t{self.name}"

    def extract(self, folder: Path) -> Path:
        """Writes the file below `folder`, once, and returns where it is; folders in its name have no say in that."""
        target = folder / hashlib.sha256(self.state().encode()).hexdigest()[:16] / self.path.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as unfinished:
                part = Path(unfinished, "part")
                with (
                    zipfile.ZipFile(self.archive) as archive,
                    archive.open(self.name) as source,
                    open(part, "wb") as sink,
                ):
                    shutil.copyfileobj(source, sink, 1 << 20)
                os.replace(part, target)
        return target


def list_members(archive: Path) -> list[Member]:
    """The files of an archive and their folders; a file that is no whole zip archive is logged and has none."""
    try:
        with zipfile.ZipFile(archive) as opened:
            files = [info.filename for info in opened.infolist() if not info.is_dir() and not info.flag_bits & 1]
    except (zipfile.BadZipFile, OSError) as error:
        logger.warning("%s is no whole zip archive and is not searched: %s", archive, error)
        return []
    hidden = [name for name in files if any(p.startswith(".") or p == "__MACOSX" for p in PurePosixPath(name).parts)]
    files = sorted(set(files) - set(hidden))
    folders = {f"{parent}/" for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
    return [Member(archive, name) for name in [*files, *sorted(folders)]]


def covers_of(folder: Member) -> dict[str, tuple[str, int]]:
    """The files that lie right in a folder of an archive: name to full name and size."""
    with zipfile.ZipFile(folder.archive) as archive:
        return {
            PurePosixPath(info.filename).name: (info.filename, info.file_size)
            for info in archive.infolist()
            if not info.is_dir() and str(PurePosixPath(info.filename).parent) == str(folder.path)
        }


def read_members(archive: Path, names: list[str | None]) -> list[bytes | None]:
    """The bytes of some files of an archive, `None` for `None`; damaged ones are empty, which no picture is."""
    with zipfile.ZipFile(archive) as opened:
        return [None if name is None else _read(opened, name) for name in names]


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        logger.warning("%s in %s cannot be read and counts as missing: %s", name, archive.filename, error)
        return b""
