"""Quantised layers of backbones: they are frozen, and a checkpoint holds their weights in full precision."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


def in_full_precision(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state dict in which quantised layers have the dequantised weights of ordinary layers.

    Such a checkpoint loads with or without the library that quantised the model.

    Args:
        model: the model; its quantised layers, if any, are of bitsandbytes, torchao or torch's dynamic quantisation.
        state_dict: the model's state dict.
    """
    found = dict(state_dict)
    for name, module in _quantised_layers(model):
        kept = (f"{name}.bias", *(f"{name}.{child}." for child in _adapters_of(module)))
        for key in [key for key in found if key.startswith(f"{name}.") and not key.startswith(kept)]:
            del found[key]  # packed weights, scales and code tables
        found[f"{name}.weight"] = _dequantised(module)
        if _is_of_torch(module) and module.bias() is not None:
            found[f"{name}.bias"] = module.bias()
    return found


def has_quantised_layers(model: nn.Module) -> bool:
    """Returns whether a model has a quantised layer."""
    return next(_quantised_layers(model), None) is not None


@contextlib.contextmanager
def skip_loading_quantised(model: nn.Module) -> Iterator[None]:
    """Makes `load_state_dict` skip quantised layers, which are frozen and so unchanged, but not their adapters."""
    kept = []
    for _, module in _quantised_layers(model):
        trained = {part for child in _adapters_of(module) for part in module.get_submodule(child).modules()}
        kept += [part for part in module.modules() if part not in trained]
    for module in kept:
        module._load_from_state_dict = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for module in kept:
            del module._load_from_state_dict


def _quantised_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        weight = vars(module)["_parameters"].get("weight")  # its own: adapters expose that of the layer within
        if _is_of_torch(module) or _is_of_bitsandbytes(weight) or type(weight).__module__.startswith("torchao."):
            yield name, module


def _adapters_of(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of a layer's children that are trained: bottlenecks, which it has within."""
    return getattr(module, "adapter_layer_names", ())


def _is_of_torch(module: nn.Module) -> bool:
    return isinstance(module, torch.ao.nn.quantized.dynamic.Linear)


def _is_of_bitsandbytes(weight: Any) -> bool:
    return type(weight).__name__ in ("Params4bit", "Int8Params")


def _dequantised(module: Any) -> torch.Tensor:
    """Returns the weights `(D, H)` of a quantised linear layer."""
    if _is_of_torch(module):
        return module.weight().dequantize()
    if _is_of_bitsandbytes(module.weight):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(module.weight, getattr(module, "state", None)).detach()
    return module.weight.detach().dequantize()
