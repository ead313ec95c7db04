"""Tables of JSON: an object a line, or an array."""

import json

import pandas as pd
import polars as pl
import pytest

from modeling_transrec.ninerec.tables import json_files
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.items import read_items
from modeling_transrec.ninerec.tables.options import TableOptions
from modeling_transrec.ninerec.tools.validate import validate


ROWS = [
    {"asin": "B0", "title": 'a "b", 中\n', "brand": None, "also": [1, "x"]},
    {"title": "12", "asin": "007", "price": 1.50},
    {"asin": 7, "title": True, "brand": "Acme", "also": []},
]
FORMS = {
    ".jsonl": lambda rows: "\n".join(map(json.dumps, rows)) + "\n\n",
    ".NDJSON": lambda rows: "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    ".json": lambda rows: json.dumps(rows, indent=2),
    ".json lines": lambda rows: "\n".join(map(json.dumps, rows)),
    ".json Python": lambda rows: "\n".join(map(repr, rows)),  # as some data sets of reviews are released
    ".jsonl pandas": lambda rows: pd.DataFrame(rows, dtype=object).to_json(orient="records", lines=True),
}


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_items(tmp_path, form):
    path = written(tmp_path, f"X_items{form.split()[0]}", FORMS[form](ROWS))
    expected = [("B0", 'a "b", 中\n'), ("007", "12"), ("7", "true")]
    assert [(item, en) for item, _, en in read_items(path).rows()] == expected
    joined = read_items(path, TableOptions({"text_en": ["title", "brand", "also"]}))["text_en"].to_list()
    assert joined[0] == 'Title: a "b", 中; Also: 1, x' and joined[2] == "Title: true; Brand: Acme"


@pytest.mark.parametrize("form", FORMS)
def test_interactions(tmp_path, form):
    rows = [{"user": f"u{n % 3}", "rating": n / 2, "item": n % 4, "time": 1000 - n} for n in range(30)]
    path = written(tmp_path, f"X_interactions{form.split()[0]}", FORMS[form](rows))
    sequences = read_sequences(path, pl.Series(["0", "1", "2", "3"]), options=TableOptions(min_rating=2))
    expected = {}
    for row in sorted(rows, key=lambda row: row["time"]):
        if row["rating"] >= 2:
            expected.setdefault(row["user"], []).append((row["item"], row["time"]))
    found = list(zip(sequences.items.tolist(), sequences.timestamps.tolist(), strict=True))
    ends = sequences.offsets.tolist()
    assert expected == {user: found[ends[n] : ends[n + 1]] for n, user in enumerate(sequences.user_ids.to_pylist())}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "X_items.jsonl",
            '{"asin": 1, "title": "a"}\n{"asin": 2,\n',
            r"jsonl:2: .* is no JSON object; write",
        ),
        ("X_items.jsonl", '["asin", "title"]\n', r"jsonl:1: .* is no JSON object"),
        (
            "X_items.json",
            '{"asin": {"0": 1}, "title": {"0": "a"}}',
            r"json:1: .*orient='records'",
        ),
        ("X_items.json", '[{"asin": 1, "title": "a"}, 2]', "json is no JSON array of objects"),
        ("X_items.json", '[{"asin": 1, "title": "a"}', "json is no JSON array of objects"),
        ("X_items.json", "[" * 100_000, "json is no JSON array of objects"),
        ("X_items.jsonl", '{"asin":' * 100_000, r"jsonl:1: .* is no JSON object"),
        ("X_items.jsonl", "{}\n", "jsonl: no object in the file has a name"),
        ("X_items.jsonl", "\n", "jsonl: no object in the file has a name"),
        ("X_items.jsonl", '{"asin": "", "title": "a"}\n', r"jsonl:1: empty item_id"),
        ("X_items.jsonl", '{"asin": 1, "title": ["a"]}\n', r"jsonl:1: title is a list; columns="),
        (
            "X_items.jsonl",
            '{"asin": 1, "title": "a"}\n{"asin": 2, "title": {"en": "a"}}\n',
            "jsonl:2: title of item '2' is an object, '.*en.*'; write the value",
        ),
        ("X_items.json", '[{"asin": {"$oid": "5f"}, "title": "a"}]', r"json:1: item_id is an object"),
        (
            "X_items.jsonl",
            '{"asin": "i5", "title": "cut \\ud83d"}\n',
            r"jsonl:1: title of item 'i5' is cut within a character, 'cut \\ud83d'",
        ),
        ("X_items.jsonl", '{"sku": 1, "title": "a"}\n', r"jsonl:0: .*does not name an id"),
    ],
)
def test_wrong_files(tmp_path, name, text, message):
    path = written(tmp_path, name, text)
    with pytest.raises(ValueError, match=message):
        read_items(path)
    written(tmp_path, "X_pair.csv", "u,1,2\n" * 9)
    assert any(problem.severity == "error" for problem in validate("X", tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": {"id": "u0", "agent": "x"}}, "jsonl:3: user_id is an object, .*; write the value in it"),
        ({"item": {"$oid": "5f"}}, "jsonl:3: item_id is an object"),
        ({"time": {"$date": 5}}, "jsonl:3: timestamp is an object"),
        ({"user": "cut \ud83d"}, "jsonl:3: a value is cut within a character"),
    ],
)
def test_interactions_with_objects(tmp_path, changes, message):
    rows = [{"user": "{u}", "item": "a", "time": 5, "seen": {"ua": n}} for n in range(2)]
    path = written(tmp_path, "X_interactions.jsonl", FORMS[".jsonl"](rows))
    assert read_sequences(path, pl.Series(["a"]), min_actions=1).user_ids.to_pylist() == ["{u}"]
    path = written(tmp_path, "X_interactions.jsonl", FORMS[".jsonl"]([*rows, {**rows[0], **changes}]))
    with pytest.raises(ValueError, match=message):
        read_sequences(path, pl.Series(["a"]))
    written(tmp_path, "X_items.csv", "item_id,text_en\na,b\n")
    found = [problem.what for problem in validate("X", tmp_path) if problem.path == path]
    assert any(message.split(": ")[1].split(",")[0].split(" is ")[1] in what for what in found)


def test_names_that_come_late_are_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(json_files, "NAMED_BY", 2)
    path = written(tmp_path, "X_items.jsonl", FORMS[".jsonl"]([*ROWS[1:], ROWS[0]]))
    assert read_items(path)["item_id"].to_list() == ["007", "7", "B0"]
    path = written(
        tmp_path, "X_items.jsonl", FORMS[".jsonl"](ROWS[::-1] + [{"asin": "9", "title": "x", "subtitle": "y"}])
    )
    read_items(path)
    assert "names that none of the first 2 rows has: not read (e.g. line 4: 'subtitle')" in caplog.text


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "X_items.jsonl"
    path.write_bytes(b'{"asin": 1, "title": "a"}\n{"asin": 2, "title": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"jsonl:2: byte 0xe9 is not UTF-8"):
        read_items(path)
