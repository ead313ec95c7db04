"""Tiny data and models, made here: no network, no files of others."""

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from modeling_transrec import (
    TransRecConfig,
    TransRecDataCollator,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    train_tokenizer,
)
from modeling_transrec.data.loading import count_actions, histories_as_rows, prepare_items
from modeling_transrec.training.trainer import keep_teaching

from . import HUB_PORT
from .hub_server import HubServer


NUM_ITEMS, NUM_USERS = 37, 13
WORDS = "red blue green small large old new rope shoe lamp tent soap 红 蓝 绳 鞋".split()

datasets.disable_progress_bars()


def tiny_image(seed: int) -> Image.Image:
    """A picture of noise, not square."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (14, 20, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def items() -> datasets.Dataset:
    """37 items; texts of 1 to 9 words, one of them empty; every fourth without a picture."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=1 + row % 9)) + f" no{row}" for row in range(NUM_ITEMS)]
    texts[5] = ""
    images = [None if row % 4 == 1 else tiny_image(row) for row in range(NUM_ITEMS)]
    ids = [f"i{row:03d}" for row in range(NUM_ITEMS)]
    columns = {"item_id": ids, "text_en": texts, "text_zh": texts[::-1], "image": images}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def make_sequences(items: datasets.Dataset, num_users: int, split: str, seed: int = 0) -> datasets.Dataset:
    """Users with 5 to 23 actions, items of skewed popularity, some of them taken twice."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(items) + 1)
    rows = {"user_id": [], "item_ids": [], "target": []}
    for user in range(num_users):
        taken = [
            items["item_id"][int(row)]
            for row in rng.choice(len(items), size=rng.integers(5, 24), p=share / share.sum())
        ]
        held_out = {"train": 2, "validation": 2, "test": 1}[split]
        rows["user_id"].append(f"u{user}")
        rows["item_ids"].append(taken[:-held_out])
        rows["target"].append(None if split == "train" else taken[-held_out])
    features = datasets.Features(
        {
            "user_id": datasets.Value("string"),
            "item_ids": datasets.List(datasets.Value("string")),
            "target": datasets.Value("string"),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="session")
def train_split(items):
    return make_sequences(items, NUM_USERS, "train")


@pytest.fixture(scope="session")
def validation_split(items):
    return make_sequences(items, NUM_USERS, "validation")


@pytest.fixture(scope="session")
def tokenizer(items):
    return train_tokenizer((text for text in items["text_en"] if text), vocab_size=120)


@pytest.fixture(scope="session")
def text_processor(tokenizer):
    return TransRecProcessor(tokenizer)


@pytest.fixture(scope="session")
def id_processor(items):
    return TransRecProcessor(item_ids=list(items["item_id"]))


def tiny_text_config(vocab_size: int, model_type: str = "bert") -> dict:
    """A backbone of one layer and 20 dimensions."""
    width = {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 30}
    if model_type == "distilbert":
        width = {"dim": 20, "n_layers": 1, "n_heads": 2, "hidden_dim": 30}
    if model_type == "gpt2":
        width = {"n_embd": 20, "n_layer": 1, "n_head": 2}
    if model_type == "opt":
        width = {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 30}
        width["word_embed_proj_dim"] = 20
    return {"model_type": model_type, "vocab_size": vocab_size, "max_position_embeddings": 64, **width}


IMAGE_SIZE = 16
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}


def tiny_vilt_config(vocab_size: int) -> dict:
    return {**TINY_VIT, "model_type": "vilt", "vocab_size": vocab_size, "max_position_embeddings": 64}


def tiny_clip_config(vocab_size: int) -> dict:
    tower = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    return {
        "model_type": "clip",
        "projection_dim": 10,
        "text_config": {**tower, "vocab_size": vocab_size, "max_position_embeddings": 64, "eos_token_id": 3},
        "vision_config": {**tower, "image_size": IMAGE_SIZE, "patch_size": 8},
    }


ITEM_KINDS = ("text", "image", "text+image", "id", "text+id", "clip", "vilt")


def tiny_config(kind: str, tokenizer, **fields) -> TransRecConfig:
    """A configuration of width 16, for one of `ITEM_KINDS`."""
    fields = {"hidden_size": 16, "max_seq_len": 20, **fields}
    if kind == "clip":
        return TransRecConfig(multimodal_config=tiny_clip_config(len(tokenizer)), **fields)
    if kind == "vilt":
        return TransRecConfig(multimodal_config=tiny_vilt_config(len(tokenizer)), **fields)
    parts = kind.split("+")
    if "text" in parts:
        fields.setdefault("text_config", tiny_text_config(len(tokenizer)))
    if "image" in parts:
        fields.setdefault("vision_config", dict(TINY_VIT))
    if "id" in parts:
        fields["num_items"] = NUM_ITEMS
    return TransRecConfig(**fields)


@pytest.fixture
def make_model(tokenizer):
    """A factory of tiny random models in evaluation mode: `make_model("text", loss_type="bce")`."""

    def make(kind: str, **fields) -> TransRecForSequentialRecommendation:
        torch.manual_seed(0)
        if fields.get("user_encoder_type") == "dssm":
            fields["num_users"] = NUM_USERS
        return TransRecForSequentialRecommendation(tiny_config(kind, tokenizer, **fields)).eval()

    return make


@pytest.fixture(scope="session")
def image_processor():
    return ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


@pytest.fixture(scope="session")
def processor_of(tokenizer, image_processor, items):
    """The processor of each of `ITEM_KINDS`."""
    parts = {
        "text": {"tokenizer": tokenizer},
        "image": {"image_processor": image_processor},
        "id": {"item_ids": list(items["item_id"])},
    }
    kinds = {kind: "text+image" if kind in ("clip", "vilt") else kind for kind in ITEM_KINDS}
    return {
        kind: TransRecProcessor(**{name: part for one in kinds[kind].split("+") for name, part in parts[one].items()})
        for kind in ITEM_KINDS
    }


@pytest.fixture(scope="session")
def prepared_items(items, processor_of):
    """The items as each kind's processor prepares them."""
    return {kind: prepare_items(items, processor) for kind, processor in processor_of.items()}


@pytest.fixture(scope="session")
def histories(items, train_split):
    return keep_teaching(histories_as_rows(train_split, items["item_id"]))


class NormalizingCollator(TransRecDataCollator):
    """Its batches go into the model as they are; the Trainer normalises pictures on the device."""

    def __call__(self, features):
        return self.processor.normalize(super().__call__(features))


@pytest.fixture
def make_collator(items, histories, processor_of, prepared_items):
    """A factory of collators: of a model, or `make_collator("id", loss_type="bce")` of an id model's configuration."""

    def make(kind: str = "id", model=None, seed: int = 0, **fields) -> TransRecDataCollator:
        config = TransRecConfig(num_items=NUM_ITEMS, **fields) if model is None else model.config
        user_rows = np.arange(NUM_USERS) if config.user_encoder_type == "dssm" else None
        counts = count_actions(histories, len(items))
        return NormalizingCollator(config, prepared_items[kind], processor_of[kind], counts, user_rows, seed)

    return make


@pytest.fixture
def hub(monkeypatch):
    """The tests' own Hub, in place of the offline mode, and a token that may write."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with HubServer(port=HUB_PORT) as server:
        yield server
    huggingface_hub.close_session()
