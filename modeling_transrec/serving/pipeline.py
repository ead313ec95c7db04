"""`transformers.pipeline("sequential-recommendation", model=…)`: histories in, recommended items out."""

from collections.abc import Sequence

import datasets
from transformers import Pipeline
from transformers.utils import ModelOutput

from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor


class SequentialRecommendationPipeline(Pipeline):
    r"""
    A [`Recommender`] as a pipeline of transformers: `pipeline("sequential-recommendation", model=NAME)`.

    Args:
        model: the model, or for `pipeline(…)` its Hub id or folder.
        items: catalogue to recommend from, as in [`Recommender.index`]; by default the one saved with the checkpoint.
        histories: of some users of a platform that the model was not trained on, as in [`Recommender.index`].
        kwargs: those of every pipeline: `device`, `batch_size`, …

    Raises:
        ValueError: if there are no items, and the checkpoint has no catalogue.

    Example:

    >>> import modeling_transrec
    >>> from transformers import pipeline
    >>> recommend = pipeline("sequential-recommendation", model="me/my-shop")  # doctest: +SKIP
    >>> recommend(["B004756YJA", "B004ZT0SSG"], k=1)  # doctest: +SKIP
    [{'item_id': 'B0020YLEYK', 'score': 7.31}]
    """

    # transformers declares these as None, which its own pipelines override, too
    _load_processor = True  # type: ignore[assignment]
    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_video_processor = False  # type: ignore[assignment]

    model: TransRecPreTrainedModel
    processor: TransRecProcessor

    def __init__(
        self,
        model: TransRecPreTrainedModel,
        *args,
        items: datasets.Dataset | Sequence[dict] | None = None,
        histories: Sequence[Sequence[str]] | None = None,
        **kwargs,
    ):
        from .recommender import Recommender  # only here: registering a pipeline must not import what it runs

        super().__init__(model, *args, **kwargs)
        self.recommender = Recommender(self.model, self.processor)
        if items is not None:
            self.recommender.index(items, histories=histories)
            return
        revision = getattr(model.config, "_commit_hash", None)  # of a Hub id
        if not self.recommender.load_catalogue(model.name_or_path, revision=revision):
            raise ValueError(f"{model.name_or_path} has no catalogue to recommend from; give items=…")
        if histories is not None:
            self.recommender.use_catalogue(self.recommender.catalogue, histories)

    def __call__(self, history, **kwargs) -> list[dict] | list[list[dict]]:  # type: ignore[override]  # it reads histories
        """Returns the best items for a history.

        Args:
            history: item ids, oldest first; or a list, generator or torch data set of such histories.
            kwargs: those of [`Recommender.recommend`], and `batch_size`, of a list's histories, by default 256.
        """
        if not isinstance(history, list | tuple):
            return super().__call__(history, **kwargs)
        if not history or isinstance(history[0], str):
            return super().__call__({"history": history}, **kwargs)
        size = kwargs.pop("batch_size", None) or self._batch_size or 256
        user_ids, found = kwargs.pop("user_id", None), []
        for start in range(0, len(history), size):
            batch = {"history": history[start : start + size]}
            if user_ids is not None:
                batch["user_id"] = user_ids[start : start + size]
            found += super().__call__(batch, **kwargs)
        return found

    def _sanitize_parameters(self, **kwargs) -> tuple[dict, dict, dict]:
        return {}, kwargs, {}

    def preprocess(self, inputs: dict | Sequence[str]) -> dict:  # type: ignore[override]  # it has no parameters
        return inputs if isinstance(inputs, dict) else {"history": inputs}

    def _forward(self, input_tensors: dict, **kwargs) -> ModelOutput:
        return ModelOutput(found=self.recommender.recommend(**input_tensors, **kwargs))

    def postprocess(self, outputs: ModelOutput) -> list:  # type: ignore[override]  # it has no parameters
        return outputs["found"]

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Saves model, processor and catalogue: [`Recommender.save_pretrained`]."""
        self.recommender.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs):
        """Publishes model, processor and catalogue: [`Recommender.push_to_hub`]."""
        return self.recommender.push_to_hub(repo_id, **kwargs)
