"""Items and histories in what people hold them in."""

import datetime
import os
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from modeling_transrec import SAMPLE_BACKBONE, Recommender
from modeling_transrec.data.tables import as_arrow, as_dataset, as_histories
from modeling_transrec.evaluation import scoring

from ..tiny import tiny_image


ROWS = [
    {"item_id": "a", "text_en": "red rope"},
    {"item_id": "b", "text_en": "blue lamp"},
    {"item_id": "c", "text_en": "green tent"},
    {"item_id": "d", "text_en": "1984"},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


@pytest.fixture
def recommender(make_model, text_processor):
    return Recommender(make_model("text"), text_processor)


@pytest.mark.parametrize(
    "given",
    [
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        COLUMNS,
        {name: np.array(values) for name, values in COLUMNS.items()},
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS).set_index("item_id"),
        pl.DataFrame(ROWS),
        pl.DataFrame(ROWS).lazy(),
        pl.DataFrame(ROWS).with_columns(pl.col("item_id").cast(pl.Categorical)),
        pl.DataFrame(ROWS).with_columns(pl.col("item_id").cast(pl.Enum(["d", "c", "b", "a"]))),
        pa.table(COLUMNS),
        datasets.Dataset.from_dict(COLUMNS),
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(COLUMNS)}),
        datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(),
        [*ROWS[:3], {"item_id": "d", "text_en": 1984}],
        pd.DataFrame([*ROWS[:3], {"item_id": "d", "text_en": 1984}]),
        {**COLUMNS, "text_en": [*COLUMNS["text_en"][:3], 1984.0]},
    ],
    ids=lambda given: type(given).__module__ + "." + type(given).__name__,
)
def test_items_in_what_people_have(given, recommender):
    expected = Recommender(recommender.model, recommender.processor).index(datasets.Dataset.from_dict(COLUMNS))
    recommender.index(given)
    assert recommender.item_ids == ["a", "b", "c", "d"]
    assert torch.equal(recommender.item_embeddings, expected.item_embeddings)


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b"],
        [1, 2],
        np.array([1, 2], np.int32),
        [1, 2.5],
        [2**60 + 1, 0.5],
        [1, "b"],
        [None, None],
        [True, None],
        [1.0, float("nan")],
        [["a"], ["b", "c"]],
        np.eye(2),
        [np.zeros(2), np.ones(3)],
        [datetime.datetime(2024, 5, 8), None],
        pd.to_datetime(["2024-05-08", "2024-05-09"]),
        pd.Series(["a", None], dtype="category"),
        [b"x", b"y"],
        [{"x": 1}, {"x": None}],
        [tiny_image(1), None],
        [],
    ],
)
def test_a_table_of_arrow_is_that_of_the_data_set(values):
    for given in ({"x": values}, pd.DataFrame({"x": list(values)})):
        assert as_arrow(given).equals(as_dataset(given).with_format("arrow")[:])
    some = as_dataset({"x": values})
    assert as_arrow(some.select(range(len(some))[::-1])).to_pylist() == some.with_format("arrow")[:].to_pylist()[::-1]


def test_titles_that_are_numbers(recommender):
    table = {"item_id": ["a", "b"], "text_en": ["7", "1984"]}
    expected = recommender.index(table).item_embeddings
    for numbers in ([7, 1984], np.array([7.0, 1984.0]), pd.Series([7, 1984], dtype="Int64")):
        assert torch.equal(recommender.index({**table, "text_en": numbers}).item_embeddings, expected)
    with pytest.raises(ValueError, match=r"a text must be a string or a number, got list"):
        recommender.index({**table, "text_en": [["x"], ["y"]]})


def test_what_only_later_rows_have_is_kept():
    found = as_dataset([{"item_id": "a"}, {"item_id": "b", "price": 2}])
    assert found.to_dict() == {"item_id": ["a", "b"], "price": [None, 2]}
    image = as_dataset([{"item_id": "a", "image": None}, {"item_id": "b", "image": tiny_image(1)}])[1]["image"]
    assert np.array_equal(np.asarray(image), np.asarray(tiny_image(1)))


