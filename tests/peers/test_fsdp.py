"""FSDP2 on two processes (gloo) divides a model of every kind: scores, loss and the weights after a step to 1e-5."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_transrec.models.user_encoders import USER_ENCODERS

from .tester import ITEMS


PAIRS = [*((items, "sasrec") for items in ITEMS), *(("text", name) for name in USER_ENCODERS if name != "sasrec")]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str | None]:
    """What came of each kind: nothing where all is well; one job for all, since it is most of the time."""
    folder = tmp_path_factory.mktemp("fsdp")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.peers.fsdp_job", str(folder), json.dumps(PAIRS)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_divided_model_equals_a_whole_one(pair, found):
    assert found["-".join(pair)] is None, found["-".join(pair)]
