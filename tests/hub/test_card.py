"""The card of a checkpoint: what it says is what was trained and measured, and its snippet runs."""

import json
import math
import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, parse_eval_result_entries
from PIL import Image

from modeling_transrec import (
    FullRankingEvaluator,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
)
from modeling_transrec.evaluation.baselines import BASELINES, LANGUAGE_MODEL, Platform, evaluate_baselines
from modeling_transrec.evaluation.features import load_content_model, read_content
from modeling_transrec.hub.card import build_model_card
from modeling_transrec.hub.facts import CardFacts, DataFacts, describe_model
from modeling_transrec.hub.publish import read_facts, write_model_card
from modeling_transrec.hub.results import eval_result_files, eval_results, merge_results, result_row, results_table
from modeling_transrec.models.checkpoint_files import public_name

from ..tiny import make_sequences


WITHOUT_TIMES = [name for name in BASELINES if name not in ("recent-popularity", LANGUAGE_MODEL)]
CARDS = Path(__file__).parents[2] / "model_cards"
PROTOCOL = {
    "dataset": "someone/shop/Shoes",
    "split": "test",
    "max_seq_len": 20,
    "num_users": 1300,
    "num_candidates": 37,
    "ranking": "full: every catalogue item is a candidate",
    "seen_items": "excluded, except the target",
    "scores": "the model's own",
    "ties": "expected value over a random order",
}


@dataclass
class OtherDefaults(TransRecTrainingArguments):
    """As a script may have them; what differs is told from the library's own defaults."""

    num_train_epochs: float = 2


@pytest.fixture
def trained(make_model, processor_of, items, train_split, validation_split, tmp_path, monkeypatch):
    """A trainer after two epochs, and the folder of its checkpoint."""
    monkeypatch.chdir(tmp_path)
    idrec = {"metrics": {"hr@10": 0.25, "ndcg@10": 0.125}, "protocol": {**PROTOCOL, "model": "/home/me/idrec"}}
    (tmp_path / "idrec.json").write_text(json.dumps(idrec))
    args = OtherDefaults(
        output_dir=str(tmp_path / "shop-model"),
        per_device_train_batch_size=4,
        learning_rate=0.02,
        use_cpu=True,
        disable_tqdm=True,
        hub_token="hf_do_not_show",
        card_results=[f"IDRec={tmp_path / 'idrec.json'}"],
    )
    model = make_model("text", user_encoder_type="gru4rec")
    trainer = TransRecTrainer(model, args, items, train_split, validation_split, processing_class=processor_of["text"])
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(dataset="someone/shop", dataset_args="Shoes", license="mit", tags=["shoes"])
    return trainer, tmp_path / "shop-model"


def test_the_card_says_what_was_measured(trained, items, validation_split, train_split):
    trainer, folder = trained
    card = ModelCard.load(folder / "README.md")
    evaluator = FullRankingEvaluator(items, validation_split)
    model = TransRecForSequentialRecommendation.from_pretrained(folder)
    metrics = evaluator(model, TransRecProcessor.from_pretrained(folder))
    hits = [result for result in card.data.eval_results if result.metric_type == "hr@10"]
    assert hits[0].metric_value == pytest.approx(metrics["hr@10"], abs=1e-6)
    assert (hits[0].dataset_type, hits[0].dataset_config, hits[0].dataset_split) == (
        "someone/shop",
        "Shoes",
        "validation",
    )
    lines = {line.split("|")[1].strip(" *"): line for line in card.text.splitlines() if line.startswith("|")}
    baselines = evaluate_baselines(evaluator, Platform(items, train_split, validation=evaluator))
    assert baselines["random"]["metrics"]["hr@10"] < baselines["popularity"]["metrics"]["hr@10"]
    for name, found in baselines.items():
        assert f"{found['metrics']['hr@10']:.4f}" in lines[name]
    assert "Without content-knn and content-and-transitions: no pretrained backbone" in card.text
    assert "0.2500" in lines["IDRec"] and "test" in lines["IDRec"]
    assert f"**{metrics['hr@10']:.4f}**" in lines["this model"]
    assert f"{sum(p.numel() for p in model.parameters()):,}" in lines["all"]


