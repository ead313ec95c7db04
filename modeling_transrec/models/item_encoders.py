"""The item encoder: what an item is, given by its content, its id or both, to a vector `(U, D)`.

Shapes: `U` distinct items, `P` of them with a picture, `T` text tokens, `D` hidden size, `H` width of a backbone.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from .adapters import inject_adapters, merge_adapters, train_adapters_alone
from .configuration_transrec import TransRecConfig
from .content_encoders import DualEncoder, ImageEncoder, TextEncoder, Tower, ViltEncoder, pad_on_the_right
from .fusions import FUSIONS
from .item_chunks import Chunk, plan_chunks, take_items


# What frozen backbones or their frozen layers have made of items, and the inputs that it stands for.
PRECOMPUTED = {
    "text_features": ("input_ids", "attention_mask"),
    "image_features": ("pixel_values",),
    "item_features": ("input_ids", "attention_mask", "pixel_values"),
    "image_states": ("pixel_values",),
}


# Parameters and modules that have a part in a backbone's own pretraining alone: of any of its modules, or of the whole
# alone, since attention may have some of the same name.
ONLY_IN_PRETRAINING = ("mask_token", "crossattention")
OF_THE_WHOLE = ("logit_scale", "logit_bias", "temperature")


def are_bytes(inputs: dict[str, torch.Tensor]) -> bool:
    """Whether pictures are there, which are not normalised yet."""
    return "pixel_values" in inputs and inputs["pixel_values"].dtype == torch.uint8


class ItemEncoder(nn.Module):
    """Content, id or both to the item vector.

    Each part lies under a name of its own, so that a checkpoint's content part loads without its id part: ids do not
    transfer.

    Args:
        config: with at least one of `text_config`, `vision_config`, `multimodal_config`, `num_items` set.
        backbones: loaded models to use as they are, by the names `"text"`, `"image"`, `"multimodal"`.
    """

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__()
        backbones = dict(backbones or {})
        if config.modality is None:
            raise ValueError(
                "TransRecConfig names no item encoder: set text_config, vision_config or multimodal_config for "
                "content, num_items for ids"
            )
        self.modalities = config.modality.split("+")
        self.text = self.image = self.multimodal = self.fusion = self.id_embedding = self.id_fusion = None
        if config.text_config is not None:
            self.text = TextEncoder(config, backbones.pop("text", None))
        if config.vision_config is not None:
            self.image = ImageEncoder(config, backbones.pop("image", None))
        if config.multimodal_config is not None:
            is_vilt = config.multimodal_config.model_type == "vilt"
            self.multimodal = (ViltEncoder if is_vilt else DualEncoder)(config, backbones.pop("multimodal", None))
        if backbones:
            raise ValueError(f"a backbone was given for {', '.join(backbones)}, but the configuration has none")
        is_dual = isinstance(self.multimodal, DualEncoder)
        if is_dual or (self.text is not None and self.image is not None):
            self.fusion = FUSIONS[config.fusion](config)
            if is_dual and self.fusion.reads_tokens:
                raise ValueError(
                    f"fusion={config.fusion!r} reads token vectors, of which a dual encoder gives none; choose sum, "
                    "concat, gated or film, or give the two towers as text_config and vision_config"
                )
        if config.num_items is not None:
            self.id_embedding = nn.Embedding(config.num_items, config.hidden_size)
            if len(self.modalities) > 1:
                self.id_fusion = FUSIONS[config.id_fusion](config)
        self.dropout = nn.Dropout(config.item_dropout_prob)
        self.chunk_size = None
        self.normalize_pictures = None  # where they come as bytes
        self.mark_trainable()

    @property
    def backbones(self) -> list[PreTrainedModel]:
        """The pretrained parts; none in an id model."""
        return [part.backbone for part in (self.text, self.image, self.multimodal) if part is not None]

    def part(self, name: str) -> TextEncoder | ImageEncoder | Tower | None:
        """What encodes the texts, `"text"`, or the pictures, `"image"`; `None` if nothing does that by itself."""
        if isinstance(self.multimodal, DualEncoder) and self.multimodal.has_towers:
            return Tower(self.multimodal, name)
        return getattr(self, name)

    def missing_inputs(self, given: dict[str, torch.Tensor]) -> list[str]:
        """The item tensors that it needs and that are not there, nor anything precomputed in their place."""
        names = {"text": ["input_ids", "attention_mask"], "image": ["pixel_values"], "id": ["item_ids"]}
        replaced = [name for stand_in in PRECOMPUTED if stand_in in given for name in PRECOMPUTED[stand_in]]
        needed = [name for modality in self.modalities for name in names[modality]]
        return [name for name in needed if name not in given and name not in replaced]

    @property
    def takes_features(self) -> bool:
        """Whether one vector of each text and picture, or of each item, can be precomputed and stand for them."""
        return bool(self.backbones) and not (self.fusion and self.fusion.reads_tokens)

    def features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """What can be precomputed where the backbones are frozen, by its name as an input of [`forward`]."""
        if isinstance(self.multimodal, ViltEncoder):
            return {"item_features": self.multimodal.features(input_ids, attention_mask, pixel_values, image_index)}
        if isinstance(self.multimodal, DualEncoder):
            text = self.multimodal.text_features(input_ids, attention_mask)
            return {"text_features": text, "image_features": self.multimodal.image_features(pixel_values)}
        found = {}
        if self.text is not None:
            found["text_features"] = self.text.features(input_ids, attention_mask)
        if self.image is not None:
            found["image_features"] = self.image.features(pixel_values)
        return found

    def inject_adapters(self, peft_config: dict) -> None:
        """Puts adapters of the `peft` library into the backbones, or into those that have modules that they match."""
        inject_adapters(self.backbones, peft_config)
        self.mark_trainable()

    def merge_adapters(self) -> None:
        """Adds the adapters to the weights that they stand beside, and takes them out; modules trained whole stay."""
        merge_adapters(self.backbones)
        self.mark_trainable()

    def mark_trainable(self) -> None:
        """Leaves out of training what no gradient reaches and, where there are adapters, all but them."""
        train_adapters_alone(self.backbones)
        for backbone in self.backbones:
            for module in backbone.modules():
                parts = ONLY_IN_PRETRAINING + (OF_THE_WHOLE if module is backbone else ())
                for part in parts:
                    if isinstance(getattr(module, part, None), nn.Parameter | nn.Module):
                        getattr(module, part).requires_grad_(False)

    def encode_content(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        item_features: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Texts and pictures to vectors `(U, D)`; `None` in an id model."""
        if isinstance(self.multimodal, ViltEncoder):
            inputs = (input_ids, attention_mask, pixel_values, image_index, item_features)
            return self.multimodal(*inputs, text_states, image_states)
        if isinstance(self.multimodal, DualEncoder):
            inputs = (input_ids, attention_mask, pixel_values, image_index, has_text, text_features, image_features)
            return self.fusion(*self.multimodal(*inputs, text_states, image_states))
        if self.fusion is not None and self.fusion.reads_tokens:
            text = self.text.tokens(input_ids, attention_mask, has_text, text_states)
            return self.fusion(*text, *self.image.tokens(pixel_values, image_index, image_states))
        text = image = None
        if self.text is not None:
            text = self.text(input_ids, attention_mask, has_text, text_features, text_states)
        if self.image is not None:
            image = self.image(pixel_values, image_index, image_features, image_states)
        return self.fusion(text, image) if self.fusion is not None else text if image is None else image

    def encode(self, item_ids: torch.Tensor | None = None, **content: torch.Tensor) -> torch.Tensor:
        """All items at once; arguments and result as in [`forward`]."""
        if self.normalize_pictures is not None and are_bytes(content):
            content = self.normalize_pictures(content)
        vectors = self.encode_content(**content)
        if self.id_embedding is not None:
            ids = self.id_embedding(item_ids)
            vectors = ids if vectors is None else self.id_fusion(vectors, ids)
        return self.dropout(vectors)

    def encode_in_chunks(self, chunk_size: int, **inputs: torch.Tensor) -> torch.Tensor:
        """`chunk_size` items at a time, of like text length; activations are computed anew in the backward pass.

        Gradient caching (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        RepL4NLP 2021): the memory for activations is that of one chunk, loss and gradients are those of one pass.
        """

        def encode_chunk(chunk: Chunk) -> torch.Tensor:
            return self.encode(**take_items(inputs, chunk))

        chunks = plan_chunks(inputs, chunk_size)
        vectors = torch.cat([checkpoint(encode_chunk, chunk, use_reentrant=False) for chunk in chunks])
        return vectors[torch.cat([chunk.rows for chunk in chunks]).argsort()]

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """
        Args:
            inputs: `item_ids` `(U,)`, rows of the id table; `input_ids` and `attention_mask` `(U, T)`, and `has_text`
                `(U,)`, false where an item has none (by default all have one); `pixel_values` `(P, 3, H, W)` of the
                items that have a picture and `image_index` `(U,)`, each item's row there or -1 (by default all have
                one, in order); or precomputed `text_features` `(U, H)` and `image_features` `(P, H)` in their place,
                of ViLT `item_features` `(U, H)`; or `text_states` `(number of tokens, H)` beside the tokens and
                `image_states` `(P, …)` in place of the pictures.

        Returns: `(U, D)`.
        """
        if "input_ids" in inputs:  # the processor's are on the right
            texts = pad_on_the_right(inputs["input_ids"], inputs["attention_mask"])
            inputs.update(zip(("input_ids", "attention_mask"), texts, strict=True))
        if self.chunk_size is not None and self.backbones and torch.is_grad_enabled():
            return self.encode_in_chunks(self.chunk_size, **inputs)
        return self.encode(**inputs)
