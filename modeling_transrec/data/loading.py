"""Loads a recommendation data set by name, and turns its histories into indices into the catalogue.

The schema is that of `load_dataset("ninerec", NAME)`: a sequence config with splits `train`, `validation`, `test` and
columns `user_id`, `item_ids` (history), `target`; and an items config `NAME_items` with `item_id`, `text_zh`,
`text_en`, `image`. A Hub data set or local folder in the same schema loads the same way.
"""

import difflib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.fingerprint import Hasher

from ..models.batch import PADDING_INDEX
from ..models.whole_saves import named_disk_errors
from ..ninerec.content_hashes import ContentHashes
from ..ninerec.protocol import read_protocol, split_protocol, with_protocol
from .foreign_data import check_card, named_data_errors


logger = logging.getLogger(__name__)

NO_TARGET = -1
CONTEXT = "num_context"  # column of histories: so many items at their beginnings are read, and are no targets


def load_items(name: str, config_name: str, **kwargs) -> datasets.Dataset:
    """Loads the items of a data set, in catalogue order: the one split of its config `{config_name}_items`.

    Args:
        name: `"ninerec"`, or a Hub id or folder in the same schema.
        config_name: name of the platform, such as `"Bili_Food"`.
        kwargs: arguments of `load_dataset`, such as `data_dir`, and options of the builder, such as `max_seq_len`.
    """
    loaded = _load(name, f"{config_name}_items", **kwargs)
    if len(loaded) != 1:
        raise ValueError(f"{config_name}_items of {name} must have one split, found {', '.join(loaded)}")
    items = next(iter(loaded.values()))
    check_columns(items, ("item_id",), f"{config_name}_items of {name}")
    return _with_its_protocol(items, name, **kwargs)


def load_sequences(name: str, config_name: str, split: str, **kwargs) -> datasets.Dataset:
    """Loads a split of the histories, `"train"`, `"validation"` or `"test"`; arguments as in [`load_items`]."""
    sequences = _load(name, config_name, split=split, **kwargs)
    check_columns(sequences, ("user_id", "item_ids"), f"{config_name} of {name}")
    return _with_its_protocol(sequences, name, **kwargs)


def _load(name: str, config_name: str, **kwargs):
    if Path(name).is_dir():
        return _load_folder(name, config_name, **kwargs)
    return _load_named(name, config_name, **kwargs)


def _load_folder(name: str, config_name: str, cache_dir: str | Path | None = None, **kwargs):
    """Loads a local folder, cached by its content: `datasets` goes by the folder's last name and its card only."""
    content = ContentHashes(cache_dir).of_folder(name)[:16]
    cache = _cache(cache_dir) / "local_folders" / content
    loaded = _load_named(name, config_name, cache_dir=str(cache), **kwargs)
    for dataset in loaded.values() if isinstance(loaded, dict) else [loaded]:
        if isinstance(dataset, datasets.Dataset):  # nothing is kept of one that is streamed
            dataset._fingerprint = Hasher.hash((dataset._fingerprint, content))  # by which all that is made is kept
    return loaded


def _cache(cache_dir: str | Path | None) -> Path:
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()


def _load_named(name: str, config_name: str, **kwargs):
    try:
        with named_data_errors(name), named_disk_errors(_cache(kwargs.get("cache_dir")), "nothing half-read is used"):
            check_card(name, **{option: kwargs[option] for option in ("revision", "token") if option in kwargs})
            return datasets.load_dataset(name, config_name, **kwargs)
    except ValueError as error:
        if not str(error).startswith("BuilderConfig"):
            raise
        where = {option: kwargs[option] for option in ("revision", "token") if option in kwargs}
        found = datasets.get_dataset_config_names(name, **where)
    wanted, names = config_name.removesuffix("_items"), [one for one in found if not one.endswith("_items")]
    close = difflib.get_close_matches(wanted.lower(), {one.lower(): one for one in names}, n=1)
    hint = "".join(f" Did you mean {one!r}?" for one in names if one.lower() in close)
    raise ValueError(f"{name} has no data set {wanted!r}.{hint} It has {', '.join(names)}")


