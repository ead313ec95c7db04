"""Callbacks of the Trainer: at the borders of an epoch, and to stop training."""

import logging
import time
from typing import TYPE_CHECKING, Any, cast

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
    """

    def __init__(self, trainer: "TransRecTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        trainer, collator = self.trainer, self.trainer.data_collator
        model = trainer.accelerator.unwrap_model(trainer.model)
        with trainer.accelerator.autocast():
            centres = find_intents(
                model,
                trainer.prepared_items,
                trainer.processing_class,
                trainer.train_dataset,
                model.config.num_intents,
                args.item_batch_size,
                collator.seed + int(state.epoch),
            )
        collator.intents.copy_(centres)


class FitStatistics(TrainerCallback):
    """Recomputes the statistics of the catalogue's features after each epoch, before its checkpoint is saved.

    Args:
        trainer: the Trainer to read model and data from.
    """

    def __init__(self, trainer: "TransRecTrainer"):
        self.trainer = trainer

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.fit_statistics()


def _saved_attributes(callback: TrainerCallback, state: TrainerState) -> dict[str, Any]:
    """Returns what a callback had in the checkpoint that a training is resumed from; nothing where it begins."""
    saved = cast(dict[str, Any], state.stateful_callbacks).get(type(callback).__name__)  # a dictionary by now
    return saved["attributes"] if saved and state.global_step else {}


class EarlyStopping(EarlyStoppingCallback):
    """As in transformers, and a resumed training goes on counting where it was interrupted."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = _saved_attributes(self, state).get("early_stopping_patience_counter", 0)


class StopAfterMinutes(TrainerCallback, ExportableState):
    """Stops training after a number of minutes, with what is done at the end of each epoch.

    Processes stop together, by the clock of the main one.

    Args:
        minutes: limit; evaluations count, and so does the time before the training was resumed.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes
        self.minutes_before = 0.0  # until it was interrupted
        self._start = time.monotonic()

    def _spent(self) -> float:
        return self.minutes_before + (time.monotonic() - self._start) / 60

    def state(self) -> dict:
        """Returns what a checkpoint stores: the limit, and the minutes spent so far."""
        return {"args": {"minutes": self.minutes}, "attributes": {"minutes_before": self._spent()}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.minutes_before = _saved_attributes(self, state).get("minutes_before", 0.0)
        self._start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if of_main_process(self._spent) < self.minutes:
            return
        logger.warning("Training stops after %.4g minutes, in epoch %.3g", self.minutes, state.epoch)
        control.should_training_stop = True
        control.should_evaluate = control.should_evaluate or args.eval_strategy == "steps"
        control.should_save = control.should_save or args.save_strategy == "steps"
