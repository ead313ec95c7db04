"""The options of the command line that say where tables lie and how they are read."""

import argparse
import json
from pathlib import Path

from ..files import data_dir_from_env
from ..tables.columns import are_pair_columns


def column_names(text: str) -> dict[str, str]:
    """Returns what `--columns` says, which is JSON or a file of it."""
    if text.endswith(".json"):
        text = Path(text).read_text(encoding="utf-8")
    try:
        names = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(names, dict):
        raise argparse.ArgumentTypeError('give an object such as {"user_id": "customer"}')
    return names


def boolean(text: str) -> bool:
    """Returns what `true` or `false` means."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"say true or false, not {text!r}")
    return text == "true"


class PairColumns(argparse.Action):
    """Stores the names as a tuple, if they name what must be named."""

    def __call__(self, parser, namespace, values, option_string=None):
        if not are_pair_columns(values):
            parser.error(f"{option_string} must name user_id, item_id and, where the file has it, timestamp once each")
        setattr(namespace, self.dest, tuple(values))


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide how tables are read, as `load_dataset` has them."""
    parser.add_argument(
        "--data_dir", default=data_dir_from_env(), help="folder of the raw files; by default that in NINEREC_DATA_DIR"
    )
    parser.add_argument(
        "--columns", type=column_names, help="what the columns of tables are called, as JSON or a .json file of it"
    )
    parser.add_argument(
        "--pair_columns", nargs="+", action=PairColumns, help="columns of interactions without header, in their order"
    )
    parser.add_argument(
        "--min_actions", type=int, help="fewest interactions of a user (default: 5; 10 for Bili_warm20, Bili_warm50)"
    )
