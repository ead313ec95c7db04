"""A data set as a folder of Parquet files with its card: what `load_dataset(FOLDER, NAME)` and the Hub read."""

import collections
import contextlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, load_dataset, load_dataset_builder
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from modeling_transrec.data.loading import protocol_in_card, split_protocol

from .files import DERIVED, SOURCES, TARGETS
from .ninerec import ITEMS_SUFFIX


CONDITION = (
    "NineRec's authors do not allow modified copies of their data to be published: keep this to yourself, and give "
    "others the code that made it (https://github.com/westlake-repl/NineRec)."
)
PLOT = "statistics.png"
SPLITS = ("train", "validation", "test")


def export(name: str, folder: Path, max_shard_size: str = "500MB", **options) -> Path:
    """Writes the sequences and items of a data set, pictures included, and a card.

    Nothing half-written is left under the final name.

    Args:
        name: e.g. `"Bili_Food"`.
        folder: to be made; must not exist.
        max_shard_size: of a file.
        options: of the builder: `data_dir`, `min_actions`, …
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished, _each_warning_once():
        made = Path(unfinished, "made")
        for config in (name, name + ITEMS_SUFFIX):
            builder = load_dataset_builder("ninerec", config, **options)
            builder.download_and_prepare(str(made / config), file_format="parquet", max_shard_size=max_shard_size)
            (made / config / "dataset_info.json").unlink()
        for lock in made.glob("*.lock"):
            lock.unlink()
        cache = Path(unfinished, "cache")
        sequences = load_dataset("parquet", data_files=data_files(made / name, SPLITS), cache_dir=cache)
        item_files = data_files(made / f"{name}{ITEMS_SUFFIX}", ["train"])
        items = load_dataset("parquet", data_files=item_files, cache_dir=cache)["train"]
        plot = draw(sequences, items)
        if plot is not None:
            (made / PLOT).write_bytes(plot)
        write_card(name, made, sequences, items, split_protocol(builder))
        shutil.move(made, folder)
    return folder


def data_files(folder: Path, splits: Iterable[str]) -> dict[str, str]:
    """Where the files of each split are."""
    return {split: f"{folder}/ninerec-{split}*.parquet" for split in splits}


class _Once(logging.Filter):
    """Sequences and items are made from the same two tables; what is left out of these need not be told twice."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self.seen
        self.seen.add(message)
        return is_new


@contextlib.contextmanager
def _each_warning_once() -> Iterator[None]:
    once = _Once()
    loggers = [logging.getLogger(f"{__package__}.{module}") for module in ("archives", "files", "reader")]
    for logger in loggers:
        logger.addFilter(once)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(once)


def push(folder: Path, repo_id: str, private: bool = True, token: str | None = None) -> str:
    """Uploads an exported folder as a data set repository; its address.

    Raises:
        ValueError: if it is to be private, but exists already and is public.
    """
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    if private and not api.repo_info(repo.repo_id, repo_type="dataset").private:
        raise ValueError(
            f"{repo.repo_id} exists already and is public: make it private, choose another, or say --public"
        )
    api.upload_folder(folder_path=str(folder), repo_id=repo.repo_id, repo_type="dataset")
    return str(repo)


def counts(sequences: DatasetDict, items: Dataset) -> dict[str, np.ndarray]:
    """Actions of each user and on each item, over the longest history of each user and its target."""
    lengths, popularity = [], collections.Counter()
    test = sequences["test"].with_format("arrow")
    for batch in test.iter(batch_size=10_000):
        ids = batch["item_ids"].combine_chunks()
        lengths.append(pc.list_value_length(ids).to_numpy() + 1)
        for values in (pc.list_flatten(ids), batch["target"]):
            found = pc.value_counts(values)
            popularity.update(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)))
    on_items = np.array([popularity[item_id] for item_id in items["item_id"]])
    return {"users": np.concatenate(lengths), "items": on_items}


