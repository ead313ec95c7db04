"""Re-ranking: what the network learns, when it is left out, and that what is measured is what is recommended."""

import datasets
import numpy as np
import pytest
import torch

from modeling_transrec import SAMPLE_BACKBONE, FullRankingEvaluator
from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation import reranking
from modeling_transrec.evaluation.arguments import EvaluationArguments
from modeling_transrec.evaluation.baselines import Platform, rerank
from modeling_transrec.evaluation.content import ContentKNN
from modeling_transrec.evaluation.evaluate import EvaluationTask
from modeling_transrec.evaluation.reranker import FEATURES, Reranker, describe_candidates, load_reranker
from modeling_transrec.evaluation.reranking import learn_reranker
from modeling_transrec.evaluation.scoring import CatalogueScorer


NUM_ITEMS = 60
ITEM_IDS = [f"i{number}" for number in range(NUM_ITEMS)]


@pytest.fixture(scope="module")
def catalogue():
    return datasets.Dataset.from_dict({"item_id": ITEM_IDS})


@pytest.fixture(scope="module")
def users():
    """Histories and next items: after an item that was counted often the one that follows it, else the most alike."""
    rng, found = np.random.default_rng(5), []
    for _ in range(800):
        history = rng.choice(NUM_ITEMS, size=rng.integers(2, 6), replace=False).tolist()
        target = (history[-1] + (7 if history[-1] < 30 else 1)) % NUM_ITEMS
        if target not in history:
            found.append((history, target))
    return found


@pytest.fixture(scope="module")
def scorer():
    """Neighbours are alike, and every item is followed by the seventh after it: the first thirty often."""
    angle = torch.arange(NUM_ITEMS) * 2 * torch.pi / NUM_ITEMS
    circle = torch.stack([angle.sin(), angle.cos()], dim=1)
    pairs = [[ITEM_IDS[item], ITEM_IDS[(item + 7) % NUM_ITEMS]] for item in range(NUM_ITEMS)]
    pairs = pairs[:30] * 9 + pairs[30:]
    transitions = Transitions.from_sequences(pairs, ITEM_IDS, window=1)
    knn = ContentKNN.fit({"text": circle}, power=0.0, history_decay=0.5)
    return CatalogueScorer(knn, circle, transitions=transitions, transition_weight=0.3)


def split_of(catalogue, users, **options):
    table = {
        "item_ids": [[ITEM_IDS[item] for item in history] for history, _ in users],
        "target": [ITEM_IDS[target] for _, target in users],
    }
    return FullRankingEvaluator(catalogue, datasets.Dataset.from_dict(table), ks=[10], **options)


@pytest.fixture(scope="module")
def validation(catalogue, users):
    return split_of(catalogue, users[:400], split="validation")


@pytest.fixture(scope="module")
def learnt(scorer, validation):
    return learn_reranker(scorer, validation, num_candidates=20)


def test_it_learns_when_transitions_are_to_be_trusted(scorer, learnt, catalogue, users):
    reranker, description = learnt
    assert description["reranker"]["is_used"] and description["reranker"]["gain"] > 0.05
    test = split_of(catalogue, users[400:])
    before, after = test.rank(scorer)["ndcg@10"], test.rank(scorer.replace(reranker=reranker))["ndcg@10"]
    assert after > before + 0.1


def test_what_is_measured_is_recommended(scorer, learnt, catalogue, users):
    reranked = scorer.replace(reranker=learnt[0])
    some = users[400:440]
    test = split_of(catalogue, some, batch_size=7)
    test.rank(reranked)
    for number, (history, target) in enumerate(some):
        scores, items = reranked.top_k(torch.tensor([history]), k=NUM_ITEMS)
        assert items[0].tolist().index(target) == test.rankings.num_better[number]
        left = scores[0].isfinite()
        assert (scores[0][left].diff() <= 0).all()
        again = reranked.scores_of(torch.tensor([history]), items[:, :30])
        torch.testing.assert_close(again, scores[:, :30], rtol=1e-5, atol=1e-5)


def test_other_items_stay_as_they_are(scorer, learnt):
    histories = torch.tensor([[-1, 4, 9], [30, 2, 11]])
    best, items = scorer.top_k(histories, k=NUM_ITEMS)
    added = learnt[0].corrections(scorer, histories, items, best)
    assert (added[:, 20:] == 0).all() and (added >= 0).all() and (added[:, :20] > 0).any()
    _, after = scorer.replace(reranker=learnt[0]).top_k(histories, k=NUM_ITEMS)
    assert [*map(set, after[:, :20].tolist())] == [*map(set, items[:, :20].tolist())]
    assert (after[:, 20:57] == items[:, 20:57]).all()  # of 60, three are seen
    few = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    few[[5, 8, 40]] = True
    scores, found = scorer.replace(reranker=learnt[0]).top_k(histories, k=5, is_candidate=few)
    assert {*found[0, :3].tolist()} == {5, 8, 40} and (scores[:, 3:] == float("-inf")).all()


