"""Checkpoints that travel: to and from a server that speaks the Hub's protocol."""

import json
import resource
import time

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModel, AutoProcessor, ViTImageProcessorPil

from modeling_transrec import (
    SAMPLE_BACKBONE,
    AutoModelForSequentialRecommendation,
    DataArguments,
    FullRankingEvaluator,
    Recommender,
    TransRecConfig,
    TransRecForSequentialRecommendation,
    TransRecModel,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
    train,
)
from modeling_transrec.cli.evaluate import main as evaluate_main
from modeling_transrec.evaluation.arguments import EvaluationArguments
from modeling_transrec.evaluation.baselines import BASELINES, LANGUAGE_MODEL
from modeling_transrec.hub.publish import push_results, upload_checkpoint
from modeling_transrec.hub.results import THIS_MODEL, result_row
from modeling_transrec.hub.safety import check_links
from modeling_transrec.training.model_arguments import ModelArguments
from modeling_transrec.training.model_building import load_model_and_processor


NAME = "ninerec/sasrec-bert-bili2m"


@pytest.fixture
def pushed(hub, make_model, text_processor):
    """A published checkpoint."""
    model = make_model("text")
    model.push_to_hub(NAME)
    text_processor.push_to_hub(NAME)
    return model


def assert_equal_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys() and one
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


