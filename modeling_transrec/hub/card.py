"""The model card: what a checkpoint is, what it was trained on and what was measured."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import torch
import yaml
from huggingface_hub import (
    CommitOperationAdd,
    EvalResult,
    EvalResultEntry,
    HfApi,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils.import_utils import is_matplotlib_available

from ..models.configuration_transrec import TransRecConfig
from ..models.modeling_transrec import TransRecPreTrainedModel
from ..models.processing_transrec import TransRecProcessor
from ..training.arguments import TransRecTrainingArguments


CARD_NAME, RESULTS_NAME, CURVE_NAME = "README.md", "results.json", "training_curve.png"
THIS_MODEL = "this model"
# What of a checkpoint's folder is published: weights as safetensors, text, pictures; never a pickle.
NOT_PUBLISHED = ("_*", "checkpoint-*", "trainer_state.json")  # the last one names folders of the machine
PUBLISHED_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.parquet", "*.yaml", "*.png", CARD_NAME)
_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"

NINEREC_NAMES = "Bili_500K Bili_2M Bili_Food Bili_Dance Bili_Movie Bili_Cartoon Bili_Music KU QB TN DY".split()
_NINEREC_CONDITION = (
    "NineRec's authors give the data for research and forbid to publish modified copies; none of it is in this "
    "repository. Get it from [them](https://github.com/westlake-repl/NineRec)."
)
_NINEREC_CITATION = """```bibtex
@article{zhang2024ninerec,
  title   = {NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation},
  author  = {Zhang, Jiaqi and Cheng, Yu and Ni, Yongxin and Pan, Yunzhu and Yuan, Zheng and Fu, Junchen and
             Li, Youhua and Wang, Jie and Yuan, Fajie},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year    = {2024},
  note    = {arXiv:2309.07705}
}
```"""
# Options of a run that say nothing about the model, or where it was made.
_PRIVATE = ("output_dir", "resume_from_checkpoint", "hub_token", "run_name", "project", "card_results", "deepspeed")
_UNIMPORTANT = (
    "hub_ push_to_hub log report_to disable_tqdm do_ trackio use_cpu prediction_ dataloader_pin_memory local_rank"
).split()


@dataclass
class DataFacts:
    """A data set.

    Args:
        name: `"ninerec"`, a Hub id, or the name of a local folder.
        config_name: such as `"Bili_Food"`.
        num_users, num_items: of the training split and the catalogue, where known.
        condition: what its licence asks for; for data sets that this package knows it is filled in.
    """

    name: str
    config_name: str | None = None
    num_users: int | None = None
    num_items: int | None = None
    condition: str | None = None

    def __post_init__(self):
        self.name = public_name(self.name)
        if self.condition is None and self.name == "ninerec":
            if self.config_name in NINEREC_NAMES:
                self.condition = _NINEREC_CONDITION
            elif (self.config_name or "").startswith("Sample_"):
                self.condition = "none: the sample is synthetic, from a seeded generator. It shows nothing of people."

    @property
    def title(self) -> str:
        return f"{self.name}/{self.config_name or 'default'}"


@dataclass
class CardFacts:
    """All that a card says; what is `None` or empty was not recorded.

    Args:
        name: the repository's id.
        modality: such as `"text+image"`.
        user_encoder_type: such as `"sasrec"`.
        backbones: name of each pretrained backbone.
        base_models: Hub ids of what training started from.
        language: language of the texts, where there are any.
        data: what it was trained on.
        results: rows `{"model", "metrics", "protocol"}`; the model's own are named `THIS_MODEL`.
        parameters: number of parameters of each part.
        training: how it was trained, a sentence each.
        hyperparameters: changed ones and others.
        curve: file of the training curve.
        trained: whether there are weights.
        with_code: whether the model's code lies beside the weights.
        run_file: of a model that is not trained: the options that would make it.
        example_ids: items that an id model knows.
        example_user: a user that a model of user ids knows.
    """

    name: str
    modality: str
    user_encoder_type: str
    backbones: list[str] = field(default_factory=list)
    base_models: list[str] = field(default_factory=list)
    language: str | None = None
    data: DataFacts | None = None
    results: list[dict] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    training: list[str] = field(default_factory=list)
    hyperparameters: tuple[dict, dict] = field(default_factory=lambda: ({}, {}))
    curve: str | None = None
    trained: bool = True
    with_code: bool = False
    run_file: str | None = None
    example_ids: list[str] = field(default_factory=list)
    example_user: str | None = None
    license: str | None = None
    tags: list[str] = field(default_factory=list)


def describe_model(
    model: TransRecPreTrainedModel, processor: TransRecProcessor, base_models: Sequence[str] = ()
) -> dict:
    """What a model and its processor say of themselves: fields of [`CardFacts`]."""
    config = model.config
    names = [getattr(getattr(config, part), "_name_or_path", "") for part in config.sub_configs_defaults]
    backbones = [name for name in names if is_hub_id(name)]
    counts = {"all": sum(p.numel() for p in model.parameters())}
    counts["backbone"] = sum(p.numel() for part in model.item_encoder.backbones for p in part.parameters())
    counts["rest of the item encoder"] = sum(p.numel() for p in model.item_encoder.parameters()) - counts["backbone"]
    counts["user encoder"] = counts["all"] - sum(p.numel() for p in model.item_encoder.parameters())
    counts["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "modality": config.modality,
        "user_encoder_type": config.user_encoder_type,
        "backbones": backbones,
        "base_models": [name for name in base_models if is_hub_id(name)] or backbones,
        "language": processor.language if "text" in processor.modalities else None,
        "parameters": counts,
        "example_ids": list(processor.item_ids[:3]) if config.modality == "id" else [],
        "example_user": processor.user_ids[0] if processor.user_ids else None,
    }


def checkpoint_hash(model: TransRecPreTrainedModel, processor: TransRecProcessor) -> str:
    """Equal for two checkpoints that make the same vectors of the same items and histories."""
    config = model.config
    nested = (*config.sub_configs_defaults, "peft_config")
    options = {name: getattr(config, name) for name in config.own_fields() if name not in nested}
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    digest.update(processor.fingerprint.encode())
    for name, tensor in model.base_model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def is_hub_id(name: str | None) -> bool:
    """Whether a name is one of a Hub repository, not of a local folder."""
    if not name or os.path.exists(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def public_name(name: str) -> str:
    """A Hub id as it is; of a local folder the last part alone."""
    return name if is_hub_id(name) else Path(name).name


def build_model_card(facts: CardFacts) -> ModelCard:
    """The card, with its metadata checked by `huggingface_hub`."""
    changed, unchanged = facts.hyperparameters
    return ModelCard.from_template(
        _card_data(facts),
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        name=facts.name,
        description=_describe(facts),
        trained=facts.trained,
        run_file=facts.run_file,
        run_command=f"accelerate launch examples/pretrain.py --preset model_cards/{facts.name.split('/')[-1]}/run.json"
        " --data_dir DATA --output_dir OUTPUT",
        snippet=usage_snippet(facts),
        with_code=facts.with_code,
        data=_describe_data(facts.data, facts.trained),
        data_condition=facts.data.condition if facts.data is not None else None,
        results=_results_sections(facts.results),
        procedure="\n".join(f"- {line}" for line in facts.training) or "How it was trained was not recorded.",
        curve=facts.curve,
        no_curve="matplotlib was not installed" if not is_matplotlib_available() else "there is nothing to draw",
        changed=_table(("option", "value"), changed.items()) if changed else "",
        unchanged=_table(("option", "value"), unchanged.items()),
        parameters=_table(("part", "parameters"), ((part, f"{n:,}") for part, n in facts.parameters.items())),
        limits="\n".join(f"- {line}" for line in _limits(facts)),
        citation=_NINEREC_CITATION,
    )


def _card_data(facts: CardFacts) -> ModelCardData:
    tags = ["recommendation", "sequential-recommendation", "transrec", facts.user_encoder_type]
    tags += [*facts.modality.split("+"), *(name.split("/")[-1] for name in facts.backbones), *facts.tags]
    is_hub_data = facts.data is not None and "/" in facts.data.name
    if facts.data is not None and not is_hub_data:
        tags.append(facts.data.name)
    results = eval_results(facts.results)
    return ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="modeling_transrec",
        tags=tags,
        base_model=facts.base_models or None,
        datasets=[facts.data.name] if is_hub_data else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _describe(facts: CardFacts) -> str:
    kind = "an item-id table" if facts.modality == "id" else facts.modality.replace("+", " and ")
    backbones = f" ({', '.join(facts.backbones)})" if facts.backbones else ""
    sentence = (
        f"A sequential recommender (TransRec, [NineRec](https://arxiv.org/abs/2309.07705)). Items are encoded from "
        f"{kind}{backbones}, a user's history of item vectors by `{facts.user_encoder_type}`."
    )
    if facts.modality != "id":
        sentence += " It recommends items that it has never seen, from their content."
    if facts.base_models and facts.base_models != facts.backbones:
        sentence += f" Fine-tuned from {', '.join(facts.base_models)}."
    return sentence


def usage_snippet(facts: CardFacts) -> str:
    """Python lines that recommend something when they are pasted."""
    parts, ids = facts.modality.split("+"), facts.example_ids or ["a", "b", "c"]
    texts, colors = ["noodles at night", "hotpot challenge", "a new keyboard"], ["red", "orange", "gray"]
    items = []
    for item_id, text, color in zip(ids, texts, colors, strict=False):
        columns = [f'"item_id": {json.dumps(item_id, ensure_ascii=False)}']
        if "text" in parts:
            columns.append(f'"text_{facts.language or "en"}": "{text}"')
        if "image" in parts:
            columns.append(f'"image": Image.new("RGB", (224, 224), "{color}")')
        items.append(f"        {{{', '.join(columns)}}},")
    imports = ["from PIL import Image", ""] if "image" in parts else []
    user = "" if facts.example_user is None else f", user_id={json.dumps(facts.example_user, ensure_ascii=False)}"
    return "\n".join(
        [
            *imports,
            "from modeling_transrec import Recommender",
            "",
            f'recommender = Recommender.from_pretrained("{facts.name}")',
            "recommender.index(",
            "    [",
            *items,
            "    ]",
            ")",
            f"print(recommender.recommend([{json.dumps(ids[0], ensure_ascii=False)}], k=2{user}))",
        ]
    )


def _describe_data(data: DataFacts | None, trained: bool) -> str:
    if data is None:
        return "What it was trained on was not recorded."
    sizes = [(data.num_users, "training users"), (data.num_items, "items")]
    known = ", ".join(f"{count:,} {what}" for count, what in sizes if count is not None)
    return f"{'Trained' if trained else 'To be trained'} on `{data.title}`{f': {known}' if known else ''}."


def _describe_protocol(results: Sequence[dict]) -> str:
    lines = []
    for row in results:
        protocol = row["protocol"]
        line = (
            f"- `{protocol['dataset']}`, {protocol['split']} split: {protocol['num_users']:,} users; "
            f"{protocol['ranking']} ({protocol['num_candidates']:,}); seen items: {protocol['seen_items']}; ties: "
            f"{protocol['ties']}; histories of up to {protocol['max_seq_len']} items"
        )
        if line not in lines:
            lines.append(line)
    return "\n".join(lines) or (
        "Leave-one-out by time: the last item of each history is the test target, the one before it the validation "
        "target. Every item of the catalogue is ranked; items of the history are no candidates. The checkpoint is "
        "chosen by validation HR@10."
    )


def _results_sections(results: Sequence[dict]) -> str:
    """What of a card changes when results are added."""
    return f"## Protocol\n\n{_describe_protocol(results)}\n\n## Results\n\n{results_table(results)}"


def results_table(results: Sequence[dict]) -> str:
    """Rows `{"model", "metrics", "protocol"}` as Markdown; the model's own in bold."""
    if not results:
        return "Nothing has been measured."
    names = [name for name in results[0]["metrics"] if all(name in row["metrics"] for row in results)]
    order = ["random", "popularity"]
    ranked = sorted(
        results,
        key=lambda row: (
            _place(row),
            row["model"] == THIS_MODEL,
            order.index(row["model"]) if row["model"] in order else len(order),
        ),
    )
    rows = []
    for row in ranked:
        bold = "**" if row["model"] == THIS_MODEL else ""
        scores = "" if row["protocol"]["scores"] == "the model's own" else f", {row['protocol']['scores']}"
        values = (f"{bold}{row['metrics'][name]:.4f}{bold}" for name in names)
        place = f"{row['protocol']['dataset']}, {row['protocol']['split']}"
        rows.append((f"{bold}{row['model']}{bold}{scores}", place, *values))
    return _table(("model", "data set, split", *(name.upper() for name in names)), rows)


