"""Training arguments."""

import logging
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from ..evaluation.evaluator import FullRankingEvaluator
from ..evaluation.sum_evaluator import WITH_TRANSITIONS
from ..evaluation.weighing import check_transition_weight, has_transitions
from ..models.configuration_transrec import described_fields


logger = logging.getLogger(__name__)

MOST_WORKERS = 4  # by default
_USUAL_METRIC = FullRankingEvaluator.primary_metric


def _with_help(cls: type) -> type:
    """Gives the fields of a class that is about to become a dataclass the texts of its docstring as their help."""
    for name, text in described_fields(cls).items():
        default = vars(cls)[name]
        declared = default if isinstance(default, Field) else field(default=default)
        declared.metadata = MappingProxyType({"help": text.replace("%", "%%")})
        setattr(cls, name, declared)
    return cls


@dataclass
@_with_help
class TransRecTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`TransRecTrainer`]: all of `transformers.TrainingArguments`, some with other defaults, and more.

    Args:
        num_train_epochs (`float`, defaults to 20):
            Number of epochs; the best one is kept.
        learning_rate (`float`, defaults to 5e-4):
            Learning rate of all parts but the backbone; it suits parts that start from scratch.
        warmup_steps (`float`, defaults to 0.1):
            Steps in which the learning rate rises: their number or, below 1, their share. Without them, post-norm
            transformers that start from scratch rank by popularity for long.
        weight_decay (`float`, defaults to 0.1):
            Weight decay of all parts but the backbone; the paper's.
        per_device_train_batch_size (`int`, defaults to 64):
            Users per device and training step; the paper's.
        per_device_eval_batch_size (`int`, defaults to 256):
            Users that are ranked at a time.
        eval_strategy (`str`, defaults to `"epoch"`):
            When to evaluate: after each 'epoch', every so many 'steps', or 'no'.
        save_strategy (`str`, defaults to `"epoch"`):
            When to save a checkpoint: 'epoch', 'steps', 'best' or 'no'.
        save_total_limit (`int`, defaults to 1):
            Number of latest checkpoints that are kept beside the best one.
        load_best_model_at_end (`bool`, defaults to `True`):
            Whether to return to the best checkpoint at the end; the paper's selection.
        metric_for_best_model (`str`, *optional*):
            Validation metric that chooses the best checkpoint (default: `hr@10`; with `transition_weight`
            `hr@10_with_transitions`, that of the sum; with `prediction_loss_only` `loss`, see
            [`~trainer.TransRecTrainer.evaluation_loop`]).
        greater_is_better (`bool`, *optional*):
            Whether a higher value of that metric is better; by default it is, except for a loss.
        remove_unused_columns (`bool`, defaults to `False`):
            Must stay false: the collator reads the columns, not the model.
        logging_nan_inf_filter (`bool`, defaults to `False`):
            Whether to leave NaN losses out of the log, for which each step synchronises host and device.
        logging_strategy (`str`, defaults to `"epoch"`):
            When to log the training loss: 'epoch', 'steps' or 'no'.
        dataloader_num_workers (`int`, *optional*):
            Processes that make the next batches meanwhile (default: up to 4 on a GPU, as there are cores, and none on
            a CPU, which needs its cores to compute).
        hub_strategy (`str`, defaults to `"end"`):
            Must stay 'end': the other strategies publish pickles (the optimizer's state).
        backbone_learning_rate (`float`, *optional*):
            Learning rate of the pretrained backbone; by default `learning_rate`. The paper's are 5e-6 to 5e-5.
        backbone_weight_decay (`float`, *optional*):
            Weight decay of the pretrained backbone; by default `weight_decay`.
        decay_norms_and_biases (`bool`, defaults to `False`):
            Whether norms and biases decay like the other weights, as in NineRec's code.
        projection_like_backbone (`bool`, defaults to `False`):
            Whether the map from a backbone's features to item embeddings has the backbone's learning rate and weight
            decay, as in NineRec's code.
        freeze_backbone (`bool`, defaults to `False`):
            Whether to leave the backbone as it is and train the rest. Its features are then computed only once (the
            paper's two-stage mode, TS).
        train_last_n_layers (`int`, *optional*):
            Number of the backbone's last layers (stages, where it has stages) that are trained. The outputs of the
            frozen layers below are computed once and kept on disk, if a trial on a few items shows that this changes
            neither item embeddings nor gradients; the progress bar says how much space they take.
        freeze_user_encoder (`bool`, defaults to `False`):
            Whether to leave the user encoder of a checkpoint as it is, except for adapters in it (`user_adapter`).
        freeze_modules (`list[str]`, *optional*):
            Patterns of the backbone's parameters that are frozen, such as `embeddings.*`. Where they are all of the
            first layers and what comes before, the outputs of these are computed once, too.
        sparse_id_table (`bool`, defaults to `False`):
            Whether a step changes only those rows of the id table whose items are in the batch, by
            `torch.optim.SparseAdam` at AdamW's rate and betas: for catalogues of millions of items, of which a step
            would otherwise change every row. Moments of other rows stay as they are (AdamW's go on decaying, and go on
            moving the rows). It needs a loss that samples or takes the batch, and `weight_decay=0`.
        eval_ks (`list[int]`, defaults to `[5, 10, 20]`):
            Cut-offs of the validation metrics. 10 is always among them, since it chooses the best checkpoint.
        item_batch_size (`int`, defaults to 256):
            Number of items that are encoded at a time when the catalogue is evaluated.
        preprocessing_num_workers (`int`, *optional*):
            Number of processes that prepare the items' content (tokenise texts, resize images); the result is kept on
            disk for later runs.
        gradient_caching_chunk_size (`int`, *optional*):
            Number of items of a training batch, and then of users, that are encoded at a time; their activations are
            computed again in the backward pass (gradient caching, arXiv 2101.06983). Thousands of users then fit on
            one device, at the price of a second forward pass. Loss and gradients stay the same.
        max_eval_users (`int`, *optional*):
            Number of users of the validation, the same in every run; by default all. With ids, ranking all users takes
            a noticeable share of an epoch.
        early_stopping_patience (`int`, *optional*):
            Number of evaluations without a better `metric_for_best_model` after which training stops.
        max_train_minutes (`float`, *optional*):
            Minutes after which training stops, with a last validation; those of its validations count, too, and those
            before it was resumed. The schedule of the learning rate stays that of `num_train_epochs`.
        hub_with_code (`bool`, defaults to `False`):
            Whether the saved checkpoint carries the model's code, so that `AutoModel.from_pretrained(repository,
            trust_remote_code=True)` loads it where this package is not installed.
        hub_with_handler (`bool`, defaults to `False`):
            Whether the saved checkpoint carries a `handler.py`, by which a Hugging Face Inference Endpoint answers,
            and its `requirements.txt`.
        save_backbone (`bool`, defaults to `True`):
            Whether the final model holds the weights of its backbones. Without them it refers to the Hub's by id,
            commit and hash: a few MB, for backbones that are frozen whole and were loaded by their Hub id. Checkpoints
            to resume from stay whole.
        hub_license (`str`, *optional*):
            Licence of the weights, for the card: `apache-2.0`, `cc-by-nc-4.0`, ….
        transition_weight (`str`, defaults to `"0"`):
            Weight of the platform's counted transitions beside the model's scores, in units of their spread, or
            `"auto"`, which chooses it on the validation split. The gradients do not change; but every evaluation
            ranks the sum, too (`eval_hr@10_with_transitions`, `eval_ndcg@10_with_transitions`, …, its weight is
            `eval_transition_weight`), and the sum chooses the best checkpoint. Table and card show the model without
            and with them.
        keep_start (`bool`, defaults to `False`):
            Whether the model that training starts from is kept unless the best epoch gains more than one standard
            error in NDCG@10 over the users of the validation split: with few users, an epoch is soon best by chance.
        pull_to_start (`float`, defaults to 0.0):
            Strength of a pull of the trained weights towards those that training starts from (L2-SP), in units of the
            learning rate.
        platform_sampling_exponent (`float`, defaults to 0.5):
            In training on several platforms, how often each is drawn: its number of users to this power. 1 takes them
            as large as they are, 0 all equally often.
        mix_platforms (`bool`, defaults to `False`):
            Whether a batch has users of several platforms, so that the items of one are negatives for the users of
            another. Otherwise each batch, and its negatives, are of one platform.
        do_predict (`bool`, defaults to `False`):
            Whether the test split is ranked, too, when training is over.
        card_results (`list[str]`, *optional*):
            Results of other models to show in the model card, each as `NAME=FILE` with a file that `transrec evaluate
            --output_file FILE` wrote.

    `torch_compile` compiles only the trained layers of the backbones, once for all shapes, since every batch has other
    shapes.

    `accelerator_config` has `non_blocking=True` by default where memory is pinned, so that no step waits for the copy
    of its batch to the device.
    """

    num_train_epochs: float = 20
    learning_rate: float = 5e-4
    warmup_steps: float = 0.1
    weight_decay: float = 0.1
    per_device_train_batch_size: int = 64
    per_device_eval_batch_size: int = 256
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 1
    load_best_model_at_end: bool = True
    greater_is_better: bool | None = None
    remove_unused_columns: bool = False
    logging_nan_inf_filter: bool = False
    logging_strategy: str = "epoch"
    hub_strategy: str = "end"
    backbone_learning_rate: float | None = None
    backbone_weight_decay: float | None = None
    decay_norms_and_biases: bool = False
    projection_like_backbone: bool = False
    freeze_backbone: bool = False
    train_last_n_layers: int | None = None
    freeze_modules: list[str] | None = None
    freeze_user_encoder: bool = False
    sparse_id_table: bool = False
    eval_ks: list[int] = field(default_factory=lambda: [5, 10, 20])
    max_eval_users: int | None = None
    item_batch_size: int = 256
    preprocessing_num_workers: int | None = None
    gradient_caching_chunk_size: int | None = None
    early_stopping_patience: int | None = None
    max_train_minutes: float | None = None
    hub_with_code: bool = False
    hub_with_handler: bool = False
    save_backbone: bool = True
    hub_license: str | None = None
    card_results: list[str] | None = None
    transition_weight: str = "0"
    keep_start: bool = False
    pull_to_start: float = 0.0
    platform_sampling_exponent: float = 0.5
    mix_platforms: bool = False
    do_predict: bool = False
    _argument_group_name = "training"

    if TYPE_CHECKING:  # `None` is replaced at initialisation
        output_dir: str = ""
        metric_for_best_model: str = ""
        dataloader_num_workers: int = 0
    else:
        metric_for_best_model: str | None = None
        dataloader_num_workers: int | None = None

    def __post_init__(self):
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = usual_workers(torch.cuda.is_available() and not self.use_cpu)
        usual = self.accelerator_config is None
        check_transition_weight(self.transition_weight)
        self._resolve_metric()
        super().__post_init__()
        accelerator_config = cast(AcceleratorConfig, self.accelerator_config)  # which it is now, however it was given
        if usual:
            accelerator_config.non_blocking = self.dataloader_pin_memory
        if accelerator_config.dispatch_batches:
            logger.warning("dispatch_batches has no effect: a batch of distinct items is made by its own process")
        accelerator_config.dispatch_batches = False
        if has_transitions(self.transition_weight) and self.eval_strategy == "no":
            raise ValueError(
                "--transition_weight needs a validation split that is ranked; leave out --eval_strategy no"
            )
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False: the collator reads the columns")
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is not supported: there are no class labels to smooth")
        self._check_evaluation()
        if sum([self.freeze_backbone, self.train_last_n_layers is not None, self.freeze_modules is not None]) > 1:
            raise ValueError("give one of freeze_backbone, train_last_n_layers and freeze_modules")
        if self.max_eval_users is not None and self.max_eval_users < 1:
            raise ValueError(f"max_eval_users must be at least 1, got {self.max_eval_users}")
        if 10 not in self.eval_ks:
            self.eval_ks = sorted([*self.eval_ks, 10])
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("early_stopping_patience needs load_best_model_at_end=True")
        if self.max_train_minutes is not None and self.max_train_minutes <= 0:
            raise ValueError(f"max_train_minutes must be above 0, got {self.max_train_minutes}")
        if self.keep_start and not self.load_best_model_at_end:
            raise ValueError("keep_start compares the best epoch with the start; it needs load_best_model_at_end=True")
        if self.pull_to_start < 0:
            raise ValueError(f"pull_to_start must be at least 0, got {self.pull_to_start}")
        if not 0 <= self.platform_sampling_exponent <= 1:
            raise ValueError(
                f"platform_sampling_exponent must be between 0 and 1, got {self.platform_sampling_exponent}"
            )
        if self.hub_strategy != "end":
            raise ValueError("hub_strategy must be 'end': the others publish the optimizer's pickles")
        for entry in self.card_results or ():
            if "=" not in entry:
                raise ValueError(f"--card_results {entry} must be NAME=FILE, such as IDRec=outputs/idrec.json")

    def _check_evaluation(self) -> None:
        """Refuses options of transformers' evaluation that a full ranking has no use for."""
        if has_transitions(self.transition_weight) and self.prediction_loss_only:
            raise ValueError("--transition_weight ranks a sum, and --prediction_loss_only ranks nothing; give one")
        if "inputs" in self.include_for_metrics:
            raise ValueError(
                "include_for_metrics has no 'inputs': compute_metrics gets a line a user of eval_dataset, in its order"
            )
        if self.batch_eval_metrics or not self.eval_do_concat_batches:
            raise ValueError(
                "batch_eval_metrics and eval_do_concat_batches are not supported; keep what compute_metrics needs of "
                "each batch by preprocess_logits_for_metrics"
            )

    def _resolve_metric(self) -> None:
        adds = has_transitions(self.transition_weight)
        if self.metric_for_best_model is None and self.prediction_loss_only:
            self.metric_for_best_model = "loss"
        if self.metric_for_best_model is None:
            self.metric_for_best_model = _USUAL_METRIC + (WITH_TRANSITIONS if adds else "")
        if self.metric_for_best_model.endswith(WITH_TRANSITIONS) and not adds:
            raise ValueError(f"--metric_for_best_model {self.metric_for_best_model} needs --transition_weight auto")

    @classmethod
    def defaults(cls) -> dict:
        """Returns each argument's default."""
        found = {
            one.name: one.default_factory() if one.default_factory is not MISSING else one.default
            for one in fields(cls)
        }
        return {**found, "metric_for_best_model": _USUAL_METRIC, "greater_is_better": True}

    @property
    def freezes(self) -> bool:
        """Whether some or all of the backbone is left as it is."""
        return self.freeze_backbone or self.train_last_n_layers is not None or self.freeze_modules is not None


def usual_workers(on_gpu: bool) -> int:
    """Returns how many workers make the batches of a process: a GPU must not wait for them, a CPU needs its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores_of_one = cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(0, min(MOST_WORKERS, cores_of_one - 1)) if on_gpu else 0
