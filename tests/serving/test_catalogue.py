"""A catalogue that travels: saved, pushed, changed without encoding it again, and never mixed with another model."""

import sys

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import pipeline

from modeling_transrec import Recommender, SequentialRecommendationPipeline, TransRecProcessor
from modeling_transrec.models import backbones
from modeling_transrec.serving import catalogue
from modeling_transrec.serving.faiss_index import FaissIndex
from modeling_transrec.serving.indexes import INDEXES


NAME = "shop/recommender"
HISTORIES = [["i003", "i010"], ["i020"], ["i001", "i002", "i030"]]


@pytest.fixture
def recommender(make_model, processor_of, items):
    return Recommender(make_model("text"), processor_of["text"]).index(items)


@pytest.fixture
def count_encoded(recommender, monkeypatch):
    """A list that grows by the number of items that the model encodes."""
    counts, encode = [], recommender.model.get_item_features

    def counted(**tensors):
        counts.append(len(tensors["input_ids"]))
        return encode(**tensors)

    monkeypatch.setattr(recommender.model, "get_item_features", counted)
    return counts


def test_saved_and_loaded_without_encoding(recommender, items, tmp_path, monkeypatch):
    recommender.save_pretrained(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert "catalogue/train-00000-of-00001.parquet" in names and not [n for n in names if n.endswith("unfinished")]
    monkeypatch.setattr("modeling_transrec.serving.recommender.encode_catalogue", None)
    loaded = Recommender.from_pretrained(tmp_path)
    assert loaded.recommend(HISTORIES, k=7) == recommender.recommend(HISTORIES, k=7)
    assert list(loaded.items["text_zh"]) == list(items["text_zh"]) and "image" not in loaded.items.column_names
    recommender.remove_items(["i000"]).save_pretrained(tmp_path)  # over the old one, which no cache brings back
    assert Recommender.from_pretrained(tmp_path).item_ids == recommender.item_ids
    public = datasets.load_dataset(str(tmp_path), data_dir="catalogue", split="train")
    assert public.column_names == ["item_id", "text_en", "text_zh", "vector", "checkpoint"]
    assert torch.equal(torch.tensor(public["vector"][:]), recommender.item_embeddings)


def test_files_of_this_machine_do_not_travel(make_model, processor_of, items, tmp_path, caplog):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"private")
    few = datasets.Dataset.from_dict({"item_id": items["item_id"][:3], "text_en": ["a", "b", "c"]})
    nested = datasets.Dataset.from_dict(
        {
            "pictures": [[str(secret)]] * 3,
            "deeper": [{"of": str(secret)}] * 3,
            "bytes": [b"private"] * 3,
            "numbers": [{"price": 1.5, "sizes": [1, 2]}] * 3,
        },
        features=datasets.Features(
            {
                "pictures": datasets.List(datasets.Image()),
                "deeper": {"of": datasets.Image()},
                "bytes": datasets.Value("binary"),
                "numbers": {"price": datasets.Value("float32"), "sizes": datasets.List(datasets.Value("int8"))},
            }
        ),
    )
    with_files = datasets.concatenate_datasets([few, nested], axis=1)
    recommender = Recommender(make_model("text"), processor_of["text"]).index(with_files)
    assert "without the columns bytes, deeper, pictures" in caplog.text
    assert set(recommender.items.column_names) == {"item_id", "text_en", "numbers"}
    recommender.save_pretrained(tmp_path / "saved")
    assert all(b"private" not in file.read_bytes() for file in (tmp_path / "saved").rglob("*") if file.is_file())


def test_centred_scores_travel(recommender, items, tmp_path):
    own = recommender.recommend(HISTORIES, k=5)
    recommender.index(items, histories=HISTORIES)
    centred = recommender.recommend(HISTORIES, k=5)
    assert centred != own
    recommender.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    assert loaded.recommend(HISTORIES, k=5) == centred
    same = Recommender(loaded.model, loaded.processor)
    assert same.use_catalogue(recommender.catalogue).recommend(HISTORIES, k=5) == own
    assert same.use_catalogue(recommender.catalogue, histories=HISTORIES).recommend(HISTORIES, k=5) == centred
    loaded.index(items).save_pretrained(tmp_path)  # not centred any more
    assert Recommender.from_pretrained(tmp_path).recommend(HISTORIES, k=5) == own


def test_the_means_lie_in_the_same_file_as_the_embeddings(hub, recommender, items, tmp_path):
    """So that those of an earlier catalogue are never taken for its own: not on the Hub, where files stay, either."""
    own = recommender.recommend(HISTORIES, k=5)
    recommender.index(items, histories=HISTORIES).push_to_hub(NAME)
    centred = recommender.recommend(HISTORIES, k=5)
    assert Recommender.from_pretrained(NAME, cache_dir=tmp_path).recommend(HISTORIES, k=5) == centred
    assert [name for name in hub.files(NAME) if name.startswith("catalogue")] == [catalogue.CATALOGUE_FILE]
    recommender.index(items).push_to_hub(NAME)
    assert Recommender.from_pretrained(NAME, cache_dir=tmp_path).recommend(HISTORIES, k=5) == own


