"""Views of users: what the collator makes of histories for auxiliary losses."""

import numpy as np
import pytest

from modeling_transrec.data.same_targets import SameTargets
from modeling_transrec.models.auxiliary_losses import AUXILIARY_LOSSES
from modeling_transrec.models.views import AUGMENTATIONS, PART

from ..tiny import NUM_USERS


@pytest.fixture
def rows():
    """Histories of 1 to 7 distinct items, and draws."""
    rng = np.random.default_rng(0)
    padded = np.full((200, 7), -1)
    for row in padded:
        count = rng.integers(1, 8)
        row[7 - count :] = rng.permutation(50)[:count]
    return padded, rng.random(padded.shape)


def items_of(row):
    return [int(item) for item in row if item >= 0]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmented_history_is_of_the_same_form(name, rows):
    histories, draws = rows
    views = AUGMENTATIONS[name](histories, draws)
    assert views.shape == histories.shape
    for before, after in zip(histories, views, strict=True):
        known, found = items_of(before), items_of(after)
        assert found and set(found) <= set(known)
        assert (after[: 7 - len(found)] == -1).all()  # padding on the left
        if name == "crop":
            part = math_ceil(PART * len(known))
            assert found in [known[start : start + part] for start in range(len(known) - part + 1)]
        elif name == "drop":
            assert found == [item for item in known if item in found]
        elif name == "reorder":
            moved = [place for place, (one, other) in enumerate(zip(known, found, strict=True)) if one != other]
            assert sorted(found) == sorted(known)
            assert not moved or moved[-1] - moved[0] < math_ceil(PART * len(known))
        else:
            assert found == known


def math_ceil(value):
    return int(np.ceil(value))


def test_augmentations_are_random_and_drop_at_their_rate(rows):
    histories, draws = rows
    long = (histories >= 0).sum(1) >= 5
    for name in ("crop", "drop", "reorder"):
        changed = (AUGMENTATIONS[name](histories, draws) != histories).any(1)[long]
        assert changed.mean() > 0.5, name
    kept = (AUGMENTATIONS["drop"](histories, draws) >= 0).sum() / (histories >= 0).sum()
    assert 0.75 < kept < 0.87


def test_histories_with_the_same_target_are_all_found(histories):
    finder = SameTargets(histories, num_items=37)
    sequences = histories["history"]
    expected: dict[int, set] = {}
    for sequence in sequences:
        for place in range(1, len(sequence)):
            expected.setdefault(sequence[place], set()).add(tuple(sequence[:place][-4:]))
    for target, prefixes in expected.items():
        draws = np.linspace(0, 0.999, 400)
        found = finder.draw(np.full(len(draws), target), draws, length=4)
        assert {tuple(items_of(row)) for row in found} == prefixes


@pytest.mark.parametrize("name", AUXILIARY_LOSSES)
def test_a_batch_has_views_without_the_target(name, make_collator, histories):
    collator = make_collator("id", auxiliary_loss_type=name, max_seq_len=6)
    features = [histories[user] for user in range(NUM_USERS)]
    batch = collator(features)
    catalogue = batch["item_ids"].numpy()
    assert batch["view_index"].shape == (2, NUM_USERS, 6)
    prefixes: dict[int, set] = {}
    for sequence in histories["history"]:
        for place in range(1, len(sequence)):
            prefixes.setdefault(sequence[place], set()).add(tuple(sequence[:place][-6:]))
    for user, feature in enumerate(features):
        target, history = feature["history"][-1], feature["history"][-7:-1]
        assert catalogue[batch["view_target"][user]] == target
        views = [tuple(catalogue[items_of(view[user])]) for view in batch["view_index"]]
        for kind, view in zip(AUXILIARY_LOSSES[name].views, views, strict=True):
            if kind == "history":
                assert view == tuple(history)
            elif kind == "augmented":
                assert view and set(view) <= set(history)
            else:
                assert view in prefixes[target]
    again, other = collator(features), make_collator("id", seed=1, auxiliary_loss_type=name, max_seq_len=6)(features)
    assert (again["view_index"] == batch["view_index"]).all()
    assert other["view_index"].shape != batch["view_index"].shape or (other["view_index"] != batch["view_index"]).any()


def test_views_of_the_same_target_need_the_histories(make_collator):
    collator = make_collator("id")
    config = collator.config.__class__(num_items=37, auxiliary_loss_type="same_target")
    with pytest.raises(ValueError, match="draws among the training histories; give them"):
        type(collator)(config, collator.items, collator.processor, np.ones(37, dtype=np.int64))
