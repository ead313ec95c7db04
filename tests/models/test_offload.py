"""Models whose weights lie elsewhere until they are needed: accelerate's offloading, and `device_map`."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from modeling_transrec import FullRankingEvaluator, Recommender, TransRecForSequentialRecommendation
from modeling_transrec.hub.facts import checkpoint_hash

from ..checks import perturb


CASES = {
    "bert4rec": ("text", {"user_encoder_type": "bert4rec"}),
    "co_attention": ("text+image", {"fusion": "co_attention"}),
    "vilt": ("vilt", {}),
    "temperature": ("id", {"learn_temperature": True, "normalize_scores": True, "temperature": 0.1}),
    "gru4rec": ("image", {"user_encoder_type": "gru4rec"}),
}


@pytest.mark.parametrize(
    "name, place",
    [
        ("bert4rec", "cpu"),
        ("bert4rec", "device_map"),
        ("co_attention", "disk"),
        ("vilt", "cpu"),
        ("temperature", "disk"),
        ("gru4rec", "device_map"),
    ],
)
def test_offloaded_models_compute_the_same(name, place, make_model, make_collator, histories, tmp_path):
    kind, fields = CASES[name]
    model = perturb(make_model(kind, **fields)).eval()
    batch = make_collator(kind, model)([histories[user] for user in range(3)])
    with torch.no_grad():
        expected = model(**batch)
    if place == "cpu":
        cpu_offload(model, execution_device="cpu")
    elif place == "disk":
        disk_offload(model, tmp_path, execution_device="cpu")
    else:
        model.save_pretrained(tmp_path)
        model = TransRecForSequentialRecommendation.from_pretrained(
            tmp_path,
            device_map={"model.item_encoder": "disk", "model.user_encoder": "cpu"},
            offload_folder=tmp_path / "offloaded",
        )
    with torch.no_grad():
        found = model(**batch)
    assert torch.allclose(found.loss, expected.loss, atol=1e-6)
    assert torch.allclose(found.user_hidden, expected.user_hidden, atol=1e-6)


@pytest.mark.parametrize("name", ["bert4rec", "temperature"])
def test_offloaded_models_are_evaluated_and_recommend(name, make_model, processor_of, items, validation_split):
    kind, fields = CASES[name]
    model, processor = perturb(make_model(kind, **fields)).eval(), processor_of[kind]
    evaluator = FullRankingEvaluator(items, validation_split)
    history = validation_split[0]["item_ids"]
    expected = evaluator(model, processor), Recommender(model, processor).index(items).recommend(history, k=5)
    fingerprint = checkpoint_hash(model, processor)
    cpu_offload(model, execution_device="cpu")
    assert checkpoint_hash(model, processor) == fingerprint
    assert evaluator(model, processor) == expected[0]
    found = Recommender(model, processor).index(items).recommend(history, k=5)
    assert [item["item_id"] for item in found] == [item["item_id"] for item in expected[1]]
