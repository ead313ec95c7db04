"""Chooses on a validation split what is added to dense scores, and how much it weighs: transitions and popularity."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..data.transitions import Transitions
from ..models.batch import UserInputs
from .contenders import Contenders, Entries
from .content import ContentKNN
from .evaluator import FullRankingEvaluator
from .features import Content
from .ranking import lines_in_cache, rank_targets
from .scoring import CatalogueScorer


USERS_TO_CHOOSE_ON = 10_000  # with 5,000 the decay of content kNN is chosen by noise on Amazon_Beauty
TRANSITION_WEIGHTS = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # in units of the dense scores' spread
POPULARITY_WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)  # likewise, of the standardised log popularity
# Only what needs no new count: other windows and decays of the pairs were no better on the four data sets that were
# tried (docs: measurements, without training). The first is taken where nothing can be chosen.
TRANSITION_SETTINGS = tuple(
    {"power": power, "history_decay": decay} for power in (0.3, 0.2, 0.4) for decay in (0.5, 0.7)
)
# Beside text and ids trained on Amazon_Beauty the power 0.2 was worse on the test split; why is not known.
SETTINGS_BESIDE_MODELS = tuple(
    {"power": power, "history_decay": decay} for power in (0.3, 0.5) for decay in (0.5, 0.6, 0.7)
)
CONTENT_SETTINGS: tuple[dict[str, Any], ...] = tuple(
    {"power": power, "history_decay": decay} for power in (0.5, 0.75) for decay in (0.6, 0.7, 0.8)
)


def check_transition_weight(value: str) -> None:
    """Raises `ValueError` for what is neither `auto` nor a weight."""
    try:
        is_weight = value == "auto" or 0 <= float(value) < float("inf")
    except ValueError:
        is_weight = False
    if not is_weight:
        raise ValueError(f"--transition_weight must be auto or a number from 0 on, got {value}")


def has_transitions(weight: str) -> bool:
    """Returns whether a checked weight adds any transitions."""
    return weight == "auto" or float(weight) > 0


def empty_scorer(num_items: int) -> CatalogueScorer:
    """Returns a scorer to which every item is the same, so that only what is added to it decides."""
    nothing = ContentKNN({})
    return CatalogueScorer(nothing, torch.zeros(num_items, 0))  # type: ignore[arg-type]  # as in `Content.fit`


@dataclass(frozen=True)
class ScoringChoice:
    """Says what is added to dense scores; made by [`choose`].

    Args:
        transition_weight: in units of the dense scores' spread.
        popularity_weight: likewise, of the standardised log popularity.
        spread: mean standard deviation of a user's dense scores.
        transition_settings: `power` and `history_decay` of the transitions.
    """

    transition_weight: float = 0.0
    popularity_weight: float = 0.0
    spread: float = 1.0
    transition_settings: dict = field(default_factory=dict)

    def apply(self, scorer: CatalogueScorer, transitions: Transitions) -> CatalogueScorer:
        """Returns the scorer with the sparse part and popularity added."""
        changes: dict[str, Any] = {}
        if self.transition_weight:
            changes["transitions"] = transitions.with_settings(**self.transition_settings)
            changes["transition_weight"] = self.transition_weight * self.spread
        if self.popularity_weight:
            popularity = log_popularity(transitions.item_counts).to(scorer.item_embeddings.device)
            changes["item_scores"] = self.popularity_weight * self.spread * popularity
        return scorer.replace(**changes)

    def describe(self, transitions: Transitions) -> dict:
        """Returns all of it for the protocol, with the settings that the transitions were counted with."""
        described: dict[str, Any] = {**asdict(transitions.settings), **self.transition_settings}
        described |= {"weight": self.transition_weight, "factor": round(self.transition_weight * self.spread, 6)}
        described["data"] = transitions.stamp.get("fingerprint")
        return {"transitions": described, "popularity_weight": self.popularity_weight}


def log_popularity(item_counts: np.ndarray) -> torch.Tensor:
    """Returns the logarithm of item counts `(V,)`, of mean 0 and standard deviation 1."""
    logs = torch.from_numpy(np.log1p(item_counts)).float()
    return (logs - logs.mean()) / logs.std(correction=0).clamp(min=1e-9)


def choose(
    scorer: CatalogueScorer,
    transitions: Transitions,
    validation: FullRankingEvaluator,
    transition_weights: Sequence[float] = TRANSITION_WEIGHTS,
    popularity_weights: Sequence[float] = POPULARITY_WEIGHTS,
    settings: Iterable[dict] | None = None,
    user_inputs: UserInputs | None = None,
) -> ScoringChoice:
    """Chooses what is added to dense scores by NDCG@10 of users of the validation split.

    The transitions' settings and weight are chosen first, then the weight of popularity, both by [`best_weight`].
    Nothing is counted anew.

    Args:
        scorer: makes the dense scores.
        transitions: of the training interactions, for the scorer's catalogue.
        validation: the validation split.
        transition_weights, popularity_weights: to choose from, in units of the dense scores' spread.
        settings: `power` and `history_decay` of the transitions to choose from; by default [`TRANSITION_SETTINGS`],
            and beside a trained model [`SETTINGS_BESIDE_MODELS`].
        user_inputs: see [`FullRankingEvaluator.user_inputs`].
    """
    if settings is None:
        settings = TRANSITION_SETTINGS if isinstance(scorer.model, ContentKNN) else SETTINGS_BESIDE_MODELS
    settings = list(settings)
    contenders, spread = _find_contenders(scorer, transitions, validation, settings, user_inputs)
    pairs = [(number, weight) for number in range(len(settings)) for weight in transition_weights if weight]
    tried = [(0, 0.0), *pairs] if 0.0 in transition_weights else pairs
    found = [gains(contenders.rank(weight * spread, number)) for number, weight in tried]
    number, weight = tried[best_weight(torch.stack(found), [weight for _, weight in tried])]
    chosen = ScoringChoice(weight, 0.0, spread, settings[number] if settings else {})
    if len(popularity_weights) < 2:
        return replace(chosen, popularity_weight=popularity_weights[0] if popularity_weights else 0.0)
    best, popularity = chosen.apply(scorer, transitions), log_popularity(transitions.item_counts)
    found = []
    for histories, users in _blocks(validation):
        base = _dense_scores(best, histories, users, user_inputs)
        sums = (base + factor * spread * popularity for factor in popularity_weights)
        found.append(torch.stack([_gains_of(scores, histories, users, validation) for scores in sums]))
    return replace(
        chosen, popularity_weight=popularity_weights[best_weight(torch.cat(found, dim=1), popularity_weights)]
    )


def best_weight(gains: torch.Tensor, weights: Sequence[float]) -> int:
    """Returns which of several weights to take: the smallest one that is within half a standard error of the best.

    With few users the best one is best by chance, and a smaller weight does less harm. The error is that of the mean
    difference between the same users' NDCG@10 with both weights; of a whole one, as in the rule of Breiman et al.
    ("Classification and Regression Trees", 1984), NDCG@10 fell where all users of a platform are known (docs: what
    needs no training). Of several candidates with the same weight the best counts.

    Args:
        gains: `(W, B)` NDCG@10 of each user with each candidate.
        weights: `(W,)` of the candidates.

    >>> gains = torch.tensor([[0.0, 0.5, 0.0, 0.5], [1.0, 0.0, 0.0, 0.5], [0.9, 0.4, 0.3, 0.8]])
    >>> best_weight(gains, (0.0, 2.0, 4.0)), best_weight(gains[:2], (0.0, 2.0))
    (2, 0)
    """
    gains = gains.double()
    means = gains.mean(dim=1)
    behind = gains[means.argmax()] - gains
    errors = behind.std(dim=1, correction=0) / gains.shape[1] ** 0.5
    is_close = behind.mean(dim=1) <= errors / 2
    smallest = min(weight for weight, close in zip(weights, is_close.tolist(), strict=True) if close)
    is_candidate = torch.tensor([weight == smallest for weight in weights]) & is_close
    return int(means.masked_fill(~is_candidate, -1).argmax())


def _find_contenders(
    scorer: CatalogueScorer,
    transitions: Transitions,
    validation: FullRankingEvaluator,
    settings: Sequence[dict],
    user_inputs: UserInputs | None,
) -> tuple[Contenders, float]:
    """Returns what ranks the targets with any weight of transitions with these settings, and the scores' spread."""
    blocks = list(_blocks(validation))
    num_users, first, spread = sum(len(users) for _, users in blocks), 0, 0.0
    contenders, kinds = Contenders(num_users), [transitions.with_settings(**one) for one in settings] or [transitions]
    widest = max(kinds, key=lambda one: one.settings.history_decay)  # it reads all that any of them does
    for histories, users in blocks:
        scores = _dense_scores(scorer, histories, users, user_inputs)
        spread += float(deviations(scores).sum()) / num_users
        targets = torch.from_numpy(validation.targets[users]).long()
        ranks = torch.stack(rank_targets(scores, targets, histories if validation.exclude_seen else None))
        counted = widest.scores(histories.numpy())
        # A target that the transitions do not reach stays where it is, or sinks.
        is_reached = Entries.of(counted).of_target(targets)[0] > 0
        lines = (is_reached | (gains(ranks) > 0)).nonzero().squeeze(1)
        some = histories[lines].numpy()
        added = Entries.of(counted[lines.numpy()], [one.scores(some) for one in kinds])
        contenders.add(first + lines, scores[lines], targets[lines], ranks[:, lines], added)
        first += len(users)
    return contenders, spread or 1.0  # all items score the same


