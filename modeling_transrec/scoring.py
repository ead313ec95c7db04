"""Scores over a whole catalogue: encode it once, rank targets, take the best. Nothing loops over users.

Shapes: `B` users, `L` history length, `V` catalogue items, `S` seen items, `D` hidden size, `K` cut-off.
"""

from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import torch

from .modeling_transrec import TransRecPreTrainedModel
from .processing_transrec import TransRecProcessor


def item_chunks(items: datasets.Dataset, chunk_size: int) -> list[np.ndarray]:
    """Rows of the catalogue in chunks, items of like text length together, so that little is padded."""
    if "input_ids" in items.column_names:
        order = np.argsort([len(ids) for ids in items["input_ids"]], kind="stable")
    else:
        order = np.arange(len(items))
    return [order[start : start + chunk_size] for start in range(0, len(order), chunk_size)]


@torch.no_grad()
def encode_items(
    model: TransRecPreTrainedModel,
    items: datasets.Dataset,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    process_index: int = 0,
    num_processes: int = 1,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Item vectors of the chunks that fall to this process.

    Args:
        model: in evaluation mode.
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.
        process_index, num_processes: chunks are dealt out in turn, so they are the same for any number of processes.

    Yields: rows of the catalogue `(C,)` and their vectors `(C, D)`, float32.
    """
    for rows in item_chunks(items, chunk_size)[process_index::num_processes]:
        inputs = processor.pad(items[rows]).to(model.device)
        yield rows, model.get_item_features(**inputs).float()


class PrecomputedItems:
    """The features of frozen backbones in place of texts and pictures, by row of the catalogue.

    Args:
        columns: `text_features` `(V, H)`, `image_features` `(V, H)`, `item_ids` `(V,)`, any of them.
        has_image: `(V,)` booleans, false where an item has no picture.
    """

    def __init__(self, columns: dict[str, np.ndarray], has_image: np.ndarray | None = None):
        self.columns, self.has_image = columns, has_image
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows: np.ndarray) -> dict[str, Sequence]:
        items = {name: values[rows] for name, values in self.columns.items()}
        if self.has_image is not None:
            present = self.has_image[rows]
            vectors = items["image_features"]
            items["image_features"] = [vectors[place] if here else None for place, here in enumerate(present)]
        return items


@torch.no_grad()
def precompute_features(
    model: TransRecPreTrainedModel, items: datasets.Dataset, processor: TransRecProcessor, chunk_size: int = 256
) -> PrecomputedItems:
    """What the frozen backbones make of every item: computed once, it can stand for the items in training.

    Args:
        model: with frozen backbones, see [`~TransRecPreTrainedModel.freeze_backbone`].
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.
    """
    encoder, columns, has_image = model.item_encoder, {}, None
    for rows in item_chunks(items, chunk_size):
        inputs = processor.pad(items[rows]).to(model.device)
        found = {}
        if encoder.text is not None:
            found["text_features"] = encoder.text.features(inputs["input_ids"], inputs["attention_mask"])
        if encoder.image is not None:
            features, image_index = encoder.image.features(inputs["pixel_values"]), inputs["image_index"]
            has_image = np.zeros(len(items), dtype=bool) if has_image is None else has_image
            has_image[rows] = (image_index >= 0).cpu().numpy()
            found["image_features"] = torch.cat([features, features.new_zeros(1, features.shape[1])])[image_index]
        if encoder.id_embedding is not None:
            found["item_ids"] = inputs["item_ids"]
        for name, values in found.items():
            values = values.float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()
            columns.setdefault(name, np.empty((len(items), *values.shape[1:]), values.dtype))[rows] = values
    return PrecomputedItems(columns, has_image)


def encode_catalogue(
    model: TransRecPreTrainedModel, items: datasets.Dataset, processor: TransRecProcessor, chunk_size: int = 256
) -> torch.Tensor:
    """All item vectors `(V, D)` in catalogue order, float32, on the model's device; see [`encode_items`]."""
    catalogue = None
    for rows, vectors in encode_items(model, items, processor, chunk_size):
        if catalogue is None:
            catalogue = vectors.new_empty(len(items), vectors.shape[1])
        catalogue[torch.from_numpy(rows).to(vectors.device)] = vectors
    if catalogue is None:
        raise ValueError("there are no items to encode")
    return catalogue


def centered_cosine(
    users: torch.Tensor, items: torch.Tensor, user_mean: torch.Tensor, item_mean: torch.Tensor
) -> torch.Tensor:
    """Cosine of user and item vectors minus their means: scores `(B, V)` for catalogues that a model has not seen.

    There the vectors share a large common part, and the model's own scores rank the same few items first for
    everybody. Centring takes it out (Suzuki et al., "Centering Similarity Measures to Reduce Hubs", EMNLP 2013).

    Args:
        users: `(B, D)`.
        items: `(V, D)`, the catalogue.
        user_mean: `(D,)` over users of the same platform.
        item_mean: `(D,)` over the catalogue.
    """
    users, items = users - user_mean, items - item_mean
    return torch.nn.functional.normalize(users, dim=1) @ torch.nn.functional.normalize(items, dim=1).T


def remove_seen(scores: torch.Tensor, seen: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Scores `(B, V)` with -inf at the seen items.

    Args:
        scores: `(B, V)`, changed in place.
        seen: `(B, S)` rows of the catalogue, -1 at padding.
        keep: `(B,)` rows that stay candidates although seen: a target that the user comes back to.
    """
    line = torch.arange(len(scores), device=scores.device)
    first = scores[:, 0].clone()
    kept = None if keep is None else scores[line, keep]
    scores.scatter_(1, seen.clamp(min=0), float("-inf"))
    item_zero_is_seen = (seen == 0).any(dim=1)
    scores[:, 0] = torch.where(item_zero_is_seen, scores[:, 0], first)  # padding was sent there
    if keep is not None:
        scores[line, keep] = kept
    return scores


def rank_targets(
    scores: torch.Tensor, targets: torch.Tensor, seen: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many candidates score better than the target, and how many others the same: two `(B,)` of integers.

    Args:
        scores: `(B, V)`; changed in place where `seen` is given.
        targets: `(B,)` rows of the catalogue.
        seen: `(B, S)` rows of items that are no candidates, -1 at padding; the target is one even if seen.

    Raises:
        ValueError: if a score is NaN or the target's is infinite: such a ranking means nothing.

    Example:

    >>> import torch
    >>> scores = torch.tensor([[0.9, 0.5, 0.7, 0.5]])
    >>> rank_targets(scores, targets=torch.tensor([1]), seen=torch.tensor([[0, -1]]))
    (tensor([1]), tensor([1]))
    """
    target_scores = scores.gather(1, targets[:, None])  # (B, 1)
    if torch.isnan(scores.sum(dim=1)).any() or not torch.isfinite(target_scores).all():
        raise ValueError(
            "the model's scores are NaN or infinite, so nothing can be ranked; training has diverged: lower the "
            "learning rate, or look for NaN in the weights"
        )
    if seen is not None:
        scores = remove_seen(scores, seen, keep=targets)
    num_better = (scores > target_scores).sum(dim=1)
    num_tied = (scores == target_scores).sum(dim=1) - 1
    return num_better, num_tied


def top_items(scores: torch.Tensor, k: int, seen: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` best candidates of each user, best first: scores and rows of the catalogue, both `(B, K)`.

    Where fewer than `k` candidates are left, the rest has score -inf.

    Args:
        scores: `(B, V)`; changed in place where `seen` is given.
        k: how many.
        seen: `(B, S)` rows of items that are no candidates, -1 at padding.
    """
    if torch.isnan(scores).any():
        raise ValueError("the model's scores are NaN: nothing can be recommended")
    if seen is not None:
        scores = remove_seen(scores, seen)
    return scores.topk(min(k, scores.shape[1]), dim=1)
