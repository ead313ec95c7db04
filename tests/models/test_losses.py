"""Losses against loops over users and positions."""

import math

import pytest
import torch

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation
from modeling_transrec.models.candidates import (
    Candidates,
    at_targets,
    log_inclusion_probability,
    make_candidates,
    own_items,
)
from modeling_transrec.models.losses import LOSSES, Loss, in_batch_loss

from ..tiny import ONE_VECTOR_LOSSES


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


def loss_of(batch, loss_type, users=slice(None), **fields) -> torch.Tensor:
    """The loss as the model computes it, of all users or some of them."""
    config = TransRecConfig(num_items=3, loss_type=loss_type, **fields)
    inputs = {name: batch[name] for name in LOSSES[loss_type].inputs}
    candidates = make_candidates(config, batch["item_embeds"], batch["item_index"], batch["labels"], inputs)
    states, targets, positions = at_targets(batch["user_hidden"][users], batch["labels"][users])
    options = {name: getattr(config, name) for name in LOSSES[loss_type].options}
    return LOSSES[loss_type].function(states, targets, positions[0], candidates.of(users, positions), **options)


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
    assert loss_of(batch, "bce").item() == pytest.approx(expected, rel=1e-5)


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
    assert loss_of(batch, "in_batch", logq_correction=corrected).item() == pytest.approx(expected, rel=1e-5)


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
    options = {"logq_correction": corrected, "negative_sampling": "popularity"}
    loss = loss_of({**batch, "negative_index": SHARED}, "sampled_softmax", **options)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    if not corrected:  # of uniform negatives there is nothing to correct
        loss = loss_of({**batch, "negative_index": SHARED}, "sampled_softmax", negative_sampling="uniform")
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
    batch |= {"negative_index": SHARED, "num_catalogue_items": torch.tensor(50)}
    loss = loss_of(batch, "gbce", gbce_t=gbce_t)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_full_softmax_equals_a_loop(batch):
    expected = 0.0
    for _, state, target in targets_of(batch):
        logits = [float(state @ vector) for vector in batch["item_embeds"]]
        expected += math.log(sum(map(math.exp, logits))) - logits[target]
    assert loss_of(batch, "full_softmax").item() == pytest.approx(expected, rel=1e-6)


def test_own_items_are_those_of_history_and_targets(batch):
    found = own_items(torch.cat([batch["item_index"], batch["labels"]], dim=1), U)
    for user in range(B):
        own = {int(row) for row in torch.cat([batch["item_index"][user], batch["labels"][user]]) if row >= 0}
        assert set(found[user].nonzero().flatten().tolist()) == own


def of_every_loss(batch):
    """For each loss its batch."""
    batch |= {"num_catalogue_items": U}
    for name in ONE_VECTOR_LOSSES:
        loss = LOSSES[name]
        yield name, {**batch, "negative_index": SHARED} if loss.candidates == "shared" else batch


def test_a_batch_without_targets_has_no_loss(batch):
    batch["labels"] = torch.full_like(batch["labels"], -100)
    for name, its_batch in of_every_loss(batch):
        assert loss_of(its_batch, name) == 0, name


def test_the_losses_of_some_users_add_up(batch):
    for name, its_batch in of_every_loss(batch):
        parts = [loss_of(its_batch, name, users) for users in (slice(0, 2), slice(2, 3), slice(3, B))]
        assert sum(parts).item() == pytest.approx(loss_of(its_batch, name).item(), rel=1e-9), name


def test_a_missing_input_is_named(batch):
    config = TransRecConfig(num_items=3, loss_type="gbce")
    with pytest.raises(ValueError, match="'gbce' needs negative_index, num_catalogue_items in the batch"):
        make_candidates(config, batch["item_embeds"], batch["item_index"], batch["labels"], {})


def test_repeated_items_are_no_negatives(batch):
    """As where another process has the same item: it counts once, and a target stays one."""
    states, targets, (users, _) = at_targets(batch["user_hidden"], batch["labels"])
    own_index = torch.cat([batch["item_index"], batch["labels"]], dim=1)
    once = in_batch_loss(states, targets, users, Candidates(batch["item_embeds"], own_index))
    twice = torch.cat([batch["item_embeds"], batch["item_embeds"]])
    is_repeated = torch.arange(2 * U) >= U
    assert torch.equal(
        in_batch_loss(states, targets, users, Candidates(twice, own_index, is_repeated=is_repeated)), once
    )
    assert not torch.allclose(in_batch_loss(states, targets, users, Candidates(twice, own_index)), once)


def test_inclusion_probability_equals_simulation():
    shares = torch.tensor([0.5, 0.2, 0.05, 0.25], dtype=torch.float64)
    draws = torch.multinomial(shares, 20_000 * 6, replacement=True, generator=torch.Generator().manual_seed(0))
    drawn = torch.stack([(draws.view(20_000, 6) == item).any(1).double().mean() for item in range(4)])
    assert torch.allclose(log_inclusion_probability(shares.log(), 6).exp(), drawn, atol=0.01)


def test_padding_has_no_gradient(batch):
    hidden = batch["user_hidden"].requires_grad_()
    loss_of(batch, "in_batch").backward()
    padded = batch["labels"] == -100
    assert hidden.grad[padded].abs().sum() == 0 and (hidden.grad[~padded].abs().sum(-1) > 0).all()


def test_a_new_loss_is_one_function_and_one_row(batch, monkeypatch):
    """BPR (Rendle et al., UAI 2009), which the package does not have."""

    def bpr_loss(states, targets, users, candidates, temperature):
        vectors = candidates.embeddings
        differences = (states * (vectors[targets] - vectors[candidates.negative_index[:, 0]])).sum(-1)
        return torch.nn.functional.softplus(-differences / temperature).sum()

    monkeypatch.setitem(LOSSES, "bpr", Loss(bpr_loss, "position", ("negative_index",), ("temperature",)))
    config = TransRecConfig(num_items=U, hidden_size=D, loss_type="bpr", temperature=2.0, normalize_scores=False)
    model = TransRecForSequentialRecommendation(config)
    inputs = {name: batch[name] for name in ("item_index", "labels", "negative_index")}
    loss = model(item_ids=torch.arange(U), **inputs).loss
    loss.backward()
    assert loss.isfinite() and model.item_encoder.id_embedding.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="'bpr' needs negative_index"):
        model(item_ids=torch.arange(U), item_index=batch["item_index"], labels=batch["labels"])
