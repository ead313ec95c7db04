"""What pretraining is worth on a platform of which few users are known.

    python benchmarks/few_users.py run --pretrained outputs/pretrained --dataset Amazon_Beauty --data_dir DATA \
        --text_model MINILM --users 200 1000
    python benchmarks/few_users.py page

`run` draws so many users, the same for all models; their training histories are trained on and counted, and epoch and
weights are chosen on their validation items. All other users are tested. The models are the preset `recommended-text`
as it is (untrained, which is content kNN), trained from there (NoPT), and trained from a checkpoint of the same model
that was pretrained on other platforms (HasPT); each without and with the transitions of the drawn users. A run that is
interrupted goes on where it stopped. Results are added to `benchmarks/results/few_users.json`, and `page` prints them
as tables.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from transformers import set_seed

from modeling_transrec.cli.options import parse_arguments
from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.evaluation.baselines import add_transitions
from modeling_transrec.evaluation.evaluator import FullRankingEvaluator
from modeling_transrec.evaluation.metrics import hit_rate, ndcg
from modeling_transrec.training.arguments import TransRecTrainingArguments
from modeling_transrec.training.model_arguments import ModelArguments
from modeling_transrec.training.model_building import load_model_and_processor
from modeling_transrec.training.trainer import TransRecTrainer


RESULTS = Path(__file__).parent / "results"
SCORES = ("own", "with transitions")
MODELS = ("untrained", "NoPT", "HasPT")


class FewUsers:
    """A data set of which some users are known, and the others are tested."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        data = DataArguments(dataset_config_name=args.dataset, data_dir=args.data_dir)
        self.data, self.items = data, data.load_items(50)
        self.whole = data.load_training_histories()
        self.splits = {split: data.load_sequences(split, 50) for split in ("train", "validation", "test")}

    def run(self, num_users: int, draw: int, seed: int, model_name: str) -> dict[str, dict[str, np.ndarray]]:
        """Returns the metrics of each user that is not drawn; those that are drawn have NaN."""
        order = np.random.default_rng(draw).permutation(len(self.whole))
        known, others = np.sort(order[:num_users]), np.sort(order[num_users:])
        named = ["--text_model_name_or_path", self.args.text_model]
        if model_name == "HasPT":
            named = ["--model_name_or_path", self.args.pretrained]
        folder = Path(self.args.output_dir, f"{num_users}-{draw}-{seed}-{model_name}")
        options = ["--preset", "recommended-text", *named, "--use_cpu", "true", "--disable_tqdm", "true"]
        options += ["--eval_ks", "10", "--seed", str(seed), "--output_dir", str(folder), "--report_to", "none"]
        model_args, training_args = parse_arguments(
            (ModelArguments, TransRecTrainingArguments), [*options, *self.args.options], None, has_presets=True
        )
        set_seed(seed)
        model, processor = load_model_and_processor(model_args, self.items)
        trainer = TransRecTrainer(
            model,
            training_args,
            self.items,
            self.splits["train"].select(known),
            self.splits["validation"].select(known),
            processing_class=processor,
            whole_sequences=lambda: self.whole.select(known),
        )
        if model_name != "untrained":
            trainer.train()
        found = self.test(trainer, others)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def test(self, trainer: TransRecTrainer, users: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        sequences = self.splits["test"].select(users)
        evaluator = FullRankingEvaluator(
            self.items, sequences, ks=[10], split="test", prepared_items=trainer.prepared_items
        )
        scorer = evaluator.build_scorer(trainer.model, trainer.processing_class)
        both, _ = add_transitions(scorer, {}, trainer.platform)
        found = {}
        for name, one in zip(SCORES, (scorer, both), strict=True):
            evaluator.rank(one)
            ranks = evaluator.rankings.num_better, evaluator.rankings.num_tied
            found[name] = {}
            for metric, function in (("hr@10", hit_rate), ("ndcg@10", ndcg)):
                values = np.full(len(self.whole), np.nan, dtype=np.float32)
                values[users] = function(*ranks, k=10).numpy()
                found[name][metric] = values
        return found


def run(args: argparse.Namespace) -> None:
    """Runs all that is not there yet, few users first."""
    platform = FewUsers(args)
    kept = Path(args.output_dir, "per_user")
    kept.mkdir(parents=True, exist_ok=True)
    for num_users in args.users:
        for draw in range(args.draws):
            for seed in range(args.seeds):
                for model_name in MODELS if seed == 0 else MODELS[1:]:
                    file = kept / f"{args.dataset}-{num_users}-{draw}-{seed}-{model_name}.npz"
                    if file.exists():
                        continue
                    found = platform.run(num_users, draw, seed, model_name)
                    flat = {f"{score}|{name}": values for score, one in found.items() for name, values in one.items()}
                    np.savez(file, **flat)
                    means = " ".join(f"{name} {np.nanmean(values):.4f}" for name, values in flat.items())
                    print(
                        f"{args.dataset} {num_users} users, draw {draw}, seed {seed}, {model_name}: {means}",
                        flush=True,
                    )
        summarize(args, num_users)


def summarize(args: argparse.Namespace, num_users: int) -> None:
    """Adds means, the differences between models and their intervals over users to the record."""
    kept = Path(args.output_dir, "per_user")
    values: dict[tuple[str, str], np.ndarray] = {}
    for model_name in MODELS:
        seeds = range(1 if model_name == "untrained" else args.seeds)
        files = [
            [np.load(kept / f"{args.dataset}-{num_users}-{draw}-{seed}-{model_name}.npz") for seed in seeds]
            for draw in range(args.draws)
        ]
        for score in SCORES:
            for metric in ("hr@10", "ndcg@10"):
                found = np.array(
                    [[file[f"{score}|{metric}"] for file in draw] for draw in files]
                )  # (draws, seeds, users)
                values[model_name, f"{score}|{metric}"] = found
    row: dict = {"dataset": args.dataset, "users": num_users, "draws": args.draws, "seeds": args.seeds}
    row["pretrained"] = args.sources
    row["means"] = {
        f"{model_name}|{score}": round(float(np.nanmean(found)), 5) for (model_name, score), found in values.items()
    }
    row["spread"] = {  # of the means over draws and seeds
        f"{model_name}|{score}": round(float(np.nanmean(found, axis=2).std()), 5)
        for (model_name, score), found in values.items()
    }
    row["differences"] = {}
    for first, second in (("HasPT", "NoPT"), ("HasPT", "untrained"), ("NoPT", "untrained")):
        for score in SCORES:
            one, other = (values[name, f"{score}|ndcg@10"].mean(axis=1) for name in (first, second))  # (draws, users)
            row["differences"][f"{first} - {second}|{score}"] = interval(one - other)
    path = RESULTS / "few_users.json"
    record = json.loads(path.read_text()) if path.exists() else []
    same = ("dataset", "users", "pretrained")
    record = [one for one in record if any(one[name] != row[name] for name in same)] + [row]
    path.write_text(json.dumps(record, indent=1) + "\n")


def interval(differences: np.ndarray, times: int = 2000) -> dict[str, float]:
    """Returns the mean of differences `(draws, users)` and a 95 % interval, draws and users drawn again."""
    generator = np.random.default_rng(0)
    num_draws, num_users = differences.shape
    is_tested = ~np.isnan(differences)
    filled = np.where(is_tested, differences, 0)
    means = []
    for _ in range(times):
        draws = generator.integers(num_draws, size=num_draws)
        weights = generator.multinomial(num_users, np.full(num_users, 1 / num_users))
        means.append((filled[draws] @ weights).sum() / (is_tested[draws] @ weights).sum())
    low, high = np.quantile(means, [0.025, 0.975])
    mean = filled.sum() / is_tested.sum()
    return {"mean": round(float(mean), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def page(args: argparse.Namespace) -> None:
    """Prints the record as tables."""
    print("\n".join(table(row) for row in json.loads((RESULTS / "few_users.json").read_text())))


def table(row: dict) -> str:
    """Returns a size's rows as Markdown."""
    lines = [f"### {row['dataset']}, {row['users']:,} users known; pretrained on {row['pretrained']}", ""]
    lines += ["| | HR@10 / NDCG@10 | spread | with transitions | spread |", "|---|---|---|---|---|"]
    for name in MODELS:
        cells = []
        for score in SCORES:
            hr, gain = (row["means"][f"{name}|{score}|{metric}"] for metric in ("hr@10", "ndcg@10"))
            cells += [f"{hr:.4f} / {gain:.4f}", f"{row['spread'][f'{name}|{score}|ndcg@10']:.4f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| NDCG@10 | own scores | with transitions |", "|---|---|---|"]
    for pair in ("HasPT - NoPT", "HasPT - untrained", "NoPT - untrained"):
        found = [row["differences"][f"{pair}|{score}"] for score in SCORES]
        shown = [f"{one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})" for one in found]
        lines.append(f"| {pair.replace('-', '−')} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "page"])
    parser.add_argument("--dataset", default="Amazon_Beauty")
    parser.add_argument("--data_dir")
    parser.add_argument("--text_model")
    parser.add_argument("--pretrained", help="checkpoint of the preset recommended-text")
    parser.add_argument("--sources", default="", help="what it was pretrained on, for the page")
    parser.add_argument("--users", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output_dir", default="outputs/few_users")
    parser.add_argument("options", nargs="*", help="after --: further options of training, for NoPT and HasPT alike")
    args = parser.parse_args()
    {"run": run, "page": page}[args.what](args)


if __name__ == "__main__":
    main()
