"""Ranks in parts of the catalogue against those by all scores at once."""

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F

from modeling_transrec import FullRankingEvaluator, TransRecConfig, TransRecModel
from modeling_transrec.evaluation import parts
from modeling_transrec.evaluation.observation import Observation
from modeling_transrec.evaluation.parts import rank_in_parts
from modeling_transrec.evaluation.ranking import rank_targets
from modeling_transrec.evaluation.scoring import CatalogueScorer


B, L, V, D = 7, 5, 101, 8


class FixedTransitions:
    """Adds to the scores of some items, by the last one of the history."""

    def __init__(self, table):
        self.table = table

    def __len__(self):
        return self.table.shape[1]

    def scores(self, histories):
        return scipy.sparse.csr_array(self.table[histories[:, -1]])

    def aligned(self, item_ids):
        raise NotImplementedError


@pytest.fixture
def case():
    torch.manual_seed(0)
    embeddings = torch.randn(V, D)
    embeddings[60:] = embeddings[: V - 60]  # every item of the last part ties with one of the first
    model = TransRecModel(TransRecConfig(num_items=4, hidden_size=D, num_hidden_layers=1, num_attention_heads=2))
    histories = torch.randint(V, (B, L))
    histories[0, :4] = -1
    histories[1, 0] = histories[1, 1]
    targets = torch.tensor([3, 63, 100, 0, 40, 59, 60])
    histories[2, 3] = 100  # a target that was seen
    histories[3, 2] = 60  # a seen item that ties with the target
    return CatalogueScorer(model.eval(), embeddings), histories, targets


def by_all_scores(scorer, histories, targets, exclude_seen):
    scores = scorer.scores(histories)
    ranks = rank_targets(scores, targets, histories if exclude_seen else None)
    return *ranks, F.cross_entropy(scores, targets, reduction="none")


@pytest.mark.parametrize("width", [16, 48, 10_000])
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("with_transitions", [True, False])
def test_ranks_and_losses_are_those_by_all_scores(case, width, exclude_seen, with_transitions, monkeypatch):
    monkeypatch.setattr(parts, "SCORES_AT_A_TIME", width * B)
    scorer, histories, targets = case
    if with_transitions:
        rng = np.random.default_rng(0)
        table = rng.random((V, V)) * (rng.random((V, V)) < 0.3)
        assert (table[histories[:, -1], targets] > 0).any() and (table[histories[:, -1], histories[:, 0]] > 0).any()
        scorer = scorer.replace(transitions=FixedTransitions(table), transition_weight=0.7)
    found = rank_in_parts(scorer, histories, targets, exclude_seen)
    better, equal, losses = by_all_scores(scorer, histories, targets, exclude_seen)
    assert found.num_better.equal(better) and found.num_equal.equal(equal)
    assert with_transitions or equal.sum() >= 3
    torch.testing.assert_close(found.losses, losses, rtol=1e-6, atol=1e-6)


def test_a_target_whose_score_is_another_one_in_its_part_is_ranked_by_all_scores(case, monkeypatch):
    """As if its product were rounded in another way, by which ties are missed."""
    scorer, histories, targets = case
    whole = parts.dot_products
    monkeypatch.setattr(parts, "dot_products", lambda *given: whole(*given) * (1 + 1e-6))
    found = rank_in_parts(scorer, histories, targets)
    better, equal, losses = by_all_scores(scorer, histories, targets, exclude_seen=True)
    assert found.num_better.equal(better) and found.num_equal.equal(equal) and equal.sum() >= 3
    assert found.losses.equal(losses)


def test_scores_far_apart_have_a_finite_loss(case):
    scorer, histories, targets = case
    scorer = scorer.replace(item_embeddings=scorer.item_embeddings * 3000)
    found = rank_in_parts(scorer, histories, targets)
    assert found.losses.max() > 1000
    torch.testing.assert_close(found.losses, by_all_scores(scorer, histories, targets, True)[2])


def test_products_that_are_nan_are_an_error(case):
    scorer, histories, targets = case
    assert 50 not in targets
    scorer.candidates[50] = float("nan")  # when it was made, all were finite
    with pytest.raises(ValueError, match="NaN or infinite"):
        rank_in_parts(scorer, histories % 50, targets)


def test_an_evaluation_in_parts_is_that_by_all_scores(items, validation_split, make_model, processor_of):
    """An observer that is handed scores, and an [`Observation`] that reads losses only, see the same ranking."""
    evaluator, model = FullRankingEvaluator(items, validation_split, batch_size=5), make_model("id", max_seq_len=6)
    scorer, found = evaluator.build_scorer(model, processor_of["id"]), {}
    whole, of_losses = Observation(evaluator.targets, preprocess=lambda scores, targets: targets), None
    for name, observation in (("whole", whole), ("parts", Observation(evaluator.targets)), ("none", None)):
        metrics = evaluator.rank(scorer, None, observation)
        found[name] = metrics, evaluator.rankings.num_better.tolist(), evaluator.rankings.num_tied.tolist()
        of_losses = observation.losses() if name == "parts" else of_losses
    assert found["whole"] == found["parts"] == found["none"]
    np.testing.assert_allclose(of_losses, whole.losses(), rtol=1e-6)
