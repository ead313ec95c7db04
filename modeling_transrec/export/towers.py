"""The parts of a model as functions of tensors, which exporters turn into graphs for inputs of any size.

Shapes: `U` items, `P` of them that have an image or a sound, `T` text tokens, `B` users, `L` history length, `N`
embeddings, `D` hidden size.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.func import functional_call

from ..evaluation.encoding import with_features
from ..models.modalities import MODALITIES
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..models.user_encoders import USER_ENCODERS


ITEM_TOWER, USER_TOWER, SCORING_SPACE = "item_tower", "user_tower", "scoring_space"
ITEM_PROJECTION = "item_projection"
STATISTICS = ("mean", "matrix")  # of a catalogue, by which features are whitened
_NUM_EXAMPLES = 3  # a size of 0 or 1 would be taken as fixed
_TEXTS = ("red rope", "a small blue lamp", None)


class _OfModel(nn.Module):
    """Holds the model that the towers are parts of."""

    def __init__(self, model: TransRecPreTrainedModel):
        super().__init__()
        self.model = model


class ItemTower(_OfModel):
    """Maps the processor's tensors to item embeddings `(U, D)`."""

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Encodes items, see [`ItemInputs`]."""
        return self.model.get_item_features(**inputs)


class UserTower(_OfModel):
    """Maps histories of item embeddings `(B, L, D)` to user embeddings `(B, D)`."""

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Encodes histories: `item_embeddings` `(B, L, D)`, `mask` `(B, L)` and, where they are
        read, `user_ids` `(B,)` and `timestamps` `(B, L)`."""
        return self.model.get_user_features(**inputs)


class ScoringSpace(_OfModel):
    """Maps item or user embeddings `(N, D)` to vectors `(N, D)` whose dot products are the scores."""

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Maps `embeddings` `(N, D)`."""
        return self.model.to_scoring_space(inputs["embeddings"])


class ItemTowerWithFeatures(_OfModel):
    """Maps the processor's tensors to item embeddings `(U, D)`, and gives the features that were whitened for them."""

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Encodes items; features `(U, H)` follow in the order of `whitened`."""
        given = with_features(self.model, dict(inputs))
        whitened: Any = self.model.item_encoder.whitened
        return self.model.get_item_features(**given), *(given[name] for name in whitened)


class ItemProjection(nn.Module):
    """Maps features to item embeddings `(U, D)`, whitened by statistics that are among its inputs."""

    def __init__(self, model: TransRecPreTrainedModel):
        super().__init__()
        self.tower = ItemTower(model)
        whitened: Any = model.item_encoder.whitened
        path_of = {module: path for path, module in self.tower.named_modules()}
        self.buffers_of = {
            f"{name}_{part}": f"{path_of[projection]}.{part}"
            for name, projection in whitened.items()
            for part in STATISTICS
        }

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Maps features `(U, H)` by a mean `(H,)` and a matrix `(H, D)` for each kind of them."""
        items = {name: values for name, values in inputs.items() if name not in self.buffers_of}
        buffers = {path: inputs[name] for name, path in self.buffers_of.items()}
        return functional_call(self.tower, buffers, (items,))


