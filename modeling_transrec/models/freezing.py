"""Decides which parameters of the backbones are trained."""

import fnmatch
from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from .backbones import layers_of, towers_of


# Parameters and modules that have a part only in a backbone's own pretraining: of any of its modules, or only of the
# whole, since attention may have some of the same name.
ONLY_IN_PRETRAINING = ("mask_token", "masked_spec_embed", "crossattention")
OF_THE_WHOLE = ("logit_scale", "logit_bias", "temperature")


def is_trained(module: nn.Module) -> bool:
    """Returns whether any parameter of a module is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())


def trains_batch_norm(module: nn.Module) -> bool:
    """Returns whether a batch norm within a module is trained."""
    return any(isinstance(part, _BatchNorm) and is_trained(part) for part in module.modules())


def leave_out_untrainable(backbones: Sequence[PreTrainedModel]) -> None:
    """Leaves out of training what no gradient reaches and, where there are adapters, all but them."""
    has_adapters = any(hasattr(backbone, "peft_config") for backbone in backbones)
    for backbone in backbones:
        if has_adapters:
            backbone.requires_grad_(False)
        for module in backbone.modules():
            for part in getattr(module, "adapter_layer_names", ()):  # an attribute of peft's layers
                getattr(module, part).requires_grad_(True)
            for part in ONLY_IN_PRETRAINING + (OF_THE_WHOLE if module is backbone else ()):
                if isinstance(getattr(module, part, None), nn.Parameter | nn.Module):
                    getattr(module, part).requires_grad_(False)


def freeze(
    backbones: Mapping[str, PreTrainedModel],
    train_last_n_layers: int | None = None,
    freeze_modules: Sequence[str] | None = None,
) -> None:
    """Freezes backbones, or a part of them; see [`~TransRecPreTrainedModel.freeze_backbone`].

    Args:
        backbones: by the names that patterns may begin with.
        train_last_n_layers, freeze_modules: as there; at most one of them.
    """
    if freeze_modules is not None:
        frozen = _matching(backbones, freeze_modules)
    elif train_last_n_layers is not None:
        towers = [tower for backbone in backbones.values() for tower in towers_of(backbone)]
        frozen = [parameter for tower in towers for parameter in _before_last_layers(tower, train_last_n_layers)]
    else:
        frozen = [parameter for backbone in backbones.values() for parameter in backbone.parameters()]
    for parameter in frozen:
        parameter.requires_grad_(False)


def _matching(backbones: Mapping[str, PreTrainedModel], patterns: Sequence[str]) -> list[nn.Parameter]:
    """Returns the parameters whose names match a pattern; a pattern without a match is an error."""
    found, unmatched, names = [], set(patterns), []
    for part, backbone in backbones.items():
        for name, parameter in backbone.named_parameters():
            names.append(name)
            matched = {p for p in patterns if fnmatch.fnmatch(name, p) or fnmatch.fnmatch(f"{part}.{name}", p)}
            unmatched -= matched
            found += [parameter] * bool(matched)
    if unmatched:
        raise ValueError(
            f"no parameter of the backbone matches {', '.join(map(repr, sorted(unmatched)))}; they are named "
            f"{', '.join(names[:3])}, …"
        )
    return found


def _before_last_layers(backbone: nn.Module, count: int) -> list[nn.Parameter]:
    """Returns the parameters of all but the last layers and what is registered after them, such as a final norm."""
    layers = layers_of(backbone)
    if not 1 <= count <= len(layers):
        raise ValueError(f"train_last_n_layers must be between 1 and this backbone's {len(layers)}, got {count}")
    parameters = list(backbone.parameters())
    kept = {id(parameter) for layer in layers[len(layers) - count :] for parameter in layer.parameters()}
    first = next(place for place, parameter in enumerate(parameters) if id(parameter) in kept)
    return parameters[:first]


def keep_frozen_in_evaluation(backbones: Sequence[PreTrainedModel]) -> None:
    """Puts frozen modules back into evaluation mode; beside adapters only batch norms."""
    for backbone in backbones:
        adapted = hasattr(backbone, "peft_config")
        for module in backbone.modules():
            if adapted and not isinstance(module, _BatchNorm):
                continue  # the inputs of adapters go through dropout
            if (adapted or next(module.parameters(), None) is not None) and not is_trained(module):
                module.eval()
