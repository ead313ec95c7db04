"""The metrics of the folder `metrics` beside those of ranx and pytrec_eval, on made rankings.

    pip install ranx pytrec_eval-terrier
    python benchmarks/metrics_of_others.py

2,000 users have lists of 1 to 100 of 200 items, and one relevant item, or up to 29. Ties are worth their expected
value here: 300 users have 6 candidates with 3 different scores, and ranx ranks every order of those that tie. Prints
the largest difference of a mean over users.
"""

import itertools
from pathlib import Path

import evaluate
import numpy as np
import pytrec_eval
import ranx


FOLDER = Path(__file__).parents[1] / "metrics"
MODULES = {"hr": "hr_at_k", "recall": "recall_at_k", "ndcg": "ndcg_at_k", "mrr": "mrr"}
IN_RANX = {"hr": "hit_rate", "recall": "recall", "ndcg": "ndcg", "mrr": "mrr"}
IN_PYTREC_EVAL = {"hr": "success", "recall": "recall", "ndcg": "ndcg_cut"}
KS = (1, 5, 10, 100)


def measure(config_name: str, ks, predictions, references) -> dict[str, float]:
    """Returns our metrics at all cut-offs."""
    found = {}
    for name in MODULES.values():
        module = evaluate.load(str(FOLDER / name), config_name, k=list(ks))
        found |= module.compute(predictions=predictions, references=references)
    return found


def by_ranx(relevant: dict, run: dict, ks) -> dict[str, np.ndarray]:
    """Returns ranx's values of each query."""
    wanted = {f"{name}@{k}": f"{theirs}@{k}" for name, theirs in IN_RANX.items() for k in ks}
    run = ranx.Run(run)
    ranx.evaluate(ranx.Qrels(relevant), run, [*wanted.values()])
    return {name: np.array([*run.scores[theirs].values()]) for name, theirs in wanted.items()}


def by_pytrec_eval(relevant: dict, run: dict) -> dict[str, float]:
    cutoffs = ",".join(map(str, KS))
    evaluator = pytrec_eval.RelevanceEvaluator(relevant, {f"{name}.{cutoffs}" for name in IN_PYTREC_EVAL.values()})
    rows = evaluator.evaluate(run).values()
    return {
        f"{name}@{k}": np.mean([row[f"{theirs}_{k}"] for row in rows])
        for name, theirs in IN_PYTREC_EVAL.items()
        for k in KS
    }


def compare_lists(rng: np.random.Generator, most_relevant: int) -> None:
    """Ranked lists without ties."""
    ids = [f"i{number}" for number in range(200)]
    lists = [rng.permutation(ids)[: rng.integers(1, 101)].tolist() for _ in range(2000)]
    relevant = [rng.choice(ids, rng.integers(1, most_relevant + 1), replace=False).tolist() for _ in lists]
    ours = measure("default", KS, lists, relevant)
    qrels = {f"u{user}": dict.fromkeys(one, 1) for user, one in enumerate(relevant)}
    run = {f"u{user}": {item: 1.0 / (1 + rank) for rank, item in enumerate(one)} for user, one in enumerate(lists)}
    theirs = {name: values.mean() for name, values in by_ranx(qrels, run, KS).items()}
    for library, found in (("ranx", theirs), ("pytrec_eval", by_pytrec_eval(qrels, run))):
        difference = max(abs(ours[name] - value) for name, value in found.items())
        print(f"up to {most_relevant} relevant items, {library}: {difference:.1e}")


def compare_ties(rng: np.random.Generator) -> None:
    """Scores with ties against the mean over all orders of those that tie."""
    scores, targets, ks = rng.integers(3, size=(300, 6)), rng.integers(6, size=300), (1, 2, 3)
    ours = measure("scores", ks, scores.tolist(), targets.tolist())
    qrels, run, weights = {}, {}, []
    for user, (row, target) in enumerate(zip(scores, targets, strict=True)):
        orders = {tuple(sorted(one, key=lambda item: -row[item])) for one in itertools.permutations(range(6))}
        for number, order in enumerate(sorted(orders)):
            query = f"u{user:03d}_{number:03d}"
            qrels[query] = {f"i{target}": 1}
            run[query] = {f"i{item}": 1.0 / (1 + rank) for rank, item in enumerate(order)}
            weights.append(1 / len(orders))
    found = by_ranx(qrels, run, ks)
    difference = max(abs(np.average(values, weights=weights) - ours[name]) for name, values in found.items())
    print(f"ties, ranx over {len(run):,} orders: {difference:.1e}")


if __name__ == "__main__":
    for most_relevant in (1, 29):
        compare_lists(np.random.default_rng(most_relevant), most_relevant)
    compare_ties(np.random.default_rng(0))
