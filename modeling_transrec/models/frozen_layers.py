"""The frozen layers at the start of a backbone: what they make of an item is recorded once and given back later.

Nothing of a backbone is written anew here: its own forward pass runs, in which the frozen layers hand on the recorded
hidden states. Masks, positions and what else it computes before its layers come from the backbone itself.

Shapes: `U` texts, `T` tokens, `P` images, `H` width of the hidden states.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import nn

from .backbones import layers_of


class UnsupportedLayers(ValueError):
    """Layers whose outputs cannot be recorded and given back; the message says why."""


class FrozenLayers:
    """The first layers of a backbone, all of whose parameters are frozen.

    Args:
        layers: they, in order; at least one.
        image_shape: `(3, H, W)` of what a vision backbone reads; `None` for a text backbone.
    """

    def __init__(self, layers: list[nn.Module], image_shape: tuple[int, ...] | None = None):
        self.layers = layers
        self.image_shape = image_shape
        self.forms: list = [None] * len(layers)  # of what each layer returns, without the hidden states; see `form_of`

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        """Within it, a list grows by the hidden states that leave the last of the layers, one tensor a pass."""
        found = []

        def remember(place: int, module: nn.Module, args: tuple, output) -> None:
            self.forms[place] = form_of(output)
            if place == len(self.layers) - 1:
                found.append(output if isinstance(output, torch.Tensor) else output[0])

        hooks = [
            layer.register_forward_hook(functools.partial(remember, place)) for place, layer in enumerate(self.layers)
        ]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def giving(self, states: torch.Tensor) -> Iterator[None]:
        """Within it, the backbone's pass, which must be one, starts from the recorded hidden states."""
        if any(parameter.requires_grad for layer in self.layers for parameter in layer.parameters()):
            raise RuntimeError("layers whose outputs were computed once are trained now; make a new TransRecTrainer")
        calls = []

        def give(form: tuple | list | None, *args, **kwargs):
            calls.append(form)
            return states if form is None else type(form)([states, *form[1:]])

        before = [vars(layer).get("forward") for layer in self.layers]
        for layer, form in zip(self.layers, self.forms, strict=True):
            layer.forward = functools.partial(give, form)
        try:
            yield
        finally:
            for layer, forward in zip(self.layers, before, strict=True):
                if forward is None:
                    del layer.forward
                else:
                    layer.forward = forward
        if len(calls) != len(self.layers):
            raise RuntimeError(f"of {len(self.layers)} frozen layers {len(calls)} were called, and cannot be left out")

    def blank_image(self, device: torch.device) -> torch.Tensor:
        """What stands for the images `(1, 3, H, W)`, which nobody looks at; one is enough for the shapes."""
        return torch.zeros(1, *self.image_shape, device=device)


def form_of(output) -> tuple | list | None:
    """What a layer returns beside the hidden states: `None` if nothing, or all of it with `None` for each tensor.

    >>> form_of((torch.zeros(2, 3), None, (4, 4)))
    (None, None, (4, 4))
    """
    if isinstance(output, torch.Tensor):
        return None
    if type(output) not in (tuple, list) or not output or not isinstance(output[0], torch.Tensor):
        raise UnsupportedLayers(f"a layer returns {type(output).__name__}, not hidden states")
    if any(not isinstance(part, torch.Tensor | tuple | int | None) for part in output):
        raise UnsupportedLayers("a layer returns more than hidden states")
    return type(output)(None if isinstance(part, torch.Tensor) else part for part in output)


def frozen_layers_of(backbone: nn.Module, image_shape: tuple[int, ...] | None = None) -> FrozenLayers | None:
    """The layers before the first that is trained; `None` where there are none."""
    count, layers = 0, layers_of(backbone)
    while count < len(layers) and not any(parameter.requires_grad for parameter in layers[count].parameters()):
        count += 1
    return FrozenLayers(layers[:count], image_shape) if count else None
