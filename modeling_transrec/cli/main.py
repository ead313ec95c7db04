"""The console command `transrec`."""

import difflib
import importlib
import sys
import textwrap
import traceback
from collections.abc import Sequence

from ..version import __version__
from . import OptionError


# Each command, the module whose `main` runs it, and what it does. A module is imported only when its command is run.
COMMANDS = {
    "pretrain": ("modeling_transrec.cli.pretrain", "Train a recommender on a source data set, to transfer it later."),
    "finetune": ("modeling_transrec.cli.finetune", "Train a recommender on your data set, from a checkpoint or new."),
    "evaluate": ("modeling_transrec.cli.evaluate", "Rank the whole catalogue for held-out items: HR@K, NDCG@K, MRR."),
    "recommend": ("modeling_transrec.cli.recommend", "Recommend items to some users, or to all of them."),
    "serve": ("modeling_transrec.cli.serve", "Serve recommendations over HTTP."),
    "export": ("modeling_transrec.cli.export", "Write a checkpoint for ONNX, torch.export or sentence-transformers."),
    "space": ("modeling_transrec.cli.space", "Write a page of recommendations, a Gradio Space, and publish it."),
    "transfer": ("modeling_transrec.cli.transfer", "Compare what pretraining on one data set gives on another."),
    "benchmark": ("modeling_transrec.cli.benchmark", "Run a suite: data sets, models and seeds, with statistics."),
    "leaderboard": ("modeling_transrec.cli.leaderboard", "Make a page of results, or check what others sent."),
    "convert": (
        "modeling_transrec.cli.convert",
        "Convert a checkpoint of NineRec's authors to one of ours.",
    ),
    "prepare-data": ("modeling_transrec.ninerec.tools.export", "Convert your tables to Parquet files with a card."),
    "validate": ("modeling_transrec.ninerec.tools.validate", "List every problem of raw files, with file and line."),
    "describe": ("modeling_transrec.ninerec.tools.describe", "Print the statistics of data sets."),
    "download": ("modeling_transrec.ninerec.tools.download", "Download the NineRec data sets."),
}


def main(args: Sequence[str] | None = None) -> int | None:
    """Runs one command; `transrec --help` lists them.

    Args:
        args: the command and its options; by default those of the command line.

    Returns:
        The exit status: `None` for success, 2 for options that cannot be meant, 1 for what is found wrong later.
    """
    name, *options = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
        return None
    if name == "--version":
        print(__version__)
        return None
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}"
        print(f"transrec: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"transrec {name}", *options]  # the name in the command's own help
    try:
        found = importlib.import_module(COMMANDS[name][0]).main(options)
    except OptionError as error:
        print(f"transrec {name}: {_as_on_the_command_line(error)}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        if not (isinstance(error, OSError) or _is_ours(error)):
            raise
        print(f"transrec {name}: {_as_on_the_command_line(error)}", file=sys.stderr)
        return 1
    return found if isinstance(found, int) else None


def _as_on_the_command_line(error: BaseException) -> str:
    from ..ninerec.tools.options import as_on_the_command_line  # imports polars, and --help answers at once

    return as_on_the_command_line(str(error))


def _is_ours(error: BaseException) -> bool:
    """Returns whether this package has raised an error itself: a sentence, not a fault of it or of another package."""
    last = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    return last.f_globals.get("__name__", "").startswith("modeling_transrec.")


def help_text() -> str:
    """Returns the text of `transrec --help`."""
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    about = textwrap.dedent(
        """\
        usage: transrec COMMAND [OPTIONS]

        Transferable sequential recommendation: pretrain a recommender on one platform, fine-tune it on another.
        Where no data set is named, a small synthetic one that the package brings is used. Only validate, describe and
        download need a folder of files, --data_dir.

        commands:
        """
    )
    after = textwrap.dedent(
        """\

        `transrec COMMAND --help` lists a command's options. The commands run in one process; to train on several
        GPUs: accelerate launch --multi_gpu -m modeling_transrec.cli.finetune [OPTIONS]"""
    )
    return about + "\n".join(commands) + "\n" + after


if __name__ == "__main__":
    sys.exit(main())
