"""Time to quality: how long a model trains until it ranks users so well, and where it ends.

    python benchmarks/time_to_quality.py --name "recommended-id" --minutes 4 --every 200 \
        --preset recommended-id --dataset_config_name Amazon_Beauty --data_dir DATA

All options of `transrec finetune` may be given. Every so many steps the validation split (`--max_eval_users` of it) is
ranked. `--minutes` and seconds are CPU time of training, batches included, without evaluations; the time to a goal is
that of the first evaluation that is there. The best checkpoint by validation NDCG@10 ranks the test split at the end.

Rows of the same name replace one another. Results: `benchmarks/results/time_to_quality.json` and `.md`.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import torch
import transformers
from timing import command_line
from transformers import TrainerCallback

from modeling_transrec import DataArguments, ModelArguments, TransRecTrainingArguments
from modeling_transrec.cli.options import parse_arguments
from modeling_transrec.training.train import build_trainer


RESULTS = Path(__file__).parent / "results" / "time_to_quality"
GOALS = (0.04, 0.05, 0.06)
METRIC = "eval_ndcg@10"


class Clock(TrainerCallback):
    """Records NDCG@10 against the time of training; ends after so many CPU seconds of it."""

    def __init__(self, seconds: float):
        self.most, self.spent, self.curve = seconds, [0.0, 0.0], []

    def _now(self) -> list[float]:
        return [time.perf_counter(), time.process_time()]

    def _stop(self) -> None:
        self.spent = [spent + now - then for spent, now, then in zip(self.spent, self._now(), self.then, strict=True)]

    def on_train_begin(self, *args, **kwargs):
        self.then = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        self._stop()
        self.then = self._now()
        if self.spent[1] > self.most:
            control.should_training_stop = control.should_evaluate = control.should_save = True

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.curve.append([state.global_step, *(round(one, 2) for one in self.spent), metrics[METRIC]])
        self.then = self._now()

    def on_save(self, *args, **kwargs):
        self.then = self._now()


def render(record: dict) -> str:
    """Returns the results as Markdown."""
    lines = [
        "# Time to quality",
        "",
        f"{__doc__.split(chr(10) + chr(10))[2].replace(chr(10), ' ')} {record['machine']}, shared: read "
        "the CPU seconds. One seed each.",
        "",
        f"| row | data | ms a step | {' | '.join(f'CPU s to {goal:g}' for goal in GOALS)} "
        "| best on validation, after CPU s | test HR@10 | test NDCG@10 |",
        f"|---|---|---:|{'---:|' * len(GOALS)}---:|---:|---:|",
    ]
    for row in sorted(record["rows"], key=lambda row: row["data"]):
        reached = [next((f"{cpu:.0f}" for _, _, cpu, value in row["curve"] if value >= goal), "") for goal in GOALS]
        best = max(row["curve"], key=lambda point: point[3])
        step = 1000 * row["curve"][-1][2] / row["curve"][-1][0]
        cells = [row["name"], row["data"], f"{step:.0f}", *reached, f"{best[3]:.4f}, {best[2]:.0f}"]
        lines.append(f"| {' | '.join([*cells, row['hr@10'], row['ndcg@10']])} |")
    lines += ["", *record["notes"], ""] if record["notes"] else [""]
    return "\n".join([*lines, "```bash", *(row["command"] for row in record["rows"]), "```"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--name", required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--every", type=int, default=200)
    own, rest = parser.parse_known_args()
    types = (ModelArguments, DataArguments, TransRecTrainingArguments)
    with tempfile.TemporaryDirectory() as folder:
        fixed = [
            "--output_dir",
            folder,
            "--eval_strategy",
            "steps",
            "--eval_steps",
            str(own.every),
            "--use_cpu",
            "true",
        ]
        fixed += ["--save_strategy", "steps", "--save_steps", str(own.every), "--save_only_model", "true"]
        fixed += ["--metric_for_best_model", "ndcg@10", "--disable_tqdm", "true"]
        model_args, data_args, args = parse_arguments(types, [*rest, *fixed], __doc__, has_presets=True)
        trainer, clock = build_trainer(model_args, data_args, args), Clock(60 * own.minutes)
        trainer.add_callback(clock)
        trainer.train()
        test = trainer.predict(data_args.load_sequences("test", model_args.resolved_max_seq_len())).metrics
    row = {"name": own.name, "data": data_args.dataset_config_name, "curve": clock.curve}
    row |= {name: f"{test[f'test_{name}']:.4f}" for name in ("hr@10", "ndcg@10")}
    row["command"] = command_line({data_args.data_dir: "DATA"})
    file = RESULTS.with_suffix(".json")
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": [], "notes": []}
    same = [row["name"], row["data"]]
    record["rows"] = [*(one for one in record["rows"] if [one["name"], one["data"]] != same), row]
    record["machine"] = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(render(record), encoding="utf-8")
    print(render(record))


if __name__ == "__main__":
    main()
