"""Tables as others have released them: each is read as its documentation says, under its own file names."""

import gzip
import json
from pathlib import Path

import datasets
import pytest
from datasets import load_dataset
from PIL import Image

import modeling_transrec  # noqa: F401
from modeling_transrec.ninerec.files import find_files
from modeling_transrec.ninerec.tables.layouts import LAYOUTS, RELEASES, layout_of


ITEMS = range(1, 9)
USERS = range(1, 5)
START = 1_600_000_000


def item_of(user, step):
    return 1 + (user + 3 * step) % 8


def rows(make, separator=",", header=None):
    """Six interactions of each user, in a file that is not in time order."""
    lines = [header] if header else []
    for step in (3, 0, 5, 1, 4, 2):
        lines += [separator.join(map(str, make(user, item_of(user, step), START + 60 * step))) for user in USERS]
    return "\n".join(lines) + "\n"


def json_lines(objects):
    return "".join(json.dumps(one) + "\n" for one in objects)


def interactions(make):
    return [make(user, item_of(user, step), START + 60 * step) for step in (3, 0, 5, 1, 4, 2) for user in USERS]


def mind_rows():
    lines = []
    for number, step in enumerate((5, 4)):  # the later impression stands first
        for user in USERS:
            shown = [f"N{item_of(user, step)}-1", f"N{item_of(user, step + 1)}-0"]
            before = " ".join(f"N{item_of(user, one)}" for one in range(4))
            lines.append(
                "\t".join(
                    [f"{10 * number + user}", f"U{user}", f"11/{9 + step}/2019 9:05:58 AM", before, " ".join(shown)]
                )
            )
    return "\n".join(lines) + "\n"


DAY = "2020-09-13 2020-09-14 2020-09-15 2020-09-16 2020-09-17 2020-09-18".split()
WORDS = [f"Sun Sep 13 05:0{step}:00 -0700 2020" for step in range(6)]


def step_of(time):
    return (time - START) // 60


def steam_game(item):
    return {"genres": ["a"], "app_name": f"Game {item}", "title": "x", "release_date": "2018-01-04", "id": str(item)}


