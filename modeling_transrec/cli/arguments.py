"""The scripts' options: which data, which model, what to evaluate; and presets of them."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import datasets
from transformers import AutoConfig, HfArgumentParser

from ..data.loading import load_items, load_sequences, warn_if_cut_shorter
from ..hub.names import is_hub_id
from ..models.checkpoint_files import check_place
from ..models.configuration_transrec import TransRecConfig


logger = logging.getLogger(__name__)

BASELINES = ("random", "popularity")
MODEL_MAKING_OPTIONS = (
    "modality text_model_name_or_path vision_model_name_or_path multimodal_model_name_or_path text_config "
    "vision_config tokenizer_name_or_path vocab_size text_pooling image_pooling image_size fusion id_fusion "
    "user_encoder_type hidden_size num_hidden_layers num_attention_heads max_seq_len"
).split()


def parse_arguments(dataclass_types: Sequence[type], args: Sequence[str] | None, presets: Path) -> tuple:
    """Command-line options to dataclasses. `--preset` fills in what the command line does not say.

    Args:
        dataclass_types: the dataclasses, in the order in which they come back.
        args: the options; by default those of the command line.
        presets: folder of the named presets.
    """
    parser = HfArgumentParser(dataclass_types, allow_abbrev=False)
    parser.add_argument(
        "--preset", help=f"Options to start from: a name in {presets.name}/, such as bili_food-bert, or a JSON file."
    )
    args = list(sys.argv[1:] if args is None else args)
    preset = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    preset.add_argument("--preset")
    name = preset.parse_known_args(args)[0].preset
    if name is not None:
        args = _preset_options(name, presets, args) + args  # the last of two equal options holds
    return parser.parse_args_into_dataclasses(args)[: len(dataclass_types)]


def _preset_options(name: str, presets: Path, args: list[str]) -> list[str]:
    path = Path(name) if name.endswith(".json") else presets / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in presets.glob("*.json")))
        raise ValueError(f"--preset {name}: there is no {path}; named presets are {known}")
    options = read_json("--preset", str(path)).get("options")
    if not isinstance(options, dict):
        raise ValueError(f'{path} must have its options under "options"')
    if any(arg.split("=")[0] == "--model_name_or_path" for arg in args):  # a checkpoint brings its own model
        made = [option for option in options if option in MODEL_MAKING_OPTIONS]
        logger.warning("The checkpoint decides on %s, not the preset", ", ".join(made))
        options = {option: value for option, value in options.items() if option not in made}
    listed = []
    for option, value in options.items():
        values = value if isinstance(value, list) else [value]
        listed += [f"--{option}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    return listed


def read_json(option: str, value: str) -> dict:
    """An option that is JSON, or names a file of it."""
    source = option
    if os.path.exists(value):
        source = value
        with open(value, encoding="utf-8") as file:
            value = file.read()
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is neither a file nor JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{source} must be a JSON object, got {type(parsed).__name__}")
    return parsed


@dataclass
class DataArguments:
    """Which data set."""

    dataset_name: str = field(
        default="ninerec", metadata={"help": "'ninerec', or a Hub id or local folder in the same schema."}
    )
    dataset_config_name: str | None = field(
        default=None,
        metadata={"help": "Data set, such as Bili_Food; its items are NAME_items. By default the embedded sample."},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the raw files (or set NINEREC_DATA_DIR). The samples need none."}
    )
    min_actions: int | None = field(default=None, metadata={"help": "Drop users with fewer actions (ninerec: 5)."})
    min_item_actions: int | None = field(
        default=None, metadata={"help": "Drop items with fewer actions, too, until all have enough (the k-core)."}
    )
    split_strategy: str | None = field(
        default=None,
        metadata={"help": "'leave_one_out', or 'temporal': what happened after a point in time tests."},
    )
    validation_start: int | None = field(
        default=None, metadata={"help": "Time of the temporal split; by default after 80 %% of the actions."}
    )
    test_start: int | None = field(default=None, metadata={"help": "The same for the test split; 90 %%."})
    catalogue: str | None = field(
        default=None, metadata={"help": "Candidates: 'interacted' items, or 'all' of the items table."}
    )
    columns: str | None = field(
        default=None,
        metadata={
            "help": "What the columns of your tables are called, as JSON: "
            '{"user_id": "customer", "item_id": "sku", "timestamp": "bought_at", "text_en": "product"}.'
        },
    )
    pair_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns of a table of actions without header: 'user_id item_id timestamp' in its order."},
    )
    sample: ClassVar[str] = "Sample_Target"

    def __post_init__(self):
        if self.dataset_config_name is None:
            if self.dataset_name != "ninerec" or self.data_dir is not None:
                place = self.dataset_name if self.data_dir is None else self.data_dir
                raise ValueError(f"which data set of {place}? Give --dataset_config_name NAME")
            self.dataset_config_name = self.sample

    def loading_kwargs(self, max_seq_len: int) -> dict:
        """Arguments of `load_dataset` beside names; only the ninerec builder filters and cuts while it reads."""
        kwargs = {} if self.data_dir is None else {"data_dir": self.data_dir}
        names = "min_actions min_item_actions split_strategy validation_start test_start catalogue pair_columns"
        options = {name: getattr(self, name) for name in names.split() if getattr(self, name) is not None}
        if self.columns is not None:
            options["columns"] = read_json("--columns", self.columns)
        if self.dataset_name == "ninerec":
            return {**kwargs, **options, "max_seq_len": max_seq_len}
        if options:
            raise ValueError(
                f"--{next(iter(options))} is for --dataset_name ninerec; {self.dataset_name} comes split already"
            )
        return kwargs

    def load_items(self, max_seq_len: int) -> datasets.Dataset:
        """The catalogue."""
        return load_items(self.dataset_name, self.dataset_config_name, **self.loading_kwargs(max_seq_len))

    def load_sequences(self, split: str, max_seq_len: int) -> datasets.Dataset:
        """Histories of one split."""
        kwargs = self.loading_kwargs(max_seq_len)
        sequences = load_sequences(self.dataset_name, self.dataset_config_name, split, **kwargs)
        if split != "validation":  # one warning is enough in training, which loads train and validation
            warn_if_cut_shorter(sequences, max_seq_len)
        return sequences


@dataclass
class ModelArguments:
    """Which model. An option that is not given keeps the checkpoint's value, or else the configuration's default."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "TransRec checkpoint to start from: a folder or a Hub id."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of --model_name_or_path, where it is a Hub id."}
    )
    modality: str | None = field(
        default=None,
        metadata={
            "help": "What items are to a new model: 'text', 'image', 'id', or several: 'text+image', 'text+id'."
        },
    )
    text_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained text backbone of a new model, any that AutoModel loads."}
    )
    vision_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained vision backbone of a new model, transformers' or timm's."}
    )
    multimodal_model_name_or_path: str | None = field(
        default=None, metadata={"help": "One pretrained model of text and image: CLIP, SigLIP, ViLT."}
    )
    text_config: str | None = field(
        default=None,
        metadata={"help": "Text backbone from scratch: its configuration as JSON, or the name of such a file."},
    )
    vision_config: str | None = field(
        default=None,
        metadata={"help": "Vision backbone from scratch: its configuration as JSON, or the name of such a file."},
    )
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Tokenizer of a backbone from scratch; else one is trained on the items."},
    )
    vocab_size: int | None = field(
        default=None, metadata={"help": "Vocabulary of a tokenizer trained on the items (default 8000)."}
    )
    language: str | None = field(default=None, metadata={"help": "Which text is read: 'en' (default) or 'zh'."})
    max_text_length: int | None = field(default=None, metadata={"help": "Longest text in tokens (default 30)."})
    text_pooling: str | None = field(
        default=None,
        metadata={"help": "'cls', 'mean' or 'last'; by default the backbone's usual one, 'mean' from scratch."},
    )
    image_pooling: str | None = field(
        default=None, metadata={"help": "'pooler', 'cls' or 'mean'; by default the backbone's usual one."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Height and width of pictures in pixels (default: the backbone's own)."}
    )
    fusion: str | None = field(
        default=None,
        metadata={
            "help": "Text with image: 'sum' (default), 'concat', 'gated', 'film', 'co_attention', 'merged_attention'."
        },
    )
    id_fusion: str | None = field(default=None, metadata={"help": "Id with content: 'sum' (default) or 'concat'."})
    user_encoder_type: str | None = field(
        default=None,
        metadata={"help": "'sasrec' (default), 'bert4rec', 'nextitnet', 'gru4rec', 'dnn', 'dssm' or 'ligr'."},
    )
    hidden_size: int | None = field(default=None, metadata={"help": "Width of item and user vectors (default 256)."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "User encoder layers (default 2)."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "User encoder heads (default 2)."})
    hidden_dropout_prob: float | None = field(default=None, metadata={"help": "User encoder dropout (default 0.1)."})
    item_dropout_prob: float | None = field(default=None, metadata={"help": "Dropout on item vectors (default 0)."})
    max_seq_len: int | None = field(default=None, metadata={"help": "Longest history in items (default 20)."})
    objective: str | None = field(
        default=None, metadata={"help": "'next_item', 'last_item', 'masked_item'; by default the user encoder's own."}
    )
    mask_probability: float | None = field(
        default=None, metadata={"help": "Share of items that 'masked_item' masks (default 0.2)."}
    )
    loss_type: str | None = field(
        default=None,
        metadata={"help": "'in_batch' (default), 'bce' (the paper's), 'sampled_softmax', 'gbce', 'full_softmax'."},
    )
    num_negatives: int | None = field(
        default=None,
        metadata={"help": "Sampled negatives, per position for 'bce', per batch for the others (default 1)."},
    )
    negative_sampling: str | None = field(
        default=None, metadata={"help": "Negatives by 'uniform' chance (default) or 'popularity'."}
    )
    logq_correction: bool | None = field(
        default=None, metadata={"help": "LogQ correction of softmax losses (default)."}
    )
    gather_negatives: bool | None = field(
        default=None, metadata={"help": "'in_batch' negatives of all processes, not of each one alone."}
    )
    gbce_t: float | None = field(default=None, metadata={"help": "Calibration of 'gbce', 0 to 1 (default 0.75)."})
    normalize_scores: bool | None = field(default=None, metadata={"help": "Score by cosine, not by dot product."})
    temperature: float | None = field(default=None, metadata={"help": "What scores are divided by (default 1)."})
    peft: str | None = field(
        default=None,
        metadata={"help": "Adapters of the peft library in the backbone: 'lora', 'ia3', 'loha', …; see PEFT_KINDS."},
    )
    peft_config: str | None = field(
        default=None, metadata={"help": "Their options as JSON, such as '{\"r\": 8}', or the name of such a file."}
    )

    def __post_init__(self):
        parts = {"text", "image", "id"}
        if self.modality is not None and not set(self.modality.split("+")) <= parts:
            raise ValueError(f"--modality {self.modality} is unknown; choose text, image, id, or several joined by +")
        makes = {  # options of a new item encoder, and the part that they make
            "text_model_name_or_path": "text",
            "text_config": "text",
            "tokenizer_name_or_path": "text",
            "vision_model_name_or_path": "image",
            "vision_config": "image",
            "multimodal_model_name_or_path": "text+image",
        }
        given = {name: part for name, part in makes.items() if getattr(self, name) is not None}
        others = [name for name in ("modality", "image_size", "vocab_size") if getattr(self, name) is not None]
        if self.model_name_or_path is not None and (given or others):
            options = [*given, *others]
            raise ValueError(f"--model_name_or_path brings its own item encoder; leave out --{', --'.join(options)}")
        made = {part for parts in given.values() for part in parts.split("+")}
        if self.modality is None:
            found = [part for part in ("text", "image") if part in made]
            self.modality = None if self.model_name_or_path is not None else "+".join(found) or "text"
        elif not made <= set(self.modality.split("+")):
            wrong = [name for name, part in given.items() if not set(part.split("+")) <= set(self.modality.split("+"))]
            raise ValueError(f"--modality {self.modality} has no use for --{', --'.join(wrong)}")
        for one, other in (("text_model_name_or_path", "text_config"), ("vision_model_name_or_path", "vision_config")):
            if one in given and other in given:
                raise ValueError(f"--{one} brings its own configuration; leave out --{other}")
        if "tokenizer_name_or_path" in given and "text_model_name_or_path" in given:
            raise ValueError("--text_model_name_or_path brings its own tokenizer; leave out --tokenizer_name_or_path")
        if "multimodal_model_name_or_path" in given and len(given) > 1:
            others = [name for name in given if name != "multimodal_model_name_or_path"]
            raise ValueError(f"--multimodal_model_name_or_path is text and image; leave out --{', --'.join(others)}")
        if self.peft_config is not None and self.peft is None:
            raise ValueError("--peft_config holds options of --peft; name its kind, such as --peft lora")

    def config_fields(self) -> dict:
        """The options of the configuration that were given."""
        names = set(TransRecConfig.own_fields()) - {"text_config", "vision_config", "peft_config"}
        return {name: value for name, value in vars(self).items() if name in names and value is not None}

    def resolved_max_seq_len(self) -> int:
        """Longest history of the model that these arguments make."""
        if self.model_name_or_path is not None:
            return load_config(self.model_name_or_path, self.model_revision).max_seq_len
        return TransRecConfig().max_seq_len if self.max_seq_len is None else self.max_seq_len


@dataclass
class EvaluationArguments:
    model_name_or_path: str = field(metadata={"help": "Checkpoint folder or Hub id; or 'random', 'popularity'."})
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of --model_name_or_path, where it is a Hub id."}
    )
    split: str = field(default="test", metadata={"help": "Split.", "choices": ["validation", "test"]})
    output_file: str | None = field(default=None, metadata={"help": "JSON file for metrics and protocol."})
    language: str | None = field(
        default=None, metadata={"help": "Text to read: 'en' or 'zh'; the model's by default."}
    )
    eval_ks: list[int] = field(default_factory=lambda: [5, 10, 20], metadata={"help": "Cut-offs K."})
    include_seen: bool = field(default=False, metadata={"help": "Keep the history's items as candidates."})
    by_group: bool = field(
        default=False,
        metadata={
            "help": "Also metrics by the target's actions in the histories that train (cold: 0), which are cut to the "
            "last max_seq_len + 1, and by the length of the history."
        },
    )
    center_scores: bool = field(
        default=False, metadata={"help": "Score by centred cosine, for a model that has not seen this platform."}
    )
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Users ranked at a time."})
    item_batch_size: int = field(default=256, metadata={"help": "Items encoded at a time."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes that tokenise texts and resize pictures, once for all runs."}
    )
    max_seq_len: int | None = field(
        default=None, metadata={"help": "History kept for the baselines (default 20); a model has its own."}
    )
    bf16: bool = field(default=False, metadata={"help": "Encode items and users in bfloat16 (autocast)."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay off the accelerator."})
    push_to_hub: bool = field(default=False, metadata={"help": "Add the results to the checkpoint's card on the Hub."})
    create_pr: bool = field(default=False, metadata={"help": "As a pull request, where the repository is another's."})

    def __post_init__(self):
        if self.max_seq_len is not None and self.model_name_or_path not in BASELINES:
            raise ValueError("--max_seq_len is for random and popularity; a model has its own")
        if self.create_pr and not self.push_to_hub:
            raise ValueError("--create_pr is an option of --push_to_hub")
        if self.push_to_hub and not is_hub_id(self.model_name_or_path):
            raise ValueError(f"--push_to_hub adds results to a card on the Hub; {self.model_name_or_path} is a folder")
        if self.push_to_hub and self.model_name_or_path in BASELINES:
            raise ValueError(f"--push_to_hub: {self.model_name_or_path} has no card")
        if self.push_to_hub and self.model_revision != "main":
            raise ValueError("--push_to_hub adds results to the main branch; leave out --model_revision")


def load_config(model_name_or_path: str, revision: str = "main") -> TransRecConfig:
    """The configuration of a TransRec checkpoint; another model's is an error."""
    check_place(model_name_or_path)
    config = AutoConfig.from_pretrained(model_name_or_path, revision=revision, trust_remote_code=False)
    if config.model_type != TransRecConfig.model_type:
        raise ValueError(
            f"{model_name_or_path} is a {config.model_type} model, not a TransRec checkpoint; a backbone is given as "
            "--text_model_name_or_path"
        )
    return config
