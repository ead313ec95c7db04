"""Content encoders: texts and pictures to vectors, by a text backbone, a vision backbone or one model of both.

An item without a text has a learned vector in its place, and so has one without a picture, which then costs nothing
in the vision backbone. ViLT, one transformer over both, attends to the other of the two alone.

Shapes: `U` distinct items, `P` of them with a picture, `T` text tokens, `S` tokens of a picture, `D` hidden size, `H`
width of a backbone.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from .backbones import adopt, as_sequence, dual_widths, no_masking, output_width, picture_widths
from .configuration_transrec import READ_THE_LAST_PLACE, TransRecConfig
from .frozen_layers import FrozenLayers, token_places
from .fusions import FUSIONS
from .item_chunks import chunks_by_length
from .pooling import TEXT_POOLINGS, default_image_pooling, default_text_pooling


TOKENS_AT_A_TIME = 4096  # enough to keep a GPU busy
TOKENS_AT_A_TIME_ON_CPU = 1024
TOWERS = {"text": "text_model", "image": "vision_model"}  # of a dual encoder


def pad_on_the_right(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts `(U, T)`, padded on either side, and their mask: backbones with absolute positions count from the left.

    >>> pad_on_the_right(torch.tensor([[0, 0, 7, 8], [5, 6, 0, 0]]), torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]))[0]
    tensor([[7, 8, 0, 0],
            [5, 6, 0, 0]])
    """
    length = input_ids.shape[1]
    first = attention_mask.long().argmax(dim=1, keepdim=True)  # (U, 1)
    places = (torch.arange(length, device=input_ids.device) + first) % length
    return input_ids.gather(1, places), attention_mask.gather(1, places)


