"""`transrec benchmark` from a suite to its tables."""

import json
import sys

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
    assert main(options) == 0
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
        assert values_of_users(ranks["num_better"], ranks["num_tied"]).mean() == pytest.approx(
            line["metrics"]["ndcg@10"], abs=1e-6
        )
        assert str(tmp_path) not in json.dumps(line)
    of = {(line["model"], line["scores"], line["seed"]): line for line in lines}
    assert of["zero-shot", "own", 1]["kind"] == "zero-shot" and of["HasPT", "own", 1]["sources"] == ["Sample_Source"]
    assert of["HasPT", "own", 1]["num_trials"] == 2 and of["HasPT", "own", 1]["modality"] == "text"
    assert of["IDRec", "own", 2]["options"]["learning_rate"] == of["IDRec", "own", 1]["options"]["learning_rate"]
    assert "## What tuning gains" in printed and "| transitions " in printed and "reference" in printed
    assert list((folder / "models").iterdir()) == []

    assert main(options) == 0
    assert "11 of 11 tasks are done already" in capsys.readouterr().out
    assert read_lines(folder / "results.jsonl") == lines

    report = (folder / "results.md").read_text()
    main([*options, "--models", "IDRec", "--seeds", "2"])  # another seed is tuned and trained; the others stay
    more = (folder / "results.md").read_text()
    assert rows_of(more) == rows_of(report)
    (folder / "results.md").unlink()
    assert main([str(path), "--output_dir", str(folder), "--report_only", "true"]) == 0  # without --tune
    assert rows_of((folder / "results.md").read_text()) == rows_of(report)


def rows_of(report):
    return {line.split("|")[1].strip() for line in report.splitlines() if line.startswith("| ")}


ON_TWO = """
title: On two processes
datasets: [Sample_Target]
seeds: [1]
max_seq_len: 10
metrics: [hr, ndcg]
baselines: [popularity, transitions]
pretraining:
  source: {dataset_config_name: [Sample_Source], modality: text}
train: {hidden_size: 16, num_attention_heads: 1, max_steps: 3, eval_strategy: steps, eval_steps: 3, save_steps: 3, \
save_strategy: steps, max_eval_users: 50}
models:
  IDRec: {modality: id}
  HasPT: {pretrained: source, learning_rate: 1e-3}
tune:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
"""


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["0", "3"])
def test_a_suite_on_two_processes_of_each_task(tmp_path, tune):
    """What is ranked does not depend on the number of processes; files are written once."""
    path = tmp_path / "two.yaml"
    path.write_text(ON_TWO)
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
    options = [str(path), "--use_cpu", "true", "--tune", tune]
    assert main([*options, "--output_dir", str(tmp_path / "two"), "--launcher", launcher]) == 0, logs(tmp_path / "two")
    lines = {(line["model"], line["scores"]): line for line in read_lines(tmp_path / "two" / "results.jsonl")}
    assert len(lines) == 6 and len({line["protocol"]["fingerprint"] for line in lines.values()}) == 1
    for line in lines.values():
        assert line["hardware"]["processes"] == 2
        ranks = np.load(tmp_path / "two" / line["rankings"])
        assert values_of_users(ranks["num_better"], ranks["num_tied"]).mean() == pytest.approx(
            line["metrics"]["ndcg@10"], abs=1e-6
        )
    assert list((tmp_path / "two" / "models").iterdir()) == []
    if tune == "0":
        main([str(path), "--use_cpu", "true", "--models", "IDRec", "--output_dir", str(tmp_path / "one")])
        for line in read_lines(tmp_path / "one" / "results.jsonl"):
            if line["kind"] == "baseline":
                assert lines[line["model"], "own"]["metrics"] == line["metrics"]
    else:
        for file in (tmp_path / "two" / "tuned").glob("*.json"):
            assert json.loads(file.read_text())["num_trials"] == 3


def logs(folder):
    return "\n".join(path.read_text()[-2000:] for path in folder.glob("logs/*.log"))


FAILING = """
title: A suite that fails in part
datasets: [Sample_Target]
seeds: [1]
baselines: [popularity, recent-popularity]
models:
  zero-shot: {pretrained: source, train: false}
pretraining:
  source: {dataset_config_name: [Sample_Source], modality: text, max_steps: 2, text_model_name_or_path: nowhere/none}
"""


@pytest.mark.slow
def test_what_fails_is_in_the_report_and_in_the_exit_status(tmp_path, capsys):
    path = tmp_path / "failing.yaml"
    (tmp_path / "none").mkdir()
    path.write_text(FAILING.replace("nowhere/none", str(tmp_path / "none")))
    options = [str(path), "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"]
    assert main(options) == 1
    report = capsys.readouterr().out
    assert "left out: what it needs has failed" in report
    assert "- source, seed 1: `" in report.partition("## Failed")[2]
    assert [line["model"] for line in read_lines(tmp_path / "out" / "results.jsonl")] == [
        "popularity",
        "recent-popularity",
    ]
    path.write_text(path.read_text().replace(f", text_model_name_or_path: {tmp_path / 'none'}", ""))
    assert main(options) == 0 and "## Failed" not in capsys.readouterr().out


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
        assert values_of_users(ranks["num_better"], ranks["num_tied"]).mean() == pytest.approx(
            line["metrics"]["ndcg@10"], abs=1e-6
        )
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
