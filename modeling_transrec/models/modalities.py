"""Defines the modalities of an item (text, image, audio, id), one object each, in one table.

A modality names its column of the items table and defines how the processor prepares a value (raw to stored), how
stored values become the tensors of a batch, and which encoder reads those. Processor, collator, preparation,
precomputed features and item encoder iterate the table: a new modality is a new row.

Shapes: `U` items, `P` of them that have an image or a sound, `T` text tokens.
"""

import itertools
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image

from .config_limits import LARGEST_IMAGE
from .content_encoders import AudioEncoder, ContentEncoder, ImageEncoder, TextEncoder
from .media import open_image, read_audio


if TYPE_CHECKING:
    from .configuration_transrec import TransRecConfig
    from .processing_transrec import TransRecProcessor


NO_VIDEO = "videos are not read: give an item's cover as its image, and its sound as its audio"
_LONGEST_AUDIO = 600  # seconds
_NOT_THERE = -1  # in `image_index` and `audio_index`: the item has none


class Modality:
    """Base of the modalities. A subclass defines how its values are prepared and collated.

    Args (of the class):
        name: name of the modality, of its encoder in the item encoder and, with a suffix, of its tensors.
        content: phrase for messages about what an item has or lacks: `"an image"`.
        argument: its argument in a call of [`TransRecProcessor`].
        part: attribute of the processor that prepares it, such as `"tokenizer"`.
        config_field: field of [`TransRecConfig`] that sets its own encoder.
        option: argument of `from_encoder_pretrained` that names a backbone.
        encoder_class: its encoder; `None` for ids.
        inputs: names of the model's inputs that it is turned into.
        stored: columns of prepared items and their types.
        is_sparse: whether its tensors have entries only for the items that have the content, and an index tells which.
        is_saved: whether the processor's part is saved in files of its own.
        entries: what the first dimension of its tensors counts: `"items"`, or those that have the content.
    """

    name: ClassVar[str]
    content: ClassVar[str]
    argument: ClassVar[str]
    part: ClassVar[str]
    config_field: ClassVar[str]
    option: ClassVar[str | None] = None
    encoder_class: ClassVar[Callable[..., ContentEncoder] | None] = None
    inputs: ClassVar[tuple[str, ...]]
    stored: ClassVar[dict[str, Any]]
    is_sparse = False
    is_saved = True
    entries = "items"
    loading: ClassVar[dict[str, str]] = {}

    def is_read(self, config: "TransRecConfig") -> bool:
        """Returns whether a model of this configuration reads it."""
        fields = {backbone.config_field for backbone in BACKBONES.values() if self.name in backbone.reads}
        return any(getattr(config, field) is not None for field in {self.config_field, *fields})

    def column(self, processor: "TransRecProcessor") -> str:
        """Returns the column of the items table that holds it."""
        return self.name

    def sizes(self, name: str) -> dict[int, str]:
        """Names the sizes of one of its `inputs` that differ between batches, by dimension."""
        return {0: self.entries}

    def check(self, processor: "TransRecProcessor") -> None:
        """Raises `ValueError` if the processor's part cannot be used."""

    def shape(self, processor: "TransRecProcessor") -> tuple[int, ...]:
        """Returns the shape of one stored content, where all have the same; see `TransRecProcessor.shape_of`."""
        raise NotImplementedError

    def prepare(self, processor: "TransRecProcessor", values: Sequence) -> dict[str, list]:
        """Turns raw values of the column into stored ones, `None` where an item has none."""
        raise NotImplementedError

    def collate(self, processor: "TransRecProcessor", stored: Mapping[str, Sequence]) -> dict[str, torch.Tensor]:
        """Turns stored values into the tensors of a batch."""
        raise NotImplementedError

    def pad(self, processor: "TransRecProcessor", stored: Mapping[str, Sequence]) -> dict[str, torch.Tensor]:
        """Turns stored values, or precomputed features and states in their place, into the tensors of a batch."""
        batch = self.collate(processor, stored) if set(self.stored) & set(stored) else {}
        for name in (f"{self.name}_features", f"{self.name}_states"):
            if name in stored:
                values = stored[name]
                if self.is_sparse:
                    values, batch[f"{self.name}_index"] = present(values)
                batch[name] = as_tensor(values)
        return batch


