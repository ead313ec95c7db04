import numpy as np
import pytest
import torch

from modeling_transrec.data.collator import hash_integers, left_pad_lists


MAX_SEQ_LEN = 8


def sequence_of(histories, user):
    return histories[user]["history"][-(MAX_SEQ_LEN + 1) :]


def test_each_distinct_item_is_there_once_and_indices_lead_back(make_collator, histories):
    batch = make_collator(max_seq_len=MAX_SEQ_LEN, loss_type="bce", num_negatives=2)(
        [histories[user] for user in range(len(histories))]
    )
    rows = batch["item_ids"]  # of an id model whose table is the catalogue
    assert len(rows.unique()) == len(rows)
    used = torch.cat([batch[name].flatten() for name in ("item_index", "labels", "negative_index")])
    assert set(used[used >= 0].tolist()) == set(range(len(rows)))  # nothing is encoded for nothing
    for user in range(len(histories)):
        sequence = sequence_of(histories, user)
        index, labels = batch["item_index"][user], batch["labels"][user]
        assert rows[index[index >= 0]].tolist() == sequence[:-1]
        assert rows[labels[labels >= 0]].tolist() == sequence[1:]
        assert torch.equal(index >= 0, labels >= 0)
        assert not (index[: MAX_SEQ_LEN - len(sequence) + 1] >= 0).any()  # padding is on the left


def test_texts_are_padded_to_the_longest_of_the_batch(make_collator, items, histories, text_processor):
    batch = make_collator("text", max_seq_len=MAX_SEQ_LEN)([histories[0]])
    lengths = batch["attention_mask"].sum(1)
    assert batch["input_ids"].shape[1] == lengths.max()
    assert batch["input_ids"].shape[0] == batch["item_log_popularity"].shape[0]


def test_popularity_is_the_share_of_training_actions(make_collator, items, train_split, histories):
    taken = [item for sequence in train_split["item_ids"] for item in sequence]
    batch = make_collator(max_seq_len=MAX_SEQ_LEN)([histories[1]])
    for row, log_share in zip(batch["item_ids"].tolist(), batch["item_log_popularity"].tolist(), strict=True):
        assert np.exp(log_share) == pytest.approx(taken.count(items["item_id"][row]) / len(taken), rel=1e-5)


def negatives_of(collator, histories, users):
    """Rows of the catalogue `(user, position from the end) -> negatives`."""
    batch = collator([histories[user] for user in users])
    found = {}
    for line, user in enumerate(users):
        length = batch["item_index"].shape[1]
        for position in range(length):
            if batch["labels"][line, position] >= 0:
                rows = batch["item_ids"][batch["negative_index"][line, position]]
                found[user, length - position] = rows.tolist()
    return found


def test_negatives_depend_on_seed_epoch_user_and_position_alone(make_collator, histories):
    collator = make_collator(loss_type="bce", num_negatives=3)
    everyone = negatives_of(collator, histories, range(len(histories)))
    one_by_one = {}
    for user in reversed(range(len(histories))):
        one_by_one |= negatives_of(collator, histories, [user])
    assert everyone == one_by_one
    collator.set_epoch(1)
    assert negatives_of(collator, histories, range(len(histories))) != everyone
    collator.set_epoch(0)
    assert negatives_of(collator, histories, range(len(histories))) == everyone
    other_seed = make_collator(loss_type="bce", num_negatives=3, seed=1)
    assert negatives_of(other_seed, histories, range(len(histories))) != everyone


