"""`examples/prepare_data.py`: anybody's tables to Parquet files with a card, and back."""

import json
import shutil

import datasets
import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from PIL import Image

from modeling_transrec import DataArguments, FullRankingEvaluator, load_items, load_sequences
from modeling_transrec.ninerec.protocol import split_protocol
from modeling_transrec.ninerec.tools.export import main, make_parser, prepare, push


COLUMNS = '{"user_id": "customer", "item_id": "sku", "timestamp": "bought", "text_en": "product"}'


@pytest.fixture
def tables(tmp_path):
    lines = [f"c{u},p{(3 * u + k) % 11},{100 * k + u}" for k in range(7) for u in range(9)]
    (tmp_path / "sales.csv").write_text("\n".join(["customer,sku,bought", *lines]) + "\n")
    (tmp_path / "products.tsv").write_text("sku\tproduct\n" + "".join(f"p{n}\tproduct {n}\n" for n in range(12)))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (6, 4), "red").save(tmp_path / "pictures" / "p3.png")
    return tmp_path


def prepare_shop(tables, *extra, interactions="sales.csv"):
    arguments = ["--dataset_config_name", "shop", "--output_dir", str(tables / "out")]
    arguments += ["--interactions", str(tables / interactions), "--items", str(tables / "products.tsv")]
    arguments += ["--covers", str(tables / "pictures"), "--columns", COLUMNS, *extra]
    return prepare(make_parser().parse_args(arguments))


def test_prepared_data_is_the_data(tables):
    folder = prepare_shop(tables)
    for path in (tables / "pictures").iterdir():  # the pictures are in the Parquet files
        path.unlink()
    items, test = load_items(str(folder), "shop"), load_sequences(str(folder), "shop", "test")
    assert len(items) == 11 and items[3]["image"].convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert items[0] == {"item_id": "p0", "text_zh": "", "text_en": "product 0", "image": None}
    assert test[2] == {
        "user_id": "c2",
        "item_ids": ["p6", "p7", "p8", "p9", "p10", "p0"],
        "target": "p1",
        "timestamps": [2, 102, 202, 302, 402, 502],
    }
    assert load_sequences(str(folder), "shop", "train")[2]["item_ids"] == ["p6", "p7", "p8", "p9", "p10"]
    streamed = load_dataset(str(folder), "shop", split="test", streaming=True)
    assert [row["user_id"] for row in streamed] == test["user_id"][:]

    for name in ("sales.csv", "products.tsv"):
        kind = "interactions" if name == "sales.csv" else "items"
        (tables / name).rename(tables / f"shop_{kind}{name[-4:]}")
    options = {"data_dir": str(tables), "columns": yaml.safe_load(COLUMNS)}
    direct = FullRankingEvaluator(
        load_items("ninerec", "shop", **options), load_sequences("ninerec", "shop", "test", **options)
    )
    assert FullRankingEvaluator(items, test).fingerprint == direct.fingerprint


def test_the_card_says_what_is_there(tables):
    folder = prepare_shop(tables)
    card = DatasetCard.load(folder / "README.md")
    assert [config["config_name"] for config in card.data.configs] == ["shop", "shop_items"]
    assert "9 in test" in card.text and "11; 11 with a text, 1 with an image |" in card.text
    assert '"split_strategy": "leave_one_out"' in card.text
    with Image.open(folder / "statistics.png") as plot:
        assert plot.width > 500
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "protocol.json",
        "shop",
        "shop_items",
        "statistics.png",
    ]


def test_two_data_sets_of_one_name_are_told_apart(tables):
    """Also by the cache of `datasets`, which knows a folder by its name and card; and one that is prepared anew."""
    first = load_sequences(str(prepare_shop(tables)), "shop", "test").to_list()
    (tables / "a").mkdir()
    (tables / "out").rename(tables / "a" / "out")
    (tables / "sales.csv").write_text((tables / "sales.csv").read_text().replace("c2,p1,602", "c2,p2,602"))
    second = load_sequences(str(prepare_shop(tables)), "shop", "test").to_list()
    assert [(one["target"], other["target"]) for one, other in zip(first, second, strict=True) if one != other] == [
        ("p1", "p2")
    ]
    assert load_sequences(str(tables / "a" / "out"), "shop", "test").to_list() == first
    (tables / "products.tsv").write_text((tables / "products.tsv").read_text().replace("product 3", "other 3"))
    shutil.rmtree(tables / "out")
    assert load_items(str(prepare_shop(tables)), "shop")["text_en"][3] == "other 3"
    assert load_items(str(tables / "a" / "out"), "shop")["text_en"][3] == "product 3"


