"""ODMT: views of contents and ids, a user encoder each, which learn from one another."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import (
    TransRecConfig,
    TransRecDataCollator,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
)
from modeling_transrec.data.loading import count_interactions
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.models.candidates import Candidates
from modeling_transrec.models.histories import Histories
from modeling_transrec.models.losses import LOSSES

from ..checks import assert_same, perturb, step
from ..tiny import NUM_ITEMS


VIEWS = {"fusion": "id_aware", "hidden_size": 24, "loss_type": "distilled_in_batch", "hidden_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def processor(tokenizer, image_processor, items):
    return TransRecProcessor(tokenizer, image_processor, item_ids=list(items["item_id"]))


@pytest.fixture(scope="module")
def prepared(items, processor):
    return prepare_items(items, processor)


@pytest.fixture
def make_batch(prepared, processor, histories):
    def make(model, users=range(5)):
        counts = count_interactions(histories, NUM_ITEMS)
        collator = TransRecDataCollator(model.config, prepared, processor, counts)
        return collator([histories[user] for user in users])

    return make


@pytest.mark.parametrize(
    ("user_encoder_type", "loss_type"),
    [("sasrec", "distilled_in_batch"), ("bert4rec", "distilled_in_batch"), ("gru4rec", "bce")],
)
def test_it_trains_whole_and_in_chunks(user_encoder_type, loss_type, make_model, make_batch):
    model = make_model("text+image+id", **{**VIEWS, "loss_type": loss_type}, user_encoder_type=user_encoder_type)
    perturb(model)
    batch = make_batch(model)
    plain = step(model, batch)
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or plain[1][name].abs().sum() > 0, name
    model.enable_gradient_caching(2)
    assert_same(step(model, batch), plain, atol=1e-4)


def test_it_is_saved_and_loaded_exactly(make_model, make_batch, tmp_path):
    model = perturb(make_model("text+image+id", **VIEWS)).eval()
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    batch = make_batch(model)
    assert torch.equal(again(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("normalize_scores", [False, True])
def test_a_score_is_the_mean_of_the_views_scores(normalize_scores, make_model, make_batch):
    model = perturb(make_model("text+image+id", **VIEWS, normalize_scores=normalize_scores))
    batch = make_batch(model)
    output = model(**{name: values for name, values in batch.items() if name != "labels"})
    users, items = output.user_embeds.chunk(3, -1), output.item_embeds.chunk(3, -1)
    if normalize_scores:
        users, items = ([F.normalize(one, dim=-1) for one in of] for of in (users, items))
    expected = sum(user @ item.T for user, item in zip(users, items, strict=True)) / 3
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)


def test_each_view_has_a_user_encoder_and_only_the_id_sees_the_id(make_model, make_batch):
    model = perturb(make_model("text+image+id", **VIEWS))
    batch = make_batch(model)
    inputs = {name: values for name, values in batch.items() if name not in ("labels", "item_log_popularity")}
    before = model(**inputs)
    with torch.no_grad():
        model.item_encoder.id_embedding.weight.add_(1 + torch.randn_like(model.item_encoder.id_embedding.weight))
    after = model(**inputs)
    for one, other in ((before.item_embeds, after.item_embeds), (before.user_embeds, after.user_embeds)):
        assert torch.allclose(one[:, :16], other[:, :16], atol=1e-6)
        assert not torch.allclose(one[:, 16:], other[:, 16:], atol=1e-2)
    encoders = model.model.user_encoder.views
    vectors, mask = torch.randn(2, 4, 24), torch.ones(2, 4, dtype=torch.bool)
    states = model.model.get_user_hidden(vectors, mask)
    for place, encoder in enumerate(encoders):
        part = slice(8 * place, 8 * place + 8)
        torch.testing.assert_close(states[..., part], encoder(vectors[..., part], Histories(mask)))


def test_padding_of_texts_is_not_read(make_model, make_batch, processor, prepared):
    model = perturb(make_model("text+image+id", **VIEWS))
    together = model.get_item_features(**processor.pad(prepared[:6]))
    for item in range(6):
        alone = model.get_item_features(**processor.pad(prepared[[item]]))
        torch.testing.assert_close(alone[0], together[item], atol=1e-5, rtol=1e-4)


def test_distillation_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    states = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    targets, users = torch.tensor([1, 4, 1]), torch.tensor([0, 0, 1])
    own, log_q = torch.tensor([[1, 4], [1, 2]]), torch.rand(5, generator=generator, dtype=torch.float64).log()
    temperature, weight, total = 0.4, 0.7, 0.0
    for state, target, user in zip(states, targets.tolist(), users.tolist(), strict=True):
        kept = [item for item in range(5) if item == target or item not in own[user].tolist()]
        scores = [
            [3 * float(state[view] @ items[item][view]) - float(log_q[item]) for item in kept]
            for view in (slice(0, 2), slice(2, 4), slice(4, 6))
        ]
        mean = [sum(column) / 3 for column in zip(*scores, strict=True)]

        def probabilities(logits, heat=1.0):
            exponentials = [math.exp(logit / heat) for logit in logits]
            return [one / sum(exponentials) for one in exponentials]

        def distance(student, teacher, heat=temperature, probabilities=probabilities):
            pairs = zip(probabilities(teacher, heat), probabilities(student, heat), strict=True)
            return -(heat**2) * sum(expected * math.log(found) for expected, found in pairs)

        total -= sum(math.log(probabilities(view)[kept.index(target)]) for view in scores)
        text, image, of_id = scores
        total += weight * (distance(text, of_id) + distance(image, of_id) + distance(of_id, mean))
    function = LOSSES["distilled_in_batch"].function
    found = function(states, targets, users, Candidates(items, own, log_q=log_q), 3, temperature, weight)
    assert found.item() == pytest.approx(total, rel=1e-9)


def test_a_teacher_gets_no_gradient_from_its_students():
    """Otherwise all views agree on items that no user took: nothing else makes the distillation as small."""
    temperature, generator = 0.5, torch.Generator().manual_seed(0)
    states = torch.randn(4, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    items = torch.eye(5, dtype=torch.float64).repeat(1, 2)  # so that the scores of a view are its states
    candidates, targets = Candidates(items, torch.full((4, 2), -1)), torch.tensor([0, 1, 2, 3])
    function = LOSSES["distilled_in_batch"].function
    with_it, without = (function(states, targets, torch.arange(4), candidates, 2, temperature, w) for w in (1.0, 0.0))
    (gradient,) = torch.autograd.grad(with_it - without, states)
    content, of_id = (2 * one for one in states.detach().chunk(2, dim=-1))

    def apart(student, teacher):
        return 2 * temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1))

    torch.testing.assert_close(gradient[:, :5], apart(content, of_id))
    torch.testing.assert_close(gradient[:, 5:], apart(of_id, (content + of_id) / 2))


def test_the_weight_of_the_distillation_rises_over_the_epochs(make_model, prepared, processor, histories):
    model = perturb(make_model("text+image+id", **VIEWS, distillation_warmup_epochs=4)).eval()
    counts = count_interactions(histories, NUM_ITEMS)
    collator, users, losses = TransRecDataCollator(model.config, prepared, processor, counts), range(5), []
    for epoch in (0, 1, 3, 9):
        collator.set_epoch(epoch)
        losses.append(model(**collator([histories[user] for user in users])).loss.item())
    model.config.distillation_weight = 0.0
    batch = collator([histories[user] for user in users])
    without = model(**batch).loss.item()
    shares = [(loss - without) / (losses[-1] - without) for loss in losses]
    assert shares == pytest.approx([math.exp(-5 * (1 - done) ** 2) for done in (0.25, 0.5, 1.0, 1.0)], rel=1e-3)
    with pytest.raises(ValueError, match="needs epoch in the batch"):
        model(**{name: values for name, values in batch.items() if name != "epoch"})


TEXT = {"text_config": {"model_type": "bert", "hidden_size": 12, "num_attention_heads": 2}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_type": "distilled_in_batch", "num_items": 3}, "compares views of an item, which fusion='id_aware'"),
        ({"fusion": "id_aware", **TEXT}, "reads contents and ids; give a backbone and num_items"),
        ({"fusion": "id_aware", "num_items": 3}, "reads contents and ids"),
        ({"fusion": "id_aware", "num_items": 3, "hidden_size": 28, "num_attention_heads": 4, **TEXT}, "2 views times"),
        ({"fusion": "id_aware", "num_items": 3, "history_decay": 0.5, **TEXT}, "leave out history_decay"),
        ({"fusion": "id_aware", "num_items": 3, "item_projection": "codes", **TEXT}, "'codes' has none"),
    ],
)
def test_what_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TransRecConfig(**fields)


def test_ids_cannot_be_left_behind(make_model):
    with pytest.raises(ValueError, match="ids do not transfer; train a new model"):
        make_model("text+id", **{**VIEWS, "hidden_size": 16}).drop_item_ids()
