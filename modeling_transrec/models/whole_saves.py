"""Saves that are whole or not there: over an older save, on a full disk, and when the process is killed."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from .folder_locks import locked


Part = Literal["model", "processor"]
_PARTNER: dict[Part, Part] = {"model": "processor", "processor": "model"}
_FILE_OF: dict[Part, str] = {"model": "config.json", "processor": "processor_config.json"}
# Names that start with "_" are never published.
_UNFINISHED, _WHOLE, _JOURNAL = "_unfinished", "_whole", "_journal.json"
_WAIT = 60.0  # seconds for another save into the same folder
_WEIGHTS = re.compile(r"(model(?:\.\w+)?)(?:-\d{5}-of-\d{5})?\.safetensors")
_INDEX = re.compile(r"(model)\.safetensors\.index(\.\w+)?\.json")
_OF_PROCESSORS = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json chat_template.jinja vocab.txt "
    "vocab.json merges.txt tokenizer.model spiece.model sentencepiece.bpe.model preprocessor_config.json"
).split()
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def whole_save(
    folder: str | os.PathLike,
    part: Part | None = None,
    loaded_from: str | os.PathLike | None = None,
    replaced: Sequence[str] = (),
) -> Iterator[Path]:
    """Yields an empty folder to save into; in the end all of it comes into `folder`, or, after an error, nothing.

    The files are written aside and then renamed into their places. A process that is killed in between leaves a
    journal, by which the next one that loads from the folder or saves into it ends the work. What else lies in the
    folder stays, but for what the new files stand for: weights in other shards, and files of an older processor.

    Args:
        folder: the folder, which is made where there is none.
        part: what is saved, where it is not all. If model and processor are there from an older save, the other part
            is refused by [`check_whole`] until it is saved, too: they may not belong together.
        loaded_from: where this part was loaded from; saved there again, it still belongs to the other one.
        replaced: folders within that are replaced whole, also by nothing.

    Raises:
        BlockingIOError: if another process writes into the folder.
        OSError: if the disk is full; the older save is as it was.
    """
    folder = Path(folder)
    with locked(folder, wait=_WAIT):
        finish_save(folder)
        unfinished = folder / _UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
        try:
            with named_disk_errors(folder, "what was saved there before is as it was"):
                unfinished.mkdir()
                yield unfinished
                _commit(folder, unfinished, part, loaded_from, replaced)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        finish_save(folder)


def _commit(
    folder: Path,
    unfinished: Path,
    part: Part | None,
    loaded_from: str | os.PathLike | None,
    replaced: Sequence[str],
) -> None:
    """Makes a save, which is written to its end, the one that counts, by one renaming."""
    there = [_awaits(one) for one in _PARTNER if (folder / _awaits(one)).exists()]
    removed = there if part is None else [name for name in there if name == _awaits(part)]
    is_paired = all((folder / name).exists() for name in _FILE_OF.values())
    if part is not None and is_paired and not removed and not _is_same(folder, loaded_from):
        (unfinished / _awaits(_PARTNER[part])).touch()
    names = sorted(path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file())
    removed += [name for name in _superseded(folder, names, replaced) if name not in names]
    journal = unfinished / _JOURNAL
    journal.write_text(json.dumps({"files": names, "removed": removed}), encoding="utf-8")
    for path in (*(unfinished / name for name in names), journal):
        path.chmod(journal.stat().st_mode)  # safetensors makes files that only their owner can read
        write_out(path)
    unfinished.rename(folder / _WHOLE)


def _superseded(folder: Path, names: Sequence[str], replaced: Sequence[str]) -> Iterator[str]:
    """Yields files of older saves that new ones stand for."""
    families = {match[1] for match in map(_WEIGHTS.fullmatch, names) if match}
    for path in folder.iterdir():
        weights, index = _WEIGHTS.fullmatch(path.name), _INDEX.fullmatch(path.name)
        family = weights[1] if weights else f"{index[1]}{index[2] or ''}" if index else None
        if family in families or (path.name in _OF_PROCESSORS and _FILE_OF["processor"] in names):
            yield path.name
    for name in replaced:
        yield from (path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file())


def finish_save(folder: str | os.PathLike) -> bool:
    """Ends a save that was whole when its process was killed; returns whether there was one.

    Raises:
        PermissionError: if there is one, and the folder cannot be written to.
        ValueError: if its journal is not one that [`whole_save`] writes.
    """
    whole = Path(folder, _WHOLE)
    if not whole.is_dir():
        return False
    with locked(folder, wait=_WAIT):
        if not whole.is_dir():
            return False
        journal = whole / _JOURNAL
        files, removed = _read_journal(journal) if journal.exists() else ([], [])  # without it, all is in its place
        for name in files:
            if (whole / name).is_file():
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
                (whole / name).replace(Path(folder, name))
        for name in removed:
            Path(folder, name).unlink(missing_ok=True)
        shutil.rmtree(whole)
    return True


def _read_journal(journal: Path) -> tuple[list[str], list[str]]:
    """Returns the files of a save, and those that it replaces; they lie inside the folder."""
    inside = journal.parent.parent.resolve()
    try:
        found = json.loads(journal.read_text(encoding="utf-8"))
        for name in (*found["files"], *found["removed"]):
            place = PurePosixPath(name)
            if (
                place.is_absolute()
                or ".." in place.parts
                or not (inside / name).parent.resolve().is_relative_to(inside)
            ):
                raise ValueError(f"{name} lies outside of the folder")
        return found["files"], found["removed"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{journal} is not what save_pretrained writes ({error}): remove {journal.parent}, and save again"
        ) from error


def check_whole(name_or_path: str | os.PathLike | None, part: Part, subfolder: str | None = None) -> bool:
    """Ends an interrupted save in a local folder, and refuses a part that another save than its partner's left there.

    Returns:
        Whether there was a save to end.

    Raises:
        ValueError: if something in the folder is neither a file nor a folder, or the other part was saved over an
            older save, and this one was not.
    """
    if name_or_path is None or not os.path.isdir(name_or_path):
        return False
    folder = Path(name_or_path, subfolder or "")
    was_finished = finish_save(folder)
    for path in folder.glob("[!.]*"):
        if not path.is_dir():
            local_file(path)
    if (folder / _awaits(part)).exists():
        other = _PARTNER[part]
        raise ValueError(
            f"the {part} in {folder} is of an older save than the {other} beside it, which was saved alone: save "
            f"the {part} there, too, with save_pretrained; or, if they do belong together, remove "
            f"{folder / _awaits(part)}"
        )
    return was_finished


def local_file(path: str | os.PathLike) -> str | None:
    """Returns a path if a file lies there, `None` if nothing does.

    Raises:
        ValueError: if something else lies there, such as a pipe or a link to nothing, of which a checkpoint has none.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is no file, but a folder, a pipe, a device or a link to nothing; it is not read")
    return os.fspath(path) if os.path.isfile(path) else None


