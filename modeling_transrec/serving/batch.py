"""Recommends to every user of a data set, into Parquet files, by any number of processes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from tqdm import tqdm

from ..data.cache import items_digest
from ..data.foreign_ids import drop_foreign_ids
from ..data.preparation import prepare_items
from ..evaluation.encoding import encode_catalogue
from ..evaluation.scoring import CatalogueScorer
from ..hub.facts import checkpoint_hash
from ..models.processing_transrec import check_processor
from ..models.whole_saves import named_disk_errors, write_out
from .catalogue import Catalogue
from .columns import checked_items, item_columns
from .recommender import Recommender


SCHEMA = pa.schema(
    {"user_id": pa.string(), "item_ids": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
)  # items are those recommended, best first
_RUN = "transrec"  # what a file was made of, in its metadata


def index_in_shares(recommender: Recommender, items: datasets.Dataset, chunk_size: int = 256) -> Recommender:
    """Encodes a catalogue as [`Recommender.index`] does; each process of this run, which all call it, a share of it.

    Args:
        recommender: of a trained model, the same one in every process.
        items: the same ones in every process.
        chunk_size: items encoded at a time.

    Returns: the recommender, which has the whole catalogue.
    """
    items, state = checked_items(items), PartialState()
    recommender.processor = drop_foreign_ids(recommender.model, recommender.processor, items["item_id"][:])
    model, processor = recommender.model, recommender.processor
    check_processor(processor, model.config)
    with state.local_main_process_first():  # the others find on the disk what it has prepared
        prepared = prepare_items(items, processor, is_catalogue=True)
    scorer = CatalogueScorer(model, encode_catalogue(model, prepared, processor, chunk_size, in_shares=True))
    recommender.restore(Catalogue.build(item_columns(items), scorer, checkpoint_hash(model, processor)))
    return recommender


def write_recommendations(
    recommender: Recommender,
    sequences: datasets.Dataset,
    output_dir: str | Path,
    k: int = 10,
    exclude_seen: bool = True,
    batch_size: int = 256,
    users_per_file: int = 50_000,
    process_index: int = 0,
    num_processes: int = 1,
) -> int:
    """Writes recommendations that follow every user's whole known history, a held-out target included.

    The files `recommendations-00000-of-00020.parquet`, … have a row a user, in the order of `sequences`, with the
    columns `user_id`, `item_ids` (best first) and `scores`. Their number and content do not depend on the number of
    processes, each of which writes those that fall to it. A file is whole or not there; one that is there is kept, so
    that the same call goes on where an earlier one was stopped. No more than one file's users are in memory.

    Args:
        recommender: with its catalogue.
        sequences: a row a user: `user_id`, `item_ids` and, where there is one, `target`.
        output_dir: the folder of the files.
        k, exclude_seen: as in [`Recommender.recommend`].
        batch_size: users that are recommended to at a time.
        users_per_file: users of a file.
        process_index, num_processes: files are dealt out in turn.

    Returns: the number of files that were there already, of those that fall to this process.

    Raises:
        ValueError: if the folder has files of another run: of other users or items, another checkpoint, or other
            options. Counted transitions are not compared.

    Example:

    ```python
    write_recommendations(recommender, load_sequences("ninerec", "Bili_Food", "test"), "outputs/recommendations")
    ```
    """
    if users_per_file < 1 or batch_size < 1:
        raise ValueError(f"users_per_file and batch_size must be at least 1, got {users_per_file} and {batch_size}")
    folder, files = Path(output_dir), range(0, len(sequences), users_per_file)
    names = [f"recommendations-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))]
    folder.mkdir(parents=True, exist_ok=True)
    if foreign := sorted({path.name for path in folder.glob("*.parquet")} - {*names}):
        raise ValueError(f"{folder} has files of another run, such as {foreign[0]}: give another output_dir")
    catalogue = recommender.indexed()
    run: dict[str, Any] = {"checkpoint": catalogue.checkpoint, "k": k, "exclude_seen": exclude_seen}
    run["items"] = items_digest(catalogue.items, catalogue.items.column_names)
    num_kept = 0
    own = list(zip(files, names, strict=True))[process_index::num_processes]
    for first, name in tqdm(own, desc="Recommending", unit="file", disable=process_index > 0):
        users = sequences.select(range(first, min(first + users_per_file, len(sequences))))
        run["users"] = _digest(users)
        if (folder / name).exists():
            _check_run(folder / name, run)
            num_kept += 1
            continue
        table = recommended_table(recommender, users, k, exclude_seen, batch_size)
        table = table.replace_schema_metadata({_RUN: json.dumps(run)})
        unfinished = folder / f"_{name}.unfinished"
        with named_disk_errors(folder, "the files that were written before are whole"):
            pq.write_table(table, unfinished)
            write_out(unfinished)
            unfinished.replace(folder / name)
    return num_kept


def recommended_table(
    recommender: Recommender,
    sequences: datasets.Dataset,
    k: int = 10,
    exclude_seen: bool = True,
    batch_size: int = 256,
) -> pa.Table:
    """Returns recommendations in the columns of [`SCHEMA`]; arguments as in [`write_recommendations`]."""
    tables = [SCHEMA.empty_table()]
    for user_ids, histories, times in _batches(sequences, batch_size):
        known = known_of_users(recommender, user_ids, times)
        found: list = recommender.recommend(histories, k, exclude_seen, **known)
        item_ids, scores = ([[item[name] for item in one] for one in found] for name in ("item_id", "score"))
        tables.append(pa.table([user_ids, item_ids, scores], schema=SCHEMA))
    return pa.concat_tables(tables)


def known_of_users(recommender: Recommender, user_ids: list[str], times: list[list[int]] | None) -> dict[str, Any]:
    """Returns what a recommender reads of users beside their histories, as arguments of [`Recommender.recommend`].

    Raises:
        ValueError: if it reads times, and there are none.
    """
    known: dict[str, Any] = {}
    if recommender.processor.user_ids is not None:
        known["user_id"] = user_ids
    if getattr(recommender.model.config, "reads_timestamps", False):
        known["timestamps"] = times
    return known


def whole_histories(users: dict[str, list]) -> tuple[list[list[str]], list[list[int]] | None]:
    """Returns whole histories of rows of users, a held-out target included, and the times of their interactions.

    Data sets have no time of a target: it counts as that of the item before it.
    """
    targets = users.get("target", [None] * len(users["item_ids"]))
    ends = [[] if last is None else [last] for last in targets]
    histories = [[*past, *end] for past, end in zip(users["item_ids"], ends, strict=True)]
    times = users.get("timestamps")
    if times is None or None in times:
        return histories, None
    return histories, [[*past, *(past[-1:] if end else [])] for past, end in zip(times, ends, strict=True)]


def _batches(
    sequences: datasets.Dataset, batch_size: int
) -> Iterator[tuple[list[str], list[list[str]], list[list[int]] | None]]:
    """Yields ids of users, their whole histories, and the times of these."""
    for users in sequences.iter(batch_size):
        yield users["user_id"], *whole_histories(users)


def _digest(sequences: datasets.Dataset) -> str:
    digest = hashlib.sha256()
    for user_ids, histories, _ in _batches(sequences, batch_size=1000):
        digest.update(json.dumps([user_ids, histories]).encode())
    return digest.hexdigest()


def _check_run(path: Path, run: dict[str, Any]) -> None:
    """Raises `ValueError` unless a file is whole and of this run."""
    try:
        found = json.loads((pq.read_schema(path).metadata or {})[_RUN.encode()])
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no file of recommendations: remove it, or give another output_dir") from error
    differing = [name for name in run if run[name] != found.get(name)]
    if differing:
        raise ValueError(
            f"{path} was written with other {', '.join(differing)}: run with the same ones, or give another output_dir"
        )
