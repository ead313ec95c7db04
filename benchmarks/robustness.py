"""What other people's files are read as: right, refused with a sentence, or wrong.

    python benchmarks/robustness.py --label now
    python benchmarks/robustness.py --label before        # in a checkout of an older version
    python benchmarks/robustness.py page

The same 12 users and 20 items are written as many layouts say, each in several forms (separators, compressions,
encodings, line ends, Parquet, JSON lines), and read by `load_dataset`. Histories and titles are compared with those
that were written. Where a layout says too little to be read with certainty, an error that names the file is as right.
Released layouts are made from their documentation; none of the files is somebody's data. Results are added to
`benchmarks/results/robustness.json`; `page` writes `robustness.md` beside it, with those of `robustness_use.py`.
"""

import argparse
import bz2
import collections
import datetime
import decimal
import gzip
import io
import json
import logging
import lzma
import os
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow as pa

import modeling_transrec  # noqa: F401  # registers ninerec


RESULTS = Path(__file__).parent / "results"
START = 1_600_000_000
ITEMS = [(f"B{n:03d}", f"Title {n}, of the café") for n in range(20)]
USERS = [f"A{n:03d}" for n in range(12)]
# user u has the items u, u + 3, u + 6, …; nobody has one twice
ROWS = [
    (user, ITEMS[(number + 3 * step) % 20][0], START + 86_400 * step + number, 1 + (number + step) % 5)
    for step in range(7)
    for number, user in enumerate(USERS)
]
RIGHT, REFUSED, WRONG, BARE = "right", "clear error", "wrong", "traceback"


@dataclass
class Case:
    """One data set as files.

    Args:
        layout: whose layout it is.
        form: how its tables are written.
        files: their contents by name, under a folder.
        options: of `load_dataset`.
        ids: what users and items are called, by their names here; by default as here.
        may_be_refused: whether an error is as good as the right histories, since the files say too little.
    """

    layout: str
    form: str
    files: dict[str, bytes]
    options: dict[str, Any] = field(default_factory=dict)
    ids: Callable[[str], str] = str
    may_be_refused: bool = False


def delimited(header: list[str] | None, rows: list[tuple], separator: str = ",") -> str:
    """Returns a table as text; fields with the separator, a quote or a line break are quoted."""

    def write(value: Any) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if any(one in text for one in (separator, '"', "\n")) else text

    lines = ([header] if header else []) + [list(row) for row in rows]
    return "".join(separator.join(map(write, line)) + "\n" for line in lines)


def json_lines(names: list[str], rows: list[tuple]) -> str:
    """Returns a table as one JSON object a line."""
    return "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def parquet(names: list[str], rows: list[tuple]) -> bytes:
    """Returns a table as a Parquet file."""
    buffer = io.BytesIO()
    pl.DataFrame([dict(zip(names, row, strict=True)) for row in rows], infer_schema_length=None).write_parquet(buffer)
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    """Returns content as Zstandard compresses it."""
    return pa.Codec("zstd").compress(content, asbytes=True)


COMPRESSIONS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def forms(names: list[str], rows: list[tuple]) -> Iterator[tuple[str, str, bytes]]:
    """Yields a table with a header in many forms: what the form is, the suffix, the bytes."""
    comma = delimited(names, rows)
    yield "CSV", ".csv", comma.encode()
    yield "CSV, upper-case suffix", ".CSV", comma.encode()
    yield "CSV, byte order mark", ".csv", b"\xef\xbb\xbf" + comma.encode()
    yield "CSV, lines of Windows", ".csv", comma.replace("\n", "\r\n").encode()
    yield "CSV, no last line end", ".csv", comma.rstrip("\n").encode()
    yield "CSV, empty lines", ".csv", comma.replace("\n", "\n\n", 3).encode()
    yield "CSV, all quoted", ".csv", quoted(names, rows).encode()
    yield "CSV of semicolons", ".csv", delimited(names, rows, ";").encode()
    yield "CSV of bars", ".csv", delimited(names, rows, "|").encode()
    yield "CSV of tabs", ".csv", delimited(names, rows, "\t").encode()
    yield "TSV", ".tsv", delimited(names, rows, "\t").encode()
    yield "text of tabs", ".txt", delimited(names, rows, "\t").encode()
    yield "UTF-16", ".csv", comma.encode("utf-16")
    yield "Latin-1", ".csv", comma.encode("latin-1")
    yield "JSON lines", ".jsonl", json_lines(names, rows).encode()
    yield "Parquet", ".parquet", parquet(names, rows)
    for suffix, compress in COMPRESSIONS.items():
        yield f"CSV, {suffix}", f".csv{suffix}", compress(comma.encode())
    yield "JSON lines, .gz", ".jsonl.gz", gzip.compress(json_lines(names, rows).encode())


