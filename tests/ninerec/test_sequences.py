"""`modeling_transrec.ninerec.sequences` against an implementation in plain Python."""

import random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from modeling_transrec.ninerec.sequences import (
    Sequences,
    by_first_row,
    filter_interactions,
    find_repeated,
    keep_last,
    leave_one_out,
    random_split,
    temporal_split,
    to_table,
    used_items,
)


def random_rows(seed, num_rows=700, num_users=37, num_times=11, num_items=113):
    """Rows (user, item, time) with many ties in time."""
    rng = random.Random(seed)
    users = [int(rng.expovariate(0.1)) % num_users for _ in range(num_rows)]
    return [(user, rng.randrange(num_items), rng.randrange(num_times)) for user in users]


def naive(rows):
    """User -> [(item, time), …]; Python's sort is stable."""
    users = {}
    for user, item, time in rows:
        users.setdefault(user, []).append((item, time))
    return {
        user: sorted(interactions, key=lambda interaction: interaction[1])
        for user, interactions in sorted(users.items())
    }


def sequences_of(users, num_items=113, timed=True):
    """[Sequences] of `naive`'s dictionary."""
    interactions = [interaction for one in users.values() for interaction in one]
    return Sequences(
        pa.array([f"u{user}" for user in users], pa.string()),
        np.concatenate([[0], np.cumsum([len(one) for one in users.values()])]).astype(np.int64),
        np.array([item for item, _ in interactions], dtype=np.int32),
        np.array([time for _, time in interactions], dtype=np.int64) if timed else None,
        pa.array([f"i{item}" for item in range(num_items)], pa.string()),
    )


def as_dict(sequences):
    pairs = list(zip(sequences.items.tolist(), sequences.timestamps.tolist(), strict=True))
    ends = sequences.offsets
    return {int(user[1:]): pairs[ends[row] : ends[row + 1]] for row, user in enumerate(sequences.user_ids.to_pylist())}


def ordered_by_python(rows):
    """`(first row, item, time)` for rows (user, item, time), users by their first row; `time` may be missing."""
    first = {}
    for row, (user, *_) in enumerate(rows):
        first.setdefault(user, row)
    ordered = sorted(enumerate(rows), key=lambda one: (first[one[1][0]], one[1][2:], one[0]))
    return [(first[user], *further) for _, (user, *further) in ordered]


def as_frame(rows, columns):
    frame = pl.DataFrame(rows, schema=columns, orient="row", schema_overrides={"user": pl.UInt64})
    return frame.with_row_index("row")


@pytest.mark.parametrize("scale", [1, 2**60])  # times whose key has no room beside the user
@pytest.mark.parametrize("seed", range(3))
def test_sorted_as_plain_python_sorts(seed, scale):
    rows = [(user, item, time * scale - 5) for user, item, time in random_rows(seed, num_times=7)]
    assert by_first_row(as_frame(rows, ["user", "item", "timestamp"])).rows() == ordered_by_python(rows)


@pytest.mark.parametrize("seed", range(3))
def test_users_whose_numbers_are_close_beside_some_that_are_far(seed):
    numbers = [0, 2**64 - 1, *range(40, 75)]  # the last bits of the key have the row, and these differ there alone
    rows = [(numbers[user], item, time) for user, item, time in random_rows(seed)]
    assert by_first_row(as_frame(rows, ["user", "item", "timestamp"])).rows() == ordered_by_python(rows)


def test_without_timestamps_the_order_of_the_rows_counts():
    rows = [(user, item) for user, item, _ in random_rows(7)]
    assert by_first_row(as_frame(rows, ["user", "item"])).rows() == ordered_by_python(rows)


@pytest.mark.parametrize("seed", range(3))
def test_repeated_rows_are_found_wherever_they_stand(seed):
    rows = random_rows(seed, num_items=5)
    ordered = by_first_row(as_frame(rows, ["user", "item", "timestamp"]))
    seen, expected = set(), []
    for row in ordered.rows():
        expected.append(row in seen)
        seen.add(row)
    assert any(expected) and not all(expected)
    assert find_repeated(ordered).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("min_actions", "max_actions"), [(5, 23), (1, 4), (13, 7)])
def test_short_users_go_and_the_last_actions_stay(seed, min_actions, max_actions):
    users = naive(random_rows(seed))
    expected = {
        user: interactions[-max_actions:] for user, interactions in users.items() if len(interactions) >= min_actions
    }
    found = keep_last(filter_interactions(sequences_of(users), min_actions), max_actions)
    assert as_dict(found) == expected
    assert found.lengths.max() == max_actions  # the cut took place


@pytest.mark.parametrize("seed", range(3))
def test_k_core_equals_plain_python(seed):
    users = naive(random_rows(seed, num_rows=900, num_items=60))
    found = as_dict(filter_interactions(sequences_of(users), min_actions=9, min_item_actions=11))
    while True:
        counts = {}
        for interactions in users.values():
            for item, _ in interactions:
                counts[item] = counts.get(item, 0) + 1
        smaller = {user: [a for a in interactions if counts[a[0]] >= 11] for user, interactions in users.items()}
        smaller = {user: interactions for user, interactions in smaller.items() if len(interactions) >= 9}
        if smaller == users:
            break
        users = smaller
    assert 0 < len(users)
    assert found == users


