"""Bottleneck adapters in backbones: what they add, that only they are trained, and that they are saved."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel

from modeling_transrec import TransRecForSequentialRecommendation
from modeling_transrec.models.adapters import inject_adapters
from modeling_transrec.models.bottlenecks import BottleneckAdapter

from ..checks import perturb, trained


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_they_start_at_no_change_are_trained_alone_and_saved(
    placement, make_model, make_collator, histories, tmp_path
):
    model = make_model("text")
    batch = make_collator("text", model)([histories[0], histories[5]])
    before = model(**batch).loss
    model.add_peft_adapter({"peft_type": "BOTTLENECK", "placement": placement, "reduction": 4})
    assert torch.equal(model(**batch).loss, before)
    of_backbone = [name for name in trained(model) if ".backbone." in name]
    assert of_backbone and all(".adapter." in name for name in of_backbone)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    adapted = model(**batch).loss
    assert not torch.allclose(adapted, before, atol=1e-4)
    model.save_pretrained(tmp_path)
    again, info = TransRecForSequentialRecommendation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(again.eval()(**batch).loss, adapted) and trained(again) == trained(model)
    assert torch.equal(copy.deepcopy(again)(**batch).loss, adapted)
    with pytest.raises(ValueError, match="cannot be merged"):
        again.merge_peft_adapter()


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_an_adapter_adds_to_its_layer(placement, make_model):
    model = make_model("text")
    model.add_peft_adapter({"peft_type": "BOTTLENECK", "placement": placement, "reduction": 4})
    perturb(model)
    layer = model.item_encoder.text.backbone.encoder.layer[0].output.dense
    inputs = torch.randn(3, layer.in_features)
    plain = F.linear(inputs, layer.weight, layer.bias)
    down, up = layer.adapter.down, layer.adapter.up
    read = inputs if placement == "parallel" else plain
    assert down.weight.shape == (layer.out_features // 4, read.shape[1])
    expected = plain + F.gelu(read @ down.weight.T + down.bias) @ up.weight.T
    torch.testing.assert_close(layer(inputs), expected)


KINDS = (
    "bert distilbert mpnet gpt2 opt qwen2 t5 bloom falcon phi vit clip_vision_model siglip_vision_model wav2vec2 wavlm"
).split()


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_of_usual_backbones_gets_two_and_calls_them(kind):
    size = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 20,
        "ffn_dim": 20,
    }
    size |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 20}
    size |= {"num_key_value_heads": 2, "vocab_size": 50, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 20}
    size |= {"word_embed_proj_dim": 16, "image_size": 16, "patch_size": 8, "d_kv": 8}
    size |= {"conv_dim": [6], "conv_kernel": [10], "conv_stride": [5], "num_feat_extract_layers": 1}
    size |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "pad_token_id": 0}
    known = AutoConfig.for_model(kind).to_dict()
    backbone = AutoModel.from_config(AutoConfig.for_model(kind, **{k: v for k, v in size.items() if k in known}))
    inject_adapters([backbone], {"peft_type": "BOTTLENECK"})
    adapters = {one: name for name, one in backbone.named_modules() if isinstance(one, BottleneckAdapter)}
    # T5 has a decoder, too; SigLIP pools by attention; WavLM's attention never calls its layers.
    count = {"t5": 8, "siglip_vision_model": 5, "wavlm": 2}.get(kind, 4)
    assert len(adapters) == count, adapters
    called = set()
    for one in adapters:
        one.register_forward_hook(lambda module, *_: called.add(module))
    if hasattr(backbone.config, "image_size"):
        backbone(pixel_values=torch.rand(2, 3, 16, 16))
    elif hasattr(backbone.config, "conv_dim"):
        backbone(torch.rand(2, 100))
    else:
        ids = torch.randint(5, 40, (2, 4))
        backbone(input_ids=ids, **({"decoder_input_ids": ids} if kind == "t5" else {}))
    assert called == set(adapters)


@pytest.mark.filterwarnings("ignore")
def test_what_they_cannot_be_is_refused(make_model):
    model = make_model("text")
    quantised = copy.deepcopy(model)
    torch.ao.quantization.quantize_dynamic(quantised.item_encoder.text.backbone, {torch.nn.Linear}, inplace=True)
    with pytest.raises(ValueError, match="output.dense has no weights that gradients pass"):
        quantised.add_peft_adapter({"peft_type": "BOTTLENECK"})
    for options, message in [
        ({"placement": "beside"}, "choose serial or parallel"),
        ({"reduction": 0}, "at least 1"),
        ({"r": 4}, "BOTTLENECK has no option r; its options are"),
        ({"target_modules": ["nothing"]}, "no layer's name ends with one of nothing"),
        ({"target_modules": "dense"}, "must be a list"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.add_peft_adapter({"peft_type": "BOTTLENECK", **options})
    model.add_peft_adapter({"peft_type": "BOTTLENECK"})  # refusals undo all
