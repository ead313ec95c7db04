"""The whole story: train, publish, load by name elsewhere, recommend, fine-tune on other data, publish that."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
from huggingface_hub import ModelCard

import modeling_transrec  # noqa: F401  (makes "ninerec" known)


EXAMPLES = Path(__file__).parents[1] / "examples"
SOURCE, TARGET, DATA = "ninerec/sasrec-bert-sample", "shop/recommender", "shop/reviews"
TINY = '{"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, '
TINY += '"intermediate_size": 32, "max_position_embeddings": 64}'


def run(*command: str, home: Path, **environment: str) -> str:
    """In a fresh process, with a fresh cache."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *command], env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "hf_write" not in done.stdout + done.stderr
    return done.stdout


def test_from_training_to_a_fine_tuned_repository(hub, tmp_path):
    homes = [tmp_path / name for name in ("source", "user", "target")]
    for home in homes:
        home.mkdir()
    common = ["--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "3", "--push_to_hub", "true"]

    # Train on the sample and publish.
    new = ["--text_config", TINY, "--hidden_size", "16", "--max_seq_len", "8", "--hub_with_code", "true"]
    pretrain = str(EXAMPLES / "pretrain.py")
    run(pretrain, *common, *new, "--output_dir", "pretrained", "--hub_model_id", SOURCE, home=homes[0])
    published = hub.files(SOURCE)
    assert {"model.safetensors", "processor_config.json", "training_args.json", "README.md"} <= published.keys()
    assert "modeling_transrec.py" in published and not [name for name in published if name.endswith(".bin")]

    # Somebody else pastes the card's snippet.
    (snippet,) = re.findall(r"```python\n(.*?)```", published["README.md"].decode(), flags=re.DOTALL)
    shown = run("-c", snippet, home=homes[1], HF_TOKEN="")
    assert shown.count("'item_id'") == 2 and "'score'" in shown

    # A shop fine-tunes on its own data set, from the Hub, too.
    for name, config in (("Sample_Target", "Shoes"), ("Sample_Target_items", "Shoes_items")):
        datasets.load_dataset("ninerec", name).push_to_hub(DATA, config)
    data = ["--dataset_name", DATA, "--dataset_config_name", "Shoes"]
    start = ["--model_name_or_path", SOURCE, "--output_dir", "finetuned", "--hub_model_id", TARGET]
    run(str(EXAMPLES / "finetune.py"), *common, *data, *start, home=homes[2])
    card = ModelCard(hub.files(TARGET)["README.md"].decode())
    assert card.data.base_model == [SOURCE] and card.data.datasets == [DATA]
    assert f"Fine-tuned from {SOURCE}" in card.text
    assert not [name for name in hub.files(TARGET) if name.endswith(".py")]  # no flag, no code
    assert b"auto_map" not in hub.files(TARGET)["config.json"]
    assert ".eval_results/shop--reviews--Shoes--validation.yaml" in hub.files(TARGET)

    # And adds the results on the test split to its card.
    before = dict(hub.files(TARGET))
    options = ["--model_name_or_path", TARGET, "--use_cpu", "true", "--push_to_hub", "true"]
    runpy.run_path(str(EXAMPLES / "evaluate.py"))["main"]([*options, *data])
    after = hub.files(TARGET)
    splits = [result.dataset_split for result in ModelCard(after["README.md"].decode()).data.eval_results]
    assert set(splits) == {"validation", "test"}
    text = after["README.md"].decode()
    for model in ("random", "popularity", "**this model**"):
        assert f"| {model} | {DATA}/Shoes, test |" in text and f"| {model} | {DATA}/Shoes, validation |" in text
    assert f"`{DATA}/Shoes`, test split: 800 users" in text
    assert {name for name in after if after[name] != before.get(name)} == {
        "README.md",
        "results.json",
        ".eval_results/shop--reviews--Shoes--test.yaml",
    }
    assert not [name for name in after if str(tmp_path).encode() in after[name]]
