"""Run by test_fsdp.py on two processes: a step and an evaluation of a model that FSDP divides, against a whole one."""

import sys
from pathlib import Path

import datasets
import torch
import torch.distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

from modeling_transrec import FullRankingEvaluator, TransRecForSequentialRecommendation, TransRecProcessor

from ..checks import fully_sharded
from ..tiny import make_sequences, tiny_config


def make_model(kind: str, processor: TransRecProcessor, **fields) -> TransRecForSequentialRecommendation:
    torch.manual_seed(0)
    config = tiny_config(kind, processor.tokenizer, hidden_dropout_prob=0.0, **fields)
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    return TransRecForSequentialRecommendation(config)


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    processor = TransRecProcessor.from_pretrained(folder)
    items = datasets.load_from_disk(str(folder / "items"))
    evaluator = FullRankingEvaluator(items, make_sequences(items, 13, "validation"), batch_size=2, item_batch_size=5)
    batch = dict(processor(text=items["text_en"][:6]))
    batch["item_index"] = torch.tensor([[-1, 0, 1, 2], [3, 4, 5, 0]])
    batch["labels"] = torch.tensor([[-100, 1, 2, 3], [4, 5, 0, 2]])
    batch["item_log_popularity"] = torch.linspace(-3, -1, 6)
    for user_encoder in ("sasrec", "gru4rec"):
        fields = {"user_encoder_type": user_encoder, "learn_temperature": True, "normalize_scores": True}
        whole, divided = (make_model("text", processor, **fields).train() for _ in range(2))
        fully_sharded(divided, mesh)
        before, losses = whole.state_dict(), []
        before = {name: value.clone() for name, value in before.items()}
        for model in (whole, divided):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            losses.append(model(**batch).loss)
            losses[-1].backward()
            optimizer.step()
        assert torch.allclose(losses[0], losses[1], atol=1e-5)
        after = get_model_state_dict(divided, options=StateDictOptions(full_state_dict=True))
        for name, value in whole.state_dict().items():
            assert torch.allclose(after[name], value, atol=1e-5), name
        assert not torch.equal(after["model.log_temperature"], before["model.log_temperature"])
        assert evaluator(divided, processor) == evaluator(whole, processor)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
