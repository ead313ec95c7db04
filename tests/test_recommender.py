import pytest
import torch

from modeling_transrec import Recommender


@pytest.fixture
def recommender(make_model, text_processor, items, tmp_path):
    make_model("text").save_pretrained(tmp_path)
    text_processor.save_pretrained(tmp_path)
    return Recommender.from_pretrained(tmp_path).index(items)


def test_recommendations_are_the_best_scores(recommender, items, make_model, text_processor):
    history = ["i003", "i010", "i001"]
    model = make_model("text")
    catalogue = model.get_item_features(**text_processor(text=list(items["text_en"])))
    state = model.get_user_features(catalogue[[3, 10, 1]][None], torch.ones(1, 3, dtype=torch.bool))
    scores = dict(zip(items["item_id"], (state @ catalogue.T)[0].tolist(), strict=True))
    expected = sorted((item for item in scores if item not in history), key=lambda item: -scores[item])[:5]
    found = recommender.recommend(history, k=5)
    assert [item["item_id"] for item in found] == expected
    assert [item["score"] for item in found] == pytest.approx([scores[item] for item in expected], abs=1e-5)


def test_many_histories_equal_one_by_one(recommender):
    histories = [["i003"], ["i010", "i001", "i020"], ["i005"] * 30]
    together = recommender.recommend(histories, k=7)
    for history, found in zip(histories, together, strict=True):
        alone = recommender.recommend(history, k=7)
        assert [item["item_id"] for item in found] == [item["item_id"] for item in alone]


def test_seen_items_can_stay_and_few_may_be_left(recommender, items):
    everything = list(items["item_id"])
    assert len(recommender.recommend(everything[:20], k=100, exclude_seen=False)) == 37
    left = recommender.recommend(everything[:30], k=100)
    assert {item["item_id"] for item in left} == set(everything[30:])


def test_a_new_catalogue_replaces_the_old(recommender):
    recommender.index([{"item_id": "new1", "text_en": "red rope"}, {"item_id": "new2", "text_en": "blue shoe"}])
    assert [item["item_id"] for item in recommender.recommend(["new1"], k=3)] == ["new2"]


def test_errors_say_what_to_do(recommender, make_model, text_processor):
    with pytest.raises(ValueError, match="'nope' is not in the indexed catalogue of 37"):
        recommender.recommend(["nope"])
    with pytest.raises(ValueError, match="empty history"):
        recommender.recommend([])
    with pytest.raises(ValueError, match="list of item ids"):
        recommender.recommend("i001")
    with pytest.raises(ValueError, match="k must be"):
        recommender.recommend(["i001"], k=0)
    with pytest.raises(ValueError, match="call index"):
        Recommender(make_model("text"), text_processor).recommend(["i001"])
    with pytest.raises(ValueError, match="item_id twice"):
        recommender.index([{"item_id": "a", "text_en": "x"}, {"item_id": "a", "text_en": "y"}])
