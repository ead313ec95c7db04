"""Suites: data sets × models × seeds, as a YAML file says, and the tasks that they are made of.

A suite says what is compared; everything in it is an option of the commands `transrec pretrain`, `finetune` and
`evaluate`, under the name that it has there:

```yaml
title: What pretraining gives
datasets: [Amazon_Beauty]                  # --dataset_config_name
seeds: [42, 43, 44]
backbones:                                 # of content kNN, and of the models that read them
  text_model_name_or_path: sentence-transformers/all-MiniLM-L6-v2
pretraining:
  on Sports: {dataset_config_name: [Amazon_Sports], preset: recommended-text, reads: text}
models:
  IDRec: {preset: recommended-id}
  zero-shot: {pretrained: on Sports, train: false}
  HasPT: {pretrained: on Sports, num_train_epochs: 5}
tune:                                      # where --tune N is given
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
```
"""

import difflib
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..data.arguments import DataArguments
from ..evaluation.arguments import CONTENT_OPTIONS
from ..evaluation.baselines import BASELINES, CONTENT_BASELINES, LANGUAGE_MODEL
from ..evaluation.metrics import DEFAULT_METRICS, METRICS
from ..ninerec.sample import SAMPLE_BACKBONE
from ..training.model_arguments import ModelArguments
from ..training.presets import load_preset
from .published import NAMING_FACTS, find_published


SUITES = Path(__file__).parent / "suites"  # those that ship
MAX_BYTES = 1_000_000  # of a suite
FEW_TITLES = 100_000  # users times items up to which a language model ranks a whole catalogue
_READERS = {option.removesuffix("_model_name_or_path"): option for option in CONTENT_OPTIONS}
_READERS["image"] = _READERS.pop("vision")
_EXPONENT = re.compile(r"[-+]?[0-9]+e[-+]?[0-9]+")
_ORDER = ("pretrain", "tune", "baselines", "model")
_KEYS_OF_ROWS = (
    "preset",
    "reads",
    "pretrained",
    "train",
    "tune",
    "datasets",
    "published",
)  # all others are options of the training


