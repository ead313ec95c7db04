"""Refuses configurations that ask for files, addresses, code or sizes that nobody could build, whoever wrote them.

A configuration is read before anything else of a checkpoint, and decides what is built and loaded; it is a stranger's.
"""

import re
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


_MOST_LAYERS, _LARGEST_SIZE = 2**10, 2**31
_LARGEST_RANK = 2**12
LARGEST_IMAGE = 2**12  # pixels of a side; a stored image of this size takes 50 MB
# Ends of names of counts: none is negative.
_COUNTS = ("max_position_embeddings", "hidden_size", "vocab_size", "intermediate_size", "hidden_layers", "heads")
_REFERENCE = ("name", "revision", "sha256")


def check_part(where: str, part: Any) -> None:
    """Refuses what a part of a configuration, such as that of a backbone, must not ask for.

    Args:
        where: name of the part.
        part: its values as JSON has them, nested.

    Raises:
        ValueError: naming the value.
    """
    if isinstance(part, dict):
        for key, value in part.items():
            if key in _NOT_ALLOWED and (reason := _NOT_ALLOWED[key](value)) is not None:
                raise ValueError(f"{where}.{key}={value!r} is refused: {reason}")
            check_part(f"{where}.{key}", value)
    elif isinstance(part, list):
        for value in part:
            check_part(where, value)
    elif isinstance(part, int):
        _check_size(where, part)


def _check_size(where: str, value: int) -> None:
    key = where.rpartition(".")[2]
    counts_layers = any(word in key for word in ("layer", "depth", "block", "stage")) and "size" not in key
    largest = _MOST_LAYERS if counts_layers else LARGEST_IMAGE if key == "image_size" else _LARGEST_SIZE
    if value > largest:
        raise ValueError(f"{where} must be at most {largest:,}, got {value:,}")
    if value < 0 and key.endswith(_COUNTS):
        raise ValueError(f"{where} must not be negative, got {value:,}")


def _files(value: Any) -> str | None:
    return (
        None if value is None else "a configuration names no files; weights are those of the checkpoint's own folder"
    )


def _pretrained(value: Any) -> str | None:
    return "weights are read from the checkpoint, not from another place" if value else None


def _code(value: Any) -> str | None:
    return "it would run code of the Hub" if isinstance(value, str) and "/" in value else None


def _timm_name(value: Any) -> str | None:
    if isinstance(value, str) and not re.fullmatch(r"[\w.]+", value):
        return "it must be the name of an architecture of timm, without an address or a path"
    return None


def _is_numeric(value: Any) -> bool:
    return all(map(_is_numeric, value)) if isinstance(value, list | tuple) else isinstance(value, int | float | None)


def _timm_arguments(value: Any) -> str | None:
    """Allows numbers, and lists of numbers; a name only where it is of a layer or a pooling."""
    for name, one in (value or {}).items():
        is_name = name.endswith(("_layer", "_pool", "_type")) and re.fullmatch(r"\w+", str(one)) is not None
        if name.startswith(("pretrained", "checkpoint")) or not (_is_numeric(one) or is_name):
            return f"{name} is no size of an architecture; only numbers and names of layers may be given"
    return None


# Keys, at any depth, that name a file, an address or code to libraries, each with what says why a value is refused.
_NOT_ALLOWED: dict[str, Callable[[Any], str | None]] = {
    "transformers_weights": _files,
    "checkpoint_path": _files,
    "cache_dir": _files,
    "pretrained_cfg_overlay": _files,
    "use_pretrained_backbone": _pretrained,
    "attn_implementation": _code,
    "_attn_implementation": _code,
    "experts_implementation": _code,
    "architecture": _timm_name,
    "model_args": _timm_arguments,
}


def check_peft(part: dict) -> None:
    """Refuses adapters that are larger than any backbone's layers."""
    ranks = {
        "r": part.get("r"),
        **{f"rank_pattern.{key}": value for key, value in (part.get("rank_pattern") or {}).items()},
    }
    for name, rank in ranks.items():
        if isinstance(rank, int | float) and rank > _LARGEST_RANK:
            raise ValueError(f"peft_config.{name} must be at most {_LARGEST_RANK:,}, got {rank:,}")
    check_part("peft_config", part)


def check_reference(where: str, reference: Any) -> None:
    """Refuses a reference to a backbone that is not exactly a Hub id, a commit and a hash; a path is never one."""
    if not isinstance(reference, dict) or {*reference} != {*_REFERENCE}:
        raise ValueError(f"{where} must have exactly {', '.join(map(repr, _REFERENCE))}, got {reference!r}")
    name, revision, sha256 = (str(reference[part]) for part in _REFERENCE)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{where}: name must be a Hub id (owner/name), never a path, got {name!r}") from error
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(f"{where}: revision must be the 40 hexadecimal digits of a commit, got {revision!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{where}: sha256 must be 64 hexadecimal digits, got {sha256!r}")
