"""Parses the commands' options, with what they have in common: presets, help texts, and hints for misspelt options."""

import argparse
import atexit
import dataclasses
import difflib
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..data.arguments import DataArguments
from ..evaluation.arguments import CheckpointArguments
from ..evaluation.baselines import BASELINES
from ..export.folders import BACKENDS
from ..models.folder_locks import without_secrets
from ..serving.recommender import Recommender
from ..training.arguments import TransRecTrainingArguments
from ..training.model_arguments import ModelArguments
from ..training.presets import load_preset, to_options
from . import OptionError


logger = logging.getLogger(__name__)

_PRESET_HELP = (
    "Named options to start from; those on the command line override them. bili_food-bert, ku-id, qb-swin-tiny, … "
    "are the paper's for each data set and backbone; sasrec-bert-bili2m, gru4rec-swinb-bili2m, … pretrain on Bili_2M; "
    "recommended-text, recommended-image, recommended-text-id and recommended-id ranked best in our own runs; "
    "unisrec, unisrec-pretrain, vqrec, vqrec-pretrain, transrec-mixture, odmt, clue, icsrec and bsarec-id are "
    'other published systems. Or a JSON file with options under "options".'
)
_METAVARS = {int: "N", float: "X", string_to_bool: "true|false"}
_INHERITED = {one.name for one in dataclasses.fields(TrainingArguments)} - set(
    TransRecTrainingArguments.__annotations__  # those that we changed
)


@atexit.register
def _leave_process_group() -> None:
    """Ends the threads of the processes' communication while Python can still wait for them.

    One that frees a tensor after Python has begun to end aborts the process, whose work is done: exit status 134.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@dataclasses.dataclass(kw_only=True)
class RunArguments(CheckpointArguments):
    """Names the checkpoint that a command recommends from, or an export of it."""

    backend: str = dataclasses.field(
        default="torch",
        metadata={"help": "What runs the model; onnx for a folder of transrec export.", "choices": BACKENDS},
    )

    def loading_kwargs(self) -> dict[str, Any]:
        """Returns the arguments of `from_pretrained` that are given by options.

        Raises:
            OptionError: if they exclude each other.
        """
        if self.backend == "onnx" and self.platform is not None:
            raise OptionError(
                "an export has one platform, that of the checkpoint that was exported: leave --platform out"
            )
        return {**super().loading_kwargs(), "backend": self.backend}


def with_checkpoint_named(args: Sequence[str] | None) -> list[str]:
    """Returns the options, by default those of the command line; a first one without a name is the checkpoint.

    >>> with_checkpoint_named(["outputs/shop", "--port", "80"])
    ['--model_name_or_path', 'outputs/shop', '--port', '80']
    """
    given = [*(sys.argv[1:] if args is None else args)]
    return ["--model_name_or_path", *given] if given and not given[0].startswith("-") else given


def parse_checkpoint_and_data(
    arguments_class: type, args: Sequence[str] | None, description: str | None
) -> tuple[Any, DataArguments | None]:
    """Parses the options of a command that takes a checkpoint and, where one is named, a data set.

    Raises:
        OptionError: as [`parse_arguments`], and for options of a data set that is not named.
    """
    given = with_checkpoint_named(args)
    data_options = {f"--{one.name}" for one in dataclasses.fields(DataArguments)}
    of_data = [one for one in (arg.split("=")[0] for arg in given) if one in data_options]
    if of_data and "--dataset_config_name" not in of_data:
        raise OptionError(f"{of_data[0]} is an option of a data set; name it by --dataset_config_name")
    arguments, data = parse_arguments((arguments_class, DataArguments), given, description)
    return arguments, data if of_data else None


def check_is_trained(name: str) -> None:
    """Raises `OptionError` for the name of a ranking that needs no training, where a checkpoint is expected."""
    if name in BASELINES:
        raise OptionError(
            f"--model_name_or_path: {name} is not trained, and has no checkpoint: transrec evaluate ranks by it, and "
            "in Python Recommender.from_backbone(…).index(items, histories=…) recommends by content and transitions"
        )


def load_recommender(
    arguments: CheckpointArguments, data: DataArguments | None, device: torch.device | str = "cpu"
) -> tuple[Recommender, datasets.Dataset | None]:
    """Loads a checkpoint to a device, with its own catalogue or, where a data set is named, with that one.

    Returns:
        The recommender, which has no catalogue where neither has one, and the items of the data set.
    """
    name = arguments.model_name_or_path
    check_is_trained(name)
    recommender = Recommender.from_pretrained(name, load_catalogue=False, **arguments.loading_kwargs())
    recommender.model.to(device)
    if data is None:
        recommender.load_catalogue(name, revision=arguments.model_revision)
        return recommender, None
    items = data.load_items(recommender.model.config.max_seq_len)
    return recommender.index(items, histories=data.load_training_histories()), items


def parse_arguments(
    dataclass_types: Sequence[type], args: Sequence[str] | None, description: str | None, has_presets: bool = False
) -> tuple:
    """Parses options into dataclasses.

    Args:
        dataclass_types: the dataclasses, in the order in which they are returned.
        args: the options; by default those of the command line.
        description: text before the options in `--help`.
        has_presets: whether there is an option `--preset`, whose options hold where the command line has none.

    Raises:
        OptionError: if options do not fit each other, or one is misspelt; then it names the closest one.
    """
    try:
        return _parse(dataclass_types, list(sys.argv[1:] if args is None else args), description, has_presets)
    except ValueError as error:
        raise OptionError(without_secrets(str(error))) from error


def _parse(dataclass_types: Sequence[type], args: list[str], description: str | None, has_presets: bool) -> tuple:
    parser = HfArgumentParser(
        dataclass_types,  # type: ignore[arg-type]  # its hint is a type that nothing else is of
        allow_abbrev=False,
        usage="%(prog)s [OPTIONS]",
        description=description,
        formatter_class=_HelpFormatter,
    )
    if has_presets:
        parser.add_argument("--preset", metavar="NAME", help=_PRESET_HELP)
        args = _with_preset(args)
    if any(arg.split("=")[0].replace("-", "_") == "__hub_token" for arg in args):
        logger.warning(
            "--hub_token on a command line can be read by other users of this machine, and a launcher prints it if a "
            "process fails: log in with `hf auth login`, or set HF_TOKEN, and leave the option out"
        )
    _refuse_unknown(parser, dataclass_types, args)
    return parser.parse_args_into_dataclasses(args, look_for_args_file=False)[: len(dataclass_types)]


def _with_preset(args: list[str]) -> list[str]:
    """Prepends the options of the named preset, so that those of the command line override them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    name = parser.parse_known_args(args)[0].preset
    if name is None:
        return args
    options = load_preset(name)
    if any(arg.split("=")[0] == "--model_name_or_path" for arg in args):
        brought = [option for option in options if option in ModelArguments.making_options()]
        logger.warning("The checkpoint decides on %s, not the preset", ", ".join(brought))
        options = {option: value for option, value in options.items() if option not in brought}
    return [*to_options(options), *args]


