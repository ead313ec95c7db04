"""Evaluates a checkpoint, or what needs no training, on a data set."""

import functools
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import PartialState

from ..data.arguments import DataArguments
from ..data.foreign_ids import drop_foreign_ids
from ..data.loading import choose_users
from ..data.precomputed_items import with_known_features
from ..data.preparation import prepare_items
from ..models.checkpoint_files import load_config
from ..models.configuration_transrec import TransRecConfig
from ..models.modeling_transrec import TransRecModel
from ..models.processing_transrec import TransRecProcessor
from .arguments import CONTENT_OPTIONS, TEXT_OPTIONS, EvaluationArguments
from .baselines import BASELINES, LANGUAGE_MODEL, Platform, evaluate_baselines, evaluate_model, rank, rerank
from .candidate_sets import SampledRankingEvaluator
from .evaluator import FullRankingEvaluator
from .features import Content, content_of, content_of_start, starting_backbones
from .language_models import LanguageModelRanker
from .metrics import METRICS


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
    return EvaluationTask(args, data_args).evaluate()[-1]


class EvaluationTask:
    """
    A split of a data set with its platform, on which a checkpoint and what needs no training are evaluated.

    Args:
        args: what is evaluated and how.
        data_args: the data set.
    """

    def __init__(self, args: EvaluationArguments, data_args: DataArguments):
        self.args, self.data_args = args, data_args
        self.state = PartialState(cpu=args.use_cpu)
        self.is_baseline = args.model_name_or_path in BASELINES
        self.max_seq_len = TransRecConfig().max_seq_len if args.max_seq_len is None else args.max_seq_len
        if not self.is_baseline:
            self.max_seq_len = load_config(args.model_name_or_path, args.model_revision).max_seq_len
        with self.state.main_process_first():
            items = data_args.load_items(self.max_seq_len)
            sequences = data_args.load_sequences(args.split, self.max_seq_len)
            if args.max_eval_users is not None:
                sequences = choose_users(sequences, args.max_eval_users)
        self.platform = Platform(
            items,
            functools.partial(data_args.load_sequences, "train", self.max_seq_len),
            data_args.load_training_histories,
            self._load_validation,
            self._read_content,
            self._read_language_model,
            args.num_settings,
        )
        needed = {field for metric in args.metrics for field in METRICS[metric].needs}
        make: Any = FullRankingEvaluator
        if args.num_candidates is not None:
            make = functools.partial(SampledRankingEvaluator, num_candidates=args.num_candidates)
        self.evaluator = make(
            items,
            sequences,
            ks=args.eval_ks,
            exclude_seen=not args.include_seen,
            batch_size=args.per_device_eval_batch_size,
            item_batch_size=args.item_batch_size,
            split=args.split,
            center_scores=args.center_scores,
            metrics=args.metrics,
            item_counts=self.platform.item_counts if "item_counts" in needed else None,
            item_features=self._content_to_compare().vectors() if "item_features" in needed else None,
        )

    def evaluate(self, with_rankings: bool = False) -> list[dict]:
        """Returns what [`evaluate`] does; with a transition weight first without transitions, then with them.

        What is re-ranked comes last.

        Args:
            with_rankings: adds `"rankings"`, the [`Rankings`] of the users.
        """
        name = self.args.model_name_or_path
        if self.is_baseline:
            made = BASELINES[name](self.platform)
            found = [rank(self.evaluator, *made, scores=name)]
            if self.args.rerank:
                found.append(rank(self.evaluator, *rerank(*made, self.platform), scores=f"{name}, re-ranked"))
        else:
            model, processor = self.checkpoint
            autocast = functools.partial(
                torch.autocast, self.state.device.type, torch.bfloat16, enabled=bool(self.args.bf16)
            )
            with self.state.main_process_first(), autocast():
                workers = self.args.preprocessing_num_workers
                prepared = prepare_items(self.platform.items, processor, workers)
                self.evaluator.prepared_items = with_known_features(model, prepared)
            scorer = self.evaluator.build_scorer(model, processor, autocast)
            weight, is_reranked = self.args.transition_weight, self.args.rerank
            found = evaluate_model(self.evaluator, scorer, processor, self.platform, weight, is_reranked)
        return [self._complete(result, name, with_rankings) for result in found]

    def evaluate_baselines(self, rows: Iterable[str] | None = None, with_rankings: bool = False) -> dict[str, dict]:
        """Returns the same of what needs no training, by name."""
        found = evaluate_baselines(self.evaluator, self.platform, rows)
        return {name: self._complete(result, name, with_rankings) for name, result in found.items()}

    def _complete(self, result: dict, name: str, with_rankings: bool) -> dict:
        """Adds to the protocol what the evaluator does not know, and the groups where they are wanted."""
        rankings = result["rankings"]
        found = {name: value for name, value in result.items() if name != "rankings" or with_rankings}
        if self.args.by_group:
            found["groups"] = self.evaluator.metrics_of_groups(self.platform.num_interactions, rankings)
        dataset = f"{self.data_args.dataset_name}/{self.data_args.dataset_config_name}"
        scoring = result["protocol"].get("scoring", {})
        dtype = scoring.get("content", scoring.get(LANGUAGE_MODEL, {})).get("dtype")
        bf16 = bool(self.args.bf16) if dtype is None else dtype == "bfloat16"
        facts = {"dataset": dataset, "model": name, "max_seq_len": self.max_seq_len, "bf16": bf16}
        if not self.is_baseline and self.checkpoint[0].config.platforms is not None:
            facts["platform"] = self.checkpoint[0].config.platform
        if self.evaluator.item_features is not None:
            content = self._content_to_compare()
            facts["item_features"] = {"source": content.source, **content.made}
        return {**found, "protocol": {**facts, **result["protocol"]}}

    @functools.cached_property
    def checkpoint(self) -> tuple[TransRecModel, TransRecProcessor]:
        """The model and its processor."""
        name = self.args.model_name_or_path
        model = TransRecModel.from_pretrained(name, **self.args.loading_kwargs()).to(self.state.device)
        processor = TransRecProcessor.from_pretrained(name, revision=self.args.model_revision)
        processor = drop_foreign_ids(model, processor, self.platform.items["item_id"][:])
        processor.language = self.args.language or processor.language
        return model, processor

    def _content_to_compare(self) -> Content:
        """Returns the items' content, by which lists are compared."""
        content = self.platform.content
        if content is None:
            raise ValueError(
                f"diversity compares items by their content, and {self.args.model_name_or_path} has no backbone to "
                f"read it; give --{CONTENT_OPTIONS[0]}"
            )
        return content

    def _read_content(self) -> Content | None:
        """Encodes the items with the backbones that the options name, else with those that the model started from."""
        names = {name: getattr(self.args, name) for name in CONTENT_OPTIONS if getattr(self.args, name) is not None}
        options: dict[str, Any] = {"chunk_size": self.args.item_batch_size, "device": self.state.device}
        options |= {"language": self.args.language, "bf16": self.args.bf16}
        if names:
            options |= {name: getattr(self.args, name) for name in TEXT_OPTIONS}
            return content_of(names, self.platform.items, **options)
        if self.is_baseline:
            return None
        model, processor = self.checkpoint
        options["language"] = processor.language
        return content_of_start(starting_backbones(model.config), self.platform.items, **options)

    def _read_language_model(self) -> LanguageModelRanker | None:
        """Loads the language model that the options name; an item without a title has its id in place of one."""
        if self.args.language_model_name_or_path is None:
            return None
        titles = self.platform.items[f"text_{self.args.language or 'en'}"]
        known = [title or item_id for title, item_id in zip(titles, self.platform.items["item_id"], strict=True)]
        ranker = LanguageModelRanker.from_pretrained(self.args.language_model_name_or_path, known)
        dtype = {None: None, True: torch.bfloat16, False: torch.float32}[self.args.bf16]
        ranker.model.to(self.state.device, dtype)
        return ranker

    def _load_validation(self) -> FullRankingEvaluator:
        """Returns the same evaluation on the validation split, on which settings are chosen."""
        if self.evaluator.split == "validation" and self.args.num_candidates is None:
            return self.evaluator
        return FullRankingEvaluator(
            self.platform.items,
            self.data_args.load_sequences("validation", self.max_seq_len),
            exclude_seen=self.evaluator.exclude_seen,
            batch_size=self.evaluator.batch_size,
            split="validation",
        )
