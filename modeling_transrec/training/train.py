"""Trains a model on a data set and saves it with its card."""

import logging
from typing import Any

import torch
from transformers import set_seed

from ..data.arguments import DataArguments
from ..evaluation.features import starting_backbones
from ..evaluation.ranks import of_main_process
from ..models.whole_saves import named_disk_errors
from ..ninerec.protocol import split_protocol
from .arguments import TransRecTrainingArguments
from .finished import describe_run, record_run, where_to_start
from .heartbeat import watched
from .model_arguments import ModelArguments
from .model_building import load_model_and_processor
from .resuming import one_training
from .same_training import check_same_training, describe_training
from .trainer import TransRecTrainer


logger = logging.getLogger(__name__)


def train(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TransRecTrainingArguments,
    with_card: bool = True,
) -> TransRecTrainer:
    """Trains, keeps the best checkpoint by validation HR@10, and saves model, processor and card in `output_dir`.

    The test split is not read but with `do_predict`, when training is over.

    Args:
        model_args: the model.
        data_args: the data set.
        training_args: how it is trained; with `push_to_hub`, the checkpoint is published, too.
        with_card: whether to write the card, for which all that needs no training is ranked; what is published has it.

    A command that is given again goes on where it stopped: of a training that is over, only what comes after it is
    done, such as an upload that failed.

    Returns:
        The Trainer, with the best checkpoint's weights in its model.

    Example:

    ```python
    from modeling_transrec import DataArguments, ModelArguments, TransRecTrainingArguments, train

    train(ModelArguments(modality="text"), DataArguments(), TransRecTrainingArguments(output_dir="outputs/model"))
    ```
    """
    training_args.device  # noqa: B018  # the processes find each other
    with one_training(training_args.output_dir), watched(training_args.ddp_timeout):
        return _train_locked(model_args, data_args, training_args, with_card)


def _train_locked(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TransRecTrainingArguments,
    with_card: bool,
) -> TransRecTrainer:
    """Trains as [`train`] does, while the lock of `output_dir` is held."""
    trainer = build_trainer(model_args, data_args, training_args)
    run = describe_run(trainer, model_args, data_args, training_args)
    start = of_main_process(lambda: where_to_start(training_args, run))
    if start.is_finished:
        trainer.load_finished()
    else:
        if start.checkpoint is not None:
            check_same_training(start.checkpoint, describe_training(trainer))
        trainer.check_before_training()
        if trainer.is_world_process_zero():
            record_run(training_args.output_dir, run)
            print(trained_share(trainer.accelerator.unwrap_model(trainer.model)), flush=True)
        result = trainer.train(resume_from_checkpoint=start.checkpoint)
        with named_disk_errors(training_args.output_dir, "the checkpoints are whole: --resume_from_checkpoint true"):
            trainer.save_model(_internal_call=True)
            trainer.log_metrics("train", result.metrics)
            trainer.save_metrics("train", result.metrics)
            trainer.save_state()  # the mark of a finished training
    if training_args.do_predict:
        max_seq_len = model_args.resolved_max_seq_len()
        metrics = trainer.predict(data_args.load_sequences("test", max_seq_len)).metrics
        trainer.save_metrics("test", metrics)
    card: dict[str, Any] = {
        "dataset": data_args.dataset_name,
        "dataset_args": data_args.title,
        "eval_dataset_args": data_args.eval_title,
        "finetuned_from": model_args.model_name_or_path,
        "license": training_args.hub_license,
    }
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    elif with_card:
        trainer.create_model_card(**card)
    trainer.accelerator.wait_for_everyone()  # the main process writes; the others may want to read
    if trainer.is_world_process_zero():
        before = " by an earlier run of this command, nothing was trained" if start.is_finished else ""
        print(f"Saved in {training_args.output_dir}{before}{_best_result(trainer)}", flush=True)
    return trainer


def build_trainer(
    model_args: ModelArguments, data_args: DataArguments, training_args: TransRecTrainingArguments
) -> TransRecTrainer:
    """Loads the data and the model, and returns their Trainer."""
    set_seed(training_args.seed)
    max_seq_len = model_args.resolved_max_seq_len()
    with training_args.main_process_first(desc="loading the data"):
        items = data_args.load_items(max_seq_len)
        train_split = data_args.load_sequences("train", max_seq_len)
        validation = data_args.load_sequences("validation", max_seq_len)
        eval_items = data_args.load_eval_items(max_seq_len)
    if (split_protocol(train_split) or {}).get("split_strategy") == "random":
        logger.warning(
            "The split is random: the model learns from what users did after the interactions that it is tested on, "
            "so that its metrics flatter it; a model for use is better measured by --split_strategy temporal"
        )
    model, processor = load_model_and_processor(model_args, items, train_split["user_id"])
    is_pretrained = bool(starting_backbones(model.config))
    trainer = TransRecTrainer(
        model,
        training_args,
        items,
        train_split,
        validation,
        processing_class=processor,
        whole_sequences=data_args.load_training_histories,
        eval_items=eval_items,
    )
    trains_all = not model.has_frozen_backbone and model.config.peft_config is None
    if is_pretrained and trains_all and training_args.backbone_learning_rate is None:
        logger.warning(
            "The pretrained backbone is trained at --learning_rate %g; the paper's rates for backbones are 5e-6 to "
            "5e-5: --backbone_learning_rate 1e-5",
            training_args.learning_rate,
        )
    return trainer


def trained_share(model: torch.nn.Module) -> str:
    """Returns how many of a model's parameters are trained, as a sentence.

    >>> trained_share(torch.nn.Linear(9, 11).requires_grad_(False))
    'Trains 0 of 110 parameters (0.0 %)'
    """
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in model.parameters())
    return f"Trains {trained:,} of {total:,} parameters ({100 * trained / total:.1f} %)"


def _best_result(trainer: TransRecTrainer) -> str:
    """Returns the best validation result and its epoch, as a sentence's end; empty where nothing was evaluated."""
    state = trainer.state
    if trainer.kept_start:
        return ": the model that training started from, since no epoch gained more than one standard error"
    if state.best_metric is None:
        return ""
    epoch = next(entry["epoch"] for entry in state.log_history if entry["step"] == state.best_global_step)
    return f": validation {trainer.args.metric_for_best_model} {state.best_metric:.4f} after epoch {epoch:g}"
