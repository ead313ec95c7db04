"""The `ninerec` dataset builder.

`datasets` replaces `open`, `os.path` and the like in this module once the builder is used, so all reading is done in
other modules.
"""

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from .content_hashes import ContentHashes
from .files import DERIVED, SOURCES, TARGETS, UNPACKED, DatasetFiles, data_folder, find_files, find_names
from .protocol import ProtocolInfo, read_protocol, with_protocol, write_protocol
from .sample import SAMPLES
from .sequences import (
    Sequences,
    Split,
    leave_one_out,
    random_split,
    temporal_boundaries,
    temporal_split,
    to_table,
    used_items,
)
from .tables.archives import Archives, Member
from .tables.items import select_catalogue
from .tables.media import AUDIO, find_media
from .tables.options import ITEM_COLUMNS, ColumnNames, TableOptions


VERSION = datasets.Version("1.0.0")
ITEMS_SUFFIX = "_items"
ROWS_PER_TABLE = 10_000
ARCHIVED_FILES_PER_TABLE, BYTES_PER_TABLE = 200, 1 << 28
DESCRIPTION = (
    "{name} in the layout of NineRec (https://github.com/westlake-repl/NineRec, arXiv 2309.07705): histories of users "
    "in three splits, and an items table with Chinese and English texts, images and, where there is any, audio."
)
SYNTHETIC = "SYNTHETIC sample: users, items, texts and covers of {name} are made by a seeded random generator."
SEQUENCE_FEATURES = datasets.Features(
    {
        "user_id": datasets.Value("string"),
        "item_ids": datasets.List(datasets.Value("string")),
        "target": datasets.Value("string"),
        "timestamps": datasets.List(datasets.Value("int64")),
        "weights": datasets.List(datasets.Value("float32")),  # only where the types of events have weights
    }
)
ITEM_FEATURES = datasets.Features(
    {
        "item_id": datasets.Value("string"),
        "text_zh": datasets.Value("string"),
        "text_en": datasets.Value("string"),
        "image": datasets.Image(),
        "audio": datasets.Audio(decode=False),  # only where there is a folder of audio
    }
)


def _temporal_split(sequences: Sequences, config: "NineRecConfig") -> tuple[Sequences, dict[str, Split]]:
    if config.validation_start is None or config.test_start is None:
        config.validation_start, config.test_start = temporal_boundaries(sequences)
    times = config.validation_start, config.test_start
    return sequences, temporal_split(sequences, *times, max_history=config.max_seq_len + 1)


# Name → what returns the interactions, in the order in which they are split, and the splits.
SPLITS = {
    "leave_one_out": lambda sequences, config: (sequences, leave_one_out(sequences)),
    "temporal": _temporal_split,
    "random": lambda sequences, config: random_split(sequences, max_history=config.max_seq_len + 1),
}


