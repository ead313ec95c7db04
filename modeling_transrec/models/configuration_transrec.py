"""Configuration of a TransRec model.

The tables that options choose from are imported here, so that a new row is known at once. The modules of the tables
import the configuration only for their type hints.
"""

import dataclasses
import difflib
import inspect
import operator
import re
from collections.abc import Collection
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .auxiliary_losses import AUXILIARY_LOSSES
from .config_limits import check_part, check_peft, check_reference
from .fusions import FUSIONS
from .losses import LOSSES
from .modalities import MODALITIES, NO_VIDEO
from .pooling import TEXT_POOLINGS
from .projections import PROJECTIONS
from .user_adapters import SOURCE, USER_ADAPTERS
from .user_encoders import USER_ENCODERS
from .views import AUGMENTATIONS


# What transformers itself passes to, or may have written into, any configuration beside the declared fields.
_TRANSFORMERS_KEYS = set(
    "add_cross_attention attn_implementation auto_map bos_token_id custom_pipelines eos_token_id "
    "experts_implementation finetuning_task is_decoder model_type name_or_path num_labels output_attentions "
    "pad_token_id quantization_config sep_token_id task_specific_params tie_word_embeddings tokenizer_class "
    "torch_dtype torchscript transformers_weights use_cache vocab_size".split()
)
OBJECTIVES = ("next_item", "last_item", "next_k_items", "masked_item", "other_items", "every_prefix")
_OWN_ATTRIBUTES = "own_attributes"  # in a saved configuration: names of those that its user has added
_LIMITS = {"at_least": operator.ge, "at_most": operator.le, "above": operator.gt, "below": operator.lt}


def option(default: Any, choices: Collection[str] | None = None, **limits: float) -> Any:
    """Declares an option together with the values that it may have.

    [`TransRecConfig.validate_architecture`] checks them, and the command line reads them from the field's `metadata`.
    An upper limit is far above any model: a larger value is a mistake or an attack, and building such a model would
    take all memory or forever.

    Args:
        default: value where none is given; an option whose default is `None` may be `None`.
        choices: known names, in a table or tuple.
        limits: `at_least`, `at_most`, `above` and `below`, with a number each.
    """
    return dataclasses.field(default=default, metadata={"choices": choices, "limits": limits})


