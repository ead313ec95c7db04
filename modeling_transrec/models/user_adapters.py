"""Bottleneck adapters in user encoders: a few parameters beside each part of a layer, the rest as it was.

Papers: Yuan et al., "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and Recommendation"
(PeterRec), SIGIR 2020; Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019; Fu et al.,
"Exploring Adapter-based Transfer Learning for Recommender Systems" (Adapter4Rec), WSDM 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .projections import LinearFromZero


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


USER_ADAPTERS = ("serial", "parallel")


class NoAdapter(nn.Module):
    """Leaves what a part of a layer makes, of this width, as it is."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Returns the outputs of a part of a layer; the inputs, of the same shape `(…, D)`, are not read."""
        return outputs


class BottleneckAdapter(nn.Module):
    """Adds a narrow network of what a part of a layer makes (serial), or of what it reads (parallel), from zero on.

    The part is attention, a feed-forward network, a convolution or a recurrent layer, before its residual and norm.

    Args:
        config: with `user_adapter` and `user_adapter_reduction`, by which the width is divided in the middle.
        width: of the layer.
    """

    def __init__(self, config: TransRecConfig, width: int):
        super().__init__()
        narrow = max(1, width // config.user_adapter_reduction)
        self.is_parallel = config.user_adapter == "parallel"
        self.down = nn.Linear(width, narrow)
        self.up = LinearFromZero(narrow, width)

    def forward(self, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Changes the outputs of a part of a layer with these inputs, both `(…, D)`."""
        read = inputs if self.is_parallel else outputs
        return outputs + self.up(nn.functional.gelu(self.down(read)))


def make_adapter(config: TransRecConfig) -> nn.Module:
    """Makes the adapter of one part of a layer, or what stands there without adapters."""
    width = config.user_width
    return NoAdapter(width) if config.user_adapter is None else BottleneckAdapter(config, width)


def add_adapters(user_encoder: nn.Module, config: TransRecConfig) -> None:
    """Puts the adapters that the configuration names into a user encoder that has none."""
    weight = next(user_encoder.parameters())
    for module in list(user_encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, NoAdapter):
                adapter = BottleneckAdapter(config, child.width)
                nn.init.xavier_normal_(adapter.down.weight)
                nn.init.zeros_(adapter.down.bias)
                adapter.up.init_own_weights()
                setattr(module, name, adapter.to(weight.device, weight.dtype))


def freeze_but_adapters(user_encoder: nn.Module) -> None:
    """Leaves all of a user encoder out of training, except adapters."""
    user_encoder.requires_grad_(False)
    for module in user_encoder.modules():
        if isinstance(module, BottleneckAdapter):
            module.requires_grad_(True)
