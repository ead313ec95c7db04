"""Options for one call of the processor, as in transformers: by groups (`text_kwargs=…`) or flat (`max_length=…`)."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs

from .configuration_transrec import did_you_mean
from .modalities import MODALITIES, NO_VIDEO


if TYPE_CHECKING:
    from .processing_transrec import TransRecProcessor


_GROUPS = ("text_kwargs", "images_kwargs", "audio_kwargs")
_UNCUT = 2**31 - 1  # tokens
_NORMALIZATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
# Of image processors: what has no effect here, where images are read by Pillow and stay on the CPU.
_NOT_OF_IMAGES = {"data_format", "input_data_format", "device", "disable_grouping", "image_seq_length"}


class TransRecTextKwargs(TypedDict, total=False):
    """Options of texts.

    Args:
        max_length (`int`): longest text in tokens; by default the processor's `max_text_length`.
        truncation (`bool`): whether longer ones are cut, as they are by default.
        padding (`bool` or `str`):
            `True` or `"longest"`, the default; `"max_length"`; `False` or `"do_not_pad"` for texts of one length.
        pad_to_multiple_of (`int`): pads further, to a multiple of it.
        return_tensors (`str`): as in [`TransRecProcessorKwargs`].
    """

    max_length: int
    truncation: bool
    padding: bool | str
    pad_to_multiple_of: int | None
    return_tensors: str | None


class TransRecAudioKwargs(TypedDict, total=False):
    """Options of sounds.

    Args:
        sampling_rate (`int`): that of sounds that are given as arrays; by default the feature extractor's.
        return_tensors (`str`): as in [`TransRecProcessorKwargs`].
    """

    sampling_rate: int
    return_tensors: str | None


class NoVideosKwargs(TypedDict, total=False):
    """Options of videos, which are not read: there are none."""


class TransRecProcessorKwargs(ProcessingKwargs, total=False):
    """Options of one call of [`TransRecProcessor`], by groups or flat; what is saved with the processor stays.

    Args:
        text_kwargs ([`TransRecTextKwargs`]): of texts.
        images_kwargs (`ImagesKwargs`):
            Those of the image processor, such as `size`. With one of `do_rescale`, `rescale_factor`, `do_normalize`,
            `image_mean` and `image_std`, images are rescaled and normalised here, to floats, which the model takes
            as they are; by default they stay bytes, which it normalises.
        audio_kwargs ([`TransRecAudioKwargs`]): of sounds.
        return_tensors (`str`, defaults to `"pt"`): `"pt"`, or `"np"`, which an exported model takes.
    """

    text_kwargs: TransRecTextKwargs  # type: ignore[misc]  # narrower than transformers', like every processor's
    audio_kwargs: TransRecAudioKwargs  # type: ignore[misc]  # the same
    videos_kwargs: NoVideosKwargs  # type: ignore[misc]  # the same


class CallOptions:
    """What a call changes: the processor that prepares its items, and what is made of the batch afterwards.

    Args:
        processor: the processor that is called; it stays as it is.
        kwargs: the options of the call, see [`TransRecProcessorKwargs`].

    Raises:
        TypeError: for an option that there is not, or of a modality that is not read.
        ValueError: for a value that an option does not take.
    """

    def __init__(self, processor: "TransRecProcessor", kwargs: Mapping[str, Any]):
        _check_names(processor, kwargs)
        merged = processor._merge_kwargs(**kwargs)
        wanted = {group.pop("return_tensors", "pt") for group in merged.values() if isinstance(group, dict)} - {"pt"}
        self.return_tensors = wanted.pop() if wanted else "pt"
        if self.return_tensors not in ("pt", "np") or wanted:
            raise ValueError(f"return_tensors must be 'pt' or 'np', got {self.return_tensors!r}")
        self.text, images = merged["text_kwargs"], merged["images_kwargs"]
        validate_typed_dict(TransRecTextKwargs, self.text)  # type: ignore[type-var]  # its bound has no TypedDict
        if self.text.get("padding") not in (None, True, False, "longest", "max_length", "do_not_pad"):
            raise ValueError(f"padding must be True, False, 'longest' or 'max_length', got {self.text['padding']!r}")
        self.sampling_rate = merged["audio_kwargs"].get("sampling_rate")
        self.processor = processor if not (self.text or images) else copy.copy(processor)
        self.normalizes = any(name in images for name in _NORMALIZATION)
        if self.text:
            self._change_texts(self.processor)
        if images:
            self._change_images(self.processor, images)

    def _change_texts(self, processor: "TransRecProcessor") -> None:
        self.max_length = self.text.get("max_length", processor.max_text_length)
        processor.max_text_length = self.max_length if self.text.get("truncation", True) else _UNCUT
        MODALITIES["text"].check(processor)

    def _change_images(self, processor: "TransRecProcessor", options: Mapping[str, Any]) -> None:
        images = processor.image_processor
        processor.image_processor, processor._shapes = type(images).from_dict({**images.to_dict(), **options}), {}
        MODALITIES["image"].check(processor)
        if processor.image_processor.do_normalize and options.get("do_rescale") is False:
            raise ValueError(
                "do_rescale=False is for images of values from 0 to 1, and here they are bytes; leave it out, or give "
                "do_normalize=False, too"
            )

    def with_sampling_rate(self, columns: dict[str, Sequence]) -> dict[str, Sequence]:
        """Returns the columns of items with sounds that know their sampling rate, where one is given."""
        if self.sampling_rate is None:
            return columns
        sounds = columns["audio"]
        known = [
            one
            if one is None or isinstance(one, str | bytes | dict)
            else {"array": one, "sampling_rate": self.sampling_rate}
            for one in sounds
        ]
        return {**columns, "audio": known}

    def finish(self, batch: BatchFeature) -> BatchFeature:
        """Pads the texts of a batch as the options say, normalises its images, and makes arrays of it."""
        if self.text:
            batch.update(self._padded(batch["input_ids"], batch["attention_mask"]))
        if self.normalizes and len(batch["pixel_values"]):
            batch["pixel_values"] = self._normalized(batch["pixel_values"])
        if self.return_tensors == "np":
            batch.update({name: value.numpy() for name, value in batch.items()})
        return batch

    def _padded(self, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        padding, width = self.text.get("padding"), input_ids.shape[1]
        if padding in (False, "do_not_pad") and not mask.all():
            raise ValueError("the texts have different numbers of tokens, and make one tensor only with padding=True")
        multiple = self.text.get("pad_to_multiple_of") or 1
        least = max(width, self.max_length) if padding == "max_length" else width
        missing = -(-least // multiple) * multiple - width
        filler = self.processor.tokenizer.pad_token_id
        return {"input_ids": F.pad(input_ids, (0, missing), value=filler), "attention_mask": F.pad(mask, (0, missing))}

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        made = self.processor.image_processor(
            list(pixels.numpy()), do_resize=False, do_center_crop=False, input_data_format="channels_first"
        )
        return torch.tensor(np.stack(made["pixel_values"]))


def _check_names(processor: "TransRecProcessor", kwargs: Mapping[str, Any]) -> None:
    """Refuses options that the processor has not, which transformers would leave out with a warning."""
    if kwargs.get("videos") is not None or kwargs.get("videos_kwargs"):
        raise ValueError(NO_VIDEO)
    known = _known(processor)
    names = {"return_tensors"}.union(*known.values())
    for name, value in kwargs.items():
        if name in _GROUPS:
            options = known.get(name, {"return_tensors"})
            _refuse_unknown(set(value) - options, options, f" in {name}")
        elif name == "common_kwargs":
            _refuse_unknown(set(value) - names, names, " in common_kwargs")
        else:
            _refuse_unknown({name} - names, names | set(known), "")


def _known(processor: "TransRecProcessor") -> dict[str, set[str]]:
    """Returns the options that a processor has, by groups."""
    known = {}
    if "text" in processor.modalities:
        known["text_kwargs"] = set(TransRecTextKwargs.__annotations__)
    if "image" in processor.modalities:
        of_images = {*ImagesKwargs.__annotations__, *processor.image_processor.valid_kwargs.__annotations__}
        known["images_kwargs"] = of_images - _NOT_OF_IMAGES
    if "audio" in processor.modalities:
        known["audio_kwargs"] = set(TransRecAudioKwargs.__annotations__)
    return known


def _refuse_unknown(names: set[str], known: set[str], where: str) -> None:
    for name in sorted(names):
        raise TypeError(
            f"a call of TransRecProcessor has no option {name!r}{where}; {did_you_mean(name, sorted(known))}"
        )
