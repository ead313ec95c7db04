"""How much of the future a split lets a model see: the leakage of leave-one-out, and of a random split.

A split by time (`split_strategy="temporal"`) has none, by definition (Ji et al., "A Critical Study on Data Leakage in
Recommender System Offline Evaluation", TOIS 2023).

Shapes: `N` interactions, `T` targets, `U` users.
"""

import numpy as np

from .sequences import Sequences, leave_one_out


def leakage(sequences: Sequences) -> dict[str, dict[str, float]]:
    """Returns what splits of these interactions let a model see of the time after its targets.

    Args:
        sequences: with timestamps, at least 3 interactions a user.

    Returns:
        Of `leave_one_out` (each user's last interaction is the target, all but the last two train) and of `random`
        (one interaction a user is drawn, all others train; expected values): the number of `targets`, and

        - `before_training`: share of targets that are earlier than a training interaction of another user;
        - `later_training`: share of the other users' training interactions that are later, mean over targets;
        - `before_history`: share of targets that are earlier than the last item of their own history;
        - `with_history`: share of targets that have the time of that item, so that their order is none.

    Raises:
        ValueError: if there are no timestamps or other users, or a user has fewer than 3 interactions.

    Example:

    >>> import pyarrow as pa
    >>> times = np.array([1, 2, 3, 4, 5, 6])
    >>> sequences = Sequences(pa.array(["u", "v"]), np.array([0, 3, 6]), np.zeros(6, int), times, pa.array(["a"]))
    >>> leakage(sequences)["leave_one_out"]["later_training"], leakage(sequences)["random"]["before_history"]
    (0.5, 0.667)
    """
    timestamps = sequences.timestamps
    if timestamps is None:
        raise ValueError("leakage is a matter of time, and the interactions have no timestamps")
    if len(sequences) < 2:
        raise ValueError(
            f"leakage is a matter of other users, and there are {len(sequences)} users; lower min_actions"
        )
    splits = leave_one_out(sequences)
    ends, lengths = sequences.offsets[1:], sequences.lengths
    trains = np.ones(len(sequences.items), dtype=bool)
    everything, owner = np.arange(len(sequences.items)), np.repeat(np.arange(len(sequences)), lengths)
    last = np.repeat(ends - 1, lengths)  # each user's last interaction; without it, the last is the one before
    before = np.where(everything == last, last - 1, last)
    drawn = _look_ahead(sequences, timestamps, owner, everything, before, trains)
    trains[splits["train"].stop] = trains[splits["test"].stop] = False
    held_out = splits["test"].stop
    one_out = _look_ahead(sequences, timestamps, np.arange(len(sequences)), held_out, held_out - 1, trains)
    shares = {name: np.average(values, weights=1 / lengths[owner]) for name, values in drawn.items()}
    found = {"leave_one_out": {name: values.mean() for name, values in one_out.items()}, "random": shares}
    return {
        split: {"targets": len(sequences), **{name: float(value) for name, value in values.items()}}
        for split, values in found.items()
    }


def _look_ahead(
    sequences: Sequences,
    timestamps: np.ndarray,
    owner: np.ndarray,
    targets: np.ndarray,
    before: np.ndarray,
    trains: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns what is later than each target, `(T,)` each.

    Args:
        sequences: all interactions.
        timestamps: `(N,)` their times.
        owner: `(T,)` users.
        targets: `(T,)` their targets, as positions in the interactions.
        before: `(T,)` the last items of their histories.
        trains: `(N,)` whether an interaction is one of training for other users' targets.
    """
    distinct, times = np.unique(timestamps, return_inverse=True)
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    keys, ordered = (users * len(distinct) + times)[trains], np.sort(times[trains])
    own_end = np.concatenate([[0], np.cumsum(trains)])[sequences.offsets[1:]][owner]
    own_later = own_end - np.searchsorted(keys, owner * len(distinct) + times[targets], side="right")
    later = len(ordered) - np.searchsorted(ordered, times[targets], side="right") - own_later
    of_others = trains.sum() - np.bincount(users, trains, len(sequences))[owner]
    return {
        "before_training": later > 0,
        "later_training": later / np.maximum(of_others, 1),
        "before_history": times[targets] < times[before],
        "with_history": times[targets] == times[before],
    }