def quoted(names: list[str], rows: list[tuple]) -> str:
    """Returns a table with quotes around every field."""
    return "".join(",".join(f'"{value}"' for value in row) + "\n" for row in [tuple(names), *rows])


def plain_cases() -> Iterator[Case]:
    """The two tables with the usual names, in every form."""
    interactions = forms(["user_id", "item_id", "timestamp"], [row[:3] for row in ROWS])
    items = forms(["item_id", "title"], ITEMS)
    for (form, suffix, content), (_, _, titles) in zip(interactions, items, strict=True):
        # Latin-1 is not told from other encodings with certainty.
        unsure = form in ("Latin-1", "UTF-16")
        yield Case(
            "two tables", form, {f"X_interactions{suffix}": content, f"X_items{suffix}": titles}, may_be_refused=unsure
        )
    comma = {
        "X_interactions.csv": delimited(["user_id", "item_id", "timestamp"], [row[:3] for row in ROWS]).encode(),
        "X_items.csv": delimited(["item_id", "title"], ITEMS).encode(),
    }
    for stem, names, rows in (
        ("X_interactions", ["item", "user", "time"], [(item, user, time) for user, item, time, _ in ROWS]),
        ("X_items", ["sku", "title", "stock"], [(item, title, 3) for item, title in ITEMS]),
    ):
        options = {"columns": {"items.item_id": "sku"}} if stem == "X_items" else {}
        for form, suffix, content in forms(names, rows):
            others = {name: table for name, table in comma.items() if not name.startswith(f"{stem}.")}
            unsure = form in ("Latin-1", "UTF-16") and stem == "X_items"
            layout = f"two tables, {stem[2:]} in another form"
            yield Case(layout, form, {f"{stem}{suffix}": content, **others}, options, may_be_refused=unsure)
    ids = {name: str(n) for n, name in enumerate([*USERS, *(one for one, _ in ITEMS)])}
    numbered = [(ids[user], ids[item], time) for user, item, time, _ in ROWS]
    titled = [(ids[item], title) for item, title in ITEMS]
    for name, make in (
        ("ids as integers", int),
        ("ids as decimals", float),
        ("ids as UUIDs", lambda one: str(uuid.UUID(int=int(one) + 1))),
    ):

        def meant(one: str, make=make) -> str:
            return str(make(ids[one])).removesuffix(".0")

        for form, write, suffix in (
            ("CSV", delimited, ".csv"),
            ("Parquet", parquet, ".parquet"),
            ("JSON lines", json_lines, ".jsonl"),
        ):
            convert = decimal.Decimal if make is float and form == "Parquet" else make  # as databases write them
            rows = [(convert(user), convert(item), time) for user, item, time in numbered]
            texts = [(convert(item), title) for item, title in titled]
            tables = write(["user_id", "item_id", "timestamp"], rows), write(["item_id", "title"], texts)
            files = {
                f"{stem}{suffix}": table if isinstance(table, bytes) else table.encode()
                for stem, table in zip(("X_interactions", "X_items"), tables, strict=True)
            }
            kept = meant if form == "Parquet" else (lambda one, make=make: str(make(ids[one])))  # where ids are texts
            yield Case(name, form, files, ids=kept)


def time_cases() -> Iterator[Case]:
    """Times as people write them."""

    def day(time: int, pattern: str) -> str:
        return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime(pattern)

    written: dict[str, Callable[[int], Any]] = {
        "milliseconds": lambda time: time * 1000,
        "microseconds": lambda time: time * 1_000_000,
        "fractions of seconds": lambda time: f"{time}.125",
        "ISO 8601": lambda time: day(time, "%Y-%m-%dT%H:%M:%SZ"),
        "ISO 8601 with a fraction": lambda time: day(time, "%Y-%m-%d %H:%M:%S.250"),
        "date and time": lambda time: day(time, "%Y-%m-%d %H:%M:%S"),
        "days": lambda time: day(time, "%Y-%m-%d"),
        "days without dashes": lambda time: day(time, "%Y%m%d"),
        "days, month first": lambda time: day(time, "%m/%d/%Y"),
        "days, day first": lambda time: day(time, "%d.%m.%Y"),
    }
    titles = delimited(["item_id", "title"], ITEMS).encode()
    for name, write in written.items():
        rows = [(user, item, write(time)) for user, item, time, _ in ROWS]
        for form, table, suffix in (
            ("CSV", delimited(["user_id", "item_id", "timestamp"], rows).encode(), ".csv"),
            ("Parquet", parquet(["user_id", "item_id", "timestamp"], rows), ".parquet"),
        ):
            files = {f"X_interactions{suffix}": table, "X_items.csv": titles}
            yield Case(f"times: {name}", form, files, may_be_refused="first" in name or "without" in name)


