import errno
import itertools
import json
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from modeling_transrec import AutoModelForSequentialRecommendation, TransRecModel, TransRecProcessor
from modeling_transrec.models.checkpoint_files import load_config
from modeling_transrec.models.whole_saves import finish_save, whole_save, write_whole


def contents(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in files.items() if not name.startswith("_")}


def save(folder: Path, text: str, names=("config.json", "model.safetensors", "catalogue/items")) -> None:
    with whole_save(folder) as unfinished:
        for name in names:
            (unfinished / name).parent.mkdir(exist_ok=True)
            (unfinished / name).write_text(text)


def killed_at(step: int, action) -> bool:
    """Runs a function in a process of its own that dies before its n-th step on the disk; whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    steps = itertools.count()

    def counted(real):
        return lambda *args, **kwargs: os._exit(9) if next(steps) == step else real(*args, **kwargs)

    owners = [(Path, name) for name in ("rename", "replace", "unlink", "mkdir", "touch", "chmod", "write_text")]
    for owner, name in (*owners, (os, "fsync"), (os, "rmdir"), (os, "unlink")):
        setattr(owner, name, counted(getattr(owner, name)))
    action()
    os._exit(0)


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_save_that_is_killed_anywhere_is_the_old_one_or_the_new_one(stride, tmp_path):
    """The older one is sharded, and has a file more; what others put there stays."""
    old_names = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "notes.txt")
    found, step = set(), 0
    while True:
        folder = tmp_path / str(step)
        save(folder, "old", old_names)
        (folder / "runs").mkdir()
        (folder / "runs" / "log").write_text("mine")
        was_killed = killed_at(step, lambda folder=folder: save(folder, "new"))
        finish_save(folder)
        after = contents(folder)
        assert after.pop("runs/log") == "mine" and after.pop("notes.txt") == "old"
        assert len(set(after.values())) == 1, f"a mixture after step {step}: {after}"
        version = after["config.json"]
        assert set(after) == (set(old_names) - {"notes.txt"} if version == "old" else {*after, "model.safetensors"})
        assert not any("-of-" in name for name in after) or version == "old"
        found.add(version)
        save(folder, "newest")  # left-overs are in nobody's way
        assert set(contents(folder).values()) == {"newest", "mine", "old"}
        assert not [path for path in folder.iterdir() if path.name.startswith("_")]
        if not was_killed:
            break
        step += stride
    assert found == {"old", "new"} and step > 10


def test_a_full_disk_leaves_the_older_save(make_model, tmp_path, monkeypatch):
    make_model("id").save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fails)
    with pytest.raises(
        OSError, match=f"no room left for what is written into {tmp_path}; what was saved there before"
    ):
        make_model("id", hidden_size=16).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_new_weights_are_not_loaded_with_an_old_processor(make_model, id_processor, tmp_path):
    """Two calls, as users of transformers write them, in either order; the process may end between them."""
    make_model("id").save_pretrained(tmp_path)
    id_processor.save_pretrained(tmp_path)
    other = TransRecProcessor(item_ids=id_processor.item_ids[::-1])
    make_model("id").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the processor in .* is of an older save than the model"):
        TransRecProcessor.from_pretrained(tmp_path)
    assert TransRecModel.from_pretrained(tmp_path) is not None
    other.save_pretrained(tmp_path)
    assert TransRecProcessor.from_pretrained(tmp_path).item_ids == other.item_ids
    id_processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the model in .* is of an older save than the processor"):
        AutoModelForSequentialRecommendation.from_pretrained(tmp_path)
    model = make_model("id")
    model.save_pretrained(tmp_path)
    assert TransRecModel.from_pretrained(tmp_path) and TransRecProcessor.from_pretrained(tmp_path)


def test_one_part_that_was_loaded_from_a_folder_may_be_saved_there_alone(make_model, id_processor, tmp_path):
    make_model("id").save_pretrained(tmp_path)
    id_processor.save_pretrained(tmp_path)
    model, processor = TransRecModel.from_pretrained(tmp_path), TransRecProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        model.item_encoder.id_embedding.weight.zero_()
    model.save_pretrained(tmp_path)
    assert not TransRecModel.from_pretrained(tmp_path).item_encoder.id_embedding.weight.any()
    processor.save_pretrained(tmp_path)
    assert TransRecProcessor.from_pretrained(tmp_path).item_ids == id_processor.item_ids


def test_an_interrupted_save_is_ended_by_whoever_loads(make_model, id_processor, tmp_path):
    def save_both(hidden_size):
        with whole_save(tmp_path) as folder:
            make_model("id", hidden_size=hidden_size).save_pretrained(folder)
            id_processor.save_pretrained(folder)

    save_both(16)
    save_both(32)
    for path in list(tmp_path.iterdir()):  # as if the process had been killed before it moved anything
        (tmp_path / "_whole").mkdir(exist_ok=True)
        path.rename(tmp_path / "_whole" / path.name)
    names = [path.name for path in (tmp_path / "_whole").iterdir()]
    (tmp_path / "_whole" / "_journal.json").write_text(json.dumps({"files": names, "removed": []}))
    assert load_config(tmp_path).hidden_size == 32
    assert TransRecModel.from_pretrained(tmp_path).config.hidden_size == 32 and not (tmp_path / "_whole").exists()


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_a_journal_reaches_nothing_outside_of_its_folder(name, tmp_path):
    folder = tmp_path / "folder"
    (folder / "_whole").mkdir(parents=True)
    (tmp_path / "outside").write_text("mine")
    (folder / "_whole" / "_journal.json").write_text(json.dumps({"files": [], "removed": [name]}))
    with pytest.raises(ValueError, match="lies outside of the folder"):
        TransRecModel.from_pretrained(folder)
    assert (tmp_path / "outside").read_text() == "mine"


def test_files_have_the_mode_of_the_umask(make_model, tmp_path):
    before = os.umask(0o027)
    try:
        make_model("id").save_pretrained(tmp_path)
        write_whole(tmp_path / "note.txt", "text")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors", "note.txt"), 0o640)


def test_weights_in_other_shards_leave_none_of_the_older_ones(make_model, tmp_path):
    model = make_model("id")
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter.safetensors").touch()
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    assert "model.safetensors" not in shards and "adapter.safetensors" in shards and len(shards) > 2
    model.save_pretrained(tmp_path, variant="small")
    assert shards < {path.name for path in tmp_path.glob("*.safetensors")}
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"config.json"}
    kept = {"model.safetensors", "model.small.safetensors", "adapter.safetensors"}
    assert {path.name for path in tmp_path.glob("*.safetensors")} == kept
    assert safetensors.torch.load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
