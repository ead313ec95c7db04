"""Content kNN against its definition, item by item."""

import pytest
import torch
import torch.nn.functional as F

from modeling_transrec.evaluation.content import ContentKNN, Whitening, decayed_history
from modeling_transrec.evaluation.scoring import CatalogueScorer


def features(num_items=37, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([9.0, 3.0, 1.0, 0.5, 0.1])[:width]
    return torch.randn(num_items, width, generator=generator) * scales + 7


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_axes_are_divided_by_a_power_of_their_deviation(power):
    values = features()
    whitening = Whitening.fit(values, power)
    spread = (values - whitening.mean) @ whitening.matrix
    torch.testing.assert_close(spread.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    before, axes = torch.linalg.eigh(torch.cov(values.T, correction=0))
    after = torch.linalg.eigvalsh(torch.cov(spread.T, correction=0))
    torch.testing.assert_close(after, (before ** (1 - power)).sort().values, rtol=1e-3, atol=1e-5)
    # It is rotated back: each axis stays where it was.
    torch.testing.assert_close(spread @ axes, (values - values.mean(0)) @ axes * before ** (-power / 2))


def test_items_without_content_have_no_part():
    values, present = features(), torch.arange(37) % 3 != 0
    whitening = Whitening.fit(values, 0.75, present)
    torch.testing.assert_close(whitening.mean, values[present].mean(0))
    vectors = whitening(values, present)
    assert (vectors[~present] == 0).all()
    torch.testing.assert_close(vectors[present].norm(dim=1), torch.ones(int(present.sum())))
    with pytest.raises(ValueError, match="no item has any content"):
        Whitening.fit(values, 0.75, torch.zeros(37, dtype=torch.bool))


def test_axes_that_do_not_vary_stay_finite():
    values = features()
    values[:, 2] = 4.0
    assert Whitening.fit(values, 1.0)(values).isfinite().all()


def test_rounding_along_an_axis_without_variance_decides_nothing():
    """A layer norm leaves such an axis in a backbone's features; its rounding errors must not be blown up."""
    torch.manual_seed(0)
    varying = torch.randn(37, 5)
    values = torch.cat([varying, 1e-7 * torch.randn(37, 1)], dim=1)
    vectors, alone = (Whitening.fit(features, 1.0)(features) for features in (values, varying))
    torch.testing.assert_close(vectors @ vectors.T, alone @ alone.T, atol=1e-5, rtol=0)


def test_a_history_weighs_less_the_older_it_is():
    embeddings = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[False, True, True, True], [False, False, False, True]])
    expected = torch.tensor([[3 + 0.5 * 2 + 0.25 * 1], [7.0]])
    torch.testing.assert_close(decayed_history(embeddings, mask, 0.5), expected)


def test_scores_are_the_weighted_sum_of_the_modalities_cosines():
    parts = {"text": features(), "image": features(width=3, seed=1)}
    present = {"image": torch.arange(37) % 4 != 0}
    knn = ContentKNN.fit(parts, present, weights={"text": 3.0, "image": 1.0}, history_decay=0.6)
    scorer = CatalogueScorer(knn, knn.embed_items(parts, present))
    histories = torch.tensor([[-1, 3, 4], [5, 8, 0]])
    vectors_of = {
        name: Whitening.fit(parts[name], 0.75, present.get(name))(parts[name], present.get(name)) for name in parts
    }
    expected = torch.zeros(2, 37)
    for user, history in enumerate(histories.tolist()):
        for name, weight in (("text", 0.75), ("image", 0.25)):
            vectors = vectors_of[name]
            items = [index for index in history if index >= 0]
            summed = sum(0.6**steps * vectors[index] for steps, index in enumerate(reversed(items)))
            expected[user] += weight * F.normalize(summed, dim=0) @ vectors.T
    torch.testing.assert_close(scorer.scores(histories), expected)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="power must be between 0 and 1"):
        ContentKNN.fit({"text": features()}, power=2.0)
    with pytest.raises(ValueError, match="history_decay"):
        ContentKNN.fit({"text": features()}, history_decay=0.0)
    with pytest.raises(ValueError, match="weights must be one"):
        ContentKNN.fit({"text": features()}, weights={"image": 1.0})
