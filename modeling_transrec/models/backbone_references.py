"""Checkpoints without their backbones' weights: they name the Hub's, by repository, commit and hash.

A reference is `{"name", "revision", "sha256"}`, a value of [`TransRecConfig`]'s `backbone_references`. It is part of a
checkpoint, not of a model: a model in memory has all its weights. What its backbones are is kept by their own
configurations: `_name_or_path` and, in memory only, `_commit_hash`.
"""

import copy
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from .backbones import load_backbone, pooler_free_kwargs
from .checkpoint_files import HUB_ARGUMENTS, check_backbone_files, is_hub_id, named_errors
from .modalities import BACKBONES


if TYPE_CHECKING:
    from .pretrained_model import TransRecPreTrainedModel

# Fields of a backbone's configuration that would change which weights are loaded, or into what.
_LOADING_FIELDS = ("transformers_weights", "quantization_config", "fusion_config", "auto_map")


def load_backbone_of_commit(name_or_path: str, field: str, dtype, loading: dict) -> PreTrainedModel:
    """Loads a pretrained backbone, all of it from one commit of the Hub, which its configuration keeps.

    Args:
        name_or_path: Hub id or folder; of a folder there is no commit.
        field, dtype, loading: as of [`load_backbone`].
    """
    commit = None
    if is_hub_id(name_or_path):
        where = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
        with named_errors(name_or_path):
            commit = extract_commit_hash(cached_file(str(name_or_path), CONFIG_NAME, **where), None)
        loading = loading if commit is None else {**loading, "revision": commit}
    backbone = load_backbone(name_or_path, field, dtype, loading)
    backbone.config._commit_hash = None if loading.get("subfolder") else commit
    return backbone


def missing_patterns(references: Mapping[str, Any] | None) -> set[str]:
    """Returns patterns of the weights that a checkpoint with these references leaves out."""
    return {re.escape(f"item_encoder.{part}.backbone.") for part in _parts(references)}


def check_referable(model: "TransRecPreTrainedModel") -> None:
    """Raises `ValueError` for backbones that a checkpoint cannot refer to; their weights are not looked at."""
    if not model.item_encoder.backbones:
        raise ValueError("save_backbone=False leaves out the weights of backbones, and an id model has none")
    if model.config.peft_config is not None:
        raise ValueError(
            "save_backbone=False leaves out whole backbones, and this model has adapters in them; leave it out"
        )
    for part in model.item_encoder.owners:
        config = getattr(model.config, BACKBONES[part].config_field)
        if not is_hub_id(config._name_or_path):
            came = "was loaded from a local folder, or started from random weights"
        elif getattr(config, "_commit_hash", None) is None:
            came = (
                f"({config._name_or_path}) came with a checkpoint that holds its weights, or lies in a subfolder or a "
                "local folder"
            )
        else:
            continue
        raise ValueError(
            f"save_backbone=False needs the commit of the Hub that a backbone is from; the {part} backbone {came}. "
            "Load it by its Hub id with from_encoder_pretrained, or save the whole model: save_backbone=True"
        )


def make_references(
    model: "TransRecPreTrainedModel", state_dict: Mapping[str, torch.Tensor], where: dict[str, Any]
) -> dict[str, dict[str, str]]:
    """Returns the references of all backbones, after a comparison of their weights with the Hub's.

    Args:
        model: the model.
        state_dict: its weights.
        where: how the Hub is reached, see [`reaching`].

    Raises:
        ValueError: if weights differ, as they do after training, or if [`check_referable`] does.
    """
    check_referable(model)
    references = {}
    for part, owner in model.item_encoder.owners.items():
        config, backbone = getattr(model.config, BACKBONES[part].config_field), owner.backbone
        name, revision = config._name_or_path, config._commit_hash
        weights = _read_weights(backbone, config, name, revision, where)
        prefix = next(path for path, module in model.named_modules() if module is backbone)
        changed = [key for key, weight in weights.items() if not _equal(weight, state_dict.get(f"{prefix}.{key}"))]
        if changed:
            raise ValueError(
                f"the {part} backbone is not {name} as it is on the Hub: {len(changed)} of its {len(weights)} weights "
                f"differ, first {changed[0]}. It was trained; save the whole model: save_backbone=True"
            )
        sha256 = weights_sha256(weights)
        references[BACKBONES[part].config_field] = {"name": name, "revision": revision, "sha256": sha256}
    return references


