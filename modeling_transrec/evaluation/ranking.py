"""Turns scores of the whole catalogue into ranks of targets and into the best items. Nothing loops over users.

Shapes: `B` users, `V` catalogue items, `S` seen items, `K` cut-off.
"""

from collections.abc import Callable

import torch


_NOT_FINITE = (
    "the model's scores are NaN or infinite, so nothing can be ranked; training has diverged: lower the learning "
    "rate, or look for NaN in the weights"
)
SCORES_IN_CACHE = 2**19


def check_finite(values: torch.Tensor) -> None:
    """Raises `ValueError` for scores, or vectors that make scores, that are NaN or infinite: they mean nothing."""
    if not torch.isfinite(values).all():
        raise ValueError(_NOT_FINITE)


def remove_seen(scores: torch.Tensor, seen: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Scores `(B, V)` with -inf at the seen items.

    Args:
        scores: `(B, V)`, changed in place.
        seen: `(B, S)` indices into the catalogue, -1 at padding.
        keep: `(B,)` indices of items that stay candidates although seen: a target that the user comes back to.
    """
    line = torch.arange(len(scores), device=scores.device)
    first = scores[:, 0].clone()
    kept = None if keep is None else scores[line, keep]
    scores.scatter_(1, seen.clamp(min=0), float("-inf"))
    item_zero_is_seen = (seen == 0).any(dim=1)
    scores[:, 0] = torch.where(item_zero_is_seen, scores[:, 0], first)  # padding was sent there
    if kept is not None:
        scores[line, keep] = kept
    return scores


def rank_targets(
    scores: torch.Tensor, targets: torch.Tensor, seen: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts the candidates that score better than the target and the others that score the same: two `(B,)`.

    Args:
        scores: `(B, V)`; changed in place where `seen` is given.
        targets: `(B,)` indices into the catalogue.
        seen: `(B, S)` indices of items that are no candidates, -1 at padding; the target is one even if seen.

    Raises:
        ValueError: if a score is NaN or the target's is infinite: such a ranking means nothing.

    Example:

    >>> import torch
    >>> scores = torch.tensor([[0.9, 0.5, 0.7, 0.5]])
    >>> rank_targets(scores, targets=torch.tensor([1]), seen=torch.tensor([[0, -1]]))
    (tensor([1]), tensor([1]))
    """
    target_scores = scores.gather(1, targets[:, None])  # (B, 1)
    check_finite(target_scores)
    if torch.isnan(scores.sum(dim=1)).any():
        raise ValueError(_NOT_FINITE)
    if seen is not None:
        scores = remove_seen(scores, seen, keep=targets)
    lines = lines_in_cache(scores)
    parts = zip(scores.split(lines), target_scores.split(lines), strict=True)
    counts = [torch.stack([count(torch.gt, *part), count(torch.eq, *part)]) for part in parts]
    num_better, num_equal = torch.cat(counts, dim=1)
    return num_better, num_equal - 1


def lines_in_cache(scores: torch.Tensor) -> int:
    """Returns how many lines of scores `(B, V)` to look at at a time: on a CPU as many as its cache holds."""
    return max(1, SCORES_IN_CACHE // scores.shape[1]) if scores.device.type == "cpu" else len(scores)


def count(compare: Callable, scores: torch.Tensor, target_scores: torch.Tensor) -> torch.Tensor:
    """Counts the scores of each line `(B, V)` whose comparison with the target's `(B, 1)` holds: `(B,)`.

    A CPU compares into numbers of the scores' own type, for which it has vector instructions, and adds those up; exact
    to 2**24 items.
    """
    marks = torch.empty_like(scores, dtype=scores.dtype if scores.device.type == "cpu" else torch.bool)
    return compare(scores, target_scores, out=marks).sum(dim=1, dtype=torch.float32).long()


def top_items(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the `k` best candidates of each user, best first: scores and indices into the catalogue, both `(B, K)`.

    Of items with the same score the first in the catalogue is better. Where fewer than `k` candidates are left, the
    rest has score -inf.

    Args:
        scores: `(B, V)`, -inf at items that are no candidates.
        k: how many.

    Raises:
        ValueError: if a score is NaN.

    >>> top_items(torch.tensor([[0.5, 0.9, 0.5, 0.5]]), k=2)
    (tensor([[0.9000, 0.5000]]), tensor([[1, 0]]))
    """
    best, index = scores.topk(min(k + 1, scores.shape[1]), dim=1)  # one more, to see whether the last one ties with it
    if torch.isnan(best[:, 0]).any():  # a NaN comes first
        raise ValueError("the model's scores are NaN: nothing can be recommended")
    if not (best[:, 1:] == best[:, :-1]).any():
        return best[:, :k], index[:, :k]
    if k < scores.shape[1]:
        last = best[:, k - 1]
        tied = ((best[:, k] == last) & (last > float("-inf"))).nonzero()[:, 0]
        best, index = best[:, :k], index[:, :k]
        if len(tied):
            index[tied] = _first_of_tied(scores[tied], last[tied, None], k)
            best = scores.gather(1, index)
    return best_of(best, index, k)


def _first_of_tied(scores: torch.Tensor, last: torch.Tensor, k: int) -> torch.Tensor:
    """Returns indices `(B, K)` of scores `(B, V)` above that of the last place `(B, 1)`, and the first equal ones."""
    is_above, is_equal = scores > last, scores == last
    places = k - is_above.sum(dim=1, keepdim=True)
    is_best = is_above | (is_equal & (is_equal.cumsum(dim=1) <= places))
    return is_best.nonzero()[:, 1].view(-1, k)


def best_of(scores: torch.Tensor, index: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the `k` best of some items `(B, C)` of each user, as [`top_items`] does.

    Args:
        scores: `(B, C)`.
        index: `(B, C)` of the items into the catalogue.
        k: how many.
    """
    index, by_index = index.sort(dim=1)
    scores, by_score = scores.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    return scores[:, :k], index.gather(1, by_score)[:, :k]


def list_items(scores: torch.Tensor, k: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Lists the `k` best items of each user, best first; items that tie at the end of the list are drawn.

    Args:
        scores: `(B, V)`, -inf at items that are no candidates.
        k: number of items.
        generator: draws among items with the same score, on the CPU.

    Returns: indices into the catalogue `(B, K)`, -1 where fewer candidates are left.
    """
    best, items = scores.topk(min(k, scores.shape[1]), dim=1)
    last = best[:, -1:]
    is_tied = scores == last
    if (is_tied.sum(dim=1) > (best == last).sum(dim=1)).any():  # more items tie than have a place
        drawn = torch.rand(scores.shape, generator=generator).to(scores.device)
        order = torch.where(scores > last, 2.0, torch.where(is_tied, drawn, -1.0))
        items = order.topk(items.shape[1], dim=1).indices
        best, column = scores.gather(1, items).sort(dim=1, descending=True, stable=True)
        items = items.gather(1, column)
    return items.masked_fill(best == float("-inf"), -1)


def is_among(index: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Returns which of `index` `(B, C)` are among the same user's `others` `(B, S)`: `(B, C)` booleans.

    >>> is_among(torch.tensor([[3, 5, 7]]), torch.tensor([[-1, 7, 3]]))
    tensor([[ True, False,  True]])
    """
    if others.shape[1] == 0:
        return torch.zeros_like(index, dtype=torch.bool)
    ordered = others.sort(dim=1).values
    place = torch.searchsorted(ordered, index.contiguous()).clamp(max=others.shape[1] - 1)
    return ordered.gather(1, place) == index
