"""Answers requests of a Hugging Face Inference Endpoint. `hub_with_handler` puts this file beside a checkpoint."""

import copy
import inspect
import os
from typing import Any

from modeling_transrec import Recommender
from modeling_transrec.evaluation.encoding import kept_statistics
from modeling_transrec.serving.columns import with_media_decoded


_PARAMETERS = [name for name in inspect.signature(Recommender.recommend).parameters if name not in ("self", "history")]


class EndpointHandler:
    """
    Recommends items. An endpoint makes one handler, and calls it with the body of each request.

    Args:
        path: the checkpoint's folder.

    Example:

    ```json
    {"inputs": ["i1", "i2"], "parameters": {"k": 3, "where": {"in_stock": true}}}
    {"inputs": {"history": ["i1"], "items": [{"item_id": "i1", "text_en": "red rope"}, …]}}
    ```
    """

    def __init__(self, path: str | os.PathLike = ""):
        self.recommender = Recommender.from_pretrained(path or ".")

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Returns the best items of a history, `[{"item_id", "score"}, …]`, or one such list per history.

        Args:
            data: `"inputs"` is a history of item ids, a list of such histories, or a dictionary of a `"history"` and
                `"items"` to choose from, with `item_id` and content (images and sounds as files in base64); without
                items, those of the checkpoint's catalogue. `"parameters"` are those of [`Recommender.recommend`]:
                models that read times or user ids need `"timestamps"` or `"user_id"`.

        Raises:
            ValueError: if a field is missing or unknown, or there is no catalogue; an endpoint answers with its text.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('a request needs "inputs": a history of item ids, or {"history": …, "items": …}')
        inputs, parameters = data["inputs"], data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError('"parameters" must be names with values, such as {"k": 3}')
        unknown = sorted(set(parameters) - set(_PARAMETERS))
        if unknown:
            raise ValueError(f"there is no parameter {', '.join(unknown)}; there are {', '.join(_PARAMETERS)}")
        recommender, items = self.recommender, None
        if isinstance(inputs, dict):
            if "history" not in inputs or set(inputs) - {"history", "items"}:
                raise ValueError('"inputs" has a "history" and, where there is no catalogue, "items"')
            inputs, items = inputs["history"], inputs.get("items")
        if items is not None:
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise ValueError('"items" must be a list of items, such as {"item_id": "i1", "text_en": "red rope"}')
            recommender = self._of(items)
        elif recommender.items is None:
            raise ValueError(
                'this checkpoint has no catalogue: give "items" to choose from, or publish it with one '
                "(recommender.push_to_hub)"
            )
        return recommender.recommend(inputs, **parameters)

    def _of(self, items: list[dict[str, Any]]) -> Recommender:
        """Returns a recommender of these items, which leaves the model as it is for later requests."""
        known = self.recommender.processor.item_ids
        foreign = [] if known is None else sorted({str(item.get("item_id")) for item in items} - set(known))
        if foreign:
            raise ValueError(f"the model's id table lacks {foreign[0]!r}: give only items that it was trained on")
        with kept_statistics(self.recommender.model):
            return copy.copy(self.recommender).index(with_media_decoded(items))
