"""One test for all: every item encoder with every user encoder and every loss."""

import itertools

import pytest
import torch

from modeling_transrec import TransRecForSequentialRecommendation, TransRecModel
from modeling_transrec.models.fusions import FUSIONS
from modeling_transrec.models.histories import Histories
from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..checks import perturb
from ..tiny import ITEM_KINDS, ONE_VECTOR_LOSSES, make_batch, of_users


OF_CONTENTS = [name for name, fusion in FUSIONS.items() if name != "sum" and not fusion.reads_ids]
FUSED = [f"text+image, {fusion}" for fusion in OF_CONTENTS]
OF_THREE = [f"text+image+audio, {fusion}" for fusion in OF_CONTENTS]
# Every user encoder, and those that are causal by default with the other objective that they can be trained with.
MASKED = [f"{name}, masked_item" for name, one in USER_ENCODERS.items() if one.causal and one.supports_masked_item]
ENCODERS = [*USER_ENCODERS, *MASKED]
WITHIN = ("masked_item", "other_items")
CAUSAL = [name for name, one in USER_ENCODERS.items() if one.default_objective not in WITHIN]
CAUSAL += ["dnn, next_item", "dssm, last_item"]
BIDIRECTIONAL = [name for name, one in USER_ENCODERS.items() if one.default_objective == "masked_item"] + MASKED
# What items are made of does not reach a user encoder: those that came later are tried with two kinds.
LATER = ("mlp", "bsarec", "hstu")
PAIRS = [*itertools.product(ITEM_KINDS, [name for name in ENCODERS if name not in LATER])]
PAIRS += [*itertools.product(("text", "id"), LATER), *itertools.product(FUSED, ("sasrec", "bert4rec"))]
PAIRS += [(kind, "sasrec") for kind in OF_THREE]


def make_kind(make_model, kind, user_encoder="sasrec", **options):
    """A model of one of `ITEM_KINDS`, or of one and a fusion, with one of `ENCODERS`."""
    kind, _, fusion = kind.partition(", ")
    user_encoder_type, _, objective = user_encoder.partition(", ")
    options |= {"user_encoder_type": user_encoder_type}
    return make_model(
        kind, **options, **({"fusion": fusion} if fusion else {}), **({"objective": objective} if objective else {})
    )


def make_histories(model, mask):
    """Histories of users 0, 1, …, whose ids and times are known where the user encoder reads them."""
    return Histories(mask, **of_users(model, mask))


@pytest.mark.parametrize("loss_type", ONE_VECTOR_LOSSES)
@pytest.mark.parametrize(("kind", "user_encoder"), PAIRS)
def test_every_combination_trains(kind, user_encoder, loss_type, make_model, make_collator, histories):
    options = {"loss_type": loss_type, "num_negatives": 3, "hidden_dropout_prob": 0.0}
    model = perturb(make_kind(make_model, kind, user_encoder, **options))
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


@pytest.mark.parametrize(("kind", "user_encoder"), PAIRS)
def test_saved_and_loaded_exactly(kind, user_encoder, make_model, make_collator, histories, tmp_path):
    model = perturb(make_kind(make_model, kind, user_encoder)).eval()
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


@pytest.mark.parametrize(("kind", "user_encoder"), PAIRS)
def test_padding_and_the_rest_of_the_batch_do_not_matter(kind, user_encoder, make_model, make_collator, histories):
    model = perturb(make_kind(make_model, kind, user_encoder)).eval()
    collator = make_collator(kind.partition(", ")[0], model)
    together = collator([histories[user] for user in range(5)])
    for user in range(5):
        alone = collator([histories[user]])
        results = []
        for batch, line in ((together, user), (alone, 0)):
            inputs = {name: value for name, value in batch.items() if name not in ("labels", "item_log_popularity")}
            if model.config.predicts_within:
                inputs["item_index"] = batch["item_index"].where(batch["item_index"] != -2, batch["labels"])
                inputs["item_index"] = inputs["item_index"].masked_fill(inputs["item_index"] == -100, -1)[:, -20:]
            results.append(model.model(**inputs).user_embeds[line])
        assert torch.allclose(*results, atol=2e-6), user


@pytest.mark.parametrize("user_encoder", CAUSAL)
def test_the_future_does_not_reach_the_past(user_encoder, make_model):
    model = make_kind(make_model, "id", user_encoder).model
    vectors, mask = torch.randn(2, 9, 16), torch.ones(2, 9, dtype=torch.bool)
    changed, known = vectors.clone(), of_users(model, mask)
    changed[:, 6:] = torch.randn(2, 3, 16)
    before = model.get_user_hidden(vectors, mask, **known)
    if "timestamps" in known:
        known["timestamps"] = known["timestamps"] + 10**7 * (torch.arange(9) >= 6)
    after = model.get_user_hidden(changed, mask, **known)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
    if "user_ids" not in known:  # else the history is not read
        assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("user_encoder", [name for name in ENCODERS if name != "dssm"])
