"""Baselines that read histories as sets, against naive ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch

from modeling_transrec import FullRankingEvaluator
from modeling_transrec.evaluation.baselines import BASELINES, SLOW_BASELINES, Platform, known_baselines
from modeling_transrec.evaluation.neighbours import SessionNeighbours, ease, interactions, item_knn, slim
from modeling_transrec.evaluation.settings import GRIDS


@pytest.fixture(scope="module")
def taken():
    generator = np.random.default_rng(0)
    found = (generator.random((40, 12)) < 0.3).astype(np.float32)
    found[:, 11] = 0  # an item that nobody has taken
    return scipy.sparse.csr_array(found)


HISTORIES = np.array([[-1, -1, 3], [0, 5, 2], [7, 7, 1]])


def as_sets(histories, num_items):
    return np.array([[item in history for item in range(num_items)] for history in histories.tolist()], dtype=float)


def cosine(one, other):
    product = np.linalg.norm(one) * np.linalg.norm(other)
    return one @ other / product if product else 0.0


def test_interactions_are_sets(items, train_split):
    platform = Platform(items, train_split)
    found = interactions(platform.histories, len(items)).toarray()
    ids = items["item_id"][:]
    expected = [[float(item_id in history) for item_id in ids] for history in train_split["item_ids"]]
    np.testing.assert_array_equal(found, expected)


def test_items_of_whole_histories_that_are_no_candidates_are_left_out(items, train_split):
    """Histories are counted whole; those that are read are shorter, and make the catalogue."""
    few = items.select(range(20))
    cut = train_split.map(lambda row: {"item_ids": [one for one in row["item_ids"] if one in few["item_id"][:]]})
    platform = Platform(few, cut.filter(lambda row: len(row["item_ids"]) > 0), train_split)
    whole = Platform(items, train_split).taken.toarray()
    np.testing.assert_array_equal(platform.taken.toarray(), whole[:, :20])
    assert BASELINES["item-knn"](platform)[0].scores(torch.tensor([[3]])).shape == (1, 20)


@pytest.mark.parametrize("num_neighbours", [2, 5, 100])
def test_item_knn_sums_the_cosines_of_the_nearest_items(taken, num_neighbours):
    columns = taken.toarray().T
    likeness = np.array([[cosine(one, other) for other in columns] for one in columns])
    np.fill_diagonal(likeness, 0)
    kept = np.zeros_like(likeness)
    for item, row in enumerate(likeness):  # each item has its own nearest ones
        nearest = np.argsort(-row, kind="stable")[:num_neighbours]
        kept[nearest, item] = row[nearest]
        after = np.sort(row)[::-1][num_neighbours:][:1]
        assert not (np.isclose(row[nearest[-1]], after) & (after > 0)).any()  # which of tied ones is kept is open
    found = item_knn(taken, num_neighbours, tf_idf=False).scores(HISTORIES).toarray()
    np.testing.assert_allclose(found, as_sets(HISTORIES, 12) @ kept, atol=1e-6)


def test_session_knn_sums_the_histories_of_the_nearest_users(taken):
    users = taken.toarray()
    for history in HISTORIES[:, None]:
        likeness = np.array([cosine(as_sets(history, 12)[0], other) for other in users])
        order = np.argsort(-likeness, kind="stable")
        ranked = likeness[order].round(6)
        k = next(k for k in range(3, 40) if ranked[k - 1] != ranked[k])  # so many that none is tied with the next
        found = SessionNeighbours(taken, num_neighbours=k).scores(history).toarray()
        np.testing.assert_allclose(found[0], likeness[order[:k]] @ users[order[:k]], atol=1e-6)


def test_ease_is_the_ridge_regression_of_each_item_on_the_others(taken):
    dense, expected = taken.toarray().astype(float), np.zeros((12, 12))
    for item in range(12):
        others = [one for one in range(12) if one != item]
        rest = dense[:, others]
        expected[others, item] = np.linalg.solve(rest.T @ rest + 3.0 * np.eye(11), rest.T @ dense[:, item])
    np.testing.assert_allclose(ease(taken, regularization=3.0).weights, expected, atol=1e-5)


def test_ease_is_refused_where_its_matrices_have_no_room(taken, monkeypatch):
    memory = SimpleNamespace(available=4 * 8 * 12**2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    ease(taken, regularization=3.0)
    memory.available -= 1
    with pytest.raises(MemoryError, match="EASE of 12 items needs 0.0 GB of memory"):
        ease(taken, regularization=3.0)


def test_slim_has_weights_of_other_items_only_and_none_below_zero(taken):
    weights = slim(taken, alpha=0.001).weights.toarray()
    assert (weights >= 0).all() and (np.diag(weights) == 0).all() and weights.any(axis=0)[:11].all()
    dense = taken.toarray()
    error = ((dense - dense @ weights) ** 2).sum(axis=0)
    assert (error <= (dense**2).sum(axis=0) + 1e-6).all() and error.sum() < 0.9 * (dense**2).sum()
    few = slim(taken, alpha=0.001, num_candidates=2).weights.toarray()
    assert ((few > 0).sum(axis=0) <= 2).all()


@pytest.mark.parametrize("name", SLOW_BASELINES)
def test_the_setting_that_ranks_validation_best_is_taken(name, items, train_split, validation_split):
    validation = FullRankingEvaluator(items, validation_split, split="validation")
    scorer, chosen = BASELINES[name](Platform(items, train_split, validation=validation))
    assert chosen in GRIDS[name]
    without, first = BASELINES[name](Platform(items, train_split))
    assert first == GRIDS[name][0]
    assert validation.rank(scorer)["ndcg@10"] >= validation.rank(without)["ndcg@10"]


def test_recent_popularity_counts_the_latest_interactions(items, train_split):
    with_times = train_split.add_column("timestamps", [[*range(len(ids))] for ids in train_split["item_ids"]])
    platform = Platform(items, with_times)
    scorer, chosen = BASELINES["recent-popularity"](platform)
    assert chosen == {"latest_share": 0.1}
    times = [time for row in with_times["timestamps"] for time in row]
    latest, ids = np.quantile(times, 0.9), items["item_id"][:]
    expected = np.zeros(len(ids))
    for row in with_times:
        for item_id, time in zip(row["item_ids"], row["timestamps"], strict=True):
            expected[ids.index(item_id)] += time >= latest
    np.testing.assert_array_equal(scorer.item_scores.numpy(), expected)
    assert "recent-popularity" in known_baselines(platform)
    assert "recent-popularity" not in known_baselines(Platform(items, train_split))
    with pytest.raises(ValueError, match="no times"):
        BASELINES["recent-popularity"](Platform(items, train_split))


def test_large_platforms_leave_out_what_is_slow_on_them(items, train_split, monkeypatch):
    monkeypatch.setitem(SLOW_BASELINES, "slim", len(items) - 1)
    found = known_baselines(Platform(items, train_split))
    assert "ease" in found and "slim" not in found
