import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation, TransRecProcessor
from modeling_transrec.models.checkpoint_files import check_weight_files
from modeling_transrec.models.config_limits import check_part

from ..tiny import VISION_CONFIGS, tiny_text_config


@pytest.fixture
def checkpoint(make_model, tmp_path):
    make_model("text").save_pretrained(tmp_path / "good")
    return tmp_path / "good"


def change(folder, **changes):
    """Changes the values of a saved configuration; `PART:KEY` is a value of a part."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        part, _, key = name.rpartition(":")
        (config[part] if part else config)[key] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "file", ["../private/model.safetensors", "/model.safetensors", "adapter_model.bin", "x.index.json"]
)
@pytest.mark.parametrize("name", ["transformers_weights", "text_config:transformers_weights"])
def test_a_configuration_names_no_files(file, name, checkpoint):
    change(checkpoint, **{name: file})
    with pytest.raises(ValueError, match="a configuration names no files"):
        TransRecForSequentialRecommendation.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    "name", ["attn_implementation", "text_config:attn_implementation", "text_config:_attn_implementation"]
)
def test_a_configuration_runs_no_code_of_the_hub(name, checkpoint):
    change(checkpoint, **{name: "someone/kernels"})
    with pytest.raises(ValueError, match="would run code of the Hub"):
        TransRecForSequentialRecommendation.from_pretrained(checkpoint)
    change(checkpoint, **{name: "eager"})
    TransRecForSequentialRecommendation.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    "part",
    [
        {"architecture": "local-dir:/home/someone"},
        {"architecture": "hf-hub:someone/model"},
        {"model_args": {"checkpoint_path": "weights.bin"}},
        {"model_args": {"checkpoint_path": 3}},
        {"model_args": {"pretrained": True}},
        {"model_args": {"pretrained_cfg": {"file": "weights.bin"}}},
        {"model_args": {"act_layer": "os.system"}},
        {"nested": [{"deeper": {"checkpoint_path": "weights.bin"}}]},
        {"backbone_config": {"use_pretrained_backbone": True}},
    ],
)
def test_what_timm_would_open_is_refused(part):
    with pytest.raises(ValueError, match="is refused"):
        check_part("vision_config", {"model_type": "timm_wrapper", **part})


def test_what_makes_an_architecture_is_allowed():
    sizes = {
        "depth": 2,
        "img_size": [32, 32],
        "global_pool": "avg",
        "act_layer": "gelu",
        "qkv_bias": True,
        "drop_rate": 0.1,
    }
    check_part("vision_config", {"architecture": "vit_tiny_patch16_224.augreg_in21k", "model_args": sizes})
    for config in VISION_CONFIGS.values():
        TransRecConfig(vision_config=config)


@pytest.mark.parametrize("ranks", [{"r": 10**9}, {"r": 2, "rank_pattern": {"query": 10**9}}])
def test_the_rank_of_adapters_is_bounded_before_they_are_made(ranks, tokenizer):
    adapter = {"peft_type": "LORA", "target_modules": ["query"], **ranks}
    with pytest.raises(ValueError, match="must be at most 4,096, got 1,000,000,000"):
        TransRecConfig(text_config=tiny_text_config(len(tokenizer)), peft_config=adapter)


def test_counts_are_not_negative():
    for key in ("max_position_embeddings", "text_config.vocab_size", "num_hidden_layers", "num_attention_heads"):
        with pytest.raises(ValueError, match=f"{key} must not be negative, got -1"):
            check_part(key, -1)
    check_part("multimodal_config", {"pad_token_id": -1, "num_images": -1})


def test_the_size_of_shards_is_that_of_the_files(checkpoint):
    size = check_weight_files(str(checkpoint), {})
    (checkpoint / "model.safetensors").rename(checkpoint / "a.safetensors")
    save_file({"other": torch.zeros(3)}, checkpoint / "b.safetensors")
    index = checkpoint / "model.safetensors.index.json"
    shards = {"weight": "a.safetensors", "other": "b.safetensors"}
    index.write_text(json.dumps({"metadata": {"total_size": 10**18}, "weight_map": shards}))
    assert check_weight_files(str(checkpoint), {}) == size + (checkpoint / "b.safetensors").stat().st_size
    (checkpoint / "b.safetensors").unlink()
    with pytest.raises(OSError, match=r"names b\.safetensors, and .* has no such file"):
        check_weight_files(str(checkpoint), {})


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "\x00", "[" * 100_000]
)
def test_a_malformed_index_is_named(content, checkpoint):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json is no index of shards"):
        TransRecForSequentialRecommendation.from_pretrained(checkpoint)


ANYTHING = st.sampled_from(
    [
        None,
        0,
        -1,
        1,
        2,
        10**6,
        10**18,
        1.5,
        float("nan"),
        "",
        "x",
        "../x",
        "/etc/passwd",
        [],
        [1],
        [None],
        {},
        {"a": 1},
    ]
    + [True, False, "eval", "bert", {"model_type": "bert"}, {"model_type": "nope"}, -(10**9)]
)
KEYS_OF_LIBRARIES = (
    "architectures audio_config auto_map dtype id2label multimodal_config _name_or_path peft_config pruned_heads "
    "quantization_config torch_dtype transformers_version vision_config zzz"
).split()


@st.composite
def mutations(draw, config):
    """A configuration of which some values, at any depth, are others, are missing, or are there in addition."""
    config = json.loads(json.dumps(config))
    for _ in range(draw(st.integers(1, 2))):
        part = draw(
            st.sampled_from([config, *(value for value in config.values() if isinstance(value, dict) and value)])
        )
        key = draw(st.sampled_from([*part, *KEYS_OF_LIBRARIES]))
        if draw(st.integers(0, 6)):
            part[key] = draw(ANYTHING)
        else:
            part.pop(key, None)
    return config


def test_a_changed_configuration_loads_or_is_refused_with_a_sentence(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())

    # More by hand: FUZZ_EXAMPLES=10000 python -m pytest tests/models/test_config_limits.py -k changed
    @settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")), deadline=None, derandomize=True, database=None)
    @given(mutations(config))
    def load(changed):
        (checkpoint / "config.json").write_text(json.dumps(changed))
        try:
            TransRecForSequentialRecommendation.from_pretrained(checkpoint)
        except (ValueError, OSError, ImportError) as error:
            assert len(str(error)) > 20
        except RuntimeError as error:
            assert str(checkpoint) in error.__notes__[0]

    load()


@pytest.mark.parametrize("size", [{"height": 8192, "width": 32}, {"shortest_edge": 8192}])
def test_images_have_a_largest_side(size):
    with pytest.raises(ValueError, match="size must be at most 4096, got .*=8192"):
        TransRecProcessor(image_processor=CLIPImageProcessorPil(size=size))
    for image_size in (8192, [32, 8192]):
        with pytest.raises(ValueError, match="vision_config.image_size must be at most 4,096, got 8,192"):
            TransRecConfig(vision_config={"model_type": "vit", "image_size": image_size})