def released_cases() -> Iterator[Case]:
    """Layouts of data sets as they are released, made from their documentation."""
    triples = [row[:3] for row in ROWS]
    rated = [(user, item, rating, time) for user, item, time, rating in ROWS]
    number = {name: str(n + 1) for n, name in enumerate([*USERS, *(one for one, _ in ITEMS)])}
    movies = [(number[item], title, "Drama|Comedy") for item, title in ITEMS]
    votes = [(number[user], number[item], rating, time) for user, item, rating, time in rated]

    def numbered(one: str) -> str:
        return number[one]

    yield Case("NineRec", "behaviour and item", nine(behaviour=True))
    yield Case("NineRec", "pair and item", nine(behaviour=False))
    yield Case(
        "MovieLens, csv",
        "ratings.csv renamed",
        {
            "X_interactions.csv": delimited(["userId", "movieId", "rating", "timestamp"], votes).encode(),
            "X_items.csv": delimited(["movieId", "title", "genres"], movies).encode(),
        },
        ids=numbered,
    )
    for suffix in (".dat", ".csv"):
        yield Case(
            "MovieLens, ::",
            suffix,
            {
                f"X_interactions{suffix}": "".join("::".join(map(str, row)) + "\n" for row in votes).encode("latin-1"),
                f"X_items{suffix}": "".join("::".join(row) + "\n" for row in movies).encode("latin-1"),
            },
            ids=numbered,
            may_be_refused=True,
        )
    reviews = ["reviewerID", "asin", "overall", "unixReviewTime", "reviewText"]
    texts = [(*row, 'He said "no", twice.\nThen a line.') for row in rated]
    yield Case(
        "Amazon Reviews 2018",
        "JSON lines",
        {
            "X_interactions.jsonl": json_lines(reviews, texts).encode(),
            "X_items.jsonl": json_lines(["asin", "title", "brand"], [(*one, "Brand") for one in ITEMS]).encode(),
        },
        {"columns": {"user_id": "reviewerID", "timestamp": "unixReviewTime"}},
    )
    yield Case(
        "Amazon Reviews 2018",
        "JSON lines, .gz, no columns named",
        {
            "X_interactions.json.gz": gzip.compress(json_lines(reviews, texts).encode()),
            "X_items.json.gz": gzip.compress(
                json_lines(["asin", "title", "brand"], [(*one, "B") for one in ITEMS]).encode()
            ),
        },
        may_be_refused=True,
    )
    yield Case(
        "Amazon Reviews 2023",
        "rating CSV",
        {
            "X_interactions.csv": delimited(
                ["user_id", "parent_asin", "rating", "timestamp"],
                [(user, item, float(rating), time * 1000) for user, item, rating, time in rated],
            ).encode(),
            "X_items.jsonl": json_lines(["parent_asin", "title"], ITEMS).encode(),
        },
        {"columns": {"item_id": "parent_asin"}},
    )

    def long(one: str) -> str:
        return one.ljust(10 if one.startswith("B") else 14, "0")

    headerless = [(long(user), long(item), float(rating), time) for user, item, rating, time in rated]
    named = {"X_items.csv": delimited(["item_id", "title"], [(long(item), title) for item, title in ITEMS]).encode()}
    by_item = [(item, user, *rest) for user, item, *rest in headerless]
    for year, rows in (("2014", headerless), ("2018", by_item)):
        table = {"X_interactions.csv": delimited(None, rows).encode()}
        yield Case(f"Amazon Reviews {year}", "ratings only, without a header", {**table, **named}, ids=long)
    described = [(item, title, "Brand", ["B001"]) for item, title in ITEMS]
    yield Case(
        "Amazon Reviews 2018",
        "JSON lines, no columns named, related items",
        {
            "X_interactions.json": json_lines(reviews, texts).encode(),
            "X_items.json": json_lines(["asin", "title", "brand", "also_buy"], described).encode(),
        },
    )
    yield Case(
        "MovieLens, u.data and u.item",
        "renamed",
        {
            "X_interactions.tsv": delimited(None, votes, "\t").encode(),
            "X_items.txt": "".join(
                f"{one}|{title}|01-Jan-1995||http://example.org/{one}|0|1|0\n" for one, title, _ in movies
            ).encode("latin-1"),
        },
        {"encoding": "latin-1"},
        ids=numbered,
        may_be_refused=True,  # a title has commas
    )
    yield Case(
        "KuaiRec",
        "big_matrix and captions",
        {
            "X_interactions.csv": delimited(
                "user_id video_id play_duration video_duration time date timestamp watch_ratio".split(),
                [
                    (number[u], number[i], 900, 1000, str(datetime.datetime.fromtimestamp(t)), 20200705, t + 0.25, 0.9)
                    for u, i, t in triples
                ],
            ).encode(),
            "X_items.csv": delimited(
                ["video_id", "manual_cover_text", "caption", "topic_tag"],
                [(number[item], "UNKNOWN", title, "[]") for item, title in ITEMS],
            ).encode(),
        },
        ids=numbered,
    )
    yield Case(
        "Steam",
        "reviews and games, JSON lines",
        {
            "X_interactions.jsonl": json_lines(
                ["username", "hours", "product_id", "date", "text"],
                [
                    (u, 13.1, number[i], str(datetime.datetime.fromtimestamp(t, datetime.UTC).date()), "good")
                    for u, i, t in triples
                ],
            ).encode(),
            "X_items.jsonl": json_lines(
                ["id", "app_name", "release_date"], [(number[item], title, "2017-12-24") for item, title in ITEMS]
            ).encode(),
        },
        ids=lambda one: one if one in USERS else number[one],
    )
    added = "%a %b %d %H:%M:%S -0000 %Y"
    yield Case(
        "Goodreads",
        "as released",
        {
            "X_interactions.jsonl": json_lines(
                ["user_id", "book_id", "rating", "date_added", "date_updated", "read_at"],
                [
                    (u, i, r, datetime.datetime.fromtimestamp(t, datetime.UTC).strftime(added), "", "")
                    for u, i, r, t in rated
                ],
            ).encode(),
            "X_items.jsonl": json_lines(
                ["book_id", "title", "title_without_series"], [(item, title, title) for item, title in ITEMS]
            ).encode(),
        },
    )
    yield Case(
        "RecBole",
        ".inter and .item",
        {
            "X.inter": delimited(["user_id:token", "item_id:token", "timestamp:float"], triples, "\t").encode(),
            "X.item": delimited(["item_id:token", "title:token_seq"], ITEMS, "\t").encode(),
        },
    )
    yield Case(
        "MicroLens",
        "pairs and titles",
        {
            "X_pairs.csv": delimited(
                ["user", "item", "timestamp"], [(number[u], number[i], t) for u, i, t in triples]
            ).encode(),
            "X_title_en.csv": delimited(None, [(number[item], title) for item, title in ITEMS]).encode(),
        },
        ids=numbered,
    )
    yield Case(
        "Retailrocket",
        "events",
        {
            "X_interactions.csv": delimited(
                ["timestamp", "visitorid", "event", "itemid", "transactionid"],
                [(time * 1000, number[user], "view", number[item], None) for user, item, time in triples],
            ).encode(),
            "X_items.csv": delimited(["itemid", "title"], [(number[item], title) for item, title in ITEMS]).encode(),
        },
        {"columns": {"user_id": "visitorid"}},
        ids=numbered,
    )
    yield Case(
        "KuaiRand",
        "log",
        {
            "X_interactions.csv": delimited(
                ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click"],
                [(u, i, 20220408, 1200, t * 1000, 1) for u, i, t in triples],
            ).encode(),
            "X_items.csv": delimited(["video_id", "title"], ITEMS).encode(),
        },
        {"columns": {"timestamp": "time_ms"}},
    )
    yield Case(
        "H&M",
        "transactions",
        {
            "X_interactions.csv": delimited(
                ["t_dat", "customer_id", "article_id", "price"],
                [(datetime.datetime.fromtimestamp(t, datetime.UTC).date(), u, i, 0.05) for u, i, t in triples],
            ).encode(),
            "X_items.csv": delimited(["article_id", "prod_name"], ITEMS).encode(),
        },
        {"columns": {"timestamp": "t_dat", "text_en": "prod_name"}},
    )
    yield Case(
        "Goodreads",
        "JSON lines",
        {
            "X_interactions.jsonl": json_lines(
                ["user_id", "book_id", "rating", "read_at"], [(u, i, r, t) for u, i, r, t in rated]
            ).encode(),
            "X_items.jsonl": json_lines(["book_id", "title"], ITEMS).encode(),
        },
        {"columns": {"item_id": "book_id", "timestamp": "read_at"}},
    )
    yield Case(
        "Yelp",
        "JSON lines",
        {
            "X_interactions.jsonl": json_lines(
                ["review_id", "user_id", "business_id", "stars", "date"],
                [
                    (f"r{n}", u, i, r, str(datetime.datetime.fromtimestamp(t, datetime.UTC))[:19])
                    for n, (u, i, r, t) in enumerate(rated)
                ],
            ).encode(),
            "X_items.jsonl": json_lines(["business_id", "name"], ITEMS).encode(),
        },
        {"columns": {"item_id": "business_id"}},
    )
    lists = collections.defaultdict(list)
    for user, item, *_ in ROWS:
        lists[user].append(item)
    both = collections.defaultdict(list)
    for user, _, time, _ in ROWS:
        both[user].append(time)
    titles = {"X_items.csv": delimited(["item_id", "title"], ITEMS).encode()}
    histories = [(user, found) for user, found in lists.items()]
    yield Case("lists", "Parquet", {"X_interactions.parquet": parquet(["user_id", "item_ids"], histories), **titles})
    yield Case(
        "lists",
        "JSON lines",
        {"X_interactions.jsonl": json_lines(["user_id", "item_ids"], histories).encode(), **titles},
    )
    as_text = [(user, json.dumps(found)) for user, found in histories]
    yield Case(
        "lists", "CSV of JSON", {"X_interactions.csv": delimited(["user_id", "item_ids"], as_text).encode(), **titles}
    )
    as_python = [(user, str(found)) for user, found in histories]
    yield Case(
        "lists",
        "CSV of Python",
        {"X_interactions.csv": delimited(["user_id", "item_ids"], as_python).encode(), **titles},
    )
    timed = [(user, lists[user], both[user]) for user in lists]
    yield Case(
        "Yambda",
        "Parquet",
        {"X_interactions.parquet": parquet(["user_id", "item_ids", "timestamps"], timed), **titles},
    )


