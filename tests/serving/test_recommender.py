import copy
import pickle
import threading

import pandas as pd
import pytest
import torch

from modeling_transrec import FullRankingEvaluator, Recommender


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
    table = pd.DataFrame({"item_id": ["a", "b"], "text_en": ["red rope", "blue shoe"]}, index=[7, 3])
    assert [item["item_id"] for item in recommender.index(table).recommend(["b"], k=3)] == ["a"]


def test_a_platform_is_chosen_by_name(make_model, text_processor, items, tmp_path):
    model, history = make_model("text"), ["i003", "i010"]
    model.requires_grad_(False)  # as it is with platforms: products with a frozen weight may be rounded otherwise
    expected = {"source": Recommender(model, text_processor).index(items).recommend(history)}
    for name in ("books", "games"):
        model.add_platform(name)
        with torch.no_grad():
            for weight in filter(lambda one: one.requires_grad, model.parameters()):
                weight.normal_()
        expected[name] = Recommender(model, text_processor).index(items).recommend(history)
    Recommender(model, text_processor).index(items).save_pretrained(tmp_path)
    assert Recommender.from_pretrained(tmp_path).recommend(history) == expected["games"]  # as it was saved
    for name, found in expected.items():
        recommender = Recommender.from_pretrained(tmp_path, load_catalogue=False, platform=name).index(items)
        assert recommender.recommend(history) == found
    assert len({str(found) for found in expected.values()}) == 3
    with pytest.raises(ValueError, match="made by another checkpoint"):
        Recommender.from_pretrained(tmp_path, platform="books")


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
    with pytest.raises(ValueError, match="item_id twice: 'a' is in rows 1 and 3, counted from 0"):
        recommender.index([{"item_id": item_id, "text_en": "x"} for item_id in "bacacc"])
    with pytest.raises(ValueError, match="item 1 is not .* of 37 items; ids are strings, such as 'i000'"):
        recommender.recommend([1])
    with pytest.raises(ValueError, match="list of item ids, not None"):
        recommender.recommend(None)


def test_items_without_content_are_told(make_model, processor_of, items, caplog):
    rows = [{"item_id": f"n{row}", "text_en": text} for row, text in enumerate(("a", None, " \n", "b", ""))]
    recommender = Recommender(make_model("text"), processor_of["text"])

    def told():
        found = [one.getMessage() for one in caplog.records if "nothing in" in one.getMessage()]
        caplog.clear()
        return found

    recommender.index(rows)
    assert told() == ["3 of 5 items have nothing in text_en, so that they are like no other item (e.g. 'n1')"]
    recommender.add_items(rows[3:4])
    assert told() == []
    recommender.add_items([{"item_id": "new"}])
    assert told() == ["1 of 1 items have nothing in text_en, so that they are like no other item (e.g. 'new')"]

    both = [
        {"item_id": "a", "text_en": "", "image": items[0]["image"]},
        {"item_id": "b", "text_en": "b", "image": None},
    ]
    recommender = Recommender(make_model("text+image"), processor_of["text+image"]).index(both)
    assert told() == []  # one of both is enough
    recommender.add_items([{"item_id": "c", "text_en": "", "image": None}])
    assert len(told()) == 1


def test_pictures_come_as_objects_files_or_bytes(make_model, processor_of, items, tmp_path):
    model, processor = make_model("text+image"), processor_of["text+image"]
    rows = [dict(items[row]) for row in range(5)]  # the second has no picture
    expected = Recommender(model, processor).index(rows).item_embeddings
    files = []
    for row in rows:
        path = tmp_path / f"{row['item_id']}.png"
        if row["image"] is not None:
            row["image"].save(path)
        files.append({**row, "image": None if row["image"] is None else str(path)})
    assert torch.equal(Recommender(model, processor).index(files).item_embeddings, expected)
    contents = [{**row, "image": row["image"] and open(row["image"], "rb").read()} for row in files]
    assert torch.equal(Recommender(model, processor).index(contents).item_embeddings, expected)


def test_normalised_scores_are_cosines_by_temperature(make_model, processor_of, items, validation_split):
    model = make_model("text", normalize_scores=True, temperature=0.1)
    recommender = Recommender(model, processor_of["text"]).index(items)
    history = ["i003", "i008", "i020"]
    vectors = recommender.item_embeddings
    user = model.get_user_features(vectors[[3, 8, 20]][None], torch.ones(1, 3, dtype=torch.bool))[0]
    expected = torch.nn.functional.cosine_similarity(user[None], vectors) / 0.1
    for found in recommender.recommend(history, k=37, exclude_seen=False):
        row = int(found["item_id"][1:])
        assert found["score"] == pytest.approx(expected[row].item(), abs=1e-4)
    new = validation_split.filter(lambda user: user["target"] not in user["item_ids"])
    best = [[found["item_id"] for found in user] for user in recommender.recommend(list(new["item_ids"]), k=10)]
    hits = [target in found for target, found in zip(new["target"], best, strict=True)]
    evaluator = FullRankingEvaluator(items, new, ks=[10])
    assert evaluator(model, processor_of["text"])["hr@10"] == pytest.approx(sum(hits) / len(hits))


