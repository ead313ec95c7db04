"""Makes our classes known to transformers, and our data sets to `datasets`, as soon as each of these is imported.

`import modeling_transrec` itself imports neither, so that the data tools start at once.
"""

import wrapt

from .ninerec.registration import register as _register_ninerec


def _register_classes() -> None:
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .models.configuration_transrec import TransRecConfig
    from .models.modeling_transrec import (
        AutoModelForSequentialRecommendation,
        TransRecForSequentialRecommendation,
        TransRecModel,
    )
    from .models.processing_transrec import TransRecProcessor
    from .serving.pipeline import SequentialRecommendationPipeline

    AutoConfig.register(TransRecConfig.model_type, TransRecConfig)
    AutoModel.register(TransRecConfig, TransRecModel)
    AutoModelForSequentialRecommendation.register(TransRecConfig, TransRecForSequentialRecommendation)
    AutoProcessor.register(TransRecConfig, TransRecProcessor)
    PIPELINE_REGISTRY.register_pipeline(
        "sequential-recommendation",
        SequentialRecommendationPipeline,
        pt_model=(AutoModelForSequentialRecommendation, AutoModel),  # type: ignore[arg-type]  # hinted as of one
    )


def register() -> None:
    """Registers with each library at once if it is imported already, else when it is."""
    wrapt.register_post_import_hook(lambda _: _register_classes(), "transformers")
    wrapt.register_post_import_hook(lambda _: _register_ninerec(), "datasets")
