"""A recommender without training: content kNN of a backbone, counted transitions, new clicks, reasons, files."""

import threading
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from modeling_transrec import Recommender
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation.reranker import Reranker


@pytest.fixture
def backbone(make_model, processor_of, tmp_path):
    """A folder whose backbone makes the features."""
    model, processor = make_model("text"), processor_of["text"]
    model.save_pretrained(tmp_path / "backbone")
    processor.save_pretrained(tmp_path / "backbone")
    return str(tmp_path / "backbone")


@pytest.fixture
def interactions(items):
    """Users who go on to the next item of the catalogue, one row an interaction, not in the order of time."""
    rng, item_ids = np.random.default_rng(0), items["item_id"][:]
    rows = []
    for user in range(40):
        start = int(rng.integers(37))
        rows += [(f"u{user}", item_ids[(start + step) % 37], 10 * user + step) for step in range(rng.integers(3, 9))]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return table.sample(frac=1, random_state=0)


@pytest.fixture
def recommender(backbone, items, interactions):
    return Recommender.from_backbone(backbone).index(items, histories=interactions)


def test_content_only(backbone, items):
    recommender = Recommender.from_backbone(backbone).index(items)
    assert recommender.scorer.transitions is None
    item_ids = items["item_id"][:]
    found = recommender.recommend([item_ids[3]], k=36, explain=True)
    likeness = recommender.item_embeddings[3] @ recommender.item_embeddings.T
    for one in found:
        assert one["score"] == pytest.approx(float(likeness[item_ids.index(one["item_id"])]), abs=1e-5)
        assert one["transitions"] == 0 and one["because_of"] == item_ids[3]


def test_counts_are_those_of_all_interactions(recommender, items, interactions):
    ordered = interactions.sort_values("timestamp")
    histories = [group["item_id"].tolist() for _, group in ordered.groupby("user_id")]
    expected = Transitions.from_sequences(histories, items["item_id"][:])
    np.testing.assert_allclose(recommender.scorer.transitions.to_dense(), expected.to_dense(), rtol=1e-6)
    item_ids = items["item_id"][:]
    assert recommender.recommend([item_ids[4], item_ids[5]], k=1)[0]["item_id"] in item_ids[6:8]


def test_a_click_counts_less_than_a_purchase(backbone, items, interactions):
    weighed = interactions.assign(weight=np.where(interactions["timestamp"] % 3 == 0, 1.0, 0.25))
    recommender = Recommender.from_backbone(backbone).index(items, histories=weighed)
    ordered, item_ids = weighed.sort_values("timestamp"), items["item_id"][:]
    groups = [group for _, group in ordered.groupby("user_id")]
    histories = [group["item_id"].tolist() for group in groups]
    weights = np.concatenate([group["weight"] for group in groups])
    expected = Transitions.from_sequences(histories, item_ids, weights=weights)
    np.testing.assert_allclose(recommender.scorer.transitions.to_dense(), expected.to_dense(), rtol=1e-6)
    recommender.observe({"user_id": ["new"], "item_id": [item_ids[3]], "weight": [0.25]})
    assert recommender.scorer.transitions.item_counts[3] == expected.item_counts[3] + 0.25


def test_lists_are_counted_the_same(backbone, items, interactions, recommender):
    ordered = interactions.sort_values("timestamp")
    histories = [group["item_id"].tolist() for _, group in ordered.groupby("user_id")]
    other = Recommender.from_backbone(backbone).index(items, histories=histories)
    history = histories[0][:2]
    assert other.recommend(history) == recommender.recommend(history)


def test_reasons_add_up(recommender, items):
    item_ids = items["item_id"][:]
    found = recommender.recommend([item_ids[20], item_ids[4]], k=5, explain=True)
    for one in found:
        assert one["model"] + one["transitions"] + one["popularity"] == pytest.approx(one["score"], abs=1e-4)
        is_popular = one["popularity"] > max(one["model"], one["transitions"])
        assert one["because_of"] in ([None] if is_popular else [item_ids[20], item_ids[4]])
    next_one = next(one for one in found if one["item_id"] == item_ids[5])
    assert next_one["because_of"] == item_ids[4] and next_one["transitions"] > 0


