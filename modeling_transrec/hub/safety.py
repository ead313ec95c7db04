"""The one gate for what leaves this machine: files that are uploaded, and options that are written into them."""

import os
from pathlib import Path

from .names import CARD_NAME, HANDLER_NAME


# Weights as safetensors, text and images are published; a pickle, which runs code when it is read, never is.
PUBLISHED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.parquet", "*.yaml", "*.png", CARD_NAME)
# `trainer_state.json` names folders of the machine.
NOT_PUBLISHED = ("_*", "checkpoint-*", "trainer_state.json")
# Training arguments that name folders, people or machines; those that end in `_dir` or `_token` are private, too.
_PRIVATE_ARGUMENTS = (
    "output_dir",
    "resume_from_checkpoint",
    "hub_token",
    "run_name",
    "project",
    "card_results",
    "deepspeed",
)
_PRIVATE_ENDINGS = ("_dir", "_token")


def upload_patterns(with_code: bool, with_handler: bool = False) -> dict[str, list[str]]:
    """Returns the arguments of `HfApi.upload_folder` that choose the files of a checkpoint that are published.

    Args:
        with_code: whether the model's code is published, too.
        with_handler: whether the handler of Inference Endpoints is.
    """
    code = ["*.py"] if with_code else [HANDLER_NAME] if with_handler else []
    return {"allow_patterns": [*PUBLISHED_FILES, *code], "ignore_patterns": list(NOT_PUBLISHED)}


def check_links(folder: str | os.PathLike) -> None:
    """Refuses a folder with links to files elsewhere, which would be uploaded in their place.

    Raises:
        ValueError: naming the link.
    """
    inside = Path(folder).resolve()
    for path in Path(folder).rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise ValueError(f"{path} is a link to {path.resolve()}, outside of what is published: remove or copy it")


def public_arguments(arguments: dict) -> dict:
    """Returns training arguments without tokens and without names of this machine's folders.

    >>> public_arguments({"learning_rate": 0.1, "output_dir": "/home/me/model", "hub_token": "hf_x"})
    {'learning_rate': 0.1}
    """
    return {
        name: value
        for name, value in arguments.items()
        if name not in _PRIVATE_ARGUMENTS and not name.endswith(_PRIVATE_ENDINGS)
    }
