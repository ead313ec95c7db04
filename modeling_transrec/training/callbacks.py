"""What the Trainer does when an epoch begins or ends, and when its time is over."""

import logging
import time
from typing import TYPE_CHECKING

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..data.collator import TransRecDataCollator
from ..evaluation.intents import find_intents
from ..evaluation.ranks import of_main_process


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


logger = logging.getLogger(__name__)


class SetEpoch(TrainerCallback):
    """Tells the collator the epoch, of which its negatives are a function.

    Args:
        collator: of the training.
    """

    def __init__(self, collator: TransRecDataCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.set_epoch(int(state.epoch))


class FindIntents(TrainerCallback):
    """Finds the clusters of users that an epoch's auxiliary loss reads, see [`find_intents`].

    Args:
        trainer: of the model.
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
    """Takes the catalogue's statistics anew after each epoch; the checkpoint that follows it has them for the next.

    Args:
        trainer: of the model.
    """

    def __init__(self, trainer: "TransRecTrainer"):
        self.trainer = trainer

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.fit_statistics()


class StopAfter(TrainerCallback, ExportableState):
    """Stops training after so many minutes, with a last evaluation and checkpoint where there are any.

    Processes stop together, by the clock of the main one; checkpoints hold the minutes that are spent.

    Args:
        minutes: of training and evaluations.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes
        self._before = 0.0  # minutes, until the training was interrupted
        self._start = time.monotonic()

    @property
    def spent(self) -> float:
        """Minutes since training began, without the time between an interruption and its resumption."""
        return self._before + (time.monotonic() - self._start) / 60

    def state(self) -> dict:
        """What a checkpoint holds."""
        return {"args": {"minutes": self.minutes}, "attributes": {"spent": self.spent}}

    def on_train_begin(self, args, state, control, **kwargs):
        of_checkpoint = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        self._before = of_checkpoint["attributes"]["spent"] if of_checkpoint else 0.0
        self._start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if of_main_process(lambda: self.spent) < self.minutes:
            return
        logger.warning("Training stops after %.4g minutes, in epoch %.3g", self.minutes, state.epoch)
        control.should_training_stop = True  # the epoch ends here, with what is done after each
        control.should_evaluate = control.should_evaluate or args.eval_strategy == "steps"
        control.should_save = control.should_save or args.save_strategy == "steps"