def test_what_is_measured_is_what_is_served(make_model, processor_of, items, validation_split):
    """Ranks by the evaluator and places in the recommender's lists, of the same checkpoint."""
    for fields in ({}, {"normalize_scores": True, "temperature": 0.1}):
        model = make_model("text", **fields)
        for histories in (None, list(validation_split["item_ids"])):
            recommender = Recommender(model, processor_of["text"]).index(items, histories=histories)
            new = validation_split.filter(lambda user: user["target"] not in user["item_ids"])
            users = validation_split if histories else new
            evaluator = FullRankingEvaluator(items, users, center_scores=histories is not None)
            evaluator(model, processor_of["text"])
            for user, better in zip(users, evaluator.rankings.num_better.tolist(), strict=True):
                found = [item["item_id"] for item in recommender.recommend(user["item_ids"], k=37)]
                if user["target"] not in user["item_ids"]:
                    assert found.index(user["target"]) == better


def test_recommends_without_dropout_whatever_mode_the_model_is_in(make_model, processor_of, items):
    model = make_model("text", hidden_dropout_prob=0.5)
    recommender = Recommender(model, processor_of["text"]).index(items)
    expected = recommender.recommend(["i003", "i010"])
    model.train()
    assert recommender.recommend(["i003", "i010"]) == expected
    assert recommender.index(items).recommend(["i003", "i010"]) == expected
    assert model.training  # a training that goes on is not disturbed


@pytest.mark.parametrize("by_faiss", [False, True])
def test_threads_see_the_catalogue_before_a_change_or_after_it(by_faiss, recommender):
    """Items come and go while others ask: every answer is whole, and no item is recommended that is not there."""
    if by_faiss:
        pytest.importorskip("faiss")
        recommender.search_with_faiss()
    odd = [f"i{number:03d}" for number in range(1, 37, 2)]
    with_all = recommender.recommend(["i000", "i002"], k=37)
    texts = {row["item_id"]: row["text_en"] for row in recommender.items}
    without_odd = recommender.remove_items(odd).recommend(["i000", "i002"], k=37)
    answers, errors, is_over = [], [], threading.Event()

    def ask():
        try:
            while not is_over.is_set():
                answers.append([item["item_id"] for item in recommender.recommend(["i000", "i002"], k=37)])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        recommender.add_items([{"item_id": item_id, "text_en": texts[item_id]} for item_id in odd])
        recommender.remove_items(odd)
    is_over.set()
    for thread in threads:
        thread.join()
    assert not errors
    states = [sorted(item["item_id"] for item in state) for state in (with_all, without_odd)]
    assert len(answers) > 10 and all(sorted(answer) in states for answer in answers)


def test_items_encoded_for_a_catalogue_that_is_gone_are_not_added(recommender, monkeypatch):
    encode = recommender._encode

    def encode_late(items, chunk_size, **options):
        monkeypatch.setattr(recommender, "_encode", encode)
        recommender.index([{"item_id": "a", "text_en": "rope", "price": 3}])
        return encode(items, chunk_size, **options)

    monkeypatch.setattr(recommender, "_encode", encode_late)
    with pytest.raises(ValueError, match="replaced the catalogue while these items were encoded"):
        recommender.add_items([{"item_id": "new", "text_en": "red rope"}])
    assert recommender.item_ids == ["a"]


def test_changes_from_several_threads_are_all_kept(recommender):
    def change(number):
        recommender.add_items([{"item_id": f"new{number}", "text_en": "red rope"}])
        recommender.remove_items([f"i{number:03d}"])

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(recommender.item_ids) == {f"i{number:03d}" for number in range(8, 37)} | {f"new{n}" for n in range(8)}


def test_a_recommender_can_be_copied_and_pickled(recommender):
    expected = recommender.recommend(["i003"], k=3)
    for other in (copy.deepcopy(recommender), pickle.loads(pickle.dumps(recommender))):
        recommender.remove_items([other.item_ids[-1]])
        assert other.recommend(["i003"], k=3) == expected and len(other.item_ids) > len(recommender.item_ids)
        recommender.index(other.items)
