"""Tasks of a benchmark, in this process."""

import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.constants import ENDPOINT

from modeling_transrec import SAMPLE_BACKBONE, DataArguments
from modeling_transrec.benchmark.known_users import KnownUsersArguments
from modeling_transrec.benchmark.report import write_report
from modeling_transrec.benchmark.statistics import estimate, values_of_users
from modeling_transrec.benchmark.suites import Suite, read_suite
from modeling_transrec.benchmark.worker import Worker
from modeling_transrec.cli import evaluate, finetune, pretrain
from modeling_transrec.evaluation.baselines import BASELINES, Platform
from modeling_transrec.evaluation.groups import groups_of_users


def test_too_many_candidates_are_refused_before_anything_is_trained_or_ranked(tmp_path, monkeypatch):
    for name in ("train", "_untrained"):
        monkeypatch.setattr(Worker, name, lambda *_: pytest.fail("begun in vain"))
    suite = Suite("A suite", {"IDRec": {"modality": "id"}}, ["Sample_Target"], sampled={"num_candidates": [400]})
    tasks = suite.tasks()
    assert {task.kind for task in tasks} == {"baselines", "model"}
    for task in tasks:
        with pytest.raises(ValueError, match="400 candidates need 399; give fewer"):
            Worker(tmp_path, use_cpu=True).run(task)


def baselines(**changes):
    made = {"datasets": ["Sample_Target"], "models": {}, "max_seq_len": 7, "metrics": ["hr", "ndcg"], **changes}
    (task,) = Suite("A suite", **made).tasks()
    return task


def test_a_row_that_fails_does_not_lose_the_others(tmp_path, monkeypatch, capsys):
    def fail(platform):
        raise MemoryError("no room")

    monkeypatch.setitem(BASELINES, "transitions", fail)
    worker = Worker(tmp_path, use_cpu=True)
    lines = worker.run(baselines(baselines=["random", "transitions", "popularity"]))
    assert [line["model"] for line in lines] == ["random", "popularity"]
    assert worker.failed == {"transitions": "no room"} and "MemoryError" in capsys.readouterr().err


def test_rows_that_need_times_are_left_out_where_there_are_none(tmp_path, monkeypatch):
    task = baselines(baselines=["popularity", "recent-popularity"])
    assert [line["model"] for line in Worker(tmp_path, use_cpu=True).run(task)] == ["popularity", "recent-popularity"]
    monkeypatch.setattr(Platform, "times", None)
    worker = Worker(tmp_path, use_cpu=True)
    assert [line["model"] for line in worker.run(task)] == ["popularity"] and not worker.failed


@pytest.mark.parametrize("name", [None, "me/idrec"])
def test_a_published_model_has_its_card(tmp_path, monkeypatch, name):
    train = Worker.train

    def published(*given):
        trainer = train(*given)
        trainer.args.push_to_hub, trainer.hub_model_id = name is not None, name
        return trainer

    monkeypatch.setattr(Worker, "train", published)
    steps = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    row = {"modality": "id", "hidden_size": 8, "num_attention_heads": 1, **steps}
    (task,) = Suite("A suite", {"IDRec": row}, ["Sample_Target"], seeds=[1], baselines=[]).tasks()
    lines = Worker(tmp_path, use_cpu=True).run(task)
    assert [line["card"] for line in lines] == [name and f"{ENDPOINT}/{name}"] * 2


def test_work_that_rows_share_is_in_each_that_needs_it(tmp_path):
    named = ["random", "content-knn", "content-and-transitions", "transitions"]
    task = baselines(baselines=named, backbones={"text_model_name_or_path": SAMPLE_BACKBONE})
    lines = {line["model"]: line for line in Worker(tmp_path, use_cpu=True).run(task)}
    seconds = {name: line["seconds"] for name, line in lines.items()}
    assert [*seconds["random"]] == ["preparation", "evaluation"]
    content, both = seconds["content-knn"], seconds["content-and-transitions"]
    assert content["content"] == both["content"] > 0 and content["content_settings"] == both["content_settings"] > 0
    assert both["transitions"] == seconds["transitions"]["transitions"] and "content" not in seconds["transitions"]
    assert len({line["peak_memory_bytes"] for line in lines.values()}) == 1  # of the one process


def test_a_backbone_that_finds_nothing_to_read_is_left_out(tmp_path, caplog):
    """A suite may have data sets with covers or sounds beside some without."""
    backbones = {"text_model_name_or_path": SAMPLE_BACKBONE, "audio_model_name_or_path": "facebook/wav2vec2-base"}
    task = baselines(baselines=["content-knn"], backbones=backbones, metrics=["ndcg", "diversity"])
    (line,) = Worker(tmp_path, use_cpu=True).run(task)
    assert "Sample_Target: no item has a sound, so audio_model_name_or_path is left out" in caplog.text
    (alone,) = Worker(tmp_path, use_cpu=True).run(
        baselines(baselines=["content-knn"], backbones={"text_model_name_or_path": SAMPLE_BACKBONE})
    )
    assert line["metrics"]["ndcg@10"] == alone["metrics"]["ndcg@10"] and "audio" not in line["command"]


