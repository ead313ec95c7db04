"""What is read of image files: their right values, whatever they are stored as; what cannot be read is named."""

import io
import logging
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from modeling_transrec.models import media
from modeling_transrec.models.media import open_image
from modeling_transrec.ninerec.tools import check_media


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


def test_a_given_image_stays_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.open(io.BytesIO(stored(Image.fromarray(np.zeros((8, 20, 3), np.uint8)), "PNG", exif=exif)))
    assert open_image(lying).size == (8, 20) and lying.size == (20, 8)


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


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file of this size, and a few bytes of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("size", "reason"),
    [((13_300, 13_300), "more than 134,217,728 are not decoded"), ((1, 30_000), "not the shape of an image")],
)
def test_images_that_would_take_all_memory_count_as_missing(size, reason, caplog):
    tracemalloc.start()
    assert open_image(png_header(*size)) is None
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert reason in caplog.text


def test_validate_refuses_what_is_not_decoded(tmp_path):
    assert check_media.READ_FORMATS == media.IMAGE_FORMATS
    assert (check_media.MOST_PIXELS, check_media.LONGEST_SHAPE) == (media._MOST_PIXELS, media._LONGEST_SHAPE)
    for size, kind in (((13_300, 13_300), "gigantic images"), ((1, 30_000), "images far longer than wide")):
        ((severity, what, details),) = check_media.check_image("i1.png", io.BytesIO(png_header(*size)))
        assert severity == "warning" and what.startswith(kind) and "pixels" in details


@pytest.mark.parametrize("suffix", ["PPM", "ICO", "PCX", "TGA", "JPEG2000", "EPS"])
def test_decoders_of_other_formats_are_never_run(suffix, tmp_path, caplog):
    path = tmp_path / "cover.jpg"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, suffix)
    assert open_image(str(path)) is None
    assert "cover.jpg cannot be read and counts as missing" in caplog.text