def nine(behaviour: bool) -> dict[str, bytes]:
    """Returns files in NineRec's own layout."""
    items = {"X_item.csv": delimited(None, [(item, "", title) for item, title in ITEMS]).encode()}
    if not behaviour:
        return {"X_pair.csv": delimited(None, [row[:3] for row in ROWS]).encode(), **items}
    found = collections.defaultdict(list)
    for user, item, *_ in ROWS:
        found[user].append(item)
    lines = "".join(f"{user}\t{' '.join(one)}\n" for user, one in found.items())
    return {"X_behaviour.tsv": lines.encode(), **items}


def column_cases() -> Iterator[Case]:
    """Columns in other orders, and columns that may be taken for others."""
    titles = {"X_items.csv": delimited(["item_id", "title"], ITEMS).encode()}
    table = {"user_id": [r[0] for r in ROWS], "item_id": [r[1] for r in ROWS], "timestamp": [r[2] for r in ROWS]}
    more = {
        "rating": [r[3] for r in ROWS],
        "id": list(range(len(ROWS))),
        "price": [1.5] * len(ROWS),
        "ip": ["1.2.3.4"] * len(ROWS),
    }
    orders = [
        ["timestamp", "item_id", "user_id"],
        ["item_id", "timestamp", "user_id"],
        ["id", "user_id", "item_id", "timestamp"],
        ["user_id", "item_id", "rating", "timestamp"],
        ["user_id", "rating", "timestamp", "item_id", "price", "ip"],
    ]
    for order in orders:
        rows = list(zip(*({**table, **more}[name] for name in order), strict=True))
        for form, content, suffix in (
            ("CSV", delimited(order, rows).encode(), ".csv"),
            ("Parquet", parquet(order, rows), ".parquet"),
        ):
            yield Case(
                "columns in another order",
                f"{form}: {', '.join(order)}",
                {f"X_interactions{suffix}": content, **titles},
            )
    unsure = [
        (["user_id", "book", "rating"], [(u, i, r) for u, i, _, r in ROWS]),
        (["a", "b", "c"], [(u, i, t) for u, i, t, _ in ROWS]),
        (["user_id", "item_id", "created_at", "updated_at"], [(u, i, t, START) for u, i, t, _ in ROWS]),
        (
            ["user_id", "item_id", "product_id", "timestamp"],
            [(u, f"r{n}", i, t) for n, (u, i, t, _) in enumerate(ROWS)],
        ),
        (["id", "customer", "sku"], [(n, u, i) for n, (u, i, _, _) in enumerate(ROWS)]),
    ]
    for names, rows in unsure:
        for form, content, suffix in (
            ("CSV", delimited(names, rows).encode(), ".csv"),
            ("Parquet", parquet(names, rows), ".parquet"),
        ):
            yield Case(
                "columns that may be others",
                f"{form}: {', '.join(names)}",
                {f"X_interactions{suffix}": content, **titles},
                may_be_refused=True,
            )
    interactions = {
        "X_interactions.csv": delimited(["user_id", "item_id", "timestamp"], [r[:3] for r in ROWS]).encode()
    }
    tables = [
        (["item_id", "genre", "title"], [(i, "Drama", t) for i, t in ITEMS]),
        (["row", "item_id", "title"], [(n, i, t) for n, (i, t) in enumerate(ITEMS)]),
        (["id", "item_id", "title"], [(n, i, t) for n, (i, t) in enumerate(ITEMS)]),
        (["item_id", "price", "title", "url"], [(i, 1.5, t, f"http://x/{i}") for i, t in ITEMS]),
    ]
    for names, rows in tables:
        for form, content, suffix in (
            ("CSV", delimited(names, rows).encode(), ".csv"),
            ("Parquet", parquet(names, rows), ".parquet"),
        ):
            yield Case(
                "items with more columns",
                f"{form}: {', '.join(names)}",
                {**interactions, f"X_items{suffix}": content},
                may_be_refused="id" in names,  # two columns may be the id
            )


