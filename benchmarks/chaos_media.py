"""Mutated images and sounds of `chaos.py`, read as a processor and as the data reader read them."""

import io
import resource
import struct
import time
import wave
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial

import numpy as np
from chaos_case import HARMFUL, HELD, TRACEBACK, Case, Found, Workplace
from chaos_children import Limits, described, run_child
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_transrec.models.media import open_image, read_audio
from modeling_transrec.ninerec.tools.check_media import check_image


SECONDS, MEGABYTES = 10, 1500  # of one file; seconds of a core
BLOCK = 250  # files of one child
# What is read (the first) and what is refused.
FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "ICO", "PCX", "TGA", "SGI", "DDS", "PDF", "EPS"]
SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}
HUGE = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1)


def images() -> list[tuple[str, bytes]]:
    """Whole images of all formats and modes, which are then changed."""
    rng, found = np.random.default_rng(0), []
    noise = rng.integers(0, 256, (40, 56, 4), dtype=np.uint8)
    rgb = Image.fromarray(noise[..., :3])
    made = {
        "RGB": rgb,
        "RGBA": Image.fromarray(noise),
        "L": rgb.convert("L"),
        "P": rgb.convert("P"),
        "1": rgb.convert("1"),
    }
    made |= {"CMYK": rgb.convert("CMYK"), "I;16": Image.fromarray(noise[..., 0].astype(np.uint16) * 200)}
    made |= {"F": Image.fromarray(noise[..., 0].astype(np.float32)), "large": rgb.resize((900, 700))}
    options: dict[str, list[dict]] = {
        "JPEG": [
            {},
            {"progressive": True},
            {"quality": 5},
            {"exif": Image.Exif().tobytes() + b"II*\0" * 9},
            {"icc_profile": b"x" * 99},
        ],
        "PNG": [{}, {"optimize": True}, {"compress_level": 0}],
        "WEBP": [{}, {"lossless": True}],
        "TIFF": [
            {},
            {"compression": "tiff_lzw"},
            {"compression": "tiff_adobe_deflate"},
            {"compression": "packbits"},
            {"compression": "jpeg"},
        ],
        "GIF": [{}, {"save_all": True, "append_images": [rgb.resize((9, 9))] * 5}],
    }
    for name in FORMATS:
        for image in made.values():
            for given in options.get(name, [{}]):
                buffer = io.BytesIO()
                try:
                    image.save(buffer, name, **given)
                except (OSError, KeyError, ValueError):
                    continue  # the format does not have this mode
                found.append((name, buffer.getvalue()))
    return found


