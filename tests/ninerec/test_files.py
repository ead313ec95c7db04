"""`modeling_transrec.ninerec.files` on small folders written by the tests."""

import os
import zipfile

import polars as pl
import pytest

from modeling_transrec.ninerec import files
from modeling_transrec.ninerec.files import find_files, find_names
from modeling_transrec.ninerec.tables.interactions import read_sequences
from modeling_transrec.ninerec.tables.media import IMAGE, find_media


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def make_dataset(folder, name="X", timestamps=True):
    write(folder / f"{name}_item.csv", "i1,,a\n")
    return write(folder / f"{name}_pair.csv", "u,i1,3\n" if timestamps else "u,i1\n")


def test_files_are_found_at_any_depth(tmp_path):
    pair = make_dataset(tmp_path / "a" / "b")
    (tmp_path / "c" / "X_cover").mkdir(parents=True)
    for decoy in (".hidden", "__MACOSX", "Y_cover"):
        make_dataset(tmp_path / decoy)
    make_dataset(tmp_path, "XX")
    write(tmp_path / "only" / "Z_item.csv", "i1,,a\n")
    found = find_files("X", tmp_path)
    assert (found.interactions, found.images) == (pair, tmp_path / "c" / "X_cover")
    assert find_names(tmp_path) == ["X", "XX"]


def test_links_are_followed_once(tmp_path):
    make_dataset(tmp_path / "real")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "one").symlink_to(tmp_path / "real")
    (data_dir / "two").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    assert find_files("X", data_dir).items.name == "X_item.csv"
    assert len(list(files._walk(data_dir))) == 2  # data and real, each once


def test_links_to_nothing_are_left_out(tmp_path, caplog):
    (tmp_path / "X_item.csv").symlink_to(tmp_path / "absent")
    write(tmp_path / "X_pair.csv", "u,i1,3\n")
    with pytest.raises(FileNotFoundError, match=r"No X_item\.csv .*found there: none"):
        find_files("X", tmp_path)
    assert "X_item.csv is a link to nothing" in caplog.text


@pytest.mark.parametrize("name", ["X_item.csv", "X_pair.csv.gz", "X_cover.zip", "X_item.parquet"])
def test_pipes_and_devices_are_never_read(tmp_path, name, caplog):
    """Opening a pipe that nobody writes into waits forever; a device never ends."""
    os.mkfifo(tmp_path / name)
    (tmp_path / "X_behaviour.tsv").symlink_to("/dev/zero")
    with pytest.raises(FileNotFoundError, match="found there: none"):
        find_files("X", tmp_path)
    assert "X_behaviour.tsv is a pipe or a device and is left out" in caplog.text


def test_a_cover_that_is_a_pipe_or_a_link_to_itself_is_missing(tmp_path):
    make_dataset(tmp_path)
    covers = tmp_path / "X_cover"
    covers.mkdir()
    os.mkfifo(covers / "i1.jpg")
    (covers / "i2.jpg").symlink_to(covers / "i2.jpg")
    assert find_media(IMAGE, covers, ["i1", "i2"]) == [None, None]
    assert find_files("X", tmp_path).state_hash(with_media=True)


def test_any_path_and_name(tmp_path):
    """What `polars`, a shell or a URL would read as a pattern; bytes that are no UTF-8 in names of covers."""
    folder = tmp_path / "a b [x] * ? {数据} ~%20#"
    make_dataset(folder, "数据 1")
    write(folder / "数据 1_cover" / "数据 1_cover" / os.fsdecode(b"\xd6.jpg"), b"x")
    found = find_files("数据 1", str(folder) + "/")
    assert read_sequences(found.interactions, pl.Series(["i1"]), min_actions=1).timestamps.tolist() == [3]
    assert found.images == folder / "数据 1_cover" / "数据 1_cover"
    assert find_names(tmp_path) == ["数据 1"] and found.state_hash(with_media=True)


def test_state_tells_folders_apart(tmp_path):
    """Equal in name, size and time, not in content."""
    hashes = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        make_dataset(folder)
        for path in folder.iterdir():
            os.utime(path, ns=(1, 1))
        hashes.add(find_files("X", folder).state_hash(with_media=False))
    assert len(hashes) == 2


def test_several_candidates_are_listed(tmp_path):
    make_dataset(tmp_path / "one")
    make_dataset(tmp_path / "two")
    with pytest.raises(ValueError, match=r"2 candidates for X_item\.csv(?s:.*)one/X_item\.csv\n.*two/X_item\.csv"):
        find_files("X", tmp_path)


