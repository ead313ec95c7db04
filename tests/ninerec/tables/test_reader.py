"""`modeling_transrec.ninerec`'s `reader` and `interactions` on small files written by the tests."""

import csv
import io
import logging
import os
import random
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from modeling_transrec.ninerec.tables import interactions, text_files
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.items import read_items, select_catalogue
from modeling_transrec.ninerec.tables.media import IMAGE, find_media
from modeling_transrec.ninerec.tables.options import TableOptions
from modeling_transrec.ninerec.tools.validate import validate


IDS = pl.Series(["i1", "i2", "i3", "007"])


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def interactions_in(path, item_ids, **options):
    """Rows (user, item, timestamp), user by user."""
    sequences = read_sequences(path, item_ids, min_actions=1, options=TableOptions(**options))
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    known = sequences.timestamps is not None
    times = sequences.timestamps.tolist() if known else [None] * len(users)
    ids, user_ids = sequences.item_ids.to_pylist(), sequences.user_ids.to_pylist()
    return [(user_ids[u], ids[i], t) for u, i, t in zip(users, sequences.items, times, strict=True)]


def by_user(rows):
    """Rows in the order of `interactions_in`."""
    users = [user for user, _, _ in rows]
    return sorted(rows, key=lambda row: (users.index(row[0]), row[2]))


def pairs(tmp_path, content, item_ids=IDS, **kwargs):
    return interactions_in(write(tmp_path / "X_pair.csv", content), item_ids, **kwargs)


def items(tmp_path, content):
    return read_items(write(tmp_path / "X_item.csv", content)).rows()


def behaviour(tmp_path, content):
    return interactions_in(write(tmp_path / "X_behaviour.tsv", content), IDS)


# Items


def test_items_by_position_keep_ids_and_texts_as_they_are(tmp_path):
    content = '007,中文,"a, ""b""\nc"\n7,,\nNA,null,NaN\n1.50, 字 ,"é"\n'
    expected = [("007", "中文", 'a, "b"\nc'), ("7", "", ""), ("NA", "null", "NaN"), ("1.50", " 字 ", "é")]
    assert items(tmp_path, content) == expected
    assert items(tmp_path, "\ufeff" + content) == expected
    assert items(tmp_path, content.replace("\n", "\r\n")) == [
        (item_id, zh, en.replace("\n", "\r\n")) for item_id, zh, en in expected
    ]
    assert items(tmp_path, content.rstrip("\n") + "\n\n\n") == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("item_id,text_zh,text_en\n1,中,en\n", ("1", "中", "en")),
        ("English,Chinese,ID\nen,中,1\n", ("1", "中", "en")),
        ("item,title\n1,en\n", ("1", "", "en")),
        ("id,zh\n1,中\n", ("1", "中", "")),
        ("item_id,views,title\n1,99,en\n", ("1", "", "en")),
        ("video_id,title,title_en\n1,中,en\n", ("1", "中", "en")),
        ("movieId,title,genres\n1,en,x\n", ("1", "", "en")),
    ],
)
def test_items_by_header(tmp_path, content, expected):
    assert items(tmp_path, content) == [expected]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("1,a,b\n2,c\n", 2, "2 columns where 3 are expected"),
        ('1,a,"x\ny"\n2,c,d,e\n', 3, "4 columns where 3 are expected"),
        ("1,a,b\n ,c,d\n", 2, "empty item_id"),
        ("1,text\n", 1, "2 columns where 3 are expected.*item_id,text_en"),
        ("item_id,words\n", 1, "2 columns where 3"),
        ("item_id,words,url\n1,a,b\n", 1, "names no text"),
        ("id,en,english\n1,a,b\n", 1, "two columns of the header mean the same"),
        ('1,a,b\n2,"c" d,e\n', 2, "breaks CSV quoting"),
        ('1,a,b\n2,"c,d\n3,e,f\n', 2, "breaks CSV quoting"),
        (b"1,a,b\n2,c,\xff\n", 2, "byte 0xff is not UTF-8"),
    ],
)
def test_malformed_items_name_file_and_line(tmp_path, content, line, message):
    with pytest.raises(ValueError, match=rf"X_item\.csv:{line}: .*{message}"):
        items(tmp_path, content)


@pytest.mark.parametrize("content", ["", "\n\n", "item_id,text_en\n"])
def test_no_items(tmp_path, content):
    with pytest.raises(ValueError, match=r"X_item\.csv: the file (is empty|has a header but no items)"):
        items(tmp_path, content)


def test_a_repeated_item_keeps_its_first_row(tmp_path, caplog):
    assert items(tmp_path, "a,一,1\nb,二,2\na,三,3\na,一,1\n") == [("a", "一", "1"), ("b", "二", "2")]
    assert (
        "X_item.csv: 2 rows that repeat an item id" in caplog.text
        and "e.g. line 3: 'a' stands in line 1" in caplog.text
    )


def test_what_may_be_a_header_is_reported(tmp_path, caplog):
    assert items(tmp_path, "B0,,Title\nB1,,x\n") == [("B0", "", "Title"), ("B1", "", "x")]
    assert "['B0', '', 'Title'] is read as an item" in caplog.text


@pytest.mark.parametrize("quote", ["", '"'])
def test_lines_of_spaces_are_blank(tmp_path, quote):
    assert items(tmp_path, f"  \n1,一,{quote}b{quote}\n\t\n") == [("1", "一", "b")]
    assert pairs(tmp_path, f"  \nu,{quote}i1{quote},5\n \n") == [("u", "i1", 5)]


