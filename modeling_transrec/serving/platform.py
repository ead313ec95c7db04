"""What a recommender learns from a platform's interactions without training: transitions, and how they are weighed."""

import dataclasses
import json
import logging
import reprlib
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..data.counting import from_interactions
from ..data.tables import Table, as_arrow, as_histories, is_rows, is_table
from ..data.transitions import TRANSITIONS_FILE, Transitions
from ..evaluation.content import ContentKNN
from ..evaluation.evaluator import FullRankingEvaluator
from ..evaluation.features import Content
from ..evaluation.reranker import load_reranker
from ..evaluation.reranking import learn_reranker
from ..evaluation.scoring import CatalogueScorer
from ..evaluation.weighing import ScoringChoice, choose, choose_content
from ..models.batch import UserInputs
from ..models.checkpoint_files import named_file
from ..models.whitening import Whitening


# Beside the catalogue's file, in its folder; no data set takes it for one of its own.
SCORING_FILE = "scoring.safetensors"
_RERANKER = "reranker."  # before the names of its tensors
_LARGEST_WEIGHT, _LONGEST_HISTORY = 1e30, 2**20  # in such a file

logger = logging.getLogger(__name__)


def as_sequences(
    histories: Table | Sequence[Sequence[str]], known: Container[str], turns: Sequence[int] | None = None
) -> pa.Table:
    """Returns histories as one row a user, with columns `user_id` and `item_ids`, in time order.

    Args:
        histories: a table of interactions or of histories, or lists of item ids, one for each user.
        known: ids of the items of the catalogue.
        turns: for interactions, see [`from_interactions`].

    Raises:
        ValueError: if an item is not among the known ones, or there is only one history.
    """
    if is_table(histories) or is_rows(histories):
        table = as_arrow(histories)
        is_whole = {"user_id", "item_ids"} <= set(table.column_names)
        if is_whole and turns is not None:
            raise ValueError("whole histories have no turns: give interactions, with a column item_id")
        sequences = table if is_whole else from_interactions(table, turns)
    else:
        lists, is_single = as_histories(histories)
        if is_single:
            raise ValueError("histories must be a table of interactions, or lists of item ids, one for each user")
        users = [f"user {number}" for number in range(len(lists))]
        sequences = as_arrow({"user_id": users, "item_ids": lists})
    item_ids = sequences["item_ids"]
    if not hasattr(item_ids.type, "value_type"):
        raise ValueError("item_ids must hold a list of item ids in each row; a column of single ids is called item_id")
    for item in item_ids.combine_chunks().flatten().unique().to_pylist():
        if item is None:
            row = next(row for row, history in enumerate(item_ids.to_pylist()) if None in history)
            raise ValueError(f"the history of row {row} has an item without an id (None); leave it out")
        if item not in known:
            raise ValueError(
                f"item {item!r} of the interactions is not in the catalogue; index it, too, or leave its interactions "
                f"out{_spelled_otherwise(item, known) if isinstance(known, set) else ''}"
            )
    return sequences


def _spelled_otherwise(item: Any, known: set[str]) -> str:
    """Returns what to say of an id that would be known, were it written otherwise; reads the whole catalogue."""
    import polars as pl

    from ..ninerec.tables.spellings import advice_on_unknown

    advice = advice_on_unknown(pl.Series([str(item)]), pl.Series(sorted(known), dtype=pl.String))
    return f". {advice[0].upper()}{advice[1:]}" if " may be " in advice else ""


def hold_out_last(
    items: datasets.Dataset, sequences: datasets.Dataset
) -> tuple[datasets.Dataset, FullRankingEvaluator | None]:
    """Returns all but the last item of each history, and a ranking of that last item to choose settings on.

    Histories of one item are counted whole; where there are no others, nothing can be chosen.
    """
    histories = sequences["item_ids"][:]
    cut = {
        name: [values[:-1] if len(values) > 1 else values for values in sequences[name][:]]
        for name in ("item_ids", "timestamps", "weights")
        if name in sequences.column_names
    }
    training = datasets.Dataset.from_dict(cut)
    held_out = [(history[:-1], history[-1]) for history in histories if len(history) > 1]
    if not held_out:
        return training, None
    inputs, targets = zip(*held_out, strict=True)
    columns = {"item_ids": list(inputs), "target": list(targets)}
    of_these = [number for number, history in enumerate(histories) if len(history) > 1]
    if "timestamps" in sequences.column_names:
        columns["timestamps"] = [times[:-1] for times in sequences[of_these]["timestamps"]]
    if "user_id" in sequences.column_names:
        columns["user_id"] = sequences[of_these]["user_id"]
    table = datasets.Dataset.from_dict(columns)
    return training, FullRankingEvaluator(items.select_columns(["item_id"]), table, split="validation")