class Projection(nn.Module):
    """A backbone's width to that of item vectors, GELU: NineRec's."""

    def __init__(self, width: int, config: TransRecConfig):
        super().__init__()
        self.linear = nn.Linear(width, config.hidden_size)
        self.activation = nn.GELU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(…, H)` of any precision, as precomputed ones may have, to `(…, D)`."""
        return self.activation(self.linear(features.to(self.linear.weight.dtype)))


@contextlib.contextmanager
def start_from(frozen_layers: FrozenLayers | None, states: torch.Tensor | None) -> Iterator[None]:
    """Within it, a backbone starts from the states of its frozen layers, where they are given."""
    if states is not None and frozen_layers is None:
        raise ValueError("text_states and image_states are for models prepared by frozen_items.use_frozen_layers")
    with contextlib.nullcontext() if states is None else frozen_layers.giving(states):
        yield


def place_images(vectors: torch.Tensor, image_index: torch.Tensor | None, missing: torch.Tensor) -> torch.Tensor:
    """Vectors of pictures `(P, D)` to those of items `(U, D)`; -1 in `image_index` `(U,)` is the missing picture."""
    if image_index is None:
        return vectors
    either = torch.cat([vectors, missing.to(vectors.dtype)[None]])
    return F.embedding(image_index % len(either), either)


def place_texts(vectors: torch.Tensor, has_text: torch.Tensor | None, missing: torch.Tensor) -> torch.Tensor:
    """Vectors of texts `(U, D)`, but the missing one's where `has_text` `(U,)` is false."""
    return vectors if has_text is None else torch.where(has_text[:, None], vectors, missing.to(vectors.dtype))


def encode_by_length(
    encode: Callable[..., torch.Tensor],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    text_states: torch.Tensor | None = None,
) -> torch.Tensor:
    """Vectors `(U, …)` of texts; those of like length are encoded together, which leaves out most padding.

    Args:
        encode: from texts' rows `(C,)`, ids and mask `(C, T)` and states `(C, T, H)` or `None` to vectors `(C, …)`.
        input_ids, attention_mask: `(U, T)`, padding on the right.
        text_states: `(number of tokens, H)` outputs of frozen layers, one text's tokens after the other's.
    """
    at_a_time = TOKENS_AT_A_TIME_ON_CPU if attention_mask.device.type == "cpu" else TOKENS_AT_A_TIME
    places = None if text_states is None else token_places(attention_mask)
    parts, chunks = [], chunks_by_length(attention_mask, at_a_time)
    for rows, length in chunks:
        states = None if text_states is None else text_states[places[rows, :length]]
        parts.append(encode(rows, input_ids[rows, :length], attention_mask[rows, :length], states))
    return torch.cat(parts)[torch.cat([rows for rows, _ in chunks]).argsort()]


class TextEncoder(nn.Module):
    """Text to vector: backbone, pooling over tokens, linear layer, GELU (NineRec, arXiv 2309.07705).

    Args:
        config: with `text_config` set.
        backbone: a model to use as it is; by default one with random weights is built from `config.text_config`.
    """

    def __init__(self, config: TransRecConfig, backbone: PreTrainedModel | None = None):
        super().__init__()
        text_config = config.text_config
        if text_config.is_encoder_decoder:
            raise ValueError(
                f"{text_config.model_type} is an encoder-decoder; a text backbone is an encoder or a decoder alone"
            )
        self.backbone = adopt(backbone, config, "text_config")
        self.pooling = TEXT_POOLINGS[config.text_pooling or default_text_pooling(text_config.model_type)]
        self.projection = Projection(output_width(self.backbone), config)
        self.missing_text = nn.Parameter(torch.zeros(config.hidden_size))
        self.frozen_layers: FrozenLayers | None = None  # those whose outputs are precomputed

    def hidden(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Token ids and mask `(U, T)` to the backbone's token vectors `(U, T, H)`.

        Args:
            input_ids, attention_mask: `(U, T)`.
            states: `(U, T, H)` outputs of the frozen layers, which are then left out.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if getattr(self.backbone.config, "use_cache", False):  # decoders': it is for generating
            inputs["use_cache"] = False
        with start_from(self.frozen_layers, states):
            return self.backbone(**inputs).last_hidden_state

    def features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        text_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The backbone's vector of each text `(U, H)`: what can be precomputed where it is frozen.

        Args:
            input_ids, attention_mask: `(U, T)`.
            text_states: `(number of tokens, H)` outputs of the frozen layers, one text's tokens after the other's.
        """

        def encode(rows, ids, mask, states) -> torch.Tensor:
            return self.pooling(self.hidden(ids, mask, states), mask)

        return encode_by_length(encode, input_ids, attention_mask, text_states)

    def tokens(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        has_text: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected token vectors `(U, T, D)` and their mask `(U, T)`; of a missing text one learned vector."""

        def encode(rows, ids, mask, states) -> torch.Tensor:
            return F.pad(self.hidden(ids, mask, states), (0, 0, 0, input_ids.shape[1] - ids.shape[1]))

        hidden = encode_by_length(encode, input_ids, attention_mask, text_states)
        tokens = self.projection(hidden)
        mask = attention_mask.bool()
        if has_text is None:
            return tokens, mask
        is_first = torch.arange(mask.shape[1], device=mask.device) == 0
        tokens = torch.where(has_text[:, None, None], tokens, self.missing_text.to(tokens.dtype))
        return tokens, torch.where(has_text[:, None], mask, is_first)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Token ids and mask `(U, T)`, or precomputed features `(U, H)`, to vectors `(U, D)`; see [`features`]."""
        if text_features is None:
            text_features = self.features(input_ids, attention_mask, text_states)
        return place_texts(self.projection(text_features), has_text, self.missing_text)


class ImageEncoder(nn.Module):
    """Picture to vector: backbone, pooling, linear layer, GELU (NineRec, arXiv 2309.07705).

    Args:
        config: with `vision_config` set.
        backbone: a model to use as it is; by default one with random weights is built from `config.vision_config`.
    """

    def __init__(self, config: TransRecConfig, backbone: PreTrainedModel | None = None):
        super().__init__()
        self.backbone = adopt(backbone, config, "vision_config")
        model_type = config.vision_config.model_type
        if model_type == "vit_mae":
            self.backbone.embeddings.random_masking = no_masking
        width, pooled_width = picture_widths(self.backbone)
        self.pooling = config.image_pooling or default_image_pooling(model_type)
        if self.pooling == "pooler" and pooled_width is None:
            if config.image_pooling is not None:
                raise ValueError(f"{model_type} gives no pooler_output; choose image_pooling='cls' or 'mean'")
            self.pooling = "mean"
        reads_tokens = config.text_config is not None and FUSIONS[config.fusion].reads_tokens
        self.width = pooled_width if self.pooling == "pooler" and not reads_tokens else width
        if self.width is None:
            raise ValueError(
                f"{model_type} gives no last_hidden_state of one tensor, which image_pooling={self.pooling!r} and "
                f"fusion={config.fusion!r} read; choose image_pooling='pooler' and another fusion, or another backbone"
            )
        self.projection = Projection(self.width, config)
        self.missing_image = nn.Parameter(torch.zeros(config.hidden_size))
        self.frozen_layers: FrozenLayers | None = None  # those whose outputs are precomputed

    def features(
        self, pixel_values: torch.Tensor | None = None, image_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The backbone's vector of each picture `(P, H)`; what can be precomputed.

        Args:
            pixel_values: `(P, 3, H, W)`.
            image_states: `(P, …)` outputs of the frozen layers, in place of the pictures.
        """
        given = pixel_values if image_states is None else image_states
        if len(given) == 0:  # no item of the batch has a picture, and backbones refuse empty batches
            return given.new_zeros(0, self.width)
        output = self.output(pixel_values, image_states)
        if self.pooling == "pooler":
            return output.pooler_output.flatten(1)
        hidden = as_sequence(output.last_hidden_state, self.width)
        return hidden[:, 0] if self.pooling == "cls" else hidden.mean(dim=1)

    def output(self, pixel_values: torch.Tensor | None = None, image_states: torch.Tensor | None = None):
        """What the backbone makes of pictures `(P, 3, H, W)`, or of the outputs `(P, …)` of its frozen layers."""
        with start_from(self.frozen_layers, image_states):
            if image_states is not None:
                pixel_values = self.frozen_layers.blank_picture(image_states.device)
            return self.backbone(pixel_values=pixel_values)

    def tokens(
        self,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected vectors of the pictures' parts `(U, S, D)` and their mask `(U, S)`."""
        given = pixel_values if image_states is None else image_states
        if len(given):
            hidden = as_sequence(self.output(pixel_values, image_states).last_hidden_state, self.width)
        else:
            hidden = given.new_zeros(0, 1, self.width)
        tokens = self.projection(hidden)  # (P, S, D)
        absent = tokens.new_zeros(1, *tokens.shape[1:])
        absent[0, 0] = self.missing_image.to(tokens.dtype)  # one token alone stands for a missing picture
        mask = torch.ones(len(tokens) + 1, tokens.shape[1], dtype=torch.bool, device=tokens.device)
        mask[-1, 1:] = False
        rows = torch.arange(len(tokens), device=tokens.device) if image_index is None else image_index
        rows = rows % len(mask)  # -1 is the last row: the missing picture
        return torch.cat([tokens, absent]).index_select(0, rows), mask[rows]

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pictures `(P, 3, H, W)`, or precomputed features `(P, H)` or states `(P, …)`, and each item's row among
        them, to `(U, D)`."""
        if image_features is None:
            image_features = self.features(pixel_values, image_states)
        return place_images(self.projection(image_features), image_index, self.missing_image)


class DualEncoder(nn.Module):
    """One model with a text and an image tower into one space, such as CLIP or SigLIP; both towers are read.

    Args:
        config: with `multimodal_config` set to a model that has `get_text_features` and `get_image_features`.
        backbone: a model to use as it is; by default one with random weights is built.
    """

    def __init__(self, config: TransRecConfig, backbone: PreTrainedModel | None = None):
        super().__init__()
        self.backbone = adopt(backbone, config, "multimodal_config")
        text_width, self.width = dual_widths(self.backbone)
        self.text_projection = Projection(text_width, config)
        self.image_projection = Projection(self.width, config)
        self.missing_text = nn.Parameter(torch.zeros(config.hidden_size))
        self.missing_image = nn.Parameter(torch.zeros(config.hidden_size))
        self.frozen_layers: dict[str, FrozenLayers | None] = {"text": None, "image": None}  # see TextEncoder

    @property
    def has_towers(self) -> bool:
        """Whether its towers are found, as they are in CLIP and nearly all others."""
        return all(hasattr(self.backbone, name) for name in TOWERS.values())

    def text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        text_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The text tower's vectors `(U, H)` of token ids and mask `(U, T)`: what can be precomputed if it is frozen.

        Args:
            input_ids, attention_mask: `(U, T)`.
            text_states: `(number of tokens, H)` outputs of the frozen layers, one text's tokens after the other's; of
                a tower that reads padding `(U, positions, H)`.
        """
        if self.backbone.config.model_type in READ_THE_LAST_PLACE:
            padded = as_in_pretraining(input_ids, attention_mask, self.backbone.config.text_config)
            with start_from(self.frozen_layers["text"], text_states):
                return self.backbone.get_text_features(input_ids=padded).pooler_output

        def encode(rows, ids, mask, states) -> torch.Tensor:
            with start_from(self.frozen_layers["text"], states):
                return self.backbone.get_text_features(input_ids=ids, attention_mask=mask).pooler_output

        return encode_by_length(encode, input_ids, attention_mask, text_states)

    def image_features(
        self, pixel_values: torch.Tensor | None = None, image_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The image tower's vectors `(P, H)` of pictures `(P, 3, H, W)`: what can be precomputed if it is frozen.

        Args:
            pixel_values: `(P, 3, H, W)`.
            image_states: `(P, …)` outputs of the frozen layers, in place of the pictures.
        """
        given, frozen_layers = pixel_values if image_states is None else image_states, self.frozen_layers["image"]
        if len(given) == 0:  # no item of the batch has a picture, and backbones refuse empty batches
            return given.new_zeros(0, self.width)
        with start_from(frozen_layers, image_states):
            if image_states is not None:
                pixel_values = frozen_layers.blank_picture(image_states.device)
            return self.backbone.get_image_features(pixel_values=pixel_values).pooler_output

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts `(U, T)` and pictures `(P, 3, H, W)`, or what is precomputed, to text and image vectors `(U, D)`."""
        if text_features is None:
            text_features = self.text_features(input_ids, attention_mask, text_states)
        if image_features is None:
            image_features = self.image_features(pixel_values, image_states)
        text = place_texts(self.text_projection(text_features), has_text, self.missing_text)
        return text, place_images(self.image_projection(image_features), image_index, self.missing_image)


class Tower(nn.Module):
    """One of the two towers of a [`DualEncoder`], which alone holds it, as a [`TextEncoder`] or [`ImageEncoder`].

    Args:
        encoder: the dual encoder.
        name: `"text"` or `"image"`.
    """

    def __init__(self, encoder: DualEncoder, name: str):
        super().__init__()
        self.name, self.own_layers = name, encoder.frozen_layers
        self.reads_padding = name == "text" and encoder.backbone.config.model_type in READ_THE_LAST_PLACE
        self.backbone = getattr(encoder.backbone, TOWERS[name])
        self.whole, self.features = encoder.backbone, getattr(encoder, f"{name}_features")
        self.projection = getattr(encoder, f"{name}_projection")

    @property
    def frozen_layers(self) -> FrozenLayers | None:
        """The tower's frozen layers whose outputs are precomputed."""
        return self.own_layers[self.name]

    @frozen_layers.setter
    def frozen_layers(self, layers: FrozenLayers | None) -> None:
        self.own_layers[self.name] = layers

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """What the tower reads, or its frozen layers' outputs in its place, to vectors `(U, D)` or `(P, D)`."""
        return self.projection(self.features(**inputs))


def as_in_pretraining(input_ids: torch.Tensor, attention_mask: torch.Tensor, text_config) -> torch.Tensor:
    """Token ids and mask `(U, T)` to ids padded to all the positions of a text tower that reads the last one."""
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


class ViltEncoder(nn.Module):
    """ViLT (Kim et al., ICML 2021): one transformer over the tokens of text and picture; its first token is read.

    Transformers' own embedding of pictures visits their parts in random order, even in evaluation; here they are
    embedded in order. Where an item has no picture, the text alone is attended to; where it has no text, the picture
    and the tokens `[CLS]` and `[SEP]` alone.

    Args:
        config: with `multimodal_config` of type `"vilt"`.
        backbone: a model to use as it is; by default one with random weights is built.
    """

    def __init__(self, config: TransRecConfig, backbone: PreTrainedModel | None = None):
        super().__init__()
        self.backbone = adopt(backbone, config, "multimodal_config")
        self.projection = Projection(config.multimodal_config.hidden_size, config)
        self.frozen_layers: FrozenLayers | None = None  # those whose outputs are precomputed

    def pictures(
        self, pixel_values: torch.Tensor | None, image_states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the parts of pictures `(P, 3, H, W)`, or their states `(P, S, H)` as they are (of no picture
        `(0,)`), and a missing picture as the last one: `(P + 1, S, H)`; and what is attended to `(P + 1, S)`."""
        embeddings, config = self.backbone.embeddings, self.backbone.config
        positions = embeddings.position_embeddings  # (1, S, H)
        if image_states is None:
            patches = embeddings.patch_embeddings(pixel_values).flatten(2).transpose(1, 2)
            parts = torch.cat([embeddings.cls_token.expand(len(patches), -1, -1), patches], dim=1)
            if positions.shape[1] != parts.shape[1]:
                size = config.image_size
                raise ValueError(f"ViLT takes pictures of {size} x {size} pixels; give the image processor this size")
            parts = embeddings.dropout(parts + positions)
        else:
            parts = image_states.view(len(image_states), *positions.shape[1:]).to(positions.dtype)
        pixel_mask = torch.ones(len(parts) + 1, parts.shape[1], dtype=torch.long, device=parts.device)
        pixel_mask[-1] = 0
        return torch.cat([parts, parts.new_zeros(1, *parts.shape[1:])]), pixel_mask

    def hidden(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_embeds: torch.Tensor,
        pixel_mask: torch.Tensor,
        states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Texts `(U, T)` and pictures' parts `(U, S, H)`, each with its mask, to the backbone's vectors
        `(U, T + S, H)`; from `states` of the same shape, given by the frozen layers, the two are looked at no more."""
        with start_from(self.frozen_layers, states):
            return self.backbone(
                input_ids=input_ids, attention_mask=attention_mask, image_embeds=image_embeds, pixel_mask=pixel_mask
            ).last_hidden_state

    def features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The first token's vector of each item `(U, H)`: what can be precomputed where the backbone is frozen.

        Args:
            input_ids, attention_mask: `(U, T)`.
            pixel_values: `(P, 3, H, W)`.
            image_index: `(U,)` each item's row among the pictures, -1 where it has none; by default all have one.
            text_states: `(number of tokens, H)` outputs of the frozen layers, one text's tokens after the other's.
            image_states: `(P, S, H)` outputs of the frozen layers, in place of the pictures.
        """
        pictures, pixel_mask = self.pictures(pixel_values, image_states)
        picture_rows = torch.arange(len(input_ids), device=input_ids.device) if image_index is None else image_index

        def encode(rows, ids, mask, states) -> torch.Tensor:
            places = picture_rows[rows] % len(pixel_mask)  # -1 is the last row: the missing picture
            chosen = pictures.index_select(0, places)
            states = None if states is None else torch.cat([states, chosen.to(states.dtype)], dim=1)
            return self.hidden(ids, mask, chosen, pixel_mask[places], states)[:, 0]

        return encode_by_length(encode, input_ids, attention_mask, text_states)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        item_features: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Texts `(U, T)` and pictures `(P, 3, H, W)`, or what is precomputed, to vectors `(U, D)`."""
        if item_features is None:
            inputs = (input_ids, attention_mask, pixel_values, image_index)
            item_features = self.features(*inputs, text_states, image_states)
        return self.projection(item_features)
