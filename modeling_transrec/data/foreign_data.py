"""Data sets of others: their cards name only files of their own, and errors say whose files are damaged."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


_CARDS = ("README.md", ".huggingface.yaml")  # in which `datasets` looks for the files of each configuration


def check_card(name: str, revision: str | None = None, token: str | bool | None = None) -> None:
    """Refuses a data set whose card names files elsewhere: on this machine, or at another address.

    Args:
        name: a folder or a Hub id; builders of `datasets`, such as "parquet", have no card.
        revision, token: of the Hub.

    Raises:
        ValueError: naming the file.
    """
    for card in _CARDS:
        path = _find(name, card, revision, token)
        if path is None:
            continue
        text = path.read_text(encoding="utf-8")
        if card == "README.md":
            _, start, text = text.partition("---\n") if text.startswith("---\n") else ("", "", "")
            text = text.partition("\n---")[0] if start else ""
        try:
            found = yaml.safe_load(text) or {}
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{name}: the metadata of {card} are no YAML: {error}") from error
        for configuration in _listed(found.get("configs") if isinstance(found, dict) else None):
            for place in _places(configuration):
                _check_place(f"{name}: {card}", place)


def _find(name: str, card: str, revision: str | None, token: str | bool | None) -> Path | None:
    """Returns where a card lies, `None` where there is none."""
    if Path(name).is_dir():
        path = Path(name, card)
        return path if path.is_file() else None
    if "/" not in name:
        return None
    try:
        return Path(hf_hub_download(name, card, repo_type="dataset", revision=revision, token=token))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None  # `load_dataset` says what is wrong, if anything is


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _places(configuration: Any) -> Iterator[Any]:
    """Yields the folder and the patterns of files that a configuration of a card names, in each of their forms."""
    if not isinstance(configuration, dict):
        return
    yield from _listed(configuration.get("data_dir"))
    files = configuration.get("data_files")
    for entry in [*files.values()] if isinstance(files, dict) else _listed(files):
        for inner in _listed(entry):
            yield from _listed(inner.get("path") if isinstance(inner, dict) else inner)


def _check_place(where: str, place: Any) -> None:
    if place is None:
        return
    parts = str(place).replace("\\", "/").split("/")
    if not isinstance(place, str) or place.startswith(("/", "~")) or ".." in parts or ":" in place:
        raise ValueError(f"{where} names {place!r}: a data set's files must be its own; nothing is read")


@contextlib.contextmanager
def named_data_errors(name: str) -> Iterator[None]:
    """Lets whatever damaged files make the libraries raise within it say which data set it is.

    Raises:
        ValueError: in place of errors that name neither the data set nor what it lacks.
    """
    try:
        yield
    except (MemoryError, HfHubHTTPError):
        raise
    except Exception as error:
        cause = error.__cause__ or error
        is_known = isinstance(error, ValueError | OSError) and name in str(error)
        is_of_builder = not Path(name).is_dir() and "/" not in name  # ours names its files itself
        is_of_machine = isinstance(cause, OSError) and cause.errno is not None  # such as a full disk
        if is_known or is_of_builder or is_of_machine or str(error).startswith("BuilderConfig"):
            raise
        raise ValueError(
            f"{name} cannot be read: its files are damaged, or are no data set: {type(cause).__name__}: {cause}"
        ) from error
