"""Items as codes: what a quantiser makes of features, on any catalogue, and negatives that do not exist."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecTrainingArguments,
)
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.evaluation.encoding import encode_catalogue
from modeling_transrec.evaluation.quantising import fit_quantisers, learn_codes
from modeling_transrec.models.candidates import Candidates
from modeling_transrec.models.codes import CodesProjection
from modeling_transrec.models.losses import in_batch_loss
from modeling_transrec.models.projections import Projection
from modeling_transrec.training.trainer import TransRecTrainer

from ..checks import perturb
from ..tiny import make_batch


SMALL = {"num_codebooks": 2, "codebook_size": 4}
CODES = {"item_projection": "codes", "num_codebooks": 4, "codebook_size": 8}


@pytest.fixture
def fitted(make_model, prepared_items, text_processor):
    pytest.importorskip("faiss")

    def make(**fields):
        model = perturb(make_model("text", **CODES, **fields))
        fit_quantisers(model, prepared_items["text"], text_processor, chunk_size=5)
        return model

    return make


def test_embeddings_are_the_means_of_the_nearest_codes(fitted, prepared_items, text_processor):
    model = fitted()
    layers = model.item_encoder.text.projection.layers
    inputs = text_processor.pad(prepared_items["text"][np.arange(9)])
    with torch.no_grad():
        features = model.item_encoder.text.features(**inputs)
        found = layers(features)
    rotated = features @ layers.rotation
    for row, embedding in zip(rotated, found, strict=True):
        codes = [
            min(
                range(8),
                key=lambda code, part=row[5 * book : 5 * book + 5], book=book: float(
                    (part - layers.centroids[book, code]).square().sum()
                ),
            )
            for book in range(4)
        ]
        expected = torch.stack([layers.embedding.weight[8 * book + code] for book, code in enumerate(codes)]).mean(0)
        torch.testing.assert_close(embedding, expected)


def test_the_quantiser_of_faiss_gives_the_same_codes_and_is_close_to_the_features():
    faiss = pytest.importorskip("faiss")
    features = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    features[:, 4:] *= 0.1
    rotation, centroids = learn_codes(features, num_codebooks=2, codebook_size=16)
    quantiser = faiss.ProductQuantizer(8, 2, 4)
    faiss.copy_array_to_vector(centroids.ravel(), quantiser.centroids)
    packed = quantiser.compute_codes(np.ascontiguousarray(features @ rotation))[:, 0]
    config = TransRecConfig(num_items=1, item_projection="codes", num_codebooks=2, codebook_size=16, hidden_size=4)
    layers = projection_of(config, 8)
    layers.take(torch.from_numpy(rotation), torch.from_numpy(centroids))
    codes = layers.codes(torch.from_numpy(features)).numpy()
    assert (codes[:, 0] == packed % 16).all() and (codes[:, 1] == packed // 16).all()
    restored = np.concatenate([centroids[book][codes[:, book]] for book in range(2)], axis=1) @ rotation.T
    assert ((restored - features) ** 2).sum() < 0.3 * (features**2).sum()
    with pytest.raises(ValueError, match="codebook_size=16 codes need as many items, and there are 9"):
        learn_codes(features[:9], 2, 16)


def projection_of(config, width):
    return Projection(width, config).layers


def test_a_checkpoint_keeps_its_codes_on_another_catalogue(fitted, items, text_processor, tmp_path):
    model = fitted().eval()
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    others = items.select(range(20, 37)).map(lambda one: {"text_en": "new " + one["text_en"]})
    prepared = prepare_items(others, text_processor)
    before = {name: buffer.clone() for name, buffer in again.named_buffers()}
    expected = encode_catalogue(model, prepared, text_processor, chunk_size=5)
    assert torch.equal(encode_catalogue(again, prepared, text_processor, chunk_size=5), expected)
    assert all(torch.equal(buffer, before[name]) for name, buffer in again.named_buffers())
    assert len(expected.unique(dim=0)) > 10


def test_the_trainer_fits_a_new_model_once_and_wants_a_frozen_backbone(
    make_model, items, train_split, validation_split, text_processor, tmp_path
):
    pytest.importorskip("faiss")

    def train(model, **options):
        args = TransRecTrainingArguments(
            str(tmp_path / "out"), use_cpu=True, report_to="none", disable_tqdm=True, **options
        )
        return TransRecTrainer(model, args, items, train_split, validation_split, processing_class=text_processor)

    with pytest.raises(ValueError, match="gives the backbone no gradient; give freeze_backbone=True"):
        train(make_model("text", **CODES))
    model = make_model("text", **CODES)
    with pytest.raises(ValueError, match="has no quantiser yet"):
        model.get_item_features(input_ids=torch.tensor([[2, 7, 3]]))
    train(model, freeze_backbone=True)
    layers = model.item_encoder.text.projection.layers
    centroids = layers.centroids.clone()
    assert centroids.abs().sum() > 0
    other = make_model("text", **CODES)
    other.load_state_dict(model.state_dict())
    other.item_encoder.text.projection.layers.centroids.mul_(2)
    train(other, freeze_backbone=True)
    assert torch.equal(other.item_encoder.text.projection.layers.centroids, 2 * centroids)


def test_synthetic_negatives_have_codes_of_the_item_and_others(fitted, prepared_items, text_processor):
    model = fitted(synthetic_negatives=0.5)
    encoder, layers = model.item_encoder, model.item_encoder.text.projection.layers
    inputs = text_processor.pad(prepared_items["text"][np.arange(37)])
    with torch.no_grad():
        layers.embedding.weight.copy_(
            F.one_hot(torch.arange(32), 32)[:, :16] + 100.0 * (torch.arange(32) >= 16)[:, None]
        )
        own = layers(encoder.text.features(**inputs))
        encoder.synthetic_probability = 0.0
        same = encoder.synthetic(**inputs)
        encoder.synthetic_probability = 1.0
        torch.manual_seed(0)
        other = encoder.synthetic(**inputs)
    has_text = inputs["has_text"]
    assert torch.equal(same[has_text], own[has_text]) and same[~has_text].abs().sum() == 0
    assert not torch.allclose(other, same)


def test_a_synthetic_item_is_one_more_negative_of_its_target():
    generator = torch.Generator().manual_seed(0)
    items, states, synthetic = torch.randn(3, 5, 4, generator=generator)
    states, targets, own = states[:3], torch.tensor([1, 4, 1]), torch.full((3, 2), -1)
    found = in_batch_loss(states, targets, torch.arange(3), Candidates(items, own, synthetic=synthetic))
    expected = 0.0
    for state, target in zip(states, targets, strict=True):
        scores = torch.cat([items @ state, (synthetic[target] @ state)[None]])
        expected += scores.logsumexp(0) - scores[target]
    torch.testing.assert_close(found, expected)


def test_synthetic_negatives_are_for_training_only(fitted, make_collator, histories):
    model = fitted(synthetic_negatives=0.75, hidden_dropout_prob=0.0, logq_correction=False)
    batch = make_batch(model, make_collator, "text", histories)
    plain = model.eval()(**batch).loss
    harder = model.train()(**batch).loss
    assert harder > plain and torch.equal(model.eval()(**batch).loss, plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codebook_size": 24}, "codebook_size must be a power of 2, got 24"),
        ({"synthetic_negatives": 0.5}, "give item_projection='codes'"),
        ({"synthetic_negatives": 0.5, "item_projection": "codes", "loss_type": "bce"}, "is for loss_type='in_batch'"),
    ],
)
def test_what_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TransRecConfig(num_items=3, **fields)


def test_codebooks_must_divide_the_features(make_model):
    with pytest.raises(ValueError, match="num_codebooks=3 must divide the 20 numbers"):
        make_model("text", **{**CODES, "num_codebooks": 3})


def test_a_permutation_finds_the_rows_that_new_codes_mean():
    """VQ-Rec's move: the same items by a quantiser that numbers its codes otherwise are to be what they were."""
    torch.manual_seed(0)
    layers = CodesProjection(8, 6, TransRecConfig(num_items=1, item_projection="codes", **SMALL))
    features, centroids = torch.randn(300, 8), torch.randn(2, 4, 4)
    layers.take(torch.eye(8), centroids)
    expected = layers(features).detach()
    layers.permute()
    with pytest.raises(ValueError, match="no quantiser yet"):
        layers(features)
    order = torch.tensor([[2, 0, 3, 1], [1, 3, 0, 2]])
    layers.take(torch.eye(8), torch.stack([book[one] for book, one in zip(centroids, order, strict=True)]))
    before = layers.embedding.weight.clone()
    optimizer = torch.optim.Adam([one for one in layers.parameters() if one.requires_grad], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (layers.train()(features) - expected).square().mean().backward()
        optimizer.step()
    assert torch.equal(layers.embedding.weight, before)
    torch.testing.assert_close(layers.eval()(features), expected)
    layers.merge_permutation()
    torch.testing.assert_close(layers(features), expected)
    assert [name for name, one in layers.named_parameters() if one.requires_grad] == ["embedding.weight"]


def test_a_checkpoint_of_codes_moves_by_permuting(fitted, prepared_items, text_processor, tmp_path):
    model = fitted()
    model.permute_codes()
    fit_quantisers(model, prepared_items["text"], text_processor, chunk_size=5)
    inputs = text_processor.pad(prepared_items["text"][np.arange(9)])
    expected = model.eval().get_item_features(**inputs)
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert torch.equal(again.get_item_features(**inputs), expected)
    table = again.item_encoder.text.projection.layers.embedding.weight
    assert again.config.permute_codes and not table.requires_grad
    with pytest.raises(ValueError, match="permuted already"):
        again.permute_codes()
    again.merge_code_permutation()
    torch.testing.assert_close(again.get_item_features(**inputs), expected)
    assert table.requires_grad and not again.config.permute_codes
    with pytest.raises(ValueError, match="no codes are permuted"):
        again.merge_code_permutation()
    with pytest.raises(ValueError, match="permute_codes is for item_projection='codes'"):
        TransRecConfig(num_items=3, permute_codes=True)
