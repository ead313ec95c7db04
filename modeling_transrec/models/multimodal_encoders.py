"""Encoders around one pretrained model of text and image: a dual encoder, such as CLIP, or ViLT.

Shapes: `U` distinct items of the batch, `P` of them that have an image, `T` text tokens, `S` tokens of an image, `D`
hidden size, `H` width of a backbone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.processing_utils import Unpack

from .backbones import adopt, dual_widths
from .batch import ItemInputs
from .content_encoders import ContentEncoder, ImageEncoder, PixelNormalization, TextEncoder
from .offloading import align_module_device
from .text_chunks import encode_by_length


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


# Dual encoders whose text vector is that of the last position, padding or not: they read texts as long as in
# pretraining.
READ_THE_LAST_POSITION = ("siglip",)


def reads_last_position(multimodal_config) -> bool:
    """Returns whether a model's text vector is that of the last position, be it padding."""
    return getattr(multimodal_config, "model_type", None) in READ_THE_LAST_POSITION


class Tower(ContentEncoder):
    """One of the two towers of a [`DualEncoder`], which owns the backbone.

    Args:
        owner: the dual encoder.
        width: `H` of the tower's features.
        config: the model's.
    """

    name: str
    gives_tokens = False

    def __init__(self, owner: "DualEncoder", width: int, config: "TransRecConfig"):
        super().__init__(None, width, config)
        self._owner = (owner,)  # in a tuple, so that its weights are not registered twice

    @property
    def whole(self) -> Any:
        """The backbone of both towers."""
        return self._owner[0].backbone

    @property
    def tower(self) -> PreTrainedModel | None:
        """The part of the backbone that has the layers for this modality; `None` where it is not found."""
        return getattr(self.whole, self.name, None)


class TextTower(Tower):
    """Encodes texts by the text tower of a dual encoder."""

    modality, name = "text", "text_model"
    inputs = TextEncoder.inputs
    missing_inputs, index = TextEncoder.missing_inputs, TextEncoder.index

    def __init__(self, owner: "DualEncoder", width: int, config: "TransRecConfig"):
        super().__init__(owner, width, config)
        # States stand for all that the tower reads, unless it reads padding.
        self.starts_from_states = not reads_last_position(self.whole.config)

    def _features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        input_ids, attention_mask = items["input_ids"], items["attention_mask"]
        if reads_last_position(self.whole.config):
            padded = as_in_pretraining(input_ids, attention_mask, self.whole.config.text_config)
            return self.whole.get_text_features(input_ids=padded).pooler_output

        def encode(index, ids, mask, states) -> torch.Tensor:
            with self.started_from(states):
                return self.whole.get_text_features(input_ids=ids, attention_mask=mask).pooler_output

        return encode_by_length(encode, input_ids, attention_mask, items.get("text_states"))


class ImageTower(Tower):
    """Encodes images by the image tower of a dual encoder."""

    modality, name = "image", "vision_model"
    inputs = ("pixel_values",)
    starts_from_states = True
    backbone_inputs = ImageEncoder.backbone_inputs

    def __init__(self, owner: "DualEncoder", width: int, config: "TransRecConfig"):
        super().__init__(owner, width, config)
        self.normalization = PixelNormalization(config)

    def _features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        with self.started_from(items.get("image_states")):
            inputs = self.backbone_inputs(**items)  # type: ignore[misc]  # it is ImageEncoder's
            return self.whole.get_image_features(**inputs).pooler_output


class DualEncoder(nn.Module):
    """Holds one model with a text and an image tower into one space, such as CLIP or SigLIP; both towers are read.

    Arguments as in [`TextEncoder`], with a `multimodal_config` of a model that has `get_text_features` and
    `get_image_features`.
    """

    backbone: Any  # a pretrained model with two towers

    def __init__(self, config: "TransRecConfig", backbone: PreTrainedModel | None = None):
        super().__init__()
        self.backbone = adopt(backbone, config, "multimodal_config")
        text_width, image_width = dual_widths(self.backbone)
        self.text = TextTower(self, text_width, config)
        self.image = ImageTower(self, image_width, config)

    @property
    def parts(self) -> list[ContentEncoder]:
        """The encoders of text and image."""
        return [self.text, self.image]


