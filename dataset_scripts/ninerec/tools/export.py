"""Convert a data set to Parquet files with a card, to be loaded by any script with --dataset_name FOLDER.

    transrec prepare-data --dataset_config_name Bili_Food --data_dir DATA --output_dir prepared/bili_food
    transrec prepare-data --dataset_config_name my_shop --output_dir prepared/my_shop \\
        --interactions sales.parquet --items products.csv --covers images/ \\
        --columns '{"user_id": "customer", "item_id": "sku", "timestamp": "bought_at", "text_en": "product"}'

The folder is what `load_dataset(FOLDER, NAME)` and the Hub read.
"""

import argparse
import collections
import contextlib
import hashlib
import io
import json
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, load_dataset, load_dataset_builder
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from ..builder import ITEMS_SUFFIX
from ..builder import SPLITS as SPLIT_STRATEGIES
from ..files import DERIVED, SOURCES, TARGETS
from ..protocol import PROTOCOL_FILE
from ..whole_folders import made_once
from .options import add_table_options, boolean, table_options
from .own_tables import add_own_tables, in_own_words, linked


CONDITION = (
    "NineRec's authors do not allow modified copies of their data to be published: keep this to yourself, and give "
    "others the code that made it (https://github.com/westlake-repl/NineRec)."
)
CITATION = """
## Citation

Zhang et al., *NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation*, arXiv 2309.07705.
"""
CARD = """\
# {name}

Histories of users and the content of items, for sequential recommendation by content.

{condition}```python
from datasets import load_dataset

sequences = load_dataset("THIS_REPOSITORY_OR_FOLDER", "{name}")  # train, validation, test
items = load_dataset("THIS_REPOSITORY_OR_FOLDER", "{name}_items")["train"]
```

To train a recommender with `modeling_transrec`: `transrec finetune --dataset_name THIS_REPOSITORY_OR_FOLDER
--dataset_config_name {name}`.

| | |
|---|---|
{table}

{plot}## Columns

`{name}`: `user_id`, `item_ids` (history, oldest first), `target` (null in train), `timestamps` (of the history; null
where unknown){weights}. `{name}_items`: `item_id`, `text_zh`, `text_en`, `image` and, where the data set has it,
`audio` (null where there is none).

## Protocol

How interactions were filtered and split:

```json
{protocol}
```
{citation}"""
PLOT = "statistics.png"
PUBLISHED = ("*/ninerec-*.parquet", "README.md", PROTOCOL_FILE, PLOT)
SAMPLE = "Sample_Target"
SPLITS = ("train", "validation", "test")


def export(name: str, folder: Path, max_shard_size: str = "500MB", **options) -> Path:
    """Writes the sequences and items of a data set, images and audio included, and a card.

    Nothing half-written is left under the final name.

    Args:
        name: e.g. `"Bili_Food"`.
        folder: to be made; must not exist.
        max_shard_size: of a file.
        options: of the builder: `data_dir`, `min_actions`, …
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; remove it or choose another folder")
    if set("*?[]") & set(str(folder)):
        raise ValueError(
            f"{folder} has one of * ? [ ] in its name, which load_dataset takes for a pattern; choose another folder"
        )
    with made_once(folder, wait=False) as made, _each_warning_once():
        if made is None:
            raise FileExistsError(f"{folder} has just been made by another process")
        folders = {}
        for config in (name, name + ITEMS_SUFFIX):
            builder = load_dataset_builder("ninerec", config, **options)
            builder.download_and_prepare(str(made / config), file_format="parquet", max_shard_size=max_shard_size)
            (made / config / "dataset_info.json").unlink()  # the card says the same
            (made / config / PROTOCOL_FILE).replace(made / PROTOCOL_FILE)  # one for both
            folders[config] = _named_by_content(made / config)
        for lock in made.glob("*.lock"):
            lock.unlink()
        cache = made / ".cache"
        sequences, items = (
            load_dataset("parquet", data_files=data_files(made / folder, splits), cache_dir=cache)
            for folder, splits in zip(folders.values(), (SPLITS, ["train"]), strict=True)
        )
        items = items["train"]
        plot = draw(sequences, items)
        if plot is not None:
            (made / PLOT).write_bytes(plot)
        protocol = json.loads((made / PROTOCOL_FILE).read_text(encoding="utf-8"))
        write_card(name, made, folders, sequences, items, protocol)
        shutil.rmtree(cache)
    return folder


def _named_by_content(folder: Path) -> str:
    """Moves the files of a folder into one inside it that is named by a hash of their content.

    `datasets` caches a local data set by the name of its folder and what its card says, so the card must tell two data
    sets of one name apart.

    Returns:
        The path of the folder with the files, from where `folder` lies.
    """
    files, digest = sorted(folder.iterdir()), hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    inner = folder / digest.hexdigest()[:16]
    inner.mkdir()
    for path in files:
        path.rename(inner / path.name)
    return f"{folder.name}/{inner.name}"


def data_files(folder: Path, splits: Iterable[str]) -> dict[str, str]:
    """Returns where the files of each split are."""
    return {split: f"{folder}/ninerec-{split}*.parquet" for split in splits}


@contextlib.contextmanager
def _each_warning_once() -> Iterator[None]:
    """Sequences and items are made from the same two tables; what is left out of these need not be told twice."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        before = len(seen)
        seen.add(record.getMessage())
        return len(seen) > before

    modules = ("files", "tables.archives", "tables.columns", "tables.problems")
    loggers = [logging.getLogger(f"modeling_transrec.ninerec.{module}") for module in modules]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)


