"""Run by test_options_on_processes.py: the losses of 20 steps with each option, on so many processes."""

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState

from modeling_transrec import (
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
)

from ..tiny import make_sequences, tiny_config


NUM_STEPS, USERS = 20, 12
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["query"]}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradient caching": {"gradient_caching_chunk_size": 2},
    "freeze_backbone": {"freeze_backbone": True},
    "train_last_n_layers": {"train_last_n_layers": 1},
    "peft": {},
    "torch_compile": {"torch_compile_backend": "eager"},
    "sparse_id_table": {"sparse_id_table": True, "weight_decay": 0.0},
}


def losses_of(name: str, folder: Path, num_processes: int) -> list[float]:
    items = datasets.load_from_disk(str(folder / "items"))
    is_id = name == "sparse_id_table"
    processor = TransRecProcessor(item_ids=items["item_id"]) if is_id else TransRecProcessor.from_pretrained(folder)
    torch.manual_seed(0)
    fields: dict[str, Any] = {"loss_type": "bce", "hidden_dropout_prob": 0.0, "num_hidden_layers": 1}
    config = tiny_config("id" if is_id else "text", processor.tokenizer, **fields)
    if not is_id:
        config.text_config.num_hidden_layers = 3
        config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    args = TransRecTrainingArguments(
        str(folder / f"out_{name}".replace(" ", "_")),
        use_cpu=True,
        disable_tqdm=True,
        max_steps=NUM_STEPS,
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        per_device_train_batch_size=USERS // num_processes,
        learning_rate=3e-3,
        ddp_backend="gloo" if num_processes > 1 else None,
        **OPTIONS[name],
    )
    model = TransRecForSequentialRecommendation(config)
    if name == "peft":
        model.add_peft_adapter(LORA)
    trainer = TransRecTrainer(model, args, items, make_sequences(items, USERS, "train"), processing_class=processor)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main(folder: Path, num_processes: int) -> None:
    found = {name: losses_of(name, folder, num_processes) for name in OPTIONS}
    if PartialState().is_main_process:
        (folder / f"{num_processes}.json").write_text(json.dumps(found))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
