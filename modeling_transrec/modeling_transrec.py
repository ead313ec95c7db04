"""The TransRec model: item encoder, user encoder, score, loss.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `T` text tokens, `N` negatives, `D` width.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import ModelOutput

from .configuration_transrec import TransRecConfig
from .item_encoders import build_item_encoder, pooler_free_kwargs
from .losses import IGNORE_INDEX, LOSSES
from .user_encoders import build_user_encoder


@dataclass
class TransRecModelOutput(ModelOutput):
    """
    Args:
        item_embeds (`torch.FloatTensor` of shape `(U, D)`): vectors of the batch's distinct items.
        user_hidden (`torch.FloatTensor` of shape `(B, L, D)`): the user encoder's state at every position.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): the state at the last item of each history.
    """

    item_embeds: torch.FloatTensor | None = None
    user_hidden: torch.FloatTensor | None = None
    user_embeds: torch.FloatTensor | None = None


@dataclass
class TransRecOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, given `labels`): mean over the positions that have a target.
        logits (`torch.FloatTensor` of shape `(B, U)`): score of each of the batch's items as each user's next.
        item_embeds (`torch.FloatTensor` of shape `(U, D)`): vectors of the batch's distinct items.
        user_hidden (`torch.FloatTensor` of shape `(B, L, D)`): the user encoder's state at every position.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): the state at the last item of each history.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    item_embeds: torch.FloatTensor | None = None
    user_hidden: torch.FloatTensor | None = None
    user_embeds: torch.FloatTensor | None = None


class TransRecPreTrainedModel(PreTrainedModel):
    """Weight initialisation, saving and loading, common to both classes."""

    config: TransRecConfig
    base_model_prefix = "model"
    main_input_name = "item_index"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SASRecLayer"]

    @torch.no_grad()
    def _init_weights(self, module):
        """Xavier-normal weights and zero biases, as NineRec; backbones initialise themselves."""
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.xavier_normal_(module.weight)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers, but keys keep the names they have in memory, which the Trainer needs to resume."""
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_encoder_pretrained(cls, text_model_name_or_path: str, *, dtype="float32", backbone_kwargs=None, **kwargs):
        r"""
        A model around a pretrained backbone, with a new user encoder.

        Args:
            text_model_name_or_path (`str`): Hub id or folder of any model that `AutoModel` loads.
            dtype (`str` or `torch.dtype`, defaults to `"float32"`): type of the weights.
            backbone_kwargs (`dict`, *optional*): arguments of the backbone's `from_pretrained` (`revision`, …).
            kwargs: fields of [`TransRecConfig`].

        Example:

        ```python
        model = TransRecForSequentialRecommendation.from_encoder_pretrained(
            text_model_name_or_path="hfl/chinese-bert-wwm", hidden_size=512
        )
        ```
        """
        loading = backbone_kwargs or {}
        text_config = AutoConfig.from_pretrained(text_model_name_or_path, **loading)
        backbone = AutoModel.from_pretrained(
            text_model_name_or_path,
            config=text_config,
            dtype=dtype,
            **pooler_free_kwargs(text_config),
            **loading,
        )
        config = TransRecConfig(text_config=backbone.config, **kwargs)
        dtype = backbone.dtype
        return cls(config, text_backbone=backbone).to(dtype)


