"""Says what a number was measured with: versions, hardware, memory, energy."""

import contextlib
import importlib.metadata
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import PartialState

from ..version import __version__


PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy", "scipy", "scikit-learn", "timm", "peft")
_ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")  # of the processor, since it was started
_ENERGY_RANGE = _ENERGY.with_name("max_energy_range_uj")


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of those that its numbers may depend on."""
    found = {"python": platform.python_version(), "modeling_transrec": __version__}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_commit() -> str | None:
    """Returns the commit of this package's checkout, with `+` where it has changes; `None` where it is installed."""
    folder = Path(__file__).parents[2]
    try:
        if not _git(folder, "ls-files", "modeling_transrec/version.py"):
            return None
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return _git(folder, "rev-parse", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def hardware() -> dict[str, str | int | None]:
    """Returns the processor, the threads and processes that are computed with, and the GPU where there is one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    threads, processes = torch.get_num_threads(), PartialState().num_processes
    return {"processor": _processor(), "threads": threads, "processes": processes, "gpu": gpu}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Returns the most memory that this process has had, in bytes, with that of the GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + on_gpu


class Energy:
    """Joules that the whole processor took in a block; `None` where the system does not say.

    >>> with measure_energy() as energy:
    ...     pass
    >>> energy.joules is None or energy.joules >= 0
    True
    """

    joules: float | None = None


@contextlib.contextmanager
def measure_energy() -> Iterator[Energy]:
    """Measures the energy of a block, by the processor's own counter (RAPL)."""
    energy, start = Energy(), _read_counter(_ENERGY)
    yield energy
    end, size = _read_counter(_ENERGY), _read_counter(_ENERGY_RANGE)
    if start is not None and end is not None and size is not None:
        energy.joules = ((end - start) % (size + 1)) / 1e6  # the counter begins again at its end


def _read_counter(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
