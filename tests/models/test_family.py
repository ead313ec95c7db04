"""One test for all: every item encoder with every user encoder and every loss."""

import itertools

import pytest
import torch

from modeling_transrec import TransRecForSequentialRecommendation, TransRecModel
from modeling_transrec.models.fusions import FUSIONS
from modeling_transrec.models.losses import LOSSES
from modeling_transrec.models.user_encoders import USER_ENCODERS, Packing

from ..checks import perturb
from ..tiny import ITEM_KINDS, make_batch


FUSED = [f"text+image, {fusion}" for fusion in FUSIONS if fusion != "sum"]
PAIRS = [*itertools.product(ITEM_KINDS, USER_ENCODERS), *itertools.product(FUSED, ("sasrec", "bert4rec"))]
CAUSAL = [name for name in USER_ENCODERS if name != "bert4rec"]


def make_kind(make_model, kind, **options):
    """A model of one of `ITEM_KINDS`, or of one and a fusion."""
    kind, _, fusion = kind.partition(", ")
    return make_model(kind, **options, **({"fusion": fusion} if fusion else {}))


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize(("kind", "user_encoder_type"), PAIRS)
def test_every_combination_trains(kind, user_encoder_type, loss_type, make_model, make_collator, histories):
    options = {"user_encoder_type": user_encoder_type, "loss_type": loss_type, "num_negatives": 3}
    model = perturb(make_kind(make_model, kind, hidden_dropout_prob=0.0, **options))
    batch = make_batch(model, make_collator, kind, histories)
    loss = model(**batch).loss
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
            gradients[name] = parameter.grad.clone()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(**batch).loss
    assert rough.item() == pytest.approx(loss.item(), rel=0.1)

    model.zero_grad()
    model.activation_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    again = model(**batch).loss
    again.backward()
    assert torch.allclose(again, loss, atol=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-6), name


@pytest.mark.parametrize(("kind", "user_encoder_type"), PAIRS)
def test_saved_and_loaded_exactly(kind, user_encoder_type, make_model, make_collator, histories, tmp_path):
    model = perturb(make_kind(make_model, kind, user_encoder_type=user_encoder_type)).eval()
    batch = make_batch(model, make_collator, kind, histories)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    for cls in (TransRecForSequentialRecommendation, TransRecModel):
        again, info = cls.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        expected, found = model.state_dict(), again.state_dict()
        assert all(
            torch.equal(found[name.removeprefix("model.") if cls is TransRecModel else name], tensor)
            for name, tensor in expected.items()
        )
        for (name, buffer), (_, other) in zip(model.named_buffers(), again.named_buffers(), strict=True):
            assert torch.equal(buffer, other), name
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize(("kind", "user_encoder_type"), PAIRS)
def test_padding_and_the_rest_of_the_batch_do_not_matter(
    kind, user_encoder_type, make_model, make_collator, histories
):
    model = perturb(make_kind(make_model, kind, user_encoder_type=user_encoder_type)).eval()
    collator = make_collator(kind.partition(", ")[0], model)
    together = collator([histories[user] for user in range(5)])
    for user in range(5):
        alone = collator([histories[user]])
        results = []
        for batch, line in ((together, user), (alone, 0)):
            inputs = {name: value for name, value in batch.items() if name not in ("labels", "item_log_popularity")}
            if user_encoder_type == "bert4rec":
                inputs["item_index"] = batch["item_index"].where(batch["item_index"] != -2, batch["labels"])
                inputs["item_index"] = inputs["item_index"].masked_fill(inputs["item_index"] == -100, -1)[:, -20:]
            results.append(model.model(**inputs).user_embeds[line])
        assert torch.allclose(*results, atol=2e-6), user