@pytest.mark.parametrize("missing", ["NULL", "\\N", "NaN", "None", "<NA>", "nan"])
def test_what_stands_for_a_missing_value_is_kept_and_told(tmp_path, caplog, missing):
    found = pairs(tmp_path, f"a,i1,1\n{missing},i1,2\n{missing},i2,3\nNA,i1,4\n")
    assert found == [("a", "i1", 1), (missing, "i1", 2), (missing, "i2", 3), ("NA", "i1", 4)]
    assert "2 interactions in X_pair.csv have a user id that stands for a missing value" in caplog.text
    caplog.clear()
    path = write(tmp_path / "X_items.csv", f"item_id,title,brand\ni1,{missing},NA\ni2,b,{missing}\n")
    assert read_items(path)["text_en"].to_list() == [missing, "b"]
    assert "1 values of title that stand for a missing value: kept as they are" in caplog.text
    caplog.clear()
    read_items(path, TableOptions({"text_en": ["title", "brand"]}))
    assert "e.g. line 3: " in caplog.text and "values of brand that stand" in caplog.text
    told = [problem for problem in validate("X", tmp_path) if "missing value" in problem.what]
    assert {one.path.name: one.count for one in told} == {"X_pair.csv": 2, "X_items.csv": 1}


# Pair files


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_pairs_read_strings_and_seconds(tmp_path, newline, bom, end):
    content = bom + "01,i1,5\nNA,007,6.0\nnull,i2,7" + end
    expected = [("01", "i1", 5), ("NA", "007", 6), ("null", "i2", 7)]
    assert pairs(tmp_path, content.replace("\n", newline)) == expected


def test_pairs_with_quotes(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "CHUNK_ROWS", 8)  # several chunks on this path, too
    rows = [(f'u,"{n}', random.Random(n).choice(IDS.to_list()), n) for n in range(17)]
    content = "".join(f'"u,""{u[3:]}",{i},"{t}"\n' for u, i, t in rows)
    assert pairs(tmp_path, content) == rows
    with pytest.raises(ValueError, match=r"X_pair\.csv:18: .*quoting"):
        pairs(tmp_path, content + '"u"x,i1,3\n')


def test_pairs_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "BLOCK_SIZE", 40)
    monkeypatch.setattr(interactions, "ROWS_PER_PART", 7)
    rows = [(f"u{n % 5}", f"i{n % 3 + 1}", 90 - n) for n in range(50)]
    content = "user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    assert pairs(tmp_path, content) == by_user(rows)
    assert pairs(tmp_path, content.replace(",90\n", ",90.0\n")) == by_user(rows)
    assert pairs(tmp_path, content.replace(",89\n", ",89.0\n")) == by_user(rows)  # read line by line
    assert pairs(tmp_path, content.replace(",89\n", ", 89 \n")) == by_user(rows)
    with pytest.raises(ValueError, match=r"X_pair\.csv:52: 2 columns"):
        pairs(tmp_path, content + "u,i1\n")


@pytest.mark.parametrize("num_parts", [1, 5])
def test_filters_in_parts(tmp_path, monkeypatch, caplog, num_parts):
    rng = random.Random(1)
    rows = [(f"u{int(rng.expovariate(0.1))}", rng.choice(IDS.to_list()), n) for n in range(500)]
    expected, kept = {}, {}
    for user, item, time in rows:
        expected.setdefault(user, []).append((item, time))
    kept = {user: interactions[-6:] for user, interactions in expected.items() if len(interactions) >= 9}
    monkeypatch.setattr(interactions, "ROWS_PER_PART", 500 // num_parts)
    path = write(tmp_path / "X_pair.csv", "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    for extra in ({}, {"min_item_actions": 2}):
        sequences = read_sequences(path, IDS, min_actions=9, max_actions=6, scratch_dir=tmp_path / "new", **extra)
        assert sequences.user_ids.to_pylist() == list(kept)
        assert sequences.timestamps.tolist() == [time for interactions in kept.values() for _, time in interactions]
    short = next(user for user, interactions in expected.items() if len(interactions) < 9)
    assert f"{len(expected) - len(kept)} users have fewer than 9 interactions: dropped (e.g. {short!r})" in caplog.text
    assert not list((tmp_path / "new").iterdir())  # the temporary file is gone


def test_users_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    path = write(tmp_path / "X_pair.csv", "user,item,time\n" + "".join(f"u{n % 3},i1,{n}\n" for n in range(9)))
    written, seeds = interactions.write_coded, []

    def colliding(path, chunks, table, file, options, seed, times):
        count = written(path, chunks, table, file, options, seed, times=times)
        seeds.append(seed)
        if seed == 0:
            with pa.OSFile(str(file), "rb") as source:
                table = pa.ipc.open_file(source).read_all()
            table = table.set_column(0, "user", pa.array([5] * count, pa.uint64()))
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        return count

    monkeypatch.setattr(interactions, "write_coded", colliding)
    assert interactions_in(path, IDS) == [(f"u{u}", "i1", t) for u in range(3) for t in (u, u + 3, u + 6)]
    assert seeds == [0, 1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("user_id,item_id,timestamp\nu,i1,3\n", ("u", "i1", 3)),
        ("item,user,timestamp\ni1,u,3\n", ("u", "i1", 3)),
        ("TS,uid,video_id\n3,u,i1\n", ("u", "i1", 3)),
        ("iid,uid\ni1,u\n", ("u", "i1", None)),
        ("userId,movieId,rating,timestamp\nu,i1,4.5,1600000000123\n", ("u", "i1", 1600000000123)),
    ],
)
def test_pairs_by_header(tmp_path, content, expected):
    assert pairs(tmp_path, content) == [expected]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("u,i1,1\nu,i2\n", 2, "2 columns where 3 are expected"),
        ("u,i1\nu,i2,3\n", 2, "3 columns where 2 are expected"),
        ("u,i1,1\n\nu,i2,3,4\n", 3, "4 columns where 3"),
        ("u,i1,1\nu,i2,\n", 2, "empty timestamp"),
        ("u,i1,1\nu,,1\n", 2, "empty column 2"),
        ("u,i1,1\n ,i1,1\n", 2, "empty column 1"),
        (
            "u,i1,1\nu,i2,2021-01-01\n",
            2,
            "timestamp '2021-01-01' is no whole number; write all times in one form",
        ),
        ("u,i1,1\nu,i2,1e3\n", 2, "timestamp '1e3' is no whole number"),
        ("u,i1,1600000000.5\nu,i2,2021-01-01\n", 2, "timestamp '2021-01-01' is no number"),
        ("who,what,when\nu,i1,1\n", 1, "timestamp 'when' .*header"),
        ("user_id,item_id,rating\nu,i1,1\n", 1, "does not name user, item and timestamp"),
        ("a,b,c,d\n", 1, "4 columns where 2 or 3 are expected"),
        ("u,i1,01/05/21\n", 1, "timestamp '01/05/21' is no whole number; .* or a date such as"),
        ("u,i1,2021-01-05\nu,i1,7\n", 2, "timestamp '7' is no date, unlike that of the first row"),
        (
            "vid,user_id,item_id,time\n1,u,i1,1\n",
            1,
            "'vid' and 'item_id' are both .*columns=.\"item_id\": \"item_id\"",
        ),
        ("id,user_id,film_id,created_at\n1,u,i1,1\n", 1, 'name no item; .*columns={"item_id": "film_id"}'),
        ("user_id,item_id,date,time_ms\nu,i1,1,1\n", 1, 'both be the time; .*columns={"timestamp": "time_ms"}'),
        ("user_id,book_id,rating\nu,i1,1\n", 1, 'name no item; .*columns={"item_id": "book_id"}'),
        ("user_id,item_id,rating,device\nu,i1,1,1\n", 1, 'columns={"timestamp": None} where there is none'),
        (b"u,i1,1\nu\xe9,i1,1\n", 2, "byte 0xe9 is not UTF-8"),
        (b"u,i1,1\ru\xe9,i1,1\r", 2, "byte 0xe9 is not UTF-8"),
    ],
)
def test_malformed_pairs_name_file_and_line(tmp_path, content, line, message):
    with pytest.raises(ValueError, match=rf"X_pair\.csv:{line}: .*{message}"):
        pairs(tmp_path, content)


