"""Transferable sequential recommendation: pretrain a recommender on one platform, fine-tune it on another."""

import importlib
from typing import TYPE_CHECKING

from . import registration
from .version import __version__


if TYPE_CHECKING:
    from .data.arguments import DataArguments, SourceArguments
    from .data.collator import TransRecDataCollator
    from .data.loading import load_items, load_sequences
    from .data.platforms import join_platforms
    from .data.transitions import Transitions
    from .data.user_labels import UserLabelCollator, with_labels
    from .evaluation.arguments import EvaluationArguments
    from .evaluation.baselines import evaluate_baselines
    from .evaluation.evaluate import evaluate
    from .evaluation.evaluator import FullRankingEvaluator
    from .models.configuration_transrec import TransRecConfig
    from .models.modeling_transrec import (
        AutoModelForSequentialRecommendation,
        TransRecForSequentialRecommendation,
        TransRecModel,
        TransRecPreTrainedModel,
    )
    from .models.processing_transrec import TransRecProcessor, train_tokenizer
    from .models.user_classification import TransRecForUserClassification
    from .ninerec.sample import SAMPLE_BACKBONE
    from .ninerec.tables.joined_texts import join_columns
    from .serving.pipeline import SequentialRecommendationPipeline
    from .serving.recommender import Recommender
    from .training.arguments import TransRecTrainingArguments
    from .training.model_arguments import ModelArguments
    from .training.train import train
    from .training.trainer import TransRecTrainer


# The module of each public name. It is imported at the first use of the name, so that the data tools, which need
# neither torch nor transformers, do not wait for them.
_MODULES = {
    "SAMPLE_BACKBONE": ".ninerec.sample",
    "AutoModelForSequentialRecommendation": ".models.modeling_transrec",
    "DataArguments": ".data.arguments",
    "EvaluationArguments": ".evaluation.arguments",
    "FullRankingEvaluator": ".evaluation.evaluator",
    "ModelArguments": ".training.model_arguments",
    "Recommender": ".serving.recommender",
    "SequentialRecommendationPipeline": ".serving.pipeline",
    "SourceArguments": ".data.arguments",
    "TransRecConfig": ".models.configuration_transrec",
    "TransRecDataCollator": ".data.collator",
    "TransRecForSequentialRecommendation": ".models.modeling_transrec",
    "TransRecForUserClassification": ".models.user_classification",
    "TransRecModel": ".models.modeling_transrec",
    "TransRecPreTrainedModel": ".models.modeling_transrec",
    "TransRecProcessor": ".models.processing_transrec",
    "TransRecTrainer": ".training.trainer",
    "TransRecTrainingArguments": ".training.arguments",
    "Transitions": ".data.transitions",
    "UserLabelCollator": ".data.user_labels",
    "evaluate": ".evaluation.evaluate",
    "evaluate_baselines": ".evaluation.baselines",
    "load_items": ".data.loading",
    "join_columns": ".ninerec.tables.joined_texts",
    "join_platforms": ".data.platforms",
    "load_sequences": ".data.loading",
    "train": ".training.train",
    "with_labels": ".data.user_labels",
    "train_tokenizer": ".models.processing_transrec",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.register()
