"""The item-once step against a naive one: users one by one, without padding, every item encoded alone."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_transrec.data.collator import left_pad_lists
from modeling_transrec.data.loading import count_interactions
from modeling_transrec.models import text_chunks
from modeling_transrec.models.fusions import FUSIONS
from modeling_transrec.models.losses import LOSSES
from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..tiny import ITEM_KINDS, ONE_VECTOR_LOSSES


MAX_SEQ_LEN = 9


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def double(inputs):
    return {name: tensor.double() if is_float(tensor) else tensor for name, tensor in inputs.items()}


def encode_alone(model, processor, items, row):
    """The vector of one item, prepared and encoded alone."""
    item = items[int(row)]
    fields = {"text": {"text": [item["text_en"]]}, "image": {"images": [item["image"]]}}
    fields |= {"audio": {"audio": [item["audio"]]}, "id": {"item_ids": [item["item_id"]]}}
    call = {name: value for modality in processor.modalities for name, value in fields[modality].items()}
    return model.get_item_features(**double(processor(**call)))[0]


def times_of(collator, user, length):
    """Times of the inputs of a user, aligned to the last one."""
    times = collator.sequences[user["user"]]["timestamps"][-(MAX_SEQ_LEN + 1) : -1]
    return torch.tensor([0] * (length - len(times)) + times)


def naive_loss(model, items, encode, collator, users, share):
    """Users one by one, without padding; `encode` makes the vector of an item's row."""
    config = model.config
    rows = left_pad_lists([user["history"][-(MAX_SEQ_LEN + 1) :] for user in users])
    numbers = np.array([user["user"] for user in users])
    inputs, targets = collator.split(rows, numbers)
    if config.loss_type == "bce":
        negatives = collator.sample_negatives(rows, numbers)[:, -targets.shape[1] :]
    shared = (
        collator.sample_shared_negatives(rows, numbers)
        if LOSSES[config.loss_type].candidates in ("shared", "mixed")
        else []
    )
    distinct = np.unique(rows[rows >= 0])
    total, count = 0.0, 0
    for line, user in enumerate(users):
        here = inputs[line] != -1
        is_masked = torch.from_numpy(inputs[line][here] == -2)[None]
        vectors = torch.stack([torch.zeros(16).double() if row == -2 else encode(row) for row in inputs[line][here]])
        states = model.model.get_user_hidden(
            vectors[None],
            torch.ones_like(is_masked),
            user_ids=torch.tensor([user["user"]]) if config.num_users else None,
            is_masked=is_masked if config.objective == "masked_item" else None,
            timestamps=times_of(collator, user, inputs.shape[1])[None, here] if config.reads_timestamps else None,
        )[0]
        own = set(rows[line][rows[line] >= 0].tolist())
        wanted = targets[line][here]
        for place, (state, target) in enumerate(zip(states, wanted, strict=True)):
            if target == -1:
                continue

            def score(row, state=state):
                return state @ encode(row)

            if config.loss_type == "bce":
                sampled = torch.stack([score(row) for row in negatives[line][here][place]])
                total = total - F.logsigmoid(score(target)) - F.logsigmoid(-sampled).mean()
            elif config.loss_type == "gbce":
                alpha = len(shared) / (len(items) - 1)
                beta = alpha * (config.gbce_t * (1 - 1 / alpha) + 1 / alpha)
                total = total - beta * F.logsigmoid(score(target))
                total = total - sum(F.logsigmoid(-score(row)) for row in shared if row not in own)
            else:
                if config.loss_type == "in_batch":
                    others = [row for row in distinct if row not in own]
                    log_q = [math.log(1 - (1 - share[row]) ** (rows >= 0).sum()) for row in [target, *others]]
                elif config.loss_type == "mixed":
                    others = [row for row in np.union1d(distinct, shared) if row not in own]
                    absent = (1 - 1 / len(items)) ** len(shared)
                    log_q = [math.log(1 - absent * (1 - share[row]) ** (rows >= 0).sum()) for row in [target, *others]]
                elif config.loss_type == "sampled_softmax":
                    others = [row for row in shared if row not in own]
                    log_q = [0.0] * (len(others) + 1)
                else:
                    others = [row for row in range(len(items)) if row != target]
                    log_q = [0.0] * (len(others) + 1)
                logits = torch.stack([score(row) for row in [target, *others]]) - torch.tensor(log_q).double()
                total = total - F.log_softmax(logits, dim=0)[0]
            count += 1
    return total / count


