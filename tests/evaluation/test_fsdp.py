import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_divided_model_trains_and_is_ranked_as_a_whole_one(tmp_path, items, text_processor):
    """FSDP2 on two processes (gloo): the weights after a step to 1e-5, and every metric."""
    text_processor.save_pretrained(tmp_path)
    items.save_to_disk(tmp_path / "items")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.evaluation.fsdp_job", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
