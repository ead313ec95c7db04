"""Configuration of a TransRec model."""

import difflib

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .losses import LOSSES, NEGATIVE_SAMPLINGS


# What transformers itself passes to, or may have written into, any configuration beside the declared fields.
_TRANSFORMERS_KEYS = set(
    "add_cross_attention attn_implementation auto_map bos_token_id custom_pipelines eos_token_id "
    "experts_implementation finetuning_task is_decoder model_type name_or_path num_labels output_attentions "
    "pad_token_id quantization_config sep_token_id task_specific_params tie_word_embeddings tokenizer_class "
    "torch_dtype torchscript transformers_weights use_cache vocab_size".split()
)
_OBJECTIVES = ("next_item", "last_item", "masked_item")
_TEXT_POOLINGS = ("cls", "mean", "last")
_IMAGE_POOLINGS = ("pooler", "cls", "mean")
_FUSIONS = ("sum", "concat", "gated", "film", "co_attention", "merged_attention")
_ID_FUSIONS = ("sum", "concat")
_DEFAULT_OBJECTIVES = {"bert4rec": "masked_item", "dnn": "last_item", "dssm": "last_item"}
# More than this is a mistake or an attack: building it would take forever, on the smallest of memories.
_LARGEST = {
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10,
    "max_seq_len": 2**20,
    "num_negatives": 2**24,
    "num_items": 2**31,
    "num_users": 2**31,
}
_LARGEST_BACKBONE_LAYERS, _LARGEST_BACKBONE_SIZE = 2**10, 2**31
# Dual encoders whose text vector is that of the last place, padding or not: they read texts as long as in pretraining.
READ_THE_LAST_PLACE = ("siglip",)
_POSITIVE = "hidden_size num_hidden_layers num_attention_heads max_seq_len num_negatives num_items num_users".split()