@torch.no_grad()
def load_references(model: "TransRecPreTrainedModel", saved: Iterable[str], where: dict[str, Any]) -> None:
    """Loads the backbones' weights that a checkpoint left out, after a comparison of their hash with the reference's.

    The configuration then has no references any more.

    Args:
        model: loaded but for these weights.
        saved: names of the weights that the checkpoint holds.
        where: how the Hub is reached, see [`reaching`].

    Raises:
        ValueError: if weights are not those of the reference, or the checkpoint holds them, too.
    """
    references = model.config.backbone_references or {}
    patterns = missing_patterns(references)
    double = sorted(key for key in saved if any(re.search(pattern, key) for pattern in patterns))
    if double:
        raise ValueError(
            f"the checkpoint refers to {', '.join(references)} on the Hub, and holds weights of it, too, first "
            f"{double[0]}: they do not belong together, and neither is read"
        )
    for part, reference in _parts(references).items():
        config, backbone = (
            getattr(model.config, BACKBONES[part].config_field),
            model.item_encoder.owners[part].backbone,
        )
        name, revision = reference["name"], reference["revision"]
        weights = _read_weights(backbone, config, name, revision, where)
        if weights_sha256(weights) != reference["sha256"]:
            raise ValueError(
                f"the weights of {name} at commit {revision} are not those that the checkpoint refers to (their hash "
                f"is {weights_sha256(weights)}, not {reference['sha256']}); they are not used"
            )
        if any(tensor.is_meta for tensor in backbone.state_dict().values()):
            raise ValueError(
                f"the weights of {name} cannot be moved to the disk (device_map): load the model without offloading, "
                "or save it whole first: save_backbone=True"
            )
        backbone.load_state_dict(weights)
        config._name_or_path, config._commit_hash = name, revision
    model.config.backbone_references = None


def _plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yields the plain tensors that one is made of: itself, or those of torchao's quantised ones."""
    if not type(tensor).__module__.startswith("torchao."):
        yield tensor
        return
    for name in cast(Any, tensor).__tensor_flatten__()[0]:
        yield from _plain_tensors(getattr(tensor, name))


def add_tensors(digest, tensors: Mapping[str, torch.Tensor]) -> None:
    """Adds names, types, shapes and values of tensors to a digest of `hashlib`."""
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in _plain_tensors(tensor.detach()):
            digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy())


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Returns the SHA-256 of weights, whatever their order."""
    digest = hashlib.sha256()
    add_tensors(digest, dict(sorted(weights.items())))
    return digest.hexdigest()


def _parts(references: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns references by the names of their modalities, not of their fields."""
    references = references or {}
    fields = {part: backbone.config_field for part, backbone in BACKBONES.items()}
    return {part: references[field] for part, field in fields.items() if field in references}


def _equal(referenced: torch.Tensor, own: torch.Tensor | None) -> bool:
    """Returns whether a weight of a model is the referenced one at the model's own precision."""
    return own is not None and torch.equal(own.detach().cpu(), referenced.to(own.dtype))


def _read_weights(
    backbone: nn.Module, config, name: str, revision: str, where: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Returns a backbone's weights of a commit of the Hub, by the names they have in memory, as float32.

    They are read into the architecture that the model has, and only from safetensors of the repository itself: neither
    its configuration nor its code is read.
    """
    check_backbone_files(name, revision, where)
    if find_adapter_config_file(name, revision=revision, **where) is not None:
        raise ValueError(f"{name} has adapters of peft, and a checkpoint can refer only to a plain backbone")
    config = copy.deepcopy(config)
    for field in _LOADING_FIELDS:
        vars(config).pop(field, None)
    try:
        found: Any = AutoModel.from_pretrained(
            name,
            config=config,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            **pooler_free_kwargs(config),
            **where,
        )
    except RuntimeError as error:
        raise ValueError(
            f"the weights of {name} at commit {revision} do not fit the configuration: {error}"
        ) from error
    if type(found) is not type(backbone):  # the encoder of Whisper
        found = found.get_encoder()
    return found.state_dict()
