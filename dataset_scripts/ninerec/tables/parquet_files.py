"""Parquet files, and folders of their parts, to frames of their columns."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from .unpacking import check_growth


ROWS_AT_ONCE, BYTES_AT_ONCE = 1 << 16, 1 << 28  # a text that is stored once may stand in every row
KINDS = {
    "integer": (pa.types.is_integer,),
    "string": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "decimal": (pa.types.is_decimal,),
    "number": (pa.types.is_floating,),
    "datetime": (pa.types.is_timestamp,),
    "date": (pa.types.is_date,),
}
# What lies in the folder of a table whose log, not the folder, tells which of the files are its present rows.
LOGGED = {"Delta": "_delta_log", "Iceberg": "metadata/*.metadata.json", "Hudi": ".hoodie"}


@contextlib.contextmanager
def _whole_parquet(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole Parquet file, copy it again: {error}") from None


def _parts(path: Path) -> list[Path]:
    """Returns the files of a table, in the order of the numbers in their names."""
    if not path.is_dir():
        return [path]
    for kind, log in LOGGED.items():
        if any(path.glob(log)):
            raise ValueError(
                f"{path} is a {kind} table, whose log tells which of its files are still part of it; export its rows "
                f'to plain Parquet, in Spark by spark.read.format("{kind.lower()}").load(…).write.parquet(…)'
            )
    inside = [part.relative_to(path) for part in path.rglob("*") if not part.is_dir()]
    inside = [part for part in inside if not any(name.startswith((".", "_")) for name in part.parts)]
    for part in inside:
        if part.suffix.lower() not in (".parquet", ".pq"):
            raise ValueError(f"{path / part} is no Parquet file among the parts of a table; remove it")
    if not inside:
        raise ValueError(f"{path} is a folder without Parquet files")

    def in_order(part: Path) -> list:
        return [int(text) if text.isdecimal() else text for text in re.split(r"(\d+)", part.as_posix())]

    return [path / part for part in sorted(inside, key=in_order)]


def _folder_values(path: Path, part: Path) -> dict[str, str | None]:
    """Returns the columns that stand in the names of folders: `day=2024-05-07/part-0.parquet`."""
    named = [name.partition("=") for name in part.relative_to(path).parts[:-1] if "=" in name]
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, _, value in named}


def _kinds(path: Path, part: Path) -> dict[str, str]:
    """Returns the columns of a part, and of which kind each is: parts may differ in the width of a number only."""
    with _whole_parquet(part):
        schema = pyarrow.parquet.read_schema(part)
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise ValueError(f"{part}: two columns are called {name!r}; rename or remove one of them")
    return {field.name: _kind(field.type) for field in schema} | dict.fromkeys(_folder_values(path, part), "string")


def _kind(of: pa.DataType) -> str:
    if pa.types.is_dictionary(of):
        return _kind(of.value_type)
    if pa.types.is_list(of) or pa.types.is_large_list(of) or pa.types.is_fixed_size_list(of):
        return f"list of {_kind(of.value_type)}"
    return next((name for name, tests in KINDS.items() if any(test(of) for test in tests)), str(of))


def parquet_columns(path: Path) -> list[str]:
    """Returns the names of the columns of a Parquet file, or of all parts in a folder.

    Raises:
        ValueError: if the parts are not parts of one table.
    """
    first, *others = _parts(path)
    kinds = _kinds(path, first)
    for part in others:
        other = _kinds(path, part)
        for name in {**kinds, **other}:
            one, two = kinds.get(name, "absent"), other.get(name, "absent")
            if one != two and "null" not in (one, two):
                raise ValueError(
                    f"{part}: column {name!r} is {two}, and {one} in {first}; these are no parts of a table"
                )
    return list(kinds)


def parquet_lists(path: Path) -> list[str]:
    """Returns the names of the columns that hold lists."""
    return [name for name, kind in _kinds(path, _parts(path)[0]).items() if kind.startswith("list of ")]


def parquet_chunks(path: Path, columns: list[str], num_rows: int) -> Iterator[pl.DataFrame]:
    """Yields the rows of a Parquet file, or of all in a folder, `num_rows` at a time, fewer where they are wide."""
    for part in _parts(path):
        values = _folder_values(path, part)
        inside = [name for name in columns if name not in values]
        with _whole_parquet(part):
            file = pyarrow.parquet.ParquetFile(part)
            tables = _joined(part, file.iter_batches(min(num_rows, ROWS_AT_ONCE), columns=inside), num_rows)
        while True:
            with _whole_parquet(part):
                table = next(tables, None)
            if table is None:
                break
            named = [pl.lit(values[name], pl.String).alias(name) for name in columns if name in values]
            yield cast(pl.DataFrame, pl.from_arrow(_with_smaller_decimals(table))).with_columns(named).select(columns)


def _joined(part: Path, batches: Iterator[pa.RecordBatch], num_rows: int) -> Iterator[pa.Table]:
    """Yields batches together: at least so many rows, or as many as take some memory."""
    held, size, total = list[pa.RecordBatch](), 0.0, 0.0
    for batch in batches:
        held.append(batch)
        size += _decoded_size(batch)
        if sum(map(len, held)) >= num_rows or size >= BYTES_AT_ONCE:
            total += size
            check_growth(part, part.stat().st_size, int(total))
            yield pa.Table.from_batches(held)
            held, size = [], 0.0
    if held:
        yield pa.Table.from_batches(held)


def _decoded_size(batch: pa.RecordBatch) -> float:
    """Returns the bytes of a batch with the texts of its categories in every row."""
    size = 0.0
    for column in batch.columns:
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        size += texts.nbytes * len(batch) / max(1, len(texts))
    return size


def _with_smaller_decimals(table: pa.Table) -> pa.Table:
    """Returns decimals of up to 76 digits as those of 38, which polars knows."""
    for place, field in enumerate(table.schema):
        if pa.types.is_decimal256(field.type):
            column = table.column(place).cast(pa.decimal128(38, field.type.scale))
            table = table.set_column(place, field.name, column)
    return table


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
    fix = f'; columns={{"text_en": ["{name}"]}} makes a text of lists' if isinstance(values.dtype, pl.List) else ""
    what = f"column {name!r} is of type {values.dtype}"
    raise ValueError(f"{path}: {what}; ids and texts must be strings or integers{fix}")


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
