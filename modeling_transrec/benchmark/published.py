"""Published numbers, with their sources and with what differs from the protocol of this library.

`published.json` has the numbers as their sources print them, one row of a table a line; [`load_published`] reads them
as fractions, one result for each data set. What a source does not print is not there.
"""

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


PUBLISHED_FILE = Path(__file__).with_name("published.json")
# Who ran the model: its authors, others who compare their own model with it, or a table of quoted numbers.
RUN_BY = ("authors", "third party", "quoted")
SETTINGS = ("IDRec", "NoPT", "HasPT", "zero-shot", "random")
UNITS = {"percent": 100, "fraction": 1}
METRIC_NAME = re.compile(r"(hr|ndcg|recall|precision|map|mrr)(@[1-9]\d{0,3})?")


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """
    A model's published numbers on one data set.

    Args:
        dataset: name of the data set, as this library has it where it has it.
        model: the model; in NineRec's tables the user encoder.
        metrics: fractions, such as `{"hr@10": 0.1008}`.
        setting: `IDRec`, `NoPT`, `HasPT`, `zero-shot` or `random`.
        citation: the paper.
        url: where the numbers can be read.
        where: which table or file has them.
        run_by: `authors`, `third party` (a rerun by others) or `quoted` (copied from other papers by the source).
        differences: sentences, what differs from the protocol of this library.
        same_targets: whether users, items and targets are those that this library makes; `None` where nobody compared.
        modality: `id`, `text`, `image` or several joined by `+`, where known.
        item_encoder: the pretrained model in the item encoder.
        training: `E2E` (end to end) or `TS` (two stages, frozen features), where the source says so.
        pretrained_on: source data sets.
        remarks: what else a reader must know.
    """

    dataset: str
    model: str
    metrics: dict[str, float]
    setting: str
    citation: str
    url: str
    where: str
    run_by: str
    differences: tuple[str, ...]
    same_targets: bool | None = None
    modality: str | None = None
    item_encoder: str | None = None
    training: str | None = None
    pretrained_on: tuple[str, ...] = ()
    remarks: str | None = None

    @property
    def name(self) -> str:
        """The model with its item encoder, such as `SASRec × BERT`."""
        return self.model if self.item_encoder is None else f"{self.model} × {self.item_encoder}"


_ROW_FIELDS = ("model", "setting", "modality", "item_encoder", "training", "pretrained_on", "remarks")


@functools.cache
def load_published(file: str | os.PathLike = PUBLISHED_FILE) -> tuple[PublishedResult, ...]:
    """Reads published numbers.

    Args:
        file: a JSON file in the form of `published.json`; by default the one that comes with the package.

    Raises:
        ValueError: naming the file and the row, if one is malformed.

    Example:

    >>> best = max(load_published(), key=lambda one: (one.dataset == "Amazon_Beauty", one.metrics.get("hr@10", 0)))
    >>> best.name, best.metrics["hr@10"], best.run_by
    ('BSARec', 0.1008, 'authors')
    """
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    results: list[PublishedResult] = []
    try:
        for number, table in enumerate(found["tables"], start=1):
            source, protocol = found["sources"][table["source"]], found["protocols"][table["protocol"]]
            place = f"{file}: table {number} ({source['citation']}; {table['where']})"
            _check(table["run_by"] in RUN_BY, place, f"run_by is one of {', '.join(RUN_BY)}, not {table['run_by']!r}")
            _check(table["unit"] in UNITS, place, f"unit is one of {', '.join(UNITS)}, not {table['unit']!r}")
            _check(bool(protocol["differences"]), place, "the protocol names no difference")
            shared = {
                "citation": f"{source['citation']}, arXiv {source['arxiv']}",
                "url": source["url"],
                "where": table["where"],
                "run_by": table["run_by"],
                "differences": tuple(protocol["differences"]),
                "same_targets": protocol["same_targets"],
            }
            for row in table["rows"]:
                results += _read_row(row, table["datasets"], UNITS[table["unit"]], shared, place)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a file of published numbers: {error!r}; see published.json's form") from error
    return tuple(results)


def _read_row(
    row: dict[str, Any], datasets: Sequence[str], scale: int, shared: dict[str, Any], place: str
) -> list[PublishedResult]:
    """Returns a row's results, one for each data set that has a number."""
    place = f"{place}, row {row['model']!r}"
    _check(row["setting"] in SETTINGS, place, f"setting is one of {', '.join(SETTINGS)}, not {row['setting']!r}")
    values = {name: column for name, column in row.items() if name not in _ROW_FIELDS}
    unknown = [name for name in values if METRIC_NAME.fullmatch(name) is None]
    _check(not unknown, place, f"{', '.join(unknown)} is neither a field nor a metric")
    for name, column in values.items():
        _check(len(column) == len(datasets), place, f"{name} has {len(column)} numbers for {len(datasets)} data sets")
    facts = {name: row[name] for name in _ROW_FIELDS if name in row}
    facts["pretrained_on"] = tuple(facts.get("pretrained_on", ()))
    results = []
    for number, dataset in enumerate(datasets):
        metrics = {
            name: round(column[number] / scale, 6) for name, column in values.items() if column[number] is not None
        }
        for name, value in metrics.items():
            _check(math.isfinite(value) and 0 <= value <= 1, place, f"{name} on {dataset} is {value}, not a fraction")
        if metrics:
            results.append(PublishedResult(dataset=dataset, metrics=metrics, **facts, **shared))
    return results


def _check(holds: bool, place: str, problem: str) -> None:
    if not holds:
        raise ValueError(f"{place}: {problem}")


def published_results(dataset: str) -> tuple[PublishedResult, ...]:
    """Returns the published results on one data set; none for a data set that no source has.

    >>> {one.model for one in published_results("KU") if one.setting == "zero-shot"}
    {'SASRec'}
    """
    return tuple(one for one in load_published() if one.dataset == dataset)


def best_published(
    dataset: str, metric: str = "hr@10", modality: str | None = None, same_targets: bool = False
) -> PublishedResult | None:
    """Returns the published result that is highest in a metric.

    Args:
        dataset: name of the data set.
        metric: the metric.
        modality: only results of this modality.
        same_targets: only results whose users, items and targets are known to be those of this library.

    Returns:
        The result, or `None` where no source has the metric.

    Example:

    >>> best_published("Amazon_Sports", "ndcg@10").name
    'ICSRec, SASRec'
    """
    results = [
        one
        for one in published_results(dataset)
        if metric in one.metrics
        and (modality is None or one.modality == modality)
        and (one.same_targets is True or not same_targets)
    ]
    return max(results, key=lambda one: one.metrics[metric], default=None)
