"""The shape of the project: what lies where, what imports what, what the wheel carries."""

import ast
import configparser
import importlib
import inspect
import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import modeling_transrec
from modeling_transrec import (
    TransRecForSequentialRecommendation,
    TransRecForUserClassification,
    TransRecModel,
    TransRecProcessor,
)
from modeling_transrec.models.auxiliary_losses import AUXILIARY_LOSSES
from modeling_transrec.models.fusions import FUSIONS
from modeling_transrec.models.losses import LOSSES
from modeling_transrec.models.multimodal_encoders import MULTIMODAL_ENCODERS
from modeling_transrec.models.projections import PROJECTIONS
from modeling_transrec.models.user_encoders import USER_ENCODERS


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modeling_transrec"
NINEREC = ROOT / "dataset_scripts" / "ninerec"
# A folder imports only from itself and from those before it. The data side, `ninerec`, comes first.
ORDER = ("ninerec", "models", "data", "evaluation", "hub", "training", "export", "serving", "benchmark", "cli")


def imported_modules(path: Path, package: str):
    """Absolute names of the modules that a file imports, with the node; `package` is that of the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*base, *filter(None, [node.module])]), node
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)


def folder_of(module: str) -> str | None:
    """The folder of `modeling_transrec` that a module lies in; `None` for other packages and top-level modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "modeling_transrec" and len(parts) > 1 and parts[1] in ORDER else None


def files_of(folder: str) -> list[Path]:
    return sorted((NINEREC if folder == "ninerec" else PACKAGE / folder).rglob("*.py"))


def test_every_folder_has_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"ninerec"} == set(ORDER)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "registration.py", "version.py"}


@pytest.mark.parametrize("folder", ORDER)
def test_imports_point_backwards(folder):
    allowed = set(ORDER[: ORDER.index(folder) + 1])
    for path in files_of(folder):
        inside = path.relative_to(NINEREC if folder == "ninerec" else PACKAGE / folder).parent.parts
        for module, node in imported_modules(path, ".".join(("modeling_transrec", folder, *inside))):
            target = folder_of(module)
            assert target is None or target in allowed, f"{path}:{node.lineno} imports {module}, which comes later"


def test_models_import_nothing_outside_their_folder():
    for path in files_of("models"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module and "." not in node.module, f"{path}:{node.lineno}"
                assert (path.parent / f"{node.module}.py").is_file(), f"{path}:{node.lineno}"
        for module, node in imported_modules(path, "modeling_transrec.models"):
            if module.split(".")[0] == "modeling_transrec":
                assert folder_of(module) == "models", f"{path}:{node.lineno} imports {module}"


def test_what_travels_with_a_checkpoint_is_models_and_nothing_else():
    """The closure of the relative imports of the saved classes is the whole folder."""
    saved = (TransRecForSequentialRecommendation, TransRecForUserClassification, TransRecProcessor)
    waiting, closure = [Path(sys.modules[cls.__module__].__file__) for cls in saved], set()
    while waiting:
        path = waiting.pop()
        if path in closure:
            continue
        closure.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                waiting.append(path.parent / f"{node.module}.py")
    assert closure == {path for path in files_of("models") if path.name != "__init__.py"}


# Names of rows that mean something else where they are compared.
OTHER_MEANINGS = {
    "hub/authors_checkpoints.py": {"sasrec", "bert4rec", "nextitnet", "gelu"},  # parts of NineRec's own checkpoints
    "models/losses.py": {"mixed"},  # a source of candidates
    "models/auxiliary_losses.py": {"same_target"},  # a kind of view
}


def compared_strings(source: str) -> set[str]:
    """The strings that are compared with something, or are one of several that are."""
    compared = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare | ast.MatchValue))
    constants = (part for node in compared for part in ast.walk(node) if isinstance(part, ast.Constant))
    return {part.value for part in constants if isinstance(part.value, str)}


def test_comparisons_are_found():
    assert compared_strings("a == 'b'; c not in ('d', 'e'); f['g'] = 'h'") == {"b", "d", "e"}


