"""Clean environments: our wheel, and only what a requirement of it names.

Packages are not downloaded: torch alone would take several GB and minutes. Those of the tests' own environment are
linked file by file, as their metadata say what needs what. So an import of what a requirement does not bring fails.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).parents[1]
_SMALL = 4_000_000  # bytes


def run(*command, cwd: Path, **environment: str) -> str:
    """Returns what a command prints; it has to succeed. It does not see the paths of the tests' environment."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**given, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def build(folder: Path) -> Path:
    """Builds the sdist, and the wheel of it, from a copy of the source; returns the folder that has both."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("modeling_transrec", "dataset_scripts", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    run(sys.executable, "-m", "build", "--no-isolation", cwd=folder)
    return folder / "dist"


def make_environment(folder: Path, wheel: Path, requirement: str) -> Path:
    """Makes an environment in a folder; returns the folder of its programs.

    Args:
        folder: a new folder.
        wheel: ours.
        requirement: what is asked for, such as `modeling_transrec[serve]`.
    """
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(programs / "python", "-c", code, cwd=folder).strip())
    asked = Requirement(requirement)
    given = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index"]
    run(*given, "--find-links", wheel.parent, f"{asked.name}{asked.specifier}", cwd=folder)
    (own,) = importlib.metadata.distributions(path=[str(packages)])
    for distribution in _needed_by(own, asked.extras):
        _link(distribution, packages)
    return programs


def _needed_by(distribution: importlib.metadata.Distribution, extras: Iterable[str]) -> list:
    """Returns the distributions that one needs, and those that these need, of the tests' own environment."""
    found, todo = {}, [(distribution, tuple(extras))]
    asked = set()
    while todo:
        one, extras = todo.pop()
        for requirement in map(Requirement, one.requires or ()):
            marker, key = requirement.marker, (canonicalize_name(requirement.name), *sorted(requirement.extras))
            holds = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if not holds or key in asked:
                continue
            asked.add(key)
            needed = found[key[0]] = importlib.metadata.distribution(requirement.name)
            assert requirement.specifier.contains(needed.version, prereleases=True), f"{one.name}: {requirement}"
            todo.append((needed, tuple(requirement.extras)))
    return [*found.values()]


def _link(distribution: importlib.metadata.Distribution, packages: Path) -> None:
    """Links a distribution's files into another environment, except its programs.

    Links are hard, because servers of files follow no symbolic ones; on another file system, small files are copied.
    """
    files = [path for path in distribution.files or () if ".." not in path.parts]
    assert files, f"{distribution.name} does not say what its files are"
    for folder in {packages / path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        source, target = Path(str(distribution.locate_file(path))), packages / path
        try:
            os.link(source, target)
        except OSError:
            link = shutil.copy if source.stat().st_size < _SMALL else os.symlink
            link(source, target)
