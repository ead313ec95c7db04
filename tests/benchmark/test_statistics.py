"""Intervals and comparisons, against what is known of the distributions."""

import numpy as np
import pytest
import scipy.stats

from modeling_transrec.benchmark.statistics import RESAMPLES, compare, estimate, estimate_quotient, values_of_users


def test_metrics_of_users():
    better, tied = np.array([0, 2, 10]), np.array([0, 0, 0])
    np.testing.assert_allclose(values_of_users(better, tied, "ndcg"), [1, 0.5, 0])
    np.testing.assert_allclose(values_of_users(better, tied, "hr", k=2), [1, 0, 0])


def test_intervals_are_those_of_the_normal_distribution_for_many_users():
    values = np.random.default_rng(1).normal(0.3, 0.2, size=(3, 4000))
    found, of_users = estimate(values), values.mean(axis=0)
    low, high = scipy.stats.norm.interval(0.95, of_users.mean(), scipy.stats.sem(of_users))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert found.spread == pytest.approx(values.mean(axis=1).std(ddof=1)) and found.num_seeds == 3
    assert estimate(values) == found  # users are drawn alike each time
    assert estimate(values[:1]).spread is None


def test_pairing_finds_what_unpaired_intervals_hide():
    generator = np.random.default_rng(2)
    reference = generator.random((1, 1000))
    better = reference + 0.01 + 0.01 * generator.normal(size=(3, 1000))
    (found,) = compare([(better, reference)])
    assert estimate(better).low < estimate(reference).high  # the intervals overlap
    assert found.in_words == "better" and found.low < 0.01 < found.high
    (found,) = compare([(reference, better)])
    assert found.in_words == "worse"


def test_of_many_rows_without_a_difference_none_is_shown():
    generator = np.random.default_rng(3)
    reference = generator.random((3, 300))
    rows = [reference + 0.3 * generator.normal(size=(3, 300)) for _ in range(40)]
    found = compare([(row, reference) for row in rows])
    assert min(one.p_users for one in found) < 0.05  # one alone would be taken for a difference
    assert {one.in_words for one in found} == {"no difference shown"}


def test_seeds_that_disagree_show_nothing():
    """All users are better off with two seeds and worse off with the third: over users alone it looks certain."""
    reference = np.random.default_rng(4).random((1, 2000))
    rows = np.concatenate([reference + change for change in (0.05, 0.06, -0.04)])
    rows += 0.1 * np.random.default_rng(5).normal(size=rows.shape)
    (found,) = compare([(rows, reference)])
    assert found.p_users < 1e-6 < 0.05 < found.p_seeds and found.in_words == "no difference shown"


def test_the_same_ranking_is_no_difference():
    reference = np.random.default_rng(6).random((1, 50))
    (found,) = compare([(np.repeat(reference, 3, axis=0), reference)])
    assert (found.mean, found.low, found.high, found.p_users) == (0, 0, 0, 1)
    assert compare([]) == []


def test_users_are_paired_by_who_they_are_where_each_seed_tests_others():
    """A difference that depends on the user: the same users make the interval, whichever seed has tested them."""
    generator = np.random.default_rng(7)
    hard = generator.random(400)
    reference = np.stack([np.where(generator.random(400) < 0.5, hard, np.nan) for _ in range(3)])
    model = reference + 0.01 + 0.3 * (hard - hard.mean())
    (found,) = compare([(model, reference)])
    differences = (model - reference)[~np.isnan(reference)]
    assert found.mean == pytest.approx(differences.mean(), abs=1e-9)
    of_users = np.nanmean((model - reference)[:, ~np.isnan(reference).all(axis=0)], axis=0)
    half = 1.96 * of_users.std(ddof=1) / len(of_users) ** 0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)  # not that of three times as many users
    assert estimate(reference).mean == pytest.approx(np.nanmean(reference)) and estimate(reference).num_seeds == 3


def test_seeds_are_paired_with_themselves():
    """What varies from seed to seed alike in both is no doubt about their difference."""
    generator = np.random.default_rng(8)
    reference = generator.random((3, 500)) + np.array([[0.0], [0.3], [-0.3]])
    model = reference + 0.02 + 0.01 * generator.normal(size=(3, 500))
    (found,) = compare([(model, reference)])
    assert found.p_seeds < 0.05 and found.in_words == "better"
    (crossed,) = compare([(model, reference[[1, 2, 0]])])
    assert crossed.p_seeds > 0.5


def naive_interval(above, below, generator):
    """The interval of the mean over seeds of quotients of sums, one sample of users at a time."""
    found = []
    for _ in range(RESAMPLES):
        users = [int(user) for user in generator.integers(0, above.shape[1], above.shape[1])]
        of_seeds = []
        for seed in range(len(above)):
            of_seeds.append(sum(above[seed][users]) / sum(below[seed][users]))
        found.append(sum(of_seeds) / len(of_seeds))
    return np.percentile(found, [2.5, 97.5])


@pytest.mark.parametrize("kind", ["one number of all", "of each user", "of each user and seed"])
def test_a_quotient_has_the_interval_of_a_naive_bootstrap(kind):
    """Users of long histories have high numbers above: the mean of the users' own quotients is another number."""
    generator = np.random.default_rng(9)
    below = generator.random((1, 120)) ** 4 + 0.02
    above = (below**2 + 0.1 * generator.random((3, 120))) * np.array([[1.0], [1.1], [1.2]])
    below = np.repeat(below, 3, axis=0)
    if kind == "one number of all":
        below[:] = 0.5
    if kind == "of each user and seed":
        below *= generator.random((3, 120)) < 0.7
        above[below == 0] = 0
    found = estimate_quotient(above, below)
    low, high = naive_interval(above, below, generator)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))
    of_seeds = above.sum(axis=1) / below.sum(axis=1)
    assert found.mean == pytest.approx(of_seeds.mean()) and found.spread == pytest.approx(of_seeds.std(ddof=1))
    if kind != "one number of all":
        used = below > 0
        assert abs(np.mean(above[used] / below[used]) - found.mean) > high - low


def test_a_quotient_of_few_users_has_an_interval_though_a_seed_may_have_none_of_them():
    above, below = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 2.0]]), np.array([[2.0, 0.0, 0.0], [0.0, 4.0, 5.0]])
    found = estimate_quotient(above, below)
    assert found.mean == pytest.approx((1 / 2 + 4 / 9) / 2) and 0.4 <= found.low <= found.mean <= found.high <= 0.5
    assert estimate_quotient(above[:1], below[:1]).spread is None