@pytest.mark.parametrize("content", ["", "\n\n", "user,item,time\n"])
def test_no_pairs(tmp_path, content):
    with pytest.raises(ValueError, match=r"X_pair\.csv: the file (is empty|has a header but no rows)"):
        pairs(tmp_path, content)


@pytest.mark.parametrize("swapped", [False, True])
def test_order_of_columns_is_detected_where_users_look_like_items(tmp_path, caplog, swapped):
    """As in ML100K: all user ids are item ids, too. Items before users are not believed then."""
    caplog.set_level(logging.INFO)
    rng = random.Random(0)
    rows = [(str(rng.randrange(1, 56)), str(item % 100 + 1), str(item)) for item in range(400)]
    content = "".join(",".join((i, u, t) if swapped else (u, i, t)) + "\n" for u, i, t in rows)
    ids = pl.Series([str(i) for i in range(1, 101)])
    if swapped:
        with pytest.raises(ValueError, match="cannot tell users from items.*Add a header line.*--pair_columns"):
            pairs(tmp_path, content, ids)
    else:
        assert pairs(tmp_path, content, ids) == by_user([(u, i, int(t)) for u, i, t in rows])
        assert "column 2 holds items" in caplog.text


@pytest.mark.parametrize("num_users", [1500, 2000])
def test_users_are_not_taken_for_items_of_a_table_that_is_half_unused(tmp_path, num_users):
    """Users cover more of 2,000 integer items than the 900 items that were ever used."""
    rng = random.Random(0)
    used = rng.sample(range(1, 2001), 900)
    content = "".join(f"{u},{i},{k}\n" for u in range(1, num_users + 1) for k, i in enumerate(rng.sample(used, 8)))
    with pytest.raises(ValueError, match="cannot tell users from items"):
        pairs(tmp_path, content, pl.Series([str(i) for i in range(1, 2001)]))


def test_order_of_columns_too_close_to_call(tmp_path):
    ids = pl.Series([str(i) for i in range(10)])
    content = "".join(f"{n % 10},{n * 7 % 9},{n}\n" for n in range(90))
    with pytest.raises(ValueError, match=r"X_pair\.csv: cannot tell users from items.*pair_columns="):
        pairs(tmp_path, content, ids)
    rows = pairs(tmp_path, content, ids, pair_columns=("item_id", "user_id", "timestamp"))
    assert ("1", "3", 13) in rows
    rows = pairs(tmp_path, content, ids, pair_columns=("timestamp", "user_id", "item_id"))
    assert rows == by_user([(str(n * 7 % 9), str(n), n) for n in range(10)])  # later items are not in the table


def test_small_part_of_a_table_of_integers_is_too_close_to_call(tmp_path):
    """Users 1 to 300 cover more of 1,000 integer items than the 50 items that were watched."""
    ids = pl.Series([str(i) for i in range(1, 1001)])
    content = "".join(f"{n % 300 + 1},{n % 50 + 400},{n}\n" for n in range(900))
    with pytest.raises(ValueError, match="cannot tell users from items"):
        pairs(tmp_path, content, ids)


