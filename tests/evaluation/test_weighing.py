"""Choices on validation, sums of dense scores and transitions, and no trace of what is held out."""

import json
import math

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import FullRankingEvaluator, ModelArguments, TransRecTrainingArguments, train
from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.evaluation import weighing
from modeling_transrec.evaluation.arguments import EvaluationArguments
from modeling_transrec.evaluation.baselines import BASELINES, SLOW_BASELINES, Platform
from modeling_transrec.evaluation.content import ContentKNN
from modeling_transrec.evaluation.evaluate import EvaluationTask, evaluate
from modeling_transrec.evaluation.features import Content
from modeling_transrec.evaluation.weighing import ScoringChoice, choose, log_popularity


ITEM_IDS = [f"i{number}" for number in range(37)]


@pytest.fixture
def histories():
    """Users who mostly go on to the next item."""
    rng = np.random.default_rng(3)
    starts = rng.integers(37, size=60)
    return [
        [ITEM_IDS[(start + step + int(rng.integers(6) == 0)) % 37] for step in range(rng.integers(4, 12))]
        for start in starts
    ]


@pytest.fixture
def catalogue():
    return datasets.Dataset.from_dict({"item_id": ITEM_IDS})


@pytest.fixture
def content():
    generator = torch.Generator().manual_seed(0)
    angle = torch.arange(37) * 2 * math.pi / 37  # neighbours are alike
    circle = torch.stack([angle.sin(), angle.cos(), *torch.randn(3, 37, generator=generator) * 0.1], dim=1)
    return Content({"text": circle + 5}, {}, ["a circle"])


def split(catalogue, histories, held_out, **options):
    users = {
        "item_ids": [history[:-held_out] for history in histories],
        "target": [history[-held_out] for history in histories],
    }
    return FullRankingEvaluator(catalogue, datasets.Dataset.from_dict(users), ks=[10], **options)


@pytest.fixture
def platform(catalogue, histories, content):
    training = datasets.Dataset.from_dict({"item_ids": [history[:-2] for history in histories]})
    validation = split(catalogue, histories, 2, split="validation")
    return Platform(catalogue, training, validation=validation, content=content)


def test_both_is_the_sum_of_the_parts(platform, histories):
    scorer, description = BASELINES["content-and-transitions"](platform)
    chosen, settings = description["transitions"], description["content"]
    batch = torch.tensor([[-1, 3, 4], [7, 20, 21]])
    values = platform.content.features["text"]
    vectors = ContentKNN.fit({"text": values}, power=settings["power"]).embed_items({"text": values})
    weights = settings["history_decay"] ** torch.tensor([2.0, 1.0, 0.0])
    users = (vectors[batch.clamp(min=0)] * (weights * (batch >= 0))[:, :, None]).sum(1)
    expected = F.normalize(users, dim=1) @ vectors.T
    counts = torch.from_numpy(platform.transitions.to_dense())
    scale = torch.from_numpy(platform.transitions.item_counts) ** -chosen["power"]
    for user, history in enumerate(batch.tolist()):
        for steps_back, item in enumerate(reversed([item for item in history if item >= 0])):
            weight = chosen["factor"] * chosen["history_decay"] ** steps_back
            expected[user] += (weight * counts[item] * scale[item] * scale).float()
    popularity = log_popularity(platform.transitions.item_counts)
    spread = chosen["factor"] / chosen["weight"]
    expected += description["popularity_weight"] * spread * popularity
    torch.testing.assert_close(scorer.scores(batch), expected, rtol=1e-4, atol=1e-4)


def test_the_choice_is_nearly_the_best_on_validation(platform, content):
    scorer = content.fit(power=0.5, history_decay=0.7)
    weights, settings = (0.0, 1.0, 8.0), ({"power": 0.3, "history_decay": 0.5}, {"power": 0.5, "history_decay": 0.7})
    chosen = choose(scorer, platform.transitions, platform.validation, weights, (0.0, 0.4), settings)

    def gain(weight, popularity, setting):
        candidate = ScoringChoice(weight, popularity, chosen.spread, setting)
        return platform.validation.rank(candidate.apply(scorer, platform.transitions))["ndcg@10"]

    best = max(gain(weight, 0.0, setting) for weight in weights for setting in settings)
    with_transitions = gain(chosen.transition_weight, 0.0, chosen.transition_settings)
    assert best >= with_transitions > best - 0.02  # the smallest weight within half a standard error
    found = gain(chosen.transition_weight, chosen.popularity_weight, chosen.transition_settings)
    assert found >= with_transitions
    assert chosen.transition_weight > 0  # the histories do follow the order of the items


