"""`load_dataset("ninerec", ...)`: what a user calls and sees."""

import os
import pickle
import subprocess
import sys

import datasets
import pytest
from datasets import load_dataset
from PIL import Image

from modeling_transrec.ninerec import registration
from modeling_transrec.ninerec.protocol import split_protocol


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    import modeling_transrec  # noqa: F401

    registration.register()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("NINEREC_DATA_DIR", raising=False)


@pytest.fixture
def data_dir(tmp_path):
    """Six users; "few" has too few interactions, user "1" has more than are kept with max_seq_len=2."""
    folder = tmp_path / "data" / "archive"
    covers = folder / "My.Set_cover"
    covers.mkdir(parents=True)
    table = [
        '007,中文,"a, b"',
        "i1,,one",
        "i2,二,",
        "i3,,three",
        "i4,,four",
        "i5,,five",
        "i6,,six",
        "rare,,r",
        "no,,n",
    ]
    (folder / "My.Set_item.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    rows = [f"{user},i{n},{1000 - n}" for n in range(1, 7) for user in ("9", "1", "05", "5", "a")]
    rows += ["1,007,10", "1,gone,11", "few,rare,1", "few,i1,2", "9,i1,2000"]
    (folder / "My.Set_pair.csv").write_text("\n".join(rows) + "\n")
    for name, colour in (("007", "red"), ("i2", "blue"), ("no", "green")):
        Image.new("RGB", (5, 3), colour).save(covers / f"{name}.jpg")
    (covers / "i3.jpg").write_bytes(b"")
    return tmp_path / "data"


@pytest.fixture
def load(tmp_path, data_dir):
    def load(name="My.Set", **kwargs):
        return load_dataset("ninerec", name, **{"data_dir": str(data_dir), "cache_dir": str(tmp_path / "hf")} | kwargs)

    return load


def test_sequences(load):
    data = load()
    assert list(data) == ["train", "validation", "test"]
    assert data["test"]["user_id"][:] == ["9", "1", "05", "5", "a"]
    assert data["train"][0] == {
        "user_id": "9",
        "item_ids": ["i6", "i5", "i4", "i3", "i2"],
        "target": None,
        "timestamps": [994, 995, 996, 997, 998],
    }
    assert data["validation"][1] == {
        "user_id": "1",
        "item_ids": ["007", "i6", "i5", "i4", "i3"],
        "target": "i2",
        "timestamps": [10, 994, 995, 996, 997],
    }
    assert data["test"][2]["item_ids"] == ["i6", "i5", "i4", "i3", "i2"]
    assert [data[split][2]["target"] for split in data] == [None, "i2", "i1"]
    features = data["train"].features
    assert features["item_ids"] == datasets.List(datasets.Value("string"))
    assert features["timestamps"] == datasets.List(datasets.Value("int64"))
    assert features["target"] == datasets.Value("string")


def test_items(load, data_dir):
    data = load("My.Set_items")
    assert list(data) == ["train"]
    items = data["train"]
    assert items["item_id"][:] == ["007", "i1", "i2", "i3", "i4", "i5", "i6"]
    assert [items[0][key] for key in ("text_zh", "text_en")] == ["中文", "a, b"]
    assert [items[2][key] for key in ("text_zh", "text_en")] == ["二", ""]
    assert items[0]["image"].size == (5, 3) and items[0]["image"].getpixel((0, 0))[0] > 200
    assert [row["image"] is None for row in items] == [False, True, False, True, True, True, True]
    everything = load("My.Set_items", catalogue="all")["train"]
    assert everything["item_id"][-2:] == ["rare", "no"] and len(everything) == 9


def test_options_and_agreement_of_both_tables(load):
    options = {"max_seq_len": 2, "min_actions": 7, "pair_columns": ["user_id", "item_id", "timestamp"]}
    sequences = load(**options)
    assert sequences["test"]["item_ids"][:] == [["i4", "i3", "i2", "i1"], ["i5", "i4", "i3", "i2"]]
    catalogue = load("My.Set_items", **options)["train"]["item_id"][:]
    used = {item for row in sequences["test"] for item in [*row["item_ids"], row["target"]]}
    assert set(catalogue) == used


def test_environment_variable(load, data_dir, monkeypatch):
    monkeypatch.setenv("NINEREC_DATA_DIR", str(data_dir))
    assert load(data_dir=None)["train"].num_rows == 5
    assert load("My.Set_items", data_dir=None)["train"].num_rows == 7


def test_behaviour_file_has_null_timestamps(load, data_dir):
    (data_dir / "B_item.csv").write_text("\n".join(f"{n},,t" for n in range(9)))
    (data_dir / "B_behaviour.tsv").write_text("u\t0 1 2 3 4\n")
    row = load("B", split="test")[0]
    assert row == {"user_id": "u", "item_ids": ["0", "1", "2", "3"], "target": "4", "timestamps": None}


@pytest.mark.parametrize("name", ["My.Set", "My.Set_items"])
def test_streaming_equals_loading(load, name):
    for split, data in load(name).items():
        streamed = load(name, streaming=True)[split]
        assert [row | {"image": None} for row in streamed] == [row | {"image": None} for row in data]
        assert [row | {"image": None} for row in pickle.loads(pickle.dumps(streamed))] == [
            row | {"image": None} for row in data
        ]


def test_streaming_in_workers(tmp_path, data_dir):
    """In a process of its own, as a hang would be without end. Workers are forked on Linux."""
    code = (
        "import modeling_transrec, sys; from datasets import load_dataset; from torch.utils.data import DataLoader\n"
        f"data = load_dataset('ninerec', 'My.Set', data_dir={str(data_dir)!r}, streaming=True, split='test')\n"
        "assert len(list(DataLoader(data.select_columns('user_id'), batch_size=None, num_workers=2))) == 5"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr


def files_of(data):
    return {file["filename"] for split in data.values() for file in split.cache_files}


def test_cache_follows_files_and_options(load, data_dir):
    first, items = load(), load("My.Set_items")
    assert files_of(load()) == files_of(first)
    assert files_of(load(max_seq_len=3)) != files_of(first)
    (data_dir / "unrelated.csv").write_text("x")
    assert files_of(load()) == files_of(first)

    pair = data_dir / "archive" / "My.Set_pair.csv"
    stamp = pair.stat()
    pair.write_text(pair.read_text().replace("a,", "b,"))
    os.utime(pair, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))  # same size, one nanosecond later
    assert load()["test"]["user_id"][:] == ["9", "1", "05", "5", "b"]
    stamp = pair.stat()
    pair.write_text(pair.read_text().replace("b,", "c,"))
    os.utime(pair, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # not even later
    assert load()["test"]["user_id"][:] == ["9", "1", "05", "5", "c"]

    Image.new("RGB", (5, 3)).save(data_dir / "archive" / "My.Set_cover" / "i3.jpg")  # was empty
    after = load("My.Set_items")
    assert files_of(after) != files_of(items) and after["train"][3]["image"] is not None
    moved = data_dir.with_name("moved")
    data_dir.rename(moved)
    assert load("My.Set_items", data_dir=str(moved))["train"][3]["image"].size == (5, 3)


def test_second_load_reads_no_data_and_lists_no_covers(load, data_dir, monkeypatch):
    load()

    def fail(*args, **kwargs):
        raise AssertionError("read again")

    monkeypatch.setattr("modeling_transrec.ninerec.files.read_items", fail)
    monkeypatch.setattr("datasets.load.get_data_patterns", fail)
    assert load()["train"].num_rows == 5


# Errors, as the user sees them


def error_of(load, *args, **kwargs):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "archive"),
    [("Bili_Food", "15RlthgPczrFbP4U7l6QflSImK5wSGP5K"), ("Bili_2M_items", "1fR5XB-dC0CDsyZ4BvtUJJn7i3OnWJa-9")],
)
@pytest.mark.parametrize("with_data_dir", [True, False])
def test_nothing_downloaded(load, data_dir, name, archive, with_data_dir):
    message = error_of(load, name, data_dir=str(data_dir) if with_data_dir else None)
    subset = name.removesuffix("_items")
    for text in (archive, "https://github.com/westlake-repl/NineRec", f"{subset}_item.csv", f"{subset}_pair.csv"):
        assert text in message
    for text in (f"{subset}_cover", "data_dir=", "NINEREC_DATA_DIR"):
        assert text in message
    assert ("My.Set" in message) == with_data_dir