def test_histories_with_what_is_no_item_are_refused(recommender):
    for histories in ([["a", None], ["b", "c"]], {"user_id": ["u"], "item_ids": [["a", None]]}):
        with pytest.raises(ValueError, match=r"the history of row 0 has an item without an id \(None\)"):
            Recommender.from_backbone(SAMPLE_BACKBONE).index(ROWS, histories=histories)


def test_histories_that_are_no_lists_and_turns_of_whole_histories_are_refused(recommender):
    with pytest.raises(ValueError, match="item_ids must hold a list of item ids in each row"):
        recommender.index(ROWS, histories={"user_id": ["u"], "item_ids": ["a"]})
    recommender.index(ROWS, histories={"user_id": ["u", "u"], "item_id": ["a", "b"]})
    with pytest.raises(ValueError, match="whole histories have no turns"):
        recommender.observe_in_turn({"user_id": ["u"], "item_ids": [["a"]]}, [0])


def test_tables_that_are_not_clear_are_refused(recommender):
    with pytest.raises(ValueError, match="two columns 'text_en'; rename or drop one"):
        recommender.index(pd.concat([pd.DataFrame(ROWS), pd.DataFrame(ROWS)[["text_en"]]], axis=1))
    several = datasets.DatasetDict(dict.fromkeys(("train", "test"), datasets.Dataset.from_dict(COLUMNS)))
    for items, message in (
        (several, r"several splits; give one of them: data\['train'\]"),
        (["a", "b"], "dictionaries, one an item"),
        ({"item_id": ["a", "b"], "text_en": ["x"]}, "different lengths: item_id 2, text_en 1"),
    ):
        with pytest.raises(ValueError, match=message):
            recommender.index(items)
    with pytest.raises(ValueError, match=r"give its column"):
        recommender.index(ROWS).recommend(pd.DataFrame(ROWS))


HISTORIES = [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    "histories",
    [
        tuple(map(tuple, HISTORIES)),
        np.array(HISTORIES),
        [np.array(one) for one in HISTORIES],
        np.array([np.array(["a", "b"]), np.array(["c", "d"])], dtype=object),
        pd.Series(HISTORIES),
        pl.Series(HISTORIES),
        pa.array(HISTORIES),
        pa.chunked_array([HISTORIES]),
        datasets.Dataset.from_dict({"h": HISTORIES}).with_format("numpy")["h"][:],
        datasets.Dataset.from_dict({"h": HISTORIES})["h"],
        (one for one in HISTORIES),
    ],
    ids=lambda histories: type(histories).__module__ + "." + type(histories).__name__,
)
def test_histories_in_what_people_have(histories, recommender):
    recommender.index(ROWS)
    assert recommender.recommend(histories, k=2) == recommender.recommend(HISTORIES, k=2)


def test_a_single_history_in_what_people_have(recommender):
    expected = recommender.index(ROWS).recommend(["a", "b"], k=2)
    for one in (np.array(["a", "b"]), pd.Series(["a", "b"]), pl.Series(["a", "b"]), pa.array(["a", "b"]), ("a", "b")):
        assert recommender.recommend(one, k=2) == expected
    assert as_histories(np.array([])) == ([[]], True)
    with pytest.raises(ValueError, match="a history is 'c', and the others are lists"):
        recommender.recommend([["a"], "c"])


def test_interactions_in_what_people_have(recommender):
    table = {"user_id": ["u", "v", "u", "v"], "item_id": ["a", "b", "b", "c"], "timestamp": [1, 2, 3, 4]}
    expected = recommender.index(ROWS, histories=table).recommend(["a"], k=3)
    for interactions in (pl.DataFrame(table), pa.table(table), pd.DataFrame(table)):
        assert recommender.index(ROWS, histories=interactions).recommend(["a"], k=3) == expected


