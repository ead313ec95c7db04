"""What the scripts share: their arguments, and the steps from arguments to data, model and trained checkpoint."""

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import datasets
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BitImageProcessorPil,
    HfArgumentParser,
    ViTImageProcessorPil,
    set_seed,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .configuration_transrec import TransRecConfig
from .data import (
    count_actions,
    histories_as_rows,
    load_items,
    load_sequences,
    prepare_items,
    warn_if_cut_shorter,
)
from .evaluation import FullRankingEvaluator
from .model_card import THIS_MODEL, is_hub_id, push_results, result_row
from .modeling_transrec import TransRecForSequentialRecommendation, TransRecModel, check_place
from .processing_transrec import TransRecProcessor, train_tokenizer
from .recommender import drop_foreign_ids
from .trainer import TRAINER_STATE_NAME, TransRecTrainer, last_whole_checkpoint
from .training_args import TransRecTrainingArguments


logger = logging.getLogger(__name__)

# The backbones where none is given: small enough for a CPU, trained from scratch.
SMALL_BERT = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
SMALL_RESNET = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128, 128],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
SMALL_IMAGE_SIZE = 64
# Fields of the configuration that may be changed when training goes on from a checkpoint.
_CHANGEABLE_FIELDS = (
    "hidden_dropout_prob item_dropout_prob loss_type num_negatives negative_sampling logq_correction gather_negatives "
    "gbce_t objective mask_probability normalize_scores temperature"
).split()
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
    options = _read_json("--preset", str(path)).get("options")
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
            options["columns"] = _read_json("--columns", self.columns)
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
    vocab_size: int = field(default=8000, metadata={"help": "Vocabulary of a tokenizer trained on the items."})
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
        default=None, metadata={"help": "Adapters of the peft library in the backbone: 'lora', 'ia3', 'adalora', …"}
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
        if self.model_name_or_path is not None and (given or self.modality is not None):
            options = [*given, *["modality"] * (self.modality is not None)]
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


def load_model_and_processor(
    args: ModelArguments, items: datasets.Dataset, user_ids: Sequence[str] | None = None
) -> tuple[TransRecForSequentialRecommendation, TransRecProcessor]:
    """The model that the arguments ask for: a checkpoint, pretrained backbones, backbones from scratch, ids.

    Args:
        args: the arguments.
        items: the catalogue; an id table is made for it, and a missing tokenizer is trained on its texts.
        user_ids: the users, for a model of user ids (DSSM).
    """
    if args.model_name_or_path is not None:
        model, processor = _from_checkpoint(args, items)
    else:
        model, processor = _new_model(args, items, user_ids)
    if args.peft is not None:
        options = _read_json("--peft_config", args.peft_config) if args.peft_config is not None else {}
        model.add_peft_adapter({"peft_type": args.peft.upper(), **options})
    return model, processor


def _new_model(args: ModelArguments, items: datasets.Dataset, user_ids: Sequence[str] | None):
    modalities = args.modality.split("+")
    fields, parts = args.config_fields(), {}
    processing = {"language": args.language, "max_text_length": args.max_text_length}
    processing = {name: value for name, value in processing.items() if value is not None}
    backbones = {}
    for name, value in vars(args).items():
        if name.endswith("_name_or_path"):
            check_place(value)
    if args.multimodal_model_name_or_path is not None:
        name = backbones["multimodal_model_name_or_path"] = args.multimodal_model_name_or_path
        parts["tokenizer"] = AutoTokenizer.from_pretrained(name)
        parts["image_processor"] = load_image_processor(name, args.image_size, square=True)
    else:
        if "text" in modalities:
            if args.text_model_name_or_path is not None:
                name = backbones["text_model_name_or_path"] = args.text_model_name_or_path
                parts["tokenizer"] = AutoTokenizer.from_pretrained(name)
            else:
                parts["tokenizer"], fields["text_config"] = _text_backbone_from_scratch(args, items)
                fields.setdefault("text_pooling", "mean")  # only pretraining gives the first token a meaning
        if "image" in modalities:
            if args.vision_model_name_or_path is not None:
                name = backbones["vision_model_name_or_path"] = args.vision_model_name_or_path
                parts["image_processor"] = load_image_processor(name, args.image_size)
            else:
                parts["image_processor"], fields["vision_config"] = _vision_backbone_from_scratch(args)
    if "id" in modalities:
        fields["num_items"], parts["item_ids"] = len(items), items["item_id"]
    if args.user_encoder_type == "dssm":
        if user_ids is None:
            raise ValueError("--user_encoder_type dssm needs the users that it is trained on")
        fields["num_users"], parts["user_ids"] = len(user_ids), user_ids
    if backbones:
        model = TransRecForSequentialRecommendation.from_encoder_pretrained(**backbones, **fields)
    else:
        model = TransRecForSequentialRecommendation(TransRecConfig(**fields))
    return model, TransRecProcessor(**parts, **processing)


