"""Features of frozen backbones: of checkpoints of ours, of other models by name, with and without a name to go by."""

import json
from unittest import mock

import pytest
import torch
from transformers import BertConfig, BertModel, TimmWrapperConfig, TimmWrapperModel

from modeling_transrec import (
    SAMPLE_BACKBONE,
    DataArguments,
    EvaluationArguments,
    ModelArguments,
    Recommender,
    TransRecModel,
    TransRecProcessor,
    TransRecTrainingArguments,
    evaluate,
    train,
)
from modeling_transrec.data.precomputed_items import with_known_features
from modeling_transrec.evaluation.evaluate import EvaluationTask
from modeling_transrec.evaluation.features import (
    Content,
    as_content,
    content_of_start,
    load_content_model,
    read_content,
    starting_backbones,
)
from modeling_transrec.training.precomputed import precompute

from ..checks import perturb


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


def test_every_item_has_its_own_features(make_model, processor_of, items, prepared_items, tmp_path):
    """Encoded one by one they are the same, and zeros where an item lacks the content."""
    model, processor = make_model("text+image").eval(), processor_of["text+image"]
    content = read_content(model, processor, items, chunk_size=7, cache_dir=str(tmp_path), bf16=False)
    assert not content.has_content["image"].all() and content.has_content["image"].any()
    for number, item in enumerate(items):
        inputs = processor.pad(prepared_items["text+image"][[number]])
        assert content.has_content["text"][number] == bool(item[f"text_{processor.language}"])
        assert content.has_content["image"][number] == (item["image"] is not None)
        with torch.no_grad():
            expected = model.item_encoder.features(**inputs)
        for name, values in content.features.items():
            one = expected[f"{name}_features"]
            one = one[0] if len(one) else torch.zeros_like(values[number])
            torch.testing.assert_close(values[number], one, rtol=1e-4, atol=1e-5)


def test_what_training_has_computed_is_not_computed_again(make_model, processor_of, items, prepared_items, tmp_path):
    """A trainer with a frozen backbone and content kNN share their features, where the precision is the same."""
    model, processor = make_model("text+image").eval(), processor_of["text+image"]
    model.freeze_backbone()
    precomputed = precompute(model, prepared_items["text+image"], processor, cache_dir=str(tmp_path))
    found = as_content(precomputed, model, processor)
    known = with_known_features(model, prepared_items["text+image"], cache_dir=str(tmp_path))
    assert known.folders == precomputed.folders
    for other in (prepared_items["text+image"].select(range(9)), prepared_items["text"]):
        assert with_known_features(model, other, cache_dir=str(tmp_path)) is other
    with mock.patch.object(model.item_encoder, "features", side_effect=AssertionError("computed again")):
        content = read_content(model, processor, items, cache_dir=str(tmp_path), bf16=False)
        with pytest.raises(AssertionError, match="computed again"):
            read_content(model, processor, items, cache_dir=str(tmp_path), bf16=True)
    for name in ("text", "image"):
        assert torch.equal(found.features[name], content.features[name])
        assert torch.equal(found.has_content[name], content.has_content[name])


@pytest.mark.slow
def test_what_training_has_computed_is_not_computed_again_to_evaluate_its_checkpoint(tmp_path, monkeypatch):
    """The numbers are those without what is kept; of other weights or another precision all is computed."""
    steps = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    model_args = ModelArguments(text_model_name_or_path=SAMPLE_BACKBONE, hidden_size=16, num_attention_heads=1)
    training_args = TransRecTrainingArguments(
        str(tmp_path / "model"), freeze_backbone=True, use_cpu=True, disable_tqdm=True, report_to="none", **steps
    )
    train(model_args, DataArguments(), training_args, with_card=False)

    def evaluated(name="model", **options):
        task = EvaluationTask(EvaluationArguments(str(tmp_path / name), use_cpu=True, **options), DataArguments())
        (backbone,) = task.checkpoint[0].item_encoder.backbones
        with mock.patch.object(
            type(backbone), "forward", autospec=True, side_effect=type(backbone).forward
        ) as forward:
            return task.evaluate()[-1]["metrics"], forward.call_count

    metrics, calls = evaluated()
    assert calls == 0
    assert evaluated(bf16=True)[1] > 0
    model, processor = (one.from_pretrained(tmp_path / "model") for one in (TransRecModel, TransRecProcessor))
    perturb(model.item_encoder.backbones[0])
    for one in (model, processor):
        one.save_pretrained(tmp_path / "other")
    others, calls = evaluated("other")
    assert calls > 0 and others != metrics
    monkeypatch.setattr("modeling_transrec.data.precomputed_items.features_cache", lambda _: tmp_path / "nothing")
    assert evaluated() == (metrics, mock.ANY) and evaluated()[1] > 0


