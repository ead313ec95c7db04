"""Losses against loops over users and positions."""

import math

import pytest
import torch

from modeling_transrec.models.losses import (
    LOSSES,
    bce_loss,
    full_softmax_loss,
    gbce_loss,
    in_batch_loss,
    log_inclusion_probability,
    own_items,
    sampled_softmax_loss,
)


B, L, U, N, D = 5, 7, 13, 3, 6


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    item_index = torch.randint(U, (B, L), generator=generator)
    labels = torch.cat([item_index[:, 1:], torch.randint(U, (B, 1), generator=generator)], dim=1)
    for user in range(B):  # histories of different length, padded on the left
        item_index[user, :user] = -1
        labels[user, :user] = -100
    popularity = torch.rand(U, generator=generator, dtype=torch.float64)
    return {
        "user_hidden": torch.randn(B, L, D, generator=generator, dtype=torch.float64),
        "item_embeds": torch.randn(U, D, generator=generator, dtype=torch.float64),
        "labels": labels,
        "item_index": item_index,
        "negative_index": torch.randint(U, (B, L, N), generator=generator),
        "item_log_popularity": (popularity / popularity.sum()).log(),
    }


def test_bce_equals_a_loop(batch):
    expected = 0.0
    for user in range(B):
        for position in range(L):
            target = batch["labels"][user, position]
            if target == -100:
                continue
            state = batch["user_hidden"][user, position]
            expected -= math.log(torch.sigmoid(state @ batch["item_embeds"][target]))
            for negative in batch["negative_index"][user, position]:
                expected -= math.log(1 - torch.sigmoid(state @ batch["item_embeds"][negative])) / N
    names = ("user_hidden", "item_embeds", "labels", "negative_index")
    assert bce_loss(**{name: batch[name] for name in names}).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("corrected", [False, True])
def test_in_batch_equals_a_loop(batch, corrected):
    num_draws = int((batch["item_index"] >= 0).sum()) + B
    expected = 0.0
    for user in range(B):
        own = {int(row) for row in batch["item_index"][user] if row >= 0}
        own |= {int(row) for row in batch["labels"][user] if row >= 0}
        for position in range(L):
            target = int(batch["labels"][user, position])
            if target == -100:
                continue
            logits = {}
            for item in range(U):
                if item != target and item in own:
                    continue
                logits[item] = float(batch["user_hidden"][user, position] @ batch["item_embeds"][item])
                if corrected:
                    share = float(batch["item_log_popularity"][item].exp())
                    logits[item] -= math.log(1 - (1 - share) ** num_draws)
            expected += math.log(sum(math.exp(value) for value in logits.values())) - logits[target]
    names = ["user_hidden", "item_embeds", "labels", "item_index"] + ["item_log_popularity"] * corrected
    assert in_batch_loss(**{name: batch[name] for name in names}).item() == pytest.approx(expected, rel=1e-5)


def targets_of(batch):
    """Every position that has a target: the user's own items, the state, the target."""
    for user in range(B):
        own = {int(row) for row in torch.cat([batch["item_index"][user], batch["labels"][user]]) if row >= 0}
        for position in range(L):
            if batch["labels"][user, position] >= 0:
                yield own, batch["user_hidden"][user, position], int(batch["labels"][user, position])


SHARED = torch.tensor([2, 7, 7, 11, 0, 4])


@pytest.mark.parametrize("corrected", [False, True])
def test_sampled_softmax_equals_a_loop(batch, corrected):
    expected = 0.0
    for own, state, target in targets_of(batch):
        logits = [(row, float(state @ batch["item_embeds"][row])) for row in SHARED.tolist() if row not in own]
        logits.append((target, float(state @ batch["item_embeds"][target])))
        if corrected:
            logits = [(row, value - float(batch["item_log_popularity"][row])) for row, value in logits]
        expected += math.log(sum(math.exp(value) for _, value in logits)) - logits[-1][1]
    names = ["user_hidden", "item_embeds", "labels", "item_index"] + ["item_log_popularity"] * corrected
    loss = sampled_softmax_loss(**{name: batch[name] for name in names}, negative_index=SHARED)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gbce_t", [0.0, 0.75, 1.0])
def test_gbce_equals_a_loop(batch, gbce_t):
    alpha = len(SHARED) / (50 - 1)
    beta = alpha * (gbce_t * (1 - 1 / alpha) + 1 / alpha)
    assert gbce_t < 1 or beta == pytest.approx(alpha)
    expected = 0.0
    for own, state, target in targets_of(batch):
        expected -= math.log(torch.sigmoid(state @ batch["item_embeds"][target]) ** beta)
        for row in SHARED.tolist():
            if row not in own:
                expected -= math.log(1 - torch.sigmoid(state @ batch["item_embeds"][row]))
    names = ("user_hidden", "item_embeds", "labels", "item_index")
    arguments = {name: batch[name] for name in names}
    loss = gbce_loss(**arguments, negative_index=SHARED, num_catalogue_items=torch.tensor(50), gbce_t=gbce_t)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_full_softmax_equals_a_loop(batch):
    expected = 0.0
    for _, state, target in targets_of(batch):
        logits = [float(state @ vector) for vector in batch["item_embeds"]]
        expected += math.log(sum(map(math.exp, logits))) - logits[target]
    names = ("user_hidden", "item_embeds", "labels")
    assert full_softmax_loss(**{name: batch[name] for name in names}).item() == pytest.approx(expected, rel=1e-6)


def test_own_items_are_those_of_history_and_targets(batch):
    found = own_items(batch["labels"], batch["item_index"], U)
    for user in range(B):
        own = {int(row) for row in torch.cat([batch["item_index"][user], batch["labels"][user]]) if row >= 0}
        assert set(found[user].nonzero().flatten().tolist()) == own


def test_a_batch_without_targets_has_no_loss(batch):
    labels = torch.full_like(batch["labels"], -100)
    for loss in LOSSES.values():
        fields = {name: {**batch, "num_catalogue_items": U}[name] for name in loss.batch_fields}
        if loss.candidates == "shared":
            fields["negative_index"] = SHARED
        assert loss.function(batch["user_hidden"], batch["item_embeds"], labels, **fields) == 0


def test_inclusion_probability_equals_simulation():
    shares = torch.tensor([0.5, 0.2, 0.05, 0.25], dtype=torch.float64)
    draws = torch.multinomial(shares, 20_000 * 6, replacement=True, generator=torch.Generator().manual_seed(0))
    drawn = torch.stack([(draws.view(20_000, 6) == item).any(1).double().mean() for item in range(4)])
    assert torch.allclose(log_inclusion_probability(shares.log(), 6).exp(), drawn, atol=0.01)


def test_padding_has_no_gradient(batch):
    hidden = batch["user_hidden"].requires_grad_()
    loss = in_batch_loss(hidden, batch["item_embeds"], batch["labels"], batch["item_index"])
    loss.backward()
    padded = batch["labels"] == -100
    assert hidden.grad[padded].abs().sum() == 0 and (hidden.grad[~padded].abs().sum(-1) > 0).all()
