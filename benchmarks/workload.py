"""What the speed benchmark steps on: models, and data of the lengths and popularity of real ones."""

import argparse
import contextlib
from collections.abc import Callable
from typing import NamedTuple

import datasets
import naive
import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from timing import peak_bytes
from transformers import ViTImageProcessorPil

from modeling_transrec import (
    TransRecConfig,
    TransRecDataCollator,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    load_items,
    load_sequences,
    train_tokenizer,
)
from modeling_transrec.data.collator import left_pad_lists
from modeling_transrec.data.loading import count_interactions, index_histories
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.training.model_building import SMALL_BERT, SMALL_RESNET


VOCAB_SIZE, MAX_SEQ_LEN, USERS_PER_BATCH = 8000, 20, 64


class Shape(NamedTuple):
    """A data set's size and deciles: items of a training history, tokens of a text, training actions on an item."""

    num_users: int
    num_items: int
    history_lengths: tuple[float, ...]
    text_lengths: tuple[float, ...]
    item_counts: tuple[float, ...]


SHAPES = {
    "Amazon_Beauty": Shape(
        22_363,
        12_101,
        (3, 3, 3, 3, 4, 4, 5, 6, 8, 12, 21),
        (2, 6, 7, 7, 8, 8, 8, 9, 9, 10, 16),
        (0, 3, 4, 4, 5, 6, 8, 10, 14, 25, 361),
    ),
    "ML100K": Shape(
        943,
        1_409,
        (18, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21),
        (7, 8, 8, 9, 9, 10, 11, 11, 12, 14, 25),
        (0, 1, 2, 3, 5, 8, 11, 15, 21, 34, 131),
    ),
}
MEDIUM_BERT = {**SMALL_BERT, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
MEDIUM_BERT["intermediate_size"] = 1536
SMALL_VIT = {"model_type": "vit", "image_size": 64, "patch_size": 8, "hidden_size": 128, "num_hidden_layers": 4}
SMALL_VIT |= {"num_attention_heads": 4, "intermediate_size": 512}
SWIN_T = {"model_type": "swin", "image_size": 224, "embed_dim": 96, "depths": [2, 2, 6, 2]}
SWIN_T |= {"num_heads": [3, 6, 12, 24], "window_size": 7}
SMALL_SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 48,
    "depths": [1, 1, 2],
    "num_heads": [2, 4, 8],
    "window_size": 4,
}
BACKBONES = {  # by device: fields of the configuration
    "cpu": {
        "id": {},
        "text: BERT 2 x 128": {"text_config": SMALL_BERT},
        "text: BERT 6 x 384": {"text_config": MEDIUM_BERT},
        "image: small ResNet, 64 px": {"vision_config": {**SMALL_RESNET, "image_size": 64}},
        "image: small ViT, 64 px": {"vision_config": SMALL_VIT},
        "image: small Swin, 64 px": {"vision_config": SMALL_SWIN},
    },
    "cuda": {
        "id": {},
        "text: BERT-base": {"text_config": {"model_type": "bert"}},
        "image: Swin-T, 224 px": {"vision_config": SWIN_T},
    },
}


class Data(NamedTuple):
    """A catalogue of prepared items, training histories as rows and the items' counts."""

    items: datasets.Dataset
    histories: datasets.Dataset
    item_counts: np.ndarray


def draw(deciles: tuple[float, ...], count: int, rng: np.random.Generator) -> np.ndarray:
    """Integers whose distribution has these deciles."""
    return np.interp(rng.random(count), np.linspace(0, 1, len(deciles)), deciles).round().astype(int)


def synthetic_histories(shape: Shape, rng: np.random.Generator) -> datasets.Dataset:
    """Histories as rows, items by popularity."""
    lengths = draw(shape.history_lengths, shape.num_users, rng)
    weights = draw(shape.item_counts, shape.num_items, rng) + 0.5
    flat = rng.choice(shape.num_items, size=lengths.sum(), p=weights / weights.sum())
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    columns = {
        "history": pa.ListArray.from_arrays(offsets, pa.array(flat, pa.int32())),
        "target": pa.array(rng.integers(0, shape.num_items, shape.num_users), pa.int32()),
        "user": pa.array(range(shape.num_users), pa.int64()),
        "length": pa.array(lengths, pa.int32()),
    }
    return datasets.Dataset(pa.table(columns))


def synthetic_items(shape: Shape, config: TransRecConfig, rng: np.random.Generator) -> datasets.Dataset:
    """Items as the processor prepares them: random tokens, noise, rows of the id table."""
    if config.modality == "text":
        lengths = draw(shape.text_lengths, shape.num_items, rng)
        flat = rng.integers(5, VOCAB_SIZE, lengths.sum())
        columns = {"input_ids": [part.tolist() for part in np.split(flat, lengths.cumsum()[:-1])]}
    elif config.modality == "image":
        size = 3 * config.vision_config.image_size**2
        pool = [rng.integers(0, 256, size, dtype=np.uint8).tobytes() for _ in range(256)]
        columns = {"pixels": [pool[row % len(pool)] for row in range(shape.num_items)]}
    else:
        columns = {"item_ids": list(range(shape.num_items))}
    return datasets.Dataset.from_dict(columns)


def make_data(name: str, config: TransRecConfig, processor: TransRecProcessor, data_dir: str | None) -> Data:
    """A data set of this shape; where there is a folder, its histories and texts."""
    rng = np.random.default_rng(0)
    shape = SHAPES[name]
    if data_dir is None:
        histories = synthetic_histories(shape, rng)
    else:
        sequences = load_sequences("ninerec", name, "train", data_dir=data_dir)
        items = load_items("ninerec", name, data_dir=data_dir)
        histories = index_histories(sequences, items["item_id"])
    if data_dir is not None and config.modality == "text":
        prepared = prepare_items(items, processor)
    else:
        prepared = synthetic_items(shape, config, rng)
    return Data(prepared, histories, count_interactions(histories, len(prepared)))