def test_new_clicks_count_at_once(recommender, items):
    item_ids = items["item_id"][:]

    def part(history, item):
        found = recommender.recommend(history, k=37, explain=True)
        return next(one["transitions"] for one in found if one["item_id"] == item)

    assert part([item_ids[0]], item_ids[30]) == 0
    for user in range(3):
        recommender.observe({"user_id": [f"new {user}"] * 2, "item_id": [item_ids[0], item_ids[30]]})
    assert part([item_ids[0]], item_ids[30]) > 0
    with pytest.raises(ValueError, match="not in the catalogue"):
        recommender.observe({"user_id": ["x"], "item_id": ["unknown"]})


def test_threads_see_all_of_an_observation_or_nothing(recommender, items):
    """Each observation gives two users one interaction each; whoever reads meanwhile counts an even number."""
    item_ids, states, errors, is_over = items["item_id"][:], [], [], threading.Event()
    first = recommender.scorer.transitions
    before, total = first.to_dense(), first.item_counts.sum()

    def read():
        try:
            while not is_over.is_set():
                transitions = recommender.scorer.transitions
                scores = transitions.scores(np.array([[0, 1]])).toarray()
                recommender.recommend(item_ids[:2], explain=True)
                np.testing.assert_array_equal(transitions.scores(np.array([[0, 1]])).toarray(), scores)
                states.append(transitions.item_counts.sum() - total)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    writers = [
        threading.Thread(
            target=lambda one=one: [
                recommender.observe(
                    {"user_id": [f"a{one}", f"b{one}"], "item_id": [item_ids[number % 37], item_ids[0]]}
                )
                for number in range(100)
            ]
        )
        for one in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    is_over.set()
    for thread in threads:
        thread.join()
    assert not errors and len(states) > 5 and all(state % 2 == 0 for state in states)
    assert recommender.scorer.transitions.item_counts.sum() == total + 400
    np.testing.assert_array_equal(first.to_dense(), before)


def test_a_user_is_forgotten(recommender, backbone, items, interactions, tmp_path):
    recommender.save_pretrained(tmp_path)
    recommender.observe({"user_id": ["u3"], "item_id": [items["item_id"][5]]}).forget("u3")
    others = interactions[interactions["user_id"] != "u3"]
    expected = Recommender.from_backbone(backbone).index(items, histories=others).scorer.transitions
    np.testing.assert_allclose(recommender.scorer.transitions.to_dense(), expected.to_dense(), rtol=1e-5)
    loaded = Recommender.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give the user's"):
        loaded.forget("u3")
    history = interactions[interactions["user_id"] == "u3"].sort_values("timestamp")["item_id"].tolist()
    np.testing.assert_allclose(
        loaded.forget("u3", history).scorer.transitions.to_dense(), expected.to_dense(), rtol=1e-5
    )
    with pytest.raises(ValueError, match="no interactions are counted"):
        Recommender.from_backbone(backbone).index(items).forget("u3")


def test_users_without_a_history(recommender, backbone, items, interactions):
    history = items["item_id"][:2]
    counts = interactions["item_id"].value_counts()
    popular = recommender.recommend([], k=3, cold_users="popularity")
    assert [one["score"] for one in popular] == counts[:3].tolist()
    assert all(counts[one["item_id"]] == one["score"] for one in popular)
    mixed = recommender.recommend([[], history, []], k=3, cold_users="popularity", explain=True)
    assert mixed[1] == recommender.recommend(history, k=3, explain=True)
    assert mixed[0] == mixed[2] and [{name: one[name] for name in ("item_id", "score")} for one in mixed[0]] == popular
    assert mixed[0][0]["popularity"] == popular[0]["score"] and mixed[0][0]["because_of"] is None
    assert recommender.recommend([], cold_users="none") == []
    assert recommender.recommend([history, []], k=3, cold_users="none") == [recommender.recommend(history, k=3), []]
    recommender.remove_items([popular[0]["item_id"]])
    assert recommender.recommend([], k=2, cold_users="popularity") == popular[1:]
    with pytest.raises(ValueError, match='an empty history says nothing about the user: give cold_users="popularity"'):
        recommender.recommend([history, []])
    with pytest.raises(ValueError, match="cold_users must be"):
        recommender.recommend([], cold_users="popular")
    without_counts = Recommender.from_backbone(backbone).index(items)
    with pytest.raises(ValueError, match="which items are popular is unknown"):
        without_counts.recommend([], cold_users="popularity")


def test_interactions_of_weight_zero_are_counted_all_the_same(backbone, items):
    """Histories of one item each give nothing to choose a weight by: it is 0."""
    item_ids = items["item_id"][:]
    table = {"user_id": ["a", "b"], "item_id": item_ids[:2]}
    recommender = Recommender.from_backbone(backbone).index(items, histories=table)
    before = recommender.recommend([item_ids[0]], k=5)
    recommender.observe({"user_id": ["a"], "item_id": [item_ids[7]]})
    assert recommender.scorer.transitions[item_ids[0]] == {item_ids[7]: 1.0}
    assert recommender.scorer.transition_weight == 0 and recommender.recommend([item_ids[0]], k=5) == before


def test_new_items_come_in_by_content_until_they_have_counts(recommender, items):
    item_ids = items["item_id"][:]
    recommender.add_items([{"item_id": "new", "text_en": "red rope", "text_zh": "红 绳"}])
    assert recommender.recommend([item_ids[0], "new"], k=3)
    found = recommender.recommend([item_ids[0]], k=40, explain=True)
    assert next(one for one in found if one["item_id"] == "new")["transitions"] == 0
    recommender.observe({"user_id": ["a", "a"], "item_id": [item_ids[0], "new"]})
    found = recommender.recommend([item_ids[0]], k=40, explain=True)
    assert next(one for one in found if one["item_id"] == "new")["transitions"] > 0
    counts = recommender.scorer.transitions[item_ids[1]]
    recommender.add_items(
        [{"item_id": item_ids[1], "text_en": "blue soap", "text_zh": "蓝"}]
    )  # in place of the old one
    assert len(recommender.item_ids) == 38
    assert recommender.scorer.transitions[item_ids[1]] == counts  # the item is the same, its text is not
    recommender.remove_items([item_ids[2]])
    assert item_ids[2] not in [one["item_id"] for one in recommender.recommend([item_ids[0]], k=40)]
    recommender.add_items([{"item_id": item_ids[2], "text_en": "blue soap", "text_zh": "蓝"}])
    assert recommender.item_ids[-1] == item_ids[2] and len(recommender.recommend([item_ids[0]], k=40)) == 37
    recommender.add_items([{"item_id": item_id, "text_en": item_id, "text_zh": None} for item_id in item_ids])
    assert len(recommender.item_ids) == 38 and recommender.recommend([item_ids[2]], k=3)


def test_many_changes_keep_the_counts(recommender, backbone, items, interactions, tmp_path):
    """Items come, go, come back and are replaced, and a user clicks between: as if all was counted at once."""
    item_ids, rng = items["item_id"][:], np.random.default_rng(0)
    texts = {row["item_id"]: {name: row[name] for name in ("item_id", "text_en", "text_zh")} for row in items}
    for number in range(6):
        gone = rng.choice(item_ids, 3, replace=False).tolist()
        recommender.remove_items(gone[:2]).add_items([texts[item_id] for item_id in gone])
        new = {"item_id": f"new {number}", "text_en": "red rope", "text_zh": "红"}
        recommender.add_items([new]).observe({"user_id": ["a", "a"], "item_id": [item_ids[0], new["item_id"]]})
    expected, histories = recommender.scorer.transitions.to_dense(), [[item_ids[0]], item_ids[5:8], ["new 2"]]
    assert expected[:37, :37].sum() > 0 and expected[0, 37:].all()
    found = recommender.recommend(histories, k=50, explain=True)
    popular = recommender.recommend([], k=50, cold_users="popularity")
    aligned = recommender.scorer.transitions.aligned(recommender.item_ids)
    assert recommender.scorer.transition_index is not None
    recommender.save_pretrained(tmp_path)  # which numbers all items anew
    loaded = Recommender.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.scorer.transitions.to_dense(), aligned.to_dense(), rtol=1e-6)
    assert [one["item_id"] for one in popular] == [
        one["item_id"] for one in loaded.recommend([], k=50, cold_users="popularity")
    ]
    for ours, theirs in zip(found, loaded.recommend(histories, k=50, explain=True), strict=True):
        assert [one["item_id"] for one in ours] == [one["item_id"] for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one["transitions"] == pytest.approx(other["transitions"], rel=1e-5, abs=1e-9)
            assert one["because_of"] == other["because_of"]


@pytest.mark.parametrize("with_counts", [True, False])
def test_saved_and_loaded(with_counts, recommender, backbone, items, tmp_path):
    if not with_counts:
        recommender = Recommender.from_backbone(backbone).index(items)
    recommender.save_pretrained(tmp_path / "saved")
    loaded = Recommender.from_pretrained(tmp_path / "saved")
    history = items["item_id"][5:8]
    for one, other in zip(loaded.recommend(history), recommender.recommend(history), strict=True):
        assert one["item_id"] == other["item_id"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)
    public = datasets.load_dataset(str(tmp_path / "saved"), data_dir="catalogue", split="train")
    assert public["item_id"][:] == items["item_id"][:]
    new = [{"item_id": "new", "text_en": "red rope", "text_zh": "红 绳"}]
    same = [one.add_items(new).item_embeddings[-1].tolist() for one in (loaded, recommender)]
    assert same[0] == pytest.approx(same[1], abs=1e-6)


def test_saved_with_the_strongest_counts_only(hub, recommender, tmp_path):
    transitions = recommender.scorer.transitions
    recommender.save_pretrained(tmp_path / "saved", max_per_item=4, min_count=1.5)
    saved = Recommender.from_pretrained(tmp_path / "saved").scorer.transitions
    expected = transitions.pruned(max_per_item=4, min_count=1.5)
    assert 0 < saved.num_pairs < transitions.num_pairs
    np.testing.assert_array_equal(saved.to_dense(), expected.to_dense())
    recommender.push_to_hub("me/shop", max_per_item=2)
    pulled = Recommender.from_pretrained("me/shop", cache_dir=tmp_path / "cache").scorer.transitions
    np.testing.assert_array_equal(pulled.to_dense(), transitions.pruned(max_per_item=2).to_dense())
    assert recommender.scorer.transitions is transitions  # as it was


def test_counts_leave_the_hub_with_their_catalogue(hub, make_model, processor_of, items, interactions, tmp_path):
    recommender = Recommender(make_model("text"), processor_of["text"]).index(items, histories=interactions)
    recommender.push_to_hub("me/shop")
    counted = {name for name in hub.files("me/shop") if name.startswith("catalogue/")}
    loaded = Recommender.from_pretrained("me/shop", cache_dir=tmp_path / "first")
    expected = recommender.scorer.transitions.to_dense()
    np.testing.assert_allclose(loaded.scorer.transitions.to_dense(), expected, rtol=1e-6)
    recommender.index(items).push_to_hub("me/shop")
    left = {name for name in hub.files("me/shop") if name.startswith("catalogue/")}
    assert left < counted and not [name for name in left if name.endswith(".safetensors")]
    assert Recommender.from_pretrained("me/shop", cache_dir=tmp_path / "second").scorer.transitions is None


def test_counts_beside_a_trained_model(make_model, processor_of, items, interactions):
    recommender = Recommender(make_model("text"), processor_of["text"])
    alone = recommender.index(items).recommend(items["item_id"][:3], k=36)
    both = recommender.index(items, histories=interactions)
    assert both.scorer.user_mean is None  # a table is counted; it does not centre the scores
    assert both.scorer.transitions is not None and both.scorer.transition_weight > 0
    assert both.recommend(items["item_id"][:3], k=36) != alone
    with pytest.raises(ValueError, match="no interactions are counted"):
        Recommender(make_model("text"), processor_of["text"]).index(items).observe(interactions)


def test_faiss_is_exact_with_counts(recommender, items):
    item_ids = items["item_id"][:]
    histories = [item_ids[number : number + 3] for number in range(0, 30, 3)]
    expected = recommender.recommend(histories, k=7)
    found = recommender.search_with_faiss("Flat").recommend(histories, k=7)
    for one, other in zip(found, expected, strict=True):
        assert [item["item_id"] for item in one] == [item["item_id"] for item in other]


def test_what_it_is_given_by_mistake_is_named(recommender, items, interactions, tmp_path):
    item_ids = items["item_id"][:]
    assert len(recommender.recommend([], k=1, cold_users="popularity")) == 1
    for k in (0, 2.5, "3", True):
        with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
            recommender.recommend(item_ids[:2], k=k)
    with pytest.raises(TypeError, match="no argument 'min_cout'; did you mean min_count"):
        recommender.save_pretrained(tmp_path / "saved", min_cout=2)
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ValueError, match="a table of interactions, or lists of item ids, one for each user"):
        recommender.index(items, histories=item_ids[:2])
    with pytest.raises(ValueError, match="one is 0: ids are never numbers"):
        recommender.index({"item_id": [0, 1], "text_en": ["a", "b"]})
    interactions = interactions.reset_index(drop=True)
    elsewhere = interactions.assign(item_id=interactions["item_id"].str.upper())
    told = (
        "'I0..' of the interactions is not in the catalogue; .* out. 'I0..' may be 'i0..', but they differ in capitals"
    )
    with pytest.raises(ValueError, match=told):
        recommender.index(items, histories=elsewhere)
    before = recommender.recommend(item_ids[:2], k=5)
    recommender.index(items, histories=interactions.to_dict("records"))  # rows, as items may be
    assert recommender.recommend(item_ids[:2], k=5) == before
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "items.csv").touch()
    with pytest.raises(OSError, match="is no checkpoint: it has no config.json, but items.csv"):
        Recommender.from_pretrained(tmp_path / "tables")


