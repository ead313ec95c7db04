"""Evaluate a checkpoint by full ranking: HR@K, NDCG@K, MRR, with the protocol beside the numbers.

    accelerate launch examples/evaluate.py --model_name_or_path outputs/has_pt --output_file results.json

Zero-shot, on a data set that the model has never seen:

    accelerate launch examples/evaluate.py --model_name_or_path outputs/pretrained \
        --dataset_config_name Bili_Food --data_dir /data/NineRec --language zh

Baselines without training: `--model_name_or_path random` and `--model_name_or_path popularity`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from transformers import AutoConfig, HfArgumentParser

from modeling_transrec import FullRankingEvaluator, TransRecModel, TransRecProcessor
from modeling_transrec.data import count_actions, histories_as_rows
from modeling_transrec.experiment import DataArguments


BASELINES = ("random", "popularity")


@dataclass
class EvaluationArguments:
    model_name_or_path: str = field(metadata={"help": "Checkpoint folder or Hub id; or 'random', 'popularity'."})
    split: str = field(default="test", metadata={"help": "Split.", "choices": ["validation", "test"]})
    output_file: str | None = field(default=None, metadata={"help": "JSON file for metrics and protocol."})
    language: str | None = field(
        default=None, metadata={"help": "Text to read: 'en' or 'zh'; the model's by default."}
    )
    eval_ks: list[int] = field(default_factory=lambda: [5, 10, 20], metadata={"help": "Cut-offs K."})
    include_seen: bool = field(default=False, metadata={"help": "Keep the history's items as candidates."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Users ranked at a time."})
    item_batch_size: int = field(default=256, metadata={"help": "Items encoded at a time."})
    max_seq_len: int = field(default=20, metadata={"help": "History kept for the baselines; a model has its own."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay off the accelerator."})


def evaluate(args: EvaluationArguments, data_args: DataArguments) -> dict:
    """Metrics and protocol of a checkpoint or baseline."""
    state = PartialState(cpu=args.use_cpu)
    is_baseline = args.model_name_or_path in BASELINES
    max_seq_len = args.max_seq_len if is_baseline else AutoConfig.from_pretrained(args.model_name_or_path).max_seq_len
    with state.main_process_first():
        items = data_args.load_items(max_seq_len)
        sequences = data_args.load_sequences(args.split, max_seq_len)
    evaluator = FullRankingEvaluator(
        items,
        sequences,
        ks=args.eval_ks,
        exclude_seen=not args.include_seen,
        batch_size=args.per_device_eval_batch_size,
        item_batch_size=args.item_batch_size,
        split=args.split,
    )
    if args.model_name_or_path == "random":
        metrics = evaluator.evaluate_random()
    elif args.model_name_or_path == "popularity":
        histories = histories_as_rows(data_args.load_sequences("train", max_seq_len), items["item_id"])
        metrics = evaluator.evaluate_popularity(count_actions(histories, len(items)))
    else:
        model = TransRecModel.from_pretrained(args.model_name_or_path).to(state.device)
        processor = TransRecProcessor.from_pretrained(args.model_name_or_path)
        processor.language = args.language or processor.language
        metrics = evaluator(model, processor)
    dataset = f"{data_args.dataset_name}/{data_args.dataset_config_name}"
    protocol = {"dataset": dataset, "model": args.model_name_or_path, "max_seq_len": max_seq_len, **evaluator.protocol}
    return {"metrics": metrics, "protocol": protocol}


def main(args: list[str] | None = None) -> dict:
    parser = HfArgumentParser((EvaluationArguments, DataArguments))
    evaluation_args, data_args = parser.parse_args_into_dataclasses(args)
    results = evaluate(evaluation_args, data_args)
    if PartialState().is_main_process:
        text = json.dumps(results, indent=2, ensure_ascii=False)
        print(text)
        if evaluation_args.output_file is not None:
            Path(evaluation_args.output_file).parent.mkdir(parents=True, exist_ok=True)
            Path(evaluation_args.output_file).write_text(text + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
