"""The catalogue of a recommender: items, their ids and embeddings, and the one Parquet file that it is saved in.

A [`Catalogue`] never changes: items that come or go make another one, which shares nearly everything with the one
before. So threads that read see one state or the other, and a change takes the time of what changes.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..data.collator import left_pad_lists
from ..data.growing import GrowingList, Layers
from ..data.transitions import Transitions
from ..evaluation.content import ContentKNN
from ..evaluation.diversity import maximal_marginal_relevance
from ..evaluation.ranking import top_items
from ..evaluation.scoring import CatalogueScorer, dot_products, user_blocks
from ..hub.names import CATALOGUE_FOLDER
from ..models.batch import UserInputs
from ..models.checkpoint_files import named_file
from ..models.pretrained_model import TransRecPreTrainedModel
from .columns import CHECKPOINT, EMBEDDING, check_distinct, check_names, checked_catalogue, embeddings_of, item_columns
from .filters import Where, matching, wanted_values
from .indexes import BuiltIndex, FollowingIndex, fill
from .item_index import ItemIndex, claim
from .platform import explain


# Where the catalogue lies in a checkpoint: `load_dataset(CHECKPOINT, data_dir="catalogue")` reads it, too.
CATALOGUE_FILE = f"{CATALOGUE_FOLDER}/train-00000-of-00001.parquet"
_MEANS = ("user_mean", "item_mean")  # by which scores are centred, in the metadata of the file
_OTHER_DTYPES = "other_dtypes"  # there, too: hashes of the checkpoint as it is when it is loaded in other dtypes
_READ_AT_A_TIME = 2_000
_MOST_BYTES = 2**30  # in memory, or a hundred times the file's size
_SHARE_BEFORE_REBUILDING = 8  # where an eighth of the items has come or gone, all are copied
_FILTERS_KEPT = 16
_CHOOSE_FROM = 5  # as many items as are wanted, times this, are candidates of a diverse list


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """
    Items to recommend from. An item keeps its index while others come and go, until the catalogue is rebuilt.

    Args:
        parts: columns of the items at every index, also of those that have been removed, one part after another.
        features: types of the columns.
        all_ids: their ids.
        index_of: catalogue index of each id, -1 of those that have been removed.
        scorer: scores every index.
        checkpoint: hash of the model and processor that made the embeddings.
        num_built: number of items when it was built.
        num_removed: number of items that have been removed since.
        is_candidate: `(V,)` booleans, false where an item has been removed; `None` where none has.
    """

    parts: GrowingList[pa.Table]
    features: datasets.Features
    all_ids: GrowingList[str]
    index_of: Layers[str, int]
    scorer: CatalogueScorer
    checkpoint: str
    num_built: int
    num_removed: int = 0
    is_candidate: torch.Tensor | None = None

    @classmethod
    def build(
        cls,
        items: datasets.Dataset,
        scorer: CatalogueScorer,
        checkpoint: str,
        histories: Sequence[Sequence[str]] | None = None,
    ) -> "Catalogue":
        """Makes a catalogue of items and a scorer of them, in the same order.

        Args:
            items: `item_id` and metadata.
            scorer: scores the items.
            checkpoint: hash of the model and processor that made the embeddings.
            histories: item ids of users of the platform, by whose mean the scores are then centred.

        Raises:
            ValueError: if an id is there twice, or a history is empty or has an item that is not there.
        """
        all_ids = GrowingList(items["item_id"][:])
        index_of = {item_id: index for index, item_id in enumerate(all_ids)}
        if len(index_of) != len(all_ids):
            check_distinct(items["item_id"][:])
        parts = GrowingList([items.with_format("arrow")[:]])
        catalogue = cls(parts, items.features, all_ids, Layers(index_of), scorer, checkpoint, num_built=len(items))
        room = len(items) // _SHARE_BEFORE_REBUILDING + 1024
        if histories is None:
            return dataclasses.replace(catalogue, scorer=scorer.replace(room=room))
        users = [
            scorer.encode_users(catalogue.histories_as_indices(histories[block]))
            for block in user_blocks(len(histories))
        ]
        user_mean = torch.cat(users).mean(dim=0)
        return dataclasses.replace(catalogue, scorer=scorer.replace(user_mean=user_mean, item_mean=None, room=room))

    @classmethod
    def from_dataset(
        cls,
        dataset: datasets.Dataset,
        model: TransRecPreTrainedModel,
        checkpoint: str,
        histories: Sequence[Sequence[str]] | None = None,
        same_checkpoint: Sequence[str] = (),
        **means: torch.Tensor,
    ) -> "Catalogue":
        """Makes a catalogue of the data set that [`to_dataset`] gave, whole or in part.

        Args:
            dataset: items, their embeddings and the hash of the checkpoint that made them.
            model: the model that made the embeddings.
            checkpoint: hash of this model and its processor.
            histories: as in [`build`].
            same_checkpoint: other hashes of the model and its processor, as in another dtype.
            means: `user_mean` and `item_mean`, for centred scores.

        Raises:
            ValueError: if columns are missing or not as they should be, or another checkpoint made the embeddings.
        """
        items, made_by = checked_catalogue(dataset)
        if made_by not in (checkpoint, *same_checkpoint):
            raise ValueError(
                "the catalogue's vectors were made by another checkpoint, or the same one in another language ("
                f"{made_by[:12]} in place of {checkpoint[:12]}), and cannot be compared with this one's; encode the "
                "items again: index(items). from_pretrained(…, load_catalogue=False) loads only the model"
            )
        width = model.config.width
        embeddings = torch.from_numpy(embeddings_of(dataset, width)).to(model.device)
        if means and set(means) != set(_MEANS):
            raise ValueError(f"a centred catalogue has {' and '.join(_MEANS)}; this one only has {', '.join(means)}")
        if any(mean.shape != (width,) or not mean.isfinite().all() for mean in means.values()):
            raise ValueError(f"the means by which a catalogue is centred must be finite and of width {width}")
        on_device: dict[str, Any] = {name: mean.to(model.device) for name, mean in means.items()}
        scorer = CatalogueScorer(model, embeddings, **on_device)
        return cls.build(item_columns(items), scorer, checkpoint, histories)

    @classmethod
    def load(cls, file: str, model: TransRecPreTrainedModel, checkpoint: str) -> "Catalogue":
        """Reads the file that [`save`] wrote; arguments and errors as in [`from_dataset`], which name the file."""
        with named_file(file):
            dataset, found = _read(file)
            means: dict[str, Any] = {
                name: torch.from_numpy(np.frombuffer(bytes.fromhex(found[name]), np.float32).copy())
                for name in _MEANS
                if name in found
            }
            made_by = dataset.unique(CHECKPOINT) if CHECKPOINT in dataset.column_names else []
            is_same = checkpoint in found.get(_OTHER_DTYPES, "").split()
            return cls.from_dataset(dataset, model, checkpoint, same_checkpoint=made_by if is_same else (), **means)

    def save(self, folder: Path, other_dtypes: Sequence[str] = ()) -> None:
        """Writes the catalogue into a checkpoint's folder, the means by which scores are centred in the same file.

        Args:
            folder: the checkpoint's folder.
            other_dtypes: hashes of the checkpoint in other dtypes, in which it may be loaded to use the catalogue.
        """
        path = folder / CATALOGUE_FILE
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(f"{path.name}.unfinished")
        dataset = self.to_dataset()
        with pq.ParquetWriter(unfinished, dataset.features.arrow_schema, write_page_index=True) as writer:
            for batch in dataset.with_format("arrow").iter(batch_size=10_000):
                writer.write_table(batch)
            writer.add_key_value_metadata({_OTHER_DTYPES: " ".join(other_dtypes)})
            if self.scorer.user_mean is not None:
                means = {name: getattr(self.scorer, name).float().cpu().numpy() for name in _MEANS}
                writer.add_key_value_metadata({name: mean.tobytes().hex() for name, mean in means.items()})
        unfinished.replace(path)

    def to_dataset(self) -> datasets.Dataset:
        """Returns the items' columns, their embeddings `vector` and the hash of the `checkpoint` that made them."""
        embeddings = self.item_embeddings.float().cpu().numpy()
        features = {
            EMBEDDING: datasets.List(datasets.Value("float32"), length=embeddings.shape[1]),
            CHECKPOINT: datasets.Value("string"),
        }
        columns = {EMBEDDING: embeddings, CHECKPOINT: [self.checkpoint] * len(embeddings)}
        added = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        return datasets.concatenate_datasets([self.items, added], axis=1)

    def __len__(self) -> int:
        return len(self.all_ids) - self.num_removed

    def __contains__(self, item_id: Any) -> bool:
        return self.index_of.get(item_id, -1) >= 0

    @functools.cached_property
    def catalogue_index(self) -> np.ndarray:
        """Indices of the items that have not been removed."""
        if self.is_candidate is None:
            return np.arange(len(self.all_ids))
        return np.flatnonzero(self.is_candidate.cpu().numpy())

    @functools.cached_property
    def items(self) -> datasets.Dataset:
        """Columns of the items that have not been removed."""
        items = datasets.Dataset(self._columns.cast(self.features.arrow_schema))
        return items if self.is_candidate is None else items.select(self.catalogue_index)

    @functools.cached_property
    def item_ids(self) -> list[str]:
        """Ids of the items that have not been removed."""
        return [self.all_ids[index] for index in self.catalogue_index.tolist()]

    @functools.cached_property
    def item_embeddings(self) -> torch.Tensor:
        """Embeddings `(V, D)` of the items that have not been removed."""
        embeddings = self.scorer.item_embeddings
        return embeddings if self.is_candidate is None else embeddings[self.is_candidate]

    def histories_as_indices(self, histories: Sequence[Sequence[str]]) -> torch.Tensor:
        """Returns histories of item ids as indices into the catalogue `(B, L)`, padded with -1 on the left.

        Raises:
            ValueError: if a history is empty or has an item that is not in the catalogue.
        """
        indices = [self._indices_of(history) for history in histories]
        if not all(indices):
            raise ValueError("a history is empty, which says nothing about the user: leave it out")
        return torch.tensor(indices) if len(indices) == 1 else torch.from_numpy(left_pad_lists(indices))

    def _indices_of(self, item_ids: Sequence[str]) -> list[int]:
        indices = [self.index_of.get(item_id, -1) for item_id in item_ids]
        if -1 in indices:
            unknown = item_ids[indices.index(-1)]
            ids = "" if isinstance(unknown, str) else f"; ids are strings, such as {self.all_ids[0]!r}"
            raise ValueError(f"item {unknown!r} is not in the indexed catalogue of {len(self)} items{ids}")
        return indices

    def top_k(
        self,
        histories: torch.Tensor,
        k: int,
        exclude_seen: bool = True,
        user_inputs: UserInputs | None = None,
        where: Where | None = None,
        diversity: float = 0.0,
    ) -> list[list[dict]]:
        """Returns the best items `{"item_id", "score"}` of each user.

        Args:
            histories, k, exclude_seen, user_inputs: as in [`CatalogueScorer.top_k`].
            where, diversity: as in [`Recommender.recommend`].
        """
        is_candidate, scorer = self.candidates(where), self.scorer
        if scorer.nearest is not None and isinstance(where, Mapping):
            wanted = wanted_values(where, self._columns.schema)
            values = {name: one.to_pylist() for name, one in wanted.items()}
            scorer = scorer.replace(nearest=cast(Any, scorer.nearest).filtered(values))
        several = k if diversity == 0 else _CHOOSE_FROM * k
        with torch.inference_mode():
            scores, indices = scorer.top_k(histories, several, exclude_seen, is_candidate, user_inputs)
            if diversity > 0:
                chosen = self._diverse(scores, indices, k, diversity)
                scores, indices = scores.gather(1, chosen), indices.gather(1, chosen)
        return self._named(scores, indices)

    def _named(self, scores: torch.Tensor, indices: torch.Tensor) -> list[list[dict]]:
        """Returns `{"item_id", "score"}` of each score and index `(B, K)`."""
        return [
            [
                {"item_id": self.all_ids[index], "score": score}
                for index, score in zip(user_indices, user_scores, strict=True)
                if score > float("-inf")  # fewer than k candidates were left
            ]
            for user_indices, user_scores in zip(indices.tolist(), scores.tolist(), strict=True)
        ]

    def _diverse(self, scores: torch.Tensor, indices: torch.Tensor, k: int, diversity: float) -> torch.Tensor:
        """Returns places `(B, K)` among the best items `(B, C)`, see [`maximal_marginal_relevance`]."""
        embeddings = self.scorer.item_embeddings
        return torch.cat(
            [
                maximal_marginal_relevance(scores[block], embeddings[indices[block]], k, diversity)
                for block in user_blocks(len(scores), indices.shape[1] * embeddings.shape[1])
            ]
        )

    def candidates(self, where: Where | None = None) -> torch.Tensor | None:
        """Returns `(V,)` booleans: which items are there, and pass a filter; `None` where all are."""
        if where is None:
            return self.is_candidate
        if not isinstance(where, Mapping):
            return self._passing(where)
        kept, key = self._filters, repr(sorted(where.items(), key=str))  # in which 1 is not True
        found = kept.get(key)
        if found is None:
            found = self._passing(where)
            if len(kept) >= _FILTERS_KEPT:
                kept.clear()
            kept[key] = found
        return found

    def _passing(self, where: Where) -> torch.Tensor:
        passes = torch.from_numpy(matching(self._columns, where)).to(self.scorer.item_embeddings.device)
        return passes if self.is_candidate is None else passes & self.is_candidate

    @functools.cached_property
    def _filters(self) -> dict[str, torch.Tensor]:
        """Items that pass the filters of late."""
        return {}

    @functools.cached_property
    def _columns(self) -> pa.Table:
        """Columns of the items at every index; what was added is copied into one part, which is read faster."""
        built, *added = self.parts
        return pa.concat_tables([built, pa.concat_tables(added).combine_chunks()]) if added else built

    def explained(
        self, found: list[list[dict]], histories: torch.Tensor, user_inputs: UserInputs | None = None
    ) -> list[list[dict]]:
        """Returns what [`top_k`] found, with the parts of each score, see [`explain`]."""
        several = []
        for number, recommended in enumerate(found):
            history = histories[number][histories[number] >= 0]
            index = torch.tensor(self._indices_of([one["item_id"] for one in recommended]), dtype=torch.long)
            parts = explain(
                self.scorer, history, index, None if user_inputs is None else user_inputs[number : number + 1]
            )
            for part in parts:
                part["because_of"] = None if part["because_of"] is None else self.all_ids[part["because_of"]]
            if self.scorer.reranker is not None:
                for one, part in zip(recommended, parts, strict=True):
                    part["reranking"] = one["score"] - sum(
                        part[name] for name in ("model", "transitions", "popularity")
                    )
            several.append([one | part for one, part in zip(recommended, parts, strict=True)])
        return several

    def similar(self, item_ids: Sequence[str], k: int) -> list[list[dict]]:
        """Returns the items whose embeddings have the highest cosine with each item's, without itself."""
        index, embeddings = torch.tensor(self._indices_of(item_ids)), self.scorer.item_embeddings
        found: list[list[dict]] = []
        for block in user_blocks(len(index), len(embeddings)):
            items = index[block].to(embeddings.device)
            likeness = dot_products(embeddings[items] / self._lengths[items, None], embeddings).div_(self._lengths)
            if self.is_candidate is not None:
                likeness.masked_fill_(~self.is_candidate, float("-inf"))
            likeness.scatter_(1, items[:, None], float("-inf"))
            scores, indices = likeness.topk(min(k, len(self) - 1))
            found += self._named(scores, indices)
        return found

    @functools.cached_property
    def _lengths(self) -> torch.Tensor:
        """Lengths of the item embeddings `(V,)`, tiny for those that are 0."""
        lengths = torch.linalg.vector_norm(self.scorer.item_embeddings, dim=1)
        return lengths.clamp(min=torch.finfo(lengths.dtype).tiny)

    def scores_of(self, histories: Sequence[Sequence[str]], item_ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns the scores of some items for each history."""
        candidates = [self._indices_of(one) for one in item_ids]
        found: list[list[float]] = []
        for block in user_blocks(len(histories)):
            indices = torch.from_numpy(left_pad_lists(candidates[block])).clamp(min=0)
            indices = indices.to(self.scorer.item_embeddings.device)
            users = self.histories_as_indices(histories[block])
            scores = self.scorer.scores_of(users, indices, is_candidate=self.is_candidate).tolist()
            found += [one[len(one) - len(wanted) :] for one, wanted in zip(scores, candidates[block], strict=True)]
        return found

    def with_transitions(self, transitions: Transitions) -> "Catalogue":
        """Returns the same items with other counts; what is known of the items stays known."""
        other = dataclasses.replace(self, scorer=self.scorer.replace(transitions=transitions))
        given = {field.name for field in dataclasses.fields(self)}
        vars(other).update({name: value for name, value in vars(self).items() if name not in given})
        return other

    def most_popular(self, k: int, where: Where | None = None) -> list[dict]:
        """Returns the items that occur most often, at most `k` of those that pass the filter; `"score"` is how often.

        Raises:
            ValueError: if no interactions are counted.
        """
        if self.scorer.transitions is None:
            raise ValueError(
                "which items are popular is unknown: give the platform's interactions to "
                "index(items, histories=interactions)"
            )
        index = self.scorer.in_transitions(self.catalogue_index)
        counts = np.where(index >= 0, self.scorer.transitions.item_counts[index], 0)
        passes = None if where is None else self.candidates(where)
        if passes is not None:
            counts = counts * passes.cpu().numpy()[self.catalogue_index]
        best, found = top_items(torch.from_numpy(counts)[None], min(k, len(self)))
        index = self.catalogue_index[found[0].numpy()]
        return [
            {"item_id": self.all_ids[one], "score": count}
            for one, count in zip(index.tolist(), best[0].tolist(), strict=True)
            if count > 0
        ]

    def with_items(self, items: datasets.Dataset, item_embeddings: torch.Tensor) -> "Catalogue":
        """Returns the catalogue with more items; one whose id is there already replaces it, and keeps its counts."""
        item_ids, old = items["item_id"][:], len(self.all_ids)
        replaced = [index for item_id in item_ids if (index := self.index_of.get(item_id, -1)) >= 0]
        is_candidate = self._without(replaced)
        if is_candidate is not None:
            is_candidate = torch.cat([is_candidate, is_candidate.new_ones(len(item_ids))])
        changed = dataclasses.replace(
            self,
            parts=self.parts.grown([items.with_format("arrow")[:]]),
            all_ids=self.all_ids.grown(item_ids),
            index_of=self.index_of.changed(dict(zip(item_ids, range(old, old + len(item_ids)), strict=True))),
            scorer=self._with_counts_of(item_ids).with_items(item_embeddings),
            num_removed=self.num_removed + len(replaced),
            is_candidate=is_candidate,
        )
        return changed._rebuilt_if_due()

    def _with_counts_of(self, item_ids: list[str]) -> CatalogueScorer:
        """Returns the scorer, in whose transitions more items of the catalogue are found, old ones and new ones."""
        scorer, old = self.scorer, len(self.all_ids)
        if scorer.transitions is None:
            return scorer
        transitions = scorer.transitions.with_items([one for one in item_ids if one not in scorer.transitions])
        index, before = transitions.index_of(item_ids), scorer.transition_index
        if before is None and np.array_equal(index, np.arange(old, old + len(item_ids))):
            return scorer.replace(transitions=transitions)
        before = scorer.in_transitions(np.arange(old)) if before is None else before
        return scorer.replace(transitions=transitions, transition_index=np.append(before, index))

    def without_items(self, item_ids: Sequence[str]) -> "Catalogue":
        """Returns the catalogue without these items.

        Raises:
            ValueError: if one of them is not in the catalogue, or none would be left.
        """
        removed = sorted(set(self._indices_of(item_ids)))
        if len(removed) == len(self):
            raise ValueError("no item would be left to recommend")
        changed = dataclasses.replace(
            self,
            index_of=self.index_of.changed(dict.fromkeys(item_ids, -1)),
            num_removed=self.num_removed + len(removed),
            is_candidate=self._without(removed),
        )
        return changed._rebuilt_if_due()

    def with_index(self, index: ItemIndex) -> "Catalogue":
        """Returns the catalogue searched by an index, which then has the items of the catalogue and no others.

        Raises:
            ValueError: if the index has vectors of another checkpoint or catalogue.
        """
        searched = self if index.follows_changes else self.rebuilt()
        candidates, is_candidate = searched.scorer.candidates, searched.is_candidate
        claim(index, searched.stamp)
        fill(
            index,
            searched.item_ids,
            candidates if is_candidate is None else candidates[is_candidate],
            searched.items.with_format("arrow")[:],
        )
        return searched._searched_by(index)

    def with_change_of(
        self, index: ItemIndex, added: datasets.Dataset | None = None, removed: Sequence[str] = ()
    ) -> "Catalogue":
        """Returns the catalogue searched by an index that follows it.

        Args:
            index: has the items of the catalogue before the change, with vectors of the same [`stamp`].
            added, removed: columns of the items that came, and ids of those that went.
        """
        if removed:
            index.remove(removed)
        if added is not None:
            item_ids = added["item_id"][:]
            index.add(item_ids, self.scorer.candidates[self._indices_of(item_ids)], added.with_format("arrow")[:])
        return self._searched_by(index)

    def _searched_by(self, index: ItemIndex) -> "Catalogue":
        follows = index.follows_changes
        nearest = FollowingIndex(index, self.index_of, len(self.all_ids)) if follows else BuiltIndex(index)
        return dataclasses.replace(self, scorer=self.scorer.replace(nearest=nearest))

    @functools.cached_property
    def stamp(self) -> str:
        """Hash of the checkpoint and of what else makes the vectors that are searched, such as means."""
        digest = hashlib.sha256(self.checkpoint.encode())
        tensors = [mean for mean in (self.scorer.user_mean, self.scorer.item_mean) if mean is not None]
        model = self.scorer.model
        if isinstance(model, ContentKNN):
            digest.update(repr(sorted(model.weights.items())).encode())
            tensors += [part for one in model.whitenings.values() for part in (one.mean, one.matrix)]
        for tensor in tensors:
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _without(self, removed: Sequence[int]) -> torch.Tensor | None:
        """Returns `is_candidate` with some more items removed."""
        if not removed:
            return self.is_candidate
        device = self.scorer.item_embeddings.device
        if self.is_candidate is None:
            is_candidate = torch.ones(len(self.all_ids), dtype=torch.bool, device=device)
        else:
            is_candidate = self.is_candidate.clone()
        is_candidate[torch.tensor(removed, device=device)] = False
        return is_candidate

    def _rebuilt_if_due(self) -> "Catalogue":
        changed = max(len(self.all_ids) - self.num_built, self.num_removed)
        is_due = changed > self.num_built // _SHARE_BEFORE_REBUILDING + 1024
        return self.rebuilt() if is_due else self

    def rebuilt(self) -> "Catalogue":
        """Returns the catalogue without the indices of removed items, centred by the mean of those that are there."""
        if len(self.all_ids) == self.num_built == len(self):
            return self
        old, kept = self.scorer, self.catalogue_index
        scorer = old.replace(
            item_embeddings=self.item_embeddings,
            item_mean=None,
            item_scores=None if old.item_scores is None else old.item_scores[torch.from_numpy(kept)],
            transitions=None if old.transitions is None else old.transitions.aligned(self.item_ids),
            transition_index=None,
            nearest=None,
            room=0,
        )
        return self.build(self.items, scorer, self.checkpoint)


def _read(file: str) -> tuple[datasets.Dataset, dict[str, str]]:
    """Returns the rows of a Parquet file, which need no cache that can be written to, and its metadata.

    Raises:
        ValueError: if they are no catalogue's, or would take far more memory than the file's size tells.
    """
    opened, num_bytes, batches = pq.ParquetFile(file), 0, []
    most = max(_MOST_BYTES, 100 * os.path.getsize(file))
    check_names(opened.schema_arrow.names)

    def check(found: int) -> None:
        if found > most:
            raise ValueError(f"its rows take more than {most:,} bytes, far more than the file, and are not read")

    groups = (opened.metadata.row_group(number) for number in range(opened.num_row_groups))
    check(sum(group.total_byte_size for group in groups))  # as it says itself; texts of categories grow further
    for batch in opened.iter_batches(_READ_AT_A_TIME):
        num_bytes += batch.nbytes
        check(num_bytes)
        batches.append(batch)
    table = pa.Table.from_batches(batches, opened.schema_arrow)
    found = {name.decode(): value.decode() for name, value in (opened.metadata.metadata or {}).items()}
    return datasets.Dataset(table), found
