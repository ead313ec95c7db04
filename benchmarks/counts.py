"""Counted transitions as a data structure: counting, changing, pruning them, and recommending with them.

    python benchmarks/counts.py counting --way ours --num_rows 24500000
    python benchmarks/counts.py counting --way scipy --num_rows 24500000
    python benchmarks/counts.py updating --num_items 12101
    python benchmarks/counts.py pruning --datasets Amazon_Beauty Amazon_Sports ML100K --data_dir DATA
    python benchmarks/counts.py serving --num_items 1000000
    python benchmarks/counts.py searching --num_items 50000
    python benchmarks/counts.py page

`counting` has one thread; each way runs in a process of its own. `pruning` reads the test split with the settings that
are chosen on the validation split for all counts. `serving` alternates between a catalogue with counts and the same
one without, one user at a time. `searching` compares indexes of FAISS with the whole search. Results are added to
`benchmarks/results/counts.json`; `page` makes `counts.md` of them.
"""

import argparse
import dataclasses
import json
import resource
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import scipy.sparse
import torch

from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.data.counting import TransitionSettings, count_pairs
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation import baselines
from modeling_transrec.evaluation.content import ContentKNN
from modeling_transrec.evaluation.evaluator import FullRankingEvaluator
from modeling_transrec.evaluation.scoring import CatalogueScorer
from modeling_transrec.serving.catalogue import Catalogue
from modeling_transrec.serving.faiss_index import FaissIndex


RESULTS = Path(__file__).parent / "results" / "counts.json"
UNCUT = 1_000  # no history of these data sets is longer
WIDTH = 384  # of all-MiniLM-L6-v2


def add(section: str, key: str, value: dict) -> None:
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    record.setdefault(section, {})[key] = value
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(section, key, value, flush=True)


