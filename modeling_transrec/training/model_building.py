"""Makes a model and its processor from options: of a checkpoint, or a new model around backbones or ids."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import datasets
from transformers import (
    FEATURE_EXTRACTOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoTokenizer,
    ViTImageProcessorPil,
)

from ..data.arguments import read_json
from ..data.foreign_ids import drop_foreign_ids
from ..data.image_processors import load_image_processor, ninerec_image_processor
from ..models.auxiliary_losses import AUXILIARY_LOSSES
from ..models.backbones import image_normalization
from ..models.checkpoint_files import check_name_or_path, load_config, named_errors
from ..models.configuration_transrec import TransRecConfig
from ..models.losses import LOSSES
from ..models.modeling_transrec import TransRecForSequentialRecommendation
from ..models.multimodal_encoders import reads_last_position
from ..models.processing_transrec import TransRecProcessor, train_tokenizer
from ..models.projections import PROJECTIONS
from ..models.sentence_folders import read_item_prefix
from ..models.user_adapters import SOURCE, USER_ADAPTERS
from ..models.user_encoders import USER_ENCODERS
from .model_arguments import ADDABLE_FIELDS, CHANGEABLE_FIELDS, ModelArguments


logger = logging.getLogger(__name__)

# The backbones where none is named: small enough for a CPU, trained from scratch.
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
SMALL_WAV2VEC2 = {
    "model_type": "wav2vec2",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "conv_dim": [64] * 7,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}


def load_model_and_processor(
    args: ModelArguments, items: datasets.Dataset, user_ids: Sequence[str] | None = None
) -> tuple[TransRecForSequentialRecommendation, TransRecProcessor]:
    """Returns the model that the options name, and its processor.

    Args:
        args: the options.
        items: the catalogue; an id table has an entry for each of its items, and a missing tokenizer is trained on
            its texts.
        user_ids: the users, for a user encoder that reads their ids (DSSM).

    Raises:
        ValueError: if an option contradicts the checkpoint, or is not read by the model.
    """
    if args.model_name_or_path is not None:
        model, processor = _from_checkpoint(args.model_name_or_path, args, items)
    else:
        model, processor = _NewModel(args, items, user_ids).build()
    _refuse_unread(args, model)
    if args.peft is not None:
        options = read_json("--peft_config", args.peft_config) if args.peft_config is not None else {}
        model.add_peft_adapter({"peft_type": args.peft.upper(), **options})
    return model, processor


def _from_checkpoint(
    name: str, args: ModelArguments, items: datasets.Dataset
) -> tuple[TransRecForSequentialRecommendation, TransRecProcessor]:
    where = dict[str, Any](revision=args.model_revision)
    config = load_config(name, **where)
    for option, value in args.config_fields().items():
        if option in ("platform", "permute_codes") or (option in ADDABLE_FIELDS and config.user_adapter is None):
            continue
        if option not in CHANGEABLE_FIELDS and value != getattr(config, option):
            raise ValueError(
                f"--{option} {value} does not fit the checkpoint {name}, which has {getattr(config, option)}; leave "
                "it out, or start a new model"
            )
        setattr(config, option, value)
    config.validate_architecture()
    model = TransRecForSequentialRecommendation.from_pretrained(name, config=config, dtype="float32", **where)
    processor = TransRecProcessor.from_pretrained(name, **where)
    placement = args.user_adapter or config.user_adapter or USER_ADAPTERS[0]
    reduction = args.user_adapter_reduction or config.user_adapter_reduction
    if args.platform is not None and args.platform not in (SOURCE, *(config.platforms or ())):
        model.add_platform(args.platform, placement, reduction)
    elif args.platform is not None:
        model.set_platform(args.platform)
    elif args.user_adapter is not None and config.user_adapter is None:
        model.add_user_adapter(placement, reduction)
    if model.config.platforms is not None and model.config.platform == SOURCE:
        names = ", ".join(model.config.platforms)
        raise ValueError(
            f"the platforms {names} share the source, so it is not trained: give --platform with one of them or a new "
            "one"
        )
    if args.permute_codes is not None and args.permute_codes != config.permute_codes:
        change = model.permute_codes if args.permute_codes else model.merge_code_permutation
        change()
    for option, value in args.processor_fields().items():
        setattr(processor, option, value)
    processor = drop_foreign_ids(model, processor, items["item_id"])
    return model, _add_item_ids(model, processor, items["item_id"]) if args.add_item_ids else processor


def _add_item_ids(
    model: TransRecForSequentialRecommendation, processor: TransRecProcessor, item_ids: Sequence[str]
) -> TransRecProcessor:
    """Puts ids of the catalogue beside a checkpoint's content; returns the processor to use from now on."""
    if processor.item_ids is not None:
        raise ValueError("--add_item_ids is for a checkpoint without ids; this one knows the catalogue: leave it out")
    model.add_item_ids(len(item_ids))
    return processor.with_item_ids(item_ids)


