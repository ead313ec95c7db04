import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, BertConfig, BertModel

from modeling_transrec import (
    AutoModelForSequentialRecommendation,
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecProcessor,
)

from ..checks import assert_equal_weights, perturb, weights
from ..tiny import NUM_ITEMS, make_inputs, tiny_config, tiny_text_config


KINDS = ["text", "id"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved", [TransRecModel, TransRecForSequentialRecommendation])
@pytest.mark.parametrize("loaded", [TransRecModel, TransRecForSequentialRecommendation])
def test_each_class_loads_the_others_checkpoint_whole(kind, saved, loaded, tokenizer, tmp_path):
    model = perturb(saved(tiny_config(kind, tokenizer))).eval()
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again, info = loaded.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    inputs = make_inputs(kind)
    del inputs["labels"], inputs["negative_index"], inputs["item_log_popularity"]
    expected, found = model(**inputs), again.eval()(**inputs)
    assert torch.equal(expected.user_embeds, found.user_embeds)
    assert torch.equal(expected.item_embeds, found.item_embeds)


def test_loaded_weights_are_no_views_of_the_file(make_model, tmp_path):
    model = make_model("text")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for name, weight in loaded.named_parameters():
        assert weight.data_ptr() % 64 == 0, name
    for file in tmp_path.glob("*.safetensors"):  # written over in place
        file.write_bytes(bytes(file.stat().st_size))
    expected = model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.state_dict().items())


@pytest.mark.parametrize("load", [TransRecModel.from_pretrained, AutoModel.from_pretrained])
def test_a_part_that_the_checkpoint_lacks_is_never_random_unasked(load, make_model, tmp_path):
    model = make_model("text")
    weights = model.state_dict()
    lost = [name for name in weights if "projection" in name]
    model.save_pretrained(tmp_path, state_dict={name: weights[name] for name in weights if name not in lost})
    with pytest.raises(ValueError, match=f"lack {len(lost)} of the model's, first .*projection.* random"):
        load(tmp_path)
    again = {
        f"model.{name}": weight for name, weight in load(tmp_path, allow_missing_weights=True).state_dict().items()
    }
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights if name not in lost)


def test_weights_of_other_shapes_are_named(make_model, tmp_path):
    make_model("text").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit its configuration: .*intermediate.* has the shape .*30.*32"):
        TransRecModel.from_pretrained(tmp_path)
    loaded = TransRecModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert loaded.config.text_config.intermediate_size == 32


def test_auto_classes_find_everything(tokenizer, text_processor, tmp_path):
    TransRecModel(tiny_config("text", tokenizer)).save_pretrained(tmp_path)
    text_processor.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), TransRecConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), TransRecModel)
    head = AutoModelForSequentialRecommendation.from_pretrained(tmp_path)
    assert isinstance(head, TransRecForSequentialRecommendation)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), TransRecProcessor)


def test_text_padding_does_not_matter(make_model):
    model, inputs = make_model("text"), make_inputs("text")
    short = model.get_item_features(input_ids=inputs["input_ids"][:1, :4], attention_mask=torch.ones(1, 4))
    longer = torch.cat([inputs["input_ids"][:1, :4], torch.zeros(1, 9, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 4 + [0] * 9])
    assert torch.allclose(model.get_item_features(input_ids=longer, attention_mask=mask), short, atol=1e-6)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "gpt2", "opt"])
def test_any_text_backbone(model_type, tokenizer, tmp_path):
    config = TransRecConfig(text_config=tiny_text_config(len(tokenizer), model_type), hidden_size=16)
    model = perturb(TransRecForSequentialRecommendation(config)).eval()
    inputs = make_inputs("text")
    loss = model(**inputs).loss
    loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused, unused
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).loss, loss)


def test_from_encoder_pretrained_keeps_the_backbones_weights(tokenizer, tmp_path):
    text_config = tiny_text_config(len(tokenizer))
    del text_config["model_type"]
    backbone = perturb(BertModel(BertConfig(**text_config))).eval()
    backbone.save_pretrained(tmp_path / "bert")
    for cls in (TransRecModel, TransRecForSequentialRecommendation):
        model = cls.from_encoder_pretrained(text_model_name_or_path=tmp_path / "bert", hidden_size=16).eval()
        base = getattr(model, "model", model)
        inputs = {name: make_inputs("text")[name] for name in ("input_ids", "attention_mask")}
        expected = backbone(**inputs).last_hidden_state
        assert torch.equal(base.item_encoder.text.backbone(**inputs).last_hidden_state, expected)
        assert not any("pooler" in name for name, _ in model.named_parameters())
        model.save_pretrained(tmp_path / "transrec")
        (tmp_path / "bert").rename(tmp_path / "moved")  # loading needs no backbone repository
        again = cls.from_pretrained(tmp_path / "transrec").eval()
        assert torch.equal(again.get_item_features(**inputs), model.get_item_features(**inputs))
        (tmp_path / "moved").rename(tmp_path / "bert")


