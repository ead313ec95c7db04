"""The sum of a model and transitions in one pass, against ranking the sum by itself."""

import datasets
import numpy as np
import pytest
import torch

from modeling_transrec import FullRankingEvaluator
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation import sum_evaluator
from modeling_transrec.evaluation.features import Content
from modeling_transrec.evaluation.sum_evaluator import SumEvaluator
from modeling_transrec.evaluation.weighing import choose, empty_scorer


NUM_ITEMS = 90


@pytest.fixture
def rows():
    """Users who mostly go on to the next item, some of whom come back to an item."""
    rng = np.random.default_rng(0)
    starts = [(rng.integers(NUM_ITEMS), rng.integers(3, 30)) for _ in range(150)]
    return [[str((start + rng.integers(-2, 5) + step) % NUM_ITEMS) for step in range(size)] for start, size in starts]


@pytest.fixture
def make_evaluator(rows):
    def make(**options):
        items = datasets.Dataset.from_dict({"item_id": [str(number) for number in range(NUM_ITEMS)]})
        users = {"item_ids": [row[:-1] for row in rows], "target": [row[-1] for row in rows]}
        return FullRankingEvaluator(items, datasets.Dataset.from_dict(users), batch_size=16, **options)

    return make


@pytest.fixture
def transitions(rows):
    return Transitions.from_sequences([row[:-1] for row in rows], [str(number) for number in range(NUM_ITEMS)])


def make_scorer(seed):
    """Dense scores, as of another epoch with another seed."""
    features = torch.randn(NUM_ITEMS, 8, generator=torch.Generator().manual_seed(seed))
    return Content({"text": features}, {}, []).fit(max_seq_len=100)


@pytest.mark.parametrize("options", [{"ks": [1, 30]}, {"ks": [10], "exclude_seen": False}])
@pytest.mark.parametrize("weight", ["auto", "3"])
@pytest.mark.parametrize("room", [0, 2**20])
def test_metrics_are_those_of_the_sum(weight, options, room, make_evaluator, transitions, monkeypatch):
    monkeypatch.setattr(sum_evaluator, "_STORED_AT_MOST", room)
    evaluator = make_evaluator(**options)
    rank = SumEvaluator(evaluator, transitions, weight)
    for seed in (1, 2, 3):  # transitions that were stored in the first evaluation serve the others
        scorer = make_scorer(seed)
        found = rank(scorer)
        assert (rank._num_stored > 0) == (room > 0)
        weights = {} if weight == "auto" else {"transition_weights": (3.0,)}
        choice = choose(scorer, transitions, evaluator, popularity_weights=(0.0,), settings=[rank.settings], **weights)
        assert found.pop("transition_weight") == choice.transition_weight
        expected = evaluator.rank(scorer)
        of_sum = evaluator.rank(choice.apply(scorer, transitions))
        expected |= {f"{name}_with_transitions": value for name, value in of_sum.items() if name != "mrr"}
        assert found == pytest.approx(expected, abs=1e-9)
        assert found["ndcg@10_with_transitions" if 10 in evaluator.ks else "hr@30_with_transitions"] > 0.1


def test_settings_are_those_of_the_transitions_alone(make_evaluator, transitions):
    evaluator = make_evaluator(ks=[10])
    found = SumEvaluator(evaluator, transitions).transitions.settings
    by_setting = {}
    for power in (0.3, 0.5):
        for decay in (0.5, 0.6, 0.7):
            alone = transitions.with_settings(power=power, history_decay=decay)
            scores = evaluator.rank(empty_scorer(NUM_ITEMS).replace(transitions=alone))
            by_setting[power, decay] = scores["ndcg@10"]
    best = max(by_setting.values())
    assert by_setting[found.power, found.history_decay] == pytest.approx(best, abs=2e-3)  # up to how ties count
    assert best > min(by_setting.values()) + 1e-6
