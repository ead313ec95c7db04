"""Features of frozen backbones: of checkpoints of ours, of other models by name, with and without a name to go by."""

import torch
from transformers import TimmWrapperConfig, TimmWrapperModel

from modeling_transrec.evaluation.features import (
    content_of_start,
    load_content_model,
    read_content,
    read_prepared_content,
    starting_backbones,
)
from modeling_transrec.training.precomputed import precompute


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


def test_precomputed_features_are_those_of_the_backbone(make_model, processor_of, items, prepared_items, tmp_path):
    """What a trainer with a frozen backbone has computed already gives the same content."""
    model, processor = make_model("text+image").eval(), processor_of["text+image"]
    model.freeze_backbone()
    precomputed = precompute(model, prepared_items["text+image"], processor, cache_dir=str(tmp_path))
    assert "text_features" in precomputed.column_names
    found, expected = read_prepared_content(model, processor, precomputed), read_content(model, processor, items)
    for name in ("text", "image"):
        torch.testing.assert_close(found.features[name], expected.features[name], rtol=1e-4, atol=1e-5)
        assert torch.equal(found.has_content[name], expected.has_content[name])


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
