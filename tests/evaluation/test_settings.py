"""How many settings of what needs no training are tried."""

import itertools

import pytest
import torch

from modeling_transrec import EvaluationArguments, FullRankingEvaluator
from modeling_transrec.evaluation import baselines, neighbours
from modeling_transrec.evaluation.baselines import BASELINES, Platform
from modeling_transrec.evaluation.features import Content
from modeling_transrec.evaluation.settings import GRIDS, SPACES, settings_of


@pytest.mark.parametrize("name", GRIDS)
def test_a_budget_starts_with_the_grid_and_ends_with_the_space(name):
    size = len({*map(str, GRIDS[name])} | {str(dict(zip(SPACES[name], one, strict=True))) for one in all_of(name)})
    for count in (1, 2, 5, 20, 1000):
        found = settings_of(name, count)
        assert len(found) == min(count, size) and len({str(one) for one in found}) == len(found)
        assert found[: len(GRIDS[name])] == GRIDS[name][:count]
        assert found == settings_of(name, 1000)[:count]  # more of a budget only adds
    assert settings_of(name) == GRIDS[name]


def all_of(name):
    return itertools.product(*SPACES[name].values())


@pytest.mark.parametrize(("count", "tried"), [(None, 6), (1, 1), (4, 4), (11, 11), (99, 16)])
def test_so_many_are_made_and_the_best_on_validation_is_taken(
    items, train_split, validation_split, count, tried, monkeypatch
):
    made, make = [], neighbours.MAKERS["item-knn"]
    monkeypatch.setitem(neighbours.MAKERS, "item-knn", lambda taken, **one: made.append(one) or make(taken, **one))
    validation = FullRankingEvaluator(items, validation_split, ks=[10])
    scorer, chosen = BASELINES["item-knn"](Platform(items, train_split, validation=validation, num_settings=count))
    assert len(made) == tried + 1 and made[-1] == chosen in made[:-1]  # and the best once more
    found = validation.rank(scorer)["ndcg@10"]
    for setting in made[:-1]:
        other = Platform(items, train_split)
        one = baselines.empty_scorer(37).replace(transitions=make(other.taken, **setting))
        assert validation.rank(one)["ndcg@10"] <= found + 1e-9


def test_content_and_transitions_are_searched_alike(items, train_split, validation_split, monkeypatch):
    tried = {}
    choose, choose_content = baselines.choose, baselines.choose_content

    def counting(*given, **named):
        tried["transitions"] = len(given[5])
        return choose(*given, **named)

    def counting_content(content, validation, settings):
        tried["content"] = len(settings)
        return choose_content(content, validation, settings)

    validation = FullRankingEvaluator(items, validation_split)
    features = torch.randn(37, 8, generator=torch.Generator().manual_seed(0))
    content = Content({"text": features}, {"text": torch.ones(37, dtype=torch.bool)}, ["made"])
    monkeypatch.setattr(baselines, "choose", counting)
    monkeypatch.setattr(baselines, "choose_content", counting_content)
    platform = Platform(items, train_split, validation=validation, content=content, num_settings=20)
    BASELINES["transitions"](platform), BASELINES["content-knn"](platform)
    assert tried == {"transitions": 20, "content": 20}


def test_a_budget_is_at_least_one_and_of_rows_that_are_shown():
    with pytest.raises(ValueError, match="--num_settings must be at least 1, got 0"):
        EvaluationArguments("item-knn", num_settings=0)
    with pytest.raises(ValueError, match="--num_settings is of what needs no training"):
        EvaluationArguments("outputs/model", num_settings=3, with_baselines=False)
