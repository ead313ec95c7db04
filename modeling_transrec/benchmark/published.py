"""Published numbers, with their sources and with what differs from the protocol of this library.

`published.json` has the numbers as their sources print them, one row of a table a line; [`load_published`] reads them
as fractions, one result for each data set. What a source does not print is not there; what was not written down of a
source or of its protocol is `null`, and the result says so. Data sets of one name may be different cuts of it:
[`PublishedResult.is_on`] says whether a result can be compared with those of this library.
"""

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


PUBLISHED_FILE = Path(__file__).with_name("published.json")
# Who ran the model: its authors, others who compare their own model with it, or a table of quoted numbers.
RUN_BY = ("authors", "third party", "quoted")
SETTINGS = ("IDRec", "NoPT", "HasPT", "zero-shot", "random")
UNITS = {"percent": 100, "fraction": 1}
# What a protocol says, and how it is named where the source does not state it.
PROTOCOL_FACTS = {
    "split": "the split",
    "candidates": "which items are candidates",
    "filtering": "which users and items were left out",
    "seen_items": "whether seen items are candidates",
    "history": "how long histories are",
}
METRIC_NAME = re.compile(r"(hr|ndcg|recall|precision|map|mrr)(@[1-9]\d{0,3})?")


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """
    A model's published numbers on one data set.

    Args:
        dataset: name of the data set, as this library has it where it has it.
        model: the model; in NineRec's tables the user encoder. This and what is below may be `None`: not written down.
        metrics: fractions, such as `{"hr@10": 0.1008}`.
        setting: `IDRec`, `NoPT`, `HasPT`, `zero-shot` or `random`.
        citation: the paper.
        url: where the numbers can be read.
        where: which table or file has them.
        run_by: `authors`, `third party` (a rerun by others) or `quoted` (copied from other papers by the source).
        protocol: the facts of [`PROTOCOL_FACTS`] in words.
        differences: sentences, what differs from the protocol of this library, and what is not known of it.
        same_targets: whether users, items and targets are those that this library makes; `None` where nobody compared.
        num_users: number of users, where they are the same.
        num_items: number of items, likewise.
        modality: `id`, `text`, `image` or several joined by `+`, where known.
        item_encoder: the pretrained model in the item encoder.
        training: `E2E` (end to end) or `TS` (two stages, frozen features), where the source says so.
        pretrained_on: source data sets.
        remarks: what else a reader must know.
    """

    dataset: str
    model: str | None
    metrics: dict[str, float]
    setting: str | None
    citation: str | None
    url: str | None
    where: str | None
    run_by: str | None
    protocol: dict[str, str | None]
    differences: tuple[str, ...]
    same_targets: bool | None = None
    num_users: int | None = None
    num_items: int | None = None
    modality: str | None = None
    item_encoder: str | None = None
    training: str | None = None
    pretrained_on: tuple[str, ...] = ()
    remarks: str | None = None

    @property
    def name(self) -> str:
        """The model with its item encoder, such as `SASRec × BERT`."""
        model = self.model or "model not recorded"
        return model if self.item_encoder is None else f"{model} × {self.item_encoder}"

    @property
    def source(self) -> str:
        """The paper and where in it the numbers are, in words."""
        return f"{self.citation or 'source not recorded'}; {self.where or 'place not recorded'}"

    @property
    def short_source(self) -> str:
        """The same for a column: the paper's number at arXiv or, without one, its first words."""
        citation = self.citation or "not recorded"
        return citation[citation.index("arXiv ") :] if "arXiv " in citation else citation.partition(",")[0]

    def is_on(self, protocol: Mapping[str, Any]) -> bool:
        """Returns whether the numbers rank the same targets among the same items as results of this library do.

        Args:
            protocol: of the results, as the evaluator describes it.

        Example:

        >>> best = best_published("Amazon_Beauty")
        >>> best.is_on({"ranking": "full: …", "num_users": 22_363, "num_candidates": 12_101})
        True
        >>> best.is_on({"ranking": "full: …", "num_users": 20_000, "num_candidates": 12_101})  # of another cut
        False
        """
        sizes = (protocol["num_users"], protocol["num_candidates"])
        is_full = protocol["ranking"].startswith("full")
        return self.same_targets is True and is_full and sizes == (self.num_users, self.num_items)

    def has(self, facts: Mapping[str, Any]) -> bool:
        """Returns whether all facts are those of the result; lists stand for tuples, as a file has them."""
        return all(
            getattr(self, name) == (tuple(value) if isinstance(value, list) else value)
            for name, value in facts.items()
        )


