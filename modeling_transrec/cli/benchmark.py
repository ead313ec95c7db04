"""Compare models on data sets: one command, every baseline, intervals and what they show.

    transrec benchmark sample --output_dir outputs/benchmark

A suite is a YAML file, or the name of one that ships: `sample` (synthetic, minutes), `amazon`, `ninerec`. It says data
sets, models and seeds; docs/benchmark.md explains it. The suite's backbones may be folders of yours:

    transrec benchmark amazon --data_dir DATA --text_model_name_or_path all-MiniLM-L6-v2 --output_dir outputs/amazon

Each run is a process of its own. A command that is given again does what is missing: what failed, or what a suite has
more than before. `results.jsonl` has a line for each run, `results.md` tables of all of them with intervals,
`failures.jsonl` what failed, so that the exit status is 1; `transrec leaderboard` makes a page of such lines. Only the
tables, with the options of the run (backbones, data):

    transrec benchmark sample --output_dir outputs/benchmark --report_only true

Part of a suite, hyper-parameters searched with 10 settings a model, two runs at a time, and each run on several GPUs:

    transrec benchmark sample --models IDRec --seeds 42 --tune 10 --num_processes 2
    transrec benchmark amazon --launcher "accelerate launch --multi_gpu"
"""

import contextlib
import itertools
import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmark.execution import FAILURES, RESULTS, Execution, read_lines
from ..benchmark.report import write_report
from ..benchmark.suites import SUITES, Suite, Task, read_suite
from ..benchmark.worker import check_tasks
from ..data.arguments import DataArguments
from ..data.shared_fields import fields_of, with_fields
from ..evaluation.arguments import CONTENT_OPTIONS, EvaluationArguments
from ..training.model_arguments import ModelArguments
from . import OptionError
from .options import parse_arguments


_IN_PLACE = "in place of the suite's"


@dataclass
@with_fields(
    fields_of(DataArguments, ["data_dir"])
    | fields_of(ModelArguments, CONTENT_OPTIONS, note=_IN_PLACE)
    | fields_of(EvaluationArguments, ["language_model_name_or_path"], note=_IN_PLACE)
    | fields_of(EvaluationArguments, ["use_cpu"])
)
class BenchmarkArguments:
    """Says which suite is run, and how; the names of backbones and where data lie are options of other commands."""

    suite: str = field(
        metadata={
            "help": f"YAML file, or one that ships: {', '.join(sorted(path.stem for path in SUITES.glob('*')))}."
        }
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of all that is written (default: outputs/benchmark/SUITE)."}
    )
    datasets: list[str] | None = field(default=None, metadata={"help": "Only these data sets of the suite."})
    models: list[str] | None = field(default=None, metadata={"help": "Only these models of the suite."})
    seeds: list[int] | None = field(default=None, metadata={"help": "These seeds in place of the suite's."})
    tune: int = field(
        default=0,
        metadata={
            "help": "Settings of hyper-parameters to try for each row on the validation split, also of what needs no "
            "training, up to all that it has."
        },
    )
    num_processes: int = field(default=1, metadata={"help": "Runs at a time."})
    launcher: str | None = field(
        default=None, metadata={"help": "What starts each run, such as 'accelerate launch --multi_gpu'."}
    )
    report_only: bool = field(
        default=False, metadata={"help": "Run nothing, and write the tables of what the folder has."}
    )
    keep_models: bool = field(default=False, metadata={"help": "Keep the trained models, in models/."})
    _argument_group_name = "benchmark"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # the fields that with_fields adds

    def __post_init__(self):
        if self.tune < 0:
            raise ValueError(f"--tune must be a number of settings, got {self.tune}")
        if self.num_processes < 1:
            raise ValueError(f"--num_processes must be at least 1, got {self.num_processes}")

    def read_suite(self) -> Suite:
        """Returns the whole suite."""
        named = {option: getattr(self, option) for option in CONTENT_OPTIONS if getattr(self, option) is not None}
        return read_suite(self.suite, named, self.language_model_name_or_path)

    def choose(self, suite: Suite) -> Suite:
        """Returns the part of a suite that is run."""
        return suite.only(datasets=self.datasets, models=self.models, seeds=self.seeds)


def run_benchmark(args: BenchmarkArguments) -> tuple[Path, bool]:
    """Runs a suite, and writes the tables of all that its folder has of it.

    Returns:
        The file of the tables, and whether nothing of what was to run has failed.

    Raises:
        OptionError: for a suite that cannot be meant, before anything runs.
    """
    try:
        suite = args.read_suite()
        tasks = args.choose(suite).tasks(args.tune)
        check_tasks(tasks)
    except ValueError as error:
        raise OptionError(str(error)) from error
    folder = Path(args.output_dir or Path("outputs", "benchmark", suite.name))
    if not args.report_only:
        given = (args.data_dir, args.launcher, args.num_processes, args.use_cpu, args.keep_models)
        Execution(folder, *given).run(suite, tasks, lambda sentence: print(sentence, flush=True))
    report = _write_report(suite, args, folder)
    failed = {line["id"] for line in read_lines(folder / FAILURES)}
    return report, args.report_only or not failed & {task.id for task in tasks}


def _write_report(suite: Suite, args: BenchmarkArguments, folder: Path) -> Path:
    """Writes the tables of the whole suite, whichever part of it was run now."""
    lines = [line for line in read_lines(folder / RESULTS) if line.get("suite") == suite.name]
    found = list(dict.fromkeys(line["seed"] for line in lines if line["seed"] is not None))
    added = [*suite.seeds, *(seed for seed in found if seed not in suite.seeds)]
    searched = {0, args.tune}
    if suite.has_space:
        searched |= {line["options"].get("num_settings", line["num_trials"]) for line in lines}
    tasks: dict[str, Task] = {}
    for seeds, num_trials in itertools.product((suite.seeds, args.seeds, found, added), sorted(searched)):
        tasks |= {task.id: task for task in suite.only(seeds=seeds or None).tasks(num_trials)}
    failures = [line for line in read_lines(folder / FAILURES) if line["id"] in tasks]
    order = {task_id: place for place, task_id in enumerate(tasks)}  # whichever ended first
    known = sorted((line for line in lines if line["id"] in order), key=lambda line: order[line["id"]])
    return write_report(suite, known, folder, _read_tuned(tasks.values(), folder), failures, len(lines) - len(known))


def _read_tuned(tasks: Iterable[Task], folder: Path) -> list[dict]:
    files = [(task.title, folder / "tuned" / f"{task.id}.json") for task in tasks if task.kind == "tune"]
    return [
        {"title": title, **json.loads(file.read_text(encoding="utf-8"))} for title, file in files if file.is_file()
    ]


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Lets SIGTERM, too, end the runs before the command; threads other than the main one get no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(args: Sequence[str] | None = None) -> int:
    """Runs `transrec benchmark`; returns the exit status, 1 if something has failed, 128 and a signal's number."""
    given = [*(sys.argv[1:] if args is None else args)]
    if given and not given[0].startswith("-"):
        given = ["--suite", *given]
    (parsed,) = parse_arguments((BenchmarkArguments,), given, __doc__)
    try:
        with _ended_in_order():
            report, is_whole = run_benchmark(parsed)
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        print(f"transrec benchmark: ended by {name}; the same command goes on with what is missing", file=sys.stderr)
        return 128 + number
    print(f"\n{report.read_text(encoding='utf-8')}\nWritten to {report}", flush=True)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
