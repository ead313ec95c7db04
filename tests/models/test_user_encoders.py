"""NineRec's SASRec, written out anew in plain tensors, against ours."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation, TransRecModel
from modeling_transrec.models.histories import Histories
from modeling_transrec.models.user_encoders import USER_ENCODERS, UserEncoder


def layer_norm(x, norm):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * norm.weight + norm.bias


def reference_sasrec(encoder, vectors, num_heads):
    """One user `(L, D)` at a time, no padding: the block as NineRec's code has it."""
    length, width = vectors.shape
    positions = torch.arange(encoder.num_positions - length, encoder.num_positions)
    hidden = layer_norm(vectors + encoder.position_embedding.weight[positions], encoder.layer_norm)
    for layer in encoder.layers:
        attention, heads = layer.attention, []
        query, key, value = (hidden @ getattr(attention, name).weight.T for name in ("query", "key", "value"))
        for head in torch.arange(width).chunk(num_heads):
            scores = query[:, head] @ key[:, head].T / math.sqrt(len(head))
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -1e9)
            heads.append(scores.softmax(-1) @ value[:, head])
        hidden = layer_norm(hidden + torch.cat(heads, -1) @ attention.output.weight.T, layer.attention_norm)
        inner = F.relu(hidden @ layer.up.weight.T + layer.up.bias)
        hidden = layer_norm(hidden + inner @ layer.down.weight.T + layer.down.bias, layer.layer_norm)
    return hidden


def test_sasrec_equals_the_reference_block():
    torch.manual_seed(0)
    config = TransRecConfig(num_items=5, hidden_size=12, num_attention_heads=3, num_hidden_layers=2, max_seq_len=9)
    encoder = TransRecModel(config).eval().user_encoder
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    lengths = [9, 4, 1]
    padded, mask = torch.zeros(3, 9, 12), torch.zeros(3, 9, dtype=torch.bool)
    for line, length in enumerate(lengths):
        padded[line, 9 - length :] = torch.randn(length, 12)
        mask[line, 9 - length :] = True
    hidden = encoder(padded, Histories(mask))
    for line, length in enumerate(lengths):
        expected = reference_sasrec(encoder, padded[line, 9 - length :], num_heads=3)
        assert torch.allclose(hidden[line, 9 - length :], expected, atol=1e-5)


def test_weights_start_as_in_ninerec():
    torch.manual_seed(0)
    encoder = TransRecModel(TransRecConfig(num_items=500, hidden_size=128)).user_encoder
    assert not any(
        name.endswith("bias") and "attention." in name and "norm" not in name for name, _ in encoder.named_parameters()
    )
    up = encoder.layers[0].up
    assert abs(up.weight.std().item() - math.sqrt(2 / (128 + 512))) < 2e-3
    assert up.bias.abs().sum() == 0
    assert torch.equal(encoder.layer_norm.weight, torch.ones(128))


class RunningMeanUserEncoder(UserEncoder):
    """One that the package does not know: the mean of the history up to each item, through a linear layer."""

    supports_masked_item = True
    layer_class = torch.nn.Linear

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, item_embeddings, histories):
        mask = histories.mask[:, :, None]
        totals, counts = (item_embeddings * mask).cumsum(1), mask.cumsum(1).clamp(min=1)
        if self.predicts_masked_items:
            totals, counts = totals[:, -1:].expand_as(totals), counts[:, -1:]
        return self.layer(totals / counts)


@pytest.mark.parametrize("objective", ["next_item", "masked_item"])
def test_a_new_user_encoder_is_one_class_and_one_row(
    objective, monkeypatch, make_model, make_collator, histories, tmp_path
):
    monkeypatch.setitem(USER_ENCODERS, "running_mean", RunningMeanUserEncoder)
    with pytest.raises(Exception, match="did you mean 'running_mean'"):
        TransRecConfig(num_items=3, user_encoder_type="runing_mean")
    assert TransRecConfig(num_items=3, user_encoder_type="running_mean").objective == "next_item"
    model = make_model("id", user_encoder_type="running_mean", objective=objective)
    assert "Linear" in model._no_split_modules
    batch = make_collator("id", model)([histories[user] for user in range(5)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model(**batch).loss
    before.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.model.user_encoder.parameters())
    optimizer.step()
    assert model(**batch).loss < before
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path)
    assert isinstance(again.model.user_encoder, RunningMeanUserEncoder)
    assert torch.equal(again(**batch).loss, model(**batch).loss)
