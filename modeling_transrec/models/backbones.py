"""Pretrained models as backbones: loading and building them, the widths of their outputs, their layers."""

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from .pooling import default_image_pooling


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


_unused_positions: dict[str, int] = {}  # by configuration; building a backbone takes longer than encoding an item


def pooler_free_kwargs(backbone_config) -> dict:
    """Returns the arguments that leave out a backbone's pooling head where the item encoder does not use it."""
    model_class: Any = MODEL_MAPPING.get(type(backbone_config), None)
    if model_class is None or "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    if model_class.main_input_name == "pixel_values" and default_image_pooling(backbone_config.model_type) == "pooler":
        return {}  # its own pretrained reading
    return {"add_pooling_layer": False}


def build_backbone(backbone_config) -> PreTrainedModel:
    """Builds a backbone with random weights."""
    return AutoModel.from_config(backbone_config, **pooler_free_kwargs(backbone_config))


def unused_positions(backbone_config) -> int:
    """Returns how many positions of a text backbone no token has: RoBERTa's kin count from behind the padding id."""
    described = backbone_config.to_json_string(use_diff=False)
    if described not in _unused_positions:
        with torch.device("meta"):
            backbone = build_backbone(backbone_config)
        tables = (module for name, module in backbone.named_modules() if name.endswith("position_embeddings"))
        unused = (one.padding_idx + 1 for one in tables if getattr(one, "padding_idx", None) is not None)
        _unused_positions[described] = max(unused, default=0)
    return _unused_positions[described]


def load_backbone(name_or_path: str, field: str, dtype, loading: dict) -> PreTrainedModel:
    """Loads a pretrained backbone; of a model with several towers, such as CLIP, the one that the field names."""
    config = AutoConfig.from_pretrained(name_or_path, **loading)
    config = getattr(config, field, config)  # the vision part of a CLIP
    if loading.get("trust_remote_code") and "AutoModel" in (getattr(config, "auto_map", None) or {}):
        raise ValueError(
            f"{name_or_path} has code of its own, which a checkpoint of this package does not carry, so that nothing "
            "could load it again; leave out trust_remote_code, if transformers knows the model, or choose another"
        )
    return AutoModel.from_pretrained(name_or_path, config=config, dtype=dtype, **pooler_free_kwargs(config), **loading)


def load_image_normalization(name_or_path: str, config, loading: dict) -> dict[str, list[float]]:
    """Returns `image_mean` and `image_std` of a pretrained image backbone; none where nothing is saved beside it."""
    if hasattr(config, "pretrained_cfg"):  # timm's
        saved = {f"image_{name}": list((config.pretrained_cfg or {}).get(name, [0.5] * 3)) for name in ("mean", "std")}
        return image_normalization(saved)
    try:
        return image_normalization(ImageProcessingMixin.get_image_processor_dict(name_or_path, **loading)[0])
    except OSError:
        return {}


def image_normalization(options: Mapping) -> dict[str, list[float]]:
    """Returns the `image_mean` and `image_std` of a [`TransRecConfig`] that do what an image processor would.

    Args:
        options: those of the image processor: `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`,
            `image_std`.

    >>> image_normalization({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_rescale": True})
    {'image_mean': [0.5, 0.5, 0.5], 'image_std': [0.25, 0.25, 0.25]}
    """
    mean, std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    if options.get("do_normalize", True):
        mean, std = list(options["image_mean"]), list(options["image_std"])
    scale = 255 * options.get("rescale_factor", 1 / 255) if options.get("do_rescale", True) else 255
    if abs(scale - 1) < 1e-6:
        return {"image_mean": mean, "image_std": std}
    return {"image_mean": [value / scale for value in mean], "image_std": [value / scale for value in std]}


def output_width(backbone: PreTrainedModel) -> int:
    """Returns the width `H` of the vectors that a text or audio backbone gives out."""
    config = backbone.config
    if getattr(config, "add_adapter", False):  # of Wav2Vec2
        return config.output_hidden_size
    for name in ("word_embed_proj_dim", "hidden_size"):  # OPT may narrow its output
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    raise ValueError(f"cannot tell the output width of a {config.model_type}: it has no hidden_size")


def adopt(backbone: PreTrainedModel | None, config: "TransRecConfig", name: str) -> PreTrainedModel:
    """Returns the given backbone, or one with random weights, in the default dtype.

    `config` gets its configuration as `name`.

    All modules of a backbone read one object, that which its attention goes by.
    """
    backbone = build_backbone(getattr(config, name)) if backbone is None else backbone
    setattr(config, name, backbone.config)
    if type(backbone).__module__.startswith("transformers_modules"):
        raise ValueError(
            f"{type(backbone).__name__} is code that came with a checkpoint, which a checkpoint of this package does "
            "not carry, so that nothing could load it again; choose a model that transformers knows"
        )
    if getattr(backbone, "is_quantized", False):  # it computes in the type that it was loaded with
        return backbone
    return backbone.to(torch.get_default_dtype())  # type: ignore[arg-type]  # its wrapper hides its signature


