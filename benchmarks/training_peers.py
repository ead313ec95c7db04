"""Training beside other libraries: an epoch, a full-ranking validation, memory and NDCG@10.

    python benchmarks/training_peers.py --data_dir DATA --environments ENVIRONMENTS --datasets Amazon_Beauty
    python benchmarks/training_peers.py --data_dir DATA --environments ENVIRONMENTS --kind text --num_users 1000

Each library is installed into an environment of its own under `--environments`, where it stays; what it does not ask
for in another version, above all torch, it shares with this one. The libraries take turns, each in a process of its
own, on the same users, with about as many targets in a batch. NDCG@10 is that of the validation split, every item
ranked but those of the history. CPU seconds are those of the process. Ids: IDRec beside the SASRec of RecTools, RePlay
and RecBole, all with 2 layers of 64 dimensions with 2 heads, feed-forward layers of 256 (in RecTools, which has no
option for it, by a class of layers), histories of 20 items, dropout 0.1, Adam at 1e-3, cross entropy over the
catalogue, 2,048 targets in a batch. Text: TransRec, its backbone trained from end to end, beside
sentence-transformers, which trains the same backbone (BERT, 2 layers of 128 dimensions, random weights) on pairs of a
history's texts, latest first and cut at 256 tokens, and the next item's text; both with cosines divided by 0.05, the
other items of a batch of 256 targets as negatives, and AdamW at 5e-4.

gSASRec-pytorch is not among them: it is a repository of scripts without a setup.py or pyproject.toml, and on no
package index (`pip download --no-deps gSASRec-pytorch`: "No matching distribution found").

Results: `benchmarks/results/training_peers.json` and `.md`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from recbole_sasrec import PACKAGES, install, load
from timing import command_line
from transformers import AutoConfig, AutoModel

from modeling_transrec import train_tokenizer
from modeling_transrec.training.model_building import SMALL_BERT


RESULTS = Path(__file__).parent / "results" / "training_peers"
TARGETS_PER_BATCH = {"id": 2048, "text": 256}
MAX_SEQ_LEN = 20
TEXT_LENGTH, VOCAB_SIZE = 30, 8000  # tokens
# Shared by the scripts of all libraries: the data, the clock, and what is printed at the end.
COMMON = """
import json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
import logging
logging.disable(logging.WARNING)
import numpy, torch
settings = json.loads(sys.argv[1])
torch.set_num_threads(settings["threads"])
torch.manual_seed(settings["seed"])
data = numpy.load(settings["folder"] + "/data.npz")
histories = numpy.split(data["items"], data["ends"][:-1])
targets, V = data["targets"], int(data["V"])
spent = {"epoch": [], "evaluation": []}
found = {"ndcg@10": []}
started = {}
def start(what): started[what] = (time.perf_counter(), time.process_time())
def stop(what):
    then = started[what]
    spent[what].append([time.perf_counter() - then[0], time.process_time() - then[1]])
def ndcg(best):
    hits = best == targets[:, None]
    return float((hits / numpy.log2(numpy.arange(best.shape[1]) + 2)).sum(1).mean())
def report():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**found, **spent, "peak_gib": round(peak, 2), "torch": torch.__version__}))
"""
RECTOOLS = (
    COMMON
    + """
import pandas
from pytorch_lightning import Callback, Trainer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.net_blocks import PointWiseFeedForward
from rectools.models.nn.transformers.sasrec import SASRecTransformerLayers

class WideLayers(SASRecTransformerLayers):
    def __init__(self, n_blocks, n_factors, n_heads, dropout_rate, **kwargs):
        super().__init__(n_blocks, n_factors, n_heads, dropout_rate)
        for block in self.transformer_blocks:
            block.feed_forward = PointWiseFeedForward(n_factors, 256, dropout_rate, torch.nn.ReLU())
class Clock(Callback):
    def on_train_epoch_start(self, *args): start("epoch")
    def on_train_epoch_end(self, *args): stop("epoch")
def make_trainer():
    return Trainer(max_epochs=1, accelerator="cpu", callbacks=[Clock()], logger=False, enable_checkpointing=False,
                   enable_progress_bar=False, enable_model_summary=False)