def test_audio_is_in_the_files(tables):
    (tables / "sounds").mkdir()
    (tables / "sounds" / "p4.flac").write_bytes(b"fLaC sound")
    folder = prepare_shop(tables, "--audio", str(tables / "sounds"))
    shutil.rmtree(tables / "sounds")
    items = load_items(str(folder), "shop")
    assert items.features["audio"] == datasets.Audio(decode=False)
    assert {row["item_id"]: row["audio"]["bytes"] for row in items if row["audio"]} == {"p4": b"fLaC sound"}
    assert "1 with an image, 1 with audio" in (folder / "README.md").read_text()


def test_nothing_half_written_is_left(tables):
    (tables / "bad.csv").write_text("customer,sku,bought\nc1,p1,1\nc1,p2\n")
    with pytest.raises(ValueError, match=rf"^{tables / 'bad.csv'}:3: 2 columns where 3"):
        prepare_shop(tables, interactions="bad.csv")
    assert not (tables / "out").exists() and not list(tables.glob(".out*"))
    prepare_shop(tables)
    with pytest.raises(FileExistsError, match="exists already"):
        prepare_shop(tables)


def test_a_folder_that_would_be_a_pattern_is_refused_before_any_work(tables):
    with pytest.raises(ValueError, match=r"g\[1\]/out has one of .* takes for a pattern"):
        prepare_shop(tables, "--output_dir", str(tables / "g[1]" / "out"))
    assert not (tables / "g[1]").exists()