def add_counts(
    scorer: CatalogueScorer,
    items: datasets.Dataset,
    sequences: datasets.Dataset,
    read_users: Callable[[FullRankingEvaluator], UserInputs | None] = lambda evaluator: None,
    rerank: bool = False,
) -> CatalogueScorer:
    """Returns a scorer to which the transitions of a platform are added.

    Their weight, and that of popularity, are chosen by ranking each history's last item, which is held out first and
    then counted, too.

    Args:
        scorer: of the catalogue.
        items: the catalogue.
        sequences: whole histories, see [`as_sequences`].
        read_users: returns what a model reads of the users beside their items, see
            [`FullRankingEvaluator.user_inputs`].
        rerank: whether the held out items also teach a [`Reranker`], which is used where it gains something.
    """
    item_ids = items["item_id"][:]
    training, validation = hold_out_last(items, sequences)
    choice, reranker = ScoringChoice(0.0, 0.0, 1.0, {}), None
    if validation is not None:
        counted, users = Transitions.from_sequences(training, item_ids), read_users(validation)
        choice = choose(scorer, counted, validation, user_inputs=users)
        if rerank:
            held_out = choice.apply(scorer, counted)
            if held_out.transitions is None:
                held_out = held_out.replace(transitions=counted, transition_weight=0.0)
            reranker = learn_reranker(held_out, validation, users)[0]
    transitions = Transitions.from_sequences(sequences, item_ids, keep_histories=True, **choice.transition_settings)
    scorer = dataclasses.replace(choice, transition_settings={}).apply(scorer, transitions)
    if scorer.transitions is None:  # of weight 0, but counted: new interactions are still observed, and saved
        scorer = scorer.replace(transitions=transitions, transition_weight=0.0)
    return scorer.replace(reranker=reranker)


def fit_content(content: Content, items: datasets.Dataset, sequences: datasets.Dataset | None) -> CatalogueScorer:
    """Returns content kNN of a catalogue; its settings are chosen as in [`add_counts`], where there are users."""
    validation = None if sequences is None else hold_out_last(items, sequences)[1]
    return content.fit(**({} if validation is None else choose_content(content, validation)))


def explain(
    scorer: CatalogueScorer,
    history: torch.Tensor,
    catalogue_index: torch.Tensor,
    user_inputs: UserInputs | None = None,
) -> list[dict]:
    """Returns what each score is made of, and because of which item of the history.

    Args:
        scorer: of the catalogue.
        history: `(L,)` indices into the catalogue.
        catalogue_index: `(K,)` of the recommended items.
        user_inputs: `(1,)` as in [`CatalogueScorer.encode_users`].

    Returns: for each item `"model"` (of content or a trained model), `"transitions"` and `"popularity"`, which add up
    to the score; and `"because_of"`, the index of the item of the history to which most of the transitions' part
    leads back or, without one, of the one with the most similar embedding; `None` where popularity is most of it.
    """
    ours, theirs = (
        torch.nn.functional.normalize(scorer.item_embeddings[index], dim=1) for index in (history, catalogue_index)
    )
    likeness = ours @ theirs.T  # (L, K)
    popularity = likeness.new_zeros(len(catalogue_index))
    if scorer.item_scores is not None:
        popularity = scorer.item_scores[catalogue_index]
    without_counts = scorer.candidates[catalogue_index] @ scorer.queries(history[None], user_inputs)[0]
    counted = torch.zeros_like(likeness)
    if scorer.transitions is not None:
        from_items, to_items = (scorer.in_transitions(index.cpu().numpy()) for index in (history, catalogue_index))
        shares = np.where(to_items >= 0, scorer.transitions.contributions(from_items, to_items), 0)
        counted = torch.from_numpy(scorer.transition_weight * shares).to(likeness)
    reasons = torch.where(counted.any(dim=0), counted, likeness).argmax(dim=0)
    parts = {"model": without_counts - popularity, "transitions": counted.sum(dim=0), "popularity": popularity}
    columns = zip(*(values.tolist() for values in parts.values()), strict=True)
    found: list[dict] = [dict(zip(parts, values, strict=True)) for values in columns]
    for one, reason in zip(found, reasons.tolist(), strict=True):
        is_popular = one["popularity"] > max(one["model"], one["transitions"])
        one["because_of"] = None if is_popular else int(history[reason])
    return found


