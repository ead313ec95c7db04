"""The table "What works with what" of docs/training.md: each option on two processes (gloo) and on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, num_processes: int) -> dict[str, list[float]]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if num_processes == 2 else []
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.training.options_job", str(folder), str(num_processes)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / f"cache_{num_processes}")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / f"{num_processes}.json").read_text())


@pytest.mark.slow
def test_the_losses_of_two_processes_are_those_of_one(tmp_path, items, text_processor):
    text_processor.save_pretrained(tmp_path)
    items.save_to_disk(tmp_path / "items")
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    assert one.keys() == two.keys()
    for name, losses in one.items():
        assert len(losses) == 20 and losses[-1] < losses[0]
        assert two[name] == pytest.approx(losses, abs=1e-5), name
    for name in ("gradient caching", "torch_compile"):  # which change nothing
        assert one[name] == pytest.approx(one["plain"], abs=1e-5), name
