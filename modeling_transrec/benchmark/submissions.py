"""Checks files of results before they are shown to others: lines of JSON that anybody may send.

A file is refused for what it says (a hit rate of 1.7), for what it would do on a page (characters that cannot be seen,
addresses that are no web pages), for what it would tell about its sender (folders of a machine), and for its size.
"""

import datetime
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


SCHEMA = 1  # of the lines that this version reads
KINDS = ("baseline", "trained", "pretrained", "zero-shot", "external")
MAX_FILE_BYTES, MAX_LINES, MAX_LINE_BYTES = 20_000_000, 10_000, 64_000
MAX_DEPTH, MAX_TEXT, MAX_NUMBER = 8, 4_000, 1e15
MAX_SAID = 50  # problems
FRACTIONS = ("hr", "ndcg", "mrr", "recall", "precision", "map", "coverage")  # metrics between 0 and 1
_METRIC = re.compile(r"(?P<name>[a-z][a-z_]{0,39})(@(?P<k>[1-9]\d{0,4}))?")
_LOCAL_PATH = re.compile(r"(?:^|[\s'\"=:,(\[])(?:/\w|~[\w-]*/|[A-Za-z]:[\\/](?!/)|\\\\\w|file:/)")
_WEB_ADDRESS = re.compile(r"https://[\w.-]+(:\d+)?(/[^\s<>\"'\\]*)?")


class _Invalid(ValueError):
    """What is wrong with one value."""


@dataclass(frozen=True)
class Text:
    """A text of one line."""

    max_length: int = 200
    pattern: re.Pattern = field(default=re.compile(r".+", re.DOTALL))
    form: str = "a text"

    def check(self, value: Any) -> None:
        if not isinstance(value, str) or not self.pattern.fullmatch(value):
            raise _Invalid(f"must be {self.form}, not {_shown(value)}")
        if len(value) > self.max_length:
            raise _Invalid(f"has {len(value)} characters, more than {self.max_length}")


