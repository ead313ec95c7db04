"""A platform of which few users are known: its learning curve."""

import functools
from dataclasses import dataclass, field

import datasets
import numpy as np

from ..data.arguments import DataArguments


@dataclass
class KnownUsersArguments(DataArguments):
    """Names a data set of which some users are known; all others are tested.

    The users that are known are drawn at random. Only their histories are trained on and counted, and only theirs are
    validated on.

    Example:

    >>> import modeling_transrec
    >>> data = KnownUsersArguments(num_known_users=200)
    >>> [len(data.load_sequences(split, max_seq_len=20)) for split in ("train", "validation", "test")]
    [200, 200, 600]
    """

    num_known_users: int | None = field(default=None, metadata={"help": "Number of users that are known."})
    draw: int = field(default=0, metadata={"help": "Seed of the generator that draws them."})

    @functools.cached_property
    def known_users(self) -> set[str]:
        """Ids of the users that are known."""
        ids = np.unique(super().load_sequences("train", max_seq_len=1)["user_id"])
        if self.num_known_users is None or not 0 < self.num_known_users < len(ids):
            raise ValueError(
                f"{self.num_known_users} users of {self.title} are to be known, and it has {len(ids)}: there must be "
                "users to test"
            )
        return set(np.random.default_rng(self.draw).choice(ids, self.num_known_users, replace=False).tolist())

    def load_sequences(self, split: str, max_seq_len: int) -> datasets.Dataset:
        """Loads the histories of the users that are known, or of the split `"test"` those of all others."""
        return self._select(super().load_sequences(split, max_seq_len), split)

    def load_training_histories(self) -> datasets.Dataset:
        """Loads the uncut training histories of the users that are known."""
        return self._select(super().load_training_histories(), "train")

    def _select(self, sequences: datasets.Dataset, split: str) -> datasets.Dataset:
        chosen = np.isin(np.asarray(sequences["user_id"]), list(self.known_users)) ^ (split == "test")
        return sequences.select(np.flatnonzero(chosen))
