"""Auxiliary losses against loops, beside the training loss, with every kind of view."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import TransRecConfig
from modeling_transrec.models.auxiliary_losses import AUXILIARY_LOSSES

from ..checks import assert_same, perturb, step
from ..tiny import NUM_USERS, make_batch


def naive(one, other, targets, temperature, masks, both_ways):
    """Mean over users of -log softmax of the own pair, written out; cosines of all pairs."""

    def mean_of(rows, columns):
        total = 0.0
        for user, row in enumerate(rows):
            scores = {}
            for place, column in enumerate(columns):
                if masks and place != user and targets[place] == targets[user]:
                    continue
                cosine = (row @ column) / (row.norm() * column.norm())
                scores[place] = math.exp(float(cosine) / temperature)
            total -= math.log(scores[user] / sum(scores.values()))
        return total / len(rows)

    return (mean_of(one, other) + mean_of(other, one)) / 2 if both_ways else mean_of(one, other)


@pytest.mark.parametrize(
    ("name", "masks", "both_ways"),
    [("user_contrastive", False, True), ("sequence_contrastive", True, False), ("same_target", True, True)],
)
def test_each_equals_a_loop(name, masks, both_ways):
    one, other = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([4, 9, 4, 2, 9])
    found = AUXILIARY_LOSSES[name].function(one, other, targets, 0.3)
    assert found.item() == pytest.approx(naive(one, other, targets, 0.3, masks, both_ways), rel=1e-9)


def test_clusters_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    centres = F.normalize(torch.randn(3, 3, generator=generator, dtype=torch.float64), dim=1)
    targets, fine = torch.tensor([4, 9, 4, 2, 9]), 0.0
    for states in (one, other):
        cluster = [max(range(3), key=lambda k, row=row: float(row @ centres[k])) for row in states]
        assert len(set(cluster)) > 1
        fine += naive(states, centres[cluster], torch.tensor(cluster), 0.3, True, True) / 2
    coarse = naive(one, other, targets, 0.3, True, True)
    found = AUXILIARY_LOSSES["intents"].function(one, other, targets, 0.3, centres, 0.7)
    assert found.item() == pytest.approx(coarse + 0.7 * fine, rel=1e-9)
    with pytest.raises(ValueError, match="needs the centres of clusters"):
        AUXILIARY_LOSSES["intents"].function(one, other, targets)


@pytest.mark.parametrize("user_encoder_type", ["sasrec", "bert4rec", "gru4rec"])
@pytest.mark.parametrize("name", AUXILIARY_LOSSES)
def test_it_is_added_by_its_weight_and_reaches_every_part(
    name, user_encoder_type, make_model, make_collator, histories
):
    fields = {"user_encoder_type": user_encoder_type, "hidden_dropout_prob": 0.0, "logq_correction": False}
    auxiliary = {"auxiliary_loss_type": name, "auxiliary_weight": 3.0, "auxiliary_temperature": 0.5}
    model = perturb(make_model("text+id", **fields, **auxiliary))
    batch = with_clusters(make_batch(model, make_collator, "text+id", histories))
    output = model(**batch)
    views = [  # of each user, one at a time
        torch.stack([model.get_user_features(*one_history(output.item_embeds, row))[0] for row in view])
        for view in batch["view_index"]
    ]
    of_users = (batch["intents"], 0.3) if "intents" in batch else ()
    term = AUXILIARY_LOSSES[name].function(*views, batch["view_target"], 0.5, *of_users)
    model.config.auxiliary_loss_type = None
    plain = model(**batch).loss
    model.config.auxiliary_loss_type = name
    torch.testing.assert_close(output.loss, plain + 3.0 * term)
    count = (batch["labels"] != -100).sum()
    torch.testing.assert_close(model(**batch, num_items_in_batch=2 * count).loss, output.loss / 2)
    term.backward()
    for parameter, weight in model.named_parameters():
        if "mask_embedding" not in parameter and "token_type" not in parameter:
            assert not weight.requires_grad or weight.grad is not None, parameter


def with_clusters(batch):
    """Puts clusters of users in the place of those that a Trainer finds."""
    if "intents" in batch:
        batch["intents"] = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    return batch


def one_history(item_embeds, row):
    index = row[row >= 0][None]
    return item_embeds[index], torch.ones_like(index, dtype=torch.bool)


@pytest.mark.parametrize("name", AUXILIARY_LOSSES)
def test_gradient_caching_gives_the_plain_step(name, make_model, make_collator, histories):
    model = make_model("text", auxiliary_loss_type=name)
    batch = with_clusters(make_collator("text", model)([histories[user] for user in range(NUM_USERS)]))
    plain = step(model, batch)
    model.enable_gradient_caching(5)
    assert_same(step(model, batch), plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user_encoder_type": "dssm", "num_users": 3, "auxiliary_loss_type": "same_target"}, "does not read"),
        ({"view_augmentations": ["crop"]}, "view_augmentations are for"),
        ({"auxiliary_loss_type": "same_target", "view_augmentations": ["crop"]}, "changes no history"),
        ({"auxiliary_loss_type": "user_contrastive", "view_augmentations": ["cropp"]}, "did you mean 'crop'"),
        ({"auxiliary_loss_type": "user_contrastive", "view_augmentations": []}, "is empty"),
        (
            {
                "auxiliary_loss_type": "user_contrastive",
                "view_augmentations": ["dropout"],
                "hidden_dropout_prob": 0.0,
            },
            "two equal views",
        ),
        ({"auxiliary_loss_type": "user_contrast"}, "did you mean 'user_contrastive'"),
    ],
)
def test_what_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TransRecConfig(num_items=5, **fields)


def test_missing_views_are_named(make_model, make_collator, histories):
    model = make_model("id", auxiliary_loss_type="user_contrastive")
    batch = make_batch(model, make_collator, "id", histories)
    del batch["view_index"]
    with pytest.raises(ValueError, match="auxiliary_loss_type='user_contrastive' needs view_index in the batch"):
        model(**batch)
