import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from modeling_transrec import TransRecProcessor

from ..tiny import SAMPLING_RATE, tiny_sound


TEXTS = ["a small red rope", "blue", "red rope lamp green"]


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 4},
        {"max_length": 12, "padding": "max_length"},
        {"truncation": False, "padding": "longest"},
        {"max_length": 8, "pad_to_multiple_of": 8},
        {"truncation": False, "max_length": 9, "padding": "max_length", "pad_to_multiple_of": 4},
    ],
)
@pytest.mark.parametrize("is_flat", [True, False])
def test_texts_are_as_the_tokenizer_makes_them(options, is_flat, tokenizer):
    processor = TransRecProcessor(tokenizer, max_text_length=5)
    defaults = {"padding": True, "truncation": True, "max_length": 5, "return_tensors": "pt"}
    expected = tokenizer(TEXTS, **{**defaults, **options})
    found = processor(text=TEXTS, **(options if is_flat else {"text_kwargs": options}))
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(found[name], expected[name])
    assert processor(text=TEXTS)["input_ids"].shape == (3, 5) and processor.max_text_length == 5


def test_texts_of_one_length_need_no_padding(tokenizer):
    processor = TransRecProcessor(tokenizer)
    assert torch.equal(processor(text=["red", "blue"], padding=False)["attention_mask"], torch.ones(2, 3).long())
    with pytest.raises(ValueError, match="different numbers of tokens, and make one tensor only with padding=True"):
        processor(text=TEXTS, padding=False)


def test_the_size_of_images_is_that_of_the_call(pictures):
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = TransRecProcessor(image_processor=images)
    options = {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 18}}
    expected = images(pictures, do_rescale=False, do_normalize=False, return_tensors="pt", **options)["pixel_values"]
    found = processor(images=[*pictures[:2], None, pictures[2]], images_kwargs=options)
    assert found["pixel_values"].dtype == torch.uint8 and torch.equal(found["pixel_values"].float(), expected.float())
    assert found["image_index"].tolist() == [0, 1, -1, 2]
    assert processor(images=pictures)["pixel_values"].shape == (3, 3, 16, 16)
    assert images.size["shortest_edge"] == 16


@pytest.mark.parametrize(
    "options",
    [
        {"do_normalize": True},
        {"do_rescale": True, "do_normalize": False},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": 0.25},
        {"rescale_factor": 1 / 127.5, "size": {"height": 8, "width": 8}},
    ],
)
def test_images_are_normalised_where_that_is_asked_for(options, pictures):
    images = ViTImageProcessorPil(size={"height": 16, "width": 16})
    expected = images(pictures, return_tensors="pt", **options)["pixel_values"]
    found = TransRecProcessor(image_processor=images)(images=pictures, **options)["pixel_values"]
    assert found.is_floating_point() and torch.allclose(found, expected, atol=0.02)  # the bytes are rounded
    assert (found - expected).abs().mean() < 0.005


def test_normalised_images_give_the_embeddings_of_bytes(make_model, processor_of, items):
    model, processor, covers = make_model("image").eval(), processor_of["image"], list(items["image"][:4])
    with torch.no_grad():
        expected = model.get_item_features(**processor(images=covers))
        found = model.get_item_features(**processor(images=covers, do_rescale=True))
    assert torch.allclose(found, expected, atol=1e-5)


def test_sounds_have_the_sampling_rate_of_the_call(processor_of):
    sound = tiny_sound(0, rate=2 * SAMPLING_RATE)
    processor = processor_of["audio"]
    expected = processor(audio=[{"array": sound, "sampling_rate": 2 * SAMPLING_RATE}])["input_values"]
    for options in ({"sampling_rate": 2 * SAMPLING_RATE}, {"audio_kwargs": {"sampling_rate": 2 * SAMPLING_RATE}}):
        assert torch.equal(processor(audio=[sound], **options)["input_values"], expected)
    assert not torch.equal(processor(audio=[sound])["input_values"], expected)


def test_arrays_of_numpy(processor_of, items):
    processor = processor_of["text"]
    expected = processor(text=items["text_en"][:3])
    found = processor(text=items["text_en"][:3], return_tensors="np")
    assert {name: type(value) for name, value in found.items()} == dict.fromkeys(expected, np.ndarray)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "kind, options, error, message",
    [
        ("text", {"max_lenght": 4}, TypeError, "no option 'max_lenght'; did you mean 'max_length'"),
        ("text", {"text_kwargs": {"stride": 2}}, TypeError, "no option 'stride' in text_kwargs"),
        ("text", {"padding_side": "left"}, TypeError, "no option 'padding_side'"),
        ("text", {"size": 16}, TypeError, "no option 'size'"),
        ("text", {"images_kwargs": {"size": 16}}, TypeError, "no option 'size' in images_kwargs"),
        ("text", {"max_length": "4"}, StrictDataclassFieldValidationError, "expected int"),
        ("text", {"max_length": 2}, ValueError, "max_text_length must be at least 3"),
        ("text", {"padding": "longer"}, ValueError, "padding must be True, False, 'longest' or 'max_length'"),
        ("text", {"max_length": 4, "text_kwargs": {"max_length": 5}}, ValueError, "passed two times"),
        ("text", {"return_tensors": "tf"}, ValueError, "return_tensors must be 'pt' or 'np', got 'tf'"),
        ("text", {"videos": ["a.mp4"]}, ValueError, "videos are not read"),
        ("image", {"device": "cuda"}, TypeError, "no option 'device'"),
        ("image", {"do_rescale": False}, ValueError, "do_rescale=False is for images of values from 0 to 1"),
        ("id", {"max_length": 4}, TypeError, "no option 'max_length'"),
    ],
)
def test_options_that_are_not_known(kind, options, error, message, processor_of, items):
    processor = processor_of[kind]
    given = {modality.argument: list(items[modality.column(processor)][:2]) for modality in processor.read}
    with pytest.raises(error, match=message):
        processor(**given, **options)
    assert processor(**given, text_kwargs={}, images_kwargs={}).keys() == processor(**given).keys()
