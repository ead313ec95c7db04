"""Folders of exported checkpoints: towers, processor, configuration, and a manifest that says what made them."""

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file

from ..hub.facts import checkpoint_hash
from ..models.adapters import can_be_merged
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor, check_processor
from ..models.projections import WhitenedProjection
from ..version import __version__
from .graphs import write_onnx, write_torch_export
from .sentence_modules import write_sentence_transformer
from .towers import ITEM_PROJECTION, ITEM_TOWER, SCORING_SPACE, USER_TOWER, towers_of


MANIFEST_FILE = "export.json"
STATISTICS_FILE = "onnx/statistics.safetensors"  # of the catalogue that the model encoded last
FORMATS = ("onnx", "torch-export", "sentence-transformers")
QUANTIZATIONS = ("int8",)
BACKENDS = ("torch", "onnx")
# Folders within, which a later export into the same folder replaces whole.
TOWER_FOLDERS = ("onnx", "torch-export")


def check_export(output_dir: Path, format: str, quantize: str | None) -> None:
    """Refuses options that do not fit, and a folder that holds something else.

    Raises:
        ValueError: naming the option or the folder.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {format!r}")
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ValueError(f"quantize must be {' or '.join(QUANTIZATIONS)}, got {quantize!r}")
    if quantize is not None and format != "onnx":
        raise ValueError(f"quantize={quantize!r} is for format='onnx'; leave it out for {format!r}")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{output_dir} is a file; name a folder to export into")
    if output_dir.is_dir() and any(output_dir.glob("[!_.]*")):
        manifest = output_dir / MANIFEST_FILE
        if not manifest.is_file():
            raise ValueError(f"{output_dir} has files that are no export; name a new or an empty folder")
        if read_manifest(manifest)["format"] != format:
            raise ValueError(f"{output_dir} has an export of another format; name a new or an empty folder")


@torch.no_grad()
def write_export(
    model: TransRecPreTrainedModel,
    processor: TransRecProcessor,
    folder: Path,
    format: str = "onnx",
    quantize: str | None = None,
) -> str:
    """Writes all of an export but the catalogue, and returns the hash that its embeddings are known by.

    Args:
        model: the model, which is not changed.
        processor: the model's processor.
        folder: an existing, empty folder.
        format: one of [`FORMATS`].
        quantize: `"int8"` for weights of 8 and 16 bits in the backbones; only for ONNX.
    """
    check_processor(processor, model.config)
    checkpoint = checkpoint_hash(model, processor, torch.float32)
    if model.config.peft_config is not None or model.dtype != torch.float32 or model.device.type != "cpu":
        model = cast(Any, copy.deepcopy(model)).to("cpu", torch.float32)
        if can_be_merged(model.config.peft_config):
            model.merge_peft_adapter()
    model = cast(Any, model.base_model).eval()
    made_from = checkpoint
    if quantize is not None:
        checkpoint = _hash(f"{checkpoint} {quantize}")
    if format == "sentence-transformers":
        write_sentence_transformer(model, processor, folder)
    else:
        towers = towers_of(model, processor, with_statistics=format == "onnx")
        (folder / format).mkdir()
        if format == "onnx":
            write_onnx(towers, folder / format, quantize)
            save_statistics(model.item_encoder.whitened, folder)
        else:
            write_torch_export(towers, folder / format)
        config = copy.deepcopy(model.config)
        config.dtype = "float32"
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
    manifest = {
        "format": format,
        "quantize": quantize,
        "modality": model.config.modality,
        "checkpoint": checkpoint,
        "made_from": made_from,
        "versions": {"modeling_transrec": __version__, "torch": torch.__version__},
    }
    write_manifest(folder, manifest, processor)
    return checkpoint


def save_statistics(whitened: Mapping[str, WhitenedProjection], folder: Path) -> None:
    """Writes the statistics by which features are whitened, by the names of the features, where there are some."""
    statistics = {
        f"{name}.{buffer}": values.contiguous()
        for name, projection in whitened.items()
        for buffer, values in projection.named_buffers()
        if buffer in projection.state_dict()
    }
    if statistics:
        save_file(statistics, folder / STATISTICS_FILE)


def write_manifest(folder: Path, manifest: dict[str, Any], processor: TransRecProcessor) -> None:
    """Writes a manifest of all files in a folder and of the processor that is saved there."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    whole = {**manifest, "processor": _hash(processor.fingerprint), "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Reads what an export's folder says about itself.

    Raises:
        ValueError: if the file is not one that [`write_export`] writes.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        strings = [found["checkpoint"], found["processor"]]
        if found["format"] not in FORMATS or not all(isinstance(one, str) for one in strings):
            raise ValueError("a field has another value than an export's")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of an export ({error}); export the checkpoint again") from error


def towers_in(manifest: dict[str, Any]) -> list[str]:
    """Returns the files of the towers that a manifest names, relative to the export's folder."""
    towers = [f"onnx/{name}.onnx" for name in (ITEM_TOWER, USER_TOWER, SCORING_SPACE)]
    beside = [f"{name}.data" for name in towers]  # weights of more than a file of ONNX can have
    beside += [f"onnx/{ITEM_PROJECTION}.onnx", STATISTICS_FILE]  # of a model that whitens features
    return [*towers, *(name for name in beside if name in manifest.get("files", ()))]


def check_backend(backend: str, manifest_file: str | None, name: str | os.PathLike) -> None:
    """Refuses a backend that a checkpoint is not for.

    Args:
        backend: `"torch"` or `"onnx"`.
        manifest_file: manifest of an export, where the checkpoint has one.
        name: the checkpoint's, for the message.
    """
    if backend not in BACKENDS:
        raise ValueError(f'backend must be "torch" or "onnx", got {backend!r}')
    if backend == "torch" and manifest_file is None:
        return
    if manifest_file is None:
        raise ValueError(f"{name} is no export: run transrec export {name} --format onnx --output_dir DIR, load DIR")
    format = read_manifest(manifest_file)["format"]
    if backend == "torch" and format == "onnx":
        raise ValueError(f'{name} has towers of ONNX: load it with backend="onnx" (--backend onnx)')
    if format != "onnx":
        other = {"torch-export": "torch.export.load", "sentence-transformers": "SentenceTransformer"}[format]
        raise ValueError(f"{name} is an export of format {format}, which {other} loads; a recommender reads onnx")


def stamp_of(manifest: dict[str, Any], processor: TransRecProcessor) -> str:
    """Returns the hash by which an export's embeddings are known: another one if the processor is another."""
    fingerprint = _hash(processor.fingerprint)
    checkpoint = manifest["checkpoint"]
    return checkpoint if fingerprint == manifest["processor"] else _hash(f"{checkpoint} {fingerprint}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
