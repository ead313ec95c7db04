"""Labels of users from a table, and batches of histories with them.

Shapes: `B` users, `L` history length, `U` distinct items of the batch.
"""

from collections.abc import Sequence

import datasets
import numpy as np
import torch

from ..models.configuration_transrec import TransRecConfig
from ..models.processing_transrec import TransRecProcessor
from .collator import left_pad_lists
from .tables import Table, as_dataset


def with_labels(sequences: datasets.Dataset, table: Table, column: str = "label") -> datasets.Dataset:
    """Adds the labels of a table to histories; users who have none there are left out.

    Args:
        sequences: histories, with a column `user_id`.
        table: `user_id` and the column of the labels: names or whole numbers from 0 on, which become classes, or
            floats or lists of numbers, which stay.
        column: the name of that column; in what is returned it is `label`.

    Raises:
        ValueError: if a column is missing, a user stands in the table twice, a class is below 0, or no user of the
            histories is in the table.

    Example:

    >>> import datasets
    >>> sequences = datasets.Dataset.from_dict({"user_id": ["u", "v", "w"], "item_ids": [["a"], ["b"], ["a", "b"]]})
    >>> labelled = with_labels(sequences, {"user_id": ["w", "u"], "age": ["young", "old"]}, "age")
    >>> labelled["user_id"][:], labelled["label"][:], labelled.features["label"].names
    (['u', 'w'], [0, 1], ['old', 'young'])
    """
    labels = as_dataset(table)
    missing = [name for name in ("user_id", column) if name not in labels.column_names]
    if missing:
        raise ValueError(
            f"the table of labels lacks the column {', '.join(missing)}; it has {', '.join(labels.column_names)}"
        )
    users, values = [str(user) for user in labels["user_id"][:]], labels[column][:]
    of_user = dict(zip(users, values, strict=True))
    if len(of_user) < len(users):
        raise ValueError("a user stands in the table of labels twice; keep one label for each")
    known = [of_user.get(str(user)) for user in sequences["user_id"][:]]
    chosen = [place for place, label in enumerate(known) if label is not None]
    if not chosen:
        raise ValueError("no user of the histories is in the table of labels; their user_id must be the same")
    found = [known[place] for place in chosen]
    labelled = sequences.select(chosen)
    if isinstance(found[0], float | list):
        return labelled.add_column("label", found)
    all_labels = {label for label in of_user.values() if label is not None}  # the same classes for every split
    if isinstance(found[0], int) and not isinstance(found[0], bool):
        if min(all_labels) < 0:
            raise ValueError(f"the label {min(all_labels)} is below 0; number classes from 0 on, or give floats")
        feature = datasets.ClassLabel(num_classes=max(all_labels) + 1)
        return labelled.add_column("label", found).cast_column("label", feature)
    names = sorted(map(str, all_labels))
    numbers = [names.index(str(label)) for label in found]
    return labelled.add_column("label", numbers).cast_column("label", datasets.ClassLabel(names=names))


class UserLabelCollator:
    """Makes a batch of whole histories with their labels: each distinct item once, and indices into these items.

    Args:
        config: the model's configuration.
        items: prepared items in catalogue order, see [`prepare_items`].
        processor: pads the items' inputs, and knows the users of a table of user ids.

    Returns (when called on rows that `index_histories` makes of histories with labels, see [`with_labels`]): the
    distinct items, `item_index` `(B, L)`, `labels` `(B,)` or `(B, C)`, and what else the user encoder reads.
    """

    def __init__(
        self,
        config: TransRecConfig,
        items: datasets.Dataset,
        processor: TransRecProcessor,
    ):
        self.config = config
        self.items = items
        self.processor = processor

    def __call__(self, features: Sequence[dict]) -> dict[str, torch.Tensor]:
        rows = left_pad_lists([feature["history"][-self.config.max_seq_len :] for feature in features])
        distinct = np.unique(rows[rows >= 0])
        batch = dict(self.processor.pad(self.items[distinct]))
        batch["item_index"] = torch.from_numpy(np.where(rows < 0, rows, np.searchsorted(distinct, rows)))
        labels = torch.from_numpy(np.asarray([feature["label"] for feature in features]))
        batch["labels"] = labels.float() if labels.is_floating_point() else labels
        if self.processor.user_ids is not None:
            batch["user_ids"] = torch.tensor(self.processor.user_index([feature["user_id"] for feature in features]))
        if self.config.reads_timestamps:
            times = [feature["timestamps"][-self.config.max_seq_len :] for feature in features]
            batch["timestamps"] = torch.from_numpy(left_pad_lists(times))
        return batch
