"""Callbacks of the Trainer: at the borders of an epoch, and to stop training."""

import logging
import time
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from ..data.collator import TransRecDataCollator
from ..evaluation.intents import find_intents
from ..evaluation.ranks import of_main_process


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


logger = logging.getLogger(__name__)


class SetEpoch(TrainerCallback):
    """Passes the epoch to the collator, which draws its negatives from it.

    Args:
        collator: the training's.
    """

    def __init__(self, collator: TransRecDataCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.set_epoch(int(state.epoch))


class FindIntents(TrainerCallback):
    """Finds the clusters of users that an epoch's auxiliary loss reads, see [`find_intents`].

    Args:
        trainer: the Trainer to read model and data from.
        intents: `(K, D)`, where the clusters' centres are written.
    """

    def __init__(self, trainer: "TransRecTrainer", intents: torch.Tensor):
        self.trainer, self.intents = trainer, intents

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step and _is_within_epoch(state):
            raise ValueError(
                "the checkpoint is of the middle of an epoch (max_train_minutes), whose clusters of users are not "
                "kept; start another training in another output_dir"
            )

    def on_epoch_begin(self, args, state, control, **kwargs):
        trainer, collator = self.trainer, self.trainer.data_collator
        model = trainer.accelerator.unwrap_model(trainer.model)
        with trainer.accelerator.autocast():
            centres = find_intents(
                model,
                trainer.prepared_items,
                trainer.processing_class,
                trainer.training_histories,
                model.config.num_intents,
                args.item_batch_size,
                collator.seed + int(state.epoch),
            )
        self.intents.copy_(centres)


class FitStatistics(TrainerCallback):
    """Recomputes the statistics of the catalogue's features after each epoch, before its checkpoint is saved.

    Args:
        trainer: the Trainer to read model and data from.
    """

    def __init__(self, trainer: "TransRecTrainer"):
        self.trainer = trainer

    def on_epoch_end(self, args, state, control, **kwargs):
        if not _is_within_epoch(state):  # where max_train_minutes has ended it
            self.trainer.fit_statistics()


def _saved_attributes(callback: TrainerCallback, state: TrainerState) -> dict[str, Any]:
    """Returns what a callback had in the checkpoint that a training is resumed from; nothing where it begins."""
    saved = cast(dict[str, Any], state.stateful_callbacks).get(type(callback).__name__)  # a dictionary by now
    return saved["attributes"] if saved and state.global_step else {}


def _is_within_epoch(state: TrainerState) -> bool:
    return abs(state.epoch - round(state.epoch)) > 1e-6


class EarlyStopping(EarlyStoppingCallback):
    """Stops as transformers does, and a resumed training goes on counting where it was interrupted."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience = args.early_stopping_patience  # of now, whatever a checkpoint has
        self.early_stopping_patience_counter = _saved_attributes(self, state).get("early_stopping_patience_counter", 0)


class StopAfterMinutes(TrainerCallback, ExportableState):
    """Stops training after `max_train_minutes`, with what is done at the end of each epoch.

    Evaluations count, and so does the time before a training was resumed. Processes stop together, by the clock of the
    main one.
    """

    def __init__(self):
        self.minutes_before = 0.0  # until it was interrupted
        self._start: float | None = None  # while there is no training

    def _spent(self) -> float:
        return self.minutes_before + (0.0 if self._start is None else (time.monotonic() - self._start) / 60)

    def state(self) -> dict:
        """Returns what a checkpoint stores: the minutes spent so far."""
        return {"args": {}, "attributes": {"minutes_before": self._spent()}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.minutes_before = _saved_attributes(self, state).get("minutes_before", 0.0)
        self._start = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self._start = None

    def on_step_end(self, args, state, control, **kwargs):
        if self._stops(args, state, control):
            control.should_evaluate = control.should_evaluate or args.eval_strategy == "steps"
            control.should_save = control.should_save or args.save_strategy == "steps"

    def on_evaluate(self, args, state, control, **kwargs):
        if self._start is not None:  # not one that the user asks for
            self._stops(args, state, control)

    def _stops(self, args, state, control) -> bool:
        if control.should_training_stop or of_main_process(self._spent) < args.max_train_minutes:
            return False
        logger.warning("Training stops after %.4g minutes, in epoch %.3g", args.max_train_minutes, state.epoch)
        control.should_training_stop = True
        return True
