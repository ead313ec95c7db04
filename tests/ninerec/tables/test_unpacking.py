"""Tables that are compressed or in other encodings than UTF-8."""

import bz2
import codecs
import gzip
import lzma
import zipfile

import pyarrow as pa
import pytest

from modeling_transrec.ninerec.files import find_files, find_names
from modeling_transrec.ninerec.tables import unpacking
from modeling_transrec.ninerec.tables.options import TableOptions


ITEMS = "item_id,title\n" + "".join(f"i{n},Amélie {n} 标题\n" for n in range(9))
PAIRS = "user_id,item_id,timestamp\n" + "".join(f"u{n % 3},i{n % 9},{n}\n" for n in range(36))


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def read(folder, **options):
    files = find_files("X", folder)
    items, sequences = files.read(folder.parent / "unpacked", TableOptions(**options))
    return items["text_en"].to_list() + items["text_zh"].to_list(), sequences.items.tolist()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "X_items.csv").write_text(ITEMS, encoding="utf-8")
    (tmp_path / "data" / "X_interactions.csv").write_text(PAIRS, encoding="utf-8")
    return tmp_path / "data"


def replace(folder, name, content, more=""):
    (folder / name).unlink(missing_ok=True)
    (folder / f"{name}{more}").write_bytes(content)


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("in_archive", [False, True])
def test_compressed_tables(folder, packing, in_archive):
    expected = read(folder)
    pack = PACKERS[packing]
    half = PAIRS.index("u1")
    parts = pack(PAIRS[:half].encode()) + pack(PAIRS[half:].encode())  # as `cat a.gz b.gz` makes it
    for name, content in (("X_items.csv", pack(ITEMS.encode())), ("X_interactions.csv", parts)):
        replace(folder, name, content, packing.upper())
    if in_archive:
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for path in folder.glob("*.[!z]*" if packing.upper() != ".ZST" else "*.ZST"):
                if path.suffix != ".zip":
                    archive.write(path, f"inside/{path.name}")
                    path.unlink()
    assert find_names(folder) == ["X"]
    assert read(folder) == expected
    unpacked = {path: path.stat().st_mtime_ns for path in (folder.parent / "unpacked").rglob("*.csv")}
    assert read(folder) == expected
    assert unpacked == {path: path.stat().st_mtime_ns for path in unpacked}


def test_errors_name_the_compressed_file_and_the_line(folder):
    replace(folder, "X_interactions.csv", gzip.compress(f"{PAIRS}u1,i1\n".encode()), ".gz")
    with pytest.raises(ValueError, match=r"data/X_interactions\.csv\.gz:38: 2 columns where 3"):
        read(folder)
    (folder / "X_interactions.csv").write_text(PAIRS)
    with pytest.raises(ValueError, match=r"2 candidates for X_interactions.*(?s:.*)csv\n.*csv\.gz"):
        find_files("X", folder)


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "other", "appended"])
def test_damaged_files(folder, packing, damage):
    content = PACKERS[packing](PAIRS.encode() * 50)
    content = {"cut": content[:-9], "other": PAIRS.encode(), "appended": content + b"no more of it"}[damage]
    replace(folder, "X_interactions.csv", content, packing)
    with pytest.raises(ValueError, match=rf"X_interactions\.csv{packing} is no whole {packing} file, copy it again"):
        read(folder)


def test_what_grows_without_end_is_refused(folder, monkeypatch):
    monkeypatch.setattr(unpacking, "ALWAYS_ALLOWED", 10_000)
    replace(folder, "X_interactions.csv", gzip.compress(b"u1,i1,1\n" * 10**6), ".gz")
    with pytest.raises(ValueError, match="more than 200 times as large .*unpack it yourself"):
        read(folder)
    (folder / "X_interactions.csv.gz").unlink()
    with zipfile.ZipFile(folder / "X.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X_interactions.csv", b"u1,i1,1\n" * 10**6)
    with pytest.raises(ValueError, match=r"X\.zip::X_interactions\.csv becomes more than 200 times as large"):
        read(folder)
    monkeypatch.setattr(unpacking, "ALWAYS_ALLOWED", 1 << 30)
    monkeypatch.setattr(unpacking, "SPARE", 1 << 60)
    with pytest.raises(ValueError, match="does not fit on the disk"):
        read(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-16-le", "utf-16-be", "gb18030"])
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_encodings(folder, encoding, packing):
    expected = read(folder)
    pack = PACKERS.get(packing, bytes)
    replace(folder, "X_items.csv", pack(ITEMS.replace("\n", "\r\n").encode(encoding)), packing)
    if encoding in ("utf-16", "utf-32", "utf-8-sig"):  # which have a mark
        assert read(folder) == expected
        assert read(folder, encoding="latin-1") == expected
    else:
        name = "gbk" if encoding == "gb18030" else encoding
        with pytest.raises(ValueError, match=rf'X_items\.csv{packing}:\d: .*encoding="{name}"'):
            read(folder)
        assert read(folder, encoding=encoding) == expected
    replace(folder, f"X_items.csv{packing}", pack(codecs.BOM_UTF16_LE + b"a\0\0\xd8"))
    with pytest.raises(ValueError, match=r"X_items\.csv.* is not utf-16"):
        read(folder)


def test_the_encoding_is_shown_by_what_the_text_would_be(folder):
    replace(folder, "X_items.csv", "item_id,title\ni1,Misérables\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r":2: byte 0xe9 .*gbk 'i1,Mis閞ables', .*latin-1 'i1,Misérables'"):
        read(folder)
    replace(folder, "X_items.csv", ITEMS.replace(" 标题", "").encode("latin-1"))
    assert read(folder, encoding="latin-1")[0][0] == "Amélie 0"


def test_a_table_that_is_utf8_is_read_as_what_it_is(folder):
    """Also where an encoding is given, for the other table: its bytes would be text in that one, too."""
    expected = read(folder)
    assert read(folder, encoding="gbk") == read(folder, encoding="latin-1") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(ITEMS.encode()), "let its name end in .gz"),
        (zstd(ITEMS.encode()), "let its name end in .zst"),
        (b"PK\x03\x04 and more", "let its name end in .zip, or export it as CSV"),
        (b"X_items.csv".ljust(257, b"\0") + b"ustar\x0000", "it is a tar archive: unpack it"),
        (b"PAR1 and more", "let its name end in .parquet"),
        (b"<!DOCTYPE html><html>Too many requests</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
    ],
)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_what_is_no_text_is_called_by_its_name(folder, content, message, packing):
    replace(folder, "X_items.csv", PACKERS.get(packing, bytes)(content), packing)
    with pytest.raises(ValueError, match=rf"data/X_items\.csv{packing} is no text table; .*{message}"):
        read(folder)