def push(folder: Path, repo_id: str, private: bool = True, token: str | None = None) -> str:
    """Uploads what [`export`] wrote into a folder as a data set repository; its address.

    Raises:
        ValueError: if it is to be private, but exists already and is public, or if the folder has links, of which
            files elsewhere would be uploaded.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ValueError(f"{path} is a link to {path.resolve()}, which is not published: remove or copy it")
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    if private and not api.repo_info(repo.repo_id, repo_type="dataset").private:
        raise ValueError(
            f"{repo.repo_id} exists already and is public: make it private, choose another, or say --public"
        )
    api.upload_folder(
        folder_path=str(folder), repo_id=repo.repo_id, repo_type="dataset", allow_patterns=list(PUBLISHED)
    )
    return str(repo)


def counts(sequences: DatasetDict, items: Dataset) -> dict[str, np.ndarray]:
    """Interactions of each user and on each item, over the longest history of each user and its target."""
    lengths: list[np.ndarray] = []
    popularity: collections.Counter = collections.Counter()
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
    """Draws popularity of items and lengths of histories as a PNG; `None` without matplotlib (extra `card`)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    interactions = counts(sequences, items)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    popular = np.sort(interactions["items"])[::-1]
    left.loglog(np.arange(1, len(popular) + 1), np.maximum(popular, 0.5), color="tab:blue")
    left.set(xlabel="items, most popular first", ylabel="interactions", title="popularity")
    shortest, longest = interactions["users"].min(), interactions["users"].max()
    bins = np.arange(shortest, longest + 2) - 0.5 if longest - shortest < 60 else 60
    right.hist(interactions["users"], bins=bins, color="tab:orange")
    right.set(xlabel="interactions of a user that are kept", ylabel="users", title="length of histories")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_card(
    name: str, folder: Path, data_folders: dict[str, str], sequences: DatasetDict, items: Dataset, protocol: dict
) -> None:
    """Writes `README.md` with the configs that `load_dataset` reads, and what a reader wants to know."""
    is_ninerec = name in (*SOURCES, *TARGETS, *DERIVED)
    configs = []
    for config, splits in ((name, SPLITS), (name + ITEMS_SUFFIX, ["train"])):
        paths = data_files(Path(data_folders[config]), splits)
        files = [{"split": split, "path": path} for split, path in paths.items()]
        configs.append({"config_name": config, "data_files": files})
    languages = [code for code in ("zh", "en") if any(text for text in items[f"text_{code}"])]
    data = DatasetCardData(
        pretty_name=name,
        language=languages or None,
        license="other",
        task_categories=["other"],
        tags=["recommendation", "sequential-recommendation"],
        configs=configs,
        size_categories=[_size_category(len(sequences["test"]))],
    )
    interactions = counts(sequences, items)
    with_text = sum(bool(en.strip() or zh.strip()) for en, zh in zip(items["text_en"], items["text_zh"], strict=True))
    media = {"image": "an image", "audio": "audio"}
    with_media = "".join(
        f", {len(items) - items.data[column].null_count:,} with {what}"
        for column, what in media.items()
        if column in items.column_names
    )
    users, on_items = interactions["users"], interactions["items"]
    sparsity = 1 - users.sum() / (len(users) * len(items))
    rows = {
        "users": f"{len(users):,} in test; {len(sequences['train']):,} in train",
        "items": f"{len(items):,}; {with_text:,} with a text{with_media}",
        "interactions of the test users": f"{users.sum():,}; sparsity {sparsity:.4%}",
        "interactions of a user": f"{users.min()} to {users.max()}, mean {users.mean():.1f}",
        "interactions with an item": f"median {np.median(on_items):.0f}, at most {on_items.max():,}",
    }
    weights = ", `weights` (what each counts)" if "weights" in sequences["train"].column_names else ""
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    plot = f"![popularity and lengths]({PLOT})\n\n" if (folder / PLOT).exists() else ""
    text = CARD.format(
        name=name,
        condition=f"> {CONDITION}\n\n" if is_ninerec else "",
        table=table,
        plot=plot,
        weights=weights,
        protocol=json.dumps(protocol, indent=2),
        citation=CITATION if is_ninerec else "",
    )
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")


