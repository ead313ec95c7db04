"""Ranks of targets and best items from scores."""

import pytest
import torch

from modeling_transrec.evaluation.ranking import list_items, rank_targets, remove_seen, top_items


def test_seen_items_with_index_zero_and_padding():
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]])
    seen = torch.tensor([[-1, 1], [0, -1]])
    better, tied = rank_targets(scores.clone(), torch.tensor([2, 2]), seen)
    assert better.tolist() == [1, 1] and tied.tolist() == [0, 0]
    best, found = top_items(remove_seen(scores.clone(), seen), 4)
    assert found[:, :3].tolist() == [[0, 2, 3], [1, 2, 3]]
    assert best[:, 3].tolist() == [float("-inf")] * 2


def test_scores_that_are_no_numbers_are_an_error():
    for broken in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinite"):
            rank_targets(torch.tensor([[1.0, broken, 2.0]]), torch.tensor([1]))
    with pytest.raises(ValueError, match="NaN: nothing can be recommended"):
        top_items(torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), 1)


def test_listed_items_that_tie_are_drawn():
    scores = torch.tensor([[1.0, 5.0, 1.0, 1.0, float("-inf"), 1.0]]).repeat(3000, 1)
    listed = list_items(scores, 3, torch.Generator().manual_seed(0))
    assert (listed[:, 0] == 1).all()
    counts = torch.bincount(listed[:, 1:].flatten(), minlength=6)
    assert counts[[1, 4]].tolist() == [0, 0]
    assert ((counts[[0, 2, 3, 5]] / 3000 - 0.5).abs() < 0.05).all()  # two places for four items
    assert all(len(set(row)) == 3 for row in listed[:50].tolist())
    few = list_items(scores[:, 3:5], 2)
    assert few[0].tolist() == [0, -1]
