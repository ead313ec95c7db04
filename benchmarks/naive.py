"""A training step and an evaluation in the style of the public NineRec code, with the weights of a model of ours.

Every position of every user is encoded, as positive and as negative, padding included; texts are padded to 30 tokens;
the user encoder computes every position; evaluation loops over users with a full sort. Written anew for comparison.

Shapes: `B` users, `L` history length, `V` catalogue items, `D` hidden size.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from modeling_transrec.models.attention import attention_mask_of
from modeling_transrec.models.histories import positions_from_the_end


TEXT_LENGTH = 30


def item_inputs(collator, rows: np.ndarray, users: np.ndarray) -> dict[str, torch.Tensor]:
    """Inputs of `B (L + 1) 2` items: each position's item and its negative. `rows` is `(B, L + 1)`, -1 at padding."""
    negatives = collator.sample_negatives(rows, users)[:, :, 0]
    both = np.stack([rows, negatives], axis=-1).clip(min=0)  # padding costs what any item costs
    return pad_texts(collator.processor.pad(collator.items[both.ravel()]))


def pad_texts(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs with texts of 30 tokens."""
    padded = dict(inputs)
    for name in ("input_ids", "attention_mask"):
        if name in inputs:
            padded[name] = F.pad(inputs[name], (0, TEXT_LENGTH - inputs[name].shape[1]))
    return padded


def features(encoder, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The bare backbone over all texts or pictures at once, as they are padded."""
    if encoder.text is not None:
        mask = inputs["attention_mask"]
        return encoder.text.pooling(encoder.text.token_vectors(inputs["input_ids"], mask), mask)
    return encoder.image.features(pixel_values=inputs["pixel_values"])


def encode(encoder, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Items to vectors, all at once."""
    if encoder.id_embedding is not None:
        return encoder.id_embedding(inputs["item_ids"])
    part = encoder.text or encoder.image
    return part.projection(features(encoder, inputs), part.index(has_text=inputs.get("has_text")))


def sasrec(encoder, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """SASRec over every position, padded ones too: `(B, L, D)` to `(B, L, D)`."""
    positions = encoder.position_embedding(positions_from_the_end(mask, encoder.num_positions))
    hidden = encoder.dropout(encoder.layer_norm(vectors + positions))
    attention_mask = attention_mask_of(mask, hidden.dtype)
    for layer in encoder.layers:
        attention = layer.attention
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.query, attention.key, attention.value)
        )
        weights = query @ key.transpose(2, 3) / math.sqrt(attention.head_dim) + attention_mask
        attended = layer.dropout(weights.softmax(-1)) @ value
        hidden = layer.attention_norm(hidden + layer.dropout(attention.output(attended.transpose(1, 2).flatten(2))))
        hidden = layer.layer_norm(hidden + layer.dropout(layer.down(layer.up(hidden).relu())))
    return hidden


def training_loss(model, inputs: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of positives and negatives, mean over the valid positions; `rows` as in [`item_inputs`]."""
    vectors = encode(model.item_encoder, inputs).view(*rows.shape, 2, -1)  # (B, L + 1, 2, D)
    mask = rows[:, :-1] >= 0
    hidden = sasrec(model.model.user_encoder, vectors[:, :-1, 0] * mask[:, :, None], mask)
    positive = (hidden * vectors[:, 1:, 0]).sum(-1)  # (B, L)
    negative = (hidden * vectors[:, 1:, 1]).sum(-1)
    valid = torch.where(mask)
    return F.softplus(-positive[valid]).mean() + F.softplus(negative[valid]).mean()


def rank_users(states: torch.Tensor, catalogue: torch.Tensor, histories: np.ndarray, targets: np.ndarray) -> list[int]:
    """Ranks, from 0, of the targets of user vectors `(B, D)`, one user after the other, by a full sort."""
    ranks = []
    all_scores = (states @ catalogue.T).cpu().numpy()
    for scores, history, target in zip(all_scores, histories, targets, strict=True):
        labels = np.zeros(len(catalogue))
        labels[target] = 1.0
        scores = scores.copy()
        scores[np.setdiff1d(history[history >= 0], target)] = -np.inf
        order = np.argsort(-scores)
        ranks.append(int(np.argmax(labels[order])))
    return ranks
