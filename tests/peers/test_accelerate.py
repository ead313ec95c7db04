"""What accelerate's tests/test_big_modeling.py checks of its own small models, of ours, by the same names."""

import pytest
import torch
from accelerate import (
    cpu_offload,
    cpu_offload_with_hook,
    disk_offload,
    dispatch_model,
    infer_auto_device_map,
    init_empty_weights,
    init_on_device,
    load_checkpoint_and_dispatch,
)
from accelerate.hooks import remove_hook_from_submodules
from accelerate.utils import compute_module_sizes, find_tied_parameters

from modeling_transrec import TransRecForSequentialRecommendation, TransRecModel
from modeling_transrec.models.user_encoders import USER_ENCODERS

from .tester import ITEMS, TransRecModelTester


PAIRS = [*((items, "sasrec") for items in ITEMS), *(("text", name) for name in USER_ENCODERS if name != "sasrec")]
pytestmark = pytest.mark.parametrize("items, user_encoder", PAIRS)


@pytest.fixture
def tester(items, user_encoder) -> TransRecModelTester:
    return TransRecModelTester(None, items, user_encoder)


@pytest.fixture
def model(tester) -> TransRecForSequentialRecommendation:
    torch.manual_seed(0)
    return TransRecForSequentialRecommendation(tester.get_config()).eval()


@pytest.fixture(params=[False, True], ids=["scores", "loss"])
def inputs(request, tester):
    config = tester.get_config()
    inputs = tester.inputs(config)
    return {**inputs, **tester.labels(config, inputs)} if request.param else inputs


@pytest.fixture
def check(model, inputs):
    """Checks that a model, by default the same one, gives what the model gave before."""
    with torch.no_grad():
        expected = model(**inputs)

    def check(other=model):
        with torch.no_grad():
            found = other(**inputs)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)

    return check


def test_init_empty_weights(model, tester):
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for context in (init_empty_weights(), init_empty_weights(include_buffers=True), init_on_device("meta")):
        with context:
            empty = TransRecForSequentialRecommendation(tester.get_config())
        assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
        assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == shapes


def test_cpu_offload(model, check):
    cpu_offload(model, execution_device="cpu")
    check()


def test_disk_offload(model, check, tmp_path):
    disk_offload(model, tmp_path, execution_device="cpu")
    check()


@pytest.mark.parametrize("on_disk", ["model.item_encoder", "model.user_encoder"])
def test_dispatch_model(on_disk, model, check, tmp_path):
    places = {name: "cpu" for name in ("model.item_encoder", "model.user_encoder")} | {on_disk: "disk"}
    places |= {name: "cpu" for name, _ in model.model.named_parameters(prefix="model", recurse=False)}
    dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)
    check()


def test_cpu_offload_with_hook(model, check):
    offloaded, hook = cpu_offload_with_hook(model, execution_device="cpu")
    check(offloaded)
    hook.offload()


def test_hooks_come_off(model, check):
    cpu_offload(model, execution_device="cpu")
    remove_hook_from_submodules(model)
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())


@pytest.mark.parametrize("model_class", [TransRecModel, TransRecForSequentialRecommendation])
def test_infer_auto_device_map(model_class, tester):
    model = model_class(tester.get_config())
    size = compute_module_sizes(model)[""]
    room = {0: size // 2, 1: size * 3 // 5, "cpu": 10 * size}
    found = infer_auto_device_map(model, room, no_split_module_classes=model._no_split_modules)
    for name, _ in model.named_parameters():
        assert any(name == key or name.startswith(f"{key}.") or key == "" for key in found), name
    assert find_tied_parameters(model) == []


def test_load_checkpoint_and_dispatch(model, check, tester, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    with init_empty_weights():
        empty = TransRecForSequentialRecommendation(tester.get_config())
    check(load_checkpoint_and_dispatch(empty, tmp_path, device_map={"": "cpu"}).eval())


def test_from_pretrained_with_a_device_map(model, check, tmp_path):
    model.save_pretrained(tmp_path)
    room = {"cpu": compute_module_sizes(model)[""] * 3 // 5}
    for options in ({}, {"max_memory": room, "offload_folder": tmp_path / "offloaded"}):
        check(TransRecForSequentialRecommendation.from_pretrained(tmp_path, device_map="auto", **options))


def test_feature_methods(model, inputs):
    """What evaluation and the recommender call beside forward."""
    of_users = ("item_index", "user_ids", "timestamps", "labels")
    content = {name: tensor for name, tensor in inputs.items() if name not in of_users}
    content.pop("item_log_popularity", None)
    mask = inputs["item_index"] >= 0

    def features():
        with torch.no_grad():
            vectors = model.get_item_features(**content)
            histories = vectors[inputs["item_index"].clamp(min=0)] * mask[:, :, None]
            users = inputs.get("user_ids"), inputs.get("timestamps")
            return vectors, model.get_user_features(histories, mask, *users)

    expected = features()
    cpu_offload(model, execution_device="cpu")
    torch.testing.assert_close(features(), expected, atol=1e-6, rtol=0)
