"""`modeling_transrec.ninerec.download` against a `gdown` that copies local archives; no network."""

import io
import re
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import gdown
import pytest

from modeling_transrec.ninerec.tools import download
from modeling_transrec.ninerec.tools.download import DownloadError, main, unpack


FILES = {"NineRec/KU/KU_item.csv": "i1,,a b\n", "NineRec/KU/KU_pair.csv": "u,i1,3\n", "NineRec/KU_cover/i1.jpg": "x"}


def make_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_link(target):
    member = zipfile.ZipInfo("link")
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return {member: str(target)}


@pytest.fixture
def drive(monkeypatch, tmp_path):
    """What Google Drive holds; a call of `gdown.download` copies it, as a function of `(id, output)`."""
    calls = []

    def serve(content):
        def fake(*, id, output, resume):
            calls.append((id, resume))
            if isinstance(content, Exception):
                raise content
            if content is not None:
                shutil.copy(content, output)
            return output if content is not None else None

        monkeypatch.setattr(gdown, "download", fake)
        return calls

    return serve


def tree(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_targets(tmp_path, drive, capsys):
    calls = drive(make_zip(tmp_path / "x", FILES))
    data_dir = tmp_path / "data"
    assert main(["targets", "--data_dir", str(data_dir)]) == 0
    assert calls == [("15RlthgPczrFbP4U7l6QflSImK5wSGP5K", True)]
    assert tree(data_dir / "NineRec_targets") == FILES
    out = capsys.readouterr().out
    assert out.startswith("NineRec belongs to its authors") and "do not allow modified copies" in out
    assert f"The data lies in {data_dir / 'NineRec_targets'}" in out
    assert "Can be loaded: KU.\nNot found, though expected: Bili_Food, " in out
    assert f'load_dataset("ninerec", "KU", data_dir="{data_dir / "NineRec_targets"}")' in out

    (data_dir / "NineRec_targets" / "NineRec" / "KU" / "KU_pair.csv").unlink()  # as if interrupted
    untouched = data_dir / "NineRec_targets" / "NineRec" / "KU" / "KU_item.csv"
    modified = untouched.stat().st_mtime_ns
    assert main(["targets", "--data_dir", str(data_dir)]) == 0
    assert tree(data_dir / "NineRec_targets") == FILES
    assert len(calls) == 1 and untouched.stat().st_mtime_ns == modified


def test_archives_in_the_archive(tmp_path, drive):
    inner = make_zip(tmp_path / "inner", {"Bili_2M_item.csv": "i1,,a\n", "Bili_2M_pair.csv": "u,i1,3\n"}).read_bytes()
    calls = drive(make_zip(tmp_path / "x", {"a/Bili_2M.zip": inner}))
    folder = download.download("sources", tmp_path / "data")
    assert calls == [("1fR5XB-dC0CDsyZ4BvtUJJn7i3OnWJa-9", True)]
    assert (folder / "a" / "Bili_2M" / "Bili_2M_pair.csv").read_text() == "u,i1,3\n"


QUOTA_PAGE = b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title><p>Too many users have viewed or downloaded"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (QUOTA_PAGE, "quota for this file is used up for now: try again in a day. Or fetch https://drive.google.com/"),
        (b"\n<html><title> Sign\n in </title>", r"a web page came instead of the archive \(Sign in\)"),
        (b"7z\xbc\xaf\x27\x1c...", "is no zip but a 7z archive: unpack it by hand"),
        (b"", "is no zip archive"),
        (b"\0\0", "is no zip archive"),
        ("cut", "is cut off: a zip archive whose end is missing. Delete"),
        ("flipped", "is damaged .*: delete it and fetch it again"),
        (None, "Google Drive sent nothing"),
        (gdown.exceptions.FileURLRetrievalError("Too many users have viewed or"), "quota for this file is used up"),
        (ConnectionError("no route"), "The download stopped: no route. Run the command again, and it goes on"),
    ],
)
def test_what_arrived_is_checked(tmp_path, drive, capsys, content, message):
    if isinstance(content, str):
        whole = make_zip(tmp_path / "x", FILES, zipfile.ZIP_STORED).read_bytes()
        content = whole[:-60] if content == "cut" else whole.replace(b"a b\n", b"a c\n")
    if isinstance(content, bytes):
        path = tmp_path / "sent"
        path.write_bytes(content)
        content = path
    drive(content)
    assert main(["targets", "--data_dir", str(tmp_path / "data")]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    if "web page" in message or "quota" in message:
        assert not (tmp_path / "data" / "NineRec_targets.zip").exists()  # the next try fetches anew


def test_without_gdown(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gdown", None)
    assert main(["targets", "--data_dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert 'pip install "modeling_transrec[download]"' in error and str(tmp_path / "NineRec_targets.zip") in error
    make_zip(tmp_path / "NineRec_targets.zip", FILES)  # fetched with a browser
    assert main(["targets", "--data_dir", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../evil": "x"}, "leads out of the folder"),
        ({"a/../../evil": "x"}, "leads out of the folder"),
        ({"a\\..\\..\\evil": "x"}, "leads out of the folder"),
        ({"/tmp/evil": "x"}, "has an absolute path"),
        ({"C:\\evil": "x"}, "has an absolute path"),
        ({"a\nb": "x"}, "control characters"),
        (make_link("/etc"), "is a link"),
        ({"zeros": b"\0" * (3 << 20)}, "would grow 1,0.* times, to 3,145,728 bytes"),
        ({"a/b": "x", "a//b": "y"}, "is there twice"),
    ],
)
def test_malicious_archives_are_refused_whole(tmp_path, files, message):
    archive = make_zip(tmp_path / "x.zip", {"first.csv": "x", **files})
    with pytest.raises(DownloadError, match=message):
        unpack(archive, tmp_path / "data" / "x")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.zip"]
    assert not Path("/tmp/evil").exists()


def test_links_that_were_there_before_are_not_followed(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    folder.mkdir()
    (folder / "a").symlink_to(outside)
    with pytest.raises(DownloadError, match="leads out of"):
        unpack(make_zip(tmp_path / "x.zip", {"a/b/evil": "x"}), folder)
    (outside / "kept").write_text("kept")
    (folder / "file").symlink_to(outside / "kept")
    unpack(make_zip(tmp_path / "y.zip", {"file": "new!"}), folder)
    assert tree(outside) == {"kept": "kept"}
    assert (folder / "file").read_text() == "new!" and not (folder / "file").is_symlink()


def test_overlapping_files_and_full_disks_are_refused(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x.zip", {"a": "x" * 5000}, zipfile.ZIP_STORED)
    raw = archive.read_bytes()
    start = raw.index(b"PK\x01\x02")
    end = raw.index(b"PK\x05\x06")
    entries = b"".join(raw[start:end][:46] + name + raw[start + 47 : end] for name in (b"a", b"b"))
    last = raw[end:]
    last = last[:8] + (2).to_bytes(2, "little") * 2 + len(entries).to_bytes(4, "little") + last[16:]
    archive.write_bytes(raw[:start] + entries + last)
    with pytest.raises(DownloadError, match="overlap"):
        unpack(archive, tmp_path / "data")
    usage = type(shutil.disk_usage(tmp_path))(100, 93, 7)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="needs 16 bytes in .*, where 7 are free"):
        unpack(make_zip(tmp_path / "y.zip", FILES), tmp_path / "data")


def test_encrypted_archives_are_refused(tmp_path):
    raw = bytearray(make_zip(tmp_path / "x.zip", {"a": "x"}).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(magic) + offset] |= 1
    (tmp_path / "x.zip").write_bytes(raw)
    with pytest.raises(DownloadError, match="is encrypted"):
        unpack(tmp_path / "x.zip", tmp_path / "data")
    assert zipfile.is_zipfile(io.BytesIO(raw))
