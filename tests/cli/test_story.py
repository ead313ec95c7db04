"""The whole story: train, publish; in a fresh process load by name, recommend, fine-tune on other data, publish."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import ModelCard

import modeling_transrec  # noqa: F401  (makes "ninerec" known)


EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE, TARGET, DATA = "ninerec/sasrec-bert-sample", "shop/recommender", "shop/reviews"
TINY = '{"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, '
TINY += '"intermediate_size": 32, "max_position_embeddings": 64}'


def script(name: str, *options: str) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](list(options))


@pytest.mark.slow
def test_from_training_to_a_fine_tuned_repository(hub, tmp_path):
    common = ["--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "3", "--push_to_hub", "true"]

    # Train on the sample and publish.
    new = ["--text_config", TINY, "--hidden_size", "16", "--max_seq_len", "8", "--hub_with_code", "true"]
    script("pretrain", *common, *new, "--output_dir", str(tmp_path / "pretrained"), "--hub_model_id", SOURCE)
    published = hub.files(SOURCE)
    assert {"model.safetensors", "processor_config.json", "training_args.json", "README.md"} <= published.keys()
    assert "modeling_transrec.py" in published and not [name for name in published if name.endswith(".bin")]

    # A shop, elsewhere, pastes the card's snippet and fine-tunes on its own data set, from the Hub, too.
    for name, config in (("Sample_Target", "Shoes"), ("Sample_Target_items", "Shoes_items")):
        datasets.load_dataset("ninerec", name).push_to_hub(DATA, config)
    (snippet,) = re.findall(r"```python\n(.*?)```", published["README.md"].decode(), flags=re.DOTALL)
    data = ["--dataset_name", DATA, "--dataset_config_name", "Shoes"]
    start = ["--model_name_or_path", SOURCE, "--output_dir", "finetuned", "--hub_model_id", TARGET]
    finetune = f"import runpy; runpy.run_path({str(EXAMPLES / 'finetune.py')!r})['main']({[*common, *data, *start]!r})"
    (tmp_path / "shop").mkdir()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "shop"), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"{snippet}\n{finetune}"],
        env=environment,
        cwd=tmp_path / "shop",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "hf_write" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[0].count("'item_id'") == 2
    card = ModelCard(hub.files(TARGET)["README.md"].decode())
    assert card.data.base_model == [SOURCE] and card.data.datasets == [DATA]
    assert f"Fine-tuned from {SOURCE}" in card.text
    assert not [name for name in hub.files(TARGET) if name.endswith(".py")]  # no flag, no code
    assert b"auto_map" not in hub.files(TARGET)["config.json"]
    assert ".eval_results/shop--reviews--Shoes--validation.yaml" in hub.files(TARGET)

    # And adds the results on the test split to its card.
    before = dict(hub.files(TARGET))
    script("evaluate_model", "--model_name_or_path", TARGET, "--use_cpu", "true", "--push_to_hub", "true", *data)
    after = hub.files(TARGET)
    splits = [result.dataset_split for result in ModelCard(after["README.md"].decode()).data.eval_results]
    assert set(splits) == {"validation", "test"}
    text = re.sub(" +", " ", after["README.md"].decode())  # tables without their padding
    for model in ("random", "popularity", "**this model**"):
        assert f"| {model} | {DATA}/Shoes, test |" in text and f"| {model} | {DATA}/Shoes, validation |" in text
    assert f"`{DATA}/Shoes`, test split: 800 users" in text
    assert {name for name in after if after[name] != before.get(name)} == {
        "README.md",
        "results.json",
        ".eval_results/shop--reviews--Shoes--test.yaml",
    }
    assert not [name for name in after if str(tmp_path).encode() in after[name]]
