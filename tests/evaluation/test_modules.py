"""The modules of `evaluate` against our metrics, torchmetrics and sums by hand, and as `evaluate` uses them."""

import inspect
import json
import math
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from torchmetrics.functional import retrieval

from modeling_transrec import FullRankingEvaluator
from modeling_transrec.evaluation.baselines import BASELINES, Platform
from modeling_transrec.evaluation.metrics import Rankings, ranking_metrics
from modeling_transrec.evaluation.ranking import rank_targets


FOLDER = Path(__file__).parents[2] / "metrics"
NAMES = sorted(path.name for path in FOLDER.iterdir() if (path / f"{path.name}.py").exists())
TARGET_METRICS = {"hr": "hr_at_k", "ndcg": "ndcg_at_k", "mrr": "mrr"}
LIST_METRICS = {
    name: f"{name}_at_k" for name in ("coverage", "novelty", "popularity_bias", "diversity", "calibration")
}


def load(name, *args, **options):
    return evaluate.load(str(FOLDER / name), *args, **options)


def test_there_is_a_module_of_each_metric():
    assert NAMES == sorted([*TARGET_METRICS.values(), *LIST_METRICS.values(), "recall_at_k"])
    for name in NAMES:
        module = load(name)
        assert module.name == name and module.description and "Returns:" in module.inputs_description
        parameters = inspect.signature(module._compute).parameters.values()  # as the common test of evaluate asks
        assert all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters)


@pytest.mark.parametrize("levels", [4, 1000])
def test_scores_and_ranks_are_worth_what_they_are_to_us(levels):
    """`levels` 4: nearly everything ties."""
    rng = np.random.default_rng(levels)
    scores, targets = rng.integers(levels, size=(37, 23)).astype(np.float64), rng.integers(23, size=37)
    num_better, num_tied = rank_targets(torch.from_numpy(scores), torch.from_numpy(targets))
    expected = ranking_metrics(Rankings(num_better, num_tied), ks=[3, 7])
    for name in TARGET_METRICS.values():
        cutoffs = {} if name == "mrr" else {"k": [3, 7]}
        by_scores = load(name, "scores", **cutoffs).compute(predictions=scores, references=targets)
        by_ranks = load(name, "ranks", **cutoffs).compute(num_better=num_better, num_tied=num_tied)
        assert by_scores == by_ranks == {key: expected[key] for key in by_ranks}
    recall = load("recall_at_k", "ranks").compute(num_better=num_better, num_tied=num_tied, k=3)
    assert recall == {"recall@3": expected["hr@3"]}


def test_candidates_may_differ_from_user_to_user():
    """As where some are sampled; -inf is no candidate."""
    metric = load("mrr", "scores")
    scores = [[0.1, 0.2], [0.5, 0.7, 0.6, 0.4], [-math.inf, 0.0, 0.3]]
    assert metric.compute(predictions=scores, references=[0, 2, 1])["mrr"] == pytest.approx(1 / 2)


def test_lists_with_several_relevant_items_are_worth_what_they_are_to_torchmetrics(in_float64):
    rng = np.random.default_rng(5)
    ids = [f"i{place}" for place in range(20)]
    lists = [[*map(str, rng.permutation(ids)[: rng.integers(1, 21)])] for _ in range(31)]
    relevant = [[*map(str, rng.choice(ids, rng.integers(1, 9), replace=False))] for _ in range(31)]
    theirs = {
        "hr_at_k": retrieval.retrieval_hit_rate,
        "recall_at_k": retrieval.retrieval_recall,
        "ndcg_at_k": retrieval.retrieval_normalized_dcg,
        "mrr": retrieval.retrieval_reciprocal_rank,
    }
    for name, function in theirs.items():
        for k in (1, 4, 30):
            values = []
            for ranked, wanted in zip(lists, relevant, strict=True):
                rest = [one for one in ids if one not in ranked]
                # What is not in a list is ranked by nobody: irrelevant items fill the places up to the cut-off.
                order = [*ranked, *["nothing"] * 30, *rest]
                is_relevant = torch.tensor([one in wanted for one in order])
                scores = 100 - torch.arange(len(order), dtype=torch.float64)  # recall counts those above 0
                values.append(function(scores, is_relevant, top_k=k).item())
            ours = load(name).compute(predictions=lists, references=relevant, k=k)
            assert [*ours.values()] == [pytest.approx(np.mean(values), abs=1e-9)]


def test_ndcg_by_hand():
    """Two of three relevant items are ranked first and third, the best would be all three first."""
    found = load("ndcg_at_k").compute(predictions=[["a", "x", "b"]], references=[["a", "b", "c"]], k=[2, 3])
    gains = [1 / math.log2(rank + 1) for rank in (1, 2, 3)]
    expected = {"ndcg@2": gains[0] / sum(gains[:2]), "ndcg@3": (gains[0] + gains[2]) / sum(gains)}
    assert found == pytest.approx(expected, abs=1e-12)


