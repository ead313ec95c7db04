"""Quantised backbones: they recommend, train adapters, and are saved in full precision."""

import copy

import pytest
import torch
from torch import nn

from modeling_transrec import Recommender, TransRecForSequentialRecommendation
from modeling_transrec.hub.facts import checkpoint_hash
from modeling_transrec.models import quantised_weights
from modeling_transrec.models.bottlenecks import BottleneckAdapter


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("projection", ["gelu", "whitened"])
def test_a_quantised_model_recommends(projection, make_model, text_processor, items):
    width = {"hidden_size": None} if projection == "whitened" else {}
    model = make_model("text", item_projection=projection, **width)
    expected = {one["item_id"]: one["score"] for one in Recommender(model, text_processor).index(items).recommend(
        ["i001", "i002"], k=35)}  # fmt: skip
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    found = Recommender(quantised, text_processor).index(items).recommend(["i001", "i002"], k=35)
    scores = torch.tensor([[one["score"], expected[one["item_id"]]] for one in found]).T
    assert torch.corrcoef(scores)[0, 1] > 0.9


def replace_linear(backbone, make):
    for name, module in list(backbone.named_modules()):
        if type(module) is nn.Linear:
            quantised = make(module)
            quantised.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, quantised.to("cpu"))


KINDS = ("int8", "nf4", "torchao")


def quantise(kind, backbone):
    if kind == "dynamic":
        return torch.ao.quantization.quantize_dynamic(backbone, {nn.Linear}, dtype=torch.qint8, inplace=True)
    if kind == "torchao":
        torchao = pytest.importorskip("torchao.quantization", reason="needs torchao")
        return torchao.quantize_(backbone, torchao.Int8WeightOnlyConfig())
    nn_of = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes").nn
    if kind == "int8":
        return replace_linear(
            backbone, lambda one: nn_of.Linear8bitLt(one.in_features, one.out_features, has_fp16_weights=False)
        )
    options = {"quant_type": "nf4", "compute_dtype": torch.float32}
    return replace_linear(backbone, lambda one: nn_of.Linear4bit(one.in_features, one.out_features, **options))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_trained_in_a_quantised_backbone(kind, make_model, make_collator, histories, processor_of, items):
    size = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    config = make_model("text").config.text_config.to_dict() | size
    model = make_model("text", text_config=config)
    batch = make_collator("text", model)([histories[user] for user in range(3)])
    content = {name: batch[name] for name in ("input_ids", "attention_mask", "has_text")}
    expected = model.get_item_features(**content)
    quantise(kind, model.item_encoder.backbones[0])
    found = model.get_item_features(**content)
    assert torch.cosine_similarity(found, expected)[batch["has_text"]].min() > 0.95
    assert len(Recommender(model, processor_of["text"]).index(items).recommend(["i001"], k=5)) == 5
    model.add_peft_adapter(pytest.importorskip("peft").LoraConfig(r=2, target_modules=["query", "value"]))
    model.train()(**batch).loss.backward()
    adapters = {name: one.grad for name, one in model.named_parameters() if "lora_B" in name}
    assert len(adapters) == 2 and all(gradient.abs().sum() > 0 for gradient in adapters.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["dynamic", *(pytest.param(one, marks=pytest.mark.slow) for one in KINDS)])
def test_what_is_saved_computes_the_same_without_the_library(kind, make_model, make_collator, histories, tmp_path):
    size = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    model = make_model("text", text_config=make_model("text").config.text_config.to_dict() | size).eval()
    batch = make_collator("text", model)([histories[user] for user in range(3)])
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "has_text")}
    plain = copy.deepcopy(model.state_dict())
    quantise(kind, model.item_encoder.backbones[0])
    expected = model.get_item_features(**batch)
    model.save_pretrained(tmp_path)
    loaded = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert all(type(one) is nn.Linear for one in loaded.modules() if isinstance(one, nn.Linear))
    torch.testing.assert_close(loaded.get_item_features(**batch), expected, atol=0.03, rtol=0)
    changed = [name for name, weight in loaded.state_dict().items() if not torch.equal(weight, plain[name])]
    assert changed and all(".backbone." in name and name.endswith(".weight") for name in changed)

    # Loading leaves quantised layers alone, and what is not quantised is loaded.
    state = {name: torch.zeros_like(weight) for name, weight in loaded.state_dict().items()}
    found = model.load_state_dict(state)
    assert not found.missing_keys and not found.unexpected_keys
    assert not any(weight.abs().sum() for weight in model.user_encoder.parameters())
    saved_again = TransRecForSequentialRecommendation.from_pretrained(model.save_pretrained(tmp_path) or tmp_path)
    for name in changed:
        assert torch.equal(saved_again.state_dict()[name], loaded.state_dict()[name])
    with pytest.raises(RuntimeError, match="Unexpected key.*more"):
        model.load_state_dict({**state, "more": torch.zeros(1)})


class Params4bit(nn.Parameter):
    """Is known by its name, as bitsandbytes' is."""


def test_bottlenecks_in_quantised_layers_are_saved_loaded_and_hashed(
    make_model, make_collator, text_processor, histories, tmp_path, monkeypatch
):
    monkeypatch.setattr(quantised_weights, "_dequantised", lambda module: module.weight.detach().clone())
    model = make_model("text")
    batch = make_collator("text", model)([histories[0], histories[5]])
    for layer in model.item_encoder.text.backbone.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = Params4bit(layer.weight.detach(), requires_grad=False)
    model.add_peft_adapter({"peft_type": "BOTTLENECK", "reduction": 4})
    before = checkpoint_hash(model, text_processor)
    adapters = [part for part in model.modules() if isinstance(part, BottleneckAdapter)]
    for part in adapters:
        nn.init.normal_(part.up.weight)
    assert checkpoint_hash(model, text_processor) != before
    expected = model(**batch).loss
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**batch).loss, expected)

    # A state dict changes the adapters and leaves the layers around them alone.
    model.load_state_dict({name: torch.zeros_like(weight) for name, weight in again.state_dict().items()})
    assert not any(weight.any() for part in adapters for weight in part.parameters())
    layers = [layer for layer in model.modules() if isinstance(getattr(layer, "weight", None), Params4bit)]
    assert layers and all(layer.weight.any() for layer in layers)
