"""Options that name a data set, for every command and for scripts of one's own."""

import json
import os
from dataclasses import dataclass, field, fields
from typing import ClassVar

import datasets

from .loading import load_items, load_sequences, warn_if_cut_shorter
from .new_interactions import as_time, select_new
from .platforms import join_platforms


UNCUT = 1_000_000  # items of a history
# What these options mean is up to the ninerec builder, which filters and splits while it reads.
_BUILDER_OPTIONS = (
    "min_actions",
    "min_item_actions",
    "split_strategy",
    "validation_start",
    "test_start",
    "catalogue",
    "pair_columns",
    "min_rating",
    "separator",
    "quoting",
    "encoding",
    "time_format",
)
_JSON_OPTIONS = ("columns", "event_weights")


@dataclass
class DataArguments:
    """Names a data set and how its histories are filtered and split.

    Example:

    >>> import modeling_transrec
    >>> data = DataArguments(dataset_config_name="Sample_Target")
    >>> len(data.load_items(max_seq_len=20)), len(data.load_sequences("test", max_seq_len=20))
    (300, 800)
    """

    dataset_name: str = field(
        default="ninerec",
        metadata={
            "help": "Data set: 'ninerec' for files in NineRec's layout in --data_dir, or a Hub id, or a local folder "
            "that `transrec prepare-data` wrote."
        },
    )
    dataset_config_name: str | None = field(
        default=None,
        metadata={"help": "Name of the data set, such as Bili_Food. By default the sample that the package brings."},
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the raw files; by default the environment's NINEREC_DATA_DIR."},
    )
    min_actions: int | None = field(
        default=None, metadata={"help": "Leave out users with fewer interactions (ninerec: 5)."}
    )
    min_item_actions: int | None = field(
        default=None,
        metadata={"help": "Leave out items with fewer interactions, too, until all have enough (the k-core)."},
    )
    split_strategy: str | None = field(
        default=None,
        metadata={
            "help": "'leave_one_out' holds out the last two items of each history (default); 'temporal' holds out the "
            "interactions after a point in time; 'random' holds out two of each user whatever their time, only to "
            "measure how much that flatters."
        },
    )
    validation_start: int | None = field(
        default=None,
        metadata={
            "help": "Time at which the validation split of 'temporal' starts; by default 80 %% of all interactions "
            "are before it."
        },
    )
    test_start: int | None = field(
        default=None,
        metadata={"help": "Time at which the test split of 'temporal' starts; by default 90 %% are before it."},
    )
    catalogue: str | None = field(
        default=None,
        metadata={"help": "Candidates: the 'interacted' items (default), or 'all' of the items table."},
    )
    columns: str | None = field(
        default=None,
        metadata={
            "help": "Names of the columns of your tables, as JSON or a file of it: "
            '{"user_id": "customer", "item_id": "sku", "timestamp": "bought_at", "text_en": "product"}; several for a '
            'text that is made of them: {"text_en": ["title", "brand"]}.'
        },
    )
    pair_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns of a table of interactions that has no header, in their order: user_id item_id timestamp."
        },
    )
    min_rating: float | None = field(
        default=None, metadata={"help": "Leave out interactions with a lower rating; by default all count."}
    )
    event_weights: str | None = field(
        default=None,
        metadata={
            "help": "What an interaction counts by its event type, as JSON or a file of it: "
            '{"click": 0.1, "purchase": 1}. Other types are left out; by default all count 1.'
        },
    )
    separator: str | None = field(
        default=None, metadata={"help": "What separates the fields of text tables, such as ';' or '::'; else found."}
    )
    quoting: str | None = field(
        default=None,
        metadata={
            "help": "How quotes within quotes are written: 'double' (default), 'backslash', or 'none' where quotes "
            "are part of the text."
        },
    )
    encoding: str | None = field(
        default=None, metadata={"help": "Encoding of text tables that are not UTF-8, such as gbk or latin-1."}
    )
    time_format: str | None = field(
        default=None,
        metadata={"help": "Format of dates that may be read in two ways, as of strftime: '%%d/%%m/%%Y %%H:%%M'."},
    )
    sample: ClassVar[str] = "Sample_Target"
    _argument_group_name = "data"

    def __post_init__(self):
        if self.dataset_config_name is None:
            if self.dataset_name != "ninerec" or self.data_dir is not None:
                place = self.dataset_name if self.data_dir is None else self.data_dir
                raise ValueError(f"which data set of {place}? Give --dataset_config_name NAME")
            self.dataset_config_name = self.sample

    def loading_kwargs(self, max_seq_len: int) -> dict:
        """Returns the arguments of `load_dataset` beside the names.

        Raises:
            ValueError: if an option of the ninerec builder is given for another data set.
        """
        kwargs = {} if self.data_dir is None else {"data_dir": self.data_dir}
        options = {name: getattr(self, name) for name in _BUILDER_OPTIONS if getattr(self, name) is not None}
        for name in _JSON_OPTIONS:
            if getattr(self, name) is not None:
                options[name] = read_json(f"--{name}", getattr(self, name))
        if self.dataset_name == "ninerec":
            return {**kwargs, **options, "max_seq_len": max_seq_len}
        if options:
            raise ValueError(
                f"--{next(iter(options))} is for --dataset_name ninerec; {self.dataset_name} is split already"
            )
        return kwargs

    def load_items(self, max_seq_len: int) -> datasets.Dataset:
        """Loads the catalogue of a model that reads histories of up to `max_seq_len` items."""
        return load_items(self.dataset_name, self.title, **self.loading_kwargs(max_seq_len))

    @property
    def title(self) -> str:
        """The data set's name."""
        return str(self.dataset_config_name)

    @property
    def eval_title(self) -> str:
        """The name of the data set that is validated on."""
        return self.title

    def load_eval_items(self, max_seq_len: int) -> datasets.Dataset | None:
        """Loads the catalogue of the data set that is validated on; `None` where it is that of the training."""
        return None

    def load_sequences(self, split: str, max_seq_len: int) -> datasets.Dataset:
        """Loads the histories of one split, `"train"`, `"validation"` or `"test"`."""
        kwargs = self.loading_kwargs(max_seq_len)
        sequences = load_sequences(self.dataset_name, self.title, split, **kwargs)
        if split != "validation":  # one warning is enough in training, which loads train and validation
            warn_if_cut_shorter(sequences, max_seq_len)
        return sequences

    def load_training_histories(self) -> datasets.Dataset:
        """Loads the training split with whole histories, however long a model's are: for counting."""
        return load_sequences(self.dataset_name, self.title, "train", **self.loading_kwargs(max_seq_len=UNCUT))


