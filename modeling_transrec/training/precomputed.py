"""Outputs of frozen weights, computed once and read from disk in every step.

Where a backbone is frozen as a whole, its features stand for the items. Where only its first layers are, the hidden
states behind them are where each step starts; whether that is right is tried on a few items first: embeddings and
gradients must be those of the whole backbone. What does not fit is computed in every step, and a warning says why.

Shapes: `P` items that have the content, `T` text tokens, `H` width of a backbone.
"""

import hashlib
import logging
import shutil
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets.utils import tqdm
from transformers import PreTrainedModel

from ..data.cache import autocast_dtype, features_cache, precision
from ..data.precomputed_items import (
    PrecomputedItems,
    StoredArray,
    bits,
    entries,
    precompute_features,
    which_are_there,
)
from ..data.preparation import PreparedItems, text_lengths
from ..models.backbone_references import add_tensors
from ..models.backbones import layers_of
from ..models.content_encoders import ContentEncoder
from ..models.freezing import is_trained
from ..models.frozen_layers import FrozenLayers, UnsupportedLayers, frozen_layers_of
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..ninerec.whole_folders import made_once


logger = logging.getLogger(__name__)

_ITEMS_TO_TRY = 6


def precompute(
    model: TransRecPreTrainedModel,
    items: datasets.Dataset,
    processor: TransRecProcessor,
    chunk_size: int = 256,
    cache_dir: str | None = None,
    with_states: bool = True,
) -> PreparedItems:
    """Computes once what frozen backbones, or their frozen layers, make of the items; returns items for training.

    It is kept in the cache of `datasets` for other runs with the same items and weights. Where nothing is frozen, or
    nothing can be precomputed, the items are returned as they are.

    Args:
        model: in evaluation mode, see [`~TransRecPreTrainedModel.freeze_backbone`].
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs.
        chunk_size: items encoded at a time.
        cache_dir: folder of the cache; by default that of `datasets`.
        with_states: whether hidden states may be precomputed; they cannot where weights are sharded.
    """
    encoder = model.item_encoder
    if model.has_frozen_backbone and encoder.takes_features:
        return precompute_features(model, items, processor, chunk_size, cache_dir)
    folders: dict[str, Path] = {}
    warnings: dict[str, None] = {}  # in order, each once
    for part in encoder.parts:
        part.frozen_layers = None
        tower = part.whole if part.tower is None else part.tower
        shape = processor.shape_of("image") if part.modality == "image" else ()
        frozen = frozen_layers_of(tower, shape)
        if frozen is None and is_trained(part.whole):
            continue
        try:
            if not with_states:
                raise UnsupportedLayers("not with FSDP or DeepSpeed")
            if not part.starts_from_states:
                raise UnsupportedLayers(
                    "only those of text and image backbones that read no padding, nor their first layer, are "
                    "precomputed"
                )
            if frozen is None or part.tower is None:
                raise UnsupportedLayers("they are not found in this backbone")
            if model.config.peft_config is not None:
                raise UnsupportedLayers("the backbone has adapters")
            states = _States(model, part, part.tower, frozen, items, processor)
            folders[states.name] = states.folder(chunk_size, cache_dir)
            part.frozen_layers = frozen
        except UnsupportedLayers as reason:
            name = part.modality if part.tower is not None else "multimodal"
            warnings[f"The {name} backbone's frozen layers are computed in every step: {reason}"] = None
    for warning in warnings:
        logger.warning(warning)
    return PrecomputedItems(items, folders) if folders else items


