"""Ranks a model and its sum with transitions in one pass over the users, as often as it is trained on."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.transitions import Transitions
from ..models.batch import UserInputs
from .contenders import Contenders, Entries
from .evaluator import FullRankingEvaluator, Observer
from .metrics import Rankings, ranking_metrics
from .scoring import CatalogueScorer
from .weighing import (
    SETTINGS_BESIDE_MODELS,
    TRANSITION_WEIGHTS,
    best_weight,
    choose,
    deviations,
    empty_scorer,
    gains,
    users_to_choose_on,
)


WITH_TRANSITIONS = "_with_transitions"  # at the end of the names of the sum's metrics
_STORED_AT_MOST = 2**26  # scores of transitions: 512 MB


@dataclass(frozen=True)
class _Reached:
    """Users of a block whose target has transitions from the history."""

    lines: torch.Tensor  # (R,) indices into the block
    counted: scipy.sparse.csr_array  # (R, V) scores of the transitions
    higher: torch.Tensor  # (2, H) users of the block, and items whose transitions are as high as the target's
    num_higher: torch.Tensor  # (B,) of each user


class SumEvaluator:
    """
    Evaluates a model's own scores, and their sum with a platform's transitions, on the validation split.

    The transitions' `power` and `history_decay` are those that rank best by themselves; they are chosen once. The
    weight of the transitions is chosen at every evaluation. Popularity is not added. Dense scores are made once for
    both rankings, the transitions of the users whose target they reach once for all evaluations.

    Args:
        evaluator: ranks the validation split.
        transitions: of the training interactions, for the evaluator's catalogue.
        transition_weight: in units of the dense scores' spread, or `"auto"`.
    """

    def __init__(self, evaluator: FullRankingEvaluator, transitions: Transitions, transition_weight: str = "auto"):
        self.evaluator = evaluator
        self.weights = TRANSITION_WEIGHTS if transition_weight == "auto" else (float(transition_weight),)
        nothing = empty_scorer(len(evaluator.items))
        choice = choose(nothing, transitions, evaluator, (1.0,), (0.0,), SETTINGS_BESIDE_MODELS)
        self.settings = choice.transition_settings
        self.transitions = transitions.with_settings(**self.settings)
        self._reached: dict[int, _Reached] = {}
        self._num_stored = 0

    def __call__(
        self, scorer: CatalogueScorer, user_inputs: UserInputs | None = None, observe: Observer | None = None
    ) -> dict[str, float]:
        """Returns the evaluator's metrics of the model, `hr@10_with_transitions`, … of the sum, and its weight.

        Args:
            scorer: of the model.
            user_inputs: see [`FullRankingEvaluator.user_inputs`].
            observe: called after each block of users with the model's own scores, see
                [`FullRankingEvaluator.evaluate`].
        """
        contenders = Contenders(len(self.evaluator.targets), reach=max(self.evaluator.ks[-1], 10))
        spreads, ranked = torch.zeros(len(self.evaluator.targets)), []
        chosen_on = np.zeros(len(self.evaluator.targets), bool)
        chosen_on[users_to_choose_on(self.evaluator)] = True

        def score(histories: torch.Tensor, users: np.ndarray) -> torch.Tensor:
            scores = scorer.scores(histories, None if user_inputs is None else user_inputs[users])
            some = np.flatnonzero(chosen_on[users])
            of_some = scores.index_select(0, torch.from_numpy(some).to(scores.device))
            spreads[users[some]] = deviations(of_some).cpu()
            return scores

        def add(histories: torch.Tensor, users: np.ndarray, scores: torch.Tensor, ranks: torch.Tensor) -> None:
            ranked.append(users)
            self._add(contenders, histories, users, scores, ranks)
            if observe is not None:
                observe(histories, users, scores, ranks)

        metrics = self.evaluator.evaluate(score, scorer.item_embeddings.device, add)
        mine = np.concatenate(ranked) if ranked else np.zeros(0, np.int64)
        spread = float(self._of_all(mine, spreads[mine])[chosen_on].mean()) or 1.0
        ranks = torch.stack([contenders.rank(weight * spread)[:, mine] for weight in self.weights])
        ranks = self._of_all(mine, ranks)  # (W, 2, N)
        place = best_weight(torch.stack([gains(one)[chosen_on] for one in ranks]), self.weights)
        self.rankings = Rankings(*ranks[place])
        found = ranking_metrics(self.rankings, self.evaluator.ks, ("hr", "ndcg"))
        sums = {f"{name}{WITH_TRANSITIONS}": value for name, value in found.items()}
        return {**metrics, **sums, "transition_weight": self.weights[place]}

    def _add(
        self,
        contenders: Contenders,
        histories: torch.Tensor,
        users: np.ndarray,
        scores: torch.Tensor,
        ranks: torch.Tensor,
    ) -> None:
        """Adds a block of users as [`FullRankingEvaluator.evaluate`] has ranked it."""
        targets = torch.from_numpy(self.evaluator.targets[users]).long()
        block = self._reach(histories.cpu(), int(users[0]), targets)
        may_matter = ranks[0].cpu() < contenders.reach  # the others can only sink, where the target is not reached
        may_matter[block.lines] = False
        others = may_matter.nonzero().squeeze(1)
        device, targets = scores.device, targets.to(scores.device)
        own = scores.gather(1, targets[:, None]).squeeze(1).repeat_interleave(block.num_higher.to(device))
        is_ahead = (scores[*block.higher.to(device)] > own).cpu()
        num_ahead = torch.cat([torch.zeros(1, dtype=torch.long), is_ahead.cumsum(0)])[block.num_higher.cumsum(0)]
        is_kept = num_ahead.diff(prepend=torch.zeros(1, dtype=torch.long))[block.lines] < contenders.reach
        lines = torch.cat([block.lines[is_kept], others])
        if not len(lines):
            return
        counted = block.counted[is_kept.numpy()]
        if len(others):
            counted = scipy.sparse.vstack([counted, self.transitions.scores(histories.cpu()[others].numpy())], "csr")
        of_lines, place = torch.from_numpy(users)[lines], lines.to(device)
        added = Entries.of(counted, device=device)
        contenders.add(of_lines, scores.index_select(0, place), targets[place], ranks[:, place], added)

    def _reach(self, histories: torch.Tensor, number: int, targets: torch.Tensor) -> "_Reached":
        """Returns the users of a block whose target has transitions from the history.

        They are kept from one evaluation to the next, as far as there is room.
        """
        if number in self._reached:
            return self._reached[number]
        counted = self.transitions.scores(histories.numpy())
        entries = Entries.of(counted)
        of_target = entries.of_target(targets)[0]
        lines = (of_target > 0).nonzero().squeeze(1)
        bound = torch.where(of_target > 0, of_target, torch.inf)
        is_higher = (entries.values[0] >= bound[entries.owner]) & (entries.items != targets[entries.owner])
        owner, items = entries.owner[is_higher], entries.items[is_higher]
        num_higher = torch.bincount(owner, minlength=len(targets))
        counted = counted[lines.numpy()].astype(np.float32)
        found = _Reached(lines, counted, torch.stack([owner, items]), num_higher)
        if self._num_stored + found.counted.nnz <= _STORED_AT_MOST:
            self._num_stored += found.counted.nnz
            self._reached[number] = found
        return found

    def _of_all(self, users: np.ndarray, values: torch.Tensor) -> torch.Tensor:
        """Returns the values `(…, N)` of all users, from those `(…, B)` that each process has of its users."""
        parts = [(users, values)]
        if PartialState().num_processes > 1:
            parts = gather_object(parts)
        whole = values.new_zeros(*values.shape[:-1], len(self.evaluator.targets))
        for some, of_some in parts:
            whole[..., some] = of_some
        return whole
