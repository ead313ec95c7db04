import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from modeling_transrec import Recommender
from modeling_transrec.serving import catalogue
from modeling_transrec.serving.filters import matching


HISTORY = ["i003", "i010", "i001"]
CLICKS = {"user_id": ["u1"] * 3 + ["u2"] * 2, "item_id": ["i001", "i002", "i003", "i001", "i004"]}


@pytest.fixture
def shop(items):
    """Items with columns to filter by; some have no kind."""
    columns = {
        "item_id": items["item_id"][:],
        "text_en": items["text_en"][:],
        "in_stock": [number % 3 > 0 for number in range(37)],
        "kind": [None if number % 7 == 0 else "abc"[number % 3] for number in range(37)],
        "price": [number / 4 for number in range(37)],
        "tags": [["x"]] * 37,
    }
    return datasets.Dataset.from_dict(columns)


@pytest.fixture
def recommender(make_model, text_processor, shop):
    return Recommender(make_model("text"), text_processor).index(shop)


FILTERS = [
    ({"in_stock": True}, lambda row: row["in_stock"]),
    ({"in_stock": True, "kind": ["a", "b"]}, lambda row: row["in_stock"] and row["kind"] in ("a", "b")),
    ({"kind": None}, lambda row: row["kind"] is None),
    ({"kind": []}, lambda row: False),
    ({}, lambda row: True),
    (pc.field("price") < 5, lambda row: row["price"] < 5),
    (
        (pc.field("kind") != "a") & ~pc.field("in_stock"),
        lambda row: row["kind"] not in (None, "a") and not row["in_stock"],
    ),
]


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_filtered_is_what_is_left_of_the_whole_list(number, recommender, shop):
    where, passes = FILTERS[number]
    recommender.remove_items(["i005", "i020"])
    recommender.add_items([{"item_id": "new", "text_en": "red rope", "in_stock": True, "kind": "a", "price": 1.0}])
    allowed = {row["item_id"] for row in recommender.items if passes(row)}
    whole = recommender.recommend(HISTORY, k=40)
    expected = [one for one in whole if one["item_id"] in allowed]
    for k in (4, 40):
        for _ in range(2):  # the second time from what is kept
            found = recommender.recommend(HISTORY, k=k, where=where)
            assert [one["item_id"] for one in found] == [one["item_id"] for one in expected[:k]]
            assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected[:k]], abs=1e-5)


def test_columns_of_many_changes_are_read_in_one_piece(recommender, shop):
    """What is added one by one is filtered like a whole catalogue, not part after part, each of which takes time."""
    for number in range(30):
        item = {"item_id": f"n{number}", "text_en": "red rope", "in_stock": number % 3 == 0, "price": float(number)}
        recommender.add_items([item])
    snapshot = recommender.snapshot
    assert len(snapshot.parts) == 31 and snapshot._columns["price"].num_chunks == 2
    allowed = {row["item_id"] for row in recommender.items if row["in_stock"]}
    assert {f"n{number}" for number in range(0, 30, 3)} < allowed and "n1" not in allowed
    found = recommender.recommend(HISTORY, k=67, where={"in_stock": True}, exclude_seen=False)
    assert {one["item_id"] for one in found} == allowed
    assert recommender.items.features == snapshot.features and len(recommender.items) == len(shop) + 30


