import json
import multiprocessing
import os
import shutil
import sys
import time

import pytest
import torch

from modeling_transrec.models.folder_locks import locked
from modeling_transrec.training.resuming import damaged_file, last_whole_checkpoint, one_training

from ..checks import Interrupt, assert_equal_weights, weights


@pytest.fixture
def interrupted(make_trainer, tmp_path):
    """Interrupts a training after its last checkpoint, or at a step; returns how to make its trainer again."""

    def run(step=None, **options):
        options = {"save_total_limit": None, "load_best_model_at_end": False, "eval_strategy": "no", **options}
        trainer = make_trainer(callbacks=[] if step is None else [Interrupt(step)], **options)
        if step is None:
            trainer.train()
            (tmp_path / "out" / "_running").touch()  # as if it had been killed before its end
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        return trainer, lambda **changes: make_trainer(**{**options, **changes})

    return run


@pytest.mark.parametrize(
    "length",
    [{"max_steps": 6}, {"max_steps": 7, "save_strategy": "steps", "save_steps": 7}, {"num_train_epochs": 1.5}],
)
def test_a_training_that_came_to_its_last_checkpoint_takes_no_step_more(length, interrupted, tmp_path):
    """Under a constant rate every step changes all weights."""
    trainer, again = interrupted(lr_scheduler_type="constant", warmup_steps=0, **length)
    resumed = again()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == trainer.state.global_step
    assert_equal_weights(weights(resumed.model), weights(trainer.model), atol=0)


def test_a_checkpoint_is_resumed_with_what_it_was_trained_with(
    interrupted, items, train_split, validation_split, tmp_path
):
    _, again = interrupted(step=6)
    changed = items.map(lambda item: {"text_en": item["text_en"][::-1]})
    for message, changes in {
        "learning_rate 0.001, now 0.01": {"learning_rate": 0.01},
        "seed 42, now 1": {"seed": 1},
        "other histories": {"train": train_split.select(range(1, len(train_split)))},
        "other validation": {"validation": validation_split.select(range(5))},
        "model.hidden_dropout_prob 0.*, now 0.4": {"model_fields": {"hidden_dropout_prob": 0.4}},
    }.items():
        with pytest.raises(ValueError, match=f"trained with something else: .*{message}.*Resume it with"):
            again(**changes).train(resume_from_checkpoint=True)
    trainer = again()
    trainer.items = changed
    with pytest.raises(ValueError, match="something else: other items. Resume"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    again(num_train_epochs=3, per_device_train_batch_size=2).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "config.json", "scheduler.pt"])
@pytest.mark.parametrize("size", [None, 0, 100])
def test_a_cut_checkpoint_is_passed_over_for_the_one_before(name, size, checkpoints, tmp_path, caplog):
    first, last = checkpoints
    path = last / name
    if size is None:
        path.unlink()
    else:
        os.truncate(path, size)
    found = last_whole_checkpoint(last.parent)
    if (name, size) == ("config.json", None):
        return  # it is not needed to go on
    assert found == str(first)
    assert (f"{last} was not written to its end ({name})" in caplog.text) == ((name, size) != ("rng_state.pth", None))


@pytest.fixture
def checkpoints(trained_twice, tmp_path):
    """Two whole checkpoints, the older one first."""
    shutil.copytree(trained_twice, tmp_path / "out")
    return [tmp_path / "out" / name for name in ("checkpoint-4", "checkpoint-8")]


def test_an_index_of_shards_that_are_not_there(checkpoints):
    (checkpoints[0] / "model.safetensors").rename(checkpoints[0] / "model-00001-of-00002.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoints[0] / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert damaged_file(checkpoints[0]) == "model-00002-of-00002.safetensors" and damaged_file(checkpoints[1]) is None


def test_a_full_disk_is_a_sentence_and_leaves_the_checkpoint_before(make_trainer, tmp_path, monkeypatch):
    trainer, saved = make_trainer(), []
    save = torch.save

    def fails(value, path, *args):
        if "checkpoint-8" in str(path):
            raise RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 320 vs 214")
        save(value, path, *args)

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match=r"no room left for what is written into .*checkpoint-8; the checkpoints before"):
        trainer.train()
    assert not saved and last_whole_checkpoint(tmp_path / "out").endswith("checkpoint-4")


def hold_until_killed(folder, ready):
    sys.argv = ["train.py", "--hub_token", "hf_secret"]
    with locked(folder):
        ready.set()
        time.sleep(600)


def test_a_folder_has_one_writer_whose_process_is_named(make_trainer, tmp_path):
    trainer, context = make_trainer(), multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold_until_killed, args=(tmp_path / "out", ready))
    holder.start()
    assert ready.wait(60)
    with pytest.raises(BlockingIOError, match=rf"process {holder.pid} on .* writes into .*out since 2") as error:
        trainer.train()
    assert "--hub_token ***" in str(error.value) and "hf_secret" not in str(error.value)
    holder.kill()
    holder.join()
    assert (tmp_path / "out" / "_locked_by.json").exists()  # and is no obstacle
    (tmp_path / "out" / "_resumed-x").mkdir()
    (tmp_path / "out" / "_unfinished").mkdir()
    (tmp_path / "out" / "mine").mkdir()
    with one_training(tmp_path / "out"), one_training(tmp_path / "out"):
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_lock", "_locked_by.json", "mine"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(PermissionError, match="file cannot be written to: .*; choose another folder"),
        locked(tmp_path / "file"),
    ):
        pass