class _NewModel:
    """A model that is being built: the configuration's fields and the processor's parts are collected one by one.

    Each modality has a method of its name that collects what it needs: `read_text`, `read_image`, …
    """

    def __init__(self, args: ModelArguments, items: datasets.Dataset, user_ids: Sequence[str] | None):
        self.args, self.items, self.user_ids = args, items, user_ids
        self.fields: dict[str, Any] = args.config_fields()
        self.parts: dict[str, Any] = {}

    def build(self) -> tuple[TransRecForSequentialRecommendation, TransRecProcessor]:
        args, backbones = self.args, dict[str, Any](self.args.backbone_names())
        if args.platform is not None:
            raise ValueError("--platform puts adapters into a checkpoint; name it by --model_name_or_path")
        if args.permute_codes:
            raise ValueError("--permute_codes moves a checkpoint of codes to another catalogue: --model_name_or_path")
        for name in (*backbones.values(), args.tokenizer_name_or_path):
            check_name_or_path(name)
        for part in args.modalities:
            getattr(self, f"read_{part}")()
        self.read_users()
        if backbones:
            model = TransRecForSequentialRecommendation.from_encoder_pretrained(**backbones, **self.fields)
            multimodal = model.config.multimodal_config
            if reads_last_position(multimodal):  # SigLIP 2's configuration does not say which token pads
                multimodal.text_config.pad_token_id = self.parts["tokenizer"].pad_token_id
        else:
            model = TransRecForSequentialRecommendation(TransRecConfig(**self.fields))
        return model, TransRecProcessor(**{**self.parts, **args.processor_fields()})

    def read_text(self) -> None:
        args = self.args
        pretrained = args.multimodal_model_name_or_path or args.text_model_name_or_path
        if pretrained is not None:
            with named_errors(pretrained):
                self.parts["tokenizer"] = AutoTokenizer.from_pretrained(pretrained)
            self.parts["item_prefix"] = read_item_prefix(pretrained)
            return
        if args.tokenizer_name_or_path is not None:
            with named_errors(args.tokenizer_name_or_path):
                tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
        else:
            texts = (text for text in self.items[f"text_{args.language or 'en'}"] if text)
            tokenizer = train_tokenizer(texts, **({} if args.vocab_size is None else {"vocab_size": args.vocab_size}))
        config = _backbone_config("text", args.text_config, SMALL_BERT)
        self.parts["tokenizer"] = tokenizer
        self.fields["text_config"] = {
            **config,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        }
        self.fields.setdefault("text_pooling", "mean")  # only pretraining gives the first token a meaning

    def read_image(self) -> None:
        args = self.args
        pretrained = args.multimodal_model_name_or_path or args.vision_model_name_or_path
        if pretrained is not None:
            square = args.multimodal_model_name_or_path is not None
            loaded = load_image_processor(pretrained, args.image_size, square)
            as_ninerec = args.image_preprocessing == "ninerec"
            self.parts["image_processor"] = ninerec_image_processor(args.image_size) if as_ninerec else loaded
            self.fields |= image_normalization(self.parts["image_processor"].to_dict())
            return
        config = _backbone_config("vision", args.vision_config, SMALL_RESNET)
        usual = SMALL_IMAGE_SIZE if args.vision_config is None else config.get("image_size", 224)
        size = usual if args.image_size is None else args.image_size
        if "image_size" in AutoConfig.for_model(**config).to_dict():
            config["image_size"] = size
        self.parts["image_processor"] = ViTImageProcessorPil(size={"height": size, "width": size}, do_convert_rgb=True)
        self.fields["vision_config"] = config

    def read_audio(self) -> None:
        args = self.args
        if args.audio_model_name_or_path is not None:
            with named_errors(args.audio_model_name_or_path):
                self.parts["feature_extractor"] = AutoFeatureExtractor.from_pretrained(args.audio_model_name_or_path)
            return
        config = _backbone_config("audio", args.audio_config, SMALL_WAV2VEC2)
        kind = type(AutoConfig.for_model(**config))
        if kind not in FEATURE_EXTRACTOR_MAPPING:
            raise ValueError(
                f"--audio_config: a {config['model_type']} model reads no audio; choose another, such as wav2vec2"
            )
        extractor_class: Any = FEATURE_EXTRACTOR_MAPPING[kind]
        self.parts["feature_extractor"] = extractor_class()
        self.fields["audio_config"] = config

    def read_id(self) -> None:
        self.fields["num_items"], self.parts["item_ids"] = len(self.items), self.items["item_id"]

    def read_users(self) -> None:
        encoder = self.args.user_encoder_type
        if encoder not in USER_ENCODERS or not USER_ENCODERS[encoder].reads_user_ids:
            return  # TransRecConfig refuses an unknown one
        if self.user_ids is None:
            raise ValueError(f"--user_encoder_type {encoder} needs the users that it is trained on; give user_ids")
        self.fields["num_users"], self.parts["user_ids"] = len(self.user_ids), self.user_ids


