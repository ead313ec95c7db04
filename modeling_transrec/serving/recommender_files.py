"""The files of a recommender: model, processor and catalogue are loaded, saved, exported and published together."""

import contextlib
import inspect
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import CommitInfo, HfApi, hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import PreTrainedModel

from ..data.transitions import TRANSITIONS_FILE
from ..export.folders import (
    MANIFEST_FILE,
    TOWER_FOLDERS,
    check_backend,
    check_export,
    read_manifest,
    towers_in,
    write_export,
)
from ..export.onnx_model import OnnxModel
from ..hub.card import build_model_card
from ..hub.facts import CardFacts, checkpoint_hash, describe_model
from ..hub.names import CARD_NAME, CATALOGUE_FOLDER
from ..hub.publish import upload_checkpoint
from ..hub.with_code import saved_with_code
from ..hub.with_handler import write_handler
from ..models.checkpoint_files import HUB_ARGUMENTS, check_name_or_path, named_file
from ..models.configuration_transrec import TransRecConfig
from ..models.modeling_transrec import TransRecModel
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..models.whole_saves import local_file, whole_save
from .arguments import check_names
from .catalogue import CATALOGUE_FILE, Catalogue
from .platform import SCORING_FILE, checked_tensor, load_scoring, save_scoring


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


_SAVING = (TransRecPreTrainedModel.save_pretrained, PreTrainedModel.save_pretrained, PreTrainedModel.push_to_hub)
_SAVING_OPTIONS = {name for function in _SAVING for name in inspect.signature(function).parameters}
_SAVING_OPTIONS |= {"max_per_item", "min_count", "with_code", "with_handler"}


def load_model(name_or_path: str | os.PathLike, backend: str, **kwargs) -> tuple[Any, TransRecProcessor]:
    """Loads model and processor; arguments and errors as in [`Recommender.from_pretrained`]."""
    hub_kwargs = hub_arguments(kwargs)
    check_name_or_path(name_or_path)
    is_asked = backend != "torch" or os.path.isdir(name_or_path)  # not of the Hub for nothing
    manifest = _find_file(name_or_path, MANIFEST_FILE, hub_kwargs) if is_asked else None
    check_backend(backend, manifest, name_or_path)
    if backend != "onnx":
        model: Any = TransRecModel.from_pretrained(name_or_path, **kwargs)
    else:
        unread = set(kwargs) - {*hub_kwargs, "providers"}
        if unread:
            raise TypeError(f"{', '.join(sorted(unread))} is no argument of backend='onnx'")
        model = _load_onnx(name_or_path, str(manifest), hub_kwargs, kwargs.get("providers"))
    return model, TransRecProcessor.from_pretrained(name_or_path, **hub_kwargs)


def hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns those of the arguments that say where files come from."""
    return {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}


def load_catalogue(
    name_or_path: str | os.PathLike, model: TransRecPreTrainedModel, processor: TransRecProcessor, **hub_kwargs
) -> tuple[Catalogue, bool] | None:
    """Loads the catalogue that was saved with a model, and says whether content kNN scores it.

    Returns: `None` if there is none.
    """
    file = _find_file(name_or_path, CATALOGUE_FILE, hub_kwargs)
    if file is None:
        return None
    beside = (f"{CATALOGUE_FOLDER}/{name}" for name in (SCORING_FILE, TRANSITIONS_FILE))
    scoring_file, counts_file = (_find_file(name_or_path, name, hub_kwargs) for name in beside)
    knn, scoring = load_scoring(scoring_file, counts_file)
    scores: Any = model if knn is None else knn
    catalogue = Catalogue.load(file, scores, checkpoint_hash(model, processor))
    if "item_scores" in scoring:
        with named_file(scoring_file):
            scoring["item_scores"] = checked_tensor(scoring, "item_scores", len(catalogue)).to(model.device)
    if "transitions" in scoring:
        scoring["transitions"] = scoring["transitions"].aligned(catalogue.item_ids)
    if scoring.get("reranker") is not None:
        scoring["reranker"] = scoring["reranker"].to(model.device)
    if scoring:
        catalogue = replace(catalogue, scorer=catalogue.scorer.replace(**scoring))
    return catalogue, knn is not None


def save(
    folder: str | os.PathLike,
    model: TransRecPreTrainedModel,
    processor: TransRecProcessor,
    catalogue: Catalogue | None,
    with_code: bool = False,
    with_handler: bool = False,
    max_per_item: int | None = None,
    min_count: float = 0.0,
    **kwargs,
) -> None:
    """Saves model, processor and catalogue; arguments and errors as in [`Recommender.save_pretrained`]."""
    _check_unchanged(model, processor, catalogue, "saving")
    check_names(kwargs, _SAVING_OPTIONS, "save_pretrained")
    is_export = isinstance(model, OnnxModel)
    if is_export and (with_code or with_handler or kwargs):
        raise ValueError("an export is saved without code, without a handler and without options of its weights")
    with whole_save(folder, replaced=[*(TOWER_FOLDERS if is_export else ()), CATALOGUE_FOLDER]) as unfinished:
        if is_export:
            cast(OnnxModel, model).save_export(unfinished, processor)
        else:
            with saved_with_code(model, processor) if with_code else contextlib.nullcontext():
                model.save_pretrained(unfinished, **kwargs)
                processor.save_pretrained(unfinished)
        if with_handler:
            write_handler(unfinished, model)
        if catalogue is not None:
            other = [dtype for dtype in _DTYPES if dtype != model.dtype and not is_export]
            catalogue.save(unfinished, [checkpoint_hash(model, processor, dtype) for dtype in other])
            scorer = catalogue.rebuilt().scorer
            save_scoring(scorer, unfinished / CATALOGUE_FOLDER, max_per_item=max_per_item, min_count=min_count)


def export(
    folder: str | os.PathLike,
    model: TransRecPreTrainedModel,
    processor: TransRecProcessor,
    catalogue: Catalogue | None,
    format: str,
    quantize: str | None,
) -> None:
    """Writes model, processor and, where it fits, the catalogue; arguments and errors as in [`Recommender.export`]."""
    check_export(Path(folder), format, quantize)
    with whole_save(folder, replaced=[*TOWER_FOLDERS, CATALOGUE_FOLDER]) as unfinished:
        checkpoint = write_export(model, processor, unfinished, format, quantize)
        if catalogue is not None and format == "onnx" and quantize is None:
            _check_unchanged(model, processor, catalogue, "exporting")
            catalogue.save(unfinished, [checkpoint])
            save_scoring(catalogue.rebuilt().scorer, unfinished / CATALOGUE_FOLDER)


def publish(
    repo_id: str,
    model: TransRecPreTrainedModel,
    processor: TransRecProcessor,
    catalogue: Catalogue | None,
    commit_message: str,
    private: bool | None,
    token: str | None,
    revision: str | None,
    create_pr: bool,
    with_code: bool,
    with_handler: bool,
    **kwargs,
) -> CommitInfo:
    """Publishes the files that [`save`] saves; arguments as in [`Recommender.push_to_hub`]."""
    if isinstance(model, OnnxModel):
        raise ValueError("an export is not published as a checkpoint: publish the checkpoint itself")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save(folder, model, processor, catalogue, with_code=with_code, with_handler=with_handler, **kwargs)
        if not api.file_exists(repo_id, CARD_NAME):
            facts = CardFacts(
                name=repo_id, with_code=with_code, **describe_model(model, processor, [model.name_or_path])
            )
            build_model_card(facts).save(Path(folder) / CARD_NAME)
        return upload_checkpoint(
            folder,
            repo_id,
            commit_message=commit_message,
            token=token,
            revision=revision,
            create_pr=create_pr,
            with_code=with_code,
            with_handler=with_handler,
        )


def _check_unchanged(
    model: TransRecPreTrainedModel, processor: TransRecProcessor, catalogue: Catalogue | None, doing: str
) -> None:
    if catalogue is not None and catalogue.checkpoint != checkpoint_hash(model, processor):
        raise ValueError(
            "the model or its processor has changed since it encoded the catalogue: encode it again with "
            f"index(items) before {doing}"
        )


def _load_onnx(
    name_or_path: str | os.PathLike, manifest_file: str, hub_kwargs: dict, providers: Sequence[str] | None
) -> OnnxModel:
    """Loads the towers that an export's manifest names."""
    manifest, folder = read_manifest(manifest_file), Path(manifest_file).parent / "onnx"
    for name in towers_in(manifest):
        if _find_file(name_or_path, name, hub_kwargs) is None:
            raise FileNotFoundError(f"{name_or_path} has no {name}: export the checkpoint again")
    config = TransRecConfig.from_pretrained(name_or_path, **hub_kwargs)
    return OnnxModel(folder, config, manifest, providers)


def _find_file(name_or_path: str | os.PathLike, name: str, hub_kwargs: dict) -> str | None:
    """Returns the local path of a checkpoint's file, or `None` if the checkpoint has no such file."""
    if os.path.isdir(name_or_path):
        return local_file(os.path.join(name_or_path, hub_kwargs.get("subfolder", ""), name))
    try:
        return hf_hub_download(str(name_or_path), name, **hub_kwargs)
    except LocalEntryNotFoundError:
        if is_offline_mode() or hub_kwargs.get("local_files_only"):
            return None  # it is not in the cache
        raise
    except EntryNotFoundError:
        return None
