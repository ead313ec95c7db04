import pytest
import torch

from modeling_transrec.evaluation.diversity import maximal_marginal_relevance


def by_hand(scores, vectors, k, diversity):
    """One user's list as the paper writes it, with loops."""
    items = [place for place, score in enumerate(scores) if score > float("-inf")]
    low, high = min(scores[place] for place in items), max(scores[place] for place in items)
    chosen = []
    while len(chosen) < min(k, len(items)):

        def value(place, chosen=tuple(chosen)):
            likeness = [float(torch.cosine_similarity(vectors[place], vectors[one], dim=0)) for one in chosen]
            relevance = (scores[place] - low) / (high - low)
            return (1 - diversity) * relevance - diversity * max(likeness, default=0.0)

        chosen.append(max((place for place in items if place not in chosen), key=value))
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_it_chooses_as_the_paper_says(diversity):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 13, generator=generator)
    vectors = torch.randn(3, 13, 5, generator=generator)
    scores[1, 4:] = float("-inf")
    found = maximal_marginal_relevance(scores, vectors, 7, diversity)
    for user in range(3):
        expected = by_hand(scores[user].tolist(), vectors[user], 7, diversity)
        assert found[user, : len(expected)].tolist() == expected
        assert len(set(found[user].tolist())) == 7


def test_equal_scores_and_users_without_items():
    scores = torch.tensor([[2.0, 2.0, 2.0], [float("-inf")] * 3])
    found = maximal_marginal_relevance(scores, torch.eye(3).expand(2, 3, 3), 3, 0.5)
    assert [sorted(one) for one in found.tolist()] == [[0, 1, 2]] * 2