def _backbone_config(kind: str, given: str | None, small: dict) -> dict:
    """Returns the configuration of a backbone that is trained from scratch."""
    if given is None:
        logger.warning("No %s backbone was named: a small %s (%s) is trained", kind, small["model_type"], small)
        return dict(small)
    config = read_json(f"--{kind}_config", given)
    if "model_type" not in config:
        example = {"model_type": small["model_type"]}
        raise ValueError(f'--{kind}_config must have a "model_type", such as {json.dumps(example)}')
    return config


def _refuse_unread(args: ModelArguments, model: TransRecForSequentialRecommendation) -> None:
    """Refuses options that this model does not read, unless they have the default's value."""
    config, encoder, loss = model.config, model.item_encoder, LOSSES[model.config.loss_type]
    auxiliary = None if config.auxiliary_loss_type is None else AUXILIARY_LOSSES[config.auxiliary_loss_type]
    has_text, has_image = "text" in encoder.modalities, "image" in encoder.modalities
    reads = {
        "item_projection": bool(encoder.parts),
        "fusion": encoder.fusion is not None,
        "fusion_weights": encoder.fusion is not None,
        "id_fusion": encoder.id_fusion is not None,
        "id_dropout_prob": encoder.id_embedding is not None and bool(encoder.parts),
        "text_pooling": encoder.text is not None,
        "image_pooling": encoder.image is not None,
        "image_size": has_image,
        "image_preprocessing": bool(args.vision_model_name_or_path or args.multimodal_model_name_or_path),
        "vocab_size": has_text and not any((args.text_model_name_or_path, args.tokenizer_name_or_path)),
        "language": has_text,
        "max_text_length": has_text,
        "item_prefix": has_text,
        "max_audio_seconds": "audio" in encoder.modalities,
        "num_next_items": config.objective == "next_k_items",
        "user_adapter_reduction": config.user_adapter is not None,
        "mask_probability": config.objective == "masked_item",
        "num_negatives": loss.samples,
        "negative_sampling": loss.samples,
        "gbce_t": "gbce_t" in loss.options,
        "distillation_weight": loss.reads_views,
        "distillation_warmup_epochs": loss.reads_views,
        "distillation_temperature": loss.reads_views,
        "auxiliary_weight": auxiliary is not None,
        "auxiliary_temperature": auxiliary is not None,
        "num_intents": auxiliary is not None and auxiliary.reads_intents,
        "intent_weight": auxiliary is not None and auxiliary.reads_intents,
    }
    projection = PROJECTIONS[config.item_projection]
    for name in {name for row in PROJECTIONS.values() for name in row.options}:
        reads[name] = bool(encoder.parts) and name in projection.options
    own_options = {name for one in USER_ENCODERS.values() for name in one.options}
    reads |= {name: name in USER_ENCODERS[config.user_encoder_type].options for name in own_options}
    defaults = TransRecConfig().to_dict()
    for name, is_read in reads.items():
        value = getattr(args, name)
        if value is not None and not is_read and value != defaults.get(name):
            raise ValueError(
                f"--{name} {value} has no effect on a model of {config.modality} with item_projection="
                f"{config.item_projection!r}, user_encoder_type={config.user_encoder_type!r}, loss_type="
                f"{config.loss_type!r} and objective={config.objective!r}; leave it out"
            )
