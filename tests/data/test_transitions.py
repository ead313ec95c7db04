"""Transitions against plain double loops: counting, changes, merging, files, scores."""

import datetime
import itertools
import os
import time

import datasets
import numpy as np
import pytest

from modeling_transrec.data import counting
from modeling_transrec.data.counting import from_interactions
from modeling_transrec.data.loading import load_sequences
from modeling_transrec.data.transitions import Transitions


SETTINGS = {"window": 4, "decay": 0.8, "backward": 0.25}
ITEM_IDS = [f"item {number}" for number in range(13)]


@pytest.fixture
def histories():
    rng = np.random.default_rng(7)
    return [rng.choice(ITEM_IDS, size=length).tolist() for length in rng.integers(0, 15, size=37)]


def naive_counts(histories, window=4, decay=0.8, backward=0.25, weights=None) -> dict:
    """By the definition, one pair after the other."""
    counts, weights = {}, itertools.repeat(1.0) if weights is None else iter(weights)
    for history in histories:
        of_user = [next(weights) for _ in history]
        for later, item in enumerate(history):
            for distance in range(1, min(window, later) + 1):
                earlier = history[later - distance]
                weight = decay ** (distance - 1) * of_user[later]
                counts[earlier, item] = counts.get((earlier, item), 0.0) + weight
                counts[item, earlier] = counts.get((item, earlier), 0.0) + backward * weight
    return counts


def stored(transitions) -> dict:
    return {(item, other): count for item in transitions.item_ids for other, count in transitions[item].items()}


def assert_same(transitions, other):
    """Equal up to the rounding of float32, in which counts are kept."""
    assert transitions.item_ids == other.item_ids
    np.testing.assert_allclose(transitions.to_dense(), other.to_dense(), rtol=1e-6)
    np.testing.assert_array_equal(transitions.item_counts, other.item_counts)
    assert transitions.num_pairs == other.num_pairs


def as_dataset(histories, **columns):
    users = [f"user {number}" for number in range(len(histories))]
    return datasets.Dataset.from_dict({"user_id": users, "item_ids": histories, **columns})


@pytest.mark.parametrize("pairs_at_a_time", [2**23, 50, 1])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_counts_equal_a_double_loop(histories, monkeypatch, pairs_at_a_time, num_threads):
    monkeypatch.setattr(counting, "_PAIRS_AT_A_TIME", pairs_at_a_time)
    transitions = Transitions.from_sequences(histories, ITEM_IDS, num_threads=num_threads, **SETTINGS)
    assert stored(transitions) == pytest.approx(naive_counts(histories))
    flat = [item for history in histories for item in history]
    assert transitions.item_counts.tolist() == [flat.count(item_id) for item_id in ITEM_IDS]


def test_counts_are_the_same_in_any_order_of_users(histories):
    one, other = (Transitions.from_sequences(order, ITEM_IDS, **SETTINGS) for order in (histories, histories[::-1]))
    np.testing.assert_array_equal(one.to_dense(), other.to_dense())


def test_weights_of_interactions(histories):
    weights = np.random.default_rng(0).uniform(size=sum(map(len, histories)))
    transitions = Transitions.from_sequences(histories, ITEM_IDS, weights=weights, **SETTINGS)
    assert stored(transitions) == pytest.approx(naive_counts(histories, weights=weights))
    flat = [item for history in histories for item in history]
    assert transitions.item_counts[0] == pytest.approx(weights[[item == ITEM_IDS[0] for item in flat]].sum())


def test_weights_of_a_table_of_interactions(histories):
    """A click counts less than a purchase, also when it is forgotten; what weighs nothing is left out."""
    rng = np.random.default_rng(1)
    rows = [(f"u{user:02}", item) for user, history in enumerate(histories) for item in history]
    weights = rng.choice([0.0, 0.25, 1.0], size=len(rows))
    table = {"user_id": [user for user, _ in rows], "item_id": [item for _, item in rows], "weight": weights}
    transitions = Transitions.from_sequences(from_interactions(table), ITEM_IDS, keep_histories=True, **SETTINGS)
    kept = [(user, item, weight) for (user, item), weight in zip(rows, weights, strict=True) if weight]
    of_users = [[row for row in kept if row[0] == user] for user in sorted({user for user, _, _ in kept})]
    lists, flat = [[item for _, item, _ in one] for one in of_users], [row[2] for one in of_users for row in one]
    assert stored(transitions) == pytest.approx(naive_counts(lists, weights=flat))
    number = len(of_users[0])
    rebuilt = Transitions.from_sequences(lists[1:], ITEM_IDS, weights=np.array(flat[number:]), **SETTINGS)
    transitions = transitions.forget(of_users[0][0][0])
    assert_same(transitions, rebuilt)
    transitions = transitions.update("new", lists[0], weights=flat[:number])
    again = Transitions.from_sequences(lists, ITEM_IDS, weights=np.array(flat), **SETTINGS)
    assert_same(transitions, again)
    with pytest.raises(ValueError, match="weight of an interaction must be a finite number of at least 0"):
        from_interactions({**table, "weight": -weights})


