"""Several platforms to train on in one run: their catalogues side by side, and batches that are drawn from each.

Shapes: `S` platforms, `V` catalogue items of all platforms together, `N` training histories, `B` users of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch


PLATFORM_COLUMN = "source_platform"  # of an items table, with the name of the platform that each item is of


def join_platforms(
    items: Mapping[str, datasets.Dataset], sequences: Mapping[str, datasets.Dataset]
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Joins the catalogues and the histories of several platforms.

    Ids become `PLATFORM/ID`, so that equal ids of two platforms stay apart. Items have a column `source_platform`;
    those of a platform lie together.

    Args:
        items: the catalogue of each platform, by its name.
        sequences: its training histories.

    Returns:
        The items and the histories of all.

    Example:

    >>> import datasets
    >>> items = datasets.Dataset.from_dict({"item_id": ["a", "b"]})
    >>> sequences = datasets.Dataset.from_dict({"user_id": ["u"], "item_ids": [["b", "a"]]})
    >>> both, histories = join_platforms({"X": items, "Y": items}, {"X": sequences, "Y": sequences})
    >>> both["item_id"][:], histories["item_ids"][1]
    (['X/a', 'X/b', 'Y/a', 'Y/b'], ['Y/b', 'Y/a'])
    """
    if items.keys() != sequences.keys():
        raise ValueError(f"there are items of {', '.join(items)}, and histories of {', '.join(sequences)}")
    named = [
        _map(one, _with_names, name=name).add_column(PLATFORM_COLUMN, pa.array([name] * len(one)))
        for name, one in items.items()
    ]
    return datasets.concatenate_datasets(named), datasets.concatenate_datasets(
        [_map(one, _with_names, name=name) for name, one in sequences.items()]
    )


def _map(dataset: datasets.Dataset, function, **arguments) -> datasets.Dataset:
    mapped = dataset.with_format("arrow").map(
        function, fn_kwargs=arguments, batched=True, batch_size=10_000, keep_in_memory=not dataset.cache_files
    )
    return mapped.with_format(None)


def _with_names(table: pa.Table, name: str) -> pa.Table:
    """Puts a platform's name before the ids of a table's users and items."""
    for place, column in enumerate(table.column_names):
        if column == "item_ids":
            lists = table[column].combine_chunks()
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
            offsets = pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
            table = table.set_column(
                place, column, pa.ListArray.from_arrays(offsets, _named(name, pc.list_flatten(lists)))
            )
        elif column in ("user_id", "item_id", "target"):
            table = table.set_column(place, column, _named(name, table[column]))
    return table


def _named(name: str, ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(name), ids.cast(pa.string()), "/")


class PlatformRanges:
    """Knows which items of a joined catalogue belong to which platform.

    Args:
        starts: `(S + 1,)` index of each platform's first item, and `V`.
    """

    def __init__(self, starts: Sequence[int]):
        self.starts = np.array(starts)

    @classmethod
    def of(cls, items: datasets.Dataset) -> "PlatformRanges | None":
        """Returns those of a catalogue, see [`join_platforms`]; `None` where it is of one platform.

        Raises:
            ValueError: if items of a platform do not lie together.
        """
        if PLATFORM_COLUMN not in items.column_names:
            return None
        names = np.array(items[PLATFORM_COLUMN][:], dtype=object)
        starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1)]
        if len(set(names)) < len(starts):
            raise ValueError(f"items of a platform must lie together in the column {PLATFORM_COLUMN}; sort by it")
        return cls([*starts, len(names)])

    def of_items(self, catalogue_index: np.ndarray) -> np.ndarray:
        """Returns the indices of the items' platforms.

        >>> PlatformRanges([0, 2, 3]).of_items(np.array([0, 2, 1]))
        array([0, 1, 0])
        """
        return np.searchsorted(self.starts, catalogue_index, side="right") - 1

    def indices(self) -> list[np.ndarray]:
        """Returns the indices of each platform's items into the catalogue."""
        return [np.arange(start, end) for start, end in zip(self.starts[:-1], self.starts[1:], strict=True)]


class PlatformSampler(torch.utils.data.Sampler[int]):
    """Draws users of several platforms, more evenly than their numbers are, so that a large one does not drown others.

    An epoch has as many batches as users fill. The share of a platform is its number of users to the power of
    `exponent`, divided by the sum of these (as languages are sampled for multilingual models: Conneau et al.,
    "Unsupervised Cross-lingual Representation Learning at Scale", ACL 2020). Its users come in a random order, and
    again in another one when they are used up. The order is a function of seed and epoch, so that a run can be
    resumed.

    Args:
        platform_of: `(N,)` index of the platform of each history.
        batch_size: users in a batch.
        exponent: 1 draws platforms as large as they are, 0 all equally often.
        mixes: whether a batch has users of all platforms; otherwise each has those of one, and the items of the others
            are no negatives.
        seed: of the order.

    Example:

    >>> sampler = PlatformSampler(np.array([0, 0, 0, 0, 0, 0, 1, 1]), batch_size=2, exponent=0.0)
    >>> [sorted({0 if user < 6 else 1 for user in batch}) for batch in np.reshape(list(sampler), (-1, 2))]
    [[1], [0], [1], [0]]
    """

    def __init__(
        self, platform_of: np.ndarray, batch_size: int, exponent: float = 0.5, mixes: bool = False, seed: int = 0
    ):
        self.users = [np.flatnonzero(platform_of == number) for number in range(int(platform_of.max()) + 1)]
        self.chunk_size = 1 if mixes else batch_size
        self.num_chunks = -(-len(platform_of) // self.chunk_size)
        self.seed, self.epoch = seed, 0
        sizes = np.array([len(users) for users in self.users], dtype=float)
        shares = np.where(sizes > 0, sizes**exponent, 0)
        ends = np.round(shares.cumsum() / shares.sum() * self.num_chunks).astype(int)
        self.chunks_of = np.diff(ends, prepend=0)  # (S,)

    def __len__(self) -> int:
        return self.num_chunks * self.chunk_size

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass draw the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        chunks = []
        for users, num_chunks in zip(self.users, self.chunks_of, strict=True):
            size = num_chunks * self.chunk_size
            rounds = [generator.permutation(users) for _ in range(-(-size // max(len(users), 1)))]
            chunks.append(np.concatenate([*rounds, users[:0]])[:size].reshape(-1, self.chunk_size))
        yield from generator.permutation(np.concatenate(chunks)).ravel().tolist()