@pytest.mark.parametrize("user_encoder_type", CAUSAL)
def test_the_future_does_not_reach_the_past(user_encoder_type, make_model):
    model = make_model("id", user_encoder_type=user_encoder_type).model
    user_ids = torch.tensor([0, 5]) if user_encoder_type == "dssm" else None
    vectors, mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    changed = vectors.clone()
    changed[:, 6:] = torch.randn(2, 3, 16)
    before, after = model.get_user_hidden(vectors, mask, user_ids), model.get_user_hidden(changed, mask, user_ids)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
    if user_encoder_type != "dssm":  # which reads no history
        assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("user_encoder_type", [name for name in USER_ENCODERS if name != "dssm"])
def test_padding_on_either_side_is_not_read(user_encoder_type, make_model):
    model = perturb(make_model("id", user_encoder_type=user_encoder_type))
    vectors = torch.randn(1, 5, 16)
    alone = model.get_user_features(vectors, torch.ones(1, 5, dtype=torch.bool))
    left = torch.cat([torch.full((1, 7, 16), 7.0), vectors], dim=1)  # what lies at padding must not be read
    right = torch.cat([vectors, torch.full((1, 4, 16), -3.0)], dim=1)
    left_mask, right_mask = torch.arange(12)[None] >= 7, torch.arange(9)[None] < 5
    assert torch.allclose(model.get_user_features(left, left_mask), alone, atol=1e-6)
    if user_encoder_type != "gru4rec":
        assert torch.allclose(model.get_user_features(right, right_mask), alone, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("user_encoder_type", USER_ENCODERS)
def test_the_last_state_alone_is_that_of_all(user_encoder_type, implementation, make_model):
    model = perturb(make_model("id", user_encoder_type=user_encoder_type, num_hidden_layers=2))
    model.set_attn_implementation(implementation)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 7, 16, generator=generator)
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[1, :4] = mask[2, 1:] = mask[3, :] = False  # padding on the left, on the right, no history at all
    mask[4, [0, 6]] = False
    inputs = {"user_ids": torch.arange(5)} if user_encoder_type == "dssm" else {}
    encoder, results = model.model.user_encoder, []
    packing = Packing(mask)
    for states in (
        packing.last_of(encoder(vectors, packing, **inputs)),
        encoder.last(vectors, Packing(mask), **inputs),
    ):
        model.zero_grad()
        states.square().sum().backward()
        gradients = {name: one.grad.clone() for name, one in encoder.named_parameters() if one.grad is not None}
        results.append((states, gradients))
    (expected, expected_gradients), (found, gradients) = results
    assert torch.allclose(found, expected, atol=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected_gradients[name], atol=1e-5), name


@pytest.mark.parametrize("user_encoder_type", ["sasrec", "bert4rec", "ligr"])
def test_eager_equals_sdpa(user_encoder_type, make_model, make_collator, histories):
    model = make_model("text", user_encoder_type=user_encoder_type)
    batch = make_batch(model, make_collator, "text", histories)
    losses = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        losses.append(model(**batch).loss)
    assert torch.allclose(*losses, atol=1e-6)


def test_bert4rec_looks_at_both_sides_and_predicts_at_the_appended_mask(make_model):
    model = perturb(make_model("id", user_encoder_type="bert4rec")).model
    vectors, mask = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    changed = vectors.clone()
    changed[:, 5] = torch.randn(16)
    assert not torch.allclose(model.get_user_hidden(vectors, mask)[:, 0], model.get_user_hidden(changed, mask)[:, 0])
    appended = torch.cat([vectors, torch.zeros(1, 1, 16)], dim=1)
    is_masked = torch.arange(7)[None] == 6
    expected = model.get_user_hidden(appended, torch.ones(1, 7, dtype=torch.bool), is_masked=is_masked)[:, 6]
    assert torch.allclose(model.get_user_features(vectors, mask), expected, atol=1e-6)
    full = torch.randn(1, 20, 16)  # max_seq_len items and the mask
    assert model.get_user_features(full, torch.ones(1, 20, dtype=torch.bool)).shape == (1, 16)
