"""Gradient caching against the plain step: same loss and gradients, in the memory of one chunk of items or users."""

import itertools

import pytest
import torch
from torch.utils._pytree import tree_leaves

from modeling_transrec import TransRecTrainer, TransRecTrainingArguments
from modeling_transrec.models import item_encoders
from modeling_transrec.models import modeling_transrec as modeling
from modeling_transrec.models.content_encoders import PixelNormalization
from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..checks import assert_same, step
from ..tiny import NUM_USERS, ONE_VECTOR_LOSSES, make_batch


CHUNK_SIZE = 5
KINDS = ("text", "image", "text+image", "text+id", "clip", "vilt")


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_step(kind, make_model, make_collator, histories):
    model = make_model(kind, loss_type="bce", num_negatives=2)
    batch = make_collator(kind, model)([histories[user] for user in range(NUM_USERS)])
    plain = step(model, batch)
    model.enable_gradient_caching(CHUNK_SIZE)
    assert_same(step(model, batch), plain)


USERS = [("id", user_encoder_type, "in_batch") for user_encoder_type in USER_ENCODERS]
USERS += [("id", "sasrec", loss_type) for loss_type in ONE_VECTOR_LOSSES if loss_type != "in_batch"]
USERS += [("text+id", "sasrec", "bce")]


@pytest.mark.parametrize(("kind", "user_encoder_type", "loss_type"), USERS)
def test_users_are_divided_with_every_user_encoder_and_loss(
    kind, user_encoder_type, loss_type, make_model, make_collator, histories, monkeypatch
):
    fields = {"user_encoder_type": user_encoder_type, "loss_type": loss_type, "num_negatives": 3}
    model = make_model(kind, **fields, temperature=0.5, normalize_scores=True)
    batch = make_batch(model, make_collator, kind, histories)
    plain, seen = step(model, batch), []
    method = "at_every_prefix" if model.config.objective == "every_prefix" else "forward"
    encoder = type(model.model.user_encoder)
    monkeypatch.setattr(encoder, method, spied(getattr(encoder, method), seen))
    model.enable_gradient_caching(2)
    assert_same(step(model, batch), plain)
    assert len(seen) > 2 and max(seen) == 2
    output = model(**batch)
    assert (output.user_hidden, output.user_embeds, output.logits) == (None, None, None)
    assert output.item_embeds is not None
    with torch.no_grad():  # nothing to save
        assert model(**batch).user_hidden is not None
    model.enable_gradient_caching(len(batch["labels"]))  # one chunk
    assert_same(step(model, batch), plain)
    assert model(**batch).user_hidden is not None


def spied(forward, seen: list[int]):
    """The same, but it notes how many users there are."""

    def noting(self, item_embeddings, histories):
        seen.append(len(item_embeddings))
        return forward(self, item_embeddings, histories)

    return noting


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_that_of_the_plain_step(
    kind, activation_checkpointing, autocast, make_model, make_collator, histories, monkeypatch
):
    """The plain step here encodes the same chunks, with all their activations kept."""
    model = make_model(kind, loss_type="bce", hidden_dropout_prob=0.3, item_dropout_prob=0.3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    if activation_checkpointing:
        model.activation_checkpointing_enable()
    batch = make_collator(kind, model)([histories[user] for user in range(NUM_USERS)])
    model.enable_gradient_caching(CHUNK_SIZE)
    cached = step(model, batch, autocast=autocast)
    with monkeypatch.context() as patch:
        for module in (item_encoders, modeling):
            patch.setattr(module, "checkpoint", lambda function, *args, use_reentrant: function(*args))
        plain = step(model, batch, autocast=autocast)
    assert_same(cached, plain, atol=1e-6)
    assert torch.equal(cached[2], plain[2])  # what comes after the step draws the same
    assert cached[0] != pytest.approx(step(model, batch, seed=1, autocast=autocast)[0], abs=1e-3)  # there was dropout


def test_each_chunk_is_given_tensors_of_the_models_device(make_model, make_collator, histories, monkeypatch):
    """Torch keeps the random state of the devices on which arguments of the function lie, beside the CPU's."""
    seen = []

    def checkpoint(function, *args, use_reentrant):
        seen.append({leaf.device.type for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)})
        return function(*args)

    monkeypatch.setattr(item_encoders, "checkpoint", checkpoint)
    monkeypatch.setattr(modeling, "checkpoint", checkpoint)
    model = make_model("text+id")
    model.enable_gradient_caching(2)
    model(**make_batch(model, make_collator, "text+id", histories))
    assert len(seen) > 4 and all(devices == {"cpu"} for devices in seen)