@dataclass(frozen=True)
class Number:
    """A number within bounds; whole, if asked."""

    low: float = 0
    high: float = MAX_NUMBER
    whole: bool = False

    def check(self, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            raise _Invalid(f"must be a {'whole ' if self.whole else ''}number, not {_shown(value)}")
        if not self.low <= value <= self.high:
            raise _Invalid(f"is {_shown(value)}, not between {self.low:g} and {self.high:g}")


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple

    def check(self, value: Any) -> None:
        if isinstance(value, bool) or value not in self.values:
            raise _Invalid(f"must be one of {', '.join(map(str, self.values))}, not {_shown(value)}")


@dataclass(frozen=True)
class Values:
    """A list, or an object if `keys` has a rule for its names."""

    rule: Any
    keys: Text | None = None
    max_length: int = 200
    min_length: int = 0

    def check(self, value: Any) -> None:
        kind = list if self.keys is None else dict
        if not isinstance(value, kind):
            raise _Invalid(f"must be {'a list' if kind is list else 'an object'}, not {_shown(value)}")
        if not self.min_length <= len(value) <= self.max_length:
            raise _Invalid(f"has {len(value)} entries, not {self.min_length} to {self.max_length}")
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            try:
                if self.keys is not None:
                    self.keys.check(name)
                self.rule.check(one)
            except _Invalid as problem:
                raise _Invalid(f"{_shown(name)} {problem}") from problem


@dataclass(frozen=True)
class Optional:
    """A value that may be `null`."""

    rule: Any

    def check(self, value: Any) -> None:
        if value is not None:
            self.rule.check(value)


class Anything:
    """Any value, within the bounds of all values."""

    def check(self, value: Any) -> None:
        pass


class Time:
    """A time in ISO's form."""

    def check(self, value: Any) -> None:
        try:
            valid = isinstance(value, str) and 2020 <= datetime.datetime.fromisoformat(value).year <= 2100
        except ValueError:
            valid = False
        if not valid:
            raise _Invalid(f"must be a time such as 2026-01-31T12:00:00+00:00, not {_shown(value)}")


_NAME, _WORD, _COUNT = Text(100), Text(40), Number(whole=True)
_ADDRESS = Text(500, _WEB_ADDRESS, "an address that starts with https://")
_HEX = Text(64, re.compile(r"[0-9a-f]{8,64}"), "8 to 64 hexadecimal digits")
_NAME_OF_METRIC = Text(50, _METRIC, "a metric such as hr@10")
_ENDS = Values(Number(low=-MAX_NUMBER), min_length=2, max_length=2)
FIELDS: dict[str, Any] = {
    "schema": Choice((SCHEMA,)),
    "id": _HEX,
    "suite": _NAME,
    "dataset_name": _NAME,
    "dataset": _NAME,
    "split": Choice(("test", "validation")),
    "model": _NAME,
    "kind": Choice(KINDS),
    "modality": Optional(_WORD),
    "scores": _NAME,
    "seed": Optional(_COUNT),
    "sources": Values(_NAME, max_length=50),
    "options": Values(Anything(), _NAME),
    "num_trials": _COUNT,
    "metrics": Values(Number(low=-MAX_NUMBER), _NAME_OF_METRIC, min_length=1),
    "protocol": Values(Anything(), _NAME),
    "versions": Values(_NAME, _NAME),
    "git_commit": Optional(Text(64, re.compile(r"[0-9a-f]{7,63}\+?"), "a commit's hash")),
    "hardware": Values(Optional(Anything()), _WORD, max_length=20),
    "started": Time(),
    "seconds": Values(Optional(Number(high=1e9)), _WORD, max_length=20),
    "peak_memory_bytes": Optional(_COUNT),
    "energy_joules": Optional(Number()),
    "num_parameters": Optional(_COUNT),
    "num_trained_parameters": Optional(_COUNT),
    "command": Text(MAX_TEXT),
    "card": Optional(_ADDRESS),
}
OPTIONAL_FIELDS: dict[str, Any] = {
    "known_users": Optional(_COUNT),
    "groups": Values(Anything(), _NAME),
    "intervals": Values(_ENDS, _NAME_OF_METRIC),
}
PROTOCOL_FIELDS: dict[str, Any] = {
    "fingerprint": Text(16, re.compile(r"[0-9a-f]{16}"), "16 hexadecimal digits, as the evaluator writes it"),
    "num_users": Number(1, 1e10, whole=True),
    "num_candidates": Number(1, 1e10, whole=True),
    "ranking": _NAME,
    "seen_items": _NAME,
    "ties": _NAME,
    "max_seq_len": Number(1, 1e6, whole=True),
}


def read_results(file: str | os.PathLike) -> tuple[list[dict], list[str]]:
    """Reads lines of results that may be a stranger's.

    Args:
        file: a file of JSON lines.

    Returns:
        The lines that hold, and a sentence for each problem, with file, line and field.
    """
    path = Path(file)
    if not path.is_file():
        return [], [f"{path} is not a file; `transrec benchmark` writes results.jsonl"]
    if path.stat().st_size > MAX_FILE_BYTES:
        return [], [f"{path} has {path.stat().st_size:,} bytes, more than {MAX_FILE_BYTES:,}; send it in parts"]
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        return [], [f"{path} is not UTF-8: {error.reason} at byte {error.start}"]
    if len(lines) > MAX_LINES + 1:
        return [], [f"{path} has more than {MAX_LINES:,} lines; send it in parts"]
    results, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            value, found = _parse(line)
            found = found or check_result(value)
            problems += [f"{path}:{number}: {problem}" for problem in found]
            results += [] if found else [value]
    if not results and not problems:
        problems = [f"{path} has no results"]
    return results, problems


def _parse(line: str) -> tuple[Any, list[str]]:
    if len(line.encode()) > MAX_LINE_BYTES:
        return None, [f"has {len(line.encode()):,} bytes, more than {MAX_LINE_BYTES:,}"]
    try:
        return json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_unique), []
    except (ValueError, RecursionError) as error:
        return None, [f"is not JSON: {error}"]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return dict(pairs)


def check_result(result: Any) -> list[str]:
    """Returns what is wrong with one line of results, a sentence for each problem.

    >>> check_result({"schema": 1})[0]
    'id is missing'
    """
    if not isinstance(result, dict):
        return [f"must be an object, not {_shown(result)}"]
    problems = [f"{name} is missing" for name in FIELDS if name not in result]
    problems += _check_fields(result, {**FIELDS, **OPTIONAL_FIELDS})
    problems += [f"{place}: {problem}" for place, value in _walk(result) for problem in _check_value(value)]
    if problems:
        return problems
    protocol = result["protocol"]
    problems = [f"protocol.{name} is missing" for name in PROTOCOL_FIELDS if name not in protocol]
    problems += _check_fields(protocol, PROTOCOL_FIELDS, "protocol.")
    problems += _check_intervals(result.get("intervals", {}), result["metrics"])
    return problems + _check_metrics(result["metrics"])


