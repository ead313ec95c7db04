"""What needs no training: content kNN and counted transitions, how each setting matters, and growth with users.

    python benchmarks/without_training.py tables --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py ablation --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py growth --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/without_training.py counting --rows 24500000

`tables` chooses on the validation split and reads the test split once. `ablation` changes one setting at a time and
looks at the validation split only. `growth` counts the transitions of n users, chooses on their validation items and
tests on other users. `counting` times transitions of generated interactions beside `scipy`. Results are added to
`benchmarks/results/without_training.json`, from which `.md` and `.png` are made.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import scipy.sparse

from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.data.transitions import Transitions, TransitionSettings, count_pairs
from modeling_transrec.evaluation.arguments import EvaluationArguments
from modeling_transrec.evaluation.evaluate import evaluate
from modeling_transrec.evaluation.evaluator import FullRankingEvaluator
from modeling_transrec.evaluation.untrained import Untrained, load_content_model, read_content


RESULTS = Path(__file__).parent / "results" / "without_training"
ROWS = ("popularity", "last-item-transitions", "transitions", "content-knn", "content-and-transitions")
USERS = 5_000  # looked at by ablation and growth
UNCUT = 1_000  # no history of these data sets is longer


def add(section: str, key: str, value) -> None:
    """Adds a result to the file, and renders the page anew."""
    file = RESULTS.with_suffix(".json")
    record = json.loads(file.read_text()) if file.exists() else {}
    record.setdefault(section, {})[key] = value
    file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    RESULTS.with_suffix(".md").write_text(render(record))
    print(key, value, flush=True)


def tables(name: str, args: argparse.Namespace) -> None:
    """Metrics on the test split, everything chosen on validation."""
    data = DataArguments(dataset_config_name=name, data_dir=args.data_dir, split_strategy=args.split_strategy)
    for row in ROWS:
        backbone = {"text_model_name_or_path": args.text_model} if row.startswith("content") else {}
        start = time.perf_counter()
        found = evaluate(EvaluationArguments(row, eval_ks=[10], max_seq_len=UNCUT, use_cpu=True, **backbone), data)
        scoring = found["protocol"].get("scoring", {})
        scoring.get("content", {}).pop("source", None)
        value = {"hr@10": found["metrics"]["hr@10"], "ndcg@10": found["metrics"]["ndcg@10"], "scoring": scoring}
        value["seconds"] = round(time.perf_counter() - start, 1)
        value["num_candidates"] = found["protocol"]["num_candidates"]
        add("tables", f"{name}{' by time' if args.split_strategy == 'temporal' else ''} | {row}", value)


class Platform:
    """A data set, its features and evaluators of some of its users."""

    def __init__(self, name: str, args: argparse.Namespace):
        data = DataArguments(dataset_config_name=name, data_dir=args.data_dir)
        self.items, self.training = data.load_items(UNCUT), data.load_training_histories()
        model, processor = load_content_model(args.text_model)
        self.content = read_content(model, processor, self.items)
        self.splits = {split: data.load_sequences(split, UNCUT) for split in ("validation", "test")}
        self.order = np.random.default_rng(0).permutation(len(self.training))

    def evaluator(self, split: str, users: np.ndarray) -> FullRankingEvaluator:
        return FullRankingEvaluator(self.items, self.splits[split].select(np.sort(users)), ks=[10], split=split)

    def count(self, users: np.ndarray | None = None, **settings) -> Transitions:
        training = self.training if users is None else self.training.select(np.sort(users))
        return Transitions.from_sequences(training, self.items["item_id"][:], **settings)


def ablation(name: str, args: argparse.Namespace) -> None:
    """NDCG@10 of users of the validation split; one setting is changed at a time."""
    platform = Platform(name, args)
    validation = platform.evaluator("validation", platform.order[:USERS])

    def show(setting: str, value, scorer) -> None:
        add("ablation", f"{name} | {setting} | {value}", round(validation.rank(scorer)["ndcg@10"], 5))

    content = {"power": 0.75, "history_decay": 0.7}
    for setting, values in {"power": (0.0, 0.25, 0.5, 0.75, 1.0), "history_decay": (0.4, 0.6, 0.7, 0.8, 1.0)}.items():
        for value in values:
            show(f"content: {setting}", value, platform.content.fit(**{**content, setting: value}))
    dense = platform.content.fit(**content)
    changes = {
        "window": (1, 5, 20, 50),
        "decay": (0.7, 0.9, 1.0),
        "backward": (0.0, 0.5, 1.0),
        "power": (0.0, 0.3, 0.5, 0.7),
        "history_decay": (0.3, 0.5, 0.6, 0.7, 0.9),
    }
    for setting, values in changes.items():
        for value in values:
            transitions = platform.count(**{setting: value})
            show(
                f"content and transitions: {setting}",
                value,
                dense.replace(transitions=transitions, transition_weight=2),
            )
    transitions = platform.count()
    for weight in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        show(
            "content and transitions: weight", weight, dense.replace(transitions=transitions, transition_weight=weight)
        )


def growth(name: str, args: argparse.Namespace) -> None:
    """NDCG@10 of other users, by how many users the platform has."""
    platform = Platform(name, args)
    others = platform.order[: min(USERS, len(platform.order) // 4)]
    rest = platform.order[len(others) :]
    test = platform.evaluator("test", others)
    for count in [*(n for n in (200, 500, 1_000, 2_000, 5_000, 10_000, 20_000) if n < len(rest)), len(rest)]:
        users = rest[:count]
        made = Untrained(platform.count(users), platform.evaluator("validation", users), platform.content, UNCUT)
        for row in ("transitions", "content-knn", "content-and-transitions"):
            add("growth", f"{name} | {row} | {count}", round(test.rank(made.build(row)[0])["ndcg@10"], 5))


def counting(args: argparse.Namespace) -> None:
    """Seconds of one thread and peak memory; run it in a process of its own for each way."""
    rng, num_items = np.random.default_rng(0), 144_000
    lengths = 5 + rng.geometric(1 / 8, size=args.rows // 12 + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = offsets[: np.searchsorted(offsets, args.rows) + 1].astype(np.int64)
    share = 1 / (np.arange(num_items) + 50) ** 0.9
    drawn = rng.random(offsets[-1])
    items = np.searchsorted(np.cumsum(share / share.sum()), drawn).clip(max=num_items - 1).astype(np.int32)
    del drawn
    start, cpu = time.perf_counter(), time.process_time()
    if args.way == "ours":
        num_pairs = len(count_pairs(items, offsets, num_items, TransitionSettings(), num_threads=1).columns)
    else:
        num_pairs = count_with_scipy(items, offsets, num_items).nnz
    add(
        "counting",
        f"{args.way} | {len(items):,}",
        {
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "pairs": num_pairs,
        },
    )


def count_with_scipy(items: np.ndarray, offsets: np.ndarray, num_items: int) -> scipy.sparse.csr_matrix:
    """The fastest bare way that was found: all pairs at once as coordinates, and the way back as the transpose."""
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    parts = []
    for distance in range(1, 21):
        same = users[:-distance] == users[distance:]
        earlier, later = items[:-distance][same], items[distance:][same]
        parts.append((earlier, later, np.full(len(earlier), 0.9 ** (distance - 1), np.float32)))
    rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    forward = scipy.sparse.csr_matrix((values, (rows, columns)), shape=(num_items, num_items))
    return forward + 0.5 * forward.T.tocsr()


def render(record: dict) -> str:
    """Returns the page as Markdown."""
    lines = [
        "# Without training",
        "",
        "Made by `benchmarks/without_training.py`; frozen all-MiniLM-L6-v2, mean pooling.",
        "",
    ]
    if "tables" in record:
        lines += ["## Test split, everything chosen on validation", ""]
        lines += ["| data set | | HR@10 | NDCG@10 | chosen |", "|---|---|---:|---:|---|"]
        for key, value in record["tables"].items():
            name, row = key.split(" | ")
            numbers = f"{value['hr@10']:.4f} | {value['ndcg@10']:.4f}"
            lines.append(f"| {name} | {row} | {numbers} | {describe(value['scoring'])} |")
    if "ablation" in record:
        lines += ["", f"## One setting at a time: NDCG@10 on {USERS:,} users of the validation split", ""]
        found: dict[tuple[str, str], list[str]] = {}
        for key, value in record["ablation"].items():
            name, setting, chosen = key.split(" | ")
            found.setdefault((name, setting), []).append((float(chosen), f"{chosen}: {value:.4f}"))
        lines += ["| data set | setting | value: NDCG@10 |", "|---|---|---|"]
        for (name, setting), values in found.items():
            lines.append(f"| {name} | {setting} | {', '.join(text for _, text in sorted(values))} |")
    if "growth" in record:
        lines += [
            "",
            "## Growth with the number of users: NDCG@10 of other users",
            "",
            "![growth](without_training.png)",
            "",
        ]
        lines += ["| data set | | users: NDCG@10 |", "|---|---|---|"]
        for (name, row), points in growth_points(record).items():
            lines.append(f"| {name} | {row} | {', '.join(f'{n:,}: {value:.4f}' for n, value in points)} |")
        draw(record)
    if "counting" in record:
        lines += ["", "## Counting transitions of generated interactions, 144,000 items, one thread", ""]
        lines += [
            "| way | interactions | seconds | CPU seconds | peak GiB | pairs |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for key, value in record["counting"].items():
            way, rows = key.split(" | ")
            numbers = f"{value['seconds']} | {value['cpu_seconds']} | {value['peak GiB']} | {value['pairs']:,}"
            lines.append(f"| {way} | {rows} | {numbers} |")
    return "\n".join(lines) + "\n"


def describe(scoring: dict) -> str:
    """Returns what was chosen on validation, in words."""
    parts = []
    if "content" in scoring:
        parts.append(f"content: power {scoring['content']['power']}, decay {scoring['content']['history_decay']}")
    if "transitions" in scoring:
        chosen = scoring["transitions"]
        weight = f", weight {chosen['factor']:.2g}" if "factor" in chosen else ""
        parts.append(f"transitions: power {chosen['power']}, decay {chosen['history_decay']}{weight}")
    if scoring.get("popularity_weight"):
        parts.append(f"popularity {scoring['popularity_weight']}")
    return "; ".join(parts)


def growth_points(record: dict) -> dict[tuple[str, str], list[tuple[int, float]]]:
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for key, value in record["growth"].items():
        name, row, count = key.split(" | ")
        found.setdefault((name, row), []).append((int(count), value))
    return {key: sorted(points) for key, points in sorted(found.items())}


def draw(record: dict) -> None:
    """Draws one panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points = growth_points(record)
    names = sorted({name for name, _ in points})
    figure, panels = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.4), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        for of_name, row in points:
            if of_name == name:
                panel.plot(*zip(*points[name, row], strict=True), marker="o", label=row)
        panel.set(title=name, xscale="log", xlabel="users whose interactions are known", ylabel="NDCG@10", ylim=0)
        counts = sorted({count for key, line in points.items() if key[0] == name for count, _ in line})
        panel.set_xticks(counts, [f"{count:,}" for count in counts], fontsize=7)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS.with_suffix(".png"), dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tables", "ablation", "growth", "counting"])
    parser.add_argument("--datasets", nargs="+", default=[])
    parser.add_argument("--data_dir")
    parser.add_argument("--text_model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--split_strategy", choices=["leave_one_out", "temporal"])
    parser.add_argument("--rows", type=int, default=24_500_000)
    parser.add_argument("--way", choices=["ours", "scipy"], default="ours")
    args = parser.parse_args()
    if args.what == "counting":
        counting(args)
    for name in args.datasets:
        {"tables": tables, "ablation": ablation, "growth": growth}[args.what](name, args)


if __name__ == "__main__":
    main()
