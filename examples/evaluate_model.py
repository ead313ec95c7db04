"""Evaluate a checkpoint by full ranking: HR@K, NDCG@K, MRR, with the protocol beside the numbers.

    accelerate launch examples/evaluate_model.py --model_name_or_path outputs/has_pt --output_file results.json

Zero-shot, on a data set that the model has never seen:

    accelerate launch examples/evaluate_model.py --model_name_or_path outputs/pretrained \
        --dataset_config_name Bili_Food --data_dir /data/NineRec --language zh

Of a checkpoint on the Hub, with the results added to its card (`--create_pr true` where it is another's):

    accelerate launch examples/evaluate_model.py --model_name_or_path me/my-recommender --push_to_hub true

Baselines without training: `--model_name_or_path random` and `--model_name_or_path popularity`.
"""

import json
from pathlib import Path

from accelerate import PartialState
from transformers import HfArgumentParser

from modeling_transrec.cli.arguments import DataArguments, EvaluationArguments
from modeling_transrec.cli.experiment import evaluate, push_evaluation


def main(args: list[str] | None = None) -> dict:
    parser = HfArgumentParser((EvaluationArguments, DataArguments), allow_abbrev=False)
    evaluation_args, data_args = parser.parse_args_into_dataclasses(args)
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
