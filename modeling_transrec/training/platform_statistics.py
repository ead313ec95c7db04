"""Statistics of several platforms in checkpoints to resume from: those of the epoch's start, until it ends."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


NAME = "_platform_statistics.safetensors"  # names that start with "_" are never published
_BUFFERS = ("platform_means", "platform_matrices")


def save_platform_statistics(model: nn.Module, folder: Path) -> None:
    """Saves by what a model whitens the items of each platform, which its weights do not hold."""
    modules = model.named_modules()
    found = {f"{path}.{name}": getattr(module, name, None) for path, module in modules for name in _BUFFERS}
    save_file({key: values.contiguous() for key, values in found.items() if values is not None}, folder / NAME)


def load_platform_statistics(model: nn.Module, folder: str, device: torch.device) -> bool:
    """Takes what a checkpoint was saved with, whose backbone may have been trained since it was computed.

    Returns:
        Whether there was anything.
    """
    file = Path(folder, NAME)
    if not file.exists():
        return False
    for key, values in load_file(file, device=str(device)).items():
        path, _, name = key.rpartition(".")
        setattr(model.get_submodule(path), name, values)
    return True
