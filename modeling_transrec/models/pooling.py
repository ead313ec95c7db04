"""Pools a backbone's vectors of tokens to the vector of a text, an image or a sound.

Shapes: `U` texts, `T` tokens, `H` width of the backbone.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES


def cls_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns the vector of the first real token `(U, H)`, with left or right padding."""
    first = attention_mask.long().argmax(dim=1)  # (U,)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), first]


def mean_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns the mean over the real tokens `(U, H)`."""
    weights = attention_mask[:, :, None].to(hidden.dtype)  # (U, T, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def last_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns the vector of the last real token `(U, H)`, with left or right padding."""
    last = attention_mask.cumsum(dim=1).argmax(dim=1)  # (U,)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


class TextPooling(NamedTuple):
    """
    Args:
        pool: `hidden (U, T, H)` and `attention_mask (U, T)` to `(U, H)`.
        averages_layers: whether `hidden` is the mean of the first layer's output and the last one's. The first layer
            still tells words apart that the last one has mixed with their neighbours: Su et al., "Whitening Sentence
            Representations for Better Semantics and Faster Retrieval", 2021.
    """

    pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    averages_layers: bool = False

    def __call__(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns each text's vector `(U, H)`."""
        return self.pool(hidden, attention_mask)


TEXT_POOLINGS = {
    "cls": TextPooling(cls_pooling),
    "mean": TextPooling(mean_pooling),
    "last": TextPooling(last_pooling),
    "first_last": TextPooling(mean_pooling, averages_layers=True),
}


def default_text_pooling(model_type: str) -> str:
    """Returns `"cls"` for masked language models, `"mean"` for the rest (the paper: CLS for BERT, mean for OPT).

    >>> default_text_pooling("roberta"), default_text_pooling("opt")
    ('cls', 'mean')
    """
    return "cls" if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "mean"


def default_image_pooling(model_type: str) -> str:
    """Returns `"pooler"`, but not for models whose pooler is a layer that no pretraining has trained.

    >>> default_image_pooling("vit"), default_image_pooling("swin"), default_image_pooling("timm_wrapper")
    ('cls', 'pooler', 'pooler')
    """
    return {"vit": "cls", "deit": "cls", "vit_mae": "cls", "vit_msn": "cls", "ijepa": "mean"}.get(model_type, "pooler")
