"""Adapters of the peft library in backbones."""

import pytest
import torch
from safetensors.torch import save_file

from modeling_transrec import TransRecConfig, TransRecForSequentialRecommendation
from modeling_transrec.models.adapters import PEFT_KINDS, PEFT_OPTIONS

from ..checks import assert_equal_weights, trained, weights


OPTIONS_OF = {  # those that a width of 20 calls for
    "C3A": {"block_size": 10, "init_weights": True},
    "HRA": {"r": 2},
    "IA3": {"feedforward_modules": ["value"]},
    "LN_TUNING": {"target_modules": ["LayerNorm"]},
    "MISS": {"r": 2},
    "ROAD": {"group_size": 2},
    "SUPERTUNING": {"sparsity": 0.5},
    "TRAINABLE_TOKENS": {"target_modules": ["word_embeddings"], "token_indices": list(range(100))},
}
ADAPTERS = [(kind, {}) for kind in PEFT_KINDS] + [
    (kind, {name: value})
    for kind, name, value in [
        ("BEFT", "init_weights", False),
        ("C3A", "block_size_pattern", {"query": 5}),
        ("DEFT", "decomposition_method", "qr"),
        ("DEFT", "init_scale", 2.0),
        ("DEFT", "para", True),
        ("DELORA", "delora_lambda", 3),
        ("DELORA", "lambda_pattern", {"query": 2}),
        ("GLORA", "config_A_B", "vector"),
        ("GLORA", "config_C", "none"),
        ("GLORA", "config_D_E", "vector"),
        ("GRALORA", "gralora_k", 4),
        ("GRALORA", "hybrid_r", 2),
        ("HRA", "apply_GS", True),
        ("LOHA", "alpha_pattern", {"query": 2}),
        ("LOKR", "decompose_both", True),
        ("LOKR", "decompose_factor", 2),
        ("LORA", "exclude_modules", ["value"]),
        ("LORA", "init_lora_weights", "pissa"),
        ("LORA", "lora_alpha", 3),
        ("LORA", "lora_bias", True),
        ("LORA", "layers_to_transform", [0]),
        ("LORA", "modules_to_save", ["embeddings.word_embeddings", "intermediate.dense"]),
        ("LORA", "rank_pattern", {"query": 2}),
        ("LORA", "use_dora", True),
        ("LORA", "use_rslora", True),
        ("MISS", "mini_r", 2),
        ("PEANUT", "act_fn", "gelu"),
        ("PEANUT", "depth", 2),
        ("ROAD", "variant", "road_4"),
        ("SUPERTUNING", "select_top", False),
    ]
]