def test_other_columns_of_pairs_are_not_used(tmp_path):
    columns = ("user_id", "item_id", "rating", "timestamp")
    assert pairs(tmp_path, "u,i1,,5\n", pair_columns=columns) == [("u", "i1", 5)]
    with pytest.raises(ValueError, match="4 columns where 2 or 3 are expected.*header line"):
        pairs(tmp_path, "u,i1,,5\n")


def test_pair_columns_must_fit(tmp_path):
    for content, columns in [
        ("u,i1,1\n", ("user_id", "item_id")),
        ("u,i1\n", ("user_id", "item_id", "timestamp")),
        ("item,user,time\ni1,u,1\n", ("user_id", "item_id", "timestamp")),
    ]:
        with pytest.raises(ValueError, match=r"X_pair\.csv:1: pair_columns=.* does not fit"):
            pairs(tmp_path, content, pair_columns=columns)


def test_dates_are_sorted_to_the_microsecond(tmp_path, caplog):
    """What is below the second orders, and tells interactions apart; it is not in the result."""
    times = ["12:30:00.9", "12:30:00.8", "12:30:00.8", "12:30:00.000001", "12:29:59"]
    rows = [("u", f"i{1 + n // 2}", f"2021-05-07 {time}") for n, time in enumerate(times)]
    expected = [("u", "i3", -1), ("u", "i2", 0), ("u", "i1", 0), ("u", "i2", 0), ("u", "i1", 0)]
    expected = [(u, i if i != "i3" else "007", 1620390600 + t) for u, i, t in expected]
    content = "".join(f"{u},{i if i != 'i3' else '007'},{t}\n" for u, i, t in rows)
    assert pairs(tmp_path, content + content) == expected
    assert "5 rows of X_pair.csv repeat" in caplog.text and "1620390599)" in caplog.text
    frame = pl.read_csv(content.encode(), has_header=False, new_columns=["user", "item", "time"], infer_schema=False)
    for precision in ("ms", "us", "ns"):
        dates = frame.with_columns(pl.col("time").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit=precision))
        dates.write_parquet(tmp_path / "X.parquet")
        found = interactions_in(tmp_path / "X.parquet", IDS)
        assert sorted(found) == sorted(expected) and (precision == "ms" or found == expected)
    frame.write_parquet(tmp_path / "X.parquet")
    assert interactions_in(tmp_path / "X.parquet", IDS) == expected
    frame.cast({"time": pl.Categorical}).write_parquet(tmp_path / "X.parquet")
    assert interactions_in(tmp_path / "X.parquet", IDS) == expected


@pytest.mark.parametrize(
    "time",
    ["2021-05-07 20:30:00+08:00", "2021-05-07T12:30:00Z", "2021-05-07 10:30-0200", "2021-05-07 12:30:00.5 UTC"],
)
def test_zones_of_dates(tmp_path, time):
    assert pairs(tmp_path, f"u,i1,{time}\nu,i2,2021-05-07 12:30:01\n") == [
        ("u", "i1", 1620390600),
        ("u", "i2", 1620390601),
    ]


def test_times_of_parquet(tmp_path):
    path = tmp_path / "X.parquet"

    def read(times, **columns):
        pl.DataFrame({"user": "u", "item": ["i1", "i2"], "time": times, **columns}).write_parquet(path)
        return [time for _, _, time in interactions_in(path, IDS)]

    assert read(["1620000000", "1620000001.0"]) == [1620000000, 1620000001]
    assert read(pl.Series([5, 6], dtype=pl.UInt64)) == [5, 6]
    for times, message in [
        (["1620000000", "2021-01-01"], "row 2: timestamp '2021-01-01' is no whole number"),
        (["2021-01-01", "7"], "row 2: timestamp '7' is no date, unlike"),
        (["2021-01-01", None], "row 2: empty time"),
        (["2021-01-01", ""], "row 2: timestamp '' is no date"),
        (pl.Series([1, 2**63], dtype=pl.UInt64), "row 2: timestamp 9223372036854775808 is no whole number"),
        ([True, False], "is of type Boolean; write all times"),
        ([1.6e9, None], "row 2: empty time"),
    ]:
        with pytest.raises(ValueError, match=rf"X\.parquet(, |: column 'time' ){message}"):
            read(times)


def test_parquet_of_items_without_texts_and_damaged(tmp_path):
    path = tmp_path / "X_items.parquet"
    for nothing in (pl.Series([None, None]), pl.Series([float("nan")] * 2)):
        pl.DataFrame({"item_id": ["a", "b"], "text_en": ["x", None], "text_zh": nothing}).write_parquet(path)
        assert read_items(path).rows() == [("a", "", "x"), ("b", "", "")]
    table = pl.DataFrame({"item_id": [f"i{n}" for n in range(999)], "text_en": [str(n) for n in range(999)]})
    table.write_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"X_items\.parquet is no whole Parquet file, copy it again"):
        read_items(path)


@pytest.mark.parametrize(
    "content",
    [
        '"u,1","i1","3"\n"u""2",i2,4\n',
        '"u,1",i1,3\n"u""2","i2","4"\n',
        'user,"item","ti\nme"\nu,i1,3\n',
        'u"1,i1,3\n u"2,i2,4\n',
        '"u\n1",i1,3\nu2,i2,4\n',
        '"u1","i1","3"\r\n"u2","i2","4"\r\n',
    ],
)
@pytest.mark.parametrize("separator", [",", "\t"])
def test_quoted_files_are_read_as_pythons_csv_does(tmp_path, content, separator):
    content = content.replace(",1", ";1").replace(",", separator).replace(";1", ",1")
    rows = [tuple(field.strip() for field in row) for row in csv.reader(io.StringIO(content, ""), delimiter=separator)]
    expected = [(user, item, int(time)) for user, item, time in rows if user != "user"]
    path = write(tmp_path / f"X_interactions{'.tsv' if separator != ',' else '.csv'}", content)
    columns = {"user_id": "user", "item_id": "item", "timestamp": "ti\nme"}
    assert interactions_in(path, IDS, columns=columns if "user" in content else None) == expected


