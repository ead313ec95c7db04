"""Ends the processes of a training when one of them no longer answers, since torch may wait for it for ever."""

import contextlib
import datetime
import logging
import os
import threading
import time
from collections.abc import Iterator

from accelerate import PartialState
from torch.distributed import TCPStore


logger = logging.getLogger(__name__)

_BEATS = 8  # in the time after which a process counts as stopped
_DONE = "done"
_is_watched = threading.Lock()


@contextlib.contextmanager
def watched(timeout: float) -> Iterator[None]:
    """Ends this process, within it, if another one of the training has not answered for so many seconds.

    A process that was stopped (SIGSTOP, a frozen machine) keeps its connections, so that gloo's barrier and the end of
    a process wait for it without a limit. A thread of each process therefore counts up in the store by which they have
    found each other. What is half-written then is passed over when the training is resumed.

    Args:
        timeout: `ddp_timeout` of the arguments.
    """
    state = PartialState()
    if state.num_processes == 1 or not _is_watched.acquire(blocking=False):
        yield
        return
    address, seconds = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), datetime.timedelta(seconds=timeout)
    store = TCPStore(*address, is_master=False, timeout=seconds)
    others = [rank for rank in range(state.num_processes) if rank != state.process_index]
    stop = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(store, state.process_index, others, timeout, stop), name="heartbeat", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _is_watched.release()


def _watch(store: TCPStore, rank: int, others: list[int], timeout: float, stop: threading.Event) -> None:
    """Counts up for this process, and looks whether the others do."""
    now = time.monotonic()
    seen = {other: ("", now) for other in others}
    number = 0
    try:
        while not stop.wait(timeout / _BEATS):
            number += 1
            store.set(_key(rank), str(number))
            for other, (value, since) in seen.items():
                found = store.get(_key(other)).decode() if store.check([_key(other)]) else ""
                if found not in (value, _DONE):
                    seen[other] = (found, time.monotonic())
                elif found != _DONE and time.monotonic() - since > timeout:
                    _end(f"process {other} has not answered for {timeout:g} seconds (--ddp_timeout)")
        store.set(_key(rank), _DONE)
    except RuntimeError as error:  # torch's errors of stores
        if not stop.is_set():
            _end(f"the processes have lost each other ({error})")


def _key(rank: int) -> str:
    return f"transrec/heartbeat/{rank}"


def _end(reason: str) -> None:
    logger.error("%s: the training is ended; go on with --resume_from_checkpoint true", reason)
    logging.shutdown()
    os._exit(1)  # nothing else ends a process that waits in a collective
