"""The files of items, one an item: images and audio, named by the item's id, in a folder or in zip archives."""

import contextlib
import os
import unicodedata
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .archives import Member, members_of
from .problems import warn


@dataclass(frozen=True)
class Media:
    """One kind of file that an item may have.

    Args:
        column: of the items table that holds the files.
        article, word: what one of them is called in messages.
        suffixes: of the files, in order of preference.
        folders: what the folder is called, behind `NAME_` or where it lies beside the tables.
    """

    column: str
    article: str
    word: str
    suffixes: tuple[str, ...]
    folders: tuple[str, ...]

    def is_named(self, name: str) -> bool:
        """Returns whether a file has one of the suffixes, in any case."""
        return os.path.splitext(name)[1].lower() in self.suffixes

    def preference(self, name: str) -> tuple[int, int, str]:
        """Returns a sort key of paths: the least nested first, then by suffix; names that differ in case by name."""
        return name.count("/"), self.suffixes.index(os.path.splitext(name)[1].lower()), name


IMAGE = Media(
    "image",
    "a",
    "cover",
    (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    ("cover", "covers", "image", "images"),
)
AUDIO = Media("audio", "an", "audio file", (".wav", ".flac", ".mp3"), ("audio", "audios"))
MEDIA = (IMAGE, AUDIO)
Folder = Path | tuple[Member, ...] | None  # on disk, in one or several archives, or nowhere


def entries_within(folder: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Yields what is no folder in a folder and in those within it, with its path from there."""
    seen, left = set(), [("", os.fspath(folder.absolute()))]
    while left:
        prefix, where = left.pop()
        if (real := os.path.realpath(where)) in seen:
            continue
        seen.add(real)
        with os.scandir(where) as entries:
            for entry in entries:
                if not (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()):
                    yield f"{prefix}{entry.name}", entry
                elif not entry.name.startswith(".") and entry.name != "__MACOSX":
                    left.append((f"{prefix}{entry.name}/", entry.path))


def is_file(entry: os.DirEntry) -> bool:
    """Returns whether an entry is a file or leads to one; a link to itself does not."""
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


class ItemFiles:
    """The files of items: each has the item's id for a name, in any spelling that systems and archives make of it.

    Args:
        media: of which kind they are.
        names: their paths from the folder in which all of them lie.
        item_ids: of all items: a file that has the very name of one is of no other.
    """

    def __init__(self, media: Media, names: Iterable[str], item_ids: Iterable[str]):
        self.media = media
        self.by_stem: dict[str, list[str]] = {}
        for name in sorted(filter(media.is_named, names), key=media.preference):
            self.by_stem.setdefault(_stem(name), []).append(name)
        owned = {unicodedata.normalize("NFC", item_id) for item_id in item_ids}
        self._stems = {spelling: stem for stem in self.by_stem for spelling in _spellings(stem, owned)}

    def stem_of(self, item_id: str) -> str | None:
        """Returns the stem of an item's files, `None` where there are none."""
        if item_id in self.by_stem:
            return item_id
        return self._stems.get(item_id) or self._stems.get(unicodedata.normalize("NFC", item_id))

    def of(self, item_id: str) -> str | None:
        """Returns the path of an item's file, the best one; `None` where there is none.

        Raises:
            ValueError: if there is one in several folders, and none of them lies further up.
        """
        stem = self.stem_of(item_id)
        if stem is None:
            return None
        first, *others = self.by_stem[stem]
        for other in others:
            if other.count("/") == first.count("/") and os.path.dirname(other) != os.path.dirname(first):
                what = f"{self.media.article} {self.media.word} in two folders, {first} and {other}"
                raise ValueError(f"item {item_id!r} has {what}; keep one of them")
        return first


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


def _spellings(stem: str, owned: Container[str]) -> Iterator[str]:
    """Yields how a name may have been meant: composed accents; bytes that are GBK, or were taken for code page 437.

    One of `owned` is meant as it is.
    """
    composed = unicodedata.normalize("NFC", stem)
    yield composed
    if not stem.isascii() and composed not in owned:
        for before, meant in (("utf-8", "gb18030"), ("cp437", "utf-8"), ("cp437", "gb18030")):
            with contextlib.suppress(UnicodeError):
                yield stem.encode(before, errors="surrogateescape").decode(meant)


def find_media(media: Media, folder: Folder, item_ids: Iterable[str]) -> list[str | Member | None]:
    """Returns each item's file, `None` where there is none or it has no bytes.

    The folder is listed once, and no path is guessed from an id.
    """
    found: dict[str, str | Member] = {}
    if isinstance(folder, tuple):
        found = {name: one for name, (one, size) in members_of(folder).items() if size > 0}
        where = f"in {', '.join(map(str, folder))}"
    elif folder is not None:
        files = ((name, entry) for name, entry in entries_within(folder) if media.is_named(name))
        found = {name: entry.path for name, entry in files if is_file(entry) and entry.stat().st_size > 0}
        where = f"in {folder.name}"
    else:
        where = f"there is no {media.folders[0]} folder"
    item_ids = list(item_ids)
    named = ItemFiles(media, found, item_ids)
    try:
        names = [named.of(item_id) for item_id in item_ids]
    except ValueError as error:
        raise ValueError(f"{where[3:]}: {error}") from None
    missing = [item_id for item_id, name in zip(item_ids, names, strict=True) if name is None]
    what = f"items have no {media.word}: their {media.column} is null; {where}"
    warn(len(missing), what, missing[0] if missing else None)
    return [None if name is None else found[name] for name in names]
