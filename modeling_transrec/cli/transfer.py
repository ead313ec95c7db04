"""Compare what pretraining on one data set gives on another.

Pretrains on a source, then compares on a target's test split, at the same budget: baselines without training (random,
popularity, transitions, content kNN and both), then IDRec (an item-id table), TransRec NoPT (content, not pretrained),
zero-shot (pretrained, not fine-tuned) and HasPT (pretrained, then fine-tuned), each without and with the target's
transitions. On the sample that the package brings, as `make run` does:

    transrec transfer --output_dir outputs/sample

On real data in NineRec's layout; --dataset_config_name is the target:

    transrec transfer --source Bili_500K --dataset_config_name Bili_Food --data_dir /data/NineRec --language zh \\
        --text_model_name_or_path hfl/chinese-bert-wwm

Training options (--num_train_epochs, --per_device_train_batch_size, --bf16, …) hold for every model on the target;
results.json keeps the numbers. An interrupted comparison goes on with --resume_from_checkpoint True. On several GPUs:
accelerate launch --multi_gpu -m modeling_transrec.cli.transfer
"""

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from transformers.utils import logging

from ..data.arguments import DataArguments, SourceArguments
from ..evaluation.arguments import EvaluationArguments
from ..evaluation.evaluate import EvaluationTask
from ..evaluation.evaluator import FullRankingEvaluator
from ..hub.results import markdown_table
from ..models.whole_saves import write_whole
from ..ninerec.sample import SAMPLE_BACKBONE, SAMPLES
from ..training.arguments import TransRecTrainingArguments
from ..training.model_arguments import ModelArguments
from ..training.resuming import one_training
from ..training.train import train
from .options import parse_arguments, to_options
from .recommend import main as recommend


# The rows in the order in which they tell it: what reads nothing of the target, its counts, what is trained on it.
ORDER = (
    *("random", "content-knn", "TransRec zero-shot"),
    *("popularity", "recent-popularity", "item-knn", "session-knn", "ease", "slim"),
    *("last-item-transitions", "transitions", "content-and-transitions"),
    "TransRec zero-shot + transitions",
    *(f"{row}{added}" for row in ("IDRec", "TransRec NoPT", "TransRec HasPT") for added in ("", " + transitions")),
)


@dataclass
class TransferArguments:
    """Says what the comparison pretrains on."""

    source: list[str] = field(
        default_factory=lambda: ["Sample_Source"], metadata={"help": "Data sets to pretrain on, one or several."}
    )
    validation_dataset_config_name: str | None = field(
        default=None,
        metadata={
            "help": "Data set whose validation split chooses the pretrained model's epoch, see pretrain --help."
        },
    )
    pretrain_epochs: float = field(default=10, metadata={"help": "Epochs on the source."})
    id_learning_rate: float = field(default=3e-3, metadata={"help": "Learning rate of IDRec, which has no backbone."})
    show_users: int = field(default=2, metadata={"help": "Users whose recommendations are shown at the end."})
    _argument_group_name = "comparison"


