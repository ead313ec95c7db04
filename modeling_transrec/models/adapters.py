"""Puts adapters into backbones, those of the `peft` library and bottlenecks, and merges them; lists the kinds."""

import dataclasses
import json
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from .bottlenecks import BOTTLENECK, add_bottlenecks, bottleneck_config


# The kinds of adapters of the peft library that can be trained, saved, loaded and merged here, and those of their
# options that have an effect. The tests train, save, load and merge one of each kind.
PEFT_KINDS = (
    "BEFT C3A DEFT DELORA GLORA GRALORA HIRA HRA IA3 LN_TUNING LOHA LOKR LORA MISS PEANUT ROAD SUPERTUNING "
    "TRAINABLE_TOKENS"
).split()
PEFT_OPTIONS = (
    "act_fn alpha alpha_pattern apply_GS block_size block_size_pattern config_A_B config_C config_D_E decompose_both "
    "decompose_factor decomposition_method deft_dropout delora_lambda depth exclude_modules fan_in_fan_out "
    "feedforward_modules gralora_dropout gralora_k group_size hira_dropout hybrid_r init_ia3_weights "
    "init_lora_weights init_scale init_weights lambda_pattern layers_pattern layers_to_transform lora_alpha lora_bias "
    "lora_dropout mini_r miss_dropout module_dropout modules_to_save para r rank_dropout rank_dropout_scale "
    "rank_pattern scaling select_top sparsity target_modules token_indices use_dora use_effective_conv2d use_rslora "
    "variant"
).split()
PEFT_NOTES = ("auto_mapping", "base_model_name_or_path", "peft_type", "peft_version", "revision", "task_type")


def _peft():
    """Returns the `peft` library."""
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters need the peft library: pip install modeling_transrec[peft]") from error
    return peft


def peft_config_to_dict(peft_config) -> dict:
    """Returns a configuration of the `peft` library, or of bottleneck adapters, as plain JSON values.

    Raises:
        ImportError: if the `peft` library is missing.
        ValueError: if the kind or one of its options is unknown or not supported.
    """
    values = peft_config if isinstance(peft_config, dict) else peft_config.to_dict()
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
    plain = json.loads(json.dumps(plain, default=str))
    if "peft_type" not in plain:
        raise ValueError('an adapter\'s configuration needs "peft_type", such as "LORA"')
    if plain["peft_type"] == BOTTLENECK:
        return bottleneck_config(plain)
    peft, kind = _peft(), plain["peft_type"]
    if kind not in PEFT_KINDS:
        raise ValueError(f"{kind} adapters are not supported; choose one of {', '.join([BOTTLENECK, *PEFT_KINDS])}")
    known = [field.name for field in dataclasses.fields(peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind])]
    supported = ", ".join(name for name in known if name in PEFT_OPTIONS)
    unknown = sorted(set(plain) - set(known))
    if unknown:
        raise ValueError(f"{kind} has no option {', '.join(unknown)}; its options are {supported}")
    default = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]().to_dict()
    completed = {**plain, **peft.PeftConfig.from_peft_type(**plain).to_dict()}
    changed = {name for name, value in completed.items() if value != default.get(name)}
    refused = sorted(changed - {*PEFT_OPTIONS, *PEFT_NOTES})
    if refused:
        raise ValueError(
            f"{kind}'s option {', '.join(refused)} is not supported here: leave it out; its options are {supported}"
        )
    return plain


def inject_adapters(backbones: Sequence[PreTrainedModel], peft_config) -> dict:
    """Puts adapters into each backbone that has modules which the configuration names; at least one must.

    Returns the configuration as plain JSON values, see [`peft_config_to_dict`].
    """
    peft_config = peft_config_to_dict(peft_config)
    if peft_config["peft_type"] == BOTTLENECK:
        return _inject_bottlenecks(backbones, peft_config)
    peft, unmatched = _peft(), []
    for backbone in backbones:
        known = set(backbone.modules())
        try:
            peft.inject_adapter_in_model(peft.PeftConfig.from_peft_type(**peft_config), backbone)
        except peft.NoMatchingPeftModuleError as error:
            unmatched.append(error)
        for module in set(backbone.modules()) - known:
            module._is_hf_initialized = True  # type: ignore[assignment]  # peft has initialised them
    if len(unmatched) == len(backbones):
        raise unmatched[0]
    saved = [key for b in backbones for key, m in b.named_modules() if isinstance(m, peft.utils.ModulesToSaveWrapper)]
    for name in peft_config.get("modules_to_save") or ():
        if not any(key.endswith(name) for key in saved):
            raise ValueError(f"modules_to_save: no backbone with adapters has a module {name}")
    within = [key for key in saved if any(key.startswith(f"{other}.") for other in saved)]
    if within:
        raise ValueError(f"modules_to_save: {within[0]} lies in another of them; name one of the two")
    return peft_config


def _inject_bottlenecks(backbones: Sequence[PreTrainedModel], options: dict) -> dict:
    found = [(backbone, add_bottlenecks(backbone, options)) for backbone in backbones]
    if not any(adapters for _, adapters in found):
        raise ValueError(
            f"no layer's name ends with one of {', '.join(options['target_modules'])}; name the last linear layers of "
            "this backbone's attention and feed-forward networks as target_modules"
        )
    for backbone, adapters in found:
        if adapters:
            backbone.peft_config = options  # as peft marks a model that has adapters
        for module in (module for adapter in adapters for module in adapter.modules()):
            module._is_hf_initialized = True  # type: ignore[assignment]  # as transformers marks modules
    return options


def adapter_keys(model: nn.Module) -> set[str]:
    """Returns the names of the weights of the adapters in a model's backbones, as its state dict has them."""
    parts = tuple(
        ".".join(filter(None, (name, part)))
        for name, module in model.named_modules()
        for part in getattr(module, "adapter_layer_names", ())  # an attribute of peft's layers
    )
    return {key for key in model.state_dict() if key.startswith(parts)}


def can_be_merged(peft_config: dict | None) -> bool:
    """Returns whether adapters can be added to the weights of their layers; `None` are none."""
    return peft_config is not None and peft_config["peft_type"] != BOTTLENECK


def merge_adapters(backbones: Sequence[PreTrainedModel]) -> None:
    """Adds the adapters to the weights of their layers and removes them; modules that were trained whole are kept."""
    peft = _peft()
    wrappers = (peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.ModulesToSaveWrapper)
    for backbone in backbones:
        adapted = [(name, m) for name, m in backbone.named_modules() if isinstance(m, wrappers)]
        for name, module in adapted:
            if isinstance(module, peft.utils.ModulesToSaveWrapper):
                merged = module.modules_to_save[module.active_adapter]
            else:
                module.merge(safe_merge=True)
                merged = module.get_base_layer()
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, merged)
        backbone.requires_grad_(True)
        vars(backbone).pop("peft_config", None)
