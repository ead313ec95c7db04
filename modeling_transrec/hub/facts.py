"""Facts about a checkpoint: what it is, what it was trained on and how. The card is written from them."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import nn

from ..models.backbone_references import add_tensors
from ..models.checkpoint_files import is_hub_id, public_name
from ..models.configuration_transrec import TransRecConfig
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..models.quantised_weights import in_full_precision
from .safety import public_arguments


NINEREC_NAMES = "Bili_500K Bili_2M Bili_Food Bili_Dance Bili_Movie Bili_Cartoon Bili_Music KU QB TN DY".split()
_NINEREC_CONDITION = (
    "NineRec's authors give the data for research and forbid to publish modified copies; none of it is in this "
    "repository. Get it from [them](https://github.com/westlake-repl/NineRec)."
)
# Beginnings of training arguments that say nothing about the model.
_UNIMPORTANT = (
    "hub_ push_to_hub log report_to disable_tqdm do_ trackio use_cpu prediction_ dataloader_pin_memory local_rank"
).split()


@dataclass
class DataFacts:
    """Facts about a data set.

    Args:
        name: `"ninerec"`, a Hub id, or the name of a local folder.
        config_name: the configuration, such as `"Bili_Food"`; several are joined by `" + "`.
        num_users: number of users of the training split, where it is known.
        num_items: number of items of the catalogue, where it is known.
        condition: what the data set's licence asks for; it is filled in for data sets that this package knows.
    """

    name: str
    config_name: str | None = None
    num_users: int | None = None
    num_items: int | None = None
    condition: str | None = None

    def __post_init__(self):
        self.name = public_name(self.name)
        if self.condition is None and self.name == "ninerec":
            names = (self.config_name or "").split(" + ")
            if any(name in NINEREC_NAMES for name in names):
                self.condition = _NINEREC_CONDITION
            elif all(name.startswith("Sample_") for name in names):
                self.condition = "none: the sample is synthetic, from a seeded generator. It shows nothing of people."

    @property
    def title(self) -> str:
        return f"{self.name}/{self.config_name or 'default'}"


@dataclass
class CardFacts:
    """Everything that a card says; what is `None` or empty was not recorded.

    Args:
        name: the repository's id.
        modality: what items are, such as `"text+image"`.
        user_encoder_type: the user encoder, such as `"sasrec"`.
        backbones: names of the pretrained backbones.
        base_models: Hub ids of what training started from.
        language: language of the texts, where there are any.
        data: the training data.
        results: what was measured, see [`result_row`].
        parameters: number of parameters of each part.
        training: how it was trained, a sentence each.
        hyperparameters: options that differ from the defaults, and the others.
        curve: file of the training curve.
        with_code: whether the model's code lies beside the weights.
        example_ids: items that an id model knows.
        example_user: a user that a model of user ids knows.
        license: licence of the weights.
        tags: further tags.
    """

    name: str
    modality: str
    user_encoder_type: str
    backbones: list[str] = field(default_factory=list)
    base_models: list[str] = field(default_factory=list)
    language: str | None = None
    data: DataFacts | None = None
    results: list[dict] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    training: list[str] = field(default_factory=list)
    hyperparameters: tuple[dict, dict] = field(default_factory=lambda: ({}, {}))
    curve: str | None = None
    with_code: bool = False
    example_ids: list[str] = field(default_factory=list)
    example_user: str | None = None
    license: str | None = None
    tags: list[str] = field(default_factory=list)


def describe_model(
    model: TransRecPreTrainedModel, processor: TransRecProcessor, base_models: Sequence[str] = ()
) -> dict:
    """Returns the fields of [`CardFacts`] that follow from a model and its processor.

    Args:
        model: the model.
        processor: the model's processor.
        base_models: what training started from; names of local folders are left out.
    """
    config = model.config
    names = [getattr(getattr(config, part), "_name_or_path", "") for part in config.sub_configs_defaults]
    backbones = [name for name in names if is_hub_id(name)]
    counts = {"all": sum(p.numel() for p in model.parameters())}
    counts["backbone"] = sum(p.numel() for part in model.item_encoder.backbones for p in part.parameters())
    counts["rest of the item encoder"] = sum(p.numel() for p in model.item_encoder.parameters()) - counts["backbone"]
    counts["user encoder"] = counts["all"] - sum(p.numel() for p in model.item_encoder.parameters())
    counts["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "modality": config.modality,
        "user_encoder_type": config.user_encoder_type,
        "backbones": backbones,
        "base_models": [name for name in base_models if is_hub_id(name)] or backbones,
        "language": processor.language if "text" in processor.modalities else None,
        "parameters": counts,
        "example_ids": [] if config.contents else list((processor.item_ids or [])[:3]),
        "example_user": processor.user_ids[0] if processor.user_ids else None,
    }


def checkpoint_hash(
    model: TransRecPreTrainedModel, processor: TransRecProcessor, dtype: torch.dtype | None = None
) -> str:
    """Returns a hash that is equal for checkpoints with the same embeddings of the same items and histories.

    Args:
        model: the model.
        processor: its processor.
        dtype: that of a checkpoint which was loaded as another; by default the model's own.
    """
    of_export: Any = getattr(model, "checkpoint_hash", None)  # which has no weights
    if of_export is not None:
        return of_export(processor)
    config = model.config
    nested = (*config.sub_configs_defaults, "peft_config", "backbone_references")
    options = {name: getattr(config, name) for name in config.own_fields() if name not in nested}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    digest.update(processor.fingerprint.encode())
    weights = in_full_precision(model.base_model, model.base_model.state_dict())  # as a checkpoint has them
    for name, value in weights.items():
        if getattr(value, "is_meta", False):
            value = _offloaded(model.base_model, name)
        add_tensors(digest, {name: value.to(dtype) if dtype is not None and value.is_floating_point() else value})
    return digest.hexdigest()


def _offloaded(model: nn.Module, name: str) -> torch.Tensor:
    """Returns a weight that lies elsewhere until it is needed."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    with align_module_device(module):
        return getattr(module, leaf).detach().cpu()


