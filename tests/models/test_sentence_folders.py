"""Folders of sentence-transformers bring their own pooling."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel

from modeling_transrec import SAMPLE_BACKBONE, TransRecForSequentialRecommendation
from modeling_transrec.models.sentence_folders import (
    read_item_prefix,
    read_lower_case,
    read_max_length,
    read_text_pooling,
)


@pytest.fixture
def backbone(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=20)
    BertModel(config).save_pretrained(tmp_path)
    return tmp_path


def add_modules(folder, pooling, *more):
    kinds = ["Transformer", "Pooling", *more]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "type": f"sentence_transformers.models.{kind}",
            "path": f"{number}_{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def build(folder, **fields):
    return TransRecForSequentialRecommendation.from_encoder_pretrained(
        text_model_name_or_path=str(folder), hidden_size=8, num_attention_heads=2, **fields
    )


def test_the_pooling_of_the_folder_is_used(backbone):
    assert build(backbone).config.text_pooling is None  # no folder of sentence-transformers: by the kind of backbone
    add_modules(backbone, {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "Normalize")
    (backbone / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    assert (read_text_pooling(backbone), read_max_length(backbone)) == ("mean", 7)
    model = build(backbone)
    assert model.config.text_pooling == "mean"
    ids = torch.tensor([[3, 4, 5]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tokens = model.item_encoder.text.backbone(**inputs).last_hidden_state
    torch.testing.assert_close(model.item_encoder.features(**inputs)["text_features"], tokens.mean(1))
    assert build(backbone, text_pooling="cls").config.text_pooling == "cls"


@pytest.mark.parametrize(
    "pooling, expected",
    [
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"word_embedding_dimension": 8, "pooling_mode": "cls"}, "cls"),
    ],
)
def test_other_poolings(backbone, pooling, expected):
    add_modules(backbone, pooling)
    assert (read_text_pooling(backbone), read_max_length(backbone)) == (expected, None)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}, "passage: "),
        ({"prompts": {"query": "Instruct: …", "document": ""}, "default_prompt_name": None}, ""),  # Qwen3-Embedding
        ({"prompts": {"text": "text: "}, "default_prompt_name": "text"}, "text: "),
        ({"prompts": {"query": "query: "}, "default_prompt_name": None}, ""),
        ({"__version__": {}}, ""),
    ],
)
def test_what_stands_before_a_document(tmp_path, settings, expected):
    assert read_item_prefix(tmp_path) == ""
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert read_item_prefix(tmp_path) == expected


@pytest.mark.parametrize(
    "pooling, more, match",
    [
        ({"pooling_mode_max_tokens": True}, [], "pools by pooling_mode_max_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, [], "one of cls, mean and last"),
        ({"pooling_mode_mean_tokens": True}, ["Dense"], "Transformer, Pooling, Dense"),
    ],
)
def test_what_cannot_be_read_is_refused(backbone, pooling, more, match):
    add_modules(backbone, pooling, *more)
    with pytest.raises(ValueError, match=match):
        build(backbone)
    assert build(backbone, text_pooling="mean").config.text_pooling == "mean"


def test_the_samples_backbone_is_one():
    assert (read_text_pooling(SAMPLE_BACKBONE), read_max_length(SAMPLE_BACKBONE)) == ("mean", 32)
    assert read_lower_case(SAMPLE_BACKBONE)
    assert build(SAMPLE_BACKBONE).config.text_pooling == "mean"
