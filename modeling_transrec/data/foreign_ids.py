"""Item ids do not transfer: a model of content and ids loses the id part on a catalogue of other items."""

import logging
from collections.abc import Sequence

from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor


logger = logging.getLogger(__name__)


def drop_foreign_ids(
    model: TransRecPreTrainedModel, processor: TransRecProcessor, item_ids: Sequence[str]
) -> TransRecProcessor:
    """Takes the id part out of a model of content and ids where the catalogue has other items, with a warning.

    Args:
        model: the model, which is changed.
        processor: the model's processor.
        item_ids: the catalogue's ids.

    Returns:
        The processor to use from now on.
    """
    has_content = len(processor.modalities) > 1
    if processor.item_ids is None or not has_content or set(item_ids) <= set(processor.item_ids):
        return processor
    logger.warning(
        "The checkpoint's id part is dropped: its %d items are others than the catalogue's %d, and ids do not "
        "transfer. The content part is used without it",
        len(processor.item_ids),
        len(item_ids),
    )
    model.drop_item_ids()
    return processor.without_item_ids()
