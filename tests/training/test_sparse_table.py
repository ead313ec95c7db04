import pytest
import torch

from modeling_transrec.training.sparse_table import LARGE, JoinedOptimizer, with_values_of_rows

from ..checks import Interrupt, assert_equal_weights, weights


SPARSE = {"sparse_id_table": True, "weight_decay": 0.0}


# A batch of all users has all items that are trained: lazy moments are then Adam's own. Clipped, for the norm's sake.
@pytest.mark.parametrize(("kind", "batch_size", "accumulated"), [("id", 13, 1), ("id", 7, 2), ("text+id", 13, 1)])
def test_where_every_batch_has_every_item_it_is_adam(kind, batch_size, accumulated, make_trainer):
    trained, norms = [], []
    for sparse in (False, True):
        trainer = make_trainer(
            kind,
            {"loss_type": "in_batch", "hidden_dropout_prob": 0.0},
            sparse_id_table=sparse,
            weight_decay=0.0,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            num_train_epochs=4,
            learning_rate=1e-2,
            max_grad_norm=0.1,
            adam_epsilon=1e-12,  # is added before the correction for the first steps, not behind it as in AdamW
            freeze_backbone=kind != "id",
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
        )
        trainer.train()
        trained.append(weights(trainer.model))
        norms.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
        assert trainer.model.item_encoder.id_embedding.weight.grad is None
    assert_equal_weights(*trained, atol=1e-4)
    assert len(norms[0]) == 4 and norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_gradients_are_clipped_as_dense_ones():
    norms, clipped = [], []
    for sparse in (False, True):
        torch.manual_seed(0)
        table, layer = torch.nn.Embedding(5, 3, sparse=sparse), torch.nn.Linear(3, 1)
        layer(table(torch.tensor([3, 0, 3]))).square().sum().backward()  # 3 twice
        parameters = [*table.parameters(), *layer.parameters()]
        norms.append(torch.nn.utils.clip_grad_norm_(with_values_of_rows(parameters), 0.5))
        clipped.append([parameter.grad.to_dense() for parameter in parameters])
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(*clipped)
    assert norms[0] > 1 and torch.cat([gradient.flatten() for gradient in clipped[1]]).norm() < 0.501


@pytest.mark.parametrize("max_grad_norm", [0.0, 1e9])
def test_the_norm_is_logged_where_nothing_is_clipped(max_grad_norm, make_trainer):
    found = []
    for sparse in (False, True):
        options = {**SPARSE, "sparse_id_table": sparse, "max_grad_norm": max_grad_norm}
        fields = {"loss_type": "in_batch", "hidden_dropout_prob": 0.0}
        trainer = make_trainer("id", fields, num_train_epochs=1, per_device_train_batch_size=13, **options)
        trainer.train()
        found.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
    assert found[1] == pytest.approx(found[0], rel=1e-5) and min(found[0]) > 0


def test_a_step_changes_the_rows_of_its_batch():
    torch.manual_seed(0)
    table, other = torch.nn.Embedding(5, 3, sparse=True), torch.nn.Linear(3, 1)
    alone = torch.nn.Linear(3, 1)
    alone.load_state_dict(other.state_dict())
    adam = torch.optim.AdamW(alone.parameters(), lr=0.1)
    joined = JoinedOptimizer(
        [torch.optim.AdamW(other.parameters(), lr=0.1), torch.optim.SparseAdam(table.parameters(), lr=0.1)]
    )
    schedule = torch.optim.lr_scheduler.StepLR(joined, step_size=1, gamma=0.5)
    for rows in ([0, 1], [3, 3]):
        before = table.weight.detach().clone()
        batch = table(torch.tensor(rows))
        for optimizer, layer in ((joined, other), (adam, alone)):
            optimizer.zero_grad()
            layer(batch if layer is other else batch.detach()).square().sum().backward()
            optimizer.step()
        changed = (table.weight != before).any(dim=1).nonzero().squeeze(1).tolist()
        assert changed == sorted(set(rows))
        assert_equal_weights(weights(other), weights(alone), atol=0)
        schedule.step()
        adam.param_groups[0]["lr"] *= 0.5


@pytest.mark.parametrize("schedule", ["polynomial", "cosine_with_min_lr"])
def test_schedules_that_read_the_rate_of_the_optimizer(schedule, make_trainer):
    options = {"lr_scheduler_kwargs": {"min_lr": 1e-5}} if "min_lr" in schedule else {}
    trainer = make_trainer("id", lr_scheduler_type=schedule, num_train_epochs=1, **SPARSE, **options)
    trainer.train()
    assert all(group["lr"] < 1e-3 for group in trainer.optimizer.param_groups)


def test_a_resumed_training_equals_an_uninterrupted_one(make_trainer):
    options = {
        **SPARSE,
        "model_fields": {"loss_type": "sampled_softmax", "num_negatives": 5},
        "save_total_limit": None,
    }
    whole = make_trainer("id", output="whole", **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer("id", output="cut", callbacks=[Interrupt(5)], **options).train()
    resumed = make_trainer("id", output="cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_weights(weights(resumed.model), weights(whole.model), atol=0)


@pytest.mark.parametrize(
    ("kind", "fields", "options", "message"),
    [
        ("text", {}, {}, "a model of text has none"),
        ("id", {"loss_type": "full_softmax"}, {}, "all rows are in every batch"),
        ("id", {}, {"weight_decay": 0.1}, "give weight_decay=0"),
        ("id", {}, {"pull_to_start": 0.1}, "pull_to_start changes every row"),
        ("id", {}, {"optim": "sgd"}, "choose optim from adamw_torch, adamw_torch_fused"),
        ("id", {}, {"trainer_options": {"optimizer_cls_and_kwargs": (torch.optim.SGD, {})}}, "of your own"),
    ],
)
def test_what_needs_every_row_is_refused(kind, fields, options, message, make_trainer):
    with pytest.raises(ValueError, match=message):
        make_trainer(kind, fields, **{**SPARSE, **options})


def test_a_large_table_is_pointed_out(make_trainer, monkeypatch, caplog):
    monkeypatch.setattr("modeling_transrec.training.sparse_table.LARGE", 37)
    make_trainer("id", **SPARSE)
    make_trainer("id", {"loss_type": "full_softmax"})
    assert "sparse_id_table" not in caplog.text and LARGE > 37
    trainer = make_trainer("id")
    assert "all 37 rows" in caplog.text and not trainer.model.item_encoder.id_embedding.sparse