@dataclass
class NineRecConfig(datasets.BuilderConfig):
    """Options of one data set; `NAME` and `NAME_items` with the same options fit each other.

    Args:
        max_seq_len: longest history of the model; the last `max_seq_len + 3` interactions of a user are kept.
        min_actions: users with fewer interactions are dropped.
        min_item_actions: items with fewer interactions are dropped, too, and so on until all have enough (the k-core).
        split_strategy: `"leave_one_out"`: each user's last interaction tests; `"temporal"`: what comes after a time
            does; `"random"`: one of each user that is drawn, only to measure how much that flatters.
        validation_start, test_start: times of the temporal split, in the unit of the file; by default those before
            which 80 % and 90 % of the interactions lie.
        catalogue: `"interacted"` (items in a kept sequence) or `"all"` (every row of the items table).
        columns, pair_columns, min_rating, event_weights, separator, quoting, encoding,
            time_format: see [`TableOptions`].
    """

    max_seq_len: int = 20
    min_actions: int | None = None
    min_item_actions: int | None = None
    split_strategy: str = "leave_one_out"
    validation_start: int | None = None
    test_start: int | None = None
    catalogue: str = "interacted"
    columns: ColumnNames | None = None
    pair_columns: tuple[str, ...] | None = None
    min_rating: float | None = None
    event_weights: dict[str, float] | None = None
    separator: str | None = None
    quoting: str | None = None
    encoding: str | None = None
    time_format: str | None = None

    def __post_init__(self):
        super().__post_init__()
        _, filters = DERIVED.get(self.subset, (None, {}))
        for name, default, least in (("max_seq_len", 20, 1), ("min_actions", 5, 3), ("min_item_actions", 1, 1)):
            if getattr(self, name) is None:
                setattr(self, name, filters.get(name, default))
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.split_strategy not in SPLITS:
            raise ValueError(f"split_strategy must be {' or '.join(map(repr, SPLITS))}, got {self.split_strategy!r}")
        times = (self.validation_start, self.test_start)
        if any(not isinstance(time, int | None) or isinstance(time, bool) for time in times):
            raise ValueError(
                "validation_start and test_start must be whole numbers, as the column timestamps of the data has them "
                f"(seconds since 1970 for dates); got {times}"
            )
        if times != (None, None) and (self.split_strategy != "temporal" or None in times):
            raise ValueError("give validation_start and test_start together, and with split_strategy='temporal'")
        if self.catalogue not in ("interacted", "all"):
            raise ValueError(f"catalogue must be 'interacted' or 'all', got {self.catalogue!r}")
        self.tables = TableOptions(**{option.name: getattr(self, option.name) for option in fields(TableOptions)})
        self.files: DatasetFiles  # set by the builder, once they are found
        self.cache_dir: str | None = None  # of the builder

    @property
    def is_items(self) -> bool:
        return self.name.endswith(ITEMS_SUFFIX)

    @property
    def subset(self) -> str:
        return self.name.removesuffix(ITEMS_SUFFIX)

    @property
    def protocol(self) -> dict:
        """Returns what decides which interactions are in which split, and which items are candidates."""
        names = ("split_strategy", "max_seq_len", "min_actions", "min_item_actions", "catalogue")
        times = ("validation_start", "test_start") if self.split_strategy == "temporal" else ()
        return {**{name: getattr(self, name) for name in names + times}, **self.tables.protocol}

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Returns the cache key: the content of the files that are read, and the options."""
        content = self.files.state_hash(with_media=self.is_items, hashes=ContentHashes(self.cache_dir))
        key = f"{content} {self.protocol} {self.tables}"
        return super().create_config_id({"key": hashlib.sha256(key.encode()).hexdigest()[:16]}, custom_features)


class NineRec(datasets.ArrowBasedBuilder):
    """Sequences (`NAME`) and items (`NAME_items`) of any data set in NineRec's layout."""

    VERSION = VERSION
    BUILDER_CONFIG_CLASS = NineRecConfig
    BUILDER_CONFIGS = [
        NineRecConfig(name=name + suffix, version=VERSION, description=DESCRIPTION.format(name=name))
        for name in (*SOURCES, *TARGETS, *DERIVED, *SAMPLES)
        for suffix in ("", ITEMS_SUFFIX)
    ]

    def __init__(self, cache_dir: str | None = None, **kwargs):
        self._cache_parent = cache_dir  # the base class has not set its own yet
        super().__init__(cache_dir=cache_dir, **kwargs)

    def _create_builder_config(self, config_name=None, custom_features=None, config_id=None, **config_kwargs):
        """Accepts any name whose files are found, and finds them now: errors come before the cache is made."""
        if config_kwargs.pop("data_files", None):
            raise ValueError("ninerec takes no data_files: give the folder that holds the files as data_dir")
        known = {field.name for field in fields(NineRecConfig)} - {"name", "version", "data_files", "description"}
        for option in set(config_kwargs) - known:
            closest = difflib.get_close_matches(option, known, n=1)
            hint = f" Did you mean {closest[0]!r}?" if closest else ""
            raise ValueError(f"ninerec has no option {option!r}.{hint} Options: {', '.join(sorted(known))}")
        if config_name is None:
            raise ValueError(_missing_name(data_folder(None, config_kwargs.get("data_dir"))))

        config = NineRecConfig(name=config_name, version=VERSION, **config_kwargs)
        source, _ = DERIVED.get(config.subset, (config.subset, None))
        config.cache_dir = self._cache_parent
        config.files = find_files(source, data_folder(source, config.data_dir, self._cache_parent))
        config.description = DESCRIPTION.format(name=config.subset)
        if config.subset in SAMPLES:
            config.description = f"{SYNTHETIC.format(name=config.subset)} {config.description}"
        return config, config_id or config.create_config_id(config_kwargs, custom_features)

    def _info(self) -> datasets.DatasetInfo:
        return ProtocolInfo(
            description=self.config.description,
            homepage="https://github.com/westlake-repl/NineRec",
            features=self._features(),
        )

    def _features(self) -> datasets.Features:
        known = ITEM_FEATURES if self.config.is_items else SEQUENCE_FEATURES
        absent = {AUDIO.column} if self.config.files.audio is None else set()
        absent |= {"weights"} if self.config.event_weights is None else set()
        return datasets.Features({name: kind for name, kind in known.items() if name not in absent})

    def _download_and_prepare(self, *args, **kwargs) -> None:
        super()._download_and_prepare(*args, **kwargs)
        write_protocol(self._output_dir, self.config.protocol)

    def as_dataset(self, *args, **kwargs) -> datasets.Dataset | datasets.DatasetDict:
        """Adds the protocol, which lies beside the data in the cache: `datasets` keeps no information but its own."""
        self.info = with_protocol(self.info, read_protocol(self._output_dir))  # type: ignore[has-type]  # theirs
        return super().as_dataset(*args, **kwargs)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        """Reads and checks everything here: an error in a later step would be hidden behind a general one."""
        config = self.config
        items, sequences = config.files.read(
            Path(self._cache_dir_root, UNPACKED),
            config.tables,
            min_actions=config.min_actions,
            max_actions=config.max_seq_len + 3 if config.split_strategy == "leave_one_out" else None,
            min_item_actions=config.min_item_actions,
            scratch_dir=self._cache_dir_root,  # there is room, unlike in a small /tmp
        )
        sequences, splits = SPLITS[config.split_strategy](sequences, config)
        self.info = with_protocol(self.info, config.protocol)
        if config.is_items:
            catalogue = select_catalogue(items, used_items(sequences, splits.values()), config.catalogue)
            parts = {"items": catalogue.select(ITEM_COLUMNS).to_arrow()}
            for media, folder in config.files.media.items():
                if media.column in self.info.features:  # `datasets` would take a list for shards
                    parts[media.column] = tuple(find_media(media, folder, catalogue["item_id"]))
            return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs=parts)]
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"sequences": sequences, "split": split})
            for name, split in splits.items()
        ]

    def _generate_tables(self, **parts) -> Iterator[tuple[int, pa.Table]]:
        """Yields without polars, which hangs in a forked process: when streaming, workers of a DataLoader run this."""
        return _item_tables(**parts) if self.config.is_items else _sequence_tables(**parts)


