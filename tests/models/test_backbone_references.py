"""Checkpoints without their backbones' weights, which come from the tests' own Hub by id, commit and hash."""

import json
import re

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load, load_file, save, save_file
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, ViTConfig, ViTModel, WhisperConfig, WhisperModel

from modeling_transrec import (
    AutoModelForSequentialRecommendation,
    Recommender,
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecTrainer,
    TransRecTrainingArguments,
)
from modeling_transrec.models import checkpoint_files

from ..checks import perturb
from ..tiny import TINY_VIT, make_inputs, tiny_text_config


BERT, VIT = "someone/tiny-bert", "someone/tiny-vit"
COMMIT, SHA256 = "0123456789" * 4, "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A Hub cache of each test's own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bert(hub, tokenizer):
    """A published text backbone, with a pooling head that is not used."""
    backbone = perturb(BertModel(BertConfig(**{**tiny_text_config(len(tokenizer)), "model_type": "bert"})))
    backbone.push_to_hub(BERT)
    return backbone


def build(**options):
    torch.manual_seed(0)
    model = TransRecForSequentialRecommendation.from_encoder_pretrained(BERT, hidden_size=16, **options).eval()
    for name, parameter in model.named_parameters():
        if ".backbone." not in name:  # as after training with a frozen backbone
            parameter.data += 0.1
    return model


@pytest.fixture
def saved(bert, tmp_path):
    """A checkpoint that refers to the backbone, and the model that was saved."""
    model = build()
    model.save_pretrained(tmp_path / "saved", save_backbone=False)
    return model, tmp_path / "saved"


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    config.update(fields)
    (folder / "config.json").write_text(json.dumps(config))


def change_reference(folder, **parts):
    reference = json.loads((folder / "config.json").read_text())["backbone_references"]["text_config"]
    change_config(folder, backbone_references={"text_config": {**reference, **parts}})


def assert_same(one, other):
    one, other = (getattr(model, "model", model) for model in (one, other))
    expected, found = one.state_dict(), other.state_dict()
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(weight, found[name]), name
    inputs = {name: make_inputs("text")[name] for name in ("item_index", "input_ids", "attention_mask")}
    assert torch.equal(one(**inputs).user_embeds, other(**inputs).user_embeds)


