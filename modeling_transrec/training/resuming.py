"""Checkpoints to resume from: which of them are whole, and how one is resumed with other batches."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..evaluation.ranks import of_main_process
from ..models.folder_locks import locked
from ..models.whole_saves import finish_save


logger = logging.getLogger(__name__)

TRAINER_STATE_NAME = "trainer_state.json"
ARGUMENTS_NAME = "training_args.json"
_OPTIMIZER_NAME, _SCHEDULER_NAME = "optimizer.pt", "scheduler.pt"
# Names that start with "_" are never published.
_RUNNING_NAME = "_running"
_ALL_RESULTS_NAME = "all_results.json"
_RESUMED, _COPIED = "_resumed-", "_copied-"
_LEFT_OVERS = (f"{_RESUMED}*", f"{_COPIED}*", "_*.unfinished", "_unfinished", "checkpoint-*/_unfinished")


def checkpoints_in(output_dir: str | os.PathLike) -> list[Path]:
    """Returns the folders of checkpoints, whole or not."""
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted(path for path in found if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdigit())


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns what a file of a checkpoint says, or `None` if it is missing or cut off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def last_whole_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Returns the checkpoint of the latest epoch that was written to its end, or `None` if there is none at all.

    The main process writes the Trainer's state last, and every process that trained its random state. A run that was
    killed while saving leaves some of them missing or cut off. Where every checkpoint lacks random states, the latest
    is taken all the same: its weights are whole, and a training is not begun anew beside them.
    """
    found: list[tuple[float, int, str]] = []
    incomplete: list[tuple[float, int, str]] = []
    for folder in checkpoints_in(output_dir):
        state, damaged = read_json(folder / TRAINER_STATE_NAME), damaged_file(folder)
        if state is None or damaged is not None:
            logger.warning(
                "%s was not written to its end (%s) and is passed over", folder, damaged or TRAINER_STATE_NAME
            )
            continue
        missing = _missing_random_states(folder)
        (incomplete if missing else found).append((state.get("epoch") or 0, folder.stat().st_mtime_ns, str(folder)))
    if incomplete:
        what = "are passed over" if found else "the latest is taken: dropout will draw other numbers"
        names = ", ".join(folder for _, _, folder in incomplete)
        logger.warning("%s lack the random states of some processes; %s", names, what)
    return max(found or incomplete, default=(0, 0, None))[2]


def damaged_file(folder: Path) -> str | None:
    """Returns the name of a file of a checkpoint that is cut off or missing; `None` where all are whole.

    What a file says about its own length is compared; its content is not read.
    """
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".pt", ".pth"):
                zipfile.ZipFile(path).close()
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, SafetensorError, zipfile.BadZipFile):
            return path.name
    if any(path.is_dir() for path in folder.iterdir()):
        return None  # FSDP and DeepSpeed have files of their own
    arguments = read_json(folder / ARGUMENTS_NAME) or {}
    needed = [] if arguments.get("save_only_model") else [_OPTIMIZER_NAME, _SCHEDULER_NAME]
    if not (folder / SAFE_WEIGHTS_INDEX_NAME).exists():
        needed.append(SAFE_WEIGHTS_NAME)
    else:
        needed += set((read_json(folder / SAFE_WEIGHTS_INDEX_NAME) or {}).get("weight_map", {}).values())
    return next((name for name in needed if not (folder / name).exists()), None)


def _missing_random_states(folder: Path) -> list[str]:
    """Returns the random states that the processes which wrote a checkpoint have not written."""
    arguments = read_json(folder / ARGUMENTS_NAME) or {}
    if arguments.get("save_only_model"):
        return []
    world_size = arguments.get("world_size", 1)
    names = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    return [name for name in names if not (folder / name).exists()]


def is_interrupted(output_dir: str | os.PathLike) -> bool:
    """Returns whether a folder has checkpoints of a training that did not come to its end."""
    return (Path(output_dir) / _RUNNING_NAME).exists() and bool(checkpoints_in(output_dir))


@contextlib.contextmanager
def one_training(output_dir: str | os.PathLike) -> Iterator[None]:
    """Keeps other runs from training in a folder; what killed runs have left there half-written is removed.

    The main process has the lock, see [`locked`].

    Raises:
        BlockingIOError: on every process, if another one has it.
    """
    with contextlib.ExitStack() as held:

        def begin() -> None:
            held.enter_context(locked(output_dir))
            finish_save(output_dir)
            for pattern in _LEFT_OVERS:
                for path in Path(output_dir).glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            results = Path(output_dir, _ALL_RESULTS_NAME)
            if results.exists() and read_json(results) is None:  # cut off; the Trainer would read it to add to it
                results.unlink()

        of_main_process(begin)
        yield


@contextlib.contextmanager
def marked_as_running(output_dir: str | os.PathLike, is_main_process: bool) -> Iterator[None]:
    """Marks a folder while a training runs; where it is interrupted, the mark stays."""
    mark = Path(output_dir) / _RUNNING_NAME
    if is_main_process:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    yield
    if is_main_process:
        mark.unlink(missing_ok=True)


