"""NineRec's DSSM and its variant, against their training written out for each user and item."""

import pytest
import torch
import torch.nn.functional as F

from ..checks import perturb
from ..tiny import NUM_USERS


def test_dnn_predicts_each_item_from_the_bag_of_all_others(make_model, make_collator, histories):
    model = perturb(make_model("id", user_encoder_type="dnn", loss_type="bce", num_hidden_layers=2, max_seq_len=7))
    collator = make_collator("id", model)
    batch = collator([histories[user] for user in range(5)])
    table = model.item_encoder.id_embedding.weight
    first, second = (layer.linear for layer in model.model.user_encoder.mlp)

    def encode(bag):
        mean = torch.stack([table[item] for item in bag]).mean(0)
        return F.relu(second(F.relu(first(mean))))

    items, terms = batch["item_ids"], []
    for user in range(5):
        window = histories[user]["history"][-8:]
        offset = batch["item_index"].shape[1] - len(window)
        assert [int(items[one]) for one in batch["item_index"][user, offset:]] == window
        for place, target in enumerate(window):
            state = encode(window[:place] + window[place + 1 :])
            negative = items[batch["negative_index"][user, offset + place, 0]]
            terms.append(F.softplus(-state @ table[target]) + F.softplus(state @ table[negative]))
    torch.testing.assert_close(model(**batch).loss, torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)
    history = histories[0]["history"][-7:]
    found = model.get_user_features(table[history][None], torch.ones(1, len(history), dtype=torch.bool))
    torch.testing.assert_close(found[0], encode(history), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_seq_len", [3, 20])
def test_dssm_scores_a_users_items_by_the_users_embedding(max_seq_len, make_model, make_collator, histories):
    model = perturb(make_model("id", user_encoder_type="dssm", loss_type="bce", max_seq_len=max_seq_len))
    batch = make_collator("id", model)([histories[user] for user in range(NUM_USERS)])
    users, table = model.model.user_encoder.user_embedding.weight, model.item_encoder.id_embedding.weight
    places = batch["labels"] >= 0
    assert places.sum() == sum(min(len(one["history"]), max_seq_len + 1) for one in histories)
    of_user = users[batch["user_ids"]][:, None].expand(-1, places.shape[1], -1)[places]
    positive = (of_user * table[batch["item_ids"][batch["labels"][places]]]).sum(-1)
    negative = (of_user * table[batch["item_ids"][batch["negative_index"][places][:, 0]]]).sum(-1)
    expected = (F.softplus(-positive) + F.softplus(negative)).mean()
    torch.testing.assert_close(model(**batch).loss, expected, atol=1e-5, rtol=1e-5)
