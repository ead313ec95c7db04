"""Ranks targets on a CPU while the scores of one part of the catalogue lie in its cache; scores are not kept.

Shapes: `B` users, `L` history length, `V` catalogue items, `C` items of a part, `E` single scores.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..models.batch import UserInputs
from .ranking import check_finite, rank_targets
from .scoring import CatalogueScorer, FewScores, dot_products


SCORES_AT_A_TIME = 2**18  # 1 MB
ALIGNED = 16  # numbers in 64 bytes; each line of scores begins at a multiple of them, see [`dot_products`]


class TargetRanks(NamedTuple):
    """Says how many candidates are better than each user's target, how many others tie with it, and its loss.

    All are `(B,)`. The loss is the cross-entropy of the target among the candidates, float32.
    """

    num_better: torch.Tensor
    num_equal: torch.Tensor
    losses: torch.Tensor


def part_width(num_items: int, num_users: int) -> int:
    """Returns how many items of the catalogue a part has: of several parts all have as many.

    Products of the same shape are rounded in the same way, so that items with the same embedding tie.

    >>> part_width(12_000, num_users=256), part_width(20, num_users=256)
    (1008, 20)
    """
    num_parts = -(-num_items // max(ALIGNED, SCORES_AT_A_TIME // num_users))
    return num_items if num_parts == 1 else -(-num_items // (num_parts * ALIGNED)) * ALIGNED


def rank_in_parts(
    scorer: CatalogueScorer,
    histories: torch.Tensor,
    targets: torch.Tensor,
    exclude_seen: bool = True,
    user_inputs: UserInputs | None = None,
) -> TargetRanks:
    """Ranks the targets among a scorer's items as [`rank_targets`] does, which is given all scores at once.

    A target's score is needed before that of its part is made. Where both are not equal to the last bit, so that ties
    would be missed, the user is ranked by all scores at once.

    Args:
        scorer: of a catalogue on a CPU.
        histories: `(B, L)` indices into the catalogue, -1 at padding on the left.
        targets: `(B,)` likewise.
        exclude_seen: whether items of the history are no candidates; the target always is one.
        user_inputs: as in [`CatalogueScorer.encode_users`].

    Raises:
        ValueError: if a score is NaN or the target's is infinite.

    Example:

    >>> from modeling_transrec import TransRecConfig, TransRecModel
    >>> model = TransRecModel(TransRecConfig(num_items=4, hidden_size=2, num_attention_heads=1))
    >>> scorer = CatalogueScorer(model, item_embeddings=torch.ones(4, 2))  # all items tie
    >>> rank_in_parts(scorer, histories=torch.tensor([[3, 0]]), targets=torch.tensor([2]))
    TargetRanks(num_better=tensor([0]), num_equal=tensor([1]), losses=tensor([0.6931]))
    """
    queries, candidates = scorer.queries(histories, user_inputs), scorer.candidates
    added, users = scorer.transition_scores(histories), torch.arange(len(targets))
    own = dot_products(queries, candidates[targets]).diagonal()[:, None] + added.of(targets[:, None], len(candidates))
    check_finite(own)
    left_out = targets[:, None]  # it is looked at by itself
    if exclude_seen:
        left_out = torch.cat([histories, left_out], dim=1)
    width = part_width(len(candidates), len(targets))
    starts = torch.arange(0, len(candidates), width).clamp(max=len(candidates) - width)
    few = (added, FewScores.leaving_out(left_out), FewScores(users, targets, own[:, 0]))
    columns = -(-width // ALIGNED) * ALIGNED + ALIGNED
    scores = queries.new_full((len(targets), columns), float("-inf"))  # (B, C), then nothing, then the target's
    scores[:, -1:] = own
    marks, again = torch.empty_like(scores), torch.empty_like(own[:, 0])  # marks are numbers, as in [`~ranking.count`]
    better, equal, excess, done = [], [], [], 0
    for start, of_part, without, at_targets in zip(
        starts.tolist(), *(one.in_parts(starts, width) for one in few), strict=True
    ):
        torch.mm(queries, candidates[start : start + width].T, out=scores[:, :width])
        if len(of_part.users):
            of_part.add_to(scores)
        again[at_targets.users] = scores[at_targets.users, at_targets.items]
        scores[without.users, without.items] = without.values
        scores[:, : done - start] = float("-inf")  # the last part begins in the one before
        done = start + width
        better.append(torch.gt(scores, own, out=marks).sum(dim=1))
        equal.append(torch.eq(scores, own, out=marks).sum(dim=1))
        # log(1 + sum of exp(score - own)), in which a NaN stays one
        excess.append(-torch.log_softmax(scores, dim=1, out=marks)[:, -1])
    num_better, num_equal = torch.stack(better).long().sum(dim=0), torch.stack(equal).long().sum(dim=0) - len(equal)
    more = torch.stack(excess).double()
    losses = F.softplus(torch.logsumexp(more + torch.log1p(-torch.exp(-more)), dim=0)).float()
    found = TargetRanks(num_better, num_equal, losses)
    in_doubt = ((again != own[:, 0]) | ~torch.isfinite(losses)).nonzero().squeeze(1).numpy()
    if len(in_doubt):
        scores = scorer.scores(histories[in_doubt], None if user_inputs is None else user_inputs[in_doubt])
        ranks = rank_targets(scores, targets[in_doubt], histories[in_doubt] if exclude_seen else None)
        whole = (*ranks, F.cross_entropy(scores, targets[in_doubt], reduction="none"))
        for values, of_some in zip(found, whole, strict=True):
            values[in_doubt] = of_some
    return found
