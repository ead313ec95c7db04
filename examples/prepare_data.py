"""Convert a data set to Parquet files with a card, to be loaded by any script with --dataset_name FOLDER.

    python examples/prepare_data.py --dataset_config_name Bili_Food --data_dir DATA --output_dir prepared/bili_food
    python examples/prepare_data.py --dataset_config_name my_shop --output_dir prepared/my_shop \
        --interactions sales.parquet --items products.csv --covers pictures/ \
        --columns '{"user_id": "customer", "item_id": "sku", "timestamp": "bought_at", "text_en": "product"}'
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from datasets import load_dataset
from transformers import HfArgumentParser

import modeling_transrec  # noqa: F401
from modeling_transrec.cli.arguments import DataArguments
from modeling_transrec.ninerec.export import CONDITION, export, push
from modeling_transrec.ninerec.files import DERIVED, NAME, SOURCES, TABLE_SUFFIXES, TARGETS
from modeling_transrec.ninerec.ninerec import ITEMS_SUFFIX


@dataclass
class PrepareArguments:
    output_dir: str = field(metadata={"help": "Folder to be made."})
    interactions: str | None = field(
        default=None,
        metadata={"help": "Your table of actions: CSV, TSV or Parquet file, or a Hub data set (its train split)."},
    )
    items: str | None = field(default=None, metadata={"help": "Your table of items, likewise."})
    covers: str | None = field(default=None, metadata={"help": "Folder of pictures named ITEM_ID.jpg (png, webp)."})
    max_seq_len: int = field(default=20, metadata={"help": "Longest history; users keep three actions more."})
    max_shard_size: str = field(default="500MB", metadata={"help": "Largest file."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Data set repository to upload to, private."})
    public: bool = field(default=False, metadata={"help": "Make the repository public."})

    def __post_init__(self):
        if (self.interactions is None) != (self.items is None):
            raise ValueError("give --interactions and --items together")
        if self.covers is not None and self.items is None:
            raise ValueError("--covers goes with --interactions and --items")


def collect(args: PrepareArguments, name: str, folder: Path) -> dict[str, str]:
    """Links the user's tables and pictures under the names that the reader looks for; the user's name of each."""
    if not NAME.fullmatch(name) or name.endswith(ITEMS_SUFFIX):
        raise ValueError(
            f"--dataset_config_name {name}: choose a name of letters, digits, '_' and '-' that does not end in "
            f"{ITEMS_SUFFIX}; it is how the data will be loaded"
        )
    linked = {}
    for source, kind in ((args.interactions, "interactions"), (args.items, "items")):
        path = Path(source)
        link = folder / f"{name}_{kind}.parquet"
        if path.is_file():
            if path.suffix not in TABLE_SUFFIXES:
                raise ValueError(f"--{kind} {source}: the file must end in {', '.join(TABLE_SUFFIXES)}")
            link = link.with_suffix(path.suffix)
            link.symlink_to(path.resolve())
        elif path.exists() or source.count("/") != 1:
            raise ValueError(f"--{kind} {source} is neither a file nor a Hub data set (owner/name)")
        else:
            load_dataset(source, split="train").to_parquet(link)
        linked[str(link)] = source
    if args.covers is not None:
        if not Path(args.covers).is_dir():
            raise ValueError(f"--covers {args.covers} is not a folder")
        (folder / f"{name}_cover").symlink_to(Path(args.covers).resolve())
    return linked


def main(args: list[str] | None = None) -> Path:
    parser = HfArgumentParser((PrepareArguments, DataArguments), allow_abbrev=False)
    prepare, data = parser.parse_args_into_dataclasses(args)
    name, folder = data.dataset_config_name, Path(prepare.output_dir)
    if prepare.interactions is not None and name == data.sample:
        raise ValueError("give your data set a name: --dataset_config_name my_shop")
    if prepare.public and name in (*SOURCES, *TARGETS, *DERIVED):
        raise ValueError(f"--public: {CONDITION}")
    with tempfile.TemporaryDirectory() as staging:
        options, linked = data.loading_kwargs(prepare.max_seq_len), {}
        if prepare.interactions is not None:
            linked = collect(prepare, name, Path(staging))
            options["data_dir"] = staging
        try:
            export(name, folder, prepare.max_shard_size, **options)
        except ValueError as error:
            message = str(error)
            for link, source in linked.items():
                message = message.replace(link, source)
            raise ValueError(message) from error
    print((folder / "README.md").read_text(encoding="utf-8"))
    print(f"Written to {folder}. Train on it: --dataset_name {folder} --dataset_config_name {name}")
    if prepare.push_to_hub is not None:
        print(CONDITION if name in (*SOURCES, *TARGETS, *DERIVED) else "The data set is pushed as it is.")
        print(push(folder, prepare.push_to_hub, private=not prepare.public))
    return folder


if __name__ == "__main__":
    main()