def test_lists_are_worth_what_they_are_to_the_evaluator(items, validation_split, train_split):
    """Predictions as item ids, made of the evaluator's lists; metrics with arguments of their own are combined."""
    platform, ids = Platform(items, train_split), items["item_id"][:]
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(37, 4))).float()
    counts = dict(zip(ids, platform.item_counts.tolist(), strict=True))
    evaluator = FullRankingEvaluator(
        items,
        validation_split,
        ks=[2, 5],
        metrics=["hr", "ndcg", *LIST_METRICS],
        item_counts=platform.item_counts,
        item_features=features,
    )
    ours = evaluator.rank(BASELINES["transitions"](platform)[0])
    arguments = {
        "coverage": {"catalogue": ids},
        "diversity": {"item_features": dict(zip(ids, features.tolist(), strict=True))},
    }
    both = evaluate.combine(
        [load(name, k=[2, 5], **arguments.get(key, {"item_counts": counts})) for key, name in LIST_METRICS.items()]
    )
    lists = [[ids[item] for item in user if item >= 0] for user in evaluator.rankings.top_items.tolist()]
    for start in range(0, 13, 4):
        users = slice(start, start + 4)
        both.add_batch(predictions=lists[users], histories=validation_split["item_ids"][users])
    expected = {name: value for name, value in ours.items() if name.split("@")[0] in LIST_METRICS}
    assert both.compute() == pytest.approx(expected, abs=1e-12)


def test_combined_and_saved(tmp_path):
    both = evaluate.combine([load(name) for name in ("hr_at_k", "recall_at_k", "ndcg_at_k", "mrr")])
    for prediction, reference in ((["a", "b"], ["b"]), (["c", "d"], ["a", "d"])):
        both.add(prediction=prediction, reference=reference)
    found = both.compute(k=1)
    assert found == {"hr@1": 0.0, "recall@1": 0.0, "ndcg@1": 0.0, "mrr@1": 0.0}
    found = both.compute(predictions=[["a", "b"], ["c", "d"]], references=[["b"], ["a", "d"]], k=2)
    assert found["hr@2"] == 1.0 and found["recall@2"] == 0.75 and found["mrr@2"] == 0.5
    evaluate.save(tmp_path / "results.json", **found, model="popularity")
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["ndcg@2"] == found["ndcg@2"] and saved["model"] == "popularity"


def test_mistakes_are_named():
    hr, one = load("hr_at_k"), {"predictions": [["a", "b"]], "references": ["b"]}
    for message, call in {
        "item 'a' stands twice among the predictions of user 1": lambda: hr.compute(
            predictions=[["b"], ["a", "c", "a"]], references=["a", "b"]
        ),
        "user 1 has no references": lambda: hr.compute(predictions=[["a"], ["b"]], references=[["a"], []]),
        "no users to evaluate: predictions are empty": lambda: load("mrr", "scores").compute(
            predictions=[], references=[]
        ),
        "no users to evaluate: num_better is empty": lambda: load("hr_at_k", "ranks").compute(
            num_better=[], num_tied=[]
        ),
        "k must be at least 1, got 0": lambda: hr.compute(**one, k=0),
        "reference 2 of user 0 is no index into the 2 predictions": lambda: load("mrr", "scores").compute(
            predictions=[[0.5, 0.2]], references=[2]
        ),
        "there is no configuration 'score'; there are default, scores, ranks": lambda: load("mrr", "score"),
        "hr_at_k has no argument cutoff; it has k": lambda: load("hr_at_k", cutoff=5),
        "coverage_at_k needs catalogue": lambda: load("coverage_at_k").compute(predictions=[["a"]]),
        "novelty_at_k needs item_counts": lambda: load("novelty_at_k").compute(predictions=[["a"]]),
        "item 'b' is not among the 1 items": lambda: load("novelty_at_k").compute(
            predictions=[["a", "b"]], item_counts={"a": 1}
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_ids_are_strings():
    """`evaluate` says so; catalogues and counts may have whole numbers, as tables do."""
    with pytest.raises(ValueError, match="don't match the expected format"):
        load("hr_at_k").compute(predictions=[[1, 2]], references=[2])
    coverage = load("coverage_at_k", catalogue=range(10))
    assert coverage.compute(predictions=[["1", "2"], ["2", "3"]], k=2) == {"coverage@2": 0.3}


def test_nothing_else_imports_evaluate():
    package = Path(inspect.getfile(FullRankingEvaluator)).parents[1]
    importing = {
        path.name
        for path in package.rglob("*.py")
        if re.search("^(import|from) evaluate\\b", path.read_text("utf-8"), re.MULTILINE)
    }
    assert importing == {"metric_spaces.py", "modules.py"}
