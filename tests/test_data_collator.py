import numpy as np
import pytest
import torch

from modeling_transrec.data import count_actions, histories_as_rows, prepare_items
from modeling_transrec.data_collator import TransRecDataCollator, hash_integers, left_pad
from modeling_transrec.trainer import _number_users


MAX_SEQ_LEN = 8


@pytest.fixture
def histories(items, train_split):
    return _number_users(histories_as_rows(train_split, items["item_id"]))


@pytest.fixture
def make_collator(items, histories, processor_of):
    def make(kind="text", **options):
        processor = processor_of[kind]
        counts = count_actions(histories, len(items))
        options = {"max_seq_len": MAX_SEQ_LEN, **options}
        return TransRecDataCollator(prepare_items(items, processor), processor, counts, **options)

    return make


def test_each_distinct_item_is_there_once_and_indices_lead_back(make_collator, histories):
    batch = make_collator("id", num_negatives=2)([histories[user] for user in range(len(histories))])
    rows = batch["item_ids"]  # of an id model whose table is the catalogue
    assert len(rows.unique()) == len(rows)
    used = torch.cat([batch[name].flatten() for name in ("item_index", "labels", "negative_index")])
    assert set(used[used >= 0].tolist()) == set(range(len(rows)))  # nothing is encoded for nothing
    for user in range(len(histories)):
        sequence = histories[user]["history"][-(MAX_SEQ_LEN + 1) :]
        index, labels = batch["item_index"][user], batch["labels"][user]
        assert rows[index[index >= 0]].tolist() == sequence[:-1]
        assert rows[labels[labels >= 0]].tolist() == sequence[1:]
        assert torch.equal(index >= 0, labels >= 0)
        assert not (index[: MAX_SEQ_LEN - len(sequence) + 1] >= 0).any()  # padding is on the left


def test_texts_are_padded_to_the_longest_of_the_batch(make_collator, items, histories, text_processor):
    batch = make_collator("text")([histories[0]])
    lengths = batch["attention_mask"].sum(1)
    assert batch["input_ids"].shape[1] == lengths.max()
    assert batch["input_ids"].shape[0] == batch["item_log_popularity"].shape[0]


def test_popularity_is_the_share_of_training_actions(make_collator, items, train_split, histories):
    taken = [item for sequence in train_split["item_ids"] for item in sequence]
    batch = make_collator("id")([histories[1]])
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
    collator = make_collator("id", num_negatives=3)
    everyone = negatives_of(collator, histories, range(len(histories)))
    one_by_one = {}
    for user in reversed(range(len(histories))):
        one_by_one |= negatives_of(collator, histories, [user])
    assert everyone == one_by_one
    collator.set_epoch(1)
    assert negatives_of(collator, histories, range(len(histories))) != everyone
    collator.set_epoch(0)
    assert negatives_of(collator, histories, range(len(histories))) == everyone
    other_seed = make_collator("id", num_negatives=3, seed=1)
    assert negatives_of(other_seed, histories, range(len(histories))) != everyone


def test_running_workers_see_the_epoch(make_collator, histories):
    collator = make_collator("id", num_negatives=3)
    loader = torch.utils.data.DataLoader(
        histories, batch_size=4, collate_fn=collator, num_workers=1, persistent_workers=True
    )
    for epoch in (0, 1):
        collator.set_epoch(epoch)
        for batch, start in zip(loader, range(0, len(histories), 4), strict=True):
            expected = collator([histories[user] for user in range(start, min(start + 4, len(histories)))])
            assert torch.equal(batch["negative_index"], expected["negative_index"])
            assert torch.equal(batch["item_ids"], expected["item_ids"])


def test_negatives_are_uniform_over_the_items_outside_the_sequence(make_collator):
    collator = make_collator("id", num_negatives=20_000)
    rows = np.array([[-1, 36, 0, 5, 5], [1, 2, 3, 4, 7]])
    negatives = collator.sample_negatives(rows, np.array([4, 9]))
    assert negatives.shape == (2, 4, 20_000)
    for line in range(2):
        counts = np.bincount(negatives[line].ravel(), minlength=37)
        own = np.unique(rows[line][rows[line] >= 0])
        assert (counts[own] == 0).all()
        expected = 80_000 / (37 - len(own))
        others = np.delete(counts, own)
        assert (abs(others - expected) < 5 * np.sqrt(expected)).all()


def test_a_user_who_took_everything_is_an_error(make_collator):
    collator = make_collator("id", num_negatives=1)
    with pytest.raises(ValueError, match="no negative to sample"):
        collator.sample_negatives(np.arange(37)[None], np.array([3]))


def test_hash_spreads_neighbouring_keys():
    keys = np.stack(np.meshgrid(np.arange(200), np.arange(50), indexing="ij"), axis=-1)
    hashed = hash_integers(keys, seed=(0, 0))
    assert len(np.unique(hashed)) == 10_000
    assert abs((hashed / 2**64).mean() - 0.5) < 0.01


def test_left_pad_keeps_order_and_empty_lists():
    assert left_pad([[], [3], [1, 2, 0]]).tolist() == [[-1, -1, -1], [-1, -1, 3], [1, 2, 0]]