def test_freeze_backbone_trains_the_rest(make_model):
    model = make_model("text")
    model.freeze_backbone()
    model(**make_inputs("text")).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (".backbone." in name), name
    with pytest.raises(ValueError, match="no backbone"):
        make_model("id").freeze_backbone()


def test_a_frozen_backbone_gives_the_same_features_at_every_step(make_model):
    model, inputs = make_model("text"), make_inputs("text")
    items = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    model.train()
    assert not torch.equal(model.get_item_features(**items), model.get_item_features(**items))  # dropout
    model.freeze_backbone()
    model.train()
    assert torch.equal(model.get_item_features(**items), model.get_item_features(**items))


def test_a_backbone_whose_output_is_narrower_than_its_layers(tokenizer):
    text_config = {**tiny_text_config(len(tokenizer), "opt"), "word_embed_proj_dim": 12}
    model = TransRecModel(TransRecConfig(text_config=text_config, hidden_size=16))
    inputs = {name: make_inputs("text")[name] for name in ("input_ids", "attention_mask")}
    assert model.get_item_features(**inputs).shape == (11, 16)


def test_an_encoder_decoder_is_refused():
    with pytest.raises(ValueError, match="t5 is an encoder-decoder"):
        TransRecModel(TransRecConfig(text_config={"model_type": "t5", "d_model": 16, "num_layers": 1}))


def test_one_dtype_throughout(tokenizer, tmp_path):
    config = TransRecConfig(text_config={**tiny_text_config(len(tokenizer)), "dtype": "bfloat16"}, hidden_size=16)
    model = TransRecForSequentialRecommendation(config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.model.item_encoder.text.backbone.save_pretrained(tmp_path / "backbone")
    half = TransRecModel.from_encoder_pretrained(tmp_path / "backbone", dtype=torch.bfloat16, hidden_size=16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path / "half")
    assert TransRecModel.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    assert TransRecModel.from_pretrained(tmp_path / "half", dtype=torch.float32).dtype == torch.float32


def test_resizing_tokens_is_for_text_models(make_model, tokenizer):
    model = make_model("text")
    model.model.resize_token_embeddings(len(tokenizer) + 3)
    assert model.config.text_config.vocab_size == len(tokenizer) + 3
    with pytest.raises(ValueError, match="a model of id has no tokens"):
        make_model("id").model.resize_token_embeddings(50)


def test_missing_inputs_are_named(make_model):
    inputs = make_inputs("id")
    with pytest.raises(ValueError, match="input_ids, attention_mask"):
        make_model("text")(**inputs)
    del inputs["item_log_popularity"]
    with pytest.raises(ValueError, match="item_log_popularity"):
        make_model("id")(**inputs)
    too_long = torch.zeros(1, 21, dtype=torch.long)
    with pytest.raises(ValueError, match="max_seq_len=20"):
        make_model("id")(item_ids=torch.arange(3), item_index=too_long)


def test_the_loss_is_a_mean_over_the_given_number_of_targets(make_model):
    model, inputs = make_model("id"), make_inputs("id")
    targets = int((inputs["labels"] != -100).sum())
    mean = model(**inputs).loss
    assert torch.allclose(model(**inputs, num_items_in_batch=2 * targets).loss * 2, mean)


def test_models_of_one_configuration_share_nothing(tokenizer, tmp_path):
    config = tiny_config("text", tokenizer, num_items=NUM_ITEMS)
    before = config.to_dict()
    one, other = TransRecModel(config), TransRecForSequentialRecommendation(config)
    one.drop_item_ids()
    one.add_peft_adapter({"peft_type": "LORA", "r": 2, "target_modules": ["query"]})
    assert config.to_dict() == before and other.model.config is other.config
    other.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path)
    assert again.item_encoder.id_embedding is not None and again.config.peft_config is None
    assert_equal_weights(weights(again), weights(other), atol=0)


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("user_encoder", ["sasrec", "ligr", "bert4rec", "gru4rec", "nextitnet", "dnn"])
def test_what_is_computed_on_the_way_is_returned_where_asked_for(user_encoder, with_labels, make_model):
    model = make_model("text", user_encoder_type=user_encoder, logq_correction=False)
    model.set_attn_implementation("eager")
    inputs = make_inputs("text")
    inputs = {name: values for name, values in inputs.items() if name != "labels" or with_labels}
    inputs.pop("negative_index"), inputs.pop("item_log_popularity")
    plain = model(**inputs)
    assert plain.hidden_states is None and plain.attentions is None
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(output.user_hidden, plain.user_hidden)
    layers = getattr(model.model.user_encoder, "layers", [])
    assert len(output.hidden_states) == len(layers) + 1
    torch.testing.assert_close(output.hidden_states[-1], output.user_hidden)
    length = output.user_hidden.shape[1]
    assert all(states.shape == (3, length, 16) for states in output.hidden_states)
    if user_encoder in ("sasrec", "ligr", "bert4rec"):
        assert len(output.attentions) == len(layers)
        for weights in output.attentions:
            torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, length))
            if user_encoder != "bert4rec":
                assert weights.triu(1).abs().max() == 0
    model.config.output_hidden_states = True
    assert len(model(**inputs).hidden_states) == len(layers) + 1
    *others, last = model(**inputs, output_hidden_states=[-1]).hidden_states
    assert others == [None] * len(layers) and last is not None