@dataclass
class TransferModelArguments(ModelArguments):
    """Names the content model that is compared."""

    hidden_size: int | None = field(
        default=128, metadata={"help": "Width of item and user embeddings (default: 128)."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.model_name_or_path is not None or "id" in self.modalities:
            raise ValueError("transrec transfer makes its models itself; leave out --model_name_or_path and ids")


@dataclass
class TransferTrainingArguments(TransRecTrainingArguments):
    """Says how each model of the comparison is trained."""

    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the content models."})
    warmup_steps: float = field(default=0.2, metadata={"help": "Steps, or the share of all steps, to warm up."})
    num_train_epochs: float = field(default=15, metadata={"help": "Epochs on the target, for every row."})
    eval_ks: list[int] = field(default_factory=lambda: [10], metadata={"help": "Cut-offs K of HR@K, NDCG@K."})
    transition_weight: str = field(
        default="auto", metadata={"help": "Weight of transitions beside each model: a number, auto, or 0 for none."}
    )
    output_dir: str = field(default="outputs/transfer", metadata={"help": "Folder of all that is written."})

    def __post_init__(self):
        super().__post_init__()
        if self.push_to_hub:
            raise ValueError(
                "transrec transfer trains several models; publish one of them with transrec pretrain or finetune"
            )


class Comparison:
    """One run of all rows; every trained model lies in its own folder under `output_dir`."""

    def __init__(
        self,
        args: TransferArguments,
        model_args: ModelArguments,
        data_args: DataArguments,
        training_args: TransRecTrainingArguments,
    ):
        self.args, self.model_args, self.training_args = args, model_args, training_args
        self.target = data_args
        if data_args.dataset_config_name in args.source:
            raise ValueError(
                f"--source names the target {data_args.dataset_config_name}, too: zero-shot would have seen its users"
            )
        named: dict[str, Any] = {"dataset_config_name": args.source}
        named["validation_dataset_config_name"] = args.validation_dataset_config_name
        self.source = SourceArguments(**{**vars(data_args), **named})
        self.output_dir = Path(training_args.output_dir)
        self.results: dict[str, dict] = {}

    def train(self, name: str, model_args: ModelArguments, data_args: DataArguments, **changes) -> str:
        """Trains one model and returns its folder."""
        folder = str(self.output_dir / name)
        say(f"{name}: training on {data_args.title}")
        training_args = copy.deepcopy(self.training_args)
        if training_args.resume_from_checkpoint is None and PartialState().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier comparison
        if data_args is not self.source:  # the target is one platform
            defaults = TransRecTrainingArguments.defaults()
            of_platforms = ("mix_platforms", "platform_sampling_exponent")
            changes = {**{option: defaults[option] for option in of_platforms}, **changes}
        for option, value in {"output_dir": folder, **changes}.items():
            setattr(training_args, option, value)
        train(model_args, data_args, training_args)
        return folder

    def evaluate(self, row: str, model: str) -> None:
        """Adds a row, or two where transitions are added: metrics of a checkpoint on the target's test split."""
        plain, *with_transitions = self._task(model, transition_weight=self.training_args.transition_weight).evaluate()
        self.add({row: plain, **{f"{row} + transitions": found for found in with_transitions}})

    def evaluate_baselines(self) -> None:
        """Adds a row of each baseline, and prints them: what training is worth is what it adds to them."""
        samples = {"text_model_name_or_path": SAMPLE_BACKBONE} if self.target.dataset_config_name in SAMPLES else {}
        backbones = self.model_args.backbone_names() or samples
        options = {"max_seq_len": self.model_args.resolved_max_seq_len(), **backbones}
        self.add(self._task("content-knn" if backbones else "transitions", **options).evaluate_baselines())
        if PartialState().is_main_process:
            print(f"\n{self.table('Nothing trained')}\n")

    def _task(self, model: str, **options: Any) -> EvaluationTask:
        arguments = EvaluationArguments(
            model_name_or_path=model,
            eval_ks=self.training_args.eval_ks,
            language=self.model_args.language,
            use_cpu=self.training_args.use_cpu,
            **options,
        )
        return EvaluationTask(arguments, self.target)

    def add(self, rows: dict[str, dict]) -> None:
        """Adds rows, and says what they are worth."""
        self.results |= rows
        for row, result in rows.items():
            say(f"{row}: HR@10 {result['metrics']['hr@10']:.4f}")

    def run(self) -> None:
        self.evaluate_baselines()
        changes: dict[str, Any] = {"num_train_epochs": self.args.pretrain_epochs}
        if self.source.eval_title != self.source.title:  # there transitions are of another platform
            changes |= {"transition_weight": "0", "metric_for_best_model": FullRankingEvaluator.primary_metric}
        pretrained = self.train("pretrained", self.model_args, self.source, **changes)
        self.evaluate("TransRec zero-shot", pretrained)

        of_content = ("text_pooling", "image_pooling", "item_projection", "fusion")
        fields = {name: value for name, value in self.model_args.config_fields().items() if name not in of_content}
        id_args = ModelArguments(modality="id", **fields)
        no_freezing = {"freeze_backbone": False, "train_last_n_layers": None, "freeze_modules": None}
        changes = {"learning_rate": self.args.id_learning_rate, **no_freezing}
        self.evaluate("IDRec", self.train("idrec", id_args, self.target, **changes))

        # Without a pretrained backbone, NoPT starts from the same random architecture and the source's tokenizer.
        of_text = (self.model_args.text_model_name_or_path, self.model_args.multimodal_model_name_or_path)
        scratch = "text" in self.model_args.modalities and not any(of_text)
        no_pt_args = replace(self.model_args, tokenizer_name_or_path=pretrained) if scratch else self.model_args
        no_pt = self.train("no_pt", no_pt_args, self.target)
        self.evaluate("TransRec NoPT", no_pt)

        has_pt_args = ModelArguments(model_name_or_path=pretrained, language=self.model_args.language)
        has_pt = self.train("has_pt", has_pt_args, self.target)
        self.evaluate("TransRec HasPT", has_pt)
        self.report(has_pt)

    @property
    def rows(self) -> dict[str, dict]:
        """The rows so far, in order."""
        return {row: self.results[row] for row in ORDER if row in self.results}

    def table(self, title: str) -> str:
        """Returns the rows so far as Markdown."""
        protocol = next(iter(self.rows.values()))["protocol"]
        metrics = {row: result["metrics"] for row, result in self.rows.items()}
        cells = [(row, f"{found['hr@10']:.4f}", f"{found['ndcg@10']:.4f}") for row, found in metrics.items()]
        return (
            f"{title}, test split: {protocol['num_users']:,} users, every one of {protocol['num_candidates']:,} items "
            f"ranked\n\n{markdown_table(('model', 'HR@10', 'NDCG@10'), cells, aligned=True)}"
        )

    def report(self, model: str) -> None:
        """Prints the table and some recommendations; writes `results.json` and `results.md`."""
        if not PartialState().is_main_process:
            return
        table = self.table(f"{self.source.title} -> {self.target.title}")
        options = {"transfer": vars(self.args), "model": vars(self.model_args), "data": vars(self.target)}
        record = {"options": options, "training": self.training_args.to_dict(), "rows": self.rows}
        text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
        write_whole(self.output_dir / "results.json", text + "\n")
        write_whole(self.output_dir / "results.md", table + "\n")
        print(
            f"\n{table}\n\nWritten to {self.output_dir}: results.md, results.json and a folder for each checkpoint\n"
        )
        if self.args.show_users:
            shown = {
                "model_name_or_path": model,
                "dataset_name": self.target.dataset_name,
                "dataset_config_name": self.target.dataset_config_name,
                "data_dir": self.target.data_dir,
                "language": self.model_args.language,
                "num_users": self.args.show_users,
                "k": 5,
                "use_cpu": self.training_args.use_cpu,
            }
            recommend(to_options({name: value for name, value in shown.items() if value is not None}))


def say(message: str) -> None:
    """Prints a headline, in the main process only."""
    if PartialState().is_main_process:
        print(f"\n=== {message}", flush=True)


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec transfer`."""
    datasets.disable_progress_bars()  # the bars that stay are those of training
    logging.disable_progress_bar()
    types = (TransferArguments, TransferModelArguments, DataArguments, TransferTrainingArguments)
    comparison = Comparison(*parse_arguments(types, args, __doc__, has_presets=True))
    with one_training(comparison.output_dir):
        comparison.run()


if __name__ == "__main__":
    main()
