"""Configuration of a TransRec model."""

import difflib

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .losses import LOSSES


# What transformers itself passes to, or may have written into, any configuration beside the declared fields.
_TRANSFORMERS_KEYS = set(
    "add_cross_attention attn_implementation auto_map bos_token_id custom_pipelines eos_token_id "
    "experts_implementation finetuning_task is_decoder model_type name_or_path num_labels output_attentions "
    "pad_token_id quantization_config sep_token_id task_specific_params tie_word_embeddings tokenizer_class "
    "torch_dtype torchscript transformers_weights use_cache vocab_size".split()
)
_OBJECTIVES = ("next_item",)
_TEXT_POOLINGS = ("cls", "mean", "last")


@strict
class TransRecConfig(PretrainedConfig):
    r"""
    Configuration of [`TransRecModel`] and [`TransRecForSequentialRecommendation`]: an item encoder behind a
    sequential user encoder (NineRec, arXiv 2309.07705).

    The item encoder follows from what is given: `text_config` makes a text encoder (TransRec), `num_items` an item-id
    table (IDRec). Unknown keys are errors.

    Args:
        text_config (`dict` or `PretrainedConfig`, *optional*):
            Configuration of the text backbone, any that `AutoModel` knows.
        num_items (`int`, *optional*):
            Size of the item-id table, for the id baseline.
        user_encoder_type (`str`, defaults to `"sasrec"`):
            Key of [`USER_ENCODERS`].
        hidden_size (`int`, defaults to 256):
            Width `D` of item and user vectors.
        num_hidden_layers (`int`, defaults to 2):
            Layers of the user encoder.
        num_attention_heads (`int`, defaults to 2):
            Attention heads of the user encoder.
        hidden_dropout_prob (`float`, defaults to 0.1):
            Dropout in the user encoder: on its input, in attention and after each sub-layer.
        max_seq_len (`int`, defaults to 20):
            Longest history `L` that the user encoder reads, in items; older items are cut off.
        text_pooling (`str`, *optional*):
            How token vectors become one: `"cls"` (the first), `"mean"`, `"last"`. `None` picks the backbone's usual
            one: `"cls"` for encoders, `"mean"` for decoders, as the paper does for OPT.
        objective (`str`, defaults to `"next_item"`):
            `"next_item"`: every position predicts the item after it (the paper's S2S).
        loss_type (`str`, defaults to `"in_batch"`):
            Key of [`LOSSES`]: `"in_batch"` (softmax over the batch's items) or `"bce"` (the paper's).
        num_negatives (`int`, defaults to 1):
            Sampled negatives per position, for losses that sample (`"bce"`).
        logq_correction (`bool`, defaults to `True`):
            Whether `"in_batch"` corrects for popular items being in the batch more often.

    Example:

    >>> from modeling_transrec import TransRecConfig
    >>> config = TransRecConfig(text_config={"model_type": "bert", "hidden_size": 32}, hidden_size=64)
    >>> config.text_config.hidden_size, config.item_encoder_type
    (32, 'text')
    """

    model_type = "transrec"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True)}

    text_config: dict | PretrainedConfig | None = None
    num_items: int | None = None
    user_encoder_type: str = "sasrec"
    hidden_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    hidden_dropout_prob: float | int = 0.1
    max_seq_len: int = 20
    text_pooling: str | None = None
    objective: str = "next_item"
    loss_type: str = "in_batch"
    num_negatives: int = 1
    logq_correction: bool = True

    def __post_init__(self, **kwargs):
        for key in kwargs:
            if key not in _TRANSFORMERS_KEYS and not key.startswith("_"):
                close = difflib.get_close_matches(key, self.own_fields(), n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"its options: {', '.join(self.own_fields())}"
                raise ValueError(f"TransRecConfig has no option {key!r}; {hint}")
        attn_implementation = getattr(self.text_config, "_attn_implementation", None)
        super().__post_init__(**kwargs)
        if attn_implementation is not None and kwargs.get("attn_implementation") is None:
            self.text_config._attn_implementation = attn_implementation  # a loaded backbone's own, else lost here

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
        if self.text_pooling is not None:
            _check_choice("text_pooling", self.text_pooling, _TEXT_POOLINGS)
        if self.text_config is not None and self.num_items is not None:
            raise ValueError("give text_config (TransRec) or num_items (IDRec), not both")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_seq_len", "num_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_items is not None and self.num_items < 1:
            raise ValueError(f"num_items must be at least 1, got {self.num_items}")
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"hidden_dropout_prob must be in [0, 1), got {self.hidden_dropout_prob}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )

    @property
    def item_encoder_type(self) -> str | None:
        """`"text"`, `"id"`, or `None` while neither `text_config` nor `num_items` is set."""
        if self.text_config is not None:
            return "text"
        return None if self.num_items is None else "id"

    @property
    def samples_negatives(self) -> bool:
        """Whether the loss needs sampled negatives in the batch."""
        return "negative_index" in LOSSES[self.loss_type].batch_fields


def _check_choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(map(repr, choices))}")