def _refuse_unknown(parser: argparse.ArgumentParser, dataclass_types: Sequence[type], args: list[str]) -> None:
    unknown = [arg.split("=")[0] for arg in parser.parse_known_args(args)[1] if arg.startswith("--")]
    if unknown:
        known = [f"--{one.name}" for cls in dataclass_types for one in dataclasses.fields(cls)]
        close = difflib.get_close_matches(unknown[0].replace("-", "_").replace("__", "--", 1), known, n=1)
        hint = f"did you mean {close[0]}?" if close else "--help lists all options"
        raise ValueError(f"there is no option {unknown[0]}; {hint}")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each option under one name, defaults only where there are some, and the Trainer's own options last."""

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading)
        self._is_training = heading == TransRecTrainingArguments._argument_group_name

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        actions = list(actions)
        inherited = [action for action in actions if self._is_training and action.dest in _INHERITED]
        super().add_arguments(action for action in actions if action not in inherited)
        if inherited:
            self.end_section()
            self.start_section("training, options of transformers.TrainingArguments")
            super().add_arguments(inherited)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return ", ".join(action.option_strings[:1] if action.dest != "help" else action.option_strings)
        value = action.metavar or _METAVARS.get(action.type, "TEXT")
        if action.nargs == "+":
            value = f"{value} [{value} ...]"
        return f"{action.option_strings[0]} {f'[{value}]' if action.nargs == '?' else value}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.nargs == 0 and action.dest != "help":
            return f"Set --{action.dest} to false."
        if action.choices is not None and not any(str(choice) in text for choice in action.choices):
            text = f"{text.removesuffix('.')}: {', '.join(map(str, action.choices))}."
        if action.default in (None, argparse.SUPPRESS, [], "") or "default:" in text:
            return text
        if isinstance(action.default, list):
            return f"{text} (default: {' '.join(map(str, action.default))})"
        return f"{text} (default: %(default)s)"