user = numpy.repeat(numpy.arange(len(histories)), [len(one) for one in histories])
place = numpy.concatenate([numpy.arange(len(one)) for one in histories])
dataset = Dataset.construct(pandas.DataFrame({"user_id": user, "item_id": data["items"], "weight": 1.0,
    "datetime": pandas.Timestamp("2020-01-01") + pandas.to_timedelta(place, unit="D")}))
model = SASRecModel(n_blocks=2, n_heads=2, n_factors=64, dropout_rate=0.1, session_max_len=settings["length"],
    transformer_layers_type=WideLayers,
    loss="softmax", lr=1e-3, batch_size=settings["users"], get_trainer_func=make_trainer, recommend_torch_device="cpu")
for epoch in range(settings["epochs"]):
    model.fit_partial(dataset, min_epochs=1, max_epochs=1)
    start("evaluation")
    table = model.recommend(numpy.arange(len(histories)), dataset, k=10, filter_viewed=True)
    best = numpy.full((len(histories), 10), -1)
    best[table["user_id"], table["rank"] - 1] = table["item_id"]
    found["ndcg@10"].append(ndcg(best))
    stop("evaluation")
report()
"""
)
REPLAY = (
    COMMON
    + """
import lightning, pyarrow, pyarrow.parquet
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.data.nn.parquet import ParquetModule
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import ComputeMetricsCallback
from replay.nn.lightning.optimizer import OptimizerFactory
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.sequential.sasrec import SasRec
from replay.nn.transform.template import make_default_sasrec_transforms