def save_scoring(scorer: CatalogueScorer, folder: Path, **pruning) -> None:
    """Writes what a scorer has beside the item embeddings into the catalogue's folder.

    Args:
        scorer: of the catalogue.
        folder: the catalogue's folder.
        pruning: `max_per_item` and `min_count`, see [`Transitions.pruned`].
    """
    transitions, knn = scorer.transitions, scorer.model if isinstance(scorer.model, ContentKNN) else None
    facts: dict = {"transition_weight": scorer.transition_weight}
    tensors = {} if scorer.item_scores is None else {"item_scores": scorer.item_scores.cpu()}
    if knn is not None:
        facts["content"] = {"weights": knn.weights, "history_decay": knn.history_decay}
        facts["content"]["powers"] = {name: whitening.power for name, whitening in knn.whitenings.items()}
        facts["content"]["max_seq_len"] = knn.config.max_seq_len
        for name, whitening in knn.whitenings.items():
            tensors |= {f"{name}.mean": whitening.mean.cpu(), f"{name}.matrix": whitening.matrix.cpu()}
    if scorer.reranker is not None:
        facts["reranker"] = {name: getattr(scorer.reranker, name) for name in ("num_candidates", "hidden_size")}
        tensors |= {f"{_RERANKER}{name}": value.cpu() for name, value in scorer.reranker.state_dict().items()}
    for name in (TRANSITIONS_FILE, SCORING_FILE):  # of what was saved here before
        (folder / name).unlink(missing_ok=True)
    if transitions is not None:
        file = transitions.save_pretrained(folder, **pruning)
        logger.info("The counts of %s items take %.1f MB", len(transitions), file.stat().st_size / 1e6)
    if transitions is not None or tensors:
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / SCORING_FILE, metadata={"facts": json.dumps(facts)})


def load_scoring(file: str | None, transitions_file: str | None) -> tuple[ContentKNN | None, dict]:
    """Reads the files of [`save_scoring`]: returns content kNN, where it is used, and arguments of the scorer.

    Raises:
        ValueError: if a file is damaged, or has not what the other needs; it names the file.
    """
    if file is None and transitions_file is not None:
        raise ValueError(f"{transitions_file}: {SCORING_FILE} is missing beside it, which says what the counts weigh")
    if file is None:
        return None, {}
    with named_file(file):
        with safe_open(file, "pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("facts", "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        weight = _number(facts, "transition_weight", -_LARGEST_WEIGHT, _LARGEST_WEIGHT)
        knn = _read_content(facts["content"], tensors) if "content" in facts else None
        reranker = None
        if "reranker" in facts:
            if transitions_file is None:
                raise ValueError(f"{TRANSITIONS_FILE} is missing beside it, which its reranker reads")
            reranker = load_reranker(
                {name.removeprefix(_RERANKER): value for name, value in tensors.items() if name.startswith(_RERANKER)},
                facts["reranker"],
            )
    changes: dict = {name: tensors[name] for name in ("item_scores",) if name in tensors}
    if transitions_file is not None:
        changes |= {"transitions": Transitions.from_pretrained(transitions_file), "transition_weight": weight}
        changes |= {"reranker": reranker}
    return knn, changes


def _read_content(saved: dict, tensors: dict[str, torch.Tensor]) -> ContentKNN:
    powers, whitenings = saved["powers"], {}
    for name in powers:
        width = len(checked_tensor(tensors, f"{name}.mean", None))
        matrix = checked_tensor(tensors, f"{name}.matrix", width, width)
        whitenings[name] = Whitening(tensors[f"{name}.mean"], matrix, _number(powers, name, 0, 1))
    weights = {name: _number(saved["weights"], name, 0, _LARGEST_WEIGHT) for name in saved["weights"]}
    max_seq_len = int(_number(saved, "max_seq_len", 1, _LONGEST_HISTORY))
    return ContentKNN(whitenings, weights, _number(saved, "history_decay", 0, 1), max_seq_len)


def checked_tensor(tensors: Mapping[str, torch.Tensor], name: str, *shape: int | None) -> torch.Tensor:
    """Returns a tensor that was read from a file.

    Raises:
        ValueError: if it is not there, not of this shape (`None` stands for any length), or not of finite numbers.
    """
    tensor = tensors.get(name)
    if tensor is None or not tensor.is_floating_point() or not tensor.isfinite().all():
        raise ValueError(f"it must have {name}, of finite numbers")
    if tensor.ndim != len(shape) or any(
        one not in (None, size) for one, size in zip(shape, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)} in place of {shape}")
    return tensor


def _number(facts: Any, name: str, low: float, high: float) -> float:
    """Returns a number that was read from a file; raises `ValueError` for anything else."""
    value = facts.get(name) if isinstance(facts, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, and is {reprlib.repr(value)}")
    return value
