"""Full ranking against a brute force that sorts for every user, and what random and broken models are worth."""

import itertools
import math

import datasets
import numpy as np
import pytest
import torch

from modeling_transrec import FullRankingEvaluator, Recommender, TransRecModel, TransRecProcessor
from modeling_transrec.evaluation import ranking
from modeling_transrec.evaluation.baselines import BASELINES, Platform
from modeling_transrec.evaluation.metrics import METRICS, Metric, Rankings, popularity_groups, ranking_metrics

from ..checks import perturb


def brute_force(scores, histories, targets, k, exclude_seen):
    """Mean HR@k and NDCG@k, users one by one, ties averaged over where the target may stand."""
    hits, gains = [], []
    for user_scores, history, target in zip(scores, histories, targets, strict=True):
        candidates = [
            item for item in range(len(user_scores)) if not exclude_seen or item == target or item not in history
        ]
        ranked = sorted(candidates, key=lambda item: -user_scores[item])
        tied = [place for place, item in enumerate(ranked, 1) if user_scores[item] == user_scores[target]]
        hits.append(np.mean([place <= k for place in tied]))
        gains.append(np.mean([1 / math.log2(place + 1) if place <= k else 0 for place in tied]))
    return np.mean(hits), np.mean(gains)


@pytest.mark.parametrize("lines", [2, 1000])
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("levels", [3, 1000])
def test_metrics_equal_brute_force(items, validation_split, exclude_seen, levels, lines, monkeypatch):
    """`levels` 3: nearly everything ties; 1000: nothing does. `lines` of scores are compared at a time."""
    monkeypatch.setattr(ranking, "SCORES_IN_CACHE", lines * len(items) + 1)
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(len(validation_split), len(items))).astype(np.float64)
    row = {item_id: number for number, item_id in enumerate(items["item_id"])}
    histories = [[row[item] for item in history] for history in validation_split["item_ids"]]
    targets = [row[item] for item in validation_split["target"]]
    assert any(target in history for target, history in zip(targets, histories, strict=True))

    by_history = {tuple(history): scores[user] for user, history in enumerate(histories)}

    def score(batch, users):
        assert len(users) == len(batch)
        return torch.stack([torch.from_numpy(by_history[tuple(line[line >= 0].tolist())]) for line in batch])

    evaluator = FullRankingEvaluator(items, validation_split, ks=[1, 4, 10], exclude_seen=exclude_seen, batch_size=5)
    metrics = evaluator.evaluate(score)
    for k in (1, 4, 10):
        hit, gain = brute_force(scores, histories, targets, k, exclude_seen)
        assert metrics[f"hr@{k}"] == pytest.approx(hit)
        assert metrics[f"ndcg@{k}"] == pytest.approx(gain)


@pytest.mark.parametrize("kind", ["text", "id"])
def test_a_models_metrics_equal_one_user_at_a_time(kind, items, validation_split, make_model, processor_of):
    model, processor = make_model(kind, max_seq_len=6), processor_of[kind]
    metrics = FullRankingEvaluator(items, validation_split, ks=[10], batch_size=4, item_batch_size=7)(model, processor)

    call = {"text": list(items["text_en"])} if kind == "text" else {"item_ids": list(items["item_id"])}
    catalogue = model.get_item_features(**processor(**call))
    row = {item_id: number for number, item_id in enumerate(items["item_id"])}
    scores, histories, targets = [], [], []
    for user in validation_split:
        history = [row[item] for item in user["item_ids"]]
        vectors = catalogue[history[-6:]][None]
        state = model.get_user_features(vectors, torch.ones(1, vectors.shape[1], dtype=torch.bool))
        scores.append((state @ catalogue.T)[0].detach().double().numpy())
        histories.append(history)
        targets.append(row[user["target"]])
    hit, gain = brute_force(scores, histories, targets, 10, exclude_seen=True)
    assert metrics["hr@10"] == pytest.approx(hit)
    assert metrics["ndcg@10"] == pytest.approx(gain)


def test_a_constant_model_scores_as_random(items, validation_split, make_model, processor_of):
    evaluator, random = (
        FullRankingEvaluator(items, validation_split),
        BASELINES["random"](Platform(items, []))[0],
    )
    model = make_model("id")
    torch.nn.init.zeros_(model.model.item_encoder.id_embedding.weight)
    assert evaluator(model, processor_of["id"]) == pytest.approx(evaluator.rank(random))
    open_candidates = FullRankingEvaluator(items, validation_split, ks=[10], exclude_seen=False)
    assert open_candidates.rank(random)["hr@10"] == pytest.approx(10 / len(items))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_scores_are_an_error(broken, items, validation_split, make_model, processor_of):
    model = make_model("id")
    with torch.no_grad():
        model.model.item_encoder.id_embedding.weight[3, 0] = broken
    with pytest.raises(ValueError, match="NaN or infinite"):
        FullRankingEvaluator(items, validation_split)(model, processor_of["id"])