def as_in_pretraining(input_ids: torch.Tensor, attention_mask: torch.Tensor, text_config) -> torch.Tensor:
    """Pads token ids `(U, T)` to all the positions of a text tower that reads the last one."""
    padding = text_config.max_position_embeddings - input_ids.shape[1]
    if padding < 0:
        raise ValueError(
            f"texts of {input_ids.shape[1]} tokens are longer than the {text_config.max_position_embeddings} "
            "positions of the text backbone; give the processor a smaller max_text_length"
        )
    pad = text_config.pad_token_id
    if pad is None:
        raise ValueError("the text tower reads padding: set text_config.pad_token_id to the tokenizer's pad_token_id")
    return F.pad(input_ids.where(attention_mask.bool(), pad), (0, padding), value=pad)


class ViltEncoder(ContentEncoder):
    """Encodes items by ViLT (Kim et al., ICML 2021): one transformer over the tokens of text and image; its first
    token is read.

    Transformers' own embedding of images visits their parts in random order, even in evaluation; here they are
    embedded in order. Where an item has no image, only the text is attended to; where it has no text, only the image
    and the tokens `[CLS]` and `[SEP]`. Arguments as in [`TextEncoder`], with a `multimodal_config` of type `"vilt"`.
    """

    modality = "item"
    inputs = ("input_ids", "attention_mask", "pixel_values")
    gives_tokens = has_missing = has_fixed_graph = False  # it chooses patches by the values of its inputs

    def __init__(self, config: "TransRecConfig", backbone: PreTrainedModel | None = None):
        backbone = adopt(backbone, config, "multimodal_config")
        super().__init__(backbone, config.backbone_config("multimodal_config").hidden_size, config)
        self.normalization = PixelNormalization(config)

    @property
    def parts(self) -> list[ContentEncoder]:
        """Itself: text and image have one embedding."""
        return [self]

    def index(self, **items: Unpack[ItemInputs]) -> None:
        """Returns `None`: each item has features."""

    def image_parts(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeds the parts of images `(P, 3, height, width)`, and a missing image as the last one.

        Returns: `(P + 1, S, H)`, and the mask of what is attended to `(P + 1, S)`.
        """
        embeddings, config = self.backbone.embeddings, self.backbone.config
        patches = embeddings.patch_embeddings(self.normalization(pixel_values)).flatten(2).transpose(1, 2)
        if embeddings.position_embeddings.shape[1] != 1 + patches.shape[1]:
            size = config.image_size
            raise ValueError(f"ViLT takes images of {size} x {size} pixels; give the image processor this size")
        with align_module_device(embeddings):
            parts = torch.cat([embeddings.cls_token.expand(len(patches), -1, -1), patches], dim=1)
            parts = embeddings.dropout(parts + embeddings.position_embeddings)
        pixel_mask = torch.ones(len(parts) + 1, parts.shape[1], dtype=torch.long, device=parts.device)
        pixel_mask[-1] = 0
        return torch.cat([parts, parts.new_zeros(1, *parts.shape[1:])]), pixel_mask

    def _features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        input_ids, attention_mask, image_index = items["input_ids"], items["attention_mask"], items.get("image_index")
        parts, pixel_mask = self.image_parts(items["pixel_values"])
        if image_index is None:
            image_index = torch.arange(len(input_ids), device=input_ids.device)
        image_index = image_index % len(pixel_mask)  # -1 is the last: the missing image

        def encode(index, ids, mask, states) -> torch.Tensor:
            chosen = image_index[index]
            output = self.backbone(
                input_ids=ids,
                attention_mask=mask,
                image_embeds=parts.index_select(0, chosen),
                pixel_mask=pixel_mask[chosen],
            )
            return output.last_hidden_state[:, 0]

        return encode_by_length(encode, input_ids, attention_mask)


# By the type of the model of text and image; all others are dual encoders.
MULTIMODAL_ENCODERS: dict[str, Callable] = {"vilt": ViltEncoder}
