"""Bottleneck adapters in every user encoder: nothing changes at the start, and nothing else is trained."""

import pytest
import torch
import torch.nn.functional as F

from modeling_transrec import (
    DataArguments,
    ModelArguments,
    TransRecForSequentialRecommendation,
    TransRecTrainingArguments,
    train,
)
from modeling_transrec.models.user_adapters import BottleneckAdapter
from modeling_transrec.models.user_encoders import USER_ENCODERS

from ..checks import perturb
from ..tiny import make_batch


@pytest.mark.parametrize("placement", ["serial", "parallel"])
@pytest.mark.parametrize("user_encoder", [name for name, one in USER_ENCODERS.items() if one.supports_adapters])
def test_adapters_start_at_no_change_and_only_they_are_trained(
    user_encoder, placement, make_model, make_collator, histories, tmp_path
):
    model = perturb(make_model("id", user_encoder_type=user_encoder))
    batch = make_batch(model, make_collator, "id", histories)
    before = model(**batch).loss
    model.add_user_adapter(placement, reduction=3)
    model.freeze_user_encoder()
    assert torch.equal(model(**batch).loss, before)

    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    plain = {name: one.clone() for name, one in model.model.user_encoder.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    for name, parameter in model.model.user_encoder.named_parameters():
        assert torch.equal(parameter, plain[name]) != ("adapter" in name), name

    model.save_pretrained(tmp_path)
    again = TransRecForSequentialRecommendation.from_pretrained(tmp_path).eval()
    assert again.config.user_adapter == placement
    assert torch.equal(again(**batch).loss, model(**batch).loss)
    with pytest.raises(ValueError, match="has .* adapters already"):
        again.add_user_adapter()


def test_each_view_gets_adapters_of_its_width_and_its_attention(make_model, make_collator, histories):
    model = perturb(make_model("text+id", fusion="id_aware", loss_type="distilled_in_batch", logq_correction=False))
    batch = make_batch(model, make_collator, "text+id", histories)
    before = model(**batch).loss
    model.add_user_adapter("serial", reduction=2)
    assert torch.equal(model(**batch).loss, before)
    model.set_attn_implementation("eager")
    assert all(weights is not None for weights in model(**batch, output_attentions=True).attentions)


@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_an_adapter_reads_what_its_placement_says(placement, make_model):
    model = perturb(make_model("id", user_encoder_type="gru4rec", num_hidden_layers=1, user_adapter=placement))
    vectors, mask = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    layer = model.model.user_encoder.layers[0]
    outputs = layer.gru(vectors)[0]
    read = vectors if placement == "parallel" else outputs
    down, up = layer.adapter.down, layer.adapter.up
    assert down.weight.shape == (4, 16)
    expected = outputs + F.gelu(read @ down.weight.T + down.bias) @ up.weight.T
    torch.testing.assert_close(model.model.get_user_hidden(vectors, mask), expected)


def test_a_user_encoder_that_is_frozen_whole_has_no_dropout(make_model, make_collator, histories):
    model = make_model("id", hidden_dropout_prob=0.5)
    batch = make_batch(model, make_collator, "id", histories)
    model.freeze_user_encoder()
    assert torch.equal(model.train()(**batch).loss, model.eval()(**batch).loss)
    model.add_user_adapter()
    model.freeze_user_encoder()
    assert not torch.equal(model.train()(**batch).loss, model.eval()(**batch).loss)


@pytest.mark.slow
def test_a_checkpoint_gets_adapters_by_options(tmp_path, capsys):
    data = DataArguments(dataset_config_name="Sample_Target")
    options = {"num_train_epochs": 1, "max_steps": 2, "use_cpu": True, "max_eval_users": 20}
    first = ModelArguments(modality="id", hidden_size=16)
    train(first, data, TransRecTrainingArguments(str(tmp_path / "first"), **options))
    adapted = ModelArguments(model_name_or_path=str(tmp_path / "first"), user_adapter="serial")
    args = TransRecTrainingArguments(str(tmp_path / "second"), freeze_user_encoder=True, **options)
    model = train(adapted, data, args).model
    adapters = [one for one in model.user_encoder.modules() if isinstance(one, BottleneckAdapter)]
    count = sum(weight.numel() for one in adapters for weight in one.parameters())
    assert len(adapters) == 4 and count == 4 * (16 * 4 + 4 + 4 * 16)
    trained = sum(weight.numel() for weight in model.user_encoder.parameters() if weight.requires_grad)
    assert trained == count
    assert f"Trains {count + 300 * 16:,} of " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--user_adapter_reduction 8 has no effect"):
        wrong = ModelArguments(modality="id", user_adapter_reduction=8)
        train(wrong, data, TransRecTrainingArguments(str(tmp_path / "third"), **options))
