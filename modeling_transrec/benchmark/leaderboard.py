"""A leaderboard: a static page that is a Hugging Face Space, made of lines of results.

Results are compared only where their protocol's fingerprint is the same: each fingerprint has a table of its own.
Seeds of one model are one row, with their spread. What others have published stands apart, with what differs.
"""

import base64
import hashlib
import json
import os
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ..version import __version__
from .published import PROTOCOL_FACTS, PublishedResult, published_results


TEMPLATES = Path(__file__).parent / "space"
# Fields of a line that a page shows, beside those that make a row; nothing else of a line is published.
_RUN_FIELDS = (
    "id",
    "seed",
    "metrics",
    "intervals",
    "command",
    "versions",
    "git_commit",
    "hardware",
    "started",
    "seconds",
    "peak_memory_bytes",
    "energy_joules",
    "card",
)
_ROW_FIELDS = (
    "suite",
    "model",
    "kind",
    "modality",
    "scores",
    "sources",
    "options",
    "num_trials",
    "num_parameters",
    "num_trained_parameters",
)
_TABLE_FIELDS = ("dataset_name", "dataset", "split", "known_users")
_PROTOCOL_FIELDS = ("num_users", "num_candidates", "ranking", "seen_items", "ties")  # one for all rows of a table
FOLDER_OF_SUBMISSIONS = "submissions"