def test_counts_beside_a_model_that_reads_times(make_model, items, interactions, id_processor):
    model = make_model("id", user_encoder_type="hstu", max_seq_len=6)
    found = Recommender(model, id_processor).index(items, histories=interactions)
    item_ids = items["item_id"][:]
    assert found.scorer.transitions is not None
    assert len(found.recommend(item_ids[:2], k=5, timestamps=[1, 2])) == 5


@pytest.fixture
def re_ranked(backbone, items, interactions):
    """A recommender whose users' last items follow from what the sum alone does not weigh."""
    return Recommender.from_backbone(backbone).index(items, histories=interactions, rerank=True)


def test_re_ranked_scores_add_up_and_are_kept(re_ranked, items, tmp_path):
    item_ids, history = items["item_id"][:], [items["item_id"][20], items["item_id"][4]]
    if re_ranked.scorer.reranker is None:  # with so few users nothing may be gained; what is stored is the same
        reranker = Reranker(num_candidates=8)
        torch.nn.init.normal_(reranker.output.weight, generator=torch.Generator().manual_seed(0))
        re_ranked._catalogue = replace(re_ranked.snapshot, scorer=re_ranked.scorer.replace(reranker=reranker))
    found = re_ranked.recommend(history, k=12, explain=True)
    assert any(one["reranking"] > 0 for one in found)
    for one in found:
        parts = one["model"] + one["transitions"] + one["popularity"] + one["reranking"]
        assert parts == pytest.approx(one["score"], abs=1e-4)
    wanted = [one["item_id"] for one in found]
    assert re_ranked.score(history, wanted) == pytest.approx([one["score"] for one in found], abs=1e-4)
    re_ranked.save_pretrained(tmp_path / "saved")
    loaded = Recommender.from_pretrained(tmp_path / "saved")
    assert [one["item_id"] for one in loaded.recommend(history, k=12)] == wanted
    loaded.observe({"user_id": ["new"], "item_id": [item_ids[3]]})
    loaded.add_items([{**items[0], "item_id": "quite new"}]).remove_items([wanted[0]])
    again = [one["item_id"] for one in loaded.recommend(history, k=37)]
    assert "quite new" in again and wanted[0] not in again
    found = loaded.recommend(history, k=12)
    scores = loaded.score(history, [one["item_id"] for one in found])
    assert scores == pytest.approx([one["score"] for one in found], abs=1e-4)
    (tmp_path / "saved" / "catalogue" / "transitions.safetensors").unlink()
    with pytest.raises(ValueError, match=r"transitions.safetensors is missing beside it, which its reranker reads"):
        Recommender.from_pretrained(tmp_path / "saved")


def test_re_ranking_needs_counts(backbone, items):
    with pytest.raises(ValueError, match="rerank=True reads counted transitions"):
        Recommender.from_backbone(backbone).index(items, rerank=True)
