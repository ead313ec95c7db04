"""What the scripts share: their arguments, and the steps from arguments to data, model and trained checkpoint."""

import json
import logging
import os
from dataclasses import dataclass, field

import datasets
from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer, set_seed

from .configuration_transrec import TransRecConfig
from .data import count_actions, histories_as_rows, load_items, load_sequences
from .evaluation import FullRankingEvaluator
from .modeling_transrec import TransRecForSequentialRecommendation, TransRecModel
from .processing_transrec import TransRecProcessor, train_tokenizer
from .trainer import TransRecTrainer
from .training_args import TransRecTrainingArguments


logger = logging.getLogger(__name__)

# The text backbone where none is given: small enough for a CPU, trained from scratch.
SMALL_BERT = {
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
# Fields of the configuration that may be changed when training goes on from a checkpoint.
_CHANGEABLE_FIELDS = ("hidden_dropout_prob", "loss_type", "num_negatives", "logq_correction", "objective")


@dataclass
class DataArguments:
    """Which data set."""

    dataset_name: str = field(
        default="ninerec", metadata={"help": "'ninerec', or a Hub id or local folder in the same schema."}
    )
    dataset_config_name: str = field(
        default="Sample_Target", metadata={"help": "Data set, such as Bili_Food; its items are NAME_items."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the raw files (or set NINEREC_DATA_DIR). The samples need none."}
    )

    def loading_kwargs(self, max_seq_len: int) -> dict:
        """Arguments of `load_dataset` beside names; only the ninerec builder cuts histories while it reads."""
        kwargs = {} if self.data_dir is None else {"data_dir": self.data_dir}
        return {**kwargs, "max_seq_len": max_seq_len} if self.dataset_name == "ninerec" else kwargs

    def load_items(self, max_seq_len: int) -> datasets.Dataset:
        """The catalogue."""
        return load_items(self.dataset_name, self.dataset_config_name, **self.loading_kwargs(max_seq_len))

    def load_sequences(self, split: str, max_seq_len: int) -> datasets.Dataset:
        """Histories of one split."""
        return load_sequences(self.dataset_name, self.dataset_config_name, split, **self.loading_kwargs(max_seq_len))


@dataclass
class ModelArguments:
    """Which model. An option that is not given keeps the checkpoint's value, or else the configuration's default."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "TransRec checkpoint to start from: a folder or a Hub id."}
    )
    modality: str | None = field(
        default=None, metadata={"help": "What items are to a new model: 'text' (default) or 'id'."}
    )
    text_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained text backbone of a new model, any that AutoModel loads."}
    )
    text_config: str | None = field(
        default=None,
        metadata={"help": "Text backbone from scratch: its configuration as JSON, or the name of such a file."},
    )
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Tokenizer of a backbone from scratch; else one is trained on the items."},
    )
    vocab_size: int = field(default=8000, metadata={"help": "Vocabulary of a tokenizer trained on the items."})
    language: str | None = field(default=None, metadata={"help": "Which text is read: 'en' (default) or 'zh'."})
    max_text_length: int | None = field(default=None, metadata={"help": "Longest text in tokens (default 30)."})
    text_pooling: str | None = field(
        default=None,
        metadata={"help": "'cls', 'mean' or 'last'; by default the backbone's usual one, 'mean' from scratch."},
    )
    user_encoder_type: str | None = field(default=None, metadata={"help": "User encoder (default 'sasrec')."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of item and user vectors (default 256)."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "User encoder layers (default 2)."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "User encoder heads (default 2)."})
    hidden_dropout_prob: float | None = field(default=None, metadata={"help": "User encoder dropout (default 0.1)."})
    max_seq_len: int | None = field(default=None, metadata={"help": "Longest history in items (default 20)."})
    objective: str | None = field(default=None, metadata={"help": "'next_item'."})
    loss_type: str | None = field(default=None, metadata={"help": "'in_batch' (default) or 'bce', the paper's."})
    num_negatives: int | None = field(default=None, metadata={"help": "Negatives per position of 'bce' (default 1)."})
    logq_correction: bool | None = field(default=None, metadata={"help": "LogQ correction of 'in_batch' (default)."})

    def __post_init__(self):
        if self.modality not in (None, "text", "id"):
            raise ValueError(f"--modality {self.modality} is unknown; choose text or id")
        new_model = ("modality", "text_model_name_or_path", "text_config", "tokenizer_name_or_path")
        given = [f"--{name}" for name in new_model if getattr(self, name) is not None]
        if self.model_name_or_path is not None and given:
            raise ValueError(f"--model_name_or_path brings its own item encoder; leave out {', '.join(given)}")
        if self.modality == "id" and len(given) > 1:
            raise ValueError(f"an id model has no text backbone; leave out {', '.join(given[1:])}")
        if self.text_model_name_or_path is not None and len(set(given) - {"--modality"}) > 1:
            raise ValueError("--text_model_name_or_path brings its own configuration and tokenizer")

    def config_fields(self) -> dict:
        """The options of the configuration that were given."""
        names = TransRecConfig.__dataclass_fields__.keys() - {"text_config"}
        return {name: value for name, value in vars(self).items() if name in names and value is not None}

    def resolved_max_seq_len(self) -> int:
        """Longest history of the model that these arguments make."""
        if self.model_name_or_path is not None:
            return load_config(self.model_name_or_path).max_seq_len
        return TransRecConfig(**self.config_fields()).max_seq_len


def load_config(model_name_or_path: str) -> TransRecConfig:
    """The configuration of a TransRec checkpoint; another model's is an error."""
    config = AutoConfig.from_pretrained(model_name_or_path)
    if config.model_type != TransRecConfig.model_type:
        raise ValueError(
            f"{model_name_or_path} is a {config.model_type} model, not a TransRec checkpoint; a backbone is given as "
            "--text_model_name_or_path"
        )
    return config


def load_model_and_processor(
    args: ModelArguments, items: datasets.Dataset
) -> tuple[TransRecForSequentialRecommendation, TransRecProcessor]:
    """The model that the arguments ask for: a checkpoint, a pretrained backbone, a backbone from scratch, or ids.

    Args:
        args: the arguments.
        items: the catalogue; an id model is made for it, and a missing tokenizer is trained on its texts.
    """
    if args.model_name_or_path is not None:
        return _from_checkpoint(args)
    processing = {"language": args.language, "max_text_length": args.max_text_length}
    processing = {name: value for name, value in processing.items() if value is not None}
    fields = args.config_fields()
    if args.modality == "id":
        config = TransRecConfig(num_items=len(items), **fields)
        return TransRecForSequentialRecommendation(config), TransRecProcessor(item_ids=items["item_id"])
    if args.text_model_name_or_path is not None:
        tokenizer = AutoTokenizer.from_pretrained(args.text_model_name_or_path)
        model = TransRecForSequentialRecommendation.from_encoder_pretrained(args.text_model_name_or_path, **fields)
        return model, TransRecProcessor(tokenizer, **processing)
    if args.tokenizer_name_or_path is not None:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name_or_path)
    else:
        texts = items[f"text_{args.language or 'en'}"]
        tokenizer = train_tokenizer((text for text in texts if text), args.vocab_size)
    text_config = {**_read_text_config(args.text_config), "vocab_size": len(tokenizer)}
    if args.text_config is None:
        logger.warning("No text backbone was named: a small BERT (%s) is trained from scratch", text_config)
    fields.setdefault("text_pooling", "mean")  # only pretraining gives the first token a meaning
    config = TransRecConfig(text_config={**text_config, "pad_token_id": tokenizer.pad_token_id}, **fields)
    return TransRecForSequentialRecommendation(config), TransRecProcessor(tokenizer, **processing)


def _from_checkpoint(args: ModelArguments) -> tuple[TransRecForSequentialRecommendation, TransRecProcessor]:
    config = load_config(args.model_name_or_path)
    for name, value in args.config_fields().items():
        if name not in _CHANGEABLE_FIELDS and value != getattr(config, name):
            raise ValueError(
                f"--{name} {value} does not fit the checkpoint {args.model_name_or_path}, which has "
                f"{getattr(config, name)}; leave it out, or start a new model"
            )
        setattr(config, name, value)
    model = TransRecForSequentialRecommendation.from_pretrained(
        args.model_name_or_path, config=config, dtype="float32"
    )
    processor = TransRecProcessor.from_pretrained(args.model_name_or_path)
    for name in ("language", "max_text_length"):
        if getattr(args, name) is not None:
            setattr(processor, name, getattr(args, name))
    return model, processor


def _read_text_config(text_config: str | None) -> dict:
    if text_config is None:
        return dict(SMALL_BERT)
    source = "--text_config"
    if os.path.exists(text_config):
        source = text_config
        with open(text_config, encoding="utf-8") as file:
            text_config = file.read()
    try:
        parsed = json.loads(text_config)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is neither a file nor JSON: {error}") from error
    if not isinstance(parsed, dict) or "model_type" not in parsed:
        raise ValueError(f'{source} must be a JSON object with a "model_type", such as {{"model_type": "bert"}}')
    return parsed


def train(
    model_args: ModelArguments, data_args: DataArguments, training_args: TransRecTrainingArguments
) -> TransRecTrainer:
    """Trains, keeps the best checkpoint by validation HR@10, saves model and processor in `output_dir`.

    The test split is not read.
    """
    set_seed(training_args.seed)
    max_seq_len = model_args.resolved_max_seq_len()
    with training_args.main_process_first(desc="loading the data"):
        items = data_args.load_items(max_seq_len)
        train_split = data_args.load_sequences("train", max_seq_len)
        validation = data_args.load_sequences("validation", max_seq_len)
    model, processor = load_model_and_processor(model_args, items)
    pretrained = model_args.text_model_name_or_path is not None
    if pretrained and training_args.backbone_learning_rate is None and not training_args.freeze_backbone:
        logger.warning(
            "The pretrained backbone is trained at --learning_rate %g; the paper's rates for backbones are 5e-6 to "
            "5e-5: --backbone_learning_rate 1e-5",
            training_args.learning_rate,
        )
    trainer = TransRecTrainer(model, training_args, items, train_split, validation, processing_class=processor)
    resume = training_args.resume_from_checkpoint
    if resume is not None and resume.lower() in ("true", "false"):  # HfArgumentParser knows it as a path alone
        resume = resume.lower() == "true"
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()  # the main process writes; the others may want to read
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    return trainer


BASELINES = ("random", "popularity")


@dataclass
class EvaluationArguments:
    model_name_or_path: str = field(metadata={"help": "Checkpoint folder or Hub id; or 'random', 'popularity'."})
    split: str = field(default="test", metadata={"help": "Split.", "choices": ["validation", "test"]})
    output_file: str | None = field(default=None, metadata={"help": "JSON file for metrics and protocol."})
    language: str | None = field(
        default=None, metadata={"help": "Text to read: 'en' or 'zh'; the model's by default."}
    )
    eval_ks: list[int] = field(default_factory=lambda: [5, 10, 20], metadata={"help": "Cut-offs K."})
    include_seen: bool = field(default=False, metadata={"help": "Keep the history's items as candidates."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Users ranked at a time."})
    item_batch_size: int = field(default=256, metadata={"help": "Items encoded at a time."})
    max_seq_len: int = field(default=20, metadata={"help": "History kept for the baselines; a model has its own."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay off the accelerator."})


def evaluate(args: EvaluationArguments, data_args: DataArguments) -> dict:
    """Metrics and protocol of a checkpoint or baseline."""
    state = PartialState(cpu=args.use_cpu)
    is_baseline = args.model_name_or_path in BASELINES
    max_seq_len = args.max_seq_len if is_baseline else load_config(args.model_name_or_path).max_seq_len
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
    )
    if args.model_name_or_path == "random":
        metrics = evaluator.evaluate_random()
    elif args.model_name_or_path == "popularity":
        histories = histories_as_rows(data_args.load_sequences("train", max_seq_len), items["item_id"])
        metrics = evaluator.evaluate_popularity(count_actions(histories, len(items)))
    else:
        model = TransRecModel.from_pretrained(args.model_name_or_path).to(state.device)
        processor = TransRecProcessor.from_pretrained(args.model_name_or_path)
        processor.language = args.language or processor.language
        metrics = evaluator(model, processor)
    dataset = f"{data_args.dataset_name}/{data_args.dataset_config_name}"
    protocol = {"dataset": dataset, "model": args.model_name_or_path, "max_seq_len": max_seq_len, **evaluator.protocol}
    return {"metrics": metrics, "protocol": protocol}