schema = TensorSchema([TensorFeatureInfo("item_id", is_seq=True, feature_type=FeatureType.CATEGORICAL,
    embedding_dim=64, padding_value=V, cardinality=V, feature_hint=FeatureHint.ITEM_ID,
    feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")])])
lists = [one.tolist() for one in histories]
train, validate = settings["folder"] + "/train.parquet", settings["folder"] + "/validate.parquet"
pyarrow.parquet.write_table(pyarrow.table({"item_id": lists}), train)
pyarrow.parquet.write_table(pyarrow.table({"item_id": lists, "seen_ids": lists,
    "ground_truth": [[target] for target in targets.tolist()]}), validate)
length = settings["length"]
items = {"shape": length + 1, "padding": V}
module = ParquetModule({"train": settings["users"], "validate": 256}, {"train": {"item_id": items},
    "validate": {"item_id": {**items, "shape": length}, "seen_ids": {"shape": max(map(len, lists)), "padding": -1},
                 "ground_truth": {"shape": 1, "padding": -1}}},
    make_default_sasrec_transforms(schema), train_path=train, validate_path=validate)
class Clock(lightning.Callback):
    def on_train_epoch_start(self, *args): start("epoch")
    def on_validation_start(self, trainer, *args):
        stop("epoch")
        start("evaluation")
    def on_validation_end(self, *args): stop("evaluation")
metrics = ComputeMetricsCallback(metrics=["ndcg"], ks=[10], postprocessors=[SeenItemsFilter(V)], verbose=False)
model = LightningModule(SasRec.from_params(schema, embedding_dim=64, num_heads=2, num_blocks=2, dropout=0.1,
    max_sequence_length=length, hidden_dim=256), OptimizerFactory(learning_rate=1e-3))
lightning.Trainer(max_epochs=settings["epochs"], accelerator="cpu", callbacks=[Clock(), metrics], logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0
    ).fit(model, datamodule=module)
found["ndcg@10"] = [one["ndcg@10"] for _, one in sorted(metrics.get_metrics().items())]
report()
"""
)
RECBOLE = (
    COMMON
    + """
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from pathlib import Path

folder = Path(settings["folder"]) / "recbole"
(folder / "data").mkdir(parents=True, exist_ok=True)
with open(folder / "data" / "data.inter", "w") as file:
    file.write("user_id:token\\titem_id:token\\ttimestamp:float\\n")
    for user, history in enumerate(histories):
        # It cuts off two items of each user; the last, which tests, is not looked at.
        for place, item in enumerate([*history, targets[user], targets[user]]):
            file.write(f"{user}\\t{item}\\t{place}\\n")
config = Config(model="SASRec", dataset="data", config_dict={
    "data_path": str(folder), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "use_gpu": False,
    "MAX_ITEM_LIST_LENGTH": settings["length"], "hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2,
    "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "loss_type": "CE", "train_neg_sample_args": None,
    "train_batch_size": settings["targets"], "eval_batch_size": 256 * 100_000, "show_progress": False,
    "state": "ERROR", "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full",
    "group_by": "user"}, "checkpoint_dir": str(folder), "metrics": ["NDCG"], "topk": [10],
    "valid_metric": "NDCG@10", "metric_decimal_place": 6})
train, validation, _ = data_preparation(config, create_dataset(config))
trainer = Trainer(config, SASRec(config, train.dataset))
for epoch in range(settings["epochs"]):
    start("epoch")
    trainer._train_epoch(train, epoch)
    stop("epoch")
    start("evaluation")
    found["ndcg@10"].append(float(trainer.evaluate(validation, load_best_model=False)["ndcg@10"]))
    stop("evaluation")
report()
"""
)
OF_OURS = (
    COMMON
    + """
import datasets
from transformers import TrainerCallback
from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation, TransRecProcessor, TransRecTrainer
from modeling_transrec import TransRecTrainingArguments
datasets.disable_progress_bars()

class Clock(TrainerCallback):
    def on_epoch_begin(self, *args, **kwargs): start("epoch")
    def on_epoch_end(self, *args, **kwargs):
        stop("epoch")
        start("evaluation")
    def on_evaluate(self, args, state, control, metrics, **kwargs):
        stop("evaluation")
        found["ndcg@10"].append(metrics["eval_ndcg@10"])
def train(config, items, processor, **options):
    lists = [[str(item) for item in one] for one in histories]
    training = datasets.Dataset.from_dict({"item_ids": lists})
    validation = datasets.Dataset.from_dict({"item_ids": lists, "target": [str(item) for item in targets]})
    arguments = TransRecTrainingArguments(output_dir=settings["folder"] + "/ours", use_cpu=True, report_to="none",
        num_train_epochs=settings["epochs"], per_device_train_batch_size=settings["users"], weight_decay=0.0,
        lr_scheduler_type="constant", warmup_steps=0, save_strategy="no", load_best_model_at_end=False,
        disable_tqdm=True, seed=settings["seed"], **options)
    TransRecTrainer(TransRecForSequentialRecommendation(config), arguments, items, training, validation,
        processing_class=processor, callbacks=[Clock()]).train()
    report()
ids = [str(item) for item in range(V)]
layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_dropout_prob": 0.1,
    "max_seq_len": settings["length"]}
"""
)
OURS = (
    OF_OURS
    + """
config = TransRecConfig(num_items=V, hidden_size=64, loss_type="full_softmax", **layers)
train(config, datasets.Dataset.from_dict({"item_id": ids}), TransRecProcessor(item_ids=ids), learning_rate=1e-3)
"""
)
OF_TEXT = """
from transformers import AutoConfig, AutoTokenizer
texts = json.load(open(settings["folder"] + "/texts.json"))
backbone = settings["folder"] + "/backbone"
"""
OURS_TEXT = (
    OF_OURS
    + OF_TEXT
    + """
processor = TransRecProcessor(AutoTokenizer.from_pretrained(backbone), max_text_length=settings["text_length"])
config = TransRecConfig(text_config=AutoConfig.from_pretrained(backbone), hidden_size=128, loss_type="in_batch",
    normalize_scores=True, temperature=0.05, **layers)
items = datasets.Dataset.from_dict({"item_id": ids, "text_en": texts})
train(config, items, processor, learning_rate=5e-4, item_batch_size=256)
"""
)
SENTENCE_TRANSFORMERS = (
    COMMON
    + OF_TEXT
    + """
import datasets
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback
datasets.disable_progress_bars()

tokenizer = AutoTokenizer.from_pretrained(backbone)
def cut(text):
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=settings["text_length"])
    return tokenizer.decode(ids["input_ids"])
texts = [cut(text) for text in texts]
def history_text(items):
    return "; ".join(texts[item] for item in reversed(items[-settings["length"]:].tolist()))
