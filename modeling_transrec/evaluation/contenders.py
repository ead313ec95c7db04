"""Ranks targets by dense scores plus weighted sparse ones, for many weights, without adding them up for all items.

Shapes: `B` users of a block, `N` users of all blocks, `V` catalogue items, `S` kinds of sparse scores, `E` items that
have a sparse score of a user, `K` ranks that are told apart.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse
import torch

from .ranking import count


def at(scores: torch.Tensor, owner: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Returns the scores `(E,)` of users `owner` and `items`, both `(E,)`, of all scores `(B, V)`."""
    return scores.reshape(-1).index_select(0, owner * scores.shape[1] + items)


@dataclass(frozen=True)
class Entries:
    """Sparse scores of a block of users, several kinds of the same items; none is below zero.

    Args:
        owner: `(E,)` users, as indices into the block.
        items: `(E,)` indices into the catalogue.
        values: `(S, E)` scores, float32.
    """

    owner: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(
        cls,
        stored: scipy.sparse.csr_array,
        kinds: Sequence[scipy.sparse.csr_array] | None = None,
        device: torch.device | str = "cpu",
    ) -> "Entries":
        """Returns the sparse scores of the items that a matrix stores.

        Args:
            stored: `(B, V)`.
            kinds: `(B, V)` the scores, which store no other items; by default those of `stored`.
            device: where they are put.
        """
        items, owner = stored.indices, np.repeat(np.arange(stored.shape[0]), np.diff(stored.indptr))
        aligned = [
            one.data if np.array_equal(one.indices, items) else one.toarray()[owner, items]
            for one in ([stored] if kinds is None else kinds)
        ]
        values = torch.from_numpy(np.stack(aligned).astype(np.float32)).to(device)
        return cls(torch.from_numpy(owner).to(device), torch.from_numpy(items).long().to(device), values)

    def of_target(self, targets: torch.Tensor) -> torch.Tensor:
        """Returns the scores of the users' targets `(S, B)`, 0 where they have none."""
        is_target = self.items == targets.index_select(0, self.owner)
        found = self.values.new_zeros(len(self.values), len(targets))
        found[:, self.owner[is_target]] = self.values[:, is_target]
        return found


@dataclass(frozen=True)
class _Kept:
    """What is kept of users. In place of indices into a block, `owner` has indices into these users."""

    users: torch.Tensor
    own: torch.Tensor  # (B,) the target's dense score
    added: torch.Tensor  # (S, B) and its sparse scores
    best: torch.Tensor  # (B, K) dense scores of the best items that have no sparse score
    num_last: torch.Tensor  # (B,) how many of such items have the last one of them
    owner: torch.Tensor
    before: torch.Tensor  # (E,) dense scores of other items that have a sparse score
    values: torch.Tensor  # (S, E) and their sparse scores


