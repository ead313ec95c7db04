"""Does one task of a benchmark, in a process of its own."""

import datetime
import json
import logging
import os
import shlex
import shutil
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import PartialState
from huggingface_hub.constants import ENDPOINT
from transformers import HfArgumentParser

from ..data.arguments import DataArguments, SourceArguments
from ..evaluation.arguments import CONTENT_OPTIONS, EvaluationArguments
from ..evaluation.baselines import CONTENT_BASELINES, LANGUAGE_MODEL, SLOW_BASELINES, TIMED_BASELINES, known_baselines
from ..evaluation.candidate_sets import SampledRankingEvaluator
from ..evaluation.evaluate import EvaluationTask
from ..evaluation.metrics import METRICS, Rankings
from ..evaluation.settings import settings_of
from ..models.checkpoint_files import load_config, public_name
from ..models.modalities import BACKBONES, MODALITIES
from ..models.modeling_transrec import TransRecModel
from ..models.whole_saves import write_whole
from ..training.arguments import TransRecTrainingArguments
from ..training.model_arguments import ModelArguments
from ..training.presets import to_options
from ..training.train import train
from .known_users import KnownUsersArguments
from .machine import git_commit, hardware, measure_energy, peak_memory, versions
from .statistics import intervals_of, values_of_lists
from .suites import FEW_TITLES, Task, sampled_title


logger = logging.getLogger(__name__)

SCHEMA = 1  # version of the format of a results line
_OWN, _SUM = "own", "own + transitions"  # scores
_QUIET = {"disable_tqdm": True, "report_to": "none"}
_PRETRAINED, _MODEL = "PRETRAINED", "MODEL"  # folders in commands
# What several rows read that need no training: done once, and its time is in each of them.
_SHARED = {
    "content": CONTENT_BASELINES,
    "content_settings": CONTENT_BASELINES,
    "transitions": ("last-item-transitions", "transitions", "content-and-transitions"),
    "taken": tuple(SLOW_BASELINES),
}


class OptionsParser(HfArgumentParser):
    """Parses options, and raises `ValueError` where the base class would end the process."""

    def error(self, message: str):
        raise ValueError(message)


def parse_options(options: Mapping[str, Any], data_type: type[DataArguments] = DataArguments) -> tuple[Any, Any, Any]:
    """Returns model, data and training arguments as the command line would have them.

    Raises:
        ValueError: for an option that there is not, or one that does not fit the others.
    """
    classes: Any = (ModelArguments, data_type, TransRecTrainingArguments)  # its hint is a type that nothing else is of
    parser = OptionsParser(classes, allow_abbrev=False)
    given = {name: value for name, value in options.items() if value is not None}
    *found, unknown = parser.parse_args_into_dataclasses(to_options(given), return_remaining_strings=True)
    if unknown:
        raise ValueError(f"there is no option {unknown[0]} of a training; `transrec finetune --help` lists all")
    return found[0], found[1], found[2]


def check_tasks(tasks: Iterable[Task]) -> None:
    """Raises `ValueError`, with the task's name, for options that a training would refuse."""
    checked = set()
    for task in tasks:
        if task.kind == "baselines":
            continue
        options = {**task.spec["options"], **({"model_name_or_path": "PRETRAINED"} if "pretrain" in task.spec else {})}
        data_type = SourceArguments if task.kind == "pretrain" else DataArguments
        text = json.dumps([data_type.__name__, options])  # the same for all seeds
        if text in checked:
            continue
        checked.add(text)
        try:
            parse_options({**options, **_QUIET}, data_type)
        except ValueError as error:
            raise ValueError(f"{task.title}: {error}") from error


