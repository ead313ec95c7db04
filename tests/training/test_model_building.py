"""Models that options name: which parts of an item they read, and what is refused."""

import json

import datasets
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from modeling_transrec import ModelArguments, TransRecProcessor
from modeling_transrec.models.modalities import MODALITIES
from modeling_transrec.training.model_arguments import backbone_options
from modeling_transrec.training.model_building import load_model_and_processor

from ..checks import trained


@pytest.fixture
def sounds() -> datasets.Dataset:
    """Three items with a title and a sound of half a second."""
    waves = [np.sin(np.arange(8000) * step).astype(np.float32) for step in (0.01, 0.02, 0.04)]
    audio = [{"array": wave, "sampling_rate": 16000} for wave in waves]
    return datasets.Dataset.from_dict({"item_id": ["a", "b", "c"], "text_en": ["x", "y", "z"], "audio": audio})


def test_each_modality_with_a_backbone_has_its_two_options():
    options = set(backbone_options())
    for modality in MODALITIES.values():
        if modality.option is not None:
            assert {modality.option, modality.config_field} <= options
    assert "multimodal_model_name_or_path" in options


@pytest.mark.parametrize("modality", ["audio", "text+audio"])
def test_a_small_audio_model_where_none_is_named(modality, sounds):
    model, processor = load_model_and_processor(ModelArguments(modality=modality, max_audio_seconds=0.5), sounds)
    assert model.config.modality == modality and processor.max_audio_seconds == 0.5
    content = {"audio": sounds["audio"][:], **({"text": sounds["text_en"][:]} if "text" in modality else {})}
    with torch.no_grad():
        embeddings = model.eval().get_item_features(**processor(**content))
    assert embeddings.shape == (3, model.config.hidden_size) and embeddings.isfinite().all()
    assert not torch.allclose(embeddings[0], embeddings[1])


def test_an_audio_backbone_by_its_configuration(sounds):
    config = {"model_type": "audio-spectrogram-transformer", "hidden_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 16}
    model, processor = load_model_and_processor(ModelArguments(audio_config=json.dumps(config)), sounds)
    assert model.config.modality == "audio" and type(processor.feature_extractor).__name__ == "ASTFeatureExtractor"
    with pytest.raises(ValueError, match="a bert model reads no audio"):
        load_model_and_processor(ModelArguments(audio_config='{"model_type": "bert"}'), sounds)


def test_what_stands_before_a_text(sounds, tokenizer, tmp_path):
    """The folder's prompt for documents holds where no option is given, and travels with the checkpoint."""
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    settings = '{"prompts": {"query": "query: ", "passage": "passage: "}}'
    (tmp_path / "backbone" / "config_sentence_transformers.json").write_text(settings)
    name = str(tmp_path / "backbone")
    model, processor = load_model_and_processor(ModelArguments(text_model_name_or_path=name), sounds)
    assert processor.item_prefix == "passage: "
    for prefix in ("", "item: "):
        options = ModelArguments(text_model_name_or_path=name, item_prefix=prefix)
        assert load_model_and_processor(options, sounds)[1].item_prefix == prefix
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    name = str(tmp_path / "checkpoint")
    assert load_model_and_processor(ModelArguments(name), sounds)[1].item_prefix == "passage: "
    assert load_model_and_processor(ModelArguments(name, item_prefix=""), sounds)[1].item_prefix == ""


def test_what_contradicts_is_refused(sounds):
    for options, message in [
        ({"platform": "books"}, "--platform puts adapters into a checkpoint"),
        ({"permute_codes": True}, "--permute_codes moves a checkpoint of codes"),
        ({"modality": "text", "audio_config": "{}"}, "has no use for --audio_config"),
        ({"audio_config": "{}", "audio_model_name_or_path": "x"}, "leave out --audio_config"),
        ({"multimodal_model_name_or_path": "x", "text_config": "{}"}, "reads text and image; leave out --text_config"),
        ({"modality": "audio", "item_prefix": "item: "}, "--item_prefix item:  has no effect"),
        ({"modality": "text", "max_audio_seconds": 3.0}, "--max_audio_seconds 3.0 has no effect"),
        ({"modality": "smell"}, "choose text, image, audio, id"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_model_and_processor(ModelArguments(**options), sounds)


def test_ids_are_put_beside_the_content_of_a_checkpoint(sounds, tokenizer, make_model, tmp_path):
    """UniSRec's transductive form: nothing changes at first, and ids are trained, the user encoder is not."""
    plain = make_model("text")
    plain.save_pretrained(tmp_path / "content")
    TransRecProcessor(tokenizer).save_pretrained(tmp_path / "content")
    name = str(tmp_path / "content")
    model, processor = load_model_and_processor(ModelArguments(name, add_item_ids=True), sounds)
    assert model.config.modality == "text+id" and processor.item_ids == ["a", "b", "c"]
    inputs = processor(text=sounds["text_en"][:], item_ids=sounds["item_id"][:])
    content = {key: value for key, value in inputs.items() if key != "item_ids"}
    model.eval()
    assert torch.equal(model.get_item_features(**inputs), plain.get_item_features(**content))

    model.freeze_user_encoder()
    model.config.logq_correction = False
    batch = {"item_index": torch.tensor([[0], [1]]), "labels": torch.tensor([[1], [2]]), **inputs}
    model(**batch).loss.backward()
    assert model.item_encoder.id_embedding.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.user_encoder.parameters())
    torch.optim.SGD(model.item_encoder.parameters(), lr=0.5).step()
    model.save_pretrained(tmp_path / "both")
    processor.save_pretrained(tmp_path / "both")
    again, _ = load_model_and_processor(ModelArguments(str(tmp_path / "both")), sounds)
    assert torch.equal(again.eval().get_item_features(**inputs), model.get_item_features(**inputs))
    with pytest.raises(ValueError, match="this one knows the catalogue: leave it out"):
        load_model_and_processor(ModelArguments(str(tmp_path / "both"), add_item_ids=True), sounds)
    others = sounds.map(lambda item: {"item_id": f"other-{item['item_id']}"})
    moved, processor = load_model_and_processor(ModelArguments(str(tmp_path / "both"), add_item_ids=True), others)
    assert processor.item_ids == others["item_id"][:] and not moved.item_encoder.id_embedding.weight.any()
    with pytest.raises(ValueError, match="ids of 3 items already"):
        moved.add_item_ids(4)
    with pytest.raises(ValueError, match="--modality text[+]id"):
        ModelArguments(add_item_ids=True)


def test_a_platform_of_a_checkpoint_is_trained_alone(sounds, tokenizer, make_model, tmp_path):
    model, peft = make_model("text"), '{"target_modules": ["query"]}'
    model.save_pretrained(tmp_path)
    TransRecProcessor(tokenizer).save_pretrained(tmp_path)
    for options, message in [
        ({"platform": "source"}, "has no platforms to choose 'source' from"),
        ({"platform": "books", "peft": "lora", "peft_config": peft}, "a peft adapter would change what .* share"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_model_and_processor(ModelArguments(str(tmp_path), **options), sounds)
    model.add_platform("books")
    model.set_platform("source")
    model.save_pretrained(tmp_path)
    TransRecProcessor(tokenizer).save_pretrained(tmp_path)
    for options in ({}, {"platform": "source"}):
        with pytest.raises(ValueError, match="the platforms books share the source, so it is not trained"):
            load_model_and_processor(ModelArguments(str(tmp_path), **options), sounds)
    model, _ = load_model_and_processor(ModelArguments(str(tmp_path), platform="books"), sounds)
    assert trained(model) and all("adapters.0." in key for key in trained(model))