def test_names(load, data_dir):
    assert "found there: My.Set." in error_of(load, "MySet")
    assert "My.Set" in error_of(load, None) and "Bili_Food" in error_of(load, None)
    assert "Sample_Source" in error_of(load, None, data_dir=None)
    assert "no valid data set name" in error_of(load, "..")
    names = datasets.get_dataset_config_names("ninerec")
    assert {"Bili_500K", "DY_items", "Sample_Target"} <= set(names) and len(names) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seq_len": 0}, "max_seq_len must be a whole number of at least 1, got 0"),
        ({"max_seq_len": "20"}, "max_seq_len must be a whole number"),
        ({"min_actions": 2}, "min_actions must be a whole number of at least 3"),
        ({"catalogue": "every"}, "catalogue must be 'interacted' or 'all', got 'every'"),
        ({"pair_columns": ("user", "item")}, "pair_columns must name 'user_id', 'item_id'"),
        ({"pair_columns": "user_id"}, "pair_columns must name"),
        ({"columns": "user"}, "columns must be names such as"),
        (
            {"split_strategy": "temporal", "validation_start": "2021-01-01", "test_start": "2022-01-01"},
            "validation_start and test_start must be whole numbers",
        ),
        ({"max_len": 3}, "no option 'max_len'. Did you mean 'max_seq_len'?"),
    ],
)
def test_invalid_options(load, options, message):
    assert message in error_of(load, **options)