def as_text(value: Any) -> str | None:
    """Returns a title as text; numbers are titles, too, and NaN is none.

    >>> as_text(1984), as_text(7.0), as_text(None)
    ('1984', '7', None)
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, numbers.Number | np.generic):
        raise ValueError(f"a text must be a string or a number, got {type(value).__name__}: {str(value)[:60]!r}")
    if value != value:
        return None
    return str(int(value)) if isinstance(value, float | np.floating) and value == int(value) else str(value)


class TextModality(Modality):
    """Texts, as tokens. Stored: `input_ids`, without padding, and `has_text`, false for a blank text."""

    name, content = "text", "a text"
    argument, part = "text", "tokenizer"
    config_field, option = "text_config", "text_model_name_or_path"
    encoder_class = TextEncoder
    inputs = ("input_ids", "attention_mask", "has_text")
    stored: ClassVar[dict[str, Any]] = {"has_text": "bool", "input_ids": ["int32"]}

    def column(self, processor: "TransRecProcessor") -> str:
        """Returns the column of the texts in the processor's language."""
        return f"text_{processor.language}"

    def sizes(self, name: str) -> dict[int, str]:
        """Names the number of items and, of tokens and their mask, the length of the longest text."""
        return {0: self.entries} if name == "has_text" else {0: self.entries, 1: "tokens"}

    def check(self, processor: "TransRecProcessor") -> None:
        """Raises `ValueError` if the tokenizer cannot pad, or leaves no room for a token."""
        tokenizer = processor.tokenizer
        least = _num_tokens_beside(processor) + 1
        if processor.max_text_length < least:
            prefix = f" and item_prefix={processor.item_prefix!r}" if processor.item_prefix else ""
            raise ValueError(
                f"max_text_length must be at least {least} for this tokenizer{prefix}, got {processor.max_text_length}"
            )
        if tokenizer.pad_token is None:  # decoders such as GPT-2 have none; padding is masked out anyway
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError("the tokenizer has no pad token, nor an eos token to stand for it; set its pad_token")

    def prepare(self, processor: "TransRecProcessor", values: Sequence[str | None]) -> dict[str, list]:
        """Tokenizes texts; a text without tokens is one token, which is not read."""
        texts = [as_text(value) or "" for value in values]
        if processor.do_lower_case:
            texts = [text.lower() for text in texts]
        prefixed = [processor.item_prefix + text if text.strip() else text for text in texts]
        tokens = processor.tokenizer(
            prefixed, truncation=True, max_length=processor.max_text_length, padding=False, return_attention_mask=False
        )["input_ids"]
        none = _num_tokens_beside(processor)
        has_text = [len(ids) > none and bool(text.strip()) for ids, text in zip(tokens, texts, strict=True)]
        return {"has_text": has_text, "input_ids": [ids or [_empty_text_token(processor.tokenizer)] for ids in tokens]}

    def collate(self, processor: "TransRecProcessor", stored: Mapping[str, Sequence]) -> dict[str, torch.Tensor]:
        """Pads the tokens on the right to the longest text."""
        batch = {}
        if "input_ids" in stored:
            padded = pad_right(stored["input_ids"], processor.tokenizer.pad_token_id)
            batch["input_ids"], batch["attention_mask"] = map(torch.from_numpy, padded)
        if "has_text" in stored:
            batch["has_text"] = torch.tensor(stored["has_text"], dtype=torch.bool)
        return batch


