"""Reading at scale: generated pair files of any size to user sequences; time and peak memory.

    python benchmarks/data_scale.py --rows 24500000 --compare --load
    python benchmarks/data_scale.py --rows 200000000

`--compare` runs the fastest bare polars way beside it, read, sort by time alone, group by user, interleaved, in
processes of their own; `--load` also measures `load_dataset` twice, and with `--before` that of another environment
with an older version, too. Results go to `benchmarks/results/data_scale.json` and `.md`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl


RESULTS = Path(__file__).parent / "results" / "data_scale"
NUM_ITEMS = 144_146  # of Bili_2M
ACTIONS_PER_USER = 12.25


def generate(folder: Path, num_rows: int) -> None:
    """`Scale_pair.csv` in random order, popular items first, and `Scale_item.csv`."""
    rng = np.random.default_rng(0)
    num_users = max(int(num_rows / ACTIONS_PER_USER), 1)
    with open(folder / "Scale_pair.csv", "wb") as file:
        for start in range(0, num_rows, 4_000_000):
            count = min(4_000_000, num_rows - start)
            item = (NUM_ITEMS * rng.random(count) ** 2.5).astype(np.int64)
            pl.DataFrame(
                {
                    "user": rng.integers(1, num_users + 1, count),
                    "item": pl.select(pl.format("v{}", pl.Series(item))).to_series(),
                    "timestamp": rng.integers(1_480_000_000, 1_660_000_000, count),
                }
            ).write_csv(file, include_header=False)
    with open(folder / "Scale_item.csv", "w", encoding="utf-8") as file:
        file.writelines(f"v{number},标题 {number},title {number}\n" for number in range(NUM_ITEMS))


def bare_polars(folder: Path) -> dict:
    """The floor: read, sort by time alone and group, nothing checked."""
    actions = pl.read_csv(
        folder / "Scale_pair.csv",
        has_header=False,
        new_columns=["user", "item", "timestamp"],
        schema_overrides={"user": pl.String, "item": pl.String},
    )
    grouped = actions.sort("timestamp", maintain_order=True)
    grouped = grouped.group_by("user", maintain_order=True).agg("item", "timestamp")
    return {"users": grouped.height}


def ours(folder: Path) -> dict:
    """Pairs to sequences with all checks."""
    item_ids = pl.Series([f"v{number}" for number in range(NUM_ITEMS)])
    sequences = read_sequences(folder / "Scale_pair.csv", item_ids, max_actions=23, scratch_dir=folder)
    return {"users": len(sequences), "actions": len(sequences.items)}


def load(folder: Path) -> dict:
    """`load_dataset` of the sequences, all splits written as Arrow."""
    loaded = load_dataset("ninerec", "Scale", data_dir=str(folder), cache_dir=str(folder / "cache"))
    return {"users": loaded["train"].num_rows}


def _in_child(function, folder: Path, results) -> None:
    if function is not bare_polars:  # imports are not measured
        global load_dataset, read_sequences
        from datasets import disable_progress_bars, load_dataset

        from modeling_transrec.ninerec.tables.interactions import read_sequences

        disable_progress_bars()
    start, cpu = time.perf_counter(), time.process_time()
    found = function(folder)
    found["seconds"] = round(time.perf_counter() - start, 2)
    found["cpu_seconds"] = round(time.process_time() - cpu, 2)
    found["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    results.put(found)


def measure_there(python: str, folder: Path) -> dict:
    """Runs `load` in another environment."""
    command = [python, __file__, "--only_load", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(function, folder: Path) -> dict:
    """Runs a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_in_child, args=(function, folder, results))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}")
    return results.get()


def render(record: dict) -> str:
    """The results as Markdown."""
    machine = record["machine"]
    lines = [
        "# Reading at scale",
        "",
        f"Generated pairs (user, item, timestamp) in random order, {ACTIONS_PER_USER} actions a user, {NUM_ITEMS:,} "
        f"items, to sequences of at most 23 actions. {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gib']} GiB, polars {machine['polars']}. Peak is the process's largest resident memory. The "
        "machine was shared, and each process had one thread: read the CPU seconds.",
        "",
        "| rows | what | seconds | CPU seconds | peak GiB | ratio to bare polars: seconds, CPU |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    bare = {entry["rows"]: entry for entry in record["results"] if entry["what"].startswith("bare")}
    for entry in record["results"]:
        cells = [f"{entry['rows']:,}", entry["what"], f"{entry['seconds']:.1f}", f"{entry['cpu_seconds']:.1f}"]
        floor, ratio = bare.get(entry["rows"]), ""
        if floor is not None and entry is not floor:
            ratio = ", ".join(f"{entry[name] / floor[name]:.2f}" for name in ("seconds", "cpu_seconds"))
        lines.append(f"| {' | '.join([*cells, str(entry['peak_gib']), ratio])} |")
    return "\n".join([*lines, "", "```bash", *record["commands"], "```"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24_500_000)
    parser.add_argument("--compare", action="store_true", help="Run bare polars beside it.")
    parser.add_argument("--load", action="store_true", help="Measure load_dataset twice.")
    parser.add_argument("--before", metavar="PYTHON", help="Python of an environment of an older version.")
    parser.add_argument("--only_load", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output_dir", help="Folder for the generated files; by default a temporary one.")
    args = parser.parse_args()
    if args.only_load is not None:
        print(json.dumps(measure(load, args.only_load)))
        return
    file = RESULTS.with_suffix(".json")
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"results": [], "commands": []}
    record["machine"] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "polars": pl.__version__,
    }
    found = []
    with tempfile.TemporaryDirectory(dir=args.output_dir) as name:
        folder = Path(name)
        generate(folder, args.rows)
        sequences, bare = [], []
        for _ in range(args.repeats):
            sequences.append(measure(ours, folder))
            if args.compare:
                bare.append(measure(bare_polars, folder))
        if args.compare:
            found.append(("bare polars: read, sort by time, group", middle(bare)))
        found.append(("pairs to sequences, checked", middle(sequences)))
        if args.before is not None:
            found.append(("`load_dataset`, first, before", measure_there(args.before, folder)))
            shutil.rmtree(folder / "cache")
        if args.load:
            found += [(f"`load_dataset`, {which}", measure(load, folder)) for which in ("first", "second")]
    record["results"] = [entry for entry in record["results"] if entry["rows"] != args.rows]
    record["results"] += [{"rows": args.rows, "what": what, **one} for what, one in found]
    flags = "".join(f" --{name}" for name in ("compare", "load") if getattr(args, name))
    flags += "" if args.before is None else " --before PYTHON"
    command = f"python benchmarks/data_scale.py --rows {args.rows}{flags} --repeats {args.repeats}"
    record["commands"] = sorted({*record["commands"], command})
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(render(record), encoding="utf-8")
    print(RESULTS.with_suffix(".md").read_text(encoding="utf-8"))


def middle(runs: list[dict]) -> dict:
    """The run of median time."""
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


if __name__ == "__main__":
    main()
