"""Trains and evaluates a grid of models over several seeds; a table of means and confidence intervals.

    python benchmarks/compare.py benchmarks/grids/beauty_user_encoders_id.json --data_dir DATA

A grid is a JSON file: `common` options of finetune.py, `seeds`, and `runs`, each a name and the options that differ; a
run may name a `pretrain` data set with its options, to start from. Finished runs are kept in
`benchmarks/results/GRID.json` and not repeated; the table lies beside it as GRID.md.
"""

import argparse
import itertools
import json
import math
import platform
import shutil
import statistics
import time
from pathlib import Path

import datasets
import torch
import transformers
from transformers import HfArgumentParser
from transformers.utils import logging

from modeling_transrec import (
    DataArguments,
    EvaluationArguments,
    ModelArguments,
    TransRecTrainingArguments,
    __version__,
    evaluate,
    train,
)
from modeling_transrec.cli.options import to_options


RESULTS = Path(__file__).parent / "results"
STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # 97.5 %


def train_one(options: dict, folder: Path) -> tuple[float, float, float]:
    """Trains into `folder`; best validation HR@10, its epoch, and seconds of training."""
    types = (ModelArguments, DataArguments, TransRecTrainingArguments)
    parser = HfArgumentParser(types, allow_abbrev=False)
    fixed = {"output_dir": str(folder), "disable_tqdm": True, "logging_strategy": "no"}
    arguments = parser.parse_args_into_dataclasses(to_options({**options, **fixed}))
    start = time.perf_counter()
    trainer = train(*arguments)
    seconds = time.perf_counter() - start
    hits = [(entry["eval_hr@10"], entry["epoch"]) for entry in trainer.state.log_history if "eval_hr@10" in entry]
    best, epoch = max(hits, key=lambda hit: (hit[0], -hit[1]))
    return best, epoch, seconds


def run_one(run: dict, common: dict, seed: int, folder: Path, data_dir: str) -> dict:
    """One model of one seed, from nothing to its metrics on the test split."""
    shared = {**common, "seed": seed, "data_dir": data_dir}
    options = {**shared, **run.get("options", {})}
    seconds_before = 0.0
    if "pretrain" in run:
        first = {**shared, **run["pretrain"]}
        seconds_before = train_one(first, folder / "pretrained")[2]
        options = {name: value for name, value in options.items() if name not in ModelArguments.making_options()}
        options["model_name_or_path"] = str(folder / "pretrained")
    zero_shot = run.get("zero_shot", False)
    hit, epoch, seconds = (None, 0, 0.0) if zero_shot else train_one(options, folder / "model")
    arguments = EvaluationArguments(str(folder / ("pretrained" if zero_shot else "model")), use_cpu=True)
    result = evaluate(arguments, DataArguments(dataset_config_name=common["dataset_config_name"], data_dir=data_dir))
    return {
        "validation_hr@10": hit,
        "best_epoch": epoch,
        "seconds": round(seconds, 1),
        "pretraining_seconds": round(seconds_before, 1),
        "test": result["metrics"],
        "num_users": result["protocol"]["num_users"],
        "num_candidates": result["protocol"]["num_candidates"],
    }


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % confidence interval of the mean (Student's t)."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.4f}"
    half = STUDENT_T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.4f} ± {half:.4f}"


def render(grid: dict, record: dict) -> str:
    """The results as Markdown."""
    done = [entry for entry in record["results"] if "test" in entry]
    lines = [f"# {grid['title']}", "", grid["about"], ""]
    if done:
        machine = record["machine"]
        lines += [
            f"Test split: {done[0]['num_users']:,} users, every one of {done[0]['num_candidates']:,} items ranked, "
            "the best epoch by validation HR@10. Mean over seeds and half-width of its 95 % confidence interval. "
            f"torch {machine['torch']}, transformers {machine['transformers']}, {machine['threads']} thread of "
            f"{machine['processor']}.",
            "",
            "| model | HR@10 | NDCG@10 | validation HR@10 | best epoch | seconds | seeds |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
    for run in grid["runs"]:
        entries = [entry for entry in done if entry["name"] == run["name"]]
        if entries:
            hits, gains = ([entry["test"][metric] for entry in entries] for metric in ("hr@10", "ndcg@10"))
            validation = [entry["validation_hr@10"] for entry in entries if entry["validation_hr@10"] is not None]
            seconds = statistics.median(entry["seconds"] + entry["pretraining_seconds"] for entry in entries)
            cells = [run["name"], interval(hits), interval(gains), interval(validation) if validation else ""]
            cells += [f"{statistics.median(entry['best_epoch'] for entry in entries):.0f}", f"{seconds:.0f}"]
            lines.append(f"| {' | '.join([*cells, str(len(entries))])} |")
    command = f"python benchmarks/compare.py benchmarks/grids/{grid['name']}.json --data_dir DATA"
    lines += ["", "```bash", command, "```"]
    if grid.get("conclusion"):
        lines += ["", grid["conclusion"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="JSON file of the grid.")
    parser.add_argument("--data_dir", help="Folder of the raw files.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/compare"), help="Folder of the checkpoints.")
    parser.add_argument("--render", action="store_true", help="Only write the table of what is there.")
    args = parser.parse_args()
    grid = {"name": args.grid.stem, **json.loads(args.grid.read_text(encoding="utf-8"))}
    file = RESULTS / f"{grid['name']}.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"results": []}
    if not args.render:
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
        record["machine"] = {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "modeling_transrec": __version__,
        }
        found = {(entry["name"], entry["seed"]) for entry in record["results"]}
        if found:
            print(f"{len(found)} runs are in {file} already; remove it to run them again", flush=True)
        for seed, run in itertools.product(grid["seeds"], grid["runs"]):
            if (run["name"], seed) in found:
                continue
            folder = args.output_dir / grid["name"] / f"{run['name']}-{seed}".replace(" ", "_").replace("/", "_")
            result = run_one(run, grid["common"], seed, folder, args.data_dir)
            shutil.rmtree(folder)
            record["results"].append({"name": run["name"], "seed": seed, **result})
            print(f"{run['name']}, seed {seed}: HR@10 {result['test']['hr@10']:.4f}", flush=True)
            unfinished = file.with_suffix(".tmp")
            unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(file)
    file.with_suffix(".md").write_text(render(grid, record), encoding="utf-8")


if __name__ == "__main__":
    main()
