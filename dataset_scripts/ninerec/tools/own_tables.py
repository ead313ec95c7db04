"""Tables and folders that the command line gives by their paths, wherever they lie and whatever they are called."""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from datasets import load_dataset

from ..builder import ITEMS_SUFFIX
from ..files import NAME
from ..tables.forms import FORMS, is_table, split_name


def add_own_tables(parser: argparse.ArgumentParser) -> None:
    """Adds the options that give tables and folders by their paths."""
    add = parser.add_argument
    add(
        "--interactions",
        help="your interactions: CSV, JSON lines, Parquet, …, or a Hub data set (its train split)",
    )
    add("--items", help="your table of items, likewise")
    add("--covers", help="folder of images named ITEM_ID.jpg (png, webp, …)")
    add("--audio", help="folder of audio named ITEM_ID.wav (flac, mp3)")


@contextlib.contextmanager
def linked(name: str, args: argparse.Namespace) -> Iterator[tuple[Path | None, dict[str, str]]]:
    """Links a user's own tables and folders under the names that the reader looks for.

    Args:
        name: of the data set.
        args: those of [`add_own_tables`].

    Yields:
        The folder of the links, `None` where no tables are given; and what the user calls each link, by its path.

    Raises:
        ValueError: if a table or a folder is not there, or the name cannot be one.
    """
    if (args.interactions is None) != (args.items is None):
        raise ValueError("give --interactions and --items together")
    if args.items is None:
        if args.covers or args.audio:
            raise ValueError("--covers and --audio go with --interactions and --items")
        yield None, {}
        return
    if not NAME.fullmatch(name) or name.endswith(ITEMS_SUFFIX):
        raise ValueError(
            f"--dataset_config_name {name}: choose a name of letters, digits, '_' and '-' that does not end in "
            f"{ITEMS_SUFFIX}; it is how the data will be loaded"
        )
    with tempfile.TemporaryDirectory() as staging:
        folder = Path(staging)
        tables = {
            str(_linked_table(source, folder / f"{name}_{kind}", kind)): source
            for source, kind in ((args.interactions, "interactions"), (args.items, "items"))
        }
        for option, end, path in (("--covers", "cover", args.covers), ("--audio", "audio", args.audio)):
            if path is not None:
                if not Path(path).is_dir():
                    raise ValueError(f"{option} {path} is not a folder")
                link = folder / f"{name}_{end}"
                link.symlink_to(Path(path).resolve())
                tables[str(link)] = path
        yield folder, tables


def _linked_table(source: str, link: Path, kind: str) -> Path:
    path = Path(source)
    if is_table(path):
        _, suffix, packing = split_name(path.name)
        if not suffix:
            raise ValueError(f"--{kind} {source}: the file must end in {', '.join(FORMS)}")
        link = link.with_name(f"{link.name}{suffix}{packing}")
        link.symlink_to(path.resolve())
        return link
    if path.is_dir():
        raise ValueError(
            f"--{kind} {source} is a folder; if it has the parts of a Parquet table, let its name end in .parquet"
        )
    if path.exists() or source.count("/") != 1 or split_name(path.name).suffix:
        raise ValueError(f"--{kind} {source} is neither a file nor a Hub data set (owner/name)")
    link = link.with_name(f"{link.name}.parquet")
    load_dataset(source, split="train").to_parquet(link)
    return link


def in_own_words(text: str, tables: dict[str, str]) -> str:
    """Returns a message in which tables are called as their user calls them."""
    for link, source in tables.items():
        text = text.replace(link, source).replace(Path(link).name, Path(source).name)
    return text
