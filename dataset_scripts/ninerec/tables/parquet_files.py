"""Parquet files to frames of their columns."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet


@contextlib.contextmanager
def _whole_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole Parquet file, copy it again: {error}") from None


def parquet_columns(path: Path) -> list[str]:
    """Names of the columns of a Parquet file."""
    with _whole_parquet(path):
        return pyarrow.parquet.read_schema(path).names


def parquet_chunks(path: Path, columns: list[str], num_rows: int) -> Iterator[pl.DataFrame]:
    """Yields the rows of a Parquet file, `num_rows` at a time."""
    with _whole_parquet(path):
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=num_rows, columns=columns)
    while True:
        with _whole_parquet(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield cast(pl.DataFrame, pl.from_arrow(batch))


def as_strings(path: Path, name: str, values: pl.Series) -> pl.Series:
    """Returns ids or texts of a Parquet column as strings; numbers with a fraction are no ids.

    A column without any value is of no type, or, as pandas writes it, of numbers that are none.
    """
    if values.is_null().all() or (values.dtype.is_float() and values.is_nan().fill_null(True).all()):
        return pl.Series(values.name, [None] * len(values), dtype=pl.String)
    if values.dtype.is_integer() or isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    raise ValueError(f"{path}: column {name!r} is of type {values.dtype}; ids and texts must be strings or integers")
