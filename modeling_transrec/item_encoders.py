"""Item encoders: what an item is, given by its content, its id or both, to a vector `(U, D)`.

Content is encoded by a text backbone, a vision backbone, both and a fusion, or one model of text and image. An item
without a text is encoded as the empty text. An item without a picture costs nothing in the vision backbone: a learned
vector stands for its picture (in ViLT, the text alone attends).

Shapes: `U` distinct items, `P` of them with a picture, `T` text tokens, `S` tokens of a picture, `D` hidden size, `H`
width of a backbone.
"""

import contextlib
import dataclasses
import inspect
import json

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel

from .batch_sizes import BatchSizes, rows_of
from .configuration_transrec import TransRecConfig
from .frozen_layers import FrozenLayers, token_places
from .fusions import FUSIONS
from .item_chunks import Chunk, chunks_by_length, plan_chunks, take_items
from .pooling import TEXT_POOLINGS, default_image_pooling, default_text_pooling


TEXTS_AT_A_TIME = 1024  # enough to keep a GPU busy
TEXTS_AT_A_TIME_ON_CPU = 128

# Adapters of the peft library that train, save, load and merge here, and their options that are honoured; the tests
# make the round trip of each.
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


def pad_on_the_right(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, **others
) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts `(U, T)`, padded on either side, and their mask: backbones with absolute positions count from the left.

    >>> pad_on_the_right(torch.tensor([[0, 0, 7, 8], [5, 6, 0, 0]]), torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]))[0]
    tensor([[7, 8, 0, 0],
            [5, 6, 0, 0]])
    """
    length = input_ids.shape[1]
    first = attention_mask.long().argmax(dim=1, keepdim=True)  # (U, 1)
    places = (torch.arange(length, device=input_ids.device) + first) % length
    return input_ids.gather(1, places), attention_mask.gather(1, places)


def picture_widths(backbone: PreTrainedModel) -> tuple[int | None, int | None]:
    """Widths of a vision backbone's vectors of a picture's parts and of its pooled vector; `None` for a missing one.

    They are read off the output for a picture on the meta device, where only shapes are computed.
    """
    tensors = [*backbone.named_parameters(), *backbone.named_buffers()]
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    was_training = backbone.training
    try:
        with torch.no_grad(), torch.device("meta"):
            picture = {"pixel_values": torch.empty(1, 3, *picture_size(backbone))}
            output = torch.func.functional_call(backbone.eval(), on_meta, kwargs=picture)
    except Exception as error:
        raise ValueError(
            f"a {backbone.config.model_type} is no vision backbone: it fails for a picture alone ({error}); choose a "
            "model that reads pixel_values (P, 3, H, W), such as vit, swin, convnext, siglip or one of timm's"
        ) from error
    finally:
        backbone.train(was_training)
    hidden, pooled = output.get("last_hidden_state"), output.get("pooler_output")
    if not isinstance(hidden, torch.Tensor):  # some of timm's give a list
        width = None
    elif hidden.ndim == 4:  # (P, h, w, H) or (P, H, h, w)
        width = hidden.shape[3] if hidden.shape[1] == hidden.shape[2] else hidden.shape[1]
    else:
        width = hidden.shape[-1]
    return width, None if pooled is None else pooled.flatten(1).shape[1]


def picture_size(backbone: PreTrainedModel) -> tuple[int, int]:
    """Height and width of the pictures that a vision backbone is configured for."""
    config = backbone.config
    if hasattr(backbone, "timm_model"):
        size = (config.model_args or {}).get("img_size") or backbone.timm_model.pretrained_cfg["input_size"][1:]
    else:
        size = getattr(config, "image_size", None) or 224
    return (size, size) if isinstance(size, int) else tuple(size)


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
        self.backbone = adopt(backbone, text_config)
        self.pooling = TEXT_POOLINGS[config.text_pooling or default_text_pooling(text_config.model_type)]
        self.projection = Projection(output_width(self.backbone), config)
        self.frozen_layers: FrozenLayers | None = None  # those whose outputs are precomputed

    def hidden(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Token ids and mask `(U, T)` to the backbone's token vectors `(U, T, H)`.

        Args:
            input_ids, attention_mask: `(U, T)`.
            states: `(U, T, H)` outputs of the frozen layers, which are then left out.
        """
        with start_from(self.frozen_layers, states):
            return self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        text_states: torch.Tensor | None = None,
        text_lengths: np.ndarray | None = None,
    ) -> torch.Tensor:
        """The backbone's vector of each text `(U, H)`: what can be precomputed where it is frozen.

        Texts of like length go through the backbone together, which leaves out most of the padding.

        Args:
            input_ids, attention_mask: `(U, T)`.
            text_states: `(number of tokens, H)` outputs of the frozen layers, one text's tokens after the other's.
            text_lengths: `(U,)`, with which no device is waited for.
        """
        at_a_time = TEXTS_AT_A_TIME_ON_CPU if attention_mask.device.type == "cpu" else TEXTS_AT_A_TIME
        places = None if text_states is None else token_places(attention_mask)
        parts, order = [], []
        for rows, length in chunks_by_length(attention_mask, at_a_time, text_lengths):
            mask = attention_mask[rows, :length]
            states = None if text_states is None else text_states[places[rows, :length]]
            parts.append(self.pooling(self.hidden(input_ids[rows, :length], mask, states), mask))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected token vectors `(U, T, D)` and their mask `(U, T)`."""
        return self.projection(self.hidden(input_ids, attention_mask)), attention_mask.bool()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        text_lengths: np.ndarray | None = None,
    ) -> torch.Tensor:
        """Token ids and mask `(U, T)`, or precomputed features `(U, H)`, to vectors `(U, D)`; see [`features`]."""
        if text_features is None:
            text_features = self.features(input_ids, attention_mask, text_states, text_lengths)
        return self.projection(text_features)


class ImageEncoder(nn.Module):
    """Picture to vector: backbone, pooling, linear layer, GELU (NineRec, arXiv 2309.07705).

    Args:
        config: with `vision_config` set.
        backbone: a model to use as it is; by default one with random weights is built from `config.vision_config`.
    """

    def __init__(self, config: TransRecConfig, backbone: PreTrainedModel | None = None):
        super().__init__()
        self.backbone = adopt(backbone, config.vision_config)
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
        with start_from(self.frozen_layers, image_states):
            if image_states is not None:
                pixel_values = self.frozen_layers.blank_picture(image_states.device)
            output = self.backbone(pixel_values=pixel_values)
        if self.pooling == "pooler":
            return output.pooler_output.flatten(1)
        hidden = as_sequence(output.last_hidden_state, self.width)
        return hidden[:, 0] if self.pooling == "cls" else hidden.mean(dim=1)

    def tokens(
        self, pixel_values: torch.Tensor, image_index: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected vectors of the pictures' parts `(U, S, D)` and their mask `(U, S)`."""
        if len(pixel_values):
            hidden = as_sequence(self.backbone(pixel_values=pixel_values).last_hidden_state, self.width)
        else:
            hidden = pixel_values.new_zeros(0, 1, self.width)
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

    def __init__(self, config: TransRecConfig, backbone: PreTrainedModel):
        super().__init__()
        self.backbone = backbone
        multimodal_config = config.multimodal_config
        width = getattr(multimodal_config, "projection_dim", None) or multimodal_config.text_config.hidden_size
        self.width = width
        self.text_projection = Projection(width, config)
        self.image_projection = Projection(width, config)
        self.missing_image = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        image_index: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts `(U, T)` and pictures `(P, 3, H, W)` to text vectors and image vectors, both `(U, D)`."""
        text = self.backbone.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        if len(pixel_values):
            image = self.backbone.get_image_features(pixel_values=pixel_values).pooler_output
        else:
            image = pixel_values.new_zeros(0, self.width)
        image = place_images(self.image_projection(image), image_index, self.missing_image)
        return self.text_projection(text), image


class ViltEncoder(nn.Module):
    """ViLT (Kim et al., ICML 2021): one transformer over the tokens of text and picture; its first token is read.

    Transformers' own embedding of pictures visits their parts in random order, even in evaluation; here they are
    embedded in order. Where an item has no picture, the text alone is attended to.

    Args:
        config: with `multimodal_config` of type `"vilt"`.
        backbone: a model to use as it is; by default one with random weights is built.
    """

    def __init__(self, config: TransRecConfig, backbone: PreTrainedModel):
        super().__init__()
        self.backbone = backbone
        self.projection = Projection(config.multimodal_config.hidden_size, config)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        image_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Texts `(U, T)` and pictures `(P, 3, H, W)` to vectors `(U, D)`."""
        embeddings = self.backbone.embeddings
        patches = embeddings.patch_embeddings(pixel_values).flatten(2).transpose(1, 2)  # (P, S, H)
        image_embeds = torch.cat([embeddings.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        positions = embeddings.position_embeddings
        if positions.shape[1] != image_embeds.shape[1]:
            size = self.backbone.config.image_size
            raise ValueError(f"ViLT takes pictures of {size} x {size} pixels; give the image processor this size")
        image_embeds = embeddings.dropout(image_embeds + positions)
        absent = image_embeds.new_zeros(1, *image_embeds.shape[1:])
        pixel_mask = torch.ones(len(patches) + 1, image_embeds.shape[1], dtype=torch.long, device=input_ids.device)
        pixel_mask[-1] = 0
        rows = torch.arange(len(patches), device=input_ids.device) if image_index is None else image_index
        output = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_embeds=torch.cat([image_embeds, absent]).index_select(0, rows % len(pixel_mask)),
            pixel_mask=pixel_mask[rows],
        )
        return self.projection(output.last_hidden_state[:, 0])


def start_from(frozen_layers: FrozenLayers | None, states: torch.Tensor | None) -> contextlib.AbstractContextManager:
    """Within it, a backbone starts from the states of its frozen layers, where they are given."""
    if states is None:
        return contextlib.nullcontext()
    if frozen_layers is None:
        raise ValueError("text_states and image_states are for models prepared by frozen_items.use_frozen_layers")
    return frozen_layers.giving(states)


class Projection(nn.Module):
    """A backbone's width to that of item vectors, GELU: NineRec's."""

    def __init__(self, width: int, config: TransRecConfig):
        super().__init__()
        self.linear = nn.Linear(width, config.hidden_size)
        self.activation = nn.GELU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.activation(self.linear(features))


def adopt(backbone: PreTrainedModel | None, backbone_config) -> PreTrainedModel:
    """The given backbone, or one with random weights, in the default dtype and with the model's own configuration."""
    backbone = build_backbone(backbone_config) if backbone is None else backbone
    backbone = backbone.to(torch.get_default_dtype())
    backbone.config = backbone_config
    return backbone


def no_masking(sequence: torch.Tensor, noise=None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ViTMAE's `random_masking`, which hides and shuffles patches even in evaluation, with all of them in order."""
    order = torch.arange(sequence.shape[1], device=sequence.device).expand(len(sequence), -1)
    return sequence, torch.zeros_like(order, dtype=sequence.dtype), order


def as_sequence(hidden: torch.Tensor, width: int) -> torch.Tensor:
    """A picture's vectors as `(P, S, H)`, be they a sequence or a map `(P, H, h, w)` or `(P, h, w, H)`."""
    if hidden.ndim == 4:
        return hidden.flatten(2).transpose(1, 2) if hidden.shape[1] == width else hidden.flatten(1, 2)
    return hidden


def place_images(vectors: torch.Tensor, image_index: torch.Tensor | None, missing: torch.Tensor) -> torch.Tensor:
    """Vectors of pictures `(P, D)` to those of items `(U, D)`; -1 in `image_index` `(U,)` is the missing picture."""
    if image_index is None:
        return vectors
    either = torch.cat([vectors, missing.to(vectors.dtype)[None]])
    return rows_of(either, image_index % len(either))


def peft_config_to_dict(peft_config) -> dict:
    """A configuration of the `peft` library as plain JSON values; kinds and options that do not work are errors."""
    values = peft_config if isinstance(peft_config, dict) else peft_config.to_dict()
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in values.items()}
    plain = json.loads(json.dumps(plain, default=str))
    if "peft_type" not in plain:
        raise ValueError('an adapter\'s configuration needs "peft_type", such as "LORA"')
    try:
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig
    except ImportError as error:
        raise ImportError("adapters need the peft library: pip install modeling_transrec[peft]") from error
    kind = plain["peft_type"]
    if kind not in PEFT_KINDS:
        raise ValueError(f"{kind} adapters are not supported; choose one of {', '.join(PEFT_KINDS)}")
    known = [field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])]
    supported = ", ".join(name for name in known if name in PEFT_OPTIONS)
    unknown = sorted(set(plain) - set(known))
    if unknown:
        raise ValueError(f"{kind} has no option {', '.join(unknown)}; its options are {supported}")
    default = PEFT_TYPE_TO_CONFIG_MAPPING[kind]().to_dict()
    completed = {**plain, **PeftConfig.from_peft_type(**plain).to_dict()}
    changed = {name for name, value in completed.items() if value != default.get(name)}
    refused = sorted(changed - {*PEFT_OPTIONS, *PEFT_NOTES})
    if refused:
        raise ValueError(
            f"{kind}'s option {', '.join(refused)} is not supported here: leave it out; its options are {supported}"
        )
    return plain


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
            backbone = adopt(backbones.pop("multimodal", None), config.multimodal_config)
            if config.multimodal_config.model_type == "vilt":
                self.multimodal = ViltEncoder(config, backbone)
            elif hasattr(backbone, "get_text_features") and hasattr(backbone, "get_image_features"):
                self.multimodal = DualEncoder(config, backbone)
            else:
                raise ValueError(
                    f"a {config.multimodal_config.model_type} is no model of text and image that is known here: dual "
                    "encoders (CLIP, SigLIP, …) and ViLT are"
                )
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
        self.mark_trainable()

    @property
    def backbones(self) -> list[PreTrainedModel]:
        """The pretrained parts; none in an id model."""
        return [part.backbone for part in (self.text, self.image, self.multimodal) if part is not None]

    @property
    def input_names(self) -> list[str]:
        """The item tensors that it needs."""
        names = {"text": ["input_ids", "attention_mask"], "image": ["pixel_values"], "id": ["item_ids"]}
        return [name for modality in self.modalities for name in names[modality]]

    @property
    def takes_features(self) -> bool:
        """Whether precomputed features can stand for texts and pictures."""
        return self.multimodal is None and bool(self.backbones) and not (self.fusion and self.fusion.reads_tokens)

    def inject_adapters(self, peft_config: dict) -> None:
        """Puts adapters of the `peft` library into the backbones, or into those that have modules that they match."""
        try:
            from peft import NoMatchingPeftModuleError, PeftConfig, inject_adapter_in_model
            from peft.utils import ModulesToSaveWrapper
        except ImportError as error:
            raise ImportError("adapters need the peft library: pip install modeling_transrec[peft]") from error
        peft_config = peft_config_to_dict(peft_config)
        unmatched = []
        for backbone in self.backbones:
            known = set(backbone.modules())
            try:
                inject_adapter_in_model(PeftConfig.from_peft_type(**peft_config), backbone)
            except NoMatchingPeftModuleError as error:
                unmatched.append(error)
            for module in set(backbone.modules()) - known:
                module._is_hf_initialized = True  # adapters start as peft has it: at no change
        if len(unmatched) == len(self.backbones):
            raise unmatched[0]
        saved = [key for b in self.backbones for key, m in b.named_modules() if isinstance(m, ModulesToSaveWrapper)]
        for name in peft_config.get("modules_to_save") or ():
            if not any(key.endswith(name) for key in saved):
                raise ValueError(f"modules_to_save: no backbone with adapters has a module {name}")
        within = [key for key in saved if any(key.startswith(f"{other}.") for other in saved)]
        if within:
            raise ValueError(f"modules_to_save: {within[0]} lies in another of them; name one of the two")
        self.mark_trainable()

    def mark_trainable(self) -> None:
        """Leaves out of training what no gradient reaches and, where there are adapters, all but them."""
        has_adapters = any(hasattr(backbone, "peft_config") for backbone in self.backbones)
        for backbone in self.backbones:
            if has_adapters:
                backbone.requires_grad_(False)
            for module in backbone.modules():
                for part in getattr(module, "adapter_layer_names", ()):  # peft's
                    getattr(module, part).requires_grad_(True)
                for part in ("mask_token", "logit_scale", "logit_bias"):  # of the backbone's own pretraining
                    if isinstance(getattr(module, part, None), nn.Parameter):
                        getattr(module, part).requires_grad_(False)

    def merge_adapters(self) -> None:
        """Adds the adapters to the weights that they stand beside, and takes them out; modules trained whole stay."""
        try:
            from peft.tuners.tuners_utils import BaseTunerLayer
            from peft.utils import ModulesToSaveWrapper
        except ImportError as error:
            raise ImportError("adapters need the peft library: pip install modeling_transrec[peft]") from error
        for backbone in self.backbones:
            wrappers = (BaseTunerLayer, ModulesToSaveWrapper)
            adapted = [(name, m) for name, m in backbone.named_modules() if isinstance(m, wrappers)]
            for name, module in adapted:
                if isinstance(module, ModulesToSaveWrapper):
                    merged = module.modules_to_save[module.active_adapter]
                else:
                    module.merge(safe_merge=True)
                    merged = module.get_base_layer()
                parent, _, child = name.rpartition(".")
                setattr(backbone.get_submodule(parent), child, merged)
            backbone.requires_grad_(True)
            vars(backbone).pop("peft_config", None)
        self.mark_trainable()

    def encode_content(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        text_states: torch.Tensor | None = None,
        image_states: torch.Tensor | None = None,
        sizes: BatchSizes | None = None,
    ) -> torch.Tensor | None:
        """Texts and pictures to vectors `(U, D)`; `None` in an id model."""
        if isinstance(self.multimodal, ViltEncoder):
            return self.multimodal(input_ids, attention_mask, pixel_values, image_index)
        if isinstance(self.multimodal, DualEncoder):
            return self.fusion(*self.multimodal(input_ids, attention_mask, pixel_values, image_index))
        if self.fusion is not None and self.fusion.reads_tokens:
            text = self.text.tokens(input_ids, attention_mask)
            return self.fusion(*text, *self.image.tokens(pixel_values, image_index))
        text = image = None
        if self.text is not None:
            text_lengths = None if sizes is None else sizes.text_lengths
            text = self.text(input_ids, attention_mask, text_features, text_states, text_lengths)
        if self.image is not None:
            image = self.image(pixel_values, image_index, image_features, image_states)
        return self.fusion(text, image) if self.fusion is not None else text if image is None else image

    def encode(
        self, item_ids: torch.Tensor | None = None, sizes: BatchSizes | None = None, **content: torch.Tensor
    ) -> torch.Tensor:
        """All items at once; arguments and result as in [`forward`]."""
        vectors = self.encode_content(**content, sizes=sizes)
        if self.id_embedding is not None:
            ids = self.id_embedding(item_ids)
            vectors = ids if vectors is None else self.id_fusion(vectors, ids)
        return self.dropout(vectors)

    def encode_in_chunks(
        self, chunk_size: int, sizes: BatchSizes | None = None, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """`chunk_size` items at a time, of like text length; activations are computed anew in the backward pass.

        Gradient caching (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        RepL4NLP 2021): the memory for activations is that of one chunk, loss and gradients are those of one pass.
        """

        def encode_chunk(chunk: Chunk) -> torch.Tensor:
            return self.encode(**take_items(inputs, chunk), sizes=chunk.sizes)

        chunks = plan_chunks(inputs, chunk_size, sizes)
        vectors = torch.cat([checkpoint(encode_chunk, chunk, use_reentrant=False) for chunk in chunks])
        return vectors[torch.cat([chunk.rows for chunk in chunks]).argsort()]

    def forward(self, sizes: BatchSizes | None = None, **inputs: torch.Tensor) -> torch.Tensor:
        """
        Args:
            sizes: what is known of the items beforehand; without it the device may be waited for.
            inputs: `item_ids` `(U,)`, rows of the id table; `input_ids` and `attention_mask` `(U, T)`; `pixel_values`
                `(P, 3, H, W)` of the items that have a picture and `image_index` `(U,)`, each item's row there or -1
                (by default all have one, in order); or precomputed `text_features` `(U, H)` and `image_features`
                `(P, H)` in their place, or `text_states` `(number of tokens, H)` beside the tokens and `image_states`
                `(P, …)` in place of the pictures.

        Returns: `(U, D)`.
        """
        if sizes is None and "input_ids" in inputs:  # the processor's are on the right
            inputs.update(zip(("input_ids", "attention_mask"), pad_on_the_right(**inputs), strict=True))
        if self.chunk_size is not None and torch.is_grad_enabled():
            return self.encode_in_chunks(self.chunk_size, sizes, **inputs)
        return self.encode(sizes=sizes, **inputs)