def test_evaluation_leaves_the_model_in_its_mode(items, validation_split, make_model, processor_of):
    model = make_model("id", hidden_dropout_prob=0.5).train()
    evaluator = FullRankingEvaluator(items, validation_split)
    assert evaluator(model, processor_of["id"]) == evaluator(model, processor_of["id"])  # no dropout
    assert model.training


def test_another_language_is_read_anew(items, validation_split, make_model, tokenizer):
    processor, model = TransRecProcessor(tokenizer), make_model("text")
    evaluator = FullRankingEvaluator(items, validation_split)
    english = evaluator(model, processor)
    processor.language = "zh"
    chinese = evaluator(model, processor)
    assert chinese != english and chinese == FullRankingEvaluator(items, validation_split)(model, processor)


def test_protocol_is_kept_with_the_numbers(items, validation_split):
    protocol = FullRankingEvaluator(items, validation_split, split="validation", ks=[10, 5]).protocol
    assert protocol["num_users"] == 13 and protocol["num_candidates"] == 37
    assert protocol["split"] == "validation" and protocol["ks"] == [5, 10]
    assert "excluded" in protocol["seen_items"]


def test_fingerprint_tells_what_was_evaluated(items, validation_split):
    def fingerprint(items, split):
        return FullRankingEvaluator(items, split).fingerprint

    expected = fingerprint(items, validation_split)
    shuffled = validation_split.shuffle(seed=1)
    assert fingerprint(items.shuffle(seed=2), shuffled.rename_column("user_id", "user")) == expected
    rows = validation_split.to_list()
    for change in ("target", "history", "order", "user"):
        changed = [dict(row) for row in rows]
        first = changed[0]
        if change == "target":
            first["target"] = next(one for one in items["item_id"] if one not in [first["target"], *first["item_ids"]])
        elif change == "history":
            first["item_ids"] = first["item_ids"][1:]
        elif change == "order":
            first["item_ids"] = first["item_ids"][::-1]
        else:
            changed = changed[1:]
        assert fingerprint(items, datasets.Dataset.from_list(changed)) != expected, change
    in_use = {one for row in rows for one in [row["target"], *row["item_ids"]]}
    unused = next(row for row, one in enumerate(items["item_id"]) if one not in in_use)
    assert fingerprint(items.select([r for r in range(len(items)) if r != unused]), validation_split) != expected


def test_fingerprint_tells_by_what_rules_was_evaluated(items, validation_split):
    rules = ({}, {"exclude_seen": False}, {"center_scores": True}, {"exclude_seen": False, "center_scores": True})
    found = [FullRankingEvaluator(items, validation_split, **rule).fingerprint for rule in rules]
    assert len(set(found)) == len(rules)
    assert FullRankingEvaluator(items, validation_split, ks=[7], split="other").fingerprint == found[0]


def test_whole_numbers_are_ids(items, validation_split):
    numbers = datasets.Dataset.from_dict({"item_id": [1, 2, 3]})
    users = datasets.Dataset.from_dict({"item_ids": [[1, 2], [3]], "target": [3, 1]})
    texts = datasets.Dataset.from_dict({"item_id": ["1", "2", "3"]})
    same = datasets.Dataset.from_dict({"item_ids": [["1", "2"], ["3"]], "target": ["3", "1"]})
    assert FullRankingEvaluator(numbers, users).protocol == FullRankingEvaluator(texts, same).protocol
    processor = TransRecProcessor(item_ids=[1, 2, 3], user_ids=[7, 8])
    assert processor(item_ids=[3, "1"])["item_ids"].tolist() == [2, 0] and processor.user_index(["8", 7]) == [1, 0]


def test_metrics_of_groups_are_those_of_their_users(items, validation_split, train_split):
    platform = Platform(items, train_split)
    counts, (popularity, _) = platform.item_counts, BASELINES["popularity"](platform)
    evaluator = FullRankingEvaluator(items, validation_split)
    whole = evaluator.rank(popularity)
    groups = evaluator.metrics_of_groups(counts)
    for kind in ("target", "history"):
        parts = [group for name, group in groups.items() if name.startswith(kind)]
        assert len(parts) > 1 and sum(part["num_users"] for part in parts) == len(validation_split)
        weighted = sum(part["num_users"] * part["hr@10"] for part in parts) / len(validation_split)
        assert weighted == pytest.approx(whole["hr@10"])
    places = dict(zip(items["item_id"], counts, strict=True))
    chosen = [row for row in validation_split if 5 <= places[row["target"]] < 10]
    alone = FullRankingEvaluator(items, datasets.Dataset.from_list(chosen)).rank(popularity)
    assert groups["target 5-9"] == {"num_users": len(chosen), **alone}