# Facts by which a suite finds the published numbers of a row.
NAMING_FACTS = ("model", "setting", "modality", "item_encoder", "training", "pretrained_on", "where")
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
    seen: set[str] = set()
    try:
        for number, table in enumerate(found["tables"], start=1):
            source, protocol = found["sources"][table["source"]], found["protocols"][table["protocol"]]
            place = f"{file}: table {number} ({source['citation']}; {table['where']})"
            _check_one_of("run_by", table["run_by"], (*RUN_BY, None), place)
            _check_one_of("unit", table["unit"], tuple(UNITS), place)
            shared = {**_read_source(source), "where": table["where"], "run_by": table["run_by"]}
            shared |= _read_protocol(protocol, place)
            for row in table["rows"]:
                for one in _read_row(row, table["datasets"], UNITS[table["unit"]], shared, place):
                    same = _sameness(protocol["same_targets"], one.dataset, found["data_sets"])
                    results.append(dataclasses.replace(one, **same))
                    key = str(dataclasses.replace(results[-1], metrics={}))
                    _check(key not in seen, place, f"row {one.name!r} stands there twice for {one.dataset}")
                    seen.add(key)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a file of published numbers: {error!r}; see published.json's form") from error
    return tuple(results)


def _read_source(source: Mapping[str, Any]) -> dict[str, Any]:
    arxiv = "" if source["arxiv"] is None else f", arXiv {source['arxiv']}"
    citation = None if source["citation"] is None else source["citation"] + arxiv
    return {"citation": citation, "url": source["url"]}


def _read_protocol(protocol: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Returns a protocol's facts and what differs; what is unknown becomes a sentence."""
    facts = {name: protocol[name] for name in PROTOCOL_FACTS}
    unknown = [words for name, words in PROTOCOL_FACTS.items() if facts[name] is None]
    differences = [*protocol["differences"], *([f"Not known: {', '.join(unknown)}"] if unknown else [])]
    _check(bool(differences), place, "the protocol names no difference")
    return {"protocol": facts, "differences": tuple(differences)}


def _sameness(same: Sequence[str] | bool | None, dataset: str, sizes: Mapping[str, dict[str, int]]) -> dict[str, Any]:
    """Returns whether a data set is cut as in this library: of a protocol the list of those that were compared."""
    if not isinstance(same, list):
        return {"same_targets": same}
    return {"same_targets": True, **sizes[dataset]} if dataset in same else {"same_targets": None}


def _read_row(
    row: dict[str, Any], datasets: Sequence[str], scale: int, shared: dict[str, Any], place: str
) -> list[PublishedResult]:
    """Returns a row's results, one for each data set that has a number."""
    place = f"{place}, row {row['model']!r}"
    _check_one_of("setting", row["setting"], (*SETTINGS, None), place)
    values = {name: column for name, column in row.items() if name not in _ROW_FIELDS}
    _check(bool(values), place, "there is no metric")
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


def _check_one_of(name: str, value: Any, choices: Sequence[str | None], place: str) -> None:
    words = ", ".join("null" if one is None else one for one in choices)
    _check(value in choices, place, f"{name} is one of {words}, not {value!r}")


def _check(holds: bool, place: str, problem: str) -> None:
    if not holds:
        raise ValueError(f"{place}: {problem}")


def published_results(dataset: str) -> tuple[PublishedResult, ...]:
    """Returns the published results on one data set; none for a data set that no source has.

    >>> {one.model for one in published_results("KU") if one.setting == "zero-shot"}
    {'SASRec'}
    """
    return tuple(one for one in load_published() if one.dataset == dataset)


def find_published(dataset: str, facts: Mapping[str, Any]) -> tuple[PublishedResult, ...]:
    """Returns the results on a data set that have all of some facts.

    >>> found = find_published("KU", {"model": "SASRec", "item_encoder": "Swin-B", "setting": "NoPT"})
    >>> [one.metrics["hr@10"] for one in found]
    [0.3308]
    """
    return tuple(one for one in published_results(dataset) if one.has(facts))


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
