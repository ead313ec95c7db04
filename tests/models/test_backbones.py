"""Any backbone: text and vision, transformers' and timm's; frozen, partly frozen, precomputed."""

import itertools
import unittest.mock

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import (
    AutoConfig,
    AutoModel,
)

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
)
from modeling_transrec.data.preparation import prepare_items
from modeling_transrec.models.backbones import image_widths, layers_of
from modeling_transrec.models.fusions import FUSIONS
from modeling_transrec.models.processing_transrec import check_processor
from modeling_transrec.training.model_arguments import ModelArguments
from modeling_transrec.training.model_building import load_model_and_processor
from modeling_transrec.training.precomputed import precompute

from ..checks import perturb, trained
from ..tiny import (
    IMAGE_SIZE,
    SIZE,
    VISION_CONFIGS,
    make_inputs,
    tiny_clip_config,
    tiny_config,
    tiny_dual_config,
    tiny_image,
    tiny_text_config,
)


STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
FOUR_STAGES = {**STAGES, "num_attention_heads": [1, 1, 2, 2], "mlp_ratios": [1, 1, 1, 1]}
PATCHES = {**SIZE, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
WINDOWS = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
TRANSFORMERS_VISION = {  # configuration, pooling by default and width of what it gives
    "vit": (PATCHES, "cls", 12),
    "deit": (PATCHES, "cls", 12),
    "vit_mae": (PATCHES, "cls", 12),
    "ijepa": (PATCHES, "mean", 12),
    "dinov2": (PATCHES, "pooler", 12),
    "beit": (PATCHES, "pooler", 12),
    "data2vec-vision": (PATCHES, "mean", 12),
    "clip_vision_model": (PATCHES, "pooler", 12),
    "siglip_vision_model": (PATCHES, "pooler", 12),
    "swin": (WINDOWS, "pooler", 16),
    "swinv2": (WINDOWS, "pooler", 16),
    "resnet": ({**STAGES, "embedding_size": 8}, "pooler", 16),
    "regnet": ({**STAGES, "embedding_size": 8, "groups_width": 4}, "pooler", 16),
    "convnext": (STAGES, "pooler", 16),
    "convnextv2": (STAGES, "pooler", 16),
    "efficientnet": ({"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128}, "pooler", 128),
    "mobilenet_v1": ({"depth_multiplier": 0.1}, "pooler", 102),
    "mobilenet_v2": ({"depth_multiplier": 0.1}, "pooler", 1280),
    "mobilevit": (
        {"hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 20], "num_attention_heads": 2},
        "pooler",
        20,
    ),
    "cvt": ({"embed_dim": [4, 8, 12], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}, "mean", 12),
    "pvt_v2": ({**FOUR_STAGES, "sr_ratios": [1, 1, 1, 1]}, "mean", 16),
    "segformer": (FOUR_STAGES, "mean", 16),
    "poolformer": (STAGES, "mean", 16),
}
TIMM_VISION = {  # the same, of model_args; the width is that of the pooled vector
    "resnet18": ({"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}, "pooler", 8),
    "mobilenetv3_small_050": ({}, "pooler", 1024),
    "ghostnet_050": ({}, "pooler", 1280),
    "vit_tiny_patch16_224": ({"img_size": 32, "embed_dim": 12, "depth": 1, "num_heads": 2}, "pooler", 12),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]},
        "pooler",
        16,
    ),
    "crossvit_tiny_240": ({"embed_dim": [8, 16], "depth": [[1, 1, 0]], "num_heads": [2, 2]}, "pooler", 24),
}
ANY_VISION = {
    **{name: ({"model_type": name, **fields}, *expected) for name, (fields, *expected) in TRANSFORMERS_VISION.items()},
    **{
        name: ({"model_type": "timm_wrapper", "architecture": name, "model_args": args}, *expected)
        for name, (args, *expected) in TIMM_VISION.items()
    },
}
TEXT_TYPES = ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "opt", "llama", "qwen2"]


def vision_model(model_type, **fields):
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "hidden_dropout_prob": 0.0, **fields}
    config = TransRecConfig(vision_config=VISION_CONFIGS[model_type], **fields)
    return perturb(TransRecForSequentialRecommendation(config)).eval()


def image_inputs(size=32):
    inputs = make_inputs("id")
    del inputs["item_ids"]
    generator = torch.Generator().manual_seed(1)
    image_index = torch.tensor([0, 1, -1, 2, 3, 4, -1, 5, 6, 7, 8])
    return {**inputs, "pixel_values": torch.randn(9, 3, size, size, generator=generator), "image_index": image_index}


@pytest.mark.parametrize("model_type", VISION_CONFIGS)
def test_any_vision_backbone(model_type, tmp_path):
    model = vision_model(model_type)
    inputs = image_inputs(32 if model_type == "timm_wrapper" else IMAGE_SIZE)
    loss = model(**inputs).loss
    loss.backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, unused
    model.save_pretrained(tmp_path)
    again, info = TransRecForSequentialRecommendation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(again.eval()(**inputs).loss, loss)
    assert trained(again) == trained(model)

    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.BatchNorm2d) or "DropPath" in type(module).__name__:
            module.eval()
    model(**inputs).loss.backward()
    for name, gradient in gradients.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-5), name