def test_two_columns_with_tabs(tmp_path):
    """A row an interaction, unless the header or several items in the first row tell that it is a line a user."""

    def read(content, name="X_interactions.tsv", item_ids=IDS, **kwargs):
        return [(user, item) for user, item, _ in interactions_in(write(tmp_path / name, content), item_ids, **kwargs)]

    again = [("u", "i1"), ("u", "i2"), ("u", "i1")]
    rows = "u\ti1\nu\ti2\nu\ti1\n"
    assert read("user_id\titem_id\n" + rows) == again  # repeated interactions are kept, as in a CSV file
    assert read(rows) == again
    assert read("item_id\tuser_id\ni1\tu\ni2\tu\ni1\tu\n") == again
    assert read("customer\tsku\n" + rows, columns={"user_id": "customer", "item_id": "sku"}) == again
    assert read("i1\tu\ni2\tu\n", pair_columns=("item_id", "user_id")) == again[:2]
    spaced = pl.Series(["a 1", "a 2"])
    assert read("user_id\titem_id\nu\ta 1\nu\ta 2\n", item_ids=spaced) == [("u", "a 1"), ("u", "a 2")]
    for content in ("u\ti1 i2 i1\n", "user\titem_ids\nu\ti1 i2 i1\n"):
        assert read(content, "X_pairs.tsv") == again
    assert read("user\titems\nu\ti1\nu\ti2\n", "X_pairs.tsv") == again[:2]


def test_a_quoted_tsv_items_table(tmp_path):
    path = write(tmp_path / "X_items.tsv", '"item_id"\t"text_en"\n"a"\t"5"" wide"\nb\t5" wide\n')
    assert read_items(path).rows() == [("a", "", '5" wide'), ("b", "", '5" wide')]
    with pytest.raises(ValueError, match=r"X_items\.tsv:2: the row that starts here breaks CSV quoting"):
        read_items(write(path, 'item_id\ttext_en\na\t"Foo" bar\n'))


def test_long_texts(tmp_path):
    assert items(tmp_path, f'a,,"{"x" * 200_000}"\n')[0][2] == "x" * 200_000


def test_duplicate_pairs(tmp_path, caplog):
    content = "u,i1,1\nu,i1,2\nv,i1,1\nu,i2,1\nu,i1,1.0\n"
    assert pairs(tmp_path, content) == [("u", "i1", 1), ("u", "i2", 1), ("u", "i1", 2), ("v", "i1", 1)]
    assert "1 rows of X_pair.csv repeat user, item and timestamp" in caplog.text
    assert "('u', 'i1', 1)" in caplog.text
    assert pairs(tmp_path, "u,i1\nu,i1\n") == [("u", "i1", None)] * 2  # without time both are interactions


def test_unknown_items_are_dropped_and_counted(tmp_path, caplog):
    assert pairs(tmp_path, "u,i1,1\nu,7,2\nv,7,3\nv,x,3\n") == [("u", "i1", 1)]  # "7" is not "007"
    assert (
        "3 interactions in X_pair.csv are with 2 items that are not in the items table: dropped (e.g. '7')"
        in caplog.text
    )
    with pytest.raises(ValueError, match="none of its item ids.*'7'.*'i1'"):
        pairs(tmp_path, "user,item\nu,7\n")
    with pytest.raises(ValueError, match="no user or item id .*'u', '7'.*'i1'"):
        pairs(tmp_path, "u,7\n")


# Behaviour files


def test_behaviour(tmp_path):
    expected = [("u", "i1", None), ("u", "007", None), ("v", "i2", None)]
    assert behaviour(tmp_path, "u\ti1 007\nv\ti2\n") == expected
    assert behaviour(tmp_path, "\ufeffuser_id\titem_ids\r\nu\ti1  007 \r\n\r\nv\ti2") == expected


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("u\ti1\nv i1\n", 2, "1 columns where 2"),
        ("u\ti1\tx\n", 1, "3 columns where 2"),
        ("u\ti1\nv\t \n", 2, "empty item_ids"),
        ("u\ti1\n\ti1\n", 2, "empty user_id"),
        (b"u\ti1\n\xff\ti1\n", 2, "not UTF-8"),
    ],
)
def test_malformed_behaviour_names_file_and_line(tmp_path, content, line, message):
    with pytest.raises(ValueError, match=rf"X_behaviour\.tsv:{line}: .*{message}"):
        behaviour(tmp_path, content)


def test_duplicate_behaviour_lines(tmp_path, caplog):
    rows = behaviour(tmp_path, "u\ti1 i1\nv\ti2\nu\ti1 i1\nu\ti3\n")
    assert [item for user, item, _ in rows if user == "u"] == ["i1", "i1", "i3"]
    assert "X_behaviour.tsv: 1 lines equal to an earlier one: dropped (e.g. line 3: user 'u')" in caplog.text
    assert "X_behaviour.tsv: 1 further, different lines of a user: appended" in caplog.text


# Sequences and catalogue


