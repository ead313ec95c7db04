"""Items in chunks of like text length, which leaves out most of the padding.

Shapes: `U` distinct items of the batch, `T` text tokens.
"""

from typing import NamedTuple

import numpy as np
import torch

from .batch_sizes import SORTS_STABLY, BatchSizes, true_places
from .frozen_layers import token_places


PICTURE_INPUTS = ("pixel_values", "image_features", "image_states")  # one row a picture
TOKEN_INPUTS = ("text_states",)  # `(number of tokens, H)`; with padding `(U, positions, H)`, as what is of items


def text_ends(attention_mask: torch.Tensor) -> torch.Tensor:
    """Of each text the length `(U,)` up to its last real token.

    >>> text_ends(torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0]]))
    tensor([3, 1, 2])
    """
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (attention_mask.bool() * places).amax(dim=1)


def chunks_by_length(
    attention_mask: torch.Tensor, num_tokens: int, text_lengths: np.ndarray | None = None
) -> list[tuple[torch.Tensor, int]]:
    """Texts of like length together: of each chunk the rows in `attention_mask` `(U, T)` and the longest length.

    The chunks have about as many tokens each, without padding, and not many more than `num_tokens`. Given
    `text_lengths` `(U,)`, no device is waited for.

    >>> chunks_by_length(torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]), num_tokens=3)
    [(tensor([1, 2]), 2), (tensor([0]), 3)]
    """
    ends = text_ends(attention_mask)
    lengths = np.sort(ends.cpu().numpy() if text_lengths is None else text_lengths)
    before = lengths.cumsum() - lengths  # tokens of shorter texts
    num_chunks = max(1, -(-lengths.sum() // num_tokens))
    counts = np.bincount(before * num_chunks // max(1, lengths.sum()))
    counts = counts[counts > 0]
    longest = lengths[counts.cumsum() - 1]
    return list(zip(ends.argsort(stable=True).split(counts.tolist()), longest.tolist(), strict=True))


class Chunk(NamedTuple):
    """Items that go through the encoder together.

    Args:
        rows: of the items.
        pictures: rows of their pictures.
        sizes: text lengths and missing pictures of these items.
    """

    rows: torch.Tensor
    pictures: torch.Tensor
    sizes: BatchSizes


def plan_chunks(inputs: dict[str, torch.Tensor], chunk_size: int, sizes: BatchSizes | None = None) -> list[Chunk]:
    """Items in chunks of like text length; given `sizes`, no device is waited for.

    Example:

    >>> attention_mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]])
    >>> inputs = {"attention_mask": attention_mask, "image_index": torch.tensor([0, -1, 1, 2])}
    >>> [(chunk.rows, chunk.pictures) for chunk in plan_chunks(inputs, chunk_size=2)]
    [(tensor([1, 2]), tensor([1])), (tensor([3, 0]), tensor([2, 0]))]
    """
    not_per_item = PICTURE_INPUTS + TOKEN_INPUTS
    per_item = [values for name, values in inputs.items() if name not in not_per_item] or list(inputs.values())
    order, host_order = torch.arange(len(per_item[0]), device=per_item[0].device), np.arange(len(per_item[0]))
    text_lengths = has_picture = None
    if "attention_mask" in inputs:
        ends = text_ends(inputs["attention_mask"])
        text_lengths = None if sizes is None else sizes.text_lengths
        text_lengths = ends.cpu().numpy() if text_lengths is None else text_lengths
        host_order = np.argsort(text_lengths, kind="stable")
        sorts_here = ends.device.type in SORTS_STABLY
        order = ends.argsort(stable=True) if sorts_here else torch.from_numpy(host_order).to(ends.device)
    if "image_index" in inputs:
        has_picture = None if sizes is None else sizes.has_picture
        has_picture = (inputs["image_index"] >= 0).cpu().numpy() if has_picture is None else has_picture
    chunks = []
    for start in range(0, len(order), chunk_size):
        rows, on_host = order[start : start + chunk_size], host_order[start : start + chunk_size]
        chunk_sizes = BatchSizes(
            text_lengths=None if text_lengths is None else text_lengths[on_host],
            has_picture=None if has_picture is None else has_picture[on_host],
        )
        pictures = rows
        if has_picture is not None:
            pictures = inputs["image_index"][rows]
            pictures = pictures[true_places(pictures >= 0, int(chunk_sizes.has_picture.sum()))]
        chunks.append(Chunk(rows, pictures, chunk_sizes))
    return chunks


def take_items(inputs: dict[str, torch.Tensor], chunk: Chunk) -> dict[str, torch.Tensor]:
    """The inputs of one chunk of [`plan_chunks`]; its texts are padded to the longest of the chunk."""
    places = {name: chunk.pictures if name in PICTURE_INPUTS else chunk.rows for name in inputs}
    if "text_states" in inputs and inputs["text_states"].ndim == 2:  # one row a token
        mask = inputs["attention_mask"]
        tokens = true_places(mask[chunk.rows].bool().flatten(), int(chunk.sizes.text_lengths.sum()))
        places["text_states"] = token_places(mask)[chunk.rows].flatten()[tokens]
    taken = {name: values[places[name]] for name, values in inputs.items()}
    for name in ("input_ids", "attention_mask"):
        if name in taken:
            taken[name] = taken[name][:, : chunk.sizes.text_lengths.max()]
    if "image_index" in taken:
        has_picture = taken["image_index"] >= 0
        taken["image_index"] = torch.where(has_picture, has_picture.cumsum(0) - 1, -1)
    return taken