class TestRoundTrip:
    def test_model_and_processor_by_name(self, hub, pushed, text_processor, items, tmp_path):
        texts = list(items["text_en"])
        expected = pushed.get_item_features(**text_processor(text=texts))
        for loaded in (TransRecModel, AutoModel):
            model = loaded.from_pretrained(NAME, cache_dir=tmp_path)
            assert type(model) is TransRecModel
            assert_equal_weights(model, pushed.model)
        for loaded in (TransRecForSequentialRecommendation, AutoModelForSequentialRecommendation):
            assert_equal_weights(loaded.from_pretrained(NAME, cache_dir=tmp_path), pushed)
        for loaded in (TransRecProcessor, AutoProcessor):
            processor = loaded.from_pretrained(NAME, cache_dir=tmp_path)
            assert type(processor) is TransRecProcessor
            assert torch.equal(pushed.get_item_features(**processor(text=texts)), expected)
        recommender = Recommender.from_pretrained(NAME, cache_dir=tmp_path).index(items)
        found = Recommender(pushed, text_processor).index(items).recommend(["i003", "i010"], k=5)
        assert recommender.recommend(["i003", "i010"], k=5) == found

    def test_what_is_published(self, hub, pushed):
        files = hub.files(NAME)
        assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= files.keys()
        assert not [name for name in files if name.endswith((".bin", ".py", ".pt", ".pkl"))]
        tags = ModelCard(files["README.md"].decode()).data.tags
        assert {"recommendation", "sequential-recommendation"} <= set(tags)

    def test_a_revision_stays_what_it_was(self, hub, pushed, make_model, items, tmp_path):
        first = hub.repositories["models", NAME].branches["main"]
        other = make_model("text", hidden_size=24)
        other.push_to_hub(NAME, revision="wide")
        assert TransRecModel.from_pretrained(NAME, cache_dir=tmp_path).config.hidden_size == 16
        assert TransRecModel.from_pretrained(NAME, revision="wide", cache_dir=tmp_path).config.hidden_size == 24
        other.push_to_hub(NAME)
        assert TransRecModel.from_pretrained(NAME, cache_dir=tmp_path).config.hidden_size == 24
        assert_equal_weights(TransRecModel.from_pretrained(NAME, revision=first, cache_dir=tmp_path), pushed.model)
        recommender = Recommender.from_pretrained(NAME, revision=first, cache_dir=tmp_path)
        assert recommender.model.config.hidden_size == 16
        started = ModelArguments(NAME, model_revision=first)
        assert load_model_and_processor(started, items)[0].config.hidden_size == 16
        with pytest.raises(OSError, match="nope is not a valid git identifier"):
            TransRecModel.from_pretrained(NAME, revision="nope", cache_dir=tmp_path)

    def test_private_and_token(self, hub, make_model, text_processor, monkeypatch, tmp_path):
        make_model("text").push_to_hub("shop/private", private=True)
        text_processor.push_to_hub("shop/private")
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(OSError, match="not a valid model identifier"):
            TransRecModel.from_pretrained("shop/private", cache_dir=tmp_path)
        model = TransRecModel.from_pretrained("shop/private", token="hf_read", cache_dir=tmp_path)
        assert model.config.hidden_size == 16
        Recommender.from_pretrained("shop/private", token="hf_read", cache_dir=tmp_path)

    def test_the_cache_serves_without_the_hub(self, hub, pushed, monkeypatch, tmp_path):
        Recommender.from_pretrained(NAME, cache_dir=tmp_path)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        before = len(hub.requests)
        assert_equal_weights(TransRecModel.from_pretrained(NAME, cache_dir=tmp_path), pushed.model)
        Recommender.from_pretrained(NAME, cache_dir=tmp_path)
        assert len(hub.requests) == before
        with pytest.raises(OSError, match="weights of ninerec/other are not in the cache, .*offline mode is enabled"):
            TransRecModel.from_pretrained("ninerec/other", cache_dir=tmp_path)

    def test_shards(self, hub, make_model, monkeypatch, tmp_path):
        model = make_model("text")
        model.push_to_hub(NAME, max_shard_size="20KB")
        shards = [name for name in hub.files(NAME) if name.endswith(".safetensors")]
        assert len(shards) > 2 and "model.safetensors.index.json" in hub.files(NAME)
        assert_equal_weights(TransRecModel.from_pretrained(NAME, cache_dir=tmp_path), model.model)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert_equal_weights(TransRecModel.from_pretrained(NAME, cache_dir=tmp_path), model.model)

    def test_weights_of_before_do_not_stay_beside_new_ones(self, hub, make_model, text_processor, tmp_path):
        """A single file would win over the index of shards, in silence."""
        before, now = make_model("text"), make_model("text")
        with torch.no_grad():
            next(now.parameters()).add_(1)
        for number, (model, size) in enumerate([(before, "1GB"), (now, "20KB"), (before, "60KB"), (now, "1GB")]):
            Recommender(model, text_processor).push_to_hub(NAME, max_shard_size=size)
            loaded = type(model).from_pretrained(NAME, cache_dir=tmp_path / str(number))
            assert_equal_weights(loaded, model)

    def test_results_of_others_stay_on_the_card(self, hub, pushed, text_processor, items, validation_split):
        Recommender(pushed, text_processor).push_to_hub("someone/model")
        evaluator = FullRankingEvaluator(items, validation_split, split="test")
        protocol = {"dataset": "shop/reviews/Shoes", "max_seq_len": 20, **evaluator.protocol}
        push_results("someone/model", [result_row(THIS_MODEL, {"hr@10": 0.25}, protocol)])
        card = ModelCard(hub.files("someone/model")["README.md"].decode())
        other = EvalResult(
            "ranking", "their/data", "theirs", "recall@7", 0.5, dataset_config="X", dataset_split="test"
        )
        card.data.eval_results = [other, *card.data.eval_results]
        repository = hub.repositories["models", "someone/model"]
        repository.commit("main", {**repository.files, "README.md": str(card).encode()})
        push_results("someone/model", [result_row(THIS_MODEL, {"hr@10": 0.75}, protocol)])
        rows = ModelCard(hub.files("someone/model")["README.md"].decode()).data.eval_results
        assert {(row.metric_type, row.metric_value) for row in rows} == {("recall@7", 0.5), ("hr@10", 0.75)}

    def test_results_as_a_pull_request(self, hub, pushed, text_processor, items, validation_split):
        Recommender(pushed, text_processor).push_to_hub("someone/model")
        before = dict(hub.files("someone/model"))
        evaluator = FullRankingEvaluator(items, validation_split, split="test")
        protocol = {"dataset": "shop/reviews/Shoes", "max_seq_len": 20, **evaluator.protocol}
        row = result_row(THIS_MODEL, evaluator(pushed, text_processor), protocol)
        push_results("someone/model", [row], create_pr=True)
        assert hub.files("someone/model") == before
        repository = hub.repositories["models", "someone/model"]
        proposed = repository.commits[repository.branches["refs/pr/1"]]
        card = ModelCard(proposed["README.md"].decode())
        assert {result.metric_type for result in card.data.eval_results} == set(row["metrics"])
        assert f"**{row['metrics']['hr@10']:.4f}**" in card.text and "Nothing has been measured" not in card.text
        assert ".eval_results/shop--reviews--Shoes--test.yaml" in proposed
        with pytest.raises(ValueError, match="no part for results"):
            push_results(NAME, [row])  # a card of transformers' own
        for name, message in (("random", "has no card"), ("./outputs", "is a folder")):
            with pytest.raises(ValueError, match=message):
                EvaluationArguments(model_name_or_path=name, push_to_hub=True)


