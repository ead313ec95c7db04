"""Saves the model's code beside its weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ..models.configuration_transrec import TransRecConfig
from ..models.modeling_transrec import AutoModelForSequentialRecommendation, TransRecModel
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor


@contextlib.contextmanager
def saved_with_code(model: TransRecPreTrainedModel, processor: TransRecProcessor) -> Iterator[None]:
    """Saves models and processors, within this context, with this package's code beside them.

    Such a checkpoint loads with `AutoModel.from_pretrained(…, trust_remote_code=True)` where the package is missing.
    """
    model.config.auto_map = {
        "AutoConfig": f"configuration_transrec.{TransRecConfig.__name__}",
        "AutoModel": f"modeling_transrec.{TransRecModel.__name__}",
    }
    is_base = isinstance(model, TransRecModel)
    names: dict[Any, str] = {
        type(model): "AutoModel" if is_base else AutoModelForSequentialRecommendation.__name__,
        type(processor): "AutoProcessor",
    }
    before = {owner: owner._auto_class for owner in names}
    try:
        for owner, name in names.items():
            owner._auto_class = name  # register_for_auto_class accepts only transformers' own names
        yield
    finally:
        for owner, name in before.items():
            owner._auto_class = name
        vars(model.config).pop("auto_map", None)