@strict
class TransRecConfig(PretrainedConfig):
    r"""
    Configuration of [`TransRecModel`] and [`TransRecForSequentialRecommendation`]: an item encoder behind a
    sequential user encoder (NineRec, arXiv 2309.07705).

    What items are follows from what is given: `text_config`, `vision_config` or both make a content encoder
    (TransRec), `multimodal_config` one of a single text-and-image model, `num_items` an item-id table (IDRec) or,
    beside content, id and content together. Unknown keys are errors.

    Args:
        text_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of the text backbone, any that `AutoModel` knows.
        vision_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of the vision backbone, any that `AutoModel` knows; timm's are of type `"timm_wrapper"`.
        multimodal_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of one model of text and image: a dual encoder (CLIP, SigLIP) or ViLT.
        num_items (`int`, *optional*):
            Size of the item-id table.
        num_users (`int`, *optional*):
            Size of the user-id table of the user encoder `"dssm"`.
        user_encoder_type (`str`, defaults to `"sasrec"`):
            Key of [`USER_ENCODERS`]: `"sasrec"`, `"bert4rec"`, `"nextitnet"`, `"gru4rec"`, `"dnn"`, `"dssm"` or
            `"ligr"`.
        hidden_size (`int`, defaults to 256):
            Width `D` of item and user vectors.
        num_hidden_layers (`int`, defaults to 2):
            Layers of the user encoder.
        num_attention_heads (`int`, defaults to 2):
            Attention heads of the user encoder, and of the fusions that attend.
        hidden_dropout_prob (`float`, defaults to 0.1):
            Dropout in the user encoder: on its input, in attention and after each sub-layer.
        item_dropout_prob (`float`, defaults to 0.0):
            Dropout on the item vectors.
        max_seq_len (`int`, defaults to 20):
            Longest history `L` that the user encoder reads, in items; older items are cut off.
        text_pooling (`str`, *optional*):
            How token vectors become one: `"cls"` (the first), `"mean"`, `"last"`. `None` picks the backbone's usual
            one: `"cls"` for encoders, `"mean"` for decoders, as the paper does for OPT.
        image_pooling (`str`, *optional*):
            How a picture's vectors become one: `"pooler"` (the backbone's own), `"cls"`, `"mean"`. `None` picks the
            backbone's usual one.
        fusion (`str`, defaults to `"sum"`):
            How text and image become one vector: a key of [`FUSIONS`].
        id_fusion (`str`, defaults to `"sum"`):
            How id and content become one vector: `"sum"` or `"concat"`.
        normalize_scores (`bool`, defaults to `False`):
            Whether a score is the cosine of user and item vector, not their dot product.
        temperature (`float`, defaults to 1.0):
            What scores are divided by; with `normalize_scores`, 0.05 to 0.1 is usual.
        objective (`str`, *optional*):
            `"next_item"`: every position predicts the item after it (the paper's S2S); `"last_item"`: the history
            predicts its last item (S2O); `"masked_item"`: masked items are predicted from both sides (BERT4Rec).
            `None` picks the user encoder's usual one.
        mask_probability (`float`, defaults to 0.2):
            Share of the items that `"masked_item"` masks.
        loss_type (`str`, defaults to `"in_batch"`):
            Key of [`LOSSES`]: `"in_batch"`, `"bce"` (the paper's), `"sampled_softmax"`, `"gbce"`, `"full_softmax"`.
        num_negatives (`int`, defaults to 1):
            Sampled negatives, for losses that sample: per position for `"bce"`, per batch and shared by all its
            positions for `"sampled_softmax"` and `"gbce"`.
        negative_sampling (`str`, defaults to `"uniform"`):
            `"uniform"` over the catalogue, or `"popularity"`: by number of training actions.
        logq_correction (`bool`, defaults to `True`):
            Whether softmax losses correct for popular items being candidates more often.
        gather_negatives (`bool`, defaults to `False`):
            Whether `"in_batch"` takes the items of all processes as negatives, not just its own.
        gbce_t (`float`, defaults to 0.75):
            Calibration of `"gbce"`, from 0 (plain BCE) to 1.
        peft_config (`dict`, *optional*):
            Adapters in the backbones, a configuration of the `peft` library; see
            [`~TransRecPreTrainedModel.add_peft_adapter`].

    Example:

    >>> from modeling_transrec import TransRecConfig
    >>> config = TransRecConfig(text_config={"model_type": "bert", "hidden_size": 32}, hidden_size=64)
    >>> config.text_config.hidden_size, config.modality
    (32, 'text')
    """

    model_type = "transrec"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", optional=True),
        "multimodal_config": SubConfigSpec(config_class=AutoConfig, model_type="clip", optional=True),
    }

    text_config: dict | PretrainedConfig | None = None
    vision_config: dict | PretrainedConfig | None = None
    multimodal_config: dict | PretrainedConfig | None = None
    num_items: int | None = None
    num_users: int | None = None
    user_encoder_type: str = "sasrec"
    hidden_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    hidden_dropout_prob: float | int = 0.1
    item_dropout_prob: float | int = 0.0
    max_seq_len: int = 20
    text_pooling: str | None = None
    image_pooling: str | None = None
    fusion: str = "sum"
    id_fusion: str = "sum"
    normalize_scores: bool = False
    temperature: float | int = 1.0
    objective: str | None = None
    mask_probability: float | int = 0.2
    loss_type: str = "in_batch"
    num_negatives: int = 1
    negative_sampling: str = "uniform"
    logq_correction: bool = True
    gather_negatives: bool = False
    gbce_t: float | int = 0.75
    peft_config: dict | None = None

    def __post_init__(self, **kwargs):
        for key in kwargs:
            if key not in _TRANSFORMERS_KEYS and not key.startswith("_"):
                close = difflib.get_close_matches(key, self.own_fields(), n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"its options: {', '.join(self.own_fields())}"
                raise ValueError(f"TransRecConfig has no option {key!r}; {hint}")
        if self.objective is None:
            self.objective = _DEFAULT_OBJECTIVES.get(self.user_encoder_type, "next_item")
        attention = {
            name: getattr(getattr(self, name), "_attn_implementation", None) for name in self.sub_configs_defaults
        }
        super().__post_init__(**kwargs)
        for name, implementation in attention.items():
            if implementation is not None and kwargs.get("attn_implementation") is None:
                getattr(self, name)._attn_implementation = implementation  # a loaded backbone's own, else lost here

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of the options beside those of every transformers configuration."""
        return [name for name in cls.__dataclass_fields__ if name not in PretrainedConfig.__dataclass_fields__]

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in transformers; values given in `kwargs` are checked like those of the dictionary."""
        loaded = super().from_dict(config_dict, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).validate_architecture()
        return loaded

    def validate_architecture(self):
        """Checks the fields against each other; run at construction and before saving."""
        super().validate_architecture()
        _check_choice("objective", self.objective, _OBJECTIVES)
        _check_choice("loss_type", self.loss_type, LOSSES)
        _check_choice("negative_sampling", self.negative_sampling, NEGATIVE_SAMPLINGS)
        _check_choice("fusion", self.fusion, _FUSIONS)
        _check_choice("id_fusion", self.id_fusion, _ID_FUSIONS)
        if self.text_pooling is not None:
            _check_choice("text_pooling", self.text_pooling, _TEXT_POOLINGS)
        if self.image_pooling is not None:
            _check_choice("image_pooling", self.image_pooling, _IMAGE_POOLINGS)
        if self.multimodal_config is not None and (self.text_config or self.vision_config) is not None:
            raise ValueError("multimodal_config reads text and image; leave out text_config and vision_config")
        for name in _POSITIVE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, largest in _LARGEST.items():
            if getattr(self, name) is not None and getattr(self, name) > largest:
                raise ValueError(f"{name} must be at most {largest:,}, got {getattr(self, name):,}")
        for name in self.sub_configs_defaults:
            if isinstance(getattr(self, name), PretrainedConfig):
                _check_sizes(name, getattr(self, name).to_dict())
        for name in ("hidden_dropout_prob", "item_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability must be between 0 and 1, got {self.mask_probability}")
        if not 0 <= self.gbce_t <= 1:
            raise ValueError(f"gbce_t must be in [0, 1], got {self.gbce_t}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if self.gather_negatives and self.loss_type != "in_batch":
            raise ValueError(f"gather_negatives is an option of loss_type='in_batch', not of {self.loss_type!r}")
        if (self.user_encoder_type == "bert4rec") != (self.objective == "masked_item"):
            raise ValueError(
                f"objective={self.objective!r} does not fit user_encoder_type={self.user_encoder_type!r}: "
                "'masked_item' and 'bert4rec', which looks at both sides, belong together; leave objective out"
            )
        if (self.user_encoder_type == "dssm") != (self.num_users is not None):
            raise ValueError("num_users, the size of the user-id table, and user_encoder_type='dssm' belong together")

    @property
    def modality(self) -> str | None:
        """What items are: `"text"`, `"image"`, `"id"`, or several: `"text+image"`; `None` while nothing is set."""
        parts = {
            "text": self.text_config or self.multimodal_config,
            "image": self.vision_config or self.multimodal_config,
            "id": self.num_items,
        }
        return "+".join(name for name, part in parts.items() if part is not None) or None


def _check_sizes(name: str, value) -> None:
    """Refuses a backbone's sizes that nobody could build."""
    if isinstance(value, dict):
        for key, part in value.items():
            _check_sizes(f"{name}.{key}", part)
    elif isinstance(value, list):
        for part in value:
            _check_sizes(name, part)
    elif isinstance(value, int):
        key = name.rpartition(".")[2]
        counts_layers = any(word in key for word in ("layer", "depth", "block", "stage")) and "size" not in key
        largest = _LARGEST_BACKBONE_LAYERS if counts_layers else _LARGEST_BACKBONE_SIZE
        if value > largest:
            raise ValueError(f"{name} must be at most {largest:,}, got {value:,}")


def _check_choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(map(repr, choices))}")