def test_lists_are_those_that_the_recommender_shows(items, validation_split, train_split, make_model, processor_of):
    """Coverage, novelty and popularity bias, counted from what each user is shown."""
    counts = Platform(items, train_split).item_counts
    names = ["hr", "coverage", "novelty", "popularity_bias"]
    model, processor = perturb(make_model("text")), processor_of["text"]  # else scores are tied but for rounding
    plain = FullRankingEvaluator(items, validation_split, ks=[3, 7], batch_size=4)(model, processor)
    evaluator = FullRankingEvaluator(
        items, validation_split, ks=[3, 7], batch_size=4, metrics=names, item_counts=counts
    )
    metrics = evaluator(model, processor)
    assert list(metrics) == [f"{name}@{k}" for k in (3, 7) for name in names]
    assert metrics["hr@7"] == plain["hr@7"] and list(plain) == ["hr@3", "ndcg@3", "hr@7", "ndcg@7", "mrr"]
    recommender = Recommender(model, processor).index(items)
    for k in (3, 7):
        shown = [[item["item_id"] for item in recommender.recommend(user, k)] for user in validation_split["item_ids"]]
        of_lists = [sum(counts[int(item_id[1:])] for item_id in user) / len(user) for user in shown]
        of_histories = [
            sum(counts[int(item_id[1:])] for item_id in user) / len(user) for user in validation_split["item_ids"]
        ]
        assert metrics[f"popularity_bias@{k}"] == pytest.approx(np.mean(of_lists) / np.mean(of_histories))
        shown = [int(item_id[1:]) for user in shown for item_id in user]
        assert metrics[f"coverage@{k}"] == len(set(shown)) / 37
        information = [-math.log2((counts[item] + 1) / (counts.sum() + 37)) for item in shown]
        assert metrics[f"novelty@{k}"] == pytest.approx(np.mean(information))
    with pytest.raises(ValueError, match="coverage, novelty: give item_counts"):
        FullRankingEvaluator(items, validation_split, metrics=["mrr", "coverage", "novelty"])
    with pytest.raises(ValueError, match="unknown metrics recall; there are hr, ndcg"):
        FullRankingEvaluator(items, validation_split, metrics=["recall"])


def test_lists_are_compared_by_content_and_with_histories(items, validation_split, train_split):
    """Diversity and calibration, over pairs and users one by one."""
    counts = Platform(items, train_split).item_counts
    features = torch.from_numpy(np.random.default_rng(3).normal(size=(37, 5)))
    features[[2, 30]] = 0.0  # two items have no content
    names = {"metrics": ["diversity", "calibration"], "item_counts": counts, "item_features": features}
    evaluator = FullRankingEvaluator(items, validation_split, ks=[2, 6], batch_size=4, **names)
    found = evaluator.evaluate(lambda histories, users: torch.sin(histories[:, -1:] * torch.arange(37.0)))
    index = {item_id: place for place, item_id in enumerate(items["item_id"])}
    histories = [[index[one] for one in user] for user in validation_split["item_ids"]]
    more_popular = [counts[counts > count].sum() / counts.sum() for count in counts]
    group = ["popular" if share < 0.2 else "rare" if share >= 0.8 else "middle" for share in more_popular]
    assert len(set(group)) == 3

    def divergence(one, other):
        p, q = (
            [[group[item] for item in list_].count(name) / len(list_) for name in set(group)] for list_ in (one, other)
        )
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return sum(a / 2 * math.log2(a / m) for side in (p, q) for a, m in zip(side, middle, strict=True) if a > 0)

    for k in (2, 6):
        lists = [user[user >= 0].tolist() for user in evaluator.rankings.top_items[:, :k]]
        distances = []
        for one in lists:
            known = [features[item].numpy() for item in one if features[item].any()]
            pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(known, 2)]
            distances += [1 - np.mean(pairs)] if pairs else []
        assert found[f"diversity@{k}"] == pytest.approx(np.mean(distances))
        expected = np.mean([divergence(*pair) for pair in zip(lists, histories, strict=True)])
        assert found[f"calibration@{k}"] == pytest.approx(expected)
    some = evaluator.rankings.of_users(torch.arange(13) < 4)
    apart = FullRankingEvaluator(items, validation_split.select(range(4)), ks=[6], **names)
    assert apart.evaluate(lambda histories, users: torch.sin(histories[:, -1:] * torch.arange(37.0))) == {
        name: METRICS[name.split("@")[0]].function(some, 6) for name in ("diversity@6", "calibration@6")
    }


