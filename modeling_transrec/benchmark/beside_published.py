"""Tables of a suite's models beside what others have published.

A published number stands beside the suite's own models only where it ranks the same targets among the same items, or
where the suite names it as that of a model. What is known of other cuts of the data stands apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..hub.results import markdown_table
from .published import PublishedResult, find_published, published_results
from .statistics import estimate
from .suites import Suite


if TYPE_CHECKING:
    from .report import Row

_METRICS = ("hr@10", "ndcg@10")
_BASELINES = {"random": {"setting": "random"}}  # what finds the published numbers of rows that need no training
_HEADER = ("model", "HR@10", "NDCG@10", "published HR@10", "published NDCG@10", "source", "what differs")


def published_sections(suite: Suite, dataset: str, rows: Sequence["Row"]) -> list[str]:
    """Returns the published numbers of a data set, and the suite's models, whose cells are empty until they are run.

    Args:
        suite: what is compared.
        dataset: name of the table.
        rows: the suite's results on it.
    """
    found = published_results(dataset)
    models = {name: row.get("published") for name, row in suite.models.items() if _is_for(row, dataset, suite)}
    models |= {name: facts for name, facts in _BASELINES.items() if find_published(dataset, facts)}
    of_model = {name: find_published(dataset, facts) for name, facts in models.items() if facts is not None}
    named = [one for ones in of_model.values() for one in ones]
    protocols = [row.lines[0]["protocol"] for row in rows]
    others = [one for one in found if one not in named]
    same = [one for one in others if one.same_targets and all(one.is_on(protocol) for protocol in protocols)]
    parts = []
    if named or same:
        cells = _own_lines(models, of_model, rows)
        cells += [(_title(one), "", "", *_numbers(one), _source(one), _differences(one)) for one in _best_first(same)]
        parts += [f"### {dataset}: beside what others have published", markdown_table(_HEADER, cells, aligned=True)]
    if apart := [one for one in others if one not in same]:
        parts += [
            f"### {dataset}: published on other cuts, or on cuts that nobody has compared",
            "For information: these numbers are not to be compared with those above.",
            _apart_table(apart),
        ]
    return parts


def _own_lines(
    models: Iterable[str], of_model: Mapping[str, Sequence], rows: Sequence["Row"]
) -> list[tuple[str, ...]]:
    """Returns the lines of the suite's models, with the published numbers that are theirs."""
    of_many = [row for row in rows if row.k == 10]
    run = [row for row in of_many if row.lines[0]["kind"] != "baseline" or row.name in of_model]
    lines = []
    for row in run:
        theirs = of_model.get(row.lines[0]["model"], ()) if row.lines[0]["scores"] == "own" else ()
        own = [str(estimate(row.values[metric.removesuffix("@10")])) for metric in _METRICS]
        lines += _lines(row.name, own, "this suite", theirs)
    there = {row.lines[0]["model"] for row in run}
    for name in models:
        if name not in there:
            lines += _lines(name, ["", ""], "this suite, not run yet", of_model.get(name, ()))
    return lines


def _apart_table(results: Iterable[PublishedResult]) -> str:
    lines = [
        (
            _title(one),
            *_numbers(one),
            _source(one),
            "not compared" if one.same_targets is None else "no",  # also where the suite has another cut
            _differences(one),
        )
        for one in _best_first(results)
    ]
    return markdown_table(("model", *_HEADER[3:6], "same users and targets", _HEADER[6]), lines, aligned=True)


def _is_for(row: Mapping[str, Any], dataset: str, suite: Suite) -> bool:
    return dataset in row.get("datasets", suite.datasets)


def _lines(name: str, own: list[str], source: str, theirs: Sequence[PublishedResult]) -> list[tuple[str, ...]]:
    """Returns a line of a model's own numbers beside each of the published ones."""
    beside = [(*_numbers(one), _source(one), _differences(one)) for one in theirs]
    return [(name, *own, *one) for one in beside or [("", "", source, "")]]


def _best_first(results: Iterable[PublishedResult]) -> list[PublishedResult]:
    return sorted(results, key=lambda one: -one.metrics.get("ndcg@10", 0.0))


def _title(one: PublishedResult) -> str:
    return ", ".join(filter(None, (one.name, one.setting)))


def _numbers(one: PublishedResult) -> list[str]:
    return [f"{one.metrics[metric]:.4f}" if metric in one.metrics else "" for metric in _METRICS]


def _source(one: PublishedResult) -> str:
    if one.citation is None:
        place = "source not recorded"
    else:
        place = one.where or f"{one.short_source}, place not recorded"
    run_by = "who ran it is not recorded" if one.run_by is None else one.run_by
    return f"{place if one.url is None else f'[{place}]({one.url})'}, {run_by}"


def _differences(one: PublishedResult) -> str:
    sentences = [*one.differences, *([one.remarks] if one.remarks else [])]
    return " ".join(f"{sentence.rstrip('.')}." for sentence in sentences)