def deviations(scores: torch.Tensor) -> torch.Tensor:
    """Returns the standard deviation of each user's scores `(B, V)`: `(B,)`. Faster than `torch.std` on a CPU."""
    lines = scores.split(lines_in_cache(scores))
    parts = [torch.linalg.vector_norm(part - part.mean(dim=1, keepdim=True), dim=1) for part in lines]
    return torch.cat(parts) / scores.shape[1] ** 0.5


def choose_content(
    content: Content, validation: FullRankingEvaluator, settings: Sequence[dict] = CONTENT_SETTINGS
) -> dict:
    """Returns the settings of content kNN with the best NDCG@10 on users of the validation split.

    Args:
        content: the items' features.
        validation: the validation split.
        settings: `power` and `history_decay` to choose from.
    """
    return settings[best_scorer((content.fit(**setting) for setting in settings), validation)]


def best_scorer(scorers: Iterable[CatalogueScorer], validation: FullRankingEvaluator) -> int:
    """Returns which of several scorers ranks users of the validation split best, by NDCG@10."""
    found = []
    for scorer in scorers:
        gain = 0.0
        for histories, users in _blocks(validation):
            scores = _dense_scores(scorer, histories, users, None)
            gain += float(_gains_of(scores, histories, users, validation).sum())
        found.append(gain)
    return int(np.argmax(found))