def test_a_centred_catalogue_that_has_changed_travels_as_it_is(recommender, items, tmp_path):
    recommender.index(items.select(range(30)), histories=[["i003", "i010"], ["i020"]])
    recommender.add_items(items.select(range(28, 37)).remove_columns("image")).remove_items(["i000", "i005"])
    expected = recommender.recommend(HISTORIES, k=37)
    recommender.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    assert loaded.item_ids == recommender.item_ids
    for ours, theirs in zip(loaded.recommend(HISTORIES, k=37), expected, strict=True):
        assert [item["item_id"] for item in ours] == [item["item_id"] for item in theirs]
        assert [item["score"] for item in ours] == pytest.approx([item["score"] for item in theirs], abs=1e-6)


def test_a_changed_model_cannot_pass_off_its_old_catalogue(recommender, tmp_path):
    with torch.no_grad():
        next(recommender.model.parameters()).flatten()[0] += 1e-3
    with pytest.raises(ValueError, match="changed since it encoded the catalogue"):
        recommender.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    recommender.index([dict(row) for row in recommender.items]).save_pretrained(tmp_path)
    assert Recommender.from_pretrained(tmp_path).item_ids == recommender.item_ids


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_many_changes_equal_indexing_afresh(is_rebuilt, recommender, items, monkeypatch, make_model, processor_of):
    """With the rare copy of all items after every change, and without it."""
    if is_rebuilt:
        monkeypatch.setattr(catalogue.Catalogue, "_rebuilt_if_due", catalogue.Catalogue.rebuilt)
    rows = {row["item_id"]: dict(row) for row in items.remove_columns("image")}
    rng = np.random.default_rng(0)
    for number in range(8):
        removed = rng.choice([item_id for item_id in rows if item_id not in ("i003", "i020")], 3, replace=False)
        recommender.remove_items(removed.tolist())
        rows = {item_id: row for item_id, row in rows.items() if item_id not in removed}
        added = [{"item_id": f"n{one}", "text_en": f"red lamp {number} {one}", "text_zh": None} for one in range(2)]
        recommender.add_items(added)
        rows = {item_id: row for item_id, row in rows.items() if item_id not in ("n0", "n1")}
        rows |= {row["item_id"]: row for row in added}
    afresh = Recommender(make_model("text"), processor_of["text"]).index(list(rows.values()))
    assert recommender.item_ids == afresh.item_ids and list(recommender.items) == list(afresh.items)
    assert torch.allclose(recommender.item_embeddings, afresh.item_embeddings, atol=1e-6)
    ours, theirs = (one.recommend(["n0", "i003", "i020"], k=50) for one in (recommender, afresh))
    assert [item["item_id"] for item in ours] == [item["item_id"] for item in theirs] and len(ours) == len(rows) - 3
    assert len(recommender.scorer.item_embeddings) == (len(rows) if is_rebuilt else 37 + 16)


def test_an_added_item_builds_no_backbone(recommender, monkeypatch):
    """Whether texts fit the backbone's positions is known from the whole catalogue."""

    def build(config):
        raise AssertionError("a backbone is built for one item")

    monkeypatch.setattr(backbones, "build_backbone", build)
    recommender.add_items([{"item_id": "new", "text_en": "red rope"}])
    assert "new" in recommender.snapshot


def test_pushed_with_the_model(hub, recommender, tmp_path):
    recommender.push_to_hub(NAME, private=True)
    assert hub.repositories["models", NAME].private
    assert hub.count(f"POST /api/models/{NAME}/commit/*") == 1
    loaded = Recommender.from_pretrained(NAME, cache_dir=tmp_path)
    assert loaded.recommend(HISTORIES, k=7) == recommender.recommend(HISTORIES, k=7)
    assert Recommender.from_pretrained(NAME, load_catalogue=False, cache_dir=tmp_path).item_embeddings is None
    card = ModelCard(hub.files(NAME)["README.md"].decode())
    assert "recommendation" in card.data.tags and f'from_pretrained("{NAME}")' in card.text
    hub.repositories["models", NAME].commit("main", {**hub.files(NAME), "README.md": b"# Mine"})
    recommender.remove_items(["i000"]).push_to_hub(NAME)
    assert hub.files(NAME)["README.md"] == b"# Mine"
    assert len(Recommender.from_pretrained(NAME, cache_dir=tmp_path).item_ids) == 36


