"""Evaluate a checkpoint by full ranking: HR@K, NDCG@K and MRR, with the protocol beside the numbers.

    transrec evaluate --model_name_or_path outputs/has_pt --output_file results.json

Zero-shot, on a data set that the model has never seen:

    transrec evaluate --model_name_or_path outputs/pretrained --dataset_config_name Bili_Food \\
        --data_dir /data/NineRec --language zh

A checkpoint on the Hub, with the results added to its card (--create_pr true where it is somebody else's):

    transrec evaluate --model_name_or_path me/my-recommender --push_to_hub true

Baselines that need no training: --model_name_or_path random and --model_name_or_path popularity. Metrics of the lists
beyond their hits: --metrics hr ndcg mrr coverage novelty popularity_bias.
On several GPUs: accelerate launch --multi_gpu -m modeling_transrec.cli.evaluate --model_name_or_path outputs/has_pt
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from ..data.arguments import DataArguments
from ..evaluation.arguments import EvaluationArguments
from ..evaluation.baselines import BASELINES
from ..evaluation.evaluate import evaluate
from ..hub.publish import push_results
from ..hub.results import THIS_MODEL, result_row
from .options import parse_arguments


def push_evaluation(args: EvaluationArguments, data_args: DataArguments, results: dict) -> str | None:
    """Adds results to the checkpoint's card, beside those of what needs no training on the same split.

    Args:
        args: the options that the results were measured with.
        data_args: the data set.
        results: what [`evaluate`] returned.

    Returns:
        The commit's address; `None` on all processes but the main one.
    """
    rows = []
    for name in BASELINES:
        changes = {"model_name_or_path": name, "max_seq_len": results["protocol"]["max_seq_len"]}
        changes |= {"transition_weight": "0", "center_scores": False, "by_group": False}
        changes |= {"push_to_hub": False, "create_pr": False}
        found = evaluate(replace(args, **changes), data_args)
        rows.append(result_row(name, found["metrics"], found["protocol"]))
    rows.append(result_row(THIS_MODEL, results["metrics"], results["protocol"]))
    if not PartialState().is_main_process:
        return None
    return push_results(args.model_name_or_path, rows, create_pr=args.create_pr)


def main(args: Sequence[str] | None = None) -> dict:
    """Runs `transrec evaluate` and returns what it printed."""
    evaluation_args, data_args = parse_arguments((EvaluationArguments, DataArguments), args, __doc__)
    results = evaluate(evaluation_args, data_args)
    if PartialState().is_main_process:
        text = json.dumps(results, indent=2, ensure_ascii=False)
        print(text)
        if evaluation_args.output_file is not None:
            Path(evaluation_args.output_file).parent.mkdir(parents=True, exist_ok=True)
            Path(evaluation_args.output_file).write_text(text + "\n", encoding="utf-8")
    if evaluation_args.push_to_hub:
        push_evaluation(evaluation_args, data_args, results)
    return results


if __name__ == "__main__":
    main()
