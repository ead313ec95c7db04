"""Masks of texts, made without a look at what is in them.

Of a mask `(U, T)` transformers asks whether there is any padding, in order to leave it out if there is none, and so
waits for the device in every pass. Nearly always there is some.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask


def without_asking(make_mask: Callable) -> Callable:
    """A function of transformers that makes masks, which makes every one that it is given an `attention_mask` for."""

    def make(*args, attention_mask: torch.Tensor | None = None, **kwargs) -> torch.Tensor | None:
        if attention_mask is not None:
            kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make_mask(*args, attention_mask=attention_mask, **kwargs)

    return make


_WHOLE = {"sdpa": without_asking(sdpa_mask), "eager": without_asking(eager_mask)}  # by `attn_implementation`
_lock = threading.Lock()
_inside = 0  # passes of backbones, of any thread


@contextlib.contextmanager
def whole_masks() -> Iterator[None]:
    """Within it, backbones make the masks of texts without asking whether there is padding."""
    global _inside
    with _lock:
        _inside += 1
        for name, make_mask in _WHOLE.items():
            ALL_MASK_ATTENTION_FUNCTIONS[name] = make_mask
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for name in _WHOLE:
                    del ALL_MASK_ATTENTION_FUNCTIONS[name]  # transformers' own again
