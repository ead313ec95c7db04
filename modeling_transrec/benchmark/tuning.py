"""Searches hyper-parameters of a row on the validation split, the same number of settings for every row."""

import json
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from transformers.utils import logging

from .suites import Task


if TYPE_CHECKING:
    from .worker import Worker

logger = logging.get_logger(__name__)


def tune(worker: "Worker", task: Task) -> None:
    """Finds the setting that ranks best on the validation split, by the metric that chooses the best epoch.

    The first setting that is tried is the suite's own, so that tuning never ends below it on the validation split. A
    search that was interrupted goes on where it stopped. What it finds is kept as JSON: the best `options`, `value`
    and `untuned`, the values of the best and of the suite's own setting, and `num_trials`.

    Args:
        worker: trains.
        task: of kind `"tune"`; its `space` has for each option a list of choices, or `low`, `high` and, for values
            that are to be tried by their order of magnitude, `log: true`.
    """
    spec, file = task.spec, worker.tuned(task.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file.with_suffix(".log")))),
        study_name=task.id,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=spec["seed"]),
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(own_setting(spec["space"], spec["options"]))

    def train(trial: optuna.Trial) -> float:
        folder = file.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        options = {name: suggest(trial, name, values) for name, values in spec["space"].items()}
        trainer = worker.train(spec, {**spec["options"], **options}, folder)
        metric = f"eval_{trainer.args.metric_for_best_model}"
        value = max(entry[metric] for entry in trainer.state.log_history if metric in entry)
        shutil.rmtree(folder, ignore_errors=True)
        logger.warning("setting %d: %s %.4f with %s", trial.number + 1, metric, value, options)
        return value

    left = spec["num_trials"] - sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(train, n_trials=max(left, 0))
    found = {
        "options": study.best_params,
        "value": study.best_value,
        "untuned": study.trials[0].value,
        "num_trials": len(study.trials),
    }
    file.write_text(json.dumps(found) + "\n", encoding="utf-8")


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
