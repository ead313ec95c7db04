"""A head for labels of users: losses, checkpoints, training, and labels from a table."""

import datasets
import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

from modeling_transrec import TransRecForUserClassification, UserLabelCollator, with_labels
from modeling_transrec.data.loading import index_histories

from ..tiny import with_times


def make_head(make_model, user_encoder_type="sasrec", **fields):
    config = make_model("id", user_encoder_type=user_encoder_type, **fields).config
    torch.manual_seed(1)
    return TransRecForUserClassification(config).eval()


BATCH = {"item_ids": torch.tensor([4, 2, 9]), "item_index": torch.tensor([[-1, 0, 1], [2, 1, 0]])}


@pytest.mark.parametrize(
    ("fields", "labels", "expected"),
    [
        ({"num_labels": 4}, torch.tensor([3, 0]), F.cross_entropy),
        ({"num_labels": 3}, torch.tensor([[1.0, 0, 1], [0, 0, 1]]), F.binary_cross_entropy_with_logits),
        ({"num_labels": 1}, torch.tensor([[0.5], [2.0]]), F.mse_loss),
        ({"num_labels": 1}, torch.tensor([0.5, 2.0]), lambda logits, labels: F.mse_loss(logits[:, 0], labels)),
    ],
)
def test_the_loss_is_that_of_the_problem(fields, labels, expected, make_model):
    model = make_head(make_model, **fields)
    output = model(**BATCH, labels=labels)
    users = model.model(**BATCH).user_embeds
    logits = users @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.loss, expected(logits, labels))


def test_it_loads_a_recommender_and_itself_and_refuses_less(make_model, tmp_path):
    recommender = make_model("id")
    recommender.save_pretrained(tmp_path / "recommender")
    model = TransRecForUserClassification.from_pretrained(tmp_path / "recommender", num_labels=3).eval()
    found = model.model.get_item_features(item_ids=BATCH["item_ids"])
    assert torch.equal(found, recommender.get_item_features(item_ids=BATCH["item_ids"]))
    model.save_pretrained(tmp_path / "labels")
    again = TransRecForUserClassification.from_pretrained(tmp_path / "labels").eval()
    assert again.config.num_labels == 3 and torch.equal(again(**BATCH).logits, model(**BATCH).logits)
    weights = {name: one for name, one in model.state_dict().items() if "position" not in name}
    with pytest.raises(ValueError, match="lack 1 of the model's"):
        TransRecForUserClassification.from_pretrained(None, config=model.config, state_dict=weights)


@pytest.mark.parametrize("user_encoder_type", ["sasrec", "dnn", "hstu"])
def test_it_learns_labels_from_a_table(
    user_encoder_type, make_model, items, prepared_items, train_split, id_processor, tmp_path
):
    sequences = with_times(train_split)
    kinds = ["early" if taken[-1] < "i003" else "late" for taken in sequences["item_ids"]]
    table = {"user_id": sequences["user_id"][:], "kind": kinds}
    labelled = with_labels(sequences, table, "kind")
    assert labelled.features["label"].names == ["early", "late"] and len(set(kinds)) == 2
    model = make_head(make_model, user_encoder_type, num_labels=2, hidden_dropout_prob=0.0)
    collator = UserLabelCollator(model.config, prepared_items["id"], id_processor)
    histories = index_histories(labelled, items["item_id"])
    options = {"learning_rate": 0.03, "num_train_epochs": 40, "remove_unused_columns": False, "report_to": []}
    args = TrainingArguments(str(tmp_path), use_cpu=True, save_strategy="no", **options)
    trainer = Trainer(model, args, collator, histories)
    trainer.train()
    others = labelled.select(range(len(labelled) - 1, 2, -1))  # other users at each place
    predicted = trainer.predict(index_histories(others, items["item_id"]))
    assert predicted.label_ids.tolist() == others["label"][:]
    assert (predicted.predictions.argmax(-1) == predicted.label_ids).mean() == 1


def test_it_is_made_around_a_pretrained_backbone(make_model, tmp_path):
    backbone = make_model("text").item_encoder.backbones[0]
    backbone.save_pretrained(tmp_path)
    model = TransRecForUserClassification.from_encoder_pretrained(str(tmp_path), num_labels=3, hidden_size=8)
    made = model.item_encoder.backbones[0].state_dict()
    assert model.classifier.out_features == 3
    assert all(torch.equal(made[name], weight) for name, weight in backbone.state_dict().items() if name in made)


def test_labels_that_do_not_fit_are_refused():
    sequences = datasets.Dataset.from_dict({"user_id": ["u", "v"], "item_ids": [["a"], ["b"]]})
    with pytest.raises(ValueError, match="lacks the column label; it has user_id, age"):
        with_labels(sequences, {"user_id": ["u"], "age": [3]})
    with pytest.raises(ValueError, match="twice"):
        with_labels(sequences, {"user_id": ["u", "u"], "label": [0, 1]})
    with pytest.raises(ValueError, match="no user of the histories"):
        with_labels(sequences, {"user_id": ["x"], "label": [0]})
    with pytest.raises(ValueError, match="the label -1 is below 0"):
        with_labels(sequences, {"user_id": ["u", "v"], "label": [1, -1]})
    assert with_labels(sequences, {"user_id": ["v", "u"], "label": [0.5, None]})["label"][:] == [0.5]
    several = {"user_id": ["u", "v"], "label": [[0.0, 1.0], [1.0, 0.0]]}
    assert with_labels(sequences, several)["label"][:] == several["label"]
    for label, names in ((["b", "a"], ["a", "b"]), ([3, 0], ["0", "1", "2", "3"])):
        first = with_labels(sequences.select([1]), {"user_id": ["u", "v"], "label": label})
        assert first.features["label"].names == names  # the same for every split
