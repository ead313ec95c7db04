"""Makes the features of a catalogue with frozen backbones; content kNN compares items by them."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoFeatureExtractor, AutoTokenizer

from ..data.cache import autocast_dtype
from ..data.image_processors import load_image_processor
from ..data.precomputed_items import PrecomputedItems, precompute_features
from ..data.preparation import prepare_items
from ..models.checkpoint_files import check_name_or_path, load_config, named_errors, public_name
from ..models.configuration_transrec import TransRecConfig
from ..models.modalities import BACKBONES
from ..models.modeling_transrec import TransRecForSequentialRecommendation, TransRecModel
from ..models.processing_transrec import TransRecProcessor
from ..models.sentence_folders import read_item_prefix, read_lower_case, read_max_length
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
        made: how the features were made, for the protocol: `dtype`, of texts `text_pooling` and `item_prefix`.
    """

    features: dict[str, torch.Tensor]
    has_content: dict[str, torch.Tensor]
    source: list[str]
    made: dict[str, str] = field(default_factory=dict)

    def vectors(self) -> torch.Tensor:
        """Returns one vector of each item `(V, H)`, zeros where it has no content; modalities count the same.

        The cosine of two items with all modalities is the mean of their modalities' cosines.
        """
        parts = [
            torch.nn.functional.normalize(values.float(), dim=1) * self.has_content[name][:, None]
            for name, values in self.features.items()
        ]
        return torch.cat(parts, dim=1)

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
    language: str | None = None,
    max_text_length: int | None = None,
    item_prefix: str | None = None,
    text_pooling: str | None = None,
    **where,
) -> tuple[TransRecModel, TransRecProcessor]:
    """Returns a model whose backbones make the features, and its processor.

    A folder of sentence-transformers brings its pooling, its maximum length and what it sets before a document. A
    TransRec checkpoint, named as text model, brings all of its backbones, and its own language and lengths.

    Args:
        text_model_name_or_path, vision_model_name_or_path, multimodal_model_name_or_path, audio_model_name_or_path:
            Hub ids or folders.
        language: of the texts; by default `"en"`.
        max_text_length: in tokens; by default what the folder says, 64 where it says nothing.
        item_prefix: set before every text, such as `"passage: "` for E5; by default what the folder says. Items are
            documents; histories are not texts, so that there is none for queries.
        text_pooling: of a text model, see [`TransRecConfig`]; by default what the folder says.
        where: `revision`, `token`, …
    """
    names = text_model_name_or_path, vision_model_name_or_path, multimodal_model_name_or_path, audio_model_name_or_path
    if not any(names):
        raise ValueError("content needs a backbone: give text_model_name_or_path or vision_model_name_or_path")
    for name in filter(None, names):
        check_name_or_path(name)
    pooling: dict[str, Any] = {} if text_pooling is None else {"text_pooling": text_pooling}
    of_texts = {"language": language, "max_text_length": max_text_length, "item_prefix": item_prefix}
    options = {name: value for name, value in of_texts.items() if value is not None}
    if _is_transrec(text_model_name_or_path, where):
        model = TransRecModel.from_pretrained(text_model_name_or_path, **pooling, **where)
        processor = TransRecProcessor.from_pretrained(text_model_name_or_path, **where)
        for name, value in options.items():
            setattr(processor, name, value)
        if processor.item_ids is not None and len(processor.modalities) > 1:  # ids are no content
            model.drop_item_ids()
            processor = processor.without_item_ids()
    else:
        model = TransRecForSequentialRecommendation.from_encoder_pretrained(*names, backbone_kwargs=where, **pooling)
        processor = TransRecProcessor(**{**_processor_parts(*names, where), **options})
    unread = [] if "text" in processor.modalities else [*(options.keys() - {"language"})]
    unread += [] if model.item_encoder.text is not None else [*pooling]
    if unread:
        raise ValueError(f"{unread[0]} is an option of texts, and there is no text model that reads it")
    return model.eval(), processor


