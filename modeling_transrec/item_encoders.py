"""Item encoders: what an item is, given by its content or its id, to a vector `(U, D)`.

Each is one class with `forward(**item tensors) -> (U, D)`, `input_names` (the fields of the batch it reads) and
`backbone` (the pretrained part, or `None`).
"""

import inspect

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .configuration_transrec import TransRecConfig


def cls_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The vector of the first real token `(U, D)`, with left or right padding."""
    first = attention_mask.long().argmax(dim=1)  # (U,)
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


def mean_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The mean over the real tokens `(U, D)`."""
    weights = attention_mask[:, :, None].to(hidden.dtype)  # (U, T, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def last_pooling(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The vector of the last real token `(U, D)`, with left or right padding."""
    last = attention_mask.cumsum(dim=1).argmax(dim=1)  # (U,)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


TEXT_POOLINGS = {"cls": cls_pooling, "mean": mean_pooling, "last": last_pooling}


def default_text_pooling(model_type: str) -> str:
    """`"cls"` for masked language models, `"mean"` for the rest (the paper: CLS for BERT, mean for OPT).

    >>> default_text_pooling("roberta"), default_text_pooling("opt")
    ('cls', 'mean')
    """
    return "cls" if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "mean"


def pooler_free_kwargs(backbone_config) -> dict:
    """Arguments that leave out a backbone's pooling head, which the item encoder does not use."""
    model_class = MODEL_MAPPING.get(type(backbone_config), None)
    if model_class is None or "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    return {"add_pooling_layer": False}


class TextItemEncoder(nn.Module):
    """Text to vector: backbone, pooling over tokens, linear layer, GELU (NineRec, arXiv 2309.07705).

    Args:
        config: with `text_config` set.
        text_backbone: a model to use as it is; by default one with random weights is built from `config.text_config`.
    """

    input_names = ("input_ids", "attention_mask")

    def __init__(self, config: TransRecConfig, text_backbone: PreTrainedModel | None = None):
        super().__init__()
        text_config = config.text_config
        if text_config.is_encoder_decoder:
            raise ValueError(
                f"{text_config.model_type} is an encoder-decoder; a text backbone is an encoder or a decoder alone"
            )
        if text_backbone is None:
            text_backbone = AutoModel.from_config(text_config, **pooler_free_kwargs(text_config))
        self.pooling = TEXT_POOLINGS[config.text_pooling or default_text_pooling(text_config.model_type)]
        width = getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size  # OPT may narrow
        self.projection = nn.Linear(width, config.hidden_size)
        self.activation = nn.GELU()
        self.text_backbone = text_backbone.to(self.projection.weight.dtype)
        self.text_backbone.config = text_config

    @property
    def backbone(self) -> PreTrainedModel:
        return self.text_backbone

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask `(U, T)` to item vectors `(U, D)`."""
        hidden = self.text_backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (U, T, H)
        return self.activation(self.projection(self.pooling(hidden, attention_mask)))


class IdItemEncoder(nn.Module):
    """A table with one trainable vector per item id: the IDRec baseline. What it learns does not transfer.

    Args:
        config: with `num_items` set.
    """

    input_names = ("item_ids",)
    backbone = None

    def __init__(self, config: TransRecConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.num_items, config.hidden_size)

    def forward(self, item_ids: torch.Tensor) -> torch.Tensor:
        """Rows of the table `(U,)` to item vectors `(U, D)`."""
        return self.embedding(item_ids)


def build_item_encoder(config: TransRecConfig, text_backbone: PreTrainedModel | None = None) -> nn.Module:
    """The item encoder that the configuration asks for."""
    if config.item_encoder_type == "text":
        return TextItemEncoder(config, text_backbone)
    if text_backbone is not None:
        raise ValueError("a text_backbone was given, but the configuration has no text_config")
    if config.item_encoder_type == "id":
        return IdItemEncoder(config)
    raise ValueError("TransRecConfig names no item encoder: set text_config (TransRec) or num_items (IDRec)")
