"""What `pip install` brings: the sdist, the wheel built from it, and an environment with it."""

import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from modeling_transrec import __version__

from .environments import ROOT, run


pytestmark = pytest.mark.slow

PACKAGES = {"modeling_transrec": "modeling_transrec", "dataset_scripts/ninerec": "modeling_transrec/ninerec"}


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (path,) = dist.glob("*.whl")
    return path


def test_their_names_and_metadata(dist):
    names = {path.name for path in dist.iterdir()}
    assert names == {
        f"modeling_transrec-{__version__}.tar.gz",
        f"modeling_transrec-{__version__}-py3-none-any.whl",
    }
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if name.startswith(f"modeling_transrec-{__version__}.dist-info/")}
    assert names - metadata == expected
    assert {"modeling_transrec/py.typed", "modeling_transrec/ninerec/__init__.py"} <= expected


def test_the_sdist_has_what_a_packager_needs(dist):
    (path,) = dist.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(path).getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "setup.cfg", "pyproject.toml"} <= names
    assert not any(name.startswith("tests") for name in names)


def test_it_works_in_an_environment_of_its_own(environment, tmp_path):
    programs = environment("modeling_transrec")
    python = programs / "python"
    code = (
        "import modeling_transrec, pathlib, datasets\n"
        "assert 'venv' in pathlib.Path(modeling_transrec.__file__).parts, modeling_transrec.__file__\n"
        "train = datasets.load_dataset('ninerec', 'Sample_Target', split='train')\n"
        "assert len(train) == 800 and {'user_id', 'item_ids'} <= set(train.column_names), train\n"
        "print(modeling_transrec.__version__)"
    )
    assert run(python, "-c", code, cwd=tmp_path, HF_HOME=str(tmp_path / "hf")).strip() == __version__
    run(python, "-m", "modeling_transrec.ninerec.validate", "--help", cwd=tmp_path)
    assert "finetune" in run(programs / "transrec", "--help", cwd=tmp_path)
