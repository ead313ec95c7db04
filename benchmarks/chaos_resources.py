"""Faults of resources of `chaos.py`: full disks, folders that are read only, few open files, cut networks, clocks."""

import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from chaos_case import HARMFUL, HELD, LOST, REFUSED, TRACEBACK, Case, Found, Workplace
from chaos_children import Ended, Fault, Limits, is_sentence, run_child, serve, start
from chaos_kills import (
    NOTHING,
    Job,
    Reference,
    blocks_of,
    describe_recommender,
    files_of,
    jobs,
    left_over,
    look,
    must,
    reference_of,
    training_reference,
)

from modeling_transrec import Recommender


NOBODY = 65_534
CODES = {"full disk": errno.ENOSPC, "read-only disk": errno.EROFS, "failing disk": errno.EIO, "quota": errno.EDQUOT}


def judge(job: Job, reference: Reference, folder: Path, ended: Ended, mend: Callable[[], Any] | None = None) -> Found:
    """Judges a job that met a fault: what lies there is whole, it said what was wrong, and it works the next time.

    Args:
        job: the job.
        reference: what it does where there is no fault.
        folder: its folder.
        ended: how it ended.
        mend: takes the fault away.
    """
    if ended.timed_out or ended.died_of is not None:
        return Found(HARMFUL, f"it hung or died: {ended}")
    if mend is not None:
        mend()
    outcome = Found(HELD)
    if ended.error is not None:
        told = ended.error
        # errors of the operating system say what is wrong and name the file
        is_told = is_sentence(
            told, [str(folder), *CODES, "o space", "o many", "oo large", "ermission", "nput/output", "uota"]
        )
        text = f"{told['type']}: {told['text'][:200]} {told['trace'][-2:]}"
        outcome = Found(REFUSED if is_told else TRACEBACK, text)
    found = look(job, folder)
    if job.name == "train":
        states = {} if found.value in (None, NOTHING) else json.loads(found.value)
        if found.error or any(json.loads(reference.old).get(name) != one for name, one in states.items()):
            return Found(LOST, f"{found.error or states} after {ended.error}")
    elif found.error is not None and (reference.old != NOTHING or not is_sentence(found.error, [folder.name, "out"])):
        return Found(LOST, f"what lies there does not load: {found.error}")
    elif found.error is None and found.value not in (reference.old, reference.new, NOTHING):
        return Found(LOST, f"a mixture: {found.value}")
    elif found.value == NOTHING and reference.old != NOTHING:
        return Found(LOST, "what was there before is gone")
    again = None
    for command in job.again or [job.run]:
        again = run_child(partial(command, folder), folder, limits=Limits(seconds=120))
        if again.error is None:
            break
    found = look(job, folder)
    made = json.dumps(again.value) if found.value == NOTHING else found.value
    if made != reference.new:
        return Found(LOST, f"the command, given again: {again.error or made or found.error}")
    left = left_over(job, reference, folder)
    return Found(LOST, f"left over: {', '.join(left[:4])}") if left else outcome


