"""The files of items, one an item: images and audio, named by the item's id, in a folder or in zip archives."""

import os
from collections.abc import Iterable
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

    def is_file(self, entry: os.DirEntry) -> bool:
        """Returns whether an entry of a folder is one of the files."""
        return self.is_named(entry.name) and entry.is_file()

    def preference(self, name: str) -> tuple[int, str]:
        """Returns a sort key: first suffix first; names that differ in case (`1.JPG`, `1.jpg`) by name."""
        return self.suffixes.index(os.path.splitext(name)[1].lower()), name


IMAGE = Media("image", "a", "cover", (".jpg", ".jpeg", ".png", ".webp"), ("cover", "covers"))
AUDIO = Media("audio", "an", "audio file", (".wav", ".flac", ".mp3"), ("audio", "audios"))
MEDIA = (IMAGE, AUDIO)
Folder = Path | tuple[Member, ...] | None  # on disk, in one or several archives, or nowhere


def find_media(media: Media, folder: Folder, item_ids: Iterable[str]) -> list[str | Member | None]:
    """Returns each item's file, `None` where there is none or it has no bytes.

    The folder is listed once, and no path is guessed from an id.
    """
    found: dict[str, str | Member] = {}
    if isinstance(folder, tuple):
        found = {name: one for name, (one, size) in members_of(folder).items() if media.is_named(name) and size > 0}
        where = f"in {', '.join(map(str, folder))}"
    elif folder is not None:
        with os.scandir(folder.absolute()) as entries:
            found = {entry.name: entry.path for entry in entries if media.is_file(entry) and entry.stat().st_size > 0}
        where = f"in {folder.name}"
    else:
        where = f"there is no {media.folders[0]} folder"
    best: dict[str, str | Member] = {}
    for name in sorted(found, key=media.preference, reverse=True):  # the best one is set last
        best[os.path.splitext(name)[0]] = found[name]
    files = [best.get(item_id) for item_id in item_ids]
    missing = [item_id for item_id, file in zip(item_ids, files, strict=True) if file is None]
    what = f"items have no {media.word}: their {media.column} is null; {where}"
    warn(len(missing), what, missing[0] if missing else None)
    return files
