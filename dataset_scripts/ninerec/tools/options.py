"""The options of the command line that say where tables lie and how they are read."""

import argparse
import ast
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

from ..tables.options import QUOTINGS, TableOptions


def json_object(text: str) -> dict:
    """Returns an object that an option gives as JSON, or as a file of it."""
    if text.endswith(".json"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise argparse.ArgumentTypeError(f"{text} cannot be read: {error.strerror or error}") from error
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('give an object such as {"user_id": "customer"}')
    return found


# Options whose values messages write as Python has them.
_IN_MESSAGES = re.compile(
    r"(?<![\w-])(columns|event_weights|separator|quoting|encoding|time_format|catalogue|split_strategy)="
    r"""(\{[^{}]*\}|"[^"]*"|'[^']*')"""
)


def as_on_the_command_line(message: str) -> str:
    """Returns a message in which options stand as the command line takes them.

    >>> print(as_on_the_command_line('say columns={"timestamp": None} or time_format="%d/%m/%Y"'))
    say --columns '{"timestamp": null}' or --time_format %d/%m/%Y
    """

    def option(found: re.Match) -> str:
        try:
            value = ast.literal_eval(found[2])
        except (SyntaxError, ValueError):
            return found[0]
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        if not isinstance(text, str) or not text.isprintable():
            return found[0]
        return f"--{found[1]} {shlex.quote(text)}"

    return _IN_MESSAGES.sub(option, message)


def boolean(text: str) -> bool:
    """Returns what `true` or `false` means."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"say true or false, not {text!r}")
    return text == "true"


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide how tables are read, as `load_dataset` has them."""
    parser.add_argument(
        "--data_dir",
        help="folder of the raw files; by default that in NINEREC_DATA_DIR (the embedded samples need none)",
    )
    parser.add_argument(
        "--columns", type=json_object, help="what the columns of tables are called, as JSON or a .json file of it"
    )
    parser.add_argument("--pair_columns", nargs="+", help="columns of interactions without header, in their order")
    parser.add_argument("--min_rating", type=float, help="leave out interactions with a lower rating")
    parser.add_argument(
        "--event_weights",
        type=json_object,
        help='what an interaction counts by its event type, as JSON or a file of it: {"click": 0.1, "purchase": 1}; '
        "other types are left out",
    )
    parser.add_argument("--separator", help="what separates the fields of texts, such as ';' or '::' (default: found)")
    parser.add_argument(
        "--quoting",
        choices=QUOTINGS,
        help="how quotes within quotes are written: doubled (default), after a backslash; or none: quotes are text",
    )
    parser.add_argument("--encoding", help="encoding of texts that are not UTF-8, such as gbk or latin-1")
    parser.add_argument(
        "--time_format", help="format of dates that may be read in two ways, such as '%%d/%%m/%%Y %%H:%%M'"
    )
    parser.add_argument(
        "--min_actions", type=int, help="fewest interactions of a user (default: 5; 10 for Bili_warm20, Bili_warm50)"
    )


def table_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> TableOptions:
    """Returns how tables are read by these options; what is wrong with them ends the command."""
    try:
        return TableOptions(**{option.name: getattr(args, option.name) for option in fields(TableOptions)})
    except ValueError as error:
        parser.error(as_on_the_command_line(str(error)))
