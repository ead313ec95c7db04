"""The three lines that the library is for, each in a fresh process, exactly as the README has them."""

import os
import subprocess
import sys
from pathlib import Path

from modeling_transrec.ninerec.sample import write_sample

from ..hub_server import HubServer


EXAMPLES = Path(__file__).parents[2] / "examples"
FRESH = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
FRESH |= {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def run(*command, **environment):
    done = subprocess.run(command, env={**FRESH, **environment}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_checkpoint_by_name(make_model, text_processor, tmp_path):
    repository = tmp_path / "hub" / "ninerec" / "sasrec-bert-bili2m"
    make_model("text").save_pretrained(repository)
    text_processor.save_pretrained(repository)
    code = """
from modeling_transrec import Recommender, TransRecModel
model = TransRecModel.from_pretrained("ninerec/sasrec-bert-bili2m")
recommender = Recommender.from_pretrained("ninerec/sasrec-bert-bili2m")
recommender.index([{"item_id": "a", "text_en": "red rope"}, {"item_id": "b", "text_en": "blue shoe"}])
print(type(model).__name__, recommender.recommend(["a"])[0]["item_id"])
"""
    with HubServer(tmp_path / "hub") as server:
        shown = run(sys.executable, "-c", code, HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "home"))
        assert shown.split() == ["TransRecModel", "b"]
        missing = code.replace("sasrec-bert-bili2m", "sasrec-none")
        environment = {**FRESH, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run([sys.executable, "-c", missing], env=environment, capture_output=True, text=True)
        assert done.returncode != 0 and "ninerec/sasrec-none is not" in done.stderr


def test_a_data_set_by_name(tmp_path):
    write_sample(tmp_path / "raw")
    for path in sorted((tmp_path / "raw").rglob("*Sample_Target*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.replace("Sample_Target", "Bili_Food")))
    code = """
import modeling_transrec
from datasets import load_dataset
dataset = load_dataset("ninerec", "Bili_Food")
print(dataset["test"].num_rows, load_dataset("ninerec", "Bili_Food_items")["train"].num_rows)
"""
    environment = {"NINEREC_DATA_DIR": str(tmp_path / "raw"), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    assert run(sys.executable, "-c", code, **environment).split() == ["800", "300"]


def test_finetune_without_arguments(tmp_path):
    """With no option but one that cuts the time."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(EXAMPLES / "finetune.py")]
    shown = subprocess.run(
        [*launch, "--max_steps", "2", "--disable_tqdm", "true"],
        env={**FRESH, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert (tmp_path / "trainer_output" / "model.safetensors").exists()
