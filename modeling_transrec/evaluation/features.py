"""Makes the features of a catalogue with frozen backbones; content kNN compares items by them."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoTokenizer

from ..data.cache import features_digest
from ..data.image_processors import load_image_processor
from ..data.preparation import PreparedItems, item_chunks, prepare_items
from ..models.checkpoint_files import check_name_or_path, load_config, public_name
from ..models.configuration_transrec import TransRecConfig
from ..models.modalities import MODALITIES
from ..models.modeling_transrec import TransRecForSequentialRecommendation, TransRecModel
from ..models.processing_transrec import TransRecProcessor
from ..models.sentence_folders import read_sentence_folder
from .content import ContentKNN
from .scoring import CatalogueScorer


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """The features of a catalogue's items, from frozen backbones.

    Args:
        features: `(V, H)` by modality.
        has_content: `(V,)` by modality, false where an item lacks it.
        source: names of the backbones.
    """

    features: dict[str, torch.Tensor]
    has_content: dict[str, torch.Tensor]
    source: list[str]

    def fit(self, weights: Mapping[str, float] | None = None, max_seq_len: int = 50, **settings) -> CatalogueScorer:
        """Returns content kNN with these `power` and `history_decay` as a scorer."""
        knn = ContentKNN.fit(self.features, self.has_content, weights=weights, max_seq_len=max_seq_len, **settings)
        item_embeddings = knn.embed_items(self.features, self.has_content)
        return CatalogueScorer(knn, item_embeddings)  # type: ignore[arg-type]  # it has what a scorer asks of a model


def load_content_model(
    text_model_name_or_path: str | None = None,
    vision_model_name_or_path: str | None = None,
    multimodal_model_name_or_path: str | None = None,
    audio_model_name_or_path: str | None = None,
    language: str = "en",
    max_text_length: int | None = None,
    **where,
) -> tuple[TransRecModel, TransRecProcessor]:
    """Returns a model whose backbones make the features, and its processor.

    A folder of sentence-transformers brings its pooling and maximum length. A TransRec checkpoint, named as text
    model, brings all of its backbones.

    Args:
        text_model_name_or_path, vision_model_name_or_path, multimodal_model_name_or_path, audio_model_name_or_path:
            Hub ids or folders.
        language: of the texts.
        max_text_length: in tokens; by default what the folder says, 64 where it says nothing.
        where: `revision`, `token`, …
    """
    names = text_model_name_or_path, vision_model_name_or_path, multimodal_model_name_or_path, audio_model_name_or_path
    if not any(names):
        raise ValueError("content needs a backbone: give text_model_name_or_path or vision_model_name_or_path")
    for name in filter(None, names):
        check_name_or_path(name)
    if _is_transrec(text_model_name_or_path, where):
        model = TransRecModel.from_pretrained(text_model_name_or_path, **where)
        processor = TransRecProcessor.from_pretrained(text_model_name_or_path, **where)
        if processor.item_ids is not None and len(processor.modalities) > 1:  # ids are no content
            model.drop_item_ids()
            processor = processor.without_item_ids()
        return model.eval(), processor
    model = TransRecForSequentialRecommendation.from_encoder_pretrained(*names, backbone_kwargs=where)
    parts: dict[str, Any] = {}
    of_text, of_images = text_model_name_or_path or multimodal_model_name_or_path, names[1] or names[2]
    if of_text is not None:
        parts["tokenizer"] = AutoTokenizer.from_pretrained(of_text, **where)
        folder = read_sentence_folder(of_text, **where)
        parts["max_text_length"] = max_text_length or (folder and folder.max_length) or 64
        parts["language"] = language
    if of_images is not None:
        parts["image_processor"] = load_image_processor(of_images, square=names[2] is not None, **where)
    if audio_model_name_or_path is not None:
        parts["feature_extractor"] = AutoFeatureExtractor.from_pretrained(audio_model_name_or_path, **where)
    return model.eval(), TransRecProcessor(**parts)


def _is_transrec(name_or_path: str | None, where: dict) -> bool:
    if name_or_path is None:
        return False
    try:
        load_config(name_or_path, where.get("revision", "main"))
    except ValueError:
        return False  # of another model
    return True


@torch.no_grad()
def read_content(
    model: TransRecModel,
    processor: TransRecProcessor,
    items: datasets.Dataset,
    chunk_size: int = 256,
    cache_dir: str | None = None,
) -> Content:
    """Encodes the catalogue with frozen backbones; the features are kept on disk for later runs.

    Args:
        model: in evaluation mode.
        processor: the model's processor.
        items: the catalogue.
        chunk_size: items encoded at a time.
        cache_dir: folder of the cache; by default that of `datasets`.
    """
    prepared = prepare_items(items, processor)
    file = Path(cache_dir or datasets.config.HF_DATASETS_CACHE, "transrec_content", features_digest(model, prepared))
    if file.exists():
        tensors = load_file(file)
    else:
        tensors = _encode_content(model, processor, prepared, chunk_size)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        save_file(tensors, unfinished)
        unfinished.replace(file)
    return _as_content(tensors, model)


@torch.no_grad()
def read_prepared_content(
    model: TransRecModel, processor: TransRecProcessor, prepared: PreparedItems, chunk_size: int = 256
) -> Content:
    """Returns the same of items that are prepared, or whose features are precomputed; nothing is kept on disk."""
    return _as_content(_encode_content(model, processor, prepared, chunk_size), model)


def _as_content(tensors: dict[str, torch.Tensor], model: TransRecModel) -> Content:
    features = {name: values for name, values in tensors.items() if not name.startswith("has_")}
    if not features:
        raise ValueError("this model has no backbone that makes features of an item by itself")
    has_content = {name.removeprefix("has_"): values for name, values in tensors.items() if name.startswith("has_")}
    return Content(features, has_content, [public_name(model.name_or_path) or type(model).__name__])


def _encode_content(model, processor, prepared: PreparedItems, chunk_size: int) -> dict[str, torch.Tensor]:
    """Returns features `(V, H)`, and which items have the content `(V,)`, by modality."""
    tensors: dict[str, torch.Tensor] = {}
    for catalogue_index in item_chunks(prepared, chunk_size):
        inputs = processor.pad(prepared[catalogue_index]).to(model.device)
        place = torch.from_numpy(catalogue_index)
        computed = {name: values for name, values in inputs.items() if name.endswith("_features")}
        for name, features in (computed or model.item_encoder.features(**inputs)).items():
            modality = name.removesuffix("_features")
            has_content = inputs.get(f"has_{modality}", torch.ones(len(place), dtype=torch.bool)).bool()
            if f"{modality}_index" in inputs:  # features only of those that have the content
                index = inputs[f"{modality}_index"]
                has_content = index >= 0
                features = torch.cat([features, features.new_zeros(1, features.shape[1])])[index]
            if modality not in tensors:
                tensors[modality] = torch.zeros(len(prepared), features.shape[1])
                tensors[f"has_{modality}"] = torch.zeros(len(prepared), dtype=torch.bool)
            tensors[modality][place] = features.float().cpu()
            tensors[f"has_{modality}"][place] = has_content.cpu()
    return tensors


def content_of(
    backbones: Mapping[str, str],
    items: datasets.Dataset,
    language: str = "en",
    chunk_size: int = 256,
    device: torch.device | str = "cpu",
) -> Content:
    """Encodes a catalogue with backbones that are given by name; on several processes the first one encodes.

    Args:
        backbones: options of [`load_content_model`] with their names.
        items: the catalogue.
        language: of the texts.
        chunk_size: items encoded at a time.
        device: where they are encoded.
    """
    with PartialState().main_process_first():
        options: dict[str, Any] = dict(backbones)
        model, processor = load_content_model(**options, language=language)
        model.to(torch.device(device))  # type: ignore[arg-type]  # the hint of transformers is of another function
        content = read_content(model, processor, items, chunk_size)
    return replace(content, source=[*map(public_name, backbones.values())])


def starting_backbones(config: TransRecConfig) -> dict[str, str]:
    """Returns the names of the pretrained backbones of a model, by the options of [`load_content_model`].

    There are none of a model from scratch, of ids, or of a saved one whose backbones came from folders.
    """
    options = {modality.config_field: modality.option for modality in MODALITIES.values()}
    options["multimodal_config"] = "multimodal_model_name_or_path"
    names = {
        options[part]: getattr(getattr(config, part), "_name_or_path", "") for part in config.sub_configs_defaults
    }
    return {option: name for option, name in names.items() if name}


def content_of_start(backbones: Mapping[str, str], items: datasets.Dataset, **kwargs) -> Content | None:
    """Returns [`content_of`] the backbones that a model started from; `None` where they cannot be had, with a warning.

    Rows of content kNN are missing then, and nothing else.
    """
    if not backbones:
        return None
    try:
        return content_of(backbones, items, **kwargs)
    except OSError as error:
        logger.warning("Content kNN is left out: %s cannot be loaded (%s)", " and ".join(backbones.values()), error)
        return None
