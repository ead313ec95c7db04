"""The files of items: found in any folder, under any spelling of their names."""

import os
import unicodedata
import zipfile

import datasets
import pytest
from datasets import load_dataset
from PIL import Image

import modeling_transrec  # noqa: F401
from modeling_transrec.ninerec import builder
from modeling_transrec.ninerec.tables.archives import Archives, Member
from modeling_transrec.ninerec.tables.media import IMAGE, ItemFiles


COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def make(tmp_path):
    """Writes a data set with some item ids and files of a colour, and returns the colours of the items' images."""

    def make(item_ids, files):
        folder = tmp_path / "data"
        folder.mkdir()
        items = [*item_ids, *(f"more{n}" for n in range(6 - len(item_ids)))]
        (folder / "X_items.csv").write_text("item_id,text_en\n" + "".join(f"{one},text\n" for one in items))
        rows = [f"u{user},{one},{time}\n" for user in range(3) for time, one in enumerate(items)]
        (folder / "X_interactions.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
        for name, colour in files.items():
            path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else name.encode())
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                Image.new("RGB", (20, 20), colour).save(file, {"jpg": "JPEG"}.get(suffix_of(path), suffix_of(path)))
        where = {"data_dir": str(folder), "cache_dir": str(tmp_path / "hf")}
        items = load_dataset("ninerec", "X_items", split="train", **where)
        return [image and max(COLOURS, key=lambda name: -distance(image, name)) for image in items["image"]]

    return make


def suffix_of(path: bytes) -> str:
    return os.path.splitext(path.decode(errors="replace"))[1][1:].lower()


def distance(image: Image.Image, name: str) -> int:
    return sum(abs(a - b) for a, b in zip(image.convert("RGB").getpixel((9, 9)), COLOURS[name], strict=True))


@pytest.mark.parametrize(
    ("item_ids", "files", "expected"),
    [
        (["0108775015"], {"X_cover/010/0108775015.jpg": "red"}, ["red"]),  # as H&M is released
        (["i1", "i2"], {"images/a/b/i1.jpg": "red", "images/i2.jpg": "blue"}, ["red", "blue"]),
        (["i1"], {"X_images/i1.jpg": "red"}, ["red"]),
        (["i1"], {"X_cover/small/i1.jpg": "red", "X_cover/i1.png": "blue"}, ["blue"]),
        (["i1", "i2"], {"X_cover/i1.gif": "red", "X_cover/i2.avif": "lime"}, ["red", "lime"]),
        (["i1", "i2"], {"X_cover/i1.BMP": "red", "X_cover/i2.tiff": "lime"}, ["red", "lime"]),
        (["i1"], {"X_cover/i1.gif": "red", "X_cover/i1.jpg": "lime"}, ["lime"]),
        (["café"], {unicodedata.normalize("NFD", "X_cover/café.jpg"): "red"}, ["red"]),
        ([unicodedata.normalize("NFD", "café")], {"X_cover/café.jpg": "red"}, ["red"]),
        (["中文"], {"X_cover/中文.jpg".encode("gbk"): "red"}, ["red"]),
        (["中文"], {"X_cover/中文.jpg".encode("gbk").decode("cp437"): "red"}, ["red"]),
        (["中文"], {"X_cover/中文.jpg".encode().decode("cp437"): "red"}, ["red"]),
        (["i1"], {"X_cover/.thumbs/i1.jpg": "red"}, [None]),
    ],
)
def test_covers_are_found(make, item_ids, files, expected):
    assert make(item_ids, files) == [*expected, *[None] * (6 - len(expected))]


def test_two_folders_with_a_cover_of_one_item_are_an_error(make):
    message = r"X_cover: item 'i1' has a cover in two folders, a/i1\.jpg and b/i1\.jpg; keep one of them"
    with pytest.raises(ValueError, match=message):
        make(["i1"], {"X_cover/a/i1.jpg": "red", "X_cover/b/i1.jpg": "lime"})


