"""Frozen lower layers: computed once, and training from there is training with them."""

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from modeling_transrec import (
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecTrainer,
    TransRecTrainingArguments,
)
from modeling_transrec.data.precomputed_items import PrecomputedItems
from modeling_transrec.data.preparation import text_lengths
from modeling_transrec.models.backbones import layers_of
from modeling_transrec.models.multimodal_encoders import Tower
from modeling_transrec.training.precomputed import precompute

from ..checks import Interrupt, assert_equal_weights, assert_same, perturb, step, weights
from ..tiny import (
    IMAGE_SIZE,
    NUM_ITEMS,
    NUM_USERS,
    TINY_VIT,
    VISION_CONFIGS,
    tiny_dual_config,
    tiny_text_config,
    tiny_vilt_config,
)


DEPTHS = {"distilbert": {"n_layers": 3}, "gpt2": {"n_layer": 3}}
TEXT_TYPES = ["bert", "roberta", "distilbert", "gpt2", "opt", "modernbert", "llama", "qwen2", "deberta-v2", "mpnet"]
VISION = {**VISION_CONFIGS, "vit": {**TINY_VIT, "num_hidden_layers": 3}}
VISION["timm_wrapper"] = {
    "model_type": "timm_wrapper",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"depth": 3, "embed_dim": 12, "num_heads": 2, "img_size": IMAGE_SIZE, "patch_size": 8},
}
VISION["timm resnet"] = {"model_type": "timm_wrapper", "architecture": "resnet10t"}
DEBERTA_BELOW = ["embeddings.*", "encoder.rel_embeddings.*", "encoder.LayerNorm.*", "encoder.layer.0.*"]


def text_config(tokenizer, model_type: str = "bert") -> dict:
    config = tiny_text_config(len(tokenizer), model_type)
    config |= DEPTHS.get(model_type, {"num_hidden_layers": 3})
    if model_type in ("llama", "qwen2"):
        config["num_key_value_heads"] = 1
    if model_type == "modernbert":  # of its two kinds of attention, one is on either side
        config |= {"global_attn_every_n_layers": 2, "local_attention": 4}
    if model_type == "deberta-v2":
        config |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}
        config |= {"norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
    return {**config, "pad_token_id": 0}


@pytest.fixture
def make_frozen(make_model, tokenizer):
    """A factory of models without dropout, their lower layers frozen: `make_frozen("text+image", last=2)`."""

    def make(kind="text", last: int = 1, text="bert", vision="vit", patterns=None, **fields):
        if "text" in kind:
            fields["text_config"] = text_config(tokenizer, text)
        if "image" in kind:
            fields.setdefault("vision_config", VISION[vision])
        fields = {
            "user_encoder_type": "ligr",
            **fields,
        }  # smooth: ReLU has a kink, where rounding is seen in gradients
        model = perturb(make_model(kind, hidden_dropout_prob=0.0, loss_type="bce", num_negatives=2, **fields))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.freeze_backbone(None if patterns else last, patterns)
        return model

    return make


@pytest.fixture
def make_trainer(items, train_split, validation_split, processor_of, tmp_path):
    def make(model, kind="text", output="out", callbacks=None, **options):
        options = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-2, **options}
        args = TransRecTrainingArguments(str(tmp_path / output), use_cpu=True, disable_tqdm=True, **options)
        processor = processor_of[kind]
        return TransRecTrainer(
            model, args, items, train_split, validation_split, processing_class=processor, callbacks=callbacks
        )

    return make


@pytest.fixture
def plain(monkeypatch):
    """Turns the feature off for the Trainers that are made after it is called."""
    as_they_are = lambda model, items, *_, **__: items  # noqa: E731
    return lambda: monkeypatch.setattr("modeling_transrec.training.trainer.precompute", as_they_are)


def count_calls(modules) -> list:
    """A list that grows by every real run of a module."""
    calls = []
    for module in modules:

        def counted(*args, forward=module.forward, **kwargs):
            calls.append(1)
            return forward(*args, **kwargs)

        module.forward = counted
    return calls


