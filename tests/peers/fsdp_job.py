"""Run by test_fsdp.py on two processes: a step of a model of every kind that FSDP2 divides, against a whole one."""

import copy
import json
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from modeling_transrec import TransRecForSequentialRecommendation

from ..checks import fully_sharded
from .tester import TransRecModelTester


def compare(items: str, user_encoder: str, mesh: DeviceMesh) -> None:
    """Checks scores, loss and the weights after a step; evaluation mode, since each process draws dropout anew."""
    tester = TransRecModelTester(None, items, user_encoder)
    torch.manual_seed(0)
    whole = TransRecForSequentialRecommendation(tester.get_config()).eval()
    divided = fully_sharded(copy.deepcopy(whole), mesh)
    inputs = tester.inputs(whole.config)
    batch = {**inputs, **tester.labels(whole.config, inputs)}
    with torch.no_grad():
        expected, logits = (model(**inputs).logits for model in (whole, divided))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    losses = [model(**batch).loss for model in (whole, divided)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    for model, loss in zip((whole, divided), losses, strict=True):
        loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = get_model_state_dict(divided, options=StateDictOptions(full_state_dict=True))
    for name, value in whole.state_dict().items():
        assert torch.allclose(after[name], value, atol=1e-5, rtol=0), name


def main(folder: Path, pairs: list[list[str]]) -> None:
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for pair in pairs:
        try:
            compare(*pair, mesh)
            found["-".join(pair)] = None
        except Exception:  # one kind that fails, whatever with, does not hide what the others do
            found["-".join(pair)] = traceback.format_exc()
    if torch.distributed.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
