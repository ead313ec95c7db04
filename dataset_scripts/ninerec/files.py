"""Find the files of a data set in NineRec's layout, wherever the archives put them."""

import contextlib
import functools
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

import datasets
import polars as pl

from .content_hashes import ContentHashes
from .sample import SAMPLES, sample_folder
from .sequences import Sequences
from .tables.archives import Member, list_members
from .tables.columns import check_columns, header_roles, is_behaviour
from .tables.forms import FORMS, is_table, split_name
from .tables.interactions import read_sequences
from .tables.items import read_items
from .tables.layouts import advice_on_files, layout_of, released_names
from .tables.media import AUDIO, IMAGE, MEDIA, Folder, Media, entries_within, is_file
from .tables.options import EVERYTHING, TableOptions
from .tables.problems import Problems
from .tables.text_files import first_row
from .tables.unpacking import plain_table


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
# Ends of file names, best first: NineRec's, MicroLens's and plain ones. PixelRec's tables have the bare name.
ENDS = {
    "items": ("_item", "_items", "_item_info", "_titles", "_title", "_title_en"),
    "interactions": ("_pair", "_pairs", "_behaviour", "_interactions"),
}
TITLES = ("_titles", "_title", "_title_en")
OWN_FOLDERS = tuple(folder for media in MEDIA for folder in media.folders)  # of the files of the tables beside them
MEDIA_ENDS = tuple(f"_{folder}" for folder in (*OWN_FOLDERS, "video", "videos"))
Place = TypeVar("Place", Path, Member, Path | Member)
UNPACKED = "ninerec_archives"  # folder of the cache for tables that were in archives or compressed
PACKED = (".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar")
HEAD = 1 << 20  # bytes of a table in an archive that tell what it is


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one data set, each on disk or in a zip archive.

    Args:
        name: of the data set.
        root: the folder under which they were found.
        items, interactions: the tables.
        images, audio: the folders of the items' files; in archives one or more.
    """

    name: str
    root: Path
    items: Path | Member
    interactions: Path | Member
    images: Folder = None
    audio: Folder = None

    @property
    def media(self) -> dict[Media, Folder]:
        """The folder of each kind of file."""
        return {IMAGE: self.images, AUDIO: self.audio}

    def state_hash(self, with_media: bool, hashes: ContentHashes | None = None) -> str:
        """Returns a hash of what is read: paths and contents of tables, paths, sizes and times of images and audio.

        The time of change, unlike that of modification, no program can set back. Of images a data set holds the paths
        only; who reads them hashes their contents.
        """
        state, hashes = [], hashes or ContentHashes()
        for table in (self.items, self.interactions):
            if isinstance(table, Member):
                state.append(table.state())
            else:
                content = hashes.of_folder(table) if table.is_dir() else hashes.of_files([table])
                state.append(f"{table.absolute()}\t{content}")
        for media, folder in self.media.items() if with_media else ():
            if isinstance(folder, tuple):
                state += [one.state() for one in folder]
            elif folder is not None:
                state.append(str(folder.absolute()))
                files = (file for file in entries_within(folder) if media.is_named(file[0]) and is_file(file[1]))
                state += sorted(_file_state(name, entry.stat()) for name, entry in files)
        return hashlib.sha256("\n".join(state).encode(errors="surrogateescape")).hexdigest()

    def tables(self, folder: Path, options: TableOptions = EVERYTHING) -> tuple[Path, Path]:
        """Returns items and interactions as plain files; what is archived or compressed is written below `folder`."""
        found = []
        for table in (self.items, self.interactions):
            path = table.extract(folder) if isinstance(table, Member) else table
            if not is_table(path):
                raise ValueError(f"{path} is neither a file nor a link to one; replace it by a file")
            try:
                found.append(plain_table(path, folder, options))
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), str(table))) from error
        return found[0], found[1]

    def read(self, folder: Path, options: TableOptions, **filters) -> tuple[pl.DataFrame, Sequences]:
        """Reads items and sequences.

        Args:
            folder: for tables that are in an archive.
            options: how tables are read.
            filters: those of [`read_sequences`].

        Raises:
            ValueError: where a table is wrong, with file and line; of an archive with the name in it.
        """
        items_path, interactions_path = self.tables(folder, options)
        try:
            check_columns(options, items_path, interactions_path)
            items = read_items(items_path, options)
            return items, read_sequences(interactions_path, items["item_id"], options=options, **filters)
        except ValueError as error:
            message = str(error).replace(str(items_path), str(self.items))
            raise ValueError(message.replace(str(interactions_path), str(self.interactions))) from error


def _file_state(name: str, stat: os.stat_result) -> str:
    return f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\t{stat.st_ino}"


def _walk(data_dir: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields as `os.walk`, but follows links once and leaves out hidden folders, `__MACOSX` and what is in media."""
    seen = set()

    def report(error: OSError) -> None:
        logger.warning("folder %s cannot be read and is not searched: %s", error.filename, error.strerror)

    for folder, folders, files in os.walk(data_dir, followlinks=True, onerror=report):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found = sorted(name for name in folders if not name.startswith(".") and name not in ("__MACOSX", UNPACKED))
        folders[:] = [name for name in found if not name.endswith(MEDIA_ENDS) and name not in OWN_FOLDERS]
        yield folder, found, files


