"""Measured results of a checkpoint, in the forms that a card and the Hub have for them.

A result is a dictionary `{"model", "metrics", "protocol"}`; the model's own results are named [`THIS_MODEL`].
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from ..evaluation.baselines import BASELINES, describe_left_out
from ..models.checkpoint_files import public_name
from .benchmark_files import task_id
from .names import EVAL_RESULTS_FOLDER


THIS_MODEL = "this model"
_OWN_SCORES = "the model's own"


def result_row(model: str, metrics: dict[str, float], protocol: dict) -> dict:
    """Returns one result, its protocol without names of local folders."""
    dataset, _, config_name = protocol["dataset"].rpartition("/")
    public = {name: value for name, value in protocol.items() if name != "model"}
    public["dataset"] = f"{public_name(dataset)}/{config_name}"
    return {"model": model, "metrics": dict(metrics), "protocol": public}


def read_result(file: str | os.PathLike, model: str = THIS_MODEL) -> dict:
    """Reads the file that `transrec evaluate --output_file` wrote.

    Raises:
        ValueError: if the file is another one.
    """
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"metrics", "protocol"} <= found.keys():
        raise ValueError(
            f'{file} is not a file of results, a JSON object with "metrics" and "protocol"; write one with '
            "`transrec evaluate --output_file FILE`"
        )
    return result_row(model, found["metrics"], found["protocol"])


def merge_results(old: Sequence[dict], new: Sequence[dict]) -> list[dict]:
    """Returns the results of both; a new one replaces an old one of the same model, split and scores."""

    def key(row: dict) -> tuple:
        return (row["model"], *_split_of(row), row["protocol"]["scores"])

    return list({key(row): row for row in [*old, *new]}.values())


def results_sections(results: Sequence[dict]) -> str:
    """Returns the part of a card that changes when results are added: protocol and table."""
    parts = ("## Protocol", _describe_protocol(results), "## Results", show_results(results))
    return "\n\n".join(parts)


def _describe_protocol(results: Sequence[dict]) -> str:
    lines = []
    for row in results:
        protocol = row["protocol"]
        line = (
            f"- `{protocol['dataset']}`, {protocol['split']} split: {protocol['num_users']:,} users; "
            f"{protocol['ranking']} ({protocol['num_candidates']:,}); seen items: {protocol['seen_items']}; ties: "
            f"{protocol['ties']}; histories of up to {protocol['max_seq_len']} items"
        )
        if line not in lines:
            lines.append(line)
    if any("scoring" in row["protocol"] for row in results):
        lines.append("- weights and settings of transitions and of content kNN were chosen on the validation split")
    return "\n".join(lines) or (
        "Leave-one-out by time: the last item of each history is the test target, the one before it the validation "
        "target. Every item of the catalogue is ranked; items of the history are no candidates. The checkpoint is "
        "chosen by validation HR@10."
    )


def results_table(results: Sequence[dict]) -> str:
    """Returns results as a Markdown table with the metrics that all of them have; the model's own are in bold."""
    if not results:
        return "Nothing has been measured."
    names = [name for name in results[0]["metrics"] if all(name in row["metrics"] for row in results)]
    rows = []
    for row in sorted(results, key=_order):
        bold = "**" if row["model"] == THIS_MODEL else ""
        values = (f"{bold}{row['metrics'][name]:.4f}{bold}" for name in names)
        rows.append((f"{bold}{row['model']}{bold}{_describe_scores(row)}", ", ".join(_split_of(row)), *values))
    return markdown_table(("model", "data set, split", *(name.upper() for name in names)), rows, aligned=True)


def show_results(results: Sequence[dict]) -> str:
    """Returns the table, and sentences about rows that it lacks."""
    missing = describe_left_out({row["model"] for row in results})
    return f"{results_table(results)}\n\n{missing}" if missing else results_table(results)


def _describe_scores(row: dict) -> str:
    """Returns what a row of the table says of its scores, beside the model's name."""
    scores, content = row["protocol"]["scores"], row["protocol"].get("scoring", {}).get("content")
    if content is not None:
        return f" ({', '.join(content['source'])})"
    if scores.startswith(_OWN_SCORES):
        return scores.removeprefix(_OWN_SCORES)  # transitions that are added to them
    return "" if scores == row["model"] else f", {scores}"  # a baseline's bear its name


def _order(row: dict) -> tuple:
    """Sorts by data set and split: what needs no training first, the model itself last."""
    untrained = [*BASELINES, row["model"]].index(row["model"])
    return _split_of(row), row["model"] == THIS_MODEL, untrained


def _split_of(row: dict) -> tuple[str, str]:
    return row["protocol"]["dataset"], row["protocol"]["split"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence], aligned: bool = False) -> str:
    """Returns a table as Markdown; aligned, it is easy to read as plain text, too.

    >>> print(markdown_table(("part", "parameters"), [("all", 12)]))
    | part | parameters |
    | --- | --- |
    | all | 12 |
    """
    lines = [[str(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) if aligned else 0 for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def _published(results: Sequence[dict]) -> list[tuple[dict, str, str]]:
    """Returns the model's result on each split, by its own scores if measured, with data set and configuration."""
    own = [row for row in results if row["model"] == THIS_MODEL]
    of_split = {_split_of(row): row for row in sorted(own, key=lambda row: row["protocol"]["scores"] == _OWN_SCORES)}
    named = ((row, row["protocol"]["dataset"].rpartition("/")) for row in of_split.values())
    return [(row, dataset, config_name) for row, (dataset, _, config_name) in named]


def eval_results(results: Sequence[dict]) -> list[EvalResult]:
    """Returns the model's own results as entries of a card's `model-index`."""
    return [
        EvalResult(
            task_type="recommendation",
            task_name="Sequential recommendation",
            dataset_type=dataset,
            dataset_name=row["protocol"]["dataset"],
            dataset_config=config_name,
            dataset_split=row["protocol"]["split"],
            metric_type=name,
            metric_name=name.upper(),
            metric_value=round(value, 6),
        )
        for row, dataset, config_name in _published(results)
        for name, value in row["metrics"].items()
    ]


def eval_result_files(results: Sequence[dict]) -> dict[str, str]:
    """Returns the model's own results as `.eval_results/*.yaml`: each file's name and content.

    This form names a data set of the Hub, so results on other data sets have no such file.
    """
    files = {}
    for row, dataset, config_name in _published(results):
        if "/" not in dataset:
            continue
        split, protocol = row["protocol"]["split"], row["protocol"]
        entries = [
            EvalResultEntry(
                dataset_id=dataset,
                task_id=task_id(config_name, split, name),
                value=round(value, 6),
                notes=f"{protocol['ranking']}; seen items: {protocol['seen_items']}; scores: {protocol['scores']}",
            )
            for name, value in row["metrics"].items()
        ]
        name = f"{EVAL_RESULTS_FOLDER}/{dataset.replace('/', '--')}--{config_name}--{split}.yaml"
        files[name] = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return files
