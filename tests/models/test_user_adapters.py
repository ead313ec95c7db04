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

from ..checks import perturb, trained
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


def test_platforms_share_a_model_and_change_nothing_of_one_another(make_model, make_collator, histories, tmp_path):
    """Conure's promise: each platform is trained after the other, and all that was there before stays, to the bit."""
    model = perturb(make_model("text"))
    batch = make_batch(model, make_collator, "text", histories)
    results = {"source": model(**batch).logits}
    for name in ("books", "games"):
        model.add_platform(name, reduction=2)
        assert torch.equal(model(**batch).logits, results["source"])  # a new one starts there
        assert trained(model) and all(f"adapters.{len(results) - 1}." in key for key in trained(model))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(2):
            optimizer.zero_grad()
            model.train()(**batch).loss.backward()
            optimizer.step()
        results[name] = model.eval()(**batch).logits
        for known, logits in results.items():
            model.set_platform(known)
            assert torch.equal(model(**batch).logits, logits), (name, known)
    assert len({logits.sum().item() for logits in results.values()}) == 3

    model.save_pretrained(tmp_path)
    for name, logits in results.items():
        again = TransRecForSequentialRecommendation.from_pretrained(tmp_path, platform=name).eval()
        assert again.config.platforms == ["books", "games"]
        assert torch.equal(again(**batch).logits, logits)
        assert any(weight.requires_grad for weight in again.parameters()) == (name != "source")
        again.freeze_user_encoder()
        assert all(f"adapters.{['books', 'games'].index(name)}." in key for key in trained(again.user_encoder))
    with pytest.raises(ValueError, match="did you mean 'games'"):
        TransRecForSequentialRecommendation.from_pretrained(tmp_path, platform="gams")


def test_adapters_of_a_platform_read_what_the_projection_leaves_out(make_model, make_collator, histories):
    model = make_model("text", item_projection="linear")
    model.item_encoder.text.projection.layers.weight.data.zero_()
    items = make_batch(model, make_collator, "text", histories)
    items = {name: items[name] for name in ("input_ids", "attention_mask")}
    model.add_platform("books", "serial", reduction=1)
    (adapter,) = model.item_encoder.text.projection.adapter.adapters
    adapter.change.weight.data.normal_()
    adapter.change.bias.data.normal_()
    found = model.get_item_features(**items)
    features = model.item_encoder.text.features(**items)
    added = features @ adapter.change.weight.T + adapter.change.bias
    torch.testing.assert_close(found, added + model.item_encoder.text.projection.layers.bias)
    assert found.std(dim=0).min() > 0
    model.set_platform("source")
    assert model.get_item_features(**items).std(dim=0).max() == 0  # the projection has left everything out


def test_what_no_platform_can_have_is_refused(make_model):
    model = make_model("text")
    with pytest.raises(ValueError, match="choose another name"):
        model.add_platform("source")
    assert model.config.platforms is None and model.config.user_adapter is None
    model.add_platform("books")
    with pytest.raises(ValueError, match="'books' twice"):
        model.add_platform("books")
    with pytest.raises(ValueError, match="serial and 4 times as narrow, all of them"):
        model.add_platform("games", "parallel")
    with pytest.raises(ValueError, match="has no ids"):
        model.add_item_ids(5)
    with pytest.raises(ValueError, match="drop the ids before"):
        make_model("text+id").add_platform("books")
    adapted = make_model("text")
    adapted.add_user_adapter()
    with pytest.raises(ValueError, match="which are no platform's"):
        adapted.add_platform("books")


def test_what_platforms_share_is_never_trained(make_model):
    """Adapters of the backbone and permutations would be trained; merging adapters leaves the rest frozen."""
    lora = {"peft_type": "LORA", "r": 2, "target_modules": ["query"]}
    model = make_model("text", item_projection="codes", num_codebooks=2, codebook_size=4)
    model.add_peft_adapter(lora)
    model.add_platform("books")
    own = trained(model)
    model.merge_peft_adapter()
    assert own and all("adapters.0." in key for key in own) and trained(model) == own
    for change in (lambda: model.add_peft_adapter(lora), model.permute_codes, model.merge_code_permutation):
        with pytest.raises(ValueError, match="what the platforms books share, .* before the first platform is added"):
            change()
    assert trained(model) == own and not model.config.permute_codes and model.config.peft_config is None


def test_a_platform_that_is_refused_leaves_the_model_as_it_was(make_model):
    model = make_model("text")
    before, weights = model.config.to_dict(), trained(model)
    for change, message in [
        (lambda: model.set_platform("source"), "no platforms to choose 'source' from: add_platform"),
        (lambda: model.add_platform(5), "'platforms'"),
        (lambda: model.add_user_adapter("serial", reduction=2.5), "expected int, got float"),
    ]:
        with pytest.raises(ValueError, match=message):
            change()
        assert model.config.to_dict() == before and trained(model) == weights
