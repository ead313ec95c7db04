"""Start-up: what importing costs beside transformers' Trainer, and how soon a second run reaches its first step.

    python benchmarks/start_up.py                     # the embedded sample
    python benchmarks/start_up.py --data_dir DATA     # Amazon_Beauty by ids, too

Each is measured in a process of its own, in turn, in CPU seconds beside seconds; medians. Modules are compiled to
bytecode before. The first step begins where the Trainer has its first batch. Results: `start_up.json` and `.md` in
`benchmarks/results`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from timing import command_line


RESULTS = Path(__file__).parent / "results" / "start_up"
TRAINER = "from transformers import Trainer"
IMPORTS = {
    "`modeling_transrec`": "import modeling_transrec",
    "with the model": "from modeling_transrec import TransRecForSequentialRecommendation",
    "with the Trainer": "from modeling_transrec import TransRecForSequentialRecommendation, TransRecTrainer",
    "`transrec finetune`, whole": "import modeling_transrec.cli.finetune",
}
CLOCK = """
import json, time
def clock(): return [time.perf_counter(), time.process_time()]
def passed(start): return [now - then for now, then in zip(clock(), start)]
"""
# What we add is measured behind the Trainer in one process: both together vary by more than that.
IMPORTING = CLOCK + "start = clock(); {trainer}; base = passed(start); start = clock(); {ours}\n"
IMPORTING += "print(json.dumps([base, passed(start)]))"
RUNNING = """
import sys
from transformers import Trainer
from transformers.trainer_callback import DefaultFlowCallback
from modeling_transrec.cli.finetune import main

class Reached(Exception): pass
def reach(*args, **kwargs): raise Reached
DefaultFlowCallback.on_step_begin = reach
start = clock()
try:
    main(sys.argv[1:])
except Reached:
    print(json.dumps(passed(start)))
"""


def run(script: str, *options: str) -> list:
    """Returns the last line that a script prints, read as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", script, *options], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def median(found: list[list[float]]) -> dict[str, float]:
    """Returns the medians of seconds and CPU seconds."""
    seconds, cpu = zip(*found, strict=True)
    return {"seconds": round(statistics.median(seconds), 3), "cpu": round(statistics.median(cpu), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="Folder with Amazon_Beauty, to time its start, too.")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    runs = {"the sample, text": []}
    if args.data_dir is not None:
        beauty = ["--dataset_config_name", "Amazon_Beauty", "--data_dir", args.data_dir, "--modality", "id"]
        runs["Amazon_Beauty, ids"] = beauty
    for script in IMPORTS.values():
        run(IMPORTING.format(trainer=TRAINER, ours=script))  # compiled from here on
    imports, bases, starts = {what: [] for what in IMPORTS}, [], {what: [] for what in runs}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds + 1):
            for what, script in IMPORTS.items() if number else ():
                base, ours = run(IMPORTING.format(trainer=TRAINER, ours=script))
                bases.append(base)
                imports[what].append(ours)
            for what, options in runs.items():
                place = f"{folder}/{number} {what}"
                found = run(CLOCK + RUNNING, "--use_cpu", "true", "--output_dir", place, *options)
                if number:  # the first run reads and prepares the data
                    starts[what].append(found)
    record = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        "command": command_line({args.data_dir: "DATA"}),
        "transformers' Trainer": median(bases),
        "imports": {what: median(found) for what, found in imports.items()},
        "first step": {what: median(found) for what, found in starts.items()},
    }
    RESULTS.with_suffix(".json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(render(record, args.rounds), encoding="utf-8")
    print(render(record, args.rounds))


def render(record: dict, rounds: int) -> str:
    """Returns the results as Markdown."""

    def rows(found: dict[str, dict]) -> list[str]:
        return [f"| {what} | {one['seconds']:.2f} | {one['cpu']:.2f} |" for what, one in found.items()]

    lines = [
        "# Start-up",
        "",
        f"Medians of {rounds} rounds in turn, each in a process of its own; {record['machine']}. The machine was "
        "shared: read the CPU seconds.",
        "",
        "| import, behind `from transformers import Trainer` | seconds | CPU seconds |",
        "|---|---:|---:|",
        *rows({"(the Trainer itself)": record["transformers' Trainer"], **record["imports"]}),
        "",
        "| second run of `examples/finetune.py`, from the imports to the first step | seconds | CPU seconds |",
        "|---|---:|---:|",
        *rows(record["first step"]),
        "",
        "```bash",
        record["command"],
        "```",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