@pytest.mark.parametrize("model_type", VISION_CONFIGS)
def test_an_item_without_a_picture_has_the_learned_vector_and_costs_nothing(model_type):
    model = vision_model(model_type)
    inputs = image_inputs(32 if model_type == "timm_wrapper" else IMAGE_SIZE)
    seen = []
    model.item_encoder.image.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    items = {name: inputs[name] for name in ("pixel_values", "image_index")}
    vectors = model.get_item_features(**items)
    assert seen == [9]
    for row in (2, 6):
        assert torch.equal(vectors[row], model.item_encoder.image.projection.missing)
    alone = model.get_item_features(pixel_values=items["pixel_values"][3:4])
    assert torch.allclose(alone[0], vectors[4], atol=1e-5)
    none = model.get_item_features(pixel_values=items["pixel_values"][:0], image_index=torch.tensor([-1, -1]))
    assert torch.equal(none, vectors[[2, 6]]) and seen == [9, 1]


@pytest.mark.parametrize("name", ANY_VISION)
def test_any_vision_model_of_transformers_and_timm(name, tmp_path):
    vision_config, pooling, width = ANY_VISION[name]
    torch.manual_seed(0)
    config = TransRecConfig(vision_config=vision_config, hidden_size=8)
    model = perturb(TransRecForSequentialRecommendation(config)).eval()
    encoder = model.item_encoder.image
    assert (encoder.pooling, encoder.width) == (pooling, width)
    size = 240 if name.startswith("crossvit") else vision_config.get("image_size", 32)
    pixels = torch.randn(2, 3, size, size)
    vectors = model.get_item_features(pixel_values=pixels)
    assert vectors.shape == (2, 8)
    assert torch.equal(model.get_item_features(pixel_values=pixels), vectors)
    vectors.sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in encoder.projection.layers.parameters())
    unused = [key for key, p in encoder.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, unused
    model.save_pretrained(tmp_path)
    again, info = TransRecForSequentialRecommendation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(loaded[key], saved[key]) for key in saved)
    assert torch.allclose(again.eval().get_item_features(pixel_values=pixels), vectors, atol=1e-6)


