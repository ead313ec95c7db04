"""`transrec benchmark` from a suite to its tables."""

import json

import numpy as np
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from modeling_transrec.benchmark.execution import read_lines
from modeling_transrec.benchmark.statistics import values_of_users
from modeling_transrec.cli import OptionError
from modeling_transrec.cli.benchmark import main


SUITE = """
title: A small suite
datasets: [Sample_Target]
seeds: [1, 2]
max_seq_len: 10
metrics: [hr, ndcg, mrr, coverage]
baselines: [popularity, transitions, item-knn]
pretraining:
  source: {dataset_config_name: [Sample_Source], modality: text}
train: {hidden_size: 16, num_attention_heads: 1, max_steps: 3, eval_strategy: steps, eval_steps: 3, save_steps: 3, \
save_strategy: steps, max_eval_users: 50}
models:
  IDRec: {modality: id}
  zero-shot: {pretrained: source, train: false}
  HasPT: {pretrained: source, learning_rate: 1e-3}
tune:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
reference: transitions
"""


@pytest.mark.slow
def test_a_suite_from_yaml_to_tables(tmp_path, capsys):
    path, folder = tmp_path / "small.yaml", tmp_path / "out"
    path.write_text(SUITE)
    options = [str(path), "--output_dir", str(folder), "--use_cpu", "true", "--tune", "2"]
    main(options)
    printed, lines = capsys.readouterr().out, read_lines(folder / "results.jsonl")
    assert not (folder / "failures.jsonl").exists(), (folder / "failures.jsonl").read_text()
    found = {(line["model"], line["scores"], line["seed"]) for line in lines}
    models = {
        (name, scores, seed)
        for name in ("IDRec", "zero-shot", "HasPT")
        for seed in (1, 2)
        for scores in ("own", "own + transitions")
    }
    assert found == models | {(name, "own", None) for name in ("popularity", "transitions", "item-knn")}
    assert len({line["protocol"]["fingerprint"] for line in lines}) == 1  # all rank the same
    for line in lines:
        ranks = np.load(folder / line["rankings"])
        assert values_of_users(**ranks).mean() == pytest.approx(line["metrics"]["ndcg@10"], abs=1e-6)
        assert str(tmp_path) not in json.dumps(line)
    of = {(line["model"], line["scores"], line["seed"]): line for line in lines}
    assert of["zero-shot", "own", 1]["kind"] == "zero-shot" and of["HasPT", "own", 1]["sources"] == ["Sample_Source"]
    assert of["HasPT", "own", 1]["num_trials"] == 2 and of["HasPT", "own", 1]["modality"] == "text"
    assert of["IDRec", "own", 2]["options"]["learning_rate"] == of["IDRec", "own", 1]["options"]["learning_rate"]
    assert "## What tuning gains" in printed and "| transitions " in printed and "reference" in printed
    assert list((folder / "models").iterdir()) == []

    main(options)
    assert "11 of 11 tasks are done already" in capsys.readouterr().out
    assert read_lines(folder / "results.jsonl") == lines


SAMPLED = """
title: Beside a prompted language model
datasets: [Sample_Target]
seeds: [1]
max_seq_len: 10
metrics: [hr, ndcg, coverage]
baselines: [random, transitions]
sampled: {num_candidates: [4, 100], max_eval_users: 6}
train: {hidden_size: 16, max_steps: 3, eval_strategy: steps, eval_steps: 3, save_steps: 3, save_strategy: steps, \
max_eval_users: 50}
models:
  IDRec: {modality: id}
reference: transitions
"""


@pytest.mark.slow
def test_tables_of_few_candidates_stand_beside_the_whole_catalogue(tokenizer, tmp_path, capsys):
    size = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 512, "bos_token_id": None, "eos_token_id": None}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    (tmp_path / "sampled.yaml").write_text(SAMPLED)
    named = ["--language_model_name_or_path", str(tmp_path / "gpt")]
    main([str(tmp_path / "sampled.yaml"), *named, "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"])
    assert not (tmp_path / "out" / "failures.jsonl").exists()
    found: dict = {}
    for line in read_lines(tmp_path / "out" / "results.jsonl"):
        found.setdefault(line["dataset"], {})[line["model"], line["scores"]] = line
        ranks = np.load(tmp_path / "out" / line["rankings"])
        assert values_of_users(**ranks).mean() == pytest.approx(line["metrics"]["ndcg@10"], abs=1e-6)
    rows = {("random", "own"), ("transitions", "own"), ("IDRec", "own"), ("IDRec", "own + transitions")}
    prompted = {("language-model", "own")}
    assert {name: set(one) for name, one in found.items()} == {
        "Sample_Target": rows,  # 800 times 300 titles are too many
        "Sample_Target, 4 candidates": rows | prompted,
        "Sample_Target, 100 candidates": rows | prompted,
    }
    for one in found.values():
        assert len({line["protocol"]["fingerprint"] for line in one.values()}) == 1
    assert found["Sample_Target, 4 candidates"]["random", "own"]["metrics"]["hr@1"] == 0.25
    assert "| model" in (printed := capsys.readouterr().out) and "HR@1 " in printed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["sampel"], "did you mean sample"),
        (["sample", "--seeds", "1", "--models", "IDRecc"], "did you mean IDRec"),
        (["sample", "--num_processes", "0"], "must be at least 1"),
        (["sample", "--tune", "-1"], "must be a number of settings"),
        (["sample", "--modles", "IDRec"], "did you mean --models"),
    ],
)
def test_what_cannot_be_meant(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        main(options)