def test_padding_on_either_side_is_not_read(user_encoder, make_model):
    model = perturb(make_kind(make_model, "id", user_encoder))
    vectors = torch.randn(1, 5, 16)

    def encode(vectors, mask):
        return model.get_user_features(vectors, mask, **of_users(model.model, mask))

    alone = encode(vectors, torch.ones(1, 5, dtype=torch.bool))
    left = torch.cat([torch.full((1, 7, 16), 7.0), vectors], dim=1)  # what lies at padding must not be read
    right = torch.cat([vectors, torch.full((1, 4, 16), -3.0)], dim=1)
    left_mask, right_mask = torch.arange(12)[None] >= 7, torch.arange(9)[None] < 5
    assert torch.allclose(encode(left, left_mask), alone, atol=1e-6)
    if user_encoder != "gru4rec":
        assert torch.allclose(encode(right, right_mask), alone, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("user_encoder", ENCODERS)
def test_the_last_state_alone_is_that_of_all(user_encoder, implementation, make_model):
    model = perturb(make_kind(make_model, "id", user_encoder, num_hidden_layers=2))
    model.set_attn_implementation(implementation)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 7, 16, generator=generator)
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[1, :4] = mask[2, 1:] = mask[3, :] = False  # padding on the left, on the right, no history at all
    mask[4, [0, 6]] = False
    encoder, results = model.model.user_encoder, []
    histories = make_histories(model.model, mask)
    for states in (
        histories.last_of(encoder(vectors, histories)),
        encoder.last(vectors, make_histories(model.model, mask)),
    ):
        model.zero_grad()
        states.square().sum().backward()
        gradients = {name: one.grad.clone() for name, one in encoder.named_parameters() if one.grad is not None}
        results.append((states, gradients))
    (expected, expected_gradients), (found, gradients) = results
    assert torch.allclose(found, expected, atol=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, expected_gradients[name], atol=1e-5), name


@pytest.mark.parametrize("user_encoder", ["sasrec", "bert4rec", "ligr", "ligr, masked_item"])
def test_eager_equals_sdpa(user_encoder, make_model, make_collator, histories):
    model = make_kind(make_model, "text", user_encoder)
    batch = make_batch(model, make_collator, "text", histories)
    losses = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        losses.append(model(**batch).loss)
    assert torch.allclose(*losses, atol=1e-6)


@pytest.mark.parametrize("user_encoder", BIDIRECTIONAL)
def test_a_masked_item_is_predicted_from_both_sides_and_the_next_one_at_an_appended_mask(user_encoder, make_model):
    model = perturb(make_kind(make_model, "id", user_encoder)).model
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


@pytest.mark.parametrize("user_encoder", BIDIRECTIONAL)
def test_a_masked_item_is_not_read(user_encoder, make_model):
    model = perturb(make_kind(make_model, "id", user_encoder)).model
    vectors, mask = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    is_masked = torch.arange(6)[None] == 2
    changed = vectors.clone()
    changed[:, 2] = torch.randn(16)
    states = [model.get_user_hidden(one, mask, is_masked=is_masked) for one in (vectors, changed)]
    assert torch.equal(*states)
    assert not torch.allclose(states[0], model.get_user_hidden(vectors, mask))


@pytest.mark.parametrize("user_encoder", ["ligr", "bsarec", *BIDIRECTIONAL])
def test_it_learns_who_follows_whom(user_encoder, make_model):
    """Items follow each other in a circle; after some steps the next one is ranked first."""
    options = {"max_seq_len": 6, "loss_type": "full_softmax", "num_hidden_layers": 1, "hidden_dropout_prob": 0.0}
    model = make_kind(make_model, "id", user_encoder, **options)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.015)
    generator, items = torch.Generator().manual_seed(0), torch.arange(11)
    circle = (items[:, None] + torch.arange(7)) % len(items)  # (11, L + 1)
    for _ in range(60):
        history = circle.repeat(6, 1)
        inputs, labels = history[:, :-1], history[:, 1:]
        if model.config.objective == "masked_item":
            is_masked = torch.rand(history.shape, generator=generator) < 0.3
            is_masked[:, -1] |= ~is_masked.any(1)
            inputs, labels = history.masked_fill(is_masked, -2), history.masked_fill(~is_masked, -100)
        optimizer.zero_grad()
        model(item_ids=items, item_index=inputs, labels=labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.eval()(item_ids=items, item_index=circle[:, :-1]).logits
    assert (logits.argmax(1) == circle[:, -1]).sum() >= 9  # by chance 1