class ImageModality(Modality):
    """Images, as bytes. Stored: `pixels`, resized and cropped, `(3, height, width)`."""

    name, content = "image", "an image"
    argument, part = "images", "image_processor"
    config_field, option = "vision_config", "vision_model_name_or_path"
    encoder_class = ImageEncoder
    inputs = ("pixel_values",)
    stored: ClassVar[dict[str, Any]] = {"pixels": "binary"}
    is_sparse, entries = True, "images"
    loading: ClassVar[dict[str, str]] = {"backend": "pil"}

    def check(self, processor: "TransRecProcessor") -> None:
        """Raises `ValueError` for images too large for memory."""
        for name in ("size", "crop_size"):
            for side, pixels in dict(getattr(processor.image_processor, name, None) or {}).items():
                if pixels is not None and pixels > LARGEST_IMAGE:
                    raise ValueError(
                        f"the image processor's {name} must be at most {LARGEST_IMAGE}, got {side}={pixels}"
                    )

    def shape(self, processor: "TransRecProcessor") -> tuple[int, ...]:
        """Returns `(3, height, width)` of every image after resizing and cropping."""
        shapes = {self.resize(processor, Image.new("RGB", size)).shape for size in ((64, 48), (48, 64))}
        if len(shapes) > 1:
            raise ValueError(
                f"{type(processor.image_processor).__name__} makes images of different sizes, and a batch needs one; "
                'give it a fixed one, such as size={"height": 224, "width": 224}'
            )
        return shapes.pop()

    def resize(self, processor: "TransRecProcessor", image: Image.Image) -> np.ndarray:
        """Resizes and crops an image with the image processor, to `(3, height, width)` of uint8."""
        resized = processor.image_processor([image], do_rescale=False, do_normalize=False, return_tensors="np")
        return np.asarray(resized["pixel_values"])[0].astype(np.uint8)

    def prepare(self, processor: "TransRecProcessor", values: Sequence) -> dict[str, list]:
        """Resizes images, given as `PIL.Image`, bytes, path, or the dictionary of an undecoded `datasets.Image`."""
        images = [open_image(value) for value in values]
        return {"pixels": [None if image is None else self.resize(processor, image).tobytes() for image in images]}

    def collate(self, processor: "TransRecProcessor", stored: Mapping[str, Sequence]) -> dict[str, torch.Tensor]:
        """Joins the images that are there, as bytes: a quarter of the size of floats on the way to the device."""
        pixels, index = present(stored["pixels"])
        flat = np.frombuffer(bytearray().join(pixels), dtype=np.uint8)  # writable, without another copy
        return {
            "pixel_values": torch.from_numpy(flat.reshape(-1, *processor.shape_of(self.name))),
            "image_index": index,
        }


class AudioModality(Modality):
    """Sounds, as the feature extractor returns them: samples, or a spectrogram.

    Stored: `audio_values`, float32, without padding. In a batch all have the length of `max_audio_seconds`, so that an
    item's embedding does not depend on the other items.
    """

    name, content = "audio", "a sound"
    argument, part = "audio", "feature_extractor"
    config_field, option = "audio_config", "audio_model_name_or_path"
    encoder_class = AudioEncoder
    inputs = ("input_values", "input_features", "audio_mask")
    stored: ClassVar[dict[str, Any]] = {"audio_values": "binary"}
    is_sparse, entries = True, "sounds"

    def check(self, processor: "TransRecProcessor") -> None:
        """Raises `ValueError` for a length outside the allowed range."""
        if not 0 < processor.max_audio_seconds <= _LONGEST_AUDIO:
            raise ValueError(
                f"max_audio_seconds must be above 0 and at most {_LONGEST_AUDIO}, got {processor.max_audio_seconds}"
            )

    def extract(self, processor: "TransRecProcessor", samples: np.ndarray) -> np.ndarray:
        """Returns the feature extractor's output for the samples of one sound."""
        extractor = processor.feature_extractor
        made = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
        return np.asarray(made[extractor.model_input_names[0]][0], dtype=np.float32)

    def shape(self, processor: "TransRecProcessor") -> tuple[int, ...]:
        """Returns the shape of the longest sound: `(samples,)`, or that of a spectrogram."""
        num_samples = int(processor.max_audio_seconds * processor.feature_extractor.sampling_rate)
        return self.extract(processor, np.zeros(num_samples, dtype=np.float32)).shape

    def prepare(self, processor: "TransRecProcessor", values: Sequence) -> dict[str, list]:
        """Reads sounds, mixes their channels, resamples them, and hands them to the feature extractor."""
        rate = processor.feature_extractor.sampling_rate
        sounds = [read_audio(value, rate, processor.max_audio_seconds) for value in values]
        return {"audio_values": [None if one is None else self.extract(processor, one).tobytes() for one in sounds]}

    def collate(self, processor: "TransRecProcessor", stored: Mapping[str, Sequence]) -> dict[str, torch.Tensor]:
        """Pads the sounds that are there; a mask is made where the feature extractor would make one."""
        sounds, index = present(stored["audio_values"])
        extractor, (longest, *rest) = processor.feature_extractor, processor.shape_of(self.name)
        padded = np.full((len(sounds), longest, *rest), extractor.padding_value, dtype=np.float32)
        lengths = np.zeros(len(sounds), dtype=np.int64)
        for place, sound in enumerate(sounds):
            values = np.frombuffer(sound, dtype=np.float32).reshape(-1, *rest)
            padded[place, : len(values)], lengths[place] = values, len(values)
        batch = {extractor.model_input_names[0]: torch.from_numpy(padded), "audio_index": index}
        if getattr(extractor, "return_attention_mask", False):
            batch["audio_mask"] = torch.from_numpy((np.arange(longest) < lengths[:, None]).astype(np.int64))
        return batch


