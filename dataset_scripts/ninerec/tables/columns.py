"""Which column of a file of actions holds users, which items, and which the time."""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.compute as pc

from .interaction_rows import Chunks, to_arrow
from .items import header_roles
from .text_files import first_row


logger = logging.getLogger(__name__)

PAIR_COLUMNS = ("user_id", "item_id", "timestamp")
DISTINCT_BITS = 24  # size of the bitmap that counts distinct values


def are_pair_columns(columns: Iterable[str | None]) -> bool:
    """Whether there are user and item once each and timestamp once, or nothing else.

    Without that rule an unknown name for the time would silently mean that the file has none.
    """
    columns = list(columns)
    known = sorted(column for column in columns if column in PAIR_COLUMNS)
    return known == sorted(PAIR_COLUMNS) or (known == sorted(PAIR_COLUMNS[:2]) and len(columns) == 2)


def pair_roles(
    path: Path, pair_columns: tuple[str, ...] | None, columns: dict[str, str] | None = None
) -> tuple[list[str | None], int | None]:
    """What each column of a pair file is, None where it is not used, and the line of the header, if any."""
    line, first = first_row(path)
    named = [role if role in PAIR_COLUMNS else None for role in header_roles(first, columns)]
    header = {"user_id", "item_id"} <= set(named)
    if path.suffix == ".parquet" and not header:
        raise ValueError(
            f"{path}: its columns {first} name no user or no item; say what they are called: "
            'columns={"user_id": …, "item_id": …, "timestamp": …}'
        )
    for role in PAIR_COLUMNS if header else ():
        twice = [name for name, other in zip(first, named, strict=True) if other == role]
        if len(twice) > 1:
            raise ValueError(
                f"{path}:{line}: {' and '.join(map(repr, twice))} are both taken for {role}; say which column it is: "
                f'columns={{"{role}": {json.dumps(twice[-1])}}}'
            )
    if header and not are_pair_columns(named):
        raise ValueError(
            f"{path}:{line}: the header {first} does not name user, item and timestamp once each; name its columns "
            f"{','.join(PAIR_COLUMNS)} in the order of the file, or say what they are called: "
            'columns={"timestamp": …}'
        )
    if pair_columns is not None:
        columns = [column if column in PAIR_COLUMNS else None for column in pair_columns]
        if len(columns) != len(first) or (header and columns != named):
            raise ValueError(f"{path}:{line}: pair_columns={pair_columns} does not fit the file's columns {first}")
    elif header:
        columns = named
    elif len(first) in (2, 3):
        columns = ["column 1", "column 2", "timestamp"][: len(first)]
    else:
        raise ValueError(
            f"{path}:{line}: {len(first)} columns where 2 or 3 are expected (user, item, timestamp), separated by "
            f"commas; if there are more, name all in a header line such as: {','.join(PAIR_COLUMNS)},rating"
        )
    return columns, line if header else None


def with_roles(path: Path, chunks: Chunks, columns: list[str | None], item_ids: pl.Series) -> Chunks:
    """The same chunks, with the columns of users and items named."""
    if "user_id" in columns:
        return chunks
    user, item = _detect_order(path, chunks, item_ids)

    def renamed() -> Iterator[pl.DataFrame]:
        return (chunk.rename({user: "user_id", item: "item_id"}) for chunk in chunks())

    return renamed


def _detect_order(path: Path, chunks: Chunks, item_ids: pl.Series) -> tuple[str, str]:
    """Which column holds users and which items, by the overlap of distinct values with the items table.

    Containment does not suffice: where both ids are integers from 1, all users are item ids, too. Then only the usual
    order, user before item, is believed, and only if the items are nearly all of the table, and the users are not.
    """
    names = ("column 1", "column 2")
    table = to_arrow(item_ids)
    counters = {name: DistinctCounter() for name in names}
    in_table = {name: np.zeros(len(table), dtype=bool) for name in names}
    example = None
    for chunk in chunks():
        example = example or chunk.row(0)[:2]
        for name in names:
            counters[name].add(chunk[name])
            in_table[name][pc.index_in(to_arrow(chunk[name]), value_set=table).drop_null()] = True
    jaccard, contained = {}, {}
    for name in names:
        common, distinct = int(in_table[name].sum()), counters[name].estimate()
        jaccard[name] = common / (distinct + len(table) - common)
        contained[name] = common / distinct
    user, item = sorted(jaccard, key=jaccard.get)
    if jaccard[item] == 0:
        raise ValueError(
            f"{path}: no user or item id (e.g. {example}) is in the items table (e.g. {item_ids[0]!r}); "
            "are these files of the same data set?"
        )
    overlaps = ", ".join(f"{column} {value:.3f}" for column, value in jaccard.items())
    both_look_like_items = min(contained.values()) >= 0.5
    unusual = item != "column 2" or jaccard[item] < 0.9
    if (both_look_like_items and unusual) or jaccard[item] < 1.25 * jaccard[user]:
        raise ValueError(
            f"{path}: cannot tell users from items: overlap with the items table is {overlaps}. "
            "Add a header line such as user_id,item_id,timestamp in the order of the file, or give the option "
            'pair_columns=("user_id", "item_id", "timestamp"), in a script --pair_columns user_id item_id timestamp '
            "(without timestamp where there is none)."
        )
    logger.info("%s: %s holds items, %s users (overlap with the items table: %s)", path.name, item, user, overlaps)
    return user, item


class DistinctCounter:
    """Counts distinct values in fixed memory, to a fraction of a per cent (linear counting, Whang et al., TODS 1990).

    >>> counter = DistinctCounter()
    >>> counter.add(pl.Series(["a", "b"]))
    >>> counter.add(pl.Series(["b", "c"]))
    >>> counter.estimate()
    3
    """

    def __init__(self):
        self.seen = np.zeros(1 << DISTINCT_BITS, dtype=bool)

    def add(self, values: pl.Series) -> None:
        self.seen[values.hash().to_numpy() >> np.uint64(64 - DISTINCT_BITS)] = True

    def estimate(self) -> int:
        num_seen = min(int(self.seen.sum()), len(self.seen) - 1)
        return round(-len(self.seen) * np.log1p(-num_seen / len(self.seen)))
