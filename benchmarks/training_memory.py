"""Does training memory grow with the number of users? An id model on 100,000 and on 1,000,000 users.

    python benchmarks/training_memory.py

Memory of the process's own (anonymous) pages; pages of the memory-mapped data set come and go as the system likes.
Results: `benchmarks/results/training_memory.json` and `.md`.
"""

import argparse
import json
import tempfile
from pathlib import Path

from data_scale import ACTIONS_PER_USER, generate, measure
from datasets import disable_progress_bars

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
    load_items,
    load_sequences,
)


RESULTS = Path(__file__).parent / "results" / "training_memory"


def own_memory() -> float:
    """Anonymous memory of this process in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def load(folder: Path) -> tuple:
    """Items and training histories, from the cache where they are there."""
    options = {"data_dir": str(folder), "cache_dir": str(folder / "cache")}
    return load_items("ninerec", "Scale", **options), load_sequences("ninerec", "Scale", "train", **options)


def prepare(folder: Path) -> dict:
    """Builds the data set, in a process of its own."""
    disable_progress_bars()
    return {"users": len(load(folder)[1])}


def train(folder: Path) -> dict:
    """A few steps of training; memory before the data is opened, and after."""
    disable_progress_bars()
    before = own_memory()
    items, histories = load(folder)
    config = TransRecConfig(num_items=len(items), hidden_size=32, loss_type="in_batch")
    processor = TransRecProcessor(item_ids=items["item_id"])
    arguments = TransRecTrainingArguments(
        output_dir=str(folder / "model"),
        max_steps=50,
        per_device_train_batch_size=128,
        use_cpu=True,
        disable_tqdm=True,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
    )
    model = TransRecForSequentialRecommendation(config)
    trainer = TransRecTrainer(model, arguments, items, histories, processing_class=processor)
    ready = own_memory()
    trainer.train()
    return {"opened_mib": round(ready - before), "trained_mib": round(own_memory() - before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[100_000, 1_000_000])
    args = parser.parse_args()
    results = []
    for users in args.users:
        with tempfile.TemporaryDirectory() as name:
            generate(Path(name), int(users * ACTIONS_PER_USER))
            made, _ = measure(prepare, Path(name)), measure(train, Path(name))  # the first run fills the caches
            results.append({**made, **measure(train, Path(name))})
            print(results[-1], flush=True)
    lines = [
        "# Training memory against the number of users",
        "",
        "Id model of width 32, 144,146 items; memory of the process's own pages beyond what imports take.",
        "",
        "| users | data and model opened, MiB | after 50 steps, MiB |",
        "|---:|---:|---:|",
        *(f"| {entry['users']:,} | {entry['opened_mib']} | {entry['trained_mib']} |" for entry in results),
        "",
        "```bash",
        f"python benchmarks/training_memory.py --users {' '.join(map(str, args.users))}",
        "```",
    ]
    RESULTS.with_suffix(".json").write_text(json.dumps({"results": results}, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
