"""What a practitioner holds: a model, its processor and an encoded catalogue, to ask for recommendations."""

import logging
from collections.abc import Sequence

import datasets
import torch

from .data import prepare_items
from .data_collator import left_pad_lists
from .modeling_transrec import TransRecModel, TransRecPreTrainedModel
from .processing_transrec import TransRecProcessor
from .scoring import centered_cosine, encode_catalogue, top_items


logger = logging.getLogger(__name__)

# Arguments of `from_pretrained` that say where files come from: they hold for the processor, too.
_HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


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
    ```
    """

    def __init__(self, model: TransRecPreTrainedModel, processor: TransRecProcessor):
        self.model = model.eval()
        self.processor = processor
        self.item_ids: list[str] = []
        self.item_vectors: torch.Tensor | None = None  # (V, D)
        self._rows: dict[str, int] = {}
        self._means: tuple[torch.Tensor, torch.Tensor] | None = None  # of users and items, where scores are centred

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs) -> "Recommender":
        """Loads model and processor from a Hub id or a folder. `kwargs` are those of the model's `from_pretrained`."""
        shared = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        model = TransRecModel.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(model, TransRecProcessor.from_pretrained(pretrained_model_name_or_path, **shared))

    @torch.no_grad()
    def index(
        self,
        items: datasets.Dataset | Sequence[dict],
        chunk_size: int = 256,
        histories: Sequence[Sequence[str]] | None = None,
    ) -> "Recommender":
        """Encodes the catalogue to recommend from; replaces an earlier one.

        A model of content and ids goes on with content alone where an item is new to it.

        Args:
            items: `item_id` and what the processor reads, such as `text_en`: a data set or a list of dicts.
            chunk_size: items encoded at a time.
            histories: item ids of some users of this platform, a few hundred or more, for a model that has not been
                trained on it: scores are then centred cosines, see [`centered_cosine`], in place of the model's own.

        Returns: itself.
        """
        if not isinstance(items, datasets.Dataset):
            items = datasets.Dataset.from_list(list(items))
        if len(items) == 0:
            raise ValueError("there are no items to index")
        if "item_id" not in items.column_names:
            raise ValueError(f"items need a column item_id; they have {', '.join(items.column_names)}")
        item_ids = list(items["item_id"])
        if not all(isinstance(item_id, str) for item_id in item_ids):
            raise ValueError("item_id must be a string in every item; ids are never numbers")
        rows = {item_id: row for row, item_id in enumerate(item_ids)}
        if len(rows) != len(item_ids):
            raise ValueError("items have an item_id twice; ids must be distinct")
        self.processor = drop_foreign_ids(self.model, self.processor, item_ids)
        prepared = prepare_items(items, self.processor)
        self.item_vectors = encode_catalogue(self.model, prepared, self.processor, chunk_size)
        self.item_ids, self._rows = item_ids, rows
        self._means = None
        if histories is not None:
            parts = [histories[start : start + 256] for start in range(0, len(histories), 256)]
            users = torch.cat([self._encode_users(self._histories_as_rows(part)) for part in parts])
            self._means = users.mean(dim=0), self.item_vectors.mean(dim=0)
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
        if self.item_vectors is None:
            raise ValueError("there is no catalogue yet: call index(items) first")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if isinstance(history, str):
            raise ValueError("history must be a list of item ids, not one id")
        history = list(history)
        single = not history or not isinstance(history[0], list | tuple)
        seen = self._histories_as_rows([history] if single else history)  # (B, L)
        users = self._encode_users(seen, self._user_rows(user_id, len(seen)))
        if self._means is not None:
            scores = centered_cosine(users, self.item_vectors, *self._means)
        else:
            scores = self.model.to_scoring_space(users) @ self.model.to_scoring_space(self.item_vectors).T
        scores, rows = top_items(scores, k, seen if exclude_seen else None)
        found = [
            [
                {"item_id": self.item_ids[row], "score": score}
                for row, score in zip(user_rows, user_scores, strict=True)
                if score > float("-inf")  # fewer than k candidates were left
            ]
            for user_rows, user_scores in zip(rows.tolist(), scores.tolist(), strict=True)
        ]
        return found[0] if single else found

    def _histories_as_rows(self, histories: Sequence[Sequence[str]]) -> torch.Tensor:
        """Item ids to rows of the catalogue `(B, L)`, -1 at padding on the left."""
        rows = [[self._row(item_id) for item_id in history] for history in histories]
        if not all(rows):
            raise ValueError("an empty history says nothing about the user; recommend popular items instead")
        return torch.from_numpy(left_pad_lists(rows)).to(self.model.device)

    def _encode_users(self, histories: torch.Tensor, user_rows: torch.Tensor | None = None) -> torch.Tensor:
        """Rows of the catalogue `(B, L)` to user vectors `(B, D)`, float32."""
        self.item_vectors = self.item_vectors.to(self.model.device)
        inputs = histories[:, -self.model.config.max_seq_len :]
        mask = inputs >= 0
        vectors = self.item_vectors[inputs.clamp(min=0)] * mask[:, :, None]
        return self.model.get_user_features(vectors.to(self.model.dtype), mask, user_rows).float()

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
