"""The model card of a training: its facts, and the results of every split that was ranked."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from ..evaluation.baselines import evaluate_baselines, evaluate_model
from ..evaluation.evaluator import FullRankingEvaluator
from ..hub.card import draw_training_curve
from ..hub.facts import CardFacts, DataFacts, describe_model, describe_training, split_hyperparameters
from ..hub.names import CURVE_NAME
from ..hub.publish import write_model_card
from ..hub.results import THIS_MODEL, read_result, result_row
from .arguments import TransRecTrainingArguments


if TYPE_CHECKING:
    from .trainer import TransRecTrainer


def write_card(
    trainer: "TransRecTrainer",
    *,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    dataset: str | None = None,
    dataset_args: str | None = None,
    license: str | None = None,
    tags: list[str] | None = None,
    eval_dataset_args: str | None = None,
) -> None:
    """Writes the card of a training into its `output_dir`, see [`TransRecTrainer.create_model_card`]."""
    args, histories = trainer.args, trainer.train_dataset
    users = None if histories is None else len(histories)
    data = DataFacts(dataset or "unnamed", dataset_args, users, len(trainer.items))
    ranked = data if eval_dataset_args is None else replace(data, config_name=eval_dataset_args)
    results = rank_for_card(trainer, ranked)
    if not trainer.is_world_process_zero():
        return
    for entry in args.card_results or ():
        name, _, file = entry.partition("=")
        results.append(read_result(file, name))
    folder, log = args.output_dir, of_training(trainer.state.log_history)
    model = trainer.accelerator.unwrap_model(trainer.model)
    metric = args.metric_for_best_model or FullRankingEvaluator.primary_metric
    has_curve = draw_training_curve(log, metric.removeprefix("eval_"), os.path.join(folder, CURVE_NAME))
    repository = trainer.hub_model_id or args.hub_model_id
    started_from = finetuned_from or model.name_or_path
    facts = CardFacts(
        name=model_name or repository or os.path.basename(os.path.abspath(folder)),
        data=data,
        results=results,
        training=describe_training(log, args.metric_for_best_model, args.world_size, args.device, started_from),
        hyperparameters=split_hyperparameters(args.to_dict(), TransRecTrainingArguments.defaults(), model.config),
        curve=CURVE_NAME if has_curve else None,
        license=license,
        with_code=args.hub_with_code,
        tags=tags or [],
        **describe_model(model, trainer.processing_class, [started_from]),
    )
    write_model_card(folder, facts)


def rank_for_card(trainer: "TransRecTrainer", data: DataFacts) -> list[dict]:
    """Returns rows of the card for each split that was ranked: what needs no training, and the model."""
    splits = trainer.ranked_splits()
    if trainer.platform is None or not splits:
        return []
    model, processor = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    facts = {"dataset": data.title, "max_seq_len": model.config.max_seq_len}
    scorer = next(iter(splits.values())).build_scorer(model, processor, trainer.accelerator.autocast)
    rows, weight = [], trainer.args.transition_weight
    for split, evaluator in splits.items():
        facts["split"] = split
        found = [*evaluate_baselines(evaluator, trainer.platform).items()]
        found += [(THIS_MODEL, row) for row in evaluate_model(evaluator, scorer, processor, trainer.platform, weight)]
        rows += [result_row(name, row["metrics"], {**row["protocol"], **facts}) for name, row in found]
    return rows


def of_training(log_history: list[dict]) -> list[dict]:
    """Returns the entries up to the end of the training; later ones may be evaluations of other splits.

    >>> of_training([{"loss": 1.0}, {"train_runtime": 9.0}, {"eval_hr@10": 0.3}])
    [{'loss': 1.0}, {'train_runtime': 9.0}]
    """
    ends = [place for place, entry in enumerate(log_history) if "train_runtime" in entry]
    return log_history[: ends[-1] + 1] if ends else log_history