SWINV2 = {"model_type": "swinv2", "image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [1, 1]}
XCIT = {"model_type": "timm_wrapper", "architecture": "xcit_nano_12_p16_224", "model_args": {"depth": 1}}


@pytest.mark.parametrize(("config", "size"), [({**SWINV2, "num_heads": [2, 2], "window_size": 4}, 32), (XCIT, 224)])
def test_only_what_no_gradient_reaches_is_left_out_of_training(config, size):
    """Attention may have a temperature or a scale of its own."""
    torch.manual_seed(0)
    encoder = TransRecModel(TransRecConfig(vision_config=config, hidden_size=16)).item_encoder
    left_out = [one for one in encoder.parameters() if not one.requires_grad]
    encoder.requires_grad_(True)
    encoder(pixel_values=torch.rand(2, 3, size, size)).square().sum().backward()
    assert all(one.grad is None or not one.grad.any() for one in left_out)


@pytest.mark.parametrize("kind", ["image", "text+image", "clip", "vilt"])
def test_weights_of_half_precision(kind, make_model, make_collator, processor_of, histories, tmp_path):
    model, processor = perturb(make_model(kind)).to(torch.bfloat16), processor_of[kind]
    blank = {"text": ["red"], "images": [None]} if kind != "image" else {"images": [None]}
    inputs = {name: one.bfloat16() if one.is_floating_point() else one for name, one in processor(**blank).items()}
    assert model.get_item_features(**inputs).isfinite().all()
    model.freeze_backbone()
    collator = make_collator(kind, model)
    collator.items = precompute(model, collator.items, processor, cache_dir=tmp_path)
    batch = collator([histories[0], histories[3]])
    model(**batch).loss.backward()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_given_backbone_keeps_its_own_configuration(implementation, tokenizer):
    """Beside one that says the same, but is another object."""
    config = AutoConfig.for_model(**tiny_text_config(len(tokenizer)))
    backbone = AutoModel.from_config(config, attn_implementation=implementation, add_pooling_layer=False).eval()
    plain = TransRecConfig(text_config=tiny_text_config(len(tokenizer)), hidden_size=16)
    inputs = tokenizer(["red rope", "a small blue lamp"], padding=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    expected = backbone(**inputs).last_hidden_state
    encoder = TransRecModel(plain, {"text": backbone}).eval().item_encoder.text
    found, mask = encoder.token_vectors(**inputs), inputs["attention_mask"].bool()
    assert torch.allclose(found[mask], expected[mask], atol=1e-6)


def test_a_decoder_of_a_kind_of_encoders_stays_causal(tokenizer):
    text_config = {**tiny_text_config(len(tokenizer)), "is_decoder": True}
    encoder = perturb(TransRecModel(TransRecConfig(text_config=text_config, hidden_size=16))).eval().item_encoder.text
    ids = torch.randint(5, len(tokenizer), (1, 6), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 4:] = 7
    before, after = (encoder.token_vectors(one, torch.ones_like(one))[0, :4] for one in (ids, changed))
    assert torch.allclose(before, after, atol=1e-6)


def test_vit_mae_sees_the_whole_picture_in_order():
    config = TransRecConfig(vision_config=ANY_VISION["vit_mae"][0], hidden_size=8, image_pooling="mean")
    encoder = perturb(TransRecForSequentialRecommendation(config)).eval().item_encoder.image
    pixels = torch.randn(2, 3, 32, 32)
    found = encoder.features(pixel_values=pixels)
    del encoder.backbone.embeddings.random_masking  # transformers' own, with nothing hidden and nothing shuffled
    encoder.backbone.embeddings.config.mask_ratio = 0.0
    noise = torch.arange(16.0).expand(2, -1)
    assert torch.equal(encoder.backbone(pixel_values=pixels, noise=noise).last_hidden_state.mean(1), found)


def test_widths_are_found_without_touching_the_backbone():
    backbone = AutoModel.from_config(TransRecConfig(vision_config=VISION_CONFIGS["resnet"]).vision_config)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    random_state = torch.get_rng_state()
    assert image_widths(backbone) == (12, 12)
    assert backbone.training and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_a_fusion_of_tokens_reads_their_width_not_the_poolers(tokenizer):
    vision_config = ANY_VISION["mobilenetv3_small_050"][0]
    config = {"text_config": tiny_text_config(len(tokenizer)), "hidden_size": 16, "fusion": "co_attention"}
    model = TransRecModel(TransRecConfig(vision_config=vision_config, **config)).eval()
    assert model.item_encoder.image.width == 288
    inputs = make_inputs("text")
    items = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    pixels = torch.randn(len(items["input_ids"]), 3, 64, 64)
    assert model.get_item_features(**items, pixel_values=pixels).shape == (len(pixels), 16)
    crossvit = ANY_VISION["crossvit_tiny_240"][0]
    with pytest.raises(ValueError, match="timm_wrapper gives no last_hidden_state of one tensor"):
        TransRecModel(TransRecConfig(vision_config=crossvit, **config))


def test_what_is_no_vision_backbone_is_refused_at_once():
    with pytest.raises(ValueError, match="siglip2_vision_model is no image backbone: .*spatial_shapes.*; choose a"):
        TransRecModel(TransRecConfig(vision_config={**SIZE, "model_type": "siglip2_vision_model"}))


@pytest.mark.parametrize("image_pooling", ["cls", "mean"])
def test_image_pooling_is_that_of_the_backbones_own_output(image_pooling):
    model = vision_model("vit", image_pooling=image_pooling)
    pixels = image_inputs(IMAGE_SIZE)["pixel_values"]
    hidden = model.item_encoder.image.backbone(pixel_values=pixels).last_hidden_state
    expected = hidden[:, 0] if image_pooling == "cls" else hidden.mean(1)
    assert torch.equal(model.item_encoder.image.features(pixel_values=pixels), expected)


def test_a_pooling_that_the_backbone_has_not_is_an_error():
    with pytest.raises(ValueError, match="no pooler_output; choose image_pooling"):
        vision_model("vit", image_pooling="pooler")


@pytest.mark.parametrize("model_type", TEXT_TYPES)
def test_any_text_backbone(model_type, tokenizer, tmp_path):
    text_config = tiny_text_config(len(tokenizer), model_type)
    if model_type in ("llama", "qwen2"):
        text_config["num_key_value_heads"] = 1
    config = TransRecConfig(text_config={**text_config, "pad_token_id": 0}, hidden_size=16)
    model = perturb(TransRecForSequentialRecommendation(config)).eval()
    inputs = make_inputs("text")
    loss = model(**inputs).loss
    loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused, unused
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).loss, loss)
    short = {"input_ids": inputs["input_ids"][:1, :4], "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    padded = {name: torch.nn.functional.pad(tensor, (0, 5)) for name, tensor in short.items()}
    assert torch.allclose(model.get_item_features(**padded), model.get_item_features(**short), atol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "opt", "llama"])
