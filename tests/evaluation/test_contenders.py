"""Ranks of sums against the sums themselves, all items of them, and the choices that are made by these ranks."""

import datasets
import numpy as np
import pytest
import scipy.sparse
import torch

from modeling_transrec import FullRankingEvaluator
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation import weighing
from modeling_transrec.evaluation.contenders import Contenders, Entries
from modeling_transrec.evaluation.features import Content
from modeling_transrec.evaluation.ranking import rank_targets
from modeling_transrec.evaluation.weighing import choose, empty_scorer, log_popularity


WEIGHTS = (0.0, 0.25, 1.0, 4.0, 64.0)


def sparse_scores(rng, num_users, num_items, density, levels):
    """Scores of a few levels, so that many tie."""
    values = rng.integers(1, levels + 1, size=(num_users, num_items)) / 8
    return scipy.sparse.csr_array(np.where(rng.random(values.shape) < density, values, 0))


def add_block(contenders, first, dense, targets, seen, kinds):
    scores = dense.clone()
    ranks = torch.stack(rank_targets(scores, targets, seen))
    users = torch.arange(first, first + len(dense))
    contenders.add(users, scores, targets, ranks, Entries.of(kinds[0], kinds))
    return ranks


@pytest.mark.parametrize("levels", [1, 3, 1000])  # all the same, many ties, hardly any
@pytest.mark.parametrize("num_items", [4, 300])  # fewer than are told apart, and more
@pytest.mark.parametrize("density", [0.0, 0.05, 0.9])
def test_ranks_are_those_of_the_sums(levels, num_items, density):
    rng = np.random.default_rng(levels + num_items)
    contenders, expected = Contenders(num_users=120, reach=10), {}
    for first in range(0, 120, 40):
        dense = torch.from_numpy(rng.integers(levels, size=(40, num_items)) / 16).float()
        targets = torch.from_numpy(rng.integers(num_items, size=40))
        seen = torch.from_numpy(rng.integers(-1, num_items, size=(40, 3)))  # sometimes the target is among them
        wide = sparse_scores(rng, 40, num_items, density, levels)
        narrow = wide.copy()
        narrow.data[rng.random(wide.nnz) < 0.5] = 0
        narrow.eliminate_zeros()
        kinds = [wide, narrow, wide * 2]
        add_block(contenders, first, dense, targets, seen, kinds)
        for kind, added in enumerate(kinds):
            for weight in WEIGHTS:
                sums = dense + weight * torch.from_numpy(added.toarray()).float()
                found = torch.stack(rank_targets(sums, targets, seen))
                expected.setdefault((kind, weight), []).append(found)
    for (kind, weight), parts in expected.items():
        found, should = contenders.rank(weight, kind), torch.cat(parts, dim=1)
        is_below = should[0] < 10
        assert torch.equal(found[:, is_below], should[:, is_below]), (kind, weight)
        assert (found[0, ~is_below] >= 10).all()


def test_only_what_matters_is_kept():
    generator = torch.Generator().manual_seed(0)
    dense, targets = torch.randn(50, 2000, generator=generator), torch.arange(50)
    kinds = [sparse_scores(np.random.default_rng(0), 50, 2000, 0.2, 1000)]
    contenders = Contenders(num_users=50)
    ranks = add_block(contenders, 0, dense, targets, None, kinds)
    kept = contenders._kept
    assert 0 < len(kept.users) < 50 and len(kept.values[0]) < 0.5 * kinds[0].nnz
    assert set(kept.users.tolist()) >= set((ranks[0] < 10).nonzero().squeeze(1).tolist())


def test_users_who_are_not_given_are_out_of_reach():
    contenders = Contenders(num_users=3, reach=5)
    assert contenders.rank(2.0)[0].tolist() == [5, 5, 5]
    nothing = scipy.sparse.csr_array((0, 20))
    none = torch.zeros(0, dtype=torch.long)
    contenders.add(none, torch.zeros(0, 20), none, torch.zeros(2, 0, dtype=torch.long), Entries.of(nothing))
    assert contenders.rank(2.0)[0].tolist() == [5, 5, 5]