def check_step(model, kind, make_collator, processor_of, histories, tmp_path, frozen: int | dict[str, int]):
    """One step on stored outputs is one of the whole model, and leaves the frozen layers out, so many of each part."""
    collator = make_collator(kind, model)
    users = [histories[user] for user in range(NUM_USERS)]
    expected = step(model, collator(users))
    vectors = model.get_item_features(**processor_of[kind].pad(collator.items[:9]))
    before = list(model.state_dict())
    items = precompute(model, collator.items, processor_of[kind], chunk_size=8, cache_dir=tmp_path)
    assert isinstance(items, PrecomputedItems), "the plain path was taken"
    collator.items = items
    calls = []
    for part in (model.item_encoder.text, model.item_encoder.image):
        if part is not None:
            layers = layers_of(part.backbone)
            count = (
                frozen if isinstance(frozen, int) else frozen["text" if part is model.item_encoder.text else "image"]
            )
            assert len(part.frozen_layers.layers) == count and part.frozen_layers.layers == layers[:count]
            for layer in layers[:count]:
                for child in layer.children():
                    child.register_forward_hook(lambda *_: calls.append(1))
    batch = collator(users)
    assert "pixel_values" not in batch
    assert_same(step(model, batch), expected)
    model.enable_gradient_caching(5)
    assert_same(step(model, batch), expected)
    model.item_encoder.chunk_size = None
    found = model.get_item_features(**processor_of[kind].pad(items[np.arange(9)]))
    assert torch.allclose(found, vectors, atol=1e-5)
    assert not calls
    assert list(model.state_dict()) == before
    assert not any("forward" in vars(module) for module in model.modules())
    return batch


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("model_type", TEXT_TYPES)
def test_texts(model_type, last, make_frozen, make_collator, processor_of, histories, tmp_path):
    patterns = None
    if model_type == "deberta-v2":
        patterns = DEBERTA_BELOW if last == 2 else [*DEBERTA_BELOW, "encoder.layer.1.*", "encoder.conv.*"]
    if model_type == "mpnet":
        patterns = ["embeddings.*", "encoder.relative_attention_bias.*", "encoder.layer.0.*"]
        patterns += ["encoder.layer.1.*"] if last == 1 else []
    model = make_frozen("text", last, model_type, patterns=patterns)
    check_step(model, "text", make_collator, processor_of, histories, tmp_path, frozen=3 - last)


@pytest.mark.parametrize("model_type", VISION)
def test_pictures(model_type, make_frozen, make_collator, processor_of, histories, tmp_path):
    model = make_frozen("image", 1, vision=model_type)
    frozen = len(layers_of(model.item_encoder.image.backbone)) - 1
    if "resnet" in model_type:  # one whose batch norm is trained cannot be encoded in chunks
        model.enable_gradient_caching = lambda chunk_size: None
    check_step(model, "image", make_collator, processor_of, histories, tmp_path, frozen)


@pytest.mark.parametrize("kind", ["text+image", "text+id", "image+id", "text+image+id"])
def test_several_parts(kind, make_frozen, make_collator, processor_of, prepared_items, items, histories, tmp_path):
    from modeling_transrec import TransRecProcessor
    from modeling_transrec.data.preparation import prepare_items

    if kind not in processor_of:
        parts = {"text": "tokenizer", "image": "image_processor"}
        given = {parts[part]: getattr(processor_of[part], parts[part]) for part in kind.split("+") if part in parts}
        processor_of = {kind: TransRecProcessor(**given, item_ids=list(items["item_id"]))}
        collator = make_collator
        prepared = prepare_items(items, processor_of[kind])

        def make_collator(name, model):
            made = collator("text", model)
            made.items, made.processor = prepared, processor_of[kind]
            return made

    fields = {"num_items": NUM_ITEMS} if "id" in kind else {}
    model = make_frozen(kind, 1, fusion="gated", **fields)
    check_step(model, kind, make_collator, processor_of, histories, tmp_path, frozen=2)


