"""Items in chunks of like text length, for gradient caching.

Shapes: `U` distinct items of the batch, `P` of them that have an image or a sound, `T` text tokens, `H` width of a
backbone.
"""

from typing import NamedTuple, cast

import torch

from .batch import ItemInputs
from .modalities import MODALITIES
from .text_chunks import text_ends, token_positions


# Inputs with one entry for each item that has the content, by the name of the modality.
SPARSE_INPUTS = {
    modality.name: (*modality.inputs, f"{modality.name}_features", f"{modality.name}_states")
    for modality in MODALITIES.values()
    if modality.is_sparse
}


class Chunk(NamedTuple):
    """Items that go through the encoder together.

    Args:
        items: `(C,)` their indices.
        contents: indices of their images and sounds, by the name of the modality.
    """

    items: torch.Tensor
    contents: dict[str, torch.Tensor]


def plan_chunks(inputs: ItemInputs, chunk_size: int) -> list[Chunk]:
    """Divides items into chunks of like text length.

    Example:

    >>> attention_mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]])
    >>> inputs = {"attention_mask": attention_mask, "image_index": torch.tensor([0, -1, 1, 2])}
    >>> [(chunk.items, chunk.contents["image"]) for chunk in plan_chunks(inputs, chunk_size=2)]
    [(tensor([1, 2]), tensor([1])), (tensor([3, 0]), tensor([2, 0]))]
    """
    not_per_item = {"text_states", *(name for names in SPARSE_INPUTS.values() for name in names)}
    tensors = cast(dict[str, torch.Tensor], inputs)
    per_item = [values for name, values in tensors.items() if name not in not_per_item] or list(tensors.values())
    order = torch.arange(len(per_item[0]), device=per_item[0].device)
    if "attention_mask" in inputs:
        order = text_ends(inputs["attention_mask"]).argsort(stable=True)
    chunks = []
    for items in order.split(chunk_size):
        contents = {}
        for name in SPARSE_INPUTS:
            index = tensors[f"{name}_index"][items] if f"{name}_index" in tensors else items
            contents[name] = index[index >= 0]
        chunks.append(Chunk(items, contents))
    return chunks


def take_items(inputs: ItemInputs, chunk: Chunk) -> ItemInputs:
    """Takes the inputs of one chunk of [`plan_chunks`]; its texts are padded to the longest of the chunk."""
    index = dict.fromkeys(inputs, chunk.items)
    for modality, names in SPARSE_INPUTS.items():
        index |= {name: chunk.contents[modality] for name in names if name in inputs}
    if "text_states" in inputs:  # one entry a token
        mask = inputs["attention_mask"]
        index["text_states"] = token_positions(mask)[chunk.items][mask[chunk.items].bool()]
    taken = {name: values[index[name]] for name, values in cast(dict[str, torch.Tensor], inputs).items()}
    if "attention_mask" in taken:
        length = int(text_ends(taken["attention_mask"]).max())
        taken |= {name: taken[name][:, :length] for name in ("input_ids", "attention_mask")}
    for modality in SPARSE_INPUTS:
        if f"{modality}_index" in taken:
            is_there = taken[f"{modality}_index"] >= 0
            taken[f"{modality}_index"] = torch.where(is_there, is_there.cumsum(0) - 1, -1)
    return cast(ItemInputs, taken)
