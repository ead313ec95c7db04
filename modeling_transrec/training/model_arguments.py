"""Options that name a model: those of [`TransRecConfig`], and the backbones that a new model starts from."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from ..data.shared_fields import with_fields
from ..models.checkpoint_files import load_config
from ..models.configuration_transrec import TransRecConfig, described_fields
from ..models.modalities import BACKBONES, MODALITIES
from ..models.processing_transrec import TransRecProcessor, train_tokenizer


# Fields of the configuration that have no option of their own: they follow from other options, or from the data.
_NO_OPTIONS = {
    *TransRecConfig.sub_configs_defaults,
    "num_items",
    "num_users",
    "platforms",
    "peft_config",
    "backbone_references",
    "image_mean",
    "image_std",
}


def _default(function: Callable, name: str) -> Any:
    """Returns the default of a function's parameter."""
    return inspect.signature(function).parameters[name].default


def config_options() -> dict[str, dataclasses.Field]:
    """Returns an optional field for each option of [`TransRecConfig`], with its help text.

    >>> config_options()["max_seq_len"].metadata["help"]
    'Longest history L that the user encoder reads, in items; older items are cut off (default: 20).'
    """
    helps = described_fields(TransRecConfig)
    options: dict[str, Any] = {}
    for name, declared in TransRecConfig.own_fields().items():
        if name in _NO_OPTIONS:
            continue
        notes = []
        if declared.metadata.get("choices") is not None:
            notes.append(f"one of {', '.join(declared.metadata['choices'])}")
        if declared.default is not None:
            notes.append(f"default: {declared.default}")
        note = f" ({'; '.join(notes)})" if notes else ""
        described = re.sub(r", a row of [A-Z_]+", "", helps[name])  # the note lists the rows
        text = f"{described.removesuffix('.')}{note}.".replace("%", "%%")
        options[name] = field(default=None, metadata={"help": text})
        options[name].type = _parsed_type(declared.type)
    return options


def _parsed_type(declared: Any) -> Any:
    """Returns the type that the command line parses for a field: `float` for the `float | int` of configurations."""
    kinds = [kind for kind in get_args(declared) or (declared,) if kind is not NoneType]
    return (float if float in kinds else kinds[0]) | None


def backbone_options() -> dict[str, dataclasses.Field]:
    """Returns an optional field for each option that names a backbone, from the table of backbones."""
    texts = {}
    for name, backbone in BACKBONES.items():
        if len(backbone.reads) > 1:
            parts = " and ".join(backbone.reads)
            texts[backbone.option] = f"One pretrained model of {parts} for a new model, such as CLIP, SigLIP or ViLT."
            continue
        texts[backbone.option] = (
            f"Pretrained {name} backbone of a new model: a Hub id or folder that AutoModel loads"
            f"{', or of timm' if name == 'image' else ''}."
        )
        texts[backbone.config_field] = (
            f"Configuration of a{'n' if name[0] in 'aeiou' else ''} {name} backbone that is trained from scratch, "
            "as JSON or a file of it."
        )
    options: dict[str, Any] = {}
    for option, text in texts.items():
        options[option] = field(default=None, metadata={"help": text})
        options[option].type = str | None
    return options