class TestTrouble:
    """Whatever fails says so, and what was there before is still whole."""

    def test_a_missing_repository(self, hub, tmp_path):
        for loaded in (TransRecModel, AutoModel, Recommender):
            with pytest.raises(OSError, match="ninerec/none is not a local folder and is not a valid model"):
                loaded.from_pretrained("ninerec/none", cache_dir=tmp_path)
        with pytest.raises(OSError, match="Repository Not Found for url: .*ninerec/none"):
            TransRecProcessor.from_pretrained("ninerec/none", cache_dir=tmp_path)

    def test_evaluate_pushes_the_whole_table(self, hub, pushed, text_processor, tmp_path, monkeypatch, capsys):
        """What needs no training, content by a backbone that the options name, the model, and it with transitions."""
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        Recommender(pushed, text_processor).push_to_hub("someone/scored")
        options = ["--model_name_or_path", "someone/scored", "--push_to_hub", "true", "--transition_weight", "auto"]
        options += ["--text_model_name_or_path", SAMPLE_BACKBONE, "--eval_ks", "10", "--use_cpu", "true"]
        result = evaluate_main(options)
        assert result["protocol"]["scores"] == "the model's own + transitions"
        files = hub.files("someone/scored")
        rows = [(row["model"], row["protocol"]["scores"]) for row in json.loads(files["results.json"])]
        own = "the model's own"
        of_model = [(THIS_MODEL, own), (THIS_MODEL, f"{own} + transitions")]
        assert rows == [*((name, name) for name in BASELINES if name != LANGUAGE_MODEL), *of_model]
        card = ModelCard(files["README.md"].decode()).text
        shown = capsys.readouterr().err
        for name in ("random", "content-knn (sample_backbone)", "content-and-transitions (sample_backbone)"):
            assert f"| {name} " in card and f"| {name} " in shown
        assert f"**{result['metrics']['hr@10']:.4f}**" in card

    def test_an_expired_token(self, hub, pushed, make_model, monkeypatch):
        before = dict(hub.files(NAME))
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        with pytest.raises(OSError, match="401"):
            make_model("text", hidden_size=24).push_to_hub(NAME)
        assert hub.files(NAME) == before

    def test_a_token_that_may_only_read(self, hub, pushed, make_model, monkeypatch):
        before = dict(hub.files(NAME))
        monkeypatch.setenv("HF_TOKEN", "hf_read")
        with pytest.raises(OSError, match="403"):
            make_model("text", hidden_size=24).push_to_hub(NAME)
        assert hub.files(NAME) == before

    def test_the_rate_limit(self, hub, pushed, monkeypatch, tmp_path):
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        limit = hub.fail(f"* /{NAME}/resolve/*/model.safetensors", 429, headers={"Retry-After": "1"})
        with pytest.raises(OSError, match="the Hub says: .*429"):
            TransRecModel.from_pretrained(NAME, cache_dir=tmp_path)
        limit.times = 2  # then it is over
        assert_equal_weights(TransRecModel.from_pretrained(NAME, cache_dir=tmp_path), pushed.model)

    def test_a_dropped_download_is_taken_up_again(self, hub, pushed, monkeypatch, tmp_path):
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        size = len(hub.files(NAME)["model.safetensors"])
        drop = hub.fail(f"GET /{NAME}/resolve/*/model.safetensors", drop_after=size // 100)
        with pytest.raises(OSError, match="model.safetensors of .* was not downloaded whole .*peer closed"):
            TransRecModel.from_pretrained(NAME, cache_dir=tmp_path)
        assert not list(tmp_path.rglob("model.safetensors"))  # no half file under its name
        drop.drop_after, drop.times = size // 2, 1
        assert_equal_weights(TransRecModel.from_pretrained(NAME, cache_dir=tmp_path), pushed.model)

    def test_a_full_disk(self, hub, pushed, make_model, tmp_path):
        first = hub.repositories["models", NAME].branches["main"]
        TransRecModel.from_pretrained(NAME, cache_dir=tmp_path)
        make_model("text", hidden_size=24).push_to_hub(NAME)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # writing more fails, as on a full disk
        try:
            with pytest.raises(OSError, match="model.safetensors of .* was not downloaded whole .*File too large"):
                TransRecModel.from_pretrained(NAME, cache_dir=tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        old = TransRecModel.from_pretrained(NAME, revision=first, cache_dir=tmp_path, local_files_only=True)
        assert_equal_weights(old, pushed.model)
        assert TransRecModel.from_pretrained(NAME, cache_dir=tmp_path).config.hidden_size == 24

    def test_a_dropped_upload_leaves_the_repository_as_it_was(self, hub, pushed, make_model, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        before, model = dict(hub.files(NAME)), make_model("text", hidden_size=24)
        hub.fail("PUT /lfs/*", drop_after=0)
        with pytest.raises(RuntimeError, match="Error while uploading 'model.safetensors' to the Hub"):
            model.push_to_hub(NAME)
        assert hub.files(NAME) == before
        hub.faults.clear()
        model.push_to_hub(NAME)
        assert hub.files(NAME)["model.safetensors"] != before["model.safetensors"]

    def test_a_recommender_whose_upload_is_dropped(self, hub, pushed, text_processor, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        before = dict(hub.files(NAME))
        hub.fail("PUT /lfs/*", drop_after=0)
        with pytest.raises(
            ConnectionError, match=f"{NAME} broke off and changed nothing there, try again: .*safetensors"
        ):
            Recommender(pushed, text_processor).push_to_hub(NAME, max_shard_size="10KB")
        assert hub.files(NAME) == before

    def test_an_interrupted_upload_goes_on_where_it_was(self, hub, pushed, make_model):
        before = dict(hub.files(NAME))
        model = make_model("text", hidden_size=24)
        hub.fail("POST /api/models/*/commit/*", 503)
        hub.fail("PUT /lfs/*", 503, times=0)
        with pytest.raises(OSError, match="503"):
            model.push_to_hub(NAME, max_shard_size="20KB")
        assert hub.files(NAME) == before
        sent = hub.count("PUT /lfs/*")
        assert sent > 2
        hub.faults.clear()
        model.push_to_hub(NAME, max_shard_size="20KB")
        assert hub.count("PUT /lfs/*") == sent  # what had arrived was not sent again
        assert "model-00001-of" in "".join(hub.files(NAME))


class TestSafety:
    def test_pickles_are_refused(self, hub, pushed, make_model, tmp_path, monkeypatch):
        files = {name: content for name, content in hub.files(NAME).items() if name != "model.safetensors"}
        hub.add("evil/pickle", {**files, "pytorch_model.bin": b"cos\nsystem\n(S'touch /tmp/x'\ntR."})
        for loaded in (TransRecModel, AutoModel, Recommender):
            with pytest.raises(OSError, match="no weights as safetensors .* pickles .* are refused"):
                loaded.from_pretrained("evil/pickle", cache_dir=tmp_path)
        assert not hub.count("*pytorch_model.bin*") and not hub.count("* /api/models/evil/pickle/commits/*")
        with pytest.raises(ValueError, match="only safetensors is read"):
            TransRecModel.from_pretrained(NAME, use_safetensors=False, cache_dir=tmp_path)
        make_model("text").save_pretrained(tmp_path / "local")
        (tmp_path / "local" / "model.safetensors").rename(tmp_path / "local" / "pytorch_model.bin")
        with pytest.raises(OSError, match="no weights as safetensors"):
            TransRecModel.from_pretrained(tmp_path / "local")

    @pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "weights.bin"])
    def test_shards_elsewhere_are_refused(self, hub, pushed, tmp_path, shard):
        files = {name: content for name, content in hub.files(NAME).items() if name != "model.safetensors"}
        index = {"metadata": {"total_size": 8}, "weight_map": {"item_encoder.dense.weight": shard}}
        files["model.safetensors.index.json"] = json.dumps(index).encode()
        hub.add("evil/path", files)
        (tmp_path / "local").mkdir()
        for name, content in files.items():
            (tmp_path / "local" / name).write_bytes(content)
        for name in ("evil/path", tmp_path / "local"):
            with pytest.raises(ValueError, match="shards must be safetensors files of the same folder"):
                TransRecModel.from_pretrained(name, cache_dir=tmp_path / "cache")

    def test_remote_code_needs_its_flag(self, hub, tmp_path):
        config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}}
        hub.add("evil/code", {"config.json": json.dumps(config).encode(), "evil.py": b"raise SystemExit('ran')"})
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            AutoModel.from_pretrained("evil/code", trust_remote_code=False, cache_dir=tmp_path)
        assert not hub.count("*evil.py*")

    @pytest.mark.parametrize(
        "changed",
        [
            {"hidden_size": 2**40},
            {"num_hidden_layers": 10**9},
            {"max_seq_len": 10**12},
            {"num_items": 10**15},
            {"text_config": {"model_type": "bert", "num_hidden_layers": 10**9}},
            {"text_config": {"model_type": "bert", "vocab_size": 10**15}},
            {"vision_config": {"model_type": "swin", "depths": [2, 10**9]}},
        ],
    )
    def test_absurd_sizes_are_refused(self, changed):
        with pytest.raises(ValueError, match="must be at most"):
            TransRecConfig(**changed)

    def test_absurd_pictures_are_refused(self, image_processor):
        absurd = ViTImageProcessorPil(size={"height": 10**6, "width": 16})
        with pytest.raises(ValueError, match="size must be at most 4096, got height=1000000"):
            TransRecProcessor(image_processor=absurd)

    def test_folders_of_this_machine_stay_here(self, make_model, text_processor, tmp_path):
        make_model("text").model.item_encoder.backbones[0].save_pretrained(tmp_path / "backbone")
        model = TransRecModel.from_encoder_pretrained(str(tmp_path / "backbone"), hidden_size=16)
        model.save_pretrained(tmp_path / "first")
        text_processor.save_pretrained(tmp_path / "first")
        Recommender.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
        for file in [*(tmp_path / "first").iterdir(), *(tmp_path / "second").iterdir()]:
            assert str(tmp_path).encode() not in file.read_bytes(), file

    def test_a_configuration_far_larger_than_the_weights(self, make_model, tmp_path):
        make_model("id").save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "num_items": 2**30, "hidden_size": 2**12}))
        for loaded in (TransRecModel, TransRecForSequentialRecommendation):
            with pytest.raises(ValueError, match=r"asks for 4,398,.* parameters, but the checkpoint's weights are"):
                loaded.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


