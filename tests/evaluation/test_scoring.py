"""Users meet the catalogue: scores, ranks and best items against users taken one by one."""

import functools

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F

from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.evaluation import scoring
from modeling_transrec.evaluation.encoding import encode_catalogue
from modeling_transrec.evaluation.ranking import top_items
from modeling_transrec.evaluation.scoring import CatalogueScorer


HISTORIES = torch.tensor([[-1, -1, 3, 10], [0, 4, 4, 36], [-1, -1, -1, 20], [1, 2, 3, 0]])
KINDS = {
    "plain": {},
    "normalised": {"normalize_scores": True, "temperature": 0.1},
    "centred": {},
}


class Transitions:
    """Random positive scores of a few items; a stand-in for those of a platform."""

    def __init__(self, num_items: int, per_user: int = 5):
        self.weights = np.zeros((num_items, num_items), dtype=np.float64)
        rng = np.random.default_rng(0)
        for line in self.weights:
            line[rng.choice(num_items, per_user, replace=False)] = rng.random(per_user)

    def dense(self, histories):
        return np.stack([sum(self.weights[item] for item in history if item >= 0) for history in histories])

    def __len__(self):
        return len(self.weights)

    def scores(self, histories):
        return scipy.sparse.csr_array(self.dense(histories))


class Exhaustive:
    """Nearest items by looking at all of them, as an exact index finds them."""

    finds_candidates = False

    def __init__(self, candidates):
        self.candidates, self.asked = candidates, []

    def __len__(self):
        return len(self.candidates)

    def search(self, queries, k):
        self.asked.append(k)
        return (queries @ self.candidates.T).topk(k)


@pytest.fixture
def make_scorer(make_model, processor_of, items):
    def make(kind: str, **arguments) -> CatalogueScorer:
        model, processor = make_model("text", max_seq_len=3, **KINDS[kind]), processor_of["text"]
        scorer = CatalogueScorer(model, encode_catalogue(model, prepare_items(items, processor), processor))
        if kind == "centred":
            arguments["user_mean"] = scorer.encode_users(HISTORIES).mean(dim=0)
        return scorer.replace(**arguments)

    return make


def expected_scores(scorer, kind, transitions=None, item_scores=None):
    """Scores of all items, one user at a time, in the words of the documentation."""
    items, lines = scorer.item_embeddings, []
    for history in HISTORIES:
        known = history[history >= 0][-3:]
        user = scorer.model.get_user_features(items[known][None], torch.ones(1, len(known), dtype=torch.bool))[0]
        if kind == "plain":
            line = items @ user
        elif kind == "normalised":
            line = F.cosine_similarity(items, user[None]) / 0.1
        else:
            line = F.cosine_similarity(items - items.mean(0), (user - scorer.user_mean)[None])
        lines.append(line.detach())
    scores = torch.stack(lines)
    if item_scores is not None:
        scores = scores + item_scores
    if transitions is not None:
        scores = scores + 0.7 * torch.from_numpy(transitions.dense(HISTORIES.numpy())).float()
    return scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", [False, True])
def test_scores_and_best_items_equal_one_user_at_a_time(kind, added, make_scorer, monkeypatch):
    parts = {}
    if added:
        parts = {"transitions": Transitions(37), "item_scores": torch.randn(37)}
    scorer = make_scorer(kind, **parts, transition_weight=0.7)
    expected = expected_scores(scorer, kind, **parts)
    assert torch.allclose(scorer.scores(HISTORIES), expected, atol=1e-5)
    for number in (1, 30, 1000):  # however many are scored at a time
        monkeypatch.setattr(scoring, "SCORES_AT_A_TIME", number)
        for exclude_seen in (True, False):
            for nearest in (None, Exhaustive(scorer.candidates), Exhaustive(scorer.candidates[:20])):
                scores, found = scorer.replace(nearest=nearest).top_k(HISTORIES, 9, exclude_seen)
                for user, history in enumerate(HISTORIES.tolist()):
                    candidates = [item for item in range(37) if not exclude_seen or item not in history]
                    best = sorted(candidates, key=lambda item: -expected[user, item])[:9]
                    assert found[user].tolist() == best
                    assert torch.allclose(scores[user], expected[user, best], atol=1e-5)


