"""The pull towards the start, and the way back to it, against plain arithmetic."""

from types import SimpleNamespace

import pytest
import torch

from modeling_transrec.training.start import PullToStart, Start


def test_a_step_pulls_each_weight_by_its_own_learning_rate():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    for parameter in model[1].parameters():
        parameter.requires_grad = False
    start = {name: values.clone() for name, values in model.state_dict().items()}
    pull = PullToStart(model, strength=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    groups = [{"params": [model[0].weight], "lr": 0.1}, {"params": [model[0].bias], "lr": 0.4}]
    pull.on_optimizer_step(None, None, None, optimizer=SimpleNamespace(param_groups=groups))
    torch.testing.assert_close(model[0].weight, start["0.weight"] + 1 - 0.05)
    torch.testing.assert_close(model[0].bias, start["0.bias"] + 1 - 0.2)
    torch.testing.assert_close(model[1].weight, start["1.weight"] + 1)


@pytest.mark.parametrize(("gain", "goes_back"), [(0.06, False), (0.04, True), (-0.3, True)])
def test_a_gain_within_a_standard_error_is_none(gain, goes_back):
    """A user gains `gain + 0.5` or `gain - 0.5`: the standard error over 100 users is 0.05."""
    model = torch.nn.Linear(2, 2)
    before = torch.rand(100)
    start = Start(model, before)
    with torch.no_grad():
        model.weight.add_(1.0)
    changed = model.weight.clone()
    after = before + gain + torch.tensor([0.5, -0.5]).repeat(50)
    assert start.go_back_unless_better(model, after) == goes_back
    assert torch.equal(model.weight, start.weights["weight"] if goes_back else changed)
