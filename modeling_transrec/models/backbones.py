"""Pretrained models as backbones: building them, the widths of what they give, the shape of what they read."""

import inspect

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel

from .configuration_transrec import TransRecConfig
from .pooling import default_image_pooling


def pooler_free_kwargs(backbone_config) -> dict:
    """Arguments that leave out a backbone's pooling head where the item encoder does not use it."""
    model_class = MODEL_MAPPING.get(type(backbone_config), None)
    if model_class is None or "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    is_vision = hasattr(backbone_config, "num_channels") and backbone_config.model_type != "vilt"
    if is_vision and default_image_pooling(backbone_config.model_type) == "pooler":
        return {}  # its own pretrained reading
    return {"add_pooling_layer": False}


def build_backbone(backbone_config) -> PreTrainedModel:
    """A backbone with random weights."""
    return AutoModel.from_config(backbone_config, **pooler_free_kwargs(backbone_config))


def output_width(backbone: PreTrainedModel) -> int:
    """Width `H` of the vectors that a text backbone gives out."""
    config = backbone.config
    for name in ("word_embed_proj_dim", "hidden_size"):  # OPT may narrow its output
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    raise ValueError(f"cannot tell the output width of a {config.model_type}: it has no hidden_size")


def adopt(backbone: PreTrainedModel | None, config: TransRecConfig, name: str) -> PreTrainedModel:
    """The given backbone, or one with random weights, in the default dtype; `config` has its configuration as `name`.

    All modules of a backbone read one object, that which its attention goes by.
    """
    backbone = build_backbone(getattr(config, name)) if backbone is None else backbone
    setattr(config, name, backbone.config)
    return backbone.to(torch.get_default_dtype())


class Method(nn.Module):
    """A method of a backbone, called as a module is."""

    def __init__(self, backbone: PreTrainedModel, name: str):
        super().__init__()
        self.backbone, self.name = backbone, name

    def forward(self, **inputs):
        return getattr(self.backbone, self.name)(**inputs)


def output_on_meta(backbone: PreTrainedModel, method: str, name: str, *shape: int, dtype: torch.dtype | None = None):
    """The output of a backbone's method for one input on the meta device, where only shapes are computed."""
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


def picture_widths(backbone: PreTrainedModel) -> tuple[int | None, int | None]:
    """Widths of a vision backbone's vectors of a picture's parts and of its pooled vector; `None` where missing."""
    try:
        output = output_on_meta(backbone, "forward", "pixel_values", 1, 3, *picture_size(backbone))
    except Exception as error:
        raise ValueError(
            f"a {backbone.config.model_type} is no vision backbone: it fails for a picture alone ({error}); choose a "
            "model that reads pixel_values (P, 3, H, W), such as vit, swin, convnext, siglip or one of timm's"
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
    """Widths of the vectors that a dual encoder's towers make of a text and of a picture."""
    try:
        text = output_on_meta(backbone, "get_text_features", "input_ids", 1, 2, dtype=torch.long).pooler_output
        size = picture_size(backbone)
        image = output_on_meta(backbone, "get_image_features", "pixel_values", 1, 3, *size).pooler_output
    except Exception as error:
        raise ValueError(
            f"a {backbone.config.model_type} is no dual encoder that can be read here: {error}; choose one that reads "
            "input_ids (U, T) and pixel_values (P, 3, H, W), such as clip, siglip, chinese_clip or altclip"
        ) from error
    return text.shape[1], image.shape[1]


def picture_size(backbone: PreTrainedModel) -> tuple[int, int]:
    """Height and width of the pictures that a vision backbone is configured for."""
    config = getattr(backbone.config, "vision_config", backbone.config)
    if hasattr(backbone, "timm_model"):
        size = (config.model_args or {}).get("img_size") or backbone.timm_model.pretrained_cfg["input_size"][1:]
    else:
        size = getattr(config, "image_size", None) or 224
    return (size, size) if isinstance(size, int) else tuple(size)


def no_masking(sequence: torch.Tensor, noise=None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ViTMAE's `random_masking`, which hides and shuffles patches even in evaluation, with all of them in order."""
    order = torch.arange(sequence.shape[1], device=sequence.device).expand(len(sequence), -1)
    return sequence, torch.zeros_like(order, dtype=sequence.dtype), order


def as_sequence(hidden: torch.Tensor, width: int) -> torch.Tensor:
    """A picture's vectors as `(P, S, H)`, be they a sequence or a map `(P, H, h, w)` or `(P, h, w, H)`."""
    if hidden.ndim == 4:
        return hidden.flatten(2).transpose(1, 2) if hidden.shape[1] == width else hidden.flatten(1, 2)
    return hidden
