"""A platform of which few users are known."""

import pytest

from modeling_transrec import DataArguments
from modeling_transrec.benchmark.known_users import KnownUsersArguments


def users(data, split):
    return set(data.load_sequences(split, max_seq_len=20)["user_id"])


def test_those_who_are_known_are_not_tested():
    data = KnownUsersArguments(num_known_users=30, draw=1)
    known, everybody = users(data, "train"), users(DataArguments(), "test")
    assert len(known) == 30 and users(data, "validation") == known == set(data.load_training_histories()["user_id"])
    assert users(data, "test") == everybody - known


def test_each_draw_has_other_users():
    first, second = (users(KnownUsersArguments(num_known_users=30, draw=draw), "train") for draw in (1, 2))
    assert first == users(KnownUsersArguments(num_known_users=30, draw=1), "train") and first != second


@pytest.mark.parametrize("number", [None, 0, 800])
def test_there_must_be_users_to_test(number):
    with pytest.raises(ValueError, match="there must be users to test"):
        KnownUsersArguments(num_known_users=number).load_sequences("train", max_seq_len=20)