def test_users_are_named_where_each_seed_tests_others(tmp_path):
    lines, users = [], {}
    suite = Suite("A suite", {}, ["Sample_Target"], known_users=[700], baselines=["popularity"], seeds=[1, 2])
    for task in suite.tasks():
        (line,) = Worker(tmp_path, use_cpu=True).run(task)
        users[line["seed"]] = np.load(tmp_path / line["rankings"])["users"].tolist()
        lines.append(line)
        data = KnownUsersArguments(num_known_users=700, draw=line["seed"])
        assert users[line["seed"]] == data.load_sequences("test", max_seq_len=50)["user_id"][:]
    assert users[1] != users[2] and len(users[1]) == 100
    assert lines[0]["command"] == "transrec benchmark SUITE --datasets Sample_Target --seeds 1"


def test_what_is_kept_of_users_says_their_groups(tmp_path):
    (line,) = Worker(tmp_path, use_cpu=True).run(baselines(baselines=["popularity"]))
    kept, data = np.load(tmp_path / line["rankings"]), DataArguments(dataset_config_name="Sample_Target")
    training, tested = (data.load_sequences(split, max_seq_len=7) for split in ("train", "test"))
    taken = Counter(item for history in training["item_ids"] for item in history)
    assert kept["target_counts"].tolist() == [taken[target] for target in tested["target"]]
    assert kept["users"].tolist() == tested["user_id"][:]
    assert kept["history_lengths"].tolist() == [*map(len, tested["item_ids"])]
    gains = values_of_users(kept["num_better"], kept["num_tied"])
    for name, chosen in groups_of_users(kept["target_counts"], kept["history_lengths"]).items():
        of_group = line["groups"].pop(name)
        assert of_group["num_users"] == chosen.sum() and of_group["ndcg@10"] == pytest.approx(gains[chosen].mean())
    assert not line["groups"]


def test_what_is_kept_of_users_says_what_their_lists_are_worth(tmp_path):
    """The quotient of the sums is the metric; coverage is of all lists together and has none."""
    named = ["coverage", "novelty", "popularity_bias", "diversity", "calibration"]
    changes = {"backbones": {"text_model_name_or_path": SAMPLE_BACKBONE}, "metrics": ["hr", "ndcg", *named]}
    (line,) = Worker(tmp_path, use_cpu=True).run(baselines(baselines=["transitions"], **changes))
    kept = np.load(tmp_path / line["rankings"])
    assert {name for name in kept if "@" in name} == {f"{name}@10" for name in named[1:]}
    for name in named[1:]:
        above, below = kept[f"{name}@10"]
        assert above.shape == kept["num_better"].shape and above.dtype == np.float32 and above.std() > 0
        assert above.sum() / below.sum() == pytest.approx(line["metrics"][f"{name}@10"], rel=1e-5)
    assert line["intervals"].keys() == {f"{name}@10" for name in ("hr", "ndcg", *named[1:])}
    for name, (low, high) in line["intervals"].items():
        assert low < line["metrics"][name] < high
    found = estimate(values_of_users(kept["num_better"], kept["num_tied"])[None])
    assert line["intervals"]["ndcg@10"] == pytest.approx([found.low, found.high], abs=1e-6)


def test_a_search_tries_as_many_settings_of_each_row_and_its_command_does_the_same(tmp_path):
    (task,) = Suite("A suite", {}, ["Sample_Target"], baselines=["popularity", "item-knn", "session-knn"]).tasks(12)
    lines = {line["model"]: line for line in Worker(tmp_path, use_cpu=True).run(task)}
    assert {name: line["num_trials"] for name, line in lines.items()} == {
        **{"popularity": 0, "item-knn": 12, "session-knn": 9}  # it has no more
    }
    assert "--num_settings 12" in lines["item-knn"]["command"] and lines["item-knn"]["options"] == {"num_settings": 12}
    same_as_its_command(lines["item-knn"], tmp_path)
    grid = {line["model"]: line for line in Worker(tmp_path, use_cpu=True).run(replace_trials(task))}
    assert grid["item-knn"]["num_trials"] == 0 and "num_settings" not in grid["item-knn"]["command"]
    assert grid["popularity"]["metrics"] == lines["popularity"]["metrics"]


def replace_trials(task):
    return replace(task, spec={name: value for name, value in task.spec.items() if name != "num_trials"})


COMMANDS = {"pretrain": pretrain.main, "finetune": finetune.main, "evaluate": evaluate.main}


def run(command, folder):
    """Runs the command of a line in a folder; returns what the last part of it returns."""
    known = {
        "PRETRAINED": folder / "PRETRAINED",
        "MODEL": folder / "MODEL",
        Path(SAMPLE_BACKBONE).name: SAMPLE_BACKBONE,
    }
    found = None
    for part in command.split(" && "):
        program, name, *options = shlex.split(part)
        assert program == "transrec"
        if name != "evaluate":
            options += ["--disable_tqdm", "true", "--report_to", "none"]
        found = COMMANDS[name]([str(known.get(one, one)) for one in [*options, "--use_cpu", "true"]])
    return found