def find_names(data_dir: str | Path) -> list[str]:
    """Names X under `data_dir` that have an items table and interactions, sorted."""
    found: dict[str, set[str]] = {kind: set() for kind in ENDS}
    root = Path(os.path.expanduser(data_dir))
    tables: list[Path | Member] = [
        Path(folder, name) for folder, inside, files in _walk(root) for name in files + inside
    ]
    tables += [member for archive in _archives(root) for member in list_members(archive)]
    for table in tables:
        stem, suffix, _ = split_name(_base(table).name)
        # Parts of Parquet are read where they are unpacked.
        if not suffix or not (is_table(table) if isinstance(table, Path) else not table.is_folder):
            continue
        named = {kind: stem.removesuffix(end) for kind, ends in ENDS.items() for end in ends if stem.endswith(end)}
        if not named and (kind := _kind_of_table(table)) is not None:
            named = {kind: stem}
        for kind, name in named.items():
            found[kind].add(name)
    return sorted(name for name in found["items"] & found["interactions"] if NAME.fullmatch(name))


def _base(place: Path | Member) -> PurePath:
    """Returns the path on disk or in the archive."""
    return place.path if isinstance(place, Member) else place


def _stem(table: Path | Member) -> str:
    return split_name(_base(table).name).stem


def _archives(root: Path) -> list[Path]:
    files = (Path(folder, name) for folder, _, names in _walk(root) for name in names)
    return sorted(file for file in files if file.suffix.lower() == ".zip" and file.is_file())


def _kind_of_table(table: Path | Member) -> str | None:
    """Returns `"interactions"` or `"items"` for a table whose name does not tell, by its form or the header."""
    form = FORMS[split_name(_base(table).name).suffix]
    if form.role is not None or isinstance(table, Member) or not (form.is_usual or form.kind == "json"):
        return form.role
    try:
        with _look(table) as path:
            roles = set(header_roles(first_row(path, on_problem=Problems())[1]))
            known = [kind for kind in ENDS if layout_of(path, kind, on_problem=Problems())[0] is not None]
    except (ValueError, OSError):
        return None
    if known:
        return known[0]
    if {"user_id", "item_id"} <= roles:
        return "interactions"
    return "items" if "item_id" in roles and roles & {"text_zh", "text_en", "title"} else None


