"""Other layouts in the same schema: PixelRec, MicroLens, anybody's tables, zip archives."""

import datetime
import io
import os
import wave
import zipfile

import datasets
import polars as pl
import pytest
from datasets import load_dataset
from PIL import Image

import modeling_transrec  # noqa: F401
from modeling_transrec.data.arguments import DataArguments
from modeling_transrec.ninerec.files import find_names
from modeling_transrec.ninerec.tools.validate import main as validate_main


ITEMS = [(f"i{n}", f"title, {n}", f"标题 {n}") for n in range(8)]
USERS = [f"u{n}" for n in range(6)]
# user u has the items u, u + 1, … in this order
INTERACTIONS = [(f"u{u}", f"i{(u + k) % 8}", 1_600_000_000 + 86_400 * k + u) for k in range(6) for u in range(6)]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("NINEREC_DATA_DIR", raising=False)


@pytest.fixture
def load(tmp_path):
    def load(name, **kwargs):
        return load_dataset("ninerec", name, data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "hf"), **kwargs)

    return load


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def rows_of(header, rows, separator=","):
    quote = '"' if separator == "," else ""
    lines = [
        separator.join(f"{quote}{field}{quote}" if "," in str(field) else str(field) for field in row) for row in rows
    ]
    return "\n".join([*([separator.join(header)] if header else []), *lines]) + "\n"


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def check(load, name, texts, timed=True, **kwargs):
    """The sequences and texts of `INTERACTIONS` and `ITEMS`, however they were written."""
    data, items = load(name, **kwargs), load(f"{name}_items", **kwargs)["train"]
    for number, row in enumerate(data["test"]):
        expected = [f"i{(number + k) % 8}" for k in range(6)]
        assert (row["user_id"], [*row["item_ids"], row["target"]]) == (f"u{number}", expected)
        assert (row["timestamps"] is not None) == timed
        assert not timed or row["timestamps"][1] - row["timestamps"][0] == 86_400
    assert items["item_id"][:] == [item for item, _, _ in ITEMS]
    language = {"text_en": 1, "text_zh": 2}
    for column, place in language.items():
        assert items[column][:] == [row[place] if column in texts else "" for row in ITEMS]
    return items


def test_pixelrec(tmp_path, load):
    """Two files of one name, told apart by their headers; covers in a folder of their own."""
    folder = tmp_path / "data"
    write(
        folder / "interaction" / "Pixel9.csv",
        rows_of(("item_id", "user_id", "timestamp"), [(i, u, t) for u, i, t in INTERACTIONS]),
    )
    info = [(item, 5, title, "tag", "") for item, _, title in ITEMS]
    write(
        folder / "information" / "Pixel9.csv", rows_of(("item_id", "view_number", "title", "tag", "description"), info)
    )
    write(folder / "covers" / "i3.jpg", jpeg("red"))
    items = check(load, "Pixel9", ["text_zh"])
    assert items[3]["image"].size == (6, 4) and items[2]["image"] is None
    assert find_names(folder) == ["Pixel9"]


def test_microlens(tmp_path, load):
    folder = tmp_path / "data" / "MicroLens-9"
    write(folder / "MicroLens-9_pairs.csv", rows_of(("user", "item", "timestamp"), INTERACTIONS))
    write(folder / "MicroLens-9_titles.csv", rows_of(("item", "title"), [(item, title) for item, title, _ in ITEMS]))
    write(folder / "MicroLens-9_covers" / "i3.jpg", jpeg("red"))
    write(folder / "MicroLens-9_likes_and_views.txt", "i1\t5\t6\n")
    items = check(load, "MicroLens-9", ["text_en"])
    assert items[3]["image"] is not None
    (folder / "MicroLens-9_pairs.csv").unlink()
    lines = {user: [item for other, item, _ in INTERACTIONS if other == user] for user in USERS}
    write(folder / "MicroLens-9_pairs.tsv", "".join(f"{user}\t{' '.join(items)}\n" for user, items in lines.items()))
    check(load, "MicroLens-9", ["text_en"], timed=False)