class TestSaving:
    def test_only_the_head_is_in_the_file(self, hub, saved):
        model, folder = saved
        kept, weights = load_file(folder / "model.safetensors"), model.state_dict()
        assert kept.keys() == {name for name in weights if ".backbone." not in name}
        head = sum(weight.numel() * 4 for weight in kept.values())
        assert head < (folder / "model.safetensors").stat().st_size < head + 10_000
        config = json.loads((folder / "config.json").read_text())
        reference = config["backbone_references"]["text_config"]
        assert reference["name"] == BERT and re.fullmatch("[0-9a-f]{64}", reference["sha256"])
        assert reference["revision"] == hub.repositories["models", BERT].branches["main"]
        assert "_commit_hash" not in (folder / "config.json").read_text()
        assert model.config.backbone_references is None

    def test_the_whole_is_the_default_and_has_no_reference(self, saved, tmp_path):
        loaded = TransRecForSequentialRecommendation.from_pretrained(saved[1])
        assert loaded.config.backbone_references is None
        loaded.save_pretrained(saved[1])  # over the other one
        assert json.loads((saved[1] / "config.json").read_text())["backbone_references"] is None
        assert load_file(saved[1] / "model.safetensors").keys() == loaded.state_dict().keys()
        assert_same(TransRecForSequentialRecommendation.from_pretrained(saved[1]), saved[0])

    def test_a_loaded_one_is_saved_again(self, saved, tmp_path):
        loaded = TransRecForSequentialRecommendation.from_pretrained(saved[1])
        loaded.save_pretrained(tmp_path / "again", save_backbone=False)
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / "again" / name).read_bytes() == (saved[1] / name).read_bytes()

    def test_a_commit_stays_what_it_was(self, hub, bert, tmp_path):
        first = hub.repositories["models", BERT].branches["main"]
        perturb(bert).push_to_hub(BERT)
        model = build(backbone_kwargs={"revision": first})
        model.save_pretrained(tmp_path / "saved", save_backbone=False)
        perturb(bert).push_to_hub(BERT)
        assert_same(TransRecForSequentialRecommendation.from_pretrained(tmp_path / "saved"), model)

    def test_what_was_trained_is_not_left_out(self, bert, tmp_path):
        model = build()
        name, weight = next((n, p) for n, p in model.named_parameters() if n.endswith("query.weight"))
        weight.data[0, 0] += 1e-3
        with pytest.raises(ValueError, match=f"1 of its .* weights differ, first {name.partition('backbone.')[2]}.*"):
            model.save_pretrained(tmp_path / "saved", save_backbone=False)
        assert not (tmp_path / "saved").exists()

    def test_a_local_folder_is_not_referred_to(self, bert, tmp_path):
        bert.save_pretrained(tmp_path / "bert")
        model = TransRecForSequentialRecommendation.from_encoder_pretrained(str(tmp_path / "bert"), hidden_size=16)
        with pytest.raises(ValueError, match="was loaded from a local folder"):
            model.save_pretrained(tmp_path / "saved", save_backbone=False)

    def test_a_whole_checkpoint_says_no_commit(self, bert, tmp_path):
        build().save_pretrained(tmp_path / "whole")
        whole = TransRecForSequentialRecommendation.from_pretrained(tmp_path / "whole")
        with pytest.raises(ValueError, match=rf"\({BERT}\) came with a checkpoint that holds its weights"):
            whole.save_pretrained(tmp_path / "saved", save_backbone=False)

    def test_adapters_and_ids(self, bert, make_model, tmp_path):
        with pytest.raises(ValueError, match="an id model has none"):
            make_model("id").save_pretrained(tmp_path / "saved", save_backbone=False)
        pytest.importorskip("peft")
        model = build()
        model.add_peft_adapter({"peft_type": "LORA", "target_modules": ["query"]})
        with pytest.raises(ValueError, match="has adapters"):
            model.save_pretrained(tmp_path / "saved", save_backbone=False)

    def test_only_safetensors_are_referred_to(self, hub, bert, tmp_path):
        model = build()
        files = hub.repositories["models", BERT].commits[hub.repositories["models", BERT].branches["main"]]
        files["pytorch_model.bin"] = files.pop("model.safetensors")
        with pytest.raises(OSError, match="pickles .* are refused"):
            model._backbones_cache = tmp_path / "empty"
            model.save_pretrained(tmp_path / "saved", save_backbone=False)

    def test_half_precision(self, bert, tmp_path):
        build().to(torch.bfloat16).save_pretrained(tmp_path / "half", save_backbone=False)
        build().save_pretrained(tmp_path / "single", save_backbone=False)
        references = [
            TransRecConfig.from_pretrained(tmp_path / name).backbone_references for name in ("half", "single")
        ]
        assert references[0] == references[1]
        half = TransRecForSequentialRecommendation.from_pretrained(tmp_path / "half")
        assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
        assert_same(half, build().to(torch.bfloat16))
        rounded = half.float()
        with pytest.raises(ValueError, match="weights differ"):
            rounded.save_pretrained(tmp_path / "rounded", save_backbone=False)


