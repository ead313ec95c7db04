"""What needs no training: rows of one table, and what they are worth."""

import itertools

import numpy as np
import pytest
import torch

from modeling_transrec import FullRankingEvaluator
from modeling_transrec.evaluation.baselines import BASELINES, TrainingInteractions, evaluate_baselines


def test_random_is_the_mean_of_random_rankings(items, validation_split):
    evaluator = FullRankingEvaluator(items, validation_split, ks=[10])
    generator = torch.Generator().manual_seed(0)
    draws = [
        evaluator.evaluate(lambda batch, users: torch.rand(len(batch), len(items), generator=generator))
        for _ in range(400)
    ]
    for name, value in evaluator.evaluate(BASELINES["random"](TrainingInteractions(items, []))).items():
        assert np.mean([draw[name] for draw in draws]) == pytest.approx(value, abs=0.02)


def test_popularity_ranks_by_training_interactions(items, train_split, validation_split):
    interactions = TrainingInteractions(items, train_split)
    taken = list(itertools.chain.from_iterable(train_split["item_ids"]))
    assert interactions.item_counts.tolist() == [taken.count(item_id) for item_id in items["item_id"]]
    found = evaluate_baselines(FullRankingEvaluator(items, validation_split), interactions)
    assert list(found) == list(BASELINES)
    assert found["popularity"]["hr@10"] > 1.3 * found["random"]["hr@10"]


def test_a_new_row_is_evaluated_with_the_others(items, train_split, validation_split, monkeypatch):
    def first_items(interactions):
        return lambda histories, users: -torch.arange(37.0).repeat(len(users), 1)

    monkeypatch.setitem(BASELINES, "first items", first_items)
    found = evaluate_baselines(FullRankingEvaluator(items, validation_split), TrainingInteractions(items, train_split))
    assert set(found) == {*BASELINES} and "hr@10" in found["first items"]


def test_interactions_are_read_when_a_baseline_asks_for_them(items, train_split, validation_split):
    read = []
    interactions = TrainingInteractions(items, lambda: read.append(1) or train_split)
    FullRankingEvaluator(items, validation_split).evaluate(BASELINES["random"](interactions))
    assert not read
    BASELINES["popularity"](interactions), BASELINES["popularity"](interactions)
    assert read == [1]


def test_transitions_follow_the_history(items, train_split):
    interactions = TrainingInteractions(items, train_split)
    histories, users = torch.tensor([[9, 4], [-1, 4]]), np.arange(2)
    of_all, of_last = (
        BASELINES[name](interactions)(histories, users) for name in ("transitions", "last-item-transitions")
    )
    expected = torch.from_numpy(interactions.transitions.scores(histories.numpy()).toarray()).float()
    torch.testing.assert_close(of_all, expected)
    torch.testing.assert_close(of_last[0], of_all[1])
    assert not torch.equal(of_all[0], of_all[1])
