"""How tasks are run: in order, once, with failures apart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeling_transrec.benchmark.execution import (
    FAILURES,
    RESULTS,
    Execution,
    _Progress,
    read_lines,
    replace_lines,
)
from modeling_transrec.benchmark.suites import Suite, Task
from modeling_transrec.models.folder_locks import locked


SUITE = Suite("A suite", {"m": {}}, ["A"], name="mine")


class FakeExecution(Execution):
    """Does tasks without a process; those of the model `bad` fail."""

    def _run_one(self, task):
        self.__dict__.setdefault("done", []).append(task.id)
        if task.spec.get("bad"):
            rows = [{"id": task.id, "kind": "baseline", "model": one} for one in task.spec.get("rows", ())]
            return rows, 1.0, ["Traceback …", "ValueError: it is bad"]
        if task.kind == "pretrain":
            mark = self.folder / "pretrained" / task.id / "benchmark.json"
            mark.parent.mkdir(parents=True)
            mark.write_text("{}")
            return [], 1.0, None
        line = {"id": task.id, "kind": "trained", "scores": "own", "metrics": {"hr@10": 0.5, "ndcg@10": 0.25}}
        return [line] * task.spec.get("num_lines", 1), 1.0, None


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


def test_a_task_that_succeeds_later_is_no_failure_any_more(tmp_path):
    """Its failure is dropped, and the lines that were there of it are replaced."""
    task, other = Task("baselines", "rows", {"bad": True, "rows": ["a", "b"]}), Task("dance", "other", {"bad": True})
    FakeExecution(tmp_path).run(SUITE, [task, other], str)
    assert [line["model"] for line in read_lines(tmp_path / RESULTS)] == ["a", "b"]
    assert {line["id"] for line in read_lines(tmp_path / FAILURES)} == {task.id, other.id}
    again = FakeExecution(tmp_path)
    again._run_one = lambda one: ([{"id": one.id, "kind": "baseline", "model": "c"}], 1.0, None)
    again.run(SUITE, [task], str)
    assert [line["model"] for line in read_lines(tmp_path / RESULTS)] == ["c"]
    assert [line["id"] for line in read_lines(tmp_path / FAILURES)] == [other.id]


def test_a_full_disk_leaves_all_lines_of_a_task_or_none(tmp_path, monkeypatch):
    """The write fails in the middle; the task is done again, and nothing of it is twice."""
    tasks = [Task("model", "one", {"num_lines": 3}), Task("model", "other", {"num_lines": 3, "seed": 2})]
    FakeExecution(tmp_path).run(SUITE, tasks[:1], str)
    before = (tmp_path / RESULTS).read_bytes()

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modeling_transrec.models.whole_saves.write_out", full)
    with pytest.raises(OSError, match="no room left"):
        FakeExecution(tmp_path).run(SUITE, tasks, str)
    assert (tmp_path / RESULTS).read_bytes() == before
    monkeypatch.undo()
    again = FakeExecution(tmp_path)
    assert len(again.run(SUITE, tasks, str)) == 6 and again.done == [tasks[1].id]


def test_one_command_at_a_time_runs_in_a_folder(tmp_path):
    code = "import sys, time; from modeling_transrec.models.folder_locks import locked\n"
    code += "with locked(sys.argv[1]): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(BlockingIOError, match=f"process {other.pid} .* writes into {tmp_path}"):
                FakeExecution(tmp_path).run(SUITE, chain(), str)
        finally:
            other.kill()
    assert len(FakeExecution(tmp_path).run(SUITE, chain(), str)) == 2  # the lock went with its process
    with locked(tmp_path):
        pass


def test_what_is_left_takes_as_long_as_its_like_by_so_many_at_a_time():
    said = []
    quick = [Task("baselines", f"quick {number}", {"number": number}) for number in range(2)]
    slow = [Task("model", f"slow {number}", {"number": number, "trains": True}) for number in range(5)]
    progress = _Progress([*quick, *slow], num_processes=2, say=said.append)
    progress.end(quick[0], "done", 2.0)
    progress.end(slow[0], "done", 60.0)
    assert said[-1].endswith("about 2 min left")  # (2 + 4 * 60) / 2 = 121 s, not 5 * 31
    for task in slow[1:4]:
        progress.end(task, "done", 60.0)
    progress.end(quick[1], "done", 2.0)
    assert said[-1].endswith("about 60 s left")  # one training is not divided


def test_other_lines_of_the_folder_are_kept(tmp_path):
    replace_lines(tmp_path / RESULTS, "x", [{"id": "of another suite"}])
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


@pytest.mark.parametrize("is_late", [False, True])
def test_a_process_ends_with_the_command_of_its_folder(tmp_path, is_late):
    """Also where that has ended before anybody looked, and nobody asks how."""
    lock = "import sys, time; from modeling_transrec.models.folder_locks import locked\n"
    lock += "with locked(sys.argv[1]): print('locked', flush=True); time.sleep(60)"
    watch = "import sys, time; from pathlib import Path; from modeling_transrec.benchmark import execution\n"
    watch += "execution._BETWEEN_LOOKS = 0.05; execution.end_with_command(Path(sys.argv[1]))\n"
    watch += "print('watching', flush=True); time.sleep(60)"
    command = child = subprocess.Popen([sys.executable, "-c", lock, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert command.stdout.readline() == b"locked\n"
        if is_late:
            command.kill()
            command.stdout.read()  # until it has ended
        child = subprocess.Popen([sys.executable, "-c", watch, str(tmp_path)], stdout=subprocess.PIPE)
        if not is_late:
            assert child.stdout.readline() == b"watching\n"
            time.sleep(0.3)
            assert child.poll() is None
            command.kill()
        assert child.wait(timeout=300) == 1  # 0 after its minute, if nothing ended it
    finally:
        for process in (command, child):
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [None, sys.executable])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_early", [False, True])
def test_a_task_ends_with_the_command(tmp_path, launcher, how, is_early):
    """The task trains for hours; its process is gone seconds after the command's, or never comes to train."""
    (tmp_path / "long.yaml").write_text(
        "title: Long\ndatasets: [Sample_Target]\nbaselines: []\nseeds: [1]\n"
        "models: {IDRec: {modality: id, hidden_size: 16, num_train_epochs: 100000}}\n"
    )
    folder = tmp_path / "out"
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored under nohup
    code += "from modeling_transrec.cli.main import main; sys.exit(main(sys.argv[1:]))"
    options = ["--use_cpu", "true", "--output_dir", str(folder)]
    options += [] if launcher is None else ["--launcher", launcher]
    command = subprocess.Popen(
        [sys.executable, "-c", code, "benchmark", str(tmp_path / "long.yaml"), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        begun = "lines/*.task" if is_early else "models/*/_locked_by.json"  # its process imports, or it trains
        wait_for(lambda: any(folder.glob(begun)), 300)
        command.send_signal(how)
        _, said = command.communicate(timeout=300)
        assert command.returncode == (-how if how == signal.SIGKILL else 128 + how)
        if how != signal.SIGKILL:
            name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[how]
            assert f"ended by {name}; the same command goes on" in said and "Traceback" not in said
        wait_for(lambda: not processes_of(folder), 60)
        assert not (folder / "results.jsonl").exists()
    finally:
        command.kill()


def processes_of(folder):
    """The running processes, of any kind, whose command or files are of a folder, or that a command of it has left."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(one) for one in (place / "fd").iterdir()]
            if str(folder) in (place / "cmdline").read_text() or any(one.startswith(str(folder)) for one in files):
                found.append(place.name)
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def wait_for(happens, seconds):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)