def same_as_its_command(line, folder):
    found = run(line["command"], folder)
    assert found["protocol"]["fingerprint"] == line["protocol"]["fingerprint"]
    assert {name: round(value, 6) for name, value in found["metrics"].items()} == line["metrics"]
    assert found["groups"].keys() == line["groups"].keys()


def test_the_command_of_a_row_that_needs_no_training_finds_its_numbers(tmp_path):
    named = ["content-knn", "last-item-transitions"]
    backbones = {"text_model_name_or_path": SAMPLE_BACKBONE}
    changes = {"data": {"min_actions": 6}, "sampled": {"num_candidates": [9], "max_eval_users": 50}}
    lines = Worker(tmp_path, use_cpu=True).run(baselines(baselines=named, backbones=backbones, **changes))
    assert len(lines) == 4
    for line in lines:
        same_as_its_command(line, tmp_path)


@pytest.mark.slow
def test_the_commands_of_models_find_their_numbers(tmp_path):
    """From pretraining to the test split; each part as a command of its own, and options that are text with spaces."""
    steps = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    suite = Suite(
        "A suite",
        {
            "HasPT": {"pretrained": "source", "learning_rate": 2e-3},
            "zero-shot": {"pretrained": "source", "train": False},
            "text": {"reads": "text", "freeze_backbone": True, "item_prefix": "passage: "},
        },
        ["Sample_Target"],
        seeds=[3],
        max_seq_len=9,
        metrics=["hr", "ndcg", "diversity"],
        backbones={"text_model_name_or_path": SAMPLE_BACKBONE},
        baselines=["popularity", "content-and-transitions"],
        pretraining={"source": {"dataset_config_name": ["Sample_Source"], "modality": "text"}},
        train={"hidden_size": 16, "num_attention_heads": 1, **steps},
    )
    worker, lines = Worker(tmp_path / "suite", use_cpu=True), []
    for task in suite.tasks():
        lines += worker.run(task)
    assert {(line["model"], line["scores"]) for line in lines} > {("HasPT", "own"), ("HasPT", "own + transitions")}
    for number, line in enumerate(lines):
        same_as_its_command(line, tmp_path / str(number))


@pytest.mark.slow
def test_the_suite_of_ninerec_runs_on_data_in_its_layout(tmp_path):
    """Made data under the name of a target platform; what is not run stays empty beside the paper's numbers."""
    place = tmp_path / "raw" / "KU"
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pairs = [
        (user, item, 1_600_000_000 + time)
        for user in range(30)
        for time, item in enumerate(generator.permutation(23)[:8])
    ]
    (place / "KU_pair.csv").write_text("".join(f"u{user},i{item},{time}\n" for user, item, time in pairs))
    (place / "KU_item.csv").write_text("".join(f"i{item},视频 {item},video number {item}\n" for item in range(23)))
    whole = read_suite("ninerec", {"text_model_name_or_path": SAMPLE_BACKBONE})
    part = whole.only(datasets=["KU"], models=["SASRec, IDRec", "DSSM-variant, IDRec"], seeds=[42])
    shorter = replace(part, train={**part.train, "max_steps": 2, "eval_strategy": "steps", "eval_steps": 2})
    shorter = replace(shorter, train={**shorter.train, "save_strategy": "steps", "save_steps": 2})
    lines = []
    for task in shorter.tasks():
        lines += Worker(tmp_path / "out", data_dir=str(place.parent), use_cpu=True).run(task)
    assert {line["protocol"]["max_seq_len"] for line in lines} == {20}
    assert len({line["protocol"]["fingerprint"] for line in lines}) == 1
    report = write_report(whole, lines, tmp_path / "out").read_text()
    of_ku = report.partition("### KU: beside")[2].partition("\n## ")[0]
    own = {line["model"]: line["metrics"] for line in lines if line["scores"] == "own"}
    of_paper = {"SASRec, IDRec": r"0.2836 +\| 0.2479", "DSSM-variant, IDRec": r"0.2065 +\| 0.2004"}
    interval = r"[0-9.]+ to [0-9.]+"
    for name, numbers in of_paper.items():
        cells = (rf"{own[name][metric]:.4f} \({interval}\)" for metric in ("hr@10", "ndcg@10"))
        found = r" +\| ".join(cells)
        assert re.search(rf"\| {name} +\| {found} +\| {numbers} ", of_ku)
    by_chance = rf"{own['random']['hr@10']:.4f} \({interval}\) +\| [0-9.]+ \({interval}\)"
    assert re.search(rf"\| random +\| {by_chance} +\| 0.0049 ", of_ku)
    assert re.search(r"\| SASRec × BERT, HasPT +\| +\| +\| 0.3136 +\| 0.2619 ", of_ku)  # not run
    of_dance = report.partition("## Bili_Dance")[2].partition("\n## ")[0]
    assert "Nothing has been run yet." in of_dance and "SASRec, IDRec" in of_dance
