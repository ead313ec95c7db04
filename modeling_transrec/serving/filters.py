"""Filters of items by their columns, such as "in stock" or "not for adults"."""

import functools
import operator
import reprlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds


# A value or several for each column, all of which must hold; or a predicate over the columns of Arrow.
Where: TypeAlias = Mapping[str, Any] | pc.Expression


def wanted_values(where: Mapping[str, Any], schema: pa.Schema) -> dict[str, pa.Array]:
    """Returns the values that a filter wants of each column, in the column's type.

    Args:
        where: a value or a list of values for each column; `None` stands for an item that has none.
        schema: columns of the items.

    Raises:
        ValueError: if there is no such column, it holds lists or groups, or a value is not of its type.
    """
    wanted = {}
    for name, value in where.items():
        if name not in schema.names:
            raise ValueError(
                f"where names a column {name!r} that the catalogue does not have; it has {', '.join(schema.names)}"
            )
        kind = schema.field(name).type
        if pa.types.is_nested(kind):
            raise ValueError(f"where cannot compare the column {name!r}, which holds lists or groups of values")
        values = [*value] if isinstance(value, list | tuple | set | frozenset) else [value]
        try:
            wanted[name] = pa.array(values, kind)
            is_same = pa.types.is_floating(kind) or wanted[name].to_pylist() == values
        except (pa.ArrowException, TypeError, OverflowError):
            is_same = False
        if not is_same:
            raise ValueError(f"where gives {reprlib.repr(value)} for the column {name!r}, whose values are {kind}")
    return wanted


def matching(table: pa.Table, where: Where) -> np.ndarray:
    """Returns for which rows of a table a filter holds: `(V,)` booleans. A predicate that is null does not hold.

    >>> matching(pa.table({"stock": [3, 0, 1], "kind": ["a", "b", "c"]}), {"kind": ["a", "b"]})
    array([ True,  True, False])
    >>> matching(pa.table({"stock": [3, 0, 1], "kind": ["a", "b", "c"]}), pc.field("stock") > 1)
    array([ True, False, False])

    Raises:
        ValueError: as [`wanted_values`], or if the predicate does not fit the columns.
    """
    if isinstance(where, Mapping):
        wanted = wanted_values(where, table.schema)
        parts = [pc.field(name).isin(values) for name, values in wanted.items()]
        predicate = functools.reduce(operator.and_, parts, pc.scalar(True))
    elif isinstance(where, pc.Expression):
        predicate = where
    else:
        raise ValueError(
            "where must be values by column, such as {'in_stock': True}, or an expression of Arrow, such as "
            f"pyarrow.compute.field('price') < 10; got {reprlib.repr(where)}"
        )
    try:
        holds = ds.dataset(table).to_table(columns={"holds": predicate})["holds"]
    except (pa.ArrowException, NotImplementedError) as error:
        raise ValueError(f"where does not fit the columns of the catalogue: {error}") from error
    if not pa.types.is_boolean(holds.type):
        raise ValueError(f"where must say yes or no for each item; it gives {holds.type}")
    return pc.fill_null(holds, False).to_numpy()
