"""Get NineRec from where its authors offer it, and unpack it.

    pip install "modeling_transrec[download]"
    python -m modeling_transrec.ninerec.download targets --data_dir FOLDER

`sources` are Bili_500K and Bili_2M, `targets` the nine others. The archive and what it holds go into FOLDER only. If
the command is interrupted, run it again: it goes on where it stopped.
"""

import argparse
import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from pathlib import Path

from ..files import ARCHIVES, REPOSITORY, SOURCES, TARGETS, find_names


PARTS = {"sources": (ARCHIVES["source"], SOURCES), "targets": (ARCHIVES["target"], TARGETS)}
CONDITION = (
    f"NineRec belongs to its authors ({REPOSITORY}). They do not allow modified copies to be published: "
    "use it for research, and do not push it or what you make of it to a public place."
)
MAX_RATIO = 200  # of a file's size to that of its compressed bytes
SMALL = 1 << 20  # bytes; smaller files may have any ratio
OTHER_FORMATS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "rar", b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
QUOTA = re.compile(r"quota|too many users|viewed or downloaded", re.IGNORECASE)


class DownloadError(Exception):
    """Why the data is not there, and what to do."""


def download(part: str, data_dir: str | Path) -> Path:
    """Gets and unpacks `"sources"` or `"targets"`; returns the folder where they lie."""
    url, _ = PARTS[part]
    root = Path(os.path.expanduser(data_dir))
    root.mkdir(parents=True, exist_ok=True)
    archive = root / f"NineRec_{part}.zip"
    if archive.exists():
        print(f"{archive} is there already and is not fetched again.")
    else:
        _fetch(url, archive)
    check_archive(archive, url)
    folder = root / f"NineRec_{part}"
    for inner in unpack(archive, folder):
        if inner.suffix.lower() == ".zip":
            unpack(inner, inner.with_suffix(""))
    return folder


def _fetch(url: str, archive: Path) -> None:
    try:
        import gdown
    except ImportError:
        raise DownloadError(
            'The download needs gdown: pip install "modeling_transrec[download]". ' + _by_hand(url, archive)
        ) from None
    try:
        found = gdown.download(id=url.rsplit("/", 1)[1], output=str(archive), resume=True)
    except Exception as error:  # of gdown, requests or the system: in any case the file did not come
        raise DownloadError(f"{_explained(str(error))} {_by_hand(url, archive)}") from error
    if found is None or not archive.exists():
        raise DownloadError(f"Google Drive sent nothing. {_by_hand(url, archive)}")


def _explained(message: str) -> str:
    if QUOTA.search(message):
        return "Google Drive's quota for this file is used up for now: try again in a day."
    reason = " ".join(message.split()).rstrip(".")
    return f"The download stopped: {reason}. Run the command again, and it goes on where it stopped."


def _by_hand(url: str, archive: Path) -> str:
    return f"Or fetch {url} with a browser, save it as {archive}, and run the command again."


