"""Both towers as graphs of `torch.export`, for inputs of any size; and quantised."""

import pytest
import torch
from torch import nn

from modeling_transrec import Recommender
from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..checks import perturb


ANY = torch.export.Dim.AUTO
ANY_LENGTH = [name for name in USER_ENCODERS if name not in ("gru4rec", "dssm")]  # DSSM reads no history
ANY_LENGTH = [*ANY_LENGTH, pytest.param("gru4rec", marks=pytest.mark.slow)]


class ItemTower(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model.get_item_features(**inputs)


class UserTower(ItemTower):
    def forward(self, item_embeddings, mask, timestamps):
        known = {"timestamps": timestamps} if self.model.config.reads_timestamps else {}
        return self.model.get_user_features(item_embeddings, mask, **known)


@pytest.mark.parametrize("kind", ["text", "image", "text+image", "id", "text+id"])
def test_the_item_tower_is_exported_for_any_size(kind, make_model, processor_of):
    model, processor = perturb(make_model(kind)), processor_of[kind]

    def inputs(texts):
        from ..tiny import tiny_image

        images = [None if text is None else tiny_image(place) for place, text in enumerate(texts)]
        given = {"text": texts, "images": images, "item_ids": [f"i{place:03d}" for place in range(len(texts))]}
        names = [modality.argument for modality in processor.read]
        return dict(processor(**{name: given[name] for name in names}))

    example = inputs(["red rope", "blue lamp tent", None])
    sizes = {name: {0: ANY, 1: ANY} if tensor.ndim == 2 else {0: ANY} for name, tensor in example.items()}
    graph = torch.export.export(ItemTower(model), (example,), dynamic_shapes=(sizes,)).module()
    for texts in (["red", None, "old small lamp soap tent", "blue"], ["green rope", "red", None, "new", "soap shoe"]):
        other = inputs(texts)
        torch.testing.assert_close(graph(other), model.get_item_features(**other), atol=1e-5, rtol=0)


@pytest.mark.parametrize("user_encoder_type", ANY_LENGTH)
def test_the_user_tower_is_exported_for_any_size(user_encoder_type, make_model):
    model = perturb(make_model("id", user_encoder_type=user_encoder_type))

    def histories(users, length):
        torch.manual_seed(length)
        mask = torch.arange(length)[None] >= torch.randint(length, (users, 1))
        return torch.randn(users, length, 16) * mask[:, :, None], mask, mask.cumsum(1) * 1000

    sizes = ({0: ANY, 1: ANY}, {0: ANY, 1: ANY}, {0: ANY, 1: ANY})
    graph = torch.export.export(UserTower(model), histories(3, 5), dynamic_shapes=sizes).module()
    for users, length in ((4, 7), (2, 20), (9, 3)):
        inputs = histories(users, length)
        torch.testing.assert_close(graph(*inputs), UserTower(model)(*inputs), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("projection", ["gelu", "whitened"])
def test_a_quantised_model_recommends(projection, make_model, text_processor, items):
    width = {"hidden_size": None} if projection == "whitened" else {}
    model = make_model("text", item_projection=projection, **width)
    expected = {one["item_id"]: one["score"] for one in Recommender(model, text_processor).index(items).recommend(
        ["i001", "i002"], k=35)}  # fmt: skip
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    found = Recommender(quantised, text_processor).index(items).recommend(["i001", "i002"], k=35)
    scores = torch.tensor([[one["score"], expected[one["item_id"]]] for one in found]).T
    assert torch.corrcoef(scores)[0, 1] > 0.9


def replace_linear(backbone, make):
    for name, module in list(backbone.named_modules()):
        if type(module) is nn.Linear:
            quantised = make(module)
            quantised.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, quantised.to("cpu"))


def quantise(kind, backbone):
    if kind == "torchao":
        torchao = pytest.importorskip("torchao.quantization", reason="needs torchao")
        return torchao.quantize_(backbone, torchao.Int8WeightOnlyConfig())
    nn_of = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes").nn
    if kind == "int8":
        return replace_linear(
            backbone, lambda one: nn_of.Linear8bitLt(one.in_features, one.out_features, has_fp16_weights=False)
        )
    options = {"quant_type": "nf4", "compute_dtype": torch.float32}
    return replace_linear(backbone, lambda one: nn_of.Linear4bit(one.in_features, one.out_features, **options))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["int8", "nf4", "torchao"])
def test_adapters_are_trained_in_a_quantised_backbone(kind, make_model, make_collator, histories, processor_of, items):
    size = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    config = make_model("text").config.text_config.to_dict() | size
    model = make_model("text", text_config=config)
    batch = make_collator("text", model)([histories[user] for user in range(3)])
    content = {name: batch[name] for name in ("input_ids", "attention_mask", "has_text")}
    expected = model.get_item_features(**content)
    quantise(kind, model.item_encoder.backbones[0])
    found = model.get_item_features(**content)
    assert torch.cosine_similarity(found, expected)[batch["has_text"]].min() > 0.95
    assert len(Recommender(model, processor_of["text"]).index(items).recommend(["i001"], k=5)) == 5
    model.add_peft_adapter(pytest.importorskip("peft").LoraConfig(r=2, target_modules=["query", "value"]))
    model.train()(**batch).loss.backward()
    adapters = {name: one.grad for name, one in model.named_parameters() if "lora_B" in name}
    assert len(adapters) == 2 and all(gradient.abs().sum() > 0 for gradient in adapters.values())
