import datasets
import numpy as np
import pytest
import torch

from modeling_transrec import TransRecConfig
from modeling_transrec.data.arguments import SourceArguments
from modeling_transrec.data.collator import TransRecDataCollator
from modeling_transrec.data.loading import count_interactions, index_histories
from modeling_transrec.data.platforms import PLATFORM_COLUMN, PlatformRanges, PlatformSampler, join_platforms
from modeling_transrec.models.losses import LOSSES
from modeling_transrec.models.processing_transrec import TransRecProcessor
from modeling_transrec.training.splits import keep_teaching

from ..tiny import ONE_VECTOR_LOSSES, make_sequences


SIZES = {"X": 12, "Y": 14, "Z": 11}


@pytest.fixture(scope="module")
def platforms(items):
    """Three platforms, the items of each a part of the tiny catalogue, under ids of their own that start alike."""
    ends = np.cumsum([0, *SIZES.values()])
    parts = {
        name: items.select(range(start, end)) for name, start, end in zip(SIZES, ends[:-1], ends[1:], strict=True)
    }
    same = {
        name: part.remove_columns("item_id").add_column("item_id", [f"i{row}" for row in range(len(part))])
        for name, part in parts.items()
    }
    users = {
        name: make_sequences(part, num_users, "train")
        for (name, part), num_users in zip(same.items(), (9, 30, 5), strict=True)
    }
    return same, users


@pytest.fixture(scope="module")
def joined(platforms):
    return join_platforms(*platforms)


def test_ids_of_platforms_stay_apart(platforms, joined):
    items, sequences = joined
    assert len(set(items["item_id"])) == len(items) == 37
    assert items[PLATFORM_COLUMN][:] == ["X"] * 12 + ["Y"] * 14 + ["Z"] * 11
    assert items["text_en"][:] == [text for part in platforms[0].values() for text in part["text_en"]]
    expected = [
        {
            "user_id": f"{name}/{row['user_id']}",
            "item_ids": [f"{name}/{one}" for one in row["item_ids"]],
            "target": None,
        }
        for name, part in platforms[1].items()
        for row in part
    ]
    assert sequences.to_list() == expected
    with pytest.raises(ValueError, match="items of X, Y, Z, and histories of X"):
        join_platforms(platforms[0], {"X": platforms[1]["X"]})


def test_a_table_of_ones_own_with_scattered_platforms_is_refused(joined):
    scattered = joined[0].select([0, 36, 1])
    with pytest.raises(ValueError, match="must lie together"):
        PlatformRanges.of(scattered)


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize(("exponent", "shares"), [(1.0, [0.2, 0.68, 0.12]), (0.0, [1 / 3] * 3)])
def test_platforms_are_drawn_by_their_share(mixes, exponent, shares):
    platform_of = np.repeat([0, 1, 2], [200, 680, 120])
    sampler = PlatformSampler(platform_of, batch_size=10, exponent=exponent, mixes=mixes, seed=3)
    drawn = np.array(list(sampler))
    assert len(drawn) == len(sampler) == 1000
    np.testing.assert_allclose(np.bincount(platform_of[drawn]) / 1000, shares, atol=0.01)
    batches = platform_of[drawn].reshape(-1, 10)
    assert (batches == batches[:, :1]).all() != mixes
    for number in range(3):  # each user as often as any other of the platform, but for one
        times = np.bincount(drawn, minlength=1000)[platform_of == number]
        assert times.max() - times.min() <= 1
    assert list(sampler) == drawn.tolist()
    sampler.set_epoch(1)
    assert list(sampler) != drawn.tolist()


def batches_of(joined, loss_type, mixes=False, **fields):
    items, sequences = joined
    histories = keep_teaching(index_histories(sequences, items["item_id"]))
    config = TransRecConfig(num_items=len(items), loss_type=loss_type, **fields)
    processor = TransRecProcessor(item_ids=list(items["item_id"]))
    prepared = datasets.Dataset.from_dict({"item_ids": list(range(len(items)))})
    counts = count_interactions(histories, len(items))
    ranges = PlatformRanges.of(items)
    collator = TransRecDataCollator(config, prepared, processor, counts, platforms=ranges, mixes_platforms=mixes)
    of_user = ranges.of_items(np.array([history[0] for history in histories["history"]]))
    for number in range(3):
        few = np.array([len(set(history)) < 10 for history in histories["history"]])  # there is something to draw
        users = np.flatnonzero((of_user == number) & few)[:4]
        yield number, collator([histories[int(user)] for user in users]), counts


@pytest.mark.parametrize("negative_sampling", ["uniform", "popularity"])
@pytest.mark.parametrize("loss_type", ONE_VECTOR_LOSSES)
def test_negatives_are_of_the_platform_unless_they_are_mixed(loss_type, negative_sampling, joined):
    starts = PlatformRanges.of(joined[0]).starts
    fields = {"num_negatives": 50, "negative_sampling": negative_sampling}
    for number, batch, _ in batches_of(joined, loss_type, **fields):
        drawn = batch["item_ids"]
        assert ((drawn >= starts[number]) & (drawn < starts[number + 1])).all()
        if "num_catalogue_items" in batch:
            assert batch["num_catalogue_items"] == list(SIZES.values())[number]
    if LOSSES[loss_type].candidates == "batch":
        return
    mixed = [batch["item_ids"] for _, batch, _ in batches_of(joined, loss_type, mixes=True, **fields)]
    assert all(drawn.min() < 12 and drawn.max() >= 12 for drawn in mixed)


def test_popularity_is_that_among_the_items_that_are_drawn_from(joined):
    starts = PlatformRanges.of(joined[0]).starts
    for mixes in (False, True):
        for number, batch, counts in batches_of(joined, "in_batch", mixes=mixes):
            total = counts.sum() if mixes else counts[starts[number] : starts[number + 1]].sum()
            expected = torch.from_numpy(counts[batch["item_ids"].numpy()] / total).float().log()
            torch.testing.assert_close(batch["item_log_popularity"], expected)


def test_several_sources_need_to_know_where_to_stop():
    with pytest.raises(ValueError, match="--validation_dataset_config_name NAME"):
        SourceArguments(dataset_config_name=["A", "B"])
    with pytest.raises(ValueError, match="names A twice"):
        SourceArguments(dataset_config_name=["A", "B", "A"], validation_dataset_config_name="C")
    assert SourceArguments().title == SourceArguments().eval_title == "Sample_Source"
    assert SourceArguments(dataset_config_name="A").dataset_config_name == ["A"]
