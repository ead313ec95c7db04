"""A preset of the paper beside the recipe of the authors' code, written out plainly."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import DataArguments, ModelArguments, TransRecTrainer, TransRecTrainingArguments
from modeling_transrec.cli.options import parse_arguments
from modeling_transrec.data.collator import TransRecDataCollator
from modeling_transrec.data.image_processors import ninerec_image_processor

from ..tiny import tiny_image, tiny_text_config


RATES = {"learning_rate": 3e-3, "weight_decay": 0.2, "backbone_learning_rate": 1e-3, "backbone_weight_decay": 0.05}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def plain_step(model, optimizer, batch):
    """Encodes, compares each state with its target and one negative, and changes the weights."""
    items = model.get_item_features(**{name: batch[name] for name in ("input_ids", "attention_mask", "has_text")})
    mask = batch["item_index"] >= 0
    vectors = items[batch["item_index"].clamp(min=0)] * mask[:, :, None]
    has_target = batch["labels"] >= 0
    states = model.model.get_user_hidden(vectors, mask)[has_target]
    positive = (states * items[batch["labels"][has_target]]).sum(-1)
    negative = (states * items[batch["negative_index"][has_target][:, 0]]).sum(-1)
    loss = -(F.logsigmoid(positive) + F.logsigmoid(-negative)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.slow
def test_a_preset_of_the_paper_trains_as_its_authors_do(
    make_model, tokenizer, items, train_split, validation_split, text_processor, monkeypatch, tmp_path
):
    types, batches = (ModelArguments, DataArguments, TransRecTrainingArguments), []
    collate = TransRecDataCollator.__call__
    options = {"preset": "bili_food-bert", "output_dir": tmp_path, "use_cpu": "true", **RATES}
    options |= {"max_steps": 150, "per_device_train_batch_size": 4, "hidden_size": 16, "hidden_dropout_prob": 0}
    options |= {"eval_strategy": "steps", "eval_steps": 150, "save_strategy": "steps", "save_steps": 150}
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    model_args, _, args = parse_arguments(types, given, None, has_presets=True)
    model = make_model(
        "text", text_config={**tiny_text_config(len(tokenizer)), **NO_DROPOUT}, **model_args.config_fields()
    ).double()
    plain = copy.deepcopy(model)

    def recording(self, features):
        batches.append(collate(self, features))
        return batches[-1]

    monkeypatch.setattr(TransRecDataCollator, "__call__", recording)
    trainer = TransRecTrainer(model, args, items, train_split, validation_split, processing_class=text_processor)
    trainer.train()

    encoder = plain.item_encoder.text
    like_backbone = [*encoder.backbone.parameters(), *encoder.projection.parameters()]
    known = {id(parameter) for parameter in like_backbone}
    rest = [parameter for parameter in plain.parameters() if id(parameter) not in known]
    optimizer = torch.optim.AdamW(
        [
            {"params": like_backbone, "lr": 1e-3, "weight_decay": 0.05},
            {"params": rest, "lr": 3e-3, "weight_decay": 0.2},
        ]
    )
    assert len(batches) >= 150
    for batch in batches[:150]:
        plain_step(plain.train(), optimizer, batch)
    found = model.state_dict()
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(found[name], expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("initialization", ["xavier", "ninerec"])
def test_new_weights_start_as_in_the_authors_code(initialization, make_model, tokenizer):
    fields = {"initialization": initialization, "hidden_size": 64, "user_encoder_type": "nextitnet"}
    text_config = {**tiny_text_config(len(tokenizer)), "hidden_size": 48, "num_attention_heads": 2}
    model = make_model("text", text_config=text_config, **fields)
    (of_text,) = [one for one in model.item_encoder.text.projection.modules() if isinstance(one, torch.nn.Linear)]
    for layer, fan_in in ((of_text, 48), (model.model.user_encoder.layers[0].convolutions[0], 3 * 64)):
        fan_out = 64 * (3 if layer.weight.ndim == 3 else 1)
        if initialization == "ninerec":
            bound = fan_in**-0.5
            assert bound * 0.9 < layer.weight.abs().max() <= bound and 0 < layer.bias.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        else:
            assert layer.weight.std().item() == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.1)
            assert not layer.bias.any()


def test_images_are_prepared_as_in_the_authors_code():
    image = tiny_image(3)
    pixels = torch.as_tensor(ninerec_image_processor(8)(image, return_tensors="pt")["pixel_values"][0])
    plain = torch.from_numpy(np.array(image.convert("RGB").resize((8, 8), resample=2)))
    torch.testing.assert_close(pixels, ((plain.permute(2, 0, 1) / 255) - 0.5) / 0.5, atol=1e-6, rtol=0)
