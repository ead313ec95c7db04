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
        yield cast(pl.DataFrame, pl.from_arrow(_with_smaller_decimals(batch)))


def _with_smaller_decimals(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns decimals of up to 76 digits as those of 38, which polars knows."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_decimal256(field.type):
            column = batch.column(place).cast(pa.decimal128(38, field.type.scale))
            batch = batch.set_column(place, field.name, column)
    return batch


def as_strings(path: Path, name: str, values: pl.Series) -> pl.Series:
    """Returns ids or texts of a Parquet column as strings; numbers with a fraction are no ids.

    Whole decimals are integers. Bytes are text where they can be, else hexadecimal digits, as are all UUIDs. A column
    without any value is of no type, or, as pandas writes it, of numbers that are none.
    """
    if values.is_null().all() or (values.dtype.is_float() and values.is_nan().fill_null(True).all()):
        return pl.Series(values.name, [None] * len(values), dtype=pl.String)
    if values.dtype.is_integer() or isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    if isinstance(values.dtype, pl.Decimal):
        text = values.cast(pl.String).str.replace(r"\.0+$", "")
        if not text.str.contains(".", literal=True).any():
            return text
    if values.dtype == pl.Binary:
        return _text_or_hex(values)
    raise ValueError(f"{path}: column {name!r} is of type {values.dtype}; ids and texts must be strings or integers")


def _text_or_hex(values: pl.Series) -> pl.Series:
    """Returns bytes as text, or as hexadecimal digits where they are no UTF-8 or hold control characters."""
    known: dict[bytes | None, str | None] = {None: None}
    for value in values.drop_nulls().unique():
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = ""
        known[value] = text if text.isprintable() and text else value.hex()
    return pl.Series(values.name, [known[value] for value in values], dtype=pl.String)
