"""What needs no training: rows of one table, and what they are worth."""

import itertools

import numpy as np
import pytest
import torch

from modeling_transrec import FullRankingEvaluator
from modeling_transrec.evaluation.baselines import BASELINES, SLOW_BASELINES, Platform, evaluate_baselines
from modeling_transrec.evaluation.weighing import empty_scorer


def test_random_is_the_mean_of_random_rankings(items, validation_split):
    evaluator = FullRankingEvaluator(items, validation_split, ks=[10])
    generator = torch.Generator().manual_seed(0)
    draws = [
        evaluator.evaluate(lambda batch, users: torch.rand(len(batch), len(items), generator=generator))
        for _ in range(400)
    ]
    for name, value in evaluator.rank(*BASELINES["random"](Platform(items, []))[:1]).items():
        assert np.mean([draw[name] for draw in draws]) == pytest.approx(value, abs=0.02)


def test_popularity_ranks_by_training_interactions(items, train_split, validation_split):
    platform = Platform(items, train_split)
    taken = list(itertools.chain.from_iterable(train_split["item_ids"]))
    assert platform.item_counts.tolist() == [taken.count(item_id) for item_id in items["item_id"]]
    found = evaluate_baselines(FullRankingEvaluator(items, validation_split), platform)
    assert list(found) == [
        *("random", "popularity", "last-item-transitions", "transitions"),
        *SLOW_BASELINES,
    ]  # no backbone, no times
    metrics = {name: result["metrics"]["hr@10"] for name, result in found.items()}
    assert metrics["popularity"] > 1.3 * metrics["random"]
    counts = torch.from_numpy(platform.item_counts).double()
    expected = FullRankingEvaluator(items, validation_split).evaluate(
        lambda batch, users: counts.repeat(len(batch), 1)
    )
    assert found["popularity"]["metrics"] == expected
    assert found["popularity"]["protocol"]["scores"] == "popularity"


def test_a_new_row_is_evaluated_with_the_others(items, train_split, validation_split, monkeypatch):
    def first_items(platform):
        return empty_scorer(len(platform.items)).replace(item_scores=-torch.arange(37.0)), {"first": 37}

    monkeypatch.setitem(BASELINES, "first items", first_items)
    evaluator = FullRankingEvaluator(items, validation_split)
    found = evaluate_baselines(evaluator, Platform(items, train_split))
    expected = evaluator.evaluate(lambda histories, users: -torch.arange(37.0).repeat(len(users), 1))
    assert found["first items"]["metrics"] == expected
    assert found["first items"]["protocol"]["scoring"]["first"] == 37


def test_interactions_are_read_when_a_baseline_asks_for_them(items, train_split, validation_split):
    read = []
    platform = Platform(items, lambda: read.append(1) or train_split)
    FullRankingEvaluator(items, validation_split).rank(BASELINES["random"](platform)[0])
    assert not read
    BASELINES["popularity"](platform), BASELINES["popularity"](platform)
    assert read == [1]


def test_transitions_follow_the_history(items, train_split):
    platform = Platform(items, train_split)
    histories = torch.tensor([[9, 4], [-1, 4]])
    of_all, of_last = (
        BASELINES[name](platform)[0].scores(histories) for name in ("transitions", "last-item-transitions")
    )
    expected = torch.from_numpy(platform.transitions.scores(histories.numpy()).toarray()).float()
    torch.testing.assert_close(of_all, expected)
    torch.testing.assert_close(of_last[0], of_all[1])
    assert not torch.equal(of_all[0], of_all[1])