def test_what_a_metric_needs_and_is_not_there_is_named(items, validation_split):
    with pytest.raises(ValueError, match="diversity: give item_features, a vector of the content of each of the 37"):
        FullRankingEvaluator(items, validation_split, metrics=["hr", "diversity"])
    two = torch.tensor([0, 0])
    rankings = Rankings(two, two, torch.tensor([[0, 1], [1, -1]]), item_features=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="calibration reads item_counts, histories of the rankings"):
        ranking_metrics(rankings, metrics=["calibration"])
    for k in (1, 2):
        with pytest.raises(ValueError, match=f"diversity@{k} compares .* no list has two items with content"):
            ranking_metrics(rankings, ks=[k], metrics=["diversity"])
    with pytest.raises(ValueError, match="no item has training interactions"):
        popularity_groups(np.zeros(3))


def test_a_metric_is_any_function_of_the_rankings(items, validation_split, train_split, monkeypatch):
    """A row of its own: how many items a user is shown that somebody else is shown, too."""

    def shared(rankings, k):
        lists = [set(row[row >= 0].tolist()) for row in rankings.top_items[:, :k]]
        return float(np.mean([len(one & other) for one in lists for other in lists if one is not other]))

    monkeypatch.setitem(METRICS, "shared", Metric(shared, needs=("top_items", "item_counts")))
    platform = Platform(items, train_split)
    evaluator = FullRankingEvaluator(
        items, validation_split, ks=[5], exclude_seen=False, metrics=["shared"], item_counts=platform.item_counts
    )
    assert evaluator.evaluate(lambda histories, users: torch.arange(37.0).repeat(len(users), 1)) == {"shared@5": 5}
    drawn = evaluator.rank(BASELINES["random"](platform)[0])["shared@5"]  # all items tie: lists are drawn
    assert drawn < 2
    assert evaluator.rank(BASELINES["random"](platform)[0])["shared@5"] == drawn


def test_a_split_without_targets_is_an_error(items, train_split):
    with pytest.raises(ValueError, match="no target"):
        FullRankingEvaluator(items, train_split)
    with pytest.raises(ValueError, match="empty"):
        FullRankingEvaluator(items, train_split.select([]))


def test_the_base_model_can_be_evaluated(items, validation_split, make_model, processor_of):
    model = make_model("id")
    evaluator = FullRankingEvaluator(items, validation_split)
    assert isinstance(model.model, TransRecModel)
    assert evaluator(model.model, processor_of["id"]) == evaluator(model, processor_of["id"])


def test_centred_scores_are_cosines_of_vectors_minus_their_means(items, validation_split, make_model, processor_of):
    model, processor = make_model("text"), processor_of["text"]
    evaluator = FullRankingEvaluator(items, validation_split, ks=[10], batch_size=4, center_scores=True)
    metrics = evaluator(model, processor)
    assert evaluator.protocol["scores"] == "centered cosine"
    catalogue = model.get_item_features(**processor(text=list(items["text_en"])))
    row = {item_id: number for number, item_id in enumerate(items["item_id"])}
    histories = [[row[item] for item in history] for history in validation_split["item_ids"]]
    users = torch.cat(
        [
            model.get_user_features(
                catalogue[history[-20:]][None], torch.ones(1, len(history[-20:]), dtype=torch.bool)
            )
            for history in histories
        ]
    )
    centred = torch.nn.functional.cosine_similarity(
        (users - users.mean(0))[:, None], (catalogue - catalogue.mean(0))[None], dim=-1
    )
    targets = [row[item] for item in validation_split["target"]]
    hit, gain = brute_force(centred.detach().double().numpy(), histories, targets, 10, exclude_seen=True)
    assert metrics["hr@10"] == pytest.approx(hit) and metrics["ndcg@10"] == pytest.approx(gain)

    recommender = Recommender(model, processor).index(items, histories=validation_split["item_ids"])
    found = recommender.recommend(validation_split["item_ids"][3], k=5, exclude_seen=False)
    best = centred[3].topk(5)
    assert [row[item["item_id"]] for item in found] == best.indices.tolist()
    assert [item["score"] for item in found] == pytest.approx(best.values.tolist(), abs=1e-5)