def test_as_a_pipeline_of_transformers(hub, recommender, items, tmp_path):
    recommender.push_to_hub(NAME)
    ours = pipeline("sequential-recommendation", model=NAME)
    assert type(ours) is SequentialRecommendationPipeline
    expected = recommender.recommend(HISTORIES, k=7)
    assert ours(HISTORIES, k=7) == expected
    for batched in (ours(HISTORIES, k=7, batch_size=2), list(ours((one for one in HISTORIES), k=7))):
        for found, wanted in zip(batched, expected, strict=True):
            assert [item["item_id"] for item in found] == [item["item_id"] for item in wanted]
    assert ours([["i020"], []], k=2, cold_users="none")[1] == [] == ours([], cold_users="none")
    assert ours(["i020"], k=2, exclude_seen=False) == recommender.recommend(["i020"], k=2, exclude_seen=False)
    ours.save_pretrained(tmp_path / "saved")
    assert Recommender.from_pretrained(tmp_path / "saved").recommend(HISTORIES, k=7) == expected

    recommender.model.save_pretrained(tmp_path / "bare")
    recommender.processor.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="has no catalogue to recommend from; give items="):
        pipeline("sequential-recommendation", model=str(tmp_path / "bare"))
    theirs = pipeline("sequential-recommendation", model=str(tmp_path / "bare"), items=items, histories=HISTORIES)
    centred = Recommender(recommender.model, recommender.processor).index(items, histories=HISTORIES)
    assert theirs(["i020"], k=3) == centred.recommend(["i020"], k=3)
    with pytest.raises(ValueError, match="empty history"):
        theirs([])


def test_pushed_and_pulled_like_a_data_set(hub, recommender, make_model, processor_of):
    recommender.catalogue.push_to_hub("shop/catalogue")
    pulled = datasets.load_dataset("shop/catalogue", split="train")
    fresh = Recommender(make_model("text"), processor_of["text"]).use_catalogue(pulled)
    assert fresh.recommend(HISTORIES, k=7) == recommender.recommend(HISTORIES, k=7)
    part = fresh.use_catalogue(pulled.filter(lambda item: item["item_id"] < "i020"))
    assert len(part.item_ids) == 20


def test_another_checkpoints_catalogue_is_refused(recommender, make_model, processor_of, tokenizer, tmp_path):
    own = recommender.catalogue
    changed = make_model("text")
    with torch.no_grad():
        next(changed.parameters()).flatten()[0] += 1e-3
    others = [
        Recommender(changed, processor_of["text"]),
        Recommender(make_model("text"), TransRecProcessor(tokenizer, language="zh")),
        Recommender(make_model("text", text_pooling="mean"), processor_of["text"]),
        Recommender(make_model("text").to(torch.bfloat16), processor_of["text"]),
    ]
    for other in others:
        with pytest.raises(ValueError, match="made by another checkpoint"):
            other.use_catalogue(own)
    Recommender(make_model("text").model, processor_of["text"]).use_catalogue(own)  # with head or without
    mixed = datasets.concatenate_datasets([own, others[0].index(recommender.items).catalogue])
    with pytest.raises(ValueError, match="made by another checkpoint"):
        recommender.use_catalogue(mixed)
    recommender.save_pretrained(tmp_path)
    changed.save_pretrained(tmp_path)
    processor_of["text"].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="load_catalogue=False"):
        Recommender.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks checkpoint, vector"):
        recommender.use_catalogue(recommender.items)


def test_items_come_and_go_without_encoding_the_others(recommender, items, count_encoded, make_model, processor_of):
    rows = [dict(row) for row in items.remove_columns("image")]
    new = {"item_id": "new", "text_en": "a red lamp", "text_zh": "红"}
    replaced = {**rows[3], "text_en": "something else entirely"}
    recommender.add_items([new, replaced]).remove_items(["i010", "i011"])
    assert sum(count_encoded) == 2
    expected = [row for row in rows if row["item_id"] not in ("i003", "i010", "i011")] + [new, replaced]
    afresh = Recommender(make_model("text"), processor_of["text"]).index(expected)
    assert recommender.item_ids == afresh.item_ids and list(recommender.items) == list(afresh.items)
    for history in (["new", "i003"], ["i020"]):
        ours, theirs = recommender.recommend(history, k=36), afresh.recommend(history, k=36)
        assert [item["item_id"] for item in ours] == [item["item_id"] for item in theirs]
        assert [item["score"] for item in ours] == pytest.approx([item["score"] for item in theirs], abs=1e-5)
    with pytest.raises(ValueError, match="'i010' is not in the indexed catalogue"):
        recommender.recommend(["i010"])


