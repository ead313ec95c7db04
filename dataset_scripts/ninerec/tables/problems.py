"""What happens at a problem of a file: loading stops at the first error, and checking collects all problems.

Readers take `on_problem`: `RAISE`, or [`Problems`] to collect in. What is left out by rule is logged when loading.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl


logger = logging.getLogger(__name__)

SEVERITIES = {
    "error": "loading fails",
    "warning": "something is left out, counts as missing, or is probably wrong",
    "note": "good to know",
}


@dataclass
class Problem:
    """One kind of problem in one file or folder.

    Args:
        severity: one of `SEVERITIES`.
        path: the file or folder.
        what: what is wrong, what follows from it, or how to fix it.
        count: how often.
        examples: the first of them, each with `FILE:LINE` or the name of the file.
    """

    severity: str
    path: Path
    what: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Problems:
    """Collects problems, grouped, with a bounded number of examples of each.

    Args:
        max_examples: how many examples of a problem are kept: those of the first lines.

    Example:

    >>> problems = Problems(max_examples=1)
    >>> problems.add_lines("note", Path("X_pair.csv"), "strange rows", 1, [(7, "c,d")])
    >>> problems.add_lines("note", Path("X_pair.csv"), "strange rows", 1, [(3, "a,b")])
    >>> [(problem.count, problem.examples) for problem in problems.found()]
    [(2, ['X_pair.csv:3: a,b'])]
    """

    collects = True

    def __init__(self, max_examples: int = 5):
        self.max_examples = max_examples
        self._found: dict[tuple[str, Path, str], Problem] = {}
        self._lines: dict[tuple[str, Path, str], list[tuple[int, str]]] = {}

    def add(self, severity: str, path: Path, what: str, *examples: str, count: int | None = None) -> None:
        """Adds a problem of a file or folder; `count` is the number of examples where not given."""
        problem = self._found.setdefault((severity, path, what), Problem(severity, path, what))
        problem.count += len(examples) if count is None else count
        problem.examples += examples[: self.max_examples - len(problem.examples)]

    def add_lines(
        self, severity: str, path: Path, what: str, count: int, lines: Iterable[tuple[int, str]] = ()
    ) -> None:
        """Adds `count` lines of a text file, some of them with number and text; nothing where `count` is 0."""
        if count:
            self.add(severity, path, what, count=count)
            kept = self._lines.setdefault((severity, path, what), [])
            kept[:] = sorted([*kept, *lines], key=lambda line: line[0])[: self.max_examples]

    def add_rows(
        self,
        severity: str,
        path: Path,
        what: str,
        rows: pl.DataFrame,
        column: str,
        show: Callable[[str], str] | None = None,
    ) -> None:
        """Adds rows of a table that has their number as `line`, each with what is to be shown of a column."""
        first = rows.head(self.max_examples).select("line", column).rows()
        self.add_lines(severity, path, what, rows.height, [(line, (show or shown)(value)) for line, value in first])

    def error(self, path: Path, what: str, count: int, lines: Iterable[tuple[int, str]], message: str) -> None:
        """Adds lines at which loading stops.

        Args:
            path: the file.
            what: what is wrong with the lines, in the plural.
            count: of the lines; at least 1.
            lines: number and text of some of them.
            message: what is wrong with the first of them, and how to correct it.
        """
        self.add_lines("error", path, what, count, lines)

    def found(self) -> list[Problem]:
        """Returns the problems by severity, then in the order of discovery."""
        for key, lines in self._lines.items():
            self._found[key].examples = [f"{key[1].name}:{line}: {text}" for line, text in lines]
        order = list(SEVERITIES)
        return sorted(self._found.values(), key=lambda problem: order.index(problem.severity))


class _Raise(Problems):
    """Stops at the first error, and logs what is left out by rule."""

    collects = False

    def add_lines(
        self, severity: str, path: Path, what: str, count: int, lines: Iterable[tuple[int, str]] = ()
    ) -> None:
        if count:
            line, example = next(iter(lines))
            logger.warning("%s: %s %s (e.g. line %d: %s)", path.name, f"{count:,}", what, line, example)

    def error(self, path: Path, what: str, count: int, lines: Iterable[tuple[int, str]], message: str) -> None:
        line, _ = next(iter(lines))
        raise ValueError(f"{path}:{line}: {message}")


RAISE = _Raise()


def shown(text: str) -> str:
    """Returns a field as it is printed: on one line and not long."""
    quoted = repr(text[:80])
    return quoted if len(quoted) <= 80 else quoted[:77] + "…"


def warn(count: int, what: str, example: object) -> None:
    """Logs one defined outcome; nothing is logged where it did not occur."""
    if count:
        logger.warning("%s %s (e.g. %r)", f"{count:,}", what, example)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps what is left out from being logged within it."""
    package = logging.getLogger("modeling_transrec.ninerec")
    level = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(level)