def _awaits(part: Part) -> str:
    return f"_awaits_{part}"


def _is_same(folder: Path, other: str | os.PathLike | None) -> bool:
    return other is not None and os.path.isdir(other) and os.path.samefile(folder, other)


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Writes a text file that is whole or, after a kill or an error, as it was."""
    path = Path(path)
    unfinished = path.with_name(f"_{path.name}-{os.getpid()}.unfinished")
    with named_disk_errors(path.parent, f"{path.name} is as it was"):
        try:
            unfinished.write_text(text, encoding="utf-8")
            write_out(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_out(path: Path) -> None:
    """Waits until a file is on the disk: some file systems tell only then that they are full."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def named_disk_errors(folder: str | os.PathLike, state: str) -> Iterator[None]:
    """Lets whatever a full disk makes the libraries raise within it say so, and which disk it is.

    Args:
        folder: that is written into.
        state: what is now to be found there, as the end of a sentence.

    Raises:
        OSError: in place of other errors.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise OSError(
            f"the disk has no room left for what is written into {folder}; {state}. Make room, and try again"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    """Returns whether an error, or one that it came from, tells of a full disk, a quota or a limit of file sizes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(
            sign in str(error)
            for sign in ("os error 27", "os error 28", "os error 122", "No space left", "unexpected pos")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