def make_interactions(num_rows: int, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns items `(N,)` of users one after the other, popular ones more often, and where each user begins."""
    rng = np.random.default_rng(0)
    lengths = 5 + rng.geometric(1 / 8, size=num_rows // 12 + 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    offsets = offsets[: np.searchsorted(offsets, num_rows) + 1].astype(np.int64)
    share = 1 / (np.arange(num_items) + 50) ** 0.9
    items = np.searchsorted(np.cumsum(share / share.sum()), rng.random(offsets[-1])).clip(max=num_items - 1)
    return items.astype(np.int32), offsets


def make_sequences(num_rows: int, num_items: int) -> datasets.Dataset:
    items, offsets = make_interactions(num_rows, num_items)
    lists = [part.astype(str).tolist() for part in np.split(items, offsets[1:-1])]
    return datasets.Dataset.from_dict({"user_id": [f"u{user}" for user in range(len(lists))], "item_ids": lists})


def counting(args: argparse.Namespace) -> None:
    """Seconds of CPU and peak memory."""
    num_items = 144_000
    items, offsets = make_interactions(args.num_rows, num_items)
    start = time.process_time()
    if args.way == "ours":
        counts = count_pairs(items, offsets, num_items, TransitionSettings(), num_threads=1)
    else:
        counts = count_with_scipy(items, offsets, num_items)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    value = {"CPU seconds": time.process_time() - start, "peak GiB": peak}
    add("counting", f"{args.way}, {len(items):,} interactions", {**round_all(value), "pairs": counts.nnz})


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


def updating(args: argparse.Namespace) -> None:
    """Microseconds of CPU for one new interaction of a known user, and of the first scores after it."""
    item_ids = [str(number) for number in range(args.num_items)]
    transitions = Transitions.from_sequences(make_sequences(200_000, args.num_items), item_ids, keep_histories=True)
    new, _ = make_interactions(20_000, args.num_items)
    users = np.random.default_rng(1).integers(0, 15_000, size=len(new)).tolist()
    updates, reads = [], []
    for number, (user, item) in enumerate(zip(users, new.tolist(), strict=True)):
        start = time.thread_time()
        transitions = transitions.update(f"u{user}", [item_ids[item]])
        updates.append(time.thread_time() - start)
        if number % 100 == 0:
            start = time.thread_time()
            transitions.scores(np.array([[7, 70, 700]]))
            reads.append(time.thread_time() - start)
    quantiles = {f"update, {share:.0%}": float(np.quantile(updates, share)) * 1e6 for share in (0.5, 0.9, 0.99)}
    value = {**quantiles, "update, mean": np.mean(updates) * 1e6, "scores, 50%": np.median(reads) * 1e6}
    add("updating", f"{args.num_items:,} items", round_all(value))


def pruning(args: argparse.Namespace) -> None:
    """What is lost on the test split, and what is lost where a tenth of the users comes after the pruning."""
    for name in args.datasets:
        data = DataArguments(dataset_config_name=name, data_dir=args.data_dir)
        items, training = data.load_items(UNCUT), data.load_training_histories()
        evaluators = {
            split: FullRankingEvaluator(items, data.load_sequences(split, UNCUT), ks=[10], split=split)
            for split in ("validation", "test")
        }
        item_ids = items["item_id"][:]
        known = baselines.Platform(items, training, validation=evaluators["validation"])
        whole, (scorer, _) = known.transitions, baselines.transitions(known)
        settings = {name: getattr(scorer.transitions.settings, name) for name in ("power", "history_decay")}
        is_late = np.arange(len(training)) % 10 == 0
        late = training.select(np.flatnonzero(is_late))
        early = Transitions.from_sequences(training.select(np.flatnonzero(~is_late)), item_ids)
        for most in (50, 100, 200, 500, None):
            pruned, value = whole.with_settings(**settings).pruned(most), {}
            metrics = evaluators["test"].rank(scorer.replace(transitions=pruned))
            updated = early.with_settings(**settings).pruned(most)
            for number, history in enumerate(late["item_ids"]):
                updated = updated.update(f"late {number}", history)
            late_metrics = evaluators["test"].rank(scorer.replace(transitions=updated))
            with tempfile.TemporaryDirectory() as folder:
                size = pruned.save_pretrained(folder).stat().st_size / 1e6
            value = {"HR@10": metrics["hr@10"], "NDCG@10": metrics["ndcg@10"]}
            value |= {"NDCG@10, a tenth updated": late_metrics["ndcg@10"], "MB": size}
            value |= {"pairs": pruned.num_pairs}
            add("pruning", f"{name}, {most or 'all'}", {one: round(number, 4) for one, number in value.items()})


def make_catalogue(num_items: int) -> tuple[Catalogue, Catalogue, np.ndarray]:
    """Returns a catalogue of items in clusters, the same with counts, and histories of ten items `(users, 10)`."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, WIDTH, generator=rng)
    embeddings = centres[torch.randint(1000, (num_items,), generator=rng)]
    embeddings += torch.randn(num_items, WIDTH, generator=rng)
    torch.nn.functional.normalize(embeddings, dim=1, out=embeddings)
    item_ids = [str(number) for number in range(num_items)]
    knn = ContentKNN({})
    scorer = CatalogueScorer(knn, embeddings)  # type: ignore[arg-type]  # content kNN has what it asks of a model
    catalogue = datasets.Dataset.from_dict({"item_id": item_ids})
    without = Catalogue.build(catalogue, scorer, checkpoint="")
    transitions = Transitions.from_sequences(make_sequences(2_000_000, num_items), item_ids)
    counted = dataclasses.replace(
        without, scorer=without.scorer.replace(transitions=transitions, transition_weight=2.0)
    )
    items, _ = make_interactions(3_000, num_items)
    return without, counted, items[: len(items) // 10 * 10].reshape(-1, 10)


def serving(args: argparse.Namespace) -> None:
    """Milliseconds of CPU for the ten best items of one user: with counts, without, and their ratio."""
    without, counted, histories = make_catalogue(args.num_items)
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for number, history in enumerate(torch.from_numpy(histories[:60]).long()):
        ways = [("without", without), ("with", counted)]
        for name, catalogue in ways if number % 2 else ways[::-1]:
            start = time.thread_time()
            found = catalogue.top_k(history[None], 10)
            seconds[name].append(time.thread_time() - start)
        if number < 20:
            check_against_brute_force(counted, history, found if number % 2 else counted.top_k(history[None], 10))
    medians = {f"ms {name}": float(np.median(values[2:])) * 1e3 for name, values in seconds.items()}
    ratios = np.array(seconds["with"][2:]) / np.array(seconds["without"][2:])
    value = {**round_all(medians), "ratio of medians": round(medians["ms with"] / medians["ms without"], 3)}
    value |= {"median of ratios": round(float(np.median(ratios)), 3), "users equal to brute force": "20 of 20"}
    add("serving", f"{args.num_items:,} items", value)


def check_against_brute_force(catalogue: Catalogue, history: torch.Tensor, found: list[list[dict]]) -> None:
    """Compares with the sum over the history, written out in float64."""
    scorer, transitions = catalogue.scorer, catalogue.scorer.transitions
    scores = (scorer.candidates.double() @ scorer.queries(history[None])[0].double()).numpy()
    settings, counts = transitions.settings, transitions.item_counts
    scale = np.where(counts > 0, np.maximum(counts, 1) ** -settings.power, 0)
    for steps_back, item in enumerate(reversed(history.tolist())):
        row = transitions[str(item)]
        columns = np.array([int(item_id) for item_id in row], dtype=np.int64)
        added = settings.history_decay**steps_back * np.array(list(row.values())) * scale[item] * scale[columns]
        scores[columns] += scorer.transition_weight * added
    scores[history.numpy()] = -np.inf
    best = np.argsort(-scores, kind="stable")[:10]
    np.testing.assert_allclose([one["score"] for one in found[0]], scores[best], rtol=1e-4)
    assert [int(one["item_id"]) for one in found[0]] == best.tolist()


def searching(args: argparse.Namespace) -> None:
    """Share of the ten best items, content and counts, that an index of FAISS finds, and its milliseconds a user."""
    _, counted, histories = make_catalogue(args.num_items)
    users = torch.from_numpy(histories[:100]).long()
    expected = [{one["item_id"] for one in counted.top_k(user[None], 10)[0]} for user in users]
    for factory in (None, "Flat", "IVF256,Flat", "HNSW32"):
        catalogue, hits, seconds = counted.with_index(FaissIndex(factory)) if factory else counted, [], []
        for user, best in zip(users, expected, strict=True):
            start = time.thread_time()
            found = catalogue.top_k(user[None], 10)[0]
            seconds.append(time.thread_time() - start)
            hits.append(len(best & {one["item_id"] for one in found}) / len(best))
        value = {"recall@10": round(float(np.mean(hits)), 4), "ms a user": round(float(np.median(seconds)) * 1e3, 1)}
        add("searching", f"{factory or 'whole search'}, {args.num_items:,} items", value)


def round_all(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in values.items()}


TITLES = {
    "counting": (
        "Counting generated interactions, 144,000 items, one thread",
        "counting --way WAY --num_rows 24500000",
    ),
    "updating": ("One new interaction of a known user, in microseconds of CPU", "updating --num_items NUMBER"),
    "pruning": (
        "Only the strongest M transitions of each item are kept: test split, transitions only",
        "pruning --datasets NAME --data_dir DATA",
    ),
    "serving": ("The ten best items of one user, with counts and without", "serving --num_items NUMBER"),
    "searching": ("Content and counts searched with FAISS, beside the whole search", "searching --num_items NUMBER"),
}


def page() -> None:
    """Writes the page anew."""
    record = json.loads(RESULTS.read_text())
    lines = [
        "# Counts",
        "",
        "Made by `benchmarks/counts.py`, with one thread (`OMP_NUM_THREADS=1`); times are those of the CPU.",
    ]
    for section, (title, command) in TITLES.items():
        if section in record:
            names = list(next(iter(record[section].values())))
            lines += ["", f"## {title}", "", f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
            for key, values in record[section].items():
                cells = [f"{values[name]:,}" if isinstance(values[name], int) else str(values[name]) for name in names]
                lines.append(f"| {key} | {' | '.join(cells)} |")
            lines += ["", "```bash", f"python benchmarks/counts.py {command}", "```"]
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = {one.__name__: one for one in (counting, updating, pruning, serving, searching)}
    parser.add_argument("what", choices=[*commands, "page"])
    parser.add_argument("--datasets", nargs="+", default=[])
    parser.add_argument("--data_dir")
    parser.add_argument("--num_rows", type=int, default=24_500_000)
    parser.add_argument("--num_items", type=int, default=1_000_000)
    parser.add_argument("--way", choices=["ours", "scipy"], default="ours")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "page":
        page()
    else:
        commands[args.what](args)


if __name__ == "__main__":
    main()
