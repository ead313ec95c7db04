"""Projections: one row each, and the learned embedding of content that an item lacks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation
from modeling_transrec.models import projections
from modeling_transrec.models.projections import PROJECTIONS, Projection

from ..tiny import tiny_config


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


@pytest.mark.parametrize("name", PROJECTIONS)
def test_every_row_is_saved_and_loaded(name, tokenizer, tmp_path):
    model = TransRecForSequentialRecommendation(tiny_config("text", tokenizer, item_projection=name)).eval()
    model.save_pretrained(tmp_path)
    loaded = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    texts = {"input_ids": torch.tensor([[2, 7, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    assert torch.equal(loaded.get_item_features(**texts), model.get_item_features(**texts))


def test_a_new_row_needs_no_other_change(monkeypatch, tokenizer):
    class Scaled(nn.Module):
        starts_at_content = False

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
