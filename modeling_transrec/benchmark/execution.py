"""Runs the tasks of a suite in processes of their own, keeps what they find, and goes on where it stopped."""

import json
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..models.folder_locks import LOCK_NAME, locked
from ..models.whole_saves import write_whole
from .suites import Suite, Task


RESULTS, FAILURES = "results.jsonl", "failures.jsonl"
_LINES = "lines"  # of one task, before they are added to the results
_BETWEEN_LOOKS = 1.0  # seconds


@dataclass
class Execution:
    """
    Runs a suite in a folder.

    A task is done when its lines are in `results.jsonl`, which has all of them or none; a run that is given again does
    the others. Failures stand in `failures.jsonl` with the last lines of their output, all of which is in `logs/`,
    until the task succeeds; tasks that need a failed one are left out, and both are tried again next time. One command
    at a time runs in a folder, and its tasks end with it, however it ends.

    Args:
        folder: where all that is written goes.
        data_dir: folder of the raw files.
        launcher: command in front of each task, such as `accelerate launch --num_processes 2`; by default each is a
            process that is forked from one which has imported everything already.
        num_processes: tasks at a time.
        use_cpu: whether to compute on the CPU even if there is an accelerator.
        keep_models: whether trained models are kept.
    """

    folder: Path
    data_dir: str | None = None
    launcher: str | None = None
    num_processes: int = 1
    use_cpu: bool = False
    keep_models: bool = False
    _running: set = field(default_factory=set, init=False, repr=False)  # processes
    _is_ending: bool = field(default=False, init=False, repr=False)  # those that are still to start end at once

    def run(self, suite: Suite, tasks: Sequence[Task], say: Callable[[str], None] = print) -> list[dict]:
        """Runs what is not done yet, and returns all lines of results of these tasks.

        Args:
            suite: that the tasks belong to.
            tasks: in an order in which none comes before what it needs.
            say: gets a sentence when a task ends.

        Raises:
            BlockingIOError: if another command runs in the folder.
        """
        with locked(self.folder):
            return self._run_locked(suite, tasks, say)

    def _run_locked(self, suite: Suite, tasks: Sequence[Task], say: Callable[[str], None]) -> list[dict]:
        for name in ("logs", _LINES):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        done = {line["id"] for line in read_lines(self.folder / RESULTS)} | self._prepared(tasks)
        done -= {failure["id"] for failure in read_lines(self.folder / FAILURES)}  # some lines may be there
        left = [task for task in tasks if task.id not in done]
        if len(left) < len(tasks):
            say(f"{len(tasks) - len(left)} of {len(tasks)} tasks are done already, in {self.folder}")
        progress = _Progress(left, self.num_processes, say)
        failed: set[str] = set()
        with ThreadPoolExecutor(self.num_processes) as pool:
            running: dict[Future, Task] = {}
            try:
                while left or running:
                    for task in [task for task in left if failed & {*task.after}]:
                        left.remove(task)
                        failed.add(task.id)
                        progress.end(task, "left out: what it needs has failed")
                    for task in [task for task in left if {*task.after} <= done][: self.num_processes - len(running)]:
                        left.remove(task)
                        running[pool.submit(self._run_one, task)] = task
                    if not running:
                        continue
                    # A signal that another thread gets does not wake this one, which acts on it.
                    for future in wait(running, _BETWEEN_LOOKS, FIRST_COMPLETED).done:
                        task, (lines, seconds, problem) = running.pop(future), future.result()
                        self._record(suite, task, lines, problem)
                        if problem is None:
                            done.add(task.id)
                            progress.end(task, f"{_summary(lines)}{seconds:.0f} s", seconds)
                        else:
                            failed.add(task.id)
                            progress.end(task, f"FAILED, see {self.folder / 'logs' / task.id}.log: {problem[-1]}")
            except BaseException:  # Ctrl-C, or a disk that is full: nobody would read what the others find
                self._is_ending = True
                for process in list(self._running):
                    process.terminate()
                raise
        wanted = {task.id for task in tasks}
        return [line for line in read_lines(self.folder / RESULTS) if line["id"] in wanted]

    def _record(self, suite: Suite, task: Task, lines: Sequence[dict], problem: list[str] | None) -> None:
        """Writes a task's lines, in place of those of an earlier try, and its failure; a success ends that.

        A kill in between leaves a task that is done again, not one that seems done.
        """
        if problem is not None:
            failure = {"id": task.id, "title": task.title, "problem": problem}
            replace_lines(self.folder / FAILURES, task.id, [failure])
        if lines:
            replace_lines(self.folder / RESULTS, task.id, [{"suite": suite.name, **line} for line in lines])
        if problem is None:
            replace_lines(self.folder / FAILURES, task.id, [])

    def _prepared(self, tasks: Iterable[Task]) -> set[str]:
        """Returns ids of the tasks that leave no line of results, and are done."""
        marks = {"pretrain": "pretrained/{}/benchmark.json", "tune": "tuned/{}.json"}
        return {
            task.id
            for task in tasks
            if task.kind in marks and (self.folder / marks[task.kind].format(task.id)).is_file()
        }

    def _run_one(self, task: Task) -> tuple[list[dict], float, list[str] | None]:
        """Returns the task's lines, its seconds and, if it failed, the last lines of its output."""
        spec, lines = self.folder / _LINES / f"{task.id}.task", self.folder / _LINES / f"{task.id}.jsonl"
        log = self.folder / "logs" / f"{task.id}.log"
        lines.unlink(missing_ok=True)
        options: dict[str, Any] = {"folder": str(self.folder), "data_dir": self.data_dir}
        options |= {"use_cpu": self.use_cpu, "keep_models": self.keep_models}
        spec.write_text(json.dumps({"options": options, "task": asdict(task)}) + "\n", encoding="utf-8")
        start = time.perf_counter()
        status = self._fork(spec, log) if self.launcher is None else self._launch(spec, log)
        seconds = time.perf_counter() - start
        spec.unlink()
        found, problem = read_lines(lines), None
        if status != 0:
            output = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:] if log.is_file() else []
            killed = [f"ended by signal {-status}, by a lack of memory perhaps"] if status < 0 else []
            problem = [*output, *killed] or [f"ended with status {status}"]
        lines.unlink(missing_ok=True)
        return found, seconds, problem

    def _fork(self, spec: Path, log: Path) -> int:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["modeling_transrec.benchmark.worker"])
        process = context.Process(target=run_logged, args=(str(spec), str(log)))
        process.start()  # which may take the seconds of an import, and be interrupted meanwhile
        self._wait_for(process, process.join)
        return process.exitcode or 0

    def _wait_for(self, process: Any, wait: Callable[[], int | None]) -> int | None:
        """Waits for the end of a process, which is ended if the command is ending."""
        self._running.add(process)
        if self._is_ending:
            process.terminate()
        found = wait()
        self._running.discard(process)
        return found

    def _launch(self, spec: Path, log: Path) -> int:
        command = [*shlex.split(self.launcher or ""), "-m", "modeling_transrec.benchmark.execution", str(spec)]
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        return self._wait_for(process, process.wait) or 0