def test_items_outside_the_catalogue_count_for_distances():
    transitions = Transitions.from_sequences([["a", "x", "b"]], ["a", "b"], window=2, decay=0.8)
    assert transitions["a"] == pytest.approx({"b": 0.8})


def test_update_equals_a_rebuild(histories):
    cut = [history[: len(history) // 2] for history in histories]
    transitions = Transitions.from_sequences(as_dataset(cut), ITEM_IDS, keep_histories=True, **SETTINGS)
    for number, history in enumerate(histories):
        for item in history[len(history) // 2 :]:
            transitions = transitions.update(f"user {number}", [item])
    assert_same(transitions, Transitions.from_sequences(histories, ITEM_IDS, **SETTINGS))


def test_forget_equals_a_rebuild_without_the_user(histories):
    transitions = Transitions.from_sequences(as_dataset(histories), ITEM_IDS, keep_histories=True, **SETTINGS)
    rebuilt = Transitions.from_sequences(histories[:5] + histories[6:], ITEM_IDS, **SETTINGS)
    transitions = transitions.forget("user 5")
    assert_same(transitions, rebuilt)
    assert transitions.stamp["num_users"] == 36
    with pytest.raises(ValueError, match="no history of user 'user 5'"):
        transitions.forget("user 5")
    nobody_kept = Transitions.from_sequences(histories, ITEM_IDS, **SETTINGS)
    with pytest.raises(ValueError, match="keep_histories=True"):
        nobody_kept.forget("user 5")
    assert_same(nobody_kept.forget("user 5", histories[5]), rebuilt)


def test_an_update_leaves_the_earlier_transitions_as_they_were(histories):
    """Also where many changes are put into the matrix, and where two updates start from the same transitions."""
    first = Transitions.from_sequences(as_dataset(histories), ITEM_IDS, keep_histories=True, **SETTINGS)
    scores = first.scores(np.array([[0, 1]])).toarray()
    dense, counts = first.to_dense(), first.item_counts.copy()
    one = first.update("user 3", ITEM_IDS[:2])
    other = first.update("user 3", ITEM_IDS[4:6])
    assert_same(first.forget("user 3", histories[3]).update("user 3", [*histories[3], *ITEM_IDS[:2]]), one)
    assert_same(other.forget("user 3"), first.forget("user 3"))
    latest = one
    for _ in range(3000):
        latest = latest.update("user 4", ITEM_IDS)
    assert latest._num_changes < 2**17
    np.testing.assert_array_equal(first.to_dense(), dense)
    np.testing.assert_array_equal(first.item_counts, counts)
    np.testing.assert_array_equal(first.scores(np.array([[0, 1]])).toarray(), scores)
    assert latest.item_counts.sum() == counts.sum() + 2 + 3000 * 13


def test_forget_knows_what_each_interaction_weighed(histories):
    weights = np.random.default_rng(0).uniform(0.5, 1, size=sum(map(len, histories)))
    whole = Transitions.from_sequences(
        as_dataset(histories), ITEM_IDS, keep_histories=True, weights=weights, **SETTINGS
    ).update("user 5", ITEM_IDS[:3], weights=[0.25] * 3)
    start = sum(map(len, histories[:5]))
    others = np.delete(weights, slice(start, start + len(histories[5])))
    rebuilt = Transitions.from_sequences(histories[:5] + histories[6:], ITEM_IDS, weights=others, **SETTINGS)
    forgotten = whole.forget("user 5")
    np.testing.assert_allclose(forgotten.to_dense(), rebuilt.to_dense(), rtol=1e-5)
    np.testing.assert_allclose(forgotten.item_counts, rebuilt.item_counts)
    assert forgotten.num_pairs == rebuilt.num_pairs


def test_items_that_the_catalogue_loses_go_on_counting_for_distances():
    counted = Transitions.from_sequences(as_dataset([["a", "x", "b"]]), keep_histories=True, window=2, decay=0.5)
    changed = counted.update("user 1", ["a", "x"]).aligned(["a", "b", "c"])
    assert changed.update("user 0", ["c"])["b"] == pytest.approx({"a": 0.25, "c": 1.0})
    assert changed.update("user 1", ["b"])["a"] == pytest.approx({"b": 1.0})
    assert changed.forget("user 0")["a"] == {}


def test_the_same_event_counts_once():
    sequences = as_dataset([["a", "b"]], timestamps=[[1, 2]])
    transitions = Transitions.from_sequences(sequences, ["a", "b", "c"], keep_histories=True, **SETTINGS)
    transitions = transitions.update("user 0", ["b", "c"], timestamps=[2, 3])
    assert_same(transitions, Transitions.from_sequences([["a", "b", "c"]], **SETTINGS))
    transitions = transitions.update("user 0", ["c"], timestamps=[3])
    assert transitions.item_counts.tolist() == [1, 1, 1]
    transitions = transitions.update("user 0", ["c"], timestamps=[4])  # once more, later
    assert transitions.item_counts.tolist() == [1, 1, 2]


def test_half_life():
    sequences = as_dataset([["a", "b"], ["a", "c"]], timestamps=[[0, 10], [0, 20]])
    transitions = Transitions.from_sequences(sequences, keep_histories=True, window=1, half_life=10)
    assert transitions["a"] == pytest.approx({"b": 0.5, "c": 1.0})
    assert transitions.item_counts == pytest.approx([0.5, 0.5, 1.0])
    # What comes later makes all else older: scores are those of a rebuild at that time.
    transitions = transitions.update("user 2", ["a", "b"], timestamps=[30, 40])
    later = as_dataset([["a", "b"], ["a", "c"], ["a", "b"]], timestamps=[[0, 10], [0, 20], [30, 40]])
    rebuilt = Transitions.from_sequences(later, window=1, half_life=10)
    found, expected = (one.scores(np.array([[1, 0]])).toarray() for one in (transitions, rebuilt))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="timestamps"):
        transitions.update("user 2", ["a"])
    transitions = transitions.forget("user 2")
    assert transitions["a"] == pytest.approx({"b": 0.5, "c": 1.0})


@pytest.mark.parametrize("with_changes", [False, True])
def test_scores_equal_a_loop_over_the_history(histories, with_changes):
    transitions = Transitions.from_sequences(histories, ITEM_IDS, power=0.4, history_decay=0.5, **SETTINGS)
    if with_changes:
        transitions = transitions.update("new", ITEM_IDS[:5])
    dense, counts = naive_counts(histories + [ITEM_IDS[:5]] * with_changes), transitions.item_counts
    batch = np.array([[-1, -1, 3, 4], [0, 0, 2, 3], [-1, -1, -1, 7]])
    expected = np.zeros((3, len(ITEM_IDS)))
    for user, history in enumerate(batch):
        for steps_back, item in enumerate(history[::-1]):
            for other, other_id in enumerate(ITEM_IDS):
                if item >= 0:
                    count = dense.get((ITEM_IDS[item], other_id), 0.0)
                    expected[user, other] += 0.5**steps_back * count * (counts[item] * counts[other]) ** -0.4
    found = transitions.scores(batch)
    assert found.nnz == np.count_nonzero(expected)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    shares = transitions.contributions(batch[1], np.array([3, 1]))
    assert shares.shape == (4, 2)
    np.testing.assert_allclose(shares.sum(0), expected[1, [3, 1]], rtol=1e-6)


def test_merged_shards_equal_one_count(histories):
    shards = [Transitions.from_sequences(part, **SETTINGS) for part in (histories[:9], histories[9:])]
    merged = Transitions.merge(shards)
    assert_same(merged.aligned(ITEM_IDS), Transitions.from_sequences(histories, ITEM_IDS, **SETTINGS))
    assert merged.stamp["num_users"] == len(histories)
    with pytest.raises(ValueError, match="different settings"):
        Transitions.merge([shards[0], Transitions.from_sequences(histories, window=2)])


def test_another_catalogue(histories):
    transitions = Transitions.from_sequences(histories, ITEM_IDS, **SETTINGS)
    other_ids = ["new", *ITEM_IDS[5:2:-1]]
    aligned, expected = transitions.aligned(other_ids), naive_counts(histories)
    kept = {pair: count for pair, count in expected.items() if set(pair) <= set(other_ids)}
    assert stored(aligned) == pytest.approx(kept)
    assert aligned.item_counts[0] == 0
    assert stored(aligned.aligned([other_ids[3], other_ids[1]])) == {
        pair: count
        for pair, count in stored(aligned).items()
        if not {aligned.item_ids[0], aligned.item_ids[2]} & set(pair)
    }
    with pytest.raises(ValueError, match="with_items"):
        transitions.update("somebody", ["new"])
    grown = transitions.aligned([*ITEM_IDS, "new"]).update("somebody", ["new", ITEM_IDS[0]])
    assert grown["new"] == {ITEM_IDS[0]: 1.0}


def test_saved_and_loaded(histories, tmp_path):
    transitions = Transitions.from_sequences(
        as_dataset(histories), ["ä\nb", *ITEM_IDS], keep_histories=True, **SETTINGS
    )
    transitions = transitions.update("new", ITEM_IDS[:3])
    transitions.save_pretrained(tmp_path)
    loaded = Transitions.from_pretrained(tmp_path)
    assert loaded.item_ids == transitions.item_ids and loaded.settings == transitions.settings
    np.testing.assert_allclose(loaded.to_dense(), transitions.to_dense(), rtol=1e-7)
    assert loaded.stamp == transitions.stamp and loaded.stamp["num_users"] == 38
    assert os.listdir(tmp_path) == ["transitions.safetensors"]
    content = (tmp_path / "transitions.safetensors").read_bytes()
    assert b"user 5" not in content


def test_a_broken_file_is_refused(histories, tmp_path):
    transitions = Transitions.from_sequences(histories, ITEM_IDS, **SETTINGS)
    transitions._counts.indices[3] = 1000
    with pytest.raises(ValueError, match="no whole matrix"):
        Transitions.from_pretrained(transitions.save_pretrained(tmp_path))


def test_pruning_keeps_the_strongest(histories):
    transitions = Transitions.from_sequences(histories, ITEM_IDS, power=0.5, **SETTINGS)
    dense, scale = transitions.to_dense(), transitions.item_counts**-0.5
    pruned = transitions.pruned(max_per_item=3).to_dense()
    for row, kept in zip(dense, pruned, strict=True):
        strongest = np.argsort(-row * scale, kind="stable")[:3]
        expected = np.zeros_like(row)
        expected[strongest] = row[strongest]
        np.testing.assert_array_equal(kept, expected)
    by_count = transitions.pruned(min_count=1.5).to_dense()
    np.testing.assert_array_equal(by_count, np.where(dense >= 1.5, dense, 0))


def test_whole_histories_of_the_builder(tmp_path):
    """With a `max_seq_len` that cuts nothing, the training split has whole histories."""
    cut = load_sequences("ninerec", "Sample_Target", "train", max_seq_len=2, cache_dir=str(tmp_path))
    whole = load_sequences("ninerec", "Sample_Target", "train", max_seq_len=10_000, cache_dir=str(tmp_path))
    assert max(map(len, cut["item_ids"])) == 3 < max(map(len, whole["item_ids"]))
    transitions = Transitions.from_sequences(whole)
    assert stored(transitions) == pytest.approx(naive_counts(whole["item_ids"], 20, 0.9, 0.5))


def test_updates_take_microseconds():
    rng = np.random.default_rng(0)
    histories = rng.integers(0, 5000, size=(2000, 30)).astype(str).tolist()
    transitions = Transitions.from_sequences(as_dataset(histories), keep_histories=True)
    events = rng.integers(0, 5000, size=1000).astype(str).tolist()
    events = [event for event in events if event in transitions]
    start = time.perf_counter()
    for number, event in enumerate(events):
        transitions = transitions.update(f"user {number}", [event])
    assert (time.perf_counter() - start) / len(events) < 1e-3  # about 1e-5 on an idle machine


def test_mistakes_are_named(histories):
    with pytest.raises(ValueError, match="window must be at least 1"):
        Transitions.from_sequences(histories, window=0)
    with pytest.raises(ValueError, match="keep_histories needs a column user_id"):
        Transitions.from_sequences(histories, keep_histories=True)
    twice = datasets.Dataset.from_dict({"user_id": ["u", "u"], "item_ids": [["a"], ["b"]]})
    with pytest.raises(ValueError, match="a user has several histories"):
        Transitions.from_sequences(twice, keep_histories=True)
    with pytest.raises(ValueError, match="belong to counting"):
        Transitions.from_sequences(histories).with_settings(window=3)
    with pytest.raises(ValueError, match="one an interaction"):
        Transitions.from_sequences(histories, weights=np.ones(3))
    with pytest.raises(ValueError, match="half_life needs timestamps"):
        Transitions.from_sequences(histories, half_life=3)
    with pytest.raises(ValueError, match="user_id and item_id"):
        from_interactions({"item_id": ["a"]})


def test_no_history_at_all():
    transitions = Transitions.from_sequences([], ["a", "b"])
    assert len(transitions) == 2 and transitions.num_pairs == 0
    assert transitions.scores(np.array([[0]])).nnz == 0
    assert transitions.update("u", ["a", "b"])["a"] == {"b": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": ["u", None]}, "1 interactions have no user_id, the first in row 1"),
        ({"item_id": [None, "a"]}, "1 interactions have no item_id, the first in row 0"),
        ({"timestamp": [1.0, float("nan")]}, "1 interactions have no timestamp, the first in row 1"),
        ({"timestamp": ["2024-05-07", "2024-05-08"]}, "not text such as '2024-05-07'"),
        ({"user_id": [1.0, float("nan")]}, "1 interactions have no user_id, the first in row 1"),
        ({"user_id": [1.5, 2.0]}, "user_id must hold strings or whole numbers, not 1.5"),
        ({"item_id": [["a", "b"], ["a"]]}, "item_id holds lists, .*; for a row a user, call the lists item_ids"),
        (
            {"timestamp": [datetime.timedelta(1), datetime.timedelta(2)]},
            "not durations or times of day such as '1 day",
        ),
        ({"timestamp": [datetime.time(1), datetime.time(2)]}, "not durations or times of day such as '01:00:00'"),
        ({"bought": [datetime.date(2024, 5, 8), None]}, "but bought: rename it to timestamp, or leave it out"),
        *(
            ({name: [2, 1]}, f"no column timestamp, but {name}: rename it to timestamp")
            for name in ("time", "Timestamp", "created_at", "Event Time", "unix_timestamp", "time_ms", "bought_at")
        ),
        ({"Weight": [2, 1]}, "no column weight, but Weight: rename it to weight"),
        ({"user_id": [], "item_id": [], "timestamp": []}, "the table has no interactions"),
        ({"weight": [1.0, float("inf")]}, "finite number"),
        ({"weight": ["a", "b"]}, "weight must hold numbers, not 'a'"),
    ],
)
def test_interactions_that_would_be_misread_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_interactions({"user_id": ["u", "u"], "item_id": ["a", "b"], **changes})


def test_a_column_that_must_be_there_cannot_be_left_out():
    with pytest.raises(ValueError, match="have no column item_id, but product_id: rename it to item_id$"):
        from_interactions({"user_id": ["u", "u"], "product_id": ["a", "b"]})


def test_columns_of_other_meanings_are_not_read():
    table = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [2, 1]}
    others = {"rating": [1, 5], "event_type": ["x", "y"], "id": [7, 8], "date": ["2024", "2023"]}
    assert from_interactions({**table, **others}) == from_interactions(table)


def test_dates_are_seconds_and_equal_rows_are_one_interaction():
    days = [datetime.datetime(2024, 5, 8), datetime.datetime(2024, 5, 7), datetime.datetime(2024, 5, 8)]
    table = {"user_id": ["u"] * 3, "item_id": ["b", "a", "b"], "timestamp": days}
    found = from_interactions(table).to_pylist()[0]
    assert found == {"user_id": "u", "item_ids": ["a", "b"], "timestamps": [1715040000.0, 1715126400.0]}
    assert from_interactions({"user_id": ["u", "u"], "item_id": ["b", "b"]})["item_ids"].to_pylist() == [["b", "b"]]


def test_what_was_not_counted_cannot_be_forgotten_nor_pruned_by_nonsense():
    transitions = Transitions.from_sequences([["a", "b"]], ["a", "b"])
    with pytest.raises(ValueError, match="item 'zzz' is not counted"):
        transitions.forget("u", ["zzz"])
    for options in ({"min_count": -1}, {"max_per_item": 0}):
        with pytest.raises(ValueError, match="must be"):
            transitions.pruned(**options)
