"""Tiny data, configurations and batches that tests share, made here: no network, no files of others."""

import io
import wave

import datasets
import numpy as np
import torch
from PIL import Image

from modeling_transrec import TransRecConfig
from modeling_transrec.models.losses import LOSSES


NUM_ITEMS, NUM_USERS = 37, 13
WORDS = "red blue green small large old new rope shoe lamp tent soap 红 蓝 绳 鞋".split()
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
SIZE = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
VISION_CONFIGS = {
    "vit": {**TINY_VIT, "num_hidden_layers": 2},
    "dinov2": {**SIZE, "model_type": "dinov2", "image_size": IMAGE_SIZE, "patch_size": 8},
    "clip_vision_model": {**SIZE, "model_type": "clip_vision_model", "image_size": IMAGE_SIZE, "patch_size": 8},
    "swin": {
        "model_type": "swin",
        "image_size": IMAGE_SIZE,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
    },
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 12],
        "depths": [1, 1],
        "layer_type": "basic",
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2},
    "timm_wrapper": {
        "model_type": "timm_wrapper",
        "architecture": "convnext_atto",
        "model_args": {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, 8]},
    },
}
TINY_TOWER = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
SAMPLING_RATE = 1000  # of the tiny audio backbones
TINY_WAV2VEC2 = {
    "model_type": "wav2vec2",
    **TINY_TOWER,
    "conv_dim": [6, 8],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "attention_dropout": 0.0,
}
ONE_VECTOR_LOSSES = [name for name, loss in LOSSES.items() if not loss.reads_views]
ITEM_KINDS = ("text", "image", "text+image", "id", "text+id", "clip", "vilt", "audio", "text+image+audio")


def tiny_image(seed: int) -> Image.Image:
    """A picture of noise, not square."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (14, 20, 3), dtype=np.uint8))


def tiny_sound(seed: int, rate: int = SAMPLING_RATE) -> np.ndarray:
    """A tenth to a third of a second of noise, float32."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.9, 0.9, rng.integers(rate // 10, rate // 3)).astype(np.float32)


def sound_file(samples: np.ndarray, rate: int = SAMPLING_RATE) -> bytes:
    """A WAV file of samples `(number,)` or, of several channels, `(number, channels)`."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes((samples * 2**15).astype("<i2").tobytes())
    return file.getvalue()


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


def with_times(sequences: datasets.Dataset) -> datasets.Dataset:
    """Histories with the times of their interactions: seconds to months apart."""
    rng = np.random.default_rng(5)
    times = [
        (10**9 + np.exp(rng.uniform(0, 16, len(taken))).astype(np.int64).cumsum()).tolist()
        for taken in sequences["item_ids"]
    ]
    return sequences.add_column("timestamps", times)


def of_users(model, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the user encoder reads of users 0, 1, … beside their items, as arguments, whatever the padding."""
    found = {}
    if model.user_encoder.reads_user_ids:
        found["user_ids"] = torch.arange(len(mask))
    if model.user_encoder.reads_timestamps:
        found["timestamps"] = (mask.cumsum(1) ** 3 * 1000) + 10**9
    return found


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


def tiny_dual_config(model_type: str, tokenizer) -> dict:
    special = {"eos_token_id": tokenizer.sep_token_id, "bos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    text = {**TINY_TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": 40, **special}
    vision = {**TINY_TOWER, "image_size": IMAGE_SIZE, "patch_size": 8}
    if model_type == "vision-text-dual-encoder":
        text, vision = {**text, "model_type": "bert"}, {**vision, "model_type": "vit"}
    if model_type == "groupvit":
        vision["depths"] = [1, 1, 1]
    if model_type == "altclip":
        text["project_dim"] = 12
    width = {} if model_type == "siglip" else {"projection_dim": 10}
    return {"model_type": model_type, "text_config": text, "vision_config": vision, **width}


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
    if "audio" in parts:
        fields.setdefault("audio_config", dict(TINY_WAV2VEC2))
    if "id" in parts:
        fields["num_items"] = NUM_ITEMS
    return TransRecConfig(**fields)


def make_inputs(kind, vocab_size=60, seed=0):
    """A batch of 3 users over 11 items, with padding on both axes."""
    generator = torch.Generator().manual_seed(seed)
    item_index = torch.randint(11, (3, 7), generator=generator)
    item_index[0, :4] = -1
    item_index[2, :1] = -1
    labels = torch.cat([item_index[:, 1:], torch.randint(11, (3, 1), generator=generator)], 1)
    labels = labels.masked_fill(item_index < 0, -100)
    inputs = {
        "item_index": item_index,
        "labels": labels,
        "negative_index": torch.randint(11, (3, 7, 2), generator=generator),
        "item_log_popularity": torch.full((11,), 1 / 11).log(),
    }
    if kind == "id":
        return {**inputs, "item_ids": torch.randperm(37, generator=generator)[:11]}
    mask = torch.ones(11, 6, dtype=torch.long)
    mask[::2, 4:] = 0
    return {
        **inputs,
        "input_ids": torch.randint(5, vocab_size, (11, 6), generator=generator) * mask,
        "attention_mask": mask,
        "has_text": torch.arange(11) != 4,
    }


def make_batch(model, make_collator, kind, histories):
    return make_collator(kind.partition(", ")[0], model)([histories[user] for user in range(5)])