def check_archive(archive: Path, url: str) -> None:
    """Raises [`DownloadError`] if a file is no whole zip archive; a web page is deleted."""
    with open(archive, "rb") as file:
        head = file.read(1 << 16)
    if zipfile.is_zipfile(archive):
        return
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)", head, re.IGNORECASE):
        archive.unlink()
        page = head.decode(errors="replace")
        title = re.search(r"<title>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
        what = (
            f"a web page came instead of the archive ({' '.join(title[1].split()) if title else 'without a title'})."
        )
        raise DownloadError(f"{_explained(page if QUOTA.search(page) else what)} {_by_hand(url, archive)}")
    again = f"Delete {archive} and run the command again. {_by_hand(url, archive)}"
    if head.startswith(b"PK"):
        raise DownloadError(f"{archive} is cut off: a zip archive whose end is missing. {again}")
    for magic, name in OTHER_FORMATS.items():
        if head.startswith(magic):
            raise DownloadError(
                f"{archive} is no zip but a {name} archive: unpack it by hand anywhere in {archive.parent}."
            )
    raise DownloadError(f"{archive} is no zip archive (it begins with {head[:8]!r}). {again}")


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpacks a zip archive into `folder` and nowhere else; returns its files.

    What does not belong into a folder (absolute paths, `..`, links) or fills the disk is refused before anything is
    written. A file that is there with the right size is not unpacked again.

    Raises:
        DownloadError: if the archive is refused or damaged.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            targets = _checked_members(source, archive, folder)
            safe = set()
            for member, target in targets:
                if target.parent not in safe:
                    _make_folder(target.parent, folder, archive)
                    safe.add(target.parent)
                if target.is_symlink() or not target.exists() or target.stat().st_size != member.file_size:
                    partial = target.with_name(target.name + ".part")
                    partial.unlink(missing_ok=True)
                    with source.open(member) as packed, open(partial, "xb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
                    os.replace(partial, target)
            return [target for _, target in targets]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive} is damaged ({error}): delete it and fetch it again") from error


def _checked_members(source: zipfile.ZipFile, archive: Path, folder: Path) -> list[tuple[zipfile.ZipInfo, Path]]:
    """Returns the files of an archive and where they go."""

    def refuse(reason: str, member: zipfile.ZipInfo) -> DownloadError:
        return DownloadError(f"{archive} is not unpacked: {member.filename!r} {reason}")

    targets: dict[Path, zipfile.ZipInfo] = {}
    for member in source.infolist():
        name = member.filename.replace("\\", "/")
        places = [place for place in name.split("/") if place not in ("", ".")]
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            raise refuse("has an absolute path", member)
        if ".." in places:
            raise refuse("leads out of the folder", member)
        if re.search(r"[\x00-\x1f\x7f]", name):
            raise refuse("has control characters in its name", member)
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refuse("is a link or another special file", member)
        if member.flag_bits & 1:
            raise refuse("is encrypted", member)
        if member.file_size > SMALL and member.file_size > MAX_RATIO * member.compress_size:
            ratio = member.file_size // max(member.compress_size, 1)
            raise refuse(f"would grow {ratio:,} times, to {member.file_size:,} bytes: a decompression bomb?", member)
        if name.endswith("/") or not places:
            continue
        target = folder.joinpath(*places)
        if target in targets:
            raise refuse("is there twice", member)
        targets[target] = member
    if sum(member.compress_size for member in targets.values()) > archive.stat().st_size:
        raise DownloadError(f"{archive} is not unpacked: its files overlap, as in a decompression bomb")
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(member.file_size for target, member in targets.items() if not target.exists())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise DownloadError(f"{archive} needs {missing:,} bytes in {folder}, where {free:,} are free: make room")
    return [(member, target) for target, member in targets.items()]


def _make_folder(parent: Path, folder: Path, archive: Path) -> None:
    """Makes a folder inside `folder`; a link that was there before must not lead elsewhere."""
    existing = parent
    while not existing.exists() and not existing.is_symlink():
        existing = existing.parent
    if not existing.resolve().is_relative_to(folder.resolve()):
        raise DownloadError(f"{archive} is not unpacked: {existing} leads out of {folder}; remove it")
    parent.mkdir(parents=True, exist_ok=True)


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=list(PARTS), help="which of NineRec's two archives")
    parser.add_argument("--data_dir", required=True, help="folder for the archive and what it holds")
    args = parser.parse_args(arguments)
    print(CONDITION)
    try:
        folder = download(args.part, args.data_dir)
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; run the command again, and it goes on where it stopped.", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{error.filename or args.data_dir}: {error.strerror or error}", file=sys.stderr)
        return 1
    _, expected = PARTS[args.part]
    names = find_names(folder)
    print(f"The data lies in {folder.absolute()}; the archive beside it can be deleted.")
    print(f"Can be loaded: {', '.join(names) or 'nothing: no NAME_item.csv with NAME_pair.csv was found'}.")
    if missing := [name for name in expected if name not in names]:
        print(f"Not found, though expected: {', '.join(missing)}.")
    if names:
        print(f'Then: load_dataset("ninerec", "{names[0]}", data_dir="{folder.absolute()}")')
    return 0 if names else 1


if __name__ == "__main__":
    sys.exit(main())
