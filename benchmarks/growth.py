"""Growth: time and memory of training, evaluation and serving against users, items and history length, on made data.

    python benchmarks/growth.py --minutes 15

Each row is measured in a process of its own and written at once; a run that is given again goes on with the rows that
are missing, and starts none after `--minutes`. `--rows users items` chooses axes, `--again` measures them anew.

Ids with shared negatives (`sampled_softmax`, 256 of them), SASRec of one layer of 32 dimensions, 512 users a batch, 64
where histories grow, popular items drawn more often. "Start" is from data sets on disk to the first step; "step" the
median of up to 60 steps, batches included; "epoch" is measured up to 200 steps, and otherwise their number times the
median; "evaluation" ranks every item, for 256 users but where users grow; "save" writes the model; "index" loads it
and makes the catalogue of a recommender; "recommend" is the median of 20 calls for one user. Seconds are CPU seconds,
of one thread where OMP_NUM_THREADS=1; peaks are the largest resident memory of each part. Content is a frozen text
backbone whose features, 64 numbers an item, lie on disk.

Results: `benchmarks/results/growth.json`, `.md` and `.png`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from timing import command_line


RESULTS = Path(__file__).parent / "results" / "growth"
BASE = {"users": 10_000, "items": 10_000, "length": 10, "kind": "id", "sparse": True, "batch": 512, "ranked": 256}
LENGTHS = {"users": 1_000, "batch": 64}
AXES = {
    "users": ("users", [{"users": n, "ranked": n} for n in (10_000, 100_000, 1_000_000)]),
    "items": ("items", [{"items": n} for n in (10_000, 100_000, 1_000_000, 10_000_000)]),
    "items, whole table": ("items", [{"items": n, "sparse": False} for n in (10_000, 100_000, 1_000_000)]),
    "items, content": ("items", [{"items": n, "kind": "text"} for n in (10_000, 100_000, 1_000_000)]),
    "history length": ("length", [{**LENGTHS, "length": n} for n in (10, 30, 100, 300, 1_000)]),
}
PARTS = ("start", "step", "epoch", "evaluation", "save", "index", "recommend")
STEPS, EPOCH_STEPS, WARM_UP = 60, 200, 3
WIDTH, FEATURES = 32, 64


def ids_of(index: np.ndarray):
    """Returns item ids as Arrow has them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise("i", pc.cast(pa.array(index), pa.string()), "")


def write(folder: Path, name: str, num_rows: int, make):
    """Writes a table part by part, and returns it as a data set on disk."""
    import datasets
    import pyarrow as pa

    path, writer = folder / f"{name}.arrow", None
    for start in range(0, num_rows, 100_000):
        part = make(start, min(start + 100_000, num_rows))
        writer = writer or pa.ipc.new_stream(str(path), part.schema)
        writer.write_table(part)
    writer.close()
    return datasets.Dataset.from_file(str(path))


def make_data(row: dict, folder: Path):
    """Returns items, training and validation histories of a row, on disk."""
    import pyarrow as pa

    rng, length = np.random.default_rng(0), row["length"]

    def items(start: int, stop: int):
        columns = {"item_id": ids_of(np.arange(start, stop))}
        return pa.table(columns | ({"text_en": ["red rope"] * (stop - start)} if row["kind"] == "text" else {}))

    def histories(start: int, stop: int, with_target: bool):
        taken = (row["items"] * rng.random((stop - start, length + 2)) ** 2.5).astype(np.int64)
        offsets = np.arange(0, (stop - start + 1) * (length + 1), length + 1, dtype=np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), ids_of(taken[:, :-1].ravel()))
        columns = {"user_id": ids_of(np.arange(start, stop)), "item_ids": lists}
        return pa.table(columns | ({"target": ids_of(taken[:, -1])} if with_target else {}))

    train = write(folder, "train", row["users"], lambda start, stop: histories(start, stop, False))
    validation = write(folder, "validation", row["ranked"], lambda start, stop: histories(start, stop, True))
    return write(folder, "items", row["items"], items), train, validation


class Clock:
    """CPU seconds, and the peak of the resident memory in GiB, of the parts of a process."""

    def __init__(self):
        self.seconds, self.peak = {}, {}

    def start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel counts the peak from here on
        self.started = time.process_time()

    def stop(self, part: str, seconds: float | None = None) -> None:
        self.seconds[part] = time.process_time() - self.started if seconds is None else seconds
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        self.peak[part] = int(status["VmHWM"].split()[0]) / 2**20


