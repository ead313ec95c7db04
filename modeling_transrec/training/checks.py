"""Checks before the first step what would otherwise fail after an epoch, or at the end of a training."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from ..data.tables import is_columns
from ..evaluation.metrics import DEFAULT_METRICS, METRICS
from ..evaluation.sum_evaluator import WITH_TRANSITIONS
from ..evaluation.weighing import has_transitions
from ..hub.results import read_result
from ..models.auxiliary_losses import AUXILIARY_LOSSES
from ..models.backbone_references import check_referable
from ..models.configuration_transrec import did_you_mean
from ..models.modeling_transrec import TransRecForSequentialRecommendation
from ..models.processing_transrec import TransRecProcessor
from .arguments import TransRecTrainingArguments
from .sparse_table import check_processes, check_sparse_id_table


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


logger = logging.getLogger(__name__)


def check_arguments(args: Any, model_init: Any, eval_dataset: Any) -> None:
    """Refuses arguments of a [`TransRecTrainer`] that contradict each other."""
    if not isinstance(args, TransRecTrainingArguments):
        raise ValueError(f"args must be TransRecTrainingArguments, got {type(args).__name__}")
    if os.path.lexists(args.output_dir) and not os.path.isdir(args.output_dir):
        raise ValueError(f"output_dir {args.output_dir} exists and is no folder; choose another --output_dir")
    if args.n_gpu > 1:
        raise ValueError(
            f"one process cannot split a batch of distinct items over {args.n_gpu} GPUs; start one process a GPU "
            "with `accelerate launch --multi_gpu`, or set CUDA_VISIBLE_DEVICES"
        )
    if args.keep_start and isinstance(eval_dataset, dict) and not is_columns(eval_dataset):
        raise ValueError("keep_start compares on one evaluation split; give one as eval_dataset, not several")
    if args.keep_start and args.prediction_loss_only:
        raise ValueError("keep_start compares how users are ranked; leave out prediction_loss_only")
    if (args.keep_start or args.pull_to_start) and model_init is not None:
        raise ValueError("keep_start and pull_to_start need one model to start from; give model, not model_init")


def check_platform_options(args: TransRecTrainingArguments, has_several: bool) -> None:
    """Refuses options that the training data have no use for: of several platforms, or of one."""
    if has_several and args.train_sampling_strategy != "random":
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} is for one platform; several are drawn by "
            "platform_sampling_exponent"
        )
    defaults = TransRecTrainingArguments.defaults()
    for name in () if has_several else ("mix_platforms", "platform_sampling_exponent"):
        if getattr(args, name) != defaults[name]:
            raise ValueError(f"{name} is for training on several platforms, see join_platforms; there is one here")


def check_generalizes(processor: TransRecProcessor | None, args: TransRecTrainingArguments) -> None:
    """Refuses what another platform than that of the training cannot judge."""
    if processor is not None and (processor.item_ids is not None or processor.user_ids is not None):
        raise ValueError(
            "a model of ids can only be validated on the platform that it is trained on, whose ids it knows; leave "
            "out eval_items"
        )
    if has_transitions(args.transition_weight):
        raise ValueError(
            "no histories of the validation platform are read, so that there are no transitions to add; leave out "
            "--transition_weight, or set it to 0"
        )


def check_model(
    model: TransRecForSequentialRecommendation,
    args: TransRecTrainingArguments,
    compute_loss_func: Callable | None,
    has_own_optimizer: bool,
    trains: bool,
) -> None:
    """Refuses options that do not fit the model, which is frozen as the arguments say, or its training."""
    config, is_frozen = model.config, model.has_frozen_backbone
    if args.sparse_id_table:
        check_sparse_id_table(config, args, has_own_optimizer)
    if compute_loss_func is not None and config.predicts_within:
        raise ValueError(
            "compute_loss_func reads states that predict the next item, and this model predicts others; "
            "leave it out, or choose a user encoder that reads histories in order, such as sasrec"
        )
    if compute_loss_func is not None and config.auxiliary_loss_type is not None:
        raise ValueError("compute_loss_func takes the place of the whole loss; leave out auxiliary_loss_type")
    if not args.save_backbone:
        check_referable(model)
        if not is_frozen:
            raise ValueError("save_backbone=False is for backbones that are not trained; give freeze_backbone=True")
    if not trains:
        return
    if model.item_encoder.quantisers and not is_frozen:
        raise ValueError(
            f"item_projection={config.item_projection!r} gives the backbone no gradient; give freeze_backbone=True"
        )
    auxiliary = AUXILIARY_LOSSES[config.auxiliary_loss_type] if config.auxiliary_loss_type is not None else None
    if auxiliary is not None and auxiliary.reads_intents and args.save_strategy not in ("epoch", "no"):
        raise ValueError(
            f"auxiliary_loss_type={config.auxiliary_loss_type!r} finds clusters when an epoch begins, and one resumed "
            "in its middle would have others; give save_strategy='epoch'"
        )


def check_engine(trainer: "TransRecTrainer") -> None:
    """Refuses options that need unsharded weights, where FSDP or DeepSpeed shard them.

    Says where FSDP is asked for and accelerate leaves it out: on CPUs, and in a single process.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and not trainer.is_fsdp_enabled:
        logger.warning(
            "FSDP is asked for, and accelerate has it only for several processes on GPUs: here every process holds "
            "the whole model"
        )
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    if args.sparse_id_table:
        check_processes(trainer)
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return
    if args.keep_start or args.pull_to_start:
        raise ValueError("keep_start and pull_to_start need unsharded weights, and FSDP and DeepSpeed shard them")
    if trainer.train_dataset is not None and model.item_encoder.whitened and not model.has_frozen_backbone:
        raise ValueError(
            "item_projection='whitened' recomputes the features' statistics after each epoch, which needs unsharded "
            "weights; give freeze_backbone=True"
        )