def test_the_trainer_publishes_one_repository(
    hub, make_model, processor_of, items, train_split, validation_split, tmp_path, caplog
):
    args = TransRecTrainingArguments(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        disable_tqdm=True,
        push_to_hub=True,
        hub_model_id="shop/recommender",
        hub_token="hf_write",
        hub_private_repo=True,
    )
    model = make_model("text")
    trainer = TransRecTrainer(model, args, items, train_split, validation_split, processing_class=processor_of["text"])
    trainer.train()
    trainer.push_to_hub(dataset="shop/reviews", dataset_args="Shoes", finetuned_from=NAME)
    repository = hub.repositories["models", "shop/recommender"]
    assert repository.private
    files = repository.files
    assert {
        "README.md", "config.json", "model.safetensors", "processor_config.json", "results.json", "tokenizer.json",
        "training_args.json", ".eval_results/shop--reviews--Shoes--validation.yaml",
    } <= files.keys()  # fmt: skip
    assert not [name for name in files if name.endswith((".bin", ".py", ".pt", ".pth")) or "checkpoint" in name]
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == [NAME] and 'from_pretrained("shop/recommender")' in card.text
    everything = b"\n".join(files.values())
    assert b"hf_write" not in everything and str(tmp_path).encode() not in everything
    assert "hf_write" not in caplog.text
    assert_equal_weights(TransRecForSequentialRecommendation.from_pretrained("shop/recommender"), trainer.model)


