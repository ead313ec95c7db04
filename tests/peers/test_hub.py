"""What huggingface_hub's tests/test_hub_mixin.py checks of classes with its mixin, of ours, against our tests' Hub."""

import os

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, create_branch

from modeling_transrec import (
    Recommender,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecProcessor,
)


NAME = "me/shop"


@pytest.fixture(params=["model", "scorer", "processor", "recommender"])
def one(request, make_model, text_processor, items):
    """An object, and how to tell two of its kind apart."""
    scorer = make_model("text")
    if request.param == "processor":
        return text_processor, TransRecProcessor, lambda found: found(text=["red rope"])["input_ids"].tolist()
    if request.param == "recommender":
        recommender = Recommender(scorer, text_processor).index(items)
        return recommender, Recommender, lambda found: [row["item_id"] for row in found.recommend(["i001"], k=5)]
    if request.param == "model":
        return scorer.model, TransRecModel, _weights
    return scorer, TransRecForSequentialRecommendation, _weights


def _weights(model):
    return {name: tensor.sum().item() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: path])
def test_from_pretrained_from_a_path(kind, one, tmp_path, monkeypatch):
    made, loader, value = one
    made.save_pretrained(kind(tmp_path / "saved"))
    assert value(loader.from_pretrained(kind(tmp_path / "saved"))) == value(made)
    monkeypatch.chdir(tmp_path)
    assert value(loader.from_pretrained("saved")) == value(made)


def test_push_to_hub_and_from_pretrained(one, hub, tmp_path):
    made, loader, value = one
    made.push_to_hub(NAME)
    assert value(loader.from_pretrained(NAME, cache_dir=tmp_path)) == value(made)


def test_push_to_hub_twice_changes_nothing(one, hub):
    made, _, _ = one
    made.push_to_hub(NAME)
    files = dict(hub.files(NAME))
    made.push_to_hub(NAME)
    assert hub.files(NAME) == files


def test_private(one, hub):
    made, _, _ = one
    made.push_to_hub(NAME, private=True)
    assert hub.repositories["models", NAME].private


def test_commit_message_and_a_pull_request(one, hub, tmp_path):
    made, loader, value = one
    HfApi().create_repo(NAME)
    before = dict(hub.files(NAME))
    made.push_to_hub(NAME, commit_message="what I made", create_pr=True)
    assert hub.files(NAME) == before
    assert value(loader.from_pretrained(NAME, revision="refs/pr/1", cache_dir=tmp_path)) == value(made)


def test_a_revision(one, hub, tmp_path):
    made, loader, value = one
    HfApi().create_repo(NAME)
    create_branch(NAME, branch="next")
    made.push_to_hub(NAME, revision="next")
    assert "config.json" not in hub.files(NAME)
    assert value(loader.from_pretrained(NAME, revision="next", cache_dir=tmp_path)) == value(made)
    with pytest.raises((OSError, ValueError), match="none"):
        loader.from_pretrained(NAME, revision="none", cache_dir=tmp_path)


def test_a_subfolder(one, hub, tmp_path):
    made, loader, value = one
    made.save_pretrained(tmp_path / "saved")
    HfApi().create_repo(NAME)
    HfApi().upload_folder(repo_id=NAME, folder_path=tmp_path / "saved", path_in_repo="best")
    assert value(loader.from_pretrained(NAME, subfolder="best", cache_dir=tmp_path / "cache")) == value(made)


def test_offline_from_the_cache(one, hub, tmp_path):
    made, loader, value = one
    made.push_to_hub(NAME)
    loader.from_pretrained(NAME, cache_dir=tmp_path)
    count = len(hub.requests)
    assert value(loader.from_pretrained(NAME, cache_dir=tmp_path, local_files_only=True)) == value(made)
    assert len(hub.requests) == count


def test_weights_are_safetensors(one, hub):
    made, _, _ = one
    made.push_to_hub(NAME)
    assert not [name for name in hub.files(NAME) if name.endswith((".bin", ".pt", ".pkl"))]


def test_a_missing_repository(one, hub, tmp_path):
    with pytest.raises((OSError, ValueError), match="me/nothing"):
        one[1].from_pretrained("me/nothing", cache_dir=tmp_path)


def test_dtype(hub, make_model, tmp_path):
    make_model("text").push_to_hub(NAME)
    found = TransRecModel.from_pretrained(NAME, dtype=torch.bfloat16, cache_dir=tmp_path)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}


def test_the_card_stays(hub, make_model):
    make_model("text").push_to_hub(NAME)
    card = ModelCard.load(NAME)
    card.text += "\nMy own words.\n"
    card.push_to_hub(NAME)
    make_model("text").push_to_hub(NAME)
    assert "My own words." in ModelCard.load(NAME).text
