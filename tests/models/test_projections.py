"""Projections: one row each, and the learned embedding of content that an item lacks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation
from modeling_transrec.models import projections
from modeling_transrec.models.item_projection import ItemProjection
from modeling_transrec.models.projections import PROJECTIONS, Projection

from ..checks import perturb
from ..tiny import SIZE, make_batch, tiny_config


@pytest.mark.parametrize(("name", "activation"), [("gelu", F.gelu), ("linear", lambda values: values)])
def test_each_row_is_the_map_that_its_name_says(name, activation):
    projection = Projection(5, TransRecConfig(num_items=3, hidden_size=8, item_projection=name))
    (weight, bias) = (values for key, values in projection.named_parameters() if "layers" in key)
    features = torch.randn(3, 5)
    expected = activation(features @ weight.T + bias)
    torch.testing.assert_close(projection(features), expected)
    with torch.no_grad():
        projection.missing.fill_(7.0)
    placed = projection(features, torch.tensor([2, -1, 0, 2]))
    torch.testing.assert_close(placed, torch.stack([expected[2], torch.full((8,), 7.0), expected[0], expected[2]]))


def test_experts_equal_a_loop_over_items_and_experts():
    config = TransRecConfig(num_items=3, hidden_size=8, item_projection="moe", num_experts=3)
    layers = perturb(Projection(5, config)).eval().requires_grad_(False).layers
    features = torch.randn(4, 5)
    for one, found in zip(features, layers(features), strict=True):
        scores = [float(layers.gate.weight[number] @ one) for number in range(3)]
        shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        parts = [expert.linear.weight @ (one - expert.mean) for expert in layers.experts]
        torch.testing.assert_close(found, sum(share * part for share, part in zip(shares, parts, strict=True)))


def test_the_gate_is_even_at_first_and_its_noise_is_for_training_only():
    config = TransRecConfig(num_items=3, hidden_size=8, item_projection="moe", num_experts=3, expert_dropout_prob=0.0)
    model = TransRecForSequentialRecommendation(
        TransRecConfig(text_config={"model_type": "bert", **SIZE}, item_projection="moe", num_experts=3)
    )
    weights = model.item_encoder.text.projection.layers.eval().weights(torch.randn(4, 12))
    assert torch.equal(weights, torch.full((4, 3), 1 / 3))
    layers, features = perturb(Projection(5, config)).layers, torch.randn(4, 5)
    torch.manual_seed(0)
    noise = torch.randn(4, 3) * (F.softplus(features @ layers.noise.weight.T) + 0.01)
    torch.manual_seed(0)
    expected = (features @ layers.gate.weight.T + noise).softmax(-1)
    torch.testing.assert_close(layers.train().weights(features), expected)
    still = layers.eval().weights(features)
    assert torch.equal(still, layers.weights(features)) and not torch.allclose(still, expected)


def make_row(make_model, name):
    """A model of texts with one of [`PROJECTIONS`], and any quantiser where it needs one."""
    options = {"num_codebooks": 4, "codebook_size": 8} if name == "codes" else {}
    model = perturb(make_model("text", item_projection=name, **options))
    for one in model.item_encoder.quantisers.values():
        one.take(torch.linalg.qr(torch.randn(20, 20))[0], torch.randn(4, 8, 5))
    return model


@pytest.mark.parametrize("name", PROJECTIONS)
def test_every_part_of_a_row_learns(name, make_model, make_collator, histories):
    model = make_row(make_model, name).train()
    model(**make_batch(model, make_collator, "text", histories)).loss.backward()
    for parameter, weight in model.item_encoder.text.projection.layers.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", PROJECTIONS)
def test_every_row_is_saved_and_loaded(name, make_model, tmp_path):
    model = make_row(make_model, name).eval()
    model.save_pretrained(tmp_path)
    loaded = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    texts = {"input_ids": torch.tensor([[2, 7, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert torch.equal(loaded.get_item_features(**texts), model.get_item_features(**texts))


def test_a_new_row_needs_no_other_change(monkeypatch, tokenizer):
    class Scaled(ItemProjection):
        def __init__(self, width: int, hidden_size: int, config: TransRecConfig):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(hidden_size))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[..., :1] * self.scale

    monkeypatch.setitem(projections.PROJECTIONS, "scaled", Scaled)
    model = TransRecForSequentialRecommendation(tiny_config("text", tokenizer, item_projection="scaled"))
    texts = {"input_ids": torch.tensor([[2, 7, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    model.get_item_features(**texts).sum().backward()
    assert model.item_encoder.text.projection.layers.scale.grad.abs().sum() > 0


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        TransRecConfig(num_items=3, item_projection="linera")
