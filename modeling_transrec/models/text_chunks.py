"""Texts in chunks of like length, which leaves out most of the padding.

Shapes: `U` texts, `T` tokens, `H` width of a backbone.
"""

from collections.abc import Callable

import numpy as np
import torch


TOKENS_AT_A_TIME = 4096  # enough to keep a GPU busy
TOKENS_AT_A_TIME_ON_CPU = 1024


def pad_on_the_right(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves texts `(U, T)`, padded on either side, to the left: backbones with absolute positions count from there.

    >>> pad_on_the_right(torch.tensor([[0, 0, 7, 8], [5, 6, 0, 0]]), torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]))[0]
    tensor([[7, 8, 0, 0],
            [5, 6, 0, 0]])
    """
    length = input_ids.shape[1]
    first = attention_mask.long().argmax(dim=1, keepdim=True)  # (U, 1)
    positions = (torch.arange(length, device=input_ids.device) + first) % length
    return input_ids.gather(1, positions), attention_mask.gather(1, positions)


def text_ends(attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns each text's length `(U,)` up to its last real token.

    >>> text_ends(torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0]]))
    tensor([3, 1, 2])
    """
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (attention_mask.bool() * positions).amax(dim=1)


def chunks_by_length(attention_mask: torch.Tensor, num_tokens: int) -> list[tuple[torch.Tensor, int]]:
    """Groups texts of like length: for each chunk their indices in `attention_mask` `(U, T)` and the longest length.

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


def token_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns where each token of texts `(U, T)` lies if they are put one after the other; padding gets some
    token's position.

    >>> token_positions(torch.tensor([[1, 1, 0], [1, 1, 1]]))
    tensor([[0, 1, 1],
            [2, 3, 4]])
    """
    return (attention_mask.bool().flatten().cumsum(0) - 1).clamp(min=0).view_as(attention_mask)


def encode_by_length(
    encode: Callable[..., torch.Tensor],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    text_states: torch.Tensor | None = None,
) -> torch.Tensor:
    """Encodes texts to `(U, …)`, those of like length together, which leaves out most padding.

    Args:
        encode: takes the texts' indices `(C,)`, ids and mask `(C, T)` and states `(C, T, H)` or `None`; returns
            `(C, …)`.
        input_ids, attention_mask: `(U, T)`, padding on the right.
        text_states: `(number of tokens, H)` outputs of frozen layers, one text's tokens after the other's.
    """
    if torch.compiler.is_exporting():  # chunks depend on the values, and a graph only on the sizes
        return encode(None, input_ids, attention_mask, None)
    at_a_time = TOKENS_AT_A_TIME_ON_CPU if attention_mask.device.type == "cpu" else TOKENS_AT_A_TIME
    positions, chunks, parts = token_positions(attention_mask), chunks_by_length(attention_mask, at_a_time), []
    for index, length in chunks:
        states = None if text_states is None else text_states[positions[index, :length]]
        parts.append(encode(index, input_ids[index, :length], attention_mask[index, :length], states))
    return torch.cat(parts)[torch.cat([index for index, _ in chunks]).argsort()]