def wav(num_samples=8):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, num_samples, "NONE", ""))
        file.writeframes(bytes(2 * num_samples))
    return buffer.getvalue()


@pytest.mark.parametrize("has_header", [True, False])
def test_microlens_with_audio_and_videos(tmp_path, load, has_header):
    """Its folders as they are released; videos are not read, and not listed either."""
    folder = tmp_path / "data"
    write(folder / "MicroLens-100k_pairs.csv", rows_of(("user", "item", "timestamp"), INTERACTIONS))
    write(folder / "MicroLens-100k_title_en.csv", rows_of(("item", "title"), [(i, title) for i, title, _ in ITEMS]))
    if not has_header:
        write(folder / "MicroLens-100k_title_en.csv", rows_of(None, [(item, title) for item, title, _ in ITEMS]))
    write(folder / "MicroLens-100k_covers" / "i3.jpg", jpeg("red"))
    write(folder / "MicroLens-100k_audios" / "i2.WAV", wav())
    write(folder / "MicroLens-100k_audios" / "i2.mp3", b"ID3")
    write(folder / "MicroLens-100k_audios" / "i4.flac", b"")
    write(folder / "MicroLens-100k_videos" / "i1.mp4", b"video")
    write(folder / "MicroLens-100k_videos" / "MicroLens-100k_pairs.csv", "junk")
    items = check(load, "MicroLens-100k", ["text_en"])
    assert items.features["audio"] == datasets.Audio(decode=False)
    assert [row["audio"] is not None for row in items] == [n == 2 for n in range(8)]
    assert items[2]["audio"]["path"].endswith("MicroLens-100k_audios/i2.WAV") and items[2]["audio"]["bytes"] is None
    streamed = load("MicroLens-100k_items", streaming=True)["train"]
    assert [row["audio"] for row in streamed] == items["audio"][:]


def test_audio_in_archives(tmp_path, load):
    folder = tmp_path / "data"
    write_tables(folder)
    assert "audio" not in load("X_items")["train"].column_names
    zipped(folder / "a-1.zip", **{"N/X_audio/i1.wav": wav(), "N/X_audio/i2.txt": b"x"})
    zipped(folder / "a-2.zip", **{"N/X_audio/i5.flac": b"fLaC", "N/X_cover/i1.jpg": jpeg("red")})
    items = load("X_items")["train"]
    assert {row["item_id"]: row["audio"]["bytes"] for row in items if row["audio"]} == {"i1": wav(), "i5": b"fLaC"}
    assert with_image(load) == ["i1"]
    write(folder / "X_audio" / "i7.wav", wav())  # what lies on disk comes first
    assert [row["item_id"] for row in load("X_items")["train"] if row["audio"]] == ["i7"]


COLUMNS = {"user_id": "customer", "item_id": "sku", "timestamp": "bought", "text_en": "what"}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("times", ["seconds", "dates", "floats"])
def test_anybodys_tables(tmp_path, load, suffix, times):
    """Columns of any name and order, more than are used; times as numbers or dates."""
    convert = {
        "seconds": lambda t: t,
        "floats": float,
        "dates": lambda t: datetime.datetime.fromtimestamp(t, datetime.UTC).replace(tzinfo=None),
    }[times]
    interactions = [(convert(t), "shop", u, 9.5, i) for u, i, t in INTERACTIONS]
    header = ("bought", "place", "customer", "price", "sku")
    item_header, items = ("what", "sku", "price"), [(title, item, 1) for item, title, _ in ITEMS]
    folder = tmp_path / "data"
    folder.mkdir()
    if suffix == "parquet":
        pl.DataFrame(interactions, schema=header, orient="row").write_parquet(folder / "Mine_interactions.parquet")
        pl.DataFrame(items, schema=item_header, orient="row").write_parquet(folder / "Mine_items.parquet")
    else:
        separator = {"csv": ",", "tsv": "\t"}[suffix]
        write(folder / f"Mine_interactions.{suffix}", rows_of(header, interactions, separator))
        write(folder / f"Mine_items.{suffix}", rows_of(item_header, items, separator))
    check(load, "Mine", ["text_en"], columns=COLUMNS)
    with pytest.raises(ValueError, match="no column 'buyer' for user_id: .*Mine_interactions.* has .*'customer'"):
        load("Mine", columns={**COLUMNS, "user_id": "buyer"})
    with pytest.raises(ValueError, match="no column 'words' for text_en: .*Mine_items.* has .*'what'"):
        load("Mine", columns={**COLUMNS, "text_en": "words"})
    with pytest.raises(ValueError, match="no column 'skuu' for item_id: .*Mine_items.* has .*Mine_interactions"):
        load("Mine", columns={**COLUMNS, "item_id": "skuu"})
    with pytest.raises(ValueError, match="columns must give names of"):
        load("Mine", columns={"user": "customer"})