def write_leaderboard(
    results: Sequence[Mapping[str, Any]],
    output_dir: str | os.PathLike,
    title: str = "Transferable sequential recommendation",
) -> Path:
    """Writes the folder of a static Space: the page, its data, a card, and a workflow that checks submissions.

    Args:
        results: lines of results, as [`~submissions.check_files`] returns them.
        output_dir: folder; files of these names in it are replaced.
        title: of the page.

    Returns:
        The page's path. It opens from a folder, without a server.

    Raises:
        ValueError: if results contradict each other.
    """
    data = {"title": title, "version": __version__, **leaderboard_data(results)}
    folder = Path(output_dir)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, keep_trailing_newline=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    page = environment.get_template("index.html").render(
        title=title, data=data, style=style, script=script, style_hash=_csp_hash(style), script_hash=_csp_hash(script)
    )
    card = environment.get_template("README.md").render(title=title, yaml_title=json.dumps(title))
    files = {
        "index.html": page,
        "README.md": card,
        "results.json": json.dumps(data, indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    workflow = folder / ".github" / "workflows" / "check.yml"
    workflow.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(TEMPLATES / "check.yml", workflow)
    (folder / FOLDER_OF_SUBMISSIONS).mkdir(exist_ok=True)
    return folder / "index.html"


def _csp_hash(text: str) -> str:
    """Returns how a content security policy names the one script or style that a page may have."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def leaderboard_data(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what the page shows.

    Args:
        results: lines of results.

    Returns:
        `"tables"`, one for each data set, split and fingerprint, each with its protocol, its rows and
        `"best_published"`, of each metric the highest number of others for the same targets among the same items;
        `"published"`, what is known from elsewhere of data sets of these names, in tables by whether users and targets
        are the same.
    """
    tables: dict[tuple, list[Mapping[str, Any]]] = {}
    for result in _distinct(results):
        key = (*(result.get(name) for name in _TABLE_FIELDS), result["protocol"]["fingerprint"])
        tables.setdefault(key, []).append(result)
    made = [_table(key, lines) for key, lines in tables.items()]
    made.sort(key=lambda table: (table["known_users"] is not None, table["dataset"], table["split"], -table["size"]))
    datasets = list(dict.fromkeys(table["dataset"] for table in made))
    published = [
        {"dataset": dataset, "same_targets": same, "rows": rows}
        for dataset in datasets
        for same in (True, None, False)
        if (rows := [_published(one) for one in published_results(dataset) if one.same_targets is same])
    ]
    return {"tables": made, "published": published}


def _distinct(results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the runs, each once, even if several files have it.

    Raises:
        ValueError: if one run has two results.
    """
    found: dict[tuple, Mapping[str, Any]] = {}
    for result in results:
        key = (result["id"], result["model"], result["scores"], result["seed"])
        if found.setdefault(key, result)["metrics"] != result["metrics"]:
            raise ValueError(
                f"run {result['id']} of {result['model']} has two results, "
                f"{json.dumps(found[key]['metrics'])} and {json.dumps(result['metrics'])}; leave out one"
            )
    return list(found.values())


def _table(key: tuple, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    facts = dict(zip((*_TABLE_FIELDS, "fingerprint"), key, strict=True))
    protocol = {name: lines[0]["protocol"][name] for name in _PROTOCOL_FIELDS}
    for line in lines:
        for name, value in protocol.items():
            if line["protocol"][name] != value:
                raise ValueError(
                    f"run {line['id']} of {line['model']} has the fingerprint {facts['fingerprint']}, but its {name} "
                    f"is {line['protocol'][name]!r} where another run's is {value!r}; one of them was changed"
                )
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        names = {name: line.get(name) for name in (*_ROW_FIELDS, "max_seq_len")}
        names["max_seq_len"] = line["protocol"]["max_seq_len"]
        rows.setdefault(json.dumps(names, sort_keys=True), []).append(line)
    made = [_row(runs) for runs in rows.values()]
    made.sort(key=lambda row: -row["metrics"].get("ndcg@10", {"mean": 0})["mean"])
    return {
        **facts,
        "protocol": protocol,
        "protocol_words": describe_protocol(protocol),
        "best_published": _best_published(facts, protocol),
        "size": len(lines),
        "rows": made,
    }


def _best_published(facts: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns of each metric the highest published number that can be compared with a table."""
    best: dict[str, dict[str, Any]] = {}
    if facts["split"] != "test" or facts["known_users"] is not None:
        return best
    for one in published_results(facts["dataset"]):
        for metric, value in one.metrics.items() if one.is_on(protocol) else ():
            if value > best.get(metric, {"value": 0.0})["value"]:
                best[metric] = {"value": value, "model": one.name}
    return best


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """Returns in words what a fingerprint stands for.

    >>> protocol = {"num_users": 800, "num_candidates": 300, "ranking": "full", "seen_items": "out", "ties": "mean"}
    >>> describe_protocol(protocol)
    '800 users, 300 candidates; ranking: full; seen items: out; ties: mean'
    """
    return (
        f"{protocol['num_users']:,} users, {protocol['num_candidates']:,} candidates; ranking: {protocol['ranking']}; "
        f"seen items: {protocol['seen_items']}; ties: {protocol['ties']}"
    )


def _row(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the row of a model: its seeds' mean and spread, and the runs it was made of."""
    runs = sorted(runs, key=lambda run: (run["seed"] is None, run["seed"]))
    names = [name for name in runs[0]["metrics"] if all(name in run["metrics"] for run in runs)]
    metrics: dict[str, dict[str, Any]] = {}
    for name in names:
        values = [run["metrics"][name] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else None
        metrics[name] = {"mean": statistics.fmean(values), "spread": spread}
        ends = [run["intervals"][name] for run in runs if name in run.get("intervals", {})]
        if len(ends) == len(runs):  # the mean of the seeds' intervals is no narrower than that of the seeds' mean
            metrics[name]["interval"] = [statistics.fmean(end) for end in zip(*ends, strict=True)]
    facts = {name: runs[0].get(name) for name in _ROW_FIELDS}
    shown = [{name: run.get(name) for name in _RUN_FIELDS} for run in runs]
    seconds = [sum(value for value in run["seconds"].values() if value is not None) for run in runs]
    return {
        **facts,
        "max_seq_len": runs[0]["protocol"]["max_seq_len"],
        "metrics": metrics,
        "seconds": statistics.fmean(seconds),
        "runs": shown,
    }


def _published(result: PublishedResult) -> dict[str, Any]:
    return {
        "model": result.name,
        "kind": "published",
        "modality": result.modality,
        "setting": ", ".join(filter(None, (result.setting, result.training, *result.pretrained_on))) or None,
        "metrics": {name: {"mean": value, "spread": None} for name, value in result.metrics.items()},
        "run_by": result.run_by or "not recorded",
        "source": result.source,
        "short_source": result.short_source,
        "url": result.url,
        "protocol": {PROTOCOL_FACTS[name]: fact for name, fact in result.protocol.items() if fact is not None},
        "differences": list(result.differences),
        "remarks": result.remarks,
    }