def test_no_row_of_a_table_is_asked_for_by_its_name():
    """What the code wants to know of a user encoder, a loss, a fusion or a projection is an attribute of its row."""
    tables = (USER_ENCODERS, LOSSES, AUXILIARY_LOSSES, FUSIONS, PROJECTIONS, MULTIMODAL_ENCODERS)
    names = set(itertools.chain.from_iterable(tables))
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        found = compared_strings(path.read_text(encoding="utf-8")) & names
        assert found == OTHER_MEANINGS.get(place, set()), f"{path} compares {found}"


@pytest.mark.parametrize(
    "model_class", [TransRecModel, TransRecForSequentialRecommendation, TransRecForUserClassification]
)
def test_no_model_lists_the_items_tensors(model_class):
    """They are `**items`, so that the parameters that remain can be read."""
    kinds = [one.kind for one in inspect.signature(model_class.forward).parameters.values()]
    assert inspect.Parameter.VAR_KEYWORD in kinds
    assert len(kinds) - 2 <= 8, "beside self and the items' tensors"


def test_no_test_module_imports_another():
    """What tests share lies in fixtures of conftest.py and in plain modules, such as tiny.py and checks.py."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        package = ".".join(path.relative_to(ROOT).parent.parts)
        for module, node in imported_modules(path, package):
            if module.startswith("transformers_tests."):  # of another library
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for part in (*module.split("."), *names):
                assert part != "conftest" and not part.startswith("test_"), f"{path}:{node.lineno} imports {part}"


def test_scripts_that_no_test_runs_import_what_there_is():
    """Benchmarks take minutes and the suites of others are fetched, so a name that moved is not noticed there."""
    folders = ("benchmarks", "docs/scripts", "tests/peers")
    for path in itertools.chain.from_iterable((ROOT / folder).rglob("*.py") for folder in folders):
        for module, node in imported_modules(path, ".".join(path.relative_to(ROOT).parent.parts)):
            if module.split(".")[0] != "modeling_transrec":
                continue
            found = importlib.import_module(module)
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                there = hasattr(found, alias.name) or importlib.util.find_spec(f"{module}.{alias.name}")
                assert there, f"{path}:{node.lineno}: {module} has no {alias.name}"


def test_the_wheel_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = set()
    for package, root in (("modeling_transrec", PACKAGE), ("modeling_transrec.ninerec", NINEREC)):
        folders = (path.parent.relative_to(root).parts for path in root.rglob("__init__.py"))
        found |= {".".join((package, *folder)) for folder in folders}
    assert listed == found


def test_types_are_checked_by_the_same_rules_in_every_folder():
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    excepted = [name for override in rules["overrides"] for name in override["module"]]
    assert excepted and not [name for name in excepted if name.startswith("modeling_transrec")]


def test_public_names_are_there():
    for name in modeling_transrec.__all__:
        assert hasattr(modeling_transrec, name), name
    assert set(modeling_transrec.__all__) <= set(dir(modeling_transrec))


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("module", ["", ".ninerec.validate", ".ninerec.describe", ".ninerec.download"])
def test_the_data_side_imports_neither_torch_nor_transformers(module):
    code = f"import modeling_transrec{module}, sys; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    run_python(code)


@pytest.mark.parametrize("order", ["transformers, modeling_transrec", "modeling_transrec, transformers"])
@pytest.mark.parametrize(
    "first",
    ["AutoModel", *(pytest.param(one, marks=pytest.mark.slow) for one in ("AutoConfig", "AutoProcessor", "pipeline"))],
)
def test_auto_classes_are_registered_in_either_order(order, first):
    run_python(
        f"import {order}\n"
        f"transformers.{first}\n"
        "from transformers import AutoConfig, AutoModel\n"
        "from transformers.models.auto.processing_auto import PROCESSOR_MAPPING\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "config = AutoConfig.for_model('transrec', num_items=5, hidden_size=8)\n"
        "assert type(config) is modeling_transrec.TransRecConfig\n"
        "assert type(AutoModel.from_config(config)) is modeling_transrec.TransRecModel\n"
        "assert type(config) in PROCESSOR_MAPPING\n"
        "assert 'sequential-recommendation' in PIPELINE_REGISTRY.get_supported_tasks()\n"
    )
