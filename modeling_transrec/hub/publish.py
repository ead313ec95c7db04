"""Writes a checkpoint's card and results, and uploads them: to a new repository, or into a published card."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, ModelCardData

from ..models.whole_saves import check_whole, write_whole
from .card import build_model_card
from .facts import CardFacts, DataFacts
from .names import CARD_NAME, CATALOGUE_FOLDER, FACTS_NAME, RESULTS_NAME
from .results import eval_result_files, eval_results, merge_results, results_sections
from .safety import check_links, upload_patterns


# What `save_pretrained` calls weights, in one file or in several: those of another save must not stay beside new ones.
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"


def write_model_card(folder: str | os.PathLike, facts: CardFacts) -> None:
    """Writes the card, its facts and results, and `.eval_results` into a checkpoint's folder."""
    files = _files(str(build_model_card(facts)) + "\n", facts.results)
    files[FACTS_NAME] = _to_json({name: value for name, value in asdict(facts).items() if name != "results"})
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content)


def read_facts(folder: str | os.PathLike) -> CardFacts:
    """Reads the facts that [`write_model_card`] wrote into a checkpoint's folder.

    Raises:
        FileNotFoundError: if the checkpoint has none.
    """
    if not Path(folder, FACTS_NAME).is_file():
        raise FileNotFoundError(f"{folder} has no {FACTS_NAME}; train it, or call TransRecTrainer.create_model_card")
    found = json.loads(Path(folder, FACTS_NAME).read_text(encoding="utf-8"))
    found["results"] = json.loads(Path(folder, RESULTS_NAME).read_text(encoding="utf-8"))
    found["data"] = None if found["data"] is None else DataFacts(**found["data"])
    found["hyperparameters"] = tuple(found["hyperparameters"])
    return CardFacts(**found)


def upload_checkpoint(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    commit_message: str | None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    with_code: bool = False,
    with_handler: bool = False,
    blocking: bool = True,
) -> CommitInfo:
    """Uploads a checkpoint's folder in one commit, only the files that may leave; see [`upload_patterns`].

    Weights replace the published ones whole, and so does a catalogue: shards of before, or counts of interactions that
    it no longer has, are deleted.

    Args:
        folder: the checkpoint's folder.
        repo_id: an existing repository.
        commit_message: message of the commit.
        token: a token that may write; by default that of the log-in.
        revision: branch, which is made where there is none; by default `main`.
        create_pr: whether to open a pull request instead of a commit.
        with_code: whether the model's code is uploaded, too.
        with_handler: whether the handler of Inference Endpoints is, see [`write_handler`].
        blocking: whether to return only when everything has arrived; otherwise a future is returned.

    Raises:
        ConnectionError: if the upload breaks off; then nothing of it is published.
    """
    check_links(folder)
    check_whole(folder, "model")
    check_whole(folder, "processor")
    api = HfApi(token=token)
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    deleted = [*_WEIGHTS, *([f"{CATALOGUE_FOLDER}/*"] if Path(folder, CATALOGUE_FOLDER).is_dir() else [])]
    try:
        return api.upload_folder(  # type: ignore[call-overload]  # its overloads know run_as_future as a literal only
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
            run_as_future=not blocking,
            delete_patterns=deleted,
            **upload_patterns(with_code, with_handler),
        )
    except RuntimeError as error:  # of one of its threads, which says which file it was
        problem = f"the upload to {repo_id} broke off and changed nothing there, try again: {error}"
        raise ConnectionError(problem) from error


def push_results(repo_id: str, rows: Sequence[dict], token: str | None = None, create_pr: bool = False) -> str:
    """Adds results to a published card: to its table, its metadata and `.eval_results`, in one commit.

    Rows of the metadata that others have put there stay.

    Args:
        repo_id: the checkpoint's repository.
        rows: what was measured, see [`result_row`].
        token: a token that may write.
        create_pr: whether to open a pull request instead of a commit, where the repository is another's.

    Returns:
        The commit's address.

    Raises:
        ValueError: if the card has no part for results, since another program made it.
    """
    api, old = HfApi(token=token), list[dict]()
    commit = api.model_info(repo_id).sha  # all is read from it, and what somebody pushes meanwhile is an error

    def read(name: str) -> str:
        return Path(api.hf_hub_download(repo_id, name, revision=commit)).read_text(encoding="utf-8")

    card = ModelCard(read(CARD_NAME))
    if api.file_exists(repo_id, RESULTS_NAME, revision=commit):
        old = json.loads(read(RESULTS_NAME))
    results = merge_results(old, rows)
    before, begin, rest = card.text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(
            f"the card of {repo_id} has no part for results; put the lines {_BEGIN} and {_END} where they belong"
        )
    card.text = f"{before}{begin}\n{results_sections(results)}\n{end}{after}"
    ours, data = [*eval_results(old), *eval_results(results)], cast(ModelCardData, card.data)
    others = [row for row in data.eval_results or () if not any(row.is_equal_except_value(other) for other in ours)]
    data.eval_results = [*others, *eval_results(results)]
    data.model_name = data.model_name or repo_id
    operations = [CommitOperationAdd(name, content.encode()) for name, content in _files(str(card), results).items()]
    made = api.create_commit(
        repo_id, operations, commit_message="Add results", create_pr=create_pr, parent_commit=commit
    )
    return made.commit_url


def _files(card: str, results: Sequence[dict]) -> dict[str, str]:
    """Returns the files of a card and its results: name to content."""
    return {
        CARD_NAME: card,
        RESULTS_NAME: _to_json(results),
        **eval_result_files(results),
    }


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
