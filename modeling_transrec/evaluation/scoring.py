"""Scores users against a whole catalogue. Nothing loops over users.

[`CatalogueScorer`] is the one place where users meet the catalogue: the evaluator and the recommender use it, so that
what is measured is what is served.

Shapes: `B` users, `L` history length, `V` catalogue items, `S` seen items, `D` hidden size, `K` cut-off.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse
import torch

from ..data.growing import GrowingRows
from ..models.batch import UserInputs
from ..models.histories import gather_histories
from ..models.pretrained_model import TransRecPreTrainedModel
from .encoding import evaluation_mode
from .ranking import best_of, check_finite, is_among, top_items
from .reranker import Reranker


# Maps histories as indices into the catalogue (B, L), -1 at padding on the left, and users as indices into the split
# (B,) to scores (B, V).
Scorer = Callable[[torch.Tensor, np.ndarray], torch.Tensor]

USERS_AT_A_TIME = 256
MAX_SCORES = 2**26  # of one block of users and the whole catalogue: 256 MB in float32
_RARE = 1 / 16  # where fewer are candidates, all are looked at, whatever finds the nearest items else
SCORES_AT_A_TIME = 2**22  # of one block of users and a part of the catalogue, where only the best are kept


class SparseScores(Protocol):
    """Scores of a few items for each user that are added to those of a model: a platform's [`Transitions`].

    It has scores for the first `len` items of the catalogue; items that are added later get none.
    """

    def __len__(self) -> int: ...

    def scores(self, histories: np.ndarray) -> scipy.sparse.csr_array:
        """Returns the scores `(B, len)` of whole histories `(B, L)` of indices into the catalogue."""

    def aligned(self, item_ids: Sequence[str]) -> "SparseScores":
        """Returns the scores of another catalogue: of its items that these scores know."""


class NearestItems(Protocol):
    """Finds the candidates of highest dot product without looking at all of them, such as an index of FAISS.

    It has the first `len` items of the catalogue; all of those that are added later are looked at.

    Attributes:
        finds_candidates: whether it leaves out what is no candidate by itself, so that few candidates are found as
            fast as many.
    """

    finds_candidates: bool

    def __len__(self) -> int: ...

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns scores and indices into the catalogue, `(B, K)`.

        An index is -1 where there are fewer than `k`, and -2 for an item that this catalogue does not have.
        """


