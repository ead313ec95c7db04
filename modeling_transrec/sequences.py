"""Pure functions on interactions: order, filter, leave-one-out split, popularity.

The protocol is NineRec's (arXiv 2309.07705). Frames go in and come out; nothing here reads a file.
"""

import polars as pl


def order_interactions(interactions: pl.DataFrame) -> pl.DataFrame:
    """Put each user's rows in time order, users in order of first appearance.

    Args:
        interactions: one row per action with `user_id`, `item_id` and, where known, `timestamp` (seconds).

    Returns:
        The same rows. Equal timestamps keep the order of the input; without timestamps (no such column, or all
        null) the input is taken to be in time order.

    Example:

    >>> frame = pl.DataFrame({"user_id": ["b", "a", "b"], "item_id": ["x", "y", "z"], "timestamp": [9, 5, 3]})
    >>> order_interactions(frame).rows()
    [('b', 'z', 3), ('b', 'x', 9), ('a', 'y', 5)]
    """
    keys = ["_first_row"]
    if "timestamp" in interactions.columns:
        unknown = interactions["timestamp"].null_count()
        if unknown not in (0, interactions.height):
            raise ValueError(
                f"{unknown} of {interactions.height} interactions have no timestamp; time order needs all or none"
            )
        if unknown == 0:
            keys.append("timestamp")
    return (
        interactions.with_row_index("_row")
        .with_columns(pl.col("_row").min().over("user_id").alias("_first_row"))
        .sort(keys, maintain_order=True)
        .drop("_row", "_first_row")
    )


def build_sequences(interactions: pl.DataFrame, min_actions: int = 5, max_actions: int = 23) -> pl.DataFrame:
    """Collect one sequence per user: drop users with fewer than `min_actions`, keep the last `max_actions`.

    Args:
        interactions: one row per action, see [`order_interactions`].
        min_actions: users with fewer actions are dropped (counted before the cut to `max_actions`).
        max_actions: the latest actions kept of each user; `max_seq_len + 3` in NineRec.

    Returns:
        `user_id`, `item_ids` (list of string) and `timestamps` (list of int64, null where unknown), users in order
        of first appearance.

    Example:

    >>> frame = pl.DataFrame({"user_id": ["a", "b", "a", "a"], "item_id": ["x", "x", "y", "z"]})
    >>> build_sequences(frame, min_actions=3, max_actions=2).rows()
    [('a', ['y', 'z'], None)]
    """
    for name, value in (("min_actions", min_actions), ("max_actions", max_actions)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    ordered = order_interactions(interactions)
    timed = "timestamp" in ordered.columns and ordered["timestamp"].null_count() == 0
    columns = [pl.col("item_id").alias("item_ids")]
    if timed:
        columns.append(pl.col("timestamp").cast(pl.Int64).alias("timestamps"))
    sequences = (
        ordered.group_by("user_id", maintain_order=True)
        .agg(columns)
        .filter(pl.col("item_ids").list.len() >= min_actions)
        .with_columns(pl.exclude("user_id").list.tail(max_actions))
    )
    if not timed:
        sequences = sequences.with_columns(pl.lit(None, dtype=pl.List(pl.Int64)).alias("timestamps"))
    return sequences


def leave_one_out(sequences: pl.DataFrame, split: str) -> pl.DataFrame:
    """Split sequences for next-item recommendation: the last item tests, the last but one validates.

    | split | `item_ids` | `target` |
    |---|---|---|
    | train | all but the last two | null |
    | validation | all but the last two | the last but one |
    | test | all but the last | the last |

    Args:
        sequences: `user_id`, `item_ids`, `timestamps`, see [`build_sequences`]; at least 3 items each.
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        `user_id`, `item_ids`, `target`, `timestamps` (those of `item_ids`), one row per row of `sequences`.

    Example:

    >>> sequences = pl.DataFrame({"user_id": ["a"], "item_ids": [["x", "y", "z"]], "timestamps": [[1, 2, 3]]})
    >>> leave_one_out(sequences, "validation").rows()
    [('a', ['x'], 'y', [1])]
    >>> leave_one_out(sequences, "test").rows()
    [('a', ['x', 'y'], 'z', [1, 2])]
    """
    held_out = {"train": 2, "validation": 2, "test": 1}
    if split not in held_out:
        raise ValueError(f"split must be one of {', '.join(held_out)}, got {split!r}")
    too_short = sequences.filter(pl.col("item_ids").list.len() < 3)
    if too_short.height:
        raise ValueError(
            f"{too_short.height} sequences have fewer than 3 items (e.g. user {too_short['user_id'][0]!r}); "
            "leave-one-out needs a history, a validation and a test item"
        )
    length = pl.col("item_ids").list.len() - held_out[split]
    target = pl.lit(None, dtype=pl.String) if split == "train" else pl.col("item_ids").list.get(-held_out[split])
    return sequences.select(
        "user_id",
        pl.col("item_ids").list.head(length),
        target.alias("target"),
        pl.col("timestamps").list.head(length),
    )


def count_items(item_ids: pl.Series) -> pl.DataFrame:
    """Count how often each item occurs in the sequences (its popularity).

    Args:
        item_ids: lists of item ids, e.g. the `item_ids` column of the train split.

    Returns:
        `item_id` and `count`, most frequent first, ties in order of first appearance.

    Example:

    >>> count_items(pl.Series([["x", "y"], ["y"]])).rows()
    [('y', 2), ('x', 1)]
    """
    items = pl.DataFrame({"item_id": item_ids.explode().drop_nulls()})
    counts = items.group_by("item_id", maintain_order=True).agg(pl.len().cast(pl.Int64).alias("count"))
    return counts.sort("count", descending=True, maintain_order=True)