def quote_cases() -> Iterator[Case]:
    """Texts with quotes, as CSV writers and people leave them."""
    interactions = {
        "X_interactions.csv": delimited(["user_id", "item_id", "timestamp"], [r[:3] for r in ROWS]).encode()
    }
    plain = "item_id,title\n" + "".join(f'{item},"{title}"\n' for item, title in ITEMS)
    lines = plain.splitlines()
    for form, change in (
        ("a quote that is not closed", {5: lines[5].rstrip('"')}),
        ("two quotes that are not closed", {5: lines[5].rstrip('"'), 9: lines[9].rstrip('"')}),
        ("an inch", {5: f'{ITEMS[4][0]},A pipe of 5"'}),
        ("backslashes", {5: f'{ITEMS[4][0]},"A \\"quoted\\" word"'}),
    ):
        changed = [change.get(number, line) for number, line in enumerate(lines)]
        yield Case(
            "unbalanced quotes",
            form,
            {**interactions, "X_items.csv": "\n".join(changed).encode() + b"\n"},
            may_be_refused=True,
        )


def cases() -> list[Case]:
    """Returns all cases."""
    makers = (plain_cases, time_cases, released_cases, column_cases, quote_cases)
    return [case for make in makers for case in make()]


def judge(case: Case, folder: Path) -> tuple[str, str]:
    """Returns how a case was read, and what went wrong."""
    place = folder / "data"
    for name, content in case.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    where = {"data_dir": str(place), "cache_dir": str(folder / "cache"), **case.options}
    try:
        loaded = datasets.load_dataset("ninerec", "X", **where)
        items = datasets.load_dataset("ninerec", "X_items", **where)["train"]
    except Exception as error:
        return _judge_error(case, error, place)
    found = {row["user_id"]: [*row["item_ids"], row["target"]] for row in loaded["test"]}
    expected = collections.defaultdict(list)
    for user, item, *_ in sorted(ROWS, key=lambda row: row[2]):
        expected[case.ids(user)].append(case.ids(item))
    if found != dict(expected):
        return WRONG, f"histories: {next(iter(found.items()), None)}"
    texts = {row["item_id"]: row["text_en"] or row["text_zh"] for row in items}
    meant = {case.ids(item): title for item, title in ITEMS}
    if case.layout == "unbalanced quotes":
        named = [item for item in meant if texts.get(item) is None or "\n" in texts[item]]
    else:
        named = [item for item, title in meant.items() if texts.get(item) != title]
    return (WRONG, f"titles of {named[:3]}: {[texts.get(item) for item in named[:3]]}") if named else (RIGHT, "")


