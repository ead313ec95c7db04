"""Defines the TransRec model: item encoder, user encoder, scores and loss.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `P` of them with an image, `T` text tokens,
`N` negatives, `D` hidden size, `H` width of a backbone.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput

from .adapters import inject_adapters
from .auxiliary_losses import AUXILIARY_LOSSES
from .backbone_references import missing_patterns
from .batch import (
    IGNORE_INDEX,
    MASK_INDEX,
    PADDING_INDEX,
    BatchInputs,
    ItemInputs,
    LossInputs,
    UserInputs,
    given_items,
    split_batch,
)
from .candidates import Candidates, at_targets, make_candidates
from .checkpoint_files import check_size
from .configuration_transrec import TransRecConfig
from .freezing import leave_out_untrainable
from .histories import Histories, Recorded, gather_histories
from .item_encoders import ItemEncoder
from .losses import LOSSES
from .offloading import align_module_device
from .pretrained_model import TransRecPreTrainedModel
from .user_adapters import choose_platform
from .user_encoders import UserEncoder, make_user_encoder


@dataclass
class TransRecModelOutput(ModelOutput):
    """
    Args:
        item_embeds (`torch.FloatTensor` of shape `(U, D)`): item embeddings of the batch's distinct items.
        user_hidden (`torch.FloatTensor` of shape `(B, L, D)`): the user encoder's state at every position.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): user embeddings, which predict each user's next item.
        hidden_states (`tuple(torch.FloatTensor)`, with `output_hidden_states`):
            The input of each layer of the user encoder, `(B, L, width)`, then `user_hidden`; `None` in place of those
            that were not chosen.
        attentions (`tuple(torch.FloatTensor)`, with `output_attentions`):
            The attention weights of each layer of the user encoder, `(B, heads, L, L)`, where it has attention.
    """

    item_embeds: torch.Tensor | None = None
    user_hidden: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class TransRecOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, given `labels`): mean over the positions that have a target.
        logits (`torch.FloatTensor` of shape `(B, U)`): score of each of the batch's items as each user's next.
        item_embeds (`torch.FloatTensor` of shape `(U, D)`): item embeddings of the batch's distinct items.
        user_hidden (`torch.FloatTensor` of shape `(B, L, D)`): the user encoder's state at every position.
        user_embeds (`torch.FloatTensor` of shape `(B, D)`): user embeddings, which predict each user's next item.
        hidden_states (`tuple(torch.FloatTensor)`, with `output_hidden_states`):
            The input of each layer of the user encoder, `(B, L, width)`, then `user_hidden`; `None` in place of those
            that were not chosen.
        attentions (`tuple(torch.FloatTensor)`, with `output_attentions`):
            The attention weights of each layer of the user encoder, `(B, heads, L, L)`, where it has attention.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    item_embeds: torch.Tensor | None = None
    user_hidden: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor | None, ...] | None = None


def as_outputs(recorded: Recorded, user_hidden: torch.Tensor) -> dict[str, tuple[torch.Tensor | None, ...]]:
    """Returns what was recorded by its names in an output, with the last states `(B, L, D)` behind the others.

    Raises:
        ValueError: if a layer is asked for that the user encoder does not have.
    """
    found: dict[str, tuple[torch.Tensor | None, ...]] = {}
    if recorded.hidden_states is not None:
        states = [*recorded.hidden_states, user_hidden]
        chosen = range(len(states)) if recorded.layers is None else recorded.layers
        if any(not -len(states) <= layer < len(states) for layer in chosen):
            raise ValueError(f"output_hidden_states={list(chosen)}: there are {len(states)} hidden states, from 0 on")
        kept = {layer % len(states) for layer in chosen}
        found["hidden_states"] = tuple(one if layer in kept else None for layer, one in enumerate(states))
    if recorded.attentions is not None:
        found["attentions"] = tuple(recorded.attentions)
    return found


class TransRecModel(TransRecPreTrainedModel):
    r"""
    Item encoder and user encoder, without a loss.

    Args:
        config ([`TransRecConfig`]): architecture.
        backbones (`dict[str, PreTrainedModel]`, *optional*): loaded backbones, by the names `"text"`, `"image"`,
            `"multimodal"`; see [`~TransRecPreTrainedModel.from_encoder_pretrained`].

    Example:

    >>> import torch
    >>> from modeling_transrec import TransRecConfig, TransRecModel
    >>> model = TransRecModel(TransRecConfig(num_items=5, hidden_size=8))
    >>> output = model(item_ids=torch.tensor([3, 1, 4]), item_index=torch.tensor([[-1, 0, 2], [1, 2, 0]]))
    >>> output.item_embeds.shape, output.user_hidden.shape, output.user_embeds.shape
    (torch.Size([3, 8]), torch.Size([2, 3, 8]), torch.Size([2, 8]))
    """

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        config = self.config
        self.item_encoder = ItemEncoder(config, backbones)
        self.user_encoder = make_user_encoder(config, self.item_encoder.segments)
        if config.initialization == "ninerec":
            text = self.item_encoder.text
            of_text = [] if text is None else [one for one in text.projection.modules() if isinstance(one, nn.Linear)]
            for layer in [*of_text, *(one for one in self.user_encoder.modules() if isinstance(one, nn.Conv1d))]:
                layer.starts_as_in_torch = True  # type: ignore[assignment]  # read by _init_weights
        start = torch.tensor([float(config.temperature)]).log()  # FSDP takes no scalars
        self.log_temperature = nn.Parameter(start) if config.learn_temperature else None
        parts = self.item_encoder.backbones
        self._no_split_modules = {self.user_encoder.layer_class.__name__}.union(
            *(backbone._no_split_modules or () for backbone in parts)
        )
        self._keep_in_fp32_modules = set().union(*(backbone._keep_in_fp32_modules or () for backbone in parts))
        check_size(self, config.backbone_references)
        self._keys_to_ignore_on_load_missing = missing_patterns(config.backbone_references)
        self.post_init()
        if config.peft_config is not None:
            inject_adapters(self.item_encoder.backbones, config.peft_config)
        leave_out_untrainable(self.item_encoder.backbones)
        if config.platforms is not None:
            choose_platform(self, config.platform_index)

    def _with_input_embeddings(self) -> PreTrainedModel | None:
        """Returns the backbone that reads tokens, of a dual encoder its text tower; without any the first one."""
        backbones = self.item_encoder.backbones
        return getattr(backbones[0], "text_model", backbones[0]) if backbones else None

    def get_input_embeddings(self):
        backbone = self._with_input_embeddings()
        return self.item_encoder.id_embedding if backbone is None else backbone.get_input_embeddings()

    def set_input_embeddings(self, value):
        backbone = self._with_input_embeddings()
        if backbone is None:
            self.item_encoder.id_embedding = value
        else:
            backbone.set_input_embeddings(value)

    def get_item_features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes items, as the processor gives them, to item embeddings `(U, D)`.

        Args:
            items: see [`ItemInputs`].
        """
        return self.item_encoder(**self.complete_items(items))

    def complete_items(self, items: ItemInputs) -> ItemInputs:
        """Returns the inputs that are given, and the attention mask of texts that all have the same length.

        Raises:
            ValueError: if an input that the model needs is missing.
        """
        given = given_items(items)
        if "input_ids" in given and "attention_mask" not in given:
            given["attention_mask"] = torch.ones_like(given["input_ids"])
        missing = self.item_encoder.missing_inputs(given)
        if missing:
            raise ValueError(f"a model of {self.config.modality} needs {', '.join(missing)}; the processor makes them")
        return given

    def get_user_hidden(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        is_masked: torch.Tensor | None = None,
        recorded: Recorded | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encodes histories of item embeddings `(B, L, D)` to states at every position `(B, L, D)`.

        Args:
            item_embeddings: `(B, L, D)`, oldest item first.
            mask: `(B, L)` booleans, false at padding.
            user_ids: `(B,)` indices into the table of user ids, where the user encoder has one.
            is_masked: `(B, L)` booleans, true at items that the learned mask embedding replaces.
            recorded: gets what is computed on the way.
            timestamps: `(B, L)` times of the interactions, where the user encoder reads them.
        """
        return self._states(*self._histories(item_embeddings, mask, user_ids, is_masked, recorded, timestamps))

    def _states(self, item_embeddings: torch.Tensor, histories: Histories) -> torch.Tensor:
        """Returns the user encoder's states `(B, L, D)`, with the objective of every prefix those of each prefix."""
        by_prefix = self.config.objective == "every_prefix"
        encode = self.user_encoder.at_every_prefix if by_prefix else self.user_encoder
        return encode(item_embeddings, histories)

    def _histories(
        self, item_embeddings, mask, user_ids=None, is_masked=None, recorded=None, timestamps=None
    ) -> tuple[torch.Tensor, Histories]:
        """Returns the user encoder's arguments: checked, and with the mask embedding in place of masked items."""
        longest = self.config.max_seq_len + self.config.predicts_within
        if item_embeddings.shape[1] > longest:
            raise ValueError(
                f"histories of {item_embeddings.shape[1]} items are longer than max_seq_len="
                f"{self.config.max_seq_len}; keep only the last ones"
            )
        if is_masked is not None and self.user_encoder.mask_embedding is not None:
            with align_module_device(self.user_encoder):
                mask_embedding = self.user_encoder.mask_embedding.to(item_embeddings.dtype)
                item_embeddings = torch.where(is_masked[:, :, None], mask_embedding, item_embeddings)
        if self.user_encoder.reads_user_ids and user_ids is None:
            raise ValueError(
                f"user_encoder_type={self.config.user_encoder_type!r} needs user_ids, indices into its table of users"
            )
        if self.user_encoder.reads_timestamps and timestamps is None:
            raise ValueError(
                f"user_encoder_type={self.config.user_encoder_type!r} needs timestamps, the time of each interaction "
                "of the histories, in seconds"
            )
        return item_embeddings, Histories(mask, user_ids, is_masked, recorded, timestamps)

    def get_user_features(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encodes histories of item embeddings `(B, L, D)` to user embeddings `(B, D)`, which predict the next item.

        Args:
            item_embeddings: `(B, L, D)`, oldest item first.
            mask: `(B, L)` booleans, false at padding.
            user_ids: `(B,)` indices into the table of user ids, where the user encoder has one.
            timestamps: `(B, L)` times of the interactions, where the user encoder reads them.
        """
        vectors, mask, _, is_masked = self._for_next_item(item_embeddings, mask, user_ids)
        return self.user_encoder.last(*self._histories(vectors, mask, user_ids, is_masked, None, timestamps))

    def _for_next_item(self, item_embeddings, mask, user_ids=None) -> tuple:
        """Returns the arguments of [`get_user_hidden`] with which each user's last state predicts the next item.

        Where the user encoder predicts items within a history, a place without an item is appended to each.
        """
        if not self.config.predicts_within:
            return item_embeddings, mask, user_ids, None
        item_embeddings, mask = F.pad(item_embeddings, (0, 0, 0, 1)), F.pad(mask, (0, 1), value=True)
        is_masked = torch.zeros_like(mask)
        is_masked[:, -1] = True  # the item to be predicted
        return item_embeddings, mask, user_ids, is_masked

    def forward(
        self,
        item_index: torch.LongTensor,
        user_ids: torch.LongTensor | None = None,
        timestamps: torch.LongTensor | None = None,
        output_hidden_states: bool | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **items: Unpack[ItemInputs],
    ) -> TransRecModelOutput | tuple:
        r"""
        Encodes the batch's distinct items, then the histories.

        Args:
            item_index (`torch.LongTensor` of shape `(B, L)`):
                Histories, oldest item first, as indices into the batch's distinct items; -1 is padding, on the left.
            user_ids (`torch.LongTensor` of shape `(B,)`, *optional*):
                Indices into the table of user ids, where the user encoder has one.
            timestamps (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Times of the histories' interactions, where the user encoder reads them; any number at padding.
            output_hidden_states, output_attentions (`bool`, *optional*):
                Whether to return the user encoder's `hidden_states` and `attentions`; by default as the configuration
                says. Weights of attention are `None` except with `attn_implementation="eager"`. A list of layers, such
                as `[0, -1]`, returns only their hidden states.
            return_dict (`bool`, *optional*):
                Whether to return a [`TransRecModelOutput`] or a tuple; by default as the configuration says.
            items: the distinct items, see [`ItemInputs`].
        """
        recorded = self.new_record(output_hidden_states, output_attentions)
        item_embeds = self.get_item_features(**items)
        vectors, mask = gather_histories(item_embeds, item_index)
        vectors, mask, _, is_masked = self._for_next_item(vectors, mask, user_ids)
        vectors, histories = self._histories(vectors, mask, user_ids, is_masked, recorded, timestamps)
        user_hidden = self._states(vectors, histories)
        user_embeds = histories.last_of(user_hidden)
        output = TransRecModelOutput(
            item_embeds=item_embeds,
            user_hidden=user_hidden,
            user_embeds=user_embeds,
            **as_outputs(recorded, user_hidden),
        )
        return output if self.returns_dict(return_dict) else output.to_tuple()


class TransRecHeadModel(TransRecPreTrainedModel):
    """A head on a [`TransRecModel`], which encodes items and histories for it."""

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        self.model = TransRecModel(config, backbones)
        self.config = self.model.config

    @property
    def item_encoder(self) -> ItemEncoder:  # type: ignore[override]  # which is set in the base model
        """The item encoder of the base model."""
        return self.model.item_encoder

    @property
    def user_encoder(self) -> UserEncoder:  # type: ignore[override]  # which is set in the base model
        """The user encoder of the base model."""
        return self.model.user_encoder

    def get_item_features(self, **items: Unpack[ItemInputs]) -> torch.Tensor:
        """Encodes items, see [`TransRecModel.get_item_features`]."""
        return self.model.get_item_features(**items)

    def get_user_features(
        self,
        item_embeddings: torch.Tensor,
        mask: torch.Tensor,
        user_ids: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encodes histories, see [`TransRecModel.get_user_features`]."""
        return self.model.get_user_features(item_embeddings, mask, user_ids, timestamps)


class TransRecForSequentialRecommendation(TransRecHeadModel):
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

    def __init__(self, config: TransRecConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config, backbones)
        self.post_init()

    def forward(
        self,
        item_index: torch.LongTensor,
        labels: torch.LongTensor | None = None,
        user_ids: torch.LongTensor | None = None,
        timestamps: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        output_hidden_states: bool | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[BatchInputs],
    ) -> TransRecOutput | tuple:
        r"""
        Encodes the batch's distinct items, then the histories; with `labels`, computes the loss.

        Args:
            item_index (`torch.LongTensor` of shape `(B, L)`):
                Histories, oldest item first, as indices into the batch's distinct items; -1 is padding, on the left;
                -2 is a masked item.
            labels (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Index of the target of each position; -100 where there is none. With `objective="next_k_items"` the
                targets after each history, of shape `(B, K)`.
            user_ids (`torch.LongTensor` of shape `(B,)`, *optional*):
                Indices into the table of user ids, where the user encoder has one.
            timestamps (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Times of the histories' interactions, where the user encoder reads them; any number at padding.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*):
                Number of targets to divide the summed loss by; by default those in `labels`.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*): see [`TransRecModel`].
            inputs: the distinct items, see [`ItemInputs`], and what the loss reads, see [`LossInputs`].

        With `objective="masked_item"` or `"other_items"` and `labels`, the next item is not predicted: `user_embeds`
        and `logits` are `None`. Where gradient caching divides the users (with `labels`, gradients on and more users
        than a chunk has), these two, `user_hidden` and what is computed on the way are `None`.
        """
        items, loss_inputs = split_batch(inputs)
        loss = logits = None
        recorded = self.new_record(output_hidden_states, output_attentions)
        if labels is None:
            encoded = self.model(
                item_index=item_index,
                user_ids=user_ids,
                timestamps=timestamps,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
                return_dict=True,
                **items,
            )
        else:
            item_embeds = self.model.get_item_features(**items)
            synthetic = None
            if self.config.synthetic_negatives and self.training:
                synthetic = self.to_scoring_space(self.item_encoder.synthetic(**self.model.complete_items(items)))
            candidates = make_candidates(
                self.config, self.to_scoring_space(item_embeds), item_index, labels, loss_inputs, synthetic
            )
            of_users = UserInputs(user_ids, timestamps)
            encoded, loss = self._summed_loss(item_embeds, item_index, labels, of_users, candidates, recorded)
            num_targets = (labels != IGNORE_INDEX).sum()
            if self.config.auxiliary_loss_type is not None:
                auxiliary = self._auxiliary_loss(item_embeds, loss_inputs)
                loss = loss + self.config.auxiliary_weight * auxiliary * num_targets
            loss = loss / (num_targets.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        if encoded.user_embeds is not None:
            logits = self.to_scoring_space(encoded.user_embeds) @ self.to_scoring_space(encoded.item_embeds).T
        output = TransRecOutput(loss=loss, logits=logits, **encoded)
        return output if self.returns_dict(return_dict) else output.to_tuple()

    def _summed_loss(
        self,
        item_embeds: torch.Tensor,
        item_index: torch.Tensor,
        labels: torch.Tensor,
        of_users: UserInputs,
        candidates: Candidates,
        recorded: Recorded,
    ) -> tuple[TransRecModelOutput, torch.Tensor]:
        """Encodes the histories and computes the configuration's loss, summed over the targets.

        With gradient caching, this is done for one chunk of users at a time, and the backward pass computes the
        activations of a chunk anew.
        """
        config, loss = self.config, LOSSES[self.config.loss_type]
        options = {name: getattr(config, name) for name in loss.options}

        def hidden_and_loss(users: slice, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            vectors, mask = gather_histories(item_embeds, item_index[users])
            is_masked = item_index[users] == MASK_INDEX if config.objective == "masked_item" else None
            known = of_users[users]
            hidden = self.model.get_user_hidden(vectors, mask, known.user_ids, is_masked, recorded, known.timestamps)
            predicting = hidden
            if config.objective == "next_k_items":
                last = Histories(mask).last_of(hidden)  # (B, D)
                predicting = last[:, None].expand(-1, labels.shape[1], -1)  # (B, K, D)
            states, targets, positions = at_targets(predicting, labels)
            compared = candidates.of(users, positions)
            return hidden, loss.function(self.to_scoring_space(states), targets, positions[0], compared, **options)

        def only_loss(*args) -> torch.Tensor:
            return hidden_and_loss(*args)[1]

        chunk_size, count = self.item_encoder.chunk_size, len(labels)
        if chunk_size is not None and chunk_size < count and torch.is_grad_enabled():
            chunks = [slice(start, start + chunk_size) for start in range(0, count, chunk_size)]
            # checkpoint() restores the random state of dropout on the devices of its arguments.
            parts = [checkpoint(only_loss, users, labels[users], use_reentrant=False) for users in chunks]
            return TransRecModelOutput(item_embeds=item_embeds), torch.stack(parts).sum()
        user_hidden, total = hidden_and_loss(slice(None), labels)
        predicts_next = not config.predicts_within
        user_embeds = Histories(item_index != PADDING_INDEX).last_of(user_hidden) if predicts_next else None
        on_the_way = as_outputs(recorded, user_hidden)
        encoded = TransRecModelOutput(
            item_embeds=item_embeds, user_hidden=user_hidden, user_embeds=user_embeds, **on_the_way
        )
        return encoded, total

    def _auxiliary_loss(self, item_embeds: torch.Tensor, inputs: LossInputs) -> torch.Tensor:
        """Computes the configuration's auxiliary loss, the mean over the users.

        With gradient caching the views of a chunk of users are encoded at a time.

        Args:
            item_embeds: `(U, D)`.
            inputs: with the views.
        """
        config, views = self.config, inputs["view_index"]  # (2, B, L)

        def encode(users: slice) -> torch.Tensor:
            vectors, mask = gather_histories(item_embeds, views[:, users].flatten(0, 1))
            return self.get_user_features(vectors, mask).unflatten(0, (2, -1))

        chunk_size, count = self.item_encoder.chunk_size, views.shape[1]
        if chunk_size is not None and chunk_size < count and torch.is_grad_enabled():
            chunks = [slice(start, start + chunk_size) for start in range(0, count, chunk_size)]
            states = torch.cat([checkpoint(encode, users, use_reentrant=False) for users in chunks], dim=1)
        else:
            states = encode(slice(None))  # (2, B, D)
        row = AUXILIARY_LOSSES[str(config.auxiliary_loss_type)]
        of_users = (inputs["intents"], config.intent_weight) if row.reads_intents else ()
        return row.function(*states, inputs["view_target"], config.auxiliary_temperature, *of_users)


class AutoModelForSequentialRecommendation(_BaseAutoModelClass):
    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())  # type: ignore[assignment]  # as all of them


AutoModelForSequentialRecommendation = auto_class_update(  # type: ignore[misc]  # which returns the same class
    AutoModelForSequentialRecommendation, head_doc="sequential recommendation"
)
