"""Fetches the tests of the installed transformers and peft from their source distributions.

    python tests/peers/fetch.py FOLDER

They lie in FOLDER as the packages `transformers_tests` and `peft_tests`, exactly as they are released.
"""

import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


PACKAGES = ("transformers", "peft")
# Modules that the tests import and the source distribution of transformers lacks. What they have is not run.
ABSENT = {
    "transformers_tests/exporters/test_export.py": "class ExportTesterMixin: ...\n",
    "transformers_tests/generation/test_utils.py": "class GenerationTesterMixin: ...\n",
    "transformers_tests/utils/test_configuration_utils.py": "config_common_kwargs: dict = {}\n",
    "fetch_hub_objects_for_ci.py": "def url_to_local_path(url, *args, **kwargs):\n    return url\n",
    "transformers_tests/distributed_testing_utils.py": "def __getattr__(name):\n    return None\n",
}


def fetch(name: str, folder: Path) -> None:
    """Puts the tests of an installed package into `folder`, unless those of its version are there."""
    version = importlib.metadata.version(name)
    target, stamp = folder / f"{name}_tests", folder / f"{name}_tests" / "VERSION"
    if stamp.is_file() and stamp.read_text() == version:
        return
    with tempfile.TemporaryDirectory() as scratch:
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([sys.executable, *command, f"{name}=={version}"], cwd=scratch, check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            inside = f"{name}-{version}/tests/"
            members = [one for one in opened.getmembers() if one.name.startswith(inside)]
            for member in members:
                member.name = member.name.removeprefix(inside)
            opened.extractall(target, members, filter="data")
    (target / "__init__.py").touch()
    stamp.write_text(version)


def fill(folder: Path) -> None:
    """Writes stand-ins of the modules that are missing."""
    for name, content in ABSENT.items():
        path = folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            if path.parent != folder:
                (path.parent / "__init__.py").touch()
            path.write_text(content)


if __name__ == "__main__":
    for package in PACKAGES:
        fetch(package, Path(sys.argv[1]))
    fill(Path(sys.argv[1]))