class TestLoading:
    def test_online_then_offline(self, hub, saved, text_processor, items, monkeypatch, tmp_path):
        model, folder = saved
        text_processor.save_pretrained(folder)
        where = {"cache_dir": tmp_path / "elsewhere"}
        loads = (AutoModel, TransRecModel, AutoModelForSequentialRecommendation, TransRecForSequentialRecommendation)
        assert_same(loads[-1].from_pretrained(folder, **where), model)
        assert hub.count(f"GET /{BERT}/resolve/*/model.safetensors") >= 1
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        before = len(hub.requests)
        for loaded in loads:
            assert_same(loaded.from_pretrained(folder, **where), model)
        Recommender.from_pretrained(folder, **where).index(items).recommend(["i003"], k=5)
        assert len(hub.requests) == before
        with pytest.raises(OSError, match=f"the weights of {BERT} are not in the cache"):
            TransRecModel.from_pretrained(folder, cache_dir=tmp_path / "empty")

    def test_local_files_only(self, hub, saved):
        before = len(hub.requests)
        assert_same(TransRecModel.from_pretrained(saved[1], local_files_only=True), saved[0])
        assert len(hub.requests) == before

    def test_nothing_is_said_to_be_random(self, saved, capfd):
        TransRecForSequentialRecommendation.from_pretrained(saved[1])
        said = capfd.readouterr()
        assert "MISSING" not in said.out + said.err and "newly initialized" not in said.out + said.err

    def test_published_and_loaded_by_name(self, hub, bert, text_processor, items, tmp_path):
        model = build()
        model.push_to_hub("someone/model", save_backbone=False)
        assert_same(TransRecForSequentialRecommendation.from_pretrained("someone/model"), model)
        size = len(hub.files("someone/model")["model.safetensors"])
        model.push_to_hub("someone/whole")
        assert len(hub.files("someone/whole")["model.safetensors"]) > size
        recommender = Recommender(model, text_processor).index(items)
        recommender.push_to_hub("someone/shop", save_backbone=False)
        assert len(hub.files("someone/shop")["model.safetensors"]) == size
        expected = recommender.recommend(["i003", "i010"], k=5)
        assert Recommender.from_pretrained("someone/shop").recommend(["i003", "i010"], k=5) == expected

    def test_other_weights_are_refused(self, hub, saved, bert):
        weights = load(hub.files(BERT)["model.safetensors"])
        weights["embeddings.word_embeddings.weight"][7, 3] += 1e-6
        files = {**hub.files(BERT), "model.safetensors": save(weights, {"format": "pt"})}
        commit = hub.repositories["models", BERT].commit("other", files)
        change_reference(saved[1], revision=commit)
        for loaded in (TransRecModel, AutoModel):
            with pytest.raises(ValueError, match=f"{commit} are not those that the checkpoint refers to .*not used"):
                loaded.from_pretrained(saved[1])

    def test_weights_of_another_shape_are_refused(self, hub, saved, bert):
        config = BertConfig(**{**tiny_text_config(30), "model_type": "bert"})
        BertModel(config).push_to_hub(BERT)
        change_reference(saved[1], revision=hub.repositories["models", BERT].branches["main"])
        with pytest.raises(ValueError, match="do not fit the configuration"):
            TransRecModel.from_pretrained(saved[1])

    def test_a_repository_that_is_gone(self, hub, saved, tmp_path):
        change_reference(saved[1], name="someone/gone")
        with pytest.raises(OSError, match="someone/gone at commit .* the Hub does not give"):
            TransRecModel.from_pretrained(saved[1])

    def test_only_what_is_referred_to_may_be_missing(self, saved):
        file = saved[1] / "model.safetensors"
        weights = load_file(file)
        lost = next(name for name in weights if "projection" in name)
        save_file({name: weight for name, weight in weights.items() if name != lost}, file, {"format": "pt"})
        with pytest.raises(ValueError, match=f"lack 1 of the model's, first .*{lost.removeprefix('model.')}"):
            TransRecForSequentialRecommendation.from_pretrained(saved[1])

    def test_without_a_reference_nothing_is_filled_in(self, saved):
        change_config(saved[1], backbone_references=None)
        with pytest.raises(ValueError, match="lack .* of the model's, first .*backbone"):
            TransRecForSequentialRecommendation.from_pretrained(saved[1])

    def test_what_is_referred_to_may_not_be_there(self, saved):
        """A backbone that was trained in part would lose that part without a word."""
        file = saved[1] / "model.safetensors"
        weights = load_file(file)
        name = next(name for name in saved[0].state_dict() if name.endswith("query.weight"))
        save_file({**weights, name: saved[0].state_dict()[name].clone()}, file, {"format": "pt"})
        with pytest.raises(ValueError, match="holds weights of it, too, first .*query.weight"):
            TransRecForSequentialRecommendation.from_pretrained(saved[1])

    def test_the_size_is_that_of_both(self, saved, monkeypatch):
        """The backbone's own file counts, and a far larger configuration is refused before memory is allocated."""
        monkeypatch.setattr(checkpoint_files, "_FEW_PARAMETERS", 1)
        TransRecModel.from_pretrained(saved[1])
        text = json.loads((saved[1] / "config.json").read_text())["text_config"]
        change_config(saved[1], text_config={**text, "vocab_size": 10**6})
        with pytest.raises(ValueError, match="the configuration asks for"):
            TransRecModel.from_pretrained(saved[1])

    def test_a_folder_of_the_same_name_is_not_read(self, saved, monkeypatch, tmp_path):
        (tmp_path / BERT).mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="must not be read in its place"):
            TransRecModel.from_pretrained(saved[1])

    def test_adapters_in_the_repository(self, hub, saved):
        files = {**hub.files(BERT), "adapter_config.json": b'{"base_model_name_or_path": "/etc"}'}
        commit = hub.repositories["models", BERT].commit("main", files)
        change_reference(saved[1], revision=commit)
        with pytest.raises(ValueError, match="has adapters of peft"):
            TransRecModel.from_pretrained(saved[1])


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"name": "../x"}, "must be a Hub id .*never a path, got '../x'"),
        ({"name": "/etc"}, "must be a Hub id .*never a path, got '/etc'"),
        ({"name": "~/models/bert"}, "must be a Hub id"),
        ({"revision": "main"}, "must be the 40 hexadecimal digits of a commit, got 'main'"),
        ({"revision": COMMIT[:39] + "g"}, "must be the 40 hexadecimal digits"),
        ({"revision": COMMIT + "\n"}, "must be the 40 hexadecimal digits"),
        ({"revision": "../" + COMMIT[3:]}, "must be the 40 hexadecimal digits"),
        ({"sha256": SHA256[:-1]}, "sha256 must be 64 hexadecimal digits"),
        ({"sha256": None}, "sha256 must be 64 hexadecimal digits"),
        ({"subfolder": "x"}, "must have exactly 'name', 'revision', 'sha256'"),
    ],
)
def test_references_are_checked_before_anything_is_read(parts, message, make_model, tmp_path):
    make_model("text").save_pretrained(tmp_path)
    reference = {"name": BERT, "revision": COMMIT, "sha256": SHA256, **parts}
    change_config(tmp_path, backbone_references={"text_config": reference})
    for loaded in (AutoConfig, TransRecModel, AutoModel):
        with pytest.raises(ValueError, match=message):
            loaded.from_pretrained(tmp_path)