def changed(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Returns a content that was changed in one of many ways."""
    made, way = bytearray(content), int(rng.integers(11))
    head = int(rng.integers(0, min(len(made), 200)))
    if way <= 1:  # other bits, mostly in the header
        for place in rng.integers(0, len(made) if way else min(len(made), 300), int(rng.integers(1, 12))):
            made[place] ^= 1 << int(rng.integers(8))
    elif way == 2:
        return bytes(made[: int(rng.integers(0, len(made)))])
    elif way == 3:  # an enormous number in the header
        size = int(rng.choice([2, 4]))
        order = str(rng.choice(["little", "big"]))
        value = int(rng.choice(HUGE)) % 2 ** (8 * size)
        made[head : head + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
    elif way == 4:
        made[head:head] = rng.bytes(int(rng.integers(1, 4000)))
    elif way == 5:
        start, end = sorted(rng.integers(0, len(made), 2))
        del made[start:end]
    elif way == 6:
        start, end = sorted(rng.integers(0, len(made), 2))
        made[start:end] = bytes(end - start)
    elif way == 7:  # the beginning of one, the end of another
        other = others[int(rng.integers(len(others)))]
        return bytes(made[: int(rng.integers(0, len(made)))]) + other[int(rng.integers(0, len(other))) :]
    elif way == 8:
        start, end = sorted(rng.integers(0, len(made), 2))
        return bytes(made[:end]) + bytes(made[start:end]) * int(rng.integers(1, 20)) + bytes(made[end:])
    elif way == 9:
        return rng.bytes(int(rng.integers(0, 400))) if rng.random() < 0.3 else bytes(made[:12]) + rng.bytes(2000)
    else:
        return _with_size(
            content, int(rng.choice([1, 30_000, 8192, 16_000, 65_535])), int(rng.choice([1, 13_300, 65_535]))
        )
    return bytes(made)


def _with_size(content: bytes, width: int, height: int) -> bytes:
    """Returns an image that says that it has another size; checksums of PNG are right."""
    made = bytearray(content)
    if content.startswith(b"\x89PNG"):
        made[16:24] = struct.pack(">II", width, height)
        made[29:33] = struct.pack(">I", zlib.crc32(made[12:29]))
    elif content.startswith(b"\xff\xd8"):
        for start in range(2, len(made) - 9):
            if made[start] == 0xFF and made[start + 1] in (0xC0, 0xC2):
                made[start + 5 : start + 9] = struct.pack(">HH", height, width)
                break
    elif content.startswith(b"GIF8"):
        made[6:10] = struct.pack("<HH", width, height)
    elif content.startswith(b"BM"):
        made[18:26] = struct.pack("<II", width, height)
    return bytes(made)


def bombs() -> list[bytes]:
    """Whole images that are far larger decoded than they are as files."""
    found = []
    for size in ((13_300, 13_300), (30_000, 1), (1, 30_000), (8192, 8192), (65_000, 2000), (100_000, 100)):
        for name, options in {"PNG": {"compress_level": 1}, "TIFF": {"compression": "group4"}}.items():
            buffer = io.BytesIO()
            Image.new("1", size).save(buffer, name, **options)
            found.append(buffer.getvalue())
    for name, size in {"WEBP": (8192, 8192), "GIF": (30_000, 1), "JPEG": (11_500, 11_500), "BMP": (1, 30_000)}.items():
        buffer = io.BytesIO()
        Image.new("L", size).save(buffer, name)
        found.append(buffer.getvalue())
    return found


def read_images(number: int, count: int, seed: int, made: list[tuple[str, bytes]], extra: list[bytes]) -> dict:
    """Changes and reads a block of images in this process; returns what came of each."""
    rng = np.random.default_rng([seed, number])
    tower = ViTImageProcessorPil(size={"height": 16, "width": 16})
    contents = [content for _, content in made]
    counts: Counter = Counter()
    notes: list[str] = []
    for index in range(count):
        name, content = made[int(rng.integers(len(made)))]
        attacked = changed(content, contents, rng)
        if index < len(extra):
            name, attacked = "a large one", extra[index]
        before, started = _peak(), time.process_time()
        try:
            image = open_image(attacked)
            counts["decoded" if image is not None else "missing"] += 1
            if image is not None:
                assert image.mode == "RGB", f"the mode is {image.mode}"
                tower(images=[image], return_tensors="np")
            check_image(f"i{SUFFIXES.get(name, '.' + name.lower())}", io.BytesIO(attacked))
            outcome = HELD
        except Exception as error:
            told = described(error)
            outcome, note = TRACEBACK, f"{name}: {told['type']}: {told['text'][:200]} {told['trace'][-2:]}"
            notes.append(note)
        took, grown = time.process_time() - started, _peak() - before
        if took > SECONDS or grown > MEGABYTES:
            outcome = HARMFUL
            notes.append(f"{name}: an image of {len(attacked)} bytes took {took:.1f} s and {grown} MB")
        counts[outcome] += 1
    return {"counts": dict(counts), "notes": notes}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def sounds() -> list[tuple[str, bytes]]:
    """Whole sounds of all formats that are read."""
    import soundfile

    rng, found = np.random.default_rng(0), []
    for rate, channels in ((8000, 1), (44_100, 2), (1000, 6)):
        noise = rng.uniform(-0.9, 0.9, (rate // 4, channels)).astype("float32")
        for name, subtype in (
            ("WAV", "PCM_16"),
            ("WAV", "FLOAT"),
            ("WAV", "ULAW"),
            ("FLAC", "PCM_16"),
            ("OGG", "VORBIS"),
            ("MP3", None),
            ("AIFF", None),
            ("AU", None),
            ("CAF", None),
            ("W64", None),
        ):
            buffer = io.BytesIO()
            try:
                soundfile.write(buffer, noise, rate, format=name, subtype=subtype)
            except (soundfile.LibsndfileError, ValueError):
                continue  # the format does not have this rate or number of channels
            found.append((name, buffer.getvalue()))
    return found


def long_sounds() -> list[bytes]:
    """Whole sounds that are far larger decoded than they are as files, and headers that say so."""
    import soundfile

    found = []
    for rate, seconds in ((8000, 20_000), (192_000, 600)):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros((rate * seconds, 1), "int16"), rate, format="FLAC", subtype="PCM_16")
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    for rate, channels in ((2**32 - 1, 1), (1, 1), (0, 1), (8000, 0), (8000, 1000), (655_350, 65_535)):
        made = bytearray(buffer.getvalue())
        made[22:28] = struct.pack("<HI", channels, rate)
        found.append(bytes(made))
    return found


def read_sounds(number: int, count: int, seed: int, made: list[tuple[str, bytes]], extra: list[bytes]) -> dict:
    """Changes and reads a block of sounds in this process; returns what came of each."""
    rng = np.random.default_rng([seed, number])
    contents = [content for _, content in made]
    counts: Counter = Counter()
    notes: list[str] = []
    for index in range(count):
        name, content = made[int(rng.integers(len(made)))]
        attacked = changed(content, contents, rng)
        if index < len(extra):
            name, attacked = "a large one", extra[index]
        before, started = _peak(), time.process_time()
        try:
            samples = read_audio(attacked, sampling_rate=16_000, max_seconds=10)
            counts["decoded" if samples is not None else "missing"] += 1
            assert samples is None or (samples.ndim == 1 and 0 < len(samples) <= 160_000), f"shape {samples.shape}"
            outcome = HELD
        except Exception as error:
            told = described(error)
            outcome = TRACEBACK
            notes.append(f"{name}: {told['type']}: {told['text'][:200]} {told['trace'][-2:]}")
        took, grown = time.process_time() - started, _peak() - before
        if took > SECONDS or grown > MEGABYTES:
            outcome = HARMFUL
            notes.append(f"{name}: a sound of {len(attacked)} bytes took {took:.1f} s and {grown} MB")
        counts[outcome] += 1
    return {"counts": dict(counts), "notes": notes}


def judge_block(place: Workplace, read, number: int, count: int, seed: int, made, extra) -> Found:
    """Reads a block of files in a child; a child that dies counts as one file that does harm."""
    limits = Limits(seconds=60 + count, megabytes=3000)
    ended = run_child(lambda: read(number, count, seed, made, extra), place.root, limits=limits)
    if ended.value is None:
        what = f"signal {ended.died_of}" if ended.error is None else str(ended.error)
        return Found(HARMFUL, f"block {number}: {what}", {HARMFUL: 1, HELD: count - 1})
    return Found(HELD, "; ".join(ended.value["notes"][:5]), ended.value["counts"])


def cases(place: Workplace, num_images: int, num_sounds: int, seed: int) -> Iterator[Case]:
    """Yields blocks of images, then of sounds."""
    for kind, read, total, make, make_extra in (
        ("images", read_images, num_images, images, bombs),
        ("sounds", read_sounds, num_sounds, sounds, long_sounds),
    ):
        made: list[tuple[str, bytes]] = []
        extra: list[bytes] = []

        def run(
            number: int, count: int, kind=kind, read=read, made=made, extra=extra, make=make, more=make_extra
        ) -> Found:
            if not made:
                made += make()
                extra += more()
            return judge_block(place, read, number, count, seed, made, extra if number == 0 else [])

        for number in range(-(-total // BLOCK)):
            count = min(BLOCK, total - number * BLOCK)
            yield Case(kind, f"block {number} of {count}", partial(run, number, count))