@dataclass
class TargetArguments(DataArguments):
    """Names the data set to fine-tune on, whole or what is new in it.

    Example:

    >>> since = "2021-06-01"
    >>> new = TargetArguments(dataset_config_name="Sample_Target", since=since, replay_share=0.2)
    >>> histories = new.load_sequences("train", max_seq_len=20)
    >>> len(histories), sum(times[-1] < as_time(since) for times in histories["timestamps"])
    (306, 61)
    """

    since: str | None = field(
        default=None,
        metadata={
            "help": "Train on what is new, with --model_name_or_path: on the interactions from this time on, a whole "
            "number in the unit of the data's timestamps, or a date (2024-01-31). Older ones are read before them."
        },
    )
    replay_share: float | None = field(
        default=None,
        metadata={
            "help": "With --since, the share of the histories in training that are of before, so that what was "
            "learnt is not forgotten (default: 0)."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.since is None and self.replay_share is not None:
            raise ValueError(f"--replay_share {self.replay_share} is of older histories beside new ones; give --since")
        if self.since is not None:
            as_time(self.since)

    def load_sequences(self, split: str, max_seq_len: int) -> datasets.Dataset:
        """Loads the histories of one split; those to train on from `since` on, see [`select_new`]."""
        sequences = super().load_sequences(split, max_seq_len)
        if split != "train" or self.since is None:
            return sequences
        return select_new(self.load_training_histories(), as_time(self.since), max_seq_len, self.replay_share or 0)


@dataclass
class SourceArguments(DataArguments):
    """Names the data sets to pretrain on, and the one on whose validation split the best epoch is chosen.

    The items and histories of several are joined, see [`join_platforms`].

    Example:

    >>> sources = SourceArguments(
    ...     dataset_config_name=["Sample_Source", "Sample_Target"], validation_dataset_config_name="Sample_Target"
    ... )
    >>> len(sources.load_items(max_seq_len=20)), len(sources.load_eval_items(max_seq_len=20))
    (900, 300)
    """

    dataset_config_name: list[str] | None = field(  # type: ignore[assignment]  # several, where the base has one
        default=None,
        metadata={
            "help": "Names of the data sets, such as Bili_500K; several are trained on together. By default the "
            "sample that the package brings."
        },
    )
    validation_dataset_config_name: str | None = field(
        default=None,
        metadata={
            "help": "Data set whose validation split chooses the best epoch: best one that is neither a source nor a "
            "target, or one of several sources. Only its items and that split are read (default: the source)."
        },
    )
    time_format: str | None = field(
        default=None,
        metadata={"help": "Format of dates that may be read in two ways, as of strftime: '%%d/%%m/%%Y %%H:%%M'."},
    )
    sample: ClassVar[str] = "Sample_Source"

    def __post_init__(self):
        super().__post_init__()
        self.dataset_config_name = names = self.names
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"--dataset_config_name names {', '.join(sorted(twice))} twice")
        if len(names) > 1 and self.validation_dataset_config_name is None:
            raise ValueError(
                "which of the data sets is the best epoch chosen on? Give --validation_dataset_config_name NAME: best "
                "one that is neither a source nor a target, or one of the sources"
            )

    @property
    def names(self) -> list[str]:
        """The data sets' names."""
        given = self.dataset_config_name or ()
        return [given] if isinstance(given, str) else list(given)

    @property
    def title(self) -> str:
        """The data sets' names, as one."""
        return " + ".join(self.names)

    @property
    def eval_title(self) -> str:
        return self.validation_dataset_config_name or self.title

    def _one(self, name: str) -> DataArguments:
        own = {one.name for one in fields(DataArguments)}
        options = {option: value for option, value in vars(self).items() if option in own}
        return DataArguments(**{**options, "dataset_config_name": name})

    def _join(self, max_seq_len: int) -> tuple[datasets.Dataset, datasets.Dataset]:
        sources = {name: self._one(name) for name in self.names}
        items = {name: source.load_items(max_seq_len) for name, source in sources.items()}
        histories = {name: source.load_sequences("train", max_seq_len) for name, source in sources.items()}
        if len(sources) == 1:
            return next(iter(items.values())), next(iter(histories.values()))
        return join_platforms(items, histories)

    def load_items(self, max_seq_len: int) -> datasets.Dataset:
        """Loads the catalogues of all sources, one after the other."""
        return self._join(max_seq_len)[0]

    def load_eval_items(self, max_seq_len: int) -> datasets.Dataset | None:
        """Loads the catalogue of the data set that is validated on; `None` where it is that of the only source."""
        if self.eval_title == self.title:
            return None
        return self._one(self.eval_title).load_items(max_seq_len)

    def load_sequences(self, split: str, max_seq_len: int) -> datasets.Dataset:
        """Loads the training histories of all sources, or another split of the data set that is validated on."""
        if split == "train":
            return self._join(max_seq_len)[1]
        return self._one(self.eval_title).load_sequences(split, max_seq_len)

    def load_training_histories(self) -> datasets.Dataset:
        """Loads the training histories of all sources uncut."""
        return self._join(UNCUT)[1]


def read_json(option: str, value: str) -> dict:
    """Returns the value of an option that is a JSON object, or names a file of one.

    >>> read_json("--peft_config", '{"r": 8}')
    {'r': 8}
    """
    source = option
    if os.path.exists(value):
        source = value
        with open(value, encoding="utf-8") as file:
            value = file.read()
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is neither a file nor JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{source} must be a JSON object, got {type(parsed).__name__}")
    return parsed
