"""Evaluate a checkpoint by full ranking: HR@K, NDCG@K and MRR, with the protocol beside the numbers.

    transrec evaluate --model_name_or_path outputs/has_pt --output_file results.json

Zero-shot, on a data set that the model has never seen:

    transrec evaluate --model_name_or_path outputs/pretrained --dataset_config_name Bili_Food \\
        --data_dir /data/NineRec --language zh

A checkpoint on the Hub, with the results added to its card (--create_pr true where it is somebody else's):

    transrec evaluate --model_name_or_path me/my-recommender --push_to_hub true

What needs no training, by its name in place of a checkpoint's, and the transitions of the platform beside a model:

    transrec evaluate --model_name_or_path content-and-transitions \\
        --text_model_name_or_path sentence-transformers/all-MiniLM-L6-v2
    transrec evaluate --model_name_or_path outputs/has_pt --transition_weight auto

The standard output is JSON; the standard error shows what needs no training on the same split beside it, for which the
catalogue is encoded once more, by the backbone that the model started from. --with_baselines false leaves that out.

Metrics of the lists beyond their hits: --metrics hr ndcg mrr coverage novelty popularity_bias diversity calibration.
On several GPUs: accelerate launch --multi_gpu -m modeling_transrec.cli.evaluate --model_name_or_path outputs/has_pt
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.arguments import DataArguments
from ..evaluation.arguments import EvaluationArguments
from ..evaluation.evaluate import EvaluationTask
from ..hub.publish import push_results
from ..hub.results import THIS_MODEL, result_row, show_results
from ..models.whole_saves import write_whole
from .options import parse_arguments


def compare_with_baselines(task: EvaluationTask, results: Sequence[dict]) -> list[dict]:
    """Returns a checkpoint's results as rows of a table, after those of what needs no training on the same split.

    Args:
        task: what was evaluated.
        results: what the task returned for the checkpoint.
    """
    found = [*task.evaluate_baselines().items(), *((THIS_MODEL, result) for result in results)]
    return [result_row(name, result["metrics"], result["protocol"]) for name, result in found]


def main(args: Sequence[str] | None = None) -> dict:
    """Runs `transrec evaluate` and returns what it printed."""
    evaluation_args, data_args = parse_arguments((EvaluationArguments, DataArguments), args, __doc__)
    task = EvaluationTask(evaluation_args, data_args)
    results = task.evaluate()
    if task.state.is_main_process:
        text = json.dumps(results[-1], indent=2, ensure_ascii=False)
        print(text, flush=True)
        if evaluation_args.output_file is not None:
            Path(evaluation_args.output_file).parent.mkdir(parents=True, exist_ok=True)
            write_whole(evaluation_args.output_file, text + "\n")
    if evaluation_args.push_to_hub or (evaluation_args.with_baselines and not task.is_baseline):
        rows = compare_with_baselines(task, results)
        if task.state.is_main_process:
            print(f"\n{show_results(rows)}", file=sys.stderr, flush=True)  # the standard output is JSON
            if evaluation_args.push_to_hub:
                push_results(evaluation_args.model_name_or_path, rows, create_pr=evaluation_args.create_pr)
    return results[-1]


if __name__ == "__main__":
    main()
