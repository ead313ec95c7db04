"""Reads what a folder of sentence-transformers says about its backbone: pooling, maximum length, prompts.

Such a folder lists its modules in `modules.json`: a transformer, a pooling, and perhaps dense layers and a
normalisation. Only with its own pooling are a backbone's features those that it was trained to give. The length of the
vectors, 1 after a normalisation, does not matter here: cosines are compared, and projections are trained.
"""

import json
import os

from transformers.utils import cached_file


# What a pooling is called there, and here.
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
}


_NO_LENGTH = 10**6  # tokenizers without a maximum name a far larger one


# Names of the prompt for documents, in the order in which sentence-transformers looks for them.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def read_text_pooling(name_or_path: str | os.PathLike, **where) -> str | None:
    """Returns how the folder or repository pools, a key of [`TEXT_POOLINGS`]; `None` where it does not say.

    Args:
        name_or_path: Hub id or folder.
        where: `revision`, `token`, `cache_dir`, …

    Raises:
        ValueError: if the features are pooled in a way that is not known here, or go through dense layers.
    """
    modules = _read_json(name_or_path, "modules.json", where)
    if modules is None:
        return None
    kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown or "Pooling" not in kinds:
        raise ValueError(
            f"{name_or_path} makes its vectors by {', '.join(kinds)}; only Transformer, Pooling and Normalize are "
            "read here. Give text_pooling to read the token vectors all the same"
        )
    pooling = _read_json(name_or_path, f"{kinds['Pooling']}/config.json", where) or {}
    chosen = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(pooling.get("pooling_mode"), str):  # of later versions
        chosen = [pooling["pooling_mode"]]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise ValueError(
            f"{name_or_path} pools by {', '.join(chosen) or 'nothing'}; one of cls, mean and last token is read here. "
            "Give text_pooling to choose one"
        )
    return _POOLINGS[chosen[0]]


def read_max_length(name_or_path: str | os.PathLike, **where) -> int | None:
    """Returns how long a text may be for the folder or repository, in tokens; `None` where it does not say."""
    found = (_read_json(name_or_path, "sentence_bert_config.json", where) or {}).get("max_seq_length")
    if (
        found is None and _read_json(name_or_path, "modules.json", where) is not None
    ):  # later versions ask the tokenizer
        found = (_read_json(name_or_path, "tokenizer_config.json", where) or {}).get("model_max_length")
    return found if found is None or found < _NO_LENGTH else None


def read_lower_case(name_or_path: str | os.PathLike, **where) -> bool:
    """Returns whether the folder or repository lower-cases texts itself; most leave that to the tokenizer."""
    return bool((_read_json(name_or_path, "sentence_bert_config.json", where) or {}).get("do_lower_case"))


def read_item_prefix(name_or_path: str | os.PathLike, **where) -> str:
    """Returns what the folder or repository sets before a document, such as `"passage: "` of E5; most often nothing.

    Items are documents. Histories are not texts here, so what is set before a query is not needed.

    Args:
        name_or_path: Hub id or folder.
        where: `revision`, `token`, `cache_dir`, …
    """
    settings = _read_json(name_or_path, "config_sentence_transformers.json", where) or {}
    prompts = settings.get("prompts") or {}
    name = next((name for name in _DOCUMENT_PROMPTS if name in prompts), settings.get("default_prompt_name"))
    return prompts.get(name) or ""


def _read_json(name_or_path: str | os.PathLike, name: str, where: dict):
    found = cached_file(
        name_or_path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    if found is None:
        return None
    with open(found, encoding="utf-8") as file:
        return json.load(file)