def test_a_search_finds_what_only_the_transitions_put_first(make_scorer):
    """The best items of the sum may be the worst of the dense scores, of which the search never hears."""
    scorer = make_scorer("plain")
    dense = scorer.scores(HISTORIES)
    transitions = Transitions(37)
    transitions.weights[:] = 0
    worst = dense[2].argsort()[:2].tolist()
    transitions.weights[20, worst] = 100, 50
    search = Exhaustive(scorer.candidates)
    both = scorer.replace(transitions=transitions, nearest=search)
    scores, found = both.top_k(HISTORIES, 4)
    assert found[2, :2].tolist() == worst
    assert torch.allclose(scores[2, 0], dense[2, worst[0]] + 100)
    assert torch.equal(found, scorer.replace(transitions=transitions).top_k(HISTORIES, 4)[1])
    assert search.asked == [4 + 4 + 2]  # k, seen items, items with transitions


def test_items_can_be_left_out_for_everybody(make_scorer):
    scorer = make_scorer("plain")
    is_candidate = torch.ones(37, dtype=torch.bool)
    is_candidate[scorer.top_k(HISTORIES, 15)[1][2]] = False  # all that a search finds first
    is_candidate[[1, 30]] = False
    transitions, expected = Transitions(37), scorer.scores(HISTORIES)
    for added in (None, transitions):
        if added is not None:
            expected += torch.from_numpy(added.dense(HISTORIES.numpy())).float()
        for nearest in (None, Exhaustive(scorer.candidates), Exhaustive(scorer.candidates[:20])):
            both = scorer.replace(nearest=nearest, transitions=added)
            for k in (3, 37):
                scores, found = both.top_k(HISTORIES, k, is_candidate=is_candidate)
                for user, history in enumerate(HISTORIES.tolist()):
                    left = set(torch.arange(37)[is_candidate].tolist()) - set(history)
                    best = sorted(left, key=lambda item: -expected[user, item])[:k]
                    assert found[user, scores[user] > float("-inf")].tolist() == best


def test_users_of_whom_too_few_are_found_are_searched_whole(make_scorer):
    """Some indexes look only at a part; what they miss is found for those users, and asked of nobody else."""
    scorer = make_scorer("plain", transitions=Transitions(37))
    whole, search = scorer.top_k(HISTORIES, 9), Exhaustive(scorer.candidates)
    nearest = search.search

    def few(queries, k):
        scores, items = nearest(queries, k)
        items[[0, 2], 4:] = -1
        return scores.masked_fill(items < 0, float("-inf")), items

    search.search = few
    scores, found = scorer.replace(nearest=search).top_k(HISTORIES, 9)
    assert torch.equal(found, whole[1]) and torch.allclose(scores, whole[0])


def test_the_catalogue_is_prepared_once(make_scorer, monkeypatch):
    for kind in KINDS:
        scorer = make_scorer(kind)
        monkeypatch.setattr(scorer.model, "to_scoring_space", counted := Counted(scorer.model.to_scoring_space))
        monkeypatch.setattr(scoring, "center", center := Counted(scoring.center))
        for _ in range(3):
            scorer.top_k(HISTORIES, 5)
        assert all(len(embeddings) == 4 for embeddings in counted.first_arguments + center.first_arguments)
        monkeypatch.undo()


class Counted:
    def __init__(self, function):
        self.function, self.first_arguments = function, []

    def __call__(self, first, *others):
        self.first_arguments.append(first)
        return self.function(first, *others)


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_added_without_preparing_the_others(kind, make_scorer, monkeypatch):
    scorer = make_scorer(kind, item_scores=torch.randn(37), room=5)
    monkeypatch.setattr(scorer.model, "to_scoring_space", counted := Counted(scorer.model.to_scoring_space))
    before, candidates = scorer.scores(HISTORIES), scorer.candidates.clone()
    new = torch.randn(4, scorer.item_embeddings.shape[1])
    grown = scorer.with_items(new)
    assert all(len(embeddings) == 4 for embeddings in counted.first_arguments)  # of users, or of new items
    assert grown.candidates.data_ptr() == scorer.candidates.data_ptr()  # nothing was copied
    whole = scorer.replace(
        item_embeddings=torch.cat([scorer.item_embeddings, new]),
        item_scores=torch.cat([scorer.item_scores, torch.zeros(4)]),
    )
    assert torch.allclose(grown.scores(HISTORIES), whole.scores(HISTORIES), atol=1e-6)
    again = scorer.with_items(-new)  # a second one out of the same: neither disturbs the other
    assert torch.allclose(grown.scores(HISTORIES), whole.scores(HISTORIES), atol=1e-6)
    assert torch.equal(again.item_embeddings[37:], -new)
    assert torch.equal(scorer.candidates, candidates) and torch.equal(scorer.scores(HISTORIES), before)


