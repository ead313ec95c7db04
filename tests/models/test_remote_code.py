"""Checkpoints with code: they load where only transformers is installed; without the flag no code travels."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from modeling_transrec import Recommender, TransRecModel, TransRecProcessor
from modeling_transrec.hub.with_code import saved_with_code


NAME = "shop/with-code"
LOAD = """
import importlib.util, json, sys
sys.path.insert(0, PACKAGES)
for absent in ("modeling_transrec", "dataset_scripts", "datasets", "accelerate", "peft", "timm", "polars", "pandas"):
    assert importlib.util.find_spec(absent) is None, absent

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

try:
    AutoModel.from_pretrained(NAME, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    raise AssertionError("code ran without the flag")
config = AutoConfig.from_pretrained(NAME, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(NAME, trust_remote_code=True)
for source in (NAME, FOLDER):  # from the Hub, and saved again
    model = AutoModel.from_pretrained(source, trust_remote_code=True)
    items = model.get_item_features(**processor(text=["red rope", "blue shoe"]))
    user = model.get_user_features(items[None], torch.ones(1, 2, dtype=torch.bool))
    model.save_pretrained(FOLDER)
print(json.dumps([type(model).__name__, type(processor).__name__, config.user_encoder_type, user.tolist()]))
"""


def packages_of(*names: str) -> set[Path]:
    """What these distributions and all that they require put into site-packages."""
    found, waiting = {}, list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # one of another platform
            continue
        found[name] = {Path(distribution.locate_file(file.parts[0])) for file in distribution.files or ()}
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.match(r"[\w.-]+", requirement)[0])
    return {path for paths in found.values() for path in paths if path.name not in ("..", "__pycache__")}


@pytest.fixture
def with_code(make_model, text_processor):
    return Recommender(make_model("text"), text_processor)


def test_it_loads_where_only_transformers_is(hub, with_code, tmp_path):
    with_code.push_to_hub(NAME, with_code=True)
    files = hub.files(NAME)
    assert {"modeling_transrec.py", "item_encoders.py", "processing_transrec.py"} <= files.keys()
    assert "trust_remote_code=True" in files["README.md"].decode()
    (tmp_path / "packages").mkdir()
    for path in packages_of("transformers", "torch", "pillow"):
        (tmp_path / "packages" / path.name).symlink_to(path)
    code = f"NAME, FOLDER, PACKAGES = {NAME!r}, {str(tmp_path / 'again')!r}, {str(tmp_path / 'packages')!r}\n{LOAD}"
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(  # -I -S: nothing of this environment's own packages
        [sys.executable, "-I", "-S", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    *names, user = json.loads(done.stdout.splitlines()[-1])
    assert names == ["TransRecModel", "TransRecProcessor", "sasrec"]
    items = with_code.model.get_item_features(**with_code.processor(text=["red rope", "blue shoe"]))
    expected = with_code.model.get_user_features(items[None], torch.ones(1, 2, dtype=torch.bool))
    assert torch.allclose(torch.tensor(user), expected, atol=1e-6)


def test_without_the_flag_no_code_travels(with_code, tmp_path):
    with_code.save_pretrained(tmp_path / "coded", with_code=True)
    with_code.save_pretrained(tmp_path / "plain")
    loaded = AutoModel.from_pretrained(tmp_path / "coded")  # with the package its own code is run
    assert type(loaded) is TransRecModel
    Recommender(loaded, TransRecProcessor.from_pretrained(tmp_path / "coded")).save_pretrained(tmp_path / "again")
    assert list((tmp_path / "coded").glob("*.py"))
    for folder in ("plain", "again"):
        assert not list((tmp_path / folder).glob("*.py")), folder
        for file in (tmp_path / folder).glob("*.json"):
            assert "auto_map" not in file.read_text(), file


def test_all_imports_of_the_code_travel(make_model, processor_of, tmp_path):
    for kind in ("text+image", "id"):
        model, processor = make_model(kind), processor_of[kind]
        with saved_with_code(model, processor):
            model.save_pretrained(tmp_path / kind)
            processor.save_pretrained(tmp_path / kind)
        files = {path.stem for path in (tmp_path / kind).glob("*.py")}
        assert {"modeling_transrec", "user_encoders", "losses", "processing_transrec"} <= files
        for path in (tmp_path / kind).glob("*.py"):
            assert set(re.findall(r"^from \.(\w+) import", path.read_text(), flags=re.MULTILINE)) <= files, path
        auto_map = json.loads((tmp_path / kind / "config.json").read_text())["auto_map"]
        assert auto_map["AutoModel"] == "modeling_transrec.TransRecModel"
        assert not hasattr(model.config, "auto_map") and model._auto_class is None
