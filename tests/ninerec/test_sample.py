"""The synthetic sample: its layout, that it is deterministic, and that content tells what comes next."""

import collections
import hashlib
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from modeling_transrec.ninerec import registration, sample
from modeling_transrec.ninerec.files import find_files
from modeling_transrec.ninerec.sequences import leave_one_out, to_table
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.items import read_items


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "one"
    sample.write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def tables(folder):
    """Name -> (items, sequences)."""
    tables = {}
    for name in sample.SAMPLES:
        files = find_files(name, folder)
        items = read_items(files.items)
        tables[name] = items, read_sequences(files.interactions, items["item_id"], min_actions=5, max_actions=23)
    return tables


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_is_deterministic(folder, tmp_path):
    sample.write_sample(tmp_path / "two")
    assert digest(tmp_path / "two") == digest(folder)


def test_layout(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.txt", "Sample_Source", "Sample_Target"]
    assert "SYNTHETIC" in (folder / "README.txt").read_text()
    for name in sample.SAMPLES:
        assert sorted(path.name for path in (folder / name).iterdir()) == [
            f"{name}_cover",
            f"{name}_item.csv",
            f"{name}_pair.csv",
        ]
        with Image.open(next((folder / name / f"{name}_cover").iterdir())) as image:
            assert (image.format, image.size) == ("JPEG", (64, 64))


def test_sizes(tables):
    for name, (users, num_items) in {"Sample_Source": (2000, 600), "Sample_Target": (800, 300)}.items():
        items, sequences = tables[name]
        lengths = sequences.lengths
        assert (len(sequences), items.height) == (users, num_items)
        assert (sequences.item_counts() > 0).all()
        assert lengths.min() == 5 and lengths.max() == 23 and 9 < lengths.mean() < 12
        interactions = list(zip(np.repeat(np.arange(users), lengths), sequences.items, strict=True))
        assert len(set(interactions)) == len(interactions)  # nobody has an item twice


def test_platforms_share_words_but_no_ids(tables):
    (source_items, source), (target_items, target) = tables.values()
    assert not set(source_items["item_id"]) & set(target_items["item_id"])
    assert not set(source.user_ids.to_pylist()) & set(target.user_ids.to_pylist())
    assert not set(source_items["text_en"]) & set(target_items["text_en"])
    words = [
        {word for zh, en in pairs for word in (zh, en)} & set("".join(items["text_en"]).replace(",", " ").split())
        for pairs in sample.VOCABULARY.values()
        for items in (target_items,)
    ]
    assert all(words)
    every = [word for pairs in sample.VOCABULARY.values() for pair in pairs for word in pair]
    assert len(every) == len(set(every)) == 2 * 12 * 16
    assert not any("synthetic" in text.lower() for text in source_items["text_en"])


def hit_rate(scores_of, test):
    """HR@10 over all items but those of the history; `scores_of` maps a history to scores."""
    hits = 0
    for history, target in test:
        scores = scores_of(history).astype(float)
        scores[history] = -np.inf
        hits += (scores > scores[target]).sum() < 10
    return hits / len(test)


@pytest.mark.parametrize("name", sample.SAMPLES)
def test_content_beats_popularity_beats_chance(tables, name):
    """An item's topic is read from its English text alone."""
    items, sequences = tables[name]
    topic_of = {en: topic for topic, pairs in enumerate(sample.VOCABULARY.values()) for _, en in pairs}
    topics = np.array(
        [next(topic_of[w] for w in text.replace(",", " ").replace(":", " ").replace("!", " ").split() if w in topic_of)
         for text in items["text_en"]]
    )  # fmt: skip
    index = {item_id: i for i, item_id in enumerate(items["item_id"])}
    rows = {split: to_table(sequences, one).to_pylist() for split, one in leave_one_out(sequences).items()}
    counts = collections.Counter(item for row in rows["train"] for item in row["item_ids"])
    popularity = np.array([counts.get(item_id, 0) for item_id in items["item_id"]])
    test = [([index[i] for i in row["item_ids"]], index[row["target"]]) for row in rows["test"]]

    popular = hit_rate(lambda history: popularity, test)
    content = hit_rate(lambda history: 1e6 * (topics == topics[history[-1]]) + popularity, test)
    assert 1.5 * 10 / items.height < popular < 0.13
    assert 2 * popular < content < 0.5


def test_covers_tell_the_topic(folder):
    """Nearest topic mean of the colour histogram, covers of the source to covers of the target."""
    features, topics = {}, {}
    for name, platform in sample.PLATFORMS.items():
        topics[name], _ = sample.make_items(platform, np.random.default_rng(platform.seed))
        covers = [
            folder / name / f"{name}_cover" / f"{platform.prefix}{i + 1:04d}.jpg" for i in range(len(topics[name]))
        ]
        hues = [np.asarray(Image.open(path).convert("HSV"))[..., 0] for path in covers]
        features[name] = np.array([np.bincount(hue.ravel() // 8, minlength=32) for hue in hues])
    means = np.array([features["Sample_Source"][topics["Sample_Source"] == t].mean(axis=0) for t in range(16)])
    nearest = ((features["Sample_Target"][:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    right = nearest % 8 == topics["Sample_Target"] % 8
    assert right.mean() > 0.9


def test_load_without_any_file(tmp_path, monkeypatch):
    registration.register()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NINEREC_DATA_DIR", str(tmp_path))  # holds no sample
    data = load_dataset("ninerec", "Sample_Target", cache_dir=str(tmp_path / "hf"))
    assert {split: data[split].num_rows for split in data} == {"train": 800, "validation": 800, "test": 800}
    assert data["test"][0]["timestamps"] == sorted(data["test"][0]["timestamps"])
    items = load_dataset("ninerec", "Sample_Target_items", cache_dir=str(tmp_path / "hf"))["train"]
    assert items.num_rows == 300 and items[7]["image"].size == (64, 64) and items[7]["text_zh"]
    assert "SYNTHETIC" in data["train"].info.description and "SYNTHETIC" in items.info.description


def test_concurrent_writers_and_a_failed_one(tmp_path, monkeypatch, caplog):
    written = []

    def write(folder):
        written.append(folder)
        (folder / "README.txt").write_text("x")

    def fail(folder):
        write(folder)
        raise OSError("disk full")

    monkeypatch.setattr(sample, "write_sample", fail)
    with pytest.raises(OSError, match="disk full"):
        sample.sample_folder(tmp_path)
    monkeypatch.setattr(sample, "write_sample", write)
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: sample.sample_folder(tmp_path), range(16)))
    assert len(folders) == 1 and list(folders.pop().iterdir())[0].name == "README.txt"
    assert len(list((tmp_path / "ninerec_sample").iterdir())) == 1  # nothing unfinished is left
    assert "SYNTHETIC" in caplog.text
