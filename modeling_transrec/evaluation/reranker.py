"""Re-ranks a scorer's best candidates by more than a sum of parts; users of a validation split teach it in seconds.

A sum of a dense score, transitions and popularity weighs each part the same for every user and item. How far
transitions are to be trusted depends on how often the items were counted, and on what the last item says by itself. A
network of some 600 parameters reads that of each candidate and corrects its score: retrieval and ranking in two stages
as in Covington et al., "Deep Neural Networks for YouTube Recommendations" (RecSys 2016), and what combines several
scores is learnt from users whom they were not fitted to, as in Wolpert, "Stacked Generalization" (Neural Networks,
1992).

Shapes: `B` users, `L` history length, `V` catalogue items, `C` candidates, best first, `F` features of a candidate,
`G` features of a user.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.transitions import Transitions


if TYPE_CHECKING:
    from .scoring import CatalogueScorer


FEATURES = (
    "sum",  # of the parts
    "dense",  # the model's own score
    "transitions",  # from the history
    "last_transitions",  # from its last item only
    "last_similarity",  # cosine of the item's and the last item's embedding
    "best_similarity",  # the highest cosine with an item of the history
    "popularity",  # logarithm of one more than the item's count
)
USER_FEATURES = ("history_length", "transitions", "best_dense", "popularity")  # of the candidates, and the last item
RECENT_ITEMS = 50  # of a history, which are compared with the candidates
_FARTHEST = 8.0  # standard deviations from the mean; features beyond count as this far


class Reranker(torch.nn.Module):
    """
    Corrects the scores of each user's best candidates; those of other items stay as they are.

    Corrections are at least 0, so that no other item comes before these candidates. Made by
    [`~reranking.learn_reranker`].

    Args:
        num_candidates: how many of the best items of a user it looks at.
        hidden_size: width of the network's only hidden layer.
    """

    feature_mean: torch.Tensor
    feature_scale: torch.Tensor
    user_mean: torch.Tensor
    user_scale: torch.Tensor

    def __init__(self, num_candidates: int = 100, hidden_size: int = 32):
        super().__init__()
        self.num_candidates, self.hidden_size = num_candidates, hidden_size
        for name, size in (("feature", len(FEATURES)), ("user", len(USER_FEATURES))):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.hidden = torch.nn.Linear(2 * len(FEATURES) + len(USER_FEATURES), hidden_size)
        self.output = torch.nn.Linear(hidden_size, 1, bias=False)
        torch.nn.init.zeros_(self.output.weight)
        self.log_scale = torch.nn.Parameter(torch.zeros(1))  # of the sum in the logits

    def forward(self, features: torch.Tensor, of_users: torch.Tensor) -> torch.Tensor:
        """Returns logits of candidates `(B, C)` from features `(B, C, F)` and `(B, G)`: the scaled sum, corrected."""
        return features[..., 0] * self.log_scale.exp() + self._corrections(features, of_users)

    def _corrections(self, features: torch.Tensor, of_users: torch.Tensor) -> torch.Tensor:
        ours = ((features - self.feature_mean) / self.feature_scale).clamp(-_FARTHEST, _FARTHEST)
        theirs = ((of_users - self.user_mean) / self.user_scale).clamp(-_FARTHEST, _FARTHEST)
        theirs = theirs[:, None].expand(-1, ours.shape[1], -1)
        hidden = F.silu(self.hidden(torch.cat([ours, torch.tanh(2 * ours), theirs], dim=-1)))
        return self.output(hidden).squeeze(-1)

    @torch.no_grad()
    def corrections(
        self,
        scorer: "CatalogueScorer",
        histories: torch.Tensor,
        items: torch.Tensor,
        scores: torch.Tensor,
    ) -> torch.Tensor:
        """Returns what is added to the scores of each user's best candidates `(B, C)`.

        Args:
            scorer: made the scores.
            histories: `(B, L)` indices into the catalogue, -1 at padding on the left.
            items: `(B, C)` the best candidates, of which no more than `num_candidates` are corrected.
            scores: `(B, C)` their scores, -inf where there are fewer candidates.
        """
        added, size = torch.zeros_like(scores), self.num_candidates
        items, scores = items[:, :size], scores[:, :size]
        is_one = scores > float("-inf")
        features, of_users = describe_candidates(scorer, histories, items, scores)
        corrections = self._corrections(features, of_users) / self.log_scale.exp()
        lowest = corrections.masked_fill(~is_one, float("inf")).min(dim=1, keepdim=True).values
        added[:, :size] = (corrections - lowest).masked_fill(~is_one, 0)
        return added


def describe_candidates(
    scorer: "CatalogueScorer", histories: torch.Tensor, items: torch.Tensor, scores: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns [`FEATURES`] of each user's candidates `(B, C, F)`, and [`USER_FEATURES`] `(B, G)`.

    Arguments are those of [`Reranker.corrections`]. Features of a candidate that is none are those of the worst one.
    """
    is_one, num_items = scores > float("-inf"), len(scorer.item_embeddings)
    worst = scores.masked_fill(~is_one, float("inf")).min(dim=1, keepdim=True).values
    scores = torch.where(is_one, scores, worst)
    counted, last = scorer.replace(transition_weight=1.0), histories[:, -1]
    transitions = counted.transition_scores(histories).of(items, num_items)
    dense = scores - scorer.transition_weight * transitions
    if scorer.item_scores is not None:
        dense = dense - scorer.item_scores[items]
    recent = histories[:, -RECENT_ITEMS:]
    theirs = F.normalize(scorer.item_embeddings[recent.clamp(min=0)], dim=-1)  # (B, L, D)
    ours = F.normalize(scorer.item_embeddings[items], dim=-1)  # (B, C, D)
    likeness = (ours @ theirs.transpose(1, 2)).masked_fill((recent < 0)[:, None], -1)  # (B, C, L)
    features = [
        scores,
        dense,
        transitions,
        counted.transition_scores(last[:, None]).of(items, num_items),
        likeness[..., -1],
        likeness.max(dim=-1).values,
        _popularity(scorer, items),
    ]
    length = (histories >= 0).sum(dim=1).float()
    of_users = [length.log(), transitions.mean(dim=1), dense.max(dim=1).values, _popularity(scorer, last)]
    return torch.stack(features, dim=-1), torch.stack(of_users, dim=-1)


