import functools
import json
import os
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import TrainerCallback

from modeling_transrec import (
    FullRankingEvaluator,
    Recommender,
    TransRecForSequentialRecommendation,
    TransRecProcessor,
    TransRecTrainer,
    TransRecTrainingArguments,
)
from modeling_transrec.data.platforms import join_platforms
from modeling_transrec.data.transitions import Transitions
from modeling_transrec.evaluation.sum_evaluator import SumEvaluator
from modeling_transrec.evaluation.weighing import choose
from modeling_transrec.training.arguments import usual_workers
from modeling_transrec.training.checks import check_folder
from modeling_transrec.training.resuming import last_whole_checkpoint

from ..checks import Interrupt, assert_equal_weights, weights
from ..tiny import VISION_CONFIGS, make_sequences


@pytest.mark.parametrize("loss_type", ["bce", "in_batch"])
def test_training_learns(loss_type, make_trainer):
    trainer = make_trainer(model_fields={"loss_type": loss_type}, num_train_epochs=12, learning_rate=5e-3)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]


def test_backbone_has_its_own_learning_rate_and_decay(make_trainer):
    trainer = make_trainer(
        learning_rate=3e-3, weight_decay=0.2, backbone_learning_rate=1e-5, backbone_weight_decay=0.05
    )
    optimizer = trainer.create_optimizer()
    of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert len(of) == len(list(trainer.model.parameters()))
    for name, parameter in trainer.model.named_parameters():
        group = of[id(parameter)]
        in_backbone = ".backbone." in name
        assert group["lr"] == (1e-5 if in_backbone else 3e-3), name
        undecayed = name.endswith("bias") or "norm" in name.lower()
        assert group["weight_decay"] == (0.0 if undecayed else 0.05 if in_backbone else 0.2), name
    plain = make_trainer(learning_rate=3e-3).create_optimizer()
    assert {group["lr"] for group in plain.param_groups} == {3e-3}


def test_zero_backbone_learning_rate_is_not_taken_for_none(make_trainer):
    rates = {group["lr"] for group in make_trainer(backbone_learning_rate=0.0).create_optimizer().param_groups}
    assert rates == {0.0, 1e-3}


def test_a_frozen_backbone_does_not_move(make_trainer):
    trainer = make_trainer(freeze_backbone=True, learning_rate=1e-2)
    before = weights(trainer.model)
    trainer.train()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (".backbone." in name), name


def test_the_best_checkpoint_by_validation_hr_is_kept_and_usable(
    make_trainer, items, validation_split, text_processor
):
    trainer = make_trainer(num_train_epochs=5, learning_rate=2e-2)
    trainer.train()
    hits = [entry["eval_hr@10"] for entry in trainer.state.log_history if "eval_hr@10" in entry]
    assert len(hits) == 5 and trainer.state.best_metric == max(hits)
    evaluator = FullRankingEvaluator(items, validation_split)
    assert evaluator(trainer.model, text_processor)["hr@10"] == pytest.approx(max(hits))
    trainer.save_model()
    again = TransRecForSequentialRecommendation.from_pretrained(trainer.args.output_dir)
    assert_equal_weights(weights(again), weights(trainer.model), atol=0)
    assert Recommender.from_pretrained(trainer.args.output_dir).index(items).recommend(["i001"], k=3)


@pytest.mark.parametrize("transition_weight", ["0", "auto"])
def test_the_start_is_kept_unless_training_gains(transition_weight, make_trainer, monkeypatch):
    options = {"transition_weight": transition_weight, "num_train_epochs": 2}
    plain = make_trainer(**options)
    plain.train()
    for gain, goes_back in ((1.0, False), (-1.0, True)):
        trainer = make_trainer(**options, keep_start=True)
        before = weights(trainer.model)
        measured = iter([torch.zeros(13), torch.full((13,), gain)])
        ranked = trainer._validation_gains()
        assert len(ranked) == 13 and 0 <= ranked.min() <= ranked.max() <= 1
        monkeypatch.setattr(trainer, "_validation_gains", lambda measured=measured: next(measured))
        trainer.train()
        assert trainer.kept_start == goes_back
        assert_equal_weights(weights(trainer.model), before if goes_back else weights(plain.model), atol=0)


