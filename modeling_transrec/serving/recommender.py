"""Recommends from a checkpoint and an encoded catalogue."""

import functools
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import datasets
import torch
from huggingface_hub import CommitInfo

from ..data.collator import left_pad_lists
from ..data.foreign_ids import drop_foreign_ids
from ..data.preparation import prepare_items
from ..data.tables import Table, as_histories, is_rows, is_table
from ..data.transitions import Transitions
from ..evaluation.encoding import encode_catalogue
from ..evaluation.evaluator import FullRankingEvaluator
from ..evaluation.features import load_content_model, read_content
from ..evaluation.scoring import CatalogueScorer, user_blocks
from ..export.onnx_model import OnnxModel
from ..hub.facts import checkpoint_hash
from ..models.batch import UserInputs
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor, check_processor
from .arguments import check_number_of_items
from .catalogue import Catalogue
from .columns import checked_items, item_columns, warn_of_items_without_content, with_types
from .filters import Where
from .indexes import make_index
from .item_index import ItemIndex
from .platform import add_counts, as_sequences, fit_content
from .recommender_files import export, hub_arguments, load_catalogue, load_model, publish, save


# Allows one change of a catalogue at a time. All recommenders share it: with a lock of its own, a recommender could be
# neither copied nor pickled.
_changing = threading.RLock()
_FARTHEST_TIME = 2**62  # differences of two times fit into 64 bits