def _processor_parts(text: str | None, vision: str | None, multimodal: str | None, audio: str | None, where) -> dict:
    """Returns the parts of a processor that belong to backbones, and what their folders say of texts."""
    parts: dict[str, Any] = {}
    of_text, of_images = text or multimodal, vision or multimodal
    if of_text is not None:
        with named_errors(of_text):
            parts["tokenizer"] = AutoTokenizer.from_pretrained(of_text, **where)
        parts["max_text_length"] = read_max_length(of_text, **where) or 64
        parts["item_prefix"] = read_item_prefix(of_text, **where)
        parts["do_lower_case"] = read_lower_case(of_text, **where)
    if of_images is not None:
        parts["image_processor"] = load_image_processor(of_images, square=multimodal is not None, **where)
    if audio is not None:
        parts["feature_extractor"] = AutoFeatureExtractor.from_pretrained(audio, **where)
    return parts


def _is_transrec(name_or_path: str | None, where: dict) -> bool:
    if name_or_path is None:
        return False
    try:
        load_config(name_or_path, where.get("revision", "main"))
    except ValueError:
        return False  # of another model
    return True


def read_content(
    model: TransRecModel,
    processor: TransRecProcessor,
    items: datasets.Dataset,
    chunk_size: int = 256,
    cache_dir: str | None = None,
    bf16: bool | None = None,
    is_catalogue: bool = True,
) -> Content:
    """Encodes the catalogue with frozen backbones; the features are kept on disk, see [`precompute_features`].

    Args:
        model: in evaluation mode.
        processor: the model's processor.
        items: the catalogue.
        chunk_size: items encoded at a time.
        cache_dir: folder of the cache; by default that of `datasets`.
        bf16: whether the backbones compute in bfloat16; by default on CPUs that have it, see [`has_bfloat16`].
        is_catalogue: see [`prepare_items`].
    """
    prepared = prepare_items(items, processor, is_catalogue=is_catalogue)
    with _precision(model.device, bf16):
        return as_content(precompute_features(model, prepared, processor, chunk_size, cache_dir), model, processor)


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether a device is a CPU with instructions for bfloat16 (AMX, AVX512-BF16); others are slower by it."""
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _precision(device: torch.device, bf16: bool | None) -> contextlib.AbstractContextManager:
    """Makes backbones compute in bfloat16 within it, or not; where nothing is said or gained, as the caller does."""
    if bf16 is None and not has_bfloat16(device):
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 is not False)


def as_content(items: PrecomputedItems, model: TransRecModel, processor: TransRecProcessor) -> Content:
    """Returns the features of items that are precomputed, as a model and its processor have made them."""
    arrays = {name.removesuffix("_features"): array for name, array in items.arrays.items()}
    if not arrays:
        raise ValueError("this model has no backbone that makes features of an item by itself")
    features, has_content = {}, {}
    for name, array in arrays.items():
        features[name] = torch.from_numpy(np.array(array.values))
        present = items.small.get(f"has_{name}", array.beside.get("is_there"))
        has_content[name] = torch.ones(len(items), dtype=torch.bool) if present is None else torch.tensor(present)
    made = {"dtype": str(autocast_dtype(model.device) or model.dtype).removeprefix("torch.")}
    if "text" in features:
        made |= {"text_pooling": model.config.text_pooling or "the backbone's", "item_prefix": processor.item_prefix}
    return Content(features, has_content, [public_name(model.name_or_path) or type(model).__name__], made)


def content_of(
    backbones: Mapping[str, str],
    items: datasets.Dataset,
    chunk_size: int = 256,
    device: torch.device | str = "cpu",
    bf16: bool | None = None,
    **options,
) -> Content:
    """Encodes a catalogue with backbones that are given by name; on several processes the first one encodes.

    Args:
        backbones: options of [`load_content_model`] with their names.
        items: the catalogue.
        chunk_size: items encoded at a time.
        device: where they are encoded.
        bf16: see [`read_content`].
        options: `language`, `item_prefix`, …, see [`load_content_model`].
    """
    with PartialState().main_process_first():
        model, processor = load_content_model(**{**options, **backbones})
        model.to(torch.device(device))  # type: ignore[arg-type]  # the hint of transformers is of another function
        content = read_content(model, processor, items, chunk_size, bf16=bf16)
    return replace(content, source=[*map(public_name, backbones.values())])


def starting_backbones(config: TransRecConfig) -> dict[str, str]:
    """Returns the names of the pretrained backbones of a model, by the options of [`load_content_model`].

    There are none of a model from scratch, of ids, or of a saved one whose backbones came from folders.
    """
    parts = {backbone.option: getattr(config, backbone.config_field) for backbone in BACKBONES.values()}
    names = {option: getattr(part, "_name_or_path", "") for option, part in parts.items()}
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
