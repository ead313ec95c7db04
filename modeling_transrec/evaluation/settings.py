"""Says which settings of what needs no training are tried on the validation split: a grid, or so many as one asks."""

import itertools
from typing import Any

import numpy as np

from .weighing import CONTENT_SETTINGS, POPULARITY_WEIGHTS, TRANSITION_SETTINGS, TRANSITION_WEIGHTS


Settings = tuple[dict[str, Any], ...]
# What is tried by default; the first is taken where there is no validation split.
GRIDS: dict[str, Settings] = {
    "recent-popularity": tuple({"latest_share": share} for share in (0.1, 0.03, 0.3)),  # of all interactions
    "transitions": TRANSITION_SETTINGS,
    "item-knn": tuple({"num_neighbours": k, "tf_idf": tf_idf} for k in (100, 20, 500) for tf_idf in (True, False)),
    "session-knn": tuple({"num_neighbours": k} for k in (100, 20, 500)),
    "ease": tuple({"regularization": value} for value in (100.0, 1.0, 10.0, 50.0, 500.0)),
    "slim": tuple({"alpha": value} for value in (0.0001, 0.00003, 0.0003, 0.001)),
    "content-knn": CONTENT_SETTINGS,
    "content-and-transitions": CONTENT_SETTINGS,
}
# What more is drawn from where more settings are asked for.
_CONTENT = {"power": (0.0, 0.25, 0.5, 0.75, 1.0), "history_decay": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
SPACES: dict[str, dict[str, tuple]] = {
    "recent-popularity": {"latest_share": (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)},
    "transitions": {
        "power": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        "history_decay": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    },
    "item-knn": {"num_neighbours": (5, 10, 20, 50, 100, 200, 500, 1000), "tf_idf": (True, False)},
    "session-knn": {"num_neighbours": (5, 10, 20, 50, 100, 200, 500, 1000, 2000)},
    "ease": {"regularization": (1.0, 3.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 2000.0, 5000.0)},
    "slim": {"alpha": (0.00001, 0.00003, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.003)},
    "content-knn": _CONTENT,
    "content-and-transitions": _CONTENT,
}
# Rows that add transitions and popularity to other scores, with the weights that models with transitions have, too.
WEIGHED = ("content-and-transitions",)


def settings_of(name: str, count: int | None = None) -> Settings:
    """Returns the settings of a baseline that are tried; one without any where it has none.

    Args:
        name: of the baseline.
        count: at most so many: those of the grid, then others of its space in a random order, the same every time; by
            default the grid.

    Example:

    >>> settings_of("session-knn", count=2)
    ({'num_neighbours': 100}, {'num_neighbours': 20})
    >>> [len(settings_of("session-knn", count)) for count in (None, 8, 100)], len(settings_of("popularity", 20))
    ([3, 8, 9], 1)
    """
    grid = GRIDS.get(name, ({},))
    if count is None:
        return grid
    space = SPACES.get(name, {})
    others = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    others = [one for one in others if one not in grid] if space else []
    order = np.random.default_rng(0).permutation(len(others))
    return (*grid, *(others[place] for place in order))[:count]


def num_weights() -> int:
    """Returns how many settings and weights of transitions and popularity are tried beside any scores."""
    without_none = len(TRANSITION_WEIGHTS) - 1  # without transitions their settings do nothing
    return 1 + without_none * len(TRANSITION_SETTINGS) + len(POPULARITY_WEIGHTS)