@pytest.mark.parametrize("last", [1, None])  # and nothing of the backbones trained
@pytest.mark.parametrize("fusion", ["co_attention", "merged_attention"])
def test_fusions_of_tokens(fusion, last, make_frozen, make_collator, processor_of, histories, tmp_path):
    model = make_frozen("text+image", last, fusion=fusion)
    frozen = 3 if last is None else 2
    check_step(model, "text+image", make_collator, processor_of, histories, tmp_path, frozen)


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("model_type", ["clip", "chinese_clip", "vision-text-dual-encoder"])
def test_dual_encoders(model_type, chunk_size, make_collator, processor_of, tokenizer, histories, tmp_path):
    torch.manual_seed(0)
    multimodal = tiny_dual_config(model_type, tokenizer)
    for tower in ("text_config", "vision_config"):
        multimodal[tower] |= {"num_hidden_layers": 3}
    fields = {"hidden_size": 16, "user_encoder_type": "ligr", "hidden_dropout_prob": 0.0}
    model = perturb(TransRecForSequentialRecommendation(TransRecConfig(multimodal_config=multimodal, **fields))).eval()
    model.freeze_backbone(train_last_n_layers=1)
    if chunk_size is not None:
        model.enable_gradient_caching(chunk_size)
    collator, processor = make_collator("clip", model), processor_of["clip"]
    users = [histories[user] for user in range(NUM_USERS)]
    expected = step(model, collator(users))
    items = precompute(model, collator.items, processor, chunk_size=8, cache_dir=tmp_path)
    assert set(items.folders) == {"text_states", "image_states"}
    collator.items, calls = items, []
    for part in model.item_encoder.parts:
        assert part.frozen_layers.layers == layers_of(part.tower)[:2]
        for layer in part.frozen_layers.layers:
            for child in layer.children():
                child.register_forward_hook(lambda *_: calls.append(1))
    batch = collator(users)
    assert "pixel_values" not in batch
    assert_same(step(model, batch), expected)
    assert not calls
    assert not any("frozen" in name for name in model.state_dict())


@pytest.mark.parametrize("model_type", ["siglip", "vilt"])
def test_states_that_take_padding_or_two_contents_are_computed_in_every_step(
    model_type, tokenizer, make_collator, processor_of, histories, tmp_path, caplog
):
    kind = "vilt" if model_type == "vilt" else "clip"
    if model_type == "vilt":
        multimodal = {**tiny_vilt_config(len(tokenizer)), "num_hidden_layers": 3}
    else:
        multimodal = tiny_dual_config("siglip", tokenizer)
        for tower in ("text_config", "vision_config"):
            multimodal[tower] |= {"num_hidden_layers": 2}
    model = perturb(TransRecForSequentialRecommendation(TransRecConfig(multimodal_config=multimodal, hidden_size=16)))
    model.freeze_backbone(train_last_n_layers=1)
    collator = make_collator(kind, model)
    users = [histories[user] for user in range(NUM_USERS)]
    expected = step(model.eval(), collator(users))
    collator.items = precompute(model, collator.items, processor_of[kind], 8, tmp_path)
    assert "only those of text and image backbones that read no padding, nor their first layer, are" in caplog.text
    assert_same(step(model, collator(users)), expected)


@pytest.mark.parametrize("fully", [True, False])
def test_a_fusion_of_tokens_over_a_backbone_whose_pooler_is_wider(
    fully, make_frozen, make_collator, processor_of, histories, tmp_path
):
    architecture = {"model_type": "timm_wrapper", "architecture": "mobilenetv3_small_050"}
    patterns = None if fully else ["text.*", "timm_model.conv_stem.*", "timm_model.bn1.*", "timm_model.blocks.0.*"]
    vision = {"vision_config": {**architecture, "model_args": {"features_only": False}}}
    model = make_frozen(
        "text+image", None, fusion="co_attention", vision_config=vision["vision_config"], patterns=patterns
    )
    collator = make_collator("text+image", model)
    users = [histories[user] for user in range(5)]
    expected = step(model, collator(users))
    collator.items = precompute(model, collator.items, processor_of["text+image"], 8, tmp_path)
    assert_same(step(model, collator(users)), expected)


def test_a_frozen_backbone_whose_layers_are_not_found(make_frozen, processor_of, prepared_items, tmp_path, caplog):
    model = make_frozen("text+image", None, fusion="merged_attention")
    del model.item_encoder.image.backbone.layers
    items = precompute(model, prepared_items["text+image"], processor_of["text+image"], 8, tmp_path)
    assert set(items.folders) == {"text_states"}
    assert "image backbone's frozen layers are computed in every step: they are not found" in caplog.text


def test_one_of_two_backbones_is_frozen_whole(make_frozen, make_collator, processor_of, histories, tmp_path):
    model = make_frozen("text+image", patterns=["text.*", "embeddings.*", "image.layers.0.*", "image.layers.1.*"])
    check_step(model, "text+image", make_collator, processor_of, histories, tmp_path, {"text": 3, "image": 2})


