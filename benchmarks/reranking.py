"""Measures what re-ranking adds to a sum with transitions, on the test split, and what it costs.

    python benchmarks/reranking.py --dataset Amazon_Beauty --data_dir DATA --text_model MINILM
    python benchmarks/reranking.py --dataset Amazon_Beauty --data_dir DATA --checkpoints RUN_42 RUN_43

Without checkpoints the sum is content and transitions. Several checkpoints are seeds of one model: each user's metric
is averaged over them. Prints a row of a Markdown table, with a 95 % interval over users, and CPU time. With
--from_training the last items of the training histories teach in place of the validation split's, which then only
choose the sum; a model that is trained has learnt them, so this is for content and transitions alone.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from modeling_transrec import DataArguments, EvaluationArguments
from modeling_transrec.benchmark.statistics import compare, estimate, values_of_users
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation.baselines import BASELINES, add_transitions, rank, rerank
from modeling_transrec.evaluation.evaluate import EvaluationTask
from modeling_transrec.evaluation.reranking import learn_reranker
from modeling_transrec.evaluation.scoring import CatalogueScorer
from modeling_transrec.serving.platform import hold_out_last


def make_sum(task: EvaluationTask, name: str) -> tuple[CatalogueScorer, dict]:
    """Returns the scorer of the sum, and what the protocol says of it."""
    if task.is_baseline:
        return BASELINES[name](task.platform)
    model, processor = task.checkpoint
    return add_transitions(task.evaluator.build_scorer(model, processor), {}, task.platform)


def rerank_from_training(
    task: EvaluationTask, data: DataArguments, scorer: CatalogueScorer
) -> tuple[CatalogueScorer, dict]:
    """Returns the scorer with a reranker that the last items of training histories teach, not counted meanwhile."""
    training = data.load_training_histories().select_columns(["user_id", "item_ids"])
    counted, held_out = hold_out_last(task.platform.items, training)
    settings = {name: getattr(scorer.transitions.settings, name) for name in ("power", "history_decay")}
    before = scorer.replace(
        transitions=Transitions.from_sequences(counted, task.platform.items["item_id"], **settings)
    )
    reranker, description = learn_reranker(before, held_out)
    return scorer.replace(reranker=reranker), description


def milliseconds_of_one_user(scorer: CatalogueScorer, histories: list[torch.Tensor]) -> float:
    """Returns the median CPU time of the best 10 items of one user."""
    times = []
    for history in histories:
        start = time.process_time()
        scorer.top_k(history, k=10)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--text_model", help="folder or Hub id, without checkpoints")
    parser.add_argument("--checkpoints", nargs="+", help="of one model, each trained with another seed")
    parser.add_argument("--from_training", action="store_true")
    parsed = parser.parse_args()
    if parsed.from_training and parsed.checkpoints:
        parser.error("--from_training is for content and transitions: checkpoints have learnt the training histories")
    data = DataArguments(dataset_config_name=parsed.dataset, data_dir=parsed.data_dir)
    found: dict[str, list[np.ndarray]] = {}
    for name in parsed.checkpoints or ["content-and-transitions"]:
        text_model = None if parsed.checkpoints else parsed.text_model
        args = EvaluationArguments(name, text_model_name_or_path=text_model, eval_ks=[10], use_cpu=True)
        task = EvaluationTask(args, data)
        scorer, description = make_sum(task, name)
        start = time.process_time()
        if parsed.from_training:
            re_ranked, learnt = rerank_from_training(task, data, scorer)
        else:
            re_ranked, learnt = rerank(scorer, description, task.platform)
        seconds = time.process_time() - start
        for kind, one, facts in (("sum", scorer, description), ("re-ranked", re_ranked, learnt)):
            rankings = rank(task.evaluator, one, facts, kind)["rankings"]
            for metric in ("hr", "ndcg"):
                values = values_of_users(rankings.num_better.numpy(), rankings.num_tied.numpy(), metric)
                found.setdefault(f"{kind}, {metric}", []).append(values)
        blocks = task.evaluator.blocks_of(np.arange(200))
        users = [line[None, line >= 0] for block, _ in blocks for line in block]
        costs = [milliseconds_of_one_user(one, users) for one in (scorer, re_ranked)]
        print(
            f"{name}: {learnt['reranker']}, learnt in {seconds:.1f} CPU s; one user {costs[0]:.2f}, {costs[1]:.2f} ms"
        )
    cells = [parsed.dataset]
    for kind in ("sum", "re-ranked"):
        cells.append(
            " / ".join(f"{estimate(np.stack(found[f'{kind}, {metric}'])).mean:.4f}" for metric in ("hr", "ndcg"))
        )
    difference = compare([tuple(np.stack(found[f"{kind}, ndcg"]) for kind in ("re-ranked", "sum"))])[0]
    cells.append(f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}), {difference.in_words}")
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
