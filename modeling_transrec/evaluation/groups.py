"""Divides users into groups by what is known of their targets and histories."""

import numpy as np


GROUP_BOUNDS = (0, 1, 5, 10, 20, 50)  # of training interactions with the target, and of items in the history


def groups_of_users(target_counts: np.ndarray, history_lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Returns which users are in each group `(N,)`: of targets of like popularity, and of histories of like length.

    Args:
        target_counts: `(N,)` training interactions with each user's target.
        history_lengths: `(N,)` items of each user's history.

    Example:

    >>> {name: users.tolist() for name, users in groups_of_users(np.array([0, 60]), np.array([3, 4])).items()}
    {'target 0': [True, False], 'target 50+': [False, True], 'history 1-4': [True, True]}
    """
    found = {}
    for name, values in (("target", target_counts), ("history", history_lengths)):
        for low, high in zip(GROUP_BOUNDS, [*GROUP_BOUNDS[1:], None], strict=True):
            chosen = (values >= low) & (True if high is None else values < high)
            if chosen.any():
                label = str(low) if high == low + 1 else f"{low}+" if high is None else f"{low}-{high - 1}"
                found[f"{name} {label}"] = chosen
    return found
