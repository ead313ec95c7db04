"""Time and memory of functions that run in turn, and the command that measured them."""

import itertools
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch


LONG = 40  # seconds
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # of torch's profiler, which prints lines for every use otherwise


def command_line(paths: dict[str | Path | None, str]) -> str:
    """The one of this run, with words for paths of this machine."""
    words = {str(path): word for path, word in paths.items()}

    def replace(part: str) -> str:
        name, equals, value = part.partition("=")
        return f"{name}=" + replace(value) if equals else words.get(str(Path(part)), part)

    threads = [f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"] if "OMP_NUM_THREADS" in os.environ else []
    parts = [*threads, "python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    return shlex.join(map(replace, parts))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def in_turn(rounds: Iterable[dict[str, Callable]], device: torch.device, seconds: float, least: int = 3) -> dict:
    """Times of functions by name, each round in turn, until `seconds` are over and there are as many as `least`.

    The first round is to warm up; of a function that takes longer than `LONG` it is the only one.
    """
    times, once, start = {}, {}, None
    for number, functions in enumerate(rounds):
        found = {name: seconds_of(function, device) for name, function in functions.items() if name not in once}
        if number == 0:
            once = {name: [passed] for name, passed in found.items() if passed > LONG}
            if len(once) == len(found):
                break
            start = time.perf_counter()
            continue
        for name, passed in found.items():
            times.setdefault(name, []).append(passed)
        if number >= least and time.perf_counter() - start > seconds:
            break
    return {**once, **times}


def summary(times: dict[str, list[float]]) -> dict:
    """Median seconds of each, and medians over the rounds of naive ÷ ours, ours ÷ floor and ours ÷ backbone; where one
    has a single round, the ratio of medians."""
    found = {"seconds": {name: round(statistics.median(values), 6) for name, values in times.items()}}
    found["rounds"] = len(times["ours"])
    for one, other in (("naive", "ours"), ("ours", "floor"), ("ours", "backbone")):
        if one in times and other in times:
            if len(times[one]) != len(times[other]):
                ratios = [statistics.median(times[one]) / statistics.median(times[other])]
            else:
                ratios = [first / second for first, second in zip(times[one], times[other], strict=True)]
            found[f"{one} ÷ {other}"] = round(statistics.median(ratios), 2)
    return found


def check_same(losses: dict[str, float], what: str, dtype: str) -> None:
    """Raises unless the losses of steps that do the same are the same, within the rounding of `dtype`."""
    tolerance = (1e-3 if dtype == "float32" else 5e-2) * max(1.0, *map(abs, losses.values()))
    if max(losses.values()) - min(losses.values()) > tolerance:
        raise RuntimeError(f"{what}: the losses are not the same: {losses}")


def fits(function: Callable) -> bool:
    """Whether it runs through with the memory that the GPU has."""
    try:
        function()
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def peak_bytes(function: Callable, device: torch.device) -> int:
    """Most bytes that a function allocates at one time, beside what lies there already."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events), default=0)
