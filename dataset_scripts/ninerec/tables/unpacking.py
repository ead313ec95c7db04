"""Compressed tables, and tables that are not UTF-8, to plain ones. Lines stay lines: errors name the right one."""

import codecs
import gzip
import hashlib
import lzma
import shutil
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from ..whole_folders import scratch_folder
from .forms import form_of, split_name
from .options import EVERYTHING, TableOptions


BLOCK_SIZE = 1 << 20
# A table that grows by more than this when it is unpacked is none: the most seen is 30. What is small may grow more.
LARGEST_RATIO, ALWAYS_ALLOWED = 200, 1 << 30
SPARE = 1 << 28  # bytes that stay free on the disk
# What a damaged file raises.
UNREADABLE = (zlib.error, lzma.LZMAError, pa.ArrowException, OSError, EOFError)


def _open_xz(path: Path) -> BinaryIO:
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - 64, 0))
        if not file.read().rstrip(b"\0").endswith(b"YZ"):  # lzma itself reads what comes before such an end
            raise EOFError("it does not end as such files do")
    return cast(BinaryIO, lzma.open(path))


OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": lambda path: cast(BinaryIO, gzip.open(path)),
    ".bz2": lambda path: cast(BinaryIO, pa.input_stream(path, compression="bz2")),
    ".xz": _open_xz,
    ".zst": lambda path: cast(BinaryIO, pa.input_stream(path, compression="zstd")),
}
# How files begin that are no texts, whatever their names say, and what to do.
NO_TEXTS = {
    b"\x1f\x8b": "it is compressed: let its name end in .gz",
    b"BZh": "it is compressed: let its name end in .bz2",
    b"\xfd7zXZ\0": "it is compressed: let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "it is compressed: let its name end in .zst",
    b"PK\x03\x04": "it is a zip archive or a spreadsheet: let its name end in .zip, or export it as CSV",
    b"\xd0\xcf\x11\xe0": "it is a spreadsheet: export it as CSV",
    b"PAR1": "it is a Parquet file: let its name end in .parquet",
    b"ARROW1": "it is an Arrow file: write it as Parquet",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file: run git lfs pull",
    b"<!DOCTYPE": "it is a web page: download the file again",
    b"<html": "it is a web page: download the file again",
}
MARKS = {  # the longer first: that of UTF-32 begins as that of UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def plain_table(path: Path, folder: Path, options: TableOptions = EVERYTHING, num_bytes: int | None = None) -> Path:
    """Returns a table as UTF-8 and not compressed: the file itself, or one that is written below `folder`.

    Args:
        path: of the table.
        folder: for what is written. It is written once, and found there the next time.
        options: with `encoding`, if the table has one that cannot be told from it.
        num_bytes: of the beginning of a text that suffice; what is made of them is for a look only.
    """
    given, packing = path, split_name(path.name).packing
    if packing:
        path = _written(given, folder, path.stem, lambda sink: _unpack(given, packing, sink, num_bytes), packing)
    if form_of(path).kind == "parquet" or not path.is_file():
        return path
    try:
        encoding = _encoding_of(path, options, num_bytes is not None)
        if encoding is None:
            return path
        return _written(path, folder, path.name, lambda sink: _decode(path, encoding, sink, num_bytes), encoding)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), str(given))) from error


def _written(path: Path, folder: Path, name: str, write: Callable[[BinaryIO], None], how: str) -> Path:
    """Returns the file `name` below `folder` that is made of a file by `write`, which is called once."""
    stat = path.stat()
    state = f"{path.absolute()}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\t{stat.st_ino}\t{how}"
    target = folder / hashlib.sha256(state.encode(errors="surrogateescape")).hexdigest()[:16] / name
    if not target.exists():
        with scratch_folder(target.parent) as unfinished:
            with open(unfinished / name, "wb") as sink:
                write(sink)
            (unfinished / name).replace(target)
    return target


def _unpack(path: Path, packing: str, sink: BinaryIO, num_bytes: int | None) -> None:
    try:
        with closing(OPENERS[packing](path)) as source:
            copy_within_budget(source, sink, path, path.stat().st_size, num_bytes)
    except UNREADABLE as error:
        raise ValueError(f"{path} is no whole {packing} file, copy it again: {error}") from error


def check_growth(path: object, size: int, unpacked: int) -> None:
    """Refuses what becomes far larger than any table does.

    Args:
        path: how the compressed file is called in errors.
        size: of the compressed file.
        unpacked: how much has been unpacked, or will be.
    """
    limit = max(ALWAYS_ALLOWED, LARGEST_RATIO * size)
    if unpacked > limit:
        raise ValueError(
            f"{path} becomes more than {LARGEST_RATIO} times as large ({limit:,} bytes) when it is unpacked, "
            "which no table does; if it is right, unpack it yourself"
        )


def copy_within_budget(
    source: BinaryIO, sink: BinaryIO, path: object, size: int, num_bytes: int | None = None
) -> None:
    """Copies what is unpacked, all or the first bytes, as long as it looks like a table and the disk has room for it.

    Args:
        source: what is unpacked while it is read.
        sink: the file to be written.
        path: how the compressed file is called in errors.
        size: of the compressed file.
        num_bytes: how much suffices.
    """
    done, free = 0, shutil.disk_usage(sink.name).free - SPARE
    while num_bytes is None or done < num_bytes:
        block = source.read(BLOCK_SIZE if num_bytes is None else min(BLOCK_SIZE, num_bytes - done))
        if not block:
            return
        done += len(block)
        check_growth(path, size, done)
        if done > free:
            raise ValueError(f"{path} does not fit on the disk of {Path(sink.name).parent} when it is unpacked")
        sink.write(block)


def _encoding_of(path: Path, options: TableOptions, is_look: bool) -> str | None:
    """Returns the encoding of a text that is not UTF-8 by its mark or, if it is not valid UTF-8, by the options."""
    with open(path, "rb") as file:
        start = file.read(1 << 12)
    for begin, fix in NO_TEXTS.items():
        if start.startswith(begin):
            raise ValueError(f"{path} is no text table; {fix}")
    if start[257:262] == b"ustar":
        raise ValueError(f"{path} is no text table; it is a tar archive: unpack it")
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    if options.encoding is None:
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if (
                len(start) >= 8
                and start[first::2].count(0) > 0.4 * len(start[first::2])
                and 0 not in start[1 - first :: 2]
            ):
                raise ValueError(
                    f'{path}:1: the file seems to be {encoding.upper()}; say so: encoding="{encoding}" (in a script '
                    f"--encoding {encoding}), or convert it to UTF-8"
                )
        return None
    return None if is_look or _is_utf8(path, options.encoding) else options.encoding


def _is_utf8(path: Path, otherwise: str) -> bool:
    """Returns whether a file is UTF-8; English texts of UTF-16 would be, too, but for their zeros."""
    has_zeros = codecs.lookup(otherwise).name.startswith(("utf-16", "utf-32"))
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        try:
            while block := file.read(BLOCK_SIZE):
                if has_zeros and b"\0" in block:
                    return False
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _decode(path: Path, encoding: str, sink: BinaryIO, num_bytes: int | None) -> None:
    line = 1
    with open(path, encoding=encoding, newline="", errors="strict" if num_bytes is None else "ignore") as source:
        try:
            while text := source.read(BLOCK_SIZE):
                sink.write(text.encode())
                line += text.count("\n")
        except UnicodeError as error:
            raise ValueError(f"{path}: line {line} or one of the next is not {encoding}: {error}") from error