def split_hyperparameters(arguments: dict, defaults: dict, config: TransRecConfig) -> tuple[dict, dict]:
    """Returns the options of a run and its model in two parts: those that differ from the defaults, and the others.

    Args:
        arguments: the training arguments, by name.
        defaults: default of each training argument.
        config: the model's configuration.
    """
    values = {
        name: value for name, value in public_arguments(arguments).items() if not name.startswith(tuple(_UNIMPORTANT))
    }
    values.update({name: getattr(config, name) for name in config.own_fields()})
    defaults = {**defaults, **{name: getattr(TransRecConfig(), name) for name in config.own_fields()}}
    nested = (*config.sub_configs_defaults, "peft_config", "backbone_references")
    plain = {name: value for name, value in values.items() if name not in nested and not isinstance(value, dict)}
    changed = {}
    for name, value in plain.items():
        usual = getattr(defaults[name], "value", defaults[name])  # of an enum its value
        if value != usual and (value or usual):  # None, False and [] all mean that there is nothing
            changed[name] = value
    return changed, {name: value for name, value in plain.items() if name not in changed}


def describe_training(
    log_history: Sequence[dict],
    metric_for_best_model: str | None,
    num_processes: int,
    device: torch.device,
    started_from: str | None = None,
) -> list[str]:
    """Returns start, epochs, time and hardware of a training, a sentence each.

    Args:
        log_history: what the Trainer logged.
        metric_for_best_model: the metric that chose the checkpoint.
        num_processes: number of processes of the training.
        device: the device of one process.
        started_from: the checkpoint that training started from.
    """
    lines = []
    if started_from:
        name = f"`{started_from}`" if is_hub_id(started_from) else "a TransRec checkpoint that is not on the Hub"
        lines.append(f"started from {name}")
    epochs = [entry["epoch"] for entry in log_history if "epoch" in entry]
    if epochs:
        lines.append(f"{max(epochs):g} epochs; the checkpoint with the best `{metric_for_best_model}` was kept")
    seconds = [entry["train_runtime"] for entry in log_history if "train_runtime" in entry]
    if seconds:
        lines.append(f"{seconds[-1]:.0f} s, evaluations included (since it was last resumed, if it was)")
    processes = f"{num_processes} process" + ("es" if num_processes > 1 else "")
    lines.append(f"{processes} on {_describe_device(device)}; its energy was not measured")
    return lines


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} ({platform.machine()}, {os.cpu_count()} cores)"
