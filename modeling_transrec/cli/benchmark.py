"""Compare models on data sets: one command, every baseline, intervals and what they show.

    transrec benchmark sample --output_dir outputs/benchmark

A suite is a YAML file, or the name of one that ships: `sample` (synthetic, minutes), `amazon`, `ninerec`. It says data
sets, models and seeds; docs/benchmark.md explains it. The suite's backbones may be folders of yours:

    transrec benchmark amazon --data_dir DATA --text_model_name_or_path all-MiniLM-L6-v2 --output_dir outputs/amazon

Each run is a process of its own. A command that is given again does what is missing: what failed, or what a suite has
more than before. `results.jsonl` has a line for each run, `results.md` tables with intervals, `failures.jsonl` what
failed; `transrec leaderboard` makes a page of such lines. Part of a suite, hyper-parameters searched with 10 settings
a model, two runs at a time, and each run on several GPUs:

    transrec benchmark sample --models IDRec --seeds 42 --tune 10 --num_processes 2
    transrec benchmark amazon --launcher "accelerate launch --multi_gpu"
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..benchmark.execution import Execution
from ..benchmark.report import write_report
from ..benchmark.suites import SUITES, Suite, Task, read_suite
from ..benchmark.worker import check_tasks
from ..evaluation.arguments import CONTENT_OPTIONS
from ..evaluation.baselines import LANGUAGE_MODEL
from . import OptionError
from .options import parse_arguments


@dataclass
class BenchmarkArguments:
    """Says which suite is run, and how."""

    suite: str = field(
        metadata={
            "help": f"YAML file, or one that ships: {', '.join(sorted(path.stem for path in SUITES.glob('*')))}."
        }
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of all that is written (default: outputs/benchmark/SUITE)."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the raw files; by default the environment's NINEREC_DATA_DIR."}
    )
    datasets: list[str] | None = field(default=None, metadata={"help": "Only these data sets of the suite."})
    models: list[str] | None = field(default=None, metadata={"help": "Only these models of the suite."})
    seeds: list[int] | None = field(default=None, metadata={"help": "These seeds in place of the suite's."})
    tune: int = field(
        default=0, metadata={"help": "Settings of hyper-parameters to try for each model, on the validation split."}
    )
    num_processes: int = field(default=1, metadata={"help": "Runs at a time."})
    launcher: str | None = field(
        default=None, metadata={"help": "What starts each run, such as 'accelerate launch --multi_gpu'."}
    )
    text_model_name_or_path: str | None = field(default=None, metadata={"help": "In place of the suite's."})
    vision_model_name_or_path: str | None = field(default=None, metadata={"help": "In place of the suite's."})
    multimodal_model_name_or_path: str | None = field(default=None, metadata={"help": "In place of the suite's."})
    audio_model_name_or_path: str | None = field(default=None, metadata={"help": "In place of the suite's."})
    language_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": f"Language model of the row {LANGUAGE_MODEL}, in place of the suite's; it ranks a few candidates "
            "where the suite has such tables (prompting)."
        },
    )
    keep_models: bool = field(default=False, metadata={"help": "Keep the trained models, in models/."})
    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU even if there is an accelerator."})
    _argument_group_name = "benchmark"

    def __post_init__(self):
        if self.tune < 0:
            raise ValueError(f"--tune must be a number of settings, got {self.tune}")
        if self.num_processes < 1:
            raise ValueError(f"--num_processes must be at least 1, got {self.num_processes}")

    def read_suite(self) -> Suite:
        """Returns what is run."""
        named = {option: getattr(self, option) for option in CONTENT_OPTIONS if getattr(self, option) is not None}
        suite = read_suite(self.suite, named, self.language_model_name_or_path)
        return suite.only(datasets=self.datasets, models=self.models, seeds=self.seeds)


def run_benchmark(args: BenchmarkArguments) -> Path:
    """Runs a suite, and returns the file of its tables.

    Raises:
        OptionError: for a suite that cannot be meant, before anything runs.
    """
    try:
        suite = args.read_suite()
        tasks = suite.tasks(args.tune)
        check_tasks(tasks)
    except ValueError as error:
        raise OptionError(str(error)) from error
    folder = Path(args.output_dir or Path("outputs", "benchmark", suite.name))
    execution = Execution(folder, args.data_dir, args.launcher, args.num_processes, args.use_cpu, args.keep_models)
    lines = execution.run(suite, tasks, lambda sentence: print(sentence, flush=True))
    return write_report(suite, lines, folder, _read_tuned(tasks, folder))


def _read_tuned(tasks: Sequence[Task], folder: Path) -> list[dict]:
    files = [(task.title, folder / "tuned" / f"{task.id}.json") for task in tasks if task.kind == "tune"]
    return [
        {"title": title, **json.loads(file.read_text(encoding="utf-8"))} for title, file in files if file.is_file()
    ]


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec benchmark`."""
    given = [*(sys.argv[1:] if args is None else args)]
    if given and not given[0].startswith("-"):
        given = ["--suite", *given]
    (parsed,) = parse_arguments((BenchmarkArguments,), given, __doc__)
    report = run_benchmark(parsed)
    print(f"\n{report.read_text(encoding='utf-8')}\nWritten to {report}", flush=True)


if __name__ == "__main__":
    main()
