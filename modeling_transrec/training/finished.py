"""What a training was run with, kept in its folder, so that the same command goes on where it stopped."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets

from ..data.arguments import DataArguments
from ..models.backbone_references import add_tensors
from .arguments import TransRecTrainingArguments
from .model_arguments import ModelArguments
from .resuming import TRAINER_STATE_NAME, checkpoints_in, last_whole_checkpoint, read_json


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


logger = logging.getLogger(__name__)

OPTIONS_NAME = "_options.json"  # names that start with "_" are never published
# Training arguments, by their beginnings, that another run of the same training may change.
_MAY_CHANGE = (
    "hub_ push_to_hub resume_from_checkpoint do_predict card_results output_dir log report_to run_name disable_tqdm "
    "dataloader_ preprocessing_num_workers per_device_eval_batch_size item_batch_size save_backbone project"
).split()


class Start(NamedTuple):
    """How a command begins.

    Args:
        checkpoint: to resume from, `None` where training starts from the beginning.
        is_finished: whether this very training is over, so that nothing is trained.
    """

    checkpoint: str | None = None
    is_finished: bool = False


def describe_run(
    trainer: "TransRecTrainer",
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TransRecTrainingArguments,
) -> dict[str, Any]:
    """Returns the options that decide what is trained, and a hash of the data, as JSON has them."""
    training = training_args.to_dict()
    kept = {name: value for name, value in training.items() if not name.startswith(tuple(_MAY_CHANGE))}
    found = {**vars(model_args), **vars(data_args), **kept, "data": _digest(trainer)}
    return json.loads(json.dumps(found, default=str))


def _digest(trainer: "TransRecTrainer") -> str:
    """Returns a hash of the weights that training starts from, of the items' ids and texts and of the histories.

    Images count by their items only.
    """
    digest = hashlib.sha256(trainer.data_collator.item_log_popularity.tobytes())
    if trainer.eval_dataset is not None:
        digest.update(trainer.evaluator_of(trainer.eval_dataset).fingerprint.encode())
    for name in sorted({"item_id", *trainer.processing_class.item_columns} & set(trainer.items.column_names)):
        if isinstance(trainer.items.features[name], datasets.Value):
            for value in trainer.items[name][:]:
                digest.update(f"{value}\0".encode())
    add_tensors(digest, dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters()))
    return digest.hexdigest()


def where_to_start(args: TransRecTrainingArguments, run: Mapping[str, Any]) -> Start:
    """Decides how a command begins in its folder; a training that is started anew leaves nothing of one before it.

    Args:
        args: with `output_dir` and `resume_from_checkpoint`: a folder, `"true"`, `"false"` or `None`.
        run: see [`describe_run`].

    Raises:
        FileExistsError: if the folder has an interrupted training that is not to be resumed, a finished one of other
            options, or checkpoints none of which can be read.
    """
    folder, resume = Path(args.output_dir), args.resume_from_checkpoint
    finished, checkpoints = folder / TRAINER_STATE_NAME, checkpoints_in(folder)  # the state is written at the end
    if resume is not None and resume.lower() not in ("true", "false"):  # to HfArgumentParser it is a path
        return Start(resume)
    resume = None if resume is None else resume.lower()
    others = _differences(read_json(folder / OPTIONS_NAME) or {}, run)
    if finished.exists() and resume != "false" and not others:
        return Start(is_finished=True)
    if resume == "true":
        found = last_whole_checkpoint(folder)
        if found is None and (checkpoints or finished.exists()):
            raise FileExistsError(
                f"there is no whole checkpoint in {folder} to go on from; remove the folder to start from the "
                "beginning"
            )
        if found is None:
            logger.warning("There is no checkpoint in %s yet: training starts from the beginning", folder)
        finished.unlink(missing_ok=True)
        return Start(found)
    if checkpoints and not finished.exists():
        raise FileExistsError(
            f"{folder} has an interrupted training: go on with --resume_from_checkpoint true, choose another "
            "--output_dir, or remove the folder"
        )
    if finished.exists() and resume is None:
        raise FileExistsError(
            f"{folder} has a finished training of other options or data ({others}): choose another --output_dir, go "
            "on from its last checkpoint with --resume_from_checkpoint true, or replace it with "
            "--resume_from_checkpoint false"
        )
    if checkpoints:
        logger.warning("%s has a finished training, which is replaced", folder)
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint)
    finished.unlink(missing_ok=True)
    return Start()


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names the options that differ; nothing where none does."""
    if not before:
        return "what it was run with is not recorded"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changes = {name: f" {before.get(name)!r}, now {now.get(name)!r}" for name in names if name != "data"}
    return ", ".join(f"{name}{changes.get(name, '')}" for name in names)


def record_run(output_dir: str | os.PathLike, run: Mapping[str, Any]) -> None:
    """Writes down what a training is run with."""
    path = Path(output_dir) / OPTIONS_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