def test_errors_say_what_to_do(recommender, make_model, processor_of):
    with pytest.raises(ValueError, match="no column price; it has item_id, text_en, text_zh"):
        recommender.add_items([{"item_id": "x", "text_en": "y", "price": 3}])
    with pytest.raises(ValueError, match="no item would be left"):
        recommender.remove_items(recommender.item_ids)
    with pytest.raises(ValueError, match="not one id"):
        recommender.remove_items("i001")
    with pytest.raises(ValueError, match="item_id twice"):
        recommender.add_items([{"item_id": "x", "text_en": "y"}, {"item_id": "x", "text_en": "z"}])
    with pytest.raises(ValueError, match="call index"):
        Recommender(make_model("text"), processor_of["text"]).add_items([{"item_id": "x", "text_en": "y"}])
    assert len(recommender.item_ids) == 37
    recommender.add_items([{"item_id": "x", "text_en": "y"}])
    assert recommender.items[-1] == {"item_id": "x", "text_en": "y", "text_zh": None}


def test_faiss_finds_what_the_whole_search_finds(recommender, items):
    pytest.importorskip("faiss")
    for histories in (None, HISTORIES):
        exact = recommender.index(items, histories=histories).recommend(HISTORIES, k=8)
        recommender.search_with_faiss()
        for ours, theirs in zip(recommender.recommend(HISTORIES, k=8), exact, strict=True):
            assert [item["item_id"] for item in ours] == [item["item_id"] for item in theirs]
            assert [item["score"] for item in ours] == pytest.approx([item["score"] for item in theirs], abs=1e-5)
        assert len(recommender.recommend(HISTORIES[0], k=100)) == 35
        assert len(recommender.recommend(HISTORIES[0], k=100, exclude_seen=False)) == 37


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_faiss_follows_changes_and_is_rarely_built(is_rebuilt, recommender, items, monkeypatch):
    pytest.importorskip("faiss")
    if is_rebuilt:
        monkeypatch.setattr(catalogue.Catalogue, "_rebuilt_if_due", catalogue.Catalogue.rebuilt)
    built = []
    monkeypatch.setitem(INDEXES, "faiss", lambda **options: built.append(1) or FaissIndex(**options))
    recommender.index(items).search_with_faiss()
    first = {item["item_id"] for item in recommender.recommend(HISTORIES[0], k=12)}
    removed = sorted(first - {"i020", "i001", "i002", "i030"})
    recommender.remove_items(removed)
    recommender.add_items([{"item_id": f"n{number}", "text_en": f"red lamp {number}"} for number in range(4)])
    found = recommender.recommend([*HISTORIES, ["n0", "n3"]], k=10)
    afresh = Recommender(recommender.model, recommender.processor).index([dict(row) for row in recommender.items])
    for ours, theirs in zip(found, afresh.recommend([*HISTORIES, ["n0", "n3"]], k=10), strict=True):
        assert [item["item_id"] for item in ours] == [item["item_id"] for item in theirs]
    assert len(built) == (3 if is_rebuilt else 1)


@pytest.mark.parametrize("in_users", [True, False])
def test_weights_that_are_not_numbers_are_an_error_in_every_search(in_users, recommender, items):
    """A NaN is found before FAISS, which would return no item, or any."""
    pytest.importorskip("faiss")
    recommender.search_with_faiss()
    encoder = recommender.model.base_model.user_encoder if in_users else recommender.model.item_encoder
    with torch.no_grad():
        next(parameter for parameter in encoder.parameters() if parameter.ndim == 1).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        recommender.recommend(["i001"]) if in_users else recommender.index(items)


def test_faiss_indices_that_learn_from_the_items(recommender, monkeypatch):
    pytest.importorskip("faiss")
    exact = recommender.recommend(HISTORIES, k=8)
    every = {entry["item_id"]: entry["score"] for entry in recommender.recommend(HISTORIES[1], k=36)}
    recommender.search_with_faiss("IVF2,Flat")
    for k in (8, 36):  # of one of two parts, which has enough of them, and of both
        found = [(entry["item_id"], entry["score"]) for entry in recommender.recommend(HISTORIES[1], k=k)]
        assert len(found) == k
        assert found == [
            (item_id, pytest.approx(score, abs=1e-6)) for item_id, score in every.items() if item_id in dict(found)
        ]
    for factory in ("IVF100,Flat", "Nonsense"):
        with pytest.raises(ValueError, match=f"'{factory}' of 37 items"):
            recommender.search_with_faiss(factory)
        assert recommender.recommend(HISTORIES, k=8) == exact
    recommender.search_with_faiss("IVF37,Flat")
    monkeypatch.setattr(catalogue.Catalogue, "_rebuilt_if_due", catalogue.Catalogue.rebuilt)
    with pytest.raises(ValueError, match="'IVF37,Flat' of 36 items"):
        recommender.remove_items(["i004"])
    assert len(recommender.item_ids) == 36 and "i004" not in str(recommender.recommend(HISTORIES[1], k=36))


def test_without_faiss_the_error_names_the_extra(recommender, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"modeling_transrec\[faiss\]"):
        recommender.search_with_faiss()
