"""Says where that lies which is computed once and kept on disk, and what it depends on."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import datasets
import torch

from ..models.backbone_references import add_tensors
from ..models.modalities import BACKBONES
from ..models.pretrained_model import TransRecPreTrainedModel


# Fields of the configuration that decide about features, beside the weights.
_MAKING_FEATURES = [backbone.config_field for backbone in BACKBONES.values()]
_MAKING_FEATURES += ["text_pooling", "image_pooling", "image_mean", "image_std"]


def features_cache(cache_dir: str | Path | None = None) -> Path:
    """Returns the folder of what frozen backbones make of items; by default in the cache of `datasets`."""
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "transrec_features"


def items_digest(items: datasets.Dataset, columns: Iterable[str]) -> str:
    """Changes with the values of columns of items; images and sounds, which are no plain values, are left out."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        if isinstance(items.features[name], datasets.Value):
            for value in items[name][:]:
                digest.update(f"{value}\0".encode())
    return digest.hexdigest()


def features_digest(model: TransRecPreTrainedModel, items: datasets.Dataset) -> str:
    """Changes with the items, the backbones' configurations and weights, and the precision that they run at."""
    parts = [items._fingerprint, *precision(model.device)]
    parts += [str(getattr(model.config, name)) for name in _MAKING_FEATURES]
    digest = hashlib.sha256("\n".join(parts).encode())
    for backbone in model.item_encoder.backbones:
        add_tensors(digest, backbone.state_dict())
    return digest.hexdigest()[:32]


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Returns the type that autocast computes at, `None` where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def precision(device: torch.device) -> list[str]:
    """Returns what outputs depend on beside weights: the kind of device, and the type that autocast computes at."""
    return [device.type, str(autocast_dtype(device))]
