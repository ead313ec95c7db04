"""Indexes of a recommender beside a bare matrix-vector product and top-k: how fast they are, and what they find.

    OMP_NUM_THREADS=1 python benchmarks/indexes.py speed --num_items 10000 100000 1000000 --rounds 65
    OMP_NUM_THREADS=1 python benchmarks/indexes.py speed --num_items 10000 100000 --rounds 65 --conninfo CONNINFO
    OMP_NUM_THREADS=1 python benchmarks/indexes.py speed --num_items 10000 100000 --only exact --version NAME
    OMP_NUM_THREADS=1 python benchmarks/indexes.py quality --datasets Industrial --data_dir DATA \\
        --text_model_name_or_path MODEL --conninfo CONNINFO
    python benchmarks/indexes.py page

`speed` asks a recommender of made items of width 128 for the ten best of one user. All rows take turns, user by user;
times are those of this thread on the CPU. The forward pass of the user encoder alone (SASRec, two layers, ten items)
and the user embedding, for which the recommender also gathers the items and checks what it gets, are timed by
themselves, because no index changes them. PostgreSQL is timed where `--conninfo` names one with pgvector on this
machine; the time of its process is added, and `max_parallel_workers_per_gather=0` keeps it to one. Qdrant is the index
in its client, which looks at every item in Python; no server of it was timed. Versions of the package are compared by
`--version`, which puts the results into tables of their own; the package is the one on PYTHONPATH. `quality` ranks the
test split of real data by content kNN. Results are added to `benchmarks/results/indexes.json`; `page` makes
`indexes.md` of them.
"""

import argparse
import json
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import serving_load
import torch

from modeling_transrec import Recommender
from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.models.histories import Histories
from modeling_transrec.serving.indexes import INDEXES


RESULTS = Path(__file__).parent / "results" / "indexes.json"
WIDTH, K = 128, 10
# Rows of the tables, with options, and the most items that are tried: building a graph takes long.
ROWS = {
    "exact": ("exact", {}, 10**7),
    "FAISS Flat": ("faiss", {"string_factory": "Flat"}, 10**7),
    "FAISS IVF256,Flat": ("faiss", {"string_factory": "IVF256,Flat"}, 10**5),
    "int8, rescored": ("int8", {}, 10**7),
    "binary, rescored": ("binary", {}, 10**7),
    "usearch": ("usearch", {}, 15_000),
    "Qdrant's client": ("qdrant", {}, 10**5),
    "pgvector": ("pgvector", {"table": "every_item"}, 10**5),
    "pgvector, HNSW": ("pgvector", {"table": "by_graph", "hnsw": True}, 15_000),
}


def add(section: str, key: str, value: dict) -> None:
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    record.setdefault(section, {})[key] = value
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(section, key, value, flush=True)


def searched_by(
    recommender: Recommender, num_items: int, conninfo: str | None, only: list[str] | None = None
) -> dict[str, Recommender]:
    """Returns recommenders of the same catalogue, one for each row."""
    found = {}
    for name, (index, options, most) in ROWS.items():
        if index == "pgvector":
            if conninfo is None:
                continue
            options = {**options, "conninfo": conninfo}
        if num_items <= most and name in (only or ROWS):
            other = Recommender(recommender.model, recommender.processor)
            other.reads_features = recommender.reads_features
            other.restore(recommender.snapshot)
            start = time.perf_counter()
            found[name] = other.search_with(index, **options)
            print(name, "built in", round(time.perf_counter() - start, 1), "s", flush=True)
    return found


def milliseconds(function, row: Recommender | None = None) -> tuple[float, Any]:
    """Returns what a function takes of the CPU, here and in the server that a recommender searches with."""
    index = getattr(row.snapshot.scorer.nearest, "index", None) if row is not None else None
    server = [index._reading._opened.info.backend_pid] if isinstance(index, INDEXES["pgvector"]) else []
    clocks = [time.CLOCK_THREAD_CPUTIME_ID, *((~process << 3) | 2 for process in server)]  # clock_getcpuclockid(3)
    start = sum(map(time.clock_gettime, clocks))
    result = function()
    return (sum(map(time.clock_gettime, clocks)) - start) * 1e3, result


