"""Tiny data and models, made here: no network, no files of others."""

import datasets
import numpy as np
import pytest
import torch

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    train_tokenizer,
)


NUM_ITEMS, NUM_USERS = 37, 13
WORDS = "red blue green small large old new rope shoe lamp tent soap 红 蓝 绳 鞋".split()

datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def items() -> datasets.Dataset:
    """37 items; texts of 1 to 9 words, one of them empty."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=1 + row % 9)) + f" no{row}" for row in range(NUM_ITEMS)]
    texts[5] = ""
    return datasets.Dataset.from_dict(
        {"item_id": [f"i{row:03d}" for row in range(NUM_ITEMS)], "text_en": texts, "text_zh": texts[::-1]}
    )


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


def tiny_config(kind: str, tokenizer, **fields) -> TransRecConfig:
    """A configuration of width 16, for `kind` `"text"` or `"id"`."""
    fields = {"hidden_size": 16, "max_seq_len": 20, **fields}
    if kind == "id":
        return TransRecConfig(num_items=NUM_ITEMS, **fields)
    return TransRecConfig(text_config=tiny_text_config(len(tokenizer)), **fields)


@pytest.fixture
def make_model(tokenizer):
    """A factory of tiny random models in evaluation mode: `make_model("text", loss_type="bce")`."""

    def make(kind: str, **fields) -> TransRecForSequentialRecommendation:
        torch.manual_seed(0)
        return TransRecForSequentialRecommendation(tiny_config(kind, tokenizer, **fields)).eval()

    return make


@pytest.fixture
def processor_of(text_processor, id_processor):
    return {"text": text_processor, "id": id_processor}
