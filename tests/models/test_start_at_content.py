"""Models that start as content kNN: whitened features, a decayed history, residuals from zero."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation
from modeling_transrec.data.collator import left_pad_lists
from modeling_transrec.data.precomputed_items import precompute_features
from modeling_transrec.evaluation.encoding import encode_catalogue, fit_statistics, kept_statistics
from modeling_transrec.evaluation.evaluator import FullRankingEvaluator
from modeling_transrec.evaluation.features import as_content
from modeling_transrec.evaluation.scoring import CatalogueScorer
from modeling_transrec.models.batch import UserInputs
from modeling_transrec.models.candidates import Candidates, log_inclusion_probability
from modeling_transrec.models.losses import mixed_loss
from modeling_transrec.models.user_encoders import USER_ENCODERS
from modeling_transrec.models.whitening import Moments, Whitening, decayed_histories, unit_length

from ..checks import perturb
from ..tiny import make_batch


START = {
    "item_projection": "whitened",
    "hidden_size": None,
    "history_decay": 0.6,
    "user_hidden_size": 8,
    "normalize_scores": True,
    "fusion": "weighted_concat",
}
READ_HISTORIES = [name for name, encoder in USER_ENCODERS.items() if not encoder.reads_user_ids]
PAIRS = [
    *(
        (kind, "sasrec")
        for kind in ("text", "image", "audio", "text+id", "text+image", "text+image+audio", "clip", "vilt")
    ),
    *(("text", name) for name in READ_HISTORIES),
]


def content_of(model, processor, items, cache_dir):
    return as_content(precompute_features(model, items, processor, 5, cache_dir), model, processor)


def histories_of(histories, count=6):
    return torch.from_numpy(left_pad_lists([histories[user]["history"][-20:] for user in range(count)]))


@pytest.mark.parametrize(("kind", "user_encoder"), PAIRS)
def test_an_untrained_model_is_content_knn(
    kind, user_encoder, make_model, prepared_items, processor_of, histories, tmp_path
):
    fusion = {} if kind == "vilt" else {"fusion": "weighted_concat"}
    options = {**START, "fusion": "sum", **fusion, "temperature": 0.07}
    model = make_model(kind, user_encoder_type=user_encoder, **options)
    items, processor = prepared_items[kind], processor_of[kind]
    scorer = CatalogueScorer(model, encode_catalogue(model, items, processor, chunk_size=5))
    content = content_of(model, processor, items, tmp_path)
    knn = content.fit(power=0.75, history_decay=0.6)
    users = histories_of(histories)
    times = UserInputs(timestamps=users.clamp(min=0)) if model.config.reads_timestamps else None
    torch.testing.assert_close(scorer.scores(users, times) * 0.07, knn.scores(users), atol=1e-4, rtol=1e-3)
    assert model.config.hidden_size == sum(values.shape[1] for values in content.features.values())


@pytest.mark.parametrize("loss_type", ["in_batch", "mixed", "full_softmax", "bce"])
@pytest.mark.parametrize(("kind", "user_encoder"), PAIRS)
def test_all_of_it_learns(kind, user_encoder, loss_type, make_model, make_collator, histories):
    fusion = {"fusion": "sum"} if kind == "vilt" else {}
    options = {**START, **fusion, "loss_type": loss_type, "num_negatives": 3, "learn_temperature": True}
    model = perturb(make_model(kind, user_encoder_type=user_encoder, hidden_dropout_prob=0.0, **options))
    model(**make_batch(model, make_collator, kind, histories)).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_gradients_at_the_start_are_finite_where_items_lack_content(make_model, make_collator, histories):
    model = make_model("image", **START)  # the missing embedding is zero
    model(**make_batch(model, make_collator, "image", histories)).loss.backward()
    gradient = model.item_encoder.image.projection.missing.grad
    assert gradient.isfinite().all() and 0 < gradient.norm() < 100


def test_statistics_are_those_of_the_catalogue_at_hand(make_model, prepared_items, processor_of, tmp_path):
    model, processor = make_model("text", **START), processor_of["text"]
    whole, half = prepared_items["text"], prepared_items["text"].select(range(18))
    projection = model.item_encoder.text.projection.layers
    encode_catalogue(model, whole, processor)
    of_whole = projection.matrix.clone()
    features = content_of(model, processor, whole, tmp_path)
    expected = Whitening.fit(features.features["text"], 0.75, features.has_content["text"])
    torch.testing.assert_close(of_whole, expected.matrix, rtol=1e-3, atol=1e-3)
    with kept_statistics(model):
        on_half = encode_catalogue(model, half, processor)
        assert not torch.allclose(projection.matrix, of_whole)
    assert torch.equal(projection.matrix, of_whole)
    added = encode_catalogue(model, half, processor, fits_statistics=False)
    assert not torch.allclose(added, on_half)
    torch.testing.assert_close(added, encode_catalogue(model, whole, processor)[:18])


def test_an_evaluation_leaves_the_statistics_as_they_were(
    make_model, items, validation_split, prepared_items, processor_of, tmp_path
):
    model, processor = make_model("text", **START), processor_of["text"]
    fit_statistics(model, prepared_items["text"].select(range(18)), processor)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    evaluator = FullRankingEvaluator(items, validation_split)
    metrics = evaluator(model, processor)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    knn = content_of(model, processor, prepared_items["text"], tmp_path).fit(power=0.75, history_decay=0.6)
    assert metrics == pytest.approx(evaluator.rank(knn))


def test_a_smaller_width_keeps_the_leading_axes_of_the_first_catalogue(
    make_model, prepared_items, processor_of, tmp_path
):
    model = make_model("text", **START | {"hidden_size": 4})
    processor, items = processor_of["text"], prepared_items["text"]
    found = encode_catalogue(model, items, processor)
    content = content_of(model, processor, items, tmp_path)
    known = content.features["text"][content.has_content["text"]].double()
    centred = known - known.mean(dim=0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = (centred @ axes[:4].T) / singular[:4] ** 0.75
    found = found[content.has_content["text"]].double()
    similarities = F.normalize(expected, dim=1) @ F.normalize(expected, dim=1).T
    torch.testing.assert_close(found @ found.T, similarities, atol=1e-4, rtol=1e-4)
    basis = model.item_encoder.text.projection.layers.basis.clone()
    encode_catalogue(model, items.select(range(18)), processor)
    assert torch.equal(model.item_encoder.text.projection.layers.basis, basis)


def test_everything_is_saved(make_model, prepared_items, processor_of, tmp_path):
    model = perturb(make_model("text+image", learn_temperature=True, fusion_weights=[3.0, 1.0], **START))
    expected = encode_catalogue(model, prepared_items["text+image"], processor_of["text+image"])
    model.save_pretrained(tmp_path)
    loaded = TransRecForSequentialRecommendation.from_pretrained(tmp_path)
    found = encode_catalogue(loaded, prepared_items["text+image"], processor_of["text+image"], fits_statistics=False)
    torch.testing.assert_close(found, expected)
    for vectors in (expected, found):
        assert torch.equal(model.to_scoring_space(vectors), loaded.to_scoring_space(vectors))


def test_moments_of_parts_add_up():
    features = torch.randn(30, 4) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 3
    parts = Moments.of(features[:11]) + Moments.of(features[11:])
    torch.testing.assert_close(Whitening.of(parts, 0.5).matrix, Whitening.fit(features, 0.5).matrix)


def test_decayed_histories_equal_a_loop():
    embeddings, mask = torch.randn(3, 5, 4), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1]]).bool()
    expected = torch.zeros(3, 5, 4)
    for user in range(3):
        for position in range(5):
            for earlier in range(position + 1):
                if mask[user, earlier]:
                    expected[user, position] += 0.7 ** (position - earlier) * embeddings[user, earlier]
    torch.testing.assert_close(decayed_histories(embeddings, mask, 0.7), expected)


def test_masked_items_have_no_part_in_the_sum(make_model):
    model = make_model("text", objective="masked_item", user_encoder_type="bert4rec", **START)
    embeddings, mask = unit_length(torch.randn(1, 4, 20)), torch.ones(1, 4, dtype=torch.bool)
    is_masked = torch.tensor([[False, False, True, False]])
    hidden = model.model.get_user_hidden(embeddings, mask, is_masked=is_masked)
    torch.testing.assert_close(hidden[0, 2], unit_length(0.36 * embeddings[0, 0] + 0.6 * embeddings[0, 1]))


def test_a_vector_of_zeros_has_a_finite_gradient():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit_length(vectors).sum().backward()
    assert vectors.grad.isfinite().all()


def test_the_learned_temperature_divides_the_scores(make_model):
    fixed, learned = (
        make_model("text", **START, temperature=0.2, learn_temperature=learned) for learned in (False, True)
    )
    vectors = torch.randn(3, 20)
    torch.testing.assert_close(learned.to_scoring_space(vectors), fixed.to_scoring_space(vectors))
    scores = learned.to_scoring_space(vectors) @ learned.to_scoring_space(vectors).T
    torch.testing.assert_close(scores, F.cosine_similarity(vectors[:, None], vectors[None], dim=-1) / 0.2)


def test_mixed_loss_equals_a_loop():
    torch.manual_seed(0)
    items, states, targets = torch.randn(6, 4), torch.randn(3, 4), torch.tensor([1, 4, 2])
    users, own = torch.tensor([0, 1, 1]), torch.tensor([[-1, 0, 1], [2, 5, 4]])
    log_q = torch.rand(6).log()
    expected = 0.0
    for state, target, user in zip(states, targets.tolist(), users.tolist(), strict=True):
        allowed = [item for item in range(6) if item == target or item not in own[user]]
        scores = torch.stack([state @ items[item] - log_q[item] for item in allowed])
        expected -= scores.log_softmax(0)[allowed.index(target)]
    torch.testing.assert_close(mixed_loss(states, targets, users, Candidates(items, own, log_q=log_q)), expected)


def test_mixed_candidates_are_the_batch_and_sampled_items(make_collator, histories):
    users = [histories[user] for user in range(2)]
    small, large = (make_collator("id", loss_type=name, num_negatives=30)(users) for name in ("in_batch", "mixed"))
    assert set(small["item_ids"].tolist()) < set(large["item_ids"].tolist())
    assert "negative_index" not in large and len(large["item_ids"]) > 20


def test_the_probability_to_be_a_mixed_candidate_is_that_of_drawing():
    popularity = torch.tensor([0.5, 0.3, 0.15, 0.05])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.zeros(4)
    for _ in range(4000):
        by_popularity = torch.multinomial(popularity, 3, replacement=True, generator=generator)
        uniform = torch.randint(4, (2,), generator=generator)
        drawn[torch.cat([by_popularity, uniform]).unique()] += 1
    found = log_inclusion_probability(popularity.log(), 3, num_uniform=2, num_items=4).exp()
    torch.testing.assert_close(found, drawn / 4000, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user_hidden_size": 8}, "give history_decay"),
        ({"user_encoder_type": "dssm", "num_users": 3, "history_decay": 0.5}, "does not read the history"),
        ({"fusion_weights": [1.0]}, "fusion_weights are for fusion='weighted_concat'"),
        ({"user_hidden_size": 7, "history_decay": 0.5}, "user_hidden_size \\(7\\) must be a multiple"),
        ({"item_projection": "whitened", "fusion": "merged_attention"}, "choose fusion='weighted_concat'"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    backbones = {"text_config": {"model_type": "bert"}, "vision_config": {"model_type": "vit"}}
    with pytest.raises(ValueError, match=message):
        TransRecConfig(**backbones, **fields)


def test_more_axes_than_features_are_refused(make_model):
    with pytest.raises(ValueError, match="at most the 20 axes"):
        make_model("text", **START | {"hidden_size": 32})


def test_axes_below_what_floats_resolve_are_not_blown_up():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=generator, dtype=torch.float64) * torch.tensor([1e-2, 1e-2, 1e-6]) + 2.0
    exact = features.clone()
    exact[:, 2] = 2.0  # float32 resolves 2e-7 there
    torch.testing.assert_close(
        Whitening.fit(features.float())(features.float()), Whitening.fit(exact)(exact), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("kind", ["text", "image", "text+image", "clip"])
@pytest.mark.parametrize("hidden_size", [None, 6])
def test_items_of_several_platforms_are_whitened_by_their_own_statistics(
    kind, hidden_size, make_model, prepared_items, processor_of
):
    processor, model = processor_of[kind], make_model(kind, **{**START, "hidden_size": hidden_size})
    prepared, parts = prepared_items[kind], [np.arange(17), np.arange(17, 37)]
    fit_statistics(model, prepared, processor, 5, platforms=parts)
    batch = dict(processor.pad(prepared[np.arange(37)]))
    platform_index = torch.tensor([0] * 17 + [1] * 20)
    order = torch.randperm(37)  # of a batch
    found = model.get_item_features(**batch, platform_index=platform_index)
    for part in parts:  # the axes that are kept are those of all, and stay
        encoded = encode_catalogue(model, prepared.select(part), processor, 5)
        torch.testing.assert_close(found[part], encoded, atol=2e-3, rtol=0)
    shuffled = dict(processor.pad(prepared[order.numpy()]))
    again = model.get_item_features(**shuffled, platform_index=platform_index[order])
    torch.testing.assert_close(again, found[order], atol=2e-3, rtol=0)
    fit_statistics(model, prepared, processor, 5)
    alone = make_model(kind, **{**START, "hidden_size": hidden_size})
    fit_statistics(alone, prepared, processor, 5)
    assert model.state_dict().keys() == alone.state_dict().keys()
    torch.testing.assert_close(model.get_item_features(**batch), alone.get_item_features(**batch), atol=2e-3, rtol=0)


def test_platforms_without_statistics_are_refused(make_model, prepared_items, processor_of):
    batch = processor_of["text"].pad(prepared_items["text"][np.arange(5)])
    with pytest.raises(ValueError, match="fit_platforms"):
        make_model("text", **START).get_item_features(**batch, platform_index=torch.zeros(5, dtype=torch.long))