# Name of the data set, its files, what is before an item's number and a user's, and the text of item 3.
RELEASED = {
    "MIND": (
        "MIND",
        {
            "behaviors.tsv": mind_rows(),
            "news.tsv": "".join(
                f'N{item}\tsports\tfootball-nfl\t"Title {item}\tAbstract\thttps://x\t[{{"Label": "A, b"}}]\t[]\n'
                for item in ITEMS
            ),
        },
        ("N", "U", '"Title 3'),
    ),
    "MovieLens, 1M": (
        "ml-1m",
        {
            "ratings.dat": rows(lambda user, item, time: (user, item, 4, time), "::"),
            "movies.dat": "".join(f"{item}::Film {item}, The (1995)::Comedy|Children's\n" for item in ITEMS),
        },
        ("", "", "Film 3, The (1995)"),
    ),
    "MovieLens, 100K": (
        "ml-100k",
        {
            "ml-100k_interactions.tsv": rows(lambda user, item, time: (user, item, 4, time), "\t"),
            "ml-100k_items.txt": "".join(
                f"{item}|Film {item} (1995)|01-Jan-1995||http://x/?Film%20{item}|{'|'.join('0' * 19)}\n"
                for item in ITEMS
            ),
        },
        ("", "", "Film 3 (1995)"),
    ),
    "MovieLens, 25M": (
        "MovieLens",
        {
            "ratings.csv": rows(
                lambda user, item, time: (user, item, 4.5, time), header="userId,movieId,rating,timestamp"
            ),
            "movies.csv": "movieId,title,genres\n" + "".join(f'{item},"Film {item}, The",Comedy\n' for item in ITEMS),
        },
        ("", "", "Film 3, The"),
    ),
    "Amazon Reviews 2023": (
        "All_Beauty",
        {
            "All_Beauty.jsonl": json_lines(
                interactions(
                    lambda user, item, time: {
                        "rating": 5.0,
                        "title": "nice, really",
                        "text": "x",
                        "images": [],
                        "asin": f"V{item}",
                        "parent_asin": f"B{item}",
                        "user_id": f"A{user}",
                        "timestamp": 1000 * time,
                        "helpful_vote": 0,
                        "verified_purchase": True,
                    }
                )
            ),
            "meta_All_Beauty.jsonl": json_lines(
                {
                    "main_category": "All Beauty",
                    "title": f"Thing {item}",
                    "features": ["a", "b"],
                    "description": [],
                    "price": None,
                    "images": [{"large": "x"}],
                    "details": {"Brand": "x"},
                    "parent_asin": f"B{item}",
                }
                for item in ITEMS
            ),
        },
        ("B", "A", "Thing 3"),
    ),
    "Amazon Reviews 2018": (
        "Luxury_Beauty",
        {
            "Luxury_Beauty_5.json.gz": json_lines(
                interactions(
                    lambda user, item, time: {
                        "overall": 5.0,
                        "reviewTime": "09 13, 2020",
                        "reviewerID": f"A{user}",
                        "asin": f"B{item}",
                        "reviewText": "x",
                        "unixReviewTime": time,
                    }
                )
            ),
            "meta_Luxury_Beauty.json.gz": json_lines(
                {
                    "category": [],
                    "title": f"Thing {item}",
                    "also_buy": [],
                    "brand": "x",
                    "date": "",
                    "asin": f"B{item}",
                }
                for item in ITEMS
            ),
        },
        ("B", "A", "Thing 3"),
    ),
    "Amazon Reviews 2018, ratings only": (
        "AMAZON",
        {
            "AMAZON.csv": rows(lambda user, item, time: (f"B00000000{item}", f"A00000000{user}", "5.0", time)),
            "meta_AMAZON.json": json_lines(
                {"title": f"Thing {item}", "also_buy": [], "asin": f"B00000000{item}"} for item in ITEMS
            ),
        },
        ("B00000000", "A00000000", "Thing 3"),
    ),
    "KuaiRec": (
        "KuaiRec",
        {
            "big_matrix.csv": rows(
                lambda user, item, time: (
                    user,
                    item,
                    900,
                    1000,
                    "2020-07-05 00:08:23.438",
                    "20200705",
                    f"{time}.438",
                    0.9,
                ),
                header="user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio",
            ),
            "kuairec_caption_category.csv": "video_id,manual_cover_text,caption,topic_tag,first_level_category_id\n"
            + "".join(f"{item},UNKNOWN,标题 {item} ,[],8\n" for item in ITEMS),
        },
        ("", "", "标题 3 "),
    ),
    "KuaiRand": (
        "Rand",
        {
            "Rand_interactions.csv": rows(
                lambda user, item, time: (user, item, 20220411, 1900, f"{time}388", 1),
                header="user_id,video_id,date,hourmin,time_ms,is_click",
            ),
            "Rand_items.csv": "video_id,title\n" + "".join(f"{item},Video {item}\n" for item in ITEMS),
        },
        ("", "", "Video 3"),
    ),
    "H&M": (
        "HM",
        {
            "transactions_train.csv": rows(
                lambda user, item, time: (DAY[step_of(time)], f"c{user}", f"010877501{item}", 0.05, 2),
                header="t_dat,customer_id,article_id,price,sales_channel_id",
            ),
            "articles.csv": "article_id,product_code,prod_name,product_type_name,detail_desc\n"
            + "".join(f'010877501{item},0108775,Top {item},Vest,"Jersey, soft"\n' for item in ITEMS),
        },
        ("010877501", "c", "Top 3"),
    ),
    "Steam": (
        "Steam",
        {
            "steam_reviews.json.gz": "".join(
                f"{one!r}\n"
                for one in interactions(
                    lambda user, item, time: {
                        "username": f"s{user}",
                        "hours": 1.5,
                        "product_id": str(item),
                        "date": DAY[step_of(time)],
                        "text": 'it\'s "fun"',
                        "early_access": False,
                    }
                )
            ),
            "steam_games.json.gz": "".join(f"{steam_game(item)!r}\n" for item in ITEMS),
        },
        ("", "s", "Game 3"),
    ),
    "Goodreads": (
        "goodreads_poetry",
        {
            "goodreads_interactions_poetry.json.gz": json_lines(
                interactions(
                    lambda user, item, time: {
                        "user_id": f"g{user}",
                        "book_id": str(item),
                        "review_id": "r",
                        "is_read": True,
                        "rating": 5,
                        "date_added": WORDS[step_of(time)],
                        "date_updated": WORDS[0],
                        "read_at": "",
                        "started_at": "",
                    }
                )
            ),
            "goodreads_books_poetry.json.gz": json_lines(
                {"isbn": "", "book_id": str(item), "title": f"Book {item} (1)", "title_without_series": f"Book {item}"}
                for item in ITEMS
            ),
        },
        ("", "g", "Book 3 (1)"),
    ),
    "MicroLens": (
        "MicroLens-1M",
        {
            "MicroLens-1M_pairs.csv": rows(
                lambda user, item, time: (user, item, 1000 * time), header="user,item,timestamp"
            ),
            "MicroLens-1M_title.csv": "item,title\n" + "".join(f"{item},Video {item}\n" for item in ITEMS),
        },
        ("", "", "Video 3"),
    ),
    "Yambda": (
        "Yambda",
        {
            "Yambda_interactions.csv": rows(
                lambda user, item, time: (user, time, item, 1, 100, 180),
                header="uid,timestamp,item_id,is_organic,played_ratio_pct,track_length_seconds",
            ),
            "Yambda_items.csv": "item_id,title\n" + "".join(f"{item},Track {item}\n" for item in ITEMS),
        },
        ("", "", "Track 3"),
    ),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(folder: Path, files: dict[str, str]):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.mark.parametrize("release", RELEASED)
def test_released_tables(tmp_path, release):
    name, files, (before_item, before_user, text) = RELEASED[release]
    write(tmp_path / "data" / "unpacked", files)
    where = {"data_dir": str(tmp_path / "data"), "cache_dir": str(tmp_path / "hf")}
    test = load_dataset("ninerec", name, split="test", **where)
    found = {row["user_id"]: [*row["item_ids"], row["target"]] for row in test}
    expected = {f"{before_user}{user}": [f"{before_item}{item_of(user, step)}" for step in range(6)] for user in USERS}
    assert found == expected
    items = load_dataset("ninerec", f"{name}_items", split="train", **where)
    texts = {row["item_id"]: row["text_en"] or row["text_zh"] for row in items}
    assert texts[f"{before_item}3"] == text and len(texts) == 8


@pytest.mark.parametrize(
    "files, sentence",
    [
        (
            ["u.data", "u.item"],
            r"read as X_interactions.tsv and X_items.txt, with encoding=\"latin-1\": copy them",
        ),
        (["train.txt", "test.txt"], r"a line a user with items in no order.*take the tables that they were made"),
        (["australian_users_items.json.gz"], r"what users own and not when.*take steam_reviews"),
    ],
)
def test_known_files_that_are_not_read_are_named(tmp_path, files, sentence):
    write(tmp_path, dict.fromkeys(files, "1 2 3\n"))
    with pytest.raises(FileNotFoundError, match=sentence):
        find_files("X", tmp_path)


def test_every_layout_is_tried():
    """Of each row of the table there is a test, or it is of a name that another row of the same tables has."""
    tried = {release.split(",")[0] for release in RELEASED}
    assert {layout.name.split(",")[0] for layout in LAYOUTS} - tried == {"Amazon Reviews 2014"}
    assert len(RELEASES) <= len(RELEASED)


def test_ratings_of_2014_have_the_user_first(tmp_path):
    path = tmp_path / "X.csv"
    path.write_text("A1YJEY40YUW4SE,7806397051,1.0,1391040000\n")
    layout, _ = layout_of(path, "interactions")
    assert layout.name == "Amazon Reviews 2014, ratings only"


def test_covers_of_a_release_lie_beside_its_tables(tmp_path):
    name, files, _ = RELEASED["H&M"]
    write(tmp_path, files)
    (tmp_path / "images" / "010").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "010" / "0108775013.jpg")
    items = load_dataset(
        "ninerec", f"{name}_items", split="train", data_dir=str(tmp_path), cache_dir=str(tmp_path / "hf")
    )
    assert [row["item_id"] for row in items if row["image"] is not None] == ["0108775013"]