def test_a_pull_holds_the_weights_at_their_start(make_trainer):
    moved = []
    for pull in (0.0, 300.0):
        trainer = make_trainer(pull_to_start=pull, weight_decay=0.0, num_train_epochs=3, learning_rate=3e-3)
        before = weights(trainer.model)
        trainer.train()
        moved.append(sum((values - before[name]).norm() for name, values in trainer.model.state_dict().items()))
    assert 0 < moved[1] < 0.7 * moved[0]


@pytest.mark.parametrize("model_type", ["vit", "swin", "dinov2"])
def test_the_best_checkpoint_of_a_vision_model_is_loaded_whole(model_type, make_trainer, items, validation_split):
    fields = {"vision_config": VISION_CONFIGS[model_type]}
    trainer = make_trainer("image", fields, num_train_epochs=4, learning_rate=3e-2)
    trainer.train()
    evaluator = FullRankingEvaluator(items, validation_split)
    assert evaluator(trainer.model, trainer.processing_class)["hr@10"] == pytest.approx(trainer.state.best_metric)


def test_precomputed_features_train_as_a_frozen_backbone_does(make_trainer, monkeypatch):
    options = {"freeze_backbone": True, "model_fields": {"hidden_dropout_prob": 0.0}, "learning_rate": 1e-2}
    fast = make_trainer("text+image", output="fast", **options)
    backbones = fast.model.item_encoder.backbones
    calls = []
    for backbone in backbones:
        backbone.register_forward_pre_hook(lambda *args: calls.append(1))
    fast.train()
    assert not calls  # neither in training nor in validation
    monkeypatch.setattr(TransRecTrainer, "_compute_frozen", lambda trainer: None)
    plain = make_trainer("text+image", output="plain", **options)
    plain.train()
    assert_equal_weights(weights(fast.model), weights(plain.model), atol=1e-5)
    hits = [[entry["eval_hr@10"] for entry in t.state.log_history if "eval_hr@10" in entry] for t in (fast, plain)]
    assert hits[0] == hits[1]


def test_torch_compile_compiles_the_backbone_once_for_all_shapes(make_trainer, make_model, text_processor):
    torch.compiler.reset()
    counters.clear()
    trainer = make_trainer(torch_compile_backend="eager")
    trainer.create_optimizer_and_scheduler(1)
    prepared = trainer.accelerator.prepare(trainer.model)
    assert prepared is trainer.model  # not compiled as a whole
    plain = make_model("text")
    plain.load_state_dict(trainer.model.state_dict())
    for texts in (["red"] * 3, ["red", "blue rope"], ["green lamp"] * 5, ["red blue small"] * 7, ["rope", "red lamp"]):
        inputs = text_processor(text=texts)
        assert torch.allclose(prepared.get_item_features(**inputs), plain.get_item_features(**inputs), atol=1e-6)
    assert (
        1 <= counters["stats"]["unique_graphs"] <= 3
    )  # five shapes, with a mask and, where nothing is padded, without
    with pytest.raises(ValueError, match="no backbone to compile"):
        make_trainer("id", torch_compile=True)


def test_adapters_alone_are_trained_in_the_backbone(make_trainer, make_model):
    trainer = make_trainer(learning_rate=1e-2)
    trainer.model.add_peft_adapter({"peft_type": "LORA", "r": 2, "target_modules": ["query"]})
    before = weights(trainer.model)
    trainer.train()
    for name, tensor in trainer.model.state_dict().items():
        frozen = ".backbone." in name and "lora_" not in name
        assert torch.equal(tensor, before[name]) == frozen, name
    trainer.save_model()
    again = TransRecForSequentialRecommendation.from_pretrained(trainer.args.output_dir)
    assert_equal_weights(weights(again), weights(trainer.model), atol=0)


