"""Writes the folder of a Gradio Space that shows a recommender, and publishes it."""

import io
import json
import os
from pathlib import Path

import datasets
import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi
from PIL import Image

from ..export.folders import MANIFEST_FILE
from ..export.onnx_model import OnnxModel
from ..hub.names import CARD_NAME
from ..hub.safety import NOT_PUBLISHED, PUBLISHED_FILES, check_links
from ..models.adapters import can_be_merged
from ..models.media import open_image
from ..models.whole_saves import named_disk_errors
from ..version import __version__
from .recommender import Recommender


TEMPLATES = Path(__file__).parent / "space_template"
SDK_VERSION = "6.31.0"  # of gradio, with which the page is tested
CHECKPOINT, IMAGES = "checkpoint", "images.parquet"
_IMAGES_AT_A_TIME = 1000
_FILES = (CARD_NAME, "app.py", "requirements.txt", IMAGES)
_GRAPHS = ("onnx/*.onnx", "onnx/*.onnx.data")


def write_space(
    recommender: Recommender,
    output_dir: str | os.PathLike,
    title: str = "Recommendations",
    items: datasets.Dataset | None = None,
    image_size: int = 192,
    hub_id: str | None = None,
    revision: str = "main",
) -> Path:
    """Writes the folder of a Space: `app.py`, `requirements.txt`, a card, the recommender and pictures of its items.

    Args:
        recommender: with its catalogue.
        output_dir: the folder; what an earlier call wrote there is replaced.
        title: of the page.
        items: the catalogue with a column `image`, for the pictures; by default there are none.
        image_size: longer side of the pictures, in pixels.
        hub_id: where the recommender, its catalogue included, lies on the Hub; it is named, and nothing is copied.
        revision: branch, tag or commit there.

    Returns:
        The path of `app.py`.

    Raises:
        ValueError: if the recommender has no catalogue, or reads more of a user than a page knows; or if the folder
            has a checkpoint where this is an export, or the other way round.
    """
    if recommender.items is None:
        raise ValueError("there is no catalogue to show: call index(items), or name a data set")
    check_shown(recommender)
    folder, is_export = Path(output_dir), isinstance(recommender.model, OnnxModel)
    if (folder / CHECKPOINT).is_dir() and (folder / CHECKPOINT / MANIFEST_FILE).exists() != is_export:
        raise ValueError(f"{folder} has {'a checkpoint' if is_export else 'an export'}: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    has_images = items is not None and "image" in items.column_names
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"literal": repr, "yaml": json.dumps, "oneline": _plain_line}
    facts = {
        "title": title,
        "checkpoint": hub_id,
        "revision": revision,
        "with_backend": ', backend="onnx"' if is_export else "",
        "has_images": has_images,
        "num_items": len(recommender.item_ids),
        "reads_text": "text" in recommender.processor.modalities,
        "sdk_version": SDK_VERSION,
    }
    with named_disk_errors(folder, "write the Space again"):
        for name in ("app.py", CARD_NAME):
            (folder / name).write_text(environment.get_template(f"{name}.jinja").render(facts), encoding="utf-8")
        extras = ",".join(_extras(recommender))
        requirement = f"modeling_transrec{f'[{extras}]' if extras else ''}=={__version__}\n"
        (folder / "requirements.txt").write_text(requirement, encoding="utf-8")
        if hub_id is None:
            recommender.save_pretrained(folder / CHECKPOINT)
        if has_images:
            _write_images(items, folder / IMAGES, image_size)
        else:
            (folder / IMAGES).unlink(missing_ok=True)
    return folder / "app.py"


def check_shown(recommender: Recommender) -> None:
    """Raises `ValueError` for a recommender that needs more of a visitor than the items that were chosen."""
    if recommender.processor.user_ids is not None:
        raise ValueError("this model knows users by id (DSSM), and visitors of a page have none: show another model")
    if getattr(recommender.model.config, "reads_timestamps", False):
        raise ValueError(
            "this model reads the times of interactions (HSTU), and items that are chosen on a page have none: show "
            "another model"
        )


def push_space(folder: str | os.PathLike, space_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Publishes the folder that [`write_space`] wrote, in one commit; other files in it stay here.

    Args:
        folder: the folder.
        space_id: the Space, `OWNER/NAME`, which is created if there is none.
        private: whether a new Space is private.
        token: a token that may write; by default that of the log-in.

    Returns:
        The address of the commit.
    """
    check_links(folder)
    api = HfApi(token=token)
    made_repo = api.create_repo(space_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    deleted = [IMAGES, *([f"{CHECKPOINT}/*"] if Path(folder, CHECKPOINT).is_dir() else [])]
    made = api.upload_folder(
        repo_id=made_repo.repo_id,
        repo_type="space",
        folder_path=Path(folder),
        commit_message="Upload the page of a recommender",
        allow_patterns=[*_FILES, *(f"{CHECKPOINT}/{pattern}" for pattern in (*PUBLISHED_FILES, *_GRAPHS))],
        ignore_patterns=[f"{CHECKPOINT}/{pattern}" for pattern in NOT_PUBLISHED],
        delete_patterns=deleted,
    )
    return made.commit_url


def _plain_line(title: str) -> str:
    """Returns a title as one line that means nothing in a docstring."""
    return "".join(letter for letter in title if letter.isprintable() and letter not in '"\\')


def _extras(recommender: Recommender) -> list[str]:
    """Returns the extras of this package that loading the model needs."""
    modalities, config = recommender.processor.modalities, recommender.model.config
    is_export = isinstance(recommender.model, OnnxModel)
    needed = {
        "vision": "image" in modalities,
        "audio": "audio" in modalities,
        "peft": can_be_merged(config.peft_config) and not is_export,
        "export": is_export,
    }
    return [name for name, is_needed in needed.items() if is_needed]


def _write_images(items: datasets.Dataset, path: Path, size: int) -> None:
    """Writes small JPEG files of the items' images, a part of the items at a time."""
    schema = pa.schema({"item_id": pa.string(), "image": pa.binary()})
    rows = items.select_columns(["item_id", "image"]).cast_column("image", datasets.Image(decode=False))
    unfinished = path.with_name(f"_{path.name}.unfinished")
    with pq.ParquetWriter(unfinished, schema) as writer:
        for batch in rows.iter(_IMAGES_AT_A_TIME):
            images = [None if value is None else _small(value, size) for value in batch["image"]]
            writer.write_batch(pa.record_batch([batch["item_id"], images], schema=schema))
    unfinished.replace(path)


def _small(value: dict, size: int) -> bytes | None:
    image, file = open_image(value), io.BytesIO()
    if image is None:
        return None
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