def test_parquet_of_integers_and_their_errors(tmp_path, load):
    folder = tmp_path / "data"
    folder.mkdir()
    items = pl.DataFrame({"item_id": range(8), "title": [title for _, title, _ in ITEMS]})
    items.write_parquet(folder / "Ints_items.parquet")
    interactions = pl.DataFrame(
        [(int(u[1:]), int(i[1:]), t) for u, i, t in INTERACTIONS],
        schema=["user_id", "item_id", "timestamp"],
        orient="row",
    )
    interactions.write_parquet(folder / "Ints_interactions.parquet")
    assert load("Ints")["test"][2]["item_ids"] == ["2", "3", "4", "5", "6"]
    for change, message in [
        (interactions.with_columns(pl.col("user_id").cast(pl.Float64)), "'user_id' is of type Float64"),
        (
            interactions.with_columns(pl.when(pl.col("user_id") < 5).then("user_id").alias("user_id")),
            "row 6: empty user_id",
        ),
        (interactions.with_columns(timestamp=pl.lit("soon")), "row 1: timestamp 'soon' is no whole number"),
        (interactions.rename({"user_id": "who"}), "name no user"),
        (interactions.head(0), "has no rows"),
    ]:
        change.write_parquet(folder / "Ints_interactions.parquet")
        with pytest.raises(ValueError, match=message):
            load("Ints")
    (folder / "Ints_interactions.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="no whole Parquet file"):
        load("Ints")


def test_archives_are_read_as_they_come(tmp_path, load):
    archive = tmp_path / "data" / "deep" / "NineRec.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("NineRec/X/X_pair.csv", rows_of(None, INTERACTIONS))
        opened.writestr("NineRec/X/X_item.csv", rows_of(None, [(item, zh, en) for item, en, zh in ITEMS]))
        opened.writestr("NineRec/X/X_cover/i3.jpg", jpeg("red"))
        opened.writestr("NineRec/X/X_cover/i4.png", b"")
        opened.writestr("NineRec/X/X_cover/deeper/i5.jpg", jpeg("red"))
        opened.writestr("__MACOSX/X/X_pair.csv", b"junk")
        opened.writestr("../../X_behaviour.tsv", b"junk")
    items = check(load, "X", ["text_en", "text_zh"])
    assert [row["image"] is not None for row in items] == [n in (3, 5) for n in range(8)]
    assert find_names(tmp_path / "data") == ["X"]
    written = sorted(path.name for path in (tmp_path / "hf" / "ninerec_archives").rglob("*") if path.is_file())
    assert written == ["X_item.csv", "X_pair.csv"]
    assert not list(tmp_path.glob("X_*"))
    check(load, "X", ["text_en", "text_zh"])  # from the cache
    write(tmp_path / "data" / "X_pair.csv", rows_of(None, INTERACTIONS[:30]))  # what lies on disk comes first
    assert len(load("X")["test"][0]["item_ids"]) == 4
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(FileNotFoundError, match=r"No X_item\.csv .*Not unpacked yet: NineRec\.zip"):
        load("X_items")


def zipped(path, method=zipfile.ZIP_STORED, **members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, content in members.items():
            opened.writestr(name, content)


def write_tables(folder, name="X"):
    write(folder / f"{name}_pair.csv", rows_of(None, INTERACTIONS))
    write(folder / f"{name}_item.csv", rows_of(None, [(item, zh, en) for item, en, zh in ITEMS]))


def with_image(load, name="X_items"):
    return [row["item_id"] for row in load(name)["train"] if row["image"] is not None]


def test_covers_of_another_data_set_are_not_taken(tmp_path, load):
    """`cover` and `covers` count only in the folder that holds both tables."""
    folder = tmp_path / "data"
    write_tables(folder / "X")
    for place, name in (("one", "P"), ("two", "Q")):
        write(
            folder / place / "interaction" / f"{name}.csv", rows_of(("user_id", "item_id", "timestamp"), INTERACTIONS)
        )
        table = rows_of(("item_id", "title"), [(item, title) for item, title, _ in ITEMS])
        write(folder / place / "information" / f"{name}.csv", table)
        write(folder / place / "cover" / f"i{len(place) - 2}.jpg", jpeg("red"))
    write(folder / "two" / "cover" / "i2.jpg", jpeg("red"))
    assert with_image(load) == []
    assert with_image(load, "P_items") == ["i1"] and with_image(load, "Q_items") == ["i1", "i2"]
    write(folder / "X" / "covers" / "i5.jpg", jpeg("red"))
    assert with_image(load) == ["i5"]
    write(folder / "far" / "X_cover" / "i6.jpg", jpeg("red"))
    assert with_image(load) == ["i6"]
    write(folder / "farther" / "X_cover" / "i6.jpg", jpeg("red"))
    with pytest.raises(ValueError, match="2 candidates for X_cover"):
        load("X")


def test_covers_in_several_archives(tmp_path, load):
    folder = tmp_path / "data"
    write_tables(folder)
    zipped(folder / "drive-001.zip", **{f"N/X_cover/i{n}.jpg": jpeg("red") for n in range(4)})
    zipped(folder / "drive-002.ZIP", **{f"N/X_cover/i{n}.jpg": jpeg("red") for n in range(3, 7)})
    assert with_image(load) == [f"i{n}" for n in range(7)]
    zipped(folder / "drive-003.zip", **{"N/X_cover/i3.jpg": jpeg("blue")})
    with pytest.raises(
        ValueError, match=r"drive-00.*::N/X_cover/i3\.jpg and .*drive-003.zip::N/X_cover/i3\.jpg differ"
    ):
        load("X_items")
    (folder / "drive-003.zip").unlink()
    zipped(folder / "other.zip", **{"M/X_cover/i7.jpg": jpeg("blue")})
    with pytest.raises(ValueError, match=r"3 candidates for X_cover .*(?s:.*)other\.zip::M/X_cover/"):
        load("X_items")


def test_covers_in_an_archive_in_a_folder_of_their_name(tmp_path, load):
    write_tables(tmp_path / "data")
    zipped(tmp_path / "data" / "c.zip", **{"X_cover/X_cover/i2.jpg": jpeg("red")})
    assert with_image(load) == ["i2"]


def test_archived_covers_beside_the_tables(tmp_path, load):
    write_tables(tmp_path / "data" / "mine")
    zipped(tmp_path / "data" / "cover.zip", **{"cover/i1.jpg": jpeg("red"), "mine/covers/i2.jpg": jpeg("red")})
    assert with_image(load) == ["i2"]


def test_the_behaviour_file_is_chosen_in_an_archive_too(tmp_path, load):
    pairs = rows_of(None, [(user, item) for user, item, _ in reversed(INTERACTIONS)])
    lines = "".join(f"{u}\t{' '.join(item for user, item, _ in INTERACTIONS if user == u)}\n" for u in USERS)
    table = rows_of(None, [(item, zh, en) for item, en, zh in ITEMS])
    archive = tmp_path / "data" / "X.zip"
    zipped(archive, **{"X_item.csv": table, "X_pair.csv": pairs, "X_behaviour.tsv": lines})
    check(load, "X", ["text_en", "text_zh"], timed=False)
    zipped(archive, **{"X_item.csv": table, "X_pair.csv": rows_of(None, INTERACTIONS), "X_behaviour.tsv": lines})
    check(load, "X", ["text_en", "text_zh"])


def test_damaged_members(tmp_path, load, caplog):
    """And errors in an archive's files name the archive."""
    folder = tmp_path / "data"
    write_tables(folder)
    path = folder / "c.zip"
    zipped(path, zipfile.ZIP_DEFLATED, **{f"X_cover/i{n}.jpg": jpeg("red") + os.urandom(300) for n in range(2)})
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(content)
    assert load("X_items")["train"][1]["image"] is not None
    assert "X_cover/i0.jpg in" in caplog.text and "cannot be read and counts as missing" in caplog.text
    pair = (folder / "X_pair.csv").read_text()
    (folder / "X_pair.csv").unlink()
    zipped(path, zipfile.ZIP_DEFLATED, **{"X/X_pair.csv": pair + "u1,i1\n"})
    with pytest.raises(ValueError, match=r"data/c\.zip::X/X_pair\.csv:37: 2 columns"):
        load("X")
    content = bytearray(path.read_bytes())
    content[50:70] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.zip::X/X_pair\.csv cannot be read \(.*copy the archive again"):
        load("X")


def test_archives_within_archives_are_named(tmp_path, load):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as opened:
        opened.writestr("X_item.csv", "i1,,a\n")
    zipped(tmp_path / "data" / "outer.zip", **{"deep/Inner.ZIP": inner.getvalue()})
    with pytest.raises(FileNotFoundError, match=r"Not unpacked yet: .*outer\.zip::deep/Inner\.ZIP"):
        load("X")


def test_two_tables_with_two_names_for_the_item(tmp_path, load):
    folder = tmp_path / "data"
    write(
        folder / "X_interactions.csv",
        rows_of(("user", "item_id", "product", "time"), [(u, "no", i, t) for u, i, t in INTERACTIONS]),
    )
    write(
        folder / "X_items.csv", rows_of(("item_id", "sku", "title"), [("no", item, title) for item, title, _ in ITEMS])
    )
    columns = {"item_id": "product", "items.item_id": "sku"}
    check(load, "X", ["text_en"], columns=columns)
    with pytest.raises(ValueError, match="no column 'product' for items.item_id: .*X_items.csv has"):
        load("X", columns={"item_id": "product", "items.item_id": "product"})


def test_misspelt_columns_are_refused(tmp_path, load):
    write_tables(tmp_path / "data")
    with pytest.raises(ValueError, match="there is no column 'parent_asn' for item_id: .*X_item.csv has"):
        load("X", columns={"item_id": "parent_asn"})


def test_options_of_texts(tmp_path, load):
    """By `load_dataset`, by a command and by the arguments of all commands."""
    items = "\n".join(["item_id^title", *(f'{item}^"{title}é' for item, title, _ in ITEMS)])
    write(tmp_path / "data" / "X_items.csv", items.encode("latin-1"))
    write(tmp_path / "data" / "X_interactions.csv", rows_of(("user_id", "item_id", "timestamp"), INTERACTIONS, "^"))
    options = {"separator": "^", "quoting": "none", "encoding": "latin-1"}
    expected = [f'"{title}é' for _, title, _ in ITEMS]
    assert load("X_items", **options)["train"]["text_en"] == expected
    data = DataArguments(dataset_config_name="X", data_dir=str(tmp_path / "data"), **options)
    assert data.loading_kwargs(20).items() >= options.items()
    assert list(data.load_items(20)["text_en"]) == expected
    arguments = ["X", "--data_dir", str(tmp_path / "data")]
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert validate_main(arguments) == 1 and validate_main([*arguments, *given]) == 0


def test_folders_are_no_tables_of_text(tmp_path, load, caplog):
    write_tables(tmp_path / "data")
    write(tmp_path / "data" / "X_pairs.csv" / "part-0.csv", "u1,i1,1\n")
    load("X")
    assert "X_pairs.csv is a folder and is left out: only Parquet files are parts of a table" in caplog.text
