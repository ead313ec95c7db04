"""Learns to re-rank a scorer's best candidates from the users of a validation split, see [`Reranker`].

Shapes: `N` users, `B` users of a block, `C` candidates.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from ..models.batch import UserInputs
from .evaluator import FullRankingEvaluator
from .ranking import remove_seen
from .reranker import Reranker, can_be_reranked, describe_candidates
from .scoring import CatalogueScorer


USERS_TO_LEARN_FROM = 50_000


class _Examples:
    """Features of validation users whose target is among their candidates, and where it is."""

    def __init__(self, parts: list[tuple[torch.Tensor, ...]]):
        self.features, self.of_users, self.is_one, self.place = map(torch.cat, zip(*parts, strict=True))

    def of(self, users: torch.Tensor) -> Iterator[torch.Tensor]:
        return (values[users] for values in (self.features, self.of_users, self.is_one, self.place))


def learn_reranker(
    scorer: CatalogueScorer,
    validation: FullRankingEvaluator,
    user_inputs: UserInputs | None = None,
    num_candidates: int = 100,
    seed: int = 0,
) -> tuple[Reranker | None, dict]:
    """Learns to re-rank a scorer's candidates from the users of a validation split.

    Half of the users are re-ranked by what the other half teaches, and the other way round. If their NDCG@10 is not
    better by more than one standard error, nothing is to be gained, and the sum stays as it is.

    Args:
        scorer: with transitions of training interactions; the split's targets are in none of its parts.
        validation: ranks the split.
        user_inputs: see [`FullRankingEvaluator.user_inputs`].
        num_candidates: how many of the best items of a user are re-ranked.
        seed: of the network's start and the order of users.

    Returns: the reranker, `None` where it gains nothing, and what the protocol says of it.

    Raises:
        ValueError: if the scorer has no transitions or no item embeddings.
    """
    if not can_be_reranked(scorer):
        raise ValueError("re-ranking reads counted transitions and item embeddings, and this scorer lacks one of them")
    examples, num_users = _collect(scorer, validation, user_inputs, num_candidates)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples.place), generator=generator)
    halves = order.tensor_split(2)
    differences = torch.zeros(num_users)  # 0 of the users whose target is no candidate
    if min(map(len, halves)) > 0:
        found = [
            _gains(_fit(examples, halves[1 - one], num_candidates, generator), examples, halves[one]) for one in (0, 1)
        ]
        differences[: len(order)] = torch.cat(found)
    gain, error = float(differences.mean()), float(differences.std(correction=0)) / num_users**0.5
    description = {"num_candidates": num_candidates, "gain": round(gain, 6), "standard_error": round(error, 6)}
    if gain <= error:
        return None, {"reranker": {**description, "is_used": False}}
    reranker = _fit(examples, order, num_candidates, generator).to(scorer.item_embeddings.device)
    return reranker, {"reranker": {**description, "is_used": True}}


def _collect(
    scorer: CatalogueScorer,
    validation: FullRankingEvaluator,
    user_inputs: UserInputs | None,
    num_candidates: int,
) -> tuple[_Examples, int]:
    """Returns the examples of evenly spread users of the split, and how many users there were."""
    step = -(-len(validation.targets) // USERS_TO_LEARN_FROM)
    users_to_learn_from = np.arange(0, len(validation.targets), step)
    parts: list[tuple[torch.Tensor, ...]] = []
    for histories, users in validation.blocks_of(users_to_learn_from):
        targets = torch.from_numpy(validation.targets[users]).long()
        histories = histories.to(scorer.item_embeddings.device)
        all_scores = scorer.scores(histories, None if user_inputs is None else user_inputs[users])
        if validation.exclude_seen:
            remove_seen(all_scores, histories, keep=targets.to(histories.device))
        scores, items = all_scores.topk(min(num_candidates, all_scores.shape[1]), dim=1)
        is_target = items.cpu() == targets[:, None]
        features, of_users = describe_candidates(scorer, histories, items, scores)
        found = is_target.any(dim=1)
        values = (features.cpu(), of_users.cpu(), scores.cpu() > float("-inf"), is_target.int().argmax(dim=1))
        parts.append(tuple(value[found] for value in values))
    return _Examples(parts), len(users_to_learn_from)


def _fit(
    examples: _Examples,
    users: torch.Tensor,
    num_candidates: int,
    generator: torch.Generator,
    num_epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 0.01,
) -> Reranker:
    """Returns a reranker fitted to some of the users by cross-entropy of the target among the candidates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        reranker = Reranker(num_candidates)
    features, of_users, is_one, place = examples.of(users)
    for name, values in (("feature", features[is_one]), ("user", of_users)):
        getattr(reranker, f"{name}_mean").copy_(values.mean(dim=0))
        getattr(reranker, f"{name}_scale").copy_(values.std(dim=0, correction=0).clamp(min=1e-6))
    # The sum alone is scaled first, so that the network begins with what the sum leaves open.
    spread = features[..., 0].std(dim=1, correction=0).mean().clamp(min=1e-6)
    scales = [2.0**power / float(spread) for power in range(-4, 6)]
    losses = [_cross_entropy(features[..., 0] * scale, is_one, place).item() for scale in scales]
    reranker.log_scale.data.fill_(float(np.log(scales[int(np.argmin(losses))])))
    optimizer = torch.optim.AdamW(reranker.parameters(), learning_rate, weight_decay=1e-4)
    num_steps = num_epochs * -(-len(users) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - step / num_steps)
    )
    for _ in range(num_epochs):
        for batch in torch.randperm(len(users), generator=generator).split(batch_size):
            loss = _cross_entropy(reranker(features[batch], of_users[batch]), is_one[batch], place[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return reranker.eval().requires_grad_(False)


def _cross_entropy(logits: torch.Tensor, is_one: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.masked_fill(~is_one, float("-inf")), place)


def _gains(reranker: Reranker, examples: _Examples, users: torch.Tensor) -> torch.Tensor:
    """Returns how much NDCG@10 of each of these users `(N,)` grows."""
    features, of_users, is_one, place = examples.of(users)
    after = reranker(features, of_users).masked_fill(~is_one, float("-inf"))
    rank = (after > after.gather(1, place[:, None])).sum(dim=1)
    return _ndcg(rank) - _ndcg(place)


def _ndcg(rank: torch.Tensor, k: int = 10) -> torch.Tensor:
    return torch.where(rank < k, 1 / torch.log2(rank + 2.0), 0)
