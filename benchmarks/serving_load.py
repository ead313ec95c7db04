"""A recommender under load: answers, changes, thousands of users at once, threads; with a million items.

    OMP_NUM_THREADS=1 python benchmarks/serving_load.py
    OMP_NUM_THREADS=1 python benchmarks/serving_load.py --before CHECKOUT  # of 36b1536, in the results
    OMP_NUM_THREADS=1 python benchmarks/serving_load.py --only observe replay --before CHECKOUT  # of 8249826
    OMP_NUM_THREADS=1 python benchmarks/serving_load.py --only replay_more

Items and users are made; each measurement runs in a process of its own. Times are of the CPU, memory is what a process
takes beside the catalogue. `--before` measures the package of another checkout, too, each before ours. Results:
`benchmarks/results/serving_load.json` and `.md`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import torch

from modeling_transrec import Recommender, TransRecConfig, TransRecModel, TransRecProcessor, train_tokenizer
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation.scoring import CatalogueScorer
from modeling_transrec.hub.facts import checkpoint_hash
from modeling_transrec.serving.catalogue import Catalogue
from modeling_transrec.serving.service import Service


RESULTS = Path(__file__).parent / "results" / "serving_load"
ROOT = Path(__file__).parents[1]
WIDTH = 64
TEXT_CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
KINDS = ("plain", "normalised", "centred")


def make_recommender(
    num_items: int, kind: str = "plain", counts: bool = False, faiss: str | None = None
) -> Recommender:
    """Returns a recommender of items in clusters, whose items do not have to be encoded."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, WIDTH, generator=generator)
    embeddings = centres[torch.randint(1000, (num_items,), generator=generator)]
    embeddings += torch.randn(num_items, WIDTH, generator=generator)
    tokenizer = train_tokenizer(["red rope", "blue shoe"], vocab_size=60)
    normalised = {"normalize_scores": True, "temperature": 0.1} if kind == "normalised" else {}
    text_config = {**TEXT_CONFIG, "vocab_size": len(tokenizer)}
    model = TransRecModel(TransRecConfig(text_config=text_config, hidden_size=WIDTH, max_seq_len=10, **normalised))
    recommender = Recommender(model, TransRecProcessor(tokenizer))
    item_ids = [f"item {number}" for number in range(num_items)]
    means = {"user_mean": torch.full((WIDTH,), 0.1)} if kind == "centred" else {}
    scorer = CatalogueScorer(model, embeddings, **means)
    if counts:
        rng = np.random.default_rng(0)
        items = (num_items * rng.random((50_000, 10)) ** 2).astype(int)
        histories = [[item_ids[item] for item in one] for one in items]
        scorer = scorer.replace(transitions=Transitions.from_sequences(histories, item_ids))
    items = datasets.Dataset.from_dict({"item_id": item_ids, "text_en": ["red rope"] * num_items})
    recommender._use(Catalogue.build(items, scorer, checkpoint_hash(model, recommender.processor)))
    if faiss is not None:
        recommender.search_with_faiss(faiss)
    return recommender


def make_histories(num_users: int, num_items: int) -> list[list[str]]:
    items = np.random.default_rng(1).integers(num_items, size=(num_users, 10))
    return [[f"item {item}" for item in one] for one in items.tolist()]


def memory(name: str) -> float:
    """Returns memory of this process in MiB: `VmRSS` is now, `VmHWM` the most since it was last reset."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) / 1024


def peak_of(function) -> dict:
    """Returns the seconds that a function takes, and the MiB that it takes beside what lies there already."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.process_time()
    function()
    return {"s": time.process_time() - start, "MiB": memory("VmHWM") - before}


def recommend(num_items: int, kind: str) -> dict:
    """The ten best items of one user."""
    recommender, seconds = make_recommender(num_items, kind), []
    for history in make_histories(23, num_items):
        start = time.process_time()
        recommender.recommend(history)
        seconds.append(time.process_time() - start)
    return {"ms": statistics.median(seconds[3:]) * 1e3}


def change(num_items: int, counts: bool = False, faiss: str | None = None) -> dict:
    """Adding a thousand items, beside encoding them, and removing ten."""
    recommender = make_recommender(num_items, counts=counts, faiss=faiss)
    encode, encoding, added, removed = recommender._encode, [], [], []

    def timed(*args, **kwargs):
        start = time.process_time()
        try:
            return encode(*args, **kwargs)
        finally:
            encoding.append(time.process_time() - start)

    recommender._encode = timed
    for number in range(3):
        items = [{"item_id": f"new {number} {one}", "text_en": "red rope"} for one in range(1000)]
        start = time.process_time()
        recommender.add_items(items)
        added.append(time.process_time() - start - encoding[-1])
        start = time.process_time()
        recommender.remove_items([f"new {number} {one}" for one in range(10)])
        removed.append(time.process_time() - start)
    times = {"add 1,000 items, ms": added, "remove 10 items, ms": removed, "encode 1,000 items, ms": encoding}
    return {name: statistics.median(values[1:]) * 1e3 for name, values in times.items()}


def many(num_items: int, num_users: int) -> dict:
    """Many users in one call."""
    recommender, histories = make_recommender(num_items), make_histories(num_users, num_items)
    recommender.recommend(histories[:2])
    return peak_of(lambda: recommender.recommend(histories))


