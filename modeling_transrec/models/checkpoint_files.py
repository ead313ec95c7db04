"""Lets nothing be read of a checkpoint but safetensors of its own folder or repository."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import httpx, validate_repo_id
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .configuration_transrec import TransRecConfig
from .whole_saves import check_whole, local_file


# Arguments of `from_pretrained` that say where files come from.
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
_REACHING = ("token", "cache_dir", "local_files_only")  # those of them that hold for any repository
_FEW_PARAMETERS = 100_000_000


class _Weights(NamedTuple):
    """Size of the weights that are being loaded in bytes, and arguments of `from_pretrained`."""

    size: int
    loading: dict[str, Any]


_weights: ContextVar[_Weights | None] = ContextVar("weights", default=None)


def is_hub_id(name: str | os.PathLike | None) -> bool:
    """Returns whether a name can be the id of a Hub repository, and is no local folder."""
    if not name or os.path.exists(name):
        return False
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return False
    return True


def reaching(loading: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `from_pretrained` that hold for the repositories of a checkpoint's backbones, too."""
    return {name: loading[name] for name in _REACHING if loading.get(name) is not None}


def public_name(name: str) -> str:
    """Returns a Hub id as it is, and only the last part of a local folder's name.

    >>> public_name("someone/shop"), public_name("/home/me/shop")
    ('someone/shop', 'shop')
    """
    return name if is_hub_id(name) else Path(name).name


def check_name_or_path(name_or_path: str | os.PathLike | None) -> None:
    """Raises `FileNotFoundError` for a name that is neither a folder nor a valid Hub id."""
    if name_or_path is not None and not os.path.exists(name_or_path) and not is_hub_id(name_or_path):
        raise FileNotFoundError(f"{name_or_path} is neither a folder nor a valid Hub id (owner/name)")