class Contenders:
    """
    What can decide about ranks below `reach` among sums of dense scores and weighted sparse scores.

    With any weight above 0, an item is ahead of the target that is ahead by one of the two scores and not behind by
    the other. A user of whom `reach` items are ahead so is left out. A target without a sparse score is only ever
    overtaken, and its user left out where `reach` items have better dense scores. Of items without sparse scores the
    best `reach` are kept, of those with sparse scores all but those that are behind so.

    Args:
        num_users: number of users, `N`.
        reach: ranks, counted from 0, that are told apart.

    Example:

    >>> import torch
    >>> contenders = Contenders(num_users=1, reach=2)
    >>> dense = torch.tensor([[0.5, 0.4, 0.3]])
    >>> added = Entries(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([[0.1, 0.4]]))
    >>> contenders.add(torch.tensor([0]), dense, torch.tensor([2]), torch.tensor([[2], [0]]), added)
    >>> [contenders.rank(weight)[0].item() for weight in (0.0, 0.4, 1.0)]
    [2, 1, 0]
    """

    def __init__(self, num_users: int, reach: int = 10):
        self.reach = reach
        self._ranks = torch.full((2, num_users), reach)  # of the dense scores
        self._blocks: list[_Kept] = []

    def add(
        self, users: torch.Tensor, scores: torch.Tensor, targets: torch.Tensor, ranks: torch.Tensor, added: Entries
    ) -> None:
        """Takes what matters of a block of users.

        Args:
            users: `(B,)` numbers of the users. Those who are never given are taken to have a rank of at least `reach`.
            scores: `(B, V)` dense scores, -inf at items that are no candidates.
            targets: `(B,)` indices into the catalogue.
            ranks: `(2, B)`, what [`~ranking.rank_targets`] returns for the scores.
            added: the sparse scores.
        """
        self._ranks[:, users] = ranks.to(self._ranks)
        owner, items, values = added.owner, added.items, added.values
        own, of_target = scores.gather(1, targets[:, None]).squeeze(1), added.of_target(targets)
        before = at(scores, owner, items)
        by_dense, by_sparse = before - own.index_select(0, owner), values - of_target.index_select(1, owner)
        is_ahead = ((by_dense > 0) & (by_sparse >= 0)) | ((by_dense == 0) & (by_sparse > 0))
        num_ahead = torch.stack([torch.bincount(owner[one], minlength=len(users)) for one in is_ahead])
        is_out = (num_ahead >= self.reach) | ((of_target == 0) & (ranks[0] >= self.reach))
        lines = (~is_out.all(dim=0)).nonzero().squeeze(1)
        number = torch.full_like(targets, -1)
        number[lines] = torch.arange(len(lines), device=lines.device)
        owner = number.index_select(0, owner)
        rest, of_kept = scores.index_select(0, lines), owner >= 0
        rest.view(-1).index_fill_(0, (owner * rest.shape[1] + items)[of_kept], float("-inf"))
        rest.scatter_(1, targets[lines, None], float("-inf"))
        best = rest.topk(min(self.reach, rest.shape[1]), dim=1).values
        num_last = count(torch.eq, rest, best[:, -1:])
        of_kept &= ((by_dense > 0) | (by_sparse >= 0).any(dim=0)) & before.isfinite()
        place = of_kept.nonzero().squeeze(1)
        place = place[items[place] != targets[lines][owner[place]]]
        entries = owner[place], before[place], values[:, place]
        self._blocks.append(_Kept(users[lines.cpu()], own[lines], of_target[:, lines], best, num_last, *entries))
        vars(self).pop("_kept", None)

    @functools.cached_property
    def _kept(self) -> _Kept:
        """What is kept of all blocks."""
        names = [one.name for one in fields(_Kept)]
        starts = np.cumsum([0, *(len(block.users) for block in self._blocks)]).tolist()
        parts = {name: [getattr(block, name) for block in self._blocks] for name in names}
        parts["owner"] = [start + owner for start, owner in zip(starts, parts["owner"], strict=False)]
        return _Kept(*(torch.cat(parts[name], dim=-1 if name in ("added", "values") else 0) for name in names))

    def rank(self, weight: float, kind: int = 0) -> torch.Tensor:
        """Returns how many items score better than the target and how many others the same `(2, N)`, on the CPU.

        They are exact where fewer than `reach` are better; elsewhere the first is at least `reach`.

        Args:
            weight: of the sparse scores, at least 0.
            kind: number of the sparse scores.
        """
        if weight == 0 or not self._blocks:
            return self._ranks
        kept = self._kept
        bound = torch.add(kept.own, kept.added[kind], alpha=weight)
        after, bound_of = torch.add(kept.before, kept.values[kind], alpha=weight), bound.index_select(0, kept.owner)
        better, tied = (
            torch.bincount(kept.owner[is_one], minlength=len(bound))
            for is_one in (after > bound_of, after == bound_of)
        )
        better += (kept.best > bound[:, None]).sum(dim=1)
        tied += torch.where(bound == kept.best[:, -1], kept.num_last, (kept.best == bound[:, None]).sum(dim=1))
        ranks = torch.full_like(self._ranks, self.reach)
        ranks[:, kept.users] = torch.stack([better, tied]).to(ranks)
        return ranks
