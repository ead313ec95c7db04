"""Transferable sequential recommendation: pretrain a recommender on one platform, fine-tune it on another."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from dataset_scripts.ninerec.registration import register as _register_ninerec

from .configuration_transrec import TransRecConfig
from .data import load_items, load_sequences
from .data_collator import TransRecDataCollator
from .evaluation import FullRankingEvaluator
from .modeling_transrec import (
    AutoModelForSequentialRecommendation,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecPreTrainedModel,
)
from .pipeline import SequentialRecommendationPipeline
from .processing_transrec import TransRecProcessor, train_tokenizer
from .recommender import Recommender
from .trainer import TransRecTrainer
from .training_args import TransRecTrainingArguments
from .version import __version__


AutoConfig.register("transrec", TransRecConfig)
AutoModel.register(TransRecConfig, TransRecModel)
AutoModelForSequentialRecommendation.register(TransRecConfig, TransRecForSequentialRecommendation)
AutoProcessor.register(TransRecConfig, TransRecProcessor)
PIPELINE_REGISTRY.register_pipeline(
    "sequential-recommendation",
    SequentialRecommendationPipeline,
    pt_model=(AutoModelForSequentialRecommendation, AutoModel),
)
_register_ninerec()  # load_dataset("ninerec", NAME)

__all__ = [
    "AutoModelForSequentialRecommendation",
    "FullRankingEvaluator",
    "Recommender",
    "SequentialRecommendationPipeline",
    "TransRecConfig",
    "TransRecDataCollator",
    "TransRecForSequentialRecommendation",
    "TransRecModel",
    "TransRecPreTrainedModel",
    "TransRecProcessor",
    "TransRecTrainer",
    "TransRecTrainingArguments",
    "__version__",
    "load_items",
    "load_sequences",
    "train_tokenizer",
]