def test_ids_are_no_content(make_model, processor_of, items, tmp_path):
    """A checkpoint of content and ids gives the features of other catalogues, too."""
    make_model("text+id").save_pretrained(tmp_path)
    processor_of["text+id"].save_pretrained(tmp_path)
    others = items.map(lambda item: {"item_id": f"other {item['item_id']}"})
    content = read_content(*load_content_model(str(tmp_path)), others)
    assert set(content.features) == {"text"}


def test_names_of_starting_backbones(make_model):
    config = make_model("text+image").config
    assert starting_backbones(config) == {}  # from scratch
    config.text_config._name_or_path = "someone/bert"
    assert starting_backbones(config) == {"text_model_name_or_path": "someone/bert"}
    assert starting_backbones(make_model("id").config) == {}


def test_a_start_that_cannot_be_loaded_leaves_out_content(items, monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert content_of_start({}, items) is None
    with caplog.at_level("WARNING"):
        assert content_of_start({"text_model_name_or_path": "no-one/has-this"}, items) is None
    assert "Content kNN is left out: no-one/has-this cannot be loaded" in caplog.text


@pytest.fixture
def sentence_folder(tokenizer, tmp_path):
    """A folder of sentence-transformers, as E5's: mean pooling, 9 tokens, a prefix before documents."""
    folder = tmp_path / "sentences"
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules += [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 9},
        "config_sentence_transformers.json": {"prompts": {"query": "blue: ", "passage": "rope: "}},
    }.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder)


def test_a_folder_says_how_texts_are_read_and_options_override_it(sentence_folder, items):
    def read(**options):
        model, processor = load_content_model(sentence_folder, **options)
        return processor, read_content(model, processor, items)

    processor, content = read()
    assert (processor.item_prefix, processor.max_text_length, processor.language) == ("rope: ", 9, "en")
    assert not processor.do_lower_case  # the tokenizer knows whether the model tells capitals apart
    assert content.made == {"dtype": "float32", "text_pooling": "mean", "item_prefix": "rope: "}
    backbone = BertModel.from_pretrained(sentence_folder).eval()
    ids = processor.tokenizer("rope: " + items[0]["text_en"], truncation=True, max_length=9, return_tensors="pt")
    output = backbone(**ids, output_hidden_states=True)
    expected = output.last_hidden_state[0].mean(0)
    torch.testing.assert_close(content.features["text"][0], expected, rtol=1e-4, atol=1e-5)
    both = (output.hidden_states[1] + output.last_hidden_state)[0].mean(0) / 2
    processor, content = read(text_pooling="first_last")
    torch.testing.assert_close(content.features["text"][0], both, rtol=1e-4, atol=1e-5)
    assert content.made["text_pooling"] == "first_last" and processor.max_text_length == 9
    assert read(item_prefix="")[0].item_prefix == "" and read(language="zh")[0].language == "zh"
    recommender = Recommender.from_backbone(sentence_folder, item_prefix="tent: ").index(items)
    assert recommender.processor.item_prefix == "tent: "


