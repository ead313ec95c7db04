"""Collections that share storage with longer ones, and never change."""

import threading

import pytest
import torch

from modeling_transrec.data.growing import GrowingList, GrowingRows


def test_rows_grow_without_being_copied_until_there_is_no_room():
    first = GrowingRows(torch.arange(6.0).reshape(3, 2), room=2)
    grown = first
    for number in range(5):
        grown = grown.grown(torch.full((1, 2), float(number)))
    assert grown.rows[:, 0].tolist() == [0, 2, 4, 0, 1, 2, 3, 4]
    assert first.rows.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert first.grown(torch.zeros(1, 2)).rows[3].tolist() == [0, 0] and grown.rows[3].tolist() == [0, 0]


def test_a_list_and_the_lists_that_grow_out_of_it():
    first = GrowingList(["a", "b"])
    second, third = first.grown("cd"), first.grown("x")
    assert [first, second, third] == [["a", "b"], ["a", "b", "c", "d"], ["a", "b", "x"]]
    assert (len(first), first[-1], second[1:3], third[2]) == (2, "b", ["b", "c"], "x")
    assert first != second and "c" not in first
    for index in (2, -3):
        with pytest.raises(IndexError):
            first[index]


@pytest.mark.parametrize("make", [lambda: GrowingList([-1]), lambda: GrowingRows(torch.full((1,), -1), room=400)])
def test_threads_that_grow_the_same_one_do_not_disturb_each_other(make):
    first, found = make(), {}

    def grow(number):
        grown = first
        for _ in range(100):
            grown = grown.grown([number] if isinstance(first, GrowingList) else torch.tensor([number]))
        found[number] = list(grown) if isinstance(first, GrowingList) else grown.rows.tolist()

    threads = [threading.Thread(target=grow, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [-1, *[number] * 100] for number in range(4)}
