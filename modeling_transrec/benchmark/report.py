"""Tells what a suite has found, as Markdown: tables with intervals, and what is shown in words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.baselines import BASELINES, TIMED_BASELINES, describe_left_out
from ..evaluation.groups import groups_of_users
from ..evaluation.metrics import METRICS
from ..evaluation.settings import WEIGHED, num_weights, settings_of
from ..hub.results import markdown_table
from ..models.whole_saves import write_whole
from .beside_published import published_sections
from .splits import compare_splits
from .statistics import Difference, compare, estimate, estimate_quotient, values_of_users
from .suites import Suite


@dataclass(frozen=True)
class Row:
    """
    A model on a data set, by its own scores or with transitions, over its seeds.

    Args:
        name: the model's, and what is added to its scores.
        lines: lines of results, one a seed, by seed.
        values: `(S, N)` of seeds and users, by metric; NaN where a user is not tested with a seed.
        users: `(N,)` their ids; `None` where lines are of a version that did not keep them.
        groups: `(S, N)` whether a user is in a group, by its name; none where lines are of such a version.
        of_lists: `(S, 2, N)` of metrics of lists, by name with cut-off: two numbers of each user, whose sums' quotient
            the metric is; none where lines are of such a version, or the metric is of all lists together.
    """

    name: str
    lines: Sequence[dict]
    values: dict[str, np.ndarray]
    users: np.ndarray | None = None
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    of_lists: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int | None]:
        """The seeds; `None` of what has none."""
        return [line["seed"] for line in self.lines]

    @property
    def budget(self) -> str:
        """Numbers of settings of hyper-parameters, and of weights, that were tried on the validation split."""
        first = self.lines[0]
        is_weighed = first["scores"].endswith("+ transitions") or first["model"] in WEIGHED
        return f"{_num_settings(first)}{f' + {num_weights()}' if is_weighed else ''}"

    @property
    def k(self) -> int:
        """Cut-off of the main table."""
        return _cutoff(self.lines[0])

    def of_group(self, name: str, metric: str = "ndcg") -> np.ndarray:
        """Returns a metric's values of the users of a group; NaN of the others."""
        return np.where(self.groups[name], self.values[metric], np.nan)

    def mean(self, metric: str) -> float:
        """Returns a metric's mean over seeds."""
        return float(np.mean([line["metrics"][metric] for line in self.lines]))

    def describe(self, metric: str) -> str:
        """Returns a metric's mean with ± over seeds, and the interval over users of what has values of users."""
        if metric in self.of_lists:
            return str(estimate_quotient(self.of_lists[metric][:, 0], self.of_lists[metric][:, 1]))
        found = [line["metrics"][metric] for line in self.lines]
        return f"{np.mean(found):.4f}{f' ± {np.std(found, ddof=1):.4f}' if len(found) > 1 else ''}"

    def seconds(self) -> float:
        """Returns the mean time of training and evaluation, with pretraining and search for settings."""
        return float(np.mean([sum(line["seconds"].values()) for line in self.lines]))


def read_rows(lines: Iterable[dict], folder: Path) -> list[Row]:
    """Returns the rows of one data set: what lines of the same model, scores and budget say, with the users' ranks.

    Args:
        lines: of one data set and one number of known users.
        folder: where `rankings/` lies.
    """
    by_row: dict[tuple, dict[int | None, dict]] = {}
    for line in lines:
        by_row.setdefault((line["model"], line["scores"], line["num_trials"]), {})[line["seed"]] = line
    budgets: dict[tuple, int] = {}
    for model, scores, _ in by_row:
        budgets[model, scores] = budgets.get((model, scores), 0) + 1
    found = [
        (
            (model, scores, num_trials),
            [of_seeds[seed] for seed in sorted(of_seeds, key=lambda one: (one is None, one))],
        )
        for (model, scores, num_trials), of_seeds in by_row.items()
    ]
    ranks = {line["rankings"]: dict(np.load(folder / line["rankings"])) for _, seeds in found for line in seeds}
    users = [one["users"] for one in ranks.values() if "users" in one]  # where few are known, with each seed others
    everybody = np.unique(np.concatenate(users)) if users and len(users) == len(ranks) else None
    rows = []
    for (model, scores, _), of_seeds in found:
        name = model + scores.removeprefix("own")
        if budgets[model, scores] > 1:
            name += f", {_num_settings(of_seeds[0])} settings"
        of_lines = [ranks[line["rankings"]] for line in of_seeds]
        values = {
            metric: np.stack(
                [_values(one, metric, _cutoff(line), everybody) for one, line in zip(of_lines, of_seeds, strict=True)]
            )
            for metric in ("hr", "ndcg")
        }
        of_lists = _of_lists(of_lines, everybody)
        rows.append(Row(name, of_seeds, values, everybody, _groups(of_lines, everybody), of_lists))
    return rows


