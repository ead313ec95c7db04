"""The image processor of a pretrained vision backbone: its own size, mean and standard deviation."""

import logging

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    ViTImageProcessorPil,
)

from ..models.checkpoint_files import named_errors


logger = logging.getLogger(__name__)


def load_image_processor(name_or_path: str, image_size: int | None = None, square: bool = False, **where):
    """Loads the image processor of a pretrained vision backbone, with its own mean, standard deviation and size.

    Args:
        name_or_path: Hub id or folder; the configuration of timm's models is translated.
        image_size: another height and width, in pixels.
        square: whether to make images square that the processor itself would leave of different shapes.
        where: `revision`, `token`, …
    """
    with named_errors(name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **where)
    if config.model_type == "timm_wrapper":
        processor = timm_image_processor(config)
    else:
        processor = AutoImageProcessor.from_pretrained(name_or_path, backend="pil", **where)
    if image_size is None and square:
        image_size = getattr(getattr(config, "vision_config", config), "image_size", 224)
    if image_size is None:
        return processor
    size = {"height": image_size, "width": image_size}
    if hasattr(processor, "size_divisor"):  # such as ViLT's, which keeps the shape of an image
        names = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        own = {name: getattr(processor, name) for name in names}
        return ViTImageProcessorPil(size=size, do_convert_rgb=True, **own)
    processor.size = size
    if isinstance(processor, ConvNextImageProcessorPil):
        processor.size = {"shortest_edge": image_size}  # of a square, here
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = size
    return processor


def ninerec_image_processor(image_size: int | None = None) -> ViTImageProcessorPil:
    """Returns the image processor of NineRec's code, whatever the backbone.

    Images become squares of 224 or `image_size` pixels, bilinear, with mean and standard deviation 0.5.

    >>> ninerec_image_processor(64).size["height"]
    64
    """
    side, half = image_size or 224, [0.5, 0.5, 0.5]
    size = {"height": side, "width": side}
    return ViTImageProcessorPil(size=size, resample=2, image_mean=half, image_std=half, do_convert_rgb=True)


def timm_image_processor(config):
    """Returns an image processor that does what timm does in evaluation, and that can be saved.

    Where the margins of the crop are uneven, it may begin a pixel before timm's.
    """
    import timm

    data = timm.data.resolve_data_config(pretrained_cfg=config.pretrained_cfg or {})
    if data["crop_mode"] == "border":
        logger.warning("timm fits this model's images into a border; here they are cropped at the centre")
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