def measure(row: dict) -> dict:
    """Measures a row in this process."""
    import datasets
    from transformers import TrainerCallback

    import modeling_transrec
    from modeling_transrec import (
        Recommender,
        TransRecConfig,
        TransRecForSequentialRecommendation,
        TransRecProcessor,
        TransRecTrainer,
        TransRecTrainingArguments,
    )
    from modeling_transrec.data.cache import features_cache, features_digest
    from modeling_transrec.data.preparation import prepare_items
    from modeling_transrec.models.processing_transrec import train_tokenizer

    datasets.disable_progress_bars()
    clock, ends, num_steps = Clock(), [], -(-row["users"] // row["batch"])

    class Steps(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            if not ends:
                clock.stop("start")
                clock.start()
                ends.append(time.process_time())

        def on_step_end(self, *args, **kwargs):
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        items, train, validation = make_data(row, folder)
        fields = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 1, "max_seq_len": row["length"]}
        fields |= {"loss_type": "sampled_softmax", "num_negatives": 256}
        of_backbone = {"hidden_size": FEATURES, "num_hidden_layers": 1, "num_attention_heads": 1}
        tokenizer = train_tokenizer(["red rope"], 40) if row["kind"] == "text" else None
        if row["kind"] == "text":
            of_backbone |= {"model_type": "bert", "intermediate_size": 8, "vocab_size": len(tokenizer)}
            torch.manual_seed(0)
            model = TransRecForSequentialRecommendation(TransRecConfig(text_config=of_backbone, **fields))
            processor = TransRecProcessor(tokenizer)
            prepared = prepare_items(items, processor)
            made = features_cache() / features_digest(model, prepared) / "text_features"
            made.mkdir(parents=True)
            values = np.lib.format.open_memmap(made / "values.npy", "w+", np.float32, (row["items"], FEATURES))
            for start in range(0, row["items"], 100_000):
                shape = values[start : start + 100_000].shape
                values[start : start + 100_000] = np.random.default_rng(start).standard_normal(shape, np.float32)
            values.flush()
        clock.start()
        if row["kind"] == "id":
            processor = TransRecProcessor(item_ids=items["item_id"])
            model = TransRecForSequentialRecommendation(TransRecConfig(num_items=row["items"], **fields))
        args = TransRecTrainingArguments(
            str(folder / "out"),
            per_device_train_batch_size=row["batch"],
            max_steps=num_steps if num_steps <= EPOCH_STEPS else STEPS,
            learning_rate=1e-3,
            weight_decay=0.0,
            sparse_id_table=row["kind"] == "id" and row["sparse"],
            freeze_backbone=row["kind"] == "text",
            item_batch_size=4096,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            use_cpu=True,
            disable_tqdm=True,
            report_to=[],
        )
        trainer = TransRecTrainer(
            model, args, items, train, validation, processing_class=processor, callbacks=[Steps()]
        )
        trainer.train()
        steps = np.diff(ends)
        clock.stop("step", statistics.median(steps[WARM_UP:] if len(steps) > 2 * WARM_UP else steps))
        measured = num_steps <= EPOCH_STEPS
        clock.seconds["epoch"] = steps.sum() if measured else num_steps * clock.seconds["step"]
        clock.start()
        found = trainer.evaluate()
        clock.stop("evaluation")
        clock.start()
        trainer.save_model(str(folder / "model"))
        clock.stop("save")
        del trainer, model, processor
        clock.start()
        recommender = Recommender.from_pretrained(folder / "model").index(items, chunk_size=4096)
        clock.stop("index")
        clock.start()
        history, calls = train[0]["item_ids"], []
        for _ in range(20):
            start = time.process_time()
            assert len(recommender.recommend(history, k=10)) == 10
            calls.append(time.process_time() - start)
        clock.stop("recommend", statistics.median(calls))
    assert modeling_transrec and found["eval_hr@10"] >= 0
    return {
        "seconds": {part: float(f"{value:.4g}") for part, value in clock.seconds.items()},
        "peak GiB": {part: round(value, 3) for part, value in clock.peak.items()},
        "whole epoch": measured,
    }


def points(record: dict, axis: str, unit: str, part: str) -> list[tuple[int, float]]:
    """Returns what was measured along an axis, in its order."""
    field, rows = AXES[axis]
    found = [({**BASE, **row}[field], record["rows"].get(key(axis, row))) for row in rows]
    return [(size, one[unit][part]) for size, one in found if one is not None and part in one[unit]]


def key(axis: str, row: dict) -> str:
    return f"{axis}: {({**BASE, **row})[AXES[axis][0]]:,}"


def slopes(found: list[tuple[int, float]]) -> tuple[float, list[float]]:
    """Returns the slope of the line through all points on log-log paper, and those between neighbours."""
    x, y = np.log10(np.array(found)).T
    return float(np.polyfit(x, y, 1)[0]), list(np.diff(y) / np.diff(x))


def draw(record: dict) -> None:
    """Draws CPU seconds and memory against each axis on log-log paper."""
    import matplotlib.pyplot as plt

    axes = [axis for axis in AXES if len(points(record, axis, "seconds", "step")) > 1]
    figure, panels = plt.subplots(2, len(axes), figsize=(3.2 * len(axes), 6), squeeze=False, sharex="col")
    for column, axis in enumerate(axes):
        for line, unit in enumerate(("seconds", "peak GiB")):
            panel = panels[line][column]
            for part in PARTS:
                found = points(record, axis, unit, part)
                if found:
                    options = {"color": f"C{PARTS.index(part)}", "markersize": 3, "linewidth": 1, "label": part}
                    panel.loglog(*zip(*found, strict=True), "o-", **options)
            panel.grid(alpha=0.3)
            panel.set_ylabel({"seconds": "CPU seconds"}.get(unit, unit) if column == 0 else "")
        panels[0][column].set_title(axis)
        panels[1][column].set_xlabel(AXES[axis][0])
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=110)