def test_first_and_last_layer_are_averaged(model_type, tokenizer):
    text_config = {**tiny_text_config(len(tokenizer), model_type), "pad_token_id": 0}
    text_config |= {"num_key_value_heads": 1} if model_type == "llama" else {}
    text_config["n_layers" if model_type == "distilbert" else "num_hidden_layers"] = 3
    model = perturb(TransRecModel(TransRecConfig(text_config=text_config, text_pooling="first_last"))).eval()
    inputs = {name: make_inputs("text")[name] for name in ("input_ids", "attention_mask")}
    outputs = []
    layers = layers_of(model.item_encoder.text.backbone)
    hook = layers[0].register_forward_hook(lambda module, args, out: outputs.append(out))
    last = model.item_encoder.text.backbone(**inputs).last_hidden_state
    hook.remove()
    first = outputs[0] if isinstance(outputs[0], torch.Tensor) else outputs[0][0]
    features = model.item_encoder.features(**inputs)["text_features"]
    for text, mask in enumerate(inputs["attention_mask"].bool()):
        expected = (first[text][mask].mean(0) + last[text][mask].mean(0)) / 2
        torch.testing.assert_close(features[text], expected, rtol=1e-4, atol=1e-5)
    assert (first - last).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "first_last"])
def test_pooling_is_right_with_padding_on_either_side(pooling):
    from modeling_transrec.models.pooling import TEXT_POOLINGS

    hidden = torch.randn(1, 3, 5)
    alone = TEXT_POOLINGS[pooling](hidden, torch.ones(1, 3, dtype=torch.long))
    junk = torch.full((1, 2, 5), 9.0)
    left = TEXT_POOLINGS[pooling](torch.cat([junk, hidden], 1), torch.tensor([[0, 0, 1, 1, 1]]))
    right = TEXT_POOLINGS[pooling](torch.cat([hidden, junk], 1), torch.tensor([[1, 1, 1, 0, 0]]))
    assert torch.allclose(left, alone) and torch.allclose(right, alone)


