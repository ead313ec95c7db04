"""The batch: the tensors that describe its distinct items, and those that the loss reads.

Shapes: `B` users, `L` history length, `U` distinct items of the batch, `P` of them that have an image or a
sound, `T` text tokens, `N` negatives, `H` width of a backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, cast

import torch
import torch.nn.functional as F


IGNORE_INDEX = -100  # in `labels`: the position has no target
PADDING_INDEX = -1  # in `item_index` and `negative_index`: no item
MASK_INDEX = -2  # in `item_index`: an item that is masked, to be predicted


class ItemInputs(TypedDict, total=False):
    """The tensors of a batch's distinct items. A model reads those of its modalities; the processor makes them.

    Args:
        input_ids (`torch.LongTensor` of shape `(U, T)`): tokens of the texts.
        attention_mask (`torch.LongTensor` of shape `(U, T)`): 1 at tokens, 0 at padding; by default all are tokens.
        has_text (`torch.BoolTensor` of shape `(U,)`): false where an item has no text; by default all have one.
        pixel_values (`torch.ByteTensor` or `torch.FloatTensor` of shape `(P, 3, height, width)`): the images.
        image_index (`torch.LongTensor` of shape `(U,)`):
            Index of each item's image in `pixel_values`, -1 where it has none; by default all have one, in order.
            Bytes are normalised by the model, with `image_mean` and `image_std` of its configuration; floats count as
            normalised.
        input_values (`torch.FloatTensor` of shape `(P, samples)`): the sounds, for backbones that read samples, such
            as Wav2Vec2, or, as AST does, a spectrogram under this name `(P, frames, bins)`.
        input_features (`torch.FloatTensor` of shape `(P, bins, frames)`): the sounds as spectrograms, for backbones
            such as Whisper's encoder.
        audio_mask (`torch.LongTensor` of shape `(P, samples)`): 1 at samples, 0 at padding, for backbones that
            read it.
        audio_index (`torch.LongTensor` of shape `(U,)`): index of each item's sound, as `image_index`.
        item_ids (`torch.LongTensor` of shape `(U,)`): indices into the id table.
        platform_index (`torch.LongTensor` of shape `(U,)`):
            Index of each item's platform, in training on several, for a model that whitens the features of each by
            its own statistics; by default all are of the catalogue whose statistics the model has.
        text_features (`torch.FloatTensor` of shape `(U, H)`): precomputed by the backbone, in place of `input_ids`.
        image_features (`torch.FloatTensor` of shape `(P, H)`): precomputed, in place of `pixel_values`.
        audio_features (`torch.FloatTensor` of shape `(P, H)`): precomputed, in place of the sounds.
        item_features (`torch.FloatTensor` of shape `(U, H)`): precomputed by one model of text and image, such as
            ViLT, in place of both.
        text_states (`torch.FloatTensor` of shape `(number of tokens, H)`): hidden states after the frozen layers,
            beside `input_ids`: the tokens of one text after those of the other, without padding.
        image_states (`torch.FloatTensor` of shape `(P, …)`): hidden states after the frozen layers, in place of
            `pixel_values`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    has_text: torch.Tensor
    pixel_values: torch.Tensor
    image_index: torch.Tensor
    input_values: torch.Tensor
    input_features: torch.Tensor
    audio_mask: torch.Tensor
    audio_index: torch.Tensor
    item_ids: torch.Tensor
    platform_index: torch.Tensor
    text_features: torch.Tensor
    image_features: torch.Tensor
    audio_features: torch.Tensor
    item_features: torch.Tensor
    text_states: torch.Tensor
    image_states: torch.Tensor


class LossInputs(TypedDict, total=False):
    """What a loss reads beside histories and targets; the collator provides what the model's loss needs.

    Args:
        negative_index (`torch.LongTensor` of shape `(B, L, N)` or `(N,)`):
            Indices of sampled negatives among the batch's items: for each position, or shared by the batch.
        item_log_popularity (`torch.FloatTensor` of shape `(U,)`):
            Log of each item's share of the training interactions, for the logQ correction.
        catalogue_index (`torch.LongTensor` of shape `(U,)`): index of each item in the catalogue, for
            `gather_negatives`.
        num_catalogue_items (`torch.Tensor` or `int`): size of the catalogue, for `"gbce"`.
        epoch (`torch.Tensor` or `int`): number of the epoch, from 0, for `"distilled_in_batch"`.
        view_index (`torch.LongTensor` of shape `(2, B, L)`): two views of each user, as `item_index`, for an auxiliary
            loss.
        view_target (`torch.LongTensor` of shape `(B,)`): index of each user's last target among the batch's items.
        intents (`torch.FloatTensor` of shape `(K, D)`): centres of clusters of users, for the auxiliary loss
            `"intents"`.
    """

    negative_index: torch.Tensor
    item_log_popularity: torch.Tensor
    catalogue_index: torch.Tensor
    num_catalogue_items: torch.Tensor | int
    epoch: torch.Tensor | int
    view_index: torch.Tensor
    view_target: torch.Tensor
    intents: torch.Tensor


@dataclass(frozen=True)
class UserInputs:
    """What is known of users beside the items of their histories, for user encoders that read it.

    Args:
        user_ids: `(B,)` indices into the table of user ids.
        timestamps: `(B, L)` times of the interactions, aligned to the last one; any number at padding.

    Example:

    >>> UserInputs(timestamps=torch.tensor([[3, 5], [4, 9]]))[[1]].arguments(length=3)
    {'timestamps': tensor([[0, 4, 9]])}
    """

    user_ids: torch.Tensor | None = None
    timestamps: torch.Tensor | None = None

    def __getitem__(self, users: Any) -> UserInputs:
        """Returns those of some users."""
        parts = (self.user_ids, self.timestamps)
        return UserInputs(*(None if part is None else part[users] for part in parts))

    def arguments(self, length: int, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """Returns those that are known as arguments of `get_user_features`, for the last `length` items."""
        found = {}
        if self.user_ids is not None:
            found["user_ids"] = self.user_ids.to(device)
        if self.timestamps is not None:
            missing = max(length - self.timestamps.shape[1], 0)
            found["timestamps"] = F.pad(self.timestamps, (missing, 0))[:, -length:].to(device)
        return found


class BatchInputs(ItemInputs, LossInputs, total=False):
    """The tensors of a batch's distinct items, and those that the loss reads; see [`ItemInputs`], [`LossInputs`]."""


def split_batch(inputs: BatchInputs) -> tuple[ItemInputs, LossInputs]:
    """Separates what describes the items from what the loss reads."""
    loss = {name: value for name, value in inputs.items() if name in LossInputs.__annotations__}
    items = {name: value for name, value in inputs.items() if name not in loss}
    return cast(ItemInputs, items), cast(LossInputs, loss)


def given_items(items: ItemInputs) -> ItemInputs:
    """Leaves out the tensors that are `None`.

    Raises:
        TypeError: if a name is unknown.
    """
    unknown = sorted(set(items) - set(ItemInputs.__annotations__))
    if unknown:
        known = ", ".join(ItemInputs.__annotations__)
        raise TypeError(f"the model has no input {', '.join(unknown)}; items are given by {known}")
    return cast(ItemInputs, {name: tensor for name, tensor in items.items() if tensor is not None})