def test_preference_of_interaction_files(tmp_path):
    pair = make_dataset(tmp_path, timestamps=False)
    assert find_files("X", tmp_path).interactions == pair
    lines = write(tmp_path / "X_behaviour.tsv", "u\ti1\n")
    assert find_files("X", tmp_path).interactions == lines
    make_dataset(tmp_path, timestamps=True)
    assert find_files("X", tmp_path).interactions == pair


def test_sources_share_covers(tmp_path):
    for name in ("Bili_500K", "Bili_Food"):
        make_dataset(tmp_path, name)
    shared = tmp_path / "Source_Bili_2M_cover"
    shared.mkdir()
    assert find_files("Bili_500K", tmp_path).images == shared
    assert find_files("Bili_Food", tmp_path).images is None
    own = tmp_path / "Bili_500K_cover"
    own.mkdir()
    assert find_files("Bili_500K", tmp_path).images == own


@pytest.mark.parametrize("name", ["../X", "a/b", "", ".X", " a", "a ", "X\n"])
def test_names_are_checked(tmp_path, name):
    with pytest.raises(ValueError, match="no valid data set name"):
        find_files(name, tmp_path)


def test_missing_files_say_what_is_missing(tmp_path):
    make_dataset(tmp_path, "Y")
    write(tmp_path / "X_item.csv", "i1,,a\n")
    with pytest.raises(FileNotFoundError, match=r"No X_pair\.csv or X_behaviour\.tsv under .*found there: Y\."):
        find_files("X", tmp_path)
    write(tmp_path / "X.zip", "")
    with pytest.raises(FileNotFoundError, match=r"Not unpacked yet: X\.zip\."):
        find_files("X", tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_files("X", tmp_path / "absent")
    write(tmp_path / "Z_pair.csv.gz", "")  # such tables are read as they are
    write(tmp_path / "Z_cover.tar.gz", "")
    with pytest.raises(FileNotFoundError, match=r"Not unpacked yet: Z_cover\.tar\.gz, X\.zip\."):
        find_files("X", tmp_path)


def test_parts_of_parquet_in_an_archive_are_to_be_unpacked(tmp_path):
    write(tmp_path / "X_items.csv", "item_id,text_en\ni1,a\n")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("X_interactions.parquet/part-0.parquet", b"")
    assert find_names(tmp_path) == []
    with pytest.raises(FileNotFoundError, match=r"found there: none\. Not unpacked yet: .*X_interactions\.parquet/\."):
        find_files("X", tmp_path)


@pytest.mark.parametrize("name", ["X_cover.zip", "images.zip"])
def test_covers_at_the_top_of_an_archive(tmp_path, name, caplog):
    make_dataset(tmp_path)
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("i1.jpg", b"1")
        archive.writestr("small/i2.jpg", b"2")
    found = find_files("X", tmp_path)
    assert [one and one.name for one in find_media(IMAGE, found.images, ["i1", "i2", "i3"])] == [
        "i1.jpg",
        "small/i2.jpg",
        None,
    ]
    before = found.state_hash(with_media=True)
    with zipfile.ZipFile(tmp_path / name, "a") as archive:
        archive.writestr("i3.jpg", b"3")
    assert find_files("X", tmp_path).state_hash(with_media=True) != before
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("X_cover\\i1.jpg", b"1")
    find_files("X", tmp_path)
    assert f"{name} separates folders by backslashes" in caplog.text


def test_one_table_in_two_forms_is_refused(tmp_path):
    write(tmp_path / "X_items.csv", "item_id,text_en\ni1,a\n")
    write(tmp_path / "X_interactions.csv", "user_id,item_id,timestamp\nu,i1,3\n")
    write(tmp_path / "X_interactions.tsv", "user_id\titem_id\ttimestamp\nu\ti1\t3\n")
    with pytest.raises(ValueError, match=r"2 candidates for X_interactions(?s:.*)tions\.csv\n.*tions\.tsv"):
        find_files("X", tmp_path)
    (tmp_path / "X_interactions.tsv").unlink()
    pl.DataFrame({"item_id": ["i1"], "text_en": ["b"]}).write_parquet(tmp_path / "X_items.parquet")
    with pytest.raises(ValueError, match=r"2 candidates for X_items(?s:.*)X_items\.csv\n.*X_items\.parquet"):
        find_files("X", tmp_path)


def test_pairs_may_lie_beside_lines_a_user(tmp_path):
    """As MicroLens is released."""
    write(tmp_path / "X_titles.csv", "item,title\ni1,a\n")
    write(tmp_path / "X_pairs.csv", "user,item,timestamp\nu,i1,3\n")
    write(tmp_path / "X_pairs.tsv", "u\ti1 i1\n")
    assert find_files("X", tmp_path).interactions.name == "X_pairs.csv"