def _sequence_tables(sequences: Sequences, split: Split) -> Iterator[tuple[int, pa.Table]]:
    for number, first in enumerate(range(0, len(split.users), ROWS_PER_TABLE)):
        yield number, _with_types(to_table(sequences, split, first, ROWS_PER_TABLE), SEQUENCE_FEATURES)


def _with_types(table: pa.Table, features: datasets.Features) -> pa.Table:
    return table.cast(datasets.Features({name: features[name] for name in table.column_names}).arrow_schema)


def _item_tables(items: pa.Table, **files: tuple[str | Member | None, ...]) -> Iterator[tuple[int, pa.Table]]:
    """Yields items with `image` and `audio` as `datasets` stores them: the path, read when the file is used.

    Files in an archive are stored as they are in it: one file, not as many as there are items. So are those whose path
    is no text.
    """
    copied = {name for name, column in files.items() if any(map(_is_copied, column))}
    with Archives() as archives:
        sizes = sum((archives.sizes(files[name]) for name in copied), start=np.zeros(len(items)))
        for number, (first, end) in enumerate(_pieces(sizes, ARCHIVED_FILES_PER_TABLE if copied else ROWS_PER_TABLE)):
            rows = items.slice(first, end - first)
            for name, column in files.items():
                chosen: list = list(column[first:end])
                contents = pa.array(archives.read(chosen) if name in copied else [None] * len(chosen), pa.binary())
                paths = pa.array([_stored_path(file) for file in chosen], pa.string())
                stored = pa.StructArray.from_arrays([contents, paths], names=["bytes", "path"], mask=paths.is_null())
                rows = rows.append_column(name, stored)
            yield number, _with_types(rows, ITEM_FEATURES)


def _pieces(sizes: np.ndarray, most_rows: int) -> Iterator[tuple[int, int]]:
    """Yields the first row and the one after the last of each table: so many rows, or fewer where they are large."""
    first = 0
    while first < len(sizes):
        taken = np.searchsorted(sizes[first : first + most_rows].cumsum(), BYTES_PER_TABLE, side="right")
        yield first, (first := first + max(1, int(taken)))


def _is_copied(file: str | Member | None) -> bool:
    """Returns whether a file's bytes are stored: it is in an archive, or its path is no text."""
    return isinstance(file, Member) or (file is not None and _stored_path(file) != file)


def _stored_path(file: str | Member | None) -> str | None:
    path = file.name if isinstance(file, Member) else file
    return None if path is None else path.encode(errors="surrogateescape").decode(errors="replace")


def _missing_name(data_dir: str | Path | None) -> str:
    example = 'load_dataset("ninerec", "Bili_Food", data_dir="FOLDER")'
    found = f" Found under {str(data_dir)!r}: {', '.join(find_names(data_dir)) or 'none'}." if data_dir else ""
    return (
        f"Which data set? Give its name, e.g. {example}; NAME{ITEMS_SUFFIX} loads the items of NAME."
        f" NineRec's names: {', '.join(SOURCES + TARGETS)}. Synthetic samples without any file: {', '.join(SAMPLES)}."
        f"{found}"
    )
