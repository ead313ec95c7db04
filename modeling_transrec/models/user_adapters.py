"""Adapters: a few parameters beside each part of a user encoder's layer, the rest as it was.

A part is attention, a feed-forward network, a convolution or a recurrent layer, before its residual and norm. There is
one set of adapters, or one for each of several platforms that share all the rest: a platform is added without a
change to what the others get.

Papers: Yuan et al., "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and Recommendation"
(PeterRec), SIGIR 2020; Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019; Fu et al.,
"Exploring Adapter-based Transfer Learning for Recommender Systems" (Adapter4Rec), WSDM 2024; for platforms one after
the other Yuan et al., "One Person, One Model, One World: Learning Continual User Representation without Forgetting"
(Conure), SIGIR 2021, which divides one network's weights among tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from .bottlenecks import PLACEMENTS, BottleneckAdapter


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


USER_ADAPTERS = PLACEMENTS
SOURCE = "source"  # in place of a platform's name: the model without adapters


class NoAdapter(nn.Module):
    """Leaves what a part of a layer makes, of this width, as it is.

    Args:
        width: `D` of the outputs.
        read_width: `H` of the inputs, where an adapter is to read them whatever the placement of the others.
    """

    def __init__(self, width: int, read_width: int | None = None):
        super().__init__()
        self.width, self.read_width = width, read_width

    def forward(self, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Returns the outputs of a part of a layer; the inputs, of the same shape `(…, D)`, are not read."""
        return outputs


class ProjectionAdapter(nn.Module):
    """Adds a linear map of features, initialised to zero, to a projection of them.

    Through a bottleneck with an activation it would have more to learn from few users, and ranks worse.

    Args:
        read_width: `H` of the features.
        width: `D` of what the projection makes of them.
    """

    def __init__(self, read_width: int, width: int):
        super().__init__()
        self.change = nn.Linear(read_width, width)

    def start(self) -> None:
        """Sets the weights to those that change nothing yet."""
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, features: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """Changes what a projection `(…, D)` makes of features `(…, H)`."""
        return projected + self.change(features.to(self.change.weight.dtype)).to(projected.dtype)


Adapter = BottleneckAdapter | ProjectionAdapter


class PlatformAdapters(nn.Module):
    """Has an adapter for each platform, and uses that of the chosen one; for the source none.

    Args:
        config: with `platforms` and `platform`.
        width, read_width: as of [`NoAdapter`].
    """

    def __init__(self, config: TransRecConfig, width: int, read_width: int | None = None):
        super().__init__()
        self.adapters = nn.ModuleList(_make(config, width, read_width) for _ in config.platforms or ())
        self.width, self.read_width, self.chosen = width, read_width, config.platform_index

    def forward(self, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Changes outputs `(…, D)` as the chosen adapter does; the inputs are `(…, H)`, or of the same shape."""
        return outputs if self.chosen is None else self.adapters[self.chosen](inputs, outputs)


def make_adapter(config: TransRecConfig) -> nn.Module:
    """Makes the adapter of one part of a user encoder's layer, or what stands there without adapters."""
    if config.user_adapter is None:
        return NoAdapter(config.user_width)
    return (_make if config.platforms is None else PlatformAdapters)(config, config.user_width)


def make_item_adapter(config: TransRecConfig) -> nn.Module:
    """Makes the adapters of item embeddings, which only platforms have."""
    return NoAdapter(config.width) if config.platforms is None else PlatformAdapters(config, config.width)


def make_projection_adapter(config: TransRecConfig, read_width: int, width: int) -> nn.Module:
    """Makes the adapters beside a projection of features, which only platforms have.

    They read the features `(…, H)`: what the source's projection leaves out of them no adapter behind it brings back.
    """
    return NoAdapter(width, read_width) if config.platforms is None else PlatformAdapters(config, width, read_width)


def add_adapters(module: nn.Module, config: TransRecConfig) -> None:
    """Puts the adapters that the configuration names where a module has none: one, or one of the last platform."""
    weight = next(one for one in module.parameters() if one.is_floating_point())
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NoAdapter) and config.platforms is None:
                setattr(parent, name, _new_adapter(config, child, weight))
            elif isinstance(child, NoAdapter):
                made = PlatformAdapters(config, child.width, child.read_width)
                made.adapters = nn.ModuleList(_new_adapter(config, child, weight) for _ in made.adapters)
                setattr(parent, name, made)
            elif isinstance(child, PlatformAdapters):
                child.adapters.append(_new_adapter(config, child, weight))


def _make(config: TransRecConfig, width: int, read_width: int | None = None) -> Adapter:
    if read_width is not None:
        return ProjectionAdapter(read_width, width)
    return BottleneckAdapter(width, config.user_adapter_reduction, str(config.user_adapter))


def _new_adapter(config: TransRecConfig, place: NoAdapter | PlatformAdapters, like: torch.Tensor) -> Adapter:
    """Makes an adapter that changes nothing yet, with weights of the device and type of another one."""
    adapter = _make(config, place.width, place.read_width)
    adapter.start()
    return adapter.to(like.device, like.dtype)


def choose_platform(module: nn.Module, index: int | None) -> None:
    """Uses the adapters of one platform, or with `None` none, and trains only them."""
    module.requires_grad_(False)
    for one in module.modules():
        if isinstance(one, PlatformAdapters):
            one.chosen = index
    for adapter in _used_adapters(module):
        adapter.requires_grad_(True)


def freeze_but_adapters(user_encoder: nn.Module) -> None:
    """Leaves all of a user encoder out of training, except adapters that are used."""
    user_encoder.requires_grad_(False)
    for adapter in _used_adapters(user_encoder):
        adapter.requires_grad_(True)


def _used_adapters(module: nn.Module) -> Iterator[Adapter]:
    others: set[nn.Module] = set()
    for one in module.modules():
        if isinstance(one, PlatformAdapters):
            others |= {adapter for index, adapter in enumerate(one.adapters) if index != one.chosen}
        elif isinstance(one, Adapter) and one not in others:
            yield one