def test_data_files_are_refused(load, data_dir):
    files = str(data_dir / "archive" / "My.Set_pair.csv")
    assert "takes no data_files" in error_of(load, data_files=files, data_dir=None)


@pytest.mark.parametrize("name", ["My.Set", "My.Set_items"])
def test_reading_errors_reach_the_user_and_leave_no_cache(load, data_dir, name):
    pair = data_dir / "archive" / "My.Set_pair.csv"
    good = pair.read_text()
    pair.write_text(good + "9,i1\n")
    assert f"{pair}:36: 2 columns where 3 are expected" in error_of(load, name)
    assert f"{pair}:36:" in error_of(load, name)
    pair.write_text("9,i1,1\n" * 3)
    assert "none of 1 users has 5 interactions" in error_of(load, name)
    pair.write_text(good)
    assert load(name)["train"].num_rows > 0


# Registration


def test_registering_again_changes_nothing():
    get_module = datasets.load.PackagedDatasetModuleFactory.get_module
    registration.register()
    assert datasets.load.PackagedDatasetModuleFactory.get_module is get_module


def test_code_is_part_of_the_cache_key(monkeypatch, tmp_path):
    before = registration.code_hash()
    assert before == registration.code_hash()
    monkeypatch.setattr(registration, "SOURCES", registration.SOURCES[1:])
    assert registration.code_hash() != before


