"""BSARec against its layers written out with Fourier transforms, and the objective that encodes every prefix."""

import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import TransRecConfig, TransRecModel
from modeling_transrec.models.frequency_encoder import low_pass_weights

from ..checks import perturb
from ..tiny import make_batch


def low_pass(values, length, kept):
    """Of one history `(n, D)`, padded on the left with zeros to `length`."""
    padded = F.pad(values, (0, 0, length - len(values), 0))
    spectrum = torch.fft.rfft(padded, dim=0, norm="ortho")
    spectrum[kept:] = 0
    return torch.fft.irfft(spectrum, n=length, dim=0, norm="ortho")[length - len(values) :]


def norm(values, layer):
    return F.layer_norm(values, values.shape[-1:], layer.weight, layer.bias, eps=1e-6)


def naive_bsarec(model, history):
    """The user embedding of one history `(n, D)`."""
    config, encoder = model.config, model.user_encoder
    positions = encoder.position_embedding.weight[config.max_seq_len - len(history) :]
    hidden, places = norm(history + positions, encoder.layer_norm), torch.arange(len(history))
    for layer in encoder.layers:
        low = low_pass(hidden, config.max_seq_len, config.num_low_frequencies)
        filtered = norm(hidden + low + layer.root_of_factor**2 * (hidden - low), layer.frequency_norm)
        query, key, value = (
            (hidden @ part.weight.T).unflatten(1, (2, -1)).transpose(0, 1)
            for part in (layer.attention.query, layer.attention.key, layer.attention.value)
        )
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        scores = scores.masked_fill(places > places[:, None], -torch.inf)
        attended = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1) @ layer.attention.output.weight.T
        mixed = 0.7 * filtered + 0.3 * norm(hidden + attended, layer.attention_norm)
        inner = F.gelu(mixed @ layer.up.weight.T + layer.up.bias) @ layer.down.weight.T + layer.down.bias
        hidden = norm(mixed + inner, layer.layer_norm)
    return hidden[-1]


@pytest.mark.parametrize("max_seq_len", [7, 12])
def test_bsarec_equals_fourier_transforms_of_each_prefix(max_seq_len):
    torch.manual_seed(0)
    fields = {"num_items": 3, "hidden_size": 8, "max_seq_len": max_seq_len, "user_encoder_type": "bsarec"}
    model = perturb(TransRecModel(TransRecConfig(**fields)).eval())
    embeddings, mask = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    states = model.get_user_hidden(embeddings, mask)
    for user, first in ((0, 0), (1, 2)):
        for end in range(first, 6):
            expected = naive_bsarec(model, embeddings[user, first : end + 1])
            torch.testing.assert_close(states[user, end], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.get_user_features(embeddings, mask), states[:, -1], atol=1e-5, rtol=1e-5)


def test_short_prefixes_of_long_histories_keep_their_decayed_sum():
    fields = {"num_items": 3, "hidden_size": 8, "max_seq_len": 300, "normalize_scores": True}
    model = TransRecModel(TransRecConfig(**fields, user_encoder_type="bsarec", history_decay=0.7)).eval()
    embeddings, mask = torch.randn(1, 300, 8), torch.ones(1, 300, dtype=torch.bool)
    states = model.get_user_hidden(embeddings, mask)
    for end in (0, 40):
        alone = model.get_user_features(embeddings[:, : end + 1], mask[:, : end + 1])
        torch.testing.assert_close(states[:, end], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="leave one of them out"):
        TransRecConfig(**fields, user_encoder_type="gru4rec", objective="every_prefix", padding_embedding=True)


@pytest.mark.parametrize(("length", "kept"), [(1, 3), (4, 3), (9, 2), (10, 6)])
def test_a_low_pass_filter_is_a_sum_over_places(length, kept):
    places, values = torch.arange(length), torch.randn(length, 3)
    weights = low_pass_weights(places[:, None] - places, length, kept)
    torch.testing.assert_close(weights @ values, low_pass(values, length, kept), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("user_encoder_type", ["ligr", "gru4rec", "nextitnet"])
def test_without_positions_every_prefix_is_next_item(user_encoder_type, make_model, make_collator, histories):
    """States of these depend on nothing but what stands before, so both objectives have the same loss."""
    fields = {"user_encoder_type": user_encoder_type, "loss_type": "bce", "num_negatives": 2}
    losses = []
    for objective in ("next_item", "every_prefix"):
        model = perturb(make_model("id", objective=objective, **fields))
        losses.append(model(**make_batch(model, make_collator, "id", histories)).loss)
    assert torch.allclose(*losses, atol=1e-5)


@pytest.mark.parametrize("user_encoder_type", ["ligr", "bsarec"])
def test_what_is_computed_on_the_way_is_that_of_each_prefix(user_encoder_type, make_model):
    model = perturb(make_model("id", user_encoder_type=user_encoder_type, objective="every_prefix")).model
    model.set_attn_implementation("eager")
    inputs = {"item_ids": torch.arange(5), "item_index": torch.tensor([[-1, 0, 1, 2], [3, 4, 0, 3]])}
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    shorter = {**inputs, "item_index": inputs["item_index"][:, :3]}
    of_prefix = model(**shorter, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3 and len(output.attentions) == 2
    for whole, part in zip(output.hidden_states, of_prefix.hidden_states, strict=True):
        torch.testing.assert_close(whole[:, :3], part, atol=1e-5, rtol=1e-5)
    for whole, part in zip(output.attentions, of_prefix.attentions, strict=True):
        assert whole.shape == (2, 2, 4, 4)
        torch.testing.assert_close(whole[:, :, :3, :3], part, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(whole[1].sum(-1), torch.ones(2, 4))
