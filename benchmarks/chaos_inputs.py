"""Hostile inputs of `chaos.py`: what is made of a whole checkpoint, catalogue or data folder, and how it is judged."""

import gzip
import io
import json
import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_case import HARMFUL, HELD, LOST, REFUSED, TRACEBACK, Found, Workplace
from chaos_children import Limits, is_sentence, run_child


SECONDS, MEGABYTES = 120, 1200
SECRET = "never to be read"


@dataclass
class Attack:
    """One hostile input.

    Args:
        name: what it is.
        make: changes the copy of a whole input, a folder.
        must_refuse: whether it is wrong to load it, since what is loaded would not be what was saved.
    """

    name: str
    make: Callable[[Path], Any]
    must_refuse: bool = False


class Pickle:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


def judge(place: Workplace, base: str, attack: Attack, load: Callable[[Path], Any]) -> Found:
    """Copies a whole input, makes an attack of it, and judges what loading it does."""
    folder, canary = place.fresh(), place.root / "canary"
    shutil.copytree(place.root / base, folder / "it")
    made = run_child(lambda: [attack.make(folder / "it")] and None, folder, limits=Limits(megabytes=8000))
    if made.error is not None or made.died_of is not None:
        raise RuntimeError(f"{attack.name} cannot be made: {made}")
    limits = Limits(seconds=SECONDS, megabytes=MEGABYTES)
    ended = run_child(lambda: load(folder / "it"), folder, limits=limits, outside=place.outside)
    names = ["/it", "--", *(path.name for path in (folder / "it").rglob("*"))]
    found = Found(HELD)
    if ended.error is not None:
        kind = REFUSED if is_sentence(ended.error, names) else TRACEBACK
        found = Found(kind, f"{ended.error['type']}: {ended.error['text'][:240]} {ended.error['trace'][-2:]}")
    elif attack.must_refuse and ended.value is not None:
        found = Found(LOST, f"loaded, and is not what was saved: {str(ended.value)[:100]}")
    harms = {
        "code ran": canary.exists(),
        f"killed by signal {ended.died_of}": ended.died_of is not None and not ended.timed_out,
        f"took more than {SECONDS} s": ended.timed_out,
        f"took {ended.megabytes} MB": ended.megabytes > MEGABYTES,
        f"out of memory: {ended.error}": ended.error is not None and ended.error["type"] == "MemoryError",
        f"opened {', '.join(ended.reached)}": bool(ended.reached),
        "returned a secret": SECRET in str(ended.value),
    }
    harm = [what for what, is_so in harms.items() if is_so]
    canary.unlink(missing_ok=True)
    shutil.rmtree(folder)
    return Found(HARMFUL, "; ".join(harm)) if harm else found


# What stands in place of any file.


def write(name: str, content: bytes | str | Callable[[], bytes]) -> Callable[[Path], Any]:
    """Returns what writes a file of an input anew; a large content is made only then."""

    def change(folder: Path) -> None:
        remove(name)(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        made = content() if callable(content) else content
        (folder / name).write_bytes(made.encode() if isinstance(made, str) else made)

    return change


def remove(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink(missing_ok=True)


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    """Returns what changes the content of a file."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def edit_json(name: str, *path: str, value: Any) -> Callable[[Path], Any]:
    """Returns what gives a value in a JSON file, which lies under these keys."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        inner = content
        for key in path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[path[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return change


def in_place(name: str, put: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Returns what puts something else in place of a file: a pipe, a link, a folder."""

    def change(folder: Path) -> None:
        remove(name)(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        put(folder / name)

    return change


def several(*changes: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def no_files(name: str) -> Iterator[Attack]:
    """Yields what is no file under a file's name."""
    yield Attack(f"{name}: a pipe without a writer", in_place(name, lambda path: os.mkfifo(path)), True)
    yield Attack(f"{name}: a link to itself", in_place(name, lambda path: path.symlink_to(path.name)), True)
    yield Attack(f"{name}: a link to nothing", in_place(name, lambda path: path.symlink_to("nowhere")))
    yield Attack(f"{name}: a folder", in_place(name, lambda path: path.mkdir()))
    yield Attack(f"{name}: a link to /dev/zero", in_place(name, lambda path: path.symlink_to("/dev/zero")), True)
    yield Attack(f"{name}: a socket", in_place(name, lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK)), True)


def cut_files(name: str, must_refuse: bool = True) -> Iterator[Attack]:
    """Yields what is left of a file."""
    yield Attack(f"{name}: empty", write(name, b""), must_refuse)
    yield Attack(f"{name}: half of it", edit(name, lambda old: old[: len(old) // 2]), must_refuse)
    yield Attack(f"{name}: without its last bytes", edit(name, lambda old: old[:-9]), must_refuse)
    yield Attack(f"{name}: zeros", edit(name, lambda old: bytes(len(old))), must_refuse)
    yield Attack(f"{name}: its bytes reversed", edit(name, lambda old: old[::-1]), must_refuse)


def broken_json(name: str, must_refuse: bool = True) -> Iterator[Attack]:
    """Yields what is no such JSON."""
    texts = {
        "no JSON": "no JSON",
        "null": "null",
        "a list": "[1, 2]",
        "a number": "7",
        "a text": '"text"',
        "deep lists": "[" * 100_000 + "]" * 100_000,
        "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "a number of 10,000 digits": '{"hidden_size": ' + "9" * 10_000 + "}",
        "infinity": '{"hidden_size": Infinity, "a": NaN}',
        "nothing in it": "{}",
    }
    for what, text in texts.items():
        yield Attack(f"{name}: {what}", write(name, text), must_refuse and what not in ("nothing in it",))
    yield Attack(f"{name}: zero bytes", edit(name, lambda old: old[:5] + b"\0" * 9 + old[5:]), must_refuse)
    yield Attack(f"{name}: no UTF-8", edit(name, lambda old: old[:5] + b"\xff\xfe\x80" + old[5:]), must_refuse)
    yield Attack(f"{name}: UTF-16", edit(name, lambda old: old.decode().encode("utf-16")), must_refuse)


def pickled(place: Workplace, name: str) -> Callable[[Path], Any]:
    """Returns what writes a pickle that runs code, as torch saves it, under any name."""
    import torch

    def change(folder: Path) -> None:
        remove(name)(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": Pickle(place.root / "canary")}, folder / name)

    return change


def plain_pickle(place: Workplace) -> bytes:
    import pickle

    return pickle.dumps(Pickle(place.root / "canary"))


def safetensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Returns a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def gzip_bomb(megabytes: int, line: bytes = b"u0,i000,1\n") -> bytes:
    """Returns a table of one line again and again; members of the format, one after the other, are one file."""
    return gzip.compress(line * (2**20 // len(line)), compresslevel=9) * megabytes


def zip_bomb(*names: str, megabytes: int, line: bytes = b"\0") -> bytes:
    """Returns an archive of files that are one line again and again."""
    buffer, block = io.BytesIO(), line * (2**20 // len(line))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as file:
                for _ in range(megabytes):
                    file.write(block)
    return buffer.getvalue()