@pytest.mark.parametrize("fusion", [name for name, one in FUSIONS.items() if not one.reads_ids])
def test_fusions(fusion, make_model, make_collator, processor_of, histories, items):
    model = perturb(make_model("text+image", fusion=fusion)).eval()
    model(**make_collator("text+image", model)([histories[0], histories[3]])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    processor = processor_of["text+image"]
    call = {"text": items["text_en"][:6], "images": items["image"][:6]}  # the second has no picture
    together = model.get_item_features(**processor(**call))
    for row in range(6):
        alone = processor(text=[call["text"][row]], images=[call["images"][row]])
        assert torch.allclose(model.get_item_features(**alone)[0], together[row], atol=1e-5)
    other = processor(text=["red rope"] * 2, images=[tiny_image(3), None])
    vectors = model.get_item_features(**other)
    assert not torch.allclose(vectors[0], vectors[1])  # the picture matters
    blank = processor(text=["red rope", "blue lamp"], images=[None, None])
    vectors = model.get_item_features(**blank)
    assert not torch.allclose(vectors[0], vectors[1])  # without pictures the text tells items apart
    blank = processor(text=[None, ""], images=[tiny_image(3), tiny_image(4)])
    vectors = model.get_item_features(**blank)
    assert not torch.allclose(vectors[0], vectors[1])  # without texts the picture does


def test_vector_fusions_are_what_their_names_say(make_model):
    text, image = torch.randn(4, 16), torch.randn(4, 16)
    encoder = {name: make_model("text+image", fusion=name).item_encoder.fusion for name in ("sum", "gated", "film")}
    assert torch.equal(encoder["sum"]([text, image]), text + image)
    gate = torch.sigmoid(encoder["gated"].gate(torch.cat([text, image], 1)))
    assert torch.allclose(encoder["gated"]([text, image]), gate * text + (1 - gate) * image, atol=1e-6)
    scale, shift = encoder["film"].scale_and_shift(text).split(16, dim=1)
    assert torch.allclose(encoder["film"]([text, image]), image + scale * image + shift)


def test_a_dual_encoder_has_no_tokens_to_attend_to(tokenizer):
    with pytest.raises(ValueError, match="choose sum, concat, gated or film"):
        TransRecModel(TransRecConfig(multimodal_config=tiny_clip_config(len(tokenizer)), fusion="co_attention"))
    with pytest.raises(ValueError, match="no dual encoder that can be read here"):
        TransRecModel(TransRecConfig(multimodal_config=tiny_text_config(len(tokenizer))))


TEXT_INPUTS = ("input_ids", "attention_mask", "has_text")
DUAL_ENCODERS = (
    "aimv2 altclip blip chinese_clip clip clipseg groupvit metaclip_2 owlv2 owlvit siglip tipsv2 "
    "vision-text-dual-encoder"
).split()


@pytest.mark.parametrize("model_type", DUAL_ENCODERS)
def test_any_dual_encoder(model_type, tokenizer, processor_of, tmp_path):
    torch.manual_seed(0)
    config = TransRecConfig(multimodal_config=tiny_dual_config(model_type, tokenizer), hidden_size=16)
    model = perturb(TransRecForSequentialRecommendation(config)).eval()
    texts, pictures = ["red", "a small blue lamp", None, "soap"], [tiny_image(1), None, tiny_image(2), tiny_image(3)]
    processor = processor_of["clip"]
    together = model.get_item_features(**processor(text=texts, images=pictures))
    alone = [
        model.get_item_features(**processor(text=[text], images=[picture]))[0]
        for text, picture in zip(texts, pictures, strict=True)
    ]
    assert torch.allclose(torch.stack(alone), together, atol=1e-5)
    named = model.get_item_features(**processor(text=["red", "blue"], images=[None, None]))
    assert not torch.allclose(*named)
    together.square().sum().backward()
    encoder = model.item_encoder.named_parameters()
    unused = [name for name, one in encoder if one.requires_grad and (one.grad is None or not one.grad.any())]
    assert not [name for name in unused if "position" not in name and "bias" not in name], unused
    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert torch.equal(again.get_item_features(**processor(text=texts, images=pictures)), together)


class TestSiglip:
    @pytest.fixture
    def make_encoder(self, tokenizer):
        def make(**text_fields):
            config = tiny_dual_config("siglip", tokenizer)
            config["text_config"] |= text_fields
            return perturb(TransRecModel(TransRecConfig(multimodal_config=config))).eval().item_encoder.multimodal

        return make

    def test_it_reads_texts_as_in_its_pretraining(self, make_encoder, tokenizer):
        """Padded to all its positions, without a mask: its own processor gives it no other."""
        encoder, texts = make_encoder(), ["red", "a small blue lamp"]
        own = tokenizer(texts, padding="max_length", max_length=40, return_tensors="pt")["input_ids"]
        expected = encoder.backbone.get_text_features(input_ids=own).pooler_output
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        found = encoder.text.features(**{name: inputs[name] for name in encoder.text.inputs})
        assert torch.allclose(found, expected, atol=1e-6)

    def test_wrong_texts_are_errors(self, make_encoder, processor_of):
        ids = torch.ones(1, 41, dtype=torch.long)
        with pytest.raises(ValueError, match="smaller max_text_length"):
            make_encoder().text.features(input_ids=ids, attention_mask=ids)
        with pytest.raises(ValueError, match="pad_token_id"):
            make_encoder(pad_token_id=None).text.features(input_ids=ids[:, :5], attention_mask=ids[:, :5])
        config = TransRecConfig(multimodal_config=make_encoder(pad_token_id=5).backbone.config)
        with pytest.raises(ValueError, match="has pad_token_id=5 where the tokenizer's is 0"):
            check_processor(processor_of["clip"], config)

    def test_its_padding_is_the_tokenizers(self, tokenizer, image_processor, items, tmp_path):
        config = tiny_dual_config("siglip", tokenizer)
        config["text_config"]["pad_token_id"] = 1
        AutoModel.from_config(AutoConfig.for_model(**config)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        image_processor.save_pretrained(tmp_path)
        args = ModelArguments(multimodal_model_name_or_path=str(tmp_path))
        model, processor = load_model_and_processor(args, items)
        assert model.config.multimodal_config.text_config.pad_token_id == tokenizer.pad_token_id
        check_processor(processor, model.config)


def test_vilt_gives_the_same_vectors_every_time(make_model, processor_of, items):
    model, processor = make_model("vilt"), processor_of["vilt"]
    inputs = processor(text=items["text_en"][:8], images=items["image"][:8])
    assert torch.equal(model.get_item_features(**inputs), model.get_item_features(**inputs))


def test_from_encoder_pretrained_with_text_and_vision(tokenizer, tmp_path):
    text = AutoModel.from_config(tiny_config("text", tokenizer).text_config)
    vision = perturb(AutoModel.from_config(TransRecConfig(vision_config=VISION_CONFIGS["swin"]).vision_config))
    text.save_pretrained(tmp_path / "text")
    vision.save_pretrained(tmp_path / "vision")
    model = TransRecForSequentialRecommendation.from_encoder_pretrained(
        text_model_name_or_path=tmp_path / "text",
        vision_model_name_or_path=tmp_path / "vision",
        user_encoder_type="gru4rec",
        fusion="gated",
        hidden_size=16,
    ).eval()
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    found = model.item_encoder.image.features(pixel_values=pixels)
    assert torch.equal(found, vision.eval()(pixel_values=pixels).pooler_output)
    assert model.config.modality == "text+image" and model.config.user_encoder_type == "gru4rec"
    with pytest.raises(ValueError, match="name a backbone"):
        TransRecModel.from_encoder_pretrained(hidden_size=16)


def test_a_tower_of_a_dual_encoder_can_be_a_backbone(tokenizer, tmp_path):
    clip = perturb(AutoModel.from_config(TransRecConfig(multimodal_config=tiny_clip_config(60)).multimodal_config))
    clip.eval().save_pretrained(tmp_path)
    model = TransRecModel.from_encoder_pretrained(vision_model_name_or_path=tmp_path, hidden_size=16).eval()
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    expected = clip.vision_model(pixel_values=pixels).pooler_output
    assert torch.allclose(model.item_encoder.image.features(pixel_values=pixels), expected, atol=1e-6)
    both = TransRecModel.from_encoder_pretrained(multimodal_model_name_or_path=tmp_path, hidden_size=16)
    assert both.config.modality == "text+image"


class TestAnItemWithoutAText:
    def test_blank_texts_are_none(self, items, processor_of):
        texts = [None, "", " \n", *items["text_en"][3:]]
        texts[4] = "\u200b"
        changed = items.select_columns(["item_id"]).add_column("text_en", texts)
        prepared = prepare_items(changed, processor_of["text"])
        assert prepared["has_text"][:8] == [False, False, False, True, False, False, True, True]

    def test_it_has_the_learned_vector(self, make_model, processor_of):
        model, processor = perturb(make_model("text")), processor_of["text"]
        vectors = model.get_item_features(**processor(text=[None, "red rope", "  "]))
        learned = model.item_encoder.text.projection.missing
        assert torch.equal(vectors[0], learned) and torch.equal(vectors[2], learned)
        assert torch.equal(model.get_item_features(**processor(text=[""]))[0], learned)
        assert not torch.allclose(vectors[1], learned)

    def test_its_first_gradient_is_like_the_others(self, make_model, make_collator, histories):
        """That of a vector of zeros is not, where scores are cosines."""
        model = make_model("text", normalize_scores=True, temperature=0.07)
        batch = make_collator("text", model)([histories[user] for user in range(5)])
        assert not batch["has_text"].all()
        model(**batch).loss.backward()
        norms = {name: one.grad.norm() for name, one in model.named_parameters()}
        learned = norms.pop("model.item_encoder.text.projection.missing")
        assert 0 < learned < 100 * max(norms.values())

    @pytest.mark.parametrize("kind", ["text+image", "clip"])
    def test_the_learned_vector_is_fused_with_the_picture(self, kind, make_model, processor_of):
        model, processor = perturb(make_model(kind)), processor_of[kind]
        pictures = [tiny_image(3), None]
        blank, named = (
            model.get_item_features(**processor(text=texts, images=pictures))
            for texts in (["", None], ["red", "blue"])
        )
        learned, missing_image = (part.projection.missing for part in model.item_encoder.parts)
        assert torch.allclose(blank[1], learned + missing_image)
        text_of_red = named[0] - (blank[0] - learned)
        alone = model.get_item_features(**processor(text=["red"], images=[None]))[0] - missing_image
        assert torch.allclose(text_of_red, alone, atol=1e-5)

    @pytest.mark.parametrize("fusion", ["co_attention", "merged_attention"])
    def test_attention_has_one_learned_token(self, fusion, make_model, processor_of):
        model, processor = perturb(make_model("text+image", fusion=fusion)), processor_of["text+image"]
        together = processor(text=["a small blue lamp", None], images=[tiny_image(3), tiny_image(4)])
        tokens, mask = model.item_encoder.text.tokens(**together)
        assert mask[1].sum() == 1 and torch.equal(tokens[1][mask[1]][0], model.item_encoder.text.projection.missing)
        together["input_ids"][1] = 7  # nobody reads them
        alone = processor(text=[""], images=[tiny_image(4)])
        found = model.get_item_features(**together)[1], model.get_item_features(**alone)[0]
        assert torch.allclose(*found, atol=1e-5)

    def test_vilt_attends_to_the_picture_alone(self, make_model, processor_of, tokenizer):
        model, processor = perturb(make_model("vilt")), processor_of["vilt"]
        inputs = processor(text=[None, None, "red rope"], images=[tiny_image(3), tiny_image(4), tiny_image(3)])
        vectors = model.get_item_features(**inputs)
        assert not torch.allclose(vectors[0], vectors[1]) and not torch.allclose(vectors[0], vectors[2])
        kept = inputs["input_ids"][0][inputs["attention_mask"][0].bool()]
        assert kept.tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "gpt2", "opt"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_on_which_side_texts_are_padded_does_not_matter(model_type, chunk_size, tokenizer):
    config = TransRecConfig(text_config=tiny_text_config(len(tokenizer), model_type), hidden_size=16)
    model = perturb(TransRecForSequentialRecommendation(config)).eval()
    if chunk_size is not None:
        model.enable_gradient_caching(chunk_size)
    texts = ["red rope", "a small blue lamp", "soap"]
    vectors = [
        model.get_item_features(**tokenizer(texts, padding=True, padding_side=side, return_tensors="pt"))
        for side in ("left", "right")
    ]
    assert torch.allclose(*vectors, atol=1e-6)


def test_both_towers_of_a_dual_encoder_are_compiled(make_model, make_collator, histories):
    model = make_model("clip")
    expected = model(**make_collator("clip", model)([histories[0], histories[1]])).loss
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    model.compile_backbone(backend=backend)
    loss = model(**make_collator("clip", model)([histories[0], histories[1]])).loss
    assert len(compiled) >= 2 and torch.allclose(loss, expected)


def test_a_deep_decoder_is_compiled_as_one_layer(make_model, tokenizer):
    torch.compiler.reset()
    counters.clear()
    model = make_model("text", text_config={**tiny_text_config(len(tokenizer), "gpt2"), "n_layer": 12})
    inputs = make_inputs("text")
    expected = model.train()(**inputs).loss
    model.compile_backbone(backend="eager")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for _ in range(2):
            loss = model(**inputs).loss
            loss.backward()
    assert counters["stats"]["unique_graphs"] <= 2
    assert loss.isfinite() and expected.isfinite()


@pytest.mark.slow
def test_layers_of_two_backbones_are_compiled(make_model, make_collator, histories):
    torch.compiler.reset()
    model = make_model("text+image")
    model.compile_backbone(backend="eager")
    collator = make_collator("text+image", model)
    for train, grad, low in itertools.product((True, False), repeat=3):
        model.train(train)
        for users in ([0], [1, 2], [3, 4, 5]):
            with (
                torch._dynamo.config.patch(fail_on_recompile_limit_hit=True),
                torch.set_grad_enabled(grad),
                torch.autocast("cpu", torch.bfloat16, enabled=low),
            ):
                assert model(**collator([histories[user] for user in users])).loss.isfinite()


def test_nothing_to_compile_is_said(make_model, caplog):
    model = make_model("text")
    model.freeze_backbone()
    model.compile_backbone(backend="eager")
    assert "none is compiled" in caplog.text


class TestFreezing:
    def test_the_last_layers_and_what_follows_them(self, tokenizer):
        config = TransRecConfig(
            text_config={**tiny_text_config(len(tokenizer)), "num_hidden_layers": 3}, hidden_size=16
        )
        model = TransRecForSequentialRecommendation(config)
        model.freeze_backbone(train_last_n_layers=1)
        names = {name.split(".backbone.")[1] for name in trained(model) if ".backbone." in name}
        assert names and all(name.startswith("encoder.layer.2.") for name in names)
        model.train()
        backbone = model.item_encoder.text.backbone
        assert not backbone.embeddings.training and not backbone.encoder.layer[1].training
        assert backbone.encoder.layer[2].training and model.model.user_encoder.training
        with pytest.raises(ValueError, match="between 1 and this backbone's 3"):
            model.freeze_backbone(train_last_n_layers=4)

    @pytest.mark.parametrize("model_type", ["vit", "swin", "resnet", "convnext", "timm_wrapper", "clip_vision_model"])
    def test_vision_backbones_have_layers_or_stages(self, model_type):
        model = vision_model(model_type)
        everything = {name for name in trained(model) if ".backbone." in name}
        model.freeze_backbone(train_last_n_layers=1)
        left = {name for name in trained(model) if ".backbone." in name}
        assert left and left < everything
        assert not any("embed" in name or "stem" in name for name in left), left
        inputs = image_inputs(32 if model_type == "timm_wrapper" else IMAGE_SIZE)
        model(**inputs).loss.backward()

    def test_of_two_towers_the_last_layers_of_each(self, make_model):
        model = make_model("clip")
        for tower in (model.config.multimodal_config.text_config, model.config.multimodal_config.vision_config):
            tower.num_hidden_layers = 3
        model = TransRecForSequentialRecommendation(model.config)
        model.freeze_backbone(train_last_n_layers=1)
        left = [name.partition(".backbone.")[2] for name in trained(model) if ".backbone." in name]
        layers = {(name.split(".")[0], name.partition(".layers.")[2][:1]) for name in left if ".layers." in name}
        assert layers == {("text_model", "2"), ("vision_model", "2")}
        assert not any("embeddings" in name for name in left)

    def test_one_of_two_backbones_by_pattern(self, make_model):
        model = make_model("text+image")
        model.freeze_backbone(freeze_modules=["image.*", "embeddings.word_embeddings.*"])
        left = {name.partition("item_encoder.")[2] for name in trained(model) if ".backbone." in name}
        assert left and all(name.startswith("text.") and "word_embeddings" not in name for name in left)
        with pytest.raises(ValueError, match="matches 'txt"):
            model.freeze_backbone(freeze_modules=["image.*", "txt.*"])

    def test_by_pattern(self, make_model):
        model = make_model("text")
        model.freeze_backbone(freeze_modules=["embeddings.*", "*.attention.*"])
        for name, parameter in model.named_parameters():
            inner = name.partition(".backbone.")[2]
            frozen = inner.startswith("embeddings.") or ".attention." in inner
            assert parameter.requires_grad != frozen, name
        with pytest.raises(ValueError, match="no parameter of the backbone matches 'layers"):
            model.freeze_backbone(freeze_modules=["layers.*"])
        with pytest.raises(ValueError, match="not both"):
            model.freeze_backbone(1, ["embeddings.*"])

    def test_a_frozen_batch_norm_keeps_its_statistics(self):
        model = vision_model("resnet")
        model.freeze_backbone()
        model.train()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model(**image_inputs(IMAGE_SIZE)).loss.backward()
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("kind", ["text", "image", "text+image", "text+id", "clip", "vilt"])
def test_precomputed_features_stand_for_the_items(kind, make_model, make_collator, processor_of, histories, tmp_path):
    model = perturb(make_model(kind, fusion="gated"))
    model.freeze_backbone()
    collator = make_collator(kind, model)
    users = [histories[user] for user in (0, 5, 9)]
    model(**collator(users)).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    calls = []
    prepared = collator.items
    collator.items = precompute(model, prepared, processor_of[kind], chunk_size=8, cache_dir=tmp_path)
    for backbone in model.item_encoder.backbones:
        for module in backbone.modules():
            module.register_forward_pre_hook(lambda *args: calls.append(1))
    model(**collator(users)).loss.backward()
    assert not calls
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)

    again = precompute(model, prepared, processor_of[kind], chunk_size=5, cache_dir=tmp_path)
    assert not calls and again.folders == collator.items.folders  # another run has them from the disk
    with torch.no_grad():
        next(model.item_encoder.backbones[0].parameters()).add_(0.1)
    other = precompute(model, prepared, processor_of[kind], chunk_size=8, cache_dir=tmp_path)
    assert calls and other.folders != again.folders
    with torch.no_grad():
        next(model.item_encoder.backbones[0].parameters()).add_(0.1)
    interrupted = unittest.mock.Mock(side_effect=KeyboardInterrupt)
    with unittest.mock.patch.object(processor_of[kind], "pad", interrupted), pytest.raises(KeyboardInterrupt):
        precompute(model, prepared, processor_of[kind], chunk_size=8, cache_dir=tmp_path)
    folders = {path.name for path in (tmp_path / "transrec_features").iterdir() if path.is_dir()}
    kept = {next(iter(one.folders.values())).parent.name for one in (again, other)}
    assert folders == kept  # nothing half-written is left