class CatalogueScorer:
    r"""
    Scores users against a catalogue. A scorer never changes (another catalogue is another scorer), so that threads
    can share it.

    Histories are given as indices into the catalogue `(B, L)`, padded with -1 on the left. A score is the dot product
    of the user embedding and the item embedding, each mapped by `model.to_scoring_space`; or, with
    a `user_mean`, their centred cosine, see [`center`]. The item's own `item_scores`, and `transition_weight` times
    the score of the transitions, are added where they are given.

    Args:
        model: TransRec model with or without head, or another module with its `config.max_seq_len`, `device`, `dtype`,
            `get_user_features` and `to_scoring_space`. It encodes users without dropout, whatever mode it is in.
        item_embeddings: `(V, D)` of the catalogue, float32, see [`encode_catalogue`].
        user_mean: `(D,)` mean embedding of users of the platform; scores are then centred cosines.
        item_mean: `(D,)` mean item embedding to centre by; that of `item_embeddings` by default.
        item_scores: `(V,)` added for every user, such as weighted log popularity; items added later get 0.
        transitions: [`SparseScores`] of the catalogue's items.
        transition_index: `(V,)` index of each item in the transitions; by default that in the catalogue.
        transition_weight: factor of the transitions' scores.
        nearest: [`NearestItems`] among the `candidates`, with which `top_k` searches; exact if its search is exact.
            For users of whom it finds fewer than `k` items although more are left, `top_k` looks at all.
        reranker: [`Reranker`] of each user's best items, which [`top_k`] and [`scores_of`] apply.
        autocast: makes the context under which users are encoded, such as `accelerator.autocast`; scores are float32.
        room: number of items that can be added without copying the others.

    Attributes:
        candidates: `(V, D)`, whose dot products with [`queries`] are the scores without transitions; prepared once.

    Example:

    >>> import torch
    >>> from modeling_transrec import TransRecConfig, TransRecModel
    >>> model = TransRecModel(TransRecConfig(num_items=4, hidden_size=2, num_attention_heads=1))
    >>> scorer = CatalogueScorer(model, item_embeddings=torch.eye(4)[:, :2])
    >>> histories = torch.tensor([[-1, 0], [3, 2]])
    >>> scorer.scores(histories).shape
    torch.Size([2, 4])
    >>> scores, catalogue_index = scorer.top_k(histories, k=3)  # of the second user, only two items are unseen
    >>> catalogue_index.shape, scores[1, 2]
    (torch.Size([2, 3]), tensor(-inf))
    """

    def __init__(
        self,
        model: TransRecPreTrainedModel,
        item_embeddings: torch.Tensor,
        *,
        user_mean: torch.Tensor | None = None,
        item_mean: torch.Tensor | None = None,
        item_scores: torch.Tensor | None = None,
        transitions: SparseScores | None = None,
        transition_index: np.ndarray | None = None,
        transition_weight: float = 1.0,
        nearest: NearestItems | None = None,
        reranker: Reranker | None = None,
        autocast: Callable = contextlib.nullcontext,
        room: int = 0,
    ):
        self.model = model
        self.user_mean = user_mean
        self.item_mean = item_embeddings.mean(dim=0) if item_mean is None and user_mean is not None else item_mean
        self.item_scores = item_scores
        self.transitions: Any = transitions  # callers may use methods of Transitions
        self.transition_index = transition_index
        self.transition_weight = transition_weight
        self.nearest = nearest
        self.reranker = reranker
        self.autocast = autocast
        self.room = room
        self._item_embeddings = GrowingRows(item_embeddings, room)
        candidates = self._as_candidates(self.item_embeddings, item_scores)
        is_same = candidates is self.item_embeddings
        self._candidates = self._item_embeddings if is_same else GrowingRows(candidates, room)

    @property
    def item_embeddings(self) -> torch.Tensor:
        return self._item_embeddings.rows

    @property
    def candidates(self) -> torch.Tensor:
        return self._candidates.rows

    def replace(self, **changes) -> "CatalogueScorer":
        """Returns a scorer with other arguments; the catalogue is prepared anew only if they affect it."""
        if set(changes) <= {"transitions", "transition_index", "transition_weight", "nearest", "reranker", "autocast"}:
            other = copy.copy(self)
            vars(other).update(changes)
            return other
        names = ("model", "item_embeddings", "user_mean", "item_mean", "item_scores", "autocast", "room")
        counts = ("transitions", "transition_index", "transition_weight", "reranker")
        arguments = {name: getattr(self, name) for name in (*names, *counts)}
        return CatalogueScorer(**{**arguments, **changes})

    def with_items(self, item_embeddings: torch.Tensor) -> "CatalogueScorer":
        """Returns a scorer of this catalogue and more items `(N, D)`, which get the next indices.

        Only the new items are prepared, and centred by the mean that the scorer has.
        """
        other = copy.copy(self)
        item_scores = None
        if self.item_scores is not None:
            item_scores = self.item_scores.new_zeros(len(item_embeddings))
            other.item_scores = torch.cat([self.item_scores, item_scores])
        other._item_embeddings = self._item_embeddings.grown(item_embeddings)
        if self._candidates is self._item_embeddings:
            other._candidates = other._item_embeddings
        else:
            other._candidates = self._candidates.grown(self._as_candidates(item_embeddings, item_scores))
        return other

    @torch.no_grad()
    def _as_candidates(self, item_embeddings: torch.Tensor, item_scores: torch.Tensor | None) -> torch.Tensor:
        """Returns item embeddings `(V, D)` as candidates; an item's own score is one more dimension of it."""
        candidates = self._to_scoring_space(item_embeddings, self.item_mean)
        if item_scores is not None:
            candidates = torch.cat([candidates, item_scores[:, None]], dim=1)
        check_finite(candidates)
        return candidates

    def _to_scoring_space(self, embeddings: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor:
        if self.user_mean is None or mean is None:
            return self.model.to_scoring_space(embeddings)
        return center(embeddings, mean)

    @torch.no_grad()
    def encode_users(self, histories: torch.Tensor, user_inputs: UserInputs | None = None) -> torch.Tensor:
        """Encodes histories to user embeddings `(B, D)`, float32, on the catalogue's device.

        Args:
            histories: `(B, L)` indices into the catalogue, -1 at padding on the left.
            user_inputs: of the users, for a model that reads their ids (DSSM) or times (HSTU).
        """
        model, device, of_model = self.model, self.item_embeddings.device, self.model.device
        recent = histories[:, -model.config.max_seq_len :].to(device)
        item_embeddings, mask = gather_histories(self.item_embeddings, recent)  # (B, L, D), (B, L)
        inputs = [item_embeddings.to(of_model, model.dtype), mask.to(of_model)]
        known = {} if user_inputs is None else user_inputs.arguments(recent.shape[1], of_model)
        with evaluation_mode(model), self.autocast():
            return model.get_user_features(*inputs, **known).float().to(device)

    @torch.no_grad()
    def queries(self, histories: torch.Tensor, user_inputs: UserInputs | None = None) -> torch.Tensor:
        """Returns vectors `(B, D)` whose dot products with the `candidates` are the scores without transitions."""
        queries = self._to_scoring_space(self.encode_users(histories, user_inputs), self.user_mean)
        check_finite(queries)
        return queries if self.item_scores is None else torch.nn.functional.pad(queries, (0, 1), value=1.0)

    def scores(self, histories: torch.Tensor, user_inputs: UserInputs | None = None) -> torch.Tensor:
        """Returns the scores of all items `(B, V)`, not re-ranked, which the caller may change in place; see above."""
        scores = dot_products(self.queries(histories, user_inputs), self.candidates)
        self.transition_scores(histories).add_to(scores)
        return scores

    @torch.no_grad()
    def scores_of(
        self,
        histories: torch.Tensor,
        candidates: torch.Tensor,
        user_inputs: UserInputs | None = None,
        is_candidate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the scores of candidates `(B, C)`, indices into the catalogue; other arguments as above.

        No other item is scored, unless there is a reranker: it reads the best for which `is_candidate` is true.
        """
        queries = self.queries(histories, user_inputs)
        blocks = user_blocks(len(queries), candidates.shape[1] * queries.shape[1])
        products = [torch.einsum("bd,bcd->bc", queries[block], self.candidates[candidates[block]]) for block in blocks]
        scores = torch.cat(products) + self.transition_scores(histories).of(candidates, len(self.candidates))
        if self.reranker is None:
            return scores
        histories = histories.to(scores.device)
        best, items = self._find_best(histories, self.reranker.num_candidates, True, is_candidate, user_inputs)
        added = self.reranker.corrections(self, histories, items, best)
        users = torch.arange(len(items), device=items.device)[:, None].expand_as(items)
        return scores + FewScores(users.flatten(), items.flatten(), added.flatten()).of(
            candidates, len(self.candidates)
        )

    def in_transitions(self, catalogue_index: np.ndarray) -> np.ndarray:
        """Returns the indices of items in the transitions, -1 where they lack one or there is none."""
        if self.transition_index is None:
            return np.where(catalogue_index < len(self.transitions), catalogue_index, -1)
        return np.where(catalogue_index >= 0, self.transition_index[catalogue_index], -1)

    def transition_scores(self, histories: torch.Tensor) -> "FewScores":
        """Returns the weighted scores of the transitions that are not zero."""
        if self.transitions is None:
            none = histories.new_empty(0)
            return FewScores(none, none, none.to(torch.float32))
        added = self.transitions.scores(self.in_transitions(histories.cpu().numpy()))
        users, items = np.repeat(np.arange(len(histories)), np.diff(added.indptr)), added.indices
        if self.transition_index is not None:
            catalogue_index = np.zeros(len(self.transitions), np.int64)
            catalogue_index[self.transition_index] = np.arange(len(self.transition_index))  # of an item its last index
            items = catalogue_index[items]
        values = (self.transition_weight * torch.from_numpy(added.data)).float()
        parts = (torch.from_numpy(users), torch.from_numpy(items).long(), values)
        return FewScores(*(part.to(self.item_embeddings.device) for part in parts))

    def top_k(
        self,
        histories: torch.Tensor,
        k: int,
        exclude_seen: bool = True,
        is_candidate: torch.Tensor | None = None,
        user_inputs: UserInputs | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the `k` best items of each user, best first; of items with the same score the first in the catalogue.

        A block of users and a part of the catalogue are scored at a time, in bounded memory.

        Args:
            histories: `(B, L)` indices into the catalogue, -1 at padding on the left.
            k: number of items.
            exclude_seen: whether items of the history are left out.
            is_candidate: `(V,)` booleans; items for which it is false are left out for everybody.
            user_inputs: as in [`encode_users`].

        Returns: scores and indices into the catalogue, both `(B, min(k, V))`; where fewer candidates are left, the
        rest has score -inf.
        """
        if self.reranker is None:
            return self._find_best(histories, k, exclude_seen, is_candidate, user_inputs)
        wanted = max(k, self.reranker.num_candidates)
        scores, index = self._find_best(histories, wanted, exclude_seen, is_candidate, user_inputs)
        scores += self.reranker.corrections(self, histories.to(scores.device), index, scores)
        return best_of(scores, index, k)

    def _find_best(
        self,
        histories: torch.Tensor,
        k: int,
        exclude_seen: bool,
        is_candidate: torch.Tensor | None,
        user_inputs: UserInputs | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what [`top_k`] does without re-ranking."""
        k = min(k, len(self.item_embeddings))
        num_candidates = len(self.candidates) if is_candidate is None else int(is_candidate.sum())
        is_rare = num_candidates < _RARE * len(self.candidates)
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for block in user_blocks(len(histories)):
            users = histories[block].to(self.item_embeddings.device)
            queries = self.queries(users, None if user_inputs is None else user_inputs[block])
            wanted = _Wanted(queries, k, users if exclude_seen else users[:, :0], self.transition_scores(users))
            if self.nearest is None or (is_rare and not self.nearest.finds_candidates):
                found.append(self._search_whole(wanted, is_candidate))
                continue
            best = self._search_nearest(wanted, is_candidate)
            if len(self.nearest) < len(self.candidates):  # items were added since
                best = _best_of_parts([best, self._search_whole(wanted, is_candidate, first=len(self.nearest))], k)
            too_few = (best[0] > float("-inf")).sum(dim=1) < min(k, num_candidates)
            if too_few.any():
                missing = too_few.nonzero()[:, 0]
                whole = self._search_whole(wanted.of(missing), is_candidate)
                for part, values in zip(best, whole, strict=True):
                    part[missing] = values
            found.append(best)
        return torch.cat([scores for scores, _ in found]), torch.cat([index for _, index in found])

    def _search_whole(
        self, wanted: "_Wanted", is_candidate: torch.Tensor | None, first: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the best of all items from the index `first` on."""
        queries, k, seen, added = wanted
        changes, num_items = FewScores.leaving_out(seen), len(self.candidates)
        if len(added.items):
            changes = added.and_others(changes)
        best: list[tuple[torch.Tensor, torch.Tensor]] = []
        size = max(1, SCORES_AT_A_TIME // len(queries))
        for start in range(first, num_items, size):
            stop = min(start + size, num_items)
            scores = dot_products(queries, self.candidates[start:stop])
            (changes if stop - start == num_items else changes.between(start, stop)).add_to(scores)
            if is_candidate is not None:
                out = ~is_candidate[start:stop]
                if 8 * out.sum() > len(out):
                    scores.masked_fill_(out, float("-inf"))
                else:  # of few, which is faster
                    scores.index_fill_(1, out.nonzero()[:, 0], float("-inf"))
            found, column = top_items(scores, k)
            part = (found, column + start) if start else (found, column)
            best = [_best_of_parts([*best, part], k) if best else part]
        return best[0]

    def _search_nearest(
        self, wanted: "_Wanted", is_candidate: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Finds the best items among the nearest ones and those that have transitions.

        This is exact for transitions that are not negative: an item without them is among the best of the sum only if
        it is among the nearest `k` that are left without those that are seen, have transitions or are no candidates.
        """
        nearest: Any = self.nearest
        queries, k, seen, added = wanted
        known, known_scores = added.between(0, len(nearest)).by_user(len(queries))  # (B, M)
        known_scores += torch.einsum("bd,bmd->bm", queries, self.candidates[known.clamp(min=0)])
        count = min(k + seen.shape[1] + known.shape[1], len(nearest))
        while True:
            scores, items = nearest.search(queries, count)  # (B, C)
            left_out = (items < 0) | is_among(items, seen) | is_among(items, known)
            if is_candidate is not None:
                left_out |= ~is_candidate[items]
            is_enough = ((~left_out).sum(dim=1) >= k) | (items == -1).any(dim=1)
            if count == len(nearest) or is_enough.all():
                break
            count = min(2 * count, len(nearest))  # too many of them are no candidates
        known_left_out = (known < 0) | is_among(known, seen)
        if is_candidate is not None:
            known_left_out |= ~is_candidate[known]
        parts = [(scores, left_out, items), (known_scores, known_left_out, known)]
        return _best_of_parts([(part.masked_fill(out, float("-inf")), index) for part, out, index in parts], k)


class FewScores(NamedTuple):
    """Scores of a few items for each user, which are added to those of all: users, items and values, each `(E,)`."""

    users: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor

    @classmethod
    def leaving_out(cls, items: torch.Tensor) -> "FewScores":
        """Returns -inf for each user's items `(B, S)`, -1 at padding."""
        users, column = (items >= 0).nonzero(as_tuple=True)
        return cls(users, items[users, column], torch.full(users.shape, float("-inf"), device=items.device))

    def and_others(self, others: "FewScores") -> "FewScores":
        return FewScores(*(torch.cat(parts) for parts in zip(self, others, strict=True)))

    def between(self, start: int, stop: int) -> "FewScores":
        """Returns the scores of the items from `start` to before `stop`, which are counted from 0."""
        chosen = (self.items >= start) & (self.items < stop)
        return FewScores(self.users[chosen], self.items[chosen] - start, self.values[chosen])

    def in_parts(self, starts: torch.Tensor, width: int) -> "Iterator[FewScores]":
        """Yields the scores of each part of the catalogue, whose items are counted from its start.

        Args:
            starts: `(P,)` index of the first item of each part, ascending; parts may overlap.
            width: number of items of each part.
        """
        order = self.items.argsort(stable=True)
        users, items, values = (part[order] for part in self)
        bounds = torch.searchsorted(items, torch.stack([starts, starts + width])).T.tolist()
        for start, (first, last) in zip(starts.tolist(), bounds, strict=True):
            yield FewScores(users[first:last], items[first:last] - start, values[first:last])

    def add_to(self, scores: torch.Tensor) -> None:
        """Adds them to the scores `(B, V)` in place."""
        scores.index_put_((self.users, self.items), self.values, accumulate=True)

    def of(self, items: torch.Tensor, num_items: int) -> torch.Tensor:
        """Returns the scores of each user's items `(B, C)` of so many in all, 0 where there is none."""
        keys, order = (self.users * num_items + self.items).sort()
        users = torch.arange(len(items), device=items.device)[:, None]
        place = torch.searchsorted(keys, users * num_items + items)
        keys, values = torch.nn.functional.pad(keys, (0, 1), value=-1), self.values[order]
        is_found = keys[place] == users * num_items + items
        return torch.nn.functional.pad(values, (0, 1))[place] * is_found

    def by_user(self, num_users: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns each user's items and values `(B, M)`; users must come in order. The rest is -1 and 0."""
        counts = torch.bincount(self.users, minlength=num_users)
        column = torch.arange(len(self.users), device=counts.device) - (counts.cumsum(0) - counts)[self.users]
        items = counts.new_full((num_users, int(counts.max())), -1)
        values = self.values.new_zeros(items.shape)
        items[self.users, column], values[self.users, column] = self.items, self.values
        return items, values


class _Wanted(NamedTuple):
    """What is searched for a block of users: vectors `(B, D)`, how many items, seen items `(B, S)`, other scores."""

    queries: torch.Tensor
    k: int
    seen: torch.Tensor
    added: FewScores

    def of(self, users: torch.Tensor) -> "_Wanted":
        """Returns what is searched for some users `(M,)`, in ascending order."""
        chosen = torch.isin(self.added.users, users)
        numbers = torch.searchsorted(users, self.added.users[chosen])
        added = FewScores(numbers, self.added.items[chosen], self.added.values[chosen])
        return _Wanted(self.queries[users], self.k, self.seen[users], added)


def _best_of_parts(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the best of what was found in parts: scores and indices into the catalogue."""
    scores, index = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    return best_of(scores, index, k)


@torch.no_grad()
def dot_products(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Returns the products `(B, V)` of vectors `(B, D)` and `(V, D)`.

    On a CPU each line begins at a multiple of 64 bytes, behind unused room: where `V` is odd, the product is then up
    to 2.7 times as fast.
    """
    if queries.device.type != "cpu":
        return queries @ candidates.T
    padded = queries.new_empty(len(queries), -(-len(candidates) // 16) * 16)
    return torch.mm(queries, candidates.T, out=padded[:, : len(candidates)])


def user_blocks(num_users: int, num_items: int = 1, size: int = USERS_AT_A_TIME) -> Iterator[slice]:
    """Divides users into blocks of `size`, or of fewer where their scores of `num_items` would be too many for memory.

    >>> [(block.start, block.stop) for block in user_blocks(5, num_items=10, size=2)]
    [(0, 2), (2, 4), (4, 6)]
    >>> [block.stop for block in user_blocks(100, num_items=1_000_000)]
    [67, 134]
    """
    size = max(1, min(size, MAX_SCORES // max(num_items, 1)))
    return (slice(start, start + size) for start in range(0, num_users, size))


def center(embeddings: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Subtracts the mean `(D,)` from embeddings `(N, D)` and normalises them: their products are centred cosines.

    On a catalogue that a model has not seen, the embeddings share a large common part, and the model's own scores rank
    the same few items first for everybody. Centring users by the mean over users of the same platform, and items by
    the mean over the catalogue, removes that part (Suzuki et al., "Centering Similarity Measures to Reduce Hubs",
    EMNLP 2013).
    """
    return torch.nn.functional.normalize(embeddings - mean, dim=1)