@pytest.mark.parametrize("nearest", [False, True])
def test_memory_does_not_grow_with_the_users_or_the_items(nearest, make_scorer, monkeypatch):
    """At most two users and as many scores as there is room for are at hand, and the same is found."""
    scorer, shapes = make_scorer("plain", transitions=Transitions(37)), []
    users = HISTORIES[:1].repeat(7, 1)
    expected = scorer.top_k(users, 3)
    if nearest:
        scorer = scorer.replace(nearest=Exhaustive(scorer.candidates[:17]))
    monkeypatch.setattr(scoring, "user_blocks", functools.partial(scoring.user_blocks, size=2))
    monkeypatch.setattr(scoring, "SCORES_AT_A_TIME", 20)
    monkeypatch.setattr(scoring, "top_items", lambda scores, k: shapes.append(scores.shape) or top_items(scores, k))
    scores, found = scorer.top_k(users, 3)
    assert torch.equal(found, expected[1]) and torch.allclose(scores, expected[0])
    assert {users for users, _ in shapes} == {1, 2} and all(users * items <= 20 for users, items in shapes)
    assert sum(users * items for users, items in shapes) == 7 * (20 if nearest else 37)


def test_of_equal_scores_the_first_in_the_catalogue_is_best(make_scorer, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    users, vectors = (torch.randint(-1, 2, (rows, 16), generator=generator).float() for rows in (4, 37))
    scorer = make_scorer("plain", item_embeddings=vectors)  # whole numbers, of which sums are exact
    monkeypatch.setattr(scorer.model, "get_user_features", lambda embeddings, mask: users)
    expected = scorer.scores(HISTORIES)
    for size in (4 * 100, 4 * 11, 4):
        monkeypatch.setattr(scoring, "SCORES_AT_A_TIME", size)
        for k in (1, 7, 12, 37):
            scores, found = scorer.top_k(HISTORIES, k)
            for user, history in enumerate(HISTORIES.tolist()):
                rest = set(range(37)) - set(history)
                best = sorted(rest, key=lambda item: (-expected[user, item].item(), item))[:k]
                assert found[user, : len(best)].tolist() == best and scores[user, len(best) :].isinf().all()


def test_the_transitions_may_have_the_items_in_another_order(make_scorer):
    transitions, order = Transitions(37), np.random.default_rng(1).permutation(37)
    other = Transitions(37)
    other.weights[np.ix_(order, order)] = transitions.weights  # item 0 is there at order[0]
    scorer = make_scorer("plain", transitions=transitions)
    same = scorer.replace(transitions=other, transition_index=order)
    assert torch.allclose(same.scores(HISTORIES), scorer.scores(HISTORIES), atol=1e-6)
    assert torch.equal(same.top_k(HISTORIES, 9)[1], scorer.top_k(HISTORIES, 9)[1])
    assert scorer.in_transitions(np.array([-1, 3])).tolist() == [-1, 3]


def test_a_model_in_training_mode_scores_without_dropout(make_model, processor_of, items):
    model = make_model("text", hidden_dropout_prob=0.5).train()
    prepared = prepare_items(items, processor_of["text"])
    scorers = [CatalogueScorer(model, encode_catalogue(model, prepared, processor_of["text"])) for _ in range(2)]
    assert torch.equal(scorers[0].scores(HISTORIES), scorers[1].scores(HISTORIES))
    assert model.training and model.model.user_encoder.training  # as it was
    model.eval()
    assert torch.equal(scorers[0].scores(HISTORIES), scorers[1].scores(HISTORIES))