@pytest.mark.parametrize("kind", ["clip", "vilt"])
def test_the_vocabulary_of_a_text_grows(kind, make_model, tmp_path):
    model = make_model(kind)
    count = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(count + 7)
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path)
    assert again.get_input_embeddings().num_embeddings == count + 7
    assert_equal_weights(weights(again), weights(model), atol=0)


def test_the_configuration_says_whether_a_tuple_is_returned(make_model):
    model = make_model("id", return_dict=False)
    inputs = {name: values for name, values in make_inputs("id").items() if name in ("item_index", "item_ids")}
    assert isinstance(model(**inputs), tuple) and isinstance(model.model(**inputs), tuple)
    assert model(**inputs, return_dict=True).logits.shape == (3, 11)


def test_weights_of_attention_are_none_where_they_are_not_computed(make_model, caplog):
    model = make_model("id")
    inputs = {name: values for name, values in make_inputs("id").items() if name in ("item_index", "item_ids")}
    assert set(model(**inputs, output_attentions=True).attentions) == {None}
    with pytest.raises(ValueError, match="true, false or a list of layers, got 'last'"):
        model(**inputs, output_hidden_states="last")
    with pytest.raises(ValueError, match=r"\[7\]: there are 3 hidden states, from 0 on"):
        model(**inputs, output_hidden_states=[7])
    assert "'sdpa' computes no attention weights" in caplog.text


def test_texts_without_a_mask_have_no_padding(make_model):
    model, tokens = make_model("text"), torch.randint(5, 60, (4, 6))
    expected = model.get_item_features(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    torch.testing.assert_close(model.get_item_features(input_ids=tokens), expected)


def test_layers_that_are_never_split_are_those_of_the_user_encoder_and_of_each_backbone(make_model):
    model = make_model("text+image")
    assert model._no_split_modules == model.model._no_split_modules > {"SASRecLayer", "BertLayer", "ViTLayer"}
    assert make_model("id", user_encoder_type="gru4rec")._no_split_modules == {"GRU4RecLayer"}


@pytest.mark.parametrize("saved", [TransRecModel, TransRecForSequentialRecommendation])
def test_both_classes_refuse_tokens_where_there_are_none(saved):
    with pytest.raises(ValueError, match="no tokens to resize"):
        saved(TransRecConfig(num_items=4, hidden_size=8)).resize_token_embeddings(9)


def test_code_of_others_is_refused_before_its_weights_are_read(tmp_path):
    """Nothing could load a checkpoint of ours with a backbone whose code it does not carry."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "modeling_other.OtherModel"}})
    )
    with pytest.raises(ValueError, match="has code of its own"):
        TransRecModel.from_encoder_pretrained(str(tmp_path), backbone_kwargs={"trust_remote_code": True})
