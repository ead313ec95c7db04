"""Gives a dataclass of options fields that are declared elsewhere: in another one, or by a table."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def with_fields(fields: Mapping[str, Any]) -> Callable[[type], type]:
    """Adds fields to a class that is about to become a dataclass, after its own.

    >>> @dataclasses.dataclass
    ... class Given:
    ...     depth: int = dataclasses.field(default=3, metadata={"help": "Layers."})
    >>> @dataclasses.dataclass
    ... @with_fields(fields_of(Given, ["depth"], note="in place of a file"))
    ... class Shown:
    ...     width: int
    >>> Shown(width=8), dataclasses.fields(Shown)[1].metadata["help"]
    (Shown(width=8, depth=3), 'Layers; in place of a file.')
    """

    def add(cls: type) -> type:
        for name, one in fields.items():
            cls.__annotations__[name] = one.type
            setattr(cls, name, one)
        return cls

    return add


def fields_of(cls: type, names: Iterable[str], note: str = "") -> dict[str, Any]:
    """Returns fields of a dataclass for another one, with their types, defaults and help texts.

    Args:
        cls: the dataclass.
        names: of the fields.
        note: a part of a sentence that is added to each help text.
    """
    declared: dict[str, Any] = {one.name: one for one in dataclasses.fields(cls)}
    found = {}
    for name in names:
        text = declared[name].metadata["help"]
        metadata = {**declared[name].metadata, "help": f"{text.removesuffix('.')}; {note}." if note else text}
        found[name] = dataclasses.field(default=declared[name].default, metadata=metadata)
        found[name].type = declared[name].type
    return found
