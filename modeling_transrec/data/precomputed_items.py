"""Items with what frozen weights make of them, computed once, kept on disk and read from there.

Shapes: `V` catalogue items, `H` width of a backbone.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets.utils import tqdm

from ..models.modalities import BACKBONES, MODALITIES
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..ninerec.whole_folders import made_once
from .cache import features_cache, features_digest
from .preparation import PreparedItems, item_chunks


logger = logging.getLogger(__name__)


class StoredArray:
    """An array of the catalogue's items on disk, `values.npy`.

    It has one entry for each item; for some of the items, with `is_there.npy` `(V,)`; or several for each, one item's
    after the other's, with `offsets.npy` `(V + 1,)`.
    """

    def __init__(self, folder: Path):
        self.values = np.load(folder / "values.npy", mmap_mode="r")
        self.beside = {file.stem: np.load(file) for file in folder.glob("*.npy") if file.stem != "values"}

    @staticmethod
    def create(folder: Path, num_items: int, example: torch.Tensor, beside: dict[str, np.ndarray]) -> np.memmap:
        """Makes the files of an array whose entries are like those of an example; returns the values to be written."""
        folder.mkdir()
        for name, values in beside.items():
            np.save(folder / f"{name}.npy", values)
        shape = (int(beside["offsets"][-1]) if "offsets" in beside else num_items, *example.shape[1:])
        return np.lib.format.open_memmap(folder / "values.npy", "w+", bits(example).dtype, shape)

    def __getitem__(self, index: np.ndarray) -> Sequence:
        if "is_there" in self.beside:
            return [self.values[one] if self.beside["is_there"][one] else None for one in index]
        return np.asarray(self.values)[entries(index, self.beside)]


def entries(index: np.ndarray, beside: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the entries of items in the file of a [`StoredArray`]."""
    if "offsets" in beside:
        return ranges(beside["offsets"][index], beside["offsets"][index + 1])
    return index[beside["is_there"][index]] if "is_there" in beside else index


class PrecomputedItems:
    """Prepared items with what is precomputed, in place of what it was computed from or, for states of texts, beside.

    Args:
        items: prepared items in catalogue order, see [`prepare_items`].
        folders: of a [`StoredArray`] each, by the name of the model's input.
    """

    def __init__(self, items: datasets.Dataset, folders: dict[str, Path]):
        self.items, self.folders, self.length = items, folders, len(items)
        self.arrays = {name: StoredArray(folder) for name, folder in folders.items()}
        replaced: set[str] = set()
        for name, modality in MODALITIES.items():
            stand_ins = {f"{name}_features"} | ({f"{name}_states"} if modality.is_sparse else set())
            if name in BACKBONES["multimodal"].reads:
                stand_ins.add("item_features")
            if stand_ins & set(folders):
                replaced |= set(modality.stored) - {"has_text"}
        left = [name for name in items.column_names if name not in replaced]
        self.column_names = [*left, *folders]
        small = [name for name in left if name in ("has_text", "item_ids")]
        self.small = {name: items.with_format("numpy")[name][:] for name in small}
        rest = [name for name in left if name not in small]
        self.rest = items.select_columns(rest) if rest else None

    def __reduce__(self):
        return type(self), (self.items, self.folders)  # a worker that is started anew maps the files, too

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: np.ndarray) -> dict[str, Sequence]:
        found = {} if self.rest is None else self.rest[index]
        found |= {name: values[index] for name, values in self.small.items()}
        return found | {name: array[index] for name, array in self.arrays.items()}


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the integers of ranges, one range after the other.

    >>> ranges(np.array([7, 2]), np.array([9, 5]))
    array([7, 8, 2, 3, 4])
    """
    lengths = ends - starts
    return np.arange(lengths.sum()) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)


def bits(states: torch.Tensor) -> np.ndarray:
    """Returns hidden states as numpy has them: bfloat16, which it has not, as uint16."""
    states = states.detach().cpu()
    return (states.view(torch.uint16) if states.dtype == torch.bfloat16 else states).numpy()


def precompute_features(
    model: TransRecPreTrainedModel,
    items: datasets.Dataset,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    cache_dir: str | None = None,
) -> PrecomputedItems:
    """Encodes the catalogue with frozen backbones; the features are kept in the cache for all who need the same.

    Args:
        model: in evaluation mode.
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.
        cache_dir: folder of the cache; by default that of `datasets`.
    """
    arrays: dict[str, np.memmap] = {}
    folder = features_cache(cache_dir) / features_digest(model, items)
    with made_once(folder) as unfinished:
        if unfinished is not None:
            logger.info("The backbone is frozen: its features of %d items are computed once", len(items))
            there = which_are_there(items)
            for index in tqdm(item_chunks(items, chunk_size), desc="Computing the frozen backbone's features"):
                with torch.no_grad():
                    found = model.item_encoder.features(**processor.pad(items[index]).to(model.device))
                for name, features in found.items():
                    is_there = there.get(name.removesuffix("_features"))
                    beside = {} if is_there is None else {"is_there": is_there}
                    if name not in arrays:
                        arrays[name] = StoredArray.create(unfinished / name, len(items), features.float(), beside)
                    arrays[name][entries(index, beside)] = features.float().cpu().numpy()
            for array in arrays.values():
                array.flush()
    return _read_features(items, folder)


def _read_features(items: datasets.Dataset, folder: Path) -> PrecomputedItems:
    return PrecomputedItems(items, {path.name: path for path in sorted(folder.iterdir())})


def with_known_features(
    model: TransRecPreTrainedModel, items: datasets.Dataset, cache_dir: str | None = None
) -> PreparedItems:
    """Returns items with their features where [`precompute_features`] has kept them of the same backbones and items.

    So what a training with frozen backbones has computed is not computed again for its checkpoint. Other items are
    returned as they are, and nothing is computed.

    Args:
        model, items, cache_dir: as there.
    """
    cache = features_cache(cache_dir)
    if not model.item_encoder.takes_features or not cache.is_dir() or not any(cache.iterdir()):
        return items
    folder = cache / features_digest(model, items)
    return _read_features(items, folder) if folder.is_dir() else items


def which_are_there(items: datasets.Dataset) -> dict[str, np.ndarray]:
    """Returns which items `(V,)` have a content, by the modality."""
    found = {}
    for modality in MODALITIES.values():
        column = next(iter(modality.stored))
        if modality.is_sparse and column in items.column_names:
            batches = items.select_columns([column]).with_format("arrow").iter(batch_size=10_000)
            found[modality.name] = np.concatenate([pc.is_valid(batch[column]).to_numpy() for batch in batches])
    return found