def make_processor(config: TransRecConfig, name: str, data_dir: str | None) -> TransRecProcessor:
    if config.modality == "text":
        texts = ["red shoes", "blue lamp"]
        if data_dir is not None:
            texts = [text for text in load_items("ninerec", name, data_dir=data_dir)["text_en"] if text]
        return TransRecProcessor(train_tokenizer(texts, VOCAB_SIZE))
    if config.modality == "image":
        size = config.vision_config.image_size
        return TransRecProcessor(image_processor=ViTImageProcessorPil(size={"height": size, "width": size}))
    return TransRecProcessor(item_ids=[str(row) for row in range(config.num_items)])


class Bench:
    """A model with data to step on.

    Args:
        name: of the data set's shape.
        fields: of the configuration.
        args: the command line.
    """

    def __init__(self, name: str, fields: dict, args: argparse.Namespace, shape: Shape | None = None):
        torch.manual_seed(0)
        fields = {"max_seq_len": MAX_SEQ_LEN, "loss_type": "bce", **fields}
        if not {"text_config", "vision_config"} & fields.keys():
            fields["num_items"] = (shape or SHAPES[name]).num_items
        if "text_config" in fields:
            fields["text_config"] = {**fields["text_config"], "vocab_size": VOCAB_SIZE}
        self.args, self.device = args, torch.device(args.device)
        self.model = TransRecForSequentialRecommendation(TransRecConfig(**fields)).train().to(self.device)
        config = self.model.config
        if shape is None:
            self.processor = make_processor(config, name, args.data_dir)
            self.data = make_data(name, config, self.processor, args.data_dir)
        else:
            rng = np.random.default_rng(0)
            self.processor = make_processor(config, name, None)
            histories = synthetic_histories(shape, rng)
            items = synthetic_items(shape, config, rng)
            self.data = Data(items, histories, count_interactions(histories, len(items)))
        self.collator = TransRecDataCollator(config, self.data.items, self.processor, self.data.item_counts)

    def features(self, round_number: int, batch_size: int) -> list[dict]:
        """Users of one batch."""
        users = np.random.default_rng(round_number).integers(0, len(self.data.histories), batch_size)
        return [self.data.histories[int(user)] for user in users]

    def send(self, batch: dict) -> dict:
        return send_to_device(batch, self.device)

    def to_device(self, batch: dict) -> dict:
        return self.send(batch)

    def autocast(self):
        if self.args.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.args.dtype))

    def step(self, loss: Callable[[], torch.Tensor]) -> float:
        """Forward and backward pass; the loss."""
        self.model.zero_grad()
        with self.autocast():
            value = loss()
        value.backward()
        return value.item()

    def peak_megabytes(self, step: Callable[[], float]) -> float:
        """What a step takes at most, the gradients included."""
        self.model.zero_grad()  # those of the step before would be counted as freed
        return round(peak_bytes(step, self.device) / 1e6, 1)

    def our_step(self, batch: dict) -> float:
        return self.step(lambda: self.model(**batch).loss)

    def steps(self, features: list[dict]) -> dict[str, Callable[[], float]]:
        """The three steps on one batch, by name."""
        batch = self.to_device(self.collator(features))
        users = np.array([feature["user"] for feature in features])
        rows = left_pad_lists([feature["history"][-(MAX_SEQ_LEN + 1) :] for feature in features])
        rows = np.pad(rows, ((0, 0), (MAX_SEQ_LEN + 1 - rows.shape[1], 0)), constant_values=-1)
        inputs = self.to_device(naive.item_inputs(self.collator, rows, users))
        rows = torch.from_numpy(rows).to(self.device)
        return {
            "naive": lambda: self.step(lambda: naive.training_loss(self.model, inputs, rows)),
            "ours": lambda: self.our_step(batch),
            "floor": lambda: self.step(lambda: self.floor(batch)),
        }

    def floor(self, batch: dict) -> torch.Tensor:
        """The bare backbone over the batch's distinct items; for ids the whole model on one padded block."""
        encoder = self.model.item_encoder
        if encoder.backbones:
            return naive.features(encoder, batch).float().sum()
        return self.loss_of_block(encoder.id_embedding(batch["item_ids"]), batch)

    def features_by_length(self, batch: dict) -> torch.Tensor:
        """The bare text backbone over the chunks of like length that our step has, `(U, H)`."""
        text = self.model.item_encoder.text
        return text.features(**{name: batch[name] for name in text.inputs})

    def floor_by_length(self, batch: dict) -> torch.Tensor:
        """The bare text backbone over the chunks of our step, and user encoder and loss over one padded block."""
        text = self.model.item_encoder.text
        items = text.projection(self.features_by_length(batch), text.index(**batch))
        return self.loss_of_block(items, batch)

    def loss_of_block(self, items: torch.Tensor, batch: dict) -> torch.Tensor:
        """SASRec and binary cross entropy over the batch as one padded block; `items` is `(U, D)`."""
        mask = batch["item_index"] >= 0
        hidden = naive.sasrec(self.model.model.user_encoder, items[batch["item_index"].clamp(min=0)], mask)
        positive = (hidden * items[batch["labels"].clamp(min=0)]).sum(-1)
        negative = (hidden * items[batch["negative_index"][:, :, 0].clamp(min=0)]).sum(-1)
        return ((F.softplus(-positive) + F.softplus(negative)) * mask).sum() / mask.sum()