def test_beside_a_trained_model_other_settings_are_tried(platform, content, monkeypatch):
    class Trained:
        """Scores as content kNN does, and is none."""

        def __init__(self, knn):
            self.knn = knn

        def __getattr__(self, name):
            return getattr(self.knn, name)

    for name, power in (("TRANSITION_SETTINGS", 0.17), ("SETTINGS_BESIDE_MODELS", 0.71)):
        monkeypatch.setattr(weighing, name, ({"power": power, "history_decay": 0.5},))
    untrained = content.fit(power=0.5, history_decay=0.7)
    for scorer, power in ((untrained, 0.17), (untrained.replace(model=Trained(untrained.model)), 0.71)):
        choice = choose(scorer, platform.transitions, platform.validation)
        assert choice.transition_settings["power"] == power


def test_counts_and_content_beat_popularity(platform, catalogue, histories):
    test = split(catalogue, histories, 1)
    found = {name: test.rank(BASELINES[name](platform)[0])["ndcg@10"] for name in ("transitions", "content-knn")}
    both = test.rank(BASELINES["content-and-transitions"](platform)[0])["ndcg@10"]
    counts = torch.from_numpy(platform.transitions.item_counts)
    popularity = test.evaluate(lambda histories, users: counts.repeat(len(users), 1))["ndcg@10"]
    assert min(found.values()) > popularity + 0.1
    assert both > max(found.values()) - 0.02


def test_content_needs_a_backbone(platform, catalogue):
    for name in ("content-knn", "content-and-transitions"):
        with pytest.raises(ValueError, match=f"{name} needs a backbone: give --text_model_name_or_path"):
            EvaluationArguments(name)
        with pytest.raises(ValueError, match="needs a backbone; name a text model"):
            BASELINES[name](Platform(catalogue, platform.sequences))
    with pytest.raises(ValueError, match="chosen on a validation split, and there is none"):
        BASELINES["content-and-transitions"](Platform(catalogue, platform.sequences, content=platform.content))


@pytest.mark.parametrize(
    "options, match",
    [
        ({"model_name_or_path": "transitions", "text_model_name_or_path": "x"}, "option of content-knn"),
        (
            {"model_name_or_path": "x", "text_model_name_or_path": "x", "with_baselines": False},
            "option of content-knn",
        ),
        ({"model_name_or_path": "transitions", "transition_weight": "auto"}, "for a checkpoint"),
        ({"model_name_or_path": "x", "transition_weight": "much"}, "auto or a number"),
        ({"model_name_or_path": "x", "transition_weight": "-1"}, "auto or a number"),
    ],
)
def test_options_that_say_nothing_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        EvaluationArguments(**options)


@pytest.fixture
def folder(tmp_path, histories):
    """Raw files in which `planted a` comes last but one, and `planted b` last, of every third user."""
    place = tmp_path / "raw" / "Toy"
    place.mkdir(parents=True)
    lines, known = [], [*ITEM_IDS, "planted a", "planted b"]
    for user, history in enumerate(histories):
        items = [*history, "planted-a", "planted-b"] if user % 3 == 0 else [*history, history[0], history[1]]
        lines.append(f"user{user}\t{' '.join(items)}\n")
    (place / "Toy_behaviour.tsv").write_text("".join(lines))
    texts = "".join(f"{item.replace(' ', '-')},,shoe number {item}\n" for item in known)
    (place / "Toy_item.csv").write_text(texts)
    return DataArguments(dataset_config_name="Toy", data_dir=str(place.parent))


def has_no_trace(transitions):
    """Nothing leads to or from an item that only validation and test have."""
    planted = ("planted-a", "planted-b")
    assert all(transitions[item] == {} for item in planted)
    assert all(not set(planted) & transitions[item].keys() for item in transitions.item_ids)
    counts = dict(zip(transitions.item_ids, transitions.item_counts, strict=True))
    return all(counts[item] == 0 for item in planted) and sum(counts.values()) > 100


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("name", ["transitions", "checkpoint"])
def test_what_is_held_out_leaves_no_trace_in_evaluate(folder, split, name, make_model, processor_of, tmp_path):
    options = {}
    if name == "checkpoint":
        make_model("text", max_seq_len=6).save_pretrained(tmp_path)
        processor_of["text"].save_pretrained(tmp_path)
        name, options = str(tmp_path), {"transition_weight": "auto"}
    task = EvaluationTask(EvaluationArguments(name, split=split, use_cpu=True, **options), folder)
    found = task.evaluate()[-1]
    assert found["protocol"]["scoring"]["transitions"]["weight"] > 0
    assert {"planted-a", "planted-b"} <= set(task.platform.items["item_id"])  # they are candidates
    assert has_no_trace(task.platform.transitions)