@dataclass(frozen=True)
class Task:
    """
    One process of a benchmark.

    Args:
        kind: `"pretrain"`, `"tune"`, `"baselines"` or `"model"`.
        title: what it is, for people.
        spec: all that its result depends on, as plain values.
        after: ids of the tasks that must be done before.
    """

    kind: str
    title: str
    spec: Mapping[str, Any]
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The same for the same kind and `spec`, 16 hexadecimal digits."""
        text = json.dumps([self.kind, self.spec], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Suite:
    """
    What a YAML file of a suite holds.

    Args:
        title: one line.
        models: of each model its options of `transrec finetune` (`null` takes one of the preset away), and `preset`,
            `reads` (modalities whose backbones of the suite it gets), `pretrained` (a name in `pretraining`), `train`
            (false: it is used as it was pretrained), `tune` (a space of its own), `datasets` (those that it is for, by
            default all), `published` (facts that find its published numbers, see [`~published.NAMING_FACTS`]).
        datasets: names of data sets, each with all models; or of each name its options, so that one data set can stand
            there twice: `{ML100K by time: {dataset_config_name: ML100K, split_strategy: temporal}}`.
        name: by default the file's.
        about: what to know before one reads the results.
        data: options of all data sets, such as `split_strategy`.
        seeds: of every trained model.
        max_seq_len: longest history in items, of what needs no training and of new models, so that all rank with the
            same histories.
        eval_ks: cut-offs of the metrics.
        metrics: metrics of every row.
        backbones: pretrained backbones by option, such as `text_model_name_or_path`; `sample` stands for the small one
            that the package brings.
        baselines: rows that need no training; by default those for which all is known, and which take little time.
        language_model: of the row `language-model`, which is then among them; it is in the tables of the whole
            catalogue only where it has few titles to read, see [`FEW_TITLES`].
        sampled: tables beside those of the whole catalogue in which the target is ranked among a few candidates:
            `num_candidates`, a list such as `[4, 100]`, and `max_eval_users`, by default all.
        pretraining: of each pretraining its options of `transrec pretrain`, and `preset` and `reads` as of a model.
        train: options of every training, pretraining included.
        known_users: numbers of users that are known, for a learning curve: the others are tested; `all` (default)
            stands for the whole data set.
        tune: space of hyper-parameters that `--tune N` searches: of each option a list of choices, or `low`, `high`
            and, for values that are tried by their order of magnitude, `log: true`.
        reference: row with which the others are compared.
    """

    title: str
    models: Mapping[str, Mapping[str, Any]]
    datasets: Sequence[str] | Mapping[str, Mapping[str, Any]]
    name: str = ""
    about: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (42, 43, 44)
    max_seq_len: int = 50
    eval_ks: Sequence[int] = (10,)
    metrics: Sequence[str] = DEFAULT_METRICS
    backbones: Mapping[str, str] = field(default_factory=dict)
    baselines: Sequence[str] | None = None
    language_model: str | None = None
    sampled: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    known_users: Sequence[int | str] = ("all",)
    tune: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: str = "content-and-transitions"

    def __post_init__(self):
        for name in ("models", "data", "backbones", "pretraining", "train", "tune", "sampled"):
            _check(isinstance(getattr(self, name), Mapping), f"{name} must be a table of names and values")
        for name in ("datasets", "seeds", "eval_ks", "metrics", "known_users"):
            values = getattr(self, name)
            if name == "datasets" and isinstance(values, Mapping):
                values = [*values]
            is_list = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
            _check(is_list, f"{name} must be a list, such as {name}: [{_example(name)}]")
            _check(len(set(map(str, values))) == len(values), f"{name} names one of its values twice")
        for name in ("seeds", "eval_ks"):
            whole = all(isinstance(one, int) and not isinstance(one, bool) for one in getattr(self, name))
            _check(whole and min(getattr(self, name)) >= 0, f"{name} must be whole numbers")
        _check(10 in self.eval_ks, "eval_ks must have 10 among them, which chooses epochs and weights")
        for one in self.known_users:
            _check(one == "all" or (isinstance(one, int) and one > 0), f"known_users: {one!r} is no number of users")
        _check_names("metrics", self.metrics, METRICS)
        _check_names("baselines", self.baselines or (), BASELINES)
        of_content = [name for name in self.baselines or () if name in CONTENT_BASELINES]
        _check(not of_content or bool(self.backbones), f"baselines: {', '.join(of_content)}: there are no backbones")
        _check_names("backbones", self.backbones, CONTENT_OPTIONS)
        named = LANGUAGE_MODEL in (self.baselines or ())
        _check(
            not named or self.language_model is not None, f"baselines: {LANGUAGE_MODEL}: there is no language_model"
        )
        _check_names("sampled", self.sampled, ("num_candidates", "max_eval_users"))
        counts, users = self.sampled.get("num_candidates", [2]), self.sampled.get("max_eval_users", 1)
        is_list = isinstance(counts, list) and all(isinstance(one, int) and one >= 2 for one in counts)
        _check(is_list and bool(counts), "sampled: num_candidates must be a list of numbers of at least 2: [4, 100]")
        _check(isinstance(users, int) and users >= 1, "sampled: max_eval_users must be a number of at least 1")
        _check(not self.sampled or "num_candidates" in self.sampled, "sampled needs num_candidates, such as [4, 100]")
        of_data = {one.name for one in fields(DataArguments)}
        _check_names("data", self.data, of_data - {"dataset_config_name"})
        for name, options in self.datasets.items() if isinstance(self.datasets, Mapping) else ():
            _check(isinstance(options or {}, Mapping), f"datasets: {name} must be a table of options")
            _check_names(f"datasets: {name}", options or {}, of_data)
        check_space(self.tune)
        for name, row in {**self.pretraining, **self.models}.items():
            self._check_row(name, row)

    @property
    def has_space(self) -> bool:
        """Whether there are hyper-parameters to search; those of what needs no training always are."""
        trained = [row for row in self.models.values() if row.get("train", True)]
        return bool(self.tune) or not trained or any("tune" in row for row in trained)

    def _check_row(self, name: str, row: Mapping[str, Any]) -> None:
        _check(isinstance(row, Mapping), f"{name} must be a table of options")
        for part in _listed(row.get("reads", [])):
            _check_names(f"{name}: reads", [part], _READERS)
            option = _READERS[part]
            _check(option in self.backbones, f"{name} reads {part}; name its backbone under backbones: {option}")
        if "pretrained" in row:
            _check_names(f"{name}: pretrained", [row["pretrained"]], self.pretraining)
        _check_names(f"{name}: datasets", row.get("datasets", []), self.datasets)
        _check(row.get("train", True) or "pretrained" in row, f"{name} is neither trained nor pretrained")
        if row.get("train", True) is False:
            given = sorted(row.keys() - {"pretrained", "train", "datasets", "published"})
            _check(not given, f"{name} is not trained: {', '.join(given)} would have no effect")
        check_space(row.get("tune", {}))
        _check_names(f"{name}: published", row.get("published", {}), NAMING_FACTS)
        for dataset in row.get("datasets", self.datasets):
            is_found = "published" not in row or find_published(dataset, row["published"])
            _check(bool(is_found), f"{name}: published: nobody has published such numbers on {dataset}")
            self._options(row, dataset)  # a preset that there is

    def data_of(self, dataset: str) -> dict[str, Any]:
        """Returns the options of a data set: the whole suite's, then its own."""
        own = self.datasets[dataset] if isinstance(self.datasets, Mapping) else None
        return {**self.data, **(own or {})}

    def _options(self, row: Mapping[str, Any], dataset: str) -> dict[str, Any]:
        """Returns the options of a training: of the preset, then of the whole suite, then the row's own."""
        options: dict[str, Any] = {}
        if "preset" in row:
            config_name = self.data_of(dataset).get("dataset_config_name", dataset)
            options = dict(load_preset(row["preset"].replace("{dataset}", config_name.lower())))
            options.pop("dataset_config_name", None)
        options |= {"max_seq_len": self.max_seq_len, **self.train}
        options |= {_READERS[part]: self.backbones[_READERS[part]] for part in _listed(row.get("reads", []))}
        options |= {name: value for name, value in row.items() if name not in _KEYS_OF_ROWS}
        options = {name: value for name, value in options.items() if value is not None}
        if "pretrained" in row:  # the checkpoint brings them
            options = {name: value for name, value in options.items() if name not in _making_options()}
        return options

    def tasks(self, num_trials: int = 0) -> list[Task]:
        """Returns all tasks, those that others need before them.

        Args:
            num_trials: settings of hyper-parameters that are tried for each row on each data set, also of what needs
                no training.
        """
        if num_trials and not self.has_space:
            raise ValueError(f"--tune {num_trials}: the suite says no space of hyper-parameters; add one as tune:")
        first: list[Task] = []
        last: list[Task] = []
        for dataset, known in itertools.product(self.datasets, self.known_users):
            platform = {"dataset": dataset, "data": self.data_of(dataset)}
            platform["known_users"] = None if known == "all" else known
            platform["backbones"] = dict(self.backbones)
            platform["evaluation"] = {"eval_ks": [*self.eval_ks], "metrics": [*self.metrics]}
            platform |= {"sampled": dict(self.sampled)} if self.sampled else {}
            last += self._baselines(platform, num_trials)
            models = {name: row for name, row in self.models.items() if dataset in row.get("datasets", self.datasets)}
            for seed, (name, row) in itertools.product(self.seeds, models.items()):
                before = list(self._before(name, row, seed, platform, num_trials))
                spec = {**platform, **self._spec(name, row, seed, dataset), **{task.kind: task.id for task in before}}
                title = f"{_title(platform)}, {name}, seed {seed}"
                last.append(Task("model", title, spec, tuple(task.id for task in before)))
                first += before
        unique = {task.id: task for task in [*first, *last]}  # models share what comes before them
        return sorted(unique.values(), key=lambda task: _ORDER.index(task.kind))

    def _baselines(self, platform: dict, num_trials: int) -> Iterator[Task]:
        seeds = self.seeds if platform["known_users"] is not None else [None]  # a seed draws other users
        for seed in seeds if self.baselines != [] else ():
            spec = {**platform, "models": self.baselines, "seed": seed, "max_seq_len": self.max_seq_len}
            spec |= {} if self.language_model is None else {"language_model": self.language_model}
            spec |= {"num_trials": num_trials} if num_trials else {}
            title = f"{_title(platform)}, what needs no training"
            title += f", {num_trials} settings" if num_trials else ""
            yield Task("baselines", title if seed is None else f"{title}, seed {seed}", spec)

    def _spec(self, name: str, row: Mapping[str, Any], seed: int, dataset: str) -> dict[str, Any]:
        trains = row.get("train", True)
        options = self._options(row, dataset) if trains else {}
        return {"model": name, "seed": seed, "trains": trains, "options": options}

    def _before(self, name: str, row: Mapping[str, Any], seed: int, platform: dict, num_trials: int) -> Iterator[Task]:
        after: tuple[str, ...] = ()
        spec: dict[str, Any] = {}
        if "pretrained" in row:
            sources = self.pretraining[row["pretrained"]]
            task = Task(
                "pretrain",
                f"{row['pretrained']}, seed {seed}",
                {"data": dict(self.data), "seed": seed, "options": self._options(sources, platform["dataset"])},
            )
            yield task
            spec, after = {"pretrain": task.id}, (task.id,)
        space = row.get("tune", self.tune)
        if num_trials and space and row.get("train", True):
            first = self.seeds[0]
            if seed != first:  # all seeds take what was chosen with the first one
                yield next(one for one in self._before(name, row, first, platform, num_trials) if one.kind == "tune")
                return
            spec |= {
                **platform,
                **self._spec(name, row, seed, platform["dataset"]),
                "space": dict(space),
                "num_trials": num_trials,
            }
            yield Task("tune", f"{_title(platform)}, {name}: {num_trials} settings", spec, after)

    def tables(self, dataset: str) -> list[str]:
        """Returns the names under which results of a data set stand: its own, and one of each number of candidates."""
        return [dataset, *(sampled_title(dataset, count) for count in self.sampled.get("num_candidates", ()))]

    def only(self, **chosen: Sequence | None) -> "Suite":
        """Returns the suite with some of its `datasets`, `models` or `seeds` only.

        Raises:
            ValueError: for one that it does not have.
        """
        changes: dict[str, Any] = {}
        for name, values in chosen.items():
            if values is None:
                continue
            there = getattr(self, name)
            if name != "seeds":
                _check_names(name, values, there)
            is_table = isinstance(there, Mapping)
            changes[name] = {one: there[one] for one in values} if is_table else [*values]
        if "datasets" in changes:
            rows = changes.get("models", self.models).items()
            kept = {
                name: [one for one in row.get("datasets", changes["datasets"]) if one in changes["datasets"]]
                for name, row in rows
            }
            changes["models"] = {name: {**row, "datasets": kept[name]} for name, row in rows if kept[name]}
        return replace(self, **changes)