def meet(
    job: Job,
    reference: Callable[[], Reference],
    place: Workplace,
    fault: float | None,
    code: int,
    limits: Limits,
    times: int = 10**6,
    user: int | None = None,
) -> Found:
    """Runs a job that meets a fault at a part of its changes, or has limits, and judges it."""
    known, folder = reference(), place.fresh(is_pushed=job.is_pushed)
    if job.before is not None:
        must(run_child(lambda: job.before(folder), folder))
    met = None if fault is None else Fault(max(1, round(fault * known.changes)), code, times)
    ended = run_child(lambda: job.run(folder), folder, fault=met, limits=limits)
    found = judge(job, known, folder, ended)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def on_small_disk(job: Job, reference: Callable[[], Reference], place: Workplace, share: float) -> Found:
    """Runs a job on a disk with room for a share of what it writes, then on one that is large enough."""
    known, folder = reference(), place.fresh()
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, "size=200m,mode=777", "tmpfs", folder], check=True)
    try:
        if job.before is not None:
            must(run_child(lambda: job.before(folder), folder))
        kilobytes = blocks_of(files_of(folder)) + max(16, round(share * known.kilobytes))
        subprocess.run([*mount, f"remount,size={kilobytes}k", "tmpfs", folder], check=True)
        ended = run_child(lambda: job.run(folder), folder, limits=Limits(seconds=120))
        enlarge = [*mount, "remount,size=200m", "tmpfs", folder]
        return judge(job, known, folder, ended, lambda: subprocess.run(enlarge, check=True))
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def read_only(job: Job, reference: Callable[[], Reference], place: Workplace) -> Found:
    """Runs a job as a user who may not write into its folder, then as one who may."""
    known, folder = reference(), place.fresh()
    if job.before is not None:
        must(run_child(lambda: job.before(folder), folder))
    (folder / "out").mkdir(exist_ok=True)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    ended = run_child(lambda: job.run(folder), folder, user=NOBODY, limits=Limits(seconds=120))

    def mend() -> None:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)

    found = judge(job, known, folder, ended, mend)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def over_bad_network(place: Workplace, port: int, fault: dict[str, Any]) -> Found:
    """Pushes to a server that fails, then to one that does not; the server is a new one, with its own repositories."""
    from tests.hub_server import HubServer

    folder = place.fresh(is_pushed=True)

    def server() -> HubServer:
        made = HubServer(port=port)
        made.fail(**fault)
        return made

    place.end_server()  # this one has its address
    end = serve(server)
    try:
        recommender = place.root / "second"
        ended = run_child(
            lambda: str(Recommender.from_pretrained(recommender).push_to_hub(f"shop/{folder.name}")),
            folder,
            limits=Limits(seconds=90),
        )
        outcome = Found(HELD)
        if ended.timed_out or ended.died_of is not None:
            return Found(HARMFUL, f"it hung or died: {ended}")
        if ended.error is not None:
            named = is_sentence(ended.error, [folder.name, "127.0.0.1", "shop/"])
            outcome = Found(REFUSED if named else TRACEBACK, f"{ended.error['type']}: {ended.error['text'][:200]}")
            again = run_child(
                lambda: str(Recommender.from_pretrained(recommender).push_to_hub(f"shop/{folder.name}")), folder
            )
            if again.error is not None and fault.get("times", 0) < 10:
                return Found(LOST, f"the command, given again: {again.error}")
        if fault.get("times", 0) < 10:
            found = run_child(lambda: describe_recommender(f"shop/{folder.name}", cache_dir=folder / "cache"), folder)
            whole = run_child(lambda: describe_recommender(recommender), folder)
            if found.value is None or found.value != whole.value:
                return Found(LOST, f"what arrived is not what was sent: {found.value or found.error}")
        return outcome
    finally:
        end()
        place.end_server = serve(lambda: HubServer(port=port))
        shutil.rmtree(folder, ignore_errors=True)


def replaced_while_read(place: Workplace, seconds: float) -> Found:
    """Loads a recommender while another process saves others over it, again and again."""
    folder = place.fresh()
    shutil.copytree(place.root / "first", folder / "out")
    whole = {
        must(run_child(lambda n=n: describe_recommender(place.root / n), folder)).value for n in ("first", "second")
    }

    def save_again() -> None:
        both = [Recommender.from_pretrained(place.root / name) for name in ("second", "first")]
        while True:
            for one in both:
                one.save_pretrained(folder / "out")

    def load_again() -> list[str]:
        found, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                found.append(describe_recommender(folder / "out"))
            except (OSError, ValueError) as error:
                found.append(f"refused: {type(error).__name__}: {error}")
        return found

    end = start(save_again)
    reader = run_child(load_again, folder, limits=Limits(seconds=seconds + 60))
    end()
    shutil.rmtree(folder, ignore_errors=True)
    if reader.value is None:
        return Found(TRACEBACK, f"{reader.error or reader}")
    mixed = [one for one in reader.value if one not in whole and not one.startswith("refused")]
    refused = [one for one in reader.value if one.startswith("refused")]
    if mixed:
        return Found(LOST, f"{len(mixed)} of {len(reader.value)} loads were of a mixture: {mixed[0]}")
    told = f"{len(refused)} of {len(reader.value)} loads were refused: {refused[0][:200]}" if refused else ""
    return Found(REFUSED if refused else HELD, told)


