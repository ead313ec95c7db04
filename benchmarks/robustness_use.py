"""What training and use do with what people bring: right, refused with a sentence, wrong, or a traceback.

    python benchmarks/robustness_use.py --label now
    PYTHONPATH=OLD python benchmarks/robustness_use.py --label before
    python benchmarks/robustness.py page

A case does what people of Hugging Face libraries try, with tiny models and data made here, and checks what comes of
it. An error counts as clear if this package raises it, as a ValueError, OSError, ImportError or KeyError. OLD is a
checkout of an older version with a link `modeling_transrec/ninerec` to its `dataset_scripts/ninerec`.
"""

import argparse
import collections
import contextlib
import json
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


sys.path.append(str(Path(__file__).parents[1]))  # behind OLD
import datasets  # noqa: E402
import huggingface_hub  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import polars as pl  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

import modeling_transrec  # noqa: E402
from modeling_transrec import (  # noqa: E402
    DataArguments,
    FullRankingEvaluator,
    ModelArguments,
    Recommender,
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
    train,
    train_tokenizer,
)
from tests import HUB_PORT  # noqa: E402  # sets the environment: offline, caches of its own
from tests.hub_server import HubServer  # noqa: E402


RESULTS = Path(__file__).parent / "results"
RIGHT, REFUSED, WRONG, BARE = "right", "clear error", "wrong", "traceback"
IDS = [f"p{n}" for n in range(40)]
TITLES = [f"tea {'green' if n % 2 else 'black'} pot {n}" for n in range(40)]
ITEMS = datasets.Dataset.from_dict({"item_id": IDS, "text_en": TITLES})
TOKENIZER = train_tokenizer(TITLES, vocab_size=150)
HISTORIES = [["p1", "p2"], ["p3"], ["p7", "p9", "p11"]]
CASES: list[tuple[str, str, bool, Callable[[Path], None]]] = []


def case(kind: str, name: str, may_be_refused: bool = False) -> Callable:
    """Adds a case: a function of a scratch folder that raises an AssertionError where the result is wrong."""

    def add(function: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES.append((kind, name, may_be_refused, function))
        return function

    return add


def bert(**fields) -> dict:
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return {"model_type": "bert", "vocab_size": len(TOKENIZER), "max_position_embeddings": 64, **size, **fields}


def text_model(seed: int = 0, **fields) -> TransRecForSequentialRecommendation:
    torch.manual_seed(seed)
    fields = {"hidden_size": 16, "max_seq_len": 10, "text_config": bert(), **fields}
    return TransRecForSequentialRecommendation(TransRecConfig(**fields)).eval()


def id_model(seed: int = 0, **fields) -> TransRecForSequentialRecommendation:
    torch.manual_seed(seed)
    return TransRecForSequentialRecommendation(
        TransRecConfig(num_items=40, hidden_size=16, max_seq_len=10, **fields)
    ).eval()


def recommender(items: Any = ITEMS, seed: int = 0, **options) -> Recommender:
    return Recommender(text_model(seed), TransRecProcessor(TOKENIZER)).index(items, **options)


def sequences(split: str, users: int = 30, seed: int = 2) -> datasets.Dataset:
    rng, rows = np.random.default_rng(seed), []
    for user in range(users):
        taken = [IDS[n] for n in rng.choice(40, size=rng.integers(5, 15))]
        kept = {"train": 2, "validation": 2, "test": 1}[split]
        rows.append(
            {"user_id": f"u{user}", "item_ids": taken[:-kept], "target": None if split == "train" else taken[-kept]}
        )
    return datasets.Dataset.from_list(
        rows,
        features=datasets.Features(
            {
                "user_id": datasets.Value("string"),
                "item_ids": datasets.List(datasets.Value("string")),
                "target": datasets.Value("string"),
            }
        ),
    )


def trainer(folder: Path, model=None, train_dataset=None, eval_dataset=None, options=None, **arguments):
    arguments = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        **arguments,
    }
    options = {"model": id_model() if model is None else model, **(options or {})}
    return TransRecTrainer(
        args=TransRecTrainingArguments(str(folder / "out"), **arguments),
        items=ITEMS,
        train_dataset=sequences("train") if train_dataset is None else train_dataset,
        eval_dataset=sequences("validation") if eval_dataset is None else eval_dataset,
        processing_class=TransRecProcessor(item_ids=IDS),
        **options,
    )


