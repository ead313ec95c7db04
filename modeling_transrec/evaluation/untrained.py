"""Content kNN and transitions, alone and added to other scores; their few settings are chosen on the validation split.

A model is worth what it adds to them. Only training interactions are counted.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from ..data.cache import features_digest
from ..data.image_processors import load_image_processor
from ..data.preparation import item_chunks, prepare_items
from ..data.transitions import Transitions
from ..models.checkpoint_files import check_name_or_path, load_config
from ..models.modeling_transrec import TransRecForSequentialRecommendation, TransRecModel
from ..models.processing_transrec import TransRecProcessor
from ..models.sentence_folders import read_sentence_folder
from .content import ContentKNN
from .evaluator import FullRankingEvaluator
from .ranking import rank_targets
from .scoring import CatalogueScorer


USERS_TO_CHOOSE_ON = 10_000  # with 5,000 the decay of content kNN is chosen by noise on Amazon_Beauty
TRANSITION_WEIGHTS = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # in units of the dense scores' spread
POPULARITY_WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)  # likewise, of the standardised log popularity
UNTRAINED = ("transitions", "content-knn", "content-and-transitions")
TRANSITION_SETTINGS = tuple(
    {"power": power, "history_decay": decay} for power in (0.3, 0.5) for decay in (0.5, 0.6, 0.7)
)
CONTENT_SETTINGS = tuple(
    {"power": power, "history_decay": decay} for power in (0.5, 0.75) for decay in (0.6, 0.7, 0.8)
)


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
    source: str

    def fit(self, weights: Mapping[str, float] | None = None, max_seq_len: int = 50, **settings) -> CatalogueScorer:
        """Returns content kNN with these `power` and `history_decay` as a scorer."""
        knn = ContentKNN.fit(self.features, self.has_content, weights=weights, max_seq_len=max_seq_len, **settings)
        item_embeddings = knn.embed_items(self.features, self.has_content)
        return CatalogueScorer(knn, item_embeddings)  # type: ignore[arg-type]  # it has what a scorer asks of a model


def load_content_model(
    text_model_name_or_path: str | None = None,
    vision_model_name_or_path: str | None = None,
    multimodal_model_name_or_path: str | None = None,
    language: str = "en",
    max_text_length: int | None = None,
    **where,
) -> tuple[TransRecModel, TransRecProcessor]:
    """Returns a model whose backbones make the features, and its processor.

    A folder of sentence-transformers brings its pooling and maximum length. A TransRec checkpoint, named as text
    model, brings all of its backbones.

    Args:
        text_model_name_or_path, vision_model_name_or_path, multimodal_model_name_or_path: Hub ids or folders.
        language: of the texts.
        max_text_length: in tokens; by default what the folder says, 64 where it says nothing.
        where: `revision`, `token`, …
    """
    names = (text_model_name_or_path, vision_model_name_or_path, multimodal_model_name_or_path)
    if not any(names):
        raise ValueError("content needs a backbone: give text_model_name_or_path or vision_model_name_or_path")
    for name in filter(None, names):
        check_name_or_path(name)
    if _is_transrec(text_model_name_or_path, where):
        model = TransRecModel.from_pretrained(text_model_name_or_path, **where)
        return model.eval(), TransRecProcessor.from_pretrained(text_model_name_or_path, **where)
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
    features = {name: values for name, values in tensors.items() if not name.startswith("has_")}
    if not features:
        raise ValueError("this model has no backbone that makes features of an item by itself")
    has_content = {name.removeprefix("has_"): values for name, values in tensors.items() if name.startswith("has_")}
    return Content(features, has_content, model.name_or_path or type(model).__name__)


def _encode_content(model, processor, prepared: datasets.Dataset, chunk_size: int) -> dict[str, torch.Tensor]:
    """Returns features `(V, H)`, and which items have the content `(V,)`, by modality."""
    tensors: dict[str, torch.Tensor] = {}
    for catalogue_index in item_chunks(prepared, chunk_size):
        inputs = processor.pad(prepared[catalogue_index]).to(model.device)
        place = torch.from_numpy(catalogue_index)
        for name, features in model.item_encoder.features(**inputs).items():
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


def empty_scorer(num_items: int) -> CatalogueScorer:
    """Returns a scorer to which every item is the same: what is added to it counts alone."""
    nothing = ContentKNN({})
    return CatalogueScorer(nothing, torch.zeros(num_items, 0))  # type: ignore[arg-type]  # as in `Content.fit`


@dataclass(frozen=True)
class ScoringChoice:
    """What is added to dense scores; chosen by [`choose`].

    Args:
        transition_weight: in units of the dense scores' spread.
        popularity_weight: likewise, of the standardised log popularity.
        spread: mean standard deviation of a user's dense scores.
        transition_settings: `power` and `history_decay` of the transitions.
    """

    transition_weight: float
    popularity_weight: float
    spread: float
    transition_settings: dict

    def apply(self, scorer: CatalogueScorer, transitions: Transitions) -> CatalogueScorer:
        """Returns the scorer with the sparse part and popularity added."""
        changes: dict[str, Any] = {}
        if self.transition_weight:
            changes["transitions"] = transitions.with_settings(**self.transition_settings)
            changes["transition_weight"] = self.transition_weight * self.spread
        if self.popularity_weight:
            popularity = log_popularity(transitions.item_counts).to(scorer.item_embeddings.device)
            changes["item_scores"] = self.popularity_weight * self.spread * popularity
        return scorer.replace(**changes)


def log_popularity(item_counts: np.ndarray) -> torch.Tensor:
    """Returns the logarithm of item counts `(V,)`, of mean 0 and standard deviation 1."""
    logs = torch.from_numpy(np.log1p(item_counts)).float()
    return (logs - logs.mean()) / logs.std(correction=0).clamp(min=1e-9)


def choose(
    scorer: CatalogueScorer,
    transitions: Transitions,
    validation: FullRankingEvaluator,
    transition_weights: Sequence[float] = TRANSITION_WEIGHTS,
    popularity_weights: Sequence[float] = POPULARITY_WEIGHTS,
    settings: Iterable[dict] = TRANSITION_SETTINGS,
    user_index: torch.Tensor | None = None,
) -> ScoringChoice:
    """Chooses what is added to dense scores by NDCG@10 of users of the validation split.

    The dense scores are made once. The transitions' settings and weight are chosen first, then that of popularity.

    Args:
        scorer: makes the dense scores.
        transitions: of the training interactions, for the scorer's catalogue.
        validation: the validation split.
        transition_weights, popularity_weights: to choose from, in units of the dense scores' spread.
        settings: `power` and `history_decay` of the transitions to choose from.
        user_index: see [`FullRankingEvaluator.user_index`].
    """
    popularity, settings = log_popularity(transitions.item_counts), list(settings)
    pairs = [(number, weight) for number in range(len(settings)) for weight in transition_weights if weight]
    tried = [(0, 0.0), *pairs] if 0.0 in transition_weights else pairs
    spread, blocks = 0.0, list(_blocks(validation))
    for histories, users in blocks:
        dense = _dense_scores(scorer, histories, users, user_index)
        spread += float(dense.std(dim=1, correction=0).sum()) / sum(len(users) for _, users in blocks)
    spread = spread or 1.0  # all items score the same
    gains = torch.zeros(len(tried))
    for histories, users in blocks:
        dense = _dense_scores(scorer, histories, users, user_index)
        for number, setting in enumerate(settings):
            added = transitions.with_settings(**setting).scores(histories.numpy())
            added = torch.from_numpy(added.astype(np.float32).toarray())
            for place, (of_setting, weight) in enumerate(tried):
                if of_setting == number:
                    scores = torch.add(dense, added, alpha=weight * spread)
                    gains[place] += _gain(scores, histories, users, validation)
    number, weight = tried[int(gains.argmax())]
    chosen = ScoringChoice(weight, 0.0, spread, settings[number] if settings else {})
    gains = torch.zeros(len(popularity_weights))
    if len(gains) > 1:
        best = chosen.apply(scorer, transitions)
        for histories, users in blocks:
            base = _dense_scores(best, histories, users, user_index)
            for place, factor in enumerate(popularity_weights):
                gains[place] += _gain(base + factor * spread * popularity, histories, users, validation)
    popularity_weight = popularity_weights[int(gains.argmax())] if popularity_weights else 0.0
    return ScoringChoice(weight, popularity_weight, spread, chosen.transition_settings)


def choose_content(content: Content, validation: FullRankingEvaluator, max_seq_len: int = 50, **fixed) -> dict:
    """Returns the settings of content kNN with the best NDCG@10 on users of the validation split.

    Args:
        content: the items' features.
        validation: the validation split.
        max_seq_len: how many items of a history are read.
        fixed: other arguments of [`Content.fit`].
    """
    found = []
    for settings in CONTENT_SETTINGS:
        options: dict[str, Any] = {**settings, **fixed}
        scorer, gain = content.fit(max_seq_len=max_seq_len, **options), 0.0
        for histories, users in _blocks(validation):
            gain += _gain(_dense_scores(scorer, histories, users, None), histories, users, validation)
        found.append(gain)
    return CONTENT_SETTINGS[int(np.argmax(found))]


def _blocks(evaluator: FullRankingEvaluator) -> Iterable[tuple[torch.Tensor, np.ndarray]]:
    """Users that are chosen on, the same on every process: all, or evenly spread ones."""
    step = -(-len(evaluator.targets) // USERS_TO_CHOOSE_ON)
    return evaluator.blocks_of(np.arange(0, len(evaluator.targets), step))


def _dense_scores(
    scorer: CatalogueScorer, histories: torch.Tensor, users: np.ndarray, user_index: torch.Tensor | None
) -> torch.Tensor:
    return scorer.scores(histories, None if user_index is None else user_index[users]).cpu()


def _gain(scores: torch.Tensor, histories: torch.Tensor, users: np.ndarray, evaluator: FullRankingEvaluator) -> float:
    """Sum of NDCG@10, a tied target counting as in the middle of the tie."""
    targets = torch.from_numpy(evaluator.targets[users]).long()
    better, tied = rank_targets(scores, targets, histories if evaluator.exclude_seen else None)
    rank = better + tied / 2
    return float(torch.where(rank < 10, 1 / torch.log2(rank + 2.0), 0).sum())


@dataclass
class Untrained:
    """
    Content kNN and transitions for one catalogue; each of them is a [`CatalogueScorer`].

    Args:
        transitions: of the training interactions, for the catalogue.
        validation: the validation split of it.
        content: the items' features, where there are any.
        max_seq_len: how many items of a history content kNN reads.
        modality_weights: of the modalities of `content`, by default equal.
    """

    transitions: Transitions
    validation: FullRankingEvaluator
    content: Content | None = None
    max_seq_len: int = 50
    modality_weights: dict[str, float] | None = None

    def __post_init__(self):
        self._content_settings: dict | None = None

    def build(self, name: str) -> tuple[CatalogueScorer, dict]:
        """Returns a scorer, and what was chosen, for the protocol.

        Args:
            name: one of [`UNTRAINED`].
        """
        builders = {
            "transitions": self._build_transitions,
            "content-knn": self._build_content,
            "content-and-transitions": self._build_both,
        }
        return builders[name]()

    def _empty(self) -> CatalogueScorer:
        return empty_scorer(len(self.transitions))

    def _build_transitions(self) -> tuple[CatalogueScorer, dict]:
        chosen = choose(self._empty(), self.transitions, self.validation, (1.0,), (0.0,))
        return chosen.apply(self._empty(), self.transitions), self._describe_transitions(**chosen.transition_settings)

    def _build_content(self) -> tuple[CatalogueScorer, dict]:
        if self.content is None:
            raise ValueError("content-knn needs a backbone: give --text_model_name_or_path or a vision model")
        if self._content_settings is None:
            fixed = {"weights": self.modality_weights}
            self._content_settings = choose_content(self.content, self.validation, self.max_seq_len, **fixed)
        settings = self._content_settings
        scorer = self.content.fit(self.modality_weights, self.max_seq_len, **settings)
        return scorer, {"content": {**settings, "source": self.content.source, "weights": scorer.model.weights}}

    def _build_both(self) -> tuple[CatalogueScorer, dict]:
        scorer, description = self._build_content()
        return self.add_transitions(scorer, description)

    def add_transitions(
        self,
        scorer: CatalogueScorer,
        description: dict | None = None,
        transition_weight: float | None = None,
        user_index: torch.Tensor | None = None,
    ) -> tuple[CatalogueScorer, dict]:
        """Returns a scorer of dense scores with transitions and popularity added, and what was chosen.

        Args:
            scorer: makes the dense scores; of a trained model, too.
            description: what the protocol says of it.
            transition_weight: in units of the dense scores' spread; chosen by default.
            user_index: see [`FullRankingEvaluator.user_index`].
        """
        weights: dict[str, Any] = {} if transition_weight is None else {"transition_weights": (transition_weight,)}
        if transition_weight is not None:
            weights["popularity_weights"] = (0.0,)
        chosen = choose(scorer, self.transitions, self.validation, user_index=user_index, **weights)
        described = self._describe_transitions(
            **chosen.transition_settings,
            weight=chosen.transition_weight,
            factor=round(chosen.transition_weight * chosen.spread, 6),
        )
        described["popularity_weight"] = chosen.popularity_weight
        return chosen.apply(scorer, self.transitions), {**(description or {}), **described}

    def _describe_transitions(self, **chosen) -> dict:
        settings = {**asdict(self.transitions.settings), **chosen}
        return {"transitions": {**settings, "data": self.transitions.stamp.get("fingerprint")}}


def describe_scoring(description: dict) -> dict:
    """Returns what was chosen with a hash of it, for the protocol.

    >>> describe_scoring({"popularity_weight": 0.1})
    {'popularity_weight': 0.1, 'fingerprint': 'b67f60b4'}
    """
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return {**description, "fingerprint": digest[:8]}
