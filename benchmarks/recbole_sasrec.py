"""IDRec beside RecBole's SASRec on the same data: seconds of a training epoch and of a full-ranking validation.

    python benchmarks/recbole_sasrec.py                     # random histories, of the lengths of Amazon_Beauty
    python benchmarks/recbole_sasrec.py --data_dir DATA     # Amazon_Beauty itself

RecBole is installed into a virtual environment of its own, in a temporary folder or in `--venv`, where it stays; what
it does not ask for in another version, above all torch, it shares with this one. Both have 2 layers of 64 dimensions
with 2 heads, histories of 20 items and cross entropy over the catalogue. RecBole makes one training sequence of every
prefix of a history, ours predicts all positions of a history at once; a batch has about as many targets in both. The
two take turns. Results: `benchmarks/results/recbole_sasrec.json`; of random histories `recbole_sasrec_made.json`.
"""

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from timing import command_line
from transformers import TrainerCallback
from workload import SHAPES, draw

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
    __version__,
    load_items,
    load_sequences,
)


RESULTS = Path(__file__).parent / "results"
# With a newer setuptools RecBole does not import: ray reads pkg_resources.
PACKAGES = ["recbole==1.2.1", "numpy<2", "pandas<3", "scipy<1.14", "setuptools<81"]
TARGETS_PER_BATCH = 2048
WORKER = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
import numpy, recbole, torch

folder, epochs, batch_size, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
config = Config(model="SASRec", dataset="data", config_dict={
    "data_path": folder, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "use_gpu": False,
    "MAX_ITEM_LIST_LENGTH": 20, "hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2,
    "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "loss_type": "CE", "train_neg_sample_args": None,
    "train_batch_size": batch_size, "eval_batch_size": 256 * 100_000, "show_progress": False, "state": "ERROR",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
    "checkpoint_dir": folder, "metrics": ["Hit", "NDCG"], "topk": [10], "valid_metric": "Hit@10"})
train, validation, _ = data_preparation(config, create_dataset(config))
model = SASRec(config, train.dataset)
trainer = Trainer(config, model)
found = {"epoch_seconds": [], "evaluation_seconds": []}
for epoch in range(epochs):
    start = time.perf_counter()
    trainer._train_epoch(train, epoch)
    found["epoch_seconds"].append(time.perf_counter() - start)
    start = time.perf_counter()
    metrics = trainer.evaluate(validation, load_best_model=False)
    found["evaluation_seconds"].append(time.perf_counter() - start)