class TestAdapters:
    @pytest.mark.parametrize("kind, options", ADAPTERS)
    def test_each_kind_trains_saves_loads_and_merges(
        self, kind, options, make_model, make_collator, histories, tmp_path
    ):
        model = make_model("text")
        batch = make_collator("text", model)([histories[0], histories[5]])
        before = model(**batch).loss
        options = {"peft_type": kind, "target_modules": ["query", "value"], **OPTIONS_OF.get(kind, {}), **options}
        model.add_peft_adapter(options)
        optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if ".backbone." in name], lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        adapted = model(**batch).loss
        assert (adapted - before).abs() > 1e-4
        model.save_pretrained(tmp_path)
        again, info = TransRecForSequentialRecommendation.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.allclose(again.eval()(**batch).loss, adapted, atol=1e-6)
        assert trained(again) == trained(model)
        again.merge_peft_adapter()
        assert torch.allclose(again(**batch).loss, adapted, atol=1e-4)
        assert again.state_dict().keys() == make_model("text").state_dict().keys()
        again.save_pretrained(tmp_path / "merged")
        merged = TransRecForSequentialRecommendation.from_pretrained(tmp_path / "merged").eval()
        assert torch.allclose(merged(**batch).loss, adapted, atol=1e-4)

    def test_other_kinds_and_options_are_refused(self, make_model):
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, LoraConfig

        assert sorted(PEFT_KINDS) == PEFT_KINDS and sorted(PEFT_OPTIONS, key=str.lower) == PEFT_OPTIONS
        assert set(PEFT_KINDS) < set(PEFT_TYPE_TO_CONFIG_MAPPING)
        model = make_model("text")
        for kind in set(PEFT_TYPE_TO_CONFIG_MAPPING) - set(PEFT_KINDS):
            with pytest.raises(ValueError, match="adapters are not supported; choose one of .*LORA"):
                model.add_peft_adapter({"peft_type": kind})
        for name, value in {
            "bias": "all",
            "ensure_weight_tying": True,
            "inference_mode": True,
            "layer_replication": [[0, 1], [0, 1]],
            "target_parameters": ["query.weight"],
            "trainable_token_indices": [1, 2],
            "alora_invocation_tokens": [1],
        }.items():
            with pytest.raises(ValueError, match=f"LORA's option {name} is not supported here.* are r, target"):
                model.add_peft_adapter(LoraConfig(target_modules=["query"], **{name: value}))
        with pytest.raises(ValueError, match="LORA's option eva_config"):
            model.add_peft_adapter({"peft_type": "LORA", "target_modules": ["query"], "init_lora_weights": "eva"})
        with pytest.raises(ValueError, match="C3A's option bias"):
            make_model("text", peft_config={"peft_type": "C3A", "target_modules": ["query"], "bias": "all"})
        model.add_peft_adapter({"peft_type": "LORA", "target_modules": ["query"], "bias": "none"})  # refusals undo all

    def test_in_one_of_two_backbones(self, make_model, make_collator, histories, tmp_path):
        model = make_model("text+image")
        batch = make_collator("text+image", model)([histories[0], histories[5]])
        with pytest.raises(ValueError, match="quarry"):
            model.add_peft_adapter({"peft_type": "LORA", "r": 2, "target_modules": ["quarry"]})
        options = {"peft_type": "LORA", "r": 2, "init_lora_weights": False, "target_modules": ["query"]}  # BERT's
        with pytest.raises(ValueError, match="no backbone with adapters has a module patch_embedding"):
            make_model("text+image").add_peft_adapter({**options, "modules_to_save": ["patch_embeddings"]})
        with pytest.raises(ValueError, match="dense lies in another of them"):
            make_model("text+image").add_peft_adapter({**options, "modules_to_save": ["intermediate", "dense"]})
        model.add_peft_adapter(options)
        names = {name for name in trained(model) if ".backbone." in name}
        assert names and all(".text." in name and "lora_" in name for name in names)
        model.train()
        assert model.item_encoder.text.backbone.training and not model.item_encoder.image.backbone.training
        loss = model.eval()(**batch).loss
        model.save_pretrained(tmp_path)
        again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
        assert torch.equal(again(**batch).loss, loss) and trained(again) == trained(model)
        again.merge_peft_adapter()
        assert torch.allclose(again(**batch).loss, loss, atol=1e-5)
        assert trained(again) == trained(make_model("text+image"))

    @pytest.mark.parametrize(
        "options",
        [{"peft_type": "BOTTLENECK", "reduction": 4}, {"peft_type": "LORA", "r": 2, "target_modules": ["query"]}],
    )
    def test_a_checkpoint_that_lacks_them_is_refused(self, options, make_model, tmp_path):
        model = make_model("text")
        plain = weights(model)
        model.add_peft_adapter(options)
        model.save_pretrained(tmp_path)
        load = TransRecForSequentialRecommendation.from_pretrained
        size = "reduction" if "reduction" in options else "r"
        config = TransRecConfig.from_pretrained(tmp_path, peft_config={**options, size: 1})
        with pytest.raises(ValueError, match="adapters are not started anew"):
            load(tmp_path, config=config, ignore_mismatched_sizes=True)
        save_file(plain, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="adapters are not started anew.*with peft_config=None"):
            load(tmp_path, allow_missing_weights=True)
        again = load(tmp_path, peft_config=None)
        assert_equal_weights(again.state_dict(), plain)
        again.add_peft_adapter(options)

    def test_merged_it_trains_what_it_trained_before(self, make_model):
        model = make_model("clip")
        before = trained(model)
        model.add_peft_adapter({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
        model.merge_peft_adapter()
        assert trained(model) == before and not any("logit_scale" in name for name in before)

    @pytest.mark.parametrize("kind", ["text", "image", "clip"])
    def test_saved_loaded_and_merged_like_any_other(self, kind, make_model, make_collator, histories, tmp_path):
        from peft import LoraConfig

        targets = {"text": ["query", "value"], "image": ["q_proj", "v_proj"], "clip": ["q_proj"]}[kind]
        model = make_model(kind)
        batch = make_collator(kind, model)([histories[0], histories[5]])
        before = model(**batch).loss
        model.add_peft_adapter(LoraConfig(r=2, target_modules=targets))
        assert torch.equal(model(**batch).loss, before)  # adapters start at no change
        in_backbone = {name for name in trained(model) if ".backbone." in name}
        assert in_backbone and all("lora_" in name for name in in_backbone)
        assert any("projection" in name for name in trained(model)) and any(
            "user_encoder" in n for n in trained(model)
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.3)
        adapted = model(**batch).loss
        assert not torch.allclose(adapted, before)
        model.save_pretrained(tmp_path)
        again, info = TransRecForSequentialRecommendation.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.equal(again.eval()(**batch).loss, adapted)
        assert trained(again) == trained(model)
        assert not model.has_frozen_backbone

        model.merge_peft_adapter()
        assert torch.allclose(model(**batch).loss, adapted, atol=1e-5)
        assert not any("lora" in name for name, _ in model.named_parameters())
        model.save_pretrained(tmp_path / "merged")
        merged = TransRecForSequentialRecommendation.from_pretrained(tmp_path / "merged").eval()
        assert torch.allclose(merged(**batch).loss, adapted, atol=1e-5)
        assert merged.config.peft_config is None

    def test_a_fresh_model_of_such_a_configuration_starts_at_no_change(self, make_model, make_collator, histories):
        plain = make_model("text")
        batch = make_collator("text", plain)([histories[0]])
        model = make_model("text", peft_config={"peft_type": "LORA", "r": 2, "target_modules": ["query"]})
        model.load_state_dict(plain.state_dict(), strict=False)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                assert parameter.abs().sum() == 0
        assert model(**batch).loss.isfinite()

    def test_errors(self, make_model):
        model = make_model("text")
        with pytest.raises(ValueError, match="no adapters to merge"):
            model.merge_peft_adapter()
        with pytest.raises(ValueError, match="peft_type"):
            model.add_peft_adapter({"r": 2})
        with pytest.raises(ValueError, match="LORA has no option rank; its options are r, "):
            model.add_peft_adapter({"peft_type": "LORA", "rank": 2})
        with pytest.raises(ValueError, match="LORRA adapters are not supported; choose one of .*LORA"):
            model.add_peft_adapter({"peft_type": "LORRA"})
        model.add_peft_adapter({"peft_type": "LORA", "r": 2, "target_modules": ["query"]})
        with pytest.raises(ValueError, match="the backbone is frozen already"):
            model.freeze_backbone()
        with pytest.raises(ValueError, match="id model has no backbone"):
            make_model("id").add_peft_adapter({"peft_type": "LORA"})
