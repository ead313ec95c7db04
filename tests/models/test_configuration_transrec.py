"""Checks, errors, round trip and documentation of the configuration."""

import copy
import json
import math
import re

import pytest
from transformers import AutoConfig, BertConfig

from modeling_transrec import TransRecConfig, TransRecModel
from modeling_transrec.models.configuration_transrec import described_fields
from modeling_transrec.models.fusions import FUSIONS
from modeling_transrec.models.losses import LOSSES
from modeling_transrec.models.pooling import TEXT_POOLINGS
from modeling_transrec.models.user_encoders import USER_ENCODERS


def documented(default) -> str:
    """How a docstring in the style of transformers states a default."""
    if default is None:
        return "*optional*"
    if isinstance(default, str):
        return f"defaults to `{json.dumps(default)}`"
    return f"defaults to `{default}`" if isinstance(default, bool) else f"defaults to {default}"


def test_round_trip(tmp_path):
    config = TransRecConfig(text_config={"model_type": "bert", "hidden_size": 24}, max_seq_len=7, loss_type="bce")
    config.save_pretrained(tmp_path)
    assert TransRecConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert AutoConfig.from_pretrained(tmp_path).text_config.hidden_size == 24
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_unknown_keys_name_the_closest_known_one():
    with pytest.raises(ValueError, match="'hiden_size'; did you mean 'hidden_size'"):
        TransRecConfig(hiden_size=3)


def test_keys_of_transformers_are_not_refused(tmp_path):
    config = TransRecConfig(num_items=3)
    config.pad_token_id, config.use_cache, config.tokenizer_class = 0, False, "BertTokenizer"
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).pad_token_id == 0


def test_overrides_at_loading_are_checked(tmp_path):
    TransRecConfig(num_items=3).save_pretrained(tmp_path)
    assert TransRecConfig.from_pretrained(tmp_path, loss_type="bce").loss_type == "bce"
    with pytest.raises(ValueError, match="max_seq_len must be at least 1"):
        TransRecConfig.from_pretrained(tmp_path, max_seq_len=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_type": "bpr"}, r"loss_type='bpr' is unknown; did you mean 'bce'\? Known are 'bce', 'in_batch'"),
        ({"objective": "any"}, "objective"),
        ({"text_pooling": "max"}, "text_pooling"),
        ({"hidden_size": 15}, "multiple of num_attention_heads"),
        ({"max_seq_len": 0}, "max_seq_len must be at least 1"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob"),
        ({"text_config": {}, "multimodal_config": {}}, "leave out text_config"),
        ({"user_encoder_type": "sasrec", "objective": "masked_item"}, "both sides .* 'bert4rec', 'ligr'; .*'sasrec'"),
        ({"user_encoder_type": "bert4rec", "objective": "next_item"}, "'bert4rec' reads both sides"),
        ({"user_encoder_type": "dssm"}, "'dssm' needs num_users"),
        ({"user_encoder_type": "dssm", "num_users": 3, "user_adapter": "serial"}, "no layers to put adapters into"),
        ({"objective": "other_items"}, "'other_items' needs a user encoder .* one of 'dnn', 'dssm'"),
        ({"user_encoder_type": "dnn", "history_decay": 0.5, "objective": "other_items"}, "leave out history_decay"),
        ({"padding_embedding": True}, "'nextitnet', 'gru4rec'; user_encoder_type='sasrec' does not: leave it out"),
        ({"num_users": 3}, "'sasrec' has no table of user ids; leave out num_users"),
        (
            {"loss_type": "bce", "gather_negatives": True},
            "'distilled_in_batch', not of 'bce'",
        ),
        ({"fusion": "add"}, "Known are 'sum', 'concat'"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"mask_probability": 1.0}, "mask_probability"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"num_items": 0}, "num_items must be at least 1"),
        ({"num_items": 2**31 + 1}, "num_items must be at most 2,147,483,648, got 2,147,483,649"),
        ({"gbce_t": 1.5}, "gbce_t must be at most 1, got 1.5"),
    ],
)
def test_bad_values_say_what_to_change(fields, message):
    with pytest.raises(Exception, match=message):
        TransRecConfig(**fields)


@pytest.mark.parametrize(
    ("option", "table", "wrong", "nearest"),
    [
        ("user_encoder_type", USER_ENCODERS, "nonsense", "nextitnet"),
        ("user_encoder_type", USER_ENCODERS, "sasrek", "sasrec"),
        ("loss_type", LOSSES, "full-softmax", "full_softmax"),
        ("fusion", FUSIONS, "coattention", "co_attention"),
        ("text_pooling", TEXT_POOLINGS, "average mean", "mean"),
        ("objective", ("next_item", "last_item", "masked_item"), "mask_item", "masked_item"),
        ("negative_sampling", ("uniform", "popularity"), "popular", "popularity"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_ones(option, table, wrong, nearest):
    with pytest.raises(Exception, match=f"{option}={wrong!r} is unknown") as error:
        TransRecConfig(**{option: wrong})
    assert f"did you mean {nearest!r}?" in str(error.value)
    assert all(repr(name) in str(error.value) for name in table)


def test_every_option_is_described_as_it_is_declared():
    fields, described = TransRecConfig.own_fields(), described_fields(TransRecConfig)
    assert list(described) == list(fields)
    assert all(text.endswith(".") and not set("`[]") & set(text) for text in described.values())
    for name, field in fields.items():
        assert re.search(rf"\n +{name} \(.*, {re.escape(documented(field.default))}\):\n", TransRecConfig.__doc__)


def test_a_model_needs_an_item_encoder():
    with pytest.raises(ValueError, match="set one of text_config"):
        TransRecModel(TransRecConfig())


def test_attributes_of_ones_own_come_back(tmp_path):
    config = TransRecConfig(num_items=3, hidden_size=8)
    assert "own_attributes" not in config.to_dict()
    config.note, config.tried = "of November", [1, 2]
    config.save_pretrained(tmp_path)
    for again in (TransRecConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert (again.note, again.tried) == ("of November", [1, 2])
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "hiden_size": 16}))
    with pytest.raises(ValueError, match="no option 'hiden_size'; did you mean 'hidden_size'"):
        TransRecConfig.from_pretrained(tmp_path)


def test_another_kind_of_checkpoint_is_called_by_its_name(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a checkpoint of bert, not of TransRec; from_encoder_pretrained"):
        TransRecConfig.from_pretrained(tmp_path)
