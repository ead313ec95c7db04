"""Runs functions in forked children that are killed at a point, meet a fault, or are held to a budget.

Importing torch takes seconds, forking a process that has imported it takes milliseconds: the parent computes nothing,
so that it has no threads that would be missing in a child.
"""

import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


OURS = ("/modeling_transrec/", "/dataset_scripts/ninerec/")
IN_ACCESS, IN_OPEN, IN_ISDIR = 0x1, 0x20, 0x40000000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.move"}


@dataclass
class Kill:
    """Where a child ends.

    Args:
        event: before its change number so of the file system, counted from 1: a file opened to be written, a rename,
            a deletion, a synchronisation, …
        cut_at: from that change on, in the midst of the first file that grows to so many bytes.
        after: so many seconds after its start.
    """

    event: int | None = None
    cut_at: int | None = None
    after: float | None = None

    def __str__(self) -> str:
        if self.after is not None:
            return f"after {self.after:.2f} s"
        return f"change {self.event}" + ("" if self.cut_at is None else f", at {self.cut_at} bytes")


@dataclass
class Fault:
    """An error of the operating system, in place of the change number `event` and of those that follow it."""

    event: int
    code: int
    times: int = 1_000_000


@dataclass
class Limits:
    """What a child may take: seconds, megabytes more than its parent has, open files, bytes of a file."""

    seconds: float = 60
    megabytes: int = 1500
    files: int | None = None
    file_bytes: int | None = None


@dataclass
class Ended:
    """How a child ended.

    Args:
        value: what the function returned, as JSON has it; `None` where it did not come to its end.
        error: what it raised: `type`, `text`, whether it was `ours`, whether the type is `specific`, `trace`.
        died_of: the signal that ended it.
        megabytes: what it took beside what its parent has.
        changes: how often it changed the file system.
        reached: files outside and addresses that were opened.
    """

    value: Any = None
    error: dict[str, Any] | None = None
    died_of: int | None = None
    timed_out: bool = False
    seconds: float = 0.0
    megabytes: int = 0
    changes: int = 0
    reached: list[str] = field(default_factory=list)


def run_child(
    function: Callable[[], Any],
    root: Path,
    *,
    kill: Kill | None = None,
    fault: Fault | None = None,
    limits: Limits | None = None,
    outside: Path | None = None,
    user: int | None = None,
) -> Ended:
    """Runs a function in a child of its own and returns how it ended.

    Args:
        function: its value must be one that JSON has.
        root: the folder under which changes count.
        kill: where the child is killed.
        fault: which change of the file system fails.
        limits: what it may take.
        outside: a folder of which no file may be opened.
        user: id of the user that runs it, where the parent may choose.
    """
    limits, started = limits or Limits(), time.monotonic()
    watch = None if outside is None else _Watch(outside)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _be_child(function, root, writing, kill, fault, limits, user)
        finally:
            os._exit(70)
    os.close(writing)
    until = limits.seconds if kill is None or kill.after is None else kill.after
    answer = _read_all(reading, started + until)
    ended = Ended(timed_out=answer is None)
    if answer is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    _end_group(child)
    ended.seconds = time.monotonic() - started
    if os.WIFSIGNALED(status):
        ended.died_of = os.WTERMSIG(status)
    if answer:
        found = json.loads(answer)
        for name, value in found.items():
            setattr(ended, name, value)
    if watch is not None:
        ended.reached += watch.close()
    return ended


def _be_child(function, root, writing, kill, fault, limits, user) -> None:
    """Runs the function and writes what became of it into the pipe."""
    os.setsid()
    log = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(log, stream)
    counter = _Counter(str(root), kill, fault)
    before = _resident()
    _limit(limits)
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    found: dict[str, Any] = {}
    try:
        found["value"] = function()
    except BaseException as error:  # whatever it is, the parent judges it
        counter.active = False
        found["error"] = described(error)
    counter.active = False
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found |= {"megabytes": max(0, peak - before), "changes": counter.count, "reached": counter.reached}
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    content = json.dumps(found).encode()
    while content:
        content = content[os.write(writing, content) :]
    os._exit(0)


def _limit(limits: Limits) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    space = pages + (limits.megabytes + 4096) * 2**20  # libraries reserve more than they use
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    if limits.files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits.files, limits.files))
    if limits.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, resource.RLIM_INFINITY))


