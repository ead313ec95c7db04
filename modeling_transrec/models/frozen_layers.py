"""Records the outputs of the frozen layers at the start of a backbone once, and replays them in later passes.

No backbone is reimplemented here: its own forward pass runs, and its frozen layers return the recorded hidden states
instead of computing them. Masks, positions and all else that is computed before the layers come from the backbone.

Shapes: `U` texts, `T` tokens, `P` images, `H` width of the hidden states.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import nn

from .backbones import layers_of
from .freezing import is_trained


class UnsupportedLayers(ValueError):
    """Raised for layers whose outputs cannot be recorded and replayed; the message says why."""


class FrozenLayers:
    """The first layers of a backbone, all of whose parameters are frozen.

    Args:
        layers: the frozen layers in order, at least one.
        image_shape: `(3, height, width)` of the images of a vision backbone; empty for a text backbone.
    """

    def __init__(self, layers: list[nn.Module], image_shape: tuple[int, ...] = ()):
        self.layers = layers
        self.image_shape = image_shape
        self.forms: list = [None] * len(layers)  # of each layer's output, see `form_of`

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        """Records the last frozen layer's hidden states of each pass within it, in the list that it yields."""
        found = []

        def remember(layer_index: int, module: nn.Module, args: tuple, output) -> None:
            self.forms[layer_index] = form_of(output)
            if layer_index == len(self.layers) - 1:
                found.append(output if isinstance(output, torch.Tensor) else output[0])

        with contextlib.ExitStack() as hooks:
            for index, layer in enumerate(self.layers):
                hooks.enter_context(layer.register_forward_hook(functools.partial(remember, index)))
            yield found

    @contextlib.contextmanager
    def giving(self, states: torch.Tensor) -> Iterator[None]:
        """Makes the backbone's one forward pass within this context start from the recorded hidden states."""
        if any(is_trained(layer) for layer in self.layers):
            raise RuntimeError("layers whose outputs were recorded are trainable now; make a new TransRecTrainer")
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
            raise RuntimeError(
                f"the backbone called {len(calls)} of its {len(self.layers)} frozen layers; their recorded outputs "
                "cannot be replayed"
            )

    def blank_image(self, device: torch.device) -> torch.Tensor:
        """Returns an empty image `(1, 3, height, width)` for a pass in which recorded states replace it."""
        return torch.zeros(1, *self.image_shape, device=device)


def form_of(output) -> tuple | list | None:
    """Returns the form of a layer's output: `None` for a tensor, else the sequence with `None` for each tensor.

    Raises:
        UnsupportedLayers: if the output does not start with hidden states, or has parts that cannot be replayed.

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


def frozen_layers_of(backbone: nn.Module, image_shape: tuple[int, ...] = ()) -> FrozenLayers | None:
    """Returns the layers before the first one that is trained; `None` where there are none."""
    count, layers = 0, layers_of(backbone)
    while count < len(layers) and not is_trained(layers[count]):
        count += 1
    return FrozenLayers(layers[:count], image_shape) if count else None
