"""Evaluates a checkpoint, or what needs no training, on a data set."""

import functools
from dataclasses import replace
from typing import Any

import datasets
import torch
from accelerate import PartialState

from ..data.arguments import DataArguments
from ..data.foreign_ids import drop_foreign_ids
from ..data.preparation import prepare_items
from ..models.checkpoint_files import load_config
from ..models.configuration_transrec import TransRecConfig
from ..models.modeling_transrec import TransRecModel
from ..models.processing_transrec import TransRecProcessor
from .arguments import CONTENT_OPTIONS, NOT_TRAINED, EvaluationArguments
from .baselines import BASELINES, TrainingInteractions
from .evaluator import FullRankingEvaluator
from .metrics import METRICS
from .untrained import UNTRAINED, Content, Untrained, describe_scoring, load_content_model, read_content


def evaluate(args: EvaluationArguments, data_args: DataArguments) -> dict:
    """Ranks the whole catalogue for every user of a split.

    Under `accelerate launch`, the processes share the work, and each of them gets the result.

    Args:
        args: what is evaluated and how.
        data_args: the data set.

    Returns:
        `"metrics"` (`{"hr@10": …, "ndcg@10": …}`), `"protocol"` (data set, split, candidates, …) and, with
        `by_group`, `"groups"`.

    Example:

    >>> import modeling_transrec
    >>> results = evaluate(EvaluationArguments("popularity", use_cpu=True), DataArguments())
    >>> round(results["metrics"]["hr@10"], 3), results["protocol"]["num_candidates"]
    (0.1, 300)
    """
    state = PartialState(cpu=args.use_cpu)
    name = args.model_name_or_path
    if name in NOT_TRAINED:
        max_seq_len = TransRecConfig().max_seq_len if args.max_seq_len is None else args.max_seq_len
    else:
        max_seq_len = load_config(name, args.model_revision).max_seq_len
    with state.main_process_first():
        items = data_args.load_items(max_seq_len)
        sequences = data_args.load_sequences(args.split, max_seq_len)
    read = functools.partial(data_args.load_sequences, "train", max_seq_len)
    interactions = TrainingInteractions(items, read, data_args.load_training_histories)
    needs_counts = any(METRICS[metric].needs_lists for metric in args.metrics)
    evaluator = FullRankingEvaluator(
        items,
        sequences,
        ks=args.eval_ks,
        exclude_seen=not args.include_seen,
        batch_size=args.per_device_eval_batch_size,
        item_batch_size=args.item_batch_size,
        split=args.split,
        center_scores=args.center_scores,
        metrics=args.metrics,
        item_counts=interactions.item_counts if needs_counts else None,
    )
    scoring: dict = {}
    scores = evaluator.protocol["scores"]
    if name in UNTRAINED:
        untrained = Untrained(
            interactions.transitions,
            _validation_of(evaluator, data_args, max_seq_len),
            _read_content(args, items, state),
        )
        scorer, scoring = untrained.build(name)
        metrics, scores = evaluator.rank(scorer), name
    elif name in BASELINES:
        metrics, scores = evaluator.evaluate(BASELINES[name](interactions)), name
    else:
        metrics, scoring = _evaluate_checkpoint(args, data_args, evaluator, interactions, state)
        scores += " + transitions" if scoring else ""
    dataset = f"{data_args.dataset_name}/{data_args.dataset_config_name}"
    protocol = {"dataset": dataset, "model": name, "max_seq_len": max_seq_len, "bf16": args.bf16}
    protocol |= {**evaluator.protocol, "scores": scores}
    if scoring:
        protocol["scoring"] = describe_scoring(scoring)
    groups = {"groups": evaluator.metrics_of_groups(interactions.num_interactions)} if args.by_group else {}
    return {"metrics": metrics, **groups, "protocol": protocol}


def _read_content(args: EvaluationArguments, items: datasets.Dataset, state: PartialState) -> Content | None:
    """Encodes the items with the backbones that the options name; `None` where they name none."""
    names = {name: getattr(args, name) for name in CONTENT_OPTIONS if getattr(args, name) is not None}
    if not names:
        return None
    with state.main_process_first(), torch.autocast(state.device.type, torch.bfloat16, enabled=args.bf16):
        model, processor = load_content_model(**names, language=args.language or "en")
        content = read_content(model.to(state.device), processor, items, args.item_batch_size)
    return replace(content, source=" + ".join(names.values()))


def _validation_of(
    evaluator: FullRankingEvaluator, data_args: DataArguments, max_seq_len: int
) -> FullRankingEvaluator:
    """Returns the same evaluation on the validation split, on which settings are chosen."""
    if evaluator.split == "validation":
        return evaluator
    return FullRankingEvaluator(
        evaluator.items,
        data_args.load_sequences("validation", max_seq_len),
        exclude_seen=evaluator.exclude_seen,
        batch_size=evaluator.batch_size,
        split="validation",
    )


def _evaluate_checkpoint(
    args: EvaluationArguments,
    data_args: DataArguments,
    evaluator: FullRankingEvaluator,
    interactions: TrainingInteractions,
    state: PartialState,
) -> tuple[dict[str, float], dict]:
    """Returns the metrics, and what the protocol says of transitions that were added to the model's scores."""
    items = evaluator.items
    where: dict[str, Any] = {"revision": args.model_revision}
    model = TransRecModel.from_pretrained(args.model_name_or_path, **where).to(state.device)
    processor = TransRecProcessor.from_pretrained(args.model_name_or_path, **where)
    processor = drop_foreign_ids(model, processor, items["item_id"][:])
    processor.language = args.language or processor.language
    with state.main_process_first():
        evaluator.prepared_items = prepare_items(items, processor, args.preprocessing_num_workers)
    autocast = functools.partial(torch.autocast, state.device.type, torch.bfloat16, enabled=args.bf16)
    if args.transition_weight == "0":
        return evaluator(model, processor, autocast), {}
    scorer = evaluator.build_scorer(model, processor, autocast)
    validation = _validation_of(evaluator, data_args, model.config.max_seq_len)
    weight = None if args.transition_weight == "auto" else float(args.transition_weight)
    untrained = Untrained(interactions.transitions, validation)
    scorer, scoring = untrained.add_transitions(scorer, {}, weight, validation.user_index(processor))
    return evaluator.rank(scorer, evaluator.user_index(processor)), scoring
