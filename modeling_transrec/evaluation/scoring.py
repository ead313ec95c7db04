"""Scores over a whole catalogue: encode it once, rank targets, take the best. Nothing loops over users.

Shapes: `B` users, `L` history length, `V` catalogue items, `S` seen items, `D` hidden size, `K` cut-off.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets.utils import tqdm
from filelock import FileLock

from ..models.modeling_transrec import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor


_SCORES_IN_CACHE = 2**19  # that a CPU compares at a time
# Of the configuration, what decides about features beside the weights.
_MAKING_FEATURES = ("text_config", "vision_config", "multimodal_config", "text_pooling", "image_pooling")


def text_lengths(items: datasets.Dataset) -> np.ndarray:
    """Number of tokens of each item's text `(V,)`."""
    batches = items.with_format("arrow").iter(batch_size=100_000)
    return np.concatenate([pc.list_value_length(batch["input_ids"]).to_numpy() for batch in batches])


def item_chunks(items: datasets.Dataset, chunk_size: int) -> list[np.ndarray]:
    """Rows of the catalogue in chunks, items of like text length together, so that little is padded."""
    if "input_ids" in items.column_names:
        lengths = text_lengths(items) if isinstance(items, datasets.Dataset) else items.text_lengths
        order = np.argsort(lengths, kind="stable")
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
        inputs = processor.normalize(processor.pad(items[rows]).to(model.device))
        yield rows, model.get_item_features(**inputs).float()


class PrecomputedItems:
    """The features of frozen backbones in place of texts and pictures, by row of the catalogue; read from disk.

    Args:
        folder: with `text_features.npy`, `image_features.npy` and `item_features.npy` `(V, H)`, `item_ids.npy`
            `(V,)`, any of them; and `has_text.npy` and `has_image.npy` `(V,)`, false where an item has none.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.columns = {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}
        self.has_image = self.columns.pop("has_image", None)
        self.column_names = list(self.columns)

    def __reduce__(self):
        return type(self), (self.folder,)  # a worker that is started anew maps the files, too

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
    model: TransRecPreTrainedModel,
    items: datasets.Dataset,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    cache_dir: str | None = None,
) -> PrecomputedItems:
    """What the frozen backbones make of every item, which can stand for the items in training.

    It is computed once, and kept in the cache of `datasets` for other runs with the same items and weights.

    Args:
        model: with frozen backbones, see [`~TransRecPreTrainedModel.freeze_backbone`].
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.
        cache_dir: folder of the cache; by default that of `datasets`.
    """
    with computed_once(features_cache(cache_dir) / _features_fingerprint(model, items)) as (folder, unfinished):
        if unfinished is not None:
            _compute_features(model, items, processor, chunk_size, unfinished)
    return PrecomputedItems(folder)


def features_cache(cache_dir: str | None = None) -> Path:
    """The folder of all that frozen backbones make of items; by default in the cache of `datasets`."""
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "transrec_features"


@contextlib.contextmanager
def computed_once(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """A folder of the cache, and where to write what will be in it; `None` if it is there already.

    Of two runs the second waits for the first. What was not written to its end is never taken for the whole.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            yield folder, None
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as unfinished:
            yield folder, Path(unfinished)
            Path(unfinished).rename(folder)


def _compute_features(model, items, processor, chunk_size: int, folder: Path) -> None:
    encoder, columns = model.item_encoder, {}
    for rows in tqdm(item_chunks(items, chunk_size), desc="Computing the frozen backbone's features"):
        inputs = processor.normalize(processor.pad(items[rows]).to(model.device))
        kept = {name: inputs.pop(name) for name in ("item_ids", "has_text") if name in inputs}
        found = {**encoder.features(**inputs), **kept}
        if "image_features" in found:
            features, image_index = found["image_features"], inputs["image_index"]
            found["has_image"] = image_index >= 0
            found["image_features"] = torch.cat([features, features.new_zeros(1, features.shape[1])])[image_index]
        for name, values in found.items():
            values = values.float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()
            if name not in columns:
                columns[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", values.dtype, (len(items), *values.shape[1:])
                )
            columns[name][rows] = values
    for values in columns.values():
        values.flush()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast computes at, `None` where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _features_fingerprint(model: TransRecPreTrainedModel, items: datasets.Dataset) -> str:
    """Changes with the items, the backbones' configurations and weights, and the precision that they run at."""
    config, encoder = model.config.to_dict(), model.item_encoder
    parts = [items._fingerprint, type(model.item_encoder).__name__, str(model.device.type)]
    parts += [str(config.get(name)) for name in _MAKING_FEATURES]
    parts.append(str(autocast_dtype(model.device)))
    digest = hashlib.sha256("\n".join(parts).encode())
    for backbone in encoder.backbones:
        add_tensors(digest, backbone.state_dict())
    return digest.hexdigest()[:32]


def add_tensors(digest, tensors: dict[str, torch.Tensor]) -> None:
    """Names, types, shapes and values of tensors into a digest of `hashlib`."""
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


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


def center(vectors: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Vectors `(N, D)` minus their mean `(D,)`, at length 1: their products are the scores for unseen catalogues.

    On a catalogue that a model has not seen, the vectors share a large common part, and the model's own scores rank
    the same few items first for everybody. Centring users, by the mean over users of the same platform, and items, by
    the mean over the catalogue, takes it out (Suzuki et al., "Centering Similarity Measures to Reduce Hubs", EMNLP
    2013).
    """
    return torch.nn.functional.normalize(vectors - mean, dim=1)


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
    lines = max(1, _SCORES_IN_CACHE // scores.shape[1]) if scores.device.type == "cpu" else len(scores)
    parts = zip(scores.split(lines), target_scores.split(lines), strict=True)
    counts = [torch.stack([count(torch.gt, *part), count(torch.eq, *part)]) for part in parts]
    num_better, num_equal = torch.cat(counts, dim=1)
    return num_better, num_equal - 1


def count(compare: Callable, scores: torch.Tensor, target_scores: torch.Tensor) -> torch.Tensor:
    """For how many of each line's scores `(B, V)` the comparison with the target's `(B, 1)` holds: `(B,)`.

    A CPU compares into numbers of the scores' own type, for which it has vector instructions, and adds those up; exact
    to 2**24 items.
    """
    marks = torch.empty_like(scores, dtype=scores.dtype if scores.device.type == "cpu" else torch.bool)
    return compare(scores, target_scores, out=marks).sum(dim=1, dtype=torch.float32).long()


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
