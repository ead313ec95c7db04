"""Lets several processes of one run agree about what one of them found out, and what all were given."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object


Found = TypeVar("Found")


def of_main_process(find: Callable[[], Found]) -> Found:
    """Returns what the main process finds, on every process; an error of it is raised on every one, too."""
    state = PartialState()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = find()
        except (OSError, ValueError) as error:
            if state.num_processes == 1:
                raise
            outcome[1] = error
    if state.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def check_same_on_all(facts: Mapping[str, Any], what: str) -> None:
    """Raises `ValueError` on every process if they were given different things.

    Args:
        facts: options, and hashes of data, by their names.
        what: is begun with them, such as `"training"`.
    """
    if PartialState().num_processes == 1:
        return
    of_ranks = gather_object([dict(facts)])
    differing = {}
    for rank, others in enumerate(of_ranks):
        names = [name for name in {**of_ranks[0], **others} if of_ranks[0].get(name) != others.get(name)]
        if names:
            differing[rank] = ", ".join(names)
    if differing:
        listed = "; ".join(f"process {rank}: {names}" for rank, names in differing.items())
        raise ValueError(
            f"the processes of this {what} were given different things, and it is not begun. Other than on process 0 "
            f"are, on {listed}. Start all of them with the same command, data and files"
        )