def _size_category(size: int) -> str:
    bounds = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((name for bound, name in bounds if size < bound), "10M<n<100M")


def prepare(args: argparse.Namespace) -> Path:
    """Exports what the options of the command line say; returns the folder."""
    name, folder = args.dataset_config_name, Path(args.output_dir)
    if args.interactions is not None and name == SAMPLE:
        raise ValueError("give your data set a name: --dataset_config_name my_shop")
    if args.public and name in (*SOURCES, *TARGETS, *DERIVED):
        raise ValueError(f"--public: {CONDITION}")
    options = {option: getattr(args, option) for option in BUILDER_OPTIONS if getattr(args, option) is not None}
    with linked(name, args) as (staging, tables):
        if staging is not None:
            options["data_dir"] = str(staging)
        try:
            export(name, folder, args.max_shard_size, **options)
        except ValueError as error:
            raise ValueError(in_own_words(str(error), tables)) from error
    print((folder / "README.md").read_text(encoding="utf-8"))
    print(f"Written to {folder}. Train on it: --dataset_name {folder} --dataset_config_name {name}")
    if args.push_to_hub is not None:
        print(CONDITION if name in (*SOURCES, *TARGETS, *DERIVED) else "The data set is pushed as it is.")
        print(push(folder, args.push_to_hub, private=not args.public))
    return folder


BUILDER_OPTIONS = (
    "data_dir max_seq_len min_actions min_item_actions split_strategy validation_start test_start catalogue "
    "columns pair_columns min_rating event_weights separator quoting encoding time_format"
).split()


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--output_dir", required=True, help="folder to be made")
    add(
        "--dataset_config_name",
        default=SAMPLE,
        metavar="NAME",
        help=f"data set, such as Bili_Food, or a name for yours (default: {SAMPLE})",
    )
    add_own_tables(parser)
    add_table_options(parser)
    add("--max_seq_len", type=int, default=20, help="longest history; users keep three more (default: 20)")
    add("--min_item_actions", type=int, help="drop items with fewer interactions, too, until all have enough (k-core)")
    add("--split_strategy", choices=list(SPLIT_STRATEGIES), help="default: leave_one_out")
    add("--validation_start", type=int, help="time of the temporal split (default: after 80 %% of the interactions)")
    add("--test_start", type=int, help="the same for the test split (default: 90 %%)")
    add("--catalogue", choices=["interacted", "all"], help="which items are candidates (default: interacted)")
    add("--max_shard_size", default="500MB", help="largest file (default: 500MB)")
    add("--push_to_hub", metavar="OWNER/NAME", help="data set repository to upload to, private")
    add("--public", nargs="?", const=True, default=False, type=boolean, help="make it public")
    return parser


def main(args: list[str] | None = None) -> int:
    parser = make_parser()
    options = parser.parse_args(args)
    table_options(parser, options)
    try:
        prepare(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