def test_running_workers_see_the_epoch(make_collator, histories):
    collator = make_collator(loss_type="bce", num_negatives=3)
    loader = torch.utils.data.DataLoader(
        histories, batch_size=4, collate_fn=collator, num_workers=1, persistent_workers=True
    )
    for epoch in (0, 1):
        collator.set_epoch(epoch)
        for batch, start in zip(loader, range(0, len(histories), 4), strict=True):
            expected = collator([histories[user] for user in range(start, min(start + 4, len(histories)))])
            assert torch.equal(batch["negative_index"], expected["negative_index"])
            assert torch.equal(batch["item_ids"], expected["item_ids"])


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_negatives_come_by_their_weight_from_outside_the_sequence(sampling, make_collator, items, train_split):
    collator = make_collator(loss_type="bce", num_negatives=20_000, negative_sampling=sampling)
    taken = [item for sequence in train_split["item_ids"] for item in sequence]
    weights = np.array([taken.count(item) if sampling == "popularity" else 1 for item in items["item_id"]])
    rows = np.array([[-1, 36, 0, 5, 5], [1, 2, 3, 4, 7]])
    negatives = collator.sample_negatives(rows, np.array([4, 9]))
    assert negatives.shape == (2, 5, 20_000)
    for line in range(2):
        counts = np.bincount(negatives[line].ravel(), minlength=37)
        allowed = np.where(np.isin(np.arange(37), rows[line]), 0, weights)
        expected = 100_000 * allowed / allowed.sum()
        assert (counts[allowed == 0] == 0).all()
        assert (abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_shared_negatives_come_by_their_weight(make_collator, items, train_split, histories):
    taken = [item for sequence in train_split["item_ids"] for item in sequence]
    collator = make_collator(loss_type="sampled_softmax", num_negatives=30_000, negative_sampling="popularity")
    drawn = np.bincount(collator.sample_shared_negatives(np.zeros((2, 1), int), np.array([3, 5])), minlength=37)
    expected = 30_000 * np.array([taken.count(item) for item in items["item_id"]]) / len(taken)
    assert (abs(drawn - expected) <= 5 * np.sqrt(expected)).all()
    few = make_collator(loss_type="sampled_softmax", num_negatives=5)
    batch = few([histories[0], histories[1]])
    assert batch["negative_index"].shape == (5,)
    again, other = few([histories[0], histories[1]]), few([histories[0], histories[2]])
    assert torch.equal(batch["item_ids"][batch["negative_index"]], again["item_ids"][again["negative_index"]])
    assert not torch.equal(batch["item_ids"][batch["negative_index"]], other["item_ids"][other["negative_index"]])


def test_last_item_has_one_target_a_user(make_collator, histories):
    batch = make_collator(objective="last_item", max_seq_len=MAX_SEQ_LEN)([histories[0], histories[3]])
    for line, user in enumerate((0, 3)):
        assert batch["labels"][line, :-1].tolist() == [-100] * (batch["labels"].shape[1] - 1)
        assert batch["item_ids"][batch["labels"][line, -1]] == sequence_of(histories, user)[-1]


def test_masked_items_are_the_targets(make_collator, histories):
    options = {"user_encoder_type": "bert4rec", "mask_probability": 0.3, "max_seq_len": MAX_SEQ_LEN}
    collator = make_collator(**options)
    masked, seen, places = 0, 0, set()
    for epoch in range(40):
        collator.set_epoch(epoch)
        batch = collator([histories[user] for user in range(len(histories))])
        for user in range(len(histories)):
            index, labels = batch["item_index"][user], batch["labels"][user]
            is_masked = index == -2
            assert torch.equal(is_masked, labels >= 0)
            assert 1 <= is_masked.sum() < (index != -1).sum()
            full = torch.where(is_masked, labels, index)
            assert batch["item_ids"][full[full >= 0]].tolist() == sequence_of(histories, user)
            masked, seen = masked + int(is_masked.sum()), seen + int((index != -1).sum())
            places |= set((len(index) - is_masked.nonzero()[:, 0]).tolist())
    assert masked / seen == pytest.approx(0.3, abs=0.03)
    assert places == set(range(1, MAX_SEQ_LEN + 2))  # the last item, too
    again = make_collator(**options)
    again.set_epoch(39)
    assert torch.equal(again([histories[4]])["item_index"][0], collator([histories[4]])["item_index"][0])


def test_full_softmax_gets_the_whole_catalogue(make_collator, histories):
    batch = make_collator(loss_type="full_softmax")([histories[0]])
    assert batch["item_ids"].tolist() == list(range(37))
    assert batch["labels"][0, -1] == histories[0]["history"][-1]


def test_a_user_who_took_everything_is_an_error(make_collator):
    collator = make_collator(loss_type="bce")
    with pytest.raises(ValueError, match="no negative to sample"):
        collator.sample_negatives(np.arange(37)[None], np.array([3]))


def test_hash_spreads_neighbouring_keys():
    keys = np.stack(np.meshgrid(np.arange(200), np.arange(50), indexing="ij"), axis=-1)
    hashed = hash_integers(keys, seed=(0, 0))
    assert len(np.unique(hashed)) == 10_000
    assert abs((hashed / 2**64).mean() - 0.5) < 0.01


def test_left_pad_keeps_order_and_empty_lists():
    assert left_pad_lists([[], [3], [1, 2, 0]]).tolist() == [[-1, -1, -1], [-1, -1, 3], [1, 2, 0]]