@contextlib.contextmanager
def resumable(
    checkpoint: str | None, output_dir: str | os.PathLike, steps_per_epoch: int | None, world_size: int
) -> Iterator[str | None]:
    """Yields a checkpoint as it is resumed: where it came to in the data, whatever the batches were.

    transformers tells the epoch from the number of steps. Another batch size or number of processes has another
    number of steps in an epoch, for which the numbers of a copy are changed. What differs from an uninterrupted
    training is warned of.

    Args:
        checkpoint: the folder, or `None` where training starts from the beginning.
        output_dir: where the copy is put.
        steps_per_epoch: optimizer steps of an epoch from now on; `None` where they are not known.
        world_size: number of processes from now on.
    """
    if checkpoint is None:
        yield None
        return
    folder = Path(checkpoint)
    state, arguments = read_json(folder / TRAINER_STATE_NAME), read_json(folder / ARGUMENTS_NAME) or {}
    damaged = TRAINER_STATE_NAME if state is None else damaged_file(folder)
    if state is None or damaged is not None:
        raise ValueError(f"{checkpoint} was not written to its end: {damaged} is missing or cut off")
    before = arguments.get("world_size", world_size)
    if before != world_size:
        logger.warning(
            "%s was written by %d processes and is resumed on %d: sums are rounded in another order and dropout draws "
            "other numbers, so that the weights will not be those of an uninterrupted run bit for bit",
            checkpoint,
            before,
            world_size,
        )
    if not (folder / _SCHEDULER_NAME).exists() and arguments.get("save_only_model"):
        logger.warning(
            "%s has only the model (save_only_model): the optimizer's momentum and the learning rate's schedule start "
            "anew",
            checkpoint,
        )
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=_RESUMED) as copy:
        changed = _in_steps_of(_with_best_found(state, folder), steps_per_epoch, folder)
        if changed == state:
            yield checkpoint
            return
        for entry in folder.iterdir():
            if entry.name not in (TRAINER_STATE_NAME, _SCHEDULER_NAME):
                (Path(copy) / entry.name).symlink_to(entry.resolve())
        (Path(copy) / TRAINER_STATE_NAME).write_text(json.dumps(changed), encoding="utf-8")
        if (folder / _SCHEDULER_NAME).exists():
            schedule = torch.load(folder / _SCHEDULER_NAME, weights_only=True)
            if schedule.get("last_epoch") == state["global_step"]:
                schedule |= {"last_epoch": changed["global_step"], "_step_count": changed["global_step"] + 1}
            torch.save(schedule, Path(copy) / _SCHEDULER_NAME)
        yield copy


def _with_best_found(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a Trainer's state with the best checkpoint beside this one, where the folder has been moved."""
    best = state.get("best_model_checkpoint")
    if best and os.path.isdir(best) and (damaged := damaged_file(Path(best))):
        logger.warning(
            "The best checkpoint so far, %s, is damaged (%s): the best of the epochs from now on will be kept",
            best,
            damaged,
        )
        return {**state, "best_model_checkpoint": None, "best_metric": None, "best_global_step": None}
    if best and not os.path.isdir(best) and (folder.parent / Path(best).name).is_dir():
        return {**state, "best_model_checkpoint": str(folder.parent / Path(best).name)}
    return state


def _in_steps_of(state: dict[str, Any], steps_per_epoch: int | None, folder: Path) -> dict[str, Any]:
    """Returns a Trainer's state with its steps counted in epochs of another length."""
    epoch, best = state.get("epoch") or 0, state.get("best_model_checkpoint")
    if not epoch or steps_per_epoch is None or abs(epoch * steps_per_epoch - state["global_step"]) < 0.5:
        return state
    state, old = dict(state), round(state["global_step"] / epoch)
    logger.warning(
        "%s has %d steps in an epoch, from now on there are %d: it is resumed after %.4g epochs, with other batches "
        "than an uninterrupted run would have",
        folder,
        old,
        steps_per_epoch,
        epoch,
    )
    state["global_step"] = round(epoch * steps_per_epoch)
    if state.get("best_global_step"):
        state["best_global_step"] = round(state["best_global_step"] / old * steps_per_epoch)
    state["log_history"] = [
        {**entry, "step": round(entry["step"] / old * steps_per_epoch)} for entry in state["log_history"]
    ]
    if best:  # under a number that no later checkpoint gets
        state["best_model_checkpoint"] = str(folder.parent / f"{PREFIX_CHECKPOINT_DIR}-{state['best_global_step']}")
        _copy_best(Path(best), Path(state["best_model_checkpoint"]))
    return state


def _copy_best(best: Path, place: Path) -> None:
    """Puts the best checkpoint at the place of its new number, in place of an older one that had the number."""
    unfinished = place.with_name(f"{_COPIED}{place.name}")
    if place == best or not best.is_dir() or not PartialState().is_main_process:
        return
    shutil.copytree(best, unfinished)
    shutil.rmtree(place, ignore_errors=True)
    unfinished.replace(place)
