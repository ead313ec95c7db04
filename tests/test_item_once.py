"""The item-once step against a naive one that encodes every position of every user by itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_transrec.data import count_actions, histories_as_rows, prepare_items
from modeling_transrec.data_collator import TransRecDataCollator
from modeling_transrec.trainer import _number_users


MAX_SEQ_LEN, NUM_NEGATIVES = 9, 2


def encode(model, processor, items, row):
    """The vector of one item, tokenised and encoded alone."""
    item = items[int(row)]
    inputs = processor(text=item["text_en"]) if processor.modality == "text" else processor(item_ids=item["item_id"])
    return model.get_item_features(**inputs)[0]


def naive_loss(model, processor, items, rows, negatives, share, loss_type):
    """`rows` `(B, L + 1)` of the catalogue, -1 at padding; every occurrence is encoded anew, users one by one."""
    num_draws = int((rows >= 0).sum())
    distinct = np.unique(rows[rows >= 0])
    total, count = 0.0, 0
    for line, row in enumerate(rows):
        sequence = row[row >= 0]
        vectors = torch.stack([encode(model, processor, items, item) for item in sequence])
        mask = torch.ones(1, len(sequence) - 1, dtype=torch.bool)
        states = model.model.user_encoder(vectors[None, :-1], mask)[0]
        for position, state in enumerate(states):
            target = vectors[position + 1]
            if loss_type == "bce":
                at = len(row) - len(sequence) + position
                sampled = torch.stack([encode(model, processor, items, item) for item in negatives[line, at]])
                total = total - F.logsigmoid(state @ target) - F.logsigmoid(-(sampled @ state)).mean()
            else:
                others = [item for item in distinct if item not in sequence]
                candidates = torch.stack([target] + [encode(model, processor, items, item) for item in others])
                shares = share[[sequence[position + 1], *others]]
                log_q = torch.from_numpy(np.log(1 - (1 - shares) ** num_draws))
                total = total - F.log_softmax(candidates @ state - log_q, dim=0)[0]
            count += 1
    return total / count


@pytest.mark.parametrize("kind", ["text", "id"])
@pytest.mark.parametrize("loss_type", ["bce", "in_batch"])
def test_loss_and_gradients_equal_the_naive_step(kind, loss_type, make_model, processor_of, items, train_split):
    model = make_model(kind, loss_type=loss_type, num_negatives=NUM_NEGATIVES, max_seq_len=MAX_SEQ_LEN).double()
    processor = processor_of[kind]
    histories = _number_users(histories_as_rows(train_split, items["item_id"]))
    counts = count_actions(histories, len(items))
    sampled = NUM_NEGATIVES if loss_type == "bce" else 0
    collator = TransRecDataCollator(prepare_items(items, processor), processor, counts, MAX_SEQ_LEN, sampled)
    users = [histories[user] for user in (0, 3, 4, 11)]

    model(**collator(users)).loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    loss = model(**collator(users)).loss.item()

    model.zero_grad()
    sequences = [user["history"][-(MAX_SEQ_LEN + 1) :] for user in users]
    rows = np.full((len(users), max(map(len, sequences))), -1)
    for line, sequence in enumerate(sequences):
        rows[line, len(rows[line]) - len(sequence) :] = sequence
    negatives = collator.sample_negatives(rows, np.array([user["user"] for user in users])) if sampled else None
    expected = naive_loss(model, processor, items, rows, negatives, counts / counts.sum(), loss_type)
    expected.backward()

    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-6), name


def test_padded_positions_are_not_encoded(make_model, processor_of, items, train_split, monkeypatch):
    model, processor = make_model("text"), processor_of["text"]
    histories = _number_users(histories_as_rows(train_split, items["item_id"]))
    collator = TransRecDataCollator(
        prepare_items(items, processor), processor, count_actions(histories, len(items)), max_seq_len=20
    )
    users = [histories[user] for user in range(4)]
    encoded = []
    forward = type(model.model.item_encoder).forward

    def counting(self, **inputs):
        encoded.append(len(inputs["input_ids"]))
        return forward(self, **inputs)

    monkeypatch.setattr(type(model.model.item_encoder), "forward", counting)
    model(**collator(users))
    assert encoded == [len({row for user in users for row in user["history"]})]
