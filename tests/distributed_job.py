"""Run by test_distributed.py on one or two processes: trains and evaluates, and writes down what came out."""

import json
import sys
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from safetensors.torch import save_file

from modeling_transrec import (
    FullRankingEvaluator,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
)

from .conftest import make_sequences, tiny_config


def main(folder: Path, users_per_device: int, loss_type: str) -> None:
    args = TransRecTrainingArguments(
        output_dir=str(folder / "out"),
        use_cpu=True,
        disable_tqdm=True,
        num_train_epochs=2,
        learning_rate=0.05,
        optim="sgd",
        per_device_train_batch_size=users_per_device,
        per_device_eval_batch_size=2,
        item_batch_size=5,
    )
    processor = TransRecProcessor.from_pretrained(folder)
    items = datasets.load_from_disk(str(folder / "items"))
    train = make_sequences(items, 12, "train")
    validation = make_sequences(items, 13, "validation")
    torch.manual_seed(0)
    fields = {"loss_type": loss_type, "gather_negatives": loss_type == "in_batch", "hidden_dropout_prob": 0.0}
    config = tiny_config("text", processor.tokenizer, **fields)
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    model = TransRecForSequentialRecommendation(config)
    trainer = TransRecTrainer(model, args, items, train, validation, processing_class=processor)
    trainer.train()
    alone = FullRankingEvaluator(items, validation, batch_size=2, item_batch_size=5)(trainer.model, processor)
    state = PartialState()
    few = FullRankingEvaluator(items, validation.select([0]), item_batch_size=100)(trainer.model, processor)
    if state.is_main_process:
        logged = [entry for entry in trainer.state.log_history if "eval_hr@10" in entry]
        kept = [{name: value for name, value in entry.items() if "hr@" in name or "ndcg@" in name} for entry in logged]
        results = {"num_processes": state.num_processes, "logged": kept, "evaluator": alone, "one_user": few}
        (folder / "results.json").write_text(json.dumps(results))
        save_file(
            {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()},
            folder / "weights.safetensors",
        )
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
