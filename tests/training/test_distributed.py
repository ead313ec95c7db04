"""Two processes (gloo) against one."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


def run(folder: Path, num_processes: int, users_per_device: int, *options: str | int):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    if num_processes == 1:
        launcher = []
    command = [sys.executable, *launcher, "-m", "tests.training.distributed_job", str(folder)]
    command += [str(users_per_device), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "results.json").read_text()), load_file(folder / "weights.safetensors")


# in_batch with the negatives of both processes; the two processes with and without gradient caching; with frozen
# layers whose outputs are computed once
@pytest.mark.parametrize(
    ("loss_type", "chunk_size", "num_frozen"),
    [
        ("in_batch", 0, 0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("bce", 0, 0), ("in_batch", 2, 0), ("bce", 0, 2), ("full_softmax", 0, 0)]
        ),
    ],
)
def test_two_processes_equal_one(loss_type, chunk_size, num_frozen, tmp_path, items, text_processor):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text_processor.save_pretrained(tmp_path / name)
        items.save_to_disk(tmp_path / name / "items")
    with ThreadPoolExecutor() as both:
        alone = both.submit(run, tmp_path / "one", 1, 6, loss_type, 0, num_frozen)
        two, two_weights = run(tmp_path / "two", 2, 3, loss_type, chunk_size, num_frozen)
        one, one_weights = alone.result()
    assert (one.pop("num_processes"), two.pop("num_processes")) == (1, 2)
    assert two == one  # every metric of every evaluation
    assert one_weights.keys() == two_weights.keys()
    for name, weight in one_weights.items():
        atol = 1e-5 if not name.endswith("layers.matrix") else 1e-3 * weight.abs().max().item()  # rounding is whitened
        assert torch.allclose(two_weights[name], weight, atol=atol), name


@pytest.mark.slow
def test_two_processes_publish_once(hub, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["examples/finetune.py", "--modality", "id", "--hidden_size", "16", "--max_steps", "2"]
    command += ["--use_cpu", "true", "--disable_tqdm", "true", "--output_dir", str(tmp_path)]
    command += ["--push_to_hub", "true", "--hub_model_id", "me/two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.count("POST /api/models/me/two/commit/*") == 1
    assert {"model.safetensors", "processor_config.json", "README.md"} <= hub.files("me/two").keys()
    assert re.search(
        rb"\| \*\*this model\*\* +\| ninerec/Sample_Target, validation \|", hub.files("me/two")["README.md"]
    )
    assert b"2 processes" in hub.files("me/two")["README.md"]