def trains(folder: Path, **options) -> TransRecTrainer:
    """Trains one epoch of four steps."""
    made = trainer(folder, **options)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    made.train()
    assert made.state.global_step > 0
    assert any(not torch.equal(before[name], tensor) for name, tensor in made.model.state_dict().items())
    return made


def refused_before_a_step(made: TransRecTrainer) -> None:
    try:
        made.train()
    except Exception:
        assert made.state.global_step == 0, f"found after {made.state.global_step} steps"
        raise


@contextlib.contextmanager
def hub() -> Iterator[HubServer]:
    """The tests' own Hub in place of the offline mode."""
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = False
    os.environ["HF_TOKEN"] = "hf_write"
    try:
        with HubServer(port=HUB_PORT) as server:
            yield server
    finally:
        huggingface_hub.close_session()
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


@case("training", "model_init")
def _(folder):
    trains(folder, model=False, options={"model": None, "model_init": lambda: id_model()})


@case("training", "hyper-parameter search")
def _(folder):
    made = trainer(folder, model=False, options={"model": None, "model_init": lambda: id_model()}, max_steps=1)
    space = {"hp_space": lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)}}
    best = made.hyperparameter_search(**space, n_trials=2, backend="optuna", direction="maximize")
    assert "learning_rate" in best.hyperparameters


class Rows(torch.utils.data.Dataset):
    rows = sequences("train")

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


for label, convert in {
    "a stream": lambda: sequences("train").to_iterable_dataset(),
    "a data set of torch": Rows,
    "a frame of pandas": lambda: sequences("train").to_pandas(),
    "a frame of polars": lambda: sequences("train").to_polars(),
    "a list of dicts": lambda: sequences("train").to_list(),
}.items():
    case("training", f"trains on {label}")(
        lambda folder, convert=convert: trains(folder, train_dataset=convert(), eval_dataset=sequences("validation"))
    )

for options in (
    {"train_sampling_strategy": "group_by_length"},
    {"accelerator_config": {"dispatch_batches": True}},
    {"accelerator_config": {"split_batches": True}},
    {"gradient_checkpointing": True},
    {"auto_find_batch_size": True},
):
    case("training", str(options))(lambda folder, options=options: trains(folder, **options))


@case("training", "bf16_full_eval")
def _(folder):
    made = trains(folder, bf16_full_eval=True)
    assert {weight.dtype for weight in made.model.parameters()} == {torch.float32}, "the weights stay in bfloat16"


@case("training", "a dict of evaluation sets, cut at max_eval_users")
def _(folder):
    sets = {"a": sequences("validation"), "b": sequences("test")}
    found = trainer(folder, eval_dataset=sets, max_eval_users=10).evaluate()
    assert {"eval_a_hr@10", "eval_b_hr@10"} <= set(found)


@case("training", "a dict of evaluation sets, one chooses the checkpoint")
def _(folder):
    sets = {"a": sequences("validation"), "b": sequences("test")}
    assert trains(folder, eval_dataset=sets, metric_for_best_model="eval_a_hr@10").state.best_metric is not None


@case("training", "compute_metrics")
def _(folder):
    found = trainer(folder, options={"compute_metrics": lambda given: {"mine": len(given.predictions)}}).evaluate()
    assert found["eval_mine"] == 30


@case("training", "preprocess_logits_for_metrics")
def _(folder):
    options = {
        "preprocess_logits_for_metrics": lambda scores, targets: scores.topk(5).indices,
        "compute_metrics": lambda given: {"width": given.predictions.shape[1]},
    }
    assert trainer(folder, options=options).evaluate()["eval_width"] == 5


@case("training", "compute_loss_func")
def _(folder):
    called = []

    def loss(outputs, labels, num_items_in_batch=None):
        called.append(labels.shape)
        return outputs["user_hidden"].square().mean()

    trains(folder, options={"compute_loss_func": loss})
    assert called


@case("training", "eval_loss")
def _(folder):
    assert "eval_loss" in trainer(folder).evaluate()


@case("training", "predictions of predict")
def _(folder):
    assert trainer(folder).predict(sequences("test")).predictions is not None


