"""What transformers' own tests of its Trainer check, of ours and of the plain one; its releases lack them."""

import inspect
import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PredictionOutput

from modeling_transrec import TransRecTrainer, TransRecTrainingArguments
from modeling_transrec.training.splits import keep_teaching


EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
OURS = {"self", "model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class"}
EVENTS = "init_end train_begin epoch_begin step_begin optimizer_step substep_end step_end log evaluate save epoch_end"
OPTIONS = [
    {"max_grad_norm": 0.1},
    {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    {"optim": "adafactor"},
    {"optim": "sgd"},
    {"gradient_checkpointing": True},
    {"bf16": True},
    {"bf16_full_eval": True, "eval_strategy": "steps", "eval_steps": 2},
    {"auto_find_batch_size": True},
    {"dataloader_drop_last": True},
    {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4},
    {"train_sampling_strategy": "group_by_length"},
    {"train_sampling_strategy": "sequential"},
    {"torch_empty_cache_steps": 1},
    {"include_num_input_tokens_seen": True},
    {"average_tokens_across_devices": False},
    {"skip_memory_metrics": False},
    {"accelerator_config": {"dispatch_batches": True}},
    {"accelerator_config": {"split_batches": True}},
    {"accelerator_config": {"even_batches": False}},
    {"accelerator_config": {"use_seedable_sampler": False}},
    {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 2},
    {"logging_nan_inf_filter": False},
]


@pytest.fixture
def make(make_model, processor_of, items, train_split, validation_split, tmp_path):
    def make(trainer_options=None, train=train_split, validation=validation_split, **options):
        options = {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "logging_strategy": "steps",
            "logging_steps": 1,
            **options,
        }
        args = TransRecTrainingArguments(str(tmp_path / "out"), **options)
        model = make_model("id", hidden_dropout_prob=0.0, **({"loss_type": "bce"} if trainer_options is None else {}))
        processor = processor_of["id"]
        return TransRecTrainer(
            model, args, items, train, validation, processing_class=processor, **(trainer_options or {})
        )

    return make


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("name", sorted(set(inspect.signature(Trainer.__init__).parameters) - OURS))
def test_the_constructor_takes(name):
    assert name in inspect.signature(TransRecTrainer.__init__).parameters


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_training_arguments(options, make):
    trainer = make(**options)
    assert math.isfinite(trainer.train().training_loss) and trainer.state.global_step == 4
    assert ("eval_on_start" in options) == (trainer.state.log_history[0]["step"] == 0)


def test_neftune_is_refused_with_ids(make):
    with pytest.raises(ValueError, match="neftune_noise_alpha adds noise to the embeddings of tokens"):
        make(neftune_noise_alpha=0.1).train()


def test_reproducible_training(make):
    runs = []
    for seed in (0, 0, 1):
        trainer = make(seed=seed)
        trainer.train()
        runs.append(weights(trainer))
    same, other = ([torch.equal(runs[0][name], run[name]) for name in run] for run in runs[1:])
    assert all(same) and not all(other)


def test_gradient_accumulation(make):
    """Twice four users are eight, with a loss that shares nothing between users."""
    runs = []
    for options in ({"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 2}):
        trainer = make(**options, max_steps=1)
        trainer.train()
        runs.append(weights(trainer))
    for name in runs[0]:
        torch.testing.assert_close(runs[0][name], runs[1][name], atol=1e-5, rtol=1e-4)


def test_epochs(make):
    trainer = make(max_steps=-1, num_train_epochs=1.5)
    trainer.train()
    assert trainer.state.global_step == math.ceil(1.5 * math.ceil(13 / 4))
    assert trainer.num_examples(trainer.get_train_dataloader()) == 13


def test_evaluation_and_prediction(make, validation_split):
    trainer = make()
    one, other = trainer.evaluate(), trainer.evaluate(metric_key_prefix="test")
    assert one["eval_hr@10"] == other["test_hr@10"] and one["eval_loss"] == other["test_loss"]
    predicted = trainer.predict(validation_split)
    assert isinstance(predicted, PredictionOutput) and predicted.predictions is not None
    assert predicted.metrics["test_hr@10"] == one["eval_hr@10"]


def test_several_evaluation_sets(make, validation_split):
    sets = {"a": validation_split, "b": validation_split.select(range(5))}
    trainer = make(validation=sets, **EVERY_STEP, load_best_model_at_end=True, metric_for_best_model="eval_a_hr@10")
    trainer.train()
    assert {"eval_a_hr@10", "eval_b_hr@10"} <= set(trainer.evaluate()) and trainer.state.best_metric is not None


@pytest.mark.parametrize("metric", ["hr@10", "ndcg@20"])
def test_load_best_model_at_end(metric, make):
    trainer = make(**EVERY_STEP, load_best_model_at_end=True, metric_for_best_model=metric, save_total_limit=1)
    trainer.train()
    found = [entry[f"eval_{metric}"] for entry in trainer.state.log_history if f"eval_{metric}" in entry]
    assert trainer.state.best_metric == max(found)
    assert trainer.evaluate()[f"eval_{metric}"] == pytest.approx(max(found), abs=1e-12)


def test_early_stopping(make):
    options = {**EVERY_STEP, "load_best_model_at_end": True, "max_steps": 40, "learning_rate": 0.0}
    trainer = make({"callbacks": [EarlyStoppingCallback(1)]}, **options)
    trainer.train()
    assert trainer.state.global_step < 10


def test_events(make, validation_split):
    seen = set()

    class Record(TrainerCallback):
        pass

    names = [f"on_{name}" for name in (*EVENTS.split(), "train_end", "predict", "prediction_step")]
    for name in names:
        setattr(Record, name, lambda self, args, state, control, name=name, **more: seen.add(name))
    trainer = make({"callbacks": [Record()]}, gradient_accumulation_steps=2, **EVERY_STEP)
    trainer.train()
    trainer.predict(validation_split)
    assert seen == set(names)


def test_checkpoints_and_resuming(make, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 5}
    trainer = make(**options)
    trainer.train()
    files = {path.name for path in (tmp_path / "out" / "checkpoint-4").iterdir()}
    assert {"model.safetensors", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= files
    expected, again = weights(trainer), make(**options)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert again.state.global_step == 4 and all(
        torch.equal(expected[name], one) for name, one in weights(again).items()
    )


def test_only_the_model_and_total_limit(make, tmp_path):
    make(save_strategy="steps", save_steps=1, save_only_model=True, save_total_limit=2).train()
    left = sorted((tmp_path / "out").glob("checkpoint-*"))
    assert len(left) == 2 and not (left[0] / "optimizer.pt").exists()


def test_optimizers(make):
    trainer = make()
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    trainer = make({"optimizers": (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))})
    trainer.model.load_state_dict(trainer.model.state_dict())
    trainer.create_optimizer_and_scheduler(2)
    assert trainer.optimizer is optimizer


def test_metrics_are_saved(make, tmp_path):
    trainer = make()
    found = trainer.train()
    trainer.log_metrics("train", found.metrics)
    trainer.save_metrics("train", found.metrics)
    trainer.save_state()
    for name in ("train_results.json", "all_results.json", "trainer_state.json"):
        assert (tmp_path / "out" / name).stat().st_size > 0


@pytest.fixture
def parts(make_model, make_collator, histories):
    model = make_model("id")
    return model, make_collator("id", model), keep_teaching(histories).remove_columns("target")


def plain_trainer(parts, folder, **options):
    model, collator, rows = parts
    args = TrainingArguments(
        str(folder),
        max_steps=3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **options,
    )
    return Trainer(model, args, data_collator=collator, train_dataset=rows, eval_dataset=rows)


def test_the_plain_trainer(parts, tmp_path):
    trainer = plain_trainer(parts, tmp_path, prediction_loss_only=True)
    assert math.isfinite(trainer.train().training_loss) and math.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("options", [{}, {"dispatch_batches": True}, {"split_batches": True}], ids=str)
def test_a_loop_of_ones_own_with_accelerate(options, parts):
    model, collator, rows = parts
    configuration = DataLoaderConfiguration(**options)
    accelerator = Accelerator(cpu=True, dataloader_config=configuration, gradient_accumulation_steps=2)
    loader = torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collator, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), loader)
    count = 0
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
            count += len(accelerator.gather_for_metrics(batch["item_index"]))
    assert count == len(rows)
