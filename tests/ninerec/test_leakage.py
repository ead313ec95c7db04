"""What splits let a model see of the future, against loops over targets and over random splits."""

import numpy as np
import pyarrow as pa
import pytest

from modeling_transrec.ninerec.leakage import leakage
from modeling_transrec.ninerec.sequences import Sequences


def make(seed: int, num_users: int, num_times: int) -> Sequences:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 9, num_users)
    times = np.concatenate([np.sort(rng.integers(num_times, size=length)) for length in lengths])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = pa.array([f"u{user}" for user in range(num_users)])
    return Sequences(ids, offsets, np.zeros(len(times), int), times, pa.array(["a"]))


@pytest.mark.parametrize("num_times", [4, 1000])
def test_equals_loops_over_targets(num_times):
    """`num_times` 4: nearly every interaction has the time of another."""
    sequences = make(3, 11, num_times)
    users = np.split(sequences.timestamps, sequences.offsets[1:-1])
    found = leakage(sequences)

    def look(targets, training, weights):
        """Means over targets, each a user, a time, and the time of the history's last item."""
        rows = []
        for user, time, last in targets:
            others = [one for other, one in training if other != user]
            later = [one > time for one in others]
            rows.append([any(later), np.mean(later), time < last, time == last])
        return np.average(rows, axis=0, weights=weights)

    out = [(user, times[-1], times[-2]) for user, times in enumerate(users)]
    training = [(user, time) for user, times in enumerate(users) for time in times[:-2]]
    assert [*found["leave_one_out"].values()] == pytest.approx([11, *look(out, training, None)])

    drawn = [
        (user, time, np.delete(times, place).max())
        for user, times in enumerate(users)
        for place, time in enumerate(times)
    ]
    everything = [(user, time) for user, times in enumerate(users) for time in times]
    weights = [1 / len(users[user]) for user, _, _ in drawn]
    assert [*found["random"].values()] == pytest.approx([11, *look(drawn, everything, weights)])


def test_users_who_come_one_after_the_other():
    """The last user of all sees nothing of the future; the first one's target is earlier than all other training."""
    sequences = make(0, 2, 2)
    sequences = Sequences(sequences.user_ids, np.array([0, 4, 8]), np.zeros(8, int), np.arange(8), pa.array(["a"]))
    found = leakage(sequences)["leave_one_out"]
    assert found == {
        "targets": 2,
        "before_training": 0.5,
        "later_training": 0.5,
        "before_history": 0.0,
        "with_history": 0.0,
    }


def test_without_times_or_with_short_histories():
    sequences = make(1, 5, 9)
    with pytest.raises(ValueError, match="no timestamps"):
        leakage(Sequences(sequences.user_ids, sequences.offsets, sequences.items, None, sequences.item_ids))
    short = Sequences(pa.array(["u", "v"]), np.array([0, 2, 5]), np.zeros(5, int), np.arange(5), pa.array(["a"]))
    with pytest.raises(ValueError, match="fewer than 3 items"):
        leakage(short)