@case("training", "a metric that is not measured chooses the checkpoint", may_be_refused=True)
def _(folder):
    refused_before_a_step(trainer(folder, metric_for_best_model="hr@7"))


@case("training", "a validation item that the catalogue lacks", may_be_refused=True)
def _(folder):
    rows = sequences("validation").to_list()
    rows[3]["target"] = "unknown"
    refused_before_a_step(trainer(folder, eval_dataset=datasets.Dataset.from_list(rows)))


@case("training", "an output folder that is a file", may_be_refused=True)
def _(folder):
    (folder / "out").write_text("")
    refused_before_a_step(trainer(folder))


@case("training", "neftune_noise_alpha with ids", may_be_refused=True)
def _(folder):
    refused_before_a_step(trainer(folder, neftune_noise_alpha=0.1))


@case("training", "the test split is evaluated before the card is made")
def _(folder):
    made = trains(folder)
    made.evaluate(sequences("test", users=12, seed=9))
    made.create_model_card()
    rows = json.loads((folder / "out" / "results.json").read_text())
    users = {row["protocol"]["num_users"] for row in rows if row["protocol"]["split"] == "validation"}
    assert users == {30}, f"rows of the validation split are of {users} users"


@case("training", "numbers as ids, in the card")
def _(folder):
    items = datasets.Dataset.from_dict({"item_id": [1, 2, 3, 4]})
    evaluator = FullRankingEvaluator(items, datasets.Dataset.from_dict({"item_ids": [[1, 2], [3]], "target": [3, 4]}))
    assert evaluator.protocol


@case("training", "resumed with another batch size")
def _(folder):
    trains(folder, num_train_epochs=1)
    again = trainer(folder, num_train_epochs=2, per_device_train_batch_size=4)
    again.train(resume_from_checkpoint=True)
    assert len(again.state.log_history) and again.state.epoch == 2


def steps_of(folder: Path, **arguments) -> int:
    """Steps of the same command, counted."""
    count, step = [], TransRecTrainer.training_step
    TransRecTrainer.training_step = lambda self, *args, **more: (count.append(1), step(self, *args, **more))[1]
    options = {"num_train_epochs": 1, "use_cpu": True, "report_to": [], "disable_tqdm": True, **arguments}
    try:
        train(
            ModelArguments(hidden_size=16, modality="id"),
            DataArguments(dataset_config_name="Sample_Target"),
            TransRecTrainingArguments(str(folder / "out"), **options),
        )
    finally:
        TransRecTrainer.training_step = step
    return len(count)


@case("training", "the command of a finished training, again", may_be_refused=True)
def _(folder):
    assert steps_of(folder) > 0
    assert steps_of(folder) == 0, "the finished model is trained anew"


@case("training", "an upload that failed, and the command again")
def _(folder):
    with hub() as server:
        server.fail("POST /api/models/me/m/commit/*", 500, times=8)
        publish = {"push_to_hub": True, "hub_model_id": "me/m"}
        with contextlib.suppress(Exception):
            steps_of(folder, **publish)
        server.faults.clear()
        again = steps_of(folder, **publish)
        assert again == 0 and "model.safetensors" in server.files("me/m"), f"{again} steps again"


def loads_as_saved(model, folder: Path) -> None:
    model.save_pretrained(folder / "saved")
    again = type(model).from_pretrained(folder / "saved")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@case("models", "two of one configuration, an adapter on the first")
def _(folder):
    from peft import LoraConfig

    config = TransRecConfig(text_config=bert(), hidden_size=16)
    first, second = TransRecModel(config), TransRecModel(config)
    first.add_peft_adapter(LoraConfig(r=2, target_modules=["query"]))
    loads_as_saved(second, folder)


@case("models", "two of one configuration, the first drops its ids")
def _(folder):
    config = TransRecConfig(text_config=bert(), num_items=40, hidden_size=16)
    first, second = TransRecModel(config), TransRecModel(config)
    first.drop_item_ids()
    second.save_pretrained(folder)
    assert TransRecModel.from_pretrained(folder).item_encoder.id_embedding is not None, "the ids are lost"


@case("models", "an attribute of one's own on the configuration")
def _(folder):
    model = text_model()
    model.config.note = "mine"
    loads_as_saved(model, folder)