class _Counter:
    """Counts changes of the file system under a folder; kills the process or fails at one of them."""

    def __init__(self, root: str, kill: Kill | None, fault: Fault | None):
        self.root, self.kill, self.fault = root, kill, fault
        self.count, self.active, self.reached = 0, True, list[str]()
        sys.addaudithook(self.hear)
        for name in ("fsync", "fdatasync"):
            setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, function):
        def call(*args):
            self.change("")
            return function(*args)

        return call

    def hear(self, event: str, args: tuple) -> None:
        if not self.active:
            return
        if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "localhost"):
            self.reached.append(f"{args[1][0]}:{args[1][1]}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            if args[2] & _WRITES and self.is_inside(args[0]):
                self.change(args[0])
        elif event in _CHANGES and self.is_inside(args[0]):
            self.change(args[0])

    def is_inside(self, path: Any) -> bool:
        # names that are relative to an open folder count, too: those of shutil.rmtree
        return not isinstance(path, int) and (
            not os.path.isabs(name := os.fsdecode(path)) or name.startswith(self.root)
        )

    def change(self, path: Any) -> None:
        self.count += 1
        if self.kill is not None and self.count == self.kill.event:
            if self.kill.cut_at is None:
                os.kill(os.getpid(), signal.SIGKILL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.kill.cut_at, resource.RLIM_INFINITY))
        if self.fault is not None and self.fault.event <= self.count < self.fault.event + self.fault.times:
            raise OSError(self.fault.code, os.strerror(self.fault.code), os.fsdecode(path))


def described(error: BaseException) -> dict[str, Any]:
    """Returns what is known of an error: whether our code raised it, and in which words."""
    frames = traceback.extract_tb(error.__traceback__)
    text = "\n".join([str(error)[:600], *getattr(error, "__notes__", ())])
    return {
        "type": type(error).__name__,
        "text": text,
        "ours": bool(frames) and any(part in frames[-1].filename for part in OURS),
        "specific": isinstance(error, ValueError | OSError | ImportError | NotImplementedError),
        "trace": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-4:]],
    }


def is_sentence(error: dict[str, Any], names: Iterable[str]) -> bool:
    """Returns whether an error says what is wrong: in our words, or in others that name the file.

    Args:
        error: see [`described`].
        names: of the files and options that it may be about.
    """
    if len(error["text"].split()) < 4:
        return False
    named = any(name in error["text"] for name in names)
    return named and (error["ours"] or error["specific"]) or (error["ours"] and error["specific"])


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


def _read_all(reading: int, deadline: float) -> bytes | None:
    """Returns what comes through a pipe until it is closed, `None` if that takes too long."""
    parts = []
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.close(reading)
            return None
        part = os.read(reading, 1 << 16)
        if not part:
            os.close(reading)
            return b"".join(parts)
        parts.append(part)


def _end_group(leader: int) -> None:
    """Ends what a child has started and left behind."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


class _Watch:
    """Tells which files of a folder are opened, by whatever library (inotify)."""

    def __init__(self, folder: Path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.file = libc.inotify_init1(os.O_NONBLOCK)
        for path in (folder, *(one for one in folder.rglob("*") if one.is_dir())):
            if self.file < 0 or libc.inotify_add_watch(self.file, os.fsencode(path), IN_OPEN | IN_ACCESS) < 0:
                raise OSError(ctypes.get_errno(), f"{path} cannot be watched")

    def close(self) -> list[str]:
        """Returns the names of the files that were opened."""
        found, content = set(), b""
        try:
            content = os.read(self.file, 1 << 20)
        except BlockingIOError:
            pass  # none was
        os.close(self.file)
        while content:
            _, mask, _, length = struct.unpack_from("iIII", content)
            name = content[16 : 16 + length].rstrip(b"\0").decode()
            if name and not mask & IN_ISDIR:
                found.add(name)
            content = content[16 + length :]
        return sorted(found)


def import_as_child_does(function: Callable[[], Any], root: Path) -> Ended:
    """Runs a function in a child, then imports here what it had to import, so that the next child need not."""
    ended = run_child(lambda: [function(), sorted(sys.modules)], root, limits=Limits(seconds=300))
    if ended.error is not None or ended.value is None:
        raise RuntimeError(f"the work itself fails, before anything is done to it: {ended}")
    ended.value, modules = ended.value
    for name in modules:
        if name not in sys.modules and name.split(".")[0] not in ("__main__", "__mp_main__"):
            try:
                __import__(name)
            except Exception:
                continue  # it is made by another module, under a name that cannot be imported
    return ended


def start(function: Callable[[], Any]) -> Callable[[], None]:
    """Runs a function in a child beside others; returns what ends it."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            function()
        finally:
            os._exit(0)

    def end() -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    return end


def serve(make_server: Callable[[], Any]) -> Callable[[], None]:
    """Runs a server in a child of its own until what is returned is called; it answers when this returns."""
    reading, writing = os.pipe()

    def work() -> None:
        with make_server():
            os.write(writing, b"1")
            threading.Event().wait()

    end = start(work)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    return end
