"""Check the files of items: every image is decoded, as training would; of audio the first bytes are looked at."""

import io
import os
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from ..tables.archives import Archives, Member, members_of
from ..tables.media import IMAGE, ItemFiles, Media, entries_within
from ..tables.problems import Problems


FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg"), ("JPEG", "MPO")),
    **dict.fromkeys((".tif", ".tiff"), ("TIFF",)),
    **{f".{name.lower()}": (name,) for name in ("PNG", "WEBP", "AVIF", "GIF", "BMP")},
}
AUDIO_STARTS = {".wav": rb"RIFF....WAVE|RF64", ".flac": rb"fLaC|ID3", ".mp3": rb"ID3|\xff[\xe0-\xff]"}
READ_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")  # those that the model's processor decodes
MOST_PIXELS, LONGEST_SHAPE = 2**27, 100  # beyond which it decodes nothing
BIG = 50_000_000  # pixels
TINY = 16  # pixels a side
READ_AT_ONCE = 256  # files of an archive

Finding = tuple[str, str, str]  # severity, what, details
File = Path | io.BytesIO


def check_media(
    media: Media, where: Path | tuple[Member, ...], item_ids: list[str], problems: Problems, num_workers: int = 1
) -> None:
    """Checks every file of a folder, or of such folders in archives, and finds the items without a file."""
    folder = where if isinstance(where, Path) else Path(str(where[0]))
    left_out = f"entries that are no {', '.join(media.suffixes)} file: left out"
    files: Mapping[str, tuple[Path | Member, int]]  # by name, with their bytes
    files = _files_of_folder(where, left_out, problems) if isinstance(where, Path) else members_of(where)
    check = check_image if media is IMAGE else check_audio
    whole = []
    for name, (_, size) in sorted(files.items()):
        if not media.is_named(name):
            problems.add("note", folder, left_out, name)
        elif size == 0:
            problems.add("warning", folder, f"{media.word}s of zero bytes: count as missing", name)
        else:
            whole.append(name)
    items = ItemFiles(media, whole, item_ids)
    names = [name for found in items.by_stem.values() for name in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about size and metadata
        with ThreadPoolExecutor(num_workers) as pool, Archives() as archives:
            for start in range(0, len(names), READ_AT_ONCE):
                chunk = names[start : start + READ_AT_ONCE]
                contents = _opened(archives, [files[name][0] for name in chunk])
                for name, findings in zip(chunk, pool.map(check, chunk, contents), strict=True):
                    for severity, what, details in findings:
                        problems.add(severity, folder, what, f"{name}: {details}" if details else name)
    for found in items.by_stem.values():
        if len(found) > 1:
            problems.add("note", folder, f"items with several {media.word}s: one is used", ", ".join(found))
    without, used = [], set()
    for item_id in item_ids:
        stem = items.stem_of(item_id)
        if stem is None:
            without.append(item_id)
        else:
            used.add(stem)
            items.of(item_id)  # raises where two folders have one
    if without:
        examples = map(repr, without[: problems.max_examples])
        what = f"items without {media.article} {media.word}: count as missing"
        problems.add("warning", folder, what, *examples, count=len(without))
    unused = sorted(items.by_stem.keys() - used)
    if unused:
        names = [items.by_stem[stem][0] for stem in unused[: problems.max_examples]]
        problems.add("note", folder, f"{media.word}s of no item: not used", *names, count=len(unused))


def _opened(archives: Archives, files: list[Path | Member]) -> list[File]:
    """Returns what the checks read: the paths of files in folders, the contents of files in archives."""
    contents = iter(archives.read([file for file in files if isinstance(file, Member)]))
    return [io.BytesIO(next(contents) or b"") if isinstance(file, Member) else file for file in files]


def _files_of_folder(folder: Path, left_out: str, problems: Problems) -> dict[str, tuple[Path, int]]:
    """Returns the files of a folder by their path from there, with their sizes."""
    found = {}
    for name, entry in entries_within(folder):
        if entry.is_symlink() and not os.path.exists(entry.path):
            problems.add("warning", folder, "links to nothing: left out", name)
        elif not entry.is_file():
            problems.add("note", folder, left_out, name)
        else:
            found[name] = (Path(entry.path), entry.stat().st_size)
    return found


def check_audio(name: str, file: File) -> list[Finding]:
    """Returns what is wrong with an audio file, as far as its first bytes tell."""
    start = file.getvalue()[:12] if isinstance(file, io.BytesIO) else file.open("rb").read(12)
    if re.match(AUDIO_STARTS[os.path.splitext(name)[1].lower()], start, re.DOTALL):
        return []
    return [
        ("warning", "audio files whose content does not fit the suffix: copy them again", f"begins with {start!r}")
    ]


def check_image(name: str, file: File) -> list[Finding]:
    """Returns what is wrong with one image."""
    try:
        with Image.open(file, formats=READ_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,} pixels")
            if max(image.size) > LONGEST_SHAPE * min(image.size):
                what = "images far longer than wide or far wider than long: count as missing; cut them"
                return [("warning", what, f"{name}: {image.width:,} x {image.height:,} pixels")]
            findings = _describe(name, image)
            # A small version shows as well whether all is there, and costs a quarter.
            image.draft("RGB", (image.width // 8 + 1, image.height // 8 + 1))
            image.load()
    except Image.DecompressionBombError as error:
        what = "gigantic images, which are not decoded: count as missing; make them smaller"
        return [("warning", what, _reason(error, name, file))]
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        cut = re.search("truncated|broken data stream|unexpected end", str(error), re.IGNORECASE)
        kind = "truncated" if cut else "corrupt"
        return [("warning", f"{kind} images: count as missing; copy them again", _reason(error, name, file))]
    return findings


def _describe(name: str, image: Image.Image) -> list[Finding]:
    findings = []
    size = f"{image.width} x {image.height}"

    def note(what: str, details: str) -> None:
        findings.append(("note", what, details))

    if image.format not in FORMATS[os.path.splitext(name)[1].lower()]:
        note("suffixes that do not fit the content: the content counts", f"is {image.format}")
    if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;"):
        note("greyscale images: converted to RGB", f"mode {image.mode}")
    elif image.mode in ("P", "PA"):
        note("images with a palette: converted to RGB", f"mode {image.mode}")
    elif image.mode not in ("RGB", "RGBA", "RGBX", "RGBa"):
        note("CMYK and other images that are not RGB: converted", f"mode {image.mode}")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        note("images with transparency: it is dropped", f"mode {image.mode}")
    if getattr(image, "is_animated", False):
        note("animated images: the first frame counts", f"{getattr(image, 'n_frames', 1)} frames")
    if image.width * image.height > BIG:
        note(f"images of more than {BIG // 10**6} megapixels: slow to decode; make them smaller", size)
    if min(image.size) < TINY:
        note(f"images of fewer than {TINY} pixels a side", size)
    return findings


def _reason(error: Exception, name: str, file: File) -> str:
    reason = str(error) or type(error).__name__
    reason = reason.replace(repr(file), repr(name)).replace(str(file), name)
    return reason.splitlines()[0][:120]
