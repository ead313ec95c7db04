"""Ids and texts of any type that a Parquet file may hold."""

import datetime
import decimal
import uuid

import pyarrow as pa
import pyarrow.parquet
import pytest

from modeling_transrec.ninerec.tables import parquet_files, unpacking
from modeling_transrec.ninerec.tables.items import read_items
from modeling_transrec.ninerec.tables.options import TableOptions
from modeling_transrec.ninerec.tables.parquet_files import as_strings, parquet_chunks, parquet_columns


ONE = uuid.UUID("12345678-90ab-cdef-1234-567890abcdef")
TYPES = {
    "integers": (pa.array([1, 2, None]), ["1", "2", None]),
    "unsigned": (pa.array([1, 2**64 - 1], pa.uint64()), ["1", "18446744073709551615"]),
    "decimals": (
        pa.array([decimal.Decimal(1), decimal.Decimal(10**30), None], pa.decimal128(38, 0)),
        ["1", f"1{'0' * 30}", None],
    ),
    "decimals with zeros": (
        pa.array([decimal.Decimal("1.00"), decimal.Decimal("20.00")], pa.decimal128(10, 2)),
        ["1", "20"],
    ),
    "wide decimals": (pa.array([decimal.Decimal(1), decimal.Decimal(2)], pa.decimal256(50, 0)), ["1", "2"]),
    "categories": (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    "large strings": (pa.array(["a", None], pa.large_string()), ["a", None]),
    "views": (pa.array(["a", None], pa.string_view()), ["a", None]),
    "UUIDs": (pa.array([ONE.bytes, None], pa.uuid()), [ONE.hex, None]),
    "fixed bytes": (pa.array([ONE.bytes, bytes(16)], pa.binary(16)), [ONE.hex, "0" * 32]),
    "bytes that are text": (pa.array(["é中".encode(), b"a b", None]), ["é中", "a b", None]),
    "bytes that are none": (pa.array([b"\xff\x00", b"\x01", b"ok"]), ["ff00", "01", "ok"]),
    "nothing": (pa.nulls(2), [None, None]),
}


def read(tmp_path, column):
    pyarrow.parquet.write_table(pa.table({"item_id": column}), tmp_path / "X.parquet")
    (frame,) = parquet_chunks(tmp_path / "X.parquet", ["item_id"], 10)
    return as_strings(tmp_path / "X.parquet", "item_id", frame["item_id"])


@pytest.mark.parametrize("kind", TYPES)
def test_ids_of_any_type(tmp_path, kind):
    column, expected = TYPES[kind]
    assert read(tmp_path, column).to_list() == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, 2.0]),
        pa.array([decimal.Decimal("1.50")], pa.decimal128(10, 2)),
        pa.array([True]),
        pa.array([datetime.date(2021, 5, 7)]),
        pa.array([["a"]]),
        pa.array([{"a": 1}]),
    ],
    ids=str,
)
def test_what_is_no_id(tmp_path, column):
    with pytest.raises(ValueError, match=r"X\.parquet: column 'item_id' is of type .*must be strings or integers"):
        read(tmp_path, column)


def test_a_text_of_columns_of_any_type(tmp_path):
    path = tmp_path / "X_items.parquet"
    columns = {
        "item_id": ["i1"],
        "title": [b"Rope"],
        "tags": [["a", "b"]],
        "price": pa.array([decimal.Decimal("1.50")]),
        "sizes": [[1, 2]],
        "used": [True],
        "brand": pa.nulls(1, pa.string()),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    names = [name for name in columns if name != "item_id"]
    options = TableOptions(columns={"text_en": names})
    text = "Title: Rope; Tags: a, b; Price: 1.50; Sizes: 1, 2; Used: True"
    assert read_items(path, options).rows() == [("i1", "", text)]
    with pytest.raises(ValueError, match=r'columns={"text_en": \["tags"\]} makes a text of lists'):
        read_items(path, TableOptions(columns={"text_en": "tags"}))


def test_two_columns_of_one_name(tmp_path):
    pyarrow.parquet.write_table(pa.table([["i1"], ["i2"]], names=["item_id", "item_id"]), tmp_path / "X.parquet")
    with pytest.raises(ValueError, match=r"X\.parquet: two columns are called 'item_id'; rename or remove"):
        parquet_columns(tmp_path / "X.parquet")


def test_wide_rows_are_read_few_at_a_time(tmp_path, monkeypatch):
    """A text that is stored once may stand in every row; what is read at a time is bounded in bytes, too."""
    texts = [f"{'x' * 100}{row // 10}" for row in range(100)]
    pyarrow.parquet.write_table(pa.table({"item_id": texts}), tmp_path / "X.parquet")
    monkeypatch.setattr(parquet_files, "ROWS_AT_ONCE", 10)
    for most, expected in ((1 << 28, [50, 50]), (1000, [10] * 10)):
        monkeypatch.setattr(parquet_files, "BYTES_AT_ONCE", most)
        frames = list(parquet_chunks(tmp_path / "X.parquet", ["item_id"], 45))
        assert [len(frame) for frame in frames] == expected
        assert [text for frame in frames for text in frame["item_id"]] == texts


def test_rows_that_are_far_larger_than_the_file_are_refused(tmp_path, monkeypatch):
    """One text of many bytes, stored once, in every row."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int8()), pa.array(["x" * 10_000]))
    pyarrow.parquet.write_table(pa.table({"item_id": texts}), tmp_path / "X.parquet")
    monkeypatch.setattr(unpacking, "ALWAYS_ALLOWED", 1 << 20)
    monkeypatch.setattr(parquet_files, "ROWS_AT_ONCE", 100)
    with pytest.raises(ValueError, match=r"X\.parquet becomes more than 200 times as large"):
        list(parquet_chunks(tmp_path / "X.parquet", ["item_id"], 1000))