def peak_bytes(function) -> int:
    """Most bytes that were allocated at one time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def test_memory_does_not_grow_with_the_number_of_items(make_model):
    model = make_model("text")

    def growth() -> float:
        """Bytes for each further item."""

        def step(num_items: int):
            ids = torch.ones(num_items, 12, dtype=torch.long)
            model.get_item_features(input_ids=ids, attention_mask=ids).sum().backward()

        return (peak_bytes(lambda: step(400)) - peak_bytes(lambda: step(100))) / 300

    plain = growth()
    model.enable_gradient_caching(20)
    assert plain > 10_000
    assert growth() < 1_000  # tokens, mask and vector


def test_memory_does_not_grow_with_the_number_of_users(make_model):
    model = make_model("id", loss_type="in_batch", logq_correction=False)
    batch = {"item_ids": torch.arange(12), "item_index": torch.arange(6)[None], "labels": torch.arange(1, 7)[None]}

    def growth() -> float:
        """Bytes for each further user."""

        def step(num_users: int):
            users = {name: value.expand(num_users, -1) for name, value in batch.items() if name != "item_ids"}
            model(**{**batch, **users}).loss.backward()

        return (peak_bytes(lambda: step(800)) - peak_bytes(lambda: step(200))) / 600

    plain = growth()
    model.enable_gradient_caching(20)
    assert plain > 10_000
    assert growth() < 500  # the random state before each chunk


def test_the_trainer_trains_to_the_same_weights(
    make_model, items, train_split, validation_split, processor_of, tmp_path
):
    weights = []
    for chunk_size in (None, CHUNK_SIZE):
        model = make_model("text", loss_type="bce", hidden_dropout_prob=0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        args = TransRecTrainingArguments(
            output_dir=str(tmp_path / str(chunk_size)),
            gradient_caching_chunk_size=chunk_size,
            num_train_epochs=2,
            per_device_train_batch_size=3,
            gradient_accumulation_steps=2,
            optim="sgd",
            learning_rate=0.05,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = TransRecTrainer(
            model, args, items, train_split, validation_split, processing_class=processor_of["text"]
        )
        trainer.train()
        assert trainer.model.item_encoder.chunk_size == chunk_size
        weights.append(trainer.model.state_dict())
    for name, weight in weights[0].items():
        assert torch.allclose(weights[1][name], weight, atol=1e-5), name


RESNET = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}


def test_beside_adapters_batch_norms_keep_their_statistics(make_model, make_collator, histories):
    model = make_model("image", vision_config=RESNET, loss_type="bce", hidden_dropout_prob=0.0).train()
    lora = {"peft_type": "LORA", "r": 2, "init_lora_weights": False, "target_modules": ["convolution"]}
    model.add_peft_adapter(lora)
    batch = make_collator("image", model)([histories[user] for user in range(NUM_USERS)])
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    assert any("running_mean" in name for name in statistics)
    plain = step(model, batch)
    model.enable_gradient_caching(CHUNK_SIZE)
    assert_same(step(model.train(), batch), plain)
    assert any("lora_" in name for name in plain[1])
    for name, value in model.named_buffers():
        assert torch.equal(value, statistics[name]), name
    model.merge_peft_adapter()
    assert all(module.training for module in model.modules())

    model = make_model("image", vision_config=RESNET)
    model.add_peft_adapter({**lora, "modules_to_save": ["normalization"]})  # trained
    with pytest.raises(ValueError, match="batch norm"):
        model.enable_gradient_caching(8)


@pytest.mark.parametrize("kind", ["image", "text+image", "clip", "vilt"])
def test_images_are_bytes_until_their_chunk_is_encoded(kind, make_model, make_collator, histories):
    model = make_model(kind, hidden_dropout_prob=0.0).eval()
    batch = make_collator(kind, model)([histories[user] for user in range(5)])
    assert batch["pixel_values"].dtype == torch.uint8 and len(batch["pixel_values"]) > CHUNK_SIZE
    plain, seen = step(model, batch), []
    normalization = next(module for module in model.modules() if isinstance(module, PixelNormalization))
    normalization.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    model.enable_gradient_caching(CHUNK_SIZE)
    assert_same(step(model, batch), plain)
    assert seen and max(len(given) for given, _ in seen) <= CHUNK_SIZE
    seen.clear()
    with torch.no_grad():  # all at once, and what is normalised already stays
        expected = model(**batch).loss
        (_, normalised), *others = seen
        assert not others and normalised.dtype == torch.float32
        assert torch.equal(model(**{**batch, "pixel_values": normalised}).loss, expected)


def test_what_cannot_be_encoded_in_chunks_is_refused(make_model):
    model = make_model("image", vision_config=RESNET)
    with pytest.raises(ValueError, match="batch norm"):
        model.enable_gradient_caching(8)
    model.freeze_backbone()
    model.enable_gradient_caching(8)
    with pytest.raises(ValueError, match="at least 1"):
        make_model("text").enable_gradient_caching(0)
