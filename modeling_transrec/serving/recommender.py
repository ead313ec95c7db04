"""What a practitioner holds: a model, its processor and an encoded catalogue, to ask for recommendations."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from huggingface_hub import CommitInfo, HfApi, hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from ..data.collator import left_pad_lists
from ..data.loading import prepare_items
from ..evaluation.scoring import CatalogueScorer, encode_catalogue, user_blocks
from ..hub.card import build_model_card
from ..hub.facts import CardFacts, checkpoint_hash, describe_model
from ..hub.names import CARD_NAME
from ..hub.publish import upload_checkpoint
from ..models.checkpoint_files import HUB_ARGUMENTS
from ..models.modeling_transrec import TransRecModel, TransRecPreTrainedModel, saved_with_code
from ..models.processing_transrec import TransRecProcessor


logger = logging.getLogger(__name__)

# Where the catalogue lies in a checkpoint: `load_dataset(CHECKPOINT, data_dir="catalogue")` reads it, too.
_CATALOGUE_FILE = "catalogue/train-00000-of-00001.parquet"
_USER_MEAN_FILE = "catalogue/user_mean.safetensors"
_VECTOR, _CHECKPOINT = "vector", "checkpoint"  # columns of a catalogue beside the items' own


def drop_foreign_ids(
    model: TransRecPreTrainedModel, processor: TransRecProcessor, item_ids: Sequence[str]
) -> TransRecProcessor:
    """Of a model of content and ids, takes the id part out where the catalogue has other items, and says so.

    Returns: the processor to use from now on.
    """
    has_content = len(processor.modalities) > 1
    if processor.item_ids is None or not has_content or set(item_ids) <= set(processor.item_ids):
        return processor
    logger.warning(
        "The checkpoint's id part is dropped: its %d items are others than the catalogue's %d, and ids do not "
        "transfer. The content part goes on alone",
        len(processor.item_ids),
        len(item_ids),
    )
    model.drop_item_ids()
    return processor.without_item_ids()


class Recommender:
    r"""
    Recommends items of a catalogue for a history of item ids.

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
        self.items: datasets.Dataset | None = None  # item_id and metadata, (V,) rows
        self.item_ids: list[str] = []
        self.scorer: CatalogueScorer | None = None
        self._rows: dict[str, int] = {}
        self._faiss: datasets.Dataset | None = None
        self._faiss_factory: str | None = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, load_catalogue: bool = True, **kwargs
    ) -> "Recommender":
        """Loads model, processor and, where one was saved, the catalogue from a Hub id or a folder.

        Args:
            pretrained_model_name_or_path: the Hub id or folder.
            load_catalogue: whether to load the catalogue, too.
            kwargs: those of the model's `from_pretrained`: `revision`, `token`, `dtype`, …
        """
        where = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        model = TransRecModel.from_pretrained(pretrained_model_name_or_path, **kwargs)
        recommender = cls(model, TransRecProcessor.from_pretrained(pretrained_model_name_or_path, **where))
        if load_catalogue:
            recommender.load_catalogue(pretrained_model_name_or_path, **where)
        return recommender

    def load_catalogue(self, pretrained_model_name_or_path: str | os.PathLike, **where) -> bool:
        """Takes the catalogue that was saved with the model, where there is one; whether there is.

        Args:
            pretrained_model_name_or_path: the Hub id or folder.
            where: `revision`, `token`, `cache_dir`, `subfolder`, …
        """
        file = _find_file(pretrained_model_name_or_path, _CATALOGUE_FILE, where)
        if file is None:
            return False
        self.use_catalogue(datasets.Dataset.from_parquet(file, keep_in_memory=True))
        mean_file = _find_file(pretrained_model_name_or_path, _USER_MEAN_FILE, where)
        if mean_file is not None:
            self.scorer = self.scorer.replace(user_mean=load_file(mean_file)["user_mean"].to(self.model.device))
        return True

    def save_pretrained(self, save_directory: str | os.PathLike, with_code: bool = False, **kwargs) -> None:
        """Saves model, processor and catalogue into one folder.

        Args:
            save_directory: the folder.
            with_code: whether the model's code is put beside them, for `trust_remote_code`.
            kwargs: those of the model's `save_pretrained`, such as `max_shard_size`.
        """
        folder = Path(save_directory)
        with saved_with_code(self.model, self.processor) if with_code else contextlib.nullcontext():
            self.model.save_pretrained(folder, **kwargs)
            self.processor.save_pretrained(folder)
        if self.item_embeddings is None:
            return
        (folder / _CATALOGUE_FILE).parent.mkdir(exist_ok=True)
        unfinished = folder / f"{_CATALOGUE_FILE}.unfinished"
        self.catalogue.to_parquet(unfinished)
        unfinished.replace(folder / _CATALOGUE_FILE)
        if self.scorer.user_mean is not None:
            save_file({"user_mean": self.scorer.user_mean.cpu().contiguous()}, folder / _USER_MEAN_FILE)
        else:
            (folder / _USER_MEAN_FILE).unlink(missing_ok=True)

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
        **kwargs,
    ) -> CommitInfo:
        """Publishes what [`save_pretrained`] saves, metadata of the items included, in one commit.

        A repository that has a card already keeps it.

        Args:
            repo_id: the repository; it is made where there is none.
            commit_message: of the commit.
            private: whether a new repository is private.
            token: a token that may write; by default that of the log-in.
            revision: branch; made where there is none.
            create_pr: whether to open a pull request in place of a commit.
            with_code: whether the model's code travels, too.
            kwargs: those of the model's `save_pretrained`, such as `max_shard_size`.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, with_code=with_code, **kwargs)
            if not api.file_exists(repo_id, CARD_NAME):
                facts = CardFacts(
                    name=repo_id,
                    with_code=with_code,
                    **describe_model(self.model, self.processor, [self.model.name_or_path]),
                )
                build_model_card(facts).save(Path(folder) / CARD_NAME)
            return upload_checkpoint(
                folder,
                repo_id,
                commit_message=commit_message,
                token=token,
                revision=revision,
                create_pr=create_pr,
                with_code=with_code,
            )

    @property
    def item_embeddings(self) -> torch.Tensor | None:
        """Item embeddings of the catalogue `(V, D)`, `None` before there is one."""
        return None if self.scorer is None else self.scorer.item_embeddings

    @property
    def catalogue(self) -> datasets.Dataset:
        """The indexed catalogue as a data set: the items' columns but for pictures, `vector` and `checkpoint`.

        `checkpoint` is the hash of the model and processor that made the vectors. It is pushed and pulled like any
        data set: `recommender.catalogue.push_to_hub(NAME)`, `recommender.use_catalogue(load_dataset(NAME)["train"])`.
        """
        self._check_indexed()
        vectors = self.item_embeddings.float().cpu().numpy()
        features = {
            _VECTOR: datasets.List(datasets.Value("float32"), length=vectors.shape[1]),
            _CHECKPOINT: datasets.Value("string"),
        }
        columns = {_VECTOR: vectors, _CHECKPOINT: [checkpoint_hash(self.model, self.processor)] * len(vectors)}
        added = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        return datasets.concatenate_datasets([self.items, added], axis=1)

    def use_catalogue(
        self, catalogue: datasets.Dataset, histories: Sequence[Sequence[str]] | None = None
    ) -> "Recommender":
        """Takes a catalogue that this very checkpoint encoded, in place of encoding the items again.

        Args:
            catalogue: what [`catalogue`] gave, whole or in part.
            histories: as in [`index`], for centred scores.

        Returns: itself.

        Raises:
            ValueError: if another checkpoint made the vectors.
        """
        missing = {"item_id", _VECTOR, _CHECKPOINT} - set(catalogue.column_names)
        if missing:
            raise ValueError(f"this is no catalogue of a Recommender: it lacks {', '.join(sorted(missing))}")
        made_by, own = catalogue.unique(_CHECKPOINT), checkpoint_hash(self.model, self.processor)
        if made_by != [own]:
            raise ValueError(
                "the catalogue's vectors were made by another checkpoint, or the same one in another dtype or "
                f"language ({', '.join(str(one)[:12] for one in made_by)} in place of {own[:12]}), and cannot be "
                "compared with this one's; encode the items again: index(items). from_pretrained(…, "
                "load_catalogue=False) loads the model alone"
            )
        vectors = np.asarray(catalogue.with_format("numpy")[_VECTOR][:], dtype=np.float32)
        if vectors.shape != (len(catalogue), self.model.config.hidden_size) or not np.isfinite(vectors).all():
            raise ValueError(f"the catalogue's vectors must be finite and of width {self.model.config.hidden_size}")
        self._set_items(_item_columns(catalogue), torch.from_numpy(vectors).to(self.model.device))
        self._center(histories)
        self._follow_with_faiss()
        return self

    @torch.no_grad()
    def index(
        self,
        items: datasets.Dataset | pd.DataFrame | Sequence[dict],
        chunk_size: int = 256,
        histories: Sequence[Sequence[str]] | None = None,
    ) -> "Recommender":
        """Encodes the catalogue to recommend from; replaces an earlier one.

        A model of content and ids goes on with content alone where an item is new to it.

        Args:
            items: `item_id` and what the processor reads, such as `text_en`: data set, DataFrame or list of dicts.
            chunk_size: items encoded at a time.
            histories: item ids of some users of this platform, a few hundred or more, for a model that has not been
                trained on it: scores are then centred cosines, see [`~scoring.center`], in place of the model's own.

        Returns: itself.
        """
        items = _checked_items(items)
        self.processor = drop_foreign_ids(self.model, self.processor, items["item_id"])
        self._set_items(_item_columns(items), self._encode(items, chunk_size))
        self._center(histories)
        self._follow_with_faiss()
        return self

    @torch.no_grad()
    def add_items(
        self, items: datasets.Dataset | pd.DataFrame | Sequence[dict], chunk_size: int = 256
    ) -> "Recommender":
        """Adds items to the catalogue; one whose `item_id` is there already replaces it. Only these are encoded.

        Args:
            items: as in [`index`]. Columns that the catalogue does not have are an error, missing ones are empty.
            chunk_size: items encoded at a time.

        Returns: itself.
        """
        self._check_indexed()
        items = _checked_items(items)
        if self.processor.item_ids is not None and not set(items["item_id"]) <= set(self.processor.item_ids):
            raise ValueError("the model knows items by id, and some of these are new to it; index all again")
        columns, known = _item_columns(items), self.items.features
        unknown = set(columns.column_names) - set(known)
        if unknown:
            raise ValueError(f"the catalogue has no column {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        for name in set(known) - set(columns.column_names):
            columns = columns.add_column(name, [None] * len(columns))
        columns = columns.select_columns(list(known)).cast(known)
        new = set(items["item_id"])
        kept = [row for row, item_id in enumerate(self.item_ids) if item_id not in new]
        vectors = torch.cat(
            [self.item_embeddings[kept], self._encode(items, chunk_size).to(self.item_embeddings.device)]
        )
        self._set_items(datasets.concatenate_datasets([self.items.select(kept), columns]), vectors)
        self._follow_with_faiss()
        return self

    def remove_items(self, item_ids: Sequence[str]) -> "Recommender":
        """Takes items out of the catalogue. Returns: itself."""
        self._check_indexed()
        if isinstance(item_ids, str):
            raise ValueError("item_ids must be a list of item ids, not one id")
        removed = {self._row(item_id) for item_id in item_ids}
        kept = [row for row in range(len(self.item_ids)) if row not in removed]
        if not kept:
            raise ValueError("no item would be left to recommend")
        self._set_items(self.items.select(kept), self.item_embeddings[kept])
        self._follow_with_faiss()
        return self

    def search_with_faiss(self, string_factory: str = "Flat") -> "Recommender":
        """From now on searches the catalogue with a FAISS index: for millions of items. It follows later changes.

        Args:
            string_factory: the kind of index, in FAISS's words: `"Flat"` is exact, `"IVF4096,Flat"` and
                `"HNSW32"` look at a part of the catalogue, where they may find fewer items than asked for.

        Returns: itself.
        """
        self._check_indexed()
        self._build_faiss(string_factory)
        return self

    @torch.no_grad()
    def recommend(
        self,
        history: Sequence[str] | Sequence[Sequence[str]],
        k: int = 10,
        exclude_seen: bool = True,
        user_id: str | Sequence[str] | None = None,
    ) -> list[dict] | list[list[dict]]:
        """The `k` best items for a history, best first.

        Args:
            history: item ids, oldest first, or a list of such histories.
            k: how many items.
            exclude_seen: whether items of the history are left out.
            user_id: the user's id, or one for each history; for models of user ids (DSSM) alone.

        Returns: a list of `{"item_id", "score"}`, or one list per history.

        Raises:
            ValueError: if there is no catalogue yet, a history is empty, or has an item that is not in the catalogue.
        """
        self._check_indexed()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if isinstance(history, str):
            raise ValueError("history must be a list of item ids, not one id")
        history = list(history)
        single = not history or not isinstance(history[0], list | tuple)
        seen = self._histories_as_rows([history] if single else history)  # (B, L)
        user_rows = self._user_rows(user_id, len(seen))
        if self._faiss is None:
            scores, rows = self.scorer.top_k(seen, k, exclude_seen, user_index=user_rows)
        else:
            scores, rows = self._search(self.scorer.queries(seen, user_rows), k, seen if exclude_seen else None)
        found = [
            [
                {"item_id": self.item_ids[row], "score": score}
                for row, score in zip(user_rows, user_scores, strict=True)
                if score > float("-inf")  # fewer than k candidates were left
            ]
            for user_rows, user_scores in zip(rows.tolist(), scores.tolist(), strict=True)
        ]
        return found[0] if single else found

    def _check_indexed(self) -> None:
        if self.item_embeddings is None:
            raise ValueError("there is no catalogue yet: call index(items) first")

    def _encode(self, items: datasets.Dataset, chunk_size: int) -> torch.Tensor:
        """Items to vectors `(V, D)`."""
        return encode_catalogue(self.model, prepare_items(items, self.processor), self.processor, chunk_size)

    def _set_items(self, items: datasets.Dataset, vectors: torch.Tensor) -> None:
        rows = {item_id: row for row, item_id in enumerate(items["item_id"])}
        if len(rows) != len(items):
            raise ValueError("the catalogue has an item_id twice; ids must be distinct")
        self.items, self.item_ids, self._rows = items, list(rows), rows
        user_mean = None if self.scorer is None else self.scorer.user_mean
        self.scorer = CatalogueScorer(self.model, vectors, user_mean=user_mean)

    def _center(self, histories: Sequence[Sequence[str]] | None) -> None:
        """From now on centres the scores by these users' mean, or not at all."""
        self.scorer = self.scorer.replace(user_mean=None)
        if histories is not None:
            users = [
                self.scorer.encode_users(self._histories_as_rows(histories[block]))
                for block in user_blocks(len(histories), len(self.item_ids))
            ]
            self.scorer = self.scorer.replace(user_mean=torch.cat(users).mean(dim=0))

    def _follow_with_faiss(self) -> None:
        """Makes the FAISS index anew after a change of the catalogue, where there is one."""
        if self._faiss_factory is not None:
            self._build_faiss(self._faiss_factory)

    def _build_faiss(self, string_factory: str) -> None:
        try:
            import faiss
        except ImportError as error:
            raise ImportError("searching with FAISS needs it: pip install modeling_transrec[faiss]") from error
        self._faiss = self._faiss_factory = None  # where it fails, the whole catalogue is searched
        index = datasets.Dataset.from_dict({"item_id": self.item_ids})
        try:
            index.add_faiss_index_from_external_arrays(
                self.scorer.candidates.float().cpu().numpy(),
                "items",
                string_factory=string_factory,
                metric_type=faiss.METRIC_INNER_PRODUCT,
                train_size=len(self.item_ids),
            )
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot make an index {string_factory!r} of {len(self.item_ids)} items: it does not know it or "
                'needs more items ("IVF4096,Flat" at least 4,096); "Flat" takes any number'
            ) from error
        self._faiss, self._faiss_factory = index, string_factory

    def _search(self, queries: torch.Tensor, k: int, seen: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """As [`top_items`], by the FAISS index: scores and rows `(B, K)`."""
        wanted = min(k + (0 if seen is None else seen.shape[1]), len(self.item_ids))
        found = self._faiss.search_batch("items", queries.float().cpu().numpy(), k=wanted)
        scores, rows = torch.from_numpy(found.total_scores), torch.from_numpy(found.total_indices)  # (B, K + L)
        left_out = rows < 0
        if seen is not None:
            left_out |= (rows[:, :, None] == seen.cpu()[:, None, :]).any(dim=2)
        scores = scores.masked_fill(left_out, float("-inf"))
        scores, places = scores.topk(min(k, scores.shape[1]), dim=1)
        return scores, rows.gather(1, places)

    def _histories_as_rows(self, histories: Sequence[Sequence[str]]) -> torch.Tensor:
        """Item ids to rows of the catalogue `(B, L)`, -1 at padding on the left."""
        rows = [[self._row(item_id) for item_id in history] for history in histories]
        if not all(rows):
            raise ValueError("an empty history says nothing about the user; recommend popular items instead")
        return torch.from_numpy(left_pad_lists(rows)).to(self.model.device)

    def _user_rows(self, user_id: str | Sequence[str] | None, count: int) -> torch.Tensor | None:
        if self.processor.user_ids is None:
            if user_id is not None:
                raise ValueError("this model knows users by their histories alone; leave out user_id")
            return None
        user_ids = [user_id] if isinstance(user_id, str) else list(user_id or ())
        if len(user_ids) != count:
            raise ValueError(f"this model knows users by id: give a user_id for each history ({count})")
        return torch.tensor(self.processor.user_rows(user_ids), device=self.model.device)

    def _row(self, item_id: str) -> int:
        if item_id not in self._rows:
            raise ValueError(f"item {item_id!r} is not in the indexed catalogue of {len(self._rows)} items")
        return self._rows[item_id]


def _checked_items(items: datasets.Dataset | pd.DataFrame | Sequence[dict]) -> datasets.Dataset:
    """Items as a data set, with distinct ids."""
    if isinstance(items, pd.DataFrame):
        items = datasets.Dataset.from_pandas(items, preserve_index=False)
    elif not isinstance(items, datasets.Dataset):
        items = datasets.Dataset.from_list(list(items))
    if len(items) == 0:
        raise ValueError("there are no items to index")
    if "item_id" not in items.column_names:
        raise ValueError(f"items need a column item_id; they have {', '.join(items.column_names)}")
    if not all(isinstance(item_id, str) for item_id in items["item_id"]):
        raise ValueError("item_id must be a string in every item; ids are never numbers")
    if len(set(items["item_id"])) != len(items):
        raise ValueError("items have an item_id twice; ids must be distinct")
    return items


def _item_columns(items: datasets.Dataset) -> datasets.Dataset:
    """The columns that travel with a catalogue: all but pictures and what it adds itself."""
    pictures = [name for name, feature in items.features.items() if isinstance(feature, datasets.Image)]
    left_out = {"image", _VECTOR, _CHECKPOINT, *pictures} & set(items.column_names)
    return items.remove_columns(sorted(left_out))


def _find_file(name_or_path: str | os.PathLike, name: str, where: dict) -> str | None:
    """A checkpoint's file on this machine, or `None` where it has no such file."""
    if os.path.isdir(name_or_path):
        path = os.path.join(name_or_path, where.get("subfolder", ""), name)
        return path if os.path.isfile(path) else None
    try:
        return hf_hub_download(name_or_path, name, **where)
    except LocalEntryNotFoundError:
        if is_offline_mode() or where.get("local_files_only"):
            return None  # it is not in the cache
        raise
    except EntryNotFoundError:
        return None