def _with_its_protocol(dataset: datasets.Dataset, name: str, **kwargs) -> datasets.Dataset:
    """Reads the protocol of a prepared data set from beside its files; the builder `ninerec` adds it itself."""
    if split_protocol(dataset) is None:
        protocol = read_protocol(name, revision=kwargs.get("revision"), token=kwargs.get("token"))
        dataset._info = with_protocol(dataset.info, protocol)  # `datasets` has no public way to set it
    return dataset


def warn_if_cut_shorter(sequences: datasets.Dataset, max_seq_len: int) -> None:
    """Warns if the data set was prepared for shorter histories than the model reads."""
    prepared_for = (split_protocol(sequences) or {}).get("max_seq_len")
    if prepared_for is not None and prepared_for < max_seq_len:
        logger.warning(
            "The histories were prepared with max_seq_len=%d, and the model reads up to %d items: longer histories "
            "are cut already; prepare the data again with --max_seq_len %d",
            prepared_for,
            max_seq_len,
            max_seq_len,
        )


def check_columns(dataset: datasets.Dataset, required: Sequence[str], what: str) -> None:
    """Raises `ValueError` if a table lacks a column."""
    missing = [column for column in required if column not in dataset.column_names]
    if missing:
        raise ValueError(
            f"{what} lacks the column {', '.join(missing)}; it has {', '.join(dataset.column_names)}: rename one of "
            "them, or make it of several with join_columns"
        )


def as_ids(item_ids: Sequence[str | int]) -> pa.Array:
    """Returns item ids as strings, as the whole package has them.

    >>> as_ids([7, 8]).to_pylist()
    ['7', '8']
    """
    try:
        ids = pa.array(item_ids)
    except pa.ArrowException:  # of several types
        ids = pa.nulls(1)
    if not any(is_type(ids.type) for is_type in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)):
        raise ValueError(f"item ids must be strings, or all integers; the catalogue starts with {item_ids[:3]}")
    return ids.cast(pa.string())


def index_histories(sequences: datasets.Dataset, item_ids: Sequence[str]) -> datasets.Dataset:
    """Turns histories and targets into indices into the catalogue.

    The columns are `history` (list of int32), `target` (-1 where there is none), `user` (index of the user in
    `sequences`), `length` (of the history) and, where `sequences` have it, `num_context`. They are kept on disk where
    `sequences` are, and read from there, so that memory does not grow with the number of users.

    Args:
        sequences: the raw histories, with columns `item_ids` and, except in training, `target`.
        item_ids: the catalogue's ids, in its order.

    Raises:
        ValueError: if an id is null, is not in the catalogue, or is in the catalogue twice.

    Example:

    >>> import datasets
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a", "c"]], "target": ["b"]})
    >>> index_histories(sequences, ["a", "b", "c"])[0]
    {'history': [0, 2], 'target': 1, 'user': 0, 'length': 2}
    """
    catalogue = as_ids(item_ids)
    if pc.count_distinct(catalogue).as_py() != len(catalogue):
        raise ValueError("the catalogue has an item id twice; ids must be distinct")

    def indices_of(ids: pa.Array, context: str, may_be_null: bool = False) -> pa.Array:
        if ids.null_count and not may_be_null:
            raise ValueError(f"a {context} has a null item id; leave such interactions out")
        catalogue_index = pc.index_in(ids, value_set=catalogue)
        unknown = pc.and_(pc.is_null(catalogue_index), pc.is_valid(ids))
        if pc.any(unknown).as_py():
            example = pc.filter(ids, unknown)[0].as_py()
            raise ValueError(f"item {example!r} of a {context} is not in the catalogue of {len(catalogue)} items")
        return catalogue_index

    table = sequences.with_format("arrow")
    has_target = "target" in sequences.column_names
    of_labels = ("label", "user_id", "timestamps") if "label" in sequences.column_names else ()
    kept = (CONTEXT, *of_labels)

    def convert(batch: pa.Table, users: list[int]) -> pa.Table:
        ids = batch["item_ids"].combine_chunks()
        ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        if ids.null_count:
            user = users[int(np.argmax(ids.is_null()))]
            raise ValueError(f"the history of row {user} is null; leave this user out, or give an empty list")
        lengths = pc.list_value_length(ids).to_numpy()
        flat = indices_of(pc.list_flatten(ids).cast(pa.string()), "history")
        offsets = pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
        history = pa.ListArray.from_arrays(offsets, flat.cast(pa.int32()))
        if has_target:
            target = indices_of(batch["target"].cast(pa.string()).combine_chunks(), "target", may_be_null=True)
            target = pc.fill_null(target, NO_TARGET).cast(pa.int32())
        else:
            target = pa.array(np.full(len(history), NO_TARGET, dtype=np.int32))
        users = pa.array(users, pa.int64())
        columns = {"history": history, "target": target, "user": users, "length": pa.array(lengths, pa.int32())}
        return pa.table(columns | {name: batch[name] for name in kept if name in batch.column_names})

    indexed = table.map(
        convert,
        with_indices=True,
        batched=True,
        batch_size=10_000,
        remove_columns=sequences.column_names,
        desc="Looking up items",
        keep_in_memory=not sequences.cache_files,
        new_fingerprint=Hasher.hash((sequences._fingerprint, catalogue, "histories")),
    )
    return indexed.with_format(None)


