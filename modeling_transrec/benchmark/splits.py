"""Says how much a split flatters: the same users and rows under a split by time, leave-one-out and a random one."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..hub.results import markdown_table
from .statistics import Difference, compare, estimate
from .suites import Suite


if TYPE_CHECKING:
    from .report import Row

# From the one that lets a model see nothing later than its targets to the one that lets it see most.
STRATEGIES = ("temporal", "leave_one_out", "random")
_OF_SPLIT = ("split_strategy", "validation_start", "test_start")
_WORDS = {"better": "flatters", "worse": "lower", "no difference shown": "no difference shown"}


def compare_splits(suite: Suite, rows: Mapping[str, Sequence["Row"]]) -> list[str]:
    """Returns sections that compare data sets of a suite which differ only in how they are split.

    Args:
        suite: names of each data set its options.
        rows: of each data set that has been run, with all its users known.
    """
    found: list[str] = []
    for datasets in _same_but_for_the_split(suite):
        pairs = itertools.combinations([name for name in datasets if rows.get(name)], 2)
        sections = [_section(*pair, rows) for pair in pairs if _place(suite, pair[0]) < _place(suite, pair[1])]
        found += ["## How much a split flatters", *sections] if sections and not found else sections
    return found


def _same_but_for_the_split(suite: Suite) -> Iterable[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in suite.datasets:
        options = {"dataset_config_name": name, **suite.data_of(name)}
        rest = {option: value for option, value in options.items() if option not in _OF_SPLIT}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(name)
    return (sorted(names, key=lambda name: _place(suite, name)) for names in groups.values())


def _place(suite: Suite, dataset: str) -> int:
    return STRATEGIES.index(suite.data_of(dataset).get("split_strategy") or "leave_one_out")


def _section(strict: str, loose: str, rows: Mapping[str, Sequence["Row"]]) -> str:
    """Returns a table of the rows of both data sets on the users that both test, and what it shows."""
    of_strict = {row.name: row for row in rows[strict]}
    names: list[str] = []
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    num_users = 0
    for row in rows[loose]:
        other = of_strict.get(row.name)
        seeds = [] if other is None else [seed for seed in row.seeds if seed in other.seeds]
        if other is None or row.users is None or other.users is None or not seeds:
            continue
        users, here, there = np.intersect1d(row.users, other.users, assume_unique=True, return_indices=True)
        if len(users):
            values, reference = _of_seeds(row, seeds)[:, here], _of_seeds(other, seeds)[:, there]
            names, pairs, num_users = [*names, row.name], [*pairs, (values, reference)], len(users)
    title = f"### {loose} beside {strict}"
    if not pairs:
        return f"{title}\n\nNo row of both tests the same users, or their lines are of a version that kept no users."
    shown = compare(pairs)
    cells = [
        (
            name,
            str(estimate(reference)),
            str(estimate(values)),
            f"{one.mean:+.4f} ({one.low:+.4f} to {one.high:+.4f})",
            _words(one),
        )
        for name, (values, reference), one in zip(names, pairs, shown, strict=True)
    ]
    header = ("model", f"NDCG@10, {strict}", f"NDCG@10, {loose}", "difference", f"{loose}")
    table = markdown_table(header, cells, aligned=True)
    return f"{title}\n\n{_summary(loose, num_users, names, pairs, shown)}\n\n{table}"


def _of_seeds(row: "Row", seeds: Sequence[int | None]) -> np.ndarray:
    return row.values["ndcg"][[row.seeds.index(seed) for seed in seeds]]


def _words(found: Difference) -> str:
    is_seen = round(found.mean, 4) != 0  # of a random ranking a few more candidates make a difference that is none
    return _WORDS[found.in_words if is_seen else "no difference shown"]


def _summary(
    loose: str,
    num_users: int,
    names: Sequence[str],
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    shown: Sequence[Difference],
) -> str:
    """Returns a sentence of what is shown, with how much more the flattered rows reach."""
    by_word: dict[str, list[str]] = {}
    for name, (_, reference), one in zip(names, pairs, shown, strict=True):
        before = float(reference.mean())
        word = _words(one)
        share = f" ({one.mean / before:+.0%})" if before > 0 and word != "no difference shown" else ""
        by_word.setdefault(word, []).append(f"{name}{share}")
    said = []
    if "flatters" in by_word:
        said.append(f"{loose} flatters {', '.join(by_word['flatters'])}")
    if "lower" in by_word:
        said.append(f"it is lower for {', '.join(by_word['lower'])}")
    if "no difference shown" in by_word:
        said.append(f"no difference is shown for {', '.join(by_word['no difference shown'])}")
    return f"On the {num_users:,} users that both test: {'; '.join(said)}."
