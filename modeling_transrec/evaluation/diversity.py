"""Diversity of recommended lists: maximal marginal relevance.

Shapes: `B` users, `C` items to choose from, `K` chosen items, `D` width of their vectors.
"""

import torch


def maximal_marginal_relevance(scores: torch.Tensor, vectors: torch.Tensor, k: int, diversity: float) -> torch.Tensor:
    """Chooses items that score high and are unlike those chosen before (Carbonell and Goldstein, SIGIR 1998).

    The next item is the one of the highest `(1 - diversity) * relevance - diversity * likeness`: relevance is the
    score, mapped linearly so that the best item of the user has 1 and the worst 0; likeness is the highest cosine with
    an item that was chosen before.

    Args:
        scores: `(B, C)`, -inf at places without an item.
        vectors: `(B, C, D)` of the items.
        k: how many are chosen.
        diversity: from 0, which gives the order of the scores, to 1.

    Returns: places `(B, min(k, C))` of the chosen items, in the order in which they were chosen; those without an item
    come last.

    >>> scores = torch.tensor([[3.0, 2.9, 1.0]])
    >>> vectors = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])
    >>> maximal_marginal_relevance(scores, vectors, k=3, diversity=0.5)
    tensor([[0, 2, 1]])
    """
    vectors = torch.nn.functional.normalize(vectors, dim=2)
    is_item, line = scores > float("-inf"), torch.arange(len(scores), device=scores.device)
    worst = scores.masked_fill(~is_item, float("inf")).amin(dim=1, keepdim=True)
    relevance = (scores - worst) / (scores.amax(dim=1, keepdim=True) - worst).clamp(min=1e-12)
    gain = ((1 - diversity) * relevance).masked_fill(~is_item, -1e6)  # only what was chosen is behind these
    penalty = torch.full_like(gain, -diversity)
    chosen = []
    for _ in range(min(k, scores.shape[1])):
        place = (gain - penalty).argmax(dim=1)
        chosen.append(place)
        gain[line, place] = float("-inf")
        likeness = torch.einsum("bcd,bd->bc", vectors, vectors[line, place])
        penalty = torch.maximum(penalty, diversity * likeness)
    return torch.stack(chosen, dim=1)