def choose_plainly(scorer, transitions, validation, weights, popularity_weights, settings):
    """As `choose`, from all sums of all users."""
    dense = torch.empty(len(validation.targets), len(validation.items))
    for padded, users in validation.blocks_of(np.arange(len(dense))):
        dense[users] = scorer.scores(padded)
    histories = [torch.tensor([row]) for row in validation.histories["history"][:]]
    targets, spread = torch.from_numpy(validation.targets).long(), float(dense.std(dim=1, correction=0).mean()) or 1.0

    def gain(scores):
        found = []
        for line, target, history in zip(scores, targets, histories, strict=True):
            others = torch.ones(len(line), dtype=torch.bool)
            others[target] = False
            if validation.exclude_seen:
                others[history] = False
            rank = int((line[others] > line[target]).sum()) + int((line[others] == line[target]).sum()) / 2
            found.append(1 / np.log2(rank + 2) if rank < 10 else 0.0)
        return np.array(found)

    def smallest_close(found):
        """Of candidates that begin with their weight."""
        best = max(found.values(), key=np.mean)
        close = [
            one for one, gains in found.items() if np.mean(best - gains) <= np.std(best - gains) / len(best) ** 0.5 / 2
        ]
        least = min(one[0] for one in close)
        return max((one for one in close if one[0] == least), key=lambda one: np.mean(found[one]))

    found, sums = {}, {}
    for setting in settings:
        read = transitions.with_settings(**setting)
        added = torch.cat([torch.from_numpy(read.scores(history.numpy()).toarray()) for history in histories]).float()
        for weight in weights:
            sums[weight, tuple(setting.items())] = dense + weight * spread * added
            found[weight, tuple(setting.items())] = gain(sums[weight, tuple(setting.items())])
    chosen, popularity = smallest_close(found), log_popularity(transitions.item_counts)
    by_popularity = {(one,): gain(sums[chosen] + one * spread * popularity) for one in popularity_weights}
    return chosen[0], dict(chosen[1]) if chosen[0] else None, smallest_close(by_popularity)[0]


@pytest.mark.parametrize("seed", range(6))
def test_choices_are_those_of_a_plain_search(seed):
    rng = np.random.default_rng(seed)
    item_ids = [str(number) for number in range(60)]
    rows = [rng.choice(60, size=rng.integers(3, 40)) for _ in range(80)]  # with items that come back
    chains = [np.arange(start, start + 8) % 60 for start in rng.integers(60, size=10 * (seed % 3))]
    rows = [[item_ids[number] for number in row] for row in [*rows, *chains]]
    items = datasets.Dataset.from_dict({"item_id": item_ids})
    users = datasets.Dataset.from_dict({"item_ids": [row[:-1] for row in rows], "target": [row[-1] for row in rows]})
    validation = FullRankingEvaluator(items, users, exclude_seen=seed % 2 == 0, batch_size=16)
    transitions = Transitions.from_sequences([row[:-1] for row in rows], item_ids)
    features = torch.from_numpy(rng.integers(2, size=(60, 4)).astype(np.float32))  # a few kinds of items, which tie
    scorer = empty_scorer(60) if seed == 5 else Content({"text": features}, {}, []).fit(max_seq_len=100)
    settings = ({"power": 0.3, "history_decay": 0.4}, {"power": 0.5, "history_decay": 0.9})  # of other reach
    weights, popularity = (0.0, 0.5, 2.0, 8.0), (0.0, 0.2, 0.8)
    found = choose(scorer, transitions, validation, weights, popularity, settings)
    expected = choose_plainly(scorer, transitions, validation, weights, popularity, settings)
    chosen = found.transition_settings if found.transition_weight else None
    assert (found.transition_weight, chosen, found.popularity_weight) == expected


def test_scores_that_are_not_numbers_are_no_choice():
    items = datasets.Dataset.from_dict({"item_id": ["a", "b"]})
    users = datasets.Dataset.from_dict({"item_ids": [["a"]], "target": ["b"]})
    with pytest.raises(ValueError, match="NaN or infinite"):
        scorer = empty_scorer(2).replace(item_scores=torch.tensor([0.0, float("nan")]))
        choose(scorer, Transitions.from_sequences([["a", "b"]]), FullRankingEvaluator(items, users))
    assert weighing.deviations(torch.tensor([[1.0, 3.0]])).item() == 1.0