def _popularity(scorer: "CatalogueScorer", items: torch.Tensor) -> torch.Tensor:
    """Returns the logarithm of one more than what the interactions with items count, in their shape."""
    index = scorer.in_transitions(items.cpu().numpy())
    counts = np.where(index >= 0, scorer.transitions.item_counts[index], 0)
    return torch.from_numpy(np.log1p(counts)).to(items.device, torch.float32)


def can_be_reranked(scorer: "CatalogueScorer") -> bool:
    """Returns whether a scorer has what a reranker reads: item embeddings and counted transitions."""
    return isinstance(scorer.transitions, Transitions) and scorer.item_embeddings.shape[1] > 0


def load_reranker(tensors: Mapping[str, torch.Tensor], facts: Any) -> Reranker:
    """Returns a reranker of tensors that were read from a file, and the facts that stood beside them.

    Raises:
        ValueError: if they are not those of a reranker.
    """
    sizes: Any = [facts.get(name) if isinstance(facts, dict) else None for name in ("num_candidates", "hidden_size")]
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size <= 2**16 for size in sizes):
        raise ValueError(f"num_candidates and hidden_size of the reranker must be whole numbers from 1, got {sizes}")
    reranker = Reranker(*sizes)
    shapes = {name: value.shape for name, value in reranker.state_dict().items()}
    if {name: value.shape for name, value in tensors.items()} != shapes:
        raise ValueError("the tensors of the reranker have other names or shapes than they must")
    if not all(value.is_floating_point() and value.isfinite().all() for value in tensors.values()):
        raise ValueError("the tensors of the reranker must be of finite numbers")
    reranker.load_state_dict(dict(tensors))
    return reranker.eval().requires_grad_(False)
