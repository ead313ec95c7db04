"""What is wrong with a data set's files, grouped, with a bounded number of examples."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


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
        examples: the first of them, each with `FILE:LINE` or the name of the picture.
    """

    severity: str
    path: Path
    what: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Problems:
    """Collects problems; those of one kind become one [`Problem`].

    >>> problems = Problems(max_examples=1)
    >>> problems.add("note", Path("X_pair.csv"), "strange rows", "X_pair.csv:3: a,b")
    >>> problems.add("note", Path("X_pair.csv"), "strange rows", "X_pair.csv:7: c,d")
    >>> [(problem.count, problem.examples) for problem in problems.found()]
    [(2, ['X_pair.csv:3: a,b'])]
    """

    def __init__(self, max_examples: int = 5):
        self.max_examples = max_examples
        self._found: dict[tuple[str, Path, str], Problem] = {}

    def add(self, severity: str, path: Path, what: str, *examples: str, count: int | None = None) -> None:
        """`count` is the number of examples where not given."""
        problem = self._found.setdefault((severity, path, what), Problem(severity, path, what))
        problem.count += len(examples) if count is None else count
        problem.examples += examples[: self.max_examples - len(problem.examples)]

    def add_lines(
        self, severity: str, path: Path, what: str, count: int, lines: Iterable[tuple[int, str]] = ()
    ) -> None:
        """`count` lines of a text file, some of them with their numbers; nothing where `count` is 0."""
        if count:
            self.add(severity, path, what, *(f"{path.name}:{line}: {text}" for line, text in lines), count=count)

    def found(self) -> list[Problem]:
        """By severity, then in the order of discovery."""
        order = list(SEVERITIES)
        return sorted(self._found.values(), key=lambda problem: order.index(problem.severity))
