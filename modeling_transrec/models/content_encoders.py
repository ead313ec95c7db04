"""Content encoders: one modality of an item, by a pretrained backbone and a projection, to item embeddings.

Shapes: `U` distinct items of the batch, `P` of them that have the content, `T` text tokens, `S` tokens of an image or
a sound, `D` hidden size, `H` width of a backbone.
"""

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack

from .backbones import adopt, as_sequence, image_widths, no_masking, output_width
from .batch import ItemInputs
from .frozen_layers import FrozenLayers
from .fusions import FUSIONS
from .pooling import TEXT_POOLINGS, default_image_pooling, default_text_pooling, mean_pooling
from .projections import Projection
from .text_chunks import encode_by_length


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig


def fuses_tokens(config: "TransRecConfig") -> bool:
    """Returns whether there is something to fuse, and the fusion reads tokens."""
    fusion = FUSIONS[config.fusion]
    return fusion.reads_tokens and (len(config.contents) > 1 or fusion.reads_ids)


class ContentEncoder(nn.Module):
    """Encodes one modality: backbone, projection, and a learned embedding where an item lacks it.

    A subclass names what it reads, and defines `_features` and `_hidden`, which are never called for an empty batch.

    Args:
        backbone: the pretrained model.
        width: `H` of its features.
        config: the model's.
    """

    modality: ClassVar[str]
    inputs: tuple[str, ...]  # item inputs that must be there
    backbone: Any  # a pretrained model, whose parts only its own class knows
    projection: Projection  # that the item encoder adds, see [`project_to`]
    gives_tokens = True
    starts_from_states: bool = False  # whether the backbone can start from states behind its frozen layers
    has_missing = True  # whether a learned embedding stands for what an item lacks
    has_fixed_graph = True  # whether the same operations run whatever the values are, so that it can be exported

    def __init__(self, backbone: PreTrainedModel | None, width: int, config: "TransRecConfig"):
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.frozen_layers: FrozenLayers | None = None  # those whose outputs are precomputed

    def project_to(self, hidden_size: int, config: "TransRecConfig", has_missing: bool = True) -> None:
        """Adds the projection of features to a width `D`, with an embedding for what items lack unless there is no
        use for one."""
        self.projection = Projection(self.width, config, hidden_size, self.has_missing and has_missing)

    def presence(self, **items: Unpack[ItemInputs]) -> torch.Tensor | None:
        """Returns which items `(U,)` have the content; `None` if all have."""
        index = self.index(**items)
        return None if index is None else index >= 0

    @property
    def whole(self) -> PreTrainedModel:
        """The backbone, be it its own or shared."""
        return self.backbone

    @property
    def tower(self) -> PreTrainedModel | None:
        """The part of the backbone that has the layers for this modality; `None` where it is not found."""
        return self.backbone

    def missing_inputs(self, items: ItemInputs) -> list[str]:
        """Names the inputs that are needed and neither there nor precomputed."""
        if f"{self.modality}_features" in items or f"{self.modality}_states" in items:
            return []
        return [name for name in self.inputs if name not in items]

    def index(self, **items: Unpack[ItemInputs]) -> torch.Tensor | None:
        """Returns the index `(U,)` of each item's content, -1 where it has none; `None` if each has its own."""
        return cast(dict, items).get(f"{self.modality}_index")

    def backbone_inputs(self, **items: Unpack[ItemInputs]) -> dict[str, torch.Tensor]:
        """Returns what the backbone reads of the items."""
        return {name: cast(dict, items)[name] for name in self.inputs}

    def started_from(self, states: torch.Tensor | None) -> contextlib.AbstractContextManager:
        """Makes the backbone start, within it, from states of its frozen layers, where they are given."""
        if states is None:
            return contextlib.nullcontext()
        return self.layers_of_states().giving(states)

    def layers_of_states(self) -> FrozenLayers:
        """Returns the frozen layers whose states are given."""
        if self.frozen_layers is None:
            raise ValueError("text_states and image_states are for models prepared by training.precomputed")
        return self.frozen_layers

    def features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Returns the backbone's features `(P, H)`, which can be precomputed where it is frozen."""
        device = self._device_if_empty(items)
        return self._features(**items) if device is None else torch.zeros(0, self.width, device=device)

    def hidden(self, **items: Unpack[ItemInputs]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the backbone's token vectors `(P, S, H)` and their mask `(P, S)`."""
        device = self._device_if_empty(items)
        if device is None:
            return self._hidden(**items)
        return torch.zeros(0, 1, self.width, device=device), torch.ones(0, 1, dtype=torch.bool, device=device)

    def _features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        raise NotImplementedError

    def _hidden(self, **items: Unpack[ItemInputs]) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError

    def _device_if_empty(self, items: ItemInputs) -> torch.device | None:
        """Returns the batch's device if none of its items has the content: backbones refuse empty batches."""
        given = cast(dict[str, torch.Tensor], items)
        contents = given.get(f"{self.modality}_states", given.get(self.inputs[0]))
        return contents.device if contents is not None and contents.shape[0] == 0 else None

    def tokens(self, **items: Unpack[ItemInputs]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes items to projected token vectors `(U, S, D)` and their mask `(U, S)`."""
        return self.projection.tokens(*self.hidden(**items), self.index(**items))

    def forward(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes items to embeddings `(U, D)`; precomputed features take the place of the backbone."""
        features = items.get(f"{self.modality}_features")
        if features is None:
            features = self.features(**items)
        return self.projection(features, self.index(**items), items.get("platform_index"))


class TextEncoder(ContentEncoder):
    """Encodes texts: backbone, pooling over tokens, projection (NineRec, arXiv 2309.07705).

    Args:
        config: with `text_config` set.
        backbone: a model to use as it is; by default one with random weights is built from `config.text_config`.
    """

    modality = "text"
    inputs = ("input_ids", "attention_mask")

    def __init__(self, config: "TransRecConfig", backbone: PreTrainedModel | None = None):
        text_config = config.backbone_config("text_config")
        if text_config.is_encoder_decoder:
            raise ValueError(
                f"{text_config.model_type} is an encoder-decoder; a text backbone is only an encoder or only a decoder"
            )
        backbone = adopt(backbone, config, "text_config")
        super().__init__(backbone, output_width(backbone), config)
        self.pooling = TEXT_POOLINGS[config.text_pooling or default_text_pooling(text_config.model_type)]
        self.starts_from_states = not self.pooling.averages_layers  # behind the first layer its output is not known

    def missing_inputs(self, items: ItemInputs) -> list[str]:
        """Names the inputs that are needed and not there; states of frozen layers are given beside them."""
        return [] if "text_features" in items else [name for name in self.inputs if name not in items]

    def index(self, **items: Unpack[ItemInputs]) -> torch.Tensor | None:
        """Returns the index `(U,)` of each item's text, -1 where it has none; `None` if all have one."""
        has_text = items.get("has_text")
        if has_text is None:
            return None
        return torch.arange(has_text.shape[0], device=has_text.device).where(has_text, -1)

    def token_vectors(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the backbone's token vectors `(U, T, H)`, of its last layer or of the layers that are pooled.

        Args:
            input_ids, attention_mask: `(U, T)`.
            states: `(U, T, H)` outputs of the frozen layers, which are then left out.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if getattr(self.backbone.config, "use_cache", False):  # decoders': it is for generating
            inputs["use_cache"] = False
        if self.pooling.averages_layers:
            output = self.backbone(**inputs, output_hidden_states=True)
            return (output.hidden_states[1] + output.last_hidden_state) / 2  # the one before is of the embeddings
        with self.started_from(states):
            return self.backbone(**inputs).last_hidden_state

    def _features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        def encode(index, ids, mask, states) -> torch.Tensor:
            return self.pooling(self.token_vectors(ids, mask, states), mask)

        return encode_by_length(encode, items["input_ids"], items["attention_mask"], items.get("text_states"))

    def _hidden(self, **items: Unpack[ItemInputs]) -> tuple[torch.Tensor, torch.Tensor]:
        input_ids, attention_mask = items["input_ids"], items["attention_mask"]

        def encode(index, ids, mask, states) -> torch.Tensor:
            return F.pad(self.token_vectors(ids, mask, states), (0, 0, 0, input_ids.shape[1] - ids.shape[1]))

        return encode_by_length(encode, input_ids, attention_mask, items.get("text_states")), attention_mask.bool()


class PixelNormalization(nn.Module):
    """Turns the bytes of images into what an image backbone reads: `(pixels / 255 - mean) / std`, for each channel.

    Args:
        config: with `image_mean` and `image_std`.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: "TransRecConfig"):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.empty(3, 1, 1), persistent=False)  # the configuration keeps them
        self.register_buffer("std", torch.empty(3, 1, 1), persistent=False)
        self.init_own_weights()

    def init_own_weights(self) -> None:
        """Sets the buffers, which a model that is loaded gets without values."""
        for buffer, values in ((self.mean, self.config.image_mean), (self.std, self.config.image_std)):
            init.copy_(buffer, torch.tensor(values or [0.5, 0.5, 0.5], dtype=torch.float32).view(3, 1, 1))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Maps images `(P, 3, height, width)` of bytes to floats; floats count as normalised and stay."""
        if pixel_values.dtype != torch.uint8:
            return pixel_values
        floats = pixel_values.float().div_(255).sub_(self.mean.float()).div_(self.std.float())
        return floats.to(self.mean.dtype)  # the weights'


class ImageEncoder(ContentEncoder):
    """Encodes images: backbone, pooling, projection (NineRec, arXiv 2309.07705).

    Arguments as in [`TextEncoder`], with `vision_config`.
    """

    modality = "image"
    inputs = ("pixel_values",)
    starts_from_states = True

    def __init__(self, config: "TransRecConfig", backbone: PreTrainedModel | None = None):
        backbone = adopt(backbone, config, "vision_config")
        embeddings: Any = getattr(backbone, "embeddings", None)
        if hasattr(embeddings, "random_masking"):  # ViTMAE's
            embeddings.random_masking = no_masking
        model_type = config.backbone_config("vision_config").model_type
        width, pooled_width = image_widths(backbone)
        pooling = config.image_pooling or default_image_pooling(model_type)
        if pooling == "pooler" and pooled_width is None:
            if config.image_pooling is not None:
                raise ValueError(f"{model_type} gives no pooler_output; choose image_pooling='cls' or 'mean'")
            pooling = "mean"
        width = pooled_width if pooling == "pooler" and not fuses_tokens(config) else width
        if width is None:
            raise ValueError(
                f"{model_type} gives no last_hidden_state of one tensor, which image_pooling={pooling!r} and "
                f"fusion={config.fusion!r} read; choose image_pooling='pooler' and another fusion, or another backbone"
            )
        super().__init__(backbone, width, config)
        self.pooling = pooling
        self.normalization = PixelNormalization(config)

    def _features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        output = self.output(**items)
        if self.pooling == "pooler":
            return output.pooler_output.flatten(1)
        hidden = as_sequence(output.last_hidden_state, self.width)
        return hidden[:, 0] if self.pooling == "cls" else hidden.mean(dim=1)

    def backbone_inputs(self, **items: Unpack[ItemInputs]) -> dict[str, torch.Tensor]:
        """Returns the normalised images; where states of frozen layers are given, a blank one stands for them."""
        if "image_states" in items:
            return {"pixel_values": self.layers_of_states().blank_image(items["image_states"].device)}
        return {"pixel_values": self.normalization(items["pixel_values"])}

    def output(self, **items: Unpack[ItemInputs]):
        """Returns the backbone's output for images, or for the outputs `(P, …)` of its frozen layers."""
        with self.started_from(items.get("image_states")):
            return self.backbone(**self.backbone_inputs(**items))

    def _hidden(self, **items: Unpack[ItemInputs]) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = as_sequence(self.output(**items).last_hidden_state, self.width)
        return hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)


class AudioEncoder(ContentEncoder):
    """Encodes sounds: backbone, mean over the frames, projection.

    Reads any audio model that `AutoModel` knows: Wav2Vec2 (Baevski et al., NeurIPS 2020), HuBERT, WavLM, AST, the
    encoder of Whisper. A backbone that pools by itself, such as AST, is read by its pooler. SpecAugment and layer
    drop, with which some of them train, are off: a step that is computed twice, as by gradient caching, must be the
    same. Arguments as in [`TextEncoder`], with `audio_config`.
    """

    modality = "audio"

    def __init__(self, config: "TransRecConfig", backbone: PreTrainedModel | None = None):
        backbone = adopt(backbone, config, "audio_config")
        for name, off in (("apply_spec_augment", False), ("layerdrop", 0.0)):
            if hasattr(backbone.config, name):
                setattr(backbone.config, name, off)
        if backbone.config.is_encoder_decoder:  # Whisper
            backbone = backbone.get_encoder()
        if backbone.main_input_name not in ("input_values", "input_features"):
            raise ValueError(
                f"a {backbone.config.model_type} is no audio backbone: it reads {backbone.main_input_name}; choose a "
                "model that reads input_values or input_features, such as wav2vec2, hubert, wavlm, whisper or "
                "audio-spectrogram-transformer"
            )
        super().__init__(backbone, output_width(backbone), config)
        self.inputs = (backbone.main_input_name,)

    def output(self, **items: Unpack[ItemInputs]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Returns the frames' vectors `(P, S, H)`, their mask `(P, S)` and what the backbone pools `(P, H)`."""
        inputs = {self.inputs[0]: cast(dict, items)[self.inputs[0]].to(self.projection.dtype)}
        mask = items.get("audio_mask")
        if mask is not None:
            inputs["attention_mask"] = mask
        output = self.backbone(**inputs)
        hidden = output.last_hidden_state
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        elif hidden.shape[1] != mask.shape[1]:  # a frame is made of many samples
            mask = self.backbone._get_feature_vector_attention_mask(hidden.shape[1], mask)
        return hidden, mask.bool(), output.get("pooler_output")

    def _features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        hidden, mask, pooled = self.output(**items)
        return mean_pooling(hidden, mask) if pooled is None else pooled

    def _hidden(self, **items: Unpack[ItemInputs]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.output(**items)[:2]