def test_references_belong_to_a_backbone():
    reference = {"name": BERT, "revision": COMMIT, "sha256": SHA256}
    for field in ("vision_config", "num_items"):
        with pytest.raises(ValueError, match=f"names {field}, of which the configuration has no backbone"):
            TransRecConfig(text_config=tiny_text_config(30), num_items=5, backbone_references={field: reference})
    with pytest.raises(ValueError, match="has no backbone|must have exactly"):
        TransRecConfig(text_config=tiny_text_config(30), backbone_references={"text_config": "someone/bert"})
    with pytest.raises(ValueError, match="backbone_references is for checkpoints"):
        TransRecModel.from_encoder_pretrained(BERT, backbone_references={"text_config": reference})


def test_two_backbones(hub, bert, tmp_path):
    config = {name: value for name, value in TINY_VIT.items() if name != "model_type"}
    perturb(ViTModel(ViTConfig(**config))).push_to_hub(VIT)
    model = TransRecModel.from_encoder_pretrained(BERT, VIT, hidden_size=16)
    model.save_pretrained(tmp_path, save_backbone=False)
    assert TransRecConfig.from_pretrained(tmp_path).backbone_references.keys() == {"text_config", "vision_config"}
    assert not [name for name in load_file(tmp_path / "model.safetensors") if ".backbone." in name]
    loaded = TransRecModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())


def test_the_encoder_of_a_model_with_a_decoder(hub, tmp_path):
    sizes = {"d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "num_mel_bins": 8}
    sizes |= {"vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    WhisperModel(WhisperConfig(**sizes, max_source_positions=20)).push_to_hub("someone/whisper")
    model = TransRecModel.from_encoder_pretrained(audio_model_name_or_path="someone/whisper", hidden_size=16)
    model.save_pretrained(tmp_path, save_backbone=False)
    loaded = TransRecModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())


class TestTrainer:
    def train(self, model, items, train_split, text_processor, folder, **options):
        args = TransRecTrainingArguments(
            folder,
            save_backbone=False,
            num_train_epochs=1,
            eval_strategy="no",
            load_best_model_at_end=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        return TransRecTrainer(model, args, items, train_split, processing_class=text_processor)

    def test_the_final_model_is_small_and_checkpoints_are_whole(
        self, bert, items, train_split, text_processor, tmp_path
    ):
        trainer = self.train(build(), items, train_split, text_processor, tmp_path / "out", freeze_backbone=True)
        trainer.train()
        trainer.save_model()
        names = load_file(tmp_path / "out" / "model.safetensors").keys()
        assert names and not [name for name in names if ".backbone." in name]
        assert_same(TransRecForSequentialRecommendation.from_pretrained(tmp_path / "out"), trainer.model.eval())
        checkpoint = next((tmp_path / "out").glob("checkpoint-*"))
        assert load_file(checkpoint / "model.safetensors").keys() == trainer.model.state_dict().keys()

    def test_what_cannot_be_left_out_is_said_before_training(
        self, bert, items, train_split, text_processor, make_model, tmp_path
    ):
        with pytest.raises(ValueError, match="not trained; give freeze_backbone"):
            self.train(build(), items, train_split, text_processor, tmp_path)
        with pytest.raises(ValueError, match="started from random weights"):
            self.train(make_model("text"), items, train_split, text_processor, tmp_path, freeze_backbone=True)
