"""Interactions as numbers in a file, of which a part of the users is read at a time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from .interaction_rows import Chunks, to_arrow
from .numbers import WHOLE, TimeForm, UnitsOfTimes
from .options import TableOptions
from .problems import RAISE, Problems, shown, warn
from .spellings import advice_on_unknown


class _Selection:
    """Leaves out the interactions that do not count, weighs the others, and tells how many it left out."""

    def __init__(self, path: Path, options: TableOptions, on_problem: Problems):
        self.path, self.options, self.on_problem = path, options, on_problem
        self.seen: set[str] = set()  # types of interactions
        self.left_out: dict[str, tuple[int, str]] = {}  # why → how many, the first's rating or type

    def apply(self, chunk: pl.DataFrame) -> pl.DataFrame:
        """Returns the interactions that count, with a column `weight` where the weights may differ."""
        least, weights = self.options.min_rating, self.options.event_weights
        if least is not None:
            chunk = self._keep(chunk, chunk["rating"] >= least, "rating", f"have a rating below {least:g}")
        if weights is not None:
            self.seen.update(chunk["event_type"].unique())
            weight = chunk["event_type"].replace_strict(weights, default=0.0, return_dtype=pl.Float32)
            chunk = chunk.with_columns(weight.alias("weight"))
            chunk = self._keep(chunk, weight > 0, "event_type", "are of a type without weight in event_weights")
        return chunk

    def _keep(self, chunk: pl.DataFrame, keep: pl.Series, column: str, why: str) -> pl.DataFrame:
        gone = chunk.filter(~keep)
        if gone.height:
            count, example = self.left_out.get(why, (0, str(gone[column][0])))
            self.left_out[why] = (count + gone.height, example)
            if self.on_problem.collects:
                self.on_problem.add_rows("note", self.path, f"interactions {why}: left out", gone, column, str)
        return chunk.filter(keep)

    def finish(self, num_kept: int) -> None:
        """Reports what was left out.

        Raises:
            ValueError: if a type was asked for that does not occur, or nothing is left.
        """
        if absent := [name for name in self.options.event_weights or () if name not in self.seen]:
            raise ValueError(
                f"{self.path}: no interaction is of the type {absent[0]!r}, to which event_weights gives a weight; "
                f"the types are {', '.join(map(repr, sorted(self.seen)))}"
            )
        if self.left_out and not num_kept:
            raise ValueError(f"{self.path}: all interactions {' or '.join(self.left_out)}")
        for why, (count, example) in self.left_out.items() if not self.on_problem.collects else ():
            warn(count, f"interactions in {self.path.name} {why}: left out", example)


def write_coded(
    path: Path,
    chunks: Chunks,
    table: pa.Array,
    file: Path,
    options: TableOptions,
    seed: int = 0,
    on_problem: Problems = RAISE,
    times: TimeForm = WHOLE,
) -> int:
    """Writes the interactions that count, with known items, as numbers, and returns how many there are.

    `user` and `check` are hashes of the user's id, `item` is an index into the items table, `row` that of a row of the
    file, from 0; `weight` is there if the options have weights, `line` if the chunks have it.

    Raises:
        ValueError: if no interaction is with a known item or, unless problems are collected, if times, of the form
            `times`, are in two units.
    """
    num_known = num_selected = row = 0
    unknown_items: set[str] = set()
    num_unknown, example, writer = 0, None, None
    selection, units = _Selection(path, options, on_problem), UnitsOfTimes(path, times)
    with pa.OSFile(str(file), "wb") as sink:
        for read in chunks():
            chunk = selection.apply(
                read.with_columns(pl.int_range(row, row + read.height, dtype=pl.Int64).alias("row"))
            )
            row += read.height
            if "timestamp" in read.columns and not on_problem.collects:
                units.add(read["timestamp"])
            num_selected += chunk.height
            item = pc.index_in(to_arrow(chunk["item_id"]), value_set=table)
            coded = chunk.select(
                pl.col("user_id").hash(seed).alias("user"),
                (pl.col("user_id").hash(seed + 1000) // 2**32).cast(pl.UInt32).alias("check"),
                pl.Series("item", pl.from_arrow(item), dtype=pl.Int32),
                "row",
                *(name for name in ("timestamp", "weight", "line") if name in chunk.columns),
            )
            if item.null_count:
                missing = chunk.filter(coded["item"].is_null())
                example = (missing["item_id"][0], chunk["item_id"][0]) if example is None else example
                unknown_items.update(missing["item_id"].unique())
                num_unknown += missing.height
                if on_problem.collects:
                    what = "interactions with items that are not in the items table: dropped"
                    on_problem.add_rows("warning", path, what, missing, "item_id", lambda one: f"item {shown(one)}")
                coded = coded.filter(pl.col("item").is_not_null())
            batch = coded.to_arrow()
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_table(batch)
            num_known += coded.height
        if writer is not None:
            writer.close()
    selection.finish(num_selected)
    units.check()
    if num_known == 0 and example is not None:
        raise ValueError(
            f"{path}: none of its item ids (e.g. {example[1]!r}) is in the items table "
            f"(e.g. {table[0].as_py()!r}); {_advice(example[1], unknown_items, table)}"
        )
    if num_known == 0:
        raise ValueError(f"{path}: no row can be read from this file")
    if example is not None and not on_problem.collects:
        what = (
            f"interactions in {path.name} are with {len(unknown_items):,} items that are not in the items table: "
            "dropped"
        )
        warn(num_unknown, what, example[0])
    return num_known


def _advice(item_id: str, item_ids: set[str], table: pa.Array) -> str:
    parts = re.split(r"[ ,;|]+", item_id)
    if len(parts) > 1 and pc.index_in(pa.array(parts, table.type), value_set=table).null_count == 0:
        return f"it is several that are: write a row of several items as a list, such as {json.dumps(parts[:3])}"
    return advice_on_unknown(pl.Series(sorted(item_ids), dtype=pl.String), cast(pl.Series, pl.from_arrow(table)))


def read_parts(file: Path, num_interactions: int, rows_per_part: int) -> Iterator[pl.DataFrame]:
    """Yields the interactions of a part of the users at a time, those whose hashes lie in one range."""
    num_parts = -(-num_interactions // rows_per_part)
    bounds = [2**64 * part // num_parts for part in range(num_parts + 1)]
    with pa.OSFile(str(file), "rb") as source:
        reader = pa.ipc.open_file(source)
        for low, high in zip(bounds, bounds[1:], strict=False):
            is_here = pl.col("user").is_between(pl.lit(low, pl.UInt64), pl.lit(high - 1, pl.UInt64))
            batches = (
                cast(pl.DataFrame, pl.from_arrow(reader.get_batch(n))) for n in range(reader.num_record_batches)
            )
            yield pl.concat(batch.filter(is_here) for batch in batches)
