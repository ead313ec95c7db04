"""What the Trainer does when an epoch begins or ends."""

from typing import TYPE_CHECKING

from transformers import TrainerCallback

from ..data.collator import TransRecDataCollator
from ..evaluation.intents import find_intents


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


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
