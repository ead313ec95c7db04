"""Tells what a suite has found, as Markdown: tables with intervals, and what is shown in words."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.metrics import METRICS
from ..hub.results import markdown_table
from .published import published_results
from .statistics import Difference, Estimate, compare, estimate, values_of_users
from .suites import Suite


_GROUPS = {"cold": ("target 0",), "warm": ("target 50+",), "short": ("history 1-4",), "long": ("history 50+",)}


@dataclass(frozen=True)
class Row:
    """
    A model on a data set, by its own scores or with transitions, over its seeds.

    Args:
        lines: lines of results, one a seed.
        values: `(S, N)` of seeds and users, by metric.
    """

    lines: Sequence[dict]
    values: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """The model's name, and what is added to its scores."""
        scores = self.lines[0]["scores"]
        return self.lines[0]["model"] + scores.removeprefix("own")

    @property
    def k(self) -> int:
        """Cut-off of the main table: 10, or 1 where there are no more candidates than that."""
        return 10 if self.lines[0]["protocol"]["num_candidates"] > 10 else 1

    def mean(self, metric: str) -> float:
        """Returns a metric's mean over seeds."""
        return float(np.mean([line["metrics"][metric] for line in self.lines]))

    def seconds(self) -> float:
        """Returns the mean time of training and evaluation, with that of the pretraining."""
        return float(np.mean([sum(line["seconds"].values()) for line in self.lines]))


def read_rows(lines: Iterable[dict], folder: Path) -> list[Row]:
    """Returns the rows of one data set: what lines of the same model and scores say, with the users' ranks.

    Args:
        lines: of one data set and one number of known users.
        folder: where `rankings/` lies.
    """
    by_row = defaultdict(list)
    for line in lines:
        by_row[line["model"], line["scores"]].append(line)
    rows = []
    for found in by_row.values():
        ranks = [np.load(folder / line["rankings"], allow_pickle=False) for line in found]
        k = Row(found, {}).k
        values = {
            metric: np.stack([values_of_users(one["num_better"], one["num_tied"], metric, k) for one in ranks])
            for metric in ("hr", "ndcg")
        }
        rows.append(Row(found, values))
    return rows


def write_report(suite: Suite, lines: Sequence[dict], folder: Path, tuned: Iterable[dict] = ()) -> Path:
    """Writes `results.md`, and returns its path.

    Args:
        suite: what was compared.
        lines: its lines of results.
        folder: of the benchmark.
        tuned: what searches for hyper-parameters have found, see [`~tuning.tune`], each with its `title`.
    """
    parts = [f"# {suite.title}", suite.about.strip(), *_describe_runs(suite, lines)]
    for dataset in (table for name in suite.datasets for table in suite.tables(name)):
        of_dataset = [line for line in lines if line["dataset"] == dataset]
        curves: dict[int | None, list[Row]] = {}
        for known in suite.known_users:
            users = None if known == "all" else int(known)
            rows = read_rows((line for line in of_dataset if line["known_users"] == users), folder)
            if rows:
                curves[users] = rows
        for users, rows in curves.items():
            parts += _sections(suite, dataset if users is None else f"{dataset}, {users:,} users known", rows)
        if len(curves) > 1:
            parts += ["### By the number of known users: NDCG@10", learning_curve(curves)]
        if None in curves:
            parts += _published(dataset)
    parts += _tuning(list(tuned))
    path = folder / "results.md"
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def _describe_runs(suite: Suite, lines: Sequence[dict]) -> list[str]:
    if not lines:
        return ["Nothing has been run yet."]
    machines = sorted({f"{line['hardware']['gpu'] or line['hardware']['processor']}" for line in lines})
    packages = lines[-1]["versions"]
    used = ", ".join(f"{name} {packages[name]}" for name in ("modeling_transrec", "torch", "transformers"))
    return [
        f"Test split, whole catalogue, items of the history left out; epochs, weights and settings chosen on the "
        f"validation split. Seeds {', '.join(map(str, suite.seeds))}. In brackets 95 % intervals over users, who are "
        "drawn again 2,000 times; ± is the standard deviation over seeds. *Better* and *worse* than "
        f"{suite.reference} need both the interval and p < 0.05 over users and over seeds, corrected for the number "
        f"of rows (Benjamini and Hochberg). {used}; {', '.join(machines)}."
    ]


def _sections(suite: Suite, title: str, rows: Sequence[Row]) -> list[str]:
    protocol = rows[0].lines[0]["protocol"]
    size = f"{protocol['num_users']:,} users, {protocol['num_candidates']:,} items"
    ranking = "" if protocol["ranking"].startswith("full") else f", {protocol['ranking']}"
    about = f"{size}{ranking}, fingerprint `{protocol['fingerprint']}`."
    parts = [f"## {title}", about, results_table(rows, suite.reference)]
    measured = rows[0].lines[0]["metrics"]  # of a few candidates there are no lists
    beyond = [
        name for name in METRICS if METRICS[name].needs_lists and name in suite.metrics and f"{name}@10" in measured
    ]
    if beyond:
        parts += ["### Beyond accuracy", _beyond(rows, beyond)]
    groups = group_table(rows)
    return [*parts, "### By group: NDCG@10", groups] if groups else parts


