"""Full-ranking evaluation: every catalogue item is ranked for every user.

Works on any loaded checkpoint, and on anything that scores histories, such as the baselines.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..data.cache import items_digest
from ..data.collator import hash_integers
from ..data.loading import (
    NO_TARGET,
    as_ids,
    check_timestamps,
    history_lengths,
    index_histories,
    read_blocks,
    read_histories,
    read_timestamps,
)
from ..data.preparation import PreparedItems, prepare_items
from ..models.batch import UserInputs
from ..models.configuration_transrec import TransRecConfig
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..ninerec.protocol import split_protocol
from .encoding import encode_catalogue, evaluation_mode, kept_statistics, with_whole_weights
from .groups import groups_of_users
from .metrics import DEFAULT_METRICS, METRICS, Rankings, ranking_metrics
from .observation import Observation
from .parts import rank_in_parts
from .ranking import list_items, rank_targets, remove_seen, top_items
from .ranks import check_same_on_all
from .scoring import CatalogueScorer, Scorer, user_blocks


# Sees histories (B, L), users (B,), scores (B, V) and ranks (2, B) of a block, see `FullRankingEvaluator.evaluate`.
Observer = Callable[[torch.Tensor, np.ndarray, torch.Tensor, torch.Tensor], None]


class FullRankingEvaluator:
    r"""
    Evaluates a model on one split, all catalogue items ranked for every user: HR@K, NDCG@K, MRR, and more if asked.

    Three ways in: call it with a model and its processor; give [`rank`] a scorer of the catalogue; give [`evaluate`]
    any function of histories. Items of the history are excluded, except the target. Tied scores count with the
    expected metric over a random order of the ties. On several processes the work is shared, and the numbers are those
    of one process.

    Args:
        items (`datasets.Dataset`): the catalogue, columns `item_id` and what the processor reads.
        sequences (`datasets.Dataset`): columns `item_ids` (history) and `target`.
        ks (`Sequence[int]`, defaults to `(5, 10, 20)`): cut-offs.
        exclude_seen (`bool`, defaults to `True`): whether items of the history are no candidates.
        batch_size (`int`, defaults to 256): users scored at a time.
        item_batch_size (`int`, defaults to 256): items encoded at a time.
        split (`str`, *optional*): name of the split, stored in the protocol.
        prepared_items (*optional*): the items as the processor prepares them, where that is done already.
        center_scores (`bool`, defaults to `False`):
            Whether scores are centred cosines, by the means over the split's users and over the catalogue, in place of
            the model's own scores: for zero-shot, see [`~scoring.center`].
        metrics (`Sequence[str]`, defaults to `("hr", "ndcg", "mrr")`): keys of [`~metrics.METRICS`].
        item_counts (`np.ndarray` of shape `(V,)`, *optional*):
            Training interactions with each item, which `coverage`, `novelty`, `popularity_bias` and `calibration`
            need.
        item_features (`torch.Tensor` of shape `(V, H)`, *optional*):
            Vectors of the items' content, zeros where an item has none, which `diversity` needs, see
            [`~features.Content`].

    Example:

    >>> import datasets
    >>> from modeling_transrec import FullRankingEvaluator
    >>> items = datasets.Dataset.from_dict({"item_id": ["a", "b", "c", "d"]})
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a"], ["b"]], "target": ["b", "d"]})
    >>> evaluator = FullRankingEvaluator(items, sequences, ks=[1])
    >>> popularity = torch.tensor([3.0, 2.0, 1.0, 0.0])
    >>> evaluator.evaluate(lambda histories, users: popularity.repeat(len(users), 1))
    {'hr@1': 0.5, 'ndcg@1': 0.5, 'mrr': 0.667}
    """

    primary_metric = "hr@10"
    greater_is_better = True

    def __init__(
        self,
        items: datasets.Dataset,
        sequences: datasets.Dataset,
        ks: Sequence[int] = (5, 10, 20),
        exclude_seen: bool = True,
        batch_size: int = 256,
        item_batch_size: int = 256,
        split: str | None = None,
        prepared_items: PreparedItems | None = None,
        center_scores: bool = False,
        metrics: Sequence[str] = DEFAULT_METRICS,
        item_counts: np.ndarray | None = None,
        item_features: torch.Tensor | None = None,
    ):
        self.items = items
        self.sequences = sequences
        self.ks = tuple(sorted(set(ks)))
        if not self.ks or self.ks[0] < 1:
            raise ValueError(f"ks must be cut-offs of at least 1, got {list(ks)}")
        self.exclude_seen = exclude_seen
        self.batch_size = batch_size
        self.item_batch_size = item_batch_size
        self.split = split
        if len(sequences) == 0:
            raise ValueError("there are no users to evaluate: the split is empty")
        self.histories = index_histories(sequences, items["item_id"][:])
        self._only_histories = self.histories.select_columns("history").with_format("arrow")
        self.lengths = history_lengths(self.histories)
        self.targets = np.asarray(self.histories.with_format("numpy")["target"][:])
        if (self.targets == NO_TARGET).any():
            raise ValueError("a user to evaluate has no target; evaluate on the validation or test split")
        if (self.lengths == 0).any():
            raise ValueError("a user to evaluate has an empty history; leave such users out")
        self.prepared_items = prepared_items
        self._is_compared = False  # with the other processes
        self.center_scores = center_scores
        unknown = [name for name in metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"unknown metrics {', '.join(unknown)}; there are {', '.join(METRICS)}")
        self.metrics = tuple(metrics)
        self.item_counts = item_counts
        self.item_features = item_features
        self._needs_lists = any(METRICS[name].needs_lists for name in metrics)
        self._check_needs("item_counts", f"the training interactions with each of the {len(items)} items")
        self._check_needs("item_features", f"a vector of the content of each of the {len(items)} items")

    def _check_needs(self, field: str, what: str) -> None:
        """Raises `ValueError` if a metric reads what is not given, or not given of each item."""
        names = [name for name in self.metrics if field in METRICS[name].needs]
        if names and np.shape(getattr(self, field))[:1] != (len(self.items),):
            raise ValueError(f"{', '.join(names)}: give {field}, {what}")

    @property
    def protocol(self) -> dict:
        """Returns the evaluation protocol, which is stored and published with the metrics."""
        return {
            "split": self.split,
            "fingerprint": self.fingerprint,
            "data": split_protocol(self.sequences),
            "num_users": len(self.targets),
            "num_candidates": len(self.items),
            **self._rules,
            "ks": list(self.ks),
        }

    @property
    def _rules(self) -> dict[str, str]:
        return {
            "ranking": "full: every catalogue item is a candidate",
            "seen_items": "excluded, except the target" if self.exclude_seen else "candidates",
            "scores": "centered cosine" if self.center_scores else "the model's own",
            "ties": "expected value over a random order",
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Returns a hash of candidates, histories, targets and rules; equal hashes mean comparable metrics.

        The rules are whether seen items are candidates, what scores are, and how ties count. The order of users and
        items and the users' ids do not matter.
        """
        item_hashes = self.item_hashes
        totals: list = [len(self.targets), len(self.items)]
        for seed in (0, 1):
            total = int(hash_integers(item_hashes[:, None], seed=[seed]).sum())
            for start in range(0, len(self.targets), 10_000):
                users = np.arange(start, min(start + 10_000, len(self.targets)))
                rows = read_histories(self.histories, users)
                from_end = np.arange(rows.shape[1], 0, -1, dtype=np.uint64)
                keys = np.stack(np.broadcast_arrays(item_hashes[rows], from_end), axis=-1)
                histories = np.where(rows >= 0, hash_integers(keys, seed=[seed]), np.uint64(0)).sum(axis=1)
                pairs = np.stack([histories, item_hashes[self.targets[users]]], axis=-1)
                total += int(hash_integers(pairs, seed=[seed]).sum())
            totals.append(total % 2**64)
        totals.append(sorted(self._rules.items()))
        return hashlib.sha256(repr(totals).encode()).hexdigest()[:16]

    @functools.cached_property
    def item_hashes(self) -> np.ndarray:
        """Hashes of the items' ids `(V,)`."""
        item_ids = as_ids(self.items["item_id"][:]).to_pylist()
        ids = (hashlib.sha256(item_id.encode()).digest()[:8] for item_id in item_ids)
        return np.frombuffer(b"".join(ids), dtype=np.uint64)

    def check_same_on_ranks(self) -> None:
        """Raises `ValueError` on every process unless all of them rank the same items for the same users."""
        if self._is_compared or PartialState().num_processes == 1:
            return
        plain = [name for name, feature in self.items.features.items() if isinstance(feature, datasets.Value)]
        users = hashlib.sha256(self.targets.tobytes()).hexdigest()  # in their order, by which they are divided
        facts = {"users": users, "histories": self.fingerprint, "items": items_digest(self.items, plain)}
        check_same_on_all({**facts, "options": [self.batch_size, self.item_batch_size, *self.ks]}, "evaluation")
        self._is_compared = True

    @torch.no_grad()
    def __call__(
        self, model: TransRecPreTrainedModel, processor: TransRecProcessor, autocast=contextlib.nullcontext
    ) -> dict[str, float]:
        """Returns the metrics of a model: `{"hr@10": …, "ndcg@10": …, "mrr": …}`.

        Args:
            model: TransRec model with or without head; evaluated in evaluation mode and left as it was.
            processor: the model's processor.
            autocast: makes the context under which items and users are encoded, such as `accelerator.autocast`; scores
                are always float32.
        """
        with evaluation_mode(model):
            scorer = self.build_scorer(model, processor, autocast)
            return self.rank(scorer, self.user_inputs(processor, model.config))

    def build_scorer(
        self, model: TransRecPreTrainedModel, processor: TransRecProcessor, autocast=contextlib.nullcontext
    ) -> CatalogueScorer:
        """Encodes the catalogue for a model, with all processes together; arguments as in a call."""
        model = with_whole_weights(model)
        scorer = CatalogueScorer(model, self.encode(model, processor, autocast), autocast=autocast)
        if self.center_scores:
            scorer = scorer.replace(user_mean=self.mean_user(scorer, self.user_inputs(processor, model.config)))
        return scorer

    def rank(
        self, scorer: CatalogueScorer, user_inputs: UserInputs | None = None, observe: Observer | None = None
    ) -> dict[str, float]:
        """Returns the metrics of a scorer of this catalogue.

        Args:
            scorer: scores the items in the order of `items`.
            user_inputs: of each user of the split, see [`user_inputs`].
            observe: called after each block of users, see [`evaluate`].

        On a CPU, scores are made and compared in parts of the catalogue, and kept only if something else reads them: a
        metric of lists, `observe`, unless it is an [`Observation`] of losses, or a subclass that changes scores.
        """
        device = scorer.item_embeddings.device

        def of_users(users: np.ndarray) -> UserInputs | None:
            return None if user_inputs is None else user_inputs[users]

        def score(histories: torch.Tensor, users: np.ndarray) -> torch.Tensor:
            scores = self.scores(scorer, histories, users, of_users(users))
            return scores if scorer.reranker is None else self._rerank(scorer, scores, histories, users)

        def rank_block(histories: torch.Tensor, users: np.ndarray) -> torch.Tensor:
            targets = torch.from_numpy(self.targets[users]).long()
            found = rank_in_parts(scorer, histories, targets, self.exclude_seen, of_users(users))
            if isinstance(observe, Observation):
                observe.add(users, found.losses)
            return torch.stack([found.num_better, found.num_equal], dim=1)

        reads_scores = observe is not None and not (isinstance(observe, Observation) and observe.preprocess is None)
        changes_scores = (
            type(self).scores is not FullRankingEvaluator.scores or type(scorer).scores is not CatalogueScorer.scores
        )
        is_reranked = scorer.reranker is not None
        if device.type != "cpu" or reads_scores or changes_scores or is_reranked or self._needs_lists:
            return self.evaluate(score, device, observe)
        return self._metrics_of(rank_block, self.batches(device, keeps_scores=False))

    def _rerank(
        self, scorer: CatalogueScorer, scores: torch.Tensor, histories: torch.Tensor, users: np.ndarray
    ) -> torch.Tensor:
        """Returns the scores `(B, V)`, changed in place, of which each user's best candidates are re-ranked."""
        reranker: Any = scorer.reranker
        if self.exclude_seen:
            remove_seen(scores, histories, keep=torch.from_numpy(self.targets[users]).long().to(scores.device))
        best, items = top_items(scores, min(reranker.num_candidates, scores.shape[1]))
        return scores.scatter_add_(1, items, reranker.corrections(scorer, histories, items, best))

    def scores(
        self, scorer: CatalogueScorer, histories: torch.Tensor, users: np.ndarray, inputs: UserInputs | None
    ) -> torch.Tensor:
        """Returns a scorer's scores `(B, V)` for histories `(B, L)`; a hook for subclasses that change scores.

        Args:
            scorer: scores the catalogue.
            histories: `(B, L)` indices into the catalogue.
            users: `(B,)` indices into the split, not read here: a subclass may have something of each user.
            inputs: what the model reads of the users beside their items.
        """
        return scorer.scores(histories, inputs)

    def user_inputs(self, processor: TransRecProcessor, config: TransRecConfig) -> UserInputs | None:
        """Returns what a model reads of the split's users beside their items, where it does.

        Args:
            processor: the model's, which knows the users of a table of user ids (DSSM).
            config: the model's, which says whether times are read (HSTU).
        """
        user_ids = timestamps = None
        if processor.user_ids is not None:
            user_ids = torch.tensor(processor.user_index(self.sequences["user_id"]))
        if config.reads_timestamps:
            check_timestamps(self.sequences, config.user_encoder_type)
            users = np.arange(len(self.sequences))
            timestamps = torch.from_numpy(read_timestamps(self.sequences, users, config.max_seq_len))
        return None if user_ids is timestamps is None else UserInputs(user_ids, timestamps)

    @torch.no_grad()
    def encode(
        self, model: TransRecPreTrainedModel, processor: TransRecProcessor, autocast=contextlib.nullcontext
    ) -> torch.Tensor:
        """Returns the catalogue's item embeddings `(V, D)`, encoded by all processes together."""
        self.check_same_on_ranks()
        prepared = self.prepared_items
        if prepared is None:
            prepared = prepare_items(self.items, processor)
        with autocast(), kept_statistics(model):
            return encode_catalogue(model, prepared, processor, self.item_batch_size, in_shares=True)

    @torch.no_grad()
    def evaluate(
        self,
        score: Scorer,
        device: torch.device | str = "cpu",
        observe: Observer | None = None,
    ) -> dict[str, float]:
        """Returns the metrics of anything that scores histories, such as one of the baselines.

        Args:
            score: called with histories `(B, L)` as indices into the catalogue, -1 at padding on the left, and users
                `(B,)` as indices into the split; returns scores `(B, V)`, which are changed in place.
            device: the histories' device.
            observe: called after each block with histories, users, scores, of which those of items that are no
                candidates are -inf by then, and ranks `(2, B)`: how many items are better, and how many others tied.
        """

        def rank_block(histories: torch.Tensor, users: np.ndarray) -> torch.Tensor:
            targets = torch.from_numpy(self.targets[users]).long().to(device)
            seen = histories if self.exclude_seen else None
            scores = score(histories, users)
            ranks = torch.stack(rank_targets(scores, targets, seen))
            if observe is not None:
                observe(histories, users, scores, ranks)
            if not self._needs_lists:
                return ranks.T
            if seen is not None:
                scores = remove_seen(scores, seen)  # a target that was seen is ranked, but never recommended
            generator = torch.Generator().manual_seed(int(users[0]))
            return torch.cat([ranks.T, list_items(scores, self.ks[-1], generator)], dim=1)

        return self._metrics_of(rank_block, self.batches(device))

    def _metrics_of(
        self,
        rank_block: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
        blocks: Iterator[tuple[torch.Tensor, np.ndarray]],
    ) -> dict[str, float]:
        """Returns the metrics of what a function finds of each block of this process: `(B, 2)` ranks, and lists."""
        self.check_same_on_ranks()
        # No small tensor outlives its block: it would lie where the next block's scores had room, and memory grew.
        width = 2 + self._needs_lists * min(self.ks[-1], len(self.items))
        ranks_of_all, ranked = torch.empty(len(self.targets), width, dtype=torch.long), [np.zeros(0, np.int64)]
        for histories, users in blocks:
            ranks_of_all[users] = rank_block(histories, users).cpu()
            ranked.append(users)
        if PartialState().num_processes > 1:
            mine = np.concatenate(ranked)
            for users, found in gather_object([(mine, ranks_of_all[mine])]):
                ranks_of_all[users] = found
        # In the order of the split, whoever ranked them: sums are equal to the last bit.
        top_items = ranks_of_all[:, 2:] if self._needs_lists else None
        histories = self._only_histories[:]["history"]  # on disk, where the histories are
        self.rankings = Rankings(
            ranks_of_all[:, 0], ranks_of_all[:, 1], top_items, self.item_counts, self.item_features, histories
        )
        return ranking_metrics(self.rankings, self.ks, self.metrics)

    def metrics_of_groups(
        self, item_counts: np.ndarray, rankings: Rankings | None = None
    ) -> dict[str, dict[str, float]]:
        """Returns metrics for targets of like popularity, and for users of like history.

        Args:
            item_counts: `(V,)` training interactions with each item; cold items have none.
            rankings: of all users of the split; by default those of the last evaluation.

        Returns: `{"target 0": {"num_users": …, "hr@10": …}, …, "history 1-5": …}`; groups without users are left out.
        """
        rankings, found = self.rankings if rankings is None else rankings, {}
        for name, chosen in groups_of_users(np.asarray(item_counts)[self.targets], self.lengths).items():
            metrics = ranking_metrics(rankings.of_users(torch.from_numpy(chosen)), self.ks, self.metrics)
            found[name] = {"num_users": int(chosen.sum()), **metrics}
        return found

    def batches(
        self, device: torch.device | str, keeps_scores: bool = True
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yields this process's share of the histories `(B, L)`, and the users' indices into the split `(B,)`."""
        state, users = PartialState(), np.arange(len(self.targets))
        yield from self.blocks_of(users, device, state.process_index, state.num_processes, keeps_scores)

    def blocks_of(
        self,
        users: np.ndarray,
        device: torch.device | str = "cpu",
        first: int = 0,
        step: int = 1,
        keeps_scores: bool = True,
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yields these users' histories `(B, L)` and indices `(B,)` in blocks, every `step`-th from `first` on.

        With `keeps_scores`, a block has so few users that their scores of the whole catalogue have room in memory.
        """
        order = users[np.argsort(self.lengths[users], kind="stable")]  # users of like length together: little padding
        blocks = user_blocks(len(order), len(self.items) if keeps_scores else 1, self.batch_size)
        chosen = [order[block] for block in blocks][first::step]
        for histories, users in zip(read_blocks(self._only_histories, chosen), chosen, strict=True):
            yield torch.from_numpy(histories).to(device), users

    def mean_user(self, scorer: CatalogueScorer, user_inputs: UserInputs | None = None) -> torch.Tensor:
        """Returns the mean user embedding `(D,)` of the split, the same on every process."""
        sums = []
        for histories, users in self.batches(scorer.item_embeddings.device):
            embeddings = scorer.encode_users(histories, None if user_inputs is None else user_inputs[users])
            sums.append((int(users[0]), embeddings.sum(0).cpu()))
        if PartialState().num_processes > 1:
            sums = gather_object(sums)
        total = torch.stack([part for _, part in sorted(sums, key=lambda part: part[0])]).sum(0)
        return (total / len(self.targets)).to(scorer.item_embeddings.device)