class Recommender:
    r"""
    Recommends items of a catalogue for a history of item ids.

    Threads can share a recommender: each call sees the catalogue as it was before a change or as it is after it. The
    model encodes without dropout, whatever mode it is in.

    Args:
        model: a TransRec model, with or without head.
        processor: the model's processor.

    Example:

    ```python
    recommender = Recommender.from_pretrained("my-checkpoint").index(items)
    recommender.recommend(["B004756YJA", "B004ZT0SSG"], k=10)
    # [{"item_id": "B0020YLEYK", "score": 7.31}, …]
    recommender.push_to_hub("me/my-shop", private=True)  # model, processor and catalogue
    ```
    """

    def __init__(self, model: TransRecPreTrainedModel, processor: TransRecProcessor):
        self.model = model.eval()
        self.processor = processor
        self.reads_features = False  # whether it recommends by content kNN, from the backbone's features
        self.bf16: bool | None = None  # whether these features are computed in bfloat16, see `read_content`
        self._catalogue: Catalogue | None = None
        self._make_index: Callable[[], ItemIndex] | None = None  # one that is built anew when items have changed
        self._index: ItemIndex | None = None  # one that follows changes

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        load_catalogue: bool = True,
        backend: str = "torch",
        **kwargs,
    ) -> "Recommender":
        """Loads model, processor and, where one was saved, the catalogue from a Hub id or a folder.

        Args:
            pretrained_model_name_or_path: the Hub id or folder.
            load_catalogue: whether to load the catalogue, too.
            backend: `"onnx"` for what [`export`] wrote, run by ONNX Runtime without weights of torch.
            kwargs: those of the model's `from_pretrained`: `revision`, `token`, `dtype`, …; with ONNX, those that say
                where files come from, and `providers` of ONNX Runtime.

        Raises:
            ValueError: if the backend is unknown, or the checkpoint is not one for it.
        """
        recommender = cls(*load_model(pretrained_model_name_or_path, backend, **kwargs))
        if load_catalogue:
            recommender.load_catalogue(pretrained_model_name_or_path, **hub_arguments(kwargs))
        return recommender

    @classmethod
    def from_backbone(
        cls,
        text_model_name_or_path: str | None = None,
        vision_model_name_or_path: str | None = None,
        multimodal_model_name_or_path: str | None = None,
        bf16: bool | None = None,
        **kwargs,
    ) -> "Recommender":
        """Recommends without training: by content kNN, and by counted transitions where histories are given.

        Args:
            text_model_name_or_path: Hub id or folder of a text model, such as one of sentence-transformers.
            vision_model_name_or_path, multimodal_model_name_or_path: the same for images, and for one model of both.
                A text and a vision model are combined by late fusion.
            bf16: whether the backbones compute in bfloat16; by default on CPUs with instructions for it.
            kwargs: `language`, `max_text_length`, `item_prefix`, `text_pooling`, `revision`, `token`, …, see
                [`load_content_model`].
        """
        names = (text_model_name_or_path, vision_model_name_or_path, multimodal_model_name_or_path)
        recommender = cls(*load_content_model(*names, **kwargs))
        recommender.reads_features, recommender.bf16 = True, bf16
        return recommender

    def load_catalogue(self, pretrained_model_name_or_path: str | os.PathLike, **hub_kwargs) -> bool:
        """Loads the catalogue that was saved with the model, and returns whether there is one.

        Args:
            pretrained_model_name_or_path: the Hub id or folder.
            hub_kwargs: `revision`, `token`, `cache_dir`, `subfolder`, …
        """
        found = load_catalogue(pretrained_model_name_or_path, self.model, self.processor, **hub_kwargs)
        if found is None:
            return False
        catalogue, self.reads_features = found
        self._use(catalogue)
        return True

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        with_code: bool = False,
        with_handler: bool = False,
        max_per_item: int | None = None,
        min_count: float = 0.0,
        **kwargs,
    ) -> None:
        """Saves model, processor and catalogue into one folder; an export (`backend="onnx"`) as an export.

        All of it is there in the end or, if it fails or the process is killed, what was there before; a catalogue that
        an older save left there is replaced or removed.

        Args:
            save_directory: the folder.
            with_code: whether the model's code is put beside them, for `trust_remote_code`.
            with_handler: whether `handler.py` is, by which a Hugging Face Inference Endpoint answers.
            max_per_item, min_count: which of the counted transitions are saved, by default all; see
                [`Transitions.pruned`].
            kwargs: those of the model's `save_pretrained`, such as `max_shard_size`.

        Raises:
            ValueError: if the model has changed since it encoded the catalogue.
        """
        save(
            save_directory,
            self.model,
            self.processor,
            self._catalogue,
            with_code=with_code,
            with_handler=with_handler,
            max_per_item=max_per_item,
            min_count=min_count,
            **kwargs,
        )

    def export(self, output_dir: str | os.PathLike, format: str = "onnx", quantize: str | None = None) -> None:
        """Writes the model for other runtimes, with its processor and a manifest, whole or not at all.

        A model that whitens features does so by the statistics of the catalogue that it encoded last. The catalogue
        itself goes along where the exported towers make the same embeddings: with ONNX in float32.

        Args:
            output_dir: a new or empty folder, or one that has an export of this format, which is replaced.
            format: `"onnx"`, for [`from_pretrained`] with `backend="onnx"`; `"torch-export"`, for `torch.export.load`;
                or `"sentence-transformers"`, the item tower of a model of texts.
            quantize: `"int8"` for ONNX with weights of 8 and 16 bits in the backbones.

        Raises:
            ImportError: if a package that writes the format is not installed.
            ValueError: if options do not fit, the folder has other files, or the model cannot be exported.
        """
        if self.reads_features or isinstance(self.model, OnnxModel):
            reason = "it recommends by content kNN" if self.reads_features else "it is one already"
            raise ValueError(f"this recommender cannot be exported: {reason}; load a trained checkpoint")
        export(output_dir, self.model, self.processor, self._catalogue, format, quantize)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload recommender",
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        with_code: bool = False,
        with_handler: bool = False,
        **kwargs,
    ) -> CommitInfo:
        """Publishes the files that [`save_pretrained`] saves, metadata of the items included, in one commit.

        If the repository already has a card, it keeps it.

        Args:
            repo_id: the repository, which is created if there is none.
            commit_message: message of the commit.
            private: whether a new repository is private.
            token: a token with write access; by default that of the log-in.
            revision: the branch, which is created if there is none.
            create_pr: whether to open a pull request in place of a commit.
            with_code: whether the model's code is uploaded, too.
            with_handler: whether `handler.py` is, by which a Hugging Face Inference Endpoint answers.
            kwargs: `max_per_item` and `min_count` of [`save_pretrained`], and those of the model's `save_pretrained`.
        """
        return publish(
            repo_id,
            self.model,
            self.processor,
            self._catalogue,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            with_code=with_code,
            with_handler=with_handler,
            **kwargs,
        )

    @property
    def scorer(self) -> CatalogueScorer:
        """The scorer of the catalogue. Items that have been removed keep their indices in it until it is rebuilt."""
        return self.indexed().scorer

    @property
    def snapshot(self) -> Catalogue | None:
        """The catalogue as it is now, with its counts; it never changes. `None` if there is none yet."""
        return self._catalogue

    def restore(self, snapshot: Catalogue | None) -> None:
        """Recommends from an earlier [`snapshot`] again; an index that follows changes is filled with its items."""
        with _changing:
            if self._index is None or snapshot is None:
                self._catalogue = snapshot
            else:
                self._use(replace(snapshot, scorer=snapshot.scorer.replace(nearest=None)))

    @property
    def items(self) -> datasets.Dataset | None:
        """Items of the catalogue, with `item_id` and metadata; `None` if there is no catalogue yet."""
        return None if self._catalogue is None else self._catalogue.items

    @property
    def item_ids(self) -> list[str]:
        """Item ids of the catalogue, in its order."""
        return [] if self._catalogue is None else self._catalogue.item_ids

    @property
    def item_embeddings(self) -> torch.Tensor | None:
        """Item embeddings `(V, D)` of the catalogue; `None` if there is no catalogue yet."""
        return None if self._catalogue is None else self._catalogue.item_embeddings

    @property
    def catalogue(self) -> datasets.Dataset:
        """The catalogue as a data set: columns of items without media, their embeddings `vector`, and `checkpoint`.

        `checkpoint` is the hash of the model and processor that made the embeddings. The data set is pushed and pulled
        like any other: `recommender.catalogue.push_to_hub(NAME)`, then
        `recommender.use_catalogue(load_dataset(NAME)["train"])`.
        """
        return self.indexed().to_dataset()

    def use_catalogue(
        self, catalogue: datasets.Dataset, histories: Sequence[Sequence[str]] | None = None
    ) -> "Recommender":
        """Uses a catalogue that this very checkpoint encoded, instead of encoding the items again.

        Args:
            catalogue: a data set from [`catalogue`], whole or in part.
            histories: as in [`index`], for centred scores.

        Returns: itself.

        Raises:
            ValueError: if another checkpoint made the embeddings.
        """
        checkpoint = checkpoint_hash(self.model, self.processor)
        self._use(Catalogue.from_dataset(catalogue, self.model, checkpoint, histories))
        return self

    def index(
        self,
        items: Table | Sequence[dict],
        chunk_size: int = 256,
        histories: Table | Sequence[Sequence[str]] | None = None,
        rerank: bool = False,
    ) -> "Recommender":
        """Encodes the catalogue to recommend from, and replaces an earlier one.

        A model of content and ids drops its id part if an item is new to it.

        Args:
            items: a data set, DataFrame of pandas or polars, Arrow table, dict of columns or list of dicts, with
                `item_id` and the columns that the processor reads, such as `text_en`; `join_columns` makes it of
                several columns.
            chunk_size: items encoded at a time.
            histories: the platform's interactions, in one of two forms.

                - A table with columns `user_id`, `item_id` and optionally `timestamp` and `weight` (what an
                  interaction counts: a click less than a purchase). Their transitions are counted and added to the
                  scores, with the weight that ranks each history's last item best; [`observe`] keeps the counts up to
                  date.
                - Lists of item ids. A recommender made by [`from_backbone`] counts them in the same way. A model
                  loaded by [`from_pretrained`] does not count them, but centres its scores by them: for zero-shot,
                  with a few hundred users or more, see [`~scoring.center`]. For a model trained on this platform, give
                  a table.
            rerank: whether each user's best 100 items are put in order by a small network that the histories' last
                items teach in seconds, where that ranks other users' last items better, see
                [`Reranker`][modeling_transrec.evaluation.reranker.Reranker]. It needs counted transitions.

        Returns: itself.
        """
        items = checked_items(items)
        item_ids = items["item_id"][:]
        self.processor = drop_foreign_ids(self.model, self.processor, item_ids)
        self._warn_of_items_without_content(items)
        sequences = None
        if histories is not None and (self.reads_features or is_table(histories) or is_rows(histories)):
            sequences, histories = datasets.Dataset(as_sequences(histories, set(item_ids))), None
        if rerank and sequences is None:
            raise ValueError("rerank=True reads counted transitions: give histories as a table of interactions")
        if self.reads_features:
            content = read_content(self.model, self.processor, items, chunk_size, bf16=self.bf16)
            scorer = fit_content(content, items, sequences)
        else:
            scorer = CatalogueScorer(self.model, self._encode(items, chunk_size, is_catalogue=True))
        if sequences is not None:
            scorer = add_counts(scorer, items, sequences, self._read_users, rerank)
        checkpoint = checkpoint_hash(self.model, self.processor)
        self._use(Catalogue.build(item_columns(items), scorer, checkpoint, cast(Any, histories)))
        return self

    def _read_users(self, evaluator: FullRankingEvaluator) -> UserInputs | None:
        return None if self.reads_features else evaluator.user_inputs(self.processor, self.model.config)

    def observe(self, interactions: Table) -> "Recommender":
        """Counts new interactions, in 90 microseconds each and some 2 milliseconds a call; the next answers use them.

        A user's new interactions follow those that were given to [`index`] or to this method before. Histories are not
        saved, so that in a loaded recommender the users' histories begin anew.

        Args:
            interactions: a table with columns `user_id`, `item_id` and, where known, `timestamp` and `weight`.

        Returns: itself.
        """
        return self._observe(interactions)

    def observe_in_turn(self, interactions: Table, turns: Sequence[int]) -> "Recommender":
        """Counts what [`observe`] would, called with the interactions of one turn after the other, in less time.

        Args:
            interactions: as in [`observe`].
            turns: `(N,)` numbers, one an interaction; lower turns come first.

        Returns: itself. If a turn cannot be counted, none is.
        """
        return self._observe(interactions, turns)

    def _observe(self, interactions: Table, turns: Sequence[int] | None = None) -> "Recommender":
        sequences = as_sequences(interactions, self.indexed(), turns)
        columns = [
            sequences[name].to_pylist() if name in sequences.column_names else [None] * len(sequences)
            for name in ("user_id", "item_ids", "timestamps", "weights")
        ]
        with _changing:
            transitions = self._transitions()
            for user, item_ids, times, weights in zip(*columns, strict=True):
                transitions = transitions.update(user, item_ids, times, weights)
            self._use_transitions(transitions)
        return self

    def forget(self, user_id: str, history: Sequence[str] | None = None) -> "Recommender":
        """Takes a user out of the counts, which are then those made without this user.

        Args:
            user_id: the user.
            history: the user's whole history, which a loaded recommender does not have.

        Returns: itself.
        """
        with _changing:
            self._use_transitions(self._transitions().forget(user_id, history))
        return self

    def _transitions(self) -> Transitions:
        transitions = self.indexed().scorer.transitions
        if transitions is None:
            raise ValueError("no interactions are counted yet: give them to index(items, histories=interactions)")
        return transitions

    def _use_transitions(self, transitions: Transitions) -> None:
        self._catalogue = self.indexed().with_transitions(transitions)

    def add_items(self, items: Table | Sequence[dict], chunk_size: int = 256) -> "Recommender":
        """Adds items to the catalogue, or replaces those with the same `item_id`. Only these items are encoded.

        Args:
            items: as in [`index`]. Columns that the catalogue does not have are an error, missing ones are empty: an
                item may lack its text or its image.
            chunk_size: items encoded at a time.

        Returns: itself.
        """
        before = self.indexed()
        known, items = before.features, checked_items(items)
        if self.processor.item_ids is not None and not set(items["item_id"][:]) <= set(self.processor.item_ids):
            raise ValueError(
                "the model has an id table that lacks some of these items; call index with all items again"
            )
        for name in set(self.processor.item_columns) - set(items.column_names):
            items = items.add_column(name, [None] * len(items))
        self._warn_of_items_without_content(items)
        columns = item_columns(items)
        unknown = set(columns.column_names) - set(known)
        if unknown:
            raise ValueError(f"the catalogue has no column {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        for name in set(known) - set(columns.column_names):
            columns = columns.add_column(name, [None] * len(columns))
        columns, item_embeddings = (
            with_types(columns.select_columns(list(known)), known),
            self._encode(items, chunk_size),
        )
        with _changing:
            catalogue = self.indexed()
            if catalogue.scorer.model is not before.scorer.model or catalogue.features != known:
                raise ValueError(
                    "another thread has replaced the catalogue while these items were encoded: add them again"
                )
            self._use(catalogue.with_items(columns, item_embeddings), added=columns)
        return self

    def remove_items(self, item_ids: Sequence[str]) -> "Recommender":
        """Takes items out of the catalogue. Returns: itself."""
        if isinstance(item_ids, str):
            raise ValueError("item_ids must be a list of item ids, not one id")
        with _changing:
            self._use(self.indexed().without_items(item_ids), removed=[*dict.fromkeys(item_ids)])
        return self

    def search_with(self, index: str | ItemIndex, **options: Any) -> "Recommender":
        """Searches the catalogue with another index from now on.

        An index that follows changes gets and loses items as the catalogue does, in milliseconds; a change that a
        database refuses is not made in the catalogue, either. In a database each checkpoint has a table or collection
        of its own, and those of others under the same name are dropped: a name belongs to one recommender. Other
        indexes are rebuilt once added or removed items reach an eighth of the catalogue, or when it is encoded anew;
        until then added items are searched exhaustively.

        Args:
            index: `"exact"`, which scores every item and is the default; `"faiss"`, `"int8"` and `"binary"`
                (quantised, the best rescored with full-precision vectors), for millions of items; `"usearch"`,
                embedded, which can be saved and mapped into memory; `"qdrant"` or `"pgvector"`, databases. Or an index
                of one's own that follows changes, see
                [`ItemIndex`][modeling_transrec.serving.item_index.ItemIndex].
            options: options of a named index, such as `string_factory` or `url`, see its class.

        Returns: itself.

        Raises:
            ImportError: if a package is missing.
            ValueError: if there is no such index, or one of one's own has vectors of another checkpoint.
        """
        make = functools.partial(make_index, index, **options) if isinstance(index, str) else None
        made: Any = index if make is None else make()
        if make is None and (options or not made.follows_changes):
            raise ValueError("an index of one's own must follow changes and takes no options; name the others")
        with _changing:
            catalogue = self.indexed()
            self._catalogue = replace(catalogue, scorer=catalogue.scorer.replace(nearest=None))
            self._make_index = self._index = None
            if index == "exact":
                return self
            if make is not None and made.follows_changes:
                made = made.another(self._catalogue.stamp)
            self._catalogue = self._catalogue.with_index(made)
            if made.follows_changes:
                self._index = made
                made.drop_others()
            else:
                self._make_index = make
        return self

    def search_with_faiss(self, string_factory: str = "Flat") -> "Recommender":
        """Searches the catalogue with a FAISS index from now on: `search_with("faiss", string_factory=…)`.

        Args:
            string_factory: the kind of index, for FAISS's `index_factory`: `"Flat"` is exact, `"IVF4096,Flat"` and
                `"HNSW32"` look at a part of the catalogue and may miss some of the best items.

        Returns: itself.
        """
        return self.search_with("faiss", string_factory=string_factory)

    def recommend(
        self,
        history: Sequence[str] | Sequence[Sequence[str]] | Any,
        k: int = 10,
        exclude_seen: bool = True,
        user_id: str | Sequence[str] | None = None,
        explain: bool = False,
        cold_users: str = "raise",
        unknown_items: str = "raise",
        where: Where | None = None,
        diversity: float = 0.0,
        timestamps: Sequence[int] | Sequence[Sequence[int]] | Any = None,
    ) -> list[dict] | list[list[dict]]:
        """Returns the `k` best items for a history, best first.

        Args:
            history: item ids, oldest first, or a list of such histories; arrays of numpy or Arrow and columns of
                pandas or polars, too. Thousands of users are recommended to in blocks, in bounded memory.
            k: number of items.
            exclude_seen: whether items of the history are left out.
            user_id: the user's id, or one for each history; only for models of user ids (DSSM).
            explain: whether to add the parts of each score: `"model"` (content or a trained model),
                `"transitions"`, `"popularity"` and, with `rerank`, `"reranking"`; and `"because_of"`, an item of the
                history, or `None` where popularity is the largest part.
            cold_users: what a user without a history gets: the items that were counted most often, whose score is how
                often (`"popularity"`), no item (`"none"`), or an error (`"raise"`).
            unknown_items: whether items of a history that are not in the catalogue are left out (`"skip"`) or an error
                (`"raise"`). A user all of whose items are left out has no history.
            where: which items may be recommended, popular ones included: a value or a list of values for each column
                that the catalogue keeps, such as `{"in_stock": True, "kind": ["a", "b"]}`, all of which must hold
                (`None` stands for a missing value); or a `pyarrow.compute` expression over these columns, such as
                `pyarrow.compute.field("price") < 10`.
            diversity: from 0, the best items, to 1, the least similar ones: trades score for dissimilarity (by the
                cosine of the item embeddings) among the best `5 * k` items; see
                [`maximal_marginal_relevance`][modeling_transrec.evaluation.diversity.maximal_marginal_relevance]. The
                items come in the order in which they were chosen, with their scores. Popular items stay as they are.
            timestamps: the time of each interaction of `history`, in the same form, in seconds; only for models that
                read times (HSTU).

        Returns: a list of `{"item_id", "score"}`, or one list per history.

        Raises:
            ValueError: if there is no catalogue yet, a history has an item that is not in the catalogue, one is empty
                and `cold_users` is `"raise"`, or `where` does not fit the columns.
        """
        catalogue = self.indexed()  # this one until the end, whatever other threads do
        check_number_of_items(k)
        if cold_users not in ("raise", "popularity", "none"):
            raise ValueError(f'cold_users must be "raise", "popularity" or "none", got {cold_users!r}')
        if unknown_items not in ("raise", "skip"):
            raise ValueError(f'unknown_items must be "raise" or "skip", got {unknown_items!r}')
        if not 0 <= diversity <= 1:
            raise ValueError(f"diversity must be from 0 to 1, got {diversity}")
        several, is_single = as_histories(history)
        times = self._timestamps(timestamps, several)
        if unknown_items == "skip":
            known = [[item_id in catalogue for item_id in one] for one in several]
            several = [list(itertools.compress(one, is_known)) for one, is_known in zip(several, known, strict=True)]
            if times is not None:
                times = [list(itertools.compress(one, is_known)) for one, is_known in zip(times, known, strict=True)]
        user_index = self._user_index(user_id, len(several))
        popular: list[dict] = []
        if not all(several) and cold_users == "raise":
            raise ValueError(
                'an empty history says nothing about the user: give cold_users="popularity" or cold_users="none"'
            )
        if not all(several) and cold_users == "popularity":
            popular = catalogue.most_popular(k, where)
            if explain:
                nothing: dict = {"model": 0.0, "transitions": 0.0, "because_of": None}
                if catalogue.scorer.reranker is not None:
                    nothing["reranking"] = 0.0
                popular = [{**one, **nothing, "popularity": one["score"]} for one in popular]
        found = [[dict(one) for one in popular] for _ in several]
        warm = [number for number, one in enumerate(several) if one]
        for block in user_blocks(len(warm)):
            users = warm[block]
            histories = catalogue.histories_as_indices([several[number] for number in users])  # (B, L)
            of_block = UserInputs(
                None if user_index is None else user_index[users],
                None if times is None else torch.from_numpy(left_pad_lists([times[number] for number in users])),
            )
            best = catalogue.top_k(histories, k, exclude_seen, of_block, where, diversity)
            if explain:
                best = catalogue.explained(best, histories, of_block)
            for number, recommended in zip(users, best, strict=True):
                found[number] = recommended
        return found[0] if is_single else found

    def similar_items(self, item_id: str | Sequence[str], k: int = 10) -> list[dict] | list[list[dict]]:
        """Returns the `k` items most like one, by the cosine of their embeddings, best first.

        Args:
            item_id: of the catalogue, or a list of such ids.
            k: number of items.

        Returns: a list of `{"item_id", "score"}`, or one list per id.

        Raises:
            ValueError: if there is no catalogue yet, or it does not have the item.
        """
        check_number_of_items(k)
        found = self.indexed().similar([item_id] if isinstance(item_id, str) else item_id, k)
        return found[0] if isinstance(item_id, str) else found

    def score(
        self, history: Sequence[str] | Sequence[Sequence[str]] | Any, item_ids: Sequence[str] | Sequence[Sequence[str]]
    ) -> list[float] | list[list[float]]:
        """Returns the scores that [`recommend`] gives to some items, those of the history included.

        Args:
            history: item ids, oldest first, or a list of such histories, as in [`recommend`].
            item_ids: items to score, or a list of them for each history.

        Raises:
            ValueError: if there is no catalogue yet, an item is not in it, the history is empty, or there are not as
                many lists of items as histories.
        """
        if self.processor.user_ids is not None:
            raise ValueError("this model knows users by id; only recommend reads them")
        if getattr(self.model.config, "reads_timestamps", False):
            raise ValueError("this model reads the times of interactions; only recommend takes them")
        (several, is_single), (wanted, is_one_list) = as_histories(history), as_histories(item_ids)
        if is_single != is_one_list or len(several) != len(wanted):
            raise ValueError("give item_ids in the form of history: a list of items, or one for each history")
        found = self.indexed().scores_of(several, wanted)
        return found[0] if is_single else found

    def indexed(self) -> Catalogue:
        """Returns the catalogue as it is now, see [`snapshot`].

        Raises:
            ValueError: if there is none yet.
        """
        if self._catalogue is None:
            raise ValueError("there is no catalogue yet: call index(items) first")
        return self._catalogue

    def _use(self, catalogue: Catalogue, added: datasets.Dataset | None = None, removed: Sequence[str] = ()) -> None:
        """Switches to this catalogue; if the index cannot be rebuilt, searches exhaustively and raises.

        A change that an index which follows changes refuses is not made.

        Args:
            catalogue: the next catalogue.
            added, removed: columns of added items and ids of removed ones, where it is the one before with a change.
        """
        with _changing:
            if self._index is not None:
                self._follow(catalogue, self._index, added, removed)
                return
            make, self._make_index = self._make_index, None
            try:
                if make is not None and catalogue.scorer.nearest is None:
                    catalogue = catalogue.with_index(make())
                self._make_index = make
            finally:
                self._catalogue = catalogue

    def _follow(
        self, catalogue: Catalogue, index: ItemIndex, added: datasets.Dataset | None, removed: Sequence[str]
    ) -> None:
        """Switches to a catalogue and an index that follows it; arguments as in [`_use`]."""
        is_change = added is not None or len(removed) > 0
        is_comparable = catalogue.scorer.nearest is not None or catalogue.stamp == index.checkpoint
        if is_change and is_comparable:
            self._catalogue = catalogue.with_change_of(index, added, removed)
            return
        if not is_change:
            self._catalogue, self._index = catalogue, None  # until the index has it
        if not is_comparable:  # such as centred by another mean
            index = index.another(catalogue.stamp)
        self._catalogue, self._index = catalogue.with_index(index), index
        index.drop_others()

    def _warn_of_items_without_content(self, items: datasets.Dataset) -> None:
        if self.processor.item_ids is None:  # an id says something, too
            warn_of_items_without_content(items, self.processor.item_columns)

    def _encode(self, items: datasets.Dataset, chunk_size: int, is_catalogue: bool = False) -> torch.Tensor:
        """Encodes items to embeddings `(V, D)`: a whole catalogue, or items that are added to one."""
        check_processor(self.processor, self.model.config)
        if self.reads_features:
            content = read_content(
                self.model, self.processor, items, chunk_size, bf16=self.bf16, is_catalogue=is_catalogue
            )
            knn: Any = self.indexed().scorer.model
            return knn.embed_items(content.features, content.has_content)
        prepared = prepare_items(items, self.processor, is_catalogue=is_catalogue)
        return encode_catalogue(self.model, prepared, self.processor, chunk_size, fits_statistics=is_catalogue)

    def _timestamps(self, given: Any, histories: Sequence[Sequence[str]]) -> list[list[int]] | None:
        """Returns the times of the histories' interactions, for a model that reads them."""
        reads = getattr(self.model.config, "reads_timestamps", False)
        if given is None and not reads:
            return None
        if not reads:
            raise ValueError("this model does not read the times of interactions; leave out timestamps")
        if given is None:
            raise ValueError(
                f"user_encoder_type={self.model.config.user_encoder_type!r} reads the time of each interaction: give "
                "timestamps, one for each item of the history"
            )
        times: Any = as_histories(given)[0]
        if [*map(len, times)] != [*map(len, histories)]:
            raise ValueError("timestamps must have a time for each item of each history")
        if any(not -_FARTHEST_TIME <= time <= _FARTHEST_TIME for one in times for time in one):
            raise ValueError(f"timestamps must be at most {_FARTHEST_TIME} before or after 1970")
        return times

    def _user_index(self, user_id: str | Sequence[str] | None, count: int) -> torch.Tensor | None:
        if self.processor.user_ids is None:
            if user_id is not None:
                raise ValueError("this model knows users only by their histories; leave out user_id")
            return None
        user_ids = [user_id] if isinstance(user_id, str) else list(user_id or ())
        if len(user_ids) != count:
            raise ValueError(f"this model knows users by id: give a user_id for each history ({count})")
        return torch.tensor(self.processor.user_index(user_ids))
