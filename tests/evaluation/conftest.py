"""What several tests of metrics need."""

import pytest
import torch
from torchmetrics.functional.retrieval import ndcg


class InFloat64:
    """Is torch, with float64 where float32 is asked for."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def in_float64(monkeypatch):
    """Lets the functions of torchmetrics compute in float64, which they do not by themselves."""
    monkeypatch.setattr(ndcg, "torch", InFloat64())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
