"""What the scripts do: train a model on a data set, evaluate a checkpoint or a baseline."""

import functools
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.loading import count_actions, histories_as_rows, prepare_items
from ..evaluation.evaluator import FullRankingEvaluator
from ..hub.publish import push_results
from ..hub.results import THIS_MODEL, result_row
from ..models.configuration_transrec import TransRecConfig
from ..models.modeling_transrec import TransRecModel
from ..models.processing_transrec import TransRecProcessor
from ..serving.recommender import drop_foreign_ids
from ..training.arguments import TransRecTrainingArguments
from ..training.trainer import TRAINER_STATE_NAME, TransRecTrainer, last_whole_checkpoint
from .arguments import BASELINES, DataArguments, EvaluationArguments, ModelArguments, load_config
from .model_building import load_model_and_processor


logger = logging.getLogger(__name__)


def train(
    model_args: ModelArguments, data_args: DataArguments, training_args: TransRecTrainingArguments
) -> TransRecTrainer:
    """Trains, keeps the best checkpoint by validation HR@10, saves model, processor and card in `output_dir`.

    The test split is not read.
    """
    set_seed(training_args.seed)
    max_seq_len = model_args.resolved_max_seq_len()
    with training_args.main_process_first(desc="loading the data"):
        items = data_args.load_items(max_seq_len)
        train_split = data_args.load_sequences("train", max_seq_len)
        validation = data_args.load_sequences("validation", max_seq_len)
    model, processor = load_model_and_processor(model_args, items, train_split["user_id"])
    pretrained = any(value for name, value in vars(model_args).items() if name.endswith("_model_name_or_path"))
    trains_all = model_args.peft is None and not training_args.freeze_backbone
    if pretrained and trains_all and training_args.backbone_learning_rate is None:
        logger.warning(
            "The pretrained backbone is trained at --learning_rate %g; the paper's rates for backbones are 5e-6 to "
            "5e-5: --backbone_learning_rate 1e-5",
            training_args.learning_rate,
        )
    trainer = TransRecTrainer(model, training_args, items, train_split, validation, processing_class=processor)
    with training_args.main_process_first(desc="looking for checkpoints"):
        resume = _where_to_start(training_args)
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    card = {"dataset": data_args.dataset_name, "dataset_args": data_args.dataset_config_name}
    card["finetuned_from"] = model_args.model_name_or_path
    card["license"] = training_args.hub_license
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.save_model()
        trainer.create_model_card(**card)
    trainer.accelerator.wait_for_everyone()  # the main process writes; the others may want to read
    if trainer.is_world_process_zero():
        best, state = trainer.state.best_metric, trainer.state
        found = ""
        if best is not None:
            epoch = next(entry["epoch"] for entry in state.log_history if entry["step"] == state.best_global_step)
            found = f": validation {training_args.metric_for_best_model} {best:.4f} after epoch {epoch:g}"
        print(f"Saved in {training_args.output_dir}{found}", flush=True)
    return trainer


def _where_to_start(args: TransRecTrainingArguments) -> str | None:
    """The checkpoint to resume from; `None` to start anew, in place of a finished training in the same folder.

    Raises:
        FileExistsError: if the folder has an interrupted training that is not to be resumed.
    """
    folder, resume = args.output_dir, args.resume_from_checkpoint
    finished = Path(folder, TRAINER_STATE_NAME)  # written at the end
    checkpoints = sorted(Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
    if resume is not None and resume.lower() not in ("true", "false"):  # to HfArgumentParser it is a path
        return resume
    if resume is not None and resume.lower() == "true":
        found = last_whole_checkpoint(folder)
        if found is None:
            logger.warning("There is no checkpoint in %s yet: training starts from the beginning", folder)
        finished.unlink(missing_ok=True)
        return found
    if checkpoints and not finished.exists():
        raise FileExistsError(
            f"{folder} has an interrupted training: go on with --resume_from_checkpoint true, choose another "
            "--output_dir, or remove the folder"
        )
    if checkpoints:
        logger.warning("%s has a finished training, which is replaced", folder)
        for checkpoint in checkpoints:
            shutil.rmtree(checkpoint)
    finished.unlink(missing_ok=True)
    return None


def evaluate(args: EvaluationArguments, data_args: DataArguments) -> dict:
    """Metrics and protocol of a checkpoint or baseline."""
    state = PartialState(cpu=args.use_cpu)
    is_baseline = args.model_name_or_path in BASELINES
    checkpoint, max_seq_len = args.model_name_or_path, args.max_seq_len or TransRecConfig().max_seq_len
    if not is_baseline:
        max_seq_len = load_config(checkpoint, args.model_revision).max_seq_len
    with state.main_process_first():
        items = data_args.load_items(max_seq_len)
        sequences = data_args.load_sequences(args.split, max_seq_len)
    evaluator = FullRankingEvaluator(
        items,
        sequences,
        ks=args.eval_ks,
        exclude_seen=not args.include_seen,
        batch_size=args.per_device_eval_batch_size,
        item_batch_size=args.item_batch_size,
        split=args.split,
        center_scores=args.center_scores,
    )
    item_counts = None
    if args.model_name_or_path == "popularity" or args.by_group:
        histories = histories_as_rows(data_args.load_sequences("train", max_seq_len), items["item_id"])
        item_counts = count_actions(histories, len(items))
    if args.model_name_or_path == "random":
        metrics = evaluator.evaluate_random()
    elif args.model_name_or_path == "popularity":
        metrics = evaluator.evaluate_popularity(item_counts)
    else:
        model = TransRecModel.from_pretrained(checkpoint, revision=args.model_revision).to(state.device)
        processor = TransRecProcessor.from_pretrained(checkpoint, revision=args.model_revision)
        processor = drop_foreign_ids(model, processor, items["item_id"])
        processor.language = args.language or processor.language
        with state.main_process_first():
            evaluator.prepared_items = prepare_items(items, processor, args.preprocessing_num_workers)
        autocast = functools.partial(torch.autocast, state.device.type, torch.bfloat16, enabled=args.bf16)
        metrics = evaluator(model, processor, autocast)
    dataset = f"{data_args.dataset_name}/{data_args.dataset_config_name}"
    protocol = {"dataset": dataset, "model": checkpoint, "max_seq_len": max_seq_len, "bf16": args.bf16}
    protocol |= evaluator.protocol
    groups = {"groups": evaluator.metrics_of_groups(item_counts)} if args.by_group else {}
    return {"metrics": metrics, **groups, "protocol": protocol}


def push_evaluation(args: EvaluationArguments, data_args: DataArguments, results: dict) -> str | None:
    """Adds what [`evaluate`] measured to the checkpoint's card, random and popularity on the same split beside it.

    Returns: the commit's address; `None` on all processes but the main one.
    """
    rows = []
    for name in BASELINES:
        changes = {"model_name_or_path": name, "max_seq_len": results["protocol"]["max_seq_len"]}
        changes.update(center_scores=False, by_group=False, push_to_hub=False, create_pr=False)
        found = evaluate(replace(args, **changes), data_args)
        rows.append(result_row(name, found["metrics"], found["protocol"]))
    rows.append(result_row(THIS_MODEL, results["metrics"], results["protocol"]))
    if not PartialState().is_main_process:
        return None
    return push_results(args.model_name_or_path, rows, create_pr=args.create_pr)
