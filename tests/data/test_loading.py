"""Data sets that are loaded by name, or from a folder: each folder's own, whatever lay there before."""

import os

import datasets
import pytest

from modeling_transrec.data.loading import load_items, load_sequences


CARD = """---
configs:
- config_name: shop
  data_files: [{split: train, path: shop/train.parquet}, {split: test, path: shop/test.parquet}]
- config_name: shop_items
  data_files: items.parquet
---
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def write(folder, user: str):
    """Writes a data set whose one user is `user`; files of the same names, sizes and times of modification."""
    (folder / "shop").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(CARD)
    for split, target in (("train", None), ("test", user)):
        rows = datasets.Dataset.from_dict({"user_id": [user], "item_ids": [["i1", user]], "target": [target]})
        rows = rows.cast_column("target", datasets.Value("string"))
        rows.to_parquet(folder / "shop" / f"{split}.parquet")
    items = datasets.Dataset.from_dict({"item_id": ["i1", user], "text_en": ["one", f"text of {user}"]})
    items.to_parquet(folder / "items.parquet")
    for file in folder.rglob("*.*"):
        os.utime(file, ns=(10**18, 10**18))


def loaded(folder):
    splits = [load_sequences(str(folder), "shop", split) for split in ("train", "test")]
    items = load_items(str(folder), "shop")
    return [split["user_id"][0] for split in splits], items["text_en"][1], items._fingerprint


def test_two_folders_of_one_name_and_a_folder_made_anew(tmp_path):
    found = []
    for folder, user in (("a", "u1"), ("b", "u2"), ("a", "u3")):
        write(tmp_path / folder / "prepared", user)
        users, text, fingerprint = loaded(tmp_path / folder / "prepared")
        assert users == [user, user] and text == f"text of {user}"
        found.append(fingerprint)
    assert len(set(found)) == 3  # what is made of the items is kept by it
    assert loaded(tmp_path / "b" / "prepared")[0] == ["u2", "u2"]


def test_equal_content_is_cached_once(tmp_path):
    write(tmp_path / "a" / "prepared", "u1")
    first = load_items(str(tmp_path / "a" / "prepared"), "shop")
    (tmp_path / "a").rename(tmp_path / "b")
    assert load_items(str(tmp_path / "b" / "prepared"), "shop").cache_files == first.cache_files