@case("models", "a misspelt field of the configuration", may_be_refused=True)
def _(folder):
    TransRecConfig(num_item=5)
    raise AssertionError("taken in silence")


@case("models", "a folder of BERT", may_be_refused=True)
def _(folder):
    transformers.BertModel(
        transformers.BertConfig(**{k: v for k, v in bert().items() if k != "model_type"})
    ).save_pretrained(folder)
    TransRecModel.from_pretrained(folder)
    raise AssertionError("loaded")


def batch(**fields) -> dict:
    ids = TOKENIZER(TITLES[:6], padding=True, return_tensors="pt")
    return {
        "input_ids": ids["input_ids"],
        "attention_mask": ids["attention_mask"],
        "item_index": torch.tensor([[-1, 0, 1], [2, 3, 5]]),
        **fields,
    }


@case("models", "output_hidden_states=True")
def _(folder):
    assert len(text_model()(**batch(), output_hidden_states=True).hidden_states) > 1


@case("models", "hidden states of chosen layers")
def _(folder):
    states = text_model()(**batch(), output_hidden_states=[0]).hidden_states
    assert states[0] is not None and states[1] is None


@case("models", "return_dict=False in the configuration")
def _(folder):
    assert isinstance(text_model(return_dict=False)(**batch()), tuple)


@case("models", "texts without an attention mask")
def _(folder):
    given = batch()
    given.pop("attention_mask")
    text_model()(**given)


@case("models", "new tokens of CLIP, saved and loaded")
def _(folder):
    from tests.tiny import tiny_clip_config

    torch.manual_seed(0)
    model = TransRecModel(TransRecConfig(multimodal_config=tiny_clip_config(60), hidden_size=16))
    model.resize_token_embeddings(70)
    loads_as_saved(model, folder)


@case("models", "RoBERTa's last positions", may_be_refused=True)
def _(folder):
    config = bert(model_type="roberta", max_position_embeddings=34, pad_token_id=1)
    processor = TransRecProcessor(TOKENIZER, max_text_length=33)
    Recommender(text_model(text_config=config), processor).index([{"item_id": "a", "text_en": "tea " * 100}])


@case("models", "dynamic int8")
def _(folder):
    model = text_model()
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert len(Recommender(quantised, TransRecProcessor(TOKENIZER)).index(ITEMS).recommend(["p1"], k=40)) == 39
    given = batch()
    given.pop("item_index")
    cosines = torch.cosine_similarity(quantised.get_item_features(**given), model.get_item_features(**given))
    assert cosines.mean() > 0.95, f"item embeddings have a cosine of {cosines.mean():.2f}"


class UserTower(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, vectors, mask):
        return self.model.get_user_features(vectors, mask)


