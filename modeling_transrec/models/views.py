"""Augmentations: other views of histories, as operations on indices.

Each is a function of histories `(B, L)`, padded on the left with -1, and of numbers `(B, L)` drawn uniformly from 0 to
1; it returns histories of the same form, of at least one item where there was one.

Papers: Xie et al., "Contrastive Learning for Sequential Recommendation" (CL4SRec), ICDE 2022, for crop, mask and
reorder; its mask is a learned vector, and what is masked here is left out (`"drop"`).

Shapes: `B` users, `L` history length.
"""

import numpy as np


PART = 0.6  # of a history that "crop" keeps and "reorder" shuffles
DROP_PROBABILITY = 0.2  # of an item, UniSRec's


def _chosen_part(histories: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which items `(B, L)` belong to a part of each history, at a random place; and each item's index."""
    num_items = (histories >= 0).sum(axis=1, keepdims=True)  # (B, 1)
    size = np.ceil(PART * num_items)
    start = np.floor(draws[:, :1] * (num_items - size + 1))
    index = np.arange(histories.shape[1]) - (histories.shape[1] - num_items)  # below 0 at padding
    return (index >= start) & (index < start + size), index


def keep(histories: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Leaves out items, and moves the others to the right.

    >>> keep(np.array([[4, 5, 6]]), np.array([[True, False, True]]))
    array([[-1,  4,  6]])
    """
    order = np.argsort(is_kept, axis=1, kind="stable")  # those that are not kept come first
    return np.take_along_axis(np.where(is_kept, histories, -1), order, axis=1)


def crop(histories: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Keeps a part of each history.

    >>> crop(np.array([[-1, 4, 5, 6]]), np.full((1, 4), 0.6))
    array([[-1, -1,  5,  6]])
    """
    return keep(histories, _chosen_part(histories, draws)[0])


def drop(histories: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Leaves out each item with a probability of 0.2, but not all of them.

    >>> drop(np.array([[-1, 4, 5, 6]]), np.array([[0.5, 0.1, 0.9, 0.3]]))
    array([[-1, -1,  5,  6]])
    """
    is_item = histories >= 0
    is_kept = is_item & (draws >= DROP_PROBABILITY)
    surest = np.where(is_item, draws, -1.0).argmax(axis=1)
    is_kept[np.arange(len(histories)), surest] |= is_item[np.arange(len(histories)), surest]
    return keep(histories, is_kept)


def reorder(histories: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Shuffles a part of each history.

    >>> reorder(np.array([[-1, 4, 5, 6]]), np.array([[0.1, 0.9, 0.2, 0.3]]))
    array([[-1,  5,  4,  6]])
    """
    is_part, index = _chosen_part(histories, draws)
    size, first = is_part.sum(axis=1, keepdims=True), np.where(is_part, index, histories.shape[1]).min(axis=1)
    places = np.where(is_part, first[:, None] + draws * size, index)  # those of the part stay within it
    return np.take_along_axis(histories, np.argsort(places, axis=1, kind="stable"), axis=1)


def dropout(histories: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Leaves histories as they are: the user encoder's dropout makes two views of one."""
    return histories


AUGMENTATIONS = {"crop": crop, "drop": drop, "reorder": reorder, "dropout": dropout}
