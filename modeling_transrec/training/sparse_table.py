"""Trains the id table by the items of each batch: sparse gradients, and an optimizer that steps only their rows."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..models.configuration_transrec import TransRecConfig
from ..models.losses import LOSSES
from .arguments import TransRecTrainingArguments


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


logger = logging.getLogger(__name__)

LARGE = 1_000_000  # rows; of a larger table most of a step's time goes into rows whose items are not in the batch
_OPTIMS = ("adamw_torch", "adamw_torch_fused")


class JoinedOptimizer(torch.optim.Optimizer):
    """Steps several optimizers as one, so that Trainer, schedule and checkpoint know a single one.

    Parameter groups and state are those of the parts, one after the other.

    Args:
        parts: optimizers of different parameters.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]):
        self.parts = parts
        groups = [group for part in parts for group in part.param_groups]
        super().__init__(groups, defaults={"lr": parts[0].defaults["lr"]})  # which some schedules read
        self._share()

    def _share(self) -> None:
        """Gives the parts the groups and the state of the whole."""
        start = 0
        for part in self.parts:
            stop = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:stop], self.state, stop

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads as torch does; the parts go on with what was loaded."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure=None):
        """Steps each part; a closure is evaluated once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def join_with_table(
    others: torch.optim.Optimizer | None, table: torch.nn.Parameter, args: TransRecTrainingArguments
) -> JoinedOptimizer:
    """Joins the optimizer of the other weights that are trained, if any, with `SparseAdam` of the id table."""
    betas = (args.adam_beta1, args.adam_beta2)
    of_table = torch.optim.SparseAdam([table], lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
    return JoinedOptimizer([*([] if others is None else [others]), of_table])


def with_values_of_rows(parameters: Iterable[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Returns parameters whose gradients can be clipped: before 2.14, torch has no norm of sparse ones.

    In place of a parameter with a sparse gradient stands a tensor whose gradient is the values of its rows, in the
    same memory.
    """
    found: list[torch.Tensor] = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.is_sparse:
            parameter.grad = gradient = gradient.coalesce()  # a row that a batch reads twice has one gradient, the sum
            values = gradient.values()
            rows = torch.empty_like(values)
            rows.grad = values
            found.append(rows)
        else:
            found.append(parameter)
    return found


def warn_of_large_table(config: TransRecConfig) -> None:
    """Says how a large id table is trained faster, where the loss does not touch most of its rows."""
    if (config.num_items or 0) >= LARGE and LOSSES[config.loss_type].candidates != "catalogue":
        logger.warning(
            "Every step changes all %s rows of the id table; with sparse_id_table=True only those of its batch",
            f"{config.num_items:,}",
        )


def check_sparse_id_table(config: TransRecConfig, args: TransRecTrainingArguments, has_own_optimizer: bool) -> None:
    """Raises `ValueError` where `sparse_id_table` has no table, or an option needs all of its rows in each step."""
    name = "sparse_id_table=True"
    if config.num_items is None:
        raise ValueError(f"{name} is for a table of item ids, and a model of {config.modality} has none; leave it out")
    if LOSSES[config.loss_type].candidates == "catalogue":
        raise ValueError(
            f"{name} steps the rows of a batch, and with loss_type={config.loss_type!r} all rows are in every batch; "
            "choose a loss that samples, such as sampled_softmax, or leave sparse_id_table out"
        )
    if args.weight_decay:
        raise ValueError(
            f"{name} has no weight decay, which would change every row in each step; give weight_decay=0 (a backbone "
            "keeps its own, backbone_weight_decay)"
        )
    if args.pull_to_start:
        raise ValueError(f"{name} leaves rows as they are, and pull_to_start changes every row; give one of them")
    if has_own_optimizer or args.optim not in _OPTIMS:
        raise ValueError(
            f"{name} trains the table by SparseAdam and all else by AdamW; leave out an optimizer of your own, and "
            f"choose optim from {', '.join(_OPTIMS)}"
        )


def check_processes(trainer: "TransRecTrainer") -> None:
    """Raises `ValueError` where the processes of a run cannot exchange sparse gradients."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "sparse_id_table=True needs unsharded weights, and FSDP and DeepSpeed shard them; leave it out"
        )
    if trainer.args.world_size > 1 and trainer.args.device.type == "cuda":
        raise ValueError(
            "sparse_id_table=True on several GPUs would need sparse gradients of NCCL, which has none; train on one "
            "GPU, or leave sparse_id_table out"
        )
