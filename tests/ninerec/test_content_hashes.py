"""Hashes of contents: kept as long as their file is the same, and never longer."""

import hashlib
import os
import time

import pytest

from modeling_transrec.ninerec import content_hashes
from modeling_transrec.ninerec.content_hashes import ContentHashes


@pytest.fixture
def hashes(tmp_path):
    return ContentHashes(tmp_path / "cache")


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files whose contents are read."""
    names, digest = [], hashlib.file_digest

    def spy(file, *args):
        names.append(os.path.basename(file.name))
        return digest(file, *args)

    monkeypatch.setattr(content_hashes.hashlib, "file_digest", spy)
    return names


def test_a_second_start_reads_nothing(hashes, hashed, tmp_path):
    files = [tmp_path / folder / name for folder in ("a", "b") for name in ("1.csv", "2.csv")]
    for number, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{number}")
    time.sleep(content_hashes.FINE_TICK / 1e9 + 0.05)
    first = hashes.of_files(files)
    assert hashed == ["1.csv", "2.csv"] * 2
    assert ContentHashes(tmp_path / "cache").of_files(files) == first and len(hashed) == 4
    files[1].write_text("x")
    assert hashes.of_files(files) != first and hashed[4:] == ["2.csv"]


@pytest.mark.parametrize("how", ["in place", "renamed over it", "removed and made anew"])
def test_a_file_of_the_same_size_and_time_is_another(hashes, tmp_path, how):
    file = tmp_path / "1.csv"
    seen = set()
    for content in ("aa", "bb", "cc", "dd"):
        other = tmp_path / "other"
        if how == "renamed over it":
            other.write_text(content)
            other.rename(file)
        else:
            if how == "removed and made anew":
                file.unlink(missing_ok=True)
            file.write_text(content)
        os.utime(file, ns=(10**18, 10**18))
        seen.add(hashes.of_files([file]))
    assert len(seen) == 4


def test_a_folder_is_names_and_contents(hashes, tmp_path):
    folder = tmp_path / "a"
    (folder / "x").mkdir(parents=True)
    (folder / "x" / "1").write_text("1")
    first = hashes.of_folder(folder)
    (folder / ".lock").write_text("hidden")
    assert hashes.of_folder(folder) == first
    folder = folder.rename(tmp_path / "b")
    assert hashes.of_folder(folder) == first
    (folder / "x" / "1").rename(folder / "x" / "2")
    assert hashes.of_folder(folder) != first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert len(ContentHashes(tmp_path / "cache").of_files([tmp_path / "cache"])) == 64
