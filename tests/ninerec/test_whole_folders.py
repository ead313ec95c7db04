import errno
import os
import stat

import pytest
from filelock import FileLock

from modeling_transrec.ninerec.whole_folders import made_once, scratch_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_while(action):
    """Runs a function in a process of its own that ends as by SIGKILL, within its context."""
    child = os.fork()
    if not child:
        with action() as folder:
            (folder / "half").write_text("")
            os._exit(9)
    os.waitpid(child, 0)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), made_once(tmp_path / "data") as folder:
        (folder / "half").write_text("")
        raise KeyError
    for make in (lambda: made_once(tmp_path / "other"), lambda: scratch_folder(tmp_path)):
        killed_while(make)
        assert len(names(tmp_path)) == 2  # what is left and its lock, not what an earlier one left
    before = os.umask(0o027)
    with made_once(tmp_path / "data") as folder:
        assert names(folder) == []
        (folder / "whole").write_text("")
    os.umask(before)
    assert names(tmp_path) == ["data"] and names(tmp_path / "data") == ["whole"]
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o750
    with made_once(tmp_path / "data") as folder:
        assert folder is None


def test_what_living_processes_make_is_left_alone(tmp_path):
    with scratch_folder(tmp_path, "a-") as first, scratch_folder(tmp_path, "b-") as second:
        assert first.is_dir() and second.is_dir()
        with FileLock(tmp_path / ".data.lock"), pytest.raises(BlockingIOError, match="another process is making"):
            with made_once(tmp_path / "data", wait=False):
                pass
    assert [name for name in names(tmp_path) if "data" not in name] == []


def test_a_full_disk_is_a_sentence(tmp_path):
    with pytest.raises(OSError, match="no room left for .*data: make room"), made_once(tmp_path / "data"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("the data set cannot be made") from error
    assert "data" not in names(tmp_path)
