"""Check cover pictures: every one is decoded, as training would."""

import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from .problems import Problems
from .reader import COVER_SUFFIXES


FORMATS = {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",), ".webp": ("WEBP",)}
BIG = 50_000_000  # pixels
TINY = 16  # pixels a side

Finding = tuple[str, str, str]  # severity, what, details


def check_covers(folder: Path, item_ids: list[str], problems: Problems, num_workers: int = 1) -> None:
    """Every file of a cover folder, and items without a cover."""
    covers: dict[str, list[str]] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, suffix = os.path.splitext(entry.name)
            if entry.is_symlink() and not os.path.exists(entry.path):
                problems.add("warning", folder, "links to nothing: left out", entry.name)
            elif suffix.lower() not in COVER_SUFFIXES or not entry.is_file():
                what = f"entries that are no {', '.join(COVER_SUFFIXES)} file: left out"
                problems.add("note", folder, what, entry.name)
            elif entry.stat().st_size == 0:
                problems.add("warning", folder, "covers of zero bytes: count as missing", entry.name)
            else:
                covers.setdefault(stem, []).append(entry.name)
    names = [name for found in covers.values() for name in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about size and metadata
        with ThreadPoolExecutor(num_workers) as pool:
            for name, findings in zip(names, pool.map(lambda name: check_picture(folder / name), names), strict=True):
                for severity, what, details in findings:
                    problems.add(severity, folder, what, f"{name}: {details}" if details else name)
    for found in covers.values():
        if len(found) > 1:
            problems.add("note", folder, "items with several covers: one is used", ", ".join(found))
    without = [item_id for item_id in item_ids if item_id not in covers]
    examples = map(repr, without[: problems.max_examples])
    if without:
        problems.add("warning", folder, "items without a cover: count as missing", *examples, count=len(without))
    unused = sorted(set(covers) - set(item_ids))
    examples = (covers[stem][0] for stem in unused[: problems.max_examples])
    if unused:
        problems.add("note", folder, "covers of no item: not used", *examples, count=len(unused))


def check_picture(path: Path) -> list[Finding]:
    """What is wrong with one picture."""
    try:
        with Image.open(path) as image:
            findings = _describe(path, image)
            # A small version shows as well whether all is there, and costs a quarter.
            image.draft("RGB", (image.width // 8 + 1, image.height // 8 + 1))
            image.load()
    except Image.DecompressionBombError as error:
        what = "gigantic pictures, which Pillow refuses as decompression bombs: count as missing; make them smaller"
        return [("warning", what, _reason(error, path))]
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        cut = re.search("truncated|broken data stream|unexpected end", str(error), re.IGNORECASE)
        kind = "truncated" if cut else "corrupt"
        return [("warning", f"{kind} pictures: count as missing; copy them again", _reason(error, path))]
    return findings


def _describe(path: Path, image: Image.Image) -> list[Finding]:
    findings = []
    size = f"{image.width} x {image.height}"

    def note(what: str, details: str) -> None:
        findings.append(("note", what, details))

    if image.format not in FORMATS[path.suffix.lower()]:
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


def _reason(error: Exception, path: Path) -> str:
    reason = str(error) or type(error).__name__
    return reason.replace(str(path), path.name).splitlines()[0][:120]
