"""How a text backbone is read: its own pooling against `first_last`, float32 against bfloat16.

    python benchmarks/reading_texts.py pooling --datasets Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/reading_texts.py bfloat16 --datasets Amazon_Beauty --data_dir DATA --text_model MINILM

NDCG@10 of at most 10,000 users of the validation split, by content kNN, and with transitions beside it. Settings are
chosen by `auto` for each way; those of the transitions but their weight only for the first one. The interval
of a difference is that of 1,000 bootstrap samples of the users. Results are added to
`benchmarks/results/reading_texts.json`, of which `.md` is made.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation.evaluator import FullRankingEvaluator
from modeling_transrec.evaluation.features import load_content_model, read_content
from modeling_transrec.evaluation.scoring import CatalogueScorer
from modeling_transrec.evaluation.weighing import TRANSITION_SETTINGS, USERS_TO_CHOOSE_ON, choose, choose_content


RESULTS = Path(__file__).parent / "results" / "reading_texts.json"
UNCUT = 1_000  # no history of these data sets is longer
# Options of the model and of reading: first the usual way, then the one that is compared with it.
WAYS: dict[str, tuple[dict, dict]] = {
    "pooling": ({}, {"text_pooling": "first_last"}),
    "bfloat16": ({"bf16": False}, {"bf16": True}),
}


def gains(evaluator: FullRankingEvaluator, scorer: CatalogueScorer) -> np.ndarray:
    """Returns each user's NDCG@10."""
    evaluator.rank(scorer)
    rank = evaluator.rankings.num_better + evaluator.rankings.num_tied / 2
    return torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0).numpy()


def compare(name: str, way: str, args: argparse.Namespace) -> dict:
    """Returns NDCG@10 of both ways, their difference and its interval, for each row."""
    data = DataArguments(dataset_config_name=name, data_dir=args.data_dir)
    items, users = data.load_items(UNCUT), data.load_sequences("validation", UNCUT)
    users = users.select(range(0, len(users), -(-len(users) // USERS_TO_CHOOSE_ON)))
    evaluator = FullRankingEvaluator(items, users, ks=[10], split="validation")
    transitions = Transitions.from_sequences(data.load_training_histories(), items["item_id"][:])
    found: dict[str, list[np.ndarray]] = {"content-knn": [], "content-and-transitions": []}
    settings = TRANSITION_SETTINGS
    features = []
    for options in WAYS[way]:
        model = load_content_model(args.text_model, text_pooling=options.get("text_pooling"))
        content = read_content(*model, items, bf16=options.get("bf16", False))
        features.append(content.features["text"])
        scorer = content.fit(**choose_content(content, evaluator))
        choice = choose(scorer, transitions, evaluator, settings=settings)
        settings = (choice.transition_settings,)
        found["content-knn"].append(gains(evaluator, scorer))
        found["content-and-transitions"].append(gains(evaluator, choice.apply(scorer, transitions)))
    cosines = torch.nn.functional.cosine_similarity(*features)[content.has_content["text"]]
    rows = {row: describe(*values) for row, values in found.items()}
    return {**rows, "lowest cosine": round(float(cosines.min()), 6), "num_users": len(users)}


def describe(before: np.ndarray, after: np.ndarray) -> dict:
    """Returns two means, their difference and its 95 % interval."""
    difference, rng = after - before, np.random.default_rng(0)
    samples = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(1_000)]
    low, high = np.percentile(samples, [2.5, 97.5])
    numbers = {
        "before": before.mean(),
        "after": after.mean(),
        "difference": difference.mean(),
        "low": low,
        "high": high,
    }
    return {key: round(float(value), 6) for key, value in numbers.items()}


def render(record: dict) -> str:
    """Returns the page as Markdown."""
    lines = ["# How a text backbone is read", "", "Made by `benchmarks/reading_texts.py`; frozen all-MiniLM-L6-v2."]
    lines += ["NDCG@10 of at most 10,000 users of the validation split, everything chosen there by `auto`.", ""]
    titles = {"pooling": ("mean", "first_last"), "bfloat16": ("float32", "bfloat16")}
    for way, (before, after) in titles.items():
        of_way = {key: value for key, value in sorted(record.items()) if key.endswith(f" | {way}")}
        if of_way:
            lines += [f"## {after} against {before}", ""]
            lines += [f"| data set | | {before} | {after} | difference (95 % interval) |", "|---|---|---:|---:|---|"]
        for key, value in of_way.items():
            for row in ("content-knn", "content-and-transitions"):
                one = value[row]
                interval = f"{one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
                numbers = f"{one['before']:.4f} | {one['after']:.4f} | {interval}"
                lines.append(f"| {key.partition(' | ')[0]}, {value['num_users']:,} users | {row} | {numbers} |")
        if way == "bfloat16" and of_way:
            lowest = min(value["lowest cosine"] for value in of_way.values())
            lines += ["", f"The lowest cosine of an item's features in both types is {lowest:.5f}."]
        lines.append("")
    return "\n".join(lines).strip() + "\n"


def main(args: list[str] | None = None) -> None:
    """Compares two ways of reading on data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=list(WAYS))
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--text_model", required=True)
    parsed = parser.parse_args(args)
    for name in parsed.datasets:
        record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        record[f"{name} | {parsed.way}"] = compare(name, parsed.way, parsed)
        RESULTS.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        RESULTS.with_suffix(".md").write_text(render(record))
        print(name, record[f"{name} | {parsed.way}"], flush=True)


if __name__ == "__main__":
    main()