def test_what_is_held_out_leaves_no_trace_in_finetune(folder, tmp_path):
    model = ModelArguments(modality="id", hidden_size=8, num_attention_heads=1, max_seq_len=6)
    training = TransRecTrainingArguments(
        str(tmp_path / "model"),
        num_train_epochs=1,
        transition_weight="auto",
        do_predict=True,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = train(model, folder, training)
    assert has_no_trace(trainer.platform.transitions)
    rows = {(row["model"], row["protocol"]["scores"], row["protocol"]["split"]): row for row in read_results(tmp_path)}
    fingerprints = set()
    for split in ("validation", "test"):
        for name, scores in (
            *(
                (name, name)
                for name in ("random", "popularity", *SLOW_BASELINES, "last-item-transitions", "transitions")
            ),
            ("this model", "the model's own"),
            ("this model", "the model's own + transitions"),
        ):
            found = rows.pop((name, scores, split))
        fingerprints.add(json.dumps(found["protocol"]["scoring"]))
        assert found["protocol"]["scoring"]["transitions"]["data"] == trainer.platform.transitions.stamp["fingerprint"]
    assert not rows  # content of an id model is not known
    assert len(fingerprints) == 1  # what was chosen on validation is what the test split is ranked with
    evaluated = evaluate(
        EvaluationArguments(str(tmp_path / "model"), transition_weight="auto", use_cpu=True, eval_ks=[10]), folder
    )
    assert evaluated["metrics"]["ndcg@10"] == pytest.approx(found["metrics"]["ndcg@10"])
    assert evaluated["protocol"]["scoring"] == found["protocol"]["scoring"]


def read_results(folder):
    return json.loads((folder / "model" / "results.json").read_text())


def test_training_histories_are_whole(folder, histories):
    cut = folder.load_sequences("train", max_seq_len=2)
    assert max(map(len, cut["item_ids"])) == 3
    assert sorted(folder.load_training_histories()["item_ids"]) == sorted(histories)


def test_evaluate_says_what_was_chosen(folder, monkeypatch):
    read_splits = []
    load = DataArguments.load_sequences
    monkeypatch.setattr(
        DataArguments,
        "load_sequences",
        lambda self, split, *more: read_splits.append(split) or load(self, split, *more),
    )
    result = evaluate(EvaluationArguments("transitions", use_cpu=True), folder)
    assert read_splits == ["test", "validation"]
    scoring = result["protocol"]["scoring"]
    assert scoring["transitions"]["power"] in (0.2, 0.3, 0.4) and len(scoring["fingerprint"]) == 8
    assert result["protocol"]["scores"] == "transitions"
    by_hand = evaluate(EvaluationArguments("transitions", split="validation", use_cpu=True), folder)
    assert by_hand["protocol"]["split"] == "validation"


def test_a_checkpoint_with_transitions(folder, make_model, processor_of, tmp_path, items):
    model, processor = make_model("text", max_seq_len=6), processor_of["text"]
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    name = str(tmp_path / "model")
    alone = evaluate(EvaluationArguments(name, use_cpu=True), folder)
    assert "scoring" not in alone["protocol"]
    nothing = evaluate(EvaluationArguments(name, transition_weight="0.0", use_cpu=True), folder)
    assert nothing["metrics"] == alone["metrics"]
    auto = evaluate(EvaluationArguments(name, transition_weight="auto", split="validation", use_cpu=True), folder)
    plain = evaluate(EvaluationArguments(name, split="validation", use_cpu=True), folder)
    assert auto["metrics"]["ndcg@10"] > plain["metrics"]["ndcg@10"]
    assert auto["protocol"]["scores"] == "the model's own + transitions"
    fixed = evaluate(EvaluationArguments(name, transition_weight="3", use_cpu=True), folder)
    assert fixed["protocol"]["scoring"]["transitions"]["weight"] == 3.0
    knn = evaluate(EvaluationArguments("content-knn", text_model_name_or_path=name, use_cpu=True), folder)
    assert knn["protocol"]["scoring"]["content"]["weights"] == {"text": 1.0}
