"""Columns by their meaning: however they are called and ordered, what loads is right, or the call is named."""

import datasets
import polars as pl
import pytest
from datasets import load_dataset

import modeling_transrec  # noqa: F401
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.options import TableOptions


START = 1_600_000_000
USERS, STEPS = range(1, 5), (3, 0, 5, 1, 4, 2)  # interactions are not in time order


def item_of(user, step):
    return f"i{1 + (user + 3 * step) % 8}"


def table(header, make, rows):
    lines = [",".join(map(str, make(*row))) for row in rows]
    return "\n".join([*([header] if header else []), *lines]) + "\n"


def interactions(header, columns):
    """A table whose columns are `u`ser, `i`tem, `t`ime, `r`ating, later `T`ime, `n`umber of the row, or a word."""

    def row(user, step):
        values = {
            "u": f"u{user}",
            "i": item_of(user, step),
            "t": START + 60 * step,
            "r": 5 - step % 5,
            "T": START - 60 * step,
            "n": f"i{1 + step}",
        }
        return [values.get(column, column) for column in columns.split()]

    return table(header, row, [(user, step) for step in STEPS for user in USERS])


def items(header, columns):
    """A table whose columns are: `i`tem, its `text`, a number `n`, or a word."""

    def row(item):
        values = {"i": f"i{item}", "text": f"Text {item}", "n": str(item)}
        return [values.get(column, column) for column in columns.split()]

    return table(header, row, [(item,) for item in range(1, 9)])


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    def load(pairs=None, products=None, **options):
        pairs = pairs or ("user_id,item_id,timestamp", "u i t")
        products = products or ("item_id,title", "i text")
        (tmp_path / "X_interactions.csv").write_text(interactions(*pairs))
        (tmp_path / "X_items.csv").write_text(items(*products))
        where = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path / "hf"), "catalogue": "all", **options}
        test = load_dataset("ninerec", "X", split="test", **where)
        texts = load_dataset("ninerec", "X_items", split="train", **where)
        found = {row["user_id"]: [*row["item_ids"], row["target"]] for row in test}
        return found, dict(zip(texts["item_id"], texts["text_en"], strict=True))

    return load


IN_TIME = {f"u{user}": [item_of(user, step) for step in range(6)] for user in USERS}
IN_FILE = {f"u{user}": [item_of(user, step) for step in STEPS] for user in USERS}


@pytest.mark.parametrize(
    ("pairs", "columns"),
    [
        (("timestamp,item_id,user_id", "t i u"), None),
        (("USER_ID,ITEM_ID,TIMESTAMP", "u i t"), None),
        (("userId,itemId,timestamp", "u i t"), None),
        (("User ID,Item ID,Time", "u i t"), None),
        (("user-id,item-id,created-at", "u i t"), None),
        (("timestamp,visitorid,event,itemid,transactionid", "t u view i 7"), None),
        ((",user_id,item_id,timestamp", "n u i t"), None),
        (("Unnamed: 0,user_id,item_id,timestamp", "n u i t"), None),
        (("id,user_id,item_id,created_at", "n u i t"), None),
        (("user_id,item_id,rating,timestamp", "u i r t"), None),
        (("reviewerID,asin,overall,unixReviewTime", "u i r t"), None),
        (("user_id,item_id,timestamp,weekday,hour", "u i t 3 4"), None),
        ((None, "i u t"), None),
        ((None, "u i r t"), {"user_id": "column 1", "item_id": "column 2", "timestamp": "column 4"}),
        ((None, "t i u"), {"user_id": "column 3", "item_id": "column 2", "timestamp": "column 1"}),
        (("用户,商品,时间", "u i t"), {"user_id": "用户", "item_id": "商品", "timestamp": "时间"}),
        (("user_id,item_id,start_time,end_time", "u i t T"), {"timestamp": "start_time"}),
        (("user_id,item_id,date,timestamp", "u i T t"), {"timestamp": "timestamp"}),
        (("id,user_id,film_id,time", "n u i t"), {"item_id": "film_id", "items.item_id": "item_id"}),
    ],
)
def test_interactions(load, pairs, columns):
    assert load(pairs, columns=columns)[0] == IN_TIME


@pytest.mark.parametrize(
    ("pairs", "options"),
    [
        (("user_id,item_id", "u i"), {}),
        (("user_id,item_id,rating,device", "u i r web"), {"columns": {"timestamp": None}}),
        (
            ("user_id,book_id,rating", "u i r"),
            {"columns": {"item_id": "book_id", "items.item_id": "item_id", "timestamp": None}},
        ),
        (("user_id,item_id,date", "u i T"), {"columns": {"timestamp": None}}),
        ((None, "u i r"), {"pair_columns": ["user_id", "item_id", "rating"], "columns": {"timestamp": None}}),
    ],
)
def test_without_times_the_order_of_the_file_counts(load, pairs, options):
    assert load(pairs, **options)[0] == IN_FILE


@pytest.mark.parametrize(
    ("products", "columns", "expected"),
    [
        (("id,title", "i text"), None, "Text 3"),
        (("movieId,title,genres", "i text Comedy"), None, "Text 3"),
        (("item_id,title,title_en", "i 标题 text"), None, "Text 3"),
        (("Item ID,Title", "i text"), None, "Text 3"),
        (("sku,label,brand", "i text Acme"), {"items.item_id": "sku", "text_en": "label"}, "Text 3"),
        (
            ("sku,label,brand", "i text Acme"),
            {"items.item_id": "sku", "text_en": ["label", "brand"]},
            "Label: Text 3; Brand: Acme",
        ),
        (("id,item_id,title", "n i text"), {"items.item_id": "item_id"}, "Text 3"),
        ((None, "i text Comedy"), {"items.item_id": "column 1", "text_en": "column 2"}, "Text 3"),
        ((None, "Comedy text i"), {"item_id": "column 3", "text_en": "column 2"}, "Text 3"),
    ],
)
def test_items(load, products, columns, expected):
    found, texts = load(products=products, columns=columns)
    assert found == IN_TIME and texts["i3"] == expected and len(texts) == 8