def users_to_choose_on(evaluator: FullRankingEvaluator) -> np.ndarray:
    """Returns indices of the users that are chosen on, the same on every process: all, or evenly spread ones."""
    step = -(-len(evaluator.targets) // USERS_TO_CHOOSE_ON)
    return np.arange(0, len(evaluator.targets), step)


def _blocks(evaluator: FullRankingEvaluator) -> Iterable[tuple[torch.Tensor, np.ndarray]]:
    return evaluator.blocks_of(users_to_choose_on(evaluator))


def _dense_scores(
    scorer: CatalogueScorer, histories: torch.Tensor, users: np.ndarray, user_inputs: UserInputs | None
) -> torch.Tensor:
    return scorer.scores(histories, None if user_inputs is None else user_inputs[users]).cpu()


def _gains_of(
    scores: torch.Tensor, histories: torch.Tensor, users: np.ndarray, evaluator: FullRankingEvaluator
) -> torch.Tensor:
    """Returns NDCG@10 of each user `(B,)`; changes the scores `(B, V)` in place."""
    targets = torch.from_numpy(evaluator.targets[users]).long()
    return gains(torch.stack(rank_targets(scores, targets, histories if evaluator.exclude_seen else None)))


def gains(ranks: torch.Tensor) -> torch.Tensor:
    """Returns NDCG@10 of each user `(B,)` by ranks `(2, B)`, a tied target counting as in the middle of the tie."""
    rank = ranks[0] + ranks[1] / 2
    return torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0)


def describe_scoring(description: dict) -> dict:
    """Returns what was chosen with a hash of it, for the protocol.

    >>> describe_scoring({"popularity_weight": 0.1})
    {'popularity_weight': 0.1, 'fingerprint': 'b67f60b4'}
    """
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    return {**description, "fingerprint": digest.hexdigest()[:8]}