def sampled_title(dataset: str, num_candidates: int) -> str:
    """Returns the name of a table in which the target is ranked among a few candidates."""
    return f"{dataset}, {num_candidates} candidates"


def read_suite(name: str, backbones: Mapping[str, str] | None = None, language_model: str | None = None) -> Suite:
    """Reads a suite: a YAML file, or the name of one that ships.

    Args:
        name: file or name.
        backbones: to take in place of the suite's own, by option.
        language_model: likewise.

    Raises:
        ValueError: if there is no such suite, or for what it cannot mean; the file is named.

    Example:

    >>> suite = read_suite("sample")
    >>> [*suite.datasets], len(suite.tasks()) > 10
    (['Sample_Target', 'Sample_Target by time'], True)
    """
    shipped = {path.stem: path for path in SUITES.glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        close = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean {close[0]}?" if close else f"those that ship are {', '.join(sorted(shipped))}"
        raise ValueError(f"there is no suite {name}, neither a YAML file nor one that ships; {hint}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: a suite of {path.stat().st_size:,} bytes is refused, the limit is {MAX_BYTES:,}")
    try:
        found = _numbers(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    try:
        _check(isinstance(found, Mapping), "a suite is a table of names and values")
        names = {one.name for one in fields(Suite)}
        _check_names("the suite", found, names)
        missing = [one for one in ("title", "datasets", "models") if one not in found]
        _check(not missing, f"{' and '.join(missing)} must be there")
        of_suite = {**(found.get("backbones") or {}), **(backbones or {})}
        of_suite = {option: SAMPLE_BACKBONE if name == "sample" else name for option, name in of_suite.items()}
        named = {} if language_model is None else {"language_model": language_model}
        return Suite(**{"name": path.stem, **found, "backbones": of_suite, **named})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_space(space: Any) -> None:
    """Raises `ValueError` for what is no space of hyper-parameters, see [`~tuning.tune`]."""
    _check(isinstance(space, Mapping), "tune must be a table of options")
    for name, values in space.items():
        if isinstance(values, list) and values:
            continue
        is_range = isinstance(values, Mapping) and {"low", "high"} <= values.keys() <= {"low", "high", "log"}
        _check(is_range, f"tune: {name} must be a list of choices, or {{low: …, high: …, log: true}}")
        low, high = values["low"], values["high"]
        _check(all(isinstance(end, int | float) for end in (low, high)), f"tune: {name}: low and high must be numbers")
        _check(low < high, f"tune: {name}: low must be below high")
        _check(low > 0 or not values.get("log"), f"tune: {name}: low must be above 0 with log")


def _numbers(value: Any) -> Any:
    """Returns what YAML has read, with 1e-3 as a number, which YAML 1.1 takes for text."""
    if isinstance(value, Mapping):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _title(platform: Mapping[str, Any]) -> str:
    known = platform["known_users"]
    return platform["dataset"] if known is None else f"{platform['dataset']} with {known:,} users known"


@functools.cache
def _making_options() -> frozenset[str]:
    return frozenset(ModelArguments.making_options())


def _listed(value: Any) -> list:
    return [value] if isinstance(value, str) else list(value)


def _example(name: str) -> str:
    return {"datasets": "Amazon_Beauty", "seeds": "42, 43, 44", "eval_ks": "10, 20", "metrics": "hr, ndcg"}.get(
        name, "200, 1000, all"
    )


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)


def _check_names(where: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), list(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(map(str, known)) or 'none'}"
            raise ValueError(f"{where}: {name} is unknown; {hint}")