@case("models", "torch.export of GRU4Rec with any length")
def _(folder):
    model, sizes = id_model(user_encoder_type="gru4rec"), {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    made = [(torch.randn(b, n, 16), torch.ones(b, n, dtype=torch.bool)) for b, n in ((3, 5), (4, 8))]
    graph = torch.export.export(UserTower(model), made[0], dynamic_shapes=(sizes, sizes)).module()
    for vectors, mask in made:
        assert torch.allclose(graph(vectors, mask), model.get_user_features(vectors, mask), atol=1e-5)


@case("models", "cpu_offload of BERT4Rec")
def _(folder):
    from accelerate import cpu_offload

    model = id_model(user_encoder_type="bert4rec")
    given = {"item_ids": torch.arange(6), "item_index": torch.tensor([[-1, 0, 1], [2, 3, 5]])}
    with torch.no_grad():
        expected = model(**given).user_embeds
        cpu_offload(model, execution_device="cpu")
        assert torch.allclose(model(**given).user_embeds, expected, atol=1e-6)


@case("models", "options of the processor by groups")
def _(folder):
    found = TransRecProcessor(TOKENIZER)(text=TITLES[:2], text_kwargs={"max_length": 3}, return_tensors="np")
    assert found["input_ids"].shape[1] <= 3 and isinstance(found["input_ids"], np.ndarray)


TABLES: dict[str, Callable[[], Any]] = {
    "a frame of pandas": lambda: ITEMS.to_pandas(),
    "a frame of polars": lambda: ITEMS.to_polars(),
    "a table of Arrow": lambda: pa.table({"item_id": IDS, "text_en": TITLES}),
    "a dict of columns": lambda: {"item_id": IDS, "text_en": TITLES},
    "a list of dicts": lambda: ITEMS.to_list(),
    "a DatasetDict of one split": lambda: datasets.DatasetDict(train=ITEMS),
}
for label, table in TABLES.items():

    @case("use", f"index of {label}")
    def _(folder, table=table):
        expected = recommender().recommend(HISTORIES, k=5)
        assert recommender(table()).recommend(HISTORIES, k=5) == expected


@case("use", "index of titles that are numbers")
def _(folder):
    texts = datasets.Dataset.from_dict({"item_id": IDS, "text_en": list(range(40))})
    assert len(recommender(texts).recommend(["p1"], k=5)) == 5


@case("use", "index of titles of several types", may_be_refused=True)
def _(folder):
    frame = pd.DataFrame({"item_id": IDS, "text_en": [n if n % 2 else f"tea {n}" for n in range(40)]})
    assert len(recommender(frame).recommend(["p1"], k=5)) == 5


for label, convert in {
    "arrays of numpy": lambda: [np.array(one) for one in HISTORIES],
    "columns of pandas": lambda: pd.Series(HISTORIES),
    "columns of polars": lambda: pl.Series(HISTORIES),
    "an array of Arrow": lambda: pa.array(HISTORIES),
    "tuples": lambda: tuple(tuple(one) for one in HISTORIES),
    "a data set's column as numpy": lambda: datasets.Dataset.from_dict({"h": HISTORIES}).with_format("numpy")["h"][:],
}.items():

    @case("use", f"recommend for {label}")
    def _(folder, convert=convert):
        made = recommender()
        assert made.recommend(convert(), k=5) == made.recommend(HISTORIES, k=5)


@case("use", "recommend for a matrix of numpy")
def _(folder):
    made = recommender()
    assert made.recommend(np.array([["p1", "p2"]]), k=5) == made.recommend([["p1", "p2"]], k=5)


@case("use", "an item of a history that is not there", may_be_refused=True)
def _(folder):
    recommender().recommend(["p1", "unknown"])
    raise AssertionError("taken in silence")


@case("use", "unknown items of a history are skipped")
def _(folder):
    made = recommender()
    assert made.recommend(["p1", "unknown"], unknown_items="skip") == made.recommend(["p1"])


@case("use", "recommend before index", may_be_refused=True)
def _(folder):
    Recommender(text_model(), TransRecProcessor(TOKENIZER)).recommend(["p1"])


@case("use", "a recommender made before the training")
def _(folder):
    model = id_model()
    made = Recommender(model, TransRecProcessor(item_ids=IDS))
    trains(folder, model=model)
    made.index(ITEMS)
    model.train()
    assert made.recommend(["p1", "p2"]) == made.recommend(["p1", "p2"]), "dropout"


for with_faiss in (False, True):

    @case("use", f"NaN weights{' with FAISS' if with_faiss else ''}", may_be_refused=True)
    def _(folder, with_faiss=with_faiss):
        made = recommender()
        with torch.no_grad():
            made.model.model.user_encoder.layer_norm.weight[0] = float("nan")
        found = (made.search_with_faiss() if with_faiss else made).recommend(["p1"])
        raise AssertionError(f"recommends {found[:2]}")


@case("use", "centred scores are published, then others under the same name")
def _(folder):
    with hub():
        recommender(histories=HISTORIES).push_to_hub("shop/a")
        other = recommender(seed=5)
        expected = [one["item_id"] for one in other.recommend(["p1", "p2"], k=5)]
        other.push_to_hub("shop/a")
        found = Recommender.from_pretrained("shop/a", cache_dir=folder / "cache").recommend(["p1", "p2"], k=5)
    assert [one["item_id"] for one in found] == expected, "other recommendations than those that were published"


@case("use", "a catalogue of float32 with a model of bfloat16")
def _(folder):
    recommender().save_pretrained(folder)
    assert Recommender.from_pretrained(folder, dtype=torch.bfloat16).recommend(["p1"], k=3)


@case("use", "a cache that cannot be written")
def _(folder):
    recommender().save_pretrained(folder / "shop")
    (folder / "file").write_text("")
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder / "file" / "cache"
    try:
        assert Recommender.from_pretrained(folder / "shop").recommend(["p1"], k=3)
    finally:
        datasets.config.HF_DATASETS_CACHE = before


@case("use", "one more item, which lacks its text")
def _(folder):
    assert "new" in recommender().add_items([{"item_id": "new", "text_en": None}]).item_ids


@case("use", "a catalogue saved with code")
def _(folder):
    made = recommender()
    made.save_pretrained(folder, with_code=True)
    found = Recommender.from_pretrained(folder).recommend(["p1"])
    assert [one["item_id"] for one in found] == [one["item_id"] for one in made.recommend(["p1"])]


@case("use", "6,000 users and 50,000 items")
def _(folder):
    items = datasets.Dataset.from_dict({"item_id": [f"p{n}" for n in range(50_000)]})
    model = TransRecForSequentialRecommendation(TransRecConfig(num_items=50_000, hidden_size=8)).eval()
    made = Recommender(model, TransRecProcessor(item_ids=items["item_id"][:])).index(items)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    made.recommend([["p1", "p2"]] * 6000, k=10)
    assert memory("VmHWM") - before < 600_000, f"{(memory('VmHWM') - before) / 1e6:.1f} GB"


def memory(name: str) -> int:
    """Kilobytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@case("use", "a pipeline in bfloat16")
def _(folder):
    recommender().save_pretrained(folder)
    assert transformers.pipeline("sequential-recommendation", model=str(folder), dtype=torch.bfloat16)(["p1"], k=2)


@case("use", "a misspelt data set", may_be_refused=True)
def _(folder):
    datasets.load_dataset("ninerec", "Sample_Tagret", cache_dir=str(folder))


@case("use", "a table that is replaced by one of its size and time")
def _(folder):
    def load():
        data = datasets.load_dataset("ninerec", "X_items", data_dir=str(folder), cache_dir=str(folder / "cache"))
        return data["train"]["text_en"][:]

    (folder / "X_interactions.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u,i{n},{n}\n" for n in range(5))
    )
    for word in ("black", "green"):
        (folder / "X_items.csv").write_text("item_id,title\n" + "".join(f"i{n},{word} {n}\n" for n in range(5)))
        os.utime(folder / "X_items.csv", (1, 1))
        assert load() == [f"{word} {n}" for n in range(5)], "the table of before"


def judge(function: Callable[[Path], None], may_be_refused: bool) -> tuple[str, str]:
    """Returns what came of a case, and why."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            function(Path(folder))
        except AssertionError as error:
            last = traceback.extract_tb(error.__traceback__)[-1].filename
            return (WRONG if Path(last) == Path(__file__) else BARE), str(error)[:200]
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1].filename
            package = Path(modeling_transrec.__file__).parents[1]
            ours = Path(last).is_relative_to(package) and ".venv" not in last or "dataset_scripts" in last
            if ours and isinstance(error, ValueError | OSError | ImportError | KeyError):
                return (REFUSED if may_be_refused else f"{REFUSED}, though it can be done"), str(error)[:200]
            return BARE, f"{type(error).__name__}: {error}"[:200]
    return RIGHT, ""


def run(label: str, only: str) -> None:
    """Tries all cases and records what came of them."""
    record = []
    for kind, name, may_be_refused, function in CASES:
        if only not in name:
            continue
        outcome, why = judge(function, may_be_refused)
        why = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+", "FOLDER", why)
        record.append({"layout": kind, "form": name, "kind": outcome, "why": why})
        print(f"{outcome}: {kind}, {name} {why}", flush=True)
    print(dict(collections.Counter(one["kind"] for one in record)))
    path = RESULTS / "robustness.json"
    everything = json.loads(path.read_text(encoding="utf-8"))
    anew = {one["form"]: one for one in record}
    if only:
        record = [anew.pop(one["form"], one) for one in everything[f"use, {label}"]]
    everything[f"use, {label}"] = record
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", default="now")
    parser.add_argument("--only", default="", help="tries only cases with this in their names")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    run(args.label, args.only)


if __name__ == "__main__":
    main()