LATER = ("mlp", "bsarec", "hstu")  # tried with two kinds of items
PAIRS = [(kind, None, encoder) for kind in ITEM_KINDS for encoder in USER_ENCODERS if encoder not in LATER]
PAIRS += [(kind, None, encoder) for kind in ("text", "id") for encoder in LATER]
FUSED = [name for name, fusion in FUSIONS.items() if name != "sum" and not fusion.reads_ids]
PAIRS += [("text+image", fusion, encoder) for fusion in FUSED for encoder in ("sasrec", "bert4rec")]


@pytest.mark.parametrize(("kind", "fusion", "user_encoder_type"), PAIRS)
def test_loss_and_gradients_equal_the_naive_step(
    kind, fusion, user_encoder_type, make_model, make_collator, processor_of, items, histories
):
    options = {"user_encoder_type": user_encoder_type, "fusion": fusion or "sum", "num_negatives": 4}
    model = make_model(kind, max_seq_len=MAX_SEQ_LEN, **options).double()
    counts, users = count_interactions(histories, len(items)), [histories[user] for user in (0, 3, 11)]

    @functools.cache
    def encode(row):
        return encode_alone(model, processor_of[kind], items, row)

    for loss_type in ONE_VECTOR_LOSSES:
        model.config.loss_type = loss_type
        collator = make_collator(kind, model)
        batch = double(collator(users))
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}

        model.zero_grad()
        expected = naive_loss(model, items, encode, collator, users, counts / counts.sum())
        expected.backward(retain_graph=True)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6), loss_type
        for name, gradient in gradients.items():
            expected_gradient = model.get_parameter(name).grad
            if expected_gradient is None:  # no item of these lacks a text, or none a picture
                expected_gradient = torch.zeros_like(gradient)
            assert torch.allclose(gradient, expected_gradient, atol=1e-6), (loss_type, name)


def test_padded_positions_are_not_encoded(make_model, make_collator, histories, monkeypatch):
    model = make_model("text+image")
    collator = make_collator("text+image", model)
    users = [histories[user] for user in range(4)]
    texts, pictures = [], []
    item_encoder = model.item_encoder
    for part, name, seen in ((item_encoder.text, "input_ids", texts), (item_encoder.image, "pixel_values", pictures)):
        part.backbone.register_forward_pre_hook(
            lambda module, args, kwargs, name=name, seen=seen: seen.append(len(kwargs[name])), with_kwargs=True
        )
    model(**collator(users))
    distinct = {row for user in users for row in user["history"]}
    assert texts == [len(distinct)]
    assert pictures == [len([row for row in distinct if row % 4 != 1])]  # the others have none


@pytest.mark.parametrize("kind", ["text", "text+image", "text+id"])
def test_texts_of_like_length_are_encoded_together(kind, make_model, make_collator, histories, monkeypatch):
    model = make_model(kind).double()
    batch = double(make_collator(kind, model)([histories[user] for user in range(4)]))
    seen = []
    model.item_encoder.text.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    results = []
    for at_a_time in (1000, 40):
        monkeypatch.setattr(text_chunks, "TOKENS_AT_A_TIME_ON_CPU", at_a_time)
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]))
    (loss, gradients), (other_loss, other_gradients) = results
    assert torch.allclose(loss, other_loss)
    for one, other in zip(gradients, other_gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    chunks = seen[1:]
    assert len(chunks) > 2 and all(mask.sum() < 60 for mask in chunks)
    lengths = torch.cat([mask.sum(1) for mask in chunks])
    assert torch.equal(lengths, batch["attention_mask"].sum(1).sort().values)
    assert all(mask.shape[1] == mask.sum(1).max() for mask in chunks)  # padded to the longest of the chunk alone
