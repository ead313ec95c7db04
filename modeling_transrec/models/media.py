"""Opens images and sounds. Those that cannot be read count as missing, with a warning."""

import io
import logging
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps


logger = logging.getLogger(__name__)


_WHITE_IS_ZERO, _BITS = 262, 258  # tags of TIFF
_HALF_TRANSPARENT = {"La": "LA", "RGBa": "RGBA"}  # modes that are converted to RGB by way of another
# Judged by a file's content, whatever it is called; the decoders of other formats are never run.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_MOST_PIXELS = 2**27  # 400 MB decoded; no phone takes larger pictures
_LONGEST_SHAPE = 100  # a longer side over a shorter one


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
        if not isinstance(value, Image.Image):
            value = Image.open(io.BytesIO(value) if isinstance(value, bytes) else value, formats=IMAGE_FORMATS)
        _check_size(*value.size)  # before memory is taken
        value.load()
        return _to_rgb(_upright(value), getattr(value, "tag_v2", {}))
    except MemoryError:
        raise
    except Exception as error:  # Pillow and its plug-ins raise nearly anything
        logger.warning("%s cannot be read and counts as missing: %s", name, error or type(error).__name__)
        return None


def _check_size(width: int, height: int) -> None:
    """Refuses images that are far larger than any picture, or so long that resizing them would make one."""
    if width * height > _MOST_PIXELS:
        raise ValueError(f"it has {width:,} x {height:,} pixels, and more than {_MOST_PIXELS:,} are not decoded")
    if max(width, height) > _LONGEST_SHAPE * min(width, height):
        raise ValueError(f"{width:,} x {height:,} pixels are the shape of no picture")


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image as the camera that took it says; Exif data that cannot be read say nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image, tags: Mapping) -> Image.Image:
    """Converts any mode to RGB; values of more than 8 bits are scaled, where Pillow would clip them.

    Args:
        image: of any mode.
        tags: of a TIFF file.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0).clip(min=0)
        white = _white(image.mode, float(values.max(initial=0)), tags.get(_BITS, (16,))[0])
        values = (values / white).clip(max=1)
        if image.mode != "F" and tags.get(_WHITE_IS_ZERO) == 0:
            values = 1 - values
        image = Image.fromarray((values * 255).round().astype(np.uint8))
    if image.mode in _HALF_TRANSPARENT:
        image = image.convert(_HALF_TRANSPARENT[image.mode])
    return image.convert("RGB")


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
        max_seconds: longer sounds are cut.
    """
    rate, name = sampling_rate, value if isinstance(value, str) else "a sound"
    if hasattr(value, "get_all_samples"):  # decoded by `datasets.Audio`
        decoded = value.get_all_samples()
        value = {"array": decoded.data.numpy(), "sampling_rate": decoded.sample_rate}
    if isinstance(value, dict) and "array" in value:
        value, rate = value["array"], value["sampling_rate"]
    elif isinstance(value, dict):
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if value is None:
        return None
    if isinstance(value, bytes | str):
        try:
            value, rate = _decode(value, max_seconds)
        except (OSError, RuntimeError) as error:
            logger.warning("%s cannot be read and counts as missing: %s", name, error)
            return None
    samples = np.asarray(value, dtype=np.float32)
    samples = samples.mean(axis=0) if samples.ndim == 2 else samples  # (channels, samples)
    samples = samples[: int(max_seconds * rate)]
    if rate != sampling_rate:
        samples = _audio_libraries()[1].resample(samples, rate, sampling_rate)
    if len(samples) == 0:
        logger.warning("%s has no samples and counts as missing", name)
        return None
    return samples[: int(max_seconds * sampling_rate)]


def _decode(file: bytes | str, max_seconds: float) -> tuple[np.ndarray, int]:
    """Returns samples `(channels, samples)` of an audio file, and their sampling rate."""
    with _audio_libraries()[0].SoundFile(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        samples = opened.read(int(max_seconds * opened.samplerate) + 1, dtype="float32", always_2d=True)
        return samples.T, opened.samplerate


def _audio_libraries():
    """Returns `soundfile`, which reads WAV, FLAC, MP3 and OGG, and `soxr`, which resamples."""
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise ImportError(
            "reading and resampling audio needs soundfile and soxr: pip install modeling_transrec[audio]"
        ) from error
    return soundfile, soxr