@pytest.mark.parametrize("kind", ["text", "image", "text+image"])
def test_the_trainer_trains_to_the_same_weights(kind, make_frozen, make_trainer, plain, tmp_path):
    fast = make_trainer(make_frozen(kind, 1), kind, "fast")
    assert isinstance(fast.data_collator.items, PrecomputedItems)
    parts = [part for part in (fast.model.item_encoder.text, fast.model.item_encoder.image) if part is not None]
    calls = []
    for part in parts:
        for layer in part.frozen_layers.layers:
            next(layer.children()).register_forward_hook(lambda *_: calls.append(1))
    fast.train()
    assert not calls  # neither in training nor in validation
    fast.save_model()
    plain()
    slow = make_trainer(make_frozen(kind, 1), kind, "slow")
    assert not isinstance(slow.data_collator.items, PrecomputedItems)
    slow.train()
    slow.save_model()
    assert_equal_weights(weights(fast.model), weights(slow.model), atol=1e-5)
    hits = [[entry["eval_hr@10"] for entry in t.state.log_history if "eval_hr@10" in entry] for t in (fast, slow)]
    assert hits[0] == hits[1] and len(hits[0]) == 2
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("fast", "slow")]
    assert files[0] == files[1]
    configs = [(tmp_path / name / "config.json").read_bytes() for name in ("fast", "slow")]
    assert configs[0] == configs[1]
    again, info = TransRecForSequentialRecommendation.from_pretrained(tmp_path / "fast", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_equal_weights(weights(again), weights(fast.model), atol=0)


def test_no_picture_is_read(make_frozen, make_trainer, processor_of, monkeypatch):
    make_trainer(make_frozen("image"), "image", "first")  # stores the outputs
    trainer = make_trainer(make_frozen("image"), "image", "second")
    assert trainer.data_collator.items.column_names == ["image_states"]
    seen = []
    processor = type(processor_of["image"])
    pad = processor.pad
    monkeypatch.setattr(processor, "pad", lambda self, items: seen.append(set(items)) or pad(self, items))
    trainer.train()
    assert seen and all(names == {"image_states"} for names in seen)


def stored_folders(tmp_path) -> set:
    return {path.name for path in (tmp_path / "transrec_features").iterdir() if path.is_dir()}


def test_outputs_are_kept_for_other_runs(make_frozen, processor_of, prepared_items, tmp_path, monkeypatch):
    processor, prepared = processor_of["text"], prepared_items["text"]
    first = precompute(make_frozen("text", 1), prepared, processor, 8, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in first.folders["text_states"].iterdir()}
    model = make_frozen("text", 1)
    with torch.no_grad():
        layers_of(model.item_encoder.text.backbone)[2].output.dense.weight.add_(1.0)  # is trained: does not matter
    second = precompute(model, prepared, processor, 5, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in second.folders["text_states"].iterdir()} == files
    assert len(stored_folders(tmp_path)) == 1
    precompute(make_frozen("text", 2), prepared, processor, 8, tmp_path)
    assert len(stored_folders(tmp_path)) == 2
    model = make_frozen("text", 1)
    with torch.no_grad():
        layers_of(model.item_encoder.text.backbone)[0].output.dense.weight.add_(0.1)
    precompute(model, prepared, processor, 8, tmp_path)
    assert len(stored_folders(tmp_path)) == 3
    with torch.autocast("cpu", torch.bfloat16):
        precompute(model, prepared, processor, 8, tmp_path)
    assert len(stored_folders(tmp_path)) == 4

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with torch.no_grad():
        layers_of(model.item_encoder.text.backbone)[1].output.dense.weight.add_(0.1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("modeling_transrec.training.precomputed.tqdm", interrupted)
        precompute(model, prepared, processor, 8, tmp_path)
    assert len(stored_folders(tmp_path)) == 4  # nothing half-written is left


def test_real_tokens_alone_are_stored(make_frozen, processor_of, prepared_items, tmp_path):
    prepared = prepared_items["text"]
    items = precompute(make_frozen("text"), prepared, processor_of["text"], 8, tmp_path)
    lengths = [len(ids) for ids in prepared["input_ids"]]
    assert items.arrays["text_states"].values.shape == (sum(lengths), 20)
    assert text_lengths(items).tolist() == lengths
    again = pickle.loads(pickle.dumps(items))
    rows = np.array([3, 30, 5])
    for one, other in zip(again[rows].values(), items[rows].values(), strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    assert isinstance(again.arrays["text_states"].values, np.memmap)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_bfloat16_is_stored_as_it_is(kind, make_frozen, make_collator, processor_of, histories, tmp_path):
    model = make_frozen(kind, 1).to(torch.bfloat16)
    model.model.user_encoder.float()
    collator = make_collator(kind, model)
    batch = collator([histories[0]])
    items = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values") if name in batch}
    expected = model.get_item_features(**items)
    collator.items = precompute(model, collator.items, processor_of[kind], 8, tmp_path)
    assert collator.items.arrays[f"{kind}_states"].values.dtype == np.uint16
    batch = collator([histories[0]])
    assert batch[f"{kind}_states"].dtype == torch.bfloat16
    names = ("input_ids", "attention_mask", f"{kind}_states")
    found = model.get_item_features(**{name: batch[name] for name in names if name in batch})
    assert torch.allclose(found, expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_with_autocast_workers_and_activation_checkpointing(kind, make_frozen, make_trainer, plain):
    options = {"bf16": True, "dataloader_num_workers": 2, "activation_checkpointing": True, "optim": "sgd"}
    options |= {"gradient_caching_chunk_size": 7, "learning_rate": 0.05, "num_train_epochs": 1}
    fast = make_trainer(make_frozen(kind, 1), kind, "fast", **options)
    assert isinstance(fast.data_collator.items, PrecomputedItems)
    fast.train()
    plain()
    slow = make_trainer(make_frozen(kind, 1), kind, "slow", **options)
    slow.train()
    assert_equal_weights(weights(fast.model), weights(slow.model), atol=2e-3)


@pytest.mark.parametrize("checkpointing", [{"use_reentrant": False}, None])
def test_activation_checkpointing(checkpointing, make_frozen, make_collator, processor_of, histories, tmp_path):
    model = make_frozen("text", 2)
    collator = make_collator("text", model)
    users = [histories[user] for user in range(NUM_USERS)]
    expected = step(model, collator(users))
    model.activation_checkpointing_enable(checkpointing)
    collator.items = precompute(model, collator.items, processor_of["text"], 8, tmp_path)
    assert_same(step(model.train(), collator(users)), expected)


def test_dropout_of_the_trained_layers_is_that_of_the_plain_run(make_frozen, make_trainer, plain):
    def model():
        model = make_frozen("text", 1)
        for module in layers_of(model.item_encoder.text.backbone)[2].modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        return model

    fast = make_trainer(model(), "text", "fast")
    fast.train()
    plain()
    slow = make_trainer(model(), "text", "slow")
    slow.train()
    assert_equal_weights(weights(fast.model), weights(slow.model), atol=1e-5)


def test_resumed_equals_uninterrupted(make_frozen, make_trainer):
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 3, "eval_steps": 3}
    options |= {"load_best_model_at_end": False, "save_total_limit": None, "num_train_epochs": 3}
    whole = make_trainer(make_frozen(), output="whole", **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(make_frozen(), output="resumed", callbacks=[Interrupt(step=8)], **options).train()
    other = make_frozen()  # a run that begins with other frozen weights takes those of the checkpoint
    with torch.no_grad():
        other.item_encoder.text.backbone.embeddings.word_embeddings.weight.add_(0.5)
        layers_of(other.item_encoder.text.backbone)[0].output.dense.weight.normal_()
    resumed = make_trainer(other, output="resumed", **options)
    resumed.train(resume_from_checkpoint=True)
    assert isinstance(resumed.data_collator.items, PrecomputedItems)
    assert_equal_weights(weights(resumed.model), weights(whole.model), atol=0)


def test_with_torch_compile_the_trained_layers_are_compiled(make_frozen, make_trainer):
    torch.compiler.reset()
    plain = make_trainer(make_frozen())
    plain.train()
    counters.clear()
    trainer = make_trainer(make_frozen(), output="compiled", torch_compile_backend="eager")
    assert isinstance(trainer.data_collator.items, PrecomputedItems)
    trainer.train()
    assert counters["stats"]["unique_graphs"] >= 1
    assert_equal_weights(weights(trainer.model), weights(plain.model), atol=1e-5)


class TestThePlainPathIsTaken:
    def check(self, reason, model, kind, processor_of, prepared_items, tmp_path, caplog):
        items = precompute(model, prepared_items[kind], processor_of[kind], 8, tmp_path)
        assert items is prepared_items[kind]
        assert "frozen layers are computed in every step" in caplog.text and reason in caplog.text
        ours = [record for record in caplog.records if record.name.startswith("modeling_transrec")]
        assert len([record for record in ours if record.levelno == logging.WARNING]) == 1
        batch = processor_of[kind].pad(items[:5])
        assert model.get_item_features(**batch).isfinite().all()

    def test_where_something_trained_comes_first(self, make_frozen, processor_of, prepared_items, tmp_path, caplog):
        model = make_frozen("text", 1, "deberta-v2")  # its relative positions are trained, and read by every layer
        reason = "they depend on what is trained: encoder.rel_embeddings.weight, encoder.LayerNorm.weight"
        self.check(reason, model, "text", processor_of, prepared_items, tmp_path, caplog)

    def test_where_the_first_layer_is_read(self, make_frozen, processor_of, prepared_items, tmp_path, caplog):
        model = make_frozen("text", 1, text_pooling="first_last")
        self.check("nor their first layer", model, "text", processor_of, prepared_items, tmp_path, caplog)

    def test_with_adapters(self, make_model, processor_of, prepared_items, tokenizer, tmp_path, caplog):
        model = make_model("text", text_config=text_config(tokenizer))
        model.add_peft_adapter(
            {"peft_type": "LORA", "r": 2, "target_modules": ["query"], "layers_to_transform": [2]},
        )
        self.check("adapters", model, "text", processor_of, prepared_items, tmp_path, caplog)

    def test_with_layerdrop(self, make_frozen, processor_of, prepared_items, tmp_path, caplog):
        model = make_frozen("text", 1, "opt")
        model.item_encoder.text.backbone.config.layerdrop = 0.1
        self.check("layerdrop", model, "text", processor_of, prepared_items, tmp_path, caplog)

    def test_where_the_disk_is_full(self, make_frozen, processor_of, prepared_items, tmp_path, caplog, monkeypatch):
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr("modeling_transrec.training.precomputed.shutil.disk_usage", lambda folder: usage)
        self.check("MB that are free", make_frozen(), "text", processor_of, prepared_items, tmp_path, caplog)
        assert not stored_folders(tmp_path)

    def test_where_the_vectors_would_be_others(self, make_frozen, processor_of, prepared_items, tmp_path, caplog):
        model = make_frozen("text", 1)
        backbone = model.item_encoder.text.backbone
        around = []
        layers_of(backbone)[0].register_forward_hook(lambda module, args, output: around.append(output))

        def add(module, args, output):
            output.last_hidden_state = output.last_hidden_state + around[-1]
            return output

        backbone.register_forward_hook(add)
        self.check("are others", model, "text", processor_of, prepared_items, tmp_path, caplog)

    def test_where_the_backbone_fails_without_them(self, make_frozen, processor_of, prepared_items, tmp_path, caplog):
        model = make_frozen("text", 1)
        layer = layers_of(model.item_encoder.text.backbone)[1]

        def wants_its_input(module, args, output):
            if "forward" in vars(module):
                raise TypeError("no")

        layer.register_forward_hook(wants_its_input)
        self.check("fails (TypeError", model, "text", processor_of, prepared_items, tmp_path, caplog)

    def test_where_the_towers_are_not_found(
        self, make_model, processor_of, prepared_items, tmp_path, caplog, monkeypatch
    ):
        model = make_model("clip")
        model.freeze_backbone(freeze_modules=["text_model.*"])
        monkeypatch.setattr(Tower, "tower", None)
        self.check("not found in this backbone", model, "clip", processor_of, prepared_items, tmp_path, caplog)


def test_damaged_outputs_are_noticed(make_frozen, processor_of, prepared_items, tmp_path, caplog):
    model = make_frozen()
    items = precompute(model, prepared_items["text"], processor_of["text"], 8, tmp_path)
    states = np.load(items.folders["text_states"] / "values.npy")
    np.save(items.folders["text_states"] / "values.npy", states[::-1])
    again = precompute(model, prepared_items["text"], processor_of["text"], 8, tmp_path)
    assert again is prepared_items["text"] and "are others" in caplog.text


def test_layers_that_are_trained_again_are_an_error(make_frozen, make_collator, processor_of, histories, tmp_path):
    model = make_frozen()
    collator = make_collator("text", model)
    collator.items = precompute(model, collator.items, processor_of["text"], 8, tmp_path)
    model.requires_grad_(True)
    with pytest.raises(RuntimeError, match="make a new TransRecTrainer"):
        model(**collator([histories[0]]))
    copied = copy.deepcopy(model)
    assert copied.item_encoder.text.frozen_layers.layers[0] is layers_of(copied.item_encoder.text.backbone)[0]
    model.item_encoder.text.frozen_layers = None
    with pytest.raises(ValueError, match="training.precomputed"):
        model(**collator([histories[0]]))