def test_metadata_and_changed_options_first(trained):
    _, folder = trained
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert {"recommendation", "sequential-recommendation", "gru4rec", "text", "shoes"} <= set(data["tags"])
    assert data["datasets"] == ["someone/shop"] and data["license"] == "mit" and data["language"] == "en"
    changed, _, others = card.text.partition("<details>")
    assert "| learning_rate | 0.02 |" in changed and "| num_train_epochs | 2 |" in changed
    assert "| user_encoder_type | gru4rec |" in changed
    assert "| weight_decay | 0.1 |" in others and "| weight_decay" not in changed
    assert "13 training users, 37 items" in card.text


def test_no_token_folder_or_pickle_is_kept(trained):
    _, folder = trained
    files = [path for path in folder.iterdir() if path.is_file()]
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    for path in files:
        content = path.read_bytes()
        assert b"hf_do_not_show" not in content, path
        assert path.name == "trainer_state.json" or str(folder.parent).encode() not in content, path
        assert b"/home/me" not in content, path
    assert json.loads((folder / "training_args.json").read_text())["learning_rate"] == 0.02


def test_both_forms_of_results_are_those_of_the_hub(trained):
    _, folder = trained
    (file,) = (folder / ".eval_results").iterdir()
    entries = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    by_task = {entry.task_id: entry for entry in entries}
    assert by_task["Shoes_validation_hr@10"].dataset_id == "someone/shop"
    card = ModelCard.load(folder / "README.md")
    by_metric = {result.metric_type: result for result in card.data.eval_results}
    assert all(isinstance(result, EvalResult) for result in by_metric.values())
    assert by_task["Shoes_validation_ndcg@10"].value == by_metric["ndcg@10"].metric_value
    assert eval_result_files([result_row("this model", {"mrr": 0.1}, {**PROTOCOL, "dataset": "ninerec/Ours"})]) == {}


def test_results_are_merged_by_model_split_and_scores():
    old = result_row("this model", {"hr@10": 0.1}, {**PROTOCOL, "split": "validation"})
    test = result_row("this model", {"hr@10": 0.2}, PROTOCOL)
    again = result_row("this model", {"hr@10": 0.3}, PROTOCOL)
    centered = result_row("this model", {"hr@10": 0.4}, {**PROTOCOL, "scores": "centered cosine"})
    merged = merge_results([old, test], [again, centered])
    assert [row["metrics"]["hr@10"] for row in merged] == [0.1, 0.3, 0.4]
    table = results_table([test, result_row("random", {"hr@10": 0.01, "mrr": 0.5}, PROTOCOL), centered])
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "random",
        "**this model**",
        "**this model**, centered cosine",
    ]
    assert "MRR" not in table  # not measured for all


def test_one_result_a_split_is_published():
    """The table shows the model with transitions, too; the Hub's own forms say what the model is worth by itself."""
    plain = result_row("this model", {"hr@10": 0.2}, PROTOCOL)
    both = result_row("this model", {"hr@10": 0.3}, {**PROTOCOL, "scores": "the model's own + transitions"})
    validation = result_row("this model", {"hr@10": 0.4}, {**both["protocol"], "split": "validation"})
    for rows in ([plain, both, validation], [both, validation, plain]):
        assert sorted(result.metric_value for result in eval_results(rows)) == [0.2, 0.4]
        (file,) = (file for name, file in eval_result_files(rows).items() if name.endswith("test.yaml"))
        assert yaml.safe_load(file)[0]["value"] == 0.2
        lines = [line.split("|")[1].strip() for line in results_table(rows).splitlines()[2:]]
        assert lines.count("**this model** + transitions") == 2 and "**this model**" in lines