def _check_fields(values: Mapping[str, Any], rules: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, rule in rules.items():
        if name in values:
            try:
                rule.check(values[name])
            except _Invalid as problem:
                yield f"{prefix}{name} {problem}"


def _check_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Checks that fractions are fractions, and that they fit each other."""
    problems: list[str] = []
    by_name: dict[str, dict[int, float]] = {}
    for key, value in metrics.items():
        match = _METRIC.fullmatch(key)
        name = match["name"] if match else key
        if name in FRACTIONS and not 0 <= value <= 1:
            problems.append(f"metrics {key} is {_shown(value)}, not between 0 and 1")
        if match and match["k"]:
            by_name.setdefault(name, {})[int(match["k"])] = value
    for k, value in by_name.get("ndcg", {}).items():
        if value > by_name.get("hr", {}).get(k, math.inf) + 1e-6:
            problems.append(f"metrics ndcg@{k} is higher than hr@{k}, which cannot be with one target a user")
    for name in ("hr", "ndcg"):
        values = [value for _, value in sorted(by_name.get(name, {}).items())]
        if any(after < before - 1e-6 for before, after in zip(values, values[1:], strict=False)):
            problems.append(f"metrics {name}@k falls with k, which cannot be")
    return problems


def _check_intervals(intervals: Mapping[str, Sequence[float]], metrics: Mapping[str, float]) -> list[str]:
    problems = [f"intervals {name} is of no metric of the line" for name in intervals if name not in metrics]
    for name, (low, high) in intervals.items():
        if low > high:
            problems.append(f"intervals {name} ends at {_shown(high)} before it begins, at {_shown(low)}")
        elif name.partition("@")[0] in FRACTIONS and not 0 <= low <= high <= 1:
            problems.append(f"intervals {name} is {_shown(low)} to {_shown(high)}, not between 0 and 1")
    return problems


def _walk(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields every name and value of a line with its place."""
    if depth > MAX_DEPTH:
        yield place, _Invalid(f"lies deeper than {MAX_DEPTH} levels")
        return
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
        yield from ((f"{place}.{_shown(name)}".lstrip("."), name) for name in value)
    elif isinstance(value, list):
        inside = enumerate(value)
    else:
        yield place, value
    for name, one in inside:
        yield from _walk(one, f"{place}.{_shown(name)}".lstrip(".")[:100], depth + 1)


def _check_value(value: Any) -> Iterator[str]:
    if isinstance(value, _Invalid):
        yield str(value)
    elif isinstance(value, str):
        if len(value) > MAX_TEXT:
            yield f"has {len(value)} characters, more than {MAX_TEXT}"
        elif any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for character in value):
            yield "has characters that cannot be seen; leave them out"
        elif _LOCAL_PATH.search(value):
            yield f"names a folder or file of a machine, {_shown(value)}; write it without the folder"
    elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        yield f"is {_shown(value)}, a number beyond {MAX_NUMBER:g}"


def _shown(value: Any) -> str:
    """Returns a value as a short text without characters that a terminal would obey."""
    if isinstance(value, int) and value.bit_length() > 100:  # decimal digits of a long one take long
        return "a very large number"
    text = ascii(value) if not isinstance(value, str) else ascii(value)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_files(files: Sequence[str | os.PathLike], say: Callable[[str], None] = print) -> list[dict]:
    """Reads files of results, and says every problem.

    Args:
        files: of JSON lines.
        say: gets a sentence for each problem.

    Returns:
        All results, if there is no problem.

    Raises:
        ValueError: if there is one.
    """
    results, problems = [], []
    for file in files:
        found, wrong = read_results(file)
        results += found
        problems += wrong
    if not problems:
        return results
    for problem in problems[:MAX_SAID]:
        say(problem)
    if len(problems) > MAX_SAID:
        say(f"… and {len(problems) - MAX_SAID:,} more")
    raise ValueError(f"problems found in files of results: {len(problems):,}")