class Tower(NamedTuple):
    """
    Args:
        module: what is exported; it takes one dictionary of tensors.
        inputs: an example of these tensors.
        sizes: names of the sizes of each tensor that may be any, by dimension.
        outputs: names of the results.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    sizes: dict[str, dict[int, str]]
    outputs: list[str]

    def export(self) -> torch.export.ExportedProgram:
        """Returns the graph of `torch.export`, for inputs of any size."""
        any_size = {name: dict.fromkeys(sizes, torch.export.Dim.AUTO) for name, sizes in self.sizes.items()}
        with torch.no_grad():
            return torch.export.export(self.module, (self.inputs,), dynamic_shapes=(any_size,))


def towers_of(
    model: TransRecPreTrainedModel, processor: TransRecProcessor, with_statistics: bool = False
) -> dict[str, Tower]:
    """Returns the parts of a model by their names: `item_tower`, `user_tower` and `scoring_space`.

    Args:
        model: in evaluation mode, on the CPU.
        processor: the model's processor.
        with_statistics: whether, of a model that whitens features, the item tower gives these features, too, and there
            is an `item_projection` that maps them by the statistics of any catalogue.

    Raises:
        ValueError: if the model cannot be exported.
    """
    config: Any = model.config
    for part in model.item_encoder.parts:
        if not part.has_fixed_graph:
            raise ValueError(
                f"{type(part.whole).__name__} computes other things for other values of its inputs, which no graph "
                "can: it cannot be exported"
            )
    width, length = config.width, min(4, config.max_seq_len)
    items, users = _example_items(processor), range(_NUM_EXAMPLES)
    mask = torch.arange(length) >= torch.tensor(users)[:, None].clamp(max=length - 1)  # (B, L)
    histories = {"item_embeddings": torch.randn(len(mask), length, width) * mask[:, :, None], "mask": mask}
    of_histories = {name: {0: "users", 1: "length"} for name in histories}
    if USER_ENCODERS[config.user_encoder_type].reads_user_ids:
        histories["user_ids"] = torch.zeros(len(mask), dtype=torch.long)
        of_histories["user_ids"] = {0: "users"}
    if config.reads_timestamps:
        histories["timestamps"] = torch.arange(length).expand(len(mask), -1).clone() * 3600
        of_histories["timestamps"] = {0: "users", 1: "length"}
    embeddings = {"embeddings": torch.randn(_NUM_EXAMPLES, width)}
    item_sizes = {name: _item_sizes(name) for name in items}
    towers = {
        ITEM_TOWER: Tower(ItemTower(model), items, item_sizes, ["item_embeddings"]),
        USER_TOWER: Tower(UserTower(model), histories, of_histories, ["user_embeddings"]),
        SCORING_SPACE: Tower(ScoringSpace(model), embeddings, {"embeddings": {0: "embeddings"}}, ["vectors"]),
    }
    whitened: Any = model.item_encoder.whitened
    if with_statistics and whitened:
        towers[ITEM_TOWER] = Tower(ItemTowerWithFeatures(model), items, item_sizes, ["item_embeddings", *whitened])
        with torch.no_grad():
            given = with_features(model, dict(items))
        given |= {f"{name}_{part}": getattr(one, part) for name, one in whitened.items() for part in STATISTICS}
        sizes = {name: _item_sizes(name) for name in given}
        towers[ITEM_PROJECTION] = Tower(ItemProjection(model), given, sizes, ["item_embeddings"])
    return towers


def _example_items(processor: TransRecProcessor) -> dict[str, torch.Tensor]:
    """Returns the tensors of a few items; the last one lacks its content, as items may."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)) for _ in range(_NUM_EXAMPLES - 1)]
    rate = getattr(processor.feature_extractor, "sampling_rate", 16_000)
    sounds = [rng.uniform(-0.5, 0.5, rate).astype(np.float32) for _ in range(_NUM_EXAMPLES - 1)]
    given: dict[str, Any] = {
        "text": list(_TEXTS),
        "images": [*images, None],
        "audio": [*({"array": sound, "sampling_rate": rate} for sound in sounds), None],
        "item_ids": [(processor.item_ids or [""])[0]] * _NUM_EXAMPLES,
    }
    return dict(processor(**{modality.argument: given[modality.argument] for modality in processor.read}))


def _item_sizes(name: str) -> dict[int, str]:
    """Names the sizes of a tensor that describes items, by dimension, where they may be any."""
    for modality in MODALITIES.values():
        if name in modality.inputs:
            return modality.sizes(name)
        if name == f"{modality.name}_features":
            return {0: modality.entries}
    return {} if name.endswith(STATISTICS) else {0: "items"}
