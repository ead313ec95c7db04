"""Writes the item tower of texts as a model of sentence-transformers, of whose modules it is made.

Everything that reads such models then encodes items: vector databases, LangChain, text-embeddings-inference.

Shapes: `H` width of the backbone, `D` hidden size.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.pooling import default_text_pooling
from ..models.pretrained_model import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..models.projections import LinearGelu, LinearProjection, WhitenedProjection


SENTENCE_TRANSFORMERS_NEEDED = (
    'models of sentence-transformers need pip install "modeling_transrec[sentence-transformers]"'
)
_POOLINGS = {"cls": "cls", "mean": "mean", "first_last": "mean", "last": "lasttoken"}
_PROMPT = "document"


def write_sentence_transformer(model: TransRecPreTrainedModel, processor: TransRecProcessor, folder: Path) -> None:
    """Writes a folder whose `SentenceTransformer(folder).encode(texts)` are the item embeddings of these texts.

    Args:
        model: of texts and nothing else, in evaluation mode, without adapters.
        processor: the model's processor.
        folder: an existing folder.

    Raises:
        ImportError: if sentence-transformers is not installed.
        ValueError: if the model reads something else than a text, or has adapters.
    """
    if model.config.modality != "text" or model.item_encoder.text is None:
        raise ValueError(
            f"a model of {model.config.modality} cannot be one of sentence-transformers, whose modules have one text "
            "in and no ids, images or fusions: use --format onnx or --format torch-export"
        )
    if model.config.platform_index is not None:
        raise ValueError(
            f"the adapters of platform={model.config.platform!r} are no modules of sentence-transformers: use "
            "--format onnx or --format torch-export"
        )
    if model.config.peft_config is not None:
        raise ValueError(
            f"{model.config.peft_config['peft_type']} adapters in a backbone are no modules of sentence-transformers: "
            "merge them with merge_peft_adapter(), or, if they cannot be merged, use --format onnx or --format "
            "torch-export"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(f"{SENTENCE_TRANSFORMERS_NEEDED} ({error})") from error
    with tempfile.TemporaryDirectory() as aside:
        modules = [*_token_modules(model, processor, aside), *_heads(model)]
        prompts = {_PROMPT: processor.item_prefix} if processor.item_prefix else {}
        whole = SentenceTransformer(
            modules=modules, prompts=prompts, default_prompt_name=_PROMPT if prompts else None, device="cpu"
        )
        whole.save_pretrained(str(folder), create_model_card=False)


def _token_modules(model: TransRecPreTrainedModel, processor: TransRecProcessor, aside: str) -> list[Any]:
    """Returns the modules from a text to one vector `(H,)`: the backbone and its pooling."""
    from sentence_transformers.sentence_transformer import modules

    encoder: Any = model.item_encoder.text
    backbone = encoder.backbone
    pooling = model.config.text_pooling or default_text_pooling(model.config.backbone_config("text_config").model_type)
    options = {"output_hidden_states": True} if encoder.pooling.averages_layers else {}
    backbone.save_pretrained(aside)
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer._set_processor_class(None)  # else the tokenizer of a saved processor is read as that processor
    tokenizer.init_kwargs.pop("processor_class", None)
    tokenizer.save_pretrained(aside)
    transformer = modules.Transformer(
        aside,
        config_kwargs=options,
        max_seq_length=processor.max_text_length,
        do_lower_case=processor.do_lower_case,
    )
    transformer.tokenizer.padding_side = "right"
    if getattr(backbone, "pooler", None) is None and hasattr(transformer.model, "pooler"):
        transformer.model.pooler = None  # it would be random
    found: list[Any] = [transformer]
    if encoder.pooling.averages_layers:
        count = backbone.config.num_hidden_layers
        weights = torch.zeros(count)
        weights[0] += 0.5
        weights[-1] += 0.5
        found.append(modules.WeightedLayerPooling(encoder.width, count, 1, nn.Parameter(weights)))
    return [*found, modules.Pooling(encoder.width, _POOLINGS[pooling])]


def _heads(model: TransRecPreTrainedModel) -> list[Any]:
    """Returns the modules from a text's vector `(H,)` to the item embedding `(D,)`."""
    from sentence_transformers.sentence_transformer import modules

    def dense(weight: torch.Tensor, bias: torch.Tensor | None = None, activation: nn.Module | None = None) -> Any:
        return modules.Dense(
            weight.shape[1],
            weight.shape[0],
            bias=bias is not None,
            activation_function=activation or nn.Identity(),
            init_weight=weight.detach().float().clone().contiguous(),
            init_bias=None if bias is None else bias.detach().float().clone(),
        )

    text: Any = model.item_encoder.text
    layers: Any = text.projection.layers
    if isinstance(layers, LinearGelu):
        linear: Any = layers[0]
        return [dense(linear.weight, linear.bias, nn.GELU())]
    if isinstance(layers, LinearProjection):
        return [dense(layers.weight, layers.bias)]
    if not isinstance(layers, WhitenedProjection):
        raise ValueError(
            f"item_projection={model.config.item_projection!r} is not made of modules of sentence-transformers: use "
            "--format onnx or --format torch-export"
        )
    width, hidden_size = layers.matrix.shape
    centred = dense(torch.eye(width), -layers.mean)  # apart from the product, in which the mean would cancel badly
    residual = torch.eye(hidden_size) + layers.residual.weight
    return [centred, dense(layers.matrix.T), modules.Normalize(), dense(residual), modules.Normalize()]
