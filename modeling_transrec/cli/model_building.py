"""From the scripts' options to a model and its processor: of a checkpoint, around backbones, from scratch."""

import logging
from collections.abc import Sequence

import datasets
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    ViTImageProcessorPil,
)

from ..models.checkpoint_files import check_place
from ..models.configuration_transrec import READ_THE_LAST_PLACE, TransRecConfig
from ..models.losses import LOSSES
from ..models.modeling_transrec import TransRecForSequentialRecommendation
from ..models.processing_transrec import TransRecProcessor, train_tokenizer
from ..serving.recommender import drop_foreign_ids
from .arguments import ModelArguments, load_config, read_json


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
    _refuse_unread(args, model)
    if args.peft is not None:
        options = read_json("--peft_config", args.peft_config) if args.peft_config is not None else {}
        model.add_peft_adapter({"peft_type": args.peft.upper(), **options})
    return model, processor


def _refuse_unread(args: ModelArguments, model: TransRecForSequentialRecommendation) -> None:
    """Options that this model does not read are errors, unless they are the default."""
    config, encoder, loss = model.config, model.item_encoder, LOSSES[model.config.loss_type]
    has_text, has_image = "text" in encoder.modalities, "image" in encoder.modalities
    reads = {
        "fusion": encoder.fusion is not None,
        "id_fusion": encoder.id_fusion is not None,
        "text_pooling": encoder.text is not None,
        "image_pooling": encoder.image is not None,
        "image_size": has_image,
        "vocab_size": has_text and not any((args.text_model_name_or_path, args.tokenizer_name_or_path)),
        "language": has_text,
        "max_text_length": has_text,
        "mask_probability": config.objective == "masked_item",
        "num_negatives": loss.samples,
        "negative_sampling": loss.samples,
        "gbce_t": config.loss_type == "gbce",
    }
    for name, is_read in reads.items():
        value = getattr(args, name)
        if value is not None and not is_read and value != getattr(TransRecConfig(), name, None):
            raise ValueError(
                f"--{name} {value} has no effect on a model of {config.modality} with loss_type={config.loss_type!r} "
                f"and objective={config.objective!r}; leave it out"
            )


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
        if getattr(model.config.multimodal_config, "model_type", None) in READ_THE_LAST_PLACE:
            # SigLIP 2's does not say it.
            model.config.multimodal_config.text_config.pad_token_id = parts["tokenizer"].pad_token_id
    else:
        model = TransRecForSequentialRecommendation(TransRecConfig(**fields))
    return model, TransRecProcessor(**parts, **processing)


def _text_backbone_from_scratch(args: ModelArguments, items: datasets.Dataset):
    """Tokenizer and configuration."""
    if args.tokenizer_name_or_path is not None:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
    else:
        texts = items[f"text_{args.language or 'en'}"]
        texts = (text for text in texts if text)
        tokenizer = train_tokenizer(texts) if args.vocab_size is None else train_tokenizer(texts, args.vocab_size)
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
    if image_size is None:
        return processor
    size = {"height": image_size, "width": image_size}
    if hasattr(processor, "size_divisor"):  # such as ViLT's, which keeps the shape of a picture
        names = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        own = {name: getattr(processor, name) for name in names}
        return ViTImageProcessorPil(size=size, do_convert_rgb=True, **own)
    processor.size = size
    if isinstance(processor, ConvNextImageProcessorPil):
        processor.size = {"shortest_edge": image_size}  # of a square, here
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = size
    return processor


def timm_image_processor(config):
    """What timm does to pictures for this model in evaluation, as an image processor that can be saved.

    Where the margins of the crop are uneven, it may begin a pixel before timm's.
    """
    import timm

    data = timm.data.resolve_data_config(pretrained_cfg=config.pretrained_cfg or {})
    if data["crop_mode"] == "border":
        logger.warning("timm fits this model's pictures into a border; here they are cropped at the centre")
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


def _read_backbone_config(option: str, value: str) -> dict:
    parsed = read_json(option, value)
    if "model_type" not in parsed:
        raise ValueError(f'{option} must have a "model_type", such as {{"model_type": "bert"}}')
    return parsed