class Worker:
    """
    Does tasks in a folder, which holds what they need of each other.

    Args:
        folder: of the benchmark.
        data_dir: folder of the raw files.
        use_cpu: whether to compute on the CPU even if there is an accelerator.
        keep_models: whether trained models are kept, under `models/ID`.

    Attributes:
        failed: of each row of a task that failed beside others the error.
    """

    def __init__(self, folder: Path, data_dir: str | None = None, use_cpu: bool = False, keep_models: bool = False):
        self.folder, self.data_dir, self.use_cpu, self.keep_models = folder, data_dir, use_cpu, keep_models
        self.failed: dict[str, str] = {}

    def run(self, task: Task) -> list[dict]:
        """Does a task; returns the lines of results that it adds, and leaves the rest in the folder."""
        does = {"pretrain": self._pretrain, "tune": self._tune, "baselines": self._baselines, "model": self._model}
        with measure_energy() as energy:
            lines = does[task.kind](task)
        # The two lines of a model (own scores, with transitions) are one run; the energy of many rows is not divided.
        of_process = {"energy_joules": energy.joules if len(lines) <= 2 else None, "peak_memory_bytes": peak_memory()}
        return [{**line, **of_process} for line in lines]

    def pretrained(self, task_id: str) -> Path:
        """Returns the folder of a pretraining."""
        return self.folder / "pretrained" / task_id

    def tuned(self, task_id: str) -> Path:
        """Returns the file of what a search for hyper-parameters has found."""
        return self.folder / "tuned" / f"{task_id}.json"

    def platform(self, spec: Mapping[str, Any]) -> DataArguments:
        """Returns the data set of a task."""
        if spec["known_users"] is None:
            return DataArguments(**self._named(spec))
        return KnownUsersArguments(**self._named(spec), num_known_users=spec["known_users"], draw=spec["seed"])

    def train(self, spec: Mapping[str, Any], options: Mapping[str, Any], folder: Path):
        """Trains the model of a task with options into a folder; returns its Trainer."""
        model_args, training_args = self.arguments(spec, options, folder)
        return train(model_args, self.platform(spec), training_args, with_card=self.keep_models)

    def arguments(
        self, spec: Mapping[str, Any], options: Mapping[str, Any], folder: Path
    ) -> tuple[ModelArguments, TransRecTrainingArguments]:
        """Returns what [`train`] trains with."""
        named = {"model_name_or_path": str(self.pretrained(spec["pretrain"]))} if "pretrain" in spec else {}
        model_args, _, training_args = parse_options({**options, **named, **self._fixed(spec, folder)})
        return model_args, training_args

    def _fixed(self, spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        return {"seed": spec["seed"], "output_dir": str(folder), "use_cpu": self.use_cpu, **_QUIET}

    @property
    def is_main_process(self) -> bool:
        """Whether this one of a task's processes writes files."""
        return PartialState(cpu=self.use_cpu).is_main_process

    def remove(self, folder: Path) -> None:
        """Removes a folder when none of the task's processes needs it any more, and before one needs it again."""
        state = PartialState(cpu=self.use_cpu)
        state.wait_for_everyone()
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        state.wait_for_everyone()

    def _pretrain(self, task: Task) -> list[dict]:
        folder, started = self.pretrained(task.id), time.perf_counter()
        options = {"data_dir": self.data_dir, **task.spec["data"], **task.spec["options"]}
        train(*parse_options({**options, **self._fixed(task.spec, folder)}, SourceArguments), with_card=False)
        named = {**options, "seed": task.spec["seed"], "output_dir": _PRETRAINED}
        facts = {"seconds": round(time.perf_counter() - started, 1), "options": task.spec["options"]}
        facts["command"] = ["transrec", "pretrain", *to_options(self._public(named))]
        if self.is_main_process:
            write_whole(folder / "benchmark.json", json.dumps(facts) + "\n")
        return []

    def _public(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns options without those that are not given, and without the folders of this machine."""
        given = {name: value for name, value in options.items() if value is not None}
        return _without_folders(given | ({} if self.data_dir is None else {"data_dir": "DATA"}))

    def _tune(self, task: Task) -> list[dict]:
        from .tuning import tune  # Optuna is imported only where it is needed

        tune(self, task)
        return []

    def _baselines(self, task: Task) -> list[dict]:
        spec = task.spec
        names = self._backbones(spec, spec["max_seq_len"])
        counted = {"model_name_or_path": "content-knn" if names else "transitions", **names}
        counted |= {"num_settings": spec["num_trials"]} if "num_trials" in spec else {}
        prompted = {"model_name_or_path": LANGUAGE_MODEL, "language_model_name_or_path": spec.get("language_model")}
        self._check_candidates(spec, spec["max_seq_len"])
        lines: list[dict] = []
        for title, of_table in self._tables(spec):
            of_table["max_seq_len"] = spec["max_seq_len"]
            lines += self._untrained(task, title, {**counted, **of_table})
            if "language_model" in spec:
                lines += self._untrained(
                    task, title, {**prompted, **self._read_features(spec, of_table, spec["max_seq_len"]), **of_table}
                )
        return lines

    def _untrained(self, task: Task, title: str, options: dict[str, Any]) -> Iterator[dict]:
        """Yields the lines of one table of what needs no training: all but the language model, or only this."""
        spec, is_prompted, stopwatch = task.spec, options["model_name_or_path"] == LANGUAGE_MODEL, _Stopwatch()
        evaluation = self._evaluation(spec, **options)
        platform, rows = evaluation.platform, [LANGUAGE_MODEL]
        num_titles = len(evaluation.evaluator.targets) * len(platform.items)
        if is_prompted and options.get("num_candidates") is None and num_titles > FEW_TITLES:
            return
        seconds = stopwatch.lap("preparation")
        if not is_prompted:
            if spec["models"] is None:
                _ = platform.content  # whether there is any decides which rows are known
                seconds |= stopwatch.lap("content")
            rows = [name for name in spec["models"] or known_baselines(platform) if name != LANGUAGE_MODEL]
            if any(name in TIMED_BASELINES for name in rows) and platform.times is None:
                rows = [name for name in rows if name not in TIMED_BASELINES]  # the table says so
        for name in rows:
            stopwatch = _Stopwatch()
            try:
                shared = [part for part, readers in _SHARED.items() if name in readers]
                for part in shared:
                    if part not in seconds:
                        getattr(platform, part)
                        seconds |= stopwatch.lap(part)
                (result,) = evaluation.evaluate_baselines([name], with_rankings=True).values()
            except Exception as error:
                if PartialState().num_processes > 1:  # the others may wait for this one
                    raise
                traceback.print_exc()
                self.failed[name if title == spec["dataset"] else f"{name} ({title})"] = str(error)
                continue
            took = {part: seconds[part] for part in ("preparation", *shared)} | stopwatch.lap("evaluation")
            facts = {"model": name, "kind": "baseline", "modality": None, "seed": spec["seed"], "sources": []}
            count = options.get("num_settings")
            if count is not None and settings_of(name, count) != settings_of(name):
                facts |= {"num_trials": len(settings_of(name, count)), "options": {"num_settings": count}}
            commands = [self._evaluate_command(spec, {**options, "model_name_or_path": name})]
            yield self._line(task, evaluation, result, _OWN, facts, took, commands, stopwatch, title)

    def _tables(self, spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the name of each table of a data set, and the options of an evaluation that are its own."""
        yield spec["dataset"], {}
        sampled = dict(spec.get("sampled", {}))
        for count in sampled.pop("num_candidates", ()):
            metrics = [name for name in spec["evaluation"]["metrics"] if not METRICS[name].needs_lists]
            options = {**sampled, "num_candidates": count, "metrics": metrics}
            yield sampled_title(spec["dataset"], count), {**options, "eval_ks": [1, *spec["evaluation"]["eval_ks"]]}

    def _check_candidates(self, spec: Mapping[str, Any], max_seq_len: int | None) -> None:
        """Raises `ValueError` if a table samples more candidates than there are for some user."""
        for _, of_table in self._tables(spec):
            if "num_candidates" in of_table:
                options = {**of_table, "model_name_or_path": "random", "max_seq_len": max_seq_len}
                evaluator = self._evaluation(spec, **options).evaluator
                cast(SampledRankingEvaluator, evaluator).candidates  # noqa: B018  # draws them

    def _needs_features(self, spec: Mapping[str, Any], of_table: Mapping[str, Any]) -> bool:
        """Returns whether a metric of a table compares items by the features of backbones."""
        metrics = of_table.get("metrics", spec["evaluation"]["metrics"])
        return any("item_features" in METRICS[name].needs for name in metrics)

    def _read_features(self, spec: Mapping[str, Any], of_table: Mapping[str, Any], max_seq_len: int) -> dict[str, str]:
        """Returns the backbones by whose features a metric of a table compares items; none where none does."""
        return self._backbones(spec, max_seq_len) if self._needs_features(spec, of_table) else {}

    def _backbones(self, spec: Mapping[str, Any], max_seq_len: int) -> dict[str, str]:
        """Returns the backbones that find something to read in a data set: one of images only where there are any."""
        named = dict(spec["backbones"])
        for backbone in (one for one in BACKBONES.values() if one.option in named):
            for part in (MODALITIES[name] for name in backbone.reads if MODALITIES[name].is_sparse):
                items = self.platform(spec).load_items(max_seq_len)
                if part.name not in items.features or items.data[part.name].null_count == len(items):
                    why = f"no item has {part.content}"
                    logger.warning("%s: %s, so %s is left out", spec["dataset"], why, backbone.option)
                    del named[backbone.option]
        return named

    def _evaluation(self, spec: Mapping[str, Any], **options: Any) -> EvaluationTask:
        arguments = EvaluationArguments(by_group=True, use_cpu=self.use_cpu, **{**spec["evaluation"], **options})
        return EvaluationTask(arguments, self.platform(spec))

    def _model(self, task: Task) -> list[dict]:
        spec, stopwatch = task.spec, _Stopwatch()
        folder = self.folder / "models" / task.id
        options, num_trials, commands = dict(spec["options"]), 0, []
        seconds, facts = {}, {"sources": [], "num_trained_parameters": 0}
        if "tune" in spec:
            found = json.loads(self.tuned(spec["tune"]).read_text(encoding="utf-8"))
            options, num_trials = {**options, **found["options"]}, found["num_trials"]
            seconds["tuning"] = found["seconds"]
        if "pretrain" in spec:
            before = json.loads((self.pretrained(spec["pretrain"]) / "benchmark.json").read_text(encoding="utf-8"))
            seconds["pretraining"] = before["seconds"]
            commands += [before["command"]] if "command" in before else []
            facts["sources"] = before["options"].get("dataset_config_name") or [SourceArguments.sample]
        is_new = "pretrain" not in spec
        max_seq_len = options["max_seq_len"] if is_new else load_config(self.pretrained(spec["pretrain"])).max_seq_len
        self._check_candidates(spec, max_seq_len)
        if spec["trains"]:
            self.remove(folder)  # of an attempt that did not end
            trainer = self.train(spec, options, folder)
            model = trainer.model
            if trainer.args.push_to_hub:
                facts["card"] = f"{ENDPOINT}/{trainer.hub_model_id}"
            facts["num_trained_parameters"] = sum(one.numel() for one in model.parameters() if one.requires_grad)
            seconds |= stopwatch.lap("training")
            commands.append(self._finetune_command(spec, options))
        checkpoint = folder if spec["trains"] else self.pretrained(spec["pretrain"])
        lines = []
        for title, sampled in self._tables(spec):
            named = {**sampled, **self._read_features(spec, sampled, max_seq_len)}
            weighed = {"model_name_or_path": str(checkpoint), **named, "transition_weight": "auto"}
            evaluation = self._evaluation(spec, **weighed)
            results = evaluation.evaluate(with_rankings=True)
            seconds |= stopwatch.lap("evaluation")
            facts |= self._facts(spec, evaluation.checkpoint[0]) | {"num_trials": num_trials, "options": options}
            for result, scores in zip(results, (_OWN, _SUM), strict=True):
                name = {"model_name_or_path": _MODEL if spec["trains"] else _PRETRAINED}
                evaluated = self._evaluate_command(spec, {**(weighed if scores == _SUM else named), **name})
                run = [*commands, evaluated]
                lines.append(self._line(task, evaluation, result, scores, facts, seconds, run, stopwatch, title))
        if not self.keep_models:
            self.remove(folder)
        return lines

    def _facts(self, spec: Mapping[str, Any], model: TransRecModel) -> dict[str, Any]:
        kind = "trained" if "pretrain" not in spec else "pretrained" if spec["trains"] else "zero-shot"
        return {
            "model": spec["model"],
            "kind": kind,
            "modality": model.config.modality,
            "seed": spec["seed"],
            "num_parameters": model.num_parameters(),
        }

    def _finetune_command(self, spec: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
        pretrained = {"model_name_or_path": _PRETRAINED} if "pretrain" in spec else {}
        named = {**pretrained, **self._named(spec), **options, "seed": spec["seed"], "output_dir": _MODEL}
        return ["transrec", "finetune", *to_options(self._public(named))]

    def _evaluate_command(self, spec: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
        """Returns the command that finds the numbers of a row again, after those that make its checkpoint."""
        given = {
            "model_name_or_path": options["model_name_or_path"],
            **self._named(spec),
            **spec["evaluation"],
            **options,
        }
        if given["model_name_or_path"] not in CONTENT_BASELINES and not self._needs_features(spec, given):
            given = {name: value for name, value in given.items() if name not in CONTENT_OPTIONS}
        return ["transrec", "evaluate", *to_options(self._public({**given, "by_group": True}))]

    def _named(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the options that name a task's data set."""
        return {"dataset_config_name": spec["dataset"], "data_dir": self.data_dir, **spec["data"]}

    def _line(
        self,
        task: Task,
        evaluation: EvaluationTask,
        result: dict,
        scores: str,
        facts: Mapping[str, Any],
        seconds: Mapping[str, float],
        commands: list[list[str]],
        stopwatch: "_Stopwatch",
        title: str,
    ) -> dict:
        """Returns a line of results, and keeps the users' rankings beside it."""
        spec = task.spec
        name = f"{task.id}-{facts['model'] if facts['kind'] == 'baseline' else scores.replace(' ', '')}"
        if title != spec["dataset"]:
            name += f"-of-{result['protocol']['num_candidates']}"
        if spec["known_users"] is not None:  # other users with each seed, which no command but the suite's tests
            only = {"datasets": [spec["dataset"]], "seeds": [spec["seed"]]}
            commands = [["transrec", "benchmark", "SUITE", *to_options(only)]]
        intervals: dict[str, list[float]] = {}
        if self.is_main_process:
            intervals = intervals_of(result["rankings"], result["metrics"])
            evaluator = evaluation.evaluator
            arrays = {"users": evaluator.sequences["user_id"][:], "history_lengths": evaluator.lengths}
            arrays |= {"target_counts": evaluation.platform.num_interactions[evaluator.targets]}
            arrays |= values_of_lists(result["rankings"], result["metrics"])
            save_rankings(self.folder / "rankings" / f"{name}.npz", result["rankings"], arrays)
        return {
            "schema": SCHEMA,
            "id": task.id,
            "dataset_name": spec["data"].get("dataset_name", "ninerec"),
            "dataset": title,
            "split": "test",
            "known_users": spec["known_users"],
            "scores": scores,
            "options": {},
            "num_trials": 0,
            "num_parameters": 0,
            "num_trained_parameters": 0,
            "card": None,  # the address of the model's card, where the training publishes it
            **_without_folders(facts),
            "metrics": {metric: round(value, 6) for metric, value in result["metrics"].items()},
            "intervals": intervals,
            "groups": result["groups"],
            "protocol": _without_folders(result["protocol"]),
            "rankings": f"rankings/{name}.npz",
            "versions": versions(),
            "git_commit": git_commit(),
            "hardware": hardware(),
            "started": stopwatch.started,
            "seconds": dict(seconds),
            "command": " && ".join(map(shlex.join, commands)),
        }


class _Stopwatch:
    """Notes when something began, and measures the laps since."""

    def __init__(self):
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._last = time.perf_counter()

    def lap(self, name: str) -> dict[str, float]:
        """Returns the seconds since the last lap, or since the beginning, under a name."""
        last, self._last = self._last, time.perf_counter()
        return {name: round(self._last - last, 2)}


def save_rankings(path: Path, rankings: Rankings, of_users: Mapping[str, Any]) -> None:
    """Keeps the ranks of the users' targets, for statistics over users.

    Args:
        path: the file.
        rankings: of the users.
        of_users: what else is kept of each of them: the ids `users`, by which seeds and splits are paired, and
            `target_counts` and `history_lengths`, by which they are grouped, and [`values_of_lists`].
    """
    arrays: dict[str, Any] = {"num_better": rankings.num_better.int().numpy()}
    arrays["num_tied"] = rankings.num_tied.int().numpy()
    arrays |= {name: np.asarray(values, dtype=str if name == "users" else None) for name, values in of_users.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)
    unfinished.replace(path)


def _without_folders(value: Any) -> Any:
    """Returns plain values in which local folders are named by their last part only."""
    if isinstance(value, Mapping):
        return {name: _without_folders(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(one) for one in value]
    if isinstance(value, str) and os.path.isabs(value):
        return public_name(value)
    return value