def test_options_count_more_than_a_layout(tmp_path):
    name, files, _ = RELEASED["MIND"]
    write(tmp_path, files)
    where = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path / "hf")}
    columns = {"text_en": ["column 4", "column 5"]}
    items = load_dataset("ninerec", f"{name}_items", split="train", columns=columns, **where)
    assert items[0]["text_en"] == 'Column 4: "Title 1; Column 5: Abstract'


def test_tables_of_ones_own_name_come_before_those_of_a_release(tmp_path):
    write(tmp_path, RELEASED["MIND"][1])
    own = {"MIND_items.csv": "item_id,title\nN1,Own\n", "MIND_pair.csv": "user_id,item_id\nu,N1\n"}
    write(tmp_path / "own", own)
    found = find_files("MIND", tmp_path)
    assert (found.items.name, found.interactions.name) == ("MIND_items.csv", "MIND_pair.csv")


def test_another_name_does_not_mean_a_release(tmp_path):
    write(tmp_path, RELEASED["MIND"][1])
    with pytest.raises(FileNotFoundError, match=r"No Shop_item\.csv"):
        find_files("Shop", tmp_path)


def test_two_names_of_one_table_are_no_doubt(tmp_path):
    write(tmp_path, {"X_items.csv": "item_id,title\ni1,x\n", "X_pair.csv": "user_id,item_id,time\nu,i1,1\n"})
    (tmp_path / "X_item.csv").symlink_to(tmp_path / "X_items.csv")
    (tmp_path / "X_interactions.csv").symlink_to(tmp_path / "X_pair.csv")
    assert find_files("X", tmp_path).items.read_text() == "item_id,title\ni1,x\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["X_items.csv", "X_item.csv"], r"2 candidates for one table of items"),
        (["X_items.csv", "X_item_info.tsv"], r"2 candidates for one table of items"),
        (["X_interactions.csv", "X_pair.csv"], r"2 candidates for one table of interactions"),
    ],
)
def test_two_tables_of_one_role_are_an_error(tmp_path, files, message):
    table = {"items": "item_id,title\ni1,x\n", "interactions": "user_id,item_id,time\nu,i1,1\n"}
    write(tmp_path, {"X_items.csv": table["items"], "X_interactions.csv": table["interactions"]})
    for name in files:
        write(
            tmp_path,
            {name: table["items" if "item" in name else "interactions"].replace(",", "\t" if "tsv" in name else ",")},
        )
    with pytest.raises(ValueError, match=message) as caught:
        find_files("X", tmp_path)
    assert all(name in str(caught.value) for name in files)