def _place(row: dict) -> tuple[str, str]:
    return row["protocol"]["dataset"], row["protocol"]["split"]


def _table(header: Sequence[str], rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _limits(facts: CardFacts) -> list[str]:
    limits = [
        "Popularity: it learns from what people clicked, so items that were shown often are recommended more often.",
        "Clickbait: titles and covers that draw clicks are recommended whether or not the content keeps the promise.",
        "It reflects the people, the period and the platform of its training data; what is good for users or society "
        "was not measured, nor was fairness between groups of users or makers.",
    ]
    if facts.language is not None:
        name = {"zh": "Chinese", "en": "English"}[facts.language]
        limits.append(f"Language: it was trained to read {name} texts; other languages were not measured.")
    if facts.modality == "id":
        limits.append("It knows items by id: items that were not in its training data cannot be recommended.")
    else:
        limits.append("On a platform that it was not trained on, measure before you use it; see `center_scores`.")
    return limits


def eval_results(results: Sequence[dict]) -> list[EvalResult]:
    """The model's own rows as entries of `model-index`."""
    entries = []
    for row in results:
        if row["model"] != THIS_MODEL:
            continue
        dataset, _, config_name = row["protocol"]["dataset"].rpartition("/")
        for name, value in row["metrics"].items():
            entries.append(
                EvalResult(
                    task_type="recommendation",
                    task_name="Sequential recommendation",
                    dataset_type=dataset,
                    dataset_name=row["protocol"]["dataset"],
                    dataset_config=config_name,
                    dataset_split=row["protocol"]["split"],
                    metric_type=name,
                    metric_name=name.upper(),
                    metric_value=round(value, 6),
                )
            )
    return entries


def eval_result_files(results: Sequence[dict]) -> dict[str, str]:
    """The model's own rows in the form of `.eval_results/*.yaml`: file name to content.

    That form names a data set of the Hub, so results on others have no such file.
    """
    files = {}
    for row in results:
        dataset, _, config_name = row["protocol"]["dataset"].rpartition("/")
        if row["model"] != THIS_MODEL or "/" not in dataset:
            continue
        split, protocol = row["protocol"]["split"], row["protocol"]
        entries = [
            EvalResultEntry(
                dataset_id=dataset,
                task_id=f"{config_name}_{split}_{name}",
                value=round(value, 6),
                notes=f"{protocol['ranking']}; seen items: {protocol['seen_items']}; scores: {protocol['scores']}",
            )
            for name, value in row["metrics"].items()
        ]
        name = f".eval_results/{dataset.replace('/', '--')}--{config_name}--{split}.yaml"
        files[name] = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return files


def read_result(file: str | os.PathLike, model: str = THIS_MODEL) -> dict:
    """What `evaluate.py` wrote, as a row of a card."""
    found = json.loads(Path(file).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"metrics", "protocol"} <= found.keys():
        raise ValueError(f'{file} must be a file that evaluate.py wrote: an object with "metrics" and "protocol"')
    return result_row(model, found["metrics"], found["protocol"])


def result_row(model: str, metrics: dict[str, float], protocol: dict) -> dict:
    """A row of a card; the protocol without names of local folders."""
    dataset, _, config_name = protocol["dataset"].rpartition("/")
    public = {name: value for name, value in protocol.items() if name != "model"}
    public["dataset"] = f"{public_name(dataset)}/{config_name}"
    return {"model": model, "metrics": dict(metrics), "protocol": public}


def merge_results(old: Sequence[dict], new: Sequence[dict]) -> list[dict]:
    """Rows of both; a new one replaces an old one of the same model, split and scores."""

    def key(row: dict) -> tuple:
        return (row["model"], *_place(row), row["protocol"]["scores"])

    return list({key(row): row for row in [*old, *new]}.values())


def planned_facts(name: str, options: dict) -> CardFacts:
    """What is known of a checkpoint before it is trained: the options of `pretrain.py` that would make it."""
    backbones = {
        "text": options.get("text_model_name_or_path"),
        "image": options.get("vision_model_name_or_path"),
    }
    named = [backbone for backbone in backbones.values() if backbone is not None]
    return CardFacts(
        name=name,
        modality="+".join(part for part, backbone in backbones.items() if backbone is not None),
        user_encoder_type=options["user_encoder_type"],
        backbones=named,
        base_models=named,
        language=options.get("language", "en") if backbones["text"] is not None else None,
        data=DataFacts("ninerec", options["dataset_config_name"]),
        trained=False,
        run_file="run.json",
    )


def write_model_card(folder: str | os.PathLike, facts: CardFacts) -> None:
    """Writes card, results and `.eval_results` into a checkpoint's folder."""
    folder = Path(folder)
    files = {
        CARD_NAME: str(build_model_card(facts)) + "\n",
        RESULTS_NAME: json.dumps(facts.results, indent=2, ensure_ascii=False) + "\n",
        **eval_result_files(facts.results),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def push_results(repo_id: str, rows: Sequence[dict], token: str | None = None, create_pr: bool = False) -> str:
    """Adds results to a published card: its table, its metadata and `.eval_results`, in one commit.

    Args:
        repo_id: the checkpoint's repository.
        rows: what was measured, see [`result_row`].
        token: a token that may write.
        create_pr: whether to open a pull request in place of a commit, where the repository is another's.

    Returns: the commit's address.
    """
    api = HfApi(token=token)
    card = ModelCard.load(repo_id, token=token)
    results = list(rows)
    if api.file_exists(repo_id, RESULTS_NAME):
        old = json.loads(Path(api.hf_hub_download(repo_id, RESULTS_NAME)).read_text(encoding="utf-8"))
        results = merge_results(old, results)
    before, begin, rest = card.text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"the card of {repo_id} has no place for results: {_BEGIN} … {_END}")
    card.text = f"{before}{begin}\n{_results_sections(results)}\n{end}{after}"
    card.data.eval_results = eval_results(results)
    card.data.model_name = card.data.model_name or repo_id
    files = {
        CARD_NAME: str(card),
        RESULTS_NAME: json.dumps(results, indent=2, ensure_ascii=False) + "\n",
        **eval_result_files(results),
    }
    operations = [CommitOperationAdd(name, content.encode()) for name, content in files.items()]
    return api.create_commit(repo_id, operations, commit_message="Add results", create_pr=create_pr).commit_url


def public_training_args(args: TransRecTrainingArguments) -> dict:
    """The training arguments without tokens and without names of this machine's folders."""
    return {
        name: value
        for name, value in args.to_dict().items()
        if name not in _PRIVATE and not name.endswith(("_dir", "_token"))
    }


def split_hyperparameters(args: TransRecTrainingArguments, config: TransRecConfig) -> tuple[dict, dict]:
    """Options of the run and of the model: those that differ from the defaults, and the others."""
    defaults = {
        one.name: one.default_factory() if one.default_factory is not MISSING else one.default
        for one in fields(TransRecTrainingArguments)
    }
    defaults.update({name: getattr(TransRecConfig(), name) for name in config.own_fields()})
    values = {
        name: value for name, value in public_training_args(args).items() if not name.startswith(tuple(_UNIMPORTANT))
    }
    parts = (*config.sub_configs_defaults, "peft_config")
    values.update({name: getattr(config, name) for name in config.own_fields() if name not in parts})
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    changed = {}
    for name, value in plain.items():
        usual = getattr(defaults[name], "value", defaults[name])  # of an enum its value
        if value != usual and (value or usual):  # None, False and [] all mean that there is nothing
            changed[name] = value
    return changed, {name: value for name, value in plain.items() if name not in changed}


def describe_training(
    log_history: Sequence[dict], args: TransRecTrainingArguments, started_from: str | None = None
) -> list[str]:
    """Start, epochs, time and hardware, a sentence each."""
    lines = []
    if started_from:
        name = f"`{started_from}`" if is_hub_id(started_from) else "a TransRec checkpoint that is not on the Hub"
        lines.append(f"started from {name}")
    epochs = [entry["epoch"] for entry in log_history if "epoch" in entry]
    if epochs:
        lines.append(f"{max(epochs):g} epochs; the checkpoint with the best `{args.metric_for_best_model}` was kept")
    seconds = [entry["train_runtime"] for entry in log_history if "train_runtime" in entry]
    if seconds:
        lines.append(f"{seconds[-1]:.0f} s, evaluations included (since it was last resumed, if it was)")
    processes = f"{args.world_size} process" + ("es" if args.world_size > 1 else "")
    lines.append(f"{processes} on {describe_device(args.device)}; its energy was not measured")
    return lines


def describe_device(device: torch.device) -> str:
    """The hardware in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} ({platform.machine()}, {os.cpu_count()} cores)"


def draw_training_curve(log_history: Sequence[dict], metric: str, file: str | os.PathLike) -> bool:
    """Training loss and a validation metric by epoch, as a picture. Whether there was anything to draw."""
    loss = [(entry["epoch"], entry["loss"]) for entry in log_history if "loss" in entry]
    found = [(entry["epoch"], entry[f"eval_{metric}"]) for entry in log_history if f"eval_{metric}" in entry]
    if not loss or not is_matplotlib_available():
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*loss, strict=True), color="tab:blue", marker=".")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="tab:blue")
    if found:
        right = axes.twinx()
        right.plot(*zip(*found, strict=True), color="tab:orange", marker=".")
        right.set_ylabel(f"validation {metric}", color="tab:orange")
    figure.savefig(file, dpi=120)
    return True