def run_logged(spec: str, log: str) -> None:
    """Runs a task with its output in a file; ends the process with status 1 if it fails."""
    with open(log, "w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        run_spec(spec)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def run_spec(spec: str) -> None:
    """Runs the task that a file describes; the main process leaves its lines beside it.

    Raises:
        RuntimeError: if some rows of the task failed; the lines of the others are there.
    """
    given = json.loads(Path(spec).read_text(encoding="utf-8"))
    options = {**given["options"], "folder": Path(given["options"]["folder"])}
    end_with_command(options["folder"])

    import datasets
    from accelerate import PartialState
    from transformers.utils import logging

    from .worker import Worker

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    worker = Worker(**options)
    lines = worker.run(Task(**given["task"]))
    if PartialState().is_main_process:
        write_whole(Path(spec).with_suffix(".jsonl"), "".join(f"{json.dumps(line)}\n" for line in lines))
    if worker.failed:
        raise RuntimeError("; ".join(f"{name} failed: {error}" for name, error in worker.failed.items()))


def end_with_command(folder: Path) -> None:
    """Ends this process soon after the command that runs in a folder has ended, however that was.

    The operating system takes the command's lock from it then; numbers of processes say less, as in containers.
    """

    def watch() -> None:
        while _is_locked(folder):
            time.sleep(_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_locked(folder: Path) -> bool:
    if not (folder / LOCK_NAME).exists():
        return False
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            return False
    except Timeout:
        return True


def replace_lines(path: Path, task_id: str, values: Sequence[Mapping[str, Any]]) -> None:
    """Writes a task's values into a file of JSON lines in place of those that it had; a kill leaves the old file."""
    there = read_lines(path)
    others = [value for value in there if value.get("id") != task_id]
    if values or len(others) < len(there):
        lines = (json.dumps(value, ensure_ascii=False) + "\n" for value in (*others, *values))
        write_whole(path, "".join(lines))


def read_lines(path: Path) -> list[dict]:
    """Returns the values of a file of JSON lines; none where there is no file.

    Raises:
        ValueError: for a line that is no JSON object; file and line are named.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{path}:{number}: no JSON: {error}; without this line, its task is done again"
            ) from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}:{number}: a line must be a JSON object")
        found.append(value)
    return found


class _Progress:
    """Says what is done, and how long the rest may take."""

    def __init__(self, tasks: Iterable[Task], num_processes: int, say: Callable[[str], None]):
        self.left, self.num_processes, self.say = list(tasks), num_processes, say
        self.total = len(self.left)
        self.seconds: dict[tuple, list[float]] = {}

    def end(self, task: Task, what: str, seconds: float | None = None) -> None:
        self.left.remove(task)
        if seconds is not None:
            self.seconds.setdefault(_like(task), []).append(seconds)
        left = ""
        if self.left and self.seconds:
            left = f"; about {_duration(self._seconds_left())} left"
        self.say(f"[{self.total - len(self.left)}/{self.total}] {task.title}: {what}{left}")

    def _seconds_left(self) -> float:
        """What is left takes as long as its like took, or as all have on average, by so many processes at a time."""
        means = {like: statistics.mean(found) for like, found in self.seconds.items()}
        of_all = statistics.mean(one for found in self.seconds.values() for one in found)
        times = [means.get(_like(task), of_all) for task in self.left]
        return max(sum(times) / self.num_processes, *times)


def _like(task: Task) -> tuple:
    """Returns the same for tasks that take about as long: a model is trained, or only evaluated."""
    return task.kind, task.spec.get("trains")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _summary(lines: Sequence[dict]) -> str:
    """Returns the metrics of the last line, which has transitions added where they are."""
    if not lines or lines[-1]["kind"] == "baseline":
        return ""
    metrics = lines[-1]["metrics"]
    return f"HR@10 {metrics['hr@10']:.4f}, NDCG@10 {metrics['ndcg@10']:.4f} ({lines[-1]['scores']}), "


if __name__ == "__main__":
    run_spec(sys.argv[1])