def test_an_untrained_one_changes_nothing(scorer):
    histories = torch.tensor([[3, 17]])
    expected = scorer.top_k(histories, k=10)
    for found, wanted in zip(scorer.replace(reranker=Reranker()).top_k(histories, k=10), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_features_are_those_of_their_definition(scorer):
    popular = scorer.replace(item_scores=torch.linspace(0, 1, NUM_ITEMS))
    histories = torch.tensor([[-1, 10, 21]])
    scores, items = popular.top_k(histories, k=15)
    features, of_users = describe_candidates(popular, histories, items, scores)
    found = dict(zip(FEATURES, features[0].unbind(-1), strict=True))
    vectors, transitions = scorer.item_embeddings, scorer.transitions.scores(histories.numpy()).toarray()[0]
    last = scorer.transitions.scores(np.array([[21]])).toarray()[0]
    chosen = items[0]
    expected = {
        "sum": scores[0],
        "dense": (popular.queries(histories)[0, :-1] @ vectors.T)[chosen],
        "transitions": torch.from_numpy(transitions).float()[chosen],
        "last_transitions": torch.from_numpy(last).float()[chosen],
        "last_similarity": vectors[chosen] @ vectors[21],
        "best_similarity": torch.maximum(vectors[chosen] @ vectors[21], vectors[chosen] @ vectors[10]),
        "popularity": torch.from_numpy(np.log1p(scorer.transitions.item_counts)).float()[chosen],
    }
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)
    assert of_users[0, 0] == pytest.approx(np.log(2))


def test_nothing_to_learn_is_left_out(scorer, catalogue):
    rng = np.random.default_rng(0)
    noise = [(rng.choice(NUM_ITEMS, 3, replace=False).tolist(), int(rng.integers(NUM_ITEMS))) for _ in range(300)]
    reranker, description = learn_reranker(scorer, split_of(catalogue, noise))
    assert reranker is None and not description["reranker"]["is_used"]


def test_few_users_teach_nothing(scorer, catalogue, users):
    for few in (users[:1], [([3, 4], 50)]):  # of the second, the target is no candidate
        reranker, description = learn_reranker(scorer, split_of(catalogue, few), num_candidates=5)
        assert reranker is None and description["reranker"]["gain"] == 0


def test_the_same_seed_learns_the_same(scorer, validation, learnt):
    torch.manual_seed(123)
    again, description = learn_reranker(scorer, validation, num_candidates=20)
    assert description == learnt[1]
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, learnt[0].state_dict()[name], rtol=0, atol=0)


def test_many_users_are_thinned_out(scorer, validation, monkeypatch):
    monkeypatch.setattr(reranking, "USERS_TO_LEARN_FROM", 100)
    _, num_users = reranking._collect(scorer, validation, None, 20)
    assert num_users == len(range(0, len(validation.targets), -(-len(validation.targets) // 100)))


def test_it_needs_transitions(scorer, validation, catalogue):
    with pytest.raises(ValueError, match="lacks one of them"):
        learn_reranker(scorer.replace(transitions=None), validation)
    platform = Platform(catalogue, datasets.Dataset.from_dict({"item_ids": [ITEM_IDS[:3]]}))
    with pytest.raises(ValueError, match="learnt from a validation split, and there is none"):
        rerank(scorer, {}, platform)


def test_damaged_tensors_are_refused(learnt):
    tensors, facts = learnt[0].state_dict(), {"num_candidates": 20, "hidden_size": 32}
    loaded = load_reranker(tensors, facts)
    for name, value in loaded.state_dict().items():
        assert (value == tensors[name]).all()
    with pytest.raises(ValueError, match="whole numbers from 1"):
        load_reranker(tensors, {"num_candidates": 20, "hidden_size": 0})
    with pytest.raises(ValueError, match="other names or shapes"):
        load_reranker(tensors, {"num_candidates": 20, "hidden_size": 16})
    with pytest.raises(ValueError, match="finite"):
        load_reranker({**tensors, "log_scale": torch.tensor([float("nan")])}, facts)


def test_the_command_shows_the_sum_and_what_is_re_ranked(catalogue):
    args = EvaluationArguments(
        "content-and-transitions", text_model_name_or_path=SAMPLE_BACKBONE, rerank=True, use_cpu=True
    )
    task = EvaluationTask(args, DataArguments())
    of_sum, re_ranked = task.evaluate()
    assert of_sum["protocol"]["scores"] == "content-and-transitions"
    assert re_ranked["protocol"]["scores"] == "content-and-transitions, re-ranked"
    found = re_ranked["protocol"]["scoring"]
    assert found["reranker"]["num_candidates"] == 100
    assert found["fingerprint"] != of_sum["protocol"]["scoring"]["fingerprint"]
    if not found["reranker"]["is_used"]:
        assert re_ranked["metrics"] == of_sum["metrics"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model_name_or_path": "transitions"}, "--rerank reads transitions beside the scores"),
        ({"model_name_or_path": "somewhere"}, "give a checkpoint with --transition_weight auto"),
        ({"split": "validation"}, "--rerank learns from the validation split"),
        ({"num_candidates": 100}, "leave out --split validation"),
    ],
)
def test_options_that_do_not_fit(options, message):
    given = {"model_name_or_path": "content-and-transitions", "text_model_name_or_path": SAMPLE_BACKBONE, **options}
    if given["model_name_or_path"] != "content-and-transitions":
        del given["text_model_name_or_path"]
    with pytest.raises(ValueError, match=message):
        EvaluationArguments(**given, rerank=True)