class IdModality(Modality):
    """Item ids, as indices into the id table: an item is known only by the interactions with it."""

    name, content = "id", "an id"
    argument = part = "item_ids"
    config_field = "num_items"
    inputs = ("item_ids",)
    stored: ClassVar[dict[str, Any]] = {"item_ids": "int64"}
    is_saved = False

    def column(self, processor: "TransRecProcessor") -> str:
        """Returns the column of the ids."""
        return "item_id"

    def prepare(self, processor: "TransRecProcessor", values: Sequence[str]) -> dict[str, list]:
        """Looks ids up in the id table."""
        return {"item_ids": [processor.item_id_index(item_id) for item_id in values]}

    def collate(self, processor: "TransRecProcessor", stored: Mapping[str, Sequence]) -> dict[str, torch.Tensor]:
        """Makes a tensor of the indices."""
        return {"item_ids": torch.tensor(stored["item_ids"], dtype=torch.long)}


MODALITIES: dict[str, Modality] = {
    modality.name: modality for modality in (TextModality(), ImageModality(), AudioModality(), IdModality())
}


class Backbone(NamedTuple):
    """A pretrained model in the item encoder, of one modality or of several at once.

    Args:
        config_field: field of [`TransRecConfig`] that describes it.
        option: argument of `from_encoder_pretrained`, and of the command line, that names a pretrained one.
        reads: its modalities.
    """

    config_field: str
    option: str
    reads: tuple[str, ...]


BACKBONES = {
    name: Backbone(modality.config_field, modality.option, (name,))
    for name, modality in MODALITIES.items()
    if modality.option is not None
}
BACKBONES["multimodal"] = Backbone("multimodal_config", "multimodal_model_name_or_path", ("text", "image"))


def present(values: Sequence) -> tuple[list, torch.Tensor]:
    """Returns the values that are not `None`, and for each item the index of its value among them, -1 for `None`."""
    is_there = np.array([value is not None for value in values], dtype=bool)
    index = np.where(is_there, is_there.cumsum() - 1, _NOT_THERE)
    return [value for value in values if value is not None], torch.from_numpy(index)


def as_tensor(values: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """Returns stored features or states at their own precision; bfloat16, which numpy lacks, is kept as uint16."""
    tensor = torch.from_numpy(np.asarray(values) if len(values) else np.zeros(0, dtype=np.float32))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def pad_right(lists: Sequence[Sequence[int]], filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads texts' tokens to one array `(U, T)`, and makes its mask, 1 at tokens.

    It replaces the tokenizer's `pad`, which loops over the texts in Python. It pads on the right, whatever the
    tokenizer's setting, since backbones with absolute positions count from the left.

    >>> pad_right([[5], [1, 2]], filler=0)
    (array([[5, 0],
           [1, 2]]), array([[1, 0],
           [1, 1]]))
    """
    lengths = np.array([*map(len, lists)], dtype=np.int64)
    is_token = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full(is_token.shape, filler, dtype=np.int64)
    padded[is_token] = np.fromiter(itertools.chain.from_iterable(lists), np.int64, lengths.sum())
    return padded, is_token.astype(np.int64)


def _num_tokens_beside(processor: "TransRecProcessor") -> int:
    """Returns how many tokens there are beside those of a text: special ones, and those of the prefix."""
    tokenizer = processor.tokenizer
    # A space at the end may become a part of the text's first token.
    return tokenizer.num_special_tokens_to_add() + len(tokenizer.tokenize(processor.item_prefix.rstrip()))


def _empty_text_token(tokenizer) -> int:
    """Returns the token that stands for a text without tokens, where the tokenizer adds no special ones."""
    for token in (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id):
        if token is not None:
            return token
    raise ValueError("the tokenizer has no eos, unk or pad token to stand for an empty text")