@torch.inference_mode()
def speed(args: argparse.Namespace) -> None:
    serving_load.WIDTH = WIDTH
    for num_items in args.num_items:
        recommender = serving_load.make_recommender(num_items)
        scorer, encoder = recommender.scorer, recommender.model.user_encoder
        rows = searched_by(recommender, num_items, args.conninfo, args.only)
        times: dict[str, list[float]] = {}
        hits: dict[str, list[float]] = {name: [] for name in rows}
        for history in serving_load.make_histories(args.rounds, num_items):
            histories = recommender.snapshot.histories_as_indices([history])
            items, mask = scorer.item_embeddings[histories], histories >= 0
            spent, _ = milliseconds(lambda: encoder.last(items, Histories(mask)))  # noqa: B023
            times.setdefault("forward", []).append(spent)
            spent, queries = milliseconds(lambda: scorer.queries(histories))  # noqa: B023
            times.setdefault("user embedding", []).append(spent)
            spent, _ = milliseconds(lambda: (queries @ scorer.candidates.T).topk(K))  # noqa: B023
            times.setdefault("bare", []).append(spent)
            best = {one["item_id"] for one in recommender.recommend(history, k=K)}
            for name, row in rows.items():
                spent, found = milliseconds(lambda: row.recommend(history, k=K), row)  # noqa: B023
                times.setdefault(name, []).append(spent)
                hits[name].append(len(best & {one["item_id"] for one in found}) / K)
        bare, forward = np.array(times["bare"][5:]), np.array(times["forward"][5:])
        if args.version is not None:
            times["bare + forward"] = [sum(both) for both in zip(times["bare"], times["forward"], strict=True)]
        for name, values in times.items():
            ours = np.array(values[5:])
            value = {"p50 ms": np.median(ours), "p99 ms": np.quantile(ours, 0.99)}
            if name == "bare + forward":
                value["÷ bare"] = np.median(ours / bare)
            if name in rows:
                value |= {"÷ bare": np.median(ours / bare), "p99 ÷ p99": value["p99 ms"] / np.quantile(bare, 0.99)}
                value |= {"÷ (bare + forward)": np.median(ours / (bare + forward)), "recall@10": np.mean(hits[name])}
            section = f"{num_items:,} items" + (f", {args.version}" if args.version else "")
            add(section, name, {key: float(f"{one:.3g}") for key, one in value.items()})


def quality(args: argparse.Namespace) -> None:
    for dataset in args.datasets:
        data = DataArguments(dataset_config_name=dataset, data_dir=args.data_dir)
        items = data.load_items(50)
        recommender = Recommender.from_backbone(args.text_model_name_or_path).index(items)
        users = data.load_sequences("test", 50).select(range(args.num_users))
        histories, targets = users["item_ids"][:], users["target"][:]
        whole = recommender.recommend(histories, k=K)
        for name, row in searched_by(recommender, len(items), args.conninfo).items():
            gains, hits, seconds = [], [], []
            for history, target, best in zip(histories, targets, whole, strict=True):
                spent, found = milliseconds(lambda: row.recommend(history, k=K), row)  # noqa: B023
                ids = [one["item_id"] for one in found]
                gains.append(1 / np.log2(2 + ids.index(target)) if target in ids else 0.0)
                hits.append(len({one["item_id"] for one in best} & set(ids)) / K)
                seconds.append(spent)
            value = {"NDCG@10": round(float(np.mean(gains)), 4), "recall@10": round(float(np.mean(hits)), 4)}
            value["p50 ms"] = float(f"{np.median(seconds):.3g}")
            add(f"{dataset}, {len(items):,} items, {len(users):,} users", name, value)


def page(args: argparse.Namespace) -> None:
    lines = ["# Indexes", ""]
    lines += [
        "Made by `benchmarks/indexes.py`, one thread of a busy machine. Times: CPU, for the ten best",
        "items of one user; all rows of a table took turns. *Bare*: one matrix-vector product and `topk`. `recommend`",
        "also makes the user embedding, which is timed by itself in the tables of made items, and so is the user",
        "encoder's own *forward* pass: SASRec, two layers of width 128, ten items. Ratios are medians over users.",
        "Recall is against `exact`. pgvector's rows have the time of PostgreSQL's process, too; HNSW is its graph.",
        "Qdrant's client has an index in Python, which looks at every item; no server of Qdrant was timed.",
        "",
        "`recommend` cannot take less than *bare + forward*, one sum a user. The aim of 1.5 × bare is met at 100,000",
        "items; at 10,000 *bare + forward* alone is more. *After* makes the attention mask and gathers the items in",
        "fewer operations, which changes the user embedding by some percent and `recommend` by less than the noise.",
    ]
    for section, rows in json.loads(RESULTS.read_text()).items():
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        lines += ["", f"## {section}", "", f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
        lines += [f"| {key} | {' | '.join(str(row.get(name, '')) for name in names)} |" for key, row in rows.items()]
        if "user embedding" in rows and "forward" not in rows:
            lines += [
                "",
                "Measured before the forward pass was timed by itself, and before `recommend` took less beside it.",
            ]
    lines += ["", "```bash", textwrap.dedent((__doc__ or "").split("\n\n")[1]), "```"]
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "quality", "page"])
    parser.add_argument("--num_items", type=int, nargs="+", default=[10_000])
    parser.add_argument("--rounds", type=int, default=205, help="Users asked for; the first five warm up.")
    parser.add_argument("--only", nargs="+", choices=[*ROWS], help="Rows (default: all).")
    parser.add_argument("--version", help="Name of the version of the package, such as its commit.")
    parser.add_argument("--datasets", nargs="+", default=["Industrial"])
    parser.add_argument("--num_users", type=int, default=1000, help="Users of the test split.")
    parser.add_argument("--conninfo", help="Of a PostgreSQL with pgvector on this machine, in the words of libpq.")
    parser.add_argument("--data_dir")
    parser.add_argument("--text_model_name_or_path")
    args = parser.parse_args()
    torch.set_num_threads(1)
    globals()[args.part](args)


if __name__ == "__main__":
    main()