def test_unknown_items_go_before_the_length_filter(tmp_path, caplog):
    path = write(tmp_path / "X_behaviour.tsv", "u\ti1 i2 x i3\nv\ti1 i2 x\nw\tx\n")
    sequences = read_sequences(path, IDS, min_actions=3, max_actions=23)
    assert sequences.items.tolist() == [0, 1, 2] and sequences.user_ids.to_pylist() == ["u"]
    assert "1 users have fewer than 3 interactions: dropped (e.g. 'v')" in caplog.text
    with pytest.raises(ValueError, match="none of 2 users has 5 interactions"):
        read_sequences(path, IDS, min_actions=5, max_actions=23)


def test_catalogue(caplog):
    table = pl.DataFrame({"item_id": ["c", "b", "a"], "text_zh": ["", "", "中"], "text_en": [" ", "x", ""]})
    used = np.array([True, False, True])
    assert select_catalogue(table, used, "interacted")["item_id"].to_list() == ["c", "a"]
    assert "1 items occur in no kept sequence" in caplog.text and "'b'" in caplog.text
    assert "1 items have an empty text in both languages: kept (e.g. 'c')" in caplog.text
    assert select_catalogue(table, used, "all").equals(table)


def test_covers(tmp_path, caplog):
    for name in ("1.jpg", "1.JPG", "2.JPEG", "3.png", "3.webp", "4.txt", "../5.jpg", "6.webp"):
        write(tmp_path / "X_cover" / name, b"bytes")
    write(tmp_path / "X_cover" / "7.jpg", b"")
    (tmp_path / "X_cover" / "8.jpg").mkdir()
    ids = pl.Series(["1", "2", "3", "4", "../5", "6", "7", "8", "01"])
    paths = find_media(IMAGE, tmp_path / "X_cover", ids)
    assert [path and os.path.basename(path) for path in paths] == [
        "1.JPG", "2.JPEG", "3.png", None, None, "6.webp", None, None, None
    ]  # fmt: skip
    assert "5 items have no cover" in caplog.text and "'4'" in caplog.text
    assert find_media(IMAGE, None, ids) == [None] * 9


def test_paths_of_covers_are_not_shortened(tmp_path, monkeypatch):
    """`link/..` is the parent of what the link leads to."""
    cover = write(tmp_path / "real" / "X_cover" / "1.jpg", b"bytes")
    (tmp_path / "real" / "deep").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "real" / "deep")
    monkeypatch.chdir(tmp_path / "here")
    (path,) = find_media(IMAGE, Path("link", "..", "X_cover"), pl.Series(["1"]))
    assert os.path.isabs(path) and os.path.samefile(path, cover)


# Times in other forms

