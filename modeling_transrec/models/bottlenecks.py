"""Bottleneck adapters: narrow residual networks at the outputs or the inputs of frozen layers.

In backbones they follow the last linear layer of attention and of the feed-forward network (serial), or run beside it
(parallel). The `peft` library has none: its adapters change a layer's weights.

Papers: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019; He et al., "Towards a Unified View
of Parameter-Efficient Transfer Learning", ICLR 2022, for those beside a layer; Fu et al., "Exploring Adapter-based
Transfer Learning for Recommender Systems" (Adapter4Rec), WSDM 2024, for recommenders.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .from_zero import LinearFromZero


BOTTLENECK = "BOTTLENECK"  # in place of a kind of the peft library
PLACEMENTS = ("serial", "parallel")
# Name suffixes of the last linear layers of attention and feed-forward networks, before the residual is added.
LAST_LAYERS = (
    "output.dense attn.c_proj mlp.c_proj out_proj o_proj down_proj fc2 out_lin lin2 SelfAttention.o DenseReluDense.wo "
    "attention.dense self_attention.dense self_attn.dense dense_4h_to_h attn.proj attn.o Wo output_dense "
    "ffn_output mlp.fc_out"
).split()


class BottleneckAdapter(nn.Module):
    """Adds a narrow residual network, initialised to zero, to the outputs of a frozen layer.

    Args:
        width: output width `D` of the layer.
        reduction: the bottleneck has `D // reduction` units.
        placement: `"serial"`, which reads the layer's outputs, or `"parallel"`, which reads its inputs.
        read_width: input width of the layer; by default `D`.
    """

    def __init__(self, width: int, reduction: int, placement: str, read_width: int | None = None):
        super().__init__()
        narrow = max(1, width // reduction)
        self.is_parallel = placement == "parallel"
        self.down = nn.Linear(width if read_width is None or not self.is_parallel else read_width, narrow)
        self.up = LinearFromZero(narrow, width)

    def start(self) -> None:
        """Draws the weights of an adapter that changes nothing yet."""
        nn.init.xavier_normal_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Returns a layer's outputs `(…, D)`, adapted; its inputs have the same shape or `(…, read_width)`."""
        read = inputs if self.is_parallel else outputs
        added = self.up(nn.functional.gelu(self.down(read.to(self.down.weight.dtype))))
        return outputs + added.to(outputs.dtype)


def bottleneck_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of bottleneck adapters in backbones, completed with defaults.

    Raises:
        ValueError: if an option is unknown, or a value does not fit it.

    >>> bottleneck_config({"peft_type": "BOTTLENECK", "reduction": 8})["placement"]
    'serial'
    """
    found = {"peft_type": BOTTLENECK, "placement": "serial", "reduction": 16, "target_modules": LAST_LAYERS}
    unknown = sorted(set(values) - set(found))
    if unknown:
        raise ValueError(f"{BOTTLENECK} has no option {', '.join(unknown)}; its options are {', '.join(found)}")
    found |= values
    if found["placement"] not in PLACEMENTS:
        raise ValueError(f"placement={found['placement']!r} is unknown; choose {' or '.join(PLACEMENTS)}")
    if not isinstance(found["reduction"], int) or found["reduction"] < 1:
        raise ValueError(f"reduction must be a whole number of at least 1, got {found['reduction']!r}")
    names = found["target_modules"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"target_modules must be a list of name suffixes, got {names!r}")
    return found


def add_bottlenecks(backbone: nn.Module, options: Mapping[str, Any]) -> list[nn.Module]:
    """Attaches an adapter to each linear layer whose name ends in one of `target_modules`; returns the adapters.

    The layers keep their names and weights: an adapter is a submodule of its layer, and a forward hook applies it.
    Attention that hands the weights of its layers to one function of torch, as WavLM's, never calls these layers: they
    get none.

    Raises:
        ValueError: if a layer is quantised by torch itself and so passes no gradients on.
    """
    ends = re.compile(rf"(^|\.)({'|'.join(map(re.escape, options['target_modules']))})$")
    found = [(name, layer, _widths_of(layer)) for name, layer in backbone.named_modules() if ends.search(name)]
    added: list[nn.Module] = []
    for name, layer, widths in found:
        if widths is None or _reads_weights(backbone.get_submodule(name.rpartition(".")[0])):
            continue
        weight: Any = next(layer.parameters(), None)
        if weight is None:
            raise ValueError(
                f"{name} has no weights that gradients pass, as layers of torch's dynamic quantisation: adapters "
                "before it would not be trained; quantise the backbone with bitsandbytes or torchao"
            )
        adapter = BottleneckAdapter(widths[1], options["reduction"], options["placement"], read_width=widths[0])
        adapter.start()
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        layer.adapter = adapter.to(weight.device, dtype)
        layer.adapter_layer_names = ("adapter",)  # as peft's layers say what is trained
        layer.register_forward_hook(_adapt)
        added.append(adapter)
    return added


def _adapt(layer: Any, inputs: Sequence[torch.Tensor], outputs: torch.Tensor) -> torch.Tensor:
    return layer.adapter(inputs[0], outputs)


def _widths_of(layer: Any) -> tuple[int, int] | None:
    """Returns input and output width of a linear layer, `None` for any other module."""
    for read, made in (("in_features", "out_features"), ("nx", "nf")):  # the latter are GPT-2's
        if hasattr(layer, read) and hasattr(layer, made):
            return getattr(layer, read), getattr(layer, made)
    return None


def _reads_weights(module: nn.Module) -> bool:
    """Returns whether attention reads the weights of its linear layers and does not call them."""
    functions = (inspect.unwrap(one) for _, one in inspect.getmembers(type(module), inspect.isfunction))
    return any("multi_head_attention_forward" in one.__code__.co_names for one in functions)