def test_rows_of_content_name_their_backbone(trained, processor_of, items, train_split, validation_split):
    """The backbone is taken as it was when training started, whether it is trained or not."""
    _, folder = trained
    for frozen in (True, False):
        model = TransRecForSequentialRecommendation.from_pretrained(folder)  # a checkpoint to start from
        args = TransRecTrainingArguments(
            str(folder.parent / f"next-{frozen}"),
            num_train_epochs=1,
            learning_rate=0.1,
            freeze_backbone=frozen,
            use_cpu=True,
            disable_tqdm=True,
        )
        processor = processor_of["text"]
        trainer = TransRecTrainer(model, args, items, train_split, validation_split, processing_class=processor)
        trainer.train()
        trainer.create_model_card(dataset="someone/shop", dataset_args="Shoes")
        rows = {row["model"]: row for row in read_facts(args.output_dir).results}
        assert list(rows) == [*WITHOUT_TIMES, "this model"]
        assert rows["content-knn"]["protocol"]["scoring"]["content"]["source"] == ["shop-model"]
        assert "| content-and-transitions (shop-model) |" in Path(args.output_dir, "README.md").read_text()
        evaluator = FullRankingEvaluator(items, validation_split)
        loaded = load_content_model(str(folder))
        platform = Platform(items, train_split, validation=evaluator, content=read_content(*loaded, items))
        expected = evaluate_baselines(evaluator, platform)
        for name in ("content-knn", "content-and-transitions"):
            assert rows[name]["metrics"] == pytest.approx(expected[name]["metrics"])


@pytest.mark.parametrize("validation", [True, False])
def test_only_the_test_split_is_ranked(validation, trained, processor_of, items, train_split, validation_split):
    """Without an evaluation in training; choices are made on the validation split all the same, where there is one."""
    _, folder = trained
    model = TransRecForSequentialRecommendation.from_pretrained(folder)
    args = TransRecTrainingArguments(
        str(folder.parent / "test"),
        max_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        freeze_backbone=True,
        use_cpu=True,
        disable_tqdm=True,
    )
    splits = (train_split, validation_split if validation else None)
    trainer = TransRecTrainer(model, args, items, *splits, processing_class=processor_of["text"])
    trainer.train()
    trainer.predict(validation_split)
    trainer.create_model_card()
    rows = {row["model"]: row for row in read_facts(args.output_dir).results}
    expected = [*WITHOUT_TIMES, "this model"]
    assert list(rows) == [row for row in expected if validation or row != "content-and-transitions"]
    assert {row["protocol"]["split"] for row in rows.values()} == {"test"}


@pytest.mark.parametrize("keeps_best", [True, False])
def test_another_split_is_never_called_validation(
    keeps_best, make_model, processor_of, items, train_split, validation_split, tmp_path
):
    """The test split, evaluated under the prefix of validation, changes nothing that the card says."""
    options = {"num_train_epochs": 1, "load_best_model_at_end": keeps_best, "use_cpu": True, "disable_tqdm": True}
    args = TransRecTrainingArguments(str(tmp_path), transition_weight="auto", **options)
    model, processor = make_model("text"), processor_of["text"]
    trainer = TransRecTrainer(model, args, items, train_split, validation_split, processing_class=processor)
    trainer.train()
    trainer.create_model_card()
    card, results = (tmp_path / "README.md").read_text(), (tmp_path / "results.json").read_text()
    test_split = make_sequences(items, 9, "test", seed=3)
    metrics = trainer.evaluate(test_split)
    evaluator = FullRankingEvaluator(items, test_split)
    assert metrics["eval_hr@10"] == evaluator(trainer.model, processor)["hr@10"]
    trainer.create_model_card()
    assert (tmp_path / "README.md").read_text() == card and (tmp_path / "results.json").read_text() == results
    trainer.predict(test_split)
    trainer.create_model_card()
    protocols = [row["protocol"] for row in read_facts(tmp_path).results]
    assert {(one["split"], one["num_users"]) for one in protocols} == {("validation", 13), ("test", 9)}
    of_test = [one for one in protocols if one["split"] == "test"]
    assert {one["fingerprint"] for one in of_test} == {evaluator.fingerprint}
    of_validation = next(row for row in json.loads(results) if row["model"] == "transitions")["protocol"]["scoring"]
    assert next(one for one in of_test if one["scores"] == "transitions")["scoring"] == of_validation


