"""Opens images and sounds. Those that cannot be read count as missing, with a warning."""

import io
import logging

import numpy as np
from PIL import Image


logger = logging.getLogger(__name__)


def open_image(value) -> Image.Image | None:
    """Opens an image; an image that cannot be read counts as missing, with a warning."""
    if isinstance(value, dict):  # an undecoded `datasets.Image`
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if value is None:
        return None
    if not isinstance(value, Image.Image):
        name = value if isinstance(value, str) else "an image"
        try:
            value = Image.open(io.BytesIO(value) if isinstance(value, bytes) else value)
            value.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            logger.warning("%s cannot be read and counts as missing: %s", name, error)
            return None
    return value.convert("RGB")


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