def _text_backbone_from_scratch(args: ModelArguments, items: datasets.Dataset):
    """Tokenizer and configuration."""
    if args.tokenizer_name_or_path is not None:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
    else:
        texts = items[f"text_{args.language or 'en'}"]
        tokenizer = train_tokenizer((text for text in texts if text), args.vocab_size)
    config = dict(SMALL_BERT) if args.text_config is None else _read_backbone_config("--text_config", args.text_config)
    if args.text_config is None:
        logger.warning("No text backbone was named: a small BERT (%s) is trained from scratch", config)
    return tokenizer, {**config, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}


def _vision_backbone_from_scratch(args: ModelArguments):
    """Image processor and configuration."""
    if args.vision_config is None:
        config, size = dict(SMALL_RESNET), args.image_size or SMALL_IMAGE_SIZE
        logger.warning("No vision backbone was named: a small ResNet (%s) is trained from scratch", config)
    else:
        config = _read_backbone_config("--vision_config", args.vision_config)
        size = args.image_size or config.get("image_size", 224)
    if "image_size" in AutoConfig.for_model(**config).to_dict():
        config["image_size"] = size
    return ViTImageProcessorPil(size={"height": size, "width": size}, do_convert_rgb=True), config


def load_image_processor(name_or_path: str, image_size: int | None = None, square: bool = False):
    """The image processor of a pretrained vision backbone, with its own mean, standard deviation and size.

    Args:
        name_or_path: Hub id or folder; of timm's models the configuration is translated.
        image_size: another height and width, in pixels.
        square: whether to make pictures square that the processor itself would leave of different shapes.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type == "timm_wrapper":
        processor = timm_image_processor(config)
    else:
        processor = AutoImageProcessor.from_pretrained(name_or_path, backend="pil")
    if image_size is None and square:
        image_size = getattr(getattr(config, "vision_config", config), "image_size", 224)
    if image_size is not None:
        processor.size = {"height": image_size, "width": image_size}
        if getattr(processor, "do_center_crop", False):
            processor.crop_size = {"height": image_size, "width": image_size}
        if hasattr(processor, "size_divisor"):
            processor.do_pad = False
    return processor


def timm_image_processor(config):
    """What timm does to pictures for this model in evaluation, as an image processor that can be saved."""
    import timm

    data = timm.data.resolve_data_config(pretrained_cfg=config.pretrained_cfg or {})
    height, width = data["input_size"][1:]
    resized = {"height": int(height / data["crop_pct"]), "width": int(width / data["crop_pct"])}
    resample = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
    return BitImageProcessorPil(
        size=resized if data["crop_mode"] == "squash" else {"shortest_edge": resized["height"]},
        crop_size={"height": height, "width": width},
        image_mean=list(data["mean"]),
        image_std=list(data["std"]),
        resample=resample[data["interpolation"]],
        do_convert_rgb=True,
    )


def _from_checkpoint(
    args: ModelArguments, items: datasets.Dataset
) -> tuple[TransRecForSequentialRecommendation, TransRecProcessor]:
    config = load_config(args.model_name_or_path, args.model_revision)
    for name, value in args.config_fields().items():
        if name not in _CHANGEABLE_FIELDS and value != getattr(config, name):
            raise ValueError(
                f"--{name} {value} does not fit the checkpoint {args.model_name_or_path}, which has "
                f"{getattr(config, name)}; leave it out, or start a new model"
            )
        setattr(config, name, value)
    config.validate_architecture()
    model = TransRecForSequentialRecommendation.from_pretrained(
        args.model_name_or_path, config=config, dtype="float32", revision=args.model_revision
    )
    processor = TransRecProcessor.from_pretrained(args.model_name_or_path, revision=args.model_revision)
    for name in ("language", "max_text_length"):
        if getattr(args, name) is not None:
            setattr(processor, name, getattr(args, name))
    return model, drop_foreign_ids(model, processor, items["item_id"])


def _read_json(option: str, value: str) -> dict:
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


def _read_backbone_config(option: str, value: str) -> dict:
    parsed = _read_json(option, value)
    if "model_type" not in parsed:
        raise ValueError(f'{option} must have a "model_type", such as {{"model_type": "bert"}}')
    return parsed


def train(
    model_args: ModelArguments, data_args: DataArguments, training_args: TransRecTrainingArguments
) -> TransRecTrainer:
    """Trains, keeps the best checkpoint by validation HR@10, saves model, processor and card in `output_dir`.

    The test split is not read.
    """
    set_seed(training_args.seed)
    max_seq_len = model_args.resolved_max_seq_len()
    with training_args.main_process_first(desc="loading the data"):
        items = data_args.load_items(max_seq_len)
        train_split = data_args.load_sequences("train", max_seq_len)
        validation = data_args.load_sequences("validation", max_seq_len)
    model, processor = load_model_and_processor(model_args, items, train_split["user_id"])
    pretrained = any(value for name, value in vars(model_args).items() if name.endswith("_model_name_or_path"))
    trains_all = model_args.peft is None and not training_args.freeze_backbone
    if pretrained and trains_all and training_args.backbone_learning_rate is None:
        logger.warning(
            "The pretrained backbone is trained at --learning_rate %g; the paper's rates for backbones are 5e-6 to "
            "5e-5: --backbone_learning_rate 1e-5",
            training_args.learning_rate,
        )
    trainer = TransRecTrainer(model, training_args, items, train_split, validation, processing_class=processor)
    with training_args.main_process_first(desc="looking for checkpoints"):
        resume = _where_to_start(training_args)
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    card = {"dataset": data_args.dataset_name, "dataset_args": data_args.dataset_config_name}
    card["finetuned_from"] = model_args.model_name_or_path
    card["license"] = training_args.hub_license
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.save_model()
        trainer.create_model_card(**card)
    trainer.accelerator.wait_for_everyone()  # the main process writes; the others may want to read
    if trainer.is_world_process_zero():
        best, state = trainer.state.best_metric, trainer.state
        found = ""
        if best is not None:
            epoch = next(entry["epoch"] for entry in state.log_history if entry["step"] == state.best_global_step)
            found = f": validation {training_args.metric_for_best_model} {best:.4f} after epoch {epoch:g}"
        print(f"Saved in {training_args.output_dir}{found}", flush=True)
    return trainer


def _where_to_start(args: TransRecTrainingArguments) -> str | None:
    """The checkpoint to resume from; `None` to start anew, in place of a finished training in the same folder.

    Raises:
        FileExistsError: if the folder has an interrupted training that is not to be resumed.
    """
    folder, resume = args.output_dir, args.resume_from_checkpoint
    finished = Path(folder, TRAINER_STATE_NAME)  # written at the end
    checkpoints = sorted(Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
    if resume is not None and resume.lower() not in ("true", "false"):  # to HfArgumentParser it is a path
        return resume
    if resume is not None and resume.lower() == "true":
        found = last_whole_checkpoint(folder)
        if found is None:
            logger.warning("There is no checkpoint in %s yet: training starts from the beginning", folder)
        finished.unlink(missing_ok=True)
        return found
    if checkpoints and not finished.exists():
        raise FileExistsError(
            f"{folder} has an interrupted training: go on with --resume_from_checkpoint true, choose another "
            "--output_dir, or remove the folder"
        )
    if checkpoints:
        logger.warning("%s has a finished training, which is replaced", folder)
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint)
    finished.unlink(missing_ok=True)
    return None


BASELINES = ("random", "popularity")


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


def evaluate(args: EvaluationArguments, data_args: DataArguments) -> dict:
    """Metrics and protocol of a checkpoint or baseline."""
    state = PartialState(cpu=args.use_cpu)
    is_baseline = args.model_name_or_path in BASELINES
    checkpoint, max_seq_len = args.model_name_or_path, args.max_seq_len or TransRecConfig().max_seq_len
    if not is_baseline:
        max_seq_len = load_config(checkpoint, args.model_revision).max_seq_len
    with state.main_process_first():
        items = data_args.load_items(max_seq_len)
        sequences = data_args.load_sequences(args.split, max_seq_len)
    evaluator = FullRankingEvaluator(
        items,
        sequences,
        ks=args.eval_ks,
        exclude_seen=not args.include_seen,
        batch_size=args.per_device_eval_batch_size,
        item_batch_size=args.item_batch_size,
        split=args.split,
        center_scores=args.center_scores,
    )
    item_counts = None
    if args.model_name_or_path == "popularity" or args.by_group:
        histories = histories_as_rows(data_args.load_sequences("train", max_seq_len), items["item_id"])
        item_counts = count_actions(histories, len(items))
    if args.model_name_or_path == "random":
        metrics = evaluator.evaluate_random()
    elif args.model_name_or_path == "popularity":
        metrics = evaluator.evaluate_popularity(item_counts)
    else:
        model = TransRecModel.from_pretrained(checkpoint, revision=args.model_revision).to(state.device)
        processor = TransRecProcessor.from_pretrained(checkpoint, revision=args.model_revision)
        processor = drop_foreign_ids(model, processor, items["item_id"])
        processor.language = args.language or processor.language
        with state.main_process_first():
            evaluator.prepared_items = prepare_items(items, processor, args.preprocessing_num_workers)
        metrics = evaluator(model, processor)
    dataset = f"{data_args.dataset_name}/{data_args.dataset_config_name}"
    protocol = {"dataset": dataset, "model": checkpoint, "max_seq_len": max_seq_len, **evaluator.protocol}
    groups = {"groups": evaluator.metrics_of_groups(item_counts)} if args.by_group else {}
    return {"metrics": metrics, **groups, "protocol": protocol}


def push_evaluation(args: EvaluationArguments, data_args: DataArguments, results: dict) -> str | None:
    """Adds what [`evaluate`] measured to the checkpoint's card, random and popularity on the same split beside it.

    Returns: the commit's address; `None` on all processes but the main one.
    """
    rows = []
    for name in BASELINES:
        changes = {"model_name_or_path": name, "max_seq_len": results["protocol"]["max_seq_len"]}
        changes.update(center_scores=False, by_group=False, push_to_hub=False, create_pr=False)
        found = evaluate(replace(args, **changes), data_args)
        rows.append(result_row(name, found["metrics"], found["protocol"]))
    rows.append(result_row(THIS_MODEL, results["metrics"], results["protocol"]))
    if not PartialState().is_main_process:
        return None
    return push_results(args.model_name_or_path, rows, create_pr=args.create_pr)