def test_links_out_of_a_checkpoint_are_not_followed(tmp_path):
    folder, secret = tmp_path / "checkpoint", tmp_path / "secret.json"
    folder.mkdir()
    secret.write_text("{}")
    (folder / "here.json").write_text("{}")
    (folder / "link.json").symlink_to(folder / "here.json")
    check_links(folder)
    (folder / "config.json").symlink_to(secret)
    with pytest.raises(ValueError, match=r"config\.json is a link to .*secret\.json, outside"):
        upload_checkpoint(folder, "someone/model", commit_message=None)


def test_an_upload_that_failed_is_all_that_the_same_command_repeats(hub, tmp_path, monkeypatch):
    steps, step = [], TransRecTrainer.training_step
    monkeypatch.setattr(TransRecTrainer, "training_step", lambda *args: steps.append(1) or step(*args))

    def run():
        args = TransRecTrainingArguments(
            str(tmp_path), num_train_epochs=1, use_cpu=True, push_to_hub=True, hub_model_id="me/retried"
        )
        train(ModelArguments(modality="id", hidden_size=16), DataArguments(), args)

    hub.fail("POST /api/models/me/retried/commit/*", 500, times=8)
    with pytest.raises(HfHubHTTPError, match="500"):
        run()
    assert len(steps) == 13 and "model.safetensors" not in hub.files("me/retried")
    hub.faults.clear()
    run()
    assert len(steps) == 13
    monkeypatch.setattr(ModelArguments, "config_fields", lambda self: {"hidden_size": 16, "num_hidden_layers": 1})
    with pytest.raises(
        FileExistsError, match=r"finished training of other options or data \(other starting weights\)"
    ):
        run()  # it would start from other weights
    rows = {row["model"]: row for row in json.loads(hub.files("me/retried")["results.json"])}
    trained = json.loads((tmp_path / "trainer_state.json").read_text())["best_metric"]
    assert rows["this model"]["metrics"]["hr@10"] == pytest.approx(trained) and len(rows) > 1


def test_a_token_that_may_not_write_is_found_before_training(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(TransRecTrainer, "training_step", lambda *args: pytest.fail("it was trained"))
    hub.add("me/others", {"README.md": b"of others"})
    args = TransRecTrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, push_to_hub=True, hub_model_id="me/others", hub_token="hf_read"
    )
    with pytest.raises((PermissionError, HfHubHTTPError), match="write"):
        train(ModelArguments(modality="id", hidden_size=16), DataArguments(), args)