def find_files(name: str, data_dir: str | Path | None) -> DatasetFiles:
    """Searches `data_dir` for the files of data set `name`; errors say what to get and where to put it."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no valid data set name: use letters, digits, '_', '-' and, inside, '.' and ' '")
    if data_dir is None:
        raise FileNotFoundError(
            f"Where is the data of {name!r}? No data_dir was given and NINEREC_DATA_DIR is not set.{_how_to_get(name)}"
        )
    root = Path(os.path.expanduser(data_dir))
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir {str(root.absolute())!r} is not a folder.{_how_to_get(name)}")

    own = {f"{name}{end}": kind for kind, ends in ENDS.items() for end in ends}
    released = {stem: kind for stem, kind in released_names(name).items() if stem != name}
    wanted = {**released, **own}
    # Of each kind the tables there are: by stem and form, then by what a link leads to.
    found: dict[str, dict[tuple[str, str], dict[str, Path | Member]]] = {kind: {} for kind in ENDS}
    on_disk: list[Path] = []
    for folder, folders, files in _walk(root):
        on_disk += (Path(folder, entry) for entry in folders)
        for entry in files + folders:
            stem, suffix, _ = split_name(entry)
            if not suffix or stem not in (*wanted, name):
                continue
            path = Path(folder, entry)
            if path.is_dir() and not is_table(path):
                logger.warning("%s is a folder and is left out: only Parquet files are parts of a table", path)
            elif not path.exists():
                logger.warning("%s is a link to nothing and is left out", path)
            elif not path.is_dir() and not path.is_file():
                logger.warning("%s is a pipe or a device and is left out", path)
            elif (kind := wanted.get(stem) or _kind_of_table(path)) is not None:
                found[kind].setdefault((stem, suffix), {}).setdefault(os.path.realpath(path), path)

    @functools.cache
    def packed() -> list[Member]:
        return [member for archive in _archives(root) for member in list_members(archive)]

    for kind, there in found.items():
        if not there:  # what lies on disk comes first
            for member in packed():
                stem, suffix, _ = split_name(member.path.name)
                if suffix and not member.is_folder and stem in (*wanted, name):
                    if (wanted.get(stem) or _kind_of_table(member)) == kind:
                        there.setdefault((stem, suffix), {})[str(member)] = member
    order = [*own, name, *released]  # the header of a table of a bare name tells what it is
    items, interactions = (
        [
            _only("".join(entry), root, there[entry].values())
            for entry in sorted(there, key=lambda entry: order.index(entry[0]))
        ]
        for there in found.values()
    )
    if not items or not interactions:
        missing = f"{name}_item.csv" if not items else f"{name}_pair.csv or {name}_behaviour.tsv"
        raise FileNotFoundError(f"No {missing} under {str(root)!r}.{_what_is_there(name, root, packed())}")
    for same_role in (items, interactions):
        _check_one_form(root, same_role)
    best_items, best = _only_items(root, items, released), _best_interactions(root, interactions, released)
    images, audio = (_find_folder(media, name, root, on_disk, packed, best_items, best) for media in MEDIA)
    return DatasetFiles(name, root, best_items, best, images, audio)


def _what_is_there(name: str, root: Path, packed: list[Member]) -> str:
    """Says what a folder without the tables of data set `name` has, and how to get them."""
    known = ", ".join(find_names(root)) or "none"
    closed = sorted(file for _, _, files in _walk(root) for file in files if _is_closed(file))
    closed += [archive.name for archive in _archives(root) if not list_members(archive)]
    closed += [str(member) for member in packed if member.name.lower().endswith((".zip", *PACKED))]
    closed += [str(member) for member in packed if member.is_folder and split_name(member.path.name).suffix]
    unpack = f" Not unpacked yet: {', '.join(closed[:5])}." if closed else ""
    advice = advice_on_files(name, (file for _, _, files in _walk(root) for file in files))
    return f" Data sets found there: {known}.{unpack}{advice}{_how_to_get(name)}"


def _is_closed(file: str) -> bool:
    """Returns whether a file is packed, and is not a compressed table, which is read as it is."""
    return file.lower().endswith(PACKED) and not split_name(file).suffix


def _distinct(tables: Iterable[Place]) -> list[Place]:
    """Returns tables without further names of one file."""
    return list({str(one) if isinstance(one, Member) else os.path.realpath(one): one for one in tables}.values())


def _only_items(root: Path, tables: list[Path | Member], released: Container[str]) -> Path | Member:
    """Returns the table of items; several are an error, but for titles in several languages."""
    first, *others = _distinct(tables)
    rivals = [one for one in others if _stem(one) not in released and not _stem(one).endswith(TITLES)]
    return _only("one table of items", root, (first, *rivals)) if rivals else first


def _best_interactions(root: Path, tables: list[Path | Member], released: Container[str]) -> Path | Member:
    """Returns the table with a time (over two columns); else the one with a line a user; else that of two columns.

    Several that are equal in that are an error.
    """
    own = _distinct([one for one in tables if _stem(one) not in released] or tables[:1])
    ranks = [_rank(one) for one in own] if len(own) > 1 else [0]
    best = [one for one, rank in zip(own, ranks, strict=True) if rank == min(ranks)]
    return _only("one table of interactions", root, best)


def _check_one_form(root: Path, tables: list[Path | Member]) -> None:
    """Refuses a table in several forms, such as `.csv` and `.parquet`; a pair file may lie beside lines a user."""
    for table in tables:
        stem = _stem(table)
        same = [other for other in tables if _stem(other) == stem]
        if len(same) > 1 and len({_rank(other) for other in same}) < len(same):
            _only(stem, root, same)


def _only(entry: str, root: Path, candidates: Iterable[Place]) -> Place:
    """Returns the one candidate there is; several are an error."""
    first, *others = candidates
    if others:
        listed = "\n  ".join(sorted(map(str, (first, *others))))
        raise ValueError(
            f"{1 + len(others)} candidates for {entry} under {str(root)!r}; "
            f"keep one or point data_dir at the right folder:\n  {listed}"
        )
    return first


def _find_folder(
    media: Media,
    name: str,
    root: Path,
    on_disk: list[Path],
    packed: Callable[[], list[Member]],
    *tables: Path | Member,
) -> Folder:
    """Finds the folder of images, or audio, that has the data set's name, wherever it is.

    Otherwise it is one called `cover` or the like in the folder that holds both tables. What lies on disk comes before
    archives.
    """
    beside = os.path.commonpath([os.path.abspath(table.parent) for table in tables])
    shared = [SHARED_COVERS] if media is IMAGE and name in SOURCES else []
    wanted = [*(f"{name}_{folder}" for folder in media.folders), *shared, *media.folders]

    def called(entry: str, folders: Iterable[Place]) -> list[Place]:
        named = [one for one in folders if _folder_name(one) == entry]
        return [one for one in named if entry not in media.folders or os.path.abspath(one.parent) == beside]

    for entry in wanted:
        distinct = {os.path.realpath(folder): folder for folder in called(entry, on_disk)}
        if distinct:
            folder = _only(entry, root, distinct.values())
            while (folder / folder.name).is_dir():  # an archive unpacked into a folder of its name
                folder = folder / folder.name
            return folder
    packed_folders = [member for member in packed() if member.is_folder]
    with_files = dict.fromkeys(member.archive for member in packed() if media.is_named(member.name))
    for entry in wanted:
        candidates = called(entry, packed_folders) or called(entry, [Member(archive, "") for archive in with_files])
        outer = [one for one in candidates if not any(_is_within(one, other) for other in candidates)]
        if len({one.name for one in outer}) > 1:
            _only(entry, root, outer)
        if outer:
            return tuple(_innermost(one, set(packed_folders)) for one in outer)
    return None


def _folder_name(folder: Path | Member) -> str:
    """Returns the name of a folder; what an archive holds at its top has that of the archive."""
    return folder.archive.stem if isinstance(folder, Member) and not folder.name else _base(folder).name


def _is_within(folder: Member, other: Member) -> bool:
    return folder != other and folder.archive == other.archive and folder.name.startswith(other.name)


def _innermost(folder: Member, folders: set[Member]) -> Member:
    while (nested := Member(folder.archive, f"{folder.name}{folder.path.name}/")) in folders:
        folder = nested
    return folder


@contextlib.contextmanager
def _look(table: Path | Member) -> Iterator[Path]:
    """Gives a plain file with the first rows of a table, for a look at what it is."""
    with tempfile.TemporaryDirectory() as scratch:
        name, folder = split_name(_base(table).name), Path(scratch)
        num_bytes = None if FORMS[name.suffix].kind == "parquet" else HEAD
        path = table.copy_to(folder, None if name.packing else num_bytes) if isinstance(table, Member) else table
        yield plain_table(path, folder, num_bytes=num_bytes) if path.is_file() else path


def _rank(table: Path | Member) -> int:
    with _look(table) as path:
        if not is_table(path):
            return 3
        if is_behaviour(path, EVERYTHING, Problems()):
            return 1
        return 0 if len(first_row(path, on_problem=Problems())[1]) > 2 else 2


def _how_to_get(name: str) -> str:
    files = f"{name}_item.csv, {name}_pair.csv and/or {name}_behaviour.tsv"
    images = f"{name}_cover/"
    if name in SOURCES:
        images += f" or {SHARED_COVERS}/"
    files += f" and, for images, the folder {images}"
    if name in SOURCES + TARGETS:
        kind = "source" if name in SOURCES else "target"
        get = (
            f"\nGet NineRec's {kind} archive from {ARCHIVES[kind]} (link and conditions: {REPOSITORY}) and unpack it."
        )
    else:
        get = (
            f"\n{name!r} is not one of NineRec's names ({', '.join(SOURCES + TARGETS)}); "
            f"it needs {name}_items.csv and {name}_interactions.csv (or .tsv, .parquet), or NineRec's layout."
        )
    return (
        f"{get}\nNineRec's layout, anywhere under one folder: {files}."
        f'\nThen: load_dataset("ninerec", "{name}", data_dir="FOLDER"), or set NINEREC_DATA_DIR=FOLDER.'
    )


def data_folder(name: str | None, data_dir: str | Path | None, cache_dir: str | None = None) -> str | Path | None:
    """Returns where the files of a data set are: in `data_dir` if given, those of a sample in the cache, else in
    NINEREC_DATA_DIR; `None` where that is not set.
    """
    if not data_dir and name in SAMPLES:
        return sample_folder(cache_dir or datasets.config.HF_DATASETS_CACHE)
    return data_dir or os.environ.get("NINEREC_DATA_DIR") or None
