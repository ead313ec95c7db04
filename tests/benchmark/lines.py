"""Lines of results, as a benchmark writes them."""

import json
from pathlib import Path


PROTOCOL = {
    "dataset": "ninerec/Amazon_Beauty",
    "split": "test",
    "fingerprint": "0123456789abcdef",
    "num_users": 1000,
    "num_candidates": 500,
    "ranking": "full: every catalogue item is a candidate",
    "seen_items": "excluded, except the target",
    "ties": "expected value over a random order",
    "max_seq_len": 20,
}


def result_line(
    model: str = "IDRec", hr: float = 0.1, seed: int | None = 42, fingerprint: str | None = None, **changes
):
    """Returns a line that holds; `changes` replace fields."""
    line = {
        "schema": 1,
        "id": f"{abs(hash((model, seed, fingerprint))) % 16**12:012x}",
        "suite": "amazon",
        "dataset_name": "ninerec",
        "dataset": "Amazon_Beauty",
        "split": "test",
        "model": model,
        "kind": "trained",
        "modality": "id",
        "scores": "own",
        "seed": seed,
        "sources": [],
        "options": {"learning_rate": 0.001},
        "num_trials": 0,
        "metrics": {"hr@5": hr * 0.7, "ndcg@5": hr * 0.4, "hr@10": hr, "ndcg@10": hr / 2, "mrr": hr / 2},
        "groups": {"target 0": {"num_users": 10, "hr@10": 0.0}},
        "protocol": {**PROTOCOL, **({} if fingerprint is None else {"fingerprint": fingerprint})},
        "versions": {"python": "3.12.1", "torch": "2.9.0"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "hardware": {"processor": "a processor", "threads": 2, "gpu": None},
        "started": "2026-11-29T10:00:00+00:00",
        "seconds": {"training": 100.0, "evaluation": 5.0},
        "peak_memory_bytes": 2**31,
        "energy_joules": None,
        "num_parameters": 900_000,
        "num_trained_parameters": 900_000,
        "command": f"transrec finetune --dataset_config_name Amazon_Beauty --data_dir DATA --seed {seed}",
        "card": None,
    }
    return {**line, **changes}


def write_lines(path: Path, lines) -> Path:
    """Writes values as JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