def with_clock(job: Job, reference: Callable[[], Reference], place: Workplace, jump: float) -> Found:
    """Runs a job while the clock jumps back and forth, killed and begun again in between."""
    known, folder = reference(), place.fresh()
    if job.before is not None:
        must(run_child(lambda: job.before(folder), folder))

    def run_with_jumps() -> Any:
        real, calls = time.time, iter(range(10**9))
        time.time = lambda: real() + (jump if next(calls) % 3 else 0)
        return job.run(folder)

    ended = run_child(run_with_jumps, folder, limits=Limits(seconds=120))
    for path in folder.rglob("*"):  # the next run sees files of the past or of the future
        os.utime(path, (time.time() + jump, time.time() + jump))
    found = judge(job, known, folder, ended)
    shutil.rmtree(folder, ignore_errors=True)
    return found


NETWORK: dict[str, dict[str, Any]] = {
    "the upload is cut, once": {"pattern": "PUT /lfs/*", "drop_after": 100, "times": 1},
    "the upload is cut, always": {"pattern": "PUT /lfs/*", "drop_after": 100, "times": 1000},
    "the commit fails, once": {"pattern": "POST */commit/*", "status": 500, "times": 1},
    "the commit fails, always": {"pattern": "POST */commit/*", "status": 500, "times": 1000},
    "the commit is refused": {"pattern": "POST */commit/*", "status": 403, "times": 1000},
    "the repository cannot be made": {"pattern": "POST /api/repos/create", "status": 500, "times": 1000},
    "too many requests": {"pattern": "POST */preupload/*", "status": 429, "times": 1},
    "no storage": {"pattern": "POST *info/lfs*", "status": 507, "times": 1000},
    "not logged in": {"pattern": "POST *", "status": 401, "times": 1000},
}


def cases(place: Workplace, port: int) -> Iterator[Case]:
    """Yields each fault for each job, and those that are of one job."""
    for job in jobs(place):
        known: list[Reference] = []

        def reference(job=job, known=known) -> Reference:
            if not known:
                known.append(training_reference(place) if job.name == "train" else reference_of(job, place))
            return known[0]

        limits = Limits(seconds=120)
        parts = (0.1, 0.9, 0.4, 0.7) if not job.is_pushed else (0.5,)
        for number, (what, code) in enumerate(CODES.items()):
            for part in parts[number % 2 * 2 :][:2]:
                run = partial(meet, job, reference, place, part, code, limits)
                yield Case(f"resources: {what}", f"{job.name}, from {part:.0%} of the changes on", run)
        for files in (24, 40, 80):
            run = partial(meet, job, reference, place, None, 0, Limits(seconds=120, files=files))
            yield Case("resources: few open files", f"{job.name}, {files} files", run)
        for size in (100, 6000, 25_000):
            run = partial(meet, job, reference, place, None, 0, Limits(seconds=120, file_bytes=size))
            yield Case("resources: largest file", f"{job.name}, {size} bytes", run)
        if job.is_pushed:
            continue
        for share in (0.1, 0.5, 0.9) if os.geteuid() == 0 else ():
            run = partial(on_small_disk, job, reference, place, share)
            yield Case("resources: small disk", f"{job.name}, room for {share:.0%} of what it writes", run)
        if os.geteuid() == 0:
            yield Case("resources: read-only folder", job.name, partial(read_only, job, reference, place))
        for jump in (-86_400.0, 1.5e9):
            yield Case("resources: clock", f"{job.name}, {jump:g} s", partial(with_clock, job, reference, place, jump))
    yield Case("resources: replaced while read", "a recommender", partial(replaced_while_read, place, 15))
    for what, fault in NETWORK.items():
        yield Case("resources: network", what, partial(over_bad_network, place, port, fault))
