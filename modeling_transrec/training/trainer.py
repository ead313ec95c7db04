"""The Trainer: transformers' own, with the item-once collator, two learning rates and full-ranking validation."""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from accelerate.utils import DynamoBackend
from huggingface_hub import CommitInfo
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    EvalLoopOutput,
    EvalPrediction,
    TrainOutput,
    denumpify_detensorize,
    has_length,
)

from ..data.collator import TransRecDataCollator
from ..data.loading import check_timestamps
from ..data.platforms import PlatformRanges, PlatformSampler
from ..data.preparation import PreparedItems, prepare_items
from ..data.tables import Table, as_dataset
from ..data.transitions import Transitions
from ..evaluation.baselines import Platform
from ..evaluation.encoding import evaluation_mode, fit_statistics
from ..evaluation.evaluator import FullRankingEvaluator
from ..evaluation.features import Content, as_content, content_of_start, starting_backbones
from ..evaluation.metrics import ndcg
from ..evaluation.observation import Observation
from ..evaluation.quantising import fit_quantisers
from ..evaluation.sum_evaluator import SumEvaluator
from ..evaluation.weighing import has_transitions
from ..hub.publish import upload_checkpoint
from ..hub.safety import public_arguments
from ..hub.with_code import saved_with_code
from ..hub.with_handler import write_handler
from ..models.checkpoint_files import public_name
from ..models.modeling_transrec import TransRecForSequentialRecommendation
from ..models.pretrained_model import saved_without_backbone
from ..models.processing_transrec import TransRecProcessor, check_processor
from ..models.whole_saves import named_disk_errors, whole_save
from .arguments import TransRecTrainingArguments
from .callbacks import EarlyStopping, FindIntents, FitStatistics, SetEpoch, StopAfterMinutes
from .card import write_card
from .checks import (
    check_arguments,
    check_before_training,
    check_engine,
    check_generalizes,
    check_model,
    check_platform_options,
)
from .heartbeat import watched
from .parameter_groups import parameter_groups
from .platform_statistics import load_platform_statistics, save_platform_statistics
from .precomputed import precompute
from .resuming import (
    ARGUMENTS_NAME,
    TRAINER_STATE_NAME,
    is_interrupted,
    last_whole_checkpoint,
    marked_as_running,
    one_training,
    resumable,
)
from .same_training import RUN_NAME, check_same_on_ranks, check_same_training, describe_training, hashes_of_data
from .sparse_table import join_with_table, warn_of_large_table, with_values_of_rows
from .splits import as_splits, keep_teaching
from .start import PullToStart, Start


logger = logging.getLogger(__name__)

VALIDATION = "validation"
_NOTHING_TO_TRAIN_ON = "there is nothing to train on: give a train_dataset"


