"""What is new on a platform, and what of before is replayed."""

import logging

import datasets
import numpy as np
import pytest

from modeling_transrec.data.arguments import TargetArguments
from modeling_transrec.data.loading import index_histories
from modeling_transrec.data.new_interactions import as_time, select_new


@pytest.fixture(scope="module")
def sequences():
    """37 users of 1 to 30 interactions at times from 0 to 999."""
    rng = np.random.default_rng(0)
    times = [np.sort(rng.integers(1000, size=rng.integers(1, 31))).tolist() for _ in range(37)]
    items = [[f"i{number}" for number in rng.integers(9, size=len(one))] for one in times]
    columns = {"user_id": [f"u{user}" for user in range(37)], "item_ids": items, "timestamps": times}
    return datasets.Dataset.from_dict(columns)


def test_targets_are_new_and_replayed_ones_are_old(sequences):
    found = select_new(sequences, since=600, max_seq_len=8, replay_share=0.4)
    expected = []
    for user in sequences:
        num_old = sum(time < 600 for time in user["timestamps"])
        if 2 <= len(user["item_ids"]) and user["timestamps"][-1] >= 600:
            cut = max(0, len(user["item_ids"]) - 9)
            expected.append((user["user_id"], user["item_ids"][cut:], max(0, num_old - cut)))
    rows = list(zip(found["user_id"], found["item_ids"], found["num_context"], strict=True))
    assert rows[: len(expected)] == expected
    replayed = found.select(range(len(expected), len(found)))
    assert len(replayed) == round(len(expected) * 0.4 / 0.6) and len(set(replayed["user_id"])) == len(replayed)
    of_user = {user["user_id"]: user for user in sequences}
    for row in replayed:
        user = of_user[row["user_id"]]
        old = user["item_ids"][: sum(time < 600 for time in user["timestamps"])]
        assert len(old) >= 2 and row["item_ids"] == old[-9:] and row["num_context"] == 0
    assert select_new(sequences, 600, 8, 0.4)["user_id"][:] == found["user_id"][:]  # the same draw again
    assert len(select_new(sequences, 600, 8)) == len(expected)


def test_what_cannot_be_told_apart_is_refused(sequences, caplog):
    with pytest.raises(ValueError, match="these interactions have no times: give them a column timestamp"):
        select_new(sequences.remove_columns("timestamps"), 600, 8)
    for since, what in ((5000, "no training interaction is"), (0, "all training interactions are")):
        with pytest.raises(ValueError, match=rf"{what} at or after the time {since}: the first one is at \d+, "):
            select_new(sequences, since, 8)
    with pytest.raises(ValueError, match="replay_share must be at least 0 and below 1, got 1"):
        select_new(sequences, 600, 8, 1.0)
    with caplog.at_level(logging.WARNING):
        select_new(sequences, 600, 8, 0.9)
    assert "older histories are replayed, in place of" in caplog.text


def test_options():
    assert as_time("2024-01-31") == 1706659200 and as_time("2024-01-31T01:00:00+01:00") == 1706659200
    with pytest.raises(ValueError, match="'last week' is no time"):
        TargetArguments(since="last week")
    with pytest.raises(ValueError, match="--replay_share 0.2 is of older histories"):
        TargetArguments(replay_share=0.2)


@pytest.mark.parametrize("objective", ["next_item", "last_item", "masked_item"])
def test_context_is_read_and_no_target(objective, make_collator, items):
    user_encoder = "bert4rec" if objective == "masked_item" else "sasrec"
    collator = make_collator(objective=objective, user_encoder_type=user_encoder, max_seq_len=4)
    ids = items["item_id"]
    rows = {"item_ids": [ids[:7], ids[10:13]], "num_context": [5, 1]}
    histories = index_histories(datasets.Dataset.from_dict(rows), ids)
    seen = set()
    for epoch in range(20):
        collator.set_epoch(epoch)
        batch = collator([histories[0], histories[1]])
        catalogue_index = batch["item_ids"]
        for row, labels in enumerate(batch["labels"]):
            seen |= {(row, int(catalogue_index[label])) for label in labels if label >= 0}
        if objective != "masked_item":
            inputs = catalogue_index[batch["item_index"][0]].tolist()
            assert inputs == [2, 3, 4, 5]
    expected = {(0, 6), (1, 12)} if objective == "last_item" else {(0, 5), (0, 6), (1, 11), (1, 12)}
    assert seen == expected
