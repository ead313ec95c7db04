"""Texts of several columns, against a naive implementation."""

import json
import math

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest

from modeling_transrec import DataArguments
from modeling_transrec.ninerec.tables.columns import check_columns
from modeling_transrec.ninerec.tables.items import read_items
from modeling_transrec.ninerec.tables.joined_texts import join_columns
from modeling_transrec.ninerec.tables.options import TableOptions


NAMES = ["title", "brand_name", "price", "year", "categories"]
ROWS = [
    (" Jump rope ", "Acme", 12.5, 2015, ["Sports", "Fitness"]),
    ("Tent", None, math.nan, 1999, [["Camping", None], ["Tents & Co"]]),
    ("", "  ", 3.0, None, []),
    ("Ball; red", None, None, None, None),
]
LABELS = {"title": "Title", "brand_name": "Brand name", "price": "Price", "year": "Year", "categories": "Categories"}


def naive(row) -> str:
    text = ""
    for name, value in zip(NAMES, row, strict=True):
        if name == "categories":
            flat = []
            for one in value or []:
                flat += one if isinstance(one, list) else [one]
            value = ", ".join(one for one in flat if one is not None)
        if name in ("price", "year"):
            value = None if value is None or math.isnan(value) else f"{value:g}"
        if value is not None and value.strip():
            text += f"; {LABELS[name]}: {value.strip()}"
    return text.removeprefix("; ")


EXPECTED = [naive(row) for row in ROWS]


def columns_of(rows):
    return dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))


def test_the_naive_implementation_by_hand():
    assert EXPECTED[0] == "Title: Jump rope; Brand name: Acme; Price: 12.5; Year: 2015; Categories: Sports, Fitness"
    assert EXPECTED[2:] == ["Price: 3", "Title: Ball; red"]


def test_any_table():
    frame = pd.DataFrame(columns_of(ROWS))  # whose years are floats, since one is missing
    frame["brand_name"] = frame["brand_name"].astype("string")  # missing ones are pd.NA
    frame["categories"] = [np.array(one, dtype=object) if one else one for one in frame["categories"]]
    assert join_columns(columns_of(ROWS), NAMES) == join_columns(frame, NAMES) == EXPECTED
    flat = columns_of([(*row[:-1], ["a", "b"]) for row in ROWS])
    assert join_columns(datasets.Dataset.from_dict(flat), NAMES) == join_columns(flat, NAMES)
    assert join_columns(frame, ["price", "title"])[0] == "Price: 12.5; Title: Jump rope"
    with pytest.raises(ValueError, match="no column 'colour' to join; the table has title"):
        join_columns(frame, ["title", "colour"])
    with pytest.raises(ValueError, match="column 'title' has a dict"):
        join_columns({"title": [{"en": "x"}]}, ["title"])


def test_texts_of_a_csv_file(tmp_path):
    path = tmp_path / "X_items.csv"
    path.write_text('sku,Title,brand,price\n1,"Jump, rope",Acme,12.50\n2,Tent,,\n3,,,\n')
    columns = {"item_id": "sku", "text_en": ["brand", "title", "price"]}
    expected = ["Brand: Acme; Title: Jump, rope; Price: 12.50", "Title: Tent", ""]
    assert read_items(path, TableOptions(columns))["text_en"].to_list() == expected
    assert read_items(path, TableOptions(columns))["text_zh"].to_list() == ["", "", ""]
    both = {**columns, "text_en": ["title"], "text_zh": "brand"}
    assert read_items(path, TableOptions(both)).rows()[0] == ("1", "Acme", "Title: Jump, rope")
    with pytest.raises(ValueError, match="'title' in text_zh and in text_en"):
        read_items(path, TableOptions({"text_en": ["title", "brand"], "text_zh": "title"}))
    pairs = tmp_path / "X_pair.csv"
    pairs.write_text("user_id,item_id\nu,1\n")
    with pytest.raises(ValueError, match="no column 'colour' for text_en"):
        check_columns(TableOptions({"text_en": ["title", "colour"]}), path, pairs)


def test_texts_of_a_parquet_file(tmp_path):
    path = tmp_path / "X_items.parquet"
    rows = [(*row[:-1], [one[0] if isinstance(one, list) else one for one in row[-1] or []]) for row in ROWS]
    pl.DataFrame({**columns_of(rows), "item_id": [*"abcd"]}, strict=False).write_parquet(path)
    assert read_items(path, TableOptions({"text_en": NAMES}))["text_en"].to_list() == [naive(row) for row in rows]


def test_the_builder_reads_them(tmp_path):
    (tmp_path / "X_items.csv").write_text("item_id,title,brand\n" + "".join(f"i{n},name {n},\n" for n in range(9)))
    pairs = [f"u{user},i{(user + step) % 9},{step}\n" for user in range(6) for step in range(6)]
    (tmp_path / "X_interactions.csv").write_text("user_id,item_id,timestamp\n" + "".join(pairs))
    columns = json.dumps({"text_en": ["title", "brand"]})
    data = DataArguments(dataset_config_name="X", data_dir=str(tmp_path), columns=columns)
    assert data.load_items(20)["text_en"][:2] == ["Title: name 0", "Title: name 1"]
    for wrong in ({"text_en": []}, {"user_id": ["a", "b"]}, {"text_en": ["title", None]}):
        with pytest.raises(ValueError, match="columns must give names"):
            DataArguments(dataset_config_name="X", data_dir=str(tmp_path), columns=json.dumps(wrong)).load_items(20)