class TransRecTrainer(Trainer):
    r"""
    Trains a TransRec model on histories.

    Args:
        model ([`TransRecForSequentialRecommendation`]): the model, or `None` with `model_init`.
        args ([`TransRecTrainingArguments`]): how to train.
        items (`datasets.Dataset`): the catalogue: `item_id` and what the processor reads (`text_en`, …).
        train_dataset (`datasets.Dataset`):
            Training histories, column `item_ids`; also a stream, a data set of torch or a table, which is read into a
            data set at the start.
        eval_dataset (`datasets.Dataset`, *optional*):
            Histories `item_ids` with their `target`; or several such splits by name, whose metrics are then
            `eval_NAME_hr@10`, ….
        processing_class ([`TransRecProcessor`]): the model's processor; saved with every checkpoint.
        callbacks: further callbacks.
        optimizers: an optimizer and a learning-rate schedule to use instead of those of the arguments.
        whole_sequences: a function that returns the training histories before they are cut to `max_seq_len`, in which
            the card's baselines count their transitions; by default they count in `train_dataset`.
        eval_items (`datasets.Dataset`, *optional*):
            The catalogue of `eval_dataset`, if that is of a platform that is not trained on; by default `items`.
        model_init: as in transformers: makes the model, for `Trainer.hyperparameter_search`.
        compute_loss_func:
            As in transformers, called with the outputs (`item_embeds`, `user_hidden` …), the labels `(B, L)` and
            `num_items_in_batch`, the number of targets to divide a sum by; takes the place of the model's loss.
        compute_metrics:
            As in transformers, called with an `EvalPrediction`: its predictions are each target's rank `(N,)`, 1 for
            the best, or what `preprocess_logits_for_metrics` made; label_ids are the targets as indices into the
            catalogue. Its metrics stand beside the Trainer's own, and may choose the best checkpoint.
        optimizer_cls_and_kwargs: as in transformers: class and options of the optimizer, in place of `args.optim`.
        preprocess_logits_for_metrics:
            As in transformers, called with scores `(B, V)`, where items that are no candidates have -inf, and targets
            `(B,)`; `lambda scores, targets: scores.topk(10).indices` gives `compute_metrics` the ten best items.

    With a column `source_platform`, items and histories are those of several platforms, see [`join_platforms`]; they
    are drawn as `platform_sampling_exponent` and `mix_platforms` say.

    A run that is interrupted and resumed ends with the weights of an uninterrupted one (but for dropout with
    `dataloader_persistent_workers`, whose random state torch does not restore). Several processes give the weights of
    one where the users divide evenly among them: accelerate fills the last batch up with users of the first.

    Example:

    ```python
    trainer = TransRecTrainer(model, args, items, train, validation, processing_class=processor)
    trainer.train()
    trainer.save_model("my-recommender")
    ```
    """

    args: TransRecTrainingArguments
    processing_class: TransRecProcessor
    data_collator: TransRecDataCollator
    train_dataset: datasets.Dataset | None
    hub_model_id: Any  # a name, where transformers' own hint is the None that it starts as

    def __init__(
        self,
        model: TransRecForSequentialRecommendation | None,
        args: TransRecTrainingArguments,
        items: datasets.Dataset,
        train_dataset: Table | None = None,
        eval_dataset: Table | dict[str, Table] | None = None,
        processing_class: TransRecProcessor | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers=(None, None),
        whole_sequences: Callable[[], datasets.Dataset] | None = None,
        eval_items: datasets.Dataset | None = None,
        model_init: Callable[..., TransRecForSequentialRecommendation] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
    ):
        check_arguments(args, model_init, eval_dataset)
        if processing_class is None:
            raise ValueError("give the model's processor as processing_class: it turns items into model inputs")
        if model is None and model_init is not None:
            self.model_init = model_init
            model = cast(TransRecForSequentialRecommendation, super().call_model_init())
        elif model is None or model_init is not None:
            raise ValueError("give either a model or model_init, a function that makes one")
        train_dataset = None if train_dataset is None else as_dataset(train_dataset)
        eval_dataset = None if eval_dataset is None else as_splits(eval_dataset, args.max_eval_users)
        self.items = items
        self.eval_items = items if eval_items is None else eval_items
        if self.eval_items is not items:
            check_generalizes(processing_class, args)
        self.platforms = PlatformRanges.of(items)
        check_platform_options(args, has_several=self.platforms is not None)
        self.platform: Platform | None = None
        self._starting_backbones = starting_backbones(model.config)  # now: saving drops local folders
        if not self._starting_backbones and model.name_or_path and model.item_encoder.backbones:
            self._starting_backbones = {"text_model_name_or_path": model.name_or_path}  # a checkpoint of ours
        self._prepared_items: PreparedItems | None = None
        self.prepared_eval_items: PreparedItems | None = None
        self._plain_items: datasets.Dataset | None = None
        self._plain_eval_items: datasets.Dataset | None = None
        self._evaluators: dict[str, tuple[datasets.Dataset, FullRankingEvaluator]] = {}
        self._sums: SumEvaluator | None = None
        self.kept_start = self._has_trained = False
        self._run: dict = {}  # options and hashes of data that a resumed run must share
        callbacks, collator = list(callbacks or []), None
        if train_dataset is not None:
            collator, train_dataset = self._prepare_training(
                model, args, train_dataset, processing_class, whole_sequences
            )
            callbacks.append(SetEpoch(collator))
        check_processor(processing_class, model.config)
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStopping(args.early_stopping_patience))
        if args.max_train_minutes is not None:
            callbacks.append(StopAfterMinutes())
        if train_dataset is not None and not args.sparse_id_table:
            warn_of_large_table(model.config)
        _prepare_model(model, args)
        self._check_model = functools.partial(
            check_model,
            args=args,
            compute_loss_func=compute_loss_func,
            has_own_optimizer=optimizers[0] is not None or optimizer_cls_and_kwargs is not None,
            trains=train_dataset is not None,
        )
        self._check_model(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if model_init is not None:  # transformers takes only one of both
            self.model_init = model_init
        self._finish_setup(model)

    def _finish_setup(self, model: TransRecForSequentialRecommendation) -> None:
        """Prepares what needs the accelerator: compiled layers, precomputed outputs, statistics, their callbacks."""
        args = self.args
        check_engine(self)
        if args.pull_to_start:
            self.add_callback(PullToStart(model, args.pull_to_start))
        if args.torch_compile:
            # Else accelerate compiles the whole model, anew for each shape of a batch.
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
            model.compile_backbone(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        self._compute_frozen()
        if self.train_dataset is None:
            return
        self._fit_quantisers(model)
        if self.data_collator.intents is not None:
            self.add_callback(FindIntents(self, self.data_collator.intents))
        if model.item_encoder.whitened:
            self.fit_statistics()
            if not model.has_frozen_backbone:
                self.add_callback(FitStatistics(self))

    def _prepare_training(
        self,
        model: TransRecForSequentialRecommendation,
        args: TransRecTrainingArguments,
        sequences: datasets.Dataset,
        processor: TransRecProcessor,
        whole_sequences: Callable[[], datasets.Dataset] | None,
    ) -> tuple[TransRecDataCollator, datasets.Dataset]:
        """Looks up the training histories and prepares the items; returns the collator and the histories to train on.

        What it needs is given: `Trainer.__init__` has not run yet.
        """
        with args.main_process_first(local=False, desc="looking up items"):
            trained_on = Platform(self.items, sequences, whole_sequences, self._validation, self._read_content)
            histories, self.num_interactions = trained_on.histories, trained_on.num_interactions
        is_other = self.eval_items is not self.items
        self.platform = (
            Platform(self.eval_items, None, None, self._validation, self._read_content) if is_other else trained_on
        )
        with args.main_process_first(local=False, desc="preparing items"):
            self._plain_items = self._plain_eval_items = prepare_items(
                self.items, processor, args.preprocessing_num_workers
            )
            if self.eval_items is not self.items:
                self._plain_eval_items = prepare_items(self.eval_items, processor, args.preprocessing_num_workers)
        if model.config.reads_timestamps:
            check_timestamps(sequences, model.config.user_encoder_type)
        user_index = None
        if processor.user_ids is not None:
            user_index = np.array(processor.user_index(sequences["user_id"]))
        collator = TransRecDataCollator(
            model.config,
            self._plain_items,
            processor,
            self.num_interactions,
            user_index,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            platforms=self.platforms,
            mixes_platforms=args.mix_platforms,
            histories=histories,
            sequences=sequences if model.config.reads_timestamps else None,
        )
        return collator, keep_teaching(histories).remove_columns("target")

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> torch.utils.data.Sampler | None:
        if self.platforms is None:
            return super()._get_train_sampler(train_dataset)
        histories = self.training_histories if train_dataset is None else train_dataset
        first = pc.list_element(histories.with_format("arrow")[:]["history"], 0).to_numpy()
        return PlatformSampler(
            self.platforms.of_items(first),
            self.args.train_batch_size,
            self.args.platform_sampling_exponent,
            self.args.mix_platforms,
            self.data_collator.seed,
        )

    @property
    def training_histories(self) -> datasets.Dataset:
        """The histories that are trained on."""
        if self.train_dataset is None:
            raise ValueError(_NOTHING_TO_TRAIN_ON)
        return self.train_dataset

    @property
    def prepared_items(self) -> PreparedItems:
        """The items of the training, as the collator gets them."""
        if self._prepared_items is None:
            raise ValueError(_NOTHING_TO_TRAIN_ON)
        return self._prepared_items

    def _compute_frozen(self) -> None:
        """Computes the outputs of the frozen backbone, or of its frozen layers, once, and trains on them."""
        if self._plain_items is None:
            return
        with self.args.main_process_first(local=False, desc="computing frozen"), self.accelerator.autocast():
            self._prepared_items = self.prepared_eval_items = self._precompute(self._plain_items)
            if self._plain_eval_items is not None and self._plain_eval_items is not self._plain_items:
                self.prepared_eval_items = self._precompute(self._plain_eval_items)
        self.data_collator.items = self._prepared_items
        self._evaluators = {}

    def _precompute(self, items: datasets.Dataset) -> PreparedItems:
        return precompute(
            self.accelerator.unwrap_model(self.model).eval(),
            items,
            self.processing_class,
            self.args.item_batch_size,
            with_states=not (self.is_fsdp_enabled or self.is_deepspeed_enabled),
        )

    def fit_statistics(self) -> None:
        """Gives a model that whitens features the statistics of the training catalogue, anew in each epoch where its
        backbone is trained."""
        with self.accelerator.autocast():
            model = self.accelerator.unwrap_model(self.model)
            platforms = None if self.platforms is None else self.platforms.indices()
            fit_statistics(model, self.prepared_items, self.processing_class, self.args.item_batch_size, platforms)

    def _fit_quantisers(self, model: TransRecForSequentialRecommendation) -> None:
        """Gives a new model whose items are codes the quantisers of the training catalogue."""
        if not all(one.is_fitted for one in model.item_encoder.quantisers.values()):
            with self.accelerator.autocast():
                fit_quantisers(model, self.prepared_items, self.processing_class, self.args.item_batch_size)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Loads as transformers does; the checkpoint's frozen weights may be others than those the run began with."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self.is_fsdp_enabled:  # which has sharded the weights by now
            self._compute_frozen()
        if self.platforms is not None:  # the weights hold the statistics of all together, not each platform's
            unwrapped = self.accelerator.unwrap_model(self.model)
            if not load_platform_statistics(unwrapped, resume_from_checkpoint, self.args.device):
                self.fit_statistics()

    def call_model_init(self, trial=None) -> TransRecForSequentialRecommendation:
        """Makes a model as transformers does; frozen parts of the new model are computed once again."""
        model = cast(TransRecForSequentialRecommendation, super().call_model_init(trial))
        self.model = model
        _prepare_model(model, self.args)
        self._check_model(model)
        self._move_model_to_device(model, self.args.device)
        self._compute_frozen()
        if self._plain_items is not None:
            self._fit_quantisers(model)
        if self._plain_items is not None and model.item_encoder.whitened:
            self.fit_statistics()
        return model

    def get_eval_dataloader(self, eval_dataset=None) -> torch.utils.data.DataLoader:
        """Loads the users in order: they are ranked as they are, whatever sampler the training has."""
        splits = self.eval_dataset
        given = splits if eval_dataset is None else eval_dataset
        return self.get_test_dataloader(
            splits[given] if isinstance(given, str) and isinstance(splits, dict) else given
        )

    def get_test_dataloader(self, test_dataset) -> torch.utils.data.DataLoader:
        """Loads the users in order, see [`get_eval_dataloader`]."""
        return torch.utils.data.DataLoader(as_dataset(test_dataset), batch_size=self.args.eval_batch_size)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Makes the optimizer of the arguments, with the backbone's own learning rate and weight decay."""
        model = self.model if model is None else model
        if self.optimizer is not None:
            return self.optimizer
        args, unwrapped = self.args, self.accelerator.unwrap_model(model)
        all_names = [name for name, _ in model.named_parameters()]
        decayed = all_names if args.decay_norms_and_biases else self.get_decay_parameter_names(model)
        groups = parameter_groups(model, unwrapped, args, {*decayed})
        table = unwrapped.item_encoder.id_embedding.weight if args.sparse_id_table else None
        optimizer_class, optimizer_kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(
            args, model
        )
        others = optimizer_class(groups, **optimizer_kwargs) if groups or table is None else None
        optimizer: Any = others if table is None else join_with_table(others, table, args)
        self.optimizer = optimizer
        return optimizer

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Ranks the catalogue for the split behind `dataloader`; metrics `eval_hr@10`, `eval_ndcg@10`, …, `eval_mrr`.

        `eval_loss` is the cross-entropy of the target among the candidates, whatever loss is trained with.
        Predictions are the rank of each user's target, 1 for the best, and the mean one of those that tie, or what
        `preprocess_logits_for_metrics` made; labels are the targets as indices into the catalogue. With
        `prediction_loss_only` of the arguments, there is only the loss.

        With `transition_weight`, those of the validation split have `eval_hr@10_with_transitions`, … beside them, see
        [`SumEvaluator`].
        """
        sequences, self.callback_handler.eval_dataloader = dataloader.dataset, dataloader
        evaluator = self.evaluator_of(sequences, metric_key_prefix)
        model, processor = self.accelerator.unwrap_model(self.model), self.processing_class
        rank: Callable[..., dict[str, float]] = evaluator.rank
        if self.platform is not None and self.adds_transitions and sequences is self.eval_dataset:
            rank = self._sum_evaluator(evaluator, self.platform.transitions)
        observation = Observation(evaluator.targets, self.preprocess_logits_for_metrics, self._on_prediction_step)
        with evaluation_mode(model):
            scorer = evaluator.build_scorer(model, processor, self._evaluation_autocast(model))
            metrics = rank(scorer, evaluator.user_inputs(processor, model.config), observation)
        losses = observation.losses()
        loss = {"loss": float(losses.mean(dtype=np.float64))}
        if self.args.prediction_loss_only:
            predictions: Any = None  # EvalLoopOutput's own hint leaves this case out
            targets, metrics = None, loss
        else:
            rankings, targets = evaluator.rankings, evaluator.targets
            predictions = (1 + rankings.num_better + rankings.num_tied / 2).numpy()
            if self.preprocess_logits_for_metrics is not None:
                predictions = observation.made()
            metrics = loss | metrics
            metrics |= self._own_metrics(
                EvalPrediction(predictions, targets, losses=losses), metric_key_prefix, metrics
            )
        return EvalLoopOutput(
            predictions=predictions,
            label_ids=targets,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(sequences),
        )

    def _on_prediction_step(self) -> None:
        self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _own_metrics(self, predicted: EvalPrediction, prefix: str, measured: dict[str, float]) -> dict[str, float]:
        """Returns what the caller's `compute_metrics` finds."""
        if self.compute_metrics is None:
            return {}
        found = denumpify_detensorize(self.compute_metrics(predicted))
        found = {name.removeprefix(f"{prefix}_"): value for name, value in found.items()}
        twice = [name for name in found if name in measured]
        if twice:
            raise ValueError(
                f"compute_metrics returns {', '.join(map(repr, twice))}, which the Trainer measures itself; give it "
                "another name"
            )
        return found

    def _evaluation_autocast(self, model: TransRecForSequentialRecommendation) -> Callable:
        """Makes the context in which an evaluation encodes; with `bf16_full_eval` in that type, though no weight is
        changed."""
        args = self.args
        if not (args.bf16_full_eval or args.fp16_full_eval):
            return self.accelerator.autocast
        self._move_model_to_device(model, args.device)  # with *_full_eval, the Trainer has not moved it yet
        dtype = torch.bfloat16 if args.bf16_full_eval else torch.float16
        return functools.partial(torch.autocast, args.device.type, dtype)

    def evaluator_of(self, sequences: datasets.Dataset, metric_key_prefix: str = "eval") -> FullRankingEvaluator:
        """Returns the evaluator of a split; those of named splits are kept, since the card reports them.

        The prefix `eval` names only `eval_dataset`; other data that are evaluated under it have no name.
        """
        split = VALIDATION if metric_key_prefix == "eval" else metric_key_prefix.removeprefix("eval_")
        if split == VALIDATION and sequences is not self.eval_dataset:
            return self._make_evaluator(sequences, None)
        known = self._evaluators.get(split)
        if known is None or known[0] is not sequences:
            known = self._evaluators[split] = (sequences, self._make_evaluator(sequences, split))
        return known[1]

    def ranked_splits(self) -> dict[str, FullRankingEvaluator]:
        """Returns the evaluators of the splits that were ranked and that the card can name."""
        if any("eval_runtime" in entry for entry in self.state.log_history):
            self._validation()  # also where a finished training was only loaded
        return {split: evaluator for split, (_, evaluator) in self._evaluators.items()}

    @property
    def adds_transitions(self) -> bool:
        """Whether evaluations of the validation split rank the sum, too, whose weight is chosen there."""
        has_histories = self.platform is not None and self.platform.has_histories
        is_one = not isinstance(self.eval_dataset, dict)
        return has_histories and is_one and has_transitions(self.args.transition_weight)

    def _sum_evaluator(self, evaluator: FullRankingEvaluator, transitions: Transitions) -> SumEvaluator:
        if self._sums is None or self._sums.evaluator is not evaluator:
            self._sums = SumEvaluator(evaluator, transitions, self.args.transition_weight)
        return self._sums

    def _make_evaluator(self, sequences: datasets.Dataset, split: str | None) -> FullRankingEvaluator:
        return FullRankingEvaluator(
            self.eval_items,
            sequences,
            ks=self.args.eval_ks,
            batch_size=self.args.per_device_eval_batch_size,
            item_batch_size=self.args.item_batch_size,
            split=split,
            prepared_items=self.prepared_eval_items,
        )

    def _validation(self) -> FullRankingEvaluator | None:
        """Ranks the validation split, for choices of what needs no training; `None` where there is none."""
        if self.eval_dataset is None or isinstance(self.eval_dataset, dict):
            return None
        return self.evaluator_of(self.eval_dataset)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains as transformers does; `resume_from_checkpoint=True` takes the last checkpoint that was written whole.

        Raises:
            BlockingIOError: if another process trains in `output_dir`.
            FileExistsError: if there is an interrupted training, and it is not resumed.
            ValueError: if the checkpoint was trained with other data or options, or processes were given different
                ones.
        """
        with one_training(self.args.output_dir), watched(self.args.ddp_timeout):
            return self._train_locked(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _train_locked(
        self, resume_from_checkpoint: str | bool | None, trial: Any, ignore_keys_for_eval: list[str] | None
    ) -> TrainOutput:
        """Trains as [`train`] does, while the lock of `output_dir` is held."""
        if self.train_dataset is None:
            raise ValueError(_NOTHING_TO_TRAIN_ON)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"there is no whole checkpoint in {self.args.output_dir} to resume from")
        elif not resume_from_checkpoint and not self._has_trained and is_interrupted(self.args.output_dir):
            raise FileExistsError(
                f"{self.args.output_dir} has an interrupted training: go on with train(resume_from_checkpoint=True), "
                "choose another output_dir, or remove the folder"
            )
        self._hp_search_setup(trial)  # before the model is made and anything is checked by its options
        if self.model is None:  # hyperparameter_search sets it to None
            self.call_model_init(trial)
        self._run = describe_training(self)
        check_same_on_ranks(self, self._run)
        if resume_from_checkpoint:
            check_same_training(resume_from_checkpoint, self._run)
        self.check_before_training()
        self._has_trained = True
        model = self.accelerator.unwrap_model(self.model)
        start = Start(model, self._validation_gains()) if self.args.keep_start else None
        folder, world_size, steps = self.args.output_dir, self.args.world_size, self._steps_per_epoch()
        with (
            marked_as_running(folder, self.args.should_save),
            resumable(resume_from_checkpoint or None, folder, steps, world_size) as checkpoint,
        ):
            output = super().train(checkpoint, trial=trial, ignore_keys_for_eval=ignore_keys_for_eval)
        self.kept_start = start is not None and start.go_back_unless_better(model, self._validation_gains())
        return output

    def check_before_training(self) -> None:
        """Raises an error for what a training would only come to later, see [`~checks.check_before_training`]."""
        check_before_training(self)

    def load_finished(self) -> None:
        """Takes the model and the state that a finished training has left in `output_dir`."""
        folder = self.args.output_dir
        weights = TransRecForSequentialRecommendation.from_pretrained(folder).state_dict()
        self.accelerator.unwrap_model(self.model).load_state_dict(weights)
        self.state = TrainerState.load_from_json(os.path.join(folder, TRAINER_STATE_NAME))
        self._compute_frozen()

    def _steps_per_epoch(self) -> int | None:
        loader = self.get_train_dataloader()
        return self.set_initial_training_values(self.args, loader)[1] if has_length(loader) else None

    def _validation_gains(self) -> torch.Tensor:
        """Returns NDCG@10 of each validation user `(N,)`, of the sum where transitions are added."""
        self.evaluation_loop(self.get_eval_dataloader(), "Evaluation")
        ranked = self._evaluators[VALIDATION][1] if self._sums is None else self._sums
        rankings = ranked.rankings
        return ndcg(rankings.num_better, rankings.num_tied, k=10)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves as transformers does, but the training arguments are kept as JSON, not as a pickle.

        With `save_backbone=False`, the weights of the backbones are left out, except from checkpoints to resume from.
        """
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        model = self.accelerator.unwrap_model(self.model)
        is_final = output_dir is None or not _internal_call
        with contextlib.ExitStack() as stack:
            if self.args.hub_with_code:
                stack.enter_context(saved_with_code(model, self.processing_class))
            if is_final and not self.args.save_backbone:
                stack.enter_context(saved_without_backbone(model))
            if self.args.should_save and not self.is_deepspeed_enabled:  # there every process writes a shard
                folder = stack.enter_context(whole_save(folder))
            super().save_model(str(folder), _internal_call=True)
            if self.args.should_save:
                if self.args.hub_with_handler:
                    write_handler(folder, model)
                (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # in some distributed modes nothing is saved
                arguments = {**public_arguments(self.args.to_dict()), "world_size": self.args.world_size}
                (folder / ARGUMENTS_NAME).write_text(json.dumps(arguments, indent=2), encoding="utf-8")
                if not is_final:
                    (folder / RUN_NAME).write_text(json.dumps(self._run), encoding="utf-8")
                    if self.platforms is not None:
                        save_platform_statistics(model, folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _run_epoch(self, **kwargs) -> None:  # type: ignore[override]  # transformers calls it by names only
        """Trains an epoch as transformers does, but takes no further step if the checkpoint is of the last one."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            at_last = [entry for entry in self.state.log_history if entry["step"] == self.state.global_step]
            evaluated = any(name.startswith("eval_") for entry in at_last for name in entry)
            if evaluated or self.args.eval_strategy == "no":
                return
            kwargs["num_update_steps_per_epoch"] = 0
        super()._run_epoch(**kwargs)

    def _clip_grad_norm(self, model):
        """Clips gradients as transformers does, sparse ones by the values of their rows."""
        if not self.args.sparse_id_table:
            return super()._clip_grad_norm(model)
        return self.accelerator.clip_grad_norm_(with_values_of_rows(model.parameters()), self.args.max_grad_norm)

    def _get_grad_norm(self, model, grad_norm=None):
        """Returns the norm of the gradients as transformers does, of sparse ones by the values of their rows."""
        if grad_norm is None and self.args.sparse_id_table:
            grad_norm = self.accelerator.clip_grad_norm_(with_values_of_rows(model.parameters()), float("inf"))
        return super()._get_grad_norm(model, grad_norm)

    def _save_checkpoint(self, model, trial) -> None:
        """Saves as transformers does; an older checkpoint of this name is made invalid before anything is written."""
        folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        with named_disk_errors(folder, "the checkpoints before it are as they were, and can be resumed"):
            super()._save_checkpoint(model, trial)

    @functools.cached_property
    def data_hashes(self) -> dict[str, str]:
        """Hashes of what the training reads, see [`hashes_of_data`]."""
        return hashes_of_data(self)

    def create_model_card(  # type: ignore[override]  # language, tasks and tags of data sets are read, not given
        self,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset: str | None = None,
        dataset_args: str | None = None,
        license: str | None = None,
        tags: list[str] | None = None,
        eval_dataset_args: str | None = None,
    ) -> None:
        """Writes the card `README.md`, `results.json` and, where matplotlib is installed, the training curve.

        On several processes all of them have to call it: they rank together.

        Args:
            model_name: the repository's id; by default `hub_model_id`, or the name of `output_dir`.
            finetuned_from: the checkpoint that training started from; by default the model's own `name_or_path`.
            dataset: the training data set, `"ninerec"`, a Hub id or a folder; it stays unnamed otherwise.
            dataset_args: its configuration, such as `"Bili_Food"`.
            license: the licence of the weights.
            tags: further tags.
            eval_dataset_args: the configuration that was ranked; by default `dataset_args`.
        """
        write_card(
            self,
            model_name=model_name,
            finetuned_from=finetuned_from,
            dataset=dataset,
            dataset_args=dataset_args,
            license=license,
            tags=tags,
            eval_dataset_args=eval_dataset_args,
        )

    def _read_content(self) -> Content | None:
        """Returns the features of the backbones that training started from, for content kNN."""
        model, processor = self.accelerator.unwrap_model(self.model), self.processing_class
        names, chunk_size = self._starting_backbones, self.args.item_batch_size
        if names and model.has_frozen_backbone and model.item_encoder.takes_features:  # they are computed already
            content = as_content(self.prepared_eval_items, model, processor)  # type: ignore[arg-type]  # they are these
            return replace(content, source=[*map(public_name, names.values())])
        device = self.args.device
        language = processor.language
        return content_of_start(names, self.eval_items, language=language, chunk_size=chunk_size, device=device)

    def push_to_hub(  # type: ignore[override]  # it returns nothing on other processes, as transformers' does
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | None:
        """Publishes model, processor, training arguments, results and card in one commit; checkpoints stay here.

        What was interrupted is resumed by calling it again: files that have arrived are not sent twice.

        Args:
            commit_message: of the commit.
            blocking: whether to return only when all has arrived.
            token: a token that may write; by default that of the arguments, or of the log-in.
            revision: branch; by default that of the arguments, or `main`.
            private: whether a new repository is private; by default that of the arguments.
            kwargs: those of [`create_model_card`].
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        self.create_model_card(**kwargs)
        if not self.is_world_process_zero():
            return None
        return upload_checkpoint(
            self.args.output_dir,
            self.hub_model_id,
            commit_message=commit_message,
            token=token,
            revision=revision or self.args.hub_revision,
            with_code=self.args.hub_with_code,
            with_handler=self.args.hub_with_handler,
            blocking=blocking,
        )


def _prepare_model(model: TransRecForSequentialRecommendation, args: TransRecTrainingArguments) -> None:
    """Freezes and divides a new model as the arguments say."""
    if args.freezes:
        model.freeze_backbone(args.train_last_n_layers, args.freeze_modules)
    if args.freeze_user_encoder:
        model.freeze_user_encoder()
    if args.gradient_caching_chunk_size is not None:
        model.enable_gradient_caching(args.gradient_caching_chunk_size)
    if model.item_encoder.id_embedding is not None:
        model.item_encoder.id_embedding.sparse = args.sparse_id_table