def threads(num_items: int, num_threads: int) -> dict:
    """Threads that recommend to fifty users each, in one call."""
    recommender = make_recommender(num_items)
    recommender.recommend(make_histories(2, num_items))
    histories = make_histories(50 * num_threads, num_items)
    running = [
        threading.Thread(target=recommender.recommend, args=(histories[50 * number : 50 * number + 50],))
        for number in range(num_threads)
    ]

    def run() -> None:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    return peak_of(run)


def questions(num_items: int) -> dict:
    """Sixty-four questions, one call each and all in one: scores of a hundred items, items like one."""
    recommender, histories = make_recommender(num_items), make_histories(64, num_items)
    wanted = [one for history in make_histories(10, num_items) for one in history]
    first = [history[0] for history in histories]
    ways = {
        "score, 64 calls, ms": lambda: [recommender.score(history, wanted) for history in histories],
        "score, one call, ms": lambda: recommender.score(histories, [wanted] * 64),
        "similar_items, 64 calls, ms": lambda: [recommender.similar_items(item_id) for item_id in first],
        "similar_items, one call, ms": lambda: recommender.similar_items(first),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(12):
        for name, ask in ways.items():
            start = time.process_time()
            ask()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) * 1e3 for name, values in seconds.items()}


def make_clicks(number: int, num_items: int) -> list[dict]:
    generator = np.random.default_rng(2)
    users, items = generator.integers(5_000, size=number), (num_items * generator.random(number) ** 2).astype(int)
    return [
        {"user_id": f"user {user}", "item_id": f"item {item}", "timestamp": 1_700_000_000 + second}
        for second, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True))
    ]


def observe(num_items: int) -> dict:
    """Calls of `Recommender.observe` with one interaction each."""
    recommender, seconds = make_recommender(num_items, counts=True), []
    for click in make_clicks(220, num_items):
        start = time.process_time()
        recommender.observe({name: [value] for name, value in click.items()})
        seconds.append(time.process_time() - start)
    return {"one call, ms": statistics.median(seconds[20:]) * 1e3}


def replay(num_items: int, num_events: int) -> dict:
    """Starts of a service whose log has interactions, one an event, beside loading its checkpoint."""
    recommender = make_recommender(num_items, counts=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "events.jsonl")
        with file.open("w", encoding="utf-8") as log:
            for click in make_clicks(num_events, num_items):
                log.write(json.dumps({"time": 0, "kind": "observe", "interactions": [click]}) + "\n")
        start = time.process_time()
        service = Service(lambda: recommender, file)
        seconds = time.process_time() - start
        service.close()
    return {"s": seconds}


def replay_more(num_items: int, num_events: int) -> dict:
    """The same with more events; what came before would take minutes."""
    return replay(num_items, num_events)


MEASUREMENTS: list[tuple[str, dict]] = [
    *(("change", {"num_items": 1_000_000, **more}) for more in ({}, {"counts": True}, {"faiss": "Flat"})),
    *(("questions", {"num_items": number}) for number in (10_000, 100_000, 1_000_000)),
    ("many", {"num_items": 1_000_000, "num_users": 2_000}),
    ("many", {"num_items": 10_000, "num_users": 100_000}),
    ("threads", {"num_items": 1_000_000, "num_threads": 16}),
    ("observe", {"num_items": 10_000}),
    ("replay", {"num_items": 10_000, "num_events": 10_000}),
    ("replay_more", {"num_items": 10_000, "num_events": 100_000}),
    *(("recommend", {"num_items": number, "kind": kind}) for number in (1_000_000, 100_000) for kind in KINDS),
]


def measure(name: str, arguments: dict, checkout: Path) -> dict:
    """Measures the package of a checkout, in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--arguments", json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_words(argument: tuple) -> str:
    name, value = argument
    return f"{value:,} {name.removeprefix('num_')}" if name.startswith("num_") else name if value is True else value


def render(record: dict) -> str:
    lines = [
        "# Serving under load",
        "",
        f"Made items of width {WIDTH}, one thread. Milliseconds and seconds of the CPU; MiB beside the catalogue.",
        "",
        "```bash",
        textwrap.dedent((__doc__ or "").split("\n\n")[1]),
        "```",
    ]
    for name in dict.fromkeys(row["what"] for row in record["results"]):
        lines += ["", f"## {' '.join((globals()[name].__doc__ or '').split())}", "", "| | before | now | ratio |"]
        lines += ["|---|---:|---:|---:|"]
        for row in (row for row in record["results"] if row["what"] == name):
            about = ", ".join(map(in_words, row["arguments"].items()))
            for unit, now in row["now"].items():
                before = row["before"].get(unit)
                then, ratio = ("", "") if before is None else (f"{before:,.3g}", f"{now / before:.3g}")
                lines.append(f"| {about}: {unit} | {then} | {now:,.3g} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="A checkout of the version to compare with.")
    parser.add_argument("--only", nargs="+", help="Measurements (default: all).")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", type=json.loads, default={}, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        torch.set_num_threads(1)
        datasets.disable_progress_bars()
        print(json.dumps(globals()[args.measure](**args.arguments)))
        return
    file = RESULTS.with_suffix(".json")
    record = json.loads(file.read_text()) if file.exists() else {"results": []}
    for name, arguments in MEASUREMENTS:
        if args.only is not None and name not in args.only:
            continue
        row = {"what": name, "arguments": arguments}
        row["before"] = measure(name, arguments, args.before) if args.before else {}
        row["now"] = measure(name, arguments, ROOT)
        print(row, flush=True)
        same = [one for one in record["results"] if (one["what"], one["arguments"]) == (name, arguments)]
        record["results"] = [one for one in record["results"] if one not in same] + [row]
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