def test_a_cover_of_an_archive_whose_names_are_gbk(tmp_path, make):
    make(["中文"], {})
    image = tmp_path / "one.png"
    Image.new("RGB", (20, 20), "red").save(image)
    with zipfile.ZipFile(tmp_path / "data" / "covers.zip", "w") as archive:
        archive.writestr("X_cover/a/中文.png".encode("gbk").decode("cp437"), image.read_bytes())
    items = load_dataset("ninerec", "X_items", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "hf"))
    items = items["train"].cast_column("image", datasets.Image(decode=False))
    assert items[0]["image"]["bytes"] == image.read_bytes()


def test_an_exact_name_comes_before_a_spelling():
    composed, apart = "é", unicodedata.normalize("NFD", "é")
    files = ItemFiles(IMAGE, [f"{composed}.jpg", f"{apart}.jpg"], [composed, apart])
    assert files.of(composed) == f"{composed}.jpg" and files.of(apart) == f"{apart}.jpg"
    in_gbk = composed.encode().decode("gbk")
    assert ItemFiles(IMAGE, [f"{composed}.jpg"], [in_gbk]).of(in_gbk) == f"{composed}.jpg"
    files = ItemFiles(IMAGE, [f"{apart}.jpg"], [composed, in_gbk])
    assert files.of(composed) == f"{apart}.jpg" and files.of(in_gbk) is None


def test_files_that_would_take_all_memory_count_as_missing(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("modeling_transrec.ninerec.tables.archives._LARGEST_FILE", 10**6)
    (tmp_path / "i1.jpg").write_bytes(bytes(10**6 + 1))
    (tmp_path / "i2.jpg").write_bytes(bytes(10**6))
    with zipfile.ZipFile(tmp_path / "covers.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("i3.jpg", bytes(3 * 10**6))
        archive.writestr("i4.jpg", b"small")
    members = [Member(tmp_path / "covers.zip", name) for name in ("i3.jpg", "i4.jpg")]
    with Archives() as archives:
        found = archives.read([str(tmp_path / "i1.jpg"), str(tmp_path / "i2.jpg"), None, *members])
    assert [None if one is None else len(one) for one in found] == [0, 10**6, None, 0, 5]
    assert "i1.jpg has 1 MB, as no image" in caplog.text and "i3.jpg has 3 MB" in caplog.text


def test_large_files_of_an_archive_are_copied_a_few_at_a_time(tmp_path, monkeypatch):
    """Two hundred files of an archive may be as large as its author likes."""
    sizes = [10, 700, 400, 2000, 5]
    with zipfile.ZipFile(tmp_path / "X_cover.zip", "w") as archive:
        for number, size in enumerate(sizes):
            archive.writestr(f"X_cover/i{number}.jpg", bytes(range(256)) * (size // 256) + bytes(size % 256))
    (tmp_path / "X_items.csv").write_text("item_id,title\n" + "".join(f"i{number},t\n" for number in range(5)))
    (tmp_path / "X_interactions.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{n % 4},i{n % 5},{n}\n" for n in range(40))
    )
    monkeypatch.setattr(builder, "BYTES_PER_TABLE", 1000)
    read, opened = [], []

    class CountedArchives(Archives):
        def read(self, files):
            read.append(len(files))
            return super().read(files)

    class CountedZip(zipfile.ZipFile):
        def __init__(self, file, *args):
            opened.append(file)
            super().__init__(file, *args)

    monkeypatch.setattr(builder, "Archives", CountedArchives)
    read_table = builder._item_tables

    def counted(*args, **files):
        with monkeypatch.context() as patch:
            patch.setattr("modeling_transrec.ninerec.tables.archives.zipfile.ZipFile", CountedZip)
            yield from read_table(*args, **files)

    monkeypatch.setattr(builder, "_item_tables", counted)
    items = load_dataset("ninerec", "X_items", data_dir=str(tmp_path), cache_dir=tmp_path / "cache")["train"]
    items = items.cast_column("image", datasets.Image(decode=False))
    assert [len(image["bytes"]) for image in items["image"]] == sizes and read == [2, 1, 1, 1]
    assert len(opened) == 1, "the list of what an archive holds is read once, not for every piece"
