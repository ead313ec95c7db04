"""TransRec's mixture of modality: items that have a text, an image or both, and several next items at once."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ..checks import assert_same, perturb, step
from ..tiny import NUM_ITEMS, ONE_VECTOR_LOSSES, make_batch


def test_an_item_is_the_mean_of_what_it_has(make_model, prepared_items, processor_of):
    model = perturb(make_model("text+image", fusion="mixture"))
    encoder = model.item_encoder
    assert not any("missing" in name for name, _ in encoder.named_parameters())
    with torch.no_grad():
        found = model.get_item_features(**processor_of["text+image"].pad(prepared_items["text+image"][:]))
        for item in range(NUM_ITEMS):
            inputs = processor_of["text+image"].pad(prepared_items["text+image"][[item]])
            has_text, has_image = bool(inputs["has_text"]), len(inputs["pixel_values"]) == 1
            assert (has_text, has_image) == (item != 5, item % 4 != 1)
            parts = []
            if has_text:
                parts.append(encoder.text.projection.layers(encoder.text.features(**inputs))[0])
            if has_image:
                parts.append(encoder.image.projection.layers(encoder.image.features(**inputs))[0])
            expected = torch.stack(parts).mean(0) if parts else torch.zeros(16)
            torch.testing.assert_close(found[item], expected, atol=1e-5, rtol=1e-4)


NEXT = {"objective": "next_k_items", "num_next_items": 3, "max_seq_len": 8}


def naive(loss_type, user, user_embeds, item_embeds, batch, place):
    """The loss of one target of a user."""
    scores = item_embeds @ user_embeds[user]
    target = int(batch["labels"][user, place])
    if loss_type == "bce":
        negatives = scores[batch["negative_index"][user, place]]
        return F.softplus(-scores[target]) + F.softplus(negatives).mean()
    if loss_type == "in_batch":
        own = set(batch["item_index"][user].tolist() + batch["labels"][user].tolist()) - {target}
        scores = scores[[item for item in range(len(scores)) if item not in own]]
        return scores.logsumexp(0) - item_embeds[target] @ user_embeds[user]
    return scores.logsumexp(0) - scores[target]


@pytest.mark.parametrize("loss_type", ["bce", "in_batch", "full_softmax"])
def test_the_state_at_the_end_predicts_the_next_items(loss_type, make_model, make_collator, histories):
    model = perturb(make_model("id", loss_type=loss_type, num_negatives=2, logq_correction=False, **NEXT))
    batch = make_batch(model, make_collator, "id", histories)
    catalogue, losses = batch["item_ids"], []
    output = model(item_ids=catalogue, item_index=batch["item_index"])
    for user in range(5):
        sequence = histories[user]["history"][-11:]
        history, targets = sequence[:-3], sequence[-3:]
        assert catalogue[batch["item_index"][user][-len(history) :]].tolist() == history
        assert catalogue[batch["labels"][user]].tolist() == targets
        for place in range(3):
            losses.append(naive(loss_type, user, output.user_embeds, output.item_embeds, batch, place))
    loss = model(**batch).loss
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("loss_type", ONE_VECTOR_LOSSES)
def test_it_trains_with_every_loss_and_gradient_caching(loss_type, make_model, make_collator, histories):
    model = make_model("text", loss_type=loss_type, num_negatives=2, **NEXT)
    batch = make_batch(model, make_collator, "text", histories)
    plain = step(model, batch)
    assert all(gradient.isfinite().all() for gradient in plain[1].values())
    model.enable_gradient_caching(2)
    assert_same(step(model, batch), plain, atol=1e-4)


def test_short_sequences_have_fewer_targets_and_a_history(make_collator):
    collator = make_collator("id", **NEXT)
    rows = np.array([[-1, -1, -1, -1, 7, 8], [-1, -1, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6]])
    inputs, targets = collator.split(rows, np.arange(3))
    histories = [[item for item in row if item >= 0] for row in inputs.tolist()]
    assert histories == [[7], [4], [1, 2, 3]] and (inputs[:, -1] >= 0).all()
    assert targets.tolist() == [[-1, -1, 8], [5, 6, 7], [4, 5, 6]]
    assert collator.split(rows, np.arange(3), np.array([1, 1, 2]))[1].tolist() == [
        [-1, -1, 8],
        [-1, -1, 7],
        [-1, 5, 6],
    ]
    assert [part.tolist() for part in collator.split(rows[:1, -2:], np.arange(1))] == [[[-1, 7]], [[8]]]