def test_unknown_items_of_a_history_are_skipped_on_request(recommender):
    recommender.index(ROWS)
    with pytest.raises(ValueError, match="'new' is not in the indexed catalogue"):
        recommender.recommend(["new", "a"])
    skipping = {"unknown_items": "skip", "k": 2}
    assert recommender.recommend(["new", "a"], **skipping) == recommender.recommend(["a"], k=2)
    assert recommender.recommend([["new"], ["a"]], cold_users="none", **skipping)[0] == []
    with pytest.raises(ValueError, match="an empty history says nothing"):
        recommender.recommend(["new"], **skipping)
    with pytest.raises(ValueError, match='must be "raise" or "skip"'):
        recommender.recommend(["a"], unknown_items="ignore")


def test_users_are_recommended_to_in_blocks(recommender, monkeypatch):
    """A block has at most so many users; the scorer looks at parts of the catalogue where there are more scores."""
    recommender.index(ROWS)
    histories = [["a"], ["b"] * 5000, ["c", "a"]] * 5
    expected = recommender.recommend(histories, k=2)
    monkeypatch.setattr(scoring, "MAX_SCORES", 8)
    sizes, top_k = [], scoring.CatalogueScorer.top_k
    monkeypatch.setattr(
        scoring.CatalogueScorer, "top_k", lambda self, *args: sizes.append(args[0].shape) or top_k(self, *args)
    )
    for one, other in zip(recommender.recommend(histories, k=2), expected, strict=True):
        assert [item["item_id"] for item in one] == [item["item_id"] for item in other]
    assert [users for users, _ in sizes] == [8, 7]


@pytest.mark.parametrize("kind", ["text", "image", "text+image"])
def test_an_item_without_its_content_is_added(kind, make_model, processor_of, items):
    recommender = Recommender(make_model(kind), processor_of[kind]).index(items)
    recommender.add_items([{"item_id": "bare"}])
    whole = Recommender(recommender.model, recommender.processor)
    bare = {name: None for name in items.column_names} | {"item_id": "bare"}
    whole.index(datasets.concatenate_datasets([items, datasets.Dataset.from_list([bare], features=items.features)]))
    assert recommender.recommend(["bare", "i001"], k=3) == whole.recommend(["bare", "i001"], k=3)


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_catalogue_is_used_in_another_dtype(kind, dtype, make_model, processor_of, items, tmp_path):
    options = {"item_projection": "whitened", "hidden_size": None} if kind == "text" else {}
    saved = Recommender(make_model(kind, **options), processor_of[kind]).index(items)
    saved.save_pretrained(tmp_path)
    small = Recommender.from_pretrained(tmp_path, dtype=dtype)
    assert small.model.dtype == dtype and torch.equal(small.item_embeddings, saved.item_embeddings)
    found, expected = (one.recommend(["i003", "i010"], k=5) for one in (small, saved))
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], rel=0.05, abs=0.05)
    small.save_pretrained(tmp_path / "small")
    assert torch.equal(Recommender.from_pretrained(tmp_path / "small").item_embeddings, saved.item_embeddings)
    make_model(kind, **options, temperature=0.5).to(dtype).save_pretrained(tmp_path)
    processor_of[kind].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another checkpoint"):
        Recommender.from_pretrained(tmp_path)


def test_a_catalogue_is_loaded_where_no_cache_can_be_written(recommender, tmp_path):
    recommender.index(ROWS).save_pretrained(tmp_path)
    code = f"""if True:
        from modeling_transrec import Recommender
        recommender = Recommender.from_pretrained({str(tmp_path)!r})
        print(recommender.recommend(["a"], k=1)[0]["item_id"])
        print(recommender.index([{{"item_id": "x", "text_en": "rope"}}, {{"item_id": "y", "text_en": "a"}}]).item_ids)
    """
    nowhere = dict.fromkeys(("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"), "/proc/nowhere")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **nowhere}, capture_output=True, text=True)
    expected = recommender.recommend(["a"], k=1)[0]["item_id"]
    assert done.stdout.splitlines() == [expected, "['x', 'y']"], done.stderr[-2000:]