def test_a_card_is_written_anew_from_its_facts(trained, tmp_path):
    """By `model_cards/render.py`, under another name."""
    _, folder = trained
    render = runpy.run_path(str(CARDS / "render.py"))
    (tmp_path / "cards").mkdir()
    written = render["add_card"](str(folder), "someone/other-name", tmp_path / "cards")
    old, new = ((path / "README.md").read_text() for path in (folder, written))
    assert written.name == "other-name" and new == old.replace("shop-model", "someone/other-name")
    assert (written / "training_curve.png").exists() and (written / "results.json").exists()
    render["write_index"](tmp_path / "cards")
    row = (tmp_path / "cards" / "README.md").read_text()
    assert "[someone/other-name](other-name/README.md) | text | `gru4rec` | `someone/shop/Shoes`" in row


def test_stored_cards_are_what_the_template_makes_of_them(tmp_path):
    for file in CARDS.glob("*/card.json"):
        write_model_card(tmp_path, read_facts(file.parent))
        for name in ("README.md", "card.json", "results.json"):
            stored = (file.parent / name).read_text(encoding="utf-8")
            assert stored == (tmp_path / name).read_text(encoding="utf-8"), "run python model_cards/render.py"


@pytest.mark.parametrize("kind", ["text", "image", "text+image", "id", "text+id", "clip", "dssm"])
def test_the_snippet_runs_when_pasted(kind, make_model, processor_of, items, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, processor = make_model("text" if kind == "dssm" else kind), processor_of["text" if kind == "dssm" else kind]
    if kind == "dssm":
        model = make_model("text", user_encoder_type="dssm")
        processor = TransRecProcessor(processor.tokenizer, user_ids=[f"u{row}" for row in range(13)])
    model.save_pretrained("my-model")
    processor.save_pretrained("my-model")
    card = build_model_card(CardFacts(name="my-model", **describe_model(model, processor)))
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    exec(snippet, {})
    shown = yaml.safe_load(capsys.readouterr().out.replace("'", '"'))
    assert len(shown) == 2 and all(math.isfinite(item["score"]) for item in shown)


def test_the_curve_is_a_picture(trained):
    pytest.importorskip("matplotlib")
    _, folder = trained
    assert Image.open(folder / "training_curve.png").size[0] > 300
    assert "(training_curve.png)" in (folder / "README.md").read_text()


def test_without_matplotlib_the_card_says_so(trained, monkeypatch):
    trainer, folder = trained
    monkeypatch.setattr("modeling_transrec.hub.card.is_matplotlib_available", lambda: False)
    trainer.create_model_card(dataset="someone/shop", dataset_args="Shoes")
    text = (folder / "README.md").read_text()
    assert "The training curve was not drawn: matplotlib was not installed" in text
    assert "(training_curve.png)" not in text


def test_names_of_folders_stay_here(tmp_path):
    (tmp_path / "secret").mkdir()
    assert public_name(str(tmp_path / "secret")) == "secret" and public_name("someone/shop") == "someone/shop"
    assert DataFacts(str(tmp_path / "secret"), "Shoes").title == "secret/Shoes"


def test_known_data_come_with_their_condition():
    assert "forbid to publish modified copies" in DataFacts("ninerec", "Bili_Food").condition
    assert "synthetic" in DataFacts("ninerec", "Sample_Source").condition
    assert DataFacts("ninerec", "OurShop").condition is None  # anybody's data in the same layout
    card = build_model_card(CardFacts("me/x", "text", "sasrec", data=DataFacts("ninerec", "Bili_Food")))
    assert "forbid to publish modified copies" in card.text


def test_wrong_options_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="must be NAME=FILE"):
        TransRecTrainingArguments(output_dir=str(tmp_path), card_results=["idrec.json"], use_cpu=True)
    with pytest.raises(ValueError, match="hub_strategy must be 'end'"):
        TransRecTrainingArguments(output_dir=str(tmp_path), hub_strategy="every_save", use_cpu=True)
