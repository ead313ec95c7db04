"""How tasks are run: in order, once, with failures apart."""

import json

import pytest

from modeling_transrec.benchmark.execution import FAILURES, RESULTS, Execution, append_line, read_lines
from modeling_transrec.benchmark.suites import Suite, Task


SUITE = Suite("A suite", {"m": {}}, ["A"], name="mine")


class FakeExecution(Execution):
    """Does tasks without a process; those of the model `bad` fail."""

    def _run_one(self, task):
        self.__dict__.setdefault("done", []).append(task.id)
        if task.spec.get("bad"):
            return [], 1.0, ["Traceback …", "ValueError: it is bad"]
        if task.kind == "pretrain":
            mark = self.folder / "pretrained" / task.id / "benchmark.json"
            mark.parent.mkdir(parents=True)
            mark.write_text("{}")
            return [], 1.0, None
        line = {"id": task.id, "kind": "trained", "scores": "own", "metrics": {"hr@10": 0.5, "ndcg@10": 0.25}}
        return [line], 1.0, None


def chain(bad: bool = False) -> list[Task]:
    first = Task("pretrain", "pretraining", {"bad": bad})
    return [first, Task("model", "HasPT", {"seed": 1}, (first.id,)), Task("model", "NoPT", {"seed": 2})]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_what_is_needed_comes_first_and_nothing_is_done_twice(tmp_path, num_processes):
    said, tasks = [], chain()
    execution = FakeExecution(tmp_path, num_processes=num_processes)
    lines = execution.run(SUITE, tasks, said.append)
    assert execution.done.index(tasks[0].id) < execution.done.index(tasks[1].id)
    assert {line["id"] for line in lines} == {task.id for task in tasks[1:]} and lines[0]["suite"] == "mine"
    assert sum("HR@10 0.5000, NDCG@10 0.2500 (own), 1 s" in sentence for sentence in said) == 2

    again = FakeExecution(tmp_path)
    assert sorted(map(json.dumps, again.run(SUITE, tasks, said.append))) == sorted(map(json.dumps, lines))
    assert not hasattr(again, "done") and said[-1].startswith("3 of 3 tasks are done already")


def test_a_failure_stops_only_what_needs_it_and_is_tried_again(tmp_path):
    said = []
    lines = FakeExecution(tmp_path).run(SUITE, chain(bad=True), said.append)
    assert len(lines) == 1
    assert any("FAILED" in sentence and "ValueError: it is bad" in sentence for sentence in said)
    assert any(sentence.endswith("HasPT: left out: what it needs has failed") for sentence in said)
    assert [one["problem"][-1] for one in read_lines(tmp_path / FAILURES)] == ["ValueError: it is bad"]
    again = FakeExecution(tmp_path)
    again.run(SUITE, chain(bad=True), said.append)
    assert again.done == [chain(bad=True)[0].id]


def test_a_line_that_a_kill_has_cut_is_done_again(tmp_path):
    tasks = chain()
    FakeExecution(tmp_path).run(SUITE, tasks, str)
    path = tmp_path / RESULTS
    path.write_bytes(path.read_bytes()[:-10])
    again = FakeExecution(tmp_path)
    assert len(again.run(SUITE, tasks, str)) == 2 and len(again.done) == 1


def test_other_lines_of_the_folder_are_kept(tmp_path):
    append_line(tmp_path / RESULTS, {"id": "of another suite"})
    assert len(FakeExecution(tmp_path).run(SUITE, chain(), str)) == 2
    assert len(read_lines(tmp_path / RESULTS)) == 3


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"id": 1}\n[1]\n')
    with pytest.raises(ValueError, match="results.jsonl:2: a line must be a JSON object"):
        read_lines(path)
    path.write_text('{"id": 1}\nnothing\n')
    with pytest.raises(ValueError, match="results.jsonl:2: no JSON"):
        read_lines(path)


@pytest.mark.slow
def test_a_process_that_fails_leaves_its_last_words(tmp_path):
    """A task of a kind that there is not, in a real process."""
    said = []
    Execution(tmp_path, use_cpu=True).run(SUITE, [Task("dance", "a dance", {})], said.append)
    (failure,) = read_lines(tmp_path / FAILURES)
    assert "KeyError: 'dance'" in failure["problem"][-1] and "FAILED" in said[0]
    assert "KeyError" in (tmp_path / "logs" / f"{failure['id']}.log").read_text()