def test_options_of_a_checkpoint(make_model, processor_of, sentence_folder, tmp_path):
    """They override what was saved; without texts there is nothing that they could be options of."""
    for kind in ("text", "image"):
        make_model(kind).save_pretrained(tmp_path / kind)
        processor_of[kind].save_pretrained(tmp_path / kind)
    options = {"language": "zh", "max_text_length": 8, "item_prefix": "rope: ", "text_pooling": "mean"}
    model, processor = load_content_model(str(tmp_path / "text"), **options)
    assert (processor.language, processor.max_text_length, processor.item_prefix) == ("zh", 8, "rope: ")
    assert model.config.text_pooling == "mean"
    for name, value in {"item_prefix": "x", "text_pooling": "mean", "max_text_length": 9}.items():
        with pytest.raises(ValueError, match=f"{name} is an option of texts"):
            load_content_model(str(tmp_path / "image"), **{name: value})


@pytest.mark.parametrize("instructions", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_bfloat16_where_the_cpu_has_it(instructions, sentence_folder, items, monkeypatch, tmp_path):
    model, processor = load_content_model(sentence_folder)

    def read(**options):
        return read_content(model, processor, items, cache_dir=str(tmp_path), **options)

    exact, rough = read(), read(bf16=True)
    assert (exact.made["dtype"], rough.made["dtype"]) == ("float32", "bfloat16")
    assert not torch.equal(exact.features["text"], rough.features["text"])
    torch.testing.assert_close(rough.features["text"], exact.features["text"], rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):  # as the caller has it
        assert torch.equal(read().features["text"], rough.features["text"])
    monkeypatch.setattr(torch.cpu, instructions, lambda: True)
    assert read().made["dtype"] == "bfloat16" and torch.equal(read().features["text"], rough.features["text"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(read(bf16=False).features["text"], exact.features["text"])
    folders = [path for path in (tmp_path / "transrec_features").iterdir() if path.is_dir()]
    assert len(folders) == 2  # each type has features of its own


def test_the_type_is_in_the_protocol_and_its_fingerprint(sentence_folder):
    def run(**options):
        args = EvaluationArguments("content-knn", text_model_name_or_path=sentence_folder, use_cpu=True, **options)
        return evaluate(args, DataArguments())["protocol"]

    found = [run(bf16=True), run(bf16=False), run(bf16=False, item_prefix=""), run(bf16=False, text_pooling="cls")]
    assert [protocol["bf16"] for protocol in found] == [True, False, False, False]
    assert [protocol["scoring"]["content"]["dtype"] for protocol in found] == ["bfloat16", *["float32"] * 3]
    assert len({protocol["scoring"]["fingerprint"] for protocol in found}) == 4
    assert found[3]["scoring"]["content"]["text_pooling"] == "cls"
    with pytest.raises(ValueError, match="--item_prefix says how --text_model_name_or_path is read"):
        EvaluationArguments("popularity", item_prefix="x")


def test_diversity_is_by_the_backbone_that_is_named():
    """One sweep of the catalogue is as diverse as its items; what has no backbone says which option names one."""
    options = {"metrics": ["diversity", "calibration"], "eval_ks": [10], "use_cpu": True}
    args = EvaluationArguments("popularity", text_model_name_or_path=SAMPLE_BACKBONE, **options)
    found = evaluate(args, DataArguments())
    assert 0 < found["metrics"]["diversity@10"] < 1 and 0 < found["metrics"]["calibration@10"] < 1
    assert found["protocol"]["item_features"]["text_pooling"] == "mean"
    with pytest.raises(ValueError, match="popularity has no backbone to read it; give --text_model_name_or_path"):
        evaluate(EvaluationArguments("popularity", **options), DataArguments())
    with pytest.raises(ValueError, match="--metrics: there is no divers; there are hr, ndcg"):
        EvaluationArguments("popularity", metrics=["divers"])


def test_the_cosine_of_items_is_the_mean_of_their_modalities():
    features = {
        name: torch.randn(4, width, generator=torch.manual_seed(width)) for name, width in (("a", 3), ("b", 5))
    }
    has_content = {"a": torch.ones(4, dtype=torch.bool), "b": torch.tensor([True, True, True, False])}
    vectors = Content(features, has_content, []).vectors()
    by_modality = [torch.cosine_similarity(values[0], values[1], dim=0) for values in features.values()]
    assert torch.cosine_similarity(vectors[0], vectors[1], dim=0).item() == pytest.approx(sum(by_modality).item() / 2)
    assert not vectors[3, 3:].any()