class Method(nn.Module):
    """A method of a backbone, called as a module is."""

    def __init__(self, backbone: PreTrainedModel, name: str):
        super().__init__()
        self.backbone, self.name = backbone, name

    def forward(self, **inputs):
        return getattr(self.backbone, self.name)(**inputs)


def output_on_meta(backbone: PreTrainedModel, method: str, name: str, *shape: int, dtype: torch.dtype | None = None):
    """Computes a backbone's output for one input on the meta device, where there are only shapes."""
    module = Method(backbone, method)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    on_meta = {key: torch.empty_like(tensor, device="meta") for key, tensor in tensors}
    was_training = backbone.training
    try:
        backbone.eval()
        with torch.no_grad(), torch.device("meta"):
            inputs = {name: torch.empty(shape, dtype=dtype)}
            return torch.func.functional_call(module, on_meta, kwargs=inputs)
    finally:
        backbone.train(was_training)


def image_widths(backbone: PreTrainedModel) -> tuple[int | None, int | None]:
    """Returns the widths of an image backbone's vectors of parts and of its pooled vector; `None` where missing."""
    try:
        output = output_on_meta(backbone, "forward", "pixel_values", 1, 3, *image_size_of(backbone))
    except Exception as error:
        raise ValueError(
            f"a {backbone.config.model_type} is no image backbone: it fails for an image by itself ({error}); choose "
            "a model that reads pixel_values (P, 3, height, width), such as vit, swin, convnext or one of timm's"
        ) from error
    hidden, pooled = output.get("last_hidden_state"), output.get("pooler_output")
    if not isinstance(hidden, torch.Tensor):  # some of timm's give a list
        width = None
    elif hidden.ndim == 4:  # (P, h, w, H) or (P, H, h, w)
        width = hidden.shape[3] if hidden.shape[1] == hidden.shape[2] else hidden.shape[1]
    else:
        width = hidden.shape[-1]
    return width, None if pooled is None else pooled.flatten(1).shape[1]


def dual_widths(backbone: PreTrainedModel) -> tuple[int, int]:
    """Returns the widths of the vectors that a dual encoder's towers make of a text and of an image."""
    try:
        text = output_on_meta(backbone, "get_text_features", "input_ids", 1, 2, dtype=torch.long).pooler_output
        size = image_size_of(backbone)
        image = output_on_meta(backbone, "get_image_features", "pixel_values", 1, 3, *size).pooler_output
    except Exception as error:
        raise ValueError(
            f"a {backbone.config.model_type} is no dual encoder that can be read here: {error}; choose one that reads "
            "input_ids (U, T) and pixel_values (P, 3, height, width), such as clip, siglip, chinese_clip or altclip"
        ) from error
    return text.shape[1], image.shape[1]


def image_size_of(backbone: Any) -> tuple[int, int]:
    """Returns height and width of the images that a backbone is configured for."""
    config = getattr(backbone.config, "vision_config", backbone.config)
    if hasattr(backbone, "timm_model"):
        size = (config.model_args or {}).get("img_size") or backbone.timm_model.pretrained_cfg["input_size"][1:]
    else:
        size = getattr(config, "image_size", None) or 224
    return (size, size) if isinstance(size, int) else tuple(size)


def no_masking(sequence: torch.Tensor, noise=None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keeps all patches in order: in place of ViTMAE's `random_masking`, which shuffles them even in evaluation."""
    order = torch.arange(sequence.shape[1], device=sequence.device).expand(len(sequence), -1)
    return sequence, torch.zeros_like(order, dtype=sequence.dtype), order


def as_sequence(hidden: torch.Tensor, width: int) -> torch.Tensor:
    """Returns an image's vectors as `(P, S, H)`, be they a sequence or a map `(P, H, h, w)` or `(P, h, w, H)`."""
    if hidden.ndim == 4:
        return hidden.flatten(2).transpose(1, 2) if hidden.shape[1] == width else hidden.flatten(1, 2)
    return hidden


def layers_of(backbone: nn.Module) -> list[nn.Module]:
    """Returns the layers of a backbone, or its stages, in order; none, where they are not found."""
    for name, module in backbone.named_modules():
        is_list = isinstance(module, nn.ModuleList | nn.Sequential)
        if is_list and name.rpartition(".")[2] in ("layer", "layers", "h", "blocks", "stages"):
            return list(module)
    return [module for name, module in backbone.named_modules() if re.fullmatch(r"timm_model\.layer\d+", name)]


def towers_of(backbone: nn.Module) -> list[nn.Module]:
    """Returns the text and the image tower of a dual encoder such as CLIP; of any other the backbone itself."""
    towers: list[Any] = [getattr(backbone, name, None) for name in ("text_model", "vision_model")]
    return [backbone] if None in towers else towers
