"""The splits of a training: tables as data sets, a part of their users, and histories to learn from."""

import logging
from typing import cast

import datasets
import numpy as np

from ..data.loading import choose_users, history_lengths
from ..data.tables import Table, as_dataset, is_columns


logger = logging.getLogger(__name__)


def as_splits(
    eval_dataset: Table | dict[str, Table], max_users: int | None = None
) -> datasets.Dataset | dict[str, datasets.Dataset]:
    """Returns an evaluation split, or several by name, as data sets of at most so many users each."""
    if isinstance(eval_dataset, dict) and not is_columns(eval_dataset):
        return {name: cast(datasets.Dataset, as_splits(one, max_users)) for name, one in eval_dataset.items()}
    sequences = as_dataset(eval_dataset)
    return sequences if max_users is None else choose_users(sequences, max_users)


def keep_teaching(histories: datasets.Dataset) -> datasets.Dataset:
    """Leaves out histories of a single item: there is nothing to predict in them."""
    long_enough = np.flatnonzero(history_lengths(histories) >= 2)
    if len(long_enough) < len(histories):
        logger.warning(
            "%d of %d training histories have fewer than 2 items and are left out",
            len(histories) - len(long_enough),
            len(histories),
        )
        histories = histories.select(long_enough)
    if len(histories) == 0:
        raise ValueError("no training history has 2 or more items: there is nothing to train on")
    return histories