def _num_settings(line: Mapping[str, Any]) -> int:
    """Returns how many settings were tried; those of the grid, where none were asked for."""
    if line["num_trials"]:
        return line["num_trials"]
    return len(settings_of(line["model"])) if line["kind"] == "baseline" else 1


def _cutoff(line: Mapping[str, Any]) -> int:
    """Returns 10, or 1 where there are no more candidates than that."""
    return 10 if line["protocol"]["num_candidates"] > 10 else 1


def _values(ranks: Mapping[str, np.ndarray], metric: str, k: int, everybody: np.ndarray | None) -> np.ndarray:
    """Returns a metric of each user `(N,)`; of everybody, if users are named, and then NaN of those not tested."""
    values = values_of_users(ranks["num_better"], ranks["num_tied"], metric, k)
    return values if everybody is None else _aligned(values, ranks["users"], everybody, np.nan)


def _aligned(values: np.ndarray, users: np.ndarray, everybody: np.ndarray, missing: Any) -> np.ndarray:
    of_all = np.full(len(everybody), missing)
    of_all[np.searchsorted(everybody, users)] = values
    return of_all


def _groups(of_seeds: Sequence[Mapping[str, np.ndarray]], everybody: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns which users are in each group `(S, N)`; nothing of lines that do not say what groups them."""
    if everybody is None or not all("target_counts" in ranks for ranks in of_seeds):
        return {}
    found: dict[str, np.ndarray] = {}
    for seed, ranks in enumerate(of_seeds):
        for name, chosen in groups_of_users(ranks["target_counts"], ranks["history_lengths"]).items():
            of_all = found.setdefault(name, np.zeros((len(of_seeds), len(everybody)), dtype=bool))
            of_all[seed] = _aligned(chosen, ranks["users"], everybody, False)
    return found


def _of_lists(of_seeds: Sequence[Mapping[str, np.ndarray]], everybody: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns what all seeds have kept of the users' lists, `(S, 2, N)`; zeros of users who are not tested."""
    if everybody is None:
        return {}
    names = [f"{name}@10" for name, row in METRICS.items() if row.of_users is not None]
    return {
        name: np.stack([[_aligned(one, ranks["users"], everybody, 0.0) for one in ranks[name]] for ranks in of_seeds])
        for name in names
        if all(name in ranks for ranks in of_seeds)
    }


def write_report(
    suite: Suite,
    lines: Sequence[dict],
    folder: Path,
    tuned: Iterable[dict] = (),
    failures: Sequence[dict] = (),
    num_others: int = 0,
) -> Path:
    """Writes `results.md`, and returns its path.

    Args:
        suite: what was compared.
        lines: its lines of results.
        folder: of the benchmark.
        tuned: what searches for hyper-parameters have found, see [`~tuning.tune`], each with its `title`.
        failures: lines of `failures.jsonl`.
        num_others: number of lines in the folder that are of the suite with other options, and not shown.
    """
    parts = [f"# {suite.title}", suite.about.strip(), *_describe_runs(lines, suite.reference), _failed(failures)]
    if num_others:
        parts.append(
            f"{num_others:,} more lines of `results.jsonl` are not shown: they were made with other options or "
            "backbones, or by another version of the suite."
        )
    whole: dict[str, list[Row]] = {}
    for dataset in suite.datasets:
        for table in suite.tables(dataset):
            of_table = [line for line in lines if line["dataset"] == table]
            curves: dict[int | None, list[Row]] = {}
            for known in suite.known_users:
                users = None if known == "all" else int(known)
                rows = read_rows((line for line in of_table if line["known_users"] == users), folder)
                if rows:
                    curves[users] = rows
            for users, rows in curves.items():
                title = table if users is None else f"{table}, {users:,} users known"
                parts += [f"## {title}", *_sections(suite, rows, failures)]
            if not curves:
                parts += [f"## {table}", "Nothing has been run yet."]
            if len(curves) > 1:
                parts += ["### By the number of known users: NDCG@10", learning_curve(curves)]
                cold = learning_curve(curves, group="target 0")
                parts += (
                    ["### By the number of known users: NDCG@10 of items that none of them has", cold] if cold else []
                )
            whole[table] = curves.get(None, [])
            if "all" in suite.known_users:
                parts += published_sections(suite, table, curves.get(None, []))
    parts += [*compare_splits(suite, whole), *_tuning(list(tuned))]
    path = folder / "results.md"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _describe_runs(lines: Sequence[dict], reference: str) -> list[str]:
    if not lines:
        return ["Nothing has been run yet."]
    machines = sorted({f"{line['hardware']['gpu'] or line['hardware']['processor']}" for line in lines})
    seeds = ", ".join(map(str, sorted({line["seed"] for line in lines} - {None})))
    return [
        f"Test split, whole catalogue, items of the history left out; epochs, weights and settings chosen on the "
        f"validation split. {f'Seeds {seeds}. ' if seeds else ''}In brackets 95 % intervals over users, who are "
        "drawn again 2,000 times; ± is the standard deviation over seeds. *Better* and *worse* than "
        f"{reference} need both the interval and p < 0.05 over users and over seeds, corrected for the number "
        "of rows (Benjamini and Hochberg).",
        "*Settings* is how many settings of hyper-parameters were tried on the validation split (`--tune N`: N of "
        f"every row, or all that it has); + {num_weights()} are weights and settings of transitions and popularity, "
        "which are added to other scores without another training. "
        "*Seconds* are those of a row: pretraining, search, training and evaluation; what several rows that need no "
        "training share, such as encoding, is in each that needs it. *GiB* is the most memory of the process, one for "
        "all rows that need no training.",
        f"{_describe_versions(lines)}; {', '.join(machines)}.",
    ]


def _describe_versions(lines: Sequence[dict]) -> str:
    """Returns the versions of packages, and says so if they are not the same for all lines."""
    counts: dict[str, int] = {}
    for line in lines:
        packages = line["versions"]
        used = [
            f"{name} {packages[name]}" for name in ("modeling_transrec", "torch", "transformers") if name in packages
        ]
        used += [f"commit {line['git_commit'][:12]}"] if line["git_commit"] else []
        counts[", ".join(used)] = counts.get(", ".join(used), 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    listed = "; ".join(f"{count:,} lines with {used}" for used, count in counts.items())
    return f"**The lines are of several versions**, and may differ for that: {listed}"


def _failed(failures: Sequence[dict]) -> str:
    if not failures:
        return ""
    listed = "\n".join(f"- {one['title']}: `{one['problem'][-1].replace('`', '')}`" for one in failures)
    return f"## Failed\n\nThe same command tries these again, and what needs them:\n\n{listed}"


def _sections(suite: Suite, rows: Sequence[Row], failures: Sequence[dict]) -> list[str]:
    protocol = rows[0].lines[0]["protocol"]
    size = f"{protocol['num_users']:,} users, {protocol['num_candidates']:,} items"
    ranking = "" if protocol["ranking"].startswith("full") else f", {protocol['ranking']}"
    about = f"{size}{ranking}, fingerprint `{protocol['fingerprint']}`."
    parts = [about, results_table(rows, suite.reference), _left_out(suite, rows, failures)]
    measured = rows[0].lines[0]["metrics"]  # of a few candidates there are no lists
    beyond = [
        name for name in METRICS if METRICS[name].needs_lists and name in suite.metrics and f"{name}@10" in measured
    ]
    if beyond:
        parts += ["### Beyond accuracy", beyond_accuracy(rows, beyond)]
    groups = group_table(rows)
    return [*parts, "### By group: NDCG@10", groups] if groups else parts


def _left_out(suite: Suite, rows: Sequence[Row], failures: Sequence[dict]) -> str:
    """Returns which rows of what needs no training a table lacks, and why."""
    there = {row.lines[0]["model"] for row in rows}
    if suite.baselines is None:
        failed = " ".join(one["problem"][-1] for one in failures)  # they stand in a section of their own
        return describe_left_out(there | {name for name in BASELINES if f"{name} failed" in failed})
    others = [name for name in BASELINES if name not in suite.baselines]
    said = [f"The suite leaves out {', '.join(others)}."] if others and suite.baselines else []
    without_times = [name for name in suite.baselines if name in TIMED_BASELINES and name not in there]
    failed = " ".join(one["problem"][-1] for one in failures)
    said += [
        f"Without {name}: the times of the interactions are not known."
        for name in without_times
        if f"{name} failed" not in failed
    ]
    return " ".join(said)


def results_table(rows: Sequence[Row], reference: str) -> str:
    """Returns the main table: metrics with intervals, and what each row is worth beside the reference."""
    named = [row for row in rows if row.lines[0]["model"] + row.lines[0]["scores"].removeprefix("own") == reference]
    base = max(named, key=lambda row: _num_settings(row.lines[0]), default=None)
    pairs = {row.name: _pair(row, base) for row in rows if row is not base} if base is not None else {}
    compared = {name: pair for name, pair in pairs.items() if pair is not None}
    shown = dict(zip(compared, map(_difference, compare(list(compared.values()))), strict=True))
    cells = [
        (
            row.name,
            str(estimate(row.values["hr"])),
            str(estimate(row.values["ndcg"])),
            shown.get(row.name, "reference" if row is base else "other histories" if base is not None else ""),
            row.budget,
            f"{row.seconds():,.0f}",
            f"{max(line['peak_memory_bytes'] for line in row.lines) / 2**30:.1f}",
        )
        for row in rows
    ]
    k = rows[0].k
    header = ("model", f"HR@{k}", f"NDCG@{k}", f"NDCG@{k} beside {reference}", "settings", "seconds", "GiB")
    return markdown_table(header, cells, aligned=True)


def _pair(row: Row, base: Row) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the values of two rows for the same seeds and users; `None` if they ranked after other histories."""
    prints, of_base = ({line["seed"]: line["protocol"]["fingerprint"] for line in one.lines} for one in (row, base))
    values, reference = row.values["ndcg"], base.values["ndcg"]
    if row.lines[0]["known_users"] is None:  # the same users with every seed
        if {*prints.values()} != {*of_base.values()}:
            return None
        if [None] in (row.seeds, base.seeds):
            return values, reference
    common = [seed for seed in row.seeds if seed in base.seeds]
    if any(prints[seed] != of_base[seed] for seed in common):
        return None
    if not common:
        return (values, reference.mean(axis=0, keepdims=True)) if row.lines[0]["known_users"] is None else None
    return values[[row.seeds.index(seed) for seed in common]], reference[[base.seeds.index(seed) for seed in common]]


def _difference(found: Difference) -> str:
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {found.in_words}"


def beyond_accuracy(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Returns the table of what is measured of lists, and a sentence on what has no interval."""
    names = [f"{name}@10" for name in metrics]
    cells = [(row.name, *(row.describe(name) for name in names)) for row in rows]
    table = markdown_table(("model", *(name.replace("_", " ") for name in names)), cells, aligned=True)
    of_users = [f"{name}@10" for name in metrics if METRICS[name].of_users is not None]
    said = []
    if "coverage" in metrics:
        said.append(
            "Coverage has no interval over users: it is of all lists together, and of users who are drawn again about "
            "a third is missing, whose lists would cover more."
        )
    if any(name not in row.of_lists for row in rows for name in of_users):
        said.append("Others without intervals are of a version that did not keep each user's values.")
    return "\n\n".join(filter(None, (table, " ".join(said))))


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
    cells = [(row.name, *(_of_group(row, name) for name in groups)) for row in rows]
    table = markdown_table(("model", *header), cells, aligned=True)
    if all(row.groups for row in rows):
        return table
    return f"{table}\n\nRows without intervals are of a version that did not keep which user is in which group."


def _of_group(row: Row, name: str) -> str:
    if not row.groups:
        return f"{np.mean([line['groups'][name]['ndcg@10'] for line in row.lines]):.4f}"
    return str(estimate(row.of_group(name))) if name in row.groups else ""


def learning_curve(curves: dict[int | None, list[Row]], group: str | None = None) -> str:
    """Returns NDCG@10 of each row by the number of known users.

    Args:
        curves: rows by number of known users; `None` stands for all.
        group: only the users of a group, such as those whose target no known user has; empty where no row knows them.
    """
    names = list(dict.fromkeys(row.name for rows in curves.values() for row in rows))
    found = {
        (users, row.name): str(estimate(row.values["ndcg"] if group is None else row.of_group(group)))
        for users, rows in curves.items()
        for row in rows
        if group is None or group in row.groups
    }
    if not found:
        return ""
    cells = [(name, *(found.get((users, name), "") for users in curves)) for name in names]
    header = ("all" if users is None else f"{users:,}" for users in curves)
    return markdown_table(("model", *header), cells, aligned=True)


def _tuning(tuned: Sequence[dict[str, Any]]) -> list[str]:
    if not tuned:
        return []
    cells = [
        (
            one["title"],
            str(one["num_trials"]),
            f"validation {one['metric']}" if "metric" in one else "an older version, which does not say by what",
            "" if one["untuned"] is None else f"{one['untuned']:.4f}",
            f"{one['value']:.4f}",
            f"`{json.dumps(one['options'])}`",
        )
        for one in tuned
    ]
    header = ("searched", "settings", "chosen by", "as it was", "tuned", "found")
    return [
        "## What tuning gains",
        "On the validation split, which chose: the highest of several numbers is too high by chance, and has no "
        "interval. Rows with their settings and intervals on the test split stand above.",
        markdown_table(header, cells, aligned=True),
    ]
