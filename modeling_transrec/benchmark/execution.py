"""Runs the tasks of a suite in processes of their own, keeps what they find, and goes on where it stopped."""

import contextlib
import json
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .suites import Suite, Task


RESULTS, FAILURES = "results.jsonl", "failures.jsonl"
_LINES = "lines"  # of one task, before they are added to the results


@dataclass
class Execution:
    """
    Runs a suite in a folder.

    A task is done when its lines are in `results.jsonl`; a run that is given again does the others. Failures stand in
    `failures.jsonl` with the last lines of their output, all of which is in `logs/`; tasks that need a failed one are
    left out, and both are tried again next time.

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

    def run(self, suite: Suite, tasks: Sequence[Task], say: Callable[[str], None] = print) -> list[dict]:
        """Runs what is not done yet, and returns all lines of results of these tasks.

        Args:
            suite: that the tasks belong to.
            tasks: in an order in which none comes before what it needs.
            say: gets a sentence when a task ends.
        """
        for name in ("logs", _LINES):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        drop_cut_line(self.folder / RESULTS)
        done = {line["id"] for line in read_lines(self.folder / RESULTS)} | self._prepared(tasks)
        left = [task for task in tasks if task.id not in done]
        if len(left) < len(tasks):
            say(f"{len(tasks) - len(left)} of {len(tasks)} tasks are done already, in {self.folder}")
        progress = _Progress(len(left), say)
        failed: set[str] = set()
        with ThreadPoolExecutor(self.num_processes) as pool:
            running: dict[Future, Task] = {}
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
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, (lines, seconds, problem) = running.pop(future), future.result()
                    if problem is not None:
                        failed.add(task.id)
                        append_line(self.folder / FAILURES, {"id": task.id, "title": task.title, "problem": problem})
                        progress.end(task, f"FAILED, see {self.folder / 'logs' / task.id}.log: {problem[-1]}")
                        continue
                    for line in lines:
                        append_line(self.folder / RESULTS, {"suite": suite.name, **line})
                    done.add(task.id)
                    progress.end(task, f"{_summary(lines)}{seconds:.0f} s", seconds)
        wanted = {task.id for task in tasks}
        return [line for line in read_lines(self.folder / RESULTS) if line["id"] in wanted]

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
        if status != 0:
            output = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:] if log.is_file() else []
            killed = [f"ended by signal {-status}, by a lack of memory perhaps"] if status < 0 else []
            return [], seconds, [*output, *killed] or [f"ended with status {status}"]
        found = read_lines(lines)
        lines.unlink(missing_ok=True)
        return found, seconds, None

    def _fork(self, spec: Path, log: Path) -> int:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["modeling_transrec.benchmark.worker"])
        process = context.Process(target=run_logged, args=(str(spec), str(log)))
        process.start()
        process.join()
        return process.exitcode or 0

    def _launch(self, spec: Path, log: Path) -> int:
        command = [*shlex.split(self.launcher or ""), "-m", "modeling_transrec.benchmark.execution", str(spec)]
        with log.open("w", encoding="utf-8") as output:
            return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode


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
    """Runs the task that a file describes; the main process leaves its lines beside it."""
    import datasets
    from accelerate import PartialState
    from transformers.utils import logging

    from .worker import Worker

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    given = json.loads(Path(spec).read_text(encoding="utf-8"))
    options = given["options"]
    lines = Worker(**{**options, "folder": Path(options["folder"])}).run(Task(**given["task"]))
    if PartialState().is_main_process:
        path = Path(spec).with_suffix(".jsonl")
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def append_line(path: Path, value: dict) -> None:
    """Adds a value to a file of JSON lines; it is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


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
            raise ValueError(f"{path}:{number}: no JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}:{number}: a line must be a JSON object")
        found.append(value)
    return found


def drop_cut_line(path: Path) -> None:
    """Cuts off the end of a file of JSON lines that a killed process has not finished."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        whole = file.read().rpartition(b"\n")
        file.truncate(len(whole[0]) + len(whole[1]))


class _Progress:
    """Says what is done, and how long the rest may take."""

    def __init__(self, total: int, say: Callable[[str], None]):
        self.total, self.say, self.ended = total, say, 0
        self.seconds: list[float] = []

    def end(self, task: Task, what: str, seconds: float | None = None) -> None:
        self.ended += 1
        if seconds is not None:
            self.seconds.append(seconds)
        left = ""
        if self.ended < self.total and self.seconds:
            left = f"; about {_duration(statistics.mean(self.seconds) * (self.total - self.ended))} left"
        self.say(f"[{self.ended}/{self.total}] {task.title}: {what}{left}")


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