@pytest.mark.parametrize(
    ("pairs", "call"),
    [
        (
            ("customer,sku,bought_at", "u i t"),
            'columns={"user_id": "customer", "item_id": "sku", "timestamp": "bought_at"}',
        ),
        (
            ("customer,sku,units,bought_at", "u i r t"),
            'columns={"user_id": "customer", "item_id": "sku", "timestamp": "bought_at"}',
        ),
        (("session_id,item_id,timestamp", "u i t"), 'columns={"user_id": "session_id"}'),
        (("user_id,user,item_id,time", "u n i t"), 'columns={"user_id": "user_id"}'),
        (("user_id,item_id,created_at,updated_at", "u i t T"), 'columns={"timestamp": "created_at"}'),
        (("user_id,item_id,date,time_ms", "u i T t"), 'columns={"timestamp": "time_ms"}'),
        (("user_id,item_id,score", "u i r"), 'columns={"timestamp": None}'),
        (("user_id,item_id,time_utc", "u i t"), 'columns={"timestamp": "time_utc"}'),
        (("id,user_id,film_id,created_at", "n u i t"), 'columns={"item_id": "film_id"}'),
        ((None, "u i r t"), 'columns={"user_id": "column 1", "item_id": "column 2", "timestamp": "column 4"}'),
    ],
)
def test_interactions_that_leave_a_doubt(load, pairs, call):
    with pytest.raises(ValueError, match=r"X_interactions\.csv:1: ") as caught:
        load(pairs)
    assert call in str(caught.value)


@pytest.mark.parametrize("header", ["date,time", "date,hour", "Date,Time of day", "day,hour", "order_date,hourmin"])
def test_the_day_and_the_time_of_day_are_two_columns(load, header):
    first, second = header.split(",")
    message = f"X_interactions.csv:1: '{first}' and '{second}' may be the day and the time of day: join them"
    with pytest.raises(ValueError, match=message):
        load((f"user_id,item_id,{header}", "u i T t"))
    assert load((f"user_id,item_id,{header}", "u i T t"), columns={"timestamp": second})[0] == IN_TIME


@pytest.mark.parametrize(
    ("products", "call"),
    [
        (("sku,name,brand", "i text Acme"), 'columns={"item_id": "sku", "text_en": "name"}'),
        (("sku,product,category", "i text Acme"), 'columns={"item_id": "sku", "text_en": "product"}'),
        (
            ("department,price,store,title,parent_asin", "a 5 b text i"),
            'columns={"item_id": "parent_asin", "text_en": "title"}',
        ),
        (("id,item_id,title", "n i text"), 'columns={"items.item_id": "item_id"}'),
        (("item_id,title,name", "i text x"), 'columns={"text_en": "title"}'),
        (("item_id,description", "i text"), '"text_en": "description"}'),
        ((None, "i text"), 'columns={"item_id": "column 1", "text_en": "column 2"}'),
        ((None, "i text Comedy"), 'columns={"item_id": "column 1", "text_en": "column 2"}'),
        (("商品,标题", "i text"), 'columns={"item_id": "商品", "text_en": "标题"}'),
    ],
)
def test_items_that_leave_a_doubt(load, products, call):
    with pytest.raises(ValueError, match=r"X_items\.csv:1: ") as caught:
        load(products=products)
    assert call in str(caught.value)


@pytest.mark.parametrize("day", ["1714521600", "20240501", "2024-05-01", "1714521600000"])
def test_a_time_that_is_not_last_is_no_user(tmp_path, day):
    path = tmp_path / "X_interactions.csv"
    items = pl.Series([str(item) for item in range(1, 41)])
    path.write_text("".join(f"{day},{user},{1 + user * step % 40}\n" for user in range(1, 31) for step in range(9)))
    with pytest.raises(ValueError, match=r"column 1 is like one .*\"user_id\": \"column 2\", .*\"column 1\""):
        read_sequences(path, items)
    path.write_text("".join(f"{user},{1 + user * step % 40},{day}\n" for user in range(1, 31) for step in range(9)))
    assert len(read_sequences(path, items, min_actions=1)) == 30


@pytest.mark.parametrize("first", [1, 1001])
def test_what_only_looks_like_movielens_is_refused(tmp_path, first):
    path = tmp_path / "X_interactions.tsv"
    rows = [(user, 1 + user * step % 40) for user in range(1, 31) for step in range(9)]
    items = pl.Series([str(item) for item in range(first, first + 40)])
    path.write_text("".join(f"{item}\t{user}\t{1 + user % 5}\t{1600000000 + user}\n" for user, item in rows))
    with pytest.raises(ValueError, match=r"look like those of MovieLens, read by .*say which column is"):
        read_sequences(path, items)
    columns = {"user_id": "column 2", "item_id": "column 1", "timestamp": "column 4"}
    known = pl.Series([str(item) for item in range(1, 41)])
    assert len(read_sequences(path, known, min_actions=1, options=TableOptions(columns))) == 30