def load_config(name_or_path: str | os.PathLike, revision: str = "main") -> TransRecConfig:
    """Loads the configuration of a TransRec checkpoint; the code of a repository is not run.

    Args:
        name_or_path: Hub id or folder.
        revision: branch, tag or commit of a Hub repository.

    Raises:
        ValueError: if it is another model's.
    """
    check_name_or_path(name_or_path)
    check_whole(name_or_path, "model")
    with named_errors(name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    if not isinstance(config, TransRecConfig):
        raise ValueError(
            f"{name_or_path} is a {config.model_type} model, not a TransRec checkpoint; a pretrained backbone is "
            "given as --text_model_name_or_path or --vision_model_name_or_path"
        )
    return config


def check_weight_files(name_or_path: str, loading: dict) -> int | None:
    """Returns the size of a checkpoint's safetensors files in bytes; refuses other files, and paths that lead out.

    `None` where there is no such repository or revision: transformers then says so.

    Args:
        name_or_path: Hub id or folder.
        loading: arguments of `from_pretrained`.
    """
    if loading.get("gguf_file") is not None:
        raise ValueError("gguf_file is not supported; only safetensors is read")
    try:
        file, index = _find_weights(name_or_path, loading)
    except (HfHubHTTPError, HFValidationError):
        return None
    if file is not None:
        return os.path.getsize(file)
    if index is None:
        raise OSError(
            f"{name_or_path} has no weights as safetensors ({SAFE_WEIGHTS_NAME}); pickles (pytorch_model.bin), which "
            "can run code when they are read, are refused. Ask its owner to save it again with save_pretrained"
        )
    shards = set(_read_index(index).values())
    for shard in shards:
        if os.path.basename(shard) != shard or not shard.endswith(".safetensors"):
            raise ValueError(
                f"{index} names {shard!r}: shards must be safetensors files of the same folder; nothing is read"
            )
    found = {shard: _find_file(name_or_path, shard, loading) for shard in sorted(shards)}
    missing = [shard for shard, file in found.items() if file is None]
    if missing:
        raise OSError(f"{index} names {missing[0]}, and {name_or_path} has no such file: it was not saved whole")
    return sum(os.path.getsize(file) for file in found.values() if file is not None)


def weight_names(name_or_path: str, loading: dict) -> list[str]:
    """Returns the names of the weights in a checkpoint's safetensors files; arguments as of [`check_weight_files`]."""
    file, index = _find_weights(name_or_path, loading)
    if file is None:
        return [*_read_index(index)]
    with safe_open(file, framework="pt") as opened:
        return [*opened.keys()]


def _find_weights(name_or_path: str, loading: dict) -> tuple[str | None, Any]:
    """Returns the paths of a checkpoint's safetensors file and, where there is none, of its index of shards."""
    variant = "" if loading.get("variant") is None else f".{loading['variant']}"
    out_of_reach: list[BaseException] = []

    def find(name: str) -> str | None:
        stem, _, ending = name.rpartition(".")
        return _find_file(name_or_path, f"{stem}{variant}.{ending}", loading, out_of_reach)

    file = find(SAFE_WEIGHTS_NAME)
    index = find(SAFE_WEIGHTS_INDEX_NAME) if file is None else None
    if file is None and index is None and out_of_reach:
        raise OSError(
            f"the weights of {name_or_path} are not in the cache, there is no folder of this name here, and the Hub "
            f"says: {out_of_reach[0]}"
        )
    return file, index


def _find_file(
    name_or_path: str, name: str, loading: dict, out_of_reach: list[BaseException] | None = None
) -> str | None:
    """Returns the path of a checkpoint's file, which is downloaded if need be; `None` where there is none.

    Args:
        name_or_path: Hub id or folder.
        name: of the file.
        loading: arguments of `from_pretrained`.
        out_of_reach: gets the error if the file is not in the cache, and the Hub cannot be reached.
    """
    where = {name: loading[name] for name in HUB_ARGUMENTS if loading.get(name) is not None}
    where.pop("force_download", None)  # transformers will
    if os.path.isdir(name_or_path):
        return local_file(os.path.join(name_or_path, where.get("subfolder", ""), name))
    try:
        return hf_hub_download(name_or_path, name, **where)
    except LocalEntryNotFoundError as error:  # not in the cache, and no way to the Hub
        if out_of_reach is not None:
            out_of_reach.append(error.__cause__ or error)
    except EntryNotFoundError:
        pass
    except (HfHubHTTPError, HFValidationError):
        raise
    except (OSError, httpx.HTTPError) as error:
        raise OSError(f"{name} of {name_or_path} was not downloaded whole ({error}); try again") from error
    return None


@contextlib.contextmanager
def named_file(file: str | os.PathLike | None) -> Iterator[None]:
    """Makes whatever a damaged or hostile file makes a library raise a `ValueError` that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        is_ours = type(error) is ValueError
        reason = error if is_ours else f"it is damaged, or not what its name says ({type(error).__name__}: {error})"
        raise ValueError(f"{file}: {reason}") from error


def _read_index(index: str) -> dict[str, str]:
    """Returns the shard of each weight, as an index of shards names them."""
    try:
        with open(index, encoding="utf-8") as opened:
            shard_of = json.load(opened)["weight_map"]
        if not all(isinstance(shard, str) for shard in shard_of.values()):
            raise TypeError("a shard has no name")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of shards as save_pretrained writes it: {error!r}") from error
    return shard_of


def check_backbone_files(name: str, revision: str, where: dict[str, Any]) -> int:
    """Returns the size of the weights that a checkpoint refers to, in bytes; they are downloaded if need be.

    Args:
        name: Hub id; never a folder.
        revision: commit.
        where: how the Hub is reached: `token`, `cache_dir`, `local_files_only`.

    Raises:
        OSError: if they are not there.
        ValueError: if a file or folder here has the name of the repository.
    """
    if os.path.exists(name):
        raise ValueError(
            f"the checkpoint refers to the Hub's {name}, and there is a local file or folder {name}, which must not "
            "be read in its place: rename it, or change to another folder"
        )
    size = check_weight_files(name, {**where, "revision": revision})
    if size is None:
        raise OSError(
            f"the checkpoint refers to the weights of {name} at commit {revision}, which the Hub does not give: the "
            "repository or the commit is gone, or needs a token that may read it"
        )
    return size


@contextlib.contextmanager
def named_errors(name_or_path: str | os.PathLike) -> Iterator[None]:
    """Lets whatever a damaged or hostile checkpoint makes the libraries raise within it say which one it is.

    Raises:
        ValueError: in place of errors of other kinds, which tell about code, not the checkpoint. A `RuntimeError`,
            which may be about the use of `from_pretrained`, stays one, and an error in words stays as it is; a note
            names the checkpoint where these do not.
        OSError: if there is no such folder, and the Hub cannot be reached.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        in_words = isinstance(error, OSError | ImportError) or type(error) is ValueError
        if in_words or (isinstance(error, RuntimeError) and not isinstance(error, RecursionError)):
            if str(name_or_path) not in str(error):
                if type(error) is OSError and is_hub_id(name_or_path):
                    raise OSError(
                        f"there is no folder {name_or_path} here, and no Hub repository of this name could be loaded: "
                        f"{error}"
                    ) from error
                error.add_note(f"(while {name_or_path} was loaded)")
            raise
        raise ValueError(
            f"{name_or_path} cannot be loaded: its files are damaged, or ask for what this version does not have: "
            f"{type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def checked_weights(name_or_path: str | os.PathLike, loading: dict) -> Iterator[None]:
    """Checks weights, and models built for them within it, as [`check_weight_files`] and [`check_size`] do."""
    with named_errors(name_or_path):
        size = check_weight_files(str(name_or_path), loading)
        token = _weights.set(None if size is None else _Weights(size, loading))
        try:
            yield
        finally:
            _weights.reset(token)


def check_size(model: nn.Module, references: Mapping[str, Any] | None = None) -> None:
    """Raises `ValueError` for a model far larger than the weights that are loaded, before memory is allocated.

    Args:
        model: the model, on the meta device.
        references: of the weights that the checkpoint left out, see [`TransRecConfig`].
    """
    weights, count = _weights.get(), sum(parameter.numel() for parameter in model.parameters())
    if weights is None:
        return
    size = weights.size
    for reference in (references or {}).values():
        size += check_backbone_files(reference["name"], reference["revision"], reaching(weights.loading))
    if count > max(_FEW_PARAMETERS, 2 * size):
        raise ValueError(
            f"the configuration asks for {count:,} parameters, but the checkpoint's weights are {size:,} bytes: "
            "they do not belong together, and the model is not built"
        )


@torch.no_grad()
def own_weights(model: nn.Module) -> None:
    """Copies the weights on the CPU, which transformers loads as views of the checkpoint's file.

    A view lies at whatever address the file has it. At another alignment a CPU adds in another order, so that the
    model would not give the digits of the one that was saved. And a view changes when the file is overwritten.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
