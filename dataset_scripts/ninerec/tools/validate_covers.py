"""Check cover pictures: every one is decoded, as training would."""

import io
import os
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from ..tables.archives import Member, covers_of, read_members
from ..tables.items import COVER_SUFFIXES
from ..tables.problems import Problems


FORMATS = {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",), ".webp": ("WEBP",)}
BIG = 50_000_000  # pixels
TINY = 16  # pixels a side
READ_AT_ONCE = 256  # pictures of an archive

Finding = tuple[str, str, str]  # severity, what, details


def check_covers(
    covers: Path | Sequence[Member], item_ids: list[str], problems: Problems, num_workers: int = 1
) -> None:
    """Every file of a cover folder, or of such folders in archives, and items without a cover."""
    in_folder = isinstance(covers, Path)
    folder = covers if in_folder else Path(str(covers[0]))
    files = _files_of_folder(covers, problems) if in_folder else covers_of(covers)  # name: place, bytes
    by_stem: dict[str, list[str]] = {}
    for name, (_, size) in sorted(files.items()):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in COVER_SUFFIXES:
            problems.add("note", folder, f"entries that are no {', '.join(COVER_SUFFIXES)} file: left out", name)
        elif size == 0:
            problems.add("warning", folder, "covers of zero bytes: count as missing", name)
        else:
            by_stem.setdefault(stem, []).append(name)
    names = [name for found in by_stem.values() for name in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about size and metadata
        with ThreadPoolExecutor(num_workers) as pool:
            for start in range(0, len(names), READ_AT_ONCE):
                chunk = names[start : start + READ_AT_ONCE]
                places = [files[name][0] for name in chunk]
                pictures = places if in_folder else [io.BytesIO(content) for content in read_members(places)]
                for name, findings in zip(chunk, pool.map(check_picture, chunk, pictures), strict=True):
                    for severity, what, details in findings:
                        problems.add(severity, folder, what, f"{name}: {details}" if details else name)
    for found in by_stem.values():
        if len(found) > 1:
            problems.add("note", folder, "items with several covers: one is used", ", ".join(found))
    without = [item_id for item_id in item_ids if item_id not in by_stem]
    examples = map(repr, without[: problems.max_examples])
    if without:
        problems.add("warning", folder, "items without a cover: count as missing", *examples, count=len(without))
    unused = sorted(set(by_stem) - set(item_ids))
    examples = (by_stem[stem][0] for stem in unused[: problems.max_examples])
    if unused:
        problems.add("note", folder, "covers of no item: not used", *examples, count=len(unused))


def _files_of_folder(folder: Path, problems: Problems) -> dict[str, tuple[Path, int]]:
    """Files of a folder by name, with their sizes."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path):
                problems.add("warning", folder, "links to nothing: left out", entry.name)
            elif not entry.is_file():
                what = f"entries that are no {', '.join(COVER_SUFFIXES)} file: left out"
                problems.add("note", folder, what, entry.name)
            else:
                found[entry.name] = (Path(entry.path), entry.stat().st_size)
    return found


def check_picture(name: str, file: Path | io.BytesIO) -> list[Finding]:
    """What is wrong with one picture."""
    try:
        with Image.open(file) as image:
            findings = _describe(name, image)
            # A small version shows as well whether all is there, and costs a quarter.
            image.draft("RGB", (image.width // 8 + 1, image.height // 8 + 1))
            image.load()
    except Image.DecompressionBombError as error:
        what = "gigantic pictures, which Pillow refuses as decompression bombs: count as missing; make them smaller"
        return [("warning", what, _reason(error, name, file))]
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        cut = re.search("truncated|broken data stream|unexpected end", str(error), re.IGNORECASE)
        kind = "truncated" if cut else "corrupt"
        return [("warning", f"{kind} pictures: count as missing; copy them again", _reason(error, name, file))]
    return findings


def _describe(name: str, image: Image.Image) -> list[Finding]:
    findings = []
    size = f"{image.width} x {image.height}"

    def note(what: str, details: str) -> None:
        findings.append(("note", what, details))

    if image.format not in FORMATS[os.path.splitext(name)[1].lower()]:
        note("suffixes that do not fit the content: the content counts", f"is {image.format}")
    if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;"):
        note("greyscale pictures: converted to RGB", f"mode {image.mode}")
    elif image.mode in ("P", "PA"):
        note("pictures with a palette: converted to RGB", f"mode {image.mode}")
    elif image.mode not in ("RGB", "RGBA", "RGBX", "RGBa"):
        note("CMYK and other pictures that are not RGB: converted", f"mode {image.mode}")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        note("pictures with transparency: it is dropped", f"mode {image.mode}")
    if getattr(image, "is_animated", False):
        note("animated pictures: the first frame counts", f"{image.n_frames} frames")
    if image.width * image.height > BIG:
        note(f"pictures of more than {BIG // 10**6} megapixels: slow to decode; make them smaller", size)
    if min(image.size) < TINY:
        note(f"pictures of fewer than {TINY} pixels a side", size)
    return findings


def _reason(error: Exception, name: str, file: Path | io.BytesIO) -> str:
    reason = str(error) or type(error).__name__
    reason = reason.replace(repr(file), repr(name)).replace(str(file), name)
    return reason.splitlines()[0][:120]
