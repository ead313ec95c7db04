"""A folder for the blocks of the documentation, with what the pages name: checkpoints, tables, results."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    train_tokenizer,
)

from ..benchmark.lines import result_line, write_lines


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """The folder that every page gets a copy of."""
    folder = tmp_path_factory.mktemp("pages")
    items = load_dataset("ninerec", "Sample_Source_items", split="train")
    processor = TransRecProcessor(train_tokenizer(items["text_en"]))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = {"model_type": "bert", "vocab_size": len(processor.tokenizer), **sizes}
    torch.manual_seed(0)
    model = TransRecForSequentialRecommendation(TransRecConfig(text_config=backbone, hidden_size=32))
    for part in (model, processor):
        part.save_pretrained(folder / "outputs" / "sample" / "pretrained")
        part.save_pretrained(folder / "sasrec-bert-sample")
    (folder / "DATA").mkdir()
    rng = np.random.default_rng(0)
    titles = ["item_id,text_en", *(f"i{item:03d},title of item {item}" for item in range(37))]
    pairs = [f"u{user},i{item:03d},{time}" for user in range(12) for time, item in enumerate(rng.permutation(37)[:8])]
    (folder / "DATA" / "MyShop_items.csv").write_text("\n".join(titles) + "\n", encoding="utf-8")
    table = "\n".join(["user_id,item_id,timestamp", *pairs]) + "\n"
    (folder / "DATA" / "MyShop_interactions.csv").write_text(table, encoding="utf-8")
    (folder / "FOLDER").mkdir()  # NineRec's layout: no headers
    items = "\n".join(f"{item},标题 {item},title of item {item}" for item in range(37)) + "\n"
    (folder / "FOLDER" / "Bili_Food_item.csv").write_text(items, encoding="utf-8")
    pairs = "\n".join(
        f"{user},{item},{time}" for user in range(12) for time, item in enumerate(rng.permutation(37)[:8])
    )
    (folder / "FOLDER" / "Bili_Food_pair.csv").write_text(pairs + "\n", encoding="utf-8")
    lines = [result_line(hr=0.1 + seed / 1000, seed=seed) for seed in (1, 2)]
    for place in ("results.jsonl", "submissions/mine.jsonl", "outputs/benchmark/results.jsonl"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_lines(folder / place, lines)
    return folder


@pytest.fixture
def workplace(template, tmp_path, monkeypatch):
    """A fresh copy of the folder, and the scripts beside it, as the current one."""
    folder = tmp_path / "workplace"
    shutil.copytree(template, folder)
    for name in ("examples", "metrics"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    return folder