@dataclass
@with_fields(backbone_options() | config_options())
class ModelArguments:
    """Names the model to train: a TransRec checkpoint, or what a new model is made of.

    Beside the options below there is one for each field of [`TransRecConfig`] (`hidden_size`, `loss_type`, …), and
    there are those that name backbones (`text_model_name_or_path`, `vision_config`, …). An option that is not given
    keeps the checkpoint's value or, of a new model, the configuration's default.

    Example:

    >>> ModelArguments(modality="id", hidden_size=64, loss_type="bce").config_fields()
    {'hidden_size': 64, 'loss_type': 'bce'}
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "TransRec checkpoint to start from: a folder or a Hub id."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of --model_name_or_path, where it is a Hub id."}
    )
    add_item_ids: bool = field(
        default=False,
        metadata={
            "help": "Put a table of the item ids, from zero on, beside the content of --model_name_or_path: "
            "UniSRec's transductive fine-tuning."
        },
    )
    modality: str | None = field(
        default=None,
        metadata={
            "help": f"Parts of an item that a new model reads: {', '.join(MODALITIES)}, or several, such as "
            "text+image or text+id (default: those of the backbones that are named, else text)."
        },
    )
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Tokenizer of a text backbone from scratch (default: one is trained on the items' texts)."},
    )
    vocab_size: int | None = field(
        default=None,
        metadata={
            "help": "Vocabulary of a tokenizer that is trained on the items (default: "
            f"{_default(train_tokenizer, 'vocab_size')})."
        },
    )
    language: str | None = field(
        default=None,
        metadata={
            "help": "Language of the texts that are read, en or zh (default: "
            f"{_default(TransRecProcessor, 'language')})."
        },
    )
    max_text_length: int | None = field(
        default=None,
        metadata={
            "help": "Longest text in tokens; the rest is cut off (default: "
            f"{_default(TransRecProcessor, 'max_text_length')})."
        },
    )
    item_prefix: str | None = field(
        default=None,
        metadata={
            "help": "What is set before every text, such as 'passage: ' for E5 (default: what a folder of "
            "sentence-transformers sets before documents)."
        },
    )
    max_audio_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Seconds of a sound that are read, from its beginning (default: "
            f"{_default(TransRecProcessor, 'max_audio_seconds'):g})."
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Height and width of images in pixels (default: the backbone's own)."}
    )
    image_preprocessing: str | None = field(
        default=None,
        metadata={
            "help": "How images are prepared: 'backbone', as its own repository says, or 'ninerec', as NineRec's code "
            "does: squares, bilinear, mean and standard deviation 0.5 (default: backbone)."
        },
    )
    peft: str | None = field(
        default=None,
        metadata={
            "help": "Kind of adapters to train in the backbones: bottleneck (Houlsby's), or one of the peft library: "
            "lora, ia3, loha, …"
        },
    )
    peft_config: str | None = field(
        default=None, metadata={"help": "Options of the adapters as JSON or a file of it, such as '{\"r\": 8}'."}
    )
    _argument_group_name = "model (an option that is not given keeps the checkpoint's value)"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # the fields that with_fields adds

    @property
    def modalities(self) -> list[str]:
        """The modalities of a new model; none of a checkpoint, which has its own."""
        return [] if self.modality is None else self.modality.split("+")

    def __post_init__(self):
        parts = self.modalities
        if not set(parts) <= set(MODALITIES):
            raise ValueError(
                f"--modality {self.modality} is unknown; choose {', '.join(MODALITIES)}, or several joined by +"
            )
        if self.image_preprocessing not in (None, "backbone", "ninerec"):
            raise ValueError(
                f"--image_preprocessing {self.image_preprocessing} is unknown; choose backbone or ninerec"
            )
        given = self._given_backbones()
        if self.model_name_or_path is not None:
            others = self._given(("modality", "image_size", "image_preprocessing", "vocab_size"))
            if given or others:
                options = ", --".join([*given, *others])
                raise ValueError(f"--model_name_or_path brings its own item encoder; leave out --{options}")
        else:
            named = {part for modalities in given.values() for part in modalities}
            if self.modality is None:
                self.modality = "+".join(part for part in MODALITIES if part in named) or "text"
            elif unused := [name for name, modalities in given.items() if not set(modalities) <= set(parts)]:
                raise ValueError(f"--modality {self.modality} has no use for --{', --'.join(unused)}")
        for option in [backbone.option for backbone in BACKBONES.values() if backbone.option in given]:
            double = [other for other in given if other != option and set(given[other]) & set(given[option])]
            if double:
                read = " and ".join(given[option])
                raise ValueError(f"--{option} brings all that reads {read}; leave out --{', --'.join(double)}")
        if self.add_item_ids and self.model_name_or_path is None:
            raise ValueError(
                "--add_item_ids puts ids beside the content of --model_name_or_path; of a new model they are a "
                "modality, such as --modality text+id"
            )
        if self.peft_config is not None and self.peft is None:
            raise ValueError("--peft_config holds options of --peft; name its kind, such as --peft lora")

    def _given_backbones(self) -> dict[str, tuple[str, ...]]:
        """Returns the options of a new item encoder that were given, and the modalities that each of them reads."""
        reads = {backbone.option: backbone.reads for backbone in BACKBONES.values()}
        reads |= {one.config_field: (name,) for name, one in MODALITIES.items() if one.option is not None}
        reads["tokenizer_name_or_path"] = ("text",)
        return {name: reads[name] for name in self._given(reads)}

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        """Returns those of the options that were given."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @classmethod
    def making_options(cls) -> list[str]:
        """Returns the options that make a new model, which a checkpoint brings with it.

        They include every field of the configuration that cannot be changed when training goes on.
        """
        ours = ["modality", "tokenizer_name_or_path", "vocab_size", "image_size", "image_preprocessing"]
        return [
            *ours,
            *backbone_options(),
            *(name for name in config_options() if name not in (*CHANGEABLE_FIELDS, *ADDABLE_FIELDS)),
        ]

    def config_fields(self) -> dict:
        """Returns the fields of the configuration that were given; `"none"` takes an auxiliary loss away."""
        given = self._given(config_options())
        return given | ({"auxiliary_loss_type": None} if given.get("auxiliary_loss_type") == "none" else {})

    def processor_fields(self) -> dict:
        """Returns the options of the processor that were given."""
        return self._given(("language", "max_text_length", "item_prefix", "max_audio_seconds"))

    def backbone_names(self) -> dict[str, str]:
        """Returns the pretrained backbones that were named: arguments of `from_encoder_pretrained`."""
        return self._given(backbone.option for backbone in BACKBONES.values())

    def resolved_max_seq_len(self) -> int:
        """Returns the longest history of the model that these options make."""
        if self.model_name_or_path is not None:
            return load_config(self.model_name_or_path, self.model_revision).max_seq_len
        return TransRecConfig().max_seq_len if self.max_seq_len is None else self.max_seq_len


# Fields of the configuration that put into a checkpoint what it has not.
ADDABLE_FIELDS = ("user_adapter", "user_adapter_reduction", "platform", "permute_codes")
# Fields of the configuration that may be changed when training goes on from a checkpoint: they shape no weight.
CHANGEABLE_FIELDS = (
    "hidden_dropout_prob",
    "item_dropout_prob",
    "id_dropout_prob",
    "whitening_power",
    "expert_dropout_prob",
    "synthetic_negatives",
    "loss_type",
    "num_negatives",
    "negative_sampling",
    "logq_correction",
    "gather_negatives",
    "gbce_t",
    "distillation_weight",
    "distillation_warmup_epochs",
    "distillation_temperature",
    "auxiliary_loss_type",
    "auxiliary_weight",
    "auxiliary_temperature",
    "num_intents",
    "intent_weight",
    "view_augmentations",
    "objective",
    "num_next_items",
    "mask_probability",
    "normalize_scores",
    "temperature",
)