pairs = [(history_text(one[:end]), texts[one[end]])
    for one in (one[-settings["length"] - 1:] for one in histories) for end in range(1, len(one))]
anchors, positives = zip(*pairs)
training = datasets.Dataset.from_dict({"anchor": anchors, "positive": positives})
model = SentenceTransformer(backbone, device="cpu")
model.max_seq_length = 256
class Clock(TrainerCallback):
    def on_epoch_begin(self, *args, **kwargs): start("epoch")
    def on_epoch_end(self, *args, **kwargs):
        stop("epoch")
        start("evaluation")
        options = {"batch_size": 256, "convert_to_tensor": True, "normalize_embeddings": True}
        scores = model.encode([history_text(one) for one in histories], **options) @ model.encode(texts, **options).T
        for row, one in enumerate(histories):
            scores[row, one[one != targets[row]]] = -torch.inf
        found["ndcg@10"].append(ndcg(scores.topk(10).indices.numpy()))
        model.train()
        stop("evaluation")
arguments = SentenceTransformerTrainingArguments(settings["folder"] + "/theirs", use_cpu=True, report_to="none",
    num_train_epochs=settings["epochs"], per_device_train_batch_size=settings["targets"], weight_decay=0.0,
    lr_scheduler_type="constant", warmup_steps=0, save_strategy="no", disable_tqdm=True, learning_rate=5e-4,
    batch_sampler="no_duplicates", seed=settings["seed"])
SentenceTransformerTrainer(model=model, args=arguments, train_dataset=training,
    loss=MultipleNegativesRankingLoss(model, scale=20.0), callbacks=[Clock()]).train()