def _judge_error(case: Case, error: Exception, place: Path) -> tuple[str, str]:
    message = str(error)
    is_sentence = isinstance(error, ValueError | OSError) and (
        str(place) in message or any(n in message for n in case.files)
    )
    if not is_sentence:
        return BARE, "".join(traceback.format_exception_only(error)).strip()[:300]
    return (REFUSED if case.may_be_refused else f"{REFUSED}, though it can be read"), message[:300].replace(
        str(place), "DATA"
    )


def run(label: str) -> None:
    """Reads all cases and records how."""
    record: list[dict] = []
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            kind, why = judge(case, Path(folder))
        record.append({"layout": case.layout, "form": case.form, "kind": kind, "why": why})
        if kind not in (RIGHT, REFUSED):
            print(f"{kind}: {case.layout}, {case.form}: {why}", flush=True)
    path = RESULTS / "robustness.json"
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    everything[label] = record
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(dict(collections.Counter(one["kind"] for one in record)))


def page() -> None:
    """Writes the page from the record."""
    everything = json.loads((RESULTS / "robustness.json").read_text(encoding="utf-8"))
    labels = [label for label in ("before", "now") if label in everything]
    layouts = dict.fromkeys(one["layout"] for one in everything[labels[-1]])
    kinds = [RIGHT, REFUSED, f"{REFUSED}, though it can be read", WRONG, BARE]
    lines = ["# Other people's files", ""]
    lines += [*(__doc__ or "").split("\n\n")[2].splitlines(), ""]
    lines += [f"Each cell: {' / '.join(kinds)}.", ""]
    lines += [f"| layout | data sets | {' | '.join(labels)} |", "|---|---:|" + "---|" * len(labels)]

    def cell(label: str, layout: str | None) -> str:
        found = collections.Counter(one["kind"] for one in everything[label] if layout in (None, one["layout"]))
        return " / ".join(str(found[kind]) for kind in kinds)

    for layout in layouts:
        count = sum(one["layout"] == layout for one in everything[labels[-1]])
        lines.append(f"| {layout} | {count} | {' | '.join(cell(label, layout) for label in labels)} |")
    total = len(everything[labels[-1]])
    lines.append(f"| **all** | **{total}** | {' | '.join(f'**{cell(label, None)}**' for label in labels)} |")
    lines += ["", "```bash", "python benchmarks/robustness.py --label now", "```", ""]
    lines += use_lines(everything)
    lines += [
        "```bash",
        "python benchmarks/robustness_use.py --label now",
        "python benchmarks/robustness.py page",
        "```",
    ]
    lines += [""]
    (RESULTS / "robustness.md").write_text("\n".join(lines), encoding="utf-8")


def use_lines(everything: dict[str, list[dict]]) -> list[str]:
    """Returns the part of the page about training and use, a row a case."""
    before, now = ({one["form"]: one for one in everything[f"use, {label}"]} for label in ("before", "now"))
    lines = [
        "## Training and use",
        "",
        "What people of Hugging Face libraries try, with tiny models and data; what comes of it is checked. Before is",
        "commit f24d8ea, the last one before all this was tried; an option that it does not have is a traceback.",
        "",
        "| | case | before | now |",
        "|---|---|---|---|",
    ]
    lines += [f"| {one['layout']} | {name} | {before[name]['kind']} | {one['kind']} |" for name, one in now.items()]
    counts = [collections.Counter(one["kind"] for one in record.values()) for record in (before, now)]
    found = [", ".join(f"{count} {kind}" for kind, count in sorted(one.items())) for one in counts]
    return [*lines, f"| | **all {len(now)}** | **{found[0]}** | **{found[1]}** |", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="run", choices=["run", "page"])
    parser.add_argument("--label", default="now")
    args = parser.parse_args()
    os.environ.pop("NINEREC_DATA_DIR", None)
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    page() if args.what == "page" else run(args.label)


if __name__ == "__main__":
    main()
