"""The weights that training starts from: a pull towards them, and the way back where training gains nothing."""

import logging

import torch
from transformers import TrainerCallback

from ..models.pretrained_model import TransRecPreTrainedModel


logger = logging.getLogger(__name__)


class PullToStart(TrainerCallback):
    """Pulls the trained weights towards the start in every step: `w -= rate * strength * (w - start)`.

    Weight decay pulls a pretrained model to zero, which it never was near; few users then undo what it knows (L2-SP,
    Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018, decoupled from
    the gradient as in AdamW).

    Args:
        model: at its start, which is also that of a run that is resumed.
        strength: of the pull, in units of the learning rate.
    """

    def __init__(self, model: TransRecPreTrainedModel, strength: float):
        self.strength = strength
        self.start = {
            parameter: parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad
        }

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                start = self.start[parameter].to(parameter.device)
                parameter.sub_(group["lr"] * self.strength * (parameter - start))


class Start:
    """The weights and the validation of a model before it is trained.

    Args:
        model: the model.
        gains: `(N,)` NDCG@10 of each validation user.
    """

    def __init__(self, model: TransRecPreTrainedModel, gains: torch.Tensor):
        self.gains = gains
        self.weights = {name: values.detach().clone() for name, values in model.state_dict().items()}

    def go_back_unless_better(self, model: TransRecPreTrainedModel, gains: torch.Tensor) -> bool:
        """Gives a trained model its weights back, unless it gained more than one standard error; returns whether.

        Args:
            model: the trained model.
            gains: `(N,)` of the same users, of the trained model.
        """
        difference = gains - self.gains
        mean, error = float(difference.mean()), float(difference.std() / len(difference) ** 0.5)
        if mean > error:
            return False
        logger.warning(
            "Training changed NDCG@10 on validation by %+.4f, not by more than one standard error (%.4f): the weights "
            "that it started from are kept",
            mean,
            error,
        )
        model.load_state_dict(self.weights)
        return True
