"""One row of results/family.md: trains a system for some minutes and ranks the test split.

    python benchmarks/family.py --minutes 3 --preset bsarec-id --dataset_config_name Amazon_Beauty --data_dir DATA

All options of `transrec finetune` may be given. The time is that of training with its validations, from the first step
on; the best epoch on the validation split is ranked. The last line of the output is the row.
"""

import argparse
import os
import tempfile
import time

from transformers import TrainerCallback

from modeling_transrec import DataArguments, ModelArguments, TransRecTrainingArguments
from modeling_transrec.cli.options import parse_arguments
from modeling_transrec.training.train import build_trainer


class StopAfter(TrainerCallback):
    """Ends training, with a validation, at the first step after so many seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.start: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() - self.start > self.seconds:
            control.should_training_stop = control.should_evaluate = control.should_save = True


def main():
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--name", default="")
    own, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        rest = ["--output_dir", folder, *rest]
        types = (ModelArguments, DataArguments, TransRecTrainingArguments)
        model_args, data_args, args = parse_arguments(types, rest, __doc__, has_presets=True)
        trainer = build_trainer(model_args, data_args, args)
        trainer.add_callback(StopAfter(60 * own.minutes))
        start = time.monotonic()
        trainer.train()
        seconds, epochs = time.monotonic() - start, trainer.state.epoch
        validation = trainer.state.best_metric
        test = trainer.predict(data_args.load_sequences("test", model_args.resolved_max_seq_len())).metrics
        found = [f"{test[f'test_{name}']:.4f}" for name in ("hr@10", "ndcg@10")]
        threads = os.environ.get("OMP_NUM_THREADS", "all")
        print(f"threads {threads}, {seconds:.0f} s")
        print(f"| {own.name} | {epochs:.1f} | {validation:.4f} | {found[0]} | {found[1]} |")


if __name__ == "__main__":
    main()
