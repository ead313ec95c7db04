"""Opens images and sounds. Those that cannot be read count as missing, with a warning."""

import io
import logging
import os
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps


logger = logging.getLogger(__name__)


_WHITE_IS_ZERO, _BITS = 262, 258  # tags of TIFF
_HALF_TRANSPARENT = {"La": "LA", "RGBa": "RGBA"}  # modes that are converted to RGB by way of another
# Judged by a file's content, whatever it is called; the decoders of other formats are never run.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_MOST_PIXELS = 2**27  # 400 MB decoded; no phone takes larger images
_VALUES_AT_ONCE = 2**22
_LONGEST_SHAPE = 100  # a longer side over a shorter one
# By libsndfile's name of the container; how the samples in it may be stored.
_PCM = ("PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
AUDIO_FORMATS = {
    "WAV": _PCM,
    "WAVEX": _PCM,
    "FLAC": _PCM,
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"),
}
_MOST_SAMPLES = 2**26  # 256 MB decoded: half a minute of eight channels at 192 kHz
_SAMPLING_RATES = range(100, 768_001)


def open_image(value) -> Image.Image | None:
    """Opens an image as RGB, upright; an image that cannot be read counts as missing, with a warning.

    Args:
        value: a `PIL.Image`, bytes, a path, or the dictionary of an undecoded `datasets.Image`.
    """
    name = getattr(value, "filename", None) or (value if isinstance(value, str) else "an image")
    if isinstance(value, dict):
        name = value["path"] or name
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if value is None:
        return None
    try:
        is_ours = not isinstance(value, Image.Image)
        if is_ours:
            value = Image.open(_checked(value), formats=IMAGE_FORMATS)
        _check_size(*value.size)  # before memory is taken
        value.load()
        return _to_rgb(_upright(value, in_place=is_ours), getattr(value, "tag_v2", {}))
    except MemoryError:
        raise
    except Exception as error:  # Pillow and its plug-ins raise nearly anything
        logger.warning("%s cannot be read and counts as missing: %s", name, error or type(error).__name__)
        return None


def _checked(value: bytes | str) -> BinaryIO | str:
    """Returns the contents of a file, to read, or its path; a pipe or a device, which could wait for ever, is none."""
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if os.path.exists(value) and not os.path.isfile(value):
        raise OSError("it is no file, but a folder, pipe or device")
    return value


def _check_size(width: int, height: int) -> None:
    """Refuses images that are far larger than those of any item, or so long that resizing them would make one."""
    if width * height > _MOST_PIXELS:
        raise ValueError(f"it has {width:,} x {height:,} pixels, and more than {_MOST_PIXELS:,} are not decoded")
    if max(width, height) > _LONGEST_SHAPE * min(width, height):
        raise ValueError(f"{width:,} x {height:,} pixels are not the shape of an image of an item")


def _upright(image: Image.Image, in_place: bool) -> Image.Image:
    """Turns an image as the camera that took it says; Exif data that cannot be read say nothing.

    Args:
        image: is copied otherwise, which takes the memory of a large one twice.
        in_place: whether it may be changed.
    """
    try:
        if not in_place:
            return ImageOps.exif_transpose(image)
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except Exception:
        return image


def _to_rgb(image: Image.Image, tags: Mapping) -> Image.Image:
    """Converts any mode to RGB; values of more than 8 bits are scaled, where Pillow would clip them.

    Args:
        image: of any mode.
        tags: of a TIFF file.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_as_bytes(np.asarray(image), image.mode, tags))
    if image.mode in _HALF_TRANSPARENT:
        image = image.convert(_HALF_TRANSPARENT[image.mode])
    return image if image.mode == "RGB" else image.convert("RGB")


def _as_bytes(values: np.ndarray, mode: str, tags: Mapping) -> np.ndarray:
    """Returns the values of one channel from black, 0, to white, 255; a few rows at a time, to keep memory small."""
    rows = max(1, _VALUES_AT_ONCE // max(1, values.shape[1]))
    blocks = [slice(start, start + rows) for start in range(0, len(values), rows)]

    def finite(block: slice) -> np.ndarray:
        return np.nan_to_num(values[block].astype(np.float64), posinf=0, neginf=0).clip(min=0)

    white = _white(mode, max(float(finite(block).max(initial=0)) for block in blocks), tags.get(_BITS, (16,))[0])
    found = np.empty(values.shape, np.uint8)
    for block in blocks:
        shares = (finite(block) / white).clip(max=1)
        if mode != "F" and tags.get(_WHITE_IS_ZERO) == 0:
            shares = 1 - shares
        found[block] = (shares * 255).round()
    return found


def _white(mode: str, largest: float, bits: int) -> float:
    """Returns the value of white: that of the file's depth, or, where any value may be stored, of the usual depths."""
    if mode.startswith("I;"):
        return 2**bits - 1 if 8 < bits < 16 else 2**16 - 1
    depths = (*([1] if mode == "F" else []), 2**8 - 1, 2**16 - 1)
    return next((white for white in depths if largest <= white), largest)


def read_audio(value, sampling_rate: int, max_seconds: float) -> np.ndarray | None:
    """Reads the beginning of a sound as samples of one channel, float32, at a sampling rate.

    A sound that cannot be read, or has no samples, counts as missing, with a warning.

    Args:
        value: an array at this sampling rate, `{"array": …, "sampling_rate": …}`, an audio file as bytes or path, the
            dictionary of an undecoded `datasets.Audio`, or what it decodes to.
        sampling_rate: the feature extractor's.
        max_seconds: longer sounds are cut; no more of them is decoded.
    """
    name = value if isinstance(value, str) else "a sound"
    value = getattr(value, "_hf_encoded", value)  # of `datasets.Audio`: the file, which its decoder has not read yet
    if isinstance(value, dict) and "array" not in value:
        name = value["path"] or name
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if value is None:
        return None
    if isinstance(value, bytes | str):
        _audio_libraries()
    try:
        samples, rate = _samples_of(value, sampling_rate, max_seconds)
        samples = samples.mean(axis=0) if samples.ndim == 2 else samples  # (channels, samples)
        samples = samples[: int(max_seconds * rate)]
        if rate != sampling_rate:
            samples = _audio_libraries()[1].resample(samples, rate, sampling_rate)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # decoders raise nearly anything
        logger.warning("%s cannot be read and counts as missing: %s", name, error or type(error).__name__)
        return None
    if len(samples) == 0:
        logger.warning("%s has no samples and counts as missing", name)
        return None
    return samples[: int(max_seconds * sampling_rate)]


def _samples_of(value, sampling_rate: int, max_seconds: float) -> tuple[np.ndarray, int]:
    """Returns samples, float32, of one channel or `(channels, samples)`, and their sampling rate."""
    rate = sampling_rate
    if isinstance(value, bytes | str):
        file = _checked(value)
        with open(file, "rb") if isinstance(file, str) else file as opened:
            return _decode(opened, max_seconds)
    if hasattr(value, "get_samples_played_in_range"):  # a decoder of torchcodec that somebody made
        decoded = value.get_samples_played_in_range(0, max_seconds)
        value, rate = decoded.data.numpy(), decoded.sample_rate
    elif isinstance(value, dict):
        value, rate = value["array"], value["sampling_rate"]
    _check_rate(rate)
    return np.asarray(value, dtype=np.float32), rate


def _decode(file: BinaryIO, max_seconds: float) -> tuple[np.ndarray, int]:
    """Returns the first samples `(channels, samples)` of an audio file, and their sampling rate.

    Its first bytes, then its header, are checked before a decoder runs, and before memory is taken.
    """
    _check_beginning(file)
    with _audio_libraries()[0].SoundFile(file) as opened:
        if opened.subtype not in AUDIO_FORMATS.get(opened.format, ()):
            raise ValueError(f"{opened.format_info}, {opened.subtype_info}, is not decoded")
        _check_rate(opened.samplerate)
        number = min(opened.frames, int(max_seconds * opened.samplerate) + 1)
        if number * opened.channels > _MOST_SAMPLES:
            raise ValueError(f"{number:,} samples of {opened.channels} channels are more than are decoded")
        return opened.read(number, dtype="float32", always_2d=True).T, opened.samplerate


def _check_beginning(file: BinaryIO) -> None:
    """Raises `ValueError` for a file that does not begin as one of the formats; goes back to its beginning."""
    start = file.read(12)
    if start[:3] == b"ID3":  # a tag before the sound; its size has 7 bits a byte
        file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=False)))
        start = file.read(12)
    file.seek(0)
    is_mpeg = len(start) > 1 and start[0] == 0xFF and start[1] >= 0xE0
    if not (is_mpeg or start[:4] in (b"fLaC", b"OggS") or (start[:4] == b"RIFF" and start[8:] == b"WAVE")):
        raise ValueError(f"it is no WAV, FLAC, OGG or MP3 file, but begins with {start!r}")


def _check_rate(rate: int) -> None:
    if rate not in _SAMPLING_RATES:
        raise ValueError(f"its sampling rate is {rate}, and must be {_SAMPLING_RATES[0]} to {_SAMPLING_RATES[-1]:,}")


def _audio_libraries():
    """Returns `soundfile`, which decodes, and `soxr`, which resamples."""
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise ImportError(
            "reading and resampling audio needs soundfile and soxr: pip install modeling_transrec[audio]"
        ) from error
    return soundfile, soxr
