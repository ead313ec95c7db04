"""Losses and metrics of the caller's own, as transformers' Trainer takes them."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from modeling_transrec import FullRankingEvaluator, TransRecTrainingArguments
from modeling_transrec.evaluation.observation import Observation


NOTHING_SAVED = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


def best_items(scores, targets):
    return scores.view(-1).view(scores.shape).topk(3).indices  # of scores that lie one after the other


def share_of_targets(predicted):
    return {"hit@3": float((predicted.predictions == predicted.label_ids[:, None]).any(1).mean())}


@pytest.mark.parametrize("transition_weight", ["0", "auto"])
def test_metrics_of_ranks_and_losses(transition_weight, make_trainer):
    seen = []

    def compute(predicted):
        seen.append(predicted)
        return {"mean_rank": predicted.predictions.mean(), "eval_it": torch.tensor(2)}

    trainer = make_trainer(
        trainer_options={"compute_metrics": compute},
        include_for_metrics=["loss"],
        transition_weight=transition_weight,
        eval_ks=[3],
    )
    metrics = trainer.evaluate()
    (predicted,) = seen
    assert predicted.predictions.max() > 15  # all ranks are exact, also those far behind
    assert metrics["eval_mrr"] == pytest.approx((1 / predicted.predictions).mean(), abs=1e-4)
    assert metrics["eval_mean_rank"] == pytest.approx(predicted.predictions.mean())
    assert metrics["eval_loss"] == pytest.approx(predicted.losses.mean())
    assert metrics["eval_it"] == 2 and "eval_eval_it" not in metrics


@pytest.mark.parametrize("transition_weight", ["0", "auto"])
def test_metrics_of_what_is_kept_of_the_scores(transition_weight, make_trainer):
    own = {"compute_metrics": share_of_targets, "preprocess_logits_for_metrics": best_items}
    trainer = make_trainer(
        trainer_options=own, eval_ks=[3, 10], transition_weight=transition_weight, per_device_eval_batch_size=3
    )
    assert trainer.evaluate()["eval_hit@3"] == pytest.approx(trainer.evaluate()["eval_hr@3"])
    predicted = trainer.predict(trainer.eval_dataset)
    assert predicted.predictions.shape == (len(trainer.eval_dataset), 3)
    assert predicted.metrics["test_hit@3"] == pytest.approx(predicted.metrics["test_hr@3"])


def test_the_loss_is_the_cross_entropy_of_the_target(make_trainer, items, validation_split, processor_of):
    trainer = make_trainer("id")
    metrics = trainer.evaluate()
    scored = []

    def keep(histories, users, scores, ranks):
        targets = torch.from_numpy(evaluator.targets[users])
        scored.append(F.cross_entropy(scores, targets, reduction="none"))

    evaluator = FullRankingEvaluator(items, validation_split)
    with torch.no_grad():
        evaluator.rank(evaluator.build_scorer(trainer.model.eval(), processor_of["id"]), observe=keep)
    assert metrics["eval_loss"] == pytest.approx(float(torch.cat(scored).mean()), abs=1e-6)


def test_a_metric_of_ones_own_chooses_the_checkpoint(make_trainer):
    epochs = iter([0.9, 0.3])
    trainer = make_trainer(
        "id",
        trainer_options={"compute_metrics": lambda predicted: {"mine": next(epochs, 0.0)}},
        metric_for_best_model="mine",
    )
    trainer.train()
    assert trainer.state.best_metric == 0.9 and trainer.state.best_global_step == trainer.state.max_steps // 2


def test_the_smallest_loss_chooses_the_checkpoint(make_trainer, monkeypatch):
    trainer = make_trainer("id", metric_for_best_model="loss", num_train_epochs=2, learning_rate=0.0)
    assert not trainer.args.greater_is_better
    losses = iter([2.0, 3.0])
    monkeypatch.setattr(Observation, "losses", lambda _: np.array([next(losses)]))
    trainer.train()
    assert trainer.state.best_metric == 2.0


def test_only_the_loss(make_trainer):
    trainer = make_trainer("id", prediction_loss_only=True, num_train_epochs=1)
    trainer.train()
    metrics = trainer.evaluate()
    assert "eval_loss" in metrics and "eval_hr@10" not in metrics
    assert trainer.state.best_metric == min(e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e)
    assert trainer.predict(trainer.eval_dataset).predictions is None


def test_a_loss_of_ones_own_is_trained_with(make_trainer):
    """The cross-entropy over the batch's items, which is `in_batch` without its corrections where all users differ."""
    calls = []

    def cross_entropy(outputs, labels, num_items_in_batch):
        calls.append(labels.shape)
        scores = outputs.user_hidden @ outputs.item_embeds.T  # (B, L, U)
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum") / num_items_in_batch

    trainer = make_trainer(
        "id", trainer_options={"compute_loss_func": cross_entropy}, gradient_accumulation_steps=2, **NOTHING_SAVED
    )
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["labels"]
    with torch.no_grad():
        outputs = trainer.model.eval()(**{name: value for name, value in batch.items() if name != "labels"})
        expected = cross_entropy(outputs, labels, (labels >= 0).sum())
        assert trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=(labels >= 0).sum()) == expected
    trainer.train()
    assert len(calls) > 2
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert 0 < losses[-1] < losses[0]


def test_an_optimizer_of_ones_own_class(make_trainer):
    choice = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5})}
    trainer = make_trainer(trainer_options=choice, learning_rate=0.1, backbone_learning_rate=0.01)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.SGD and {group["momentum"] for group in optimizer.param_groups} == {0.5}
    assert {group["lr"] for group in optimizer.param_groups} == {0.1, 0.01}


def test_callbacks_see_each_block_that_is_ranked(make_trainer):
    seen = []

    class Count(TrainerCallback):
        def on_prediction_step(self, args, state, control, **kwargs):
            seen.append(kwargs["eval_dataloader"])

    make_trainer("id", callbacks=[Count()], per_device_eval_batch_size=5).evaluate()
    assert len(seen) == 3 and None not in seen


def test_what_is_refused(make_trainer, tmp_path):
    arguments = functools.partial(TransRecTrainingArguments, str(tmp_path), use_cpu=True)
    for options, message in [
        ({"include_for_metrics": ["inputs"]}, "include_for_metrics has no 'inputs'"),
        ({"batch_eval_metrics": True}, "batch_eval_metrics and eval_do_concat_batches are not supported"),
        ({"eval_do_concat_batches": False}, "keep what compute_metrics needs of each batch by preprocess_logits"),
        ({"prediction_loss_only": True, "transition_weight": "auto"}, "--prediction_loss_only ranks nothing"),
    ]:
        with pytest.raises(ValueError, match=message):
            arguments(**options)
    with pytest.raises(ValueError, match="keep_start compares how users are ranked"):
        make_trainer("id", prediction_loss_only=True, keep_start=True)
    with pytest.raises(ValueError, match="metric_for_best_model='hr@10' is not measured.*'loss'"):
        make_trainer("id", prediction_loss_only=True, metric_for_best_model="hr@10").check_before_training()
    with pytest.raises(ValueError, match="predict the next item, and this model predicts others"):
        make_trainer("id", {"user_encoder_type": "bert4rec"}, trainer_options={"compute_loss_func": print})
    twice = {"compute_metrics": lambda predicted: {"mrr": np.float32(1.0)}}
    with pytest.raises(ValueError, match="compute_metrics returns 'mrr', which the Trainer measures itself"):
        make_trainer("id", trainer_options=twice).evaluate()
