"""Find the files of a data set in NineRec's layout, wherever the archives put them."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .reader import is_cover
from .text_files import first_row


logger = logging.getLogger(__name__)

REPOSITORY = "https://github.com/westlake-repl/NineRec"
SOURCES = ("Bili_500K", "Bili_2M")
TARGETS = ("Bili_Food", "Bili_Dance", "Bili_Movie", "Bili_Cartoon", "Bili_Music", "KU", "QB", "TN", "DY")
# Made from another data set by leaving out rare items and short users (Table 15 of the paper).
DERIVED = {
    "Bili_warm20": ("Bili_500K", {"min_actions": 10, "min_item_actions": 20}),
    "Bili_warm50": ("Bili_500K", {"min_actions": 10, "min_item_actions": 50}),
}
ARCHIVES = {
    "source": "https://drive.google.com/file/d/1fR5XB-dC0CDsyZ4BvtUJJn7i3OnWJa-9",
    "target": "https://drive.google.com/file/d/15RlthgPczrFbP4U7l6QflSImK5wSGP5K",
}
SHARED_COVERS = "Source_Bili_2M_cover"
NAME = re.compile(r"[\w-]([\w. -]*[\w.-])?")
PACKED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one data set. `interactions` is a pair file or a behaviour file."""

    name: str
    root: Path
    items: Path
    interactions: Path
    covers: Path | None

    def state_hash(self, with_covers: bool) -> str:
        """Hash of absolute path, size and modification time of what is read."""
        state = [_file_state(path.absolute(), path.stat()) for path in (self.items, self.interactions)]
        if with_covers and self.covers is not None:
            state.append(str(self.covers.absolute()))
            with os.scandir(self.covers) as entries:
                state += sorted(_file_state(e.name, e.stat()) for e in entries if is_cover(e))
        return hashlib.sha256("\n".join(state).encode(errors="surrogateescape")).hexdigest()


def _file_state(path: str | Path, stat: os.stat_result) -> str:
    return f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}"


def _walk(data_dir: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that follows links once and leaves out hidden folders, `__MACOSX` and the inside of covers."""
    seen = set()

    def report(error: OSError) -> None:
        logger.warning("folder %s cannot be read and is not searched: %s", error.filename, error.strerror)

    for folder, folders, files in os.walk(data_dir, followlinks=True, onerror=report):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        folders[:] = [name for name in found if not name.endswith("_cover")]
        yield folder, found, files


def find_names(data_dir: str | Path) -> list[str]:
    """Names X under `data_dir` with an `X_item.csv` and an `X_pair.csv` or `X_behaviour.tsv`, sorted."""
    present = {
        name
        for folder, _, files in _walk(Path(os.path.expanduser(data_dir)))
        for name in files
        if name.endswith(("_item.csv", "_pair.csv", "_behaviour.tsv")) and os.path.exists(os.path.join(folder, name))
    }
    names = {name.removesuffix("_item.csv") for name in present if name.endswith("_item.csv")}
    return sorted(n for n in names if NAME.fullmatch(n) and {f"{n}_pair.csv", f"{n}_behaviour.tsv"} & present)


def find_files(name: str, data_dir: str | Path | None) -> DatasetFiles:
    """Search `data_dir` for the files of data set `name`; errors say what to get and where to put it."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no valid data set name: use letters, digits, '_', '-' and, inside, '.' and ' '")
    if data_dir is None:
        raise FileNotFoundError(
            f"Where is the data of {name!r}? No data_dir was given and NINEREC_DATA_DIR is not set.{_how_to_get(name)}"
        )
    root = Path(os.path.expanduser(data_dir))
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir {str(root.absolute())!r} is not a folder.{_how_to_get(name)}")

    wanted = [f"{name}_item.csv", f"{name}_pair.csv", f"{name}_behaviour.tsv", f"{name}_cover"]
    if name in SOURCES:
        wanted.append(SHARED_COVERS)
    found: dict[str, dict[str, Path]] = {entry: {} for entry in wanted}
    for folder, folders, files in _walk(root):
        for entries, names in ((wanted[:3], files), (wanted[3:], folders)):
            for entry in set(entries) & set(names):
                path = Path(folder, entry)
                if path.exists():
                    found[entry].setdefault(os.path.realpath(path), path)
                else:
                    logger.warning("%s is a link to nothing and is left out", path)
    for entry, candidates in found.items():
        if len(candidates) > 1:
            listed = "\n  ".join(sorted(map(str, candidates.values())))
            raise ValueError(
                f"{len(candidates)} candidates for {entry} under {str(root)!r}; "
                f"keep one or point data_dir at the right folder:\n  {listed}"
            )
    only = {entry: next(iter(candidates.values()), None) for entry, candidates in found.items()}
    items, pair, behaviour = (only[entry] for entry in wanted[:3])
    if items is None or (pair is None and behaviour is None):
        missing = wanted[0] if items is None else f"{wanted[1]} or {wanted[2]}"
        known = ", ".join(find_names(root)) or "none"
        packed = sorted(file for _, _, files in _walk(root) for file in files if file.endswith(PACKED))
        unpack = f" Not unpacked yet: {', '.join(packed[:5])}." if packed else ""
        raise FileNotFoundError(
            f"No {missing} under {str(root)!r}. Data sets found there: {known}.{unpack}{_how_to_get(name)}"
        )
    interactions = behaviour
    if pair is not None and (behaviour is None or len(first_row(pair)[1]) > 2):
        interactions = pair
    covers = next((only[entry] for entry in wanted[3:] if only[entry] is not None), None)
    while covers is not None and (covers / covers.name).is_dir():  # an archive unpacked into a folder of its name
        covers = covers / covers.name
    return DatasetFiles(name, root, items, interactions, covers)


def _how_to_get(name: str) -> str:
    files = f"{name}_item.csv, {name}_pair.csv and/or {name}_behaviour.tsv"
    covers = f"{name}_cover/"
    if name in SOURCES:
        covers += f" or {SHARED_COVERS}/"
    files += f" and, for images, the folder {covers}"
    if name in SOURCES + TARGETS:
        kind = "source" if name in SOURCES else "target"
        get = (
            f"\nGet NineRec's {kind} archive from {ARCHIVES[kind]} (link and conditions: {REPOSITORY}) and unpack it."
        )
    else:
        get = (
            f"\n{name!r} is not one of NineRec's names ({', '.join(SOURCES + TARGETS)}); "
            "any name works whose files have this layout."
        )
    return (
        f"{get}\nExpected anywhere under one folder: {files}."
        f'\nThen: load_dataset("ninerec", "{name}", data_dir="FOLDER"), or set NINEREC_DATA_DIR=FOLDER.'
    )


def data_dir_from_env() -> str | None:
    """The folder in NINEREC_DATA_DIR, None where it is not set or empty."""
    return os.environ.get("NINEREC_DATA_DIR") or None
