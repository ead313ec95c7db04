"""`modeling_transrec.sequences` against an implementation in plain Python."""

import random

import polars as pl
import pytest

from modeling_transrec.sequences import build_sequences, count_items, leave_one_out, order_interactions


def naive_sequences(rows, min_actions, max_actions):
    """User -> (items, timestamps); Python's sort is stable and dicts keep the order of first appearance."""
    users = {}
    for user, item, timestamp in rows:
        users.setdefault(user, []).append((timestamp, item))
    kept = {}
    for user, actions in users.items():
        if len(actions) >= min_actions:
            last = sorted(actions, key=lambda action: action[0])[-max_actions:]
            kept[user] = ([item for _, item in last], [timestamp for timestamp, _ in last])
    return kept


def random_rows(seed, num_rows=700, num_users=37, num_times=11):
    """Rows with many ties in time; ids whose order as text, as number and of appearance differ."""
    rng = random.Random(seed)
    users = [str(i) for i in range(num_users)]
    rng.shuffle(users)
    return [
        (users[min(int(rng.expovariate(0.1)), num_users - 1)], f"{rng.randrange(113):03d}", rng.randrange(num_times))
        for _ in range(num_rows)
    ]


def frame_of(rows):
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}, orient="row")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("min_actions", "max_actions"), [(5, 23), (1, 4), (13, 7)])
def test_sequences_equal_plain_python(seed, min_actions, max_actions):
    rows = random_rows(seed)
    expected = naive_sequences(rows, min_actions, max_actions)
    sequences = build_sequences(frame_of(rows), min_actions, max_actions)
    assert sequences["user_id"].to_list() == list(expected)
    assert sequences["item_ids"].to_list() == [items for items, _ in expected.values()]
    assert sequences["timestamps"].to_list() == [times for _, times in expected.values()]
    lengths = sequences["item_ids"].list.len()
    assert lengths.max() == max_actions  # the cut took place


def test_row_order_matters_only_within_ties():
    rows = [(user, item, time) for time, (user, item, _) in enumerate(random_rows(3))]
    shuffled = random.Random(0).sample(rows, len(rows))
    one = build_sequences(frame_of(rows)).sort("user_id")
    other = build_sequences(frame_of(shuffled)).sort("user_id")
    assert one.rows() == other.rows()


@pytest.mark.parametrize("column", ["absent", "null"])
def test_without_timestamps_the_order_of_the_rows_counts(column):
    rows = random_rows(7)
    frame = frame_of(rows).drop("timestamp")
    if column == "null":
        frame = frame.with_columns(pl.lit(None, dtype=pl.Int64).alias("timestamp"))
    expected = naive_sequences([(user, item, 0) for user, item, _ in rows], 5, 23)
    sequences = build_sequences(frame)
    assert sequences["item_ids"].to_list() == [items for items, _ in expected.values()]
    assert sequences["timestamps"].null_count() == sequences.height
    assert sequences.schema["timestamps"] == pl.List(pl.Int64)


def test_order_keeps_every_row_and_column():
    frame = frame_of(random_rows(1)).with_row_index("number")
    ordered = order_interactions(frame)
    assert ordered.columns == frame.columns
    assert sorted(ordered["number"]) == list(range(frame.height))
    ties = ordered.group_by("user_id", "timestamp", maintain_order=True).agg("number")["number"]
    assert ties.list.len().max() > 1
    assert all(numbers == sorted(numbers) for numbers in ties.to_list())


def test_some_unknown_timestamps_are_an_error():
    frame = pl.DataFrame({"user_id": ["a", "a"], "item_id": ["x", "y"], "timestamp": [1, None]})
    with pytest.raises(ValueError, match="1 of 2 interactions have no timestamp"):
        order_interactions(frame)


def test_min_actions_counts_before_the_cut():
    rows = [("a", str(i), i) for i in range(9)] + [("b", str(i), i) for i in range(4)]
    sequences = build_sequences(frame_of(rows), min_actions=5, max_actions=3)
    assert sequences.rows() == [("a", ["6", "7", "8"], [6, 7, 8])]


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_equals_plain_python(seed):
    kept = naive_sequences(random_rows(seed), 5, 23)
    sequences = build_sequences(frame_of(random_rows(seed)))
    cut = {"train": -2, "validation": -2, "test": -1}
    for split, end in cut.items():
        rows = leave_one_out(sequences, split).rows()
        assert len(rows) == len(kept)
        for row, (user, (items, times)) in zip(rows, kept.items(), strict=True):
            target = None if split == "train" else items[end]
            assert row == (user, items[:end], target, times[:end])


def test_leave_one_out_without_timestamps():
    sequences = build_sequences(frame_of([("a", item, 0) for item in "vwxyz"]).drop("timestamp"))
    assert leave_one_out(sequences, "test").rows() == [("a", ["v", "w", "x", "y"], "z", None)]


def test_leave_one_out_errors():
    sequences = pl.DataFrame({"user_id": ["long", "short"], "item_ids": [["x", "y", "z"], ["x", "y"]]})
    sequences = sequences.with_columns(pl.lit(None, dtype=pl.List(pl.Int64)).alias("timestamps"))
    with pytest.raises(ValueError, match="1 sequences have fewer than 3 items.*'short'"):
        leave_one_out(sequences, "test")
    with pytest.raises(ValueError, match="'dev'"):
        leave_one_out(sequences.head(1), "dev")


def test_count_items():
    counts = count_items(pl.Series([["b", "a", "b"], [], ["c", "a", "b"]], dtype=pl.List(pl.String)))
    assert counts.rows() == [("b", 3), ("a", 2), ("c", 1)]
    assert counts.schema == {"item_id": pl.String, "count": pl.Int64}
