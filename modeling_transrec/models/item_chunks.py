"""Items in chunks of like text length, which leaves out most of the padding.

Shapes: `U` distinct items of the batch, `T` text tokens.
"""

from typing import NamedTuple

import numpy as np
import torch

from .frozen_layers import token_places


IMAGE_INPUTS = ("pixel_values", "image_features", "image_states")  # one row an image
TOKEN_INPUTS = ("text_states",)  # `(number of tokens, H)`; with padding `(U, positions, H)`, as what is of items


def text_ends(attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns each text's length `(U,)` up to its last real token.

    >>> text_ends(torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0]]))
    tensor([3, 1, 2])
    """
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (attention_mask.bool() * places).amax(dim=1)


def chunks_by_length(attention_mask: torch.Tensor, num_tokens: int) -> list[tuple[torch.Tensor, int]]:
    """Groups texts of like length: for each chunk the rows in `attention_mask` `(U, T)` and the longest length.

    The chunks have about as many tokens each, without padding, and not many more than `num_tokens`.

    >>> chunks_by_length(torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]), num_tokens=3)
    [(tensor([1, 2]), 2), (tensor([0]), 3)]
    """
    ends = text_ends(attention_mask)
    lengths = np.sort(ends.cpu().numpy())
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
        images: rows of their images.
    """

    rows: torch.Tensor
    images: torch.Tensor


def plan_chunks(inputs: dict[str, torch.Tensor], chunk_size: int) -> list[Chunk]:
    """Divides items into chunks of like text length.

    Example:

    >>> attention_mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]])
    >>> inputs = {"attention_mask": attention_mask, "image_index": torch.tensor([0, -1, 1, 2])}
    >>> [(chunk.rows, chunk.images) for chunk in plan_chunks(inputs, chunk_size=2)]
    [(tensor([1, 2]), tensor([1])), (tensor([3, 0]), tensor([2, 0]))]
    """
    not_per_item = IMAGE_INPUTS + TOKEN_INPUTS
    per_item = [values for name, values in inputs.items() if name not in not_per_item] or list(inputs.values())
    order = torch.arange(len(per_item[0]), device=per_item[0].device)
    if "attention_mask" in inputs:
        order = text_ends(inputs["attention_mask"]).argsort(stable=True)
    chunks = []
    for rows in order.split(chunk_size):
        images = rows
        if "image_index" in inputs:
            images = inputs["image_index"][rows]
            images = images[images >= 0]
        chunks.append(Chunk(rows, images))
    return chunks


def take_items(inputs: dict[str, torch.Tensor], chunk: Chunk) -> dict[str, torch.Tensor]:
    """Takes the inputs of one chunk of [`plan_chunks`]; its texts are padded to the longest of the chunk."""
    places = {name: chunk.images if name in IMAGE_INPUTS else chunk.rows for name in inputs}
    if "text_states" in inputs and inputs["text_states"].ndim == 2:  # one row a token
        mask = inputs["attention_mask"]
        places["text_states"] = token_places(mask)[chunk.rows][mask[chunk.rows].bool()]
    taken = {name: values[places[name]] for name, values in inputs.items()}
    if "attention_mask" in taken:
        length = int(text_ends(taken["attention_mask"]).max())
        taken.update({name: taken[name][:, :length] for name in ("input_ids", "attention_mask")})
    if "image_index" in taken:
        has_image = taken["image_index"] >= 0
        taken["image_index"] = torch.where(has_image, has_image.cumsum(0) - 1, -1)
    return taken