@strict
class TransRecConfig(PretrainedConfig):
    r"""
    Configuration of [`TransRecModel`] and [`TransRecForSequentialRecommendation`]: an item encoder behind a
    sequential user encoder (NineRec, arXiv 2309.07705).

    The options that are given decide how an item is read: `text_config`, `vision_config` or both make a content
    encoder (TransRec), `multimodal_config` one of a single text-and-image model, `num_items` a table of item ids
    (IDRec) or, beside content, id and content together. Unknown options are errors.

    Args:
        text_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of the text backbone, any that `AutoModel` knows.
        vision_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of the vision backbone, any that `AutoModel` knows; timm's are of type `"timm_wrapper"`.
        audio_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of the audio backbone, any that `AutoModel` knows: Wav2Vec2, HuBERT, WavLM, AST, Whisper.
        multimodal_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of one model of text and image: a dual encoder (CLIP, SigLIP) or ViLT.
        num_items (`int`, *optional*):
            Size of the table of item ids.
        num_users (`int`, *optional*):
            Size of the table of user ids, for a user encoder that reads them (DSSM).
        user_encoder_type (`str`, defaults to `"sasrec"`):
            User encoder, a row of [`USER_ENCODERS`].
        hidden_size (`int`, *optional*):
            Width `D` of item and user embeddings. By default 256 or, with `item_projection="whitened"`, that of the
            backbones' features.
        num_hidden_layers (`int`, defaults to 2):
            Layers of the user encoder.
        num_attention_heads (`int`, defaults to 2):
            Attention heads of the user encoder, and of the fusions that attend.
        hidden_dropout_prob (`float`, defaults to 0.1):
            Dropout in the user encoder: on its input, in attention and after each sub-layer.
        item_dropout_prob (`float`, defaults to 0.0):
            Dropout on the item embeddings.
        id_dropout_prob (`float`, defaults to 0.0):
            Dropout on the embeddings of item ids beside content.
        history_decay (`float`, *optional*):
            Adds the decayed sum of the history's item embeddings to the user encoder, whose own part then starts from
            zero: what an item weighs for each step back. Without it there is no such sum.
        user_hidden_size (`int`, *optional*):
            Width of the user encoder's layers beside that sum; by default `hidden_size`.
        max_seq_len (`int`, defaults to 20):
            Longest history `L` that the user encoder reads, in items; older items are cut off.
        padding_embedding (`bool`, defaults to `False`):
            Whether histories that are shorter start with a learned vector in place of items, which GRU4Rec and
            NextItNet then read, as in NineRec's code; its checkpoints need it.
        frequency_weight (`float`, defaults to 0.7):
            Weight of the filter of frequencies beside attention, from 0 to 1, for `user_encoder_type="bsarec"`.
        num_low_frequencies (`int`, defaults to 3):
            How many of the lowest frequencies of a history the filter keeps as they are.
        user_adapter (`str`, *optional*):
            Bottleneck adapters in the layers of the user encoder, which change nothing at the start: `"serial"` ones
            read what a part of a layer makes, `"parallel"` ones what it reads. Without it there are none.
        user_adapter_reduction (`int`, defaults to 4):
            How many times as narrow as the layers they are in the middle.
        platforms (`list[str]`, *optional*):
            Platforms that have adapters of their own, in the user encoder, beside the items' projection and behind
            their embeddings, and share all the rest; see [`~TransRecPreTrainedModel.add_platform`].
        platform (`str`, defaults to `"source"`):
            The one of them whose adapters are used; `"source"` is the model without any.
        text_pooling (`str`, *optional*):
            How token vectors become one: the first (`"cls"`), their mean, the last, or the mean of the first and the
            last layer's (`"first_last"`). By default the backbone's usual one: `"cls"` for encoders, `"mean"` for
            decoders, as the paper does for OPT.
        image_pooling (`str`, *optional*):
            How an image's vectors become one: by the backbone's own pooler, the first (`"cls"`) or their mean. By
            default the backbone's usual one.
        image_mean (`list[float]`, *optional*):
            Mean by which the bytes of images are normalised, for each channel, of values between 0 and 1; that of the
            image processor. By default 0.5, as in NineRec.
        image_std (`list[float]`, *optional*):
            Standard deviation by which they are normalised; by default 0.5.
        item_projection (`str`, defaults to `"gelu"`):
            How a backbone's features become item embeddings, a row of [`PROJECTIONS`]; the default is the paper's.
            `"moe"` is UniSRec's adaptor, `"codes"` VQ-Rec's table of codes. `"whitened"` starts at the features
            themselves, so that with `history_decay` an untrained model is content kNN; ids beside it start from zero.
        whitening_power (`float`, defaults to 0.75):
            Of the standard deviations by which the principal axes of a catalogue's features are divided, for
            `item_projection="whitened"`: 0 only centres them, 1 whitens them.
        num_experts (`int`, defaults to 8):
            Whitening experts of `item_projection="moe"`.
        expert_dropout_prob (`float`, defaults to 0.2):
            Dropout on the features that each of these experts reads.
        gate_noise (`bool`, defaults to `True`):
            Whether the gate that mixes these experts has noise of a learned size in training.
        num_codebooks (`int`, defaults to 32):
            Codebooks of `item_projection="codes"`, which gives an item one code of each.
        codebook_size (`int`, defaults to 256):
            Codes of each of them, a power of 2.
        synthetic_negatives (`float`, defaults to 0.0):
            Share of a target's codes that are others at random in one more negative of it, an item that does not
            exist; 0 for none. VQ-Rec pretrains with 0.75.
        permute_codes (`bool`, defaults to `False`):
            Whether a checkpoint of `item_projection="codes"` learns a quantiser for its new catalogue, and which row
            of its table each of the new codes takes, as VQ-Rec does; the table itself is trained afterwards (`False`).
        fusion (`str`, defaults to `"sum"`):
            How text and image become one vector, a row of [`FUSIONS`].
        fusion_weights (`list[float]`, *optional*):
            What each content weighs with `fusion="weighted_concat"`, in the order of `modality`; by default the same.
        id_fusion (`str`, defaults to `"sum"`):
            How id and content become one vector.
        initialization (`str`, defaults to `"xavier"`):
            How weights start that no checkpoint has: Xavier-normal, biases at zero. `"ninerec"` is as in NineRec's
            code, where the map from a text's features and NextItNet's convolutions start as torch's do.
        normalize_scores (`bool`, defaults to `False`):
            Whether a score is the cosine of user and item embedding, not their dot product; with
            `fusion="weighted_concat"` the weighted mean of the contents' cosines.
        temperature (`float`, defaults to 1.0):
            Number that scores are divided by; with `normalize_scores`, 0.05 to 0.1 is usual.
        learn_temperature (`bool`, defaults to `False`):
            Whether the temperature is trained, from `temperature` on.
        objective (`str`, *optional*):
            `"next_item"`: every position predicts the item after it (the paper's S2S); `"last_item"`: the history
            predicts its last item (S2O); `"next_k_items"`: it predicts its last `num_next_items` (TransRec's mixture
            of modality); `"masked_item"`: masked items are predicted from both sides (BERT4Rec); `"other_items"`: each
            item is predicted from all others, in whatever order (DNN, DSSM); `"every_prefix"`: as `"next_item"`, but
            each prefix of a history is encoded on its own, which costs more and lets a user encoder read all of it
            (BSARec). By default the user encoder's usual one.
        num_next_items (`int`, defaults to 5):
            Items at a history's end that the objective `"next_k_items"` predicts, all from the state before them.
        mask_probability (`float`, defaults to 0.2):
            Share of the items that the objective `"masked_item"` masks.
        loss_type (`str`, defaults to `"in_batch"`):
            Training loss, a row of [`LOSSES`]; `"bce"` is the paper's.
        num_negatives (`int`, defaults to 1):
            Sampled negatives, for losses that sample: of every position (`"bce"`), or of the batch, shared by all its
            positions (`"sampled_softmax"`, `"gbce"`, `"mixed"`).
        negative_sampling (`str`, defaults to `"uniform"`):
            Whether negatives are sampled uniformly from the catalogue, or by their number of training interactions.
        logq_correction (`bool`, defaults to `True`):
            Whether softmax losses correct for popular items being candidates more often.
        gather_negatives (`bool`, defaults to `False`):
            Whether `"in_batch"` takes the items of all processes as negatives, not only its own.
        gbce_t (`float`, defaults to 0.75):
            Calibration of `"gbce"`, from 0 (plain binary cross entropy) to 1.
        distillation_weight (`float`, defaults to 1.0):
            Weight of what the views of `"distilled_in_batch"` learn from each other.
        distillation_warmup_epochs (`int`, defaults to 20):
            Epochs over which that weight rises to its value, from 0.01 of it on; 0 for none. ODMT's are 20 to 60.
        distillation_temperature (`float`, defaults to 0.5):
            Number that the views' scores are divided by to be compared.
        auxiliary_loss_type (`str`, *optional*):
            A second term of the training loss, over two views of each user, a row of [`AUXILIARY_LOSSES`]; by default
            there is none (on a command line `none`, to take away that of a checkpoint).
        auxiliary_weight (`float`, defaults to 0.1):
            Weight of that term.
        auxiliary_temperature (`float`, defaults to 0.1):
            Number that the cosines of its states are divided by.
        num_intents (`int`, defaults to 256):
            Clusters of users for the auxiliary loss `"intents"`.
        intent_weight (`float`, defaults to 0.3):
            What these clusters weigh beside the loss's other part.
        view_augmentations (`list[str]`, *optional*):
            How its views are made of a history, rows of [`AUGMENTATIONS`], of which one is drawn for each user and
            view; by default the term's usual ones.
        peft_config (`dict`, *optional*):
            Adapters in the backbones, a configuration of the `peft` library; see
            [`~TransRecPreTrainedModel.add_peft_adapter`].
        backbone_references (`dict`, *optional*):
            Of a checkpoint without its backbones' weights, what takes their place: of each field that configures a
            backbone, `{"name": Hub id, "revision": commit, "sha256": hash of the weights}`. Written by
            `save_pretrained(…, save_backbone=False)`; a model in memory has none.

    Example:

    >>> from modeling_transrec import TransRecConfig
    >>> config = TransRecConfig(text_config={"model_type": "bert", "hidden_size": 32}, hidden_size=64)
    >>> config.text_config.hidden_size, config.modality
    (32, 'text')
    """

    model_type = "transrec"
    keys_to_ignore_at_inference = ["item_embeds", "user_embeds", "user_hidden"]  # of other lengths in each batch
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", optional=True),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2", optional=True),
        "multimodal_config": SubConfigSpec(config_class=AutoConfig, model_type="clip", optional=True),
    }

    text_config: dict | PretrainedConfig | None = None
    vision_config: dict | PretrainedConfig | None = None
    audio_config: dict | PretrainedConfig | None = None
    multimodal_config: dict | PretrainedConfig | None = None
    num_items: int | None = option(None, at_least=1, at_most=2**31)
    num_users: int | None = option(None, at_least=1, at_most=2**31)
    user_encoder_type: str = option("sasrec", USER_ENCODERS)
    hidden_size: int | None = option(None, at_least=1, at_most=2**16)
    num_hidden_layers: int = option(2, at_least=1, at_most=2**10)
    num_attention_heads: int = option(2, at_least=1, at_most=2**10)
    hidden_dropout_prob: float | int = option(0.1, at_least=0, below=1)
    item_dropout_prob: float | int = option(0.0, at_least=0, below=1)
    id_dropout_prob: float | int = option(0.0, at_least=0, below=1)
    history_decay: float | int | None = option(None, above=0, at_most=1)
    user_hidden_size: int | None = option(None, at_least=1, at_most=2**16)
    max_seq_len: int = option(20, at_least=1, at_most=2**20)
    padding_embedding: bool = False
    frequency_weight: float | int = option(0.7, at_least=0, at_most=1)
    num_low_frequencies: int = option(3, at_least=1, at_most=2**20)
    user_adapter: str | None = option(None, USER_ADAPTERS)
    user_adapter_reduction: int = option(4, at_least=1, at_most=2**16)
    platforms: list[str] | None = None
    platform: str = SOURCE
    text_pooling: str | None = option(None, TEXT_POOLINGS)
    image_pooling: str | None = option(None, ("pooler", "cls", "mean"))
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    item_projection: str = option("gelu", PROJECTIONS)
    whitening_power: float | int = option(0.75, at_least=0, at_most=1)
    num_experts: int = option(8, at_least=1, at_most=2**10)
    expert_dropout_prob: float | int = option(0.2, at_least=0, below=1)
    gate_noise: bool = True
    num_codebooks: int = option(32, at_least=1, at_most=2**12)
    codebook_size: int = option(256, at_least=2, at_most=2**16)
    synthetic_negatives: float | int = option(0.0, at_least=0, at_most=1)
    permute_codes: bool = False
    fusion: str = option("sum", FUSIONS)
    fusion_weights: list[float] | None = None
    id_fusion: str = option("sum", ("sum", "concat"))
    initialization: str = option("xavier", ("xavier", "ninerec"))
    normalize_scores: bool = False
    temperature: float | int = option(1.0, above=0)
    learn_temperature: bool = False
    objective: str | None = option(None, OBJECTIVES)
    num_next_items: int = option(5, at_least=1, at_most=2**10)
    mask_probability: float | int = option(0.2, above=0, below=1)
    loss_type: str = option("in_batch", LOSSES)
    num_negatives: int = option(1, at_least=1, at_most=2**24)
    negative_sampling: str = option("uniform", ("uniform", "popularity"))
    logq_correction: bool = True
    gather_negatives: bool = False
    gbce_t: float | int = option(0.75, at_least=0, at_most=1)
    distillation_weight: float | int = option(1.0, at_least=0)
    distillation_warmup_epochs: int = option(20, at_least=0)
    distillation_temperature: float | int = option(0.5, above=0)
    auxiliary_loss_type: str | None = option(None, AUXILIARY_LOSSES)
    auxiliary_weight: float | int = option(0.1, above=0)
    auxiliary_temperature: float | int = option(0.1, above=0)
    num_intents: int = option(256, at_least=2, at_most=2**16)
    intent_weight: float | int = option(0.3, above=0)
    view_augmentations: list[str] | None = None
    peft_config: dict | None = None
    backbone_references: dict | None = None

    def __post_init__(self, **kwargs):
        check_part("TransRecConfig", kwargs)
        own_attributes = kwargs.pop(_OWN_ATTRIBUTES, ())
        for key in set(kwargs) - set(own_attributes):
            if key not in _TRANSFORMERS_KEYS and not key.startswith("_"):
                hint = NO_VIDEO if "video" in key else did_you_mean(key, self.own_fields())
                raise ValueError(f"TransRecConfig has no option {key!r}; {hint}")
        _check_choice("user_encoder_type", self.user_encoder_type, USER_ENCODERS)
        _check_choice("item_projection", self.item_projection, PROJECTIONS)
        if self.hidden_size is None and not self.starts_at_content:
            self.hidden_size = 256
        if self.objective is None:
            usual = USER_ENCODERS[self.user_encoder_type].default_objective
            in_sum = usual == "other_items" and self.history_decay is not None  # each item is part of its own sum
            self.objective = "last_item" if in_sum else usual
        attention = {
            name: getattr(getattr(self, name), "_attn_implementation", None) for name in self.sub_configs_defaults
        }
        for name, implementation in attention.items():
            part = getattr(self, name)  # a dictionary, where it is read from a file
            check_part(name, part if isinstance(part, dict) else {"attn_implementation": implementation})
        super().__post_init__(**kwargs)
        for name, implementation in attention.items():
            if implementation is not None and kwargs.get("attn_implementation") is None:
                getattr(self, name)._attn_implementation = implementation  # a loaded backbone's own, else lost here
        self.validate_architecture()  # `strict` does so later, but wraps the ValueError in an error that is none

    @classmethod
    def own_fields(cls) -> dict[str, dataclasses.Field]:
        """Returns the options beside those of every transformers configuration, by name.

        A field has the option's `type`, its `default` and, in `metadata`, its `choices` and `limits`.
        """
        inherited = PretrainedConfig.__dataclass_fields__
        return {name: field for name, field in cls.__dataclass_fields__.items() if name not in inherited}

    def to_dict(self):
        """Returns what transformers does, with the names of one's own attributes: then they are no unknown options."""
        found = super().to_dict()
        declared = {*self.__dataclass_fields__, *_TRANSFORMERS_KEYS, "transformers_version"}
        own_attributes = [name for name in found if name in vars(self) and name not in declared and name[0] != "_"]
        return {**found, _OWN_ATTRIBUTES: own_attributes} if own_attributes else found

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Reads it as transformers does; values given in `kwargs` are checked like those of the dictionary."""
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"this is a checkpoint of {kind}, not of TransRec; from_encoder_pretrained makes a model around it"
            )
        loaded = super().from_dict(config_dict, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).validate_architecture()
        return loaded

    def validate_architecture(self):
        """Checks each field, then the fields against each other; run at construction and before saving."""
        super().validate_architecture()
        for name, field in self.own_fields().items():
            value = getattr(self, name)
            if value is None:
                continue
            if field.metadata.get("choices") is not None:
                _check_choice(name, value, field.metadata["choices"])
            for limit, bound in field.metadata.get("limits", {}).items():
                if not _LIMITS[limit](value, bound):
                    raise ValueError(f"{name} must be {limit.replace('_', ' ')} {bound:,}, got {value:,}")
        for name in self.sub_configs_defaults:
            if isinstance(getattr(self, name), PretrainedConfig):
                check_part(name, getattr(self, name).to_dict())
        if self.peft_config is not None:
            check_peft(self.peft_config)
        if self.multimodal_config is not None and (self.text_config or self.vision_config) is not None:
            raise ValueError("multimodal_config reads text and image; leave out text_config and vision_config")
        name = "hidden_size" if self.user_hidden_size is None else "user_hidden_size"
        if getattr(self, name) is not None and self.user_width % self.num_attention_heads:
            raise ValueError(
                f"{name} ({self.user_width}) must be a multiple of num_attention_heads ({self.num_attention_heads})"
            )
        self._check_start()
        self._check_id_aware()
        self._check_objective()
        self._check_user_encoder()
        self._check_loss()
        self._check_views()
        for field, reference in (self.backbone_references or {}).items():
            if field not in self.sub_configs_defaults or getattr(self, field) is None:
                raise ValueError(f"backbone_references names {field}, of which the configuration has no backbone")
            check_reference(f"backbone_references[{field!r}]", reference)
        if self.backbone_references and self.peft_config is not None:
            raise ValueError("backbone_references is for backbones without adapters, and peft_config puts some in")

    def _check_start(self) -> None:
        """Refuses what does not go with a start at content, or with the decayed sum of the history."""
        fusion = FUSIONS[self.fusion]
        row = PROJECTIONS[self.item_projection]
        of_vectors = row.starts_at_content or row.quantises
        if of_vectors and fusion.reads_tokens and len(self.contents) > 1:
            raise ValueError(
                f"item_projection={self.item_projection!r} makes one vector of a content, and fusion={self.fusion!r} "
                "reads token vectors; choose fusion='weighted_concat'"
            )
        if self.fusion_weights is not None and not fusion.keeps_widths:
            raise ValueError(f"fusion_weights are for fusion='weighted_concat'; fusion={self.fusion!r} has none")
        if self.user_hidden_size is not None and self.history_decay is None:
            raise ValueError(
                "user_hidden_size is the width of a user encoder beside the decayed sum of the history; give "
                "history_decay, too"
            )
        if self.history_decay is not None and USER_ENCODERS[self.user_encoder_type].reads_user_ids:
            raise ValueError(
                f"user_encoder_type={self.user_encoder_type!r} does not read the history; leave out history_decay"
            )

    def _check_id_aware(self) -> None:
        """Refuses what does not go with items of several views, or needs them."""
        fusion, loss = FUSIONS[self.fusion], LOSSES[self.loss_type]
        if loss.reads_views and not fusion.reads_ids:
            able = [name for name, one in FUSIONS.items() if one.reads_ids]
            raise ValueError(
                f"loss_type={self.loss_type!r} compares views of an item, which fusion={_listed(able)} makes; "
                f"fusion={self.fusion!r} makes one vector"
            )
        if not fusion.reads_ids or self.modality is None:
            return
        if self.num_items is None or not self.contents:
            raise ValueError(f"fusion={self.fusion!r} reads contents and ids; give a backbone and num_items")
        if self.history_decay is not None or PROJECTIONS[self.item_projection].starts_at_content:
            raise ValueError(
                f"fusion={self.fusion!r} has views for which no sum of the history is made; leave out history_decay "
                f"and item_projection={self.item_projection!r}"
            )
        if PROJECTIONS[self.item_projection].quantises:
            raise ValueError(f"fusion={self.fusion!r} reads tokens, of which {self.item_projection!r} has none")
        if self.width % (self.num_views * self.num_attention_heads):
            raise ValueError(
                f"hidden_size ({self.width}) must be a multiple of the {self.num_views} views times "
                f"num_attention_heads ({self.num_attention_heads})"
            )

    def _check_objective(self) -> None:
        """Refuses an objective that the user encoder cannot serve."""
        user_encoder = USER_ENCODERS[self.user_encoder_type]
        if self.objective == "masked_item" and not user_encoder.supports_masked_item:
            able = [name for name, encoder in USER_ENCODERS.items() if encoder.supports_masked_item]
            raise ValueError(
                f"objective='masked_item' needs a user encoder that reads both sides of a masked item, one of "
                f"{_listed(able)}; user_encoder_type={self.user_encoder_type!r} does not"
            )
        if self.objective == "other_items" and not user_encoder.supports_other_items:
            able = [name for name, encoder in USER_ENCODERS.items() if encoder.supports_other_items]
            raise ValueError(
                f"objective='other_items' needs a user encoder that leaves the item to be predicted out, one of "
                f"{_listed(able)}; user_encoder_type={self.user_encoder_type!r} does not"
            )
        if self.objective == "other_items" and self.history_decay is not None:
            raise ValueError(
                "the decayed sum of a history has the item that objective='other_items' predicts; leave out "
                "history_decay, or give objective='last_item'"
            )
        if self.objective not in ("masked_item", "every_prefix") and not user_encoder.causal:
            raise ValueError(
                f"user_encoder_type={self.user_encoder_type!r} reads both sides of an item, so that "
                f"objective={self.objective!r} would show it what it is to predict; leave objective out"
            )
        if self.padding_embedding and not user_encoder.supports_padding:
            able = [name for name, encoder in USER_ENCODERS.items() if encoder.supports_padding]
            raise ValueError(
                f"padding_embedding is for user encoders that read what stands before a history, {_listed(able)}; "
                f"user_encoder_type={self.user_encoder_type!r} does not: leave it out"
            )
        if self.padding_embedding and self.objective == "every_prefix":
            raise ValueError(
                "padding_embedding fills what stands before a history, and objective='every_prefix' encodes its "
                "beginnings where they stand: leave one of them out"
            )

    def _check_user_encoder(self) -> None:
        """Refuses adapters, platforms or users that the user encoder does not read."""
        user_encoder = USER_ENCODERS[self.user_encoder_type]
        if self.user_adapter is not None and not user_encoder.supports_adapters:
            raise ValueError(
                f"user_encoder_type={self.user_encoder_type!r} has no layers to put adapters into; leave out "
                "user_adapter"
            )
        if self.platforms is not None and self.user_adapter is None:
            raise ValueError("platforms have adapters of their own; give user_adapter, 'serial' or 'parallel'")
        wrong = [name for name in self.platforms or () if name == SOURCE or (self.platforms or []).count(name) > 1]
        if wrong:
            raise ValueError(
                f"platforms names {wrong[0]!r}, which is what they share: choose another name"
                if wrong[0] == SOURCE
                else f"platforms names {wrong[0]!r} twice"
            )
        _check_choice("platform", self.platform, [SOURCE, *(self.platforms or ())])
        if user_encoder.reads_user_ids and self.num_users is None:
            raise ValueError(
                f"user_encoder_type={self.user_encoder_type!r} needs num_users, the size of its table of user ids"
            )
        if self.num_users is not None and not user_encoder.reads_user_ids:
            raise ValueError(
                f"user_encoder_type={self.user_encoder_type!r} has no table of user ids; leave out num_users"
            )

    def _check_loss(self) -> None:
        """Refuses options of the training that its loss, or the items' projection, does not read."""
        if self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"codebook_size must be a power of 2, got {self.codebook_size}")
        if self.permute_codes and not PROJECTIONS[self.item_projection].quantises:
            raise ValueError("permute_codes is for item_projection='codes'; leave it out")
        if self.synthetic_negatives and not PROJECTIONS[self.item_projection].quantises:
            raise ValueError(
                "synthetic_negatives changes an item's codes; give item_projection='codes', or leave it out"
            )
        if self.synthetic_negatives and (not LOSSES[self.loss_type].reads_batch or "+" in (self.modality or "")):
            able = [name for name, loss in LOSSES.items() if loss.reads_batch]
            raise ValueError(
                f"synthetic_negatives is for loss_type={_listed(able)} and items of one content without ids; leave it "
                "out"
            )
        if self.gather_negatives and LOSSES[self.loss_type].candidates != "batch":
            able = [name for name, loss in LOSSES.items() if loss.candidates == "batch"]
            raise ValueError(f"gather_negatives is an option of loss_type={_listed(able)}, not of {self.loss_type!r}")

    def _check_views(self) -> None:
        """Refuses an auxiliary loss, or augmentations, that cannot work."""
        if self.auxiliary_loss_type is not None and self.reads_timestamps:
            raise ValueError(
                f"auxiliary_loss_type compares views of a history, whose items have no times, and user_encoder_type="
                f"{self.user_encoder_type!r} reads them; leave it out, or choose another user encoder"
            )
        if self.auxiliary_loss_type is not None and USER_ENCODERS[self.user_encoder_type].reads_user_ids:
            raise ValueError(
                f"auxiliary_loss_type compares views of a history, which user_encoder_type={self.user_encoder_type!r} "
                "does not read; leave it out"
            )
        if self.view_augmentations is None:
            return
        augmenting = [name for name, loss in AUXILIARY_LOSSES.items() if loss.augmentations]
        if self.auxiliary_loss_type not in augmenting:
            raise ValueError(
                f"view_augmentations are for auxiliary_loss_type={_listed(augmenting)}; "
                f"{self.auxiliary_loss_type!r} changes no history: leave them out"
            )
        if not self.view_augmentations:
            raise ValueError("view_augmentations is empty; name at least one, or leave it out")
        for name in self.view_augmentations:
            _check_choice("view_augmentations", name, AUGMENTATIONS)
        if set(self.view_augmentations) == {"dropout"} and not self.hidden_dropout_prob:
            raise ValueError(
                "view_augmentations=['dropout'] makes two equal views with hidden_dropout_prob=0; give some dropout, "
                "or another augmentation"
            )

    def get_text_config(self, *args, **kwargs):
        """Returns what transformers does; of a model of text and image its part for texts.

        It has the vocabulary, which may grow.
        """
        whole: Any = self.multimodal_config
        return super().get_text_config(*args, **kwargs) if whole is None else whole.get_text_config(*args, **kwargs)

    def backbone_config(self, name: str) -> PretrainedConfig:
        """Returns the configuration of a backbone that the model has, such as `"text_config"`."""
        found = getattr(self, name)
        if not isinstance(found, PretrainedConfig):
            raise ValueError(f"this model has no backbone of {name}")
        return found

    @property
    def starts_at_content(self) -> bool:
        """Whether item embeddings start as the content's own vectors, see [`WhitenedProjection`]."""
        return PROJECTIONS[self.item_projection].starts_at_content

    @property
    def predicts_within(self) -> bool:
        """Whether training predicts items within a history, so that the next one is predicted at an added place."""
        return self.objective in ("masked_item", "other_items")

    @property
    def reads_timestamps(self) -> bool:
        """Whether the user encoder reads the times of the interactions."""
        return USER_ENCODERS[self.user_encoder_type].reads_timestamps

    @property
    def platform_index(self) -> int | None:
        """Index of the chosen platform among those that have adapters; `None` for the source."""
        return None if self.platform == SOURCE else (self.platforms or []).index(self.platform)

    @property
    def width(self) -> int:
        """`hidden_size`, which building the item encoder sets where it was left out."""
        if self.hidden_size is None:
            raise ValueError("hidden_size was left out, and follows from the backbones once the model is built")
        return self.hidden_size

    @property
    def num_views(self) -> int:
        """Views of an item that lie side by side: of each content and of the id if the fusion makes them, else 1."""
        return len((self.modality or "").split("+")) if FUSIONS[self.fusion].reads_ids else 1

    @property
    def user_width(self) -> int:
        """Width of the user encoder's layers."""
        return self.width if self.user_hidden_size is None else self.user_hidden_size

    @property
    def modality(self) -> str | None:
        """What items are read by: `"text"`, `"image"`, `"audio"`, `"id"`, or several: `"text+image"`; `None` while
        nothing is set."""
        return "+".join(name for name, modality in MODALITIES.items() if modality.is_read(self)) or None

    @property
    def contents(self) -> list[str]:
        """The modalities that are content, which transfers: all that items are read by, except ids."""
        return [name for name, one in MODALITIES.items() if one.encoder_class is not None and one.is_read(self)]


def described_fields(cls: type) -> dict[str, str]:
    """Returns a description of every option in plain text, read from the `Args` of a class's docstring.

    >>> described_fields(TransRecConfig)["fusion"]
    'How text and image become one vector, a row of FUSIONS.'
    """
    arguments = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    described = re.findall(r"^    (\w+) \(.*\):\n((?:        .*(?:\n|$))+)", arguments, flags=re.MULTILINE)
    return {name: re.sub(r"\[`~?|`]|`", "", " ".join(text.split())) for name, text in described}


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Refuses a name that is not in the option's table."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; {did_you_mean(value, choices)}")


def did_you_mean(value: str, known: Collection[str]) -> str:
    """Names the closest known name, and all of them.

    >>> did_you_mean("sasrek", ["gru4rec", "sasrec"])
    "did you mean 'sasrec'? Known are 'gru4rec', 'sasrec'"
    """
    nearest = difflib.get_close_matches(value, known, n=1, cutoff=0.0)[0]
    return f"did you mean {nearest!r}? Known are {_listed(known)}"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))
