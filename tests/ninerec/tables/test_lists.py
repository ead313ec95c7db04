"""Histories as lists: one row a user, in texts, JSON and Parquet."""

import json

import numpy as np
import polars as pl
import pytest

from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.lists import read_list
from modeling_transrec.ninerec.tools.validate import validate


HISTORIES = {f"u{u}": [(f"i{(u * k) % 7}", 100 * k + u) for k in range(6 + u)] for u in range(5)}
IDS = pl.Series([f"i{n}" for n in range(7)])


def by_user(path, **kwargs):
    sequences = read_sequences(path, IDS, min_actions=1, **kwargs)
    times = [None] * len(sequences.items) if sequences.timestamps is None else sequences.timestamps.tolist()
    rows = [(IDS[item], time) for item, time in zip(sequences.items.tolist(), times, strict=True)]
    ends = sequences.offsets.tolist()
    return {
        user: rows[ends[n] : ends[n + 1]] for n, user in enumerate(sequences.user_ids.to_pylist()) if rows[ends[n] :]
    }


WRITERS = {
    "JSON": json.dumps,
    "Python": repr,
    "Spark": lambda values: f"[{', '.join(map(str, values))}]",
    "numpy": lambda values: " ".join(str(np.array(values)).split("\n")),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("separator", [",", "\t", ";", "::"])
@pytest.mark.parametrize("timed", [True, False])
def test_lists_in_texts(tmp_path, writer, separator, timed):
    write, path = WRITERS[writer], tmp_path / ("X_interactions.tsv" if separator == "\t" else "X_interactions.csv")
    rows = [["user_id", "item_ids", "timestamps"]]
    rows += [[user, write([i for i, _ in h]), write([t for _, t in h])] for user, h in HISTORIES.items()]
    if separator in (",", ";"):
        rows = [['"' + field.replace('"', '""') + '"' for field in row] for row in rows]
    path.write_text("".join(separator.join(row[: 2 + timed]) + "\n" for row in rows))
    if separator == "\t" and not timed:
        path = path.rename(tmp_path / "X_behaviour.tsv")
    expected = HISTORIES if timed else {user: [(i, None) for i, _ in h] for user, h in HISTORIES.items()}
    assert by_user(path) == expected


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("times", ["timestamps", "dates", None])
def test_lists_in_columns(tmp_path, suffix, times):
    frame = pl.DataFrame(
        {
            "user_id": [*HISTORIES, "nobody"],
            "item_ids": [*([i for i, _ in h] for h in HISTORIES.values()), []],
            "timestamps": [*([t for _, t in h] for h in HISTORIES.values()), []],
        }
    )
    if times is None:
        frame = frame.drop("timestamps")
    if times == "dates":
        frame = frame.with_columns(pl.col("timestamps").list.eval(pl.from_epoch(pl.element().cast(pl.Int64))))
    path = tmp_path / f"X_interactions{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(path)
    else:
        rows = [
            {
                name: [str(v) for v in value] if times == "dates" and name == "timestamps" else value
                for name, value in row.items()
            }
            for row in frame.to_dicts()
        ]
        path.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows, indent=1))
    expected = HISTORIES if times else {user: [(i, None) for i, _ in h] for user, h in HISTORIES.items()}
    assert by_user(path) == expected


@pytest.mark.parametrize(
    ("suffix", "rows", "message"),
    [
        (".csv", 'u,"[1, 2]","[7]"', r":2: elements: 2 in item_id and 1 in timestamp"),
        (".csv", 'u,"[1, 2]","[7, 8]"\nv,3,"[1]"', r":3: '3' is no list"),
        (".csv", 'u,"[1, 2]","[7, 8]"\nv,"[3 ... 9]","[1]"', r":3: '\[3 ... 9\]' is no list.*elements that are lost"),
        (".csv", 'u,"[1, 2]","[7, 8]"\nv,"[3]","[]"', r":3: elements: 1 in item_id and 0 in timestamp"),
        (".csv", 'u,"[1, 2]","[7, soon]"', r":2: timestamp 'soon' is no whole number"),
        (".jsonl", '{"user_id": 1, "item_ids": ["a", null], "timestamps": [1, 2]}', r":1: .* is no list of ids"),
        (".jsonl", '{"user_id": 1, "item_ids": [["a", 1]], "timestamps": [1]}', r":1: .* is no list of ids"),
        (".jsonl", '{"user_id": 1, "item_ids": [{"id": "a"}], "timestamps": [1]}', r":1: .* is no list of ids"),
    ],
)
def test_wrong_lists_name_the_line(tmp_path, suffix, rows, message):
    path = tmp_path / f"X_interactions{suffix}"
    path.write_text(("user_id,item_ids,timestamps\n" if suffix == ".csv" else "") + rows + "\n")
    with pytest.raises(ValueError, match=rf"X_interactions\{suffix}{message}"):
        by_user(path)
    (tmp_path / "X_items.csv").write_text("item_id,title\n1,a\n2,b\n")
    assert any(problem.severity == "error" for problem in validate("X", tmp_path))


def test_a_user_of_no_interactions(tmp_path):
    for suffix, rows in (
        (".csv", 'user_id,item_ids\nu,"[i1, i2]"\nv,\nw,[]\n'),
        (
            ".jsonl",
            '{"user_id": "u", "item_ids": ["i1", "i2"]}\n{"user_id": "v", "item_ids": null}\n{"user_id": "w"}\n',
        ),
    ):
        path = tmp_path / f"X_interactions{suffix}"
        path.write_text(rows)
        assert by_user(path) == {"u": [("i1", None), ("i2", None)]}


@pytest.mark.parametrize("separator", [" ", "|", ";"])
def test_items_in_a_row_without_a_list(tmp_path, separator):
    path = tmp_path / "X_interactions.csv"
    path.write_text(f"user_id,item_ids\nu,{separator.join(['i1', 'i2', 'i3'])}\n")
    with pytest.raises(ValueError, match=r"it is several that are: .* as a list, such as \[\"i1\", \"i2\", \"i3\"\]"):
        by_user(path)


def test_parquet_lists_of_unequal_length(tmp_path):
    frame = pl.DataFrame({"user_id": ["u", "v"], "items": [["i1"], ["i1", "i2"]], "time": [[1], [2]]})
    frame.write_parquet(tmp_path / "X_pairs.parquet")
    with pytest.raises(ValueError, match=r"X_pairs\.parquet, row 2: elements: 2 in items and 1 in time"):
        by_user(tmp_path / "X_pairs.parquet")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", []),
        ("[007, 1.50]", ["007", "1.50"]),
        ('["a, b", "c\\"d", "\\u4e2d"]', ["a, b", 'c"d', "中"]),
        ("['a, b', \"it's\"]", ["a, b", "it's"]),
        ("['a' 'b'\n 'c']", ["a", "b", "c"]),
        ("['a' , 'b',]", ["a", "b"]),
        ("[1  2]", ["1", "2"]),
        ("[a b, c]", None),
        ("[1, None]", None),
        ("[NaN]", None),
        ("[1, [2]]", None),
        ("[,]", None),
        ("['a]", None),
    ],
)
def test_what_is_a_list(text, expected):
    assert read_list(text) == expected
