"""How a data set was filtered and split: its protocol, which travels beside the data as `protocol.json`."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import datasets
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError


logger = logging.getLogger(__name__)

PROTOCOL_FILE = "protocol.json"


@dataclass
class ProtocolInfo(datasets.DatasetInfo):
    """The information of a data set whose protocol is known; it is kept by `map`, `select`, `filter` and the like."""

    protocol: dict | None = None


def with_protocol(info: datasets.DatasetInfo, protocol: dict | None) -> ProtocolInfo:
    """Returns the same information with a protocol."""
    return ProtocolInfo(**{**vars(info), "protocol": protocol})


def split_protocol(dataset: datasets.Dataset | datasets.IterableDataset | datasets.DatasetBuilder) -> dict | None:
    """Returns how a data set was filtered and split, `None` where that is not known.

    It is known of data sets that `load_dataset("ninerec", …)`, [`load_items`] or [`load_sequences`] returned.
    """
    return dataset.info.protocol if isinstance(dataset.info, ProtocolInfo) else None


def write_protocol(folder: str | Path, protocol: dict) -> None:
    """Writes `protocol.json` into a folder."""
    Path(folder, PROTOCOL_FILE).write_text(json.dumps(protocol, indent=2) + "\n", encoding="utf-8")


def read_protocol(name: str, revision: str | None = None, token: str | bool | None = None) -> dict | None:
    """Reads the `protocol.json` of a prepared data set: a local folder, or a data set repository on the Hub.

    Args:
        name: the folder or the Hub id.
        revision: branch, tag or commit on the Hub.
        token: for a private repository.

    Returns:
        The protocol, `None` where the data set comes without one.

    Raises:
        ValueError: if the file is no protocol.
    """
    if Path(name).is_dir():
        path = Path(name, PROTOCOL_FILE)
    elif "/" not in name:  # a builder of `datasets`, such as "parquet"
        return None
    else:
        try:
            path = Path(hf_hub_download(name, PROTOCOL_FILE, repo_type="dataset", revision=revision, token=token))
        except LocalEntryNotFoundError as error:  # offline, and not fetched before
            logger.warning("The protocol of %s is not known, its %s cannot be read: %s", name, PROTOCOL_FILE, error)
            return None
        except EntryNotFoundError:
            return None
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"it holds a {type(found).__name__}")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no protocol of a prepared data set: {error}") from error
    return found
