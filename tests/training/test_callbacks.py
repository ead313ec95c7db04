"""Tests of what the Trainer does when its time is over."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback

from modeling_transrec import TransRecTrainingArguments
from modeling_transrec.training import callbacks

from ..checks import Interrupt, assert_equal_weights, weights


@pytest.fixture
def minute_a_look(monkeypatch):
    """A clock that is a minute further at each look."""
    looks = iter(range(0, 10**6, 60))
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_training_stops_when_its_minutes_are_over_with_one_last_evaluation(make_trainer, minute_a_look, strategy):
    options = {"eval_strategy": strategy, "save_strategy": strategy, "eval_steps": 100, "save_steps": 100}
    trainer = make_trainer("id", num_train_epochs=9, max_train_minutes=3, logging_strategy="no", **options)
    trainer.train()
    steps = trainer.state.global_step
    assert 1 <= steps <= 3 < trainer.state.max_steps
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_hr@10" in entry]
    assert evaluated == [steps] and trainer.state.best_global_step == steps
    assert saved_steps(trainer) == [steps]


def test_a_resumed_training_has_the_minutes_that_are_left(make_trainer, minute_a_look):
    options = {"num_train_epochs": 9, "max_train_minutes": 12, "save_strategy": "steps", "save_steps": 2}
    options |= {"eval_strategy": "steps", "eval_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        make_trainer("id", callbacks=[Interrupt(5)], **options).train()
    trainer = make_trainer("id", **options)
    trainer.train(resume_from_checkpoint=True)
    whole = make_trainer("id", output="whole", **options)
    whole.train()
    assert trainer.state.global_step < trainer.state.max_steps
    assert abs(trainer.state.global_step - whole.state.global_step) <= 1  # the clock is looked at for checkpoints, too


def test_a_limit_that_passes_during_a_validation_costs_no_further_step(make_trainer, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: clock.now))

    class SlowEvaluation(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            clock.now += 300

    trainer = make_trainer("id", callbacks=[SlowEvaluation()], num_train_epochs=9, max_train_minutes=8)
    trainer.train()
    evaluated = [entry["epoch"] for entry in trainer.state.log_history if "eval_hr@10" in entry]
    assert evaluated == [1, 2] and trainer.state.epoch == 2
    clock.now += 10**6
    trainer.evaluate()  # of the user's own, which stops nothing
    assert trainer.state.epoch == 2


def test_more_minutes_lead_to_the_weights_of_an_uninterrupted_training(make_trainer, monkeypatch):
    options = {
        "model_fields": {"item_projection": "whitened", "hidden_size": None, "num_attention_heads": 2},
        "num_train_epochs": 3,
        "save_total_limit": None,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    whole = make_trainer("text", output="whole", **options)
    whole.train()
    looks = iter(range(0, 10**6, 60))
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
        stopped = make_trainer("text", max_train_minutes=5, **options)
        stopped.train()
    assert stopped.state.epoch % 1 != 0
    more = make_trainer("text", max_train_minutes=1000, **options)
    more.train(resume_from_checkpoint=True)
    assert_equal_weights(weights(more.model), weights(whole.model), atol=0)


def test_clusters_of_users_cannot_be_resumed_within_an_epoch(make_trainer, minute_a_look):
    fields = {"auxiliary_loss_type": "intents", "num_intents": 4}
    options = {"model_fields": fields, "num_train_epochs": 3, "save_strategy": "epoch"}
    make_trainer("id", max_train_minutes=2, **options).train()
    with pytest.raises(ValueError, match="of the middle of an epoch"):
        make_trainer("id", **options).train(resume_from_checkpoint=True)


def test_minutes_must_be_some():
    with pytest.raises(ValueError, match="max_train_minutes must be above 0, got 0"):
        TransRecTrainingArguments("out", max_train_minutes=0)


def saved_steps(trainer):
    """The steps of a training's checkpoints."""
    states = Path(trainer.args.output_dir).glob("checkpoint-*/trainer_state.json")
    return sorted(json.loads(state.read_text())["global_step"] for state in states)


def test_a_resumed_training_goes_on_counting_evaluations_without_a_better_one(make_trainer):
    options = {"num_train_epochs": 30, "learning_rate": 0.0, "early_stopping_patience": 4}
    steps = len(make_trainer("id", **options).get_train_dataloader())
    with pytest.raises(KeyboardInterrupt):
        make_trainer("id", callbacks=[Interrupt(3 * steps + 1)], **options).train()
    resumed, whole = make_trainer("id", **options), make_trainer("id", output="whole", **options)
    resumed.train(resume_from_checkpoint=True)
    whole.train()
    assert resumed.state.epoch == whole.state.epoch == 5
    whole.train()  # begins to count again
    assert whole.state.epoch == 5


def test_callbacks_are_restored_by_transformers_option_too(make_trainer):
    options = {"num_train_epochs": 3, "max_train_minutes": 60, "early_stopping_patience": 2}
    with pytest.raises(KeyboardInterrupt):
        make_trainer("id", callbacks=[Interrupt(8)], **options).train()
    options |= {"max_train_minutes": 90, "early_stopping_patience": 7}
    trainer = make_trainer("id", restore_callback_states_from_checkpoint=True, **options)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.epoch == 3
    kept = [one for one in trainer.callback_handler.callbacks if isinstance(one, callbacks.EarlyStopping)]
    assert [one.early_stopping_patience for one in kept] == [7]  # that of now
