"""Keeps in its folder what a training was run with, so that the same command goes on where it stopped."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.arguments import DataArguments
from ..models.backbone_references import add_tensors
from ..models.whole_saves import write_whole
from .arguments import TransRecTrainingArguments
from .model_arguments import ModelArguments
from .resuming import TRAINER_STATE_NAME, checkpoints_in, last_whole_checkpoint, read_json
from .same_training import name_differences


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
    """Returns the options that decide what is trained, and hashes of the data and of the weights at the start."""
    training = training_args.to_dict()
    kept = {name: value for name, value in training.items() if not name.startswith(tuple(_MAY_CHANGE))}
    start = hashlib.sha256()
    add_tensors(start, dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters()))
    hashes = {**trainer.data_hashes, "starting weights": start.hexdigest()}
    return json.loads(json.dumps({**vars(model_args), **vars(data_args), **kept, **hashes}, default=str))


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
    before, is_finished = read_json(folder / OPTIONS_NAME), read_json(finished) is not None
    others = "what it was run with is not recorded" if before is None else name_differences(before, run)
    if is_finished and resume != "false" and not others:
        return Start(is_finished=True)
    if resume == "true":
        found = last_whole_checkpoint(folder)
        ended = [one for one in checkpoints if (one / TRAINER_STATE_NAME).exists()]  # which is written last
        if found is None and (ended or is_finished):
            raise FileExistsError(
                f"there is no whole checkpoint in {folder} to go on from; remove the folder to start from the "
                "beginning"
            )
        if found is None:
            logger.warning("There is no checkpoint in %s yet: training starts from the beginning", folder)
            for checkpoint in checkpoints:  # of a run that was killed before any was written to its end
                shutil.rmtree(checkpoint)
        return Start(found)
    if checkpoints and not is_finished:
        raise FileExistsError(
            f"{folder} has an interrupted training: go on with --resume_from_checkpoint true, choose another "
            "--output_dir, or remove the folder"
        )
    if is_finished and resume is None:
        raise FileExistsError(
            f"{folder} has a finished training of other options or data ({others}): choose another --output_dir, go "
            "on from the checkpoint that it has kept with --resume_from_checkpoint true, where it is to be longer, or "
            "replace it with --resume_from_checkpoint false"
        )
    if checkpoints:
        logger.warning("%s has a finished training, which is replaced", folder)
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint)
    return Start()


def record_run(output_dir: str | os.PathLike, run: Mapping[str, Any]) -> None:
    """Writes down what a training is run with, which is no finished one from now on."""
    Path(output_dir, TRAINER_STATE_NAME).unlink(missing_ok=True)
    write_whole(Path(output_dir, OPTIONS_NAME), json.dumps(run, indent=2, ensure_ascii=False) + "\n")