report()
"""
)
# Kind → name → packages of its environment, None for this one, and script. Ratios are to the first.
LIBRARIES = {
    "id": {
        "ours": (None, OURS),
        "RecTools": (["rectools[torch]==0.19.0", "setuptools<81"], RECTOOLS),
        "RePlay": (["replay-rec[torch]==0.22.0", "setuptools<81"], REPLAY),
        "RecBole": (PACKAGES, RECBOLE),
    },
    "text": {"ours": (None, OURS_TEXT), "sentence-transformers": (None, SENTENCE_TRANSFORMERS)},
}


def write_data(name: str, args: argparse.Namespace, folder: Path) -> tuple[int, int]:
    """Writes histories and targets as numbers for all libraries, and texts; returns the numbers of users and items."""
    items, splits = load(name, args.data_dir)
    validation = splits["validation"]
    if args.num_users is not None:
        validation = validation.select(range(args.num_users))
    histories, targets = validation["item_ids"][:], validation["target"][:]
    known = {item for history in histories for item in history} | set(targets)
    index = {item: row for row, item in enumerate(item for item in items["item_id"][:] if item in known)}
    flat = np.array([index[item] for history in histories for item in history])
    ends = np.cumsum([len(history) for history in histories])
    np.savez(folder / "data.npz", items=flat, ends=ends, targets=[index[item] for item in targets], V=len(index))
    if args.kind == "text":
        texts = [text or "" for item, text in zip(items["item_id"], items["text_en"], strict=True) if item in index]
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        torch.manual_seed(0)
        tokenizer = train_tokenizer([text for text in texts if text], VOCAB_SIZE)
        fields = {**SMALL_BERT, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
        AutoModel.from_config(AutoConfig.for_model(**fields)).save_pretrained(folder / "backbone")
        tokenizer.save_pretrained(folder / "backbone")
    return len(histories), len(index)


def run(name: str, script: str, python: str | Path, settings: dict, folder: Path) -> dict:
    """Runs one library's script and returns what it found."""
    file = folder / f"{name}.py"
    file.write_text(script, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"]), "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), str(file), json.dumps(settings)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, args: argparse.Namespace) -> dict:
    """Runs the libraries in turn on a data set."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        users, items = write_data(name, args, folder)
        data = np.load(folder / "data.npz")
        targets = (len(data["items"]) - users) / users  # of a user; the first item of a history is none
        settings = {"folder": str(folder), "epochs": args.epochs, "threads": torch.get_num_threads(), "seed": 0}
        per_batch = TARGETS_PER_BATCH[args.kind]
        settings |= {"users": round(per_batch / targets), "targets": per_batch}
        settings |= {"length": MAX_SEQ_LEN, "text_length": TEXT_LENGTH}
        found = {}
        for turn in range(args.turns):
            for library in args.libraries or LIBRARIES[args.kind]:
                packages, script = LIBRARIES[args.kind][library]
                python = sys.executable if packages is None else args.environments / library.lower() / "bin" / "python"
                if packages is not None:
                    install(args.environments / library.lower(), packages)
                one = run(library, script, python, {**settings, "seed": turn}, folder)
                print(name, library, one, flush=True)
                found.setdefault(library, []).append(one)
    return {"users": users, "items": items, "epochs": args.epochs, "turns": found}


def medians(turns: list[dict], what: str) -> tuple[float, float]:
    """Returns the median seconds and CPU seconds of epochs or evaluations."""
    seconds, cpu = zip(*(one for turn in turns for one in turn[what]), strict=True)
    return statistics.median(seconds), statistics.median(cpu)


def by_epoch(turns: list[dict]) -> list[float]:
    """Returns NDCG@10 after each epoch, a mean over the turns."""
    return [statistics.mean(values) for values in zip(*(turn["ndcg@10"] for turn in turns), strict=True)]


def render(record: dict) -> str:
    """Returns the results as Markdown."""
    lines = [
        "# Training beside other libraries",
        "",
        f"{__doc__.split(chr(10) + chr(10))[2].replace(chr(10), ' ')} {record['machine']}. The machine was shared: "
        "read the CPU seconds and the ratios. Ratios are theirs ÷ ours of CPU seconds, medians.",
        "",
        __doc__.split(chr(10) + chr(10))[3].replace(chr(10), " "),
        "",
    ]
    for name, one in record["data"].items():
        lines += [
            f"## {name}",
            "",
            "| | epoch: seconds, CPU | ÷ ours | evaluation: seconds, CPU | ÷ ours | GiB | to NDCG@10 | by epoch |",
            "|---|---:|---:|---:|---:|---:|---:|---|",
        ]
        curves = {library: by_epoch(turns) for library, turns in one["turns"].items()}
        goal = 0.95 * min(map(max, curves.values()))  # that all of them reach
        for library, turns in one["turns"].items():
            cells = [library]
            for what in ("epoch", "evaluation"):
                seconds, cpu = medians(turns, what)
                ours = medians(one["turns"]["ours"], what)[1]
                cells += [f"{seconds:.3g}, {cpu:.3g}", f"{cpu / ours:.2f}"]
            passed = sum(medians(turns, what)[1] for what in ("epoch", "evaluation"))
            epochs = next(number for number, value in enumerate(curves[library], 1) if value >= goal)
            cells += [f"{max(turn['peak_gib'] for turn in turns)}", f"{epochs * passed:.3g}"]
            cells.append(" ".join(f"{value:.4f}" for value in curves[library]))
            lines.append(f"| {' | '.join(cells)} |")
        lines += [
            "",
            f'"To NDCG@10": CPU seconds, evaluations too, to {goal:.4f}, which is 0.95 of the best of the worst.',
            "",
        ]
    lines += [f"{note}\n" for note in record["notes"]]
    return "\n".join([*lines, "```bash", *record["commands"], "```"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=["Amazon_Beauty"])
    parser.add_argument("--kind", default="id", choices=list(LIBRARIES))
    parser.add_argument(
        "--libraries", nargs="+", choices=sorted({name for kind in LIBRARIES.values() for name in kind})
    )
    parser.add_argument("--num_users", type=int, help="Only so many users.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    file = RESULTS.with_suffix(".json")
    record = (
        json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"data": {}, "commands": [], "notes": []}
    )
    record["machine"] = (
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )
    for name in args.datasets:
        found = compare(name, args)
        what = f"{name}, {args.kind}: {found['users']:,} users, {found['items']:,} items, {args.epochs} epochs"
        record["data"][what] = found
        command = command_line({args.data_dir: "DATA", args.environments: "ENVIRONMENTS"})
        record["commands"] = sorted({*record["commands"], command})
        file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        RESULTS.with_suffix(".md").write_text(render(record), encoding="utf-8")
    print(render(record))


if __name__ == "__main__":
    main()