found["hr@10"] = float(metrics["hit@10"])
found["versions"] = {"recbole": recbole.__version__, "torch": torch.__version__, "numpy": numpy.__version__}
print(json.dumps(found))
"""


def install(folder: Path, packages: list[str] = PACKAGES) -> Path:
    """Returns the Python of a library's own environment, which finds behind its own packages those that are here."""
    folder = folder.absolute()  # the library runs in another one
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        if folder.exists():
            raise SystemExit(f"{folder} is there, not whole or not this script's: remove it, or name another --venv")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        own = sysconfig.get_path("purelib", vars={"base": str(folder)})
        Path(own, "behind_its_own.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        install = [python, "-m", "pip", "install", "--quiet", *packages]
        if subprocess.run(install).returncode:
            raise SystemExit(f"The library was not installed; tried: {shlex.join(map(str, install))}")
        (folder / "installed").touch()
    return python


def load(name: str, data_dir: str | None) -> tuple[datasets.Dataset, dict[str, datasets.Dataset]]:
    """Items, and histories with their targets by split; without a folder, random ones of the data set's lengths."""
    splits = ("train", "validation", "test")
    if data_dir is not None:
        loaded = {split: load_sequences("ninerec", name, split, data_dir=data_dir) for split in splits}
        return load_items("ninerec", name, data_dir=data_dir), loaded
    rng, shape = np.random.default_rng(0), SHAPES[name]
    ids = np.array([f"item{row}" for row in range(shape.num_items)])
    weights = draw(shape.item_counts, shape.num_items, rng) + 0.5
    lengths = draw(shape.history_lengths, shape.num_users, rng) + 2  # and the targets of validation and test
    actions = rng.choice(ids, size=lengths.sum(), p=weights / weights.sum())
    whole = [part.tolist() for part in np.split(actions, lengths.cumsum()[:-1])]
    users = [f"user{row}" for row in range(shape.num_users)]
    columns = {
        "train": {"item_ids": [history[:-2] for history in whole]},
        "validation": {"item_ids": [history[:-2] for history in whole], "target": [history[-2] for history in whole]},
        "test": {"item_ids": [history[:-1] for history in whole], "target": [history[-1] for history in whole]},
    }
    made = {split: datasets.Dataset.from_dict({"user_id": users, **columns[split]}) for split in splits}
    return datasets.Dataset.from_dict({"item_id": ids.tolist()}), made


def write_interactions(histories: datasets.Dataset, folder: Path) -> None:
    """Whole histories, the targets of validation and test at their ends, as RecBole's atomic file.

    RecBole cuts off two items of each user, for validation and test.
    """
    (folder / "data").mkdir()
    with open(folder / "data" / "data.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in histories:
            for place, item in enumerate([*user["item_ids"], user["target"]]):
                file.write(f"{user['user_id']}\t{item}\t{place}\n")


class Stopwatch(TrainerCallback):
    """Seconds of every epoch, and of every evaluation after it."""

    def __init__(self):
        self.epochs, self.evaluations, self.start = [], [], 0.0

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.epochs.append(time.perf_counter() - self.start)
        self.start = time.perf_counter()

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluations.append(time.perf_counter() - self.start)


def train_ours(items, train, validation, epochs: int) -> dict:
    """Epoch and evaluation seconds of IDRec."""
    config = TransRecConfig(num_items=len(items), hidden_size=64, max_seq_len=20, loss_type="full_softmax")
    model, processor = TransRecForSequentialRecommendation(config), TransRecProcessor(item_ids=items["item_id"])
    targets = sum(len(history) - 1 for history in train["item_ids"]) / len(train)
    with tempfile.TemporaryDirectory() as folder:
        args = TransRecTrainingArguments(
            output_dir=folder,
            use_cpu=True,
            num_train_epochs=epochs,
            per_device_train_batch_size=round(TARGETS_PER_BATCH / targets),
            learning_rate=1e-3,
            weight_decay=0.0,
            save_strategy="no",
            load_best_model_at_end=False,
            report_to="none",
            disable_tqdm=True,
        )
        watch = Stopwatch()
        trainer = TransRecTrainer(model, args, items, train, validation, processing_class=processor, callbacks=[watch])
        trainer.train()
    hits = [entry["eval_hr@10"] for entry in trainer.state.log_history if "eval_hr@10" in entry]
    return {"epoch_seconds": watch.epochs, "evaluation_seconds": watch.evaluations, "hr@10": hits[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="Folder of the raw files; by default data of the same shape are made.")
    parser.add_argument("--dataset_config_name", default="Amazon_Beauty")
    parser.add_argument("--venv", type=Path, help="Environment of RecBole; made where it is not there.")
    parser.add_argument("--epochs", type=int, default=3, help="Of each turn.")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--num_users", type=int, help="Only so many users.")
    parser.add_argument("--output_file", type=Path)
    args = parser.parse_args()
    made = "_made" if args.data_dir is None else ""
    args.output_file = args.output_file or RESULTS / f"recbole_sasrec{made}.json"
    datasets.disable_progress_bars()
    items, splits = load(args.dataset_config_name, args.data_dir)
    train, validation, test = (
        split if args.num_users is None else split.select(range(args.num_users)) for split in splits.values()
    )
    known = {item for user in test for item in (*user["item_ids"], user["target"])}  # that RecBole knows of
    items = items.select([row for row, item_id in enumerate(items["item_id"]) if item_id in known])
    found = {"recbole": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        python = install(args.venv or folder / "venv")
        write_interactions(test, folder)
        (folder / "worker.py").write_text(WORKER, encoding="utf-8")
        for _ in range(args.turns):
            command = [python, folder / "worker.py", folder, args.epochs, TARGETS_PER_BATCH, torch.get_num_threads()]
            done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"RecBole failed:\n{done.stderr[-3000:]}")
            found["recbole"].append(json.loads(done.stdout.splitlines()[-1]))
            found["ours"].append(train_ours(items, train, validation, args.epochs))
    record = {
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "modeling_transrec": __version__,
        },
        "recbole": found["recbole"][0].pop("versions"),
        "command": command_line({args.data_dir: "DATA", args.venv: "VENV", args.output_file: "FILE"}),
        "data": {
            "name": args.dataset_config_name,
            "made": args.data_dir is None,
            "users": len(train),
            "items": len(items),
        },
    }
    for name in ("epoch_seconds", "evaluation_seconds"):
        medians = {who: statistics.median(s for turn in turns for s in turn[name]) for who, turns in found.items()}
        record[name] = {who: round(seconds, 3) for who, seconds in medians.items()}
        record[name]["recbole ÷ ours"] = round(medians["recbole"] / medians["ours"], 2)
    if args.data_dir is not None:  # there is nothing to learn in made data
        last = {who: turns[-1]["hr@10"] for who, turns in found.items()}
        record["hr@10 of the validation split after the last epoch"] = last
    args.output_file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
