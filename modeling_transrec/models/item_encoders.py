"""Encodes an item's content, its id or both to an item embedding `(U, D)`.

Shapes: `U` distinct items of the batch, `D` hidden size.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.processing_utils import Unpack

from .batch import ItemInputs
from .codes import CodesProjection
from .configuration_transrec import TransRecConfig
from .content_encoders import ContentEncoder
from .from_zero import EmbeddingFromZero
from .fusions import FUSIONS
from .item_chunks import Chunk, plan_chunks, take_items
from .modalities import BACKBONES, MODALITIES
from .multimodal_encoders import MULTIMODAL_ENCODERS, DualEncoder
from .projections import WhitenedProjection
from .text_chunks import pad_on_the_right
from .user_adapters import make_item_adapter
from .whitening import scale_segments


def _move_text_padding_right(items: ItemInputs) -> None:
    """Moves the padding of texts from the left to the right, where the processor puts it."""
    if "input_ids" in items:
        items["input_ids"], items["attention_mask"] = pad_on_the_right(items["input_ids"], items["attention_mask"])


class ItemEncoder(nn.Module):
    """Encodes an item's content, its id or both to the item embedding.

    Each part lies under a name of its own, so that a checkpoint's content part loads without its id part: ids do not
    transfer.

    Args:
        config: with at least one of the backbones' fields set, such as `text_config`, or `num_items`.
        backbones: loaded models to use as they are, by their names in [`BACKBONES`].
    """

    text: Any  # the encoder of each modality under its name, or None
    multimodal: Any
    fusion: Any
    id_embedding: nn.Embedding | None
    id_fusion: Any

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__()
        backbones = dict(backbones or {})
        if config.modality is None:
            fields = ", ".join(backbone.config_field for backbone in BACKBONES.values())
            raise ValueError(
                f"TransRecConfig names no item encoder: set one of {fields} for content, num_items for ids"
            )
        self.modalities = config.modality.split("+")
        self.multimodal = self.fusion = self.id_embedding = self.id_fusion = None
        if config.multimodal_config is not None:
            model_type = config.backbone_config("multimodal_config").model_type
            encoder_class = MULTIMODAL_ENCODERS.get(model_type, DualEncoder)
            self.multimodal = encoder_class(config, backbones.pop("multimodal", None))
        for name, modality in MODALITIES.items():
            if modality.encoder_class is not None:
                has_own = getattr(config, modality.config_field) is not None
                setattr(self, name, modality.encoder_class(config, backbones.pop(name, None)) if has_own else None)
        if backbones:
            raise ValueError(f"a backbone was given for {', '.join(backbones)}, but the configuration has none")
        sizes = self._sizes_of_parts(config)
        has_missing = len(self.parts) == 1 or not FUSIONS[config.fusion].reads_presence
        for part, size in zip(self.parts, sizes, strict=True):
            part.project_to(size, config, has_missing)
        reads_ids = FUSIONS[config.fusion].reads_ids
        if len(self.parts) > 1 or (self.parts and reads_ids):
            self.fusion = FUSIONS[config.fusion](config, len(self.parts))
            if self.fusion.reads_tokens and not all(part.gives_tokens for part in self.parts):
                raise ValueError(
                    f"fusion={config.fusion!r} reads token vectors, of which a dual encoder gives none; choose sum, "
                    "concat, gated or film, or give the two towers as text_config and vision_config"
                )
        self.starts_at_content = config.starts_at_content and bool(self.parts)
        if config.num_items is not None:
            table = EmbeddingFromZero if self.starts_at_content else nn.Embedding
            self.id_embedding = table(config.num_items, config.width // config.num_views)
            if self.parts and not reads_ids:
                self.id_fusion = FUSIONS[config.id_fusion](config, 2)
        # Width and L2 norm of each segment of an item embedding.
        self.segments: list[tuple[int, float]] = [(config.width, 1.0)]
        if self.fusion is not None and self.fusion.keeps_widths:
            self.segments = list(zip(sizes, self.fusion.scales, strict=True))
        if config.num_views > 1:
            self.segments = [(config.width // config.num_views, config.num_views**-0.5)] * config.num_views
        self.adapter = make_item_adapter(config)
        self.dropout = nn.Dropout(config.item_dropout_prob)
        self.id_dropout = nn.Dropout(config.id_dropout_prob)
        self.synthetic_probability = config.synthetic_negatives
        self.chunk_size: int | None = None

    def _sizes_of_parts(self, config: TransRecConfig) -> list[int]:
        """Returns the width of each part's embedding; sets the configuration's hidden size where it has none."""
        widths = [part.width for part in self.parts]
        several = len(widths) > 1
        if config.hidden_size is None:
            if several and not FUSIONS[config.fusion].keeps_widths and len(set(widths)) > 1:
                raise ValueError(
                    f"the features of {config.modality} have different widths, {widths}, of which "
                    f"fusion={config.fusion!r} makes one; give hidden_size, or fusion='weighted_concat'"
                )
            config.hidden_size = sum(widths) if FUSIONS[config.fusion].keeps_widths else max(widths)
        if not several or not FUSIONS[config.fusion].keeps_widths:
            return [config.width // config.num_views] * len(widths)
        if config.width == sum(widths):
            return widths
        # Split in proportion to the features' widths; ends are rounded, not widths, so that the widths add up.
        ends = [round(config.width * sum(widths[: number + 1]) / sum(widths)) for number in range(len(widths))]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def add_ids(self, config: TransRecConfig, num_items: int, device: torch.device, dtype: torch.dtype) -> None:
        """Adds a table of ids, which starts at zero, beside the contents."""
        table = EmbeddingFromZero(num_items, config.width, device=device, dtype=dtype)
        table.init_own_weights()
        self.id_embedding, self.id_fusion = table, FUSIONS[config.id_fusion](config, 2)
        self.modalities = str(config.modality).split("+")

    @property
    def owners(self) -> dict[str, Any]:
        """The modules that have a backbone, by its name in [`BACKBONES`]."""
        found = {name: getattr(self, name) for name in BACKBONES}
        return {name: module for name, module in found.items() if module is not None}

    @property
    def backbones(self) -> list[PreTrainedModel]:
        """The pretrained models; none in an id model."""
        return [owner.backbone for owner in self.owners.values()]

    @property
    def parts(self) -> list[ContentEncoder]:
        """The content encoders, in the order in which a fusion gets what they make."""
        of_both: list = [] if self.multimodal is None else self.multimodal.parts
        return of_both + [owner for name, owner in self.owners.items() if name != "multimodal"]

    def missing_inputs(self, items: ItemInputs) -> list[str]:
        """Names the item inputs that are needed and neither there nor precomputed."""
        missing = [name for part in self.parts for name in part.missing_inputs(items)]
        return missing + (["item_ids"] if self.id_embedding is not None and "item_ids" not in items else [])

    @property
    def whitened(self) -> dict[str, WhitenedProjection]:
        """The projections that need a catalogue's statistics, by the names of the features that they read."""
        layers: dict[str, Any] = {f"{part.modality}_features": part.projection.layers for part in self.parts}
        return {name: one for name, one in layers.items() if one.starts_at_content}

    @property
    def quantisers(self) -> dict[str, CodesProjection]:
        """The projections that need a quantiser, by the names of the features that they read."""
        layers: dict[str, Any] = {f"{part.modality}_features": part.projection.layers for part in self.parts}
        return {name: one for name, one in layers.items() if one.quantises}

    def synthetic(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Returns embeddings `(U, D)` of items that do not exist, one made from each item; see `synthetic_negatives`.

        That of an item without content is zero.
        """
        (part,) = self.parts  # the configuration allows one only
        _move_text_padding_right(items)
        features = cast(dict, items).get(f"{part.modality}_features")
        features = part.features(**items) if features is None else features
        made = part.projection.layers.synthesize(features, self.synthetic_probability)
        made = self.adapter(made, made)
        index = part.index(**items)
        if index is None:
            return made
        # -1 (no content) becomes the last row, which is zeros.
        return nn.functional.embedding(index % (len(made) + 1), nn.functional.pad(made, (0, 0, 0, 1)))

    @property
    def takes_features(self) -> bool:
        """Whether one vector of each content can be precomputed and stand for it."""
        return bool(self.backbones) and not (self.fusion is not None and self.fusion.reads_tokens)

    def features(self, **items: Unpack[ItemInputs]) -> dict[str, torch.Tensor]:
        """Returns what can be precomputed where the backbones are frozen, by its name as an input of [`forward`]."""
        return {f"{part.modality}_features": part.features(**items) for part in self.parts}

    def encode_content(self, **items: Unpack[ItemInputs]) -> torch.Tensor | None:
        """Encodes the contents to embeddings `(U, D)`; returns `None` in an id model."""
        if self.fusion is None:
            return self.parts[0](**items) if self.parts else None
        if not self.fusion.reads_tokens:
            presence = [[part.presence(**items) for part in self.parts]] if self.fusion.reads_presence else []
            return self.fusion([part(**items) for part in self.parts], *presence)
        tokens, masks = zip(*(part.tokens(**items) for part in self.parts), strict=True)
        table: Any = self.id_embedding  # never None where it is read
        ids = [self.id_dropout(table(items["item_ids"]))] if self.fusion.reads_ids else []
        return self.fusion(list(tokens), list(masks), *ids)

    def encode(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes all items at once; arguments and result as in [`forward`]."""
        embeddings: Any = self.encode_content(**items)
        if self.id_embedding is not None and not (self.fusion is not None and self.fusion.reads_ids):
            ids = self.id_embedding(items["item_ids"])
            embeddings = ids if embeddings is None else self.id_fusion([embeddings, self.id_dropout(ids)])
        embeddings = self.adapter(embeddings, embeddings)
        return self.dropout(scale_segments(embeddings, self.segments) if self.starts_at_content else embeddings)

    def encode_in_chunks(self, chunk_size: int, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes `chunk_size` items at a time, of like text length; activations are computed anew in the backward
        pass.

        Gradient caching (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        RepL4NLP 2021): the memory for activations is that of one chunk, loss and gradients are those of one pass.
        """

        def encode_chunk(chunk: Chunk) -> torch.Tensor:
            return self.encode(**take_items(items, chunk))

        chunks = plan_chunks(items, chunk_size)
        embeddings = torch.cat([checkpoint(encode_chunk, chunk, use_reentrant=False) for chunk in chunks])
        return embeddings[torch.cat([chunk.items for chunk in chunks]).argsort()]

    def forward(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes items, see [`ItemInputs`], to embeddings `(U, D)`."""
        _move_text_padding_right(items)
        if self.chunk_size is not None and self.backbones and torch.is_grad_enabled():
            return self.encode_in_chunks(self.chunk_size, **items)
        return self.encode(**items)