def render(record: dict) -> str:
    """Returns the results as Markdown."""
    lines = [
        "# Growth",
        "",
        f"{__doc__.split(chr(10) + chr(10))[3].replace(chr(10), ' ')} {record['machine']}. The machine was shared, "
        "each row is of one run: differences of a quarter say nothing.",
        "",
        "![CPU seconds and memory on log-log paper](growth.png)",
        "",
    ]
    for axis, (field, rows) in AXES.items():
        sizes = [f"{({**BASE, **row})[field]:,}" for row in rows if key(axis, row) in record["rows"]]
        if not sizes:
            continue
        lines += [f"## By {axis}", "", f"| {field} | {' | '.join(sizes)} | slope | between neighbours |"]
        lines.append(f"|---|{'---:|' * (len(sizes) + 1)}---|")
        for unit, word in (("seconds", "CPU s"), ("peak GiB", "peak GiB")):
            for part in PARTS:
                found = points(record, axis, unit, part)
                if len(found) < 2:
                    continue
                slope, between = slopes(found)
                cells = [f"{value:.3g}" for _, value in found] + [""] * (len(sizes) - len(found))
                betweens = ", ".join(f"{one:.2f}" for one in between)
                lines.append(f"| {part}, {word} | {' | '.join(cells)} | {slope:.2f} | {betweens} |")
        lines.append("")
    if record["notes"]:
        lines += ["## Bends", "", *(f"- {note}" for note in record["notes"]), ""]
    return "\n".join([*lines, "```bash", *record["commands"], "```"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15, help="No row is started after so long.")
    parser.add_argument("--rows", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--most", type=int, default=10**9, help="No row of a larger size.")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # of a child
    args = parser.parse_args()
    if args.row is not None:
        print(json.dumps(measure(json.loads(args.row))))
        return
    file, start = RESULTS.with_suffix(".json"), time.monotonic()
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": {}, "notes": []}
    record["machine"] = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    for axis in args.rows:
        for row in AXES[axis][1]:
            name, whole = key(axis, row), {**BASE, **row}
            if (name in record["rows"] and not args.again) or whole[AXES[axis][0]] > args.most:
                continue
            if time.monotonic() - start > 60 * args.minutes:
                break
            command = [sys.executable, __file__, "--row", json.dumps(whole)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            if done.returncode:
                raise RuntimeError(f"{name}:\n{done.stderr[-3000:]}")
            record["rows"][name] = json.loads(done.stdout.splitlines()[-1])
            print(name, record["rows"][name], flush=True)
            record["commands"] = sorted({*record.get("commands", []), command_line({})})
            file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(record)
    RESULTS.with_suffix(".md").write_text(render(record), encoding="utf-8")
    print(render(record))


if __name__ == "__main__":
    main()
