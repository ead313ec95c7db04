"""Says what makes two trainings the same: a checkpoint is resumed with the data and options that wrote it."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ..data.cache import items_digest
from ..data.loading import CONTEXT
from ..evaluation.ranks import check_same_on_all
from ..hub.safety import public_arguments
from .resuming import read_json


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


logger = logging.getLogger(__name__)

RUN_NAME = "_run.json"  # names that start with "_" are never published
# Arguments under which the same steps lead to other weights, or another checkpoint is the best. Others may change: how
# long is trained, and in what batches, on how many processes.
_STAY = (
    "learning_rate backbone_learning_rate weight_decay backbone_weight_decay seed data_seed optim optim_args "
    "lr_scheduler_type lr_scheduler_kwargs warmup_steps max_grad_norm adam_beta1 adam_beta2 adam_epsilon "
    "freeze_backbone train_last_n_layers freeze_modules freeze_user_encoder projection_like_backbone "
    "sparse_id_table decay_norms_and_biases train_sampling_strategy platform_sampling_exponent "
    "mix_platforms pull_to_start transition_weight metric_for_best_model greater_is_better"
).split()
# Of a configuration, what says where it was loaded from and how it was saved.
_OF_FILES = ("architectures", "auto_map", "backbone_references", "dtype", "transformers_version")
_HASHES = ("items", "histories", "validation", "processor", "starting weights")


def hashes_of_data(trainer: "TransRecTrainer") -> dict[str, str]:
    """Returns hashes of what a training reads, by name; images and sounds count by their items only."""
    columns = {"item_id", *trainer.processing_class.item_columns} & set(trainer.items.column_names)
    histories = hashlib.sha256(np.asarray(trainer.num_interactions).tobytes())  # those in histories that are not cut
    for batch in trainer.training_histories.with_format("arrow").iter(batch_size=10_000):
        for part in (pc.list_value_length(batch["history"]), pc.list_flatten(batch["history"])):
            histories.update(part.to_numpy().tobytes())
        if CONTEXT in batch.column_names:
            histories.update(batch[CONTEXT].to_numpy().tobytes())
    timed = getattr(trainer.data_collator, "sequences", None)  # where the model reads times; a caller's own has none
    if timed is not None:
        for batch in timed.select_columns(["timestamps"]).with_format("arrow").iter(10_000):
            histories.update(pc.list_flatten(batch["timestamps"]).to_numpy(zero_copy_only=False).tobytes())
    found = {"items": items_digest(trainer.items, columns), "histories": histories.hexdigest()}
    several = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {None: trainer.eval_dataset}
    splits = [trainer.evaluator_of(split).fingerprint for split in several.values() if split is not None]
    found["validation"] = ",".join(splits)
    found["processor"] = hashlib.sha256(trainer.processing_class.fingerprint.encode()).hexdigest()
    return found


def describe_training(trainer: "TransRecTrainer") -> dict[str, Any]:
    """Returns what must stay for a training to be the same, as JSON has it: data, options, the model's fields."""
    arguments, config = trainer.args.to_dict(), trainer.accelerator.unwrap_model(trainer.model).config
    options = {name: arguments[name] for name in _STAY if name in arguments}
    fields = _without_files(json.loads(config.to_json_string(use_diff=False)))
    return json.loads(json.dumps({**trainer.data_hashes, **options, "model": fields}, default=str))


def _without_files(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    kept = {name: value for name, value in config.items() if not (name.startswith("_") or name in _OF_FILES)}
    return {name: _without_files(value) for name, value in kept.items()}


def check_same_on_ranks(trainer: "TransRecTrainer", run: Mapping[str, Any]) -> None:
    """Raises `ValueError` on every process unless all were given the same data, items and arguments."""
    arguments = public_arguments(trainer.args.to_dict())
    arguments.pop("local_rank", None)
    check_same_on_all({**arguments, **run}, "training")


def check_same_training(checkpoint: str, now: Mapping[str, Any]) -> None:
    """Refuses to resume a checkpoint that was written with other data or options.

    Args:
        checkpoint: its folder.
        now: see [`describe_training`].

    Raises:
        ValueError: naming what differs.
    """
    before = read_json(Path(checkpoint, RUN_NAME))
    if before is None:
        logger.warning("%s does not say what it was trained with, so that this cannot be compared", checkpoint)
        return
    found = name_differences(before, now)
    if found:
        raise ValueError(
            f"{checkpoint} was trained with something else: {found}. Resume it with what it was trained with, or "
            f"start another training from its weights: --model_name_or_path {checkpoint} and another --output_dir"
        )


def name_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns the names of what differs, with both values but for hashes; nothing where all is the same."""
    before, now = _flat(before), _flat(now)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(
        f"other {name}" if name in _HASHES else f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in names
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values under dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
