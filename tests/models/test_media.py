"""What is read of image files: their right values, whatever they are stored as; what cannot be read is named."""

import io
import logging

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from modeling_transrec.models.media import open_image


RAMP = np.tile(np.linspace(0, 255, 11).round().astype(np.uint8), (3, 1))


def stored(image: Image.Image, suffix: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def of(values: np.ndarray, dtype, factor: float) -> Image.Image:
    scaled = values.astype(np.float64) * factor
    return Image.fromarray((scaled if dtype is np.float32 else scaled.round()).astype(dtype))


def white_is_zero(values: np.ndarray) -> bytes:
    tags = ImageFileDirectory_v2()
    tags[262] = 0
    return stored(of(values, np.uint16, 257), "TIFF", tiffinfo=tags)


def twelve_bits(values: np.ndarray) -> Image.Image:
    """A picture as it is opened whose file says that it has 12 bits."""
    image = Image.open(io.BytesIO(stored(of(values, np.uint16, 4095 / 255), "TIFF")))
    image.load()
    image.tag_v2[258] = (12,)
    return image


RAMPS = {
    "8 bits": lambda: stored(Image.fromarray(RAMP), "PNG"),
    "16 bits": lambda: stored(of(RAMP, np.uint16, 257), "PNG"),
    "16 bits, TIFF": lambda: stored(of(RAMP, np.uint16, 257), "TIFF"),
    "16 bits, big endian": lambda: of(RAMP, ">u2", 257),
    "12 bits, TIFF": lambda: twelve_bits(RAMP),
    "32 bits of 16": lambda: of(RAMP, np.int32, 257),
    "32 bits of 8": lambda: of(RAMP, np.int32, 1),
    "32 bits": lambda: stored(of(RAMP.astype(np.int64), np.int32, (2**31 - 1) // 255), "TIFF"),
    "floats to 1": lambda: stored(of(RAMP, np.float32, 1 / 255), "TIFF"),
    "floats to 255": lambda: stored(of(RAMP, np.float32, 1), "TIFF"),
    "floats to 65535": lambda: of(RAMP, np.float32, 257),
    "floats beyond": lambda: of(RAMP, np.float32, 4000),
    "white is zero": lambda: white_is_zero(255 - RAMP),
    "with transparency": lambda: stored(Image.fromarray(np.stack([RAMP, RAMP // 2], -1), "LA"), "PNG"),
    "premultiplied": lambda: Image.fromarray(np.stack([RAMP, np.full_like(RAMP, 255)], -1), "LA").convert("La"),
    "palette": lambda: stored(Image.fromarray(RAMP).convert("P"), "PNG"),
    "first of several": lambda: stored(
        Image.fromarray(RAMP), "GIF", save_all=True, append_images=[Image.fromarray(255 - RAMP)]
    ),
}


@pytest.mark.parametrize("kind", RAMPS)
def test_a_ramp_is_a_ramp(kind):
    image = open_image(RAMPS[kind]())
    assert image.mode == "RGB" and image.size == (11, 3)
    assert np.abs(np.asarray(image).astype(int) - RAMP[..., None]).max() <= 1


def test_bits_of_black_and_white():
    image = open_image(stored(Image.fromarray(RAMP > 100), "PNG"))
    assert (np.asarray(image)[..., 1] == np.where(RAMP > 100, 255, 0)).all()


def test_values_that_are_no_numbers_are_black():
    image = open_image(Image.fromarray(np.array([[np.nan, np.inf, -3, 0.5, 1]], np.float32)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 0, 128, 255]


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(suffix, orientation):
    """A red corner on top left, whatever the camera's position was."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16, 0] = 255
    inverse = [None, 1, 2, 3, 4, 5, 8, 7, 6][orientation]
    exif = Image.Exif()
    exif[0x0112] = inverse
    lying = Image.open(io.BytesIO(stored(Image.fromarray(upright), "PNG", exif=exif)))
    lying = ImageOps.exif_transpose(lying).copy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(stored(lying, suffix, exif=exif))
    assert image.size == (48, 32)
    assert np.abs(np.asarray(image).astype(int) - upright).mean() < 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_data_that_cannot_be_read_say_nothing():
    data = stored(Image.fromarray(RAMP), "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01")
    assert open_image(data).size == (11, 3)


@pytest.mark.parametrize("error", [RuntimeError, KeyError, EOFError, AttributeError, Image.DecompressionBombError])
def test_whatever_is_raised_counts_as_missing_and_is_named(error, monkeypatch, tmp_path, caplog):
    path = tmp_path / "cover 1.png"
    path.write_bytes(RAMPS["8 bits"]())

    def fail(self):
        raise error("of a plug-in")

    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with caplog.at_level(logging.WARNING):
        assert open_image(str(path)) is None
        assert open_image({"bytes": path.read_bytes(), "path": "cover 2.png"}) is None
        assert open_image(Image.open(path)) is None
    assert caplog.text.count(f"{path} cannot be read and counts as missing") == 2
    assert "cover 2.png cannot be read and counts as missing" in caplog.text


def test_memory_that_is_short_is_no_missing_image(monkeypatch):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(MemoryError):
        open_image(RAMPS["8 bits"]())