def test_nothing_left_is_no_error():
    assert len(filter_interactions(sequences_of(naive(random_rows(0))), min_actions=10_000)) == 0
    assert len(filter_interactions(sequences_of(naive(random_rows(0))), min_item_actions=10_000)) == 0


def rows_of(sequences, split, **kwargs):
    return [tuple(row.values()) for row in to_table(sequences, split, **kwargs).to_pylist()]


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_equals_plain_python(seed):
    users = {user: interactions for user, interactions in naive(random_rows(seed)).items() if len(interactions) >= 3}
    sequences = sequences_of(users)
    splits = leave_one_out(sequences)
    for split, end in {"train": -2, "validation": -2, "test": -1}.items():
        expected = [
            (
                f"u{user}",
                [f"i{item}" for item, _ in interactions[:end]],
                None if split == "train" else f"i{interactions[end][0]}",
                [time for _, time in interactions[:end]],
            )
            for user, interactions in users.items()
        ]
        assert rows_of(sequences, splits[split]) == expected
        assert rows_of(sequences, splits[split], first=3, count=4) == expected[3:7]


@pytest.mark.parametrize("max_history", [2, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_random_split_equals_plain_python(seed, max_history):
    """Which two interactions are held out is read from the targets; all else follows from them."""
    users = {user: interactions for user, interactions in naive(random_rows(seed)).items() if len(interactions) >= 3}
    users = {user: [(item, 1000 * user + place) for place, (item, _) in enumerate(of)] for user, of in users.items()}
    whole, splits = random_split(sequences_of(users), max_history, seed)
    held_out = [
        [(int(whole.items[stop]), int(whole.timestamps[stop])) for stop in splits[name].stop]
        for name in ("validation", "test")
    ]
    rows = zip(users.items(), *held_out, strict=True)
    for row, ((user, interactions), validation, test) in enumerate(rows):
        assert validation in interactions and test in interactions and validation != test
        known = [one for one in interactions if one not in (validation, test)]
        longer = [one for one in interactions if one != test]
        for name, history, target in (
            ("train", known, None),
            ("validation", known, validation),
            ("test", longer, test),
        ):
            history = history[-max_history:]
            target = None if target is None else f"i{target[0]}"
            expected = (f"u{user}", [f"i{item}" for item, _ in history], target, [time for _, time in history])
            assert rows_of(whole, splits[name], first=row, count=1) == [expected]
    places = [
        interactions.index(test) / (len(interactions) - 1)
        for interactions, test in zip(users.values(), held_out[1], strict=True)
    ]
    assert min(places) < 0.2 and max(places) > 0.8  # anywhere


def test_without_timestamps_they_are_null():
    sequences = sequences_of({1: [(item, 0) for item in range(5)]}, timed=False)
    assert rows_of(sequences, leave_one_out(sequences)["test"]) == [("u1", ["i0", "i1", "i2", "i3"], "i4", None)]
    with pytest.raises(ValueError, match="needs timestamps"):
        temporal_split(sequences, 1, 2, max_history=9)


def test_leave_one_out_names_a_user_that_is_too_short():
    with pytest.raises(ValueError, match="1 sequences have fewer than 3 items.*'u8'"):
        leave_one_out(sequences_of({7: [(0, 0)] * 3, 8: [(0, 0)] * 2}))
    with pytest.raises(ValueError, match="a random split needs a history"):
        random_split(sequences_of({7: [(0, 0)] * 3, 8: [(0, 0)] * 2}), max_history=9)


@pytest.mark.parametrize("max_history", [4, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_temporal_split_equals_plain_python(seed, max_history):
    users = naive(random_rows(seed, num_times=100))
    sequences = sequences_of(users)
    splits = temporal_split(sequences, validation_start=70, test_start=85, max_history=max_history)
    expected = {"train": [], "validation": [], "test": []}
    for user, interactions in users.items():
        for split, start, end in (("train", 70, None), ("validation", 70, 85), ("test", 85, 10**9)):
            history = [one for one in interactions if one[1] < start][-max_history:]
            period = [] if end is None else [one for one in interactions if start <= one[1] < end]
            if history and (period or end is None):
                target = f"i{period[0][0]}" if period else None
                expected[split].append((f"u{user}", [f"i{i}" for i, _ in history], target, [t for _, t in history]))
    for split, rows in expected.items():
        assert rows and rows_of(sequences, splits[split]) == rows
    seen = {item for rows in expected.values() for _, items, target, _ in rows for item in [*items, target]} - {None}
    used = used_items(sequences, splits.values())
    assert {f"i{row}" for row in np.flatnonzero(used)} == seen


def test_temporal_split_errors():
    sequences = sequences_of({1: [(0, 1), (1, 5), (2, 9)]})
    with pytest.raises(ValueError, match="must be before"):
        temporal_split(sequences, 5, 5, max_history=9)
    with pytest.raises(ValueError, match="no user is in the test split"):
        temporal_split(sequences, 5, 99, max_history=9)
