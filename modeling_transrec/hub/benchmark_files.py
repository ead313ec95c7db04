"""The Hub's own leaderboards: `eval.yaml` of a data set that is a benchmark, `.eval_results` of models measured on it.

The Hub has one table for each task of a data set's `eval.yaml`, and takes its rows from the model repositories:
<https://huggingface.co/docs/hub/eval-results>. A table must not mix protocols, so a data set's split has results of
one fingerprint here, which every row's notes name.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .names import EVAL_RESULTS_FOLDER


EVAL_YAML = "eval.yaml"
_CARD = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?")
_OWN_SCORES = "own"
_TASK_FIELDS = ("id", "config", "split")


def task_id(table: str, split: str, metric: str) -> str:
    """Returns the name of a task: a metric on a split of a configuration, or of a suite's table of it.

    >>> task_id("Amazon_Beauty", "test", "hr@10")
    'Amazon_Beauty_test_hr@10'
    """
    return f"{table}_{split}_{metric}"


def eval_yaml(name: str, description: str, tasks: Iterable[tuple[str, str, str, str]]) -> str:
    """Returns the content of `eval.yaml`, which makes a data set on the Hub a benchmark.

    Args:
        name: of the benchmark.
        description: what is measured, and by which protocol.
        tasks: of each task the table that it belongs to, its configuration, split and metric.

    Example:

    >>> print(eval_yaml("Shops", "Next item.", [("Beauty by time", "Beauty", "test", "hr@10")]))
    name: Shops
    description: Next item.
    tasks:
    - id: Beauty by time_test_hr@10
      config: Beauty
      split: test
    <BLANKLINE>
    """
    entries = [
        {"id": task_id(table, split, metric), "config": config, "split": split}
        for table, config, split, metric in tasks
    ]
    content = {"name": name, "description": description, "tasks": entries}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def check_eval_yaml(text: str) -> list[str]:
    """Returns what is wrong with an `eval.yaml`, a sentence for each problem.

    >>> check_eval_yaml("name: Shops\\ntasks: [{id: a, config: b}]")
    ['description is missing', 'task 1 (a): split is missing']
    """
    content = _read_yaml(text)
    if not isinstance(content, dict):
        return [f"{EVAL_YAML} must be an object with name, description and tasks"]
    problems = [f"{name} is missing" for name in ("name", "description") if not _is_text(content.get(name))]
    tasks = content.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        return [*problems, "tasks must be a list with at least one task"]
    for number, task in enumerate(tasks, start=1):
        if not isinstance(task, dict):
            problems.append(f"task {number} must be an object with {', '.join(_TASK_FIELDS)}")
            continue
        missing = [name for name in _TASK_FIELDS if not _is_text(task.get(name))]
        problems += [f"task {number} ({task.get('id')}): {name} is missing" for name in missing]
    ids = [task.get("id") for task in tasks if isinstance(task, dict)]
    problems += [f"task {name} is there twice" for name in sorted({str(one) for one in ids if ids.count(one) > 1})]
    return problems


def check_eval_results(text: str, benchmarks: Mapping[str, str]) -> list[str]:
    """Returns what is wrong with a file of `.eval_results`, a sentence for each problem.

    Args:
        text: the file's content.
        benchmarks: of each benchmark's Hub id its `eval.yaml`.

    Example:

    >>> file = "[{dataset: {id: me/shops, task_id: a}, value: 0.1}, {dataset: {id: me/shops, task_id: b}, value: no}]"
    >>> check_eval_results(file, {"me/shops": "tasks: [{id: a}]"})
    ['result 2: me/shops has no task b', 'result 2: value must be a number, not False']
    """
    entries = _read_yaml(text)
    if not isinstance(entries, list) or not entries:
        return ["a file of results must be a list with at least one result"]
    tasks = {name: {str(task.get("id")) for task in _tasks(content)} for name, content in benchmarks.items()}
    problems = []
    for number, entry in enumerate(entries, start=1):
        dataset = entry.get("dataset") if isinstance(entry, dict) else None
        if not isinstance(dataset, dict):
            problems.append(f"result {number}: dataset must be an object with id and task_id")
            continue
        name, task, value = dataset.get("id"), dataset.get("task_id"), entry.get("value")
        if name not in tasks:
            problems.append(f"result {number}: {name} is not one of the benchmarks {', '.join(tasks)}")
        elif task not in tasks[name]:
            problems.append(f"result {number}: {name} has no task {task}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            problems.append(f"result {number}: value must be a number, not {value!r}")
        if "source" in entry and not _is_text((entry["source"] or {}).get("url")):
            problems.append(f"result {number}: source needs a url")
    return problems


def _read_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _tasks(text: str) -> list[dict]:
    return [task for task in _read_yaml(text)["tasks"] if isinstance(task, dict)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def write_benchmark_files(results: Sequence[Mapping[str, Any]], benchmark_id: str, folder: Path) -> list[Path]:
    """Writes `eval.yaml` for the benchmark's data set, and `.eval_results` for each model that has a card on the Hub.

    Args:
        results: lines of results, see [`~modeling_transrec.benchmark.submissions`].
        benchmark_id: the data set's Hub id.
        folder: gets `eval.yaml`, and `OWNER/MODEL/.eval_results/` of each model.

    Returns:
        The files, each of them checked.

    Raises:
        ValueError: for a wrong id, or if the Hub would compare results of different protocols, or if several runs name
            one card.
    """
    _check_id(benchmark_id)
    of_all_users = [line for line in results if line.get("known_users") is None]
    whole = [line for line in of_all_users if line["protocol"]["ranking"].startswith("full")]
    if not whole:
        raise ValueError("there are no results of a whole data set, which a benchmark on the Hub is about")
    _check_protocols(whole)
    tasks = {
        (line["dataset"], _config_name(line), line["split"], metric): None
        for line in whole
        for metric in line["metrics"]
    }
    suites = ", ".join(dict.fromkeys(line["suite"] for line in whole))
    description = "Next-item recommendation by full ranking; one protocol for each data set and split."
    benchmark = eval_yaml(f"{benchmark_id.rpartition('/')[2]} ({suites})", description, tasks)
    files = {folder / EVAL_YAML: benchmark}
    for model, lines in _by_model(whole).items():
        entries = [entry for line in lines for entry in _entries(line, benchmark_id)]
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        problems = check_eval_results(text, {benchmark_id: benchmark})
        if problems:
            raise ValueError(f"the results of {model}: {'; '.join(problems)}")
        files[folder / model / EVAL_RESULTS_FOLDER / f"{benchmark_id.replace('/', '--')}.yaml"] = text
    problems = check_eval_yaml(benchmark)
    if problems:
        raise ValueError(f"{EVAL_YAML}: {'; '.join(problems)}")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


def _config_name(line: Mapping[str, Any]) -> str:
    """Returns the configuration of the data set; a suite may have another name for a table of it."""
    return line["protocol"].get("dataset", line["dataset"]).rpartition("/")[2]


def _check_id(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name} is not a valid Hub id (owner/name): {error}") from error
    if "/" not in name or any(part.startswith(".") for part in name.split("/")):
        raise ValueError(f"{name} is not a valid Hub id (owner/name)")


def _check_protocols(results: Sequence[Mapping[str, Any]]) -> None:
    found: dict[tuple[str, str], str] = {}
    for line in results:
        fingerprint = line["protocol"]["fingerprint"]
        first = found.setdefault((line["dataset"], line["split"]), fingerprint)
        if first != fingerprint:
            raise ValueError(
                f"{line['dataset']}, {line['split']}: results of two protocols, {first} and {fingerprint}, which the "
                "Hub would compare; give the results of one"
            )


def _by_model(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Returns the models' own results by the repository of their card."""
    found: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for line in results:
        match = _CARD.fullmatch(line["card"] or "")
        if match is None or line["scores"] != _OWN_SCORES:
            continue
        _check_id(match[1])  # it becomes a folder's name
        of_split = found.setdefault(match[1], {})
        if of_split.setdefault((line["dataset"], line["split"]), line) is not line:
            raise ValueError(
                f"{line['card']} is the card of several runs on {line['dataset']}; it is one checkpoint's"
            )
    return {model: list(lines.values()) for model, lines in found.items()}


def _entries(line: Mapping[str, Any], benchmark_id: str) -> list[EvalResultEntry]:
    protocol = line["protocol"]
    notes = f"{protocol['ranking']}; seen items: {protocol['seen_items']}; protocol {protocol['fingerprint']}"
    return [
        EvalResultEntry(
            dataset_id=benchmark_id,
            task_id=task_id(line["dataset"], line["split"], metric),
            value=round(value, 6),
            date=line["started"],
            notes=notes,
        )
        for metric, value in line["metrics"].items()
    ]