def check_before_training(trainer: "TransRecTrainer") -> None:
    """Raises errors that training would only raise later.

    Histories, targets and users of the evaluation are looked up; the metric that chooses the best checkpoint must be
    one that is measured; there must be room for checkpoints, and permission to write them and to publish.
    """
    args, config = trainer.args, trainer.accelerator.unwrap_model(trainer.model).config
    if args.eval_strategy != "no" and trainer.eval_dataset is not None:
        several = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {None: trainer.eval_dataset}
        for name, sequences in several.items():
            evaluator = trainer.evaluator_of(sequences, "eval" if name is None else f"eval_{name}")
            evaluator.user_inputs(trainer.processing_class, config)
        if trainer.compute_metrics is None:  # or only the first evaluation tells their names
            check_metric(args, [name for name in several if name is not None], trainer.adds_transitions)
    trainer.get_train_dataloader()
    if config.platforms is not None and config.platform_index is None:
        raise ValueError(
            f"training without a platform's adapters would change every platform ({', '.join(config.platforms)}); "
            "name the one to train: --platform NAME"
        )
    if args.neftune_noise_alpha is not None and "text" not in config.modality.split("+"):
        raise ValueError("neftune_noise_alpha adds noise to the embeddings of tokens, and this model reads none")
    for entry in args.card_results or ():
        read_result(entry.partition("=")[2])
    if args.should_save:
        check_folder(args, trainer.accelerator.unwrap_model(trainer.model))
    if args.push_to_hub and trainer.is_world_process_zero():
        check_may_publish(trainer.hub_model_id, args)


def check_metric(args: TransRecTrainingArguments, splits: list[str], adds_transitions: bool) -> None:
    """Refuses a `metric_for_best_model` that no evaluation has.

    Args:
        args: the arguments.
        splits: names of the evaluation splits, where there are several.
        adds_transitions: whether the sum with transitions is ranked, too.
    """
    chooses = args.load_best_model_at_end or args.early_stopping_patience is not None or args.save_strategy == "best"
    if not chooses:
        return
    known = [f"{name}@{k}" for name in DEFAULT_METRICS if METRICS[name].has_cutoff for k in args.eval_ks]
    if adds_transitions:
        known += [f"{name}{WITH_TRANSITIONS}" for name in known]
    known += [name for name in DEFAULT_METRICS if not METRICS[name].has_cutoff]
    known = ["loss"] if args.prediction_loss_only else [*known, "loss"]
    known = [f"{split}_{name}" for split in splits for name in known] or known
    name = args.metric_for_best_model.removeprefix("eval_")
    if name not in known:
        raise ValueError(f"metric_for_best_model={name!r} is not measured; {did_you_mean(name, known)}")


def check_folder(args: TransRecTrainingArguments, model: nn.Module) -> None:
    """Refuses an `output_dir` that cannot be written to, or whose disk has no room for the checkpoints."""
    try:
        os.makedirs(args.output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=args.output_dir):
            pass
    except OSError as error:
        raise PermissionError(f"output_dir {args.output_dir} cannot be written to: {error}") from error
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    checkpoint = weights if args.save_only_model else weights + 8 * trained  # two moments in float32
    at_once = 0 if args.save_strategy == "no" else 2  # one is written before another is removed
    needed, free = at_once * checkpoint + weights, shutil.disk_usage(args.output_dir).free
    if needed > free:
        raise OSError(
            f"the disk of output_dir {args.output_dir} has {free / 1e9:.1f} GB left, and the model and its "
            f"checkpoints need {needed / 1e9:.1f} GB; choose another --output_dir, or --save_only_model true"
        )


def check_may_publish(repo_id: str, args: TransRecTrainingArguments) -> None:
    """Refuses a repository of the Hub that the token may not write to."""
    api, branch = HfApi(token=args.hub_token), args.hub_revision
    try:
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        api.preupload_lfs_files(repo_id, [CommitOperationAdd(".gitattributes", b"\n")], revision=branch)
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            logger.warning("The Hub did not say whether %s may be written to: %s", repo_id, error)
            return
        raise PermissionError(
            f"the token may not write to {repo_id} on the Hub, so that the model could not be published; log in with "
            "`hf auth login` and a token that may write, or leave out --push_to_hub"
        ) from error
