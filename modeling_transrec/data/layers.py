"""Layers: a mapping of which a changed copy costs little."""

import functools
import operator
from typing import Generic, TypeVar


K = TypeVar("K")
V = TypeVar("V")


class Layers(Generic[K, V]):
    """A mapping that never changes; one with some other values shares nearly everything with it.

    It is made of dictionaries, each at least twice as large as the next, which goes before it.

    >>> one = Layers({"a": 1, "b": 2})
    >>> one.changed({"a": 3}).get("a", 0), one.get("a", 0)
    (3, 1)
    """

    def __init__(self, *layers: dict[K, V]):
        self._layers = layers

    def get(self, key: K, default: V) -> V:
        for layer in reversed(self._layers):
            if key in layer:
                return layer[key]
        return default

    def as_dict(self) -> dict[K, V]:
        return functools.reduce(operator.or_, self._layers, {})

    def changed(self, values: dict[K, V]) -> "Layers[K, V]":
        layers = [*self._layers, values]
        while len(layers) > 1 and len(layers[-2]) < 2 * len(layers[-1]):
            last = layers.pop()
            layers[-1] = layers[-1] | last
        return Layers(*layers)