def choose_users(sequences: datasets.Dataset, count: int) -> datasets.Dataset:
    """Chooses so many of the users, in order, the same ones every time; all where there are no more."""
    if len(sequences) <= count:
        return sequences
    return sequences.select(np.sort(np.random.default_rng(0).choice(len(sequences), count, replace=False)))


def history_lengths(histories: datasets.Dataset) -> np.ndarray:
    """Returns the number of items of each history, `(number of users,)`."""
    return histories.with_format("numpy")["length"][:]


def left_pad(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Pads lists with -1 on the left, as one array; they are given as their concatenated values and their lengths.

    >>> left_pad(np.array([5, 1, 2]), lengths=np.array([1, 2]))
    array([[-1,  5],
           [ 1,  2]])
    """
    padded = np.full((len(lengths), lengths.max()), PADDING_INDEX, dtype=np.int64)
    padded[np.arange(lengths.max()) >= (lengths.max() - lengths)[:, None]] = values
    return padded


def read_histories(histories: datasets.Dataset, users: np.ndarray) -> np.ndarray:
    """Reads the histories of users, given by index, as one array `(B, L)`, padded with -1 on the left.

    It is twice as fast where `histories` have the format `arrow` and no other column.
    """
    rows = histories if histories.format["type"] == "arrow" else histories.with_format("arrow")
    lists = rows[users]["history"]
    return left_pad(pc.list_flatten(lists).to_numpy(), pc.list_value_length(lists).to_numpy())


def read_blocks(histories: datasets.Dataset, blocks: Sequence[np.ndarray], size: int = 4096) -> Iterator[np.ndarray]:
    """Yields the histories of each block of users as [`read_histories`] does; about `size` users are read at a time.

    >>> import datasets
    >>> histories = datasets.Dataset.from_dict({"history": [[5], [1, 2], [7]]})
    >>> [rows.tolist() for rows in read_blocks(histories, [np.array([1, 0]), np.array([2])])]
    [[[1, 2], [-1, 5]], [[7]]]
    """
    rows = histories if histories.format["type"] == "arrow" else histories.with_format("arrow")
    together = np.cumsum([0, *map(len, blocks)]) // size  # blocks with the same number are read together
    for number in np.unique(together[:-1]):
        some = [block for block, its in zip(blocks, together[:-1], strict=True) if its == number]
        lists, start = rows[np.concatenate(some)]["history"], 0
        for block in some:
            part = lists.slice(start, len(block))
            start += len(block)
            yield left_pad(pc.list_flatten(part).to_numpy(), pc.list_value_length(part).to_numpy())


def check_timestamps(sequences: datasets.Dataset, user_encoder_type: str) -> None:
    """Raises `ValueError` unless the times of all interactions are known, for a user encoder that reads them."""
    first = sequences.select(range(min(1, len(sequences))))
    if values_of_interactions(first, "timestamps") is None:
        raise ValueError(
            f"user_encoder_type={user_encoder_type!r} reads the time of each interaction, and these histories have no "
            "timestamps: give a table of interactions with a column timestamp (in NineRec's layout NAME_pair.csv), or "
            "choose another user encoder, such as sasrec"
        )
    lists, start = sequences.select_columns(["item_ids", "timestamps"]).with_format("arrow"), 0
    for batch in lists.iter(batch_size=10_000):
        differs = pc.not_equal(*(pc.list_value_length(batch[name]) for name in ("item_ids", "timestamps")))
        if pc.any(differs).as_py():
            row = start + int(np.argmax(differs))
            raise ValueError(f"the history of row {row} has another number of timestamps than of items")
        start += len(batch)


def read_timestamps(sequences: datasets.Dataset, users: np.ndarray, length: int) -> np.ndarray:
    """Reads the times of the last `length` interactions of users, given by index, `(B, length)`, -1 before the first.

    >>> import datasets
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a"], ["b", "a"]], "timestamps": [[7], [5, 9]]})
    >>> read_timestamps(sequences, np.array([1, 0]), length=2)
    array([[ 5,  9],
           [-1,  7]])
    """
    lists = sequences.select_columns(["timestamps"]).with_format("arrow")[users]["timestamps"]
    if lists.null_count:
        raise ValueError(f"the history of row {users[int(np.argmax(lists.is_null()))]} has no timestamps")
    flat, lengths = pc.list_flatten(lists), pc.list_value_length(lists).to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    if flat.null_count:
        user = users[row[int(np.argmax(flat.is_null()))]]
        raise ValueError(f"the history of row {user} has an interaction without a time")
    place = length - lengths.cumsum()[row] + np.arange(len(row))  # the last interaction stands at length - 1
    times = np.full((len(lengths), length), PADDING_INDEX, dtype=np.int64)
    times[row[place >= 0], place[place >= 0]] = flat.to_numpy()[place >= 0]
    return times


def values_of_interactions(sequences: datasets.Dataset, column: str) -> np.ndarray | None:
    """Returns a list column of histories, such as `timestamps`, as one array `(N,)`; `None` where it is not known.

    >>> import datasets
    >>> sequences = datasets.Dataset.from_dict({"item_ids": [["a"], ["b", "a"]], "weights": [[1.0], [0.5, 1.0]]})
    >>> values_of_interactions(sequences, "weights")
    array([1. , 0.5, 1. ])
    """
    if column not in sequences.column_names:
        return None
    lists = pa.chunked_array(sequences.select_columns([column]).with_format("arrow")[:][column])
    return None if lists.null_count else pc.list_flatten(lists).to_numpy().astype(np.float64)


def count_interactions(histories: datasets.Dataset, num_items: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Counts how often each catalogue item occurs in the histories `(V,)`: the items' popularity.

    Args:
        histories: see [`index_histories`].
        num_items: `V`.
        weights: `(N,)` what each interaction counts, by default 1.
    """
    table = histories.with_format("arrow")
    counts = np.zeros(num_items, dtype=np.int64 if weights is None else np.float64)
    start = 0
    for batch in table.iter(batch_size=100_000):
        flat = pc.list_flatten(batch["history"].combine_chunks()).to_numpy(zero_copy_only=False)
        of_batch = None if weights is None else weights[start : start + len(flat)]
        counts += np.bincount(flat, of_batch, minlength=num_items)
        start += len(flat)
    return counts