def test_with_counts_and_for_users_without_a_history(make_model, text_processor, shop):
    recommender = Recommender(make_model("text"), text_processor).index(shop, histories=CLICKS)
    whole = recommender.recommend(["i001"], k=40)
    stock = dict(zip(shop["item_id"][:], shop["in_stock"][:], strict=True))
    found = recommender.recommend(["i001"], k=40, where={"in_stock": True})
    assert [one["item_id"] for one in found] == [one["item_id"] for one in whole if stock[one["item_id"]]]
    popular = recommender.recommend([], cold_users="popularity", where={"in_stock": True})
    assert {one["item_id"]: one["score"] for one in popular} == {"i001": 2, "i002": 1, "i004": 1}
    with pytest.raises(ValueError, match="empty history"):
        recommender.recommend([], where={"in_stock": True})


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ({"colour": "red"}, "a column 'colour' that the catalogue does not have; it has item_id, text_en"),
        ({"in_stock": 1}, "gives 1 for the column 'in_stock', whose values are bool"),
        ({"in_stock": "yes"}, "'yes' for the column 'in_stock'"),
        ({"kind": {"a": 1}}, "for the column 'kind'"),
        ({"kind": ["a", 3]}, "for the column 'kind'"),
        ({"tags": "x"}, "holds lists"),
        ("in_stock", "must be values by column"),
        (pc.field("colour") == "red", "does not fit the columns.*colour"),
        (pc.field("price"), "yes or no"),
    ],
)
def test_errors_say_what_to_do(where, sentence, recommender):
    with pytest.raises(ValueError, match=sentence):
        recommender.recommend(HISTORY, where=where)


def test_numbers_are_compared_as_they_are():
    table = pa.table({"count": [1, 2], "weight": pa.array([0.1, 0.2], pa.float32())})
    assert matching(table, {"weight": 0.1}).tolist() == [True, False]
    for value in (1.5, "1", True, 2**70):
        with pytest.raises(ValueError, match="column 'count', whose values are int64"):
            matching(table, {"count": value})


def test_true_is_not_one(recommender):
    recommender.recommend(HISTORY, where={"in_stock": True})
    with pytest.raises(ValueError, match="whose values are bool"):
        recommender.recommend(HISTORY, where={"in_stock": 1})


def test_diverse_lists_follow_maximal_marginal_relevance(recommender, shop):
    """The next one is the best of (1 - d) * relevance - d * likeness, among the best five times as many."""
    k, diversity = 3, 0.6
    where = {"in_stock": True}
    pool = recommender.recommend(HISTORY, k=5 * k, where=where)
    vectors = dict(zip(recommender.item_ids, recommender.item_embeddings, strict=True))
    low, high = pool[-1]["score"], pool[0]["score"]
    expected = []
    for _ in range(k):

        def value(one):
            likeness = [torch.cosine_similarity(vectors[one["item_id"]], vectors[o["item_id"]], 0) for o in expected]
            return (1 - diversity) * (one["score"] - low) / (high - low) - diversity * max(likeness, default=0)

        expected.append(max((one for one in pool if one not in expected), key=value))
    found = recommender.recommend([HISTORY, ["i002"]], k=k, where=where, diversity=diversity, explain=True)
    assert [one["item_id"] for one in found[0]] == [one["item_id"] for one in expected]
    assert [one["score"] for one in found[0]] == pytest.approx([one["score"] for one in expected], abs=1e-5)
    assert len(recommender.recommend(HISTORY, k=40, diversity=1.0)) == 34
    with pytest.raises(ValueError, match="diversity must be from 0 to 1, got 2"):
        recommender.recommend(HISTORY, diversity=2)


def test_clicks_leave_a_filter_known(make_model, text_processor, shop, monkeypatch):
    recommender = Recommender(make_model("text"), text_processor).index(shop, histories=CLICKS)
    expected = recommender.recommend(HISTORY, k=37, where={"in_stock": True})
    read = []
    monkeypatch.setattr(catalogue, "matching", lambda *args: read.append(args) or matching(*args))
    recommender.observe({"user_id": ["u1"], "item_id": ["i007"]})
    found = recommender.recommend(HISTORY, k=37, where={"in_stock": True})
    assert not read and {one["item_id"] for one in found} == {one["item_id"] for one in expected}
    recommender.add_items([{**shop[1], "item_id": "new", "in_stock": True}])
    found = recommender.recommend(HISTORY, k=38, where={"in_stock": True})
    assert read and "new" in {one["item_id"] for one in found}