class _States:
    """The hidden states of all items behind the frozen layers of a text or an image backbone."""

    def __init__(
        self,
        model: TransRecPreTrainedModel,
        part: ContentEncoder,
        tower: PreTrainedModel,
        frozen: FrozenLayers,
        items: datasets.Dataset,
        processor: TransRecProcessor,
    ):
        self.part, self.tower, self.frozen, self.processor = part, tower, frozen, processor
        self.name, self.fingerprint = f"{part.modality}_states", items._fingerprint
        self.normalization = [str(getattr(model.config, name)) for name in ("image_mean", "image_std")]
        self.reads_tokens = not model.item_encoder.takes_features
        stored = {"text": "input_ids", "image": "pixels"}[part.modality]
        self.items = items.select_columns([stored])
        self.device = next(part.parameters()).device
        if part.modality == "text":
            lengths = text_lengths(items)
            self.beside = {"offsets": np.concatenate([[0], lengths.cumsum()])}
            self.order = np.argsort(lengths, kind="stable")
        else:
            self.beside = {"is_there": which_are_there(self.items)["image"]}
            self.order = np.flatnonzero(self.beside["is_there"])

    def folder(self, chunk_size: int, cache_dir: str | None) -> Path:
        """Returns the folder of the states; raises where they cannot stand for the frozen layers."""
        if getattr(self.tower.config, "layerdrop", 0):
            raise UnsupportedLayers("layerdrop leaves layers out at random")
        chosen = self.order[np.linspace(0, len(self.order) - 1, min(_ITEMS_TO_TRY, len(self.order))).astype(int)]
        samples = [part for part in (chosen[:2], chosen[2:]) if len(part)]  # of different sizes and lengths
        tried = []
        for index in samples:
            with torch.enable_grad():
                inputs, states = self.record(index)
            self.check_constant(states)
            self.compare(inputs, states.detach())
            tried.append((inputs, states.detach()))
        folder = features_cache(cache_dir) / self.digest()
        with made_once(folder) as unfinished:
            if unfinished is not None:
                self.compute(unfinished / self.name, chunk_size, tried[0][1])
        folder = folder / self.name
        stored = PrecomputedItems(self.items, {self.name: folder})
        for index, (inputs, _) in zip(samples, tried, strict=True):
            states = self.processor.pad(stored[index]).to(self.device)[self.name]
            self.compare(inputs, states, slack=3)  # they were computed in other batches, and rounded otherwise
        size, count = stored.arrays[self.name].values.nbytes / 1e6, len(self.frozen.layers)
        message = "The outputs of the %s backbone's %d frozen layers are computed once: %.0f MB in %s"
        logger.info(message, self.part.modality, count, size, folder)
        return folder

    def record(self, index: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Returns inputs of items, and their states `(number of tokens, H)` or `(P, …)`."""
        inputs = dict(self.processor.pad(self.items[index]).to(self.device))
        with self.frozen.recording() as found:
            self.tower(**self.part.backbone_inputs(**inputs))
        if len(found) != 1:
            raise UnsupportedLayers(f"the last of them runs {len(found)} times a pass")
        states = found[0]
        if len(states) != len(next(iter(inputs.values()))):
            raise UnsupportedLayers("their output has not one entry an item")
        if self.part.modality == "text":
            mask = inputs["attention_mask"].bool()
            if states.shape[:2] != mask.shape:
                raise UnsupportedLayers("their output has not one vector a token")
            states = states[mask]
        return inputs, states

    def check_constant(self, states: torch.Tensor) -> None:
        """Raises if something that is trained has a part in the frozen layers' outputs."""
        total = states.sum()
        if total.requires_grad:
            trained = {name: one for name, one in self.tower.named_parameters() if one.requires_grad}
            gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
            names = [name for name, one in zip(trained, gradients, strict=True) if one is not None]
            raise UnsupportedLayers(f"they depend on what is trained: {', '.join(names)}")

    def compare(self, inputs: dict[str, torch.Tensor], states: torch.Tensor, slack: int = 1) -> None:
        """Raises unless embeddings and gradients from the states are those of the whole backbone, within rounding."""
        low_precision = {autocast_dtype(self.device), states.dtype} & {torch.bfloat16, torch.float16}
        tolerance = 3e-2 if low_precision else 1e-4 if self.device.type == "cpu" else 2e-3  # GPUs may take TF32
        given = {name: values for name, values in inputs.items() if name != "pixel_values"} | {self.name: states}
        expected = self.embeddings_and_gradients(inputs)
        self.part.frozen_layers = self.frozen
        try:
            found = self.embeddings_and_gradients(given)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedLayers(f"without them the backbone fails ({type(error).__name__}: {error})") from error
        finally:
            self.part.frozen_layers = None
        for one, other in zip(found, expected, strict=True):
            difference = (one - other).abs().max() if one.shape == other.shape else torch.tensor(torch.inf)
            if not difference <= slack * tolerance * other.abs().max():
                raise UnsupportedLayers(f"without them embeddings or gradients are others (by {difference:.2g})")

    @torch.enable_grad()
    def embeddings_and_gradients(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the items' embeddings, or their tokens' where the fusion reads them, and the gradients of all that
        is trained, one after the other, float32."""
        inputs = {name: values for name, values in inputs.items() if name != "image_index"}
        embeddings = self.part.tokens(**inputs)[0] if self.reads_tokens else self.part(**inputs)
        if self.reads_tokens and self.part.modality == "text":  # at padding there is nothing to be read
            embeddings = embeddings[inputs["attention_mask"].bool()]
        embeddings = embeddings.float()
        weights = torch.linspace(-1, 1, embeddings.numel(), device=embeddings.device).view_as(embeddings)
        parameters = dict.fromkeys((*self.part.parameters(), *self.part.whole.parameters()))
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = torch.autograd.grad((embeddings * weights).sum(), trained, allow_unused=True)
        return embeddings.detach(), torch.cat([one.float().flatten() for one in gradients if one is not None])

    def compute(self, folder: Path, chunk_size: int, example: torch.Tensor) -> None:
        """Writes the states of all items; `example` has their type and dimensions."""
        stored = StoredArray.create(folder, len(self.items), example, self.beside)
        size = len(entries(self.order, self.beside)) * stored.dtype.itemsize * int(np.prod(stored.shape[1:]))
        free = shutil.disk_usage(folder).free
        if size > free / 2:
            needed = f"{size / 1e6:,.0f} MB of the {free / 1e6:,.0f} MB"
            raise UnsupportedLayers(f"their outputs would take {needed} that are free in {folder.parent.parent}")
        chunks = [self.order[start : start + chunk_size] for start in range(0, len(self.order), chunk_size)]
        for index in tqdm(chunks, desc=f"Storing the frozen layers' outputs, {size / 1e6:,.0f} MB"):
            with torch.no_grad():
                stored[entries(index, self.beside)] = bits(self.record(index)[1])
        stored.flush()

    def digest(self) -> str:
        """Changes with the items, the frozen weights, the number of layers and the precision that they run at."""
        tower, count = self.tower, len(self.frozen.layers)
        parts = [self.name, self.fingerprint, f"{count} layers", *precision(self.device), *self.normalization]
        parts += [str(tower.config.to_dict()), str(tower.config._attn_implementation)]
        digest = hashlib.sha256("\n".join(parts).encode())
        after = {id(module) for layer in layers_of(tower)[count:] for module in layer.modules()}
        for prefix, module in tower.named_modules():
            own = dict(module.named_parameters(prefix, recurse=False))
            if id(module) not in after and not any(parameter.requires_grad for parameter in own.values()):
                add_tensors(digest, own | dict(module.named_buffers(prefix, recurse=False)))
        return digest.hexdigest()[:32]