class TransRecModel(TransRecPreTrainedModel):
    r"""
    Item encoder and user encoder, without a loss.

    Args:
        config ([`TransRecConfig`]): architecture.
        text_backbone (`PreTrainedModel`, *optional*): a loaded backbone; see
            [`~TransRecPreTrainedModel.from_encoder_pretrained`].

    Example:

    >>> import torch
    >>> from modeling_transrec import TransRecConfig, TransRecModel
    >>> model = TransRecModel(TransRecConfig(num_items=5, hidden_size=8))
    >>> output = model(item_ids=torch.tensor([3, 1, 4]), item_index=torch.tensor([[-1, 0, 2], [1, 2, 0]]))
    >>> output.item_embeds.shape, output.user_hidden.shape, output.user_embeds.shape
    (torch.Size([3, 8]), torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, config: TransRecConfig, text_backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.item_encoder = build_item_encoder(config, text_backbone)
        self.user_encoder = build_user_encoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        backbone = self.item_encoder.backbone
        return self.item_encoder.embedding if backbone is None else backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        if self.item_encoder.backbone is None:
            self.item_encoder.embedding = value
        else:
            self.item_encoder.backbone.set_input_embeddings(value)

    def resize_token_embeddings(self, *args, **kwargs):
        """As in transformers, for the text backbone's tokens."""
        if self.item_encoder.backbone is None:
            raise ValueError("an id model has a row for each item, not for each token; make a new model instead")
        return super().resize_token_embeddings(*args, **kwargs)

    def freeze_backbone(self) -> None:
        """Stops training the pretrained backbone; the projection and the user encoder go on.

        A frozen backbone stays in evaluation mode: an item's features do not change from step to step.
        """
        if self.item_encoder.backbone is None:
            raise ValueError("an id model has no backbone to freeze")
        self.item_encoder.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """As in torch, but a frozen backbone stays in evaluation mode."""
        super().train(mode)
        backbone = self.item_encoder.backbone
        if backbone is not None and not any(parameter.requires_grad for parameter in backbone.parameters()):
            backbone.eval()
        return self

    def get_item_features(self, **item_tensors: torch.Tensor) -> torch.Tensor:
        """Item tensors, as the processor makes them, to item vectors `(U, D)`.

        A text model takes `input_ids` and `attention_mask` `(U, T)`, an id model `item_ids` `(U,)`.
        """
        names = self.item_encoder.input_names
        missing = [name for name in names if item_tensors.get(name) is None]
        if missing:
            raise ValueError(
                f"a model with a {self.config.item_encoder_type} item encoder needs {', '.join(names)}; "
                f"missing: {', '.join(missing)}"
            )
        return self.item_encoder(**{name: item_tensors[name] for name in names})

    def get_user_hidden(self, item_vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Histories of item vectors `(B, L, D)` and their mask `(B, L)` to states at every position `(B, L, D)`."""
        if item_vectors.shape[1] > self.config.max_seq_len:
            raise ValueError(
                f"histories of {item_vectors.shape[1]} items are longer than max_seq_len={self.config.max_seq_len}; "
                "keep only the last ones"
            )
        return self.user_encoder(item_vectors, mask)

    def get_user_features(self, item_vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Item vectors of histories `(B, L, D)` and mask `(B, L)`, false at padding, to user vectors `(B, D)`."""
        return last_state(self.get_user_hidden(item_vectors, mask), mask)

    def forward(
        self,
        item_index: torch.LongTensor,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        item_ids: torch.LongTensor | None = None,
        return_dict: bool | None = None,
    ) -> TransRecModelOutput:
        r"""
        Args:
            item_index (`torch.LongTensor` of shape `(B, L)`):
                Histories, oldest item first, as rows into the batch's distinct items; -1 is padding, on the left.
            input_ids (`torch.LongTensor` of shape `(U, T)`, *optional*): tokens of the distinct items' texts.
            attention_mask (`torch.LongTensor` of shape `(U, T)`, *optional*): 1 at tokens, 0 at padding.
            item_ids (`torch.LongTensor` of shape `(U,)`, *optional*): rows of the id table, for an id model.
            return_dict (`bool`, *optional*): whether to return a [`TransRecModelOutput`] or a tuple.
        """
        item_embeds = self.get_item_features(input_ids=input_ids, attention_mask=attention_mask, item_ids=item_ids)
        mask = item_index >= 0  # (B, L)
        histories = item_embeds[item_index.clamp(min=0)] * mask[:, :, None]  # (B, L, D)
        user_hidden = self.get_user_hidden(histories, mask)
        output = TransRecModelOutput(
            item_embeds=item_embeds, user_hidden=user_hidden, user_embeds=last_state(user_hidden, mask)
        )
        return output if return_dict or return_dict is None else output.to_tuple()


class TransRecForSequentialRecommendation(TransRecPreTrainedModel):
    r"""
    TransRec with a training loss and scores. It has no weights beside those of [`TransRecModel`], so that each loads
    the other's checkpoints.

    Example:

    >>> import torch
    >>> from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation
    >>> model = TransRecForSequentialRecommendation(TransRecConfig(num_items=5, hidden_size=8, logq_correction=False))
    >>> output = model(
    ...     item_ids=torch.tensor([3, 1, 4]),
    ...     item_index=torch.tensor([[-1, 0], [1, 2]]),
    ...     labels=torch.tensor([[-100, 2], [2, 0]]),
    ... )
    >>> output.loss.shape, output.logits.shape
    (torch.Size([]), torch.Size([2, 3]))
    """

    # The loss is a sum divided by the Trainer's count of targets over all processes and accumulation steps.
    accepts_loss_kwargs = True

    def __init__(self, config: TransRecConfig, text_backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.model = TransRecModel(config, text_backbone)
        self.post_init()

    def get_item_features(self, **item_tensors: torch.Tensor) -> torch.Tensor:
        """See [`TransRecModel.get_item_features`]."""
        return self.model.get_item_features(**item_tensors)

    def get_user_features(self, item_vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See [`TransRecModel.get_user_features`]."""
        return self.model.get_user_features(item_vectors, mask)

    def freeze_backbone(self) -> None:
        """See [`TransRecModel.freeze_backbone`]."""
        self.model.freeze_backbone()

    def forward(
        self,
        item_index: torch.LongTensor,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        item_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        negative_index: torch.LongTensor | None = None,
        item_log_popularity: torch.FloatTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
    ) -> TransRecOutput:
        r"""
        Args:
            item_index (`torch.LongTensor` of shape `(B, L)`):
                Histories, oldest item first, as rows into the batch's distinct items; -1 is padding, on the left.
            input_ids (`torch.LongTensor` of shape `(U, T)`, *optional*): tokens of the distinct items' texts.
            attention_mask (`torch.LongTensor` of shape `(U, T)`, *optional*): 1 at tokens, 0 at padding.
            item_ids (`torch.LongTensor` of shape `(U,)`, *optional*): rows of the id table, for an id model.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Row of the target of each position; -100 where there is none.
            negative_index (`torch.LongTensor` of shape `(B, L, N)`, *optional*):
                Rows of sampled negatives, for losses that sample.
            item_log_popularity (`torch.FloatTensor` of shape `(U,)`, *optional*):
                Log of each distinct item's share of the training actions, for the logQ correction.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Number of targets to divide the summed loss by; by default those in `labels`.
            return_dict (`bool`, *optional*): whether to return a [`TransRecOutput`] or a tuple.
        """
        encoded = self.model(
            item_index=item_index, input_ids=input_ids, attention_mask=attention_mask, item_ids=item_ids
        )
        loss = None
        if labels is not None:
            loss = self._compute_loss(
                encoded,
                labels,
                num_items_in_batch,
                item_index=item_index,
                negative_index=negative_index,
                item_log_popularity=item_log_popularity,
            )
        output = TransRecOutput(loss=loss, logits=encoded.user_embeds @ encoded.item_embeds.T, **encoded)
        return output if return_dict or return_dict is None else output.to_tuple()

    def _compute_loss(self, encoded, labels, num_items_in_batch, **batch) -> torch.Tensor:
        loss = LOSSES[self.config.loss_type]
        fields = {name: batch[name] for name in loss.batch_fields}
        if not self.config.logq_correction and "item_log_popularity" in fields:
            del fields["item_log_popularity"]
        missing = [name for name, value in fields.items() if value is None]
        if missing:
            raise ValueError(
                f"loss_type={self.config.loss_type!r} needs {', '.join(missing)} in the batch; "
                "TransRecDataCollator provides them"
            )
        total = loss.function(encoded.user_hidden, encoded.item_embeds, labels, **fields)
        if num_items_in_batch is None:
            num_items_in_batch = (labels != IGNORE_INDEX).sum().clamp(min=1)
        return total / num_items_in_batch


def last_state(user_hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """States `(B, L, D)` and mask `(B, L)` to the state at each user's last item `(B, D)`."""
    last = mask.long().cumsum(1).argmax(1)  # (B,)
    return user_hidden[torch.arange(len(user_hidden), device=user_hidden.device), last]


class AutoModelForSequentialRecommendation(_BaseAutoModelClass):
    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


AutoModelForSequentialRecommendation = auto_class_update(
    AutoModelForSequentialRecommendation, head_doc="sequential recommendation"
)
