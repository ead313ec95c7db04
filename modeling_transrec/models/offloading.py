"""Parameters that are read outside of their module's `forward`, where accelerate keeps them on the CPU or on disk."""

import contextlib

from torch import nn


try:
    from accelerate.utils import align_module_device
except ImportError:  # a checkpoint's code runs where only transformers is; nothing is offloaded there

    def align_module_device(module: nn.Module, execution_device=None):
        """Returns a context in which a module's own parameters are where they are computed with."""
        return contextlib.nullcontext(module)