def results_table(rows: Sequence[Row], reference: str) -> str:
    """Returns the main table: metrics with intervals, and what each row is worth beside the reference."""
    base = next((row for row in rows if row.name == reference), None)
    compared = [] if base is None else [row for row in rows if row is not base and _has_same_users(row, base)]
    found = compare([row.values["ndcg"] for row in compared], base.values["ndcg"]) if base is not None else []
    shown = {row.name: _difference(one) for row, one in zip(compared, found, strict=True)}
    cells = [
        (
            row.name,
            _estimate(estimate(row.values["hr"])),
            _estimate(estimate(row.values["ndcg"])),
            shown.get(row.name, "reference" if row is base else "other histories" if base is not None else ""),
            f"{row.seconds():,.0f}",
            f"{max(line['peak_memory_bytes'] for line in row.lines) / 2**30:.1f}",
        )
        for row in rows
    ]
    k = rows[0].k
    header = ("model", f"HR@{k}", f"NDCG@{k}", f"NDCG@{k} beside {reference}", "seconds", "GiB")
    return markdown_table(header, cells, aligned=True)


def _has_same_users(row: Row, base: Row) -> bool:
    """Returns whether two rows rank the same targets after the same histories, seed by seed."""
    users = [{(line["seed"], line["protocol"]["fingerprint"]) for line in one.lines} for one in (row, base)]
    if row.lines[0]["known_users"] is None:
        users = [{fingerprint for _, fingerprint in one} for one in users]
    return users[0] == users[1]


def _estimate(found: Estimate) -> str:
    spread = "" if found.spread is None else f" ± {found.spread:.4f}"
    return f"{found.mean:.4f}{spread} ({found.low:.4f} to {found.high:.4f})"


def _difference(found: Difference) -> str:
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {found.in_words}"


def _beyond(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    names = [f"{name}@10" for name in metrics]
    cells = [(row.name, *(f"{row.mean(name):.4f}" for name in names)) for row in rows]
    return markdown_table(("model", *(name.replace("_", " ") for name in names)), cells, aligned=True)


def group_table(rows: Sequence[Row]) -> str:
    """Returns NDCG@10 for items and users of like kind; empty where no row has groups."""
    groups = [name for name in rows[0].lines[0]["groups"] if all(name in line["groups"] for line in rows[0].lines)]
    if not groups:
        return ""
    sizes = rows[0].lines[0]["groups"]
    header = [
        f"{name.replace('target', 'item seen').replace('history', 'history of')} ({sizes[name]['num_users']:,})"
        for name in groups
    ]
    cells = [
        (row.name, *(f"{np.mean([line['groups'][name]['ndcg@10'] for line in row.lines]):.4f}" for name in groups))
        for row in rows
    ]
    return markdown_table(("model", *header), cells, aligned=True)


def learning_curve(curves: dict[int | None, list[Row]]) -> str:
    """Returns NDCG@10 of each row by the number of known users."""
    names = list(dict.fromkeys(row.name for rows in curves.values() for row in rows))
    found = {(users, row.name): row.mean("ndcg@10") for users, rows in curves.items() for row in rows}
    cells = [
        (name, *(f"{found[users, name]:.4f}" if (users, name) in found else "" for users in curves)) for name in names
    ]
    header = ("all" if users is None else f"{users:,}" for users in curves)
    return markdown_table(("model", *header), cells, aligned=True)


def _published(dataset: str) -> list[str]:
    found = published_results(dataset)
    if not found:
        return []
    cells = [
        (
            one.name,
            *(f"{one.metrics[name]:.4f}" if name in one.metrics else "" for name in ("hr@10", "ndcg@10")),
            f"[{one.where}]({one.url}), {one.run_by}",
            " ".join(one.differences) or "nothing that is known",
        )
        for one in sorted(found, key=lambda one: -one.metrics.get("ndcg@10", 0.0))
    ]
    table = markdown_table(("published", "HR@10", "NDCG@10", "source", "what differs"), cells, aligned=True)
    return [f"### {dataset}: published by others", table]


def _tuning(tuned: Sequence[dict[str, Any]]) -> list[str]:
    if not tuned:
        return []
    cells = [
        (
            one["title"],
            str(one["num_trials"]),
            "" if one["untuned"] is None else f"{one['untuned']:.4f}",
            f"{one['value']:.4f}",
            f"`{json.dumps(one['options'])}`",
        )
        for one in tuned
    ]
    header = ("searched", "settings", "validation HR@10, as it was", "tuned", "found")
    return ["## What tuning gains", markdown_table(header, cells, aligned=True)]
