"""No training step waits for the device: on the meta device, whose tensors hold nothing, whatever reads one fails."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from modeling_transrec.models import batch_sizes
from modeling_transrec.models.batch_sizes import BatchSizes, true_places
from modeling_transrec.models.item_chunks import chunks_by_length
from modeling_transrec.models.losses import LOSSES
from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..tiny import ITEM_KINDS, make_batch


COMBINATIONS = [(kind, "sasrec", "bce", None) for kind in ITEM_KINDS]
COMBINATIONS += [(kind, "sasrec", "bce", 4) for kind in ITEM_KINDS]  # with gradient caching
COMBINATIONS += [("id", "sasrec", loss_type, size) for loss_type in LOSSES for size in (None, 4)]
COMBINATIONS += [("id", user_encoder_type, "in_batch", None) for user_encoder_type in USER_ENCODERS]


def to_meta(model, batch):
    """Both without values."""
    batch = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return model.to("meta").train(), batch


@pytest.mark.parametrize(("kind", "user_encoder_type", "loss_type", "chunk_size"), dict.fromkeys(COMBINATIONS))
def test_a_step_reads_nothing_from_the_device(
    kind, user_encoder_type, loss_type, chunk_size, make_model, make_collator, histories
):
    fields = {"user_encoder_type": user_encoder_type, "loss_type": loss_type, "num_negatives": 3}
    model = make_model(kind, **fields)
    if chunk_size is not None:
        model.enable_gradient_caching(chunk_size)
    model, batch = to_meta(model, make_batch(model, make_collator, kind, histories))
    loss = model(**batch).loss
    loss.backward()
    assert loss.device.type == "meta"


def test_without_the_sizes_it_would_wait(make_model, make_collator, histories):
    model = make_model("text")
    model, batch = to_meta(model, make_batch(model, make_collator, "text", histories))
    del batch["sizes"]
    with pytest.raises((NotImplementedError, RuntimeError)):
        model(**batch)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Places by known counts, on the CPU, too."""
    monkeypatch.setattr(batch_sizes, "SORTS_STABLY", ("cpu", "meta"))


@pytest.mark.parametrize("kind", ITEM_KINDS)
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_the_sizes_change_nothing(kind, chunk_size, make_model, make_collator, histories, as_on_a_gpu):
    model = make_model(kind, hidden_dropout_prob=0.0)
    batch = make_batch(model, make_collator, kind, histories)
    if chunk_size is not None:
        model.enable_gradient_caching(chunk_size)
    results = []
    for inputs in (batch, {name: value for name, value in batch.items() if name != "sizes"}):
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_places_by_count_are_those_by_search(as_on_a_gpu):
    mask = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.3
    expected = mask.nonzero().squeeze(1)
    assert torch.equal(true_places(mask, len(expected)), expected)


@pytest.mark.parametrize("name", ["history_lengths", "target_counts"])
def test_wrong_sizes_are_an_error(name, make_model, make_collator, histories):
    model = make_model("id")
    batch = make_batch(model, make_collator, "id", histories)
    sizes = replace(batch["sizes"], **{name: getattr(batch["sizes"], name) + 1})
    with pytest.raises(ValueError, match="the batch's sizes say"):
        model(**{**batch, "sizes": sizes})


def test_sizes_may_be_known_in_part(make_model, make_collator, histories):
    model = make_model("text+image")
    model.enable_gradient_caching(4)
    batch = make_batch(model, make_collator, "text+image", histories)
    expected = model(**batch).loss
    for known in (BatchSizes(), BatchSizes(target_counts=batch["sizes"].target_counts)):
        assert torch.equal(model(**{**batch, "sizes": known}).loss, expected)


def test_chunks_by_known_lengths_are_those_by_search():
    lengths = torch.randint(1, 12, (50,), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(12) < lengths[:, None]).long()
    found, known = chunks_by_length(mask, 40), chunks_by_length(mask, 40, lengths.numpy())
    assert len(found) > 5 and torch.equal(torch.cat([rows for rows, _ in found]).sort().values, torch.arange(50))
    assert all(lengths[rows].sum() <= 40 + 12 for rows, _ in found)  # one text more at most
    assert [longest for _, longest in found] == [longest for _, longest in known]
    assert [longest for _, longest in found] == [int(lengths[rows].max()) for rows, _ in found]
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(found, known, strict=True))


def test_with_several_threads_a_gradient_repeats_itself():
    """That of plain indexing, which adds up repeated rows in any order, does not: `vectors[rows]` fails here."""
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    vectors, upstream = (torch.randn(count, 256, generator=generator) for count in (600, 3000))
    rows = torch.randint(0, 300, (3000,), generator=generator)

    def gradient():
        leaf = vectors.clone().requires_grad_()
        F.embedding(rows, leaf).backward(upstream)
        return leaf.grad

    torch.set_num_threads(2)
    try:
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(10))
    finally:
        torch.set_num_threads(threads)
    expected = torch.zeros(600, 256).index_add(0, rows, upstream)
    assert torch.allclose(first, expected, atol=1e-4)