def test_wrong_options(tables, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--columns", "absent.json"])
    assert "argument --columns: absent.json cannot be read: No such file or directory" in capsys.readouterr().err
    with pytest.raises(ValueError, match="neither a file nor a Hub data set"):
        prepare_shop(tables, interactions="absent.csv")
    (tables / "dir").mkdir()
    with pytest.raises(ValueError, match="dir/typo.csv is neither a file nor a Hub data set"):
        own = ["--interactions", "dir/typo.csv", "--items", str(tables / "products.tsv")]
        prepare(make_parser().parse_args(["--dataset_config_name", "shop", "--output_dir", str(tables / "out"), *own]))
    with pytest.raises(ValueError, match="dir is a folder; .* let its name end in .parquet"):
        prepare_shop(tables, interactions="dir")
    (tables / "sales.xls").write_text("")
    with pytest.raises(ValueError, match="must end in .csv, .tsv, .parquet"):
        prepare_shop(tables, interactions="sales.xls")

    def fails(match, *arguments):
        with pytest.raises(ValueError, match=match):
            prepare(make_parser().parse_args([*arguments, "--output_dir", str(tables / "out")]))

    fails("do not allow modified copies", "--dataset_config_name", "Bili_Food", "--public", "true")
    tables_of = ["--interactions", str(tables / "sales.csv"), "--items", str(tables / "products.tsv")]
    for name in ("X/y", "my_items"):
        fails(f"--dataset_config_name {name}: choose a name", "--dataset_config_name", name, *tables_of)
    fails("give your data set a name", *tables_of)
    fails("together", "--items", "x.csv")


def test_command(tables, capsys):
    assert main(["--output_dir", str(tables / "out"), "--min_actions", "6"]) == 0  # the sample
    assert "# Sample_Target" in capsys.readouterr().out
    assert main(["--output_dir", str(tables / "out")]) == 1
    assert "out exists already; remove it or choose another folder" in capsys.readouterr().err
    for wrong in (["--columns", "[1]"], ["--columns", "user"], ["--pair_columns", "user"]):
        with pytest.raises(SystemExit):
            main(["--output_dir", str(tables / "out"), *wrong])


def test_pushed_in_private_and_pulled_by_name(tables, hub, capsys):
    folder = prepare_shop(tables, "--push_to_hub", "me/shop")
    assert hub.repositories["datasets", "me/shop"].private
    for config, split in (("shop", "test"), ("shop_items", "train")):
        pulled = load_dataset("me/shop", config, split=split)
        assert pulled.to_list() == load_dataset(str(folder), config, split=split).to_list()
    for pulled in (load_sequences("me/shop", "shop", "test"), load_items("me/shop", "shop")):
        assert split_protocol(pulled.select([0]))["max_seq_len"] == 20
    assert f"{hub.url}/datasets/me/shop" in capsys.readouterr().out

    hub.add("me/open", {}, kind="datasets")
    with pytest.raises(ValueError, match="me/open exists already and is public"):
        push(folder, "me/open")
    assert hub.files("me/open", kind="datasets") == {}
    push(folder, "me/open", private=False)
    assert "README.md" in hub.files("me/open", kind="datasets")


def test_the_protocol_travels(tables, caplog):
    """With the Parquet files, and is compared with the model's length."""
    folder = str(prepare_shop(tables, "--max_seq_len", "2", "--min_actions", "6"))
    protocol = json.loads((tables / "out" / "protocol.json").read_text())
    assert (protocol["max_seq_len"], protocol["min_actions"]) == (2, 6)
    for streaming in (False, True):
        assert split_protocol(load_sequences(folder, "shop", "test", streaming=streaming)) == protocol
        assert split_protocol(load_items(folder, "shop", streaming=streaming)) == protocol
    items, test = load_items(folder, "shop"), load_sequences(folder, "shop", "test")
    assert FullRankingEvaluator(items, test).protocol["data"] == protocol
    data = DataArguments(folder, "shop")
    data.load_sequences("train", 2)
    assert "prepared with" not in caplog.text
    data.load_sequences("train", 20)
    assert "prepared with max_seq_len=2, and the model reads up to 20" in caplog.text


def test_the_source_is_read_once_and_nothing_is_left_in_the_cache(tables, caplog, monkeypatch):
    """Nothing but what a table in an archive needs; each warning is logged once."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tables / "hf")
    (tables / "sales.csv").write_text((tables / "sales.csv").read_text() + "c1,p1,101\nc1,gone,7\n")
    folder = prepare_shop(tables)
    assert "image" in load_items(str(folder), "shop").column_names
    messages = [
        record.getMessage() for record in caplog.records if record.name.startswith("modeling_transrec.ninerec")
    ]
    assert len(messages) == len(set(messages)) and any("not in the items table" in message for message in messages)
    assert list((tables / "hf" / "ninerec").rglob("*.arrow")) == []


def test_the_nearest_name_is_named(tables):
    folder = str(prepare_shop(tables))
    for load in (lambda: load_items(folder, "Shop"), lambda: load_sequences(folder, "Shop", "test")):
        with pytest.raises(ValueError, match=r"has no data set 'Shop'. Did you mean 'shop'\? It has shop$"):
            load()
    with pytest.raises(ValueError, match="Unknown split"):
        load_sequences(folder, "shop", "text")


def test_weights_are_prepared(tables):
    rows = (tables / "sales.csv").read_text().splitlines()
    kinds = [f"{row},{('click', 'buy')[number % 2]}" for number, row in enumerate(rows[1:])]
    (tables / "events.csv").write_text("\n".join([rows[0] + ",event", *kinds]) + "\n")
    weights = ["--event_weights", '{"click": 0.5, "buy": 1}']
    folder = prepare_shop(tables, *weights, interactions="events.csv")
    train = load_sequences(str(folder), "shop", "train")
    assert set(train[0]["weights"]) == {0.5, 1.0} and len(train[0]["weights"]) == len(train[0]["item_ids"])
    assert split_protocol(train)["event_weights"] == {"buy": 1.0, "click": 0.5}


def test_a_table_without_header(tables):
    rows = (tables / "sales.csv").read_text().split("\n", 1)[1]
    (tables / "bare.csv").write_text(rows)
    order = ["--pair_columns", "user_id", "item_id", "timestamp"]
    order += ["--columns", '{"item_id": "sku", "text_en": "product"}']
    folder = prepare_shop(tables, *order, interactions="bare.csv")
    assert load_sequences(str(folder), "shop", "test")[2]["target"] == "p1"


def test_tables_on_the_hub(tables, hub):
    for name, file, delimiter in (("me/sales", "sales.csv", ","), ("me/products", "products.tsv", "\t")):
        Dataset.from_csv(str(tables / file), sep=delimiter).push_to_hub(name)
    expected = load_sequences(str(prepare_shop(tables)), "shop", "test")
    shutil.rmtree(tables / "out")
    arguments = ["--dataset_config_name", "shop", "--output_dir", str(tables / "out"), "--columns", COLUMNS]
    arguments += ["--interactions", "me/sales", "--items", "me/products"]
    folder = prepare(make_parser().parse_args(arguments))
    assert load_sequences(str(folder), "shop", "test").to_list() == expected.to_list()
