"""Users meet the catalogue: scores, ranks and best items against users taken one by one."""

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F

from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.evaluation import scoring
from modeling_transrec.evaluation.encoding import encode_catalogue
from modeling_transrec.evaluation.ranking import top_items
from modeling_transrec.evaluation.scoring import CatalogueScorer, GrowingRows


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

    def __init__(self, candidates):
        self.candidates, self.asked = candidates, []

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
    for users in (1, 2, 100):  # however many are scored at a time
        monkeypatch.setattr(scoring, "MAX_SCORES", users * 37)
        for exclude_seen in (True, False):
            for nearest in (None, Exhaustive(scorer.candidates)):
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
    is_candidate[scorer.top_k(HISTORIES, 1)[1].flatten()] = False
    for nearest in (None, Exhaustive(scorer.candidates)):
        scores, found = scorer.replace(nearest=nearest).top_k(HISTORIES, 37, is_candidate=is_candidate)
        for user, history in enumerate(HISTORIES.tolist()):
            left = set(torch.arange(37)[is_candidate].tolist()) - set(history)
            assert set(found[user, scores[user] > float("-inf")].tolist()) == left


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


def test_rows_grow_without_being_copied_until_there_is_no_room():
    first = GrowingRows(torch.arange(6.0).reshape(3, 2), room=2)
    grown = first
    for number in range(5):
        grown = grown.grown(torch.full((1, 2), float(number)))
    assert grown.rows[:, 0].tolist() == [0, 2, 4, 0, 1, 2, 3, 4]
    assert first.rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert first.grown(torch.zeros(1, 2)).rows[3].tolist() == [0, 0] and grown.rows[3].tolist() == [0, 0]


def test_memory_does_not_grow_with_the_users(make_scorer, monkeypatch):
    scorer, seen = make_scorer("plain"), []
    monkeypatch.setattr(scoring, "MAX_SCORES", 37 * 2)
    monkeypatch.setattr(
        scoring, "top_items", lambda scores, *rest: seen.append(len(scores)) or top_items(scores, *rest)
    )
    expected = scorer.top_k(HISTORIES[:1], 3)[1]
    _, found = scorer.top_k(HISTORIES[:1].repeat(7, 1), 3)
    assert seen == [1, 2, 2, 2, 1] and torch.equal(found, expected.repeat(7, 1))


def test_a_model_in_training_mode_scores_without_dropout(make_model, processor_of, items):
    model = make_model("text", hidden_dropout_prob=0.5).train()
    prepared = prepare_items(items, processor_of["text"])
    scorers = [CatalogueScorer(model, encode_catalogue(model, prepared, processor_of["text"])) for _ in range(2)]
    assert torch.equal(scorers[0].scores(HISTORIES), scorers[1].scores(HISTORIES))
    assert model.training and model.model.user_encoder.training  # as it was
    model.eval()
    assert torch.equal(scorers[0].scores(HISTORIES), scorers[1].scores(HISTORIES))
