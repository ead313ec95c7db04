"""Kills of `chaos.py`: training, saving, uploading, preparing and indexing end at any point, and are begun again."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from chaos_case import Case, Found, Workplace
from chaos_children import Ended, Kill, Limits, import_as_child_does, is_sentence, run_child
from huggingface_hub.errors import RepositoryNotFoundError

from modeling_transrec import (
    SAMPLE_BACKBONE,
    DataArguments,
    ModelArguments,
    Recommender,
    TransRecForSequentialRecommendation,
    TransRecTrainingArguments,
    train,
)
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.ninerec.tools.export import export, push
from modeling_transrec.training.resuming import last_whole_checkpoint


NOTHING = "nothing"
MANY_CHANGES = 5
HISTORY = ["i003", "i010", "i020"]


@dataclass
class Job:
    """A command that writes, and what tells its states apart.

    Args:
        name: what it does.
        run: the command; gets the folder that it works in.
        look: returns what lies under the final names, as text; `NOTHING` where nothing does.
        before: makes the state before the command, where there is one.
        again: the command as it is given again, by default as it was; several are given one after the other, and all
            but the last may refuse with a sentence.
        has_before: whether a state is there before, which must not be lost.
        share: its part of all kills.
    """

    name: str
    run: Callable[[Path], Any]
    look: Callable[[Path], str]
    before: Callable[[Path], Any] | None = None
    again: list[Callable[[Path], Any]] = field(default_factory=list)
    share: float = 1.0
    is_pushed: bool = False


@dataclass
class Reference:
    """What a job does when nobody kills it."""

    old: str
    new: str
    files: set[str]
    changes: int
    seconds: float
    largest_file: int
    kilobytes: int


def describe_recommender(name: str | Path, **where) -> str:
    """Returns hashes of all parts of a saved recommender: one that is mixed of two has those of neither."""
    found = Recommender.from_pretrained(name, **where)
    parts = {
        "weights": digest_of_weights(found.model),
        "processor": hash_of(found.processor.fingerprint),
        "language": found.processor.language,
        "ids": hash_of(found.item_ids),
        "titles": hash_of(found.items["text_en"][:]) if found.items is not None else None,
        "best": [one["item_id"] for one in found.recommend(HISTORY, k=5)] if found.item_ids else None,
    }
    if found.item_ids and found.scorer.transitions is not None:
        counted = found.scorer.transitions
        parts["counts"] = hash_of([round(float(one), 4) for one in counted.item_counts])
    return json.dumps(parts)


def hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def digest_of_weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.removeprefix("model.").encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()[:12]


def jobs(place: Workplace) -> list[Job]:
    """The commands that are killed."""

    def copied(name: str) -> Callable[[Path], Any]:
        return lambda folder: shutil.copytree(place.root / name, folder / "out")

    def save(folder: Path, **options) -> None:
        Recommender.from_pretrained(place.root / "second").save_pretrained(folder / "out", **options)

    def look(folder: Path) -> str:
        return describe_recommender(folder / "out") if (folder / "out" / "config.json").exists() else NOTHING

    def index(folder: Path) -> None:
        recommender = Recommender.from_pretrained(folder / "out", load_catalogue=False)
        recommender.index(place.items(), histories=place.interactions()).save_pretrained(folder / "out")

    def observe(folder: Path) -> None:
        recommender = Recommender.from_pretrained(folder / "out")
        new = {"user_id": ["new"] * 3, "item_id": ["i003", "i004", "i005"], "timestamp": [9, 10, 11]}
        if "i001" in recommender.item_ids:  # it has not been done yet
            recommender.remove_items(["i001"]).observe(new)
        recommender.save_pretrained(folder / "out")

    def index_content(folder: Path) -> None:
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        data = DataArguments(dataset_config_name="shop", data_dir=str(place.root / "data"))
        found = Recommender.from_backbone(SAMPLE_BACKBONE).index(data.load_items(20), histories=place.interactions())
        shutil.rmtree(folder / "out", ignore_errors=True)
        found.save_pretrained(folder / "out")

    return [
        Job("train", partial(train_job, place), look_at_training, again=train_again(place), share=2),
        Job("save over an older one", save, look, copied("first")),
        Job("save in several shards over one", partial(save, max_shard_size="20KB"), look, copied("first")),
        Job("save for the first time", save, look),
        Job("push a recommender", partial(push_job, place), look_at_hub, partial(push_first, place), is_pushed=True),
        Job("push a data set", partial(push_data, place), look_at_hub_data, is_pushed=True, share=0.6),
        Job("prepare a data set", partial(export_job, place), look_at_export, share=1.2),
        Job("prepare items in the cache", partial(prepare_job, place), lambda folder: NOTHING, share=1),
        Job("index over an older catalogue", index, look, copied("indexed")),
        Job("observe, remove and save", observe, look, copied("counted")),
        Job("index content for the first time", index_content, look, share=0.6),
    ]


def train_job(place: Workplace, folder: Path, resume: str | None = None, **options) -> str:
    """Trains for three epochs, each with a checkpoint."""
    args = TransRecTrainingArguments(
        str(folder / "out"),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        resume_from_checkpoint=resume,
        **options,
    )
    data = DataArguments(dataset_config_name="shop", data_dir=str(place.root / "data"))
    train(ModelArguments(modality="id", hidden_size=8, max_seq_len=10), data, args)
    return look_at_training(folder)


def train_again(place: Workplace) -> list[Callable[[Path], Any]]:
    """The same command, which may refuse, then as the refusal says."""

    def same(folder: Path) -> str:
        before = last_whole_checkpoint(folder / "out") if (folder / "out").exists() else None
        try:
            return train_job(place, folder)
        finally:
            if before is not None and not Path(before).exists() and not (folder / "out/trainer_state.json").exists():
                raise AssertionError(f"{before} was lost")

    return [same, partial(train_job, place, resume="true")]


def look_at_training(folder: Path) -> str:
    """Returns the weights of each checkpoint that counts as whole, and of the finished model, by name."""
    out, found = folder / "out", {}
    if not out.exists():
        return NOTHING
    checkpoints = [last_whole_checkpoint(out)]
    for path in [*checkpoints, *([out] if (out / "config.json").exists() else [])]:
        if path is not None:
            model = TransRecForSequentialRecommendation.from_pretrained(path)
            found["final" if path == out else Path(path).name] = digest_of_weights(model)
    return json.dumps(found) if found else NOTHING


def push_first(place: Workplace, folder: Path) -> None:
    Recommender.from_pretrained(place.root / "first").push_to_hub(f"shop/{folder.name}")


def push_job(place: Workplace, folder: Path) -> None:
    (folder / "out").mkdir(exist_ok=True)
    tempfile.tempdir = str(folder)
    Recommender.from_pretrained(place.root / "second").push_to_hub(f"shop/{folder.name}", max_shard_size="20KB")


def look_at_hub(folder: Path) -> str:
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        return describe_recommender(f"shop/{folder.name}", cache_dir=cache)


def push_data(place: Workplace, folder: Path) -> None:
    push(place.root / "exported", f"shop/{folder.name}")


def look_at_hub_data(folder: Path) -> str:
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        try:
            return describe_data(f"shop/{folder.name}", cache)
        except (RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError):
            return NOTHING
        except ValueError as error:  # an empty repository, which `create_repo` has made
            if "any data files" in str(error) or "BuilderConfig" in str(error):
                return NOTHING
            raise


def describe_data(name: str, cache: str) -> str:
    sequences = datasets.load_dataset(name, "shop", cache_dir=cache)
    items = datasets.load_dataset(name, "shop_items", cache_dir=cache)["train"]
    rows = {split: hash_of(one["item_ids"][:]) for split, one in sequences.items()}
    return json.dumps({**rows, "items": hash_of([items["item_id"][:], items["text_en"][:]])})


def export_job(place: Workplace, folder: Path) -> None:
    tempfile.tempdir = str(folder / "tmp")
    export("shop", folder / "out" / "shop", data_dir=str(place.root / "data"))


def look_at_export(folder: Path) -> str:
    if not (folder / "out" / "shop").exists():
        return NOTHING
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        return describe_data(str(folder / "out" / "shop"), cache)


def prepare_job(place: Workplace, folder: Path) -> str:
    """Reads the tables and prepares the items, both kept in the cache; returns what was made."""
    datasets.config.HF_DATASETS_CACHE = folder / "out"
    data = DataArguments(dataset_config_name="shop", data_dir=str(place.root / "data"))
    items, sequences = data.load_items(20), data.load_sequences("train", 20)
    prepared = prepare_items(items, Recommender.from_pretrained(place.root / "first").processor)
    return hash_of(
        [items["item_id"][:], sequences["item_ids"][:], [list(map(int, row)) for row in prepared["input_ids"]]]
    )


def files_of(folder: Path) -> dict[str, int]:
    """Returns the files that a job has left under its final names, with their sizes; names of caches are hashes."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def blocks_of(files: dict[str, int]) -> int:
    """Returns the kilobytes that files take on a disk."""
    return sum(4 * -(-size // 4096) for size in files.values())


def reference_of(job: Job, place: Workplace) -> Reference:
    """Runs a job to its end, and keeps what it makes."""
    folder = place.fresh(is_pushed=job.is_pushed)
    if job.before is not None:
        must(run_child(lambda: job.before(folder), folder))
    first = import_as_child_does(lambda: job.look(folder) if job.before else NOTHING, folder)
    ended = import_as_child_does(lambda: job.run(folder), folder)
    new = must(run_child(lambda: job.look(folder), folder)).value
    files = files_of(folder)
    shutil.rmtree(folder)
    return Reference(
        first.value,
        json.dumps(ended.value) if new == NOTHING else new,
        set(files),
        ended.changes,
        ended.seconds,
        max(files.values(), default=1000),
        blocks_of(files),
    )


def must(ended: Ended) -> Ended:
    if ended.error is not None or ended.died_of is not None or ended.timed_out:
        raise RuntimeError(f"the work itself fails, before anything is done to it: {ended}")
    return ended


def points(reference: Reference, count: int, rng: np.random.Generator) -> Iterator[Kill]:
    """Half of the kills are between two changes, a quarter in the midst of a file, a quarter at any time."""
    if reference.changes < MANY_CHANGES:  # what it does is on the network
        for _ in range(count):
            yield Kill(after=float(rng.uniform(0.02, 0.98) * reference.seconds))
        return
    between = count - 2 * (count // 4)
    for event in np.linspace(1, reference.changes, between).round().astype(int):
        yield Kill(event=int(event))
    for _ in range(count // 4):
        cut_at = int(np.exp(rng.uniform(0, np.log(reference.largest_file + 1))))
        yield Kill(event=int(rng.integers(1, reference.changes + 1)), cut_at=cut_at)
    for _ in range(count // 4):
        yield Kill(after=float(rng.uniform(0.02, 0.9) * reference.seconds))


def kill_and_go_on(job: Job, reference: Reference, kill: Kill, place: Workplace) -> Found:
    """Kills a job, looks at what lies there, gives the command again, and looks once more."""
    folder = place.fresh(is_pushed=job.is_pushed)
    if job.before is not None:
        must(run_child(lambda: job.before(folder), folder))
    killed = run_child(lambda: job.run(folder), folder, kill=kill, limits=Limits(seconds=120))
    if killed.error is not None:
        return Found("lost", f"it failed before it was killed: {killed.error}")
    if (wrong := judge_state(job, reference, folder)) is not None:
        return Found("lost", wrong)
    for number, command in enumerate(job.again or [job.run]):
        ended = run_child(partial(command, folder), folder, limits=Limits(seconds=120))
        if ended.error is None and ended.died_of is None and not ended.timed_out:
            break
        is_last = number + 1 == len(job.again or [job.run])
        finished = is_sentence(ended.error or {"text": "", "ours": False}, [folder.name]) and (
            not is_last or look(job, folder).value == reference.new
        )
        if not finished:
            return Found("lost", f"the command, given again: {ended.error or ended}")
    if reference.new != NOTHING:
        found = look(job, folder)
        made = json.dumps(ended.value) if found.value == NOTHING else found.value
        if made != reference.new:
            return Found("lost", f"the command, given again, made {made or found.error}, not {reference.new}")
    left = left_over(job, reference, folder)
    shutil.rmtree(folder)
    return Found("lost", f"left over: {', '.join(left[:4])}") if left else Found("held")


def left_over(job: Job, reference: Reference, folder: Path) -> list[str]:
    """Returns files that a job left beside what it makes.

    Not those in the system's folder for temporary files, nor those that `datasets` writes into its own cache, whose
    names are hashes and chance.
    """
    if job.is_pushed:
        return []
    found = set(files_of(folder)) - reference.files
    return sorted(name for name in found if not name.endswith((".arrow", "dataset_info.json")) and "/tmp" not in name)


def look(job: Job, folder: Path) -> Ended:
    return run_child(lambda: job.look(folder), folder)


def judge_state(job: Job, reference: Reference, folder: Path) -> str | None:
    """Returns what is wrong with what lies under the final names after a kill, `None` where all is right."""
    found = look(job, folder)
    if found.error is not None:
        is_first = reference.old == NOTHING
        if is_first and is_sentence(found.error, [folder.name, "out"]):
            return None  # half a first save is refused, and nothing was there before
        return f"after the kill: {found.error}"
    if job.name == "train":
        wrong = {
            name: weights
            for name, weights in json.loads(found.value if found.value != NOTHING else "{}").items()
            if weights != place_of_training(reference).get(name)
        }
        return f"weights that training never had: {wrong}" if wrong else None
    if found.value not in (reference.old, reference.new, NOTHING if reference.old == NOTHING else reference.old):
        return f"a mixture: {found.value}, neither {reference.old} nor {reference.new}"
    return None


def place_of_training(reference: Reference) -> dict[str, str]:
    return json.loads(reference.old)


def cases(place: Workplace, num_kills: int, seed: int) -> Iterator[Case]:
    """Yields the kills; a job is run to its end first, when its first case is."""
    found = jobs(place)
    total, rng = sum(job.share for job in found), np.random.default_rng(seed)
    for job in found:
        count = max(2, round(num_kills * job.share / total))
        known: list[Reference] = []

        def reference(job=job, known=known) -> Reference:
            if not known:
                known.append(training_reference(place) if job.name == "train" else reference_of(job, place))
            return known[0]

        draws = int(rng.integers(2**31))
        for number in range(count):

            def run(job=job, number=number, count=count, draws=draws, reference=reference) -> Found:
                all_points = [*points(reference(), count, np.random.default_rng(draws))]
                found = kill_and_go_on(job, reference(), all_points[number], place)
                return found.about(str(all_points[number]))

            yield Case(f"kill: {job.name}", str(number), run)


def training_reference(place: Workplace) -> Reference:
    """Trains to the end; the weights after each epoch are those that a killed training may have."""
    job = next(job for job in jobs(place) if job.name == "train")
    reference = reference_of(job, place)
    folder = place.fresh()
    ended = run_child(lambda: train_job(place, folder, save_total_limit=9), folder, limits=Limits(seconds=120))
    known = json.loads(must(ended).value)

    def each() -> dict[str, str]:
        return {
            path.name: digest_of_weights(TransRecForSequentialRecommendation.from_pretrained(path))
            for path in (folder / "out").glob("checkpoint-*")
        }

    known |= must(run_child(each, folder)).value
    shutil.rmtree(folder)
    reference.old = json.dumps(known)
    return reference