def draw(sequences: DatasetDict, items: Dataset) -> bytes | None:
    """Popularity of the items and lengths of the histories as a PNG; `None` without matplotlib (extra `card`)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    actions = counts(sequences, items)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    popular = np.sort(actions["items"])[::-1]
    left.loglog(np.arange(1, len(popular) + 1), np.maximum(popular, 0.5), color="tab:blue")
    left.set(xlabel="items, most popular first", ylabel="actions", title="popularity")
    shortest, longest = actions["users"].min(), actions["users"].max()
    bins = np.arange(shortest, longest + 2) - 0.5 if longest - shortest < 60 else 60
    right.hist(actions["users"], bins=bins, color="tab:orange")
    right.set(xlabel="actions of a user that are kept", ylabel="users", title="length of histories")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_card(name: str, folder: Path, sequences: DatasetDict, items: Dataset, protocol: dict) -> None:
    """`README.md` with the configs that `load_dataset` reads, and what a reader wants to know."""
    is_ninerec = name in (*SOURCES, *TARGETS, *DERIVED)
    configs = []
    for config, splits in ((name, SPLITS), (name + ITEMS_SUFFIX, ["train"])):
        files = [{"split": split, "path": path} for split, path in data_files(Path(config), splits).items()]
        configs.append({"config_name": config, "data_files": files})
    languages = [code for code in ("zh", "en") if any(text for text in items[f"text_{code}"])]
    data = DatasetCardData(
        pretty_name=name,
        language=languages or None,
        license="other",
        task_categories=["other"],
        tags=["recommendation", "sequential-recommendation"],
        configs=configs,
        dataset_info=[protocol_in_card(config, protocol) for config in (name, name + ITEMS_SUFFIX)],
        size_categories=[_size_category(len(sequences["test"]))],
    )
    actions = counts(sequences, items)
    with_text = sum(bool(en.strip() or zh.strip()) for en, zh in zip(items["text_en"], items["text_zh"], strict=True))
    with_image = len(items) - items.data["image"].null_count
    users = actions["users"]
    sparsity = 1 - users.sum() / (len(users) * len(items))
    rows = {
        "users": f"{len(users):,} in test; {len(sequences['train']):,} in train",
        "items": f"{len(items):,}; {with_text:,} with a text, {with_image:,} with a picture",
        "actions of the test users": f"{users.sum():,}; sparsity {sparsity:.4%}",
        "actions of a user": f"{users.min()} to {users.max()}, mean {users.mean():.1f}",
        "actions on an item": f"median {np.median(actions['items']):.0f}, at most {actions['items'].max():,}",
    }
    text = [
        f"# {name}",
        "",
        "Histories of users and the texts and pictures of items, for sequential recommendation by content.",
        "",
        *([f"> {CONDITION}", ""] if is_ninerec else []),
        "```python",
        "from datasets import load_dataset",
        "",
        f'sequences = load_dataset("THIS_REPOSITORY_OR_FOLDER", "{name}")  # train, validation, test',
        f'items = load_dataset("THIS_REPOSITORY_OR_FOLDER", "{name}{ITEMS_SUFFIX}")["train"]',
        "```",
        "",
        "To train a recommender with `modeling_transrec`: `accelerate launch examples/finetune.py --dataset_name "
        f"THIS_REPOSITORY_OR_FOLDER --dataset_config_name {name}`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in rows.items()),
        "",
        *([f"![popularity and lengths]({PLOT})", ""] if (folder / PLOT).exists() else []),
        "## Columns",
        "",
        f"`{name}`: `user_id`, `item_ids` (history, oldest first), `target` (null in train), `timestamps` (of the "
        f"history; null where unknown). `{name}{ITEMS_SUFFIX}`: `item_id`, `text_zh`, `text_en`, `image` (null where "
        "there is none).",
        "",
        "## Protocol",
        "",
        "How actions were filtered and split:",
        "",
        "```json",
        json.dumps(protocol, indent=2),
        "```",
        *(
            ["", "## Citation", "", "Zhang et al., *NineRec: A Benchmark Dataset Suite for Evaluating Transferable "]
            + ["Recommendation*, arXiv 2309.07705."]
            if is_ninerec
            else []
        ),
    ]
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(text) + "\n").save(folder / "README.md")


def _size_category(size: int) -> str:
    bounds = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((name for bound, name in bounds if size < bound), "10M<n<100M")