def test_other_builders_are_as_before(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("x\n1\n2\n")
    data = load_dataset("csv", data_dir=str(tmp_path / "in"), cache_dir=str(tmp_path / "hf"))
    assert data["train"]["x"][:] == [1, 2]


def test_registration_does_not_import_the_builder():
    code = (
        "import sys, modeling_transrec, datasets.load\n"
        "assert 'ninerec' in datasets.load._PACKAGED_DATASETS_MODULES\n"
        "assert not {'modeling_transrec.ninerec.builder', 'torch'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_protocol_is_stored_with_the_data(load):
    expected = {"split_strategy": "leave_one_out", "max_seq_len": 20, "min_actions": 5, "min_item_actions": 1}
    expected["catalogue"] = "interacted"
    assert split_protocol(load("My.Set")["test"]) == expected
    assert split_protocol(load("My.Set")["test"]) == expected  # from the cache, too
    assert split_protocol(load("My.Set_items", min_actions=6)["train"]) == {**expected, "min_actions": 6}
    for changed in (load()["test"].select([0]), load()["test"].map(lambda row: row, keep_in_memory=True)):
        assert split_protocol(changed) == expected
    assert split_protocol(load(streaming=True)["test"].take(1)) == expected
    assert "{" not in load()["test"].info.description


def test_temporal_split(load):
    times = {"split_strategy": "temporal", "validation_start": 997, "test_start": 999}
    data = load(**times)
    for row in data["train"]:
        assert all(time < 997 for time in row["timestamps"]) and row["target"] is None
    assert data["validation"][0]["item_ids"] == ["i6", "i5", "i4"] and data["validation"][0]["target"] == "i3"
    assert data["test"][0]["item_ids"] == ["i6", "i5", "i4", "i3", "i2"] and data["test"][0]["target"] == "i1"
    assert split_protocol(data["test"])["test_start"] == 999
    by_share = load(split_strategy="temporal")
    assert split_protocol(by_share["train"])["validation_start"] == 998  # 21 of 32 are before
    used = {one for split in data.values() for row in split for one in [*row["item_ids"], row["target"]]} - {None}
    assert set(load("My.Set_items", **times)["train"]["item_id"]) == used
    for wrong in (
        {"split_strategy": "by_chance"},
        {"validation_start": 5, "test_start": 6},
        {**times, "test_start": None},
    ):
        with pytest.raises(ValueError, match="split_strategy"):
            load(**wrong)


def test_a_random_split_draws_the_same_for_any_length_of_histories(load):
    """Else the targets of a model with short histories would be counted in whole ones."""
    whole, cut = load(split_strategy="random"), load(split_strategy="random", max_seq_len=1)
    assert split_protocol(whole["test"])["split_strategy"] == "random"
    for split in ("validation", "test"):
        assert whole[split]["target"] == cut[split]["target"] and whole[split]["user_id"] == cut[split]["user_id"]
        for row, short in zip(whole[split], cut[split], strict=True):
            assert short["item_ids"] == row["item_ids"][-2:] and short["timestamps"] == row["timestamps"][-2:]


def test_k_core_and_the_warm_sets(load, data_dir):
    rows = [
        f"u{user},i{item},{user * 50 + item}" for user in range(30) for item in range(12) if user < 20 or item < 10
    ]
    rows += [f"short,i{item},{item}" for item in range(11)]  # 10 left, when i10 and i11 have gone for user 20 to 29
    (data_dir / "archive" / "Bili_500K_pair.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    (data_dir / "archive" / "Bili_500K_item.csv").write_text("".join(f"i{item},,text\n" for item in range(13)))
    core = load("Bili_500K", min_actions=10, min_item_actions=25)
    assert len(core["test"]) == 31 and {len(row["item_ids"]) for row in core["test"]} == {9}
    assert len(load("Bili_500K_items", min_actions=10, min_item_actions=25)["train"]) == 10
    warm = load("Bili_warm20")
    assert split_protocol(warm["test"])["min_item_actions"] == 20
    assert split_protocol(warm["test"])["min_actions"] == 10
    assert {len(row["item_ids"]) for row in warm["test"]} == {11, 10, 9}
    with pytest.raises(ValueError, match="none of 31 users"):
        load("Bili_warm50")