FORMS_OF_TIMES = {
    "1593878903.438 1593878903.5 1593878904": [1593878903, 1593878903, 1593878904],  # KuaiRec's
    "1593878903 1593878903.25 1593878903.5": [1593878903] * 3,
    "1593878903438.25 1593878903438.5 1593878903439.0": [1593878903438, 1593878903438, 1593878903439],
    "-1.5 11.25 11.5": [-2, 11, 11],
    "11/1/2019_9:05:58_AM 11/1/2019_12:05:58_PM 11/13/2019_12:05:58_AM": [1572599158, 1572609958, 1573603558],
    "1/2/2019 1/3/2019 1/31/2019": [1546387200, 1546473600, 1548892800],
    "1-2-2019 13-2-2019 1-3-2019": [1548979200, 1550016000, 1551398400],
    "31/12/2018_23:59 01/01/2019_00:00 1/1/2019_00:01": [1546300740, 1546300800, 1546300860],
    "7.5.2021_12:30 8.5.2021_9:00 13.5.2021_00:00:01.5": [1620390600, 1620464400, 1620864001],
    "2021/05/07 2021/5/8 2021/05/09": [1620345600, 1620432000, 1620518400],
    "20210507 20210508 20210601": [20210507, 20210508, 20210601],
    "May_7,_2021 Jun_1,_2021 September_2,_2021": [1620345600, 1622505600, 1630540800],
    "7_May_2021 8_May_2021 1_Jun_2021": [1620345600, 1620432000, 1622505600],
    "Sat_Mar_24_00:00:00_-0700_2012 Sun_Mar_24_00:00:00_+0000_2013 Sat_Mar_29_10:00:00_+0100_2014": [
        1332572400,
        1364083200,
        1396083600,
    ],
    "2019-11-01_00:00:00_UTC 2019-11-01T00:00:01Z 2019-11-01_00:00:02": [1572566400, 1572566401, 1572566402],
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("written", FORMS_OF_TIMES)
def test_forms_of_times(tmp_path, written, suffix):
    """Three times in ascending order, in a file in which they stand in another one."""
    times = [time.replace("_", " ") for time in written.split()]
    rows = [("u", "i1", times[0]), ("u", "007", times[2]), ("u", "i2", times[1])]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    path = tmp_path / f"X{suffix}"
    table.write_parquet(path) if suffix == ".parquet" else table.write_csv(path)
    expected = [("u", *one) for one in zip(["i1", "i2", "007"], FORMS_OF_TIMES[written], strict=True)]
    assert interactions_in(path, IDS) == expected


def test_decimals_and_floats_of_parquet(tmp_path):
    for times in (
        pl.Series([1593878903.438, 1593878903.5, 1593878903.25]),
        pl.Series(["1593878903.438", "1593878903.5", "1593878903.25"]).cast(pl.Decimal(20, 3)),
    ):
        table = pl.DataFrame({"user": "u", "item": ["i1", "i2", "007"], "time": times})
        table.write_parquet(tmp_path / "X.parquet")
        found = interactions_in(tmp_path / "X.parquet", IDS)
        assert found == [("u", item, 1593878903) for item in ("007", "i1", "i2")]


def test_month_or_day_first(tmp_path):
    """The first rows do not tell, but a later one may; otherwise an option does."""
    rows = [f"u,i1,{1 + n % 12}/2/2019" for n in range(1200)]
    with pytest.raises(
        ValueError, match=r"'1/2/2019' may be month/day/year or day/month/year.*time_format=\"%d/%m/%Y\""
    ):
        pairs(tmp_path, "\n".join(rows))
    later = "\n".join([*rows, "u,i2,13/2/2019"])
    assert pairs(tmp_path, later)[-1] == ("u", "i2", 1550016000)
    content = "u,i1,1/2/2019 3:04 PM\nu,i2,2/1/2019 3:04 PM\n"
    found = [pairs(tmp_path, content, time_format=f"{date} %I:%M %p") for date in ("%m/%d/%Y", "%d/%m/%Y")]
    assert [[item for _, item, _ in rows] for rows in found] == [["i1", "i2"], ["i2", "i1"]]
    assert found[1][0][2] == 1546441440


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_ratings_with_fractions_are_no_times(tmp_path, suffix):
    table = pl.DataFrame({"user_id": "u", "item_id": ["i1", "i2"], "time": [4.5, 3]})
    path = tmp_path / f"X{suffix}"
    table.write_parquet(path) if suffix == ".parquet" else table.write_csv(path)
    with pytest.raises(
        ValueError, match=r'numbers such as 4\.5, none above 10: they are ratings; .*{"timestamp": None}'
    ):
        interactions_in(path, IDS)


# Columns by their meaning


def test_the_key_of_a_row_is_no_item(tmp_path):
    assert pairs(tmp_path, "id,user_id,item_id,time\ni2,u,i1,5\n") == [("u", "i1", 5)]
    columns = {"item_id": "id"}
    assert pairs(tmp_path, "id,user_id,time\ni2,u,5\n", columns=columns) == [("u", "i2", 5)]


def test_one_of_two_times(tmp_path):
    content = (
        "user_id,video_id,date,hourmin,time_ms\nu,i1,20220411,1900,1649682713388\nu,i2,20220411,1900,1649679113388\n"
    )
    expected = [("u", "i2", 1649679113388), ("u", "i1", 1649682713388)]
    assert pairs(tmp_path, content, columns={"timestamp": "time_ms"}) == expected


def test_there_is_no_time(tmp_path):
    content = "user_id,item_id,rating,time\nu,i2,5,9\nu,i1,3,8\n"
    assert pairs(tmp_path, content, columns={"timestamp": None}) == [("u", "i2", None), ("u", "i1", None)]


def test_ratings_are_not_silently_times(tmp_path, caplog):
    caplog.set_level("WARNING", logger="modeling_transrec")  # another test may have left it lower
    rows = [(f"u{n % 3}", f"i{n % 3 + 1}", n % 5 + 1) for n in range(12)]
    pairs(tmp_path, "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    assert "the times are numbers from 1 to 5: are they ratings or counts?" in caplog.text
    caplog.clear()
    pairs(tmp_path, "".join(f"{u},{i},{t + 1_600_000_000}\n" for u, i, t in rows))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("first", "call"),
    [
        ("sku,product,category", 'columns={"item_id": "sku", "text_en": "product"}'),
        ("i1,Toy Story,Comedy", "item_id,text_en"),
    ],
)
def test_only_nine_rec_tables_of_items_are_read_by_position(tmp_path, first, call):
    content = f"{first}\ni2,Heat,Action\n"
    with pytest.raises(ValueError, match=r"X_items\.csv:1: .*does not name an id and a text") as caught:
        read_items(write(tmp_path / "X_items.csv", content))
    assert call in str(caught.value)
    nine_rec = "i1,玩具总动员,Toy Story\ni2,Heat,Heat\ni3,,Up\ni4,狮子王,Lion King\n"
    assert read_items(write(tmp_path / "X_item.csv", nine_rec)).rows()[1] == ("i2", "Heat", "Heat")
    path = write(tmp_path / "X_item.csv", content)
    with pytest.raises(ValueError, match=r"X_item\.csv: .*column 2 is not Chinese, such as '.*'; say what they are"):
        read_items(path)
    columns = {"item_id": "column 1", "text_en": "column 2"}
    assert read_items(path, TableOptions(columns=columns)).rows()[1] == ("i2", "", "Heat")


@pytest.mark.parametrize("separator", [",", "\t"])
def test_rows_that_vanish_in_a_text_are_refused(tmp_path, caplog, separator):
    """Unless it is said that they do not: then they are only named."""
    rows = [
        "item_id,title",
        "i1,plain",
        'i2,"We will win',
        "i3,plain",
        "i4,plain",
        'i5,He said we will win"',
        "i6,plain",
    ]
    path = tmp_path / f"X_items{'.csv' if separator == ',' else '.tsv'}"
    write(path, "\n".join(rows).replace(",", separator) + "\n")
    with pytest.raises(ValueError, match=r":3: lines 3 to 6 are one row.*'i3.*quoting=\"none\".*quoting=\"double\""):
        read_items(path)
    assert read_items(path, TableOptions(quoting="none"))["text_en"].to_list()[1:3] == ['"We will win', "plain"]
    assert read_items(path, TableOptions(quoting="double"))["item_id"].to_list() == ["i1", "i2", "i6"]
    assert f"{path.name}: 3 lines within a text that look like rows" in caplog.text
    assert "e.g. line 4: 'i3" in caplog.text
    caplog.clear()
    read_items(write(path, f'item_id{separator}title\ni1{separator}"two\nlines{separator} or more"\n'))
    assert "1 lines within a text that look like rows: kept as they are" in caplog.text
    caplog.clear()
    read_items(write(path, f'item_id{separator}title\ni1{separator}"two\nlines"\n'))
    assert caplog.text == ""


@pytest.mark.parametrize("separator", [",", "\t"])
def test_interactions_that_vanish_in_an_id_are_refused(tmp_path, separator):
    path = tmp_path / f"X_pairs{'.csv' if separator == ',' else '.tsv'}"
    rows = ["user_id,item_id,timestamp", "u1,i1,1", 'u1,"i2,2', "u2,i1,3", 'u2,i2",4']
    write(path, "\n".join(rows).replace(",", separator) + "\n")
    with pytest.raises(ValueError, match=r":3: lines 3 to 5 are one row"):
        interactions_in(path, IDS)


@pytest.mark.parametrize(
    "ids", ["da844010 2dae89fb 6d80cbd2 1d081476", "dQw4w9WgXcQ aaaaaaaaaaa hvL1339luv0 b-_bbbbbbbb"]
)
def test_ids_without_a_form_vanish_in_no_text(tmp_path, ids):
    one, two, three, four = ids.split()
    content = f'item_id,title\n{one},a\n{two},"Twelve\n{three},b\n{four},inch"\n'
    with pytest.raises(ValueError, match=r":3: lines 3 to 5 are one row"):
        read_items(write(tmp_path / "X_items.csv", content))


@pytest.mark.parametrize("quote", ["", '"'])
def test_files_with_byte_order_marks_that_were_joined(tmp_path, quote):
    content = f"\ufeffa,i1,1\nb,i1,2\n\ufeff{quote}a{quote},i2,3\n"
    assert pairs(tmp_path, content) == [("a", "i1", 1), ("a", "i2", 3), ("b", "i1", 2)]
    assert pairs(tmp_path, content, separator=",", quoting="none") == [
        ("a", "i1", 1),
        *([] if quote else [("a", "i2", 3)]),
        ("b", "i1", 2),
        *([('"a"', "i2", 3)] if quote else []),
    ]
    assert behaviour(tmp_path, "\ufeffa\ti1 i2\n\ufeffb\ti2\n") == [
        ("a", "i1", None),
        ("a", "i2", None),
        ("b", "i2", None),
    ]


def test_quotes_may_follow_a_backslash_or_mean_nothing(tmp_path):
    path = write(tmp_path / "X_items.csv", 'item_id,title\ni1,"12\\" pizza, 1"\ni2,"C:\\\\"\ni3,plain\n')
    with pytest.raises(ValueError, match=r":2: .*breaks CSV quoting.*quoting=\"backslash\""):
        read_items(path)
    expected = ['12" pizza, 1', "C:\\", "plain"]
    assert read_items(path, TableOptions(quoting="backslash"))["text_en"].to_list() == expected
    path = write(tmp_path / "X_items.tsv", 'item_id\ttitle\ni1\t"Quoted" start\ni2\tlast "word"\n')
    with pytest.raises(ValueError, match=r":2: .*breaks CSV quoting.*quoting=\"none\""):
        read_items(path)
    expected = ['"Quoted" start', 'last "word"']
    assert read_items(path, TableOptions(quoting="none"))["text_en"].to_list() == expected
    path = write(tmp_path / "X_pairs.csv", 'user,item,time\n"a\\"b",i1,1\nc,i2,2\n')
    assert interactions_in(path, IDS, quoting="backslash") == [('a"b', "i1", 1), ("c", "i2", 2)]
    assert interactions_in(path, IDS, quoting="none") == [('"a\\"b"', "i1", 1), ("c", "i2", 2)]


@pytest.mark.parametrize(
    "option", [{"quoting": "single"}, {"separator": '"'}, {"separator": ""}, {"encoding": "gbkk"}]
)
def test_options_of_texts_are_checked(option):
    with pytest.raises(ValueError, match=f"^{next(iter(option))} must be"):
        TableOptions(**option)
    with pytest.raises(ValueError, match="quotes mean nothing"):
        TableOptions(separator="::", quoting="double")


def test_separators_of_ascii_are_no_white_space(tmp_path):
    """The same in both tables, whichever reader reads them."""
    assert items(tmp_path, "i\x1f,一,b\n\x1f,二,d\n") == [("i\x1f", "一", "b"), ("\x1f", "二", "d")]
    ids = pl.Series(["i\x1f", "\x1f"])
    assert pairs(tmp_path, "u,i\x1f,1\nu,\x1f,2\n", ids) == [("u", "i\x1f", 1), ("u", "\x1f", 2)]
    path = tmp_path / "X_behaviour.tsv"
    with pytest.raises(ValueError, match=r"X_behaviour\.tsv:1: 1 columns where 2"):
        interactions_in(write(path, "\x1f\n"), IDS)


@pytest.mark.parametrize(
    ("item_id", "why"),
    [
        ("i2.0", "are these files of the same data set"),
        ("7.0", "'7.0' may be '007', but one of them has zeros before the number"),
        ("\ufeffI1", "'.*I1' may be 'i1', but they differ in capitals"),
        ("i1\u200b", "may be 'i1', but they differ in invisible characters"),
    ],
)
@pytest.mark.parametrize("header", ["", "user_id,item_id,timestamp\n"])
def test_why_no_item_is_known(tmp_path, item_id, why, header):
    with pytest.raises(ValueError, match=why):
        pairs(tmp_path, f"{header}u,{item_id},1\n")
