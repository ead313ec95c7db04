"""Clusters of users, which the auxiliary loss of ICSRec reads."""

import pytest
import torch

from modeling_transrec.data.loading import index_histories, read_histories
from modeling_transrec.evaluation.intents import find_intents
from modeling_transrec.models.whitening import unit_length

from ..checks import perturb


@pytest.fixture
def known(train_split, items):
    return index_histories(train_split, items["item_id"][:])


def test_each_centre_is_the_mean_direction_of_its_users(known, make_model, processor_of, prepared_items):
    model = perturb(make_model("id"))
    centres = find_intents(model, prepared_items["id"], processor_of["id"], known, 3)
    assert centres.shape == (3, 16)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(3))
    assert torch.equal(centres, find_intents(model, prepared_items["id"], processor_of["id"], known, 3))
    items = model.get_item_features(item_ids=torch.arange(37))
    histories = torch.from_numpy(read_histories(known, range(len(known))))
    with torch.no_grad():
        users = unit_length(model.get_user_features(items[histories.clamp(min=0)], histories >= 0))
    cluster = (users @ centres.T).argmax(dim=1)
    assert len(cluster.unique()) > 1
    inertia = (users - centres[cluster]).square().sum()
    assert inertia < 0.8 * (users - unit_length(users.mean(dim=0, keepdim=True))).square().sum()
    with pytest.raises(ValueError, match="clusters need as many users"):
        find_intents(model, prepared_items["id"], processor_of["id"], known, 10_000)
