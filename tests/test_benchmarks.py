"""The speed benchmark in a small form: its naive step gives our loss, or it stops."""

import json
import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]


def test_speed(tmp_path):
    file = tmp_path / "speed.json"
    options = "--shapes ML100K --sections training optimisations --seconds 0 --batch_size 4".split()
    options += ["--backbones", "id", "2 x 128", "--optimisations", "padd", "--output_file", str(file)]
    done = subprocess.run(
        [sys.executable, "benchmarks/speed.py", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(file.read_text())
    rows = record["results"]["training"]
    assert [row["backbone"] for row in rows] == ["id", "text: BERT 2 x 128"]
    for row in rows:
        assert row["rounds"] >= 3 and min(row["seconds"].values()) > 0
    assert rows[1]["peak MB"]["naive"] > rows[1]["peak MB"]["ours"]
    assert str(tmp_path) not in file.read_text()
    ratios = {row["optimisation"]: row["predicted"] for row in record["results"]["optimisations"]}
    assert len(ratios) == 2 and all(ratio > 1 for ratio in ratios.values())
    assert file.with_suffix(".md").read_text().count("| ML100K |") == 4
