"""Benchmarks in a small form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation


ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_speed(tmp_path):
    """Its naive step gives our loss, or it stops."""
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


def test_the_tables_of_speed_are_those_of_its_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import rendering
    import speed

    results = ROOT / "benchmarks" / "results"
    record = json.loads((results / "speed_cpu.json").read_text(encoding="utf-8"))
    kept = (results / "speed_cpu.md").read_text(encoding="utf-8")
    made = rendering.render(record, "speed_cpu", speed.SECTIONS)
    assert made == kept, "make them again: python benchmarks/speed.py --render"


def test_the_white_picture_is_the_mask(monkeypatch):
    """The other model of `bert4rec_mask.py`: its masked items are pictures, its mask embedding is not read."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bert4rec_mask

    torch.manual_seed(0)
    config = TransRecConfig(vision_config=dict(bert4rec_mask.SWIN), user_encoder_type="bert4rec", hidden_size=16)
    model = TransRecForSequentialRecommendation(config).eval()
    batch = {"pixel_values": torch.rand(3, 3, 32, 32), "item_index": torch.tensor([[0, -2], [-2, 1]])}
    batch |= {"labels": torch.tensor([[-100, 1], [0, -100]]), "negative_index": torch.tensor([[[2], [2]], [[2], [2]]])}
    model.config.loss_type = "bce"
    learned = model(**batch).loss
    model.model.__class__ = bert4rec_mask.WhitePictureModel
    white = model(**batch).loss
    with torch.no_grad():
        model.model.user_encoder.mask_embedding.add_(1)
    assert white != learned and model(**batch).loss == white


@pytest.mark.slow
def test_chaos(tmp_path):
    """A few cases of every part hold; a run that is given again has nothing left to do, and leaves nothing behind."""
    file = tmp_path / "results" / "chaos.json"
    sizes = "--num_kills 22 --num_images 60 --num_sounds 20 --every 40".split()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "benchmarks/chaos.py", *sizes, "--output_file", str(file)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "all held" in done.stdout, done.stdout + done.stderr[-3000:]
    parts = json.loads(file.read_text())["parts"]
    assert parts.keys() == {"kills", "checkpoints", "data", "media", "resources"}
    assert all(part["cases"] for part in parts.values())
    assert str(tmp_path) not in file.read_text()
    assert "| **all** |" in file.with_suffix(".md").read_text()
    assert not list(tmp_path.glob("chaos-*"))
