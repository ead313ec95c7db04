"""Items from where a backbone's frozen layers end: their outputs are computed once, and read from disk in every step.

Whether that is right is tried out on a few items first: item vectors and gradients must be those of the whole
backbone. Where they are not, or something trained comes before the frozen layers' end, nothing is replaced.

Shapes: `V` catalogue items, `U` texts, `T` tokens, `P` pictures, `H` width of the hidden states.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets.utils import tqdm
from torch import nn

from ..evaluation.scoring import add_tensors, autocast_dtype, computed_once, features_cache, item_chunks, text_lengths
from ..models.content_encoders import DualEncoder, ImageEncoder, TextEncoder, Tower, ViltEncoder, as_in_pretraining
from ..models.frozen_layers import FrozenLayers, UnsupportedLayers, frozen_layers_of, layers_of
from ..models.modeling_transrec import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor


logger = logging.getLogger(__name__)

_COLUMNS = {"text": "input_ids", "image": "pixels"}
_ITEMS_TO_TRY = 6


class FrozenLayerItems:
    """Prepared items with the outputs of frozen layers: beside the tokens of texts, in place of pictures.

    Args:
        items: prepared items in catalogue order, see [`prepare_items`].
        folders: of `"text"`, `"image"` or both: with `states.npy`, `(V, …)`, and of pictures `has_image.npy` `(V,)`;
            of texts without their padding `(number of tokens, H)`, and `offsets.npy` `(V + 1,)`, where they begin.
    """

    def __init__(self, items: datasets.Dataset, folders: dict[str, Path]):
        self.items, self.folders, self.length = items, folders, len(items)
        left = [name for name in items.column_names if name != "pixels" or "image" not in folders]
        self.rest = items.select_columns(left) if left else None
        self.column_names = [*left, *(f"{part}_states" for part in folders)]
        self.states = {part: np.load(folder / "states.npy", mmap_mode="r") for part, folder in folders.items()}
        self.offsets = None
        if "text" in folders and (folders["text"] / "offsets.npy").exists():
            self.offsets = np.load(folders["text"] / "offsets.npy")
        if "image" in folders:
            self.has_image = np.load(folders["image"] / "has_image.npy")

    def __reduce__(self):
        return type(self), (self.items, self.folders)  # a worker that is started anew maps the files, too

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: np.ndarray) -> dict[str, Sequence]:
        found = {} if self.rest is None else self.rest[rows]
        if "text" in self.states:
            places = rows if self.offsets is None else ranges(self.offsets[rows], self.offsets[rows + 1])
            found["text_states"] = np.asarray(self.states["text"])[places]
        if "image" in self.states:
            states = self.states["image"]
            found["image_states"] = [states[row] if self.has_image[row] else None for row in rows]
        return found

    @property
    def text_lengths(self) -> np.ndarray:
        """Number of tokens of each item's text `(V,)`."""
        return text_lengths(self.items) if self.offsets is None else np.diff(self.offsets)


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The integers of ranges, one range after the other.

    >>> ranges(np.array([7, 2]), np.array([9, 5]))
    array([7, 8, 2, 3, 4])
    """
    lengths = ends - starts
    return np.arange(lengths.sum()) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)


def use_frozen_layers(
    model: TransRecPreTrainedModel,
    items: datasets.Dataset,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    cache_dir: str | None = None,
) -> datasets.Dataset | FrozenLayerItems:
    """Items with the outputs of the backbones' frozen layers, of which the model then makes use; or the given items.

    They are computed once, and kept in the cache of `datasets` for other runs with the same items and frozen weights.

    Args:
        model: in evaluation mode, partly frozen, see [`~TransRecPreTrainedModel.freeze_backbone`].
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.
        cache_dir: folder of the cache; by default that of `datasets`.
    """
    encoder, folders = model.item_encoder, {}
    parts = {("text",): encoder.part("text"), ("image",): encoder.part("image")}
    if isinstance(encoder.multimodal, ViltEncoder):
        parts = {("text", "image"): encoder.multimodal}
    for names, one in parts.items():
        if one is None:
            continue
        one.frozen_layers = None
        frozen = frozen_layers_of(one.backbone, processor.image_shape if names == ("image",) else None)
        if frozen is None and any(parameter.requires_grad for parameter in one.backbone.parameters()):
            continue
        try:
            if frozen is None:
                raise UnsupportedLayers("they are not found in this backbone")
            if model.config.peft_config is not None:
                raise UnsupportedLayers("the backbone has adapters")
            reads_tokens = encoder.fusion is not None and encoder.fusion.reads_tokens
            folders |= _Part(names, one, frozen, items, processor, reads_tokens).outputs(chunk_size, cache_dir)
            one.frozen_layers = frozen
        except UnsupportedLayers as reason:
            part = " and ".join(names)
            logger.warning("The %s backbone's frozen layers are computed in every step: %s", part, reason)
    has_no_parts = isinstance(encoder.multimodal, DualEncoder) and not encoder.multimodal.has_towers
    if has_no_parts and frozen_layers_of(encoder.multimodal.backbone) is not None:
        logger.warning("The frozen layers are computed in every step: the towers of this dual encoder are not found")
    return FrozenLayerItems(items, folders) if folders else items


class _Layout(NamedTuple):
    """How outputs of items lie in a file.

    Args:
        num_rows: of the file.
        num_stored: those of them that are written.
        places: from rows of the catalogue to those of the file.
        beside: arrays that go into files of their own, by name.
    """

    num_rows: int
    num_stored: int
    places: Callable[[np.ndarray], np.ndarray]
    beside: dict[str, np.ndarray]


class _Part:
    """The part of an item encoder for texts, for pictures or for both, whose frozen layers' outputs are wanted."""

    def __init__(
        self,
        names: tuple[str, ...],
        encoder: TextEncoder | ImageEncoder | Tower | ViltEncoder,
        frozen: FrozenLayers,
        items: datasets.Dataset,
        processor: TransRecProcessor,
        reads_tokens: bool,
    ):
        self.reads_tokens = reads_tokens
        self.names, self.encoder, self.frozen, self.processor = names, encoder, frozen, processor
        self.reads_padding = isinstance(encoder, Tower) and encoder.reads_padding  # its states are kept, too
        self.items = items.select_columns([_COLUMNS[name] for name in names])
        self.fingerprint = items._fingerprint
        self.device = next(encoder.parameters()).device

    def outputs(self, chunk_size: int, cache_dir: str | None) -> dict[str, Path]:
        """The folders of all items' outputs, by name; raises where they cannot stand for the frozen layers."""
        if getattr(self.encoder.backbone.config, "layerdrop", 0):
            raise UnsupportedLayers("layerdrop leaves layers out at random")
        if self.names == ("image",):
            rows = np.flatnonzero(self.has_image())
        else:
            rows = np.argsort(text_lengths(self.items), kind="stable")
        rows = rows[np.linspace(0, len(rows) - 1, min(_ITEMS_TO_TRY, len(rows))).astype(int)]
        batches = [part for part in (rows[:2], rows[2:]) if len(part)]  # of different sizes and lengths
        sample = []
        for part in batches:
            with torch.enable_grad():
                inputs, states = self.record(part)
            self.check_constant(states)
            states = {name: one.detach() for name, one in states.items()}
            self.compare(inputs, states)
            sample.append((inputs, states))
        with computed_once(features_cache(cache_dir) / self.digest()) as (folder, unfinished):
            if unfinished is not None:
                self.compute(unfinished, chunk_size, sample[0][1])
        folders = {name: folder / name for name in self.names}
        stored = FrozenLayerItems(self.items, folders)
        for part, (inputs, _) in zip(batches, sample, strict=True):
            padded = self.processor.pad(stored[part]).to(self.device)
            states = {name: padded[f"{name}_states"] for name in self.names}
            self.compare(inputs, states, slack=3)  # they were computed in other batches, and rounded otherwise
        size = sum(states.nbytes for states in stored.states.values())
        message = "The outputs of the %s backbone's %d frozen layers are computed once: %.0f MB in %s"
        logger.info(message, " and ".join(self.names), len(self.frozen.layers), size / 1e6, folder)
        return folders

    def has_image(self) -> np.ndarray:
        """Which items have a picture `(V,)`."""
        batches = self.items.with_format("arrow").iter(batch_size=100_000)
        return np.concatenate([pc.is_valid(batch["pixels"]).to_numpy() for batch in batches])

    def inputs(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """What the part's encoder reads of these items."""
        return dict(self.processor.normalize(self.processor.pad(self.items[rows]).to(self.device)))

    def record(self, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Inputs of items and the frozen layers' outputs by name, `(number of tokens, H)` or `(U, …)`."""
        inputs = self.inputs(rows)
        with self.frozen.recording() as found:
            self.run_backbone(inputs)
        if len(found) != 1:
            raise UnsupportedLayers(f"the last of them runs {len(found)} times a pass")
        if len(found[0]) != len(next(iter(inputs.values()))):
            raise UnsupportedLayers("their output has not one row an item")
        if self.names == ("image",) or self.reads_padding:
            return inputs, {self.names[0]: found[0]}
        mask = inputs["attention_mask"].bool()
        texts, pictures = found[0][:, : mask.shape[1]], found[0][:, mask.shape[1] :]
        if texts.shape[:2] != mask.shape or ("image" not in self.names and pictures.shape[1]):
            raise UnsupportedLayers("their output has not one vector a token")
        states = {"text": texts[mask]}
        if "image" in self.names:
            states["image"] = pictures[inputs["image_index"] >= 0]
        return inputs, states

    def run_backbone(self, inputs: dict[str, torch.Tensor]) -> None:
        """One pass over all items, texts padded as they are."""
        encoder, texts = self.encoder, [inputs[name] for name in ("input_ids", "attention_mask") if name in inputs]
        if isinstance(encoder, ViltEncoder):
            pictures, pixel_mask = encoder.pictures(inputs["pixel_values"])
            encoder.hidden(*texts, pictures[inputs["image_index"]], pixel_mask[inputs["image_index"]])
        elif self.reads_padding:
            encoder.backbone(input_ids=as_in_pretraining(*texts, encoder.backbone.config))
        elif texts:
            encoder.backbone(input_ids=texts[0], attention_mask=texts[1])
        else:
            encoder.backbone(pixel_values=inputs["pixel_values"])

    def check_constant(self, states: dict[str, torch.Tensor]) -> None:
        """Raises if something that is trained has a part in the frozen layers' outputs."""
        total = sum(one.sum() for one in states.values())
        if total.requires_grad:
            trained = {name: one for name, one in self.encoder.backbone.named_parameters() if one.requires_grad}
            gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
            names = [name for name, one in zip(trained, gradients, strict=True) if one is not None]
            raise UnsupportedLayers(f"they depend on what is trained: {', '.join(names)}")

    def compare(self, inputs: dict[str, torch.Tensor], states: dict[str, torch.Tensor], slack: int = 1) -> None:
        """Raises unless vectors and gradients from the states are those of the whole backbone, within rounding."""
        dtypes = {autocast_dtype(self.device), *(one.dtype for one in states.values())}
        low_precision = dtypes & {torch.bfloat16, torch.float16}
        tolerance = 3e-2 if low_precision else 1e-4 if self.device.type == "cpu" else 2e-3  # GPUs may take TF32
        given = {name: values for name, values in inputs.items() if name != "pixel_values"}
        given |= {f"{name}_states": one for name, one in states.items()}
        expected = self.vectors_and_gradients(inputs)
        self.encoder.frozen_layers = self.frozen
        try:
            found = self.vectors_and_gradients(given)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedLayers(f"without them the backbone fails ({type(error).__name__}: {error})") from error
        finally:
            self.encoder.frozen_layers = None
        for one, other in zip(found, expected, strict=True):
            difference = (one - other).abs().max() if one.shape == other.shape else torch.tensor(torch.inf)
            if not difference <= slack * tolerance * other.abs().max():
                raise UnsupportedLayers(f"without them item vectors or gradients are others (by {difference:.2g})")

    @torch.enable_grad()
    def vectors_and_gradients(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Item vectors `(U, D)`, or tokens' where the fusion reads them, and the gradients of all that is trained, one
        after the other, float32."""
        if self.names == ("image",):
            inputs = {name: values for name, values in inputs.items() if name != "image_index"}
        vectors = self.encoder.tokens(**inputs)[0] if self.reads_tokens else self.encoder(**inputs)
        if self.reads_tokens and self.names == ("text",):  # at padding there is nothing to be read
            vectors = vectors[inputs["attention_mask"].bool()]
        vectors = vectors.float()
        weights = torch.linspace(-1, 1, vectors.numel(), device=vectors.device).view_as(vectors)
        parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad((vectors * weights).sum(), parameters, allow_unused=True)
        gradients = [gradient.float().flatten() for gradient in gradients if gradient is not None]
        return vectors.detach(), torch.cat(gradients)

    def layout(self, name: str) -> "_Layout":
        """Where the outputs of items lie in the file `states.npy` of this name."""
        num_items = len(self.items)
        if name == "image":
            has_image = self.has_image()
            return _Layout(
                num_items, int(has_image.sum()), lambda rows: rows[has_image[rows]], {"has_image": has_image}
            )
        if self.reads_padding:
            return _Layout(num_items, num_items, lambda rows: rows, {})
        offsets = np.concatenate([[0], text_lengths(self.items).cumsum()])
        num_tokens = int(offsets[-1])
        return _Layout(
            num_tokens, num_tokens, lambda rows: ranges(offsets[rows], offsets[rows + 1]), {"offsets": offsets}
        )

    def compute(self, folder: Path, chunk_size: int, examples: dict[str, torch.Tensor]) -> None:
        """Writes the outputs of all items into folders by name; `examples` have their types and dimensions."""
        layouts, stored = {name: self.layout(name) for name in self.names}, {}
        size = sum(layouts[name].num_stored * one.shape[1:].numel() * one.itemsize for name, one in examples.items())
        free = shutil.disk_usage(folder).free
        if size > free / 2:
            needed = f"{size / 1e6:,.0f} MB of the {free / 1e6:,.0f} MB"
            raise UnsupportedLayers(f"their outputs would take {needed} that are free in {folder.parent}")
        for name, layout in layouts.items():
            (folder / name).mkdir()
            for file, values in layout.beside.items():
                np.save(folder / name / f"{file}.npy", values)
            shape = (layout.num_rows, *examples[name].shape[1:])
            stored[name] = np.lib.format.open_memmap(
                folder / name / "states.npy", "w+", bits(examples[name]).dtype, shape
            )
        description = f"Storing the frozen layers' outputs, {size / 1e6:,.0f} MB"
        for rows in tqdm(item_chunks(self.items, chunk_size), desc=description):
            rows = layouts["image"].places(rows) if self.names == ("image",) else rows
            if len(rows):
                with torch.no_grad():
                    for name, states in self.record(rows)[1].items():
                        stored[name][layouts[name].places(rows)] = bits(states)
        for one in stored.values():
            one.flush()

    def digest(self) -> str:
        """Changes with the items, the frozen weights, the number of layers and the precision that they run at."""
        backbone, config = self.encoder.backbone, self.encoder.backbone.config
        parts = [*self.names, self.fingerprint, f"{len(self.frozen.layers)} layers", self.device.type]
        parts += [str(config.to_dict()), str(config._attn_implementation), str(autocast_dtype(self.device))]
        digest = hashlib.sha256("\n".join(parts).encode())
        add_tensors(digest, frozen_tensors(backbone, len(self.frozen.layers)))
        return digest.hexdigest()[:32]


def frozen_tensors(backbone: nn.Module, num_frozen: int) -> dict[str, torch.Tensor]:
    """Frozen parameters and their modules' buffers by name, but for those of the layers after the frozen ones."""
    after = {id(module) for layer in layers_of(backbone)[num_frozen:] for module in layer.modules()}
    tensors = {}
    for prefix, module in backbone.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if id(module) in after or any(parameter.requires_grad for parameter in own.values()):
            continue
        own |= dict(module.named_buffers(recurse=False))
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in own.items()}
    return tensors


def bits(states: torch.Tensor) -> np.ndarray:
    """Hidden states as numpy has them: bfloat16, which it has not, as uint16."""
    states = states.detach().cpu()
    return (states.view(torch.uint16) if states.dtype == torch.bfloat16 else states).numpy()
