"""Collections that never change, of which a longer or changed copy costs little; threads can share them."""

import copy
import functools
import itertools
import operator
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import torch


K = TypeVar("K")
V = TypeVar("V")

_growing = threading.Lock()  # the next places of a storage are taken by one thread


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


class GrowingList(Sequence[V]):
    """A list that never changes; a longer one shares its storage.

    >>> first = GrowingList("ab")
    >>> second, third = first.grown("c"), first.grown("d")
    >>> list(first), list(second), list(third)
    (['a', 'b'], ['a', 'b', 'c'], ['a', 'b', 'd'])
    """

    def __init__(self, values: Iterable[V] = ()):
        self._storage = list(values)
        self._length = len(self._storage)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> V: ...
    @overload
    def __getitem__(self, index: slice) -> list[V]: ...
    def __getitem__(self, index: int | slice) -> V | list[V]:
        if isinstance(index, slice):
            return [self._storage[one] for one in range(*index.indices(self._length))]
        return self._storage[range(self._length)[index]]

    def __iter__(self) -> Iterator[V]:
        return itertools.islice(self._storage, self._length)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GrowingList | list):
            return NotImplemented
        return list(self) == list(other)

    def grown(self, more: Iterable[V]) -> "GrowingList[V]":
        """Returns this list followed by `more`."""
        other = copy.copy(self)
        with _growing:
            if len(self._storage) > self._length:  # the next places are taken
                other._storage = self._storage[: self._length]
            other._storage.extend(more)
            other._length = len(other._storage)
        return other


class GrowingRows:
    """A tensor that never changes; one with more rows shares its storage while there is room.

    Its rows are the first rows of a buffer, which it shares with the longer tensors that it has grown into.

    Args:
        rows: `(V, D)`.
        room: number of rows that can be added before all are copied; if 0, `rows` are not copied at first, either.

    >>> first = GrowingRows(torch.zeros(2, 1), room=4)
    >>> second = first.grown(torch.ones(1, 1))
    >>> first.rows.flatten(), second.rows.flatten()
    (tensor([0., 0.]), tensor([0., 0., 1.]))
    """

    def __init__(self, rows: torch.Tensor, room: int = 0):
        self.room = room
        self.rows = rows
        self._buffer = rows
        if room:
            self._buffer = rows.new_empty(len(rows) + room, *rows.shape[1:])
            self.rows = self._buffer[: len(rows)].copy_(rows)
        self._used = [len(rows)]  # rows of the buffer that are in use, common to all that share it

    def grown(self, more: torch.Tensor) -> "GrowingRows":
        """Returns these rows followed by `more` `(N, D)`."""
        old, new = len(self.rows), len(self.rows) + len(more)
        with _growing:
            is_free = self._used[0] == old and new <= len(self._buffer)
            if is_free:
                self._used[0] = new
        if not is_free:  # the next rows are taken, or there is no room
            return GrowingRows(torch.cat([self.rows, more]), self.room)
        other = copy.copy(self)
        self._buffer[old:new] = more
        other.rows = self._buffer[:new]
        return other
