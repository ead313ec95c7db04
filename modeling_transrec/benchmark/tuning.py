"""Searches hyper-parameters of a row on the validation split, the same number of settings for every row."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from transformers.utils import logging

from ..evaluation.ranks import of_main_process
from ..models.whole_saves import write_whole
from .suites import Task


if TYPE_CHECKING:
    from .worker import Worker

logger = logging.get_logger(__name__)


def tune(worker: "Worker", task: Task) -> None:
    """Finds the setting that ranks best on the validation split, by the metric that chooses the best epoch.

    The first setting that is tried is the suite's own, so that tuning never ends below it on the validation split. A
    search that was interrupted goes on where it stopped, with the setting that it was trying. Of several processes the
    main one chooses the settings, and all train with them. What it finds is kept as JSON: the best `options`, `value`
    and `untuned`, the values of the best and of the suite's own setting, the `metric`, `num_trials`, and the `seconds`
    that all of them took.

    Args:
        worker: trains.
        task: of kind `"tune"`; its `space` has for each option a list of choices, or `low`, `high` and, for values
            that are to be tried by their order of magnitude, `log: true`.
    """
    spec, file = task.spec, worker.tuned(task.id)
    folder = file.with_suffix("")
    arguments = worker.arguments(spec, spec["options"], folder)[1]
    metric, best = f"eval_{arguments.metric_for_best_model}", max if arguments.greater_is_better else min
    search = Search(spec, file, arguments.greater_is_better) if worker.is_main_process else None
    while (options := of_main_process(lambda: None if search is None else search.ask())) is not None:
        worker.remove(folder)
        try:
            trainer = worker.train(spec, {**spec["options"], **options}, folder)
        except Exception:
            if search is not None:
                search.fail()
            raise
        value = best(entry[metric] for entry in trainer.state.log_history if metric in entry)
        worker.remove(folder)
        if search is not None:
            search.tell(value)
            logger.warning("setting %d: %s %.4f with %s", search.num_tried, metric, value, options)
    if search is not None:
        found = {**search.found(), "metric": metric.removeprefix("eval_")}
        write_whole(file, json.dumps(found) + "\n")


class Search:
    """
    A search for hyper-parameters that is kept on disk, whatever becomes of its process.

    Args:
        spec: of the task.
        file: JSON of what will be found, beside which Optuna keeps its journal.
        greater_is_better: whether the highest value is the best.
    """

    def __init__(self, spec: Mapping[str, Any], file: Path, greater_is_better: bool | None = True):
        self.spec = spec
        file.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file.with_suffix(".log")))),
            study_name=file.stem,
            direction="maximize" if greater_is_better else "minimize",
            load_if_exists=True,
        )
        trials = self.study.get_trials()
        self.study.sampler = optuna.samplers.TPESampler(
            seed=spec["seed"] + len(trials)
        )  # draws others when it goes on
        own = own_setting(spec["space"], spec["options"])
        if not trials:
            self.study.enqueue_trial(own, user_attrs={"is_own": True})
        for trial in trials:
            if trial.state == TrialState.RUNNING:  # its process was killed
                self.study.tell(trial.number, state=TrialState.FAIL)
                setting = {**(own if trial.user_attrs.get("is_own") else {}), **trial.params}
                self.study.enqueue_trial(setting, user_attrs={**trial.user_attrs, "again": True})

    @property
    def num_tried(self) -> int:
        """Number of settings that were tried to their end, or failed; each counts once."""
        trials = self.study.get_trials()
        return sum(one.state.is_finished() for one in trials) - sum("again" in one.user_attrs for one in trials)

    def ask(self) -> dict[str, Any] | None:
        """Returns the next setting; `None` when as many were tried as are to be."""
        if self.num_tried >= self.spec["num_trials"]:
            return None
        self.trial = self.study.ask()
        return {name: suggest(self.trial, name, values) for name, values in self.spec["space"].items()}

    def tell(self, value: float) -> None:
        """Takes what the setting that was asked for last is worth."""
        self.study.tell(self.trial, value)

    def fail(self) -> None:
        """Notes that the setting that was asked for last cannot be trained with."""
        self.study.tell(self.trial, state=TrialState.FAIL)

    def found(self) -> dict[str, Any]:
        """Returns what is best."""
        complete = self.study.get_trials(states=(TrialState.COMPLETE,))
        if not complete:
            raise ValueError(f"all {self.num_tried} settings have failed; the logs of this task's runs say why")
        return {
            "options": self.study.best_params,
            "value": self.study.best_value,
            "untuned": next((one.value for one in complete if one.user_attrs.get("is_own")), None),
            "num_trials": self.num_tried,
            "seconds": round(sum(one.duration.total_seconds() for one in complete if one.duration), 1),
        }


def suggest(trial: optuna.Trial, name: str, values: Any) -> Any:
    """Draws the value of an option."""
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    low, high, log = values["low"], values["high"], bool(values.get("log", False))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def own_setting(space: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the options that lie in the space; Optuna draws the others.

    >>> space = {"learning_rate": {"low": 1e-4, "high": 1e-2}, "num_hidden_layers": [1, 2]}
    >>> own_setting(space, {"learning_rate": 1e-3, "num_hidden_layers": 3})
    {'learning_rate': 0.001}
    """
    found = {}
    for name, values in space.items():
        if name in options:
            value = options[name]
            if value in values if isinstance(values, list) else values["low"] <= value <= values["high"]:
                found[name] = value
    return found
