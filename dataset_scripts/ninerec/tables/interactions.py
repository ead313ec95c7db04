"""Read interactions in NineRec's layout: `_pair.csv` and `_behaviour.tsv` files to sequences.

A file is read in chunks, and never held as a whole: users become hashes and items indices into the items table, which
go to a file on disk; sequences are then made of a part of the users at a time.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ..sequences import Sequences, by_first_row, filter_interactions, find_repeated, keep_last
from ..whole_folders import scratch_folder
from .coded import read_parts, write_coded
from .columns import behaviour_header, check_layout, is_behaviour, name_roles, pair_roles
from .forms import MISSING, form_of
from .impressions import impression_chunks
from .interaction_rows import (
    Chunks,
    behaviour_chunks,
    find_time_form,
    kept_in_file,
    pairs_line_by_line,
    parquet_pairs,
    regular_pairs,
    to_arrow,
    values_at,
)
from .layouts import assumed_layout, with_layout
from .numbers import LARGEST_COUNT, LARGEST_RATING, WHOLE, TimeForm
from .options import EVERYTHING, TableOptions
from .problems import RAISE, Problems, warn
from .text_files import Irregular


logger = logging.getLogger(__name__)

OF_NOBODY = (
    "have a user id that stands for a missing value: taken for one user; remove them, or give visitors without an "
    "account an id for each session"
)
ROWS_PER_PART = 1 << 24  # interactions that are sorted at a time


def read_sequences(
    path: Path,
    item_ids: pl.Series,
    min_actions: int = 5,
    max_actions: int | None = None,
    min_item_actions: int = 1,
    options: TableOptions = EVERYTHING,
    scratch_dir: str | Path | None = None,
) -> Sequences:
    """Reads the sequences of a file of interactions, users in order of first appearance.

    Args:
        path: a table of one of `FORMS` with a row an interaction, or TSV with a line a user (user, TAB, items).
        item_ids: the distinct ids of the items table; interactions with other items are dropped.
        min_actions, min_item_actions: see [`filter_interactions`].
        max_actions: the last interactions of a user that are kept; by default all.
        options: what its columns are, and which interactions count.
        scratch_dir: folder for temporary files: 32 bytes an interaction, and the columns of the file that are used.
    """
    with scratch_folder(scratch_dir, "interactions-") as folder:
        build = partial(_build, path, folder, item_ids, options, min_actions, max_actions, min_item_actions)
        try:
            return build(*interaction_chunks(path, folder, item_ids, options))
        except Irregular as reason:
            logger.info("%s is read line by line: %s", path, reason)
        return build(*interaction_chunks(path, folder, item_ids, options, is_regular=False))


def interaction_chunks(
    path: Path,
    folder: Path,
    item_ids: pl.Series,
    options: TableOptions,
    is_regular: bool = True,
    on_problem: Problems = RAISE,
) -> tuple[Chunks, TimeForm]:
    """Finds out how a file is to be read.

    Args:
        path, item_ids, options: see [`read_sequences`].
        folder: for a temporary file with the rows of a file that is hard to parse.
        is_regular: whether the fast reader is tried, which raises [`Irregular`] where a file is not plain enough.
        on_problem: what happens to a row that is wrong. While problems are collected, all is read line by line.

    Returns:
        What makes a new iterator over the interactions, and the form of their times.
    """
    assumed = assumed_layout(path, options) if form_of(path).kind == "text" else None
    options = with_layout(path, "interactions", options, on_problem)
    line_by_line = partial(pairs_line_by_line, path, options=options, on_problem=on_problem)
    lines: Chunks
    chunks: Chunks
    if "impressions" in options.of_interactions:
        chunks, times = impression_chunks(path, options, on_problem)
        return kept_in_file(path, chunks, folder / "rows.arrow") if on_problem.collects else chunks, times
    if is_behaviour(path, options, on_problem):
        header_line = behaviour_header(path, options, on_problem)
        lines = partial(line_by_line, ["user_id", "item_ids"], header_line, literal=True)
        if on_problem.collects:  # which are collected once
            lines = kept_in_file(path, lines, folder / "rows.arrow")
        return behaviour_chunks(path, lines, on_problem), WHOLE
    roles, header_line = pair_roles(path, options, on_problem)
    times = find_time_form(path, roles, header_line, options, on_problem)
    if form_of(path).kind == "parquet":
        chunks = partial(parquet_pairs, path, roles, times, on_problem)
        return kept_in_file(path, chunks, folder / "rows.arrow") if on_problem.collects else chunks, times
    if on_problem.collects:
        without_report = partial(line_by_line, roles, header_line, times, on_problem=Problems())
        roles = name_roles(path, without_report, roles, item_ids)
        chunks = kept_in_file(path, partial(line_by_line, roles, header_line, times), folder / "rows.arrow")
        if assumed is not None:
            check_layout(path, chunks, item_ids, assumed)
        return chunks, times
    if is_regular:
        chunks = regular_pairs(path, options, roles, header_line, times, folder / "rows.arrow")
    else:
        chunks = kept_in_file(path, partial(line_by_line, roles, header_line, times), folder / "rows.arrow")
    if assumed is not None:
        check_layout(path, chunks, item_ids, assumed)
    named = name_roles(path, chunks, roles, item_ids)
    names = {old: new for old, new in zip(roles, named, strict=True) if old is not None and new is not None}
    return lambda: (chunk.rename(names) for chunk in chunks()), times


def _build(
    path: Path,
    folder: Path,
    item_ids: pl.Series,
    options: TableOptions,
    min_actions: int,
    max_actions: int | None,
    min_item_actions: int,
    chunks: Chunks,
    times: TimeForm = WHOLE,
) -> Sequences:
    """Makes sequences; `folder` is for a temporary file. Times are sorted by ticks; in the result they are units."""
    table = to_arrow(item_ids)
    limits = (min_actions, max_actions, min_item_actions)
    for seed in range(4):
        try:
            report = _Report()
            num_interactions = write_coded(path, chunks, table, folder / "coded.arrow", options, seed, times=times)
            parts = read_parts(folder / "coded.arrow", num_interactions, ROWS_PER_PART)
            sequences = _merge([_sequences_of(part, table, *limits, report) for part in parts])
            break
        except _Collision:
            logger.info("%s: two users have the same hash; their ids are hashed anew", path.name)
    else:
        raise RuntimeError(f"{path}: two user ids have the same hash, whatever the seed")
    if min_item_actions > 1:
        before = sequences
        sequences = filter_interactions(sequences, min_actions, min_item_actions)
        gone = len(before.items) - len(sequences.items)
        warn(
            gone,
            f"interactions went with items that have fewer than {min_item_actions} and users that have fewer than "
            f"{min_actions}",
            path.name,
        )
        if max_actions is not None:
            sequences = keep_last(sequences, max_actions)
    if len(sequences) == 0:
        raise ValueError(
            f"{path}: none of {report.num_users:,} users has {min_actions} interactions with known items; "
            "lower min_actions or check the files"
        )
    if sequences.timestamps is not None:
        timestamps = times.to_units(sequences.timestamps)
        sequences = replace(sequences, timestamps=timestamps)
        _warn_of_ratings(path, timestamps)
    named = values_at(chunks, "user_id", sequences.user_ids.to_numpy())
    missing = pc.is_in(named, value_set=pa.array(MISSING, named.type)).to_numpy(zero_copy_only=False)
    if missing.any():
        warn(
            int(sequences.lengths[missing].sum()),
            f"interactions in {path.name} {OF_NOBODY}",
            named.to_pylist()[int(np.argmax(missing))],
        )
    if report.repeated is not None:
        row, item, timestamp = report.repeated
        user = values_at(chunks, "user_id", np.array([row]))[0].as_py()
        example = (user, table[item].as_py(), times.to_units(timestamp))
        what = f"rows of {path.name} repeat user, item and timestamp of an earlier row: dropped"
        warn(report.num_repeated, what, example)
    if report.num_short:
        example = values_at(chunks, "user_id", np.array([report.short]))[0].as_py()
        warn(report.num_short, f"users have fewer than {min_actions} interactions: dropped", example)
    return replace(sequences, user_ids=named, item_ids=table.cast(pa.string()))


def _warn_of_ratings(path: Path, timestamps: np.ndarray) -> None:
    """Warns where what is taken for times looks like ratings or counts."""
    if len(timestamps) > LARGEST_RATING and 0 <= timestamps.min():
        if timestamps.max() <= LARGEST_COUNT:
            logger.warning(
                "%s: the times are numbers from %d to %d: are they ratings or counts? Name the columns, or say that "
                'there is no time: columns={"timestamp": None}, or of a file without header '
                'pair_columns=("user_id", "item_id", "rating", …)',
                path,
                timestamps.min(),
                timestamps.max(),
            )


class _Collision(Exception):
    """Two users have one hash."""


@dataclass
class _Report:
    """What was left out on the way, with the first example; users are named by their first row in the file."""

    num_users: int = 0
    num_short: int = 0
    short: int | None = None
    num_repeated: int = 0
    repeated: tuple[int, int, int] | None = None  # user, item, timestamp


def _sequences_of(
    interactions: pl.DataFrame,
    table: pa.Array,
    min_actions: int,
    max_actions: int | None,
    min_item_actions: int,
    report: _Report,
) -> Sequences:
    """Sequences of some users, whose `user_ids` are the first rows of each in the file, in this order."""
    timed, weighted = "timestamp" in interactions.columns, "weight" in interactions.columns
    ordered = by_first_row(interactions)
    user, check = ordered["user"].to_numpy(), ordered["check"].to_numpy()
    if ((user[1:] == user[:-1]) & (check[1:] != check[:-1])).any():
        raise _Collision
    if timed:
        repeated = find_repeated(ordered)
        if repeated.any():
            report.num_repeated += int(repeated.sum())
            example = ordered.select("user", "item", "timestamp").row(int(np.argmax(repeated)))
            report.repeated = min(report.repeated or example, example)
            if weighted:  # what counts most stays
                ordered = ordered.with_columns(pl.col("weight").max().over("user", "item", "timestamp"))
            ordered = ordered.filter(~repeated)
            user = ordered["user"].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]])) if len(user) else np.zeros(0, np.int64)
    sequences = Sequences(
        pa.array(user[starts]),
        np.concatenate([starts, [len(user)]]),
        ordered["item"].to_numpy(),
        ordered["timestamp"].to_numpy() if timed else None,
        table,
        ordered["weight"].to_numpy() if weighted else None,
    )
    report.num_users += len(sequences)
    if min_item_actions > 1:  # which only all users together tell
        return sequences
    short = sequences.lengths < min_actions
    if short.any():
        report.num_short += int(short.sum())
        first_short = int(user[starts][np.argmax(short)])
        report.short = first_short if report.short is None else min(report.short, first_short)
    sequences = filter_interactions(sequences, min_actions)
    return sequences if max_actions is None else keep_last(sequences, max_actions)


def _merge(parts: list[Sequences]) -> Sequences:
    """Sequences of parts of the users as one, in order of their first rows; `parts` is emptied on the way."""
    if len(parts) == 1:
        return parts.pop()
    user_ids = pa.concat_arrays([part.user_ids for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    order = np.argsort(user_ids.to_numpy())
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    starts = np.empty_like(lengths)
    starts[order] = offsets[:-1]
    columns = {name: np.empty(offsets[-1], getattr(parts[0], name).dtype) for name in parts[0].columns}
    done = 0
    while parts:
        part = parts.pop(0)
        shift = starts[done : done + len(part)] - part.offsets[:-1]
        places = np.repeat(shift, part.lengths) + np.arange(len(part.items))
        for name, values in columns.items():
            values[places] = getattr(part, name)
        done += len(part)
    return replace(part, user_ids=user_ids.take(pa.array(order)), offsets=offsets, **columns)
