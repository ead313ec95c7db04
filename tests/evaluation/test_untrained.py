"""What needs no training: choices on validation, sums of dense scores and transitions, no trace of held-out items."""

import math

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import TimmWrapperConfig, TimmWrapperModel

from modeling_transrec import FullRankingEvaluator
from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation import untrained
from modeling_transrec.evaluation.arguments import EvaluationArguments
from modeling_transrec.evaluation.evaluate import evaluate
from modeling_transrec.evaluation.untrained import Content, Untrained, choose, load_content_model, read_content


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
    return Content({"text": circle + 5}, {}, "a circle")


def split(catalogue, histories, held_out, **options):
    users = {
        "item_ids": [history[:-held_out] for history in histories],
        "target": [history[-held_out] for history in histories],
    }
    return FullRankingEvaluator(catalogue, datasets.Dataset.from_dict(users), ks=[10], **options)


@pytest.fixture
def made(catalogue, histories, content):
    transitions = Transitions.from_sequences([history[:-2] for history in histories], ITEM_IDS)
    return Untrained(transitions, split(catalogue, histories, 2, split="validation"), content)


def test_both_is_the_sum_of_the_parts(made, histories):
    scorer, description = made.build("content-and-transitions")
    chosen, settings = description["transitions"], description["content"]
    batch = torch.tensor([[-1, 3, 4], [7, 20, 21]])
    values = made.content.features["text"]
    vectors = untrained.ContentKNN.fit({"text": values}, power=settings["power"]).embed_items({"text": values})
    weights = settings["history_decay"] ** torch.tensor([2.0, 1.0, 0.0])
    users = (vectors[batch.clamp(min=0)] * (weights * (batch >= 0))[:, :, None]).sum(1)
    expected = F.normalize(users, dim=1) @ vectors.T
    counts = torch.from_numpy(made.transitions.to_dense())
    scale = torch.from_numpy(made.transitions.item_counts) ** -chosen["power"]
    for user, history in enumerate(batch.tolist()):
        for steps_back, item in enumerate(reversed([item for item in history if item >= 0])):
            weight = chosen["factor"] * chosen["history_decay"] ** steps_back
            expected[user] += (weight * counts[item] * scale[item] * scale).float()
    popularity = untrained.log_popularity(made.transitions.item_counts)
    spread = chosen["factor"] / chosen["weight"]
    expected += description["popularity_weight"] * spread * popularity
    torch.testing.assert_close(scorer.scores(batch), expected, rtol=1e-4, atol=1e-4)


def test_the_choice_is_the_best_on_validation(made, content):
    scorer = content.fit(power=0.5, history_decay=0.7)
    weights, settings = (0.0, 1.0, 8.0), ({"power": 0.3, "history_decay": 0.5}, {"power": 0.5, "history_decay": 0.7})
    chosen = choose(scorer, made.transitions, made.validation, weights, (0.0, 0.4), settings)

    def gain(weight, popularity, setting):
        candidate = untrained.ScoringChoice(weight, popularity, chosen.spread, setting)
        return made.validation.rank(candidate.apply(scorer, made.transitions))["ndcg@10"]

    best = max(gain(weight, 0.0, setting) for weight in weights for setting in settings)
    with_transitions = gain(chosen.transition_weight, 0.0, chosen.transition_settings)
    assert with_transitions == pytest.approx(best)
    found = gain(chosen.transition_weight, chosen.popularity_weight, chosen.transition_settings)
    assert found >= with_transitions
    assert chosen.transition_weight > 0  # the histories do follow the order of the items


def test_counts_and_content_beat_popularity(made, catalogue, histories):
    test = split(catalogue, histories, 1)
    found = {name: test.rank(made.build(name)[0])["ndcg@10"] for name in ("transitions", "content-knn")}
    both = test.rank(made.build("content-and-transitions")[0])["ndcg@10"]
    counts = torch.from_numpy(made.transitions.item_counts)
    popularity = test.evaluate(lambda histories, users: counts.repeat(len(users), 1))["ndcg@10"]
    assert min(found.values()) > popularity + 0.1
    assert both > max(found.values()) - 0.02


def test_content_needs_a_backbone(made):
    with pytest.raises(ValueError, match="--text_model_name_or_path"):
        EvaluationArguments("content-knn")
    made.content = None
    with pytest.raises(ValueError, match="needs a backbone"):
        made.build("content-knn")


@pytest.mark.parametrize(
    "options, match",
    [
        ({"model_name_or_path": "transitions", "text_model_name_or_path": "x"}, "option of content-knn"),
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


def test_what_is_held_out_leaves_no_trace(folder):
    training = folder.load_training_histories()
    items = folder.load_items(max_seq_len=20)["item_id"]
    assert {"planted-a", "planted-b"} <= set(items)  # they are candidates
    transitions = Transitions.from_sequences(training, items)
    assert transitions["planted-a"] == {} == transitions["planted-b"]
    assert all("planted" not in other for item in items for other in transitions[item])
    assert transitions.item_counts[items.index("planted-a")] == 0


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
    assert scoring["transitions"]["power"] in (0.3, 0.5) and len(scoring["fingerprint"]) == 8
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


def test_features_are_those_of_the_backbone(make_model, processor_of, items, tmp_path):
    model, processor = make_model("text+image"), processor_of["text+image"]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = load_content_model(str(tmp_path))
    content = read_content(loaded, its_processor, items)
    assert set(content.features) == {"text", "image"} and set(content.has_content) == {"text", "image"}
    number = int((content.has_content["text"] & content.has_content["image"]).int().argmax())
    inputs = processor(text=[items[number][f"text_{processor.language}"]], images=[items[number]["image"]])
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    expected = model.item_encoder.features(**inputs)
    for name, values in content.features.items():
        torch.testing.assert_close(values[number], expected[f"{name}_features"][0], rtol=1e-3, atol=1e-4)


def test_images_are_prepared_as_timms_model_was_trained(items, tmp_path):
    """Its folder has no image processor: the configuration says what timm does."""
    cfg = {"crop_pct": 0.5, "crop_mode": "center", "interpolation": "bilinear", "input_size": (3, 32, 32)}
    cfg |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    small = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
    config = TimmWrapperConfig(architecture="resnet18", model_args=small, pretrained_cfg=cfg)
    TimmWrapperModel(config).save_pretrained(tmp_path)
    model, processor = load_content_model(vision_model_name_or_path=str(tmp_path))
    assert processor.image_processor.size["shortest_edge"] == 64 and processor.shape_of("image") == (3, 32, 32)
    torch.testing.assert_close(model.config.image_mean, list(cfg["mean"]))
    content = read_content(model, processor, items, cache_dir=str(tmp_path))
    assert content.features["image"].shape == (len(items), 8)
    assert content.features["image"].norm(dim=1).gt(0).tolist() == content.has_content["image"].tolist()
