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
from modeling_transrec.data.precomputed_items import PrecomputedItems

from ..tiny import make_sequences, tiny_config


def main(folder: Path, users_per_device: int, loss_type: str, chunk_size: int | None, num_frozen: int) -> None:
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
        gradient_caching_chunk_size=chunk_size,
        train_last_n_layers=1 if num_frozen else None,
        transition_weight="auto" if loss_type == "bce" else "0",
    )
    processor = TransRecProcessor.from_pretrained(folder)
    items = datasets.load_from_disk(str(folder / "items"))
    train = make_sequences(items, 12, "train")
    validation = make_sequences(items, 13, "validation")
    torch.manual_seed(0)
    fields = {"loss_type": loss_type, "gather_negatives": loss_type == "in_batch", "hidden_dropout_prob": 0.0}
    if loss_type == "full_softmax":  # starts at content kNN: the catalogue's statistics are taken by all together
        fields |= {"item_projection": "whitened", "hidden_size": None, "history_decay": 0.7, "normalize_scores": True}
    config = tiny_config("text", processor.tokenizer, **fields)
    config.text_config.num_hidden_layers = num_frozen + 1
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    model = TransRecForSequentialRecommendation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    trainer = TransRecTrainer(model, args, items, train, validation, processing_class=processor)
    assert isinstance(trainer.data_collator.items, PrecomputedItems) == bool(num_frozen)
    # Evaluated before training: after it, weights are equal up to rounding alone, and a near tie may turn.
    validated = {name: value for name, value in trainer.evaluate().items() if "@" in name or "mrr" in name}
    several = {"batch_size": 2, "item_batch_size": 5}
    alone = FullRankingEvaluator(items, validation, **several)(trainer.model, processor)
    centred = FullRankingEvaluator(items, validation, center_scores=True, **several)(trainer.model, processor)
    few = FullRankingEvaluator(items, validation.select([0]), item_batch_size=100)(trainer.model, processor)
    trainer.train()
    state = PartialState()
    if state.is_main_process:
        results = {"num_processes": state.num_processes, "validated": validated, "evaluator": alone, "one_user": few}
        results |= {"centred": centred, "num_evaluations": sum("eval_mrr" in e for e in trainer.state.log_history)}
        (folder / "results.json").write_text(json.dumps(results))
        save_file(
            {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()},
            folder / "weights.safetensors",
        )
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]) or None, int(sys.argv[5]))