def test_a_model_of_user_ids_trains_evaluates_and_recommends(make_trainer, items, train_split, validation_split):
    processor = TransRecProcessor(item_ids=items["item_id"], user_ids=train_split["user_id"])
    trainer = make_trainer(
        "id", {"user_encoder_type": "dssm"}, processor=processor, num_train_epochs=20, learning_rate=0.1
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save_model()
    shuffled = validation_split.shuffle(seed=3)
    evaluator = FullRankingEvaluator(items, shuffled)
    assert evaluator(trainer.model, processor) == pytest.approx(
        FullRankingEvaluator(items, validation_split)(trainer.model, processor)
    )
    recommender = Recommender.from_pretrained(trainer.args.output_dir).index(items)
    one = recommender.recommend(["i001"], k=3, user_id="u1")
    both = recommender.recommend([["i001"], ["i001"]], k=3, user_id=["u1", "u2"])
    assert [item["item_id"] for item in both[0]] == [item["item_id"] for item in one]
    assert both[1][0]["score"] != both[0][0]["score"]
    with pytest.raises(ValueError, match="user_id for each history"):
        recommender.recommend(["i001"])
    with pytest.raises(ValueError, match="'new' is not among the 13 users"):
        recommender.recommend(["i001"], user_id="new")


def test_early_stopping_stops(make_trainer):
    trainer = make_trainer(num_train_epochs=30, learning_rate=0.0, early_stopping_patience=2)
    trainer.train()
    assert trainer.state.epoch == 3  # the first evaluation is the best, two more are no better


def test_validation_metrics_are_those_of_the_evaluator(make_trainer, items, validation_split, text_processor):
    trainer = make_trainer(eval_ks=[3])
    metrics = trainer.evaluate()
    expected = FullRankingEvaluator(items, validation_split, ks=[3, 10])(trainer.model, text_processor)
    assert {name: metrics[f"eval_{name}"] for name in expected} == expected
    predicted = trainer.predict(validation_split)
    assert (1 / predicted.predictions).mean() == pytest.approx(predicted.metrics["test_mrr"], abs=1e-3)
    assert [items["item_id"][index] for index in predicted.label_ids] == validation_split["target"][:]


def test_the_sum_with_transitions_chooses_the_checkpoint(make_trainer, items, train_split, validation_split):
    options = {"num_train_epochs": 5, "learning_rate": 2e-2}
    trainer = make_trainer(transition_weight="auto", **options)
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_mrr" in entry]
    names = [f"eval_{name}@{k}_with_transitions" for name in ("hr", "ndcg") for k in (5, 10, 20)]
    assert len(evaluations) == 5 and all(name in entry for name in names for entry in evaluations)
    assert trainer.args.metric_for_best_model == "hr@10_with_transitions"
    assert trainer.state.best_metric == max(entry["eval_hr@10_with_transitions"] for entry in evaluations)
    transitions = Transitions.from_sequences(train_split, items["item_id"][:])
    evaluator = FullRankingEvaluator(items, validation_split, split="validation")
    scorer = evaluator.build_scorer(trainer.model, trainer.processing_class)
    settings = [trainer._sums.settings]
    choice = choose(scorer, transitions, evaluator, popularity_weights=(0.0,), settings=settings)
    assert evaluator.rank(choice.apply(scorer, transitions))["hr@10"] == pytest.approx(trainer.state.best_metric)
    predicted = trainer.predict(validation_split.select(range(5))).metrics
    assert "test_hr@10" in predicted and not any("transition" in name for name in predicted)
    # What is trained is the same.
    plain = make_trainer(output="plain", load_best_model_at_end=False, **options)
    plain.train()
    again = make_trainer(output="again", load_best_model_at_end=False, transition_weight="2", **options)
    again.train()
    assert_equal_weights(weights(again.model), weights(plain.model), atol=0)
    assert again.state.log_history[-2]["eval_transition_weight"] == 2.0
    for one in (plain, again):
        own = [entry["eval_hr@10"] for entry in one.state.log_history if "eval_mrr" in entry]
        assert own == [entry["eval_hr@10"] for entry in evaluations]


def test_early_stopping_reads_the_sum(make_trainer, monkeypatch):
    """The model gets better, the sum does not."""
    rank = SumEvaluator.__call__
    numbers = iter(range(1, 100))

    def call(self, *args):
        return {**rank(self, *args), "hr@10": next(numbers) / 100, "hr@10_with_transitions": 0.5}

    monkeypatch.setattr(SumEvaluator, "__call__", call)
    options = {"num_train_epochs": 6, "early_stopping_patience": 2, "transition_weight": "auto"}
    trainer = make_trainer(**options)
    trainer.train()
    assert trainer.state.epoch == 3
    trainer = make_trainer(metric_for_best_model="hr@10", output="named", **options)
    trainer.train()
    assert trainer.state.epoch == 6 and trainer.args.metric_for_best_model == "hr@10"


def test_validation_on_some_users(make_trainer, items, validation_split, text_processor):
    trainer = make_trainer(max_eval_users=5)
    chosen = trainer.eval_dataset["user_id"]
    assert len(set(chosen)) == 5 and make_trainer(max_eval_users=5, seed=7).eval_dataset["user_id"] == chosen
    some = validation_split.filter(lambda user: user["user_id"] in chosen)
    expected = FullRankingEvaluator(items, some)(trainer.model, text_processor)
    metrics = trainer.evaluate()
    assert {name: metrics[f"eval_{name}"] for name in expected} == expected
    assert len(make_trainer(max_eval_users=500).eval_dataset) == len(validation_split)
    with pytest.raises(ValueError, match="at least 1"):
        make_trainer(max_eval_users=0)


@pytest.mark.parametrize(
    ("kind", "fields", "num_workers"),
    [
        ("text", {"loss_type": "bce"}, 0),
        ("text", {"loss_type": "bce"}, 2),
        ("text", {"loss_type": "in_batch"}, 0),
        ("text+id", {"loss_type": "sampled_softmax", "num_negatives": 5, "user_encoder_type": "bert4rec"}, 0),
        ("text+id", {"item_projection": "whitened", "hidden_size": None, "history_decay": 0.7}, 0),
        ("image", {"vision_config": VISION_CONFIGS["vit"]}, 0),
        ("image", {"vision_config": VISION_CONFIGS["swin"]}, 0),
        ("image", {"vision_config": VISION_CONFIGS["dinov2"]}, 0),
        ("image", {"vision_config": VISION_CONFIGS["resnet"]}, 0),
    ],
)
def test_resumed_equals_uninterrupted(kind, fields, num_workers, make_trainer):
    options = {
        "kind": kind,
        "model_fields": {"hidden_dropout_prob": 0.3, **fields},
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 3,
        "eval_steps": 3,
        "load_best_model_at_end": False,
        "save_total_limit": None,
        "dataloader_num_workers": num_workers,
    }
    whole = make_trainer(output="whole", **options)
    whole.train()
    broken = make_trainer(output="resumed", callbacks=[Interrupt(step=8)], **options)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = make_trainer(output="resumed", **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 12
    assert_equal_weights(weights(resumed.model), weights(whole.model), atol=0)


@pytest.mark.parametrize(("before", "now"), [(4, 2), (2, 7), (4, 4)])
def test_resumed_with_other_batches_it_goes_on_where_it_came_to(before, now, make_trainer, tmp_path, caplog):
    """Each user is seen as often as in an uninterrupted run; the best checkpoint stays the best."""
    options = {"num_train_epochs": 4, "save_total_limit": 1, "output": "resumed"}
    broken = make_trainer(
        per_device_train_batch_size=before, callbacks=[Interrupt(step=2 * -(-13 // before) + 1)], **options
    )
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    with pytest.raises(FileExistsError, match="interrupted training"):
        make_trainer(**options).train()
    (tmp_path / "resumed").rename(tmp_path / "moved")
    resumed = make_trainer(**{**options, "output": "moved"}, per_device_train_batch_size=now)
    users, collate = [], resumed.data_collator.__call__
    resumed.data_collator = lambda examples: users.extend(one["user"] for one in examples) or collate(examples)
    resumed.train(resume_from_checkpoint=True)
    epochs_before = broken.state.epoch // 1
    assert epochs_before == 2 and sorted(users) == sorted([*range(13)] * 2)
    assert resumed.state.epoch == 4 and resumed.state.global_step == 4 * -(-13 // now)
    assert ("is resumed after 2 epochs, with other batches" in caplog.text) == (before != now)
    hits = [entry for entry in resumed.state.log_history if "eval_hr@10" in entry]
    assert len(hits) == 4 and resumed.state.best_metric == max(entry["eval_hr@10"] for entry in hits)
    assert resumed.evaluate()["eval_hr@10"] == pytest.approx(resumed.state.best_metric)


def test_a_checkpoint_is_judged_by_the_processes_that_wrote_it(make_trainer, tmp_path, caplog):
    trainer = make_trainer(output="of_two", save_total_limit=None, load_best_model_at_end=False)
    trainer.train()
    folders = sorted((tmp_path / "of_two").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for folder in folders:
        arguments = json.loads((folder / "training_args.json").read_text())
        (folder / "training_args.json").write_text(json.dumps({**arguments, "world_size": 2}))
        (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    assert last_whole_checkpoint(tmp_path / "of_two") == str(folders[-1])  # better than to begin anew
    assert "lack the random states of some processes" in caplog.text
    shutil.copy(folders[0] / "rng_state_0.pth", folders[0] / "rng_state_1.pth")
    assert last_whole_checkpoint(tmp_path / "of_two") == str(folders[0])
    make_trainer(output="of_two", num_train_epochs=3).train(resume_from_checkpoint=True)
    assert "written by 2 processes and is resumed on 1" in caplog.text


def test_a_checkpoint_of_the_model_alone_is_whole(make_trainer, tmp_path, caplog):
    make_trainer(output="small", save_only_model=True, save_total_limit=None).train()
    assert last_whole_checkpoint(tmp_path / "small").endswith("checkpoint-8")
    trainer = make_trainer(output="small", save_only_model=True, num_train_epochs=3)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 12 and "has only the model" in caplog.text


def test_what_can_be_checked_before_the_first_step_is(make_trainer, validation_split, monkeypatch, tmp_path):
    def refused(message, error=ValueError, **options):
        trainer = make_trainer(output=str(len(message)), **options)
        monkeypatch.setattr(trainer, "training_step", lambda *args: pytest.fail("it was trained"))
        with pytest.raises(error, match=message):
            trainer.train()

    refused("metric_for_best_model='hr@11' is not measured; did you mean 'hr@10'", metric_for_best_model="hr@11")
    refused("'auc' is not measured", metric_for_best_model="eval_auc")
    refused("nowhere.json", FileNotFoundError, card_results=["IDRec=nowhere.json"])
    trainer = make_trainer()
    trainer.eval_dataset = validation_split.map(lambda user: {"target": None})
    with pytest.raises(ValueError, match="has no target"):
        trainer.train()
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10, 10))
    refused("has 0.0 GB left", OSError)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    args = make_trainer().args
    args.output_dir = str(tmp_path / "file")
    with pytest.raises(PermissionError, match="cannot be written to"):
        check_folder(args, torch.nn.Linear(1, 1))


def test_resume_passes_over_a_checkpoint_that_was_not_written_to_its_end(make_trainer, tmp_path):
    trainer = make_trainer(output="killed", save_total_limit=None, load_best_model_at_end=False)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    trainer.train()
    first, last = sorted((tmp_path / "killed").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert last_whole_checkpoint(tmp_path / "killed") == str(last)
    (last / "trainer_state.json").write_text('{"epoch": 1')
    assert last_whole_checkpoint(tmp_path / "killed") == str(first)
    (last / "trainer_state.json").unlink()
    assert last_whole_checkpoint(tmp_path / "killed") == str(first)
    assert json.loads((first / "trainer_state.json").read_text())["global_step"] == 4


@pytest.fixture
def make_trainer_of_platforms(items, make_model, processor_of, tmp_path):
    """A factory of trainers on two platforms, validated on a third one."""
    parts = {"X": items.select(range(14)), "Y": items.select(range(14, 28)), "Z": items.select(range(28, 37))}
    joined, train = join_platforms(
        {name: parts[name] for name in "XY"}, {name: make_sequences(parts[name], 12, "train") for name in "XY"}
    )

    def make(output="out", kind="text", callbacks=None, processor=None, **options):
        options = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-2, **options}
        args = TransRecTrainingArguments(str(tmp_path / output), use_cpu=True, disable_tqdm=True, **options)
        return TransRecTrainer(
            make_model(kind, item_projection="whitened", hidden_dropout_prob=0.3, normalize_scores=True),
            args,
            joined,
            train,
            make_sequences(parts["Z"], 12, "validation"),
            processing_class=processor or processor_of[kind],
            callbacks=callbacks,
            eval_items=parts["Z"],
        )

    return make


@pytest.mark.parametrize("options", [{"freeze_backbone": True}, {}])
def test_several_platforms_are_trained_on_and_a_third_one_is_ranked(options, make_trainer_of_platforms):
    trainer = make_trainer_of_platforms(**options)
    with_items = {}
    for batch in trainer.get_train_dataloader():
        assert len(set(batch["platform_index"].tolist())) == 1
        with_items[int(batch["platform_index"][0])] = batch
    assert with_items.keys() == {0, 1}
    evaluator = FullRankingEvaluator(trainer.eval_items, trainer.eval_dataset, ks=[5, 10, 20])
    before = trainer.evaluate()
    assert before["eval_hr@5"] == pytest.approx(evaluator(trainer.model, trainer.processing_class)["hr@5"])
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_ndcg@10"] != before["eval_ndcg@10"]
    trainer.create_model_card(dataset="ninerec", dataset_args="X + Y", eval_dataset_args="Z")
    card = (trainer.args.output_dir / Path("README.md")).read_text(encoding="utf-8")
    assert "ninerec/Z" in card and "popularity" not in card


@pytest.mark.parametrize(
    "options", [{"freeze_backbone": True}, {}, {"save_strategy": "steps", "eval_strategy": "no", "save_steps": 1}]
)
def test_resumed_equals_uninterrupted_on_several_platforms(options, make_trainer_of_platforms):
    options = {"num_train_epochs": 3, "save_total_limit": None, "load_best_model_at_end": False, **options}
    whole = make_trainer_of_platforms(output="whole", **options)
    whole.train()
    broken = make_trainer_of_platforms(output="resumed", callbacks=[Interrupt(step=8)], **options)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = make_trainer_of_platforms(output="resumed", **options)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_weights(weights(resumed.model), weights(whole.model), atol=0)


def test_options_that_the_data_have_no_use_for_are_refused(make_trainer, make_trainer_of_platforms):
    for option in ({"mix_platforms": True}, {"platform_sampling_exponent": 0.0}):
        with pytest.raises(ValueError, match="is for training on several platforms"):
            make_trainer(**option)
        make_trainer_of_platforms(**option)
    with pytest.raises(ValueError, match="'sequential' is for one platform"):
        make_trainer_of_platforms(train_sampling_strategy="sequential")


def test_what_another_platform_cannot_judge_is_refused(make_trainer_of_platforms):
    with pytest.raises(ValueError, match="--transition_weight, or set it to 0"):
        make_trainer_of_platforms(transition_weight="auto")
    with pytest.raises(ValueError, match="can only be validated on the platform that it is trained on"):
        make_trainer_of_platforms(kind="id")


def test_accumulated_batches_equal_one_batch(make_trainer):
    options = {
        "model_fields": {"loss_type": "bce", "hidden_dropout_prob": 0.0},
        "num_train_epochs": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "train_sampling_strategy": "sequential",
        "optim": "sgd",
    }

    def run(**sizes):
        trainer = make_trainer(**options, **sizes)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
        return weights(trainer.model)

    together = run(per_device_train_batch_size=12, gradient_accumulation_steps=1)
    apart = run(per_device_train_batch_size=3, gradient_accumulation_steps=4)
    assert_equal_weights(together, apart, atol=1e-6)


def test_batches_of_histories_of_like_length(make_trainer, items):
    users = make_sequences(items, 200, "train")

    def padding(**options):
        loader = make_trainer(train=users, per_device_train_batch_size=5, **options).get_train_dataloader()
        return sum(int((batch["item_index"] == -1).sum()) for batch in loader)

    assert padding(train_sampling_strategy="group_by_length") < 0.3 * padding()
    trainer = make_trainer(train_sampling_strategy="group_by_length", num_train_epochs=1)
    trainer.train()
    assert trainer.state.best_metric is not None


class Rows(torch.utils.data.Dataset):
    """A data set of torch."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.mark.parametrize("convert", [datasets.Dataset.to_iterable_dataset, Rows, datasets.Dataset.to_pandas])
def test_histories_in_what_people_have(convert, make_trainer, train_split, validation_split):
    expected = make_trainer(output="whole", num_train_epochs=1)
    expected.train()
    trainer = make_trainer(train=convert(train_split), validation=convert(validation_split), num_train_epochs=1)
    trainer.train()
    assert_equal_weights(weights(trainer.model), weights(expected.model), atol=0)
    assert trainer.evaluate(convert(validation_split))["eval_mrr"] == expected.evaluate()["eval_mrr"]


def test_several_evaluation_splits(make_trainer, items, validation_split, processor_of):
    few = validation_split.select(range(4))
    several = {"all": validation_split, "few": few}
    trainer = make_trainer(validation=several, metric_for_best_model="few_hr@10", max_eval_users=9)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_few_mrr"] == FullRankingEvaluator(items, few)(trainer.model, processor_of["text"])["mrr"]
    trainer.create_model_card(dataset="someone/shop")
    rows = json.loads(Path(trainer.args.output_dir, "results.json").read_text())
    users = {(row["protocol"]["split"], row["protocol"]["num_users"]) for row in rows}
    assert users == {("all", 9), ("few", 4)}
    with pytest.raises(ValueError, match="'hr@10' is not measured; did you mean 'few_hr@10'|'all_hr@10'"):
        make_trainer(validation=several, output="other").train()


def test_a_model_is_made_anew_for_each_training(make_trainer, make_model):
    """As a search of hyper-parameters needs it; what is frozen is frozen and computed each time."""
    made = []
    trainer = make_trainer(
        model_init=lambda trial=None: made.append(trial) or make_model("text"),
        freeze_backbone=True,
        num_train_epochs=1,
    )
    trained = []
    for _ in range(2):
        trainer.train()
        assert trainer.model.has_frozen_backbone
        trained.append(weights(trainer.model))
    assert len(made) == 3
    assert_equal_weights(trained[0], trained[1], atol=0)
    with pytest.raises(ValueError, match="either a model or model_init"):
        TransRecTrainer(None, trainer.args, trainer.items, processing_class=trainer.processing_class)


@pytest.mark.slow
def test_hyper_parameters_are_searched(make_trainer, make_model):
    """transformers lets go of the model after each trial."""
    pytest.importorskip("optuna", reason="needs optuna: pip install modeling_transrec[tune]")
    trainer = make_trainer("id", model_init=lambda: make_model("id"), max_steps=1, report_to="none")
    found = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        compute_objective=lambda metrics: metrics["eval_hr@10"],
        n_trials=2,
        direction="maximize",
    )
    assert set(found.hyperparameters) == {"learning_rate"} and 0 <= found.objective <= 1


@pytest.mark.slow
def test_a_search_prepares_each_model_by_the_options_of_its_trial(make_trainer, make_model):
    optuna = pytest.importorskip("optuna", reason="needs optuna: pip install modeling_transrec[tune]")
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            seen.append((args.freeze_backbone, model.has_frozen_backbone))

    options = {"max_steps": 1, "report_to": "none", "callbacks": [Look()], "freeze_backbone": True}
    space = {"freeze_backbone": [True, False]}
    trainer = make_trainer("text", model_init=lambda: make_model("text"), **options)
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"freeze_backbone": trial.suggest_categorical("freeze_backbone", [True, False])},
        compute_objective=lambda metrics: metrics["eval_hr@10"],
        n_trials=2,
        direction="maximize",
        sampler=optuna.samplers.GridSampler(space),
    )
    assert sorted(seen) == [(False, False), (True, True)]


def test_later_models_of_model_init_are_checked_too(make_trainer, make_model):
    codes = {"item_projection": "codes", "num_codebooks": 2, "codebook_size": 4}
    trainer = make_trainer("text", model_init=lambda: make_model("text", **codes), freeze_backbone=True)
    trainer.args.freeze_backbone = False
    with pytest.raises(ValueError, match="gives the backbone no gradient"):
        trainer.call_model_init()


def test_an_evaluation_in_bfloat16_changes_no_weight(make_trainer, items, validation_split):
    trainer = make_trainer(bf16_full_eval=True)
    before, exact = weights(trainer.model), make_trainer().evaluate()
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    expected = FullRankingEvaluator(items, validation_split)(trainer.model, trainer.processing_class, autocast)
    assert exact["eval_mrr"] != trainer.evaluate()["eval_mrr"] == expected["mrr"]
    assert_equal_weights(weights(trainer.model), before, atol=0)
    trainer.train()


def test_batches_are_never_cut_among_processes(tmp_path, caplog):
    for given in (None, {"dispatch_batches": True}, {"dispatch_batches": None}):
        args = TransRecTrainingArguments(str(tmp_path), accelerator_config=given, use_cpu=True)
        assert args.accelerator_config.dispatch_batches is False
    assert caplog.text.count("dispatch_batches has no effect") == 1


def test_histories_without_a_target_are_left_out(make_trainer, train_split, caplog):
    short = train_split.map(
        lambda user: {"item_ids": user["item_ids"][:1] if user["user_id"] in ("u1", "u2") else user["item_ids"]}
    )
    trainer = make_trainer(train=short)
    assert len(trainer.train_dataset) == 11
    assert "2 of 13 training histories" in caplog.text
    with pytest.raises(ValueError, match="nothing to train on"):
        make_trainer(train=train_split.map(lambda user: {"item_ids": user["item_ids"][:1]}))


def test_texts_longer_than_the_backbone_are_refused(make_trainer, tokenizer):
    with pytest.raises(ValueError, match=r"max_text_length 4000 is more than the \d+ positions"):
        make_trainer(processor=TransRecProcessor(tokenizer, max_text_length=4000))


@pytest.mark.parametrize(
    ("on_gpu", "cores", "processes", "workers"),
    [(False, 8, 1, 0), (True, 8, 1, 4), (True, 8, 4, 1), (True, 2, 4, 0), (True, 1, 1, 0)],
)
def test_workers_make_batches_while_a_gpu_computes(on_gpu, cores, processes, workers, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert usual_workers(on_gpu) == workers
    for given, expected in ((None, 0), (0, 0), (2, 2)):
        args = TransRecTrainingArguments(output_dir=str(tmp_path), dataloader_num_workers=given, use_cpu=True)
        assert args.dataloader_num_workers == expected


def test_wrong_arguments_say_what_to_do(make_trainer, make_model, items, train_split, tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns"):
        TransRecTrainingArguments(output_dir=str(tmp_path), remove_unused_columns=True)
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        TransRecTrainingArguments(output_dir=str(tmp_path), early_stopping_patience=1, load_best_model_at_end=False)
    with pytest.raises(ValueError, match="needs --transition_weight"):
        TransRecTrainingArguments(output_dir=str(tmp_path), metric_for_best_model="eval_ndcg@10_with_transitions")
    with pytest.raises(ValueError, match="processing_class"):
        TransRecTrainer(make_model("id"), TransRecTrainingArguments(output_dir=str(tmp_path)), items, train_split)


def test_fsdp_that_accelerate_leaves_out_is_pointed_out(make_trainer, monkeypatch, caplog):
    make_trainer("id")
    assert "FSDP" not in caplog.text
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    make_trainer("id", output="asked")
    assert "every process holds the whole model" in caplog.text


def test_clusters_of_users_are_found_in_each_epoch_and_resumed_exactly(make_trainer, tmp_path):
    fields = {"auxiliary_loss_type": "intents", "num_intents": 4}
    trainer = make_trainer("id", fields, output="whole", save_total_limit=None)
    found = []
    trainer.add_callback(seen_by(trainer, found))
    trainer.train()
    assert len(found) == 2 and not torch.equal(*found) and all(one.any() for one in found)
    first = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[0]
    again = make_trainer("id", fields, output="again")
    again.train(resume_from_checkpoint=str(first))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="give save_strategy='epoch'"):
        make_trainer("id", fields, output="steps", save_strategy="steps", eval_strategy="steps")


def seen_by(trainer, found):
    class See(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            found.append(trainer.data_collator.intents.clone())

    return See()
