"""Lines of results with the ranks of their users."""

import numpy as np
import pytest


@pytest.fixture
def add(tmp_path):
    """Adds a line with ranks of users, and returns it."""

    def line(
        model,
        seed,
        ranks,
        scores="own",
        known_users=None,
        fingerprint="f00d",
        users=None,
        name="",
        counts=None,
        **facts,
    ):
        name = f"rankings/{name}{model}-{seed}-{scores}-{known_users}-{facts.get('num_trials', 0)}.npz"
        (tmp_path / "rankings").mkdir(exist_ok=True)
        named = {} if users is None else {"users": np.array(users, dtype=str)}
        named |= {} if counts is None else {"target_counts": counts, "history_lengths": np.full(len(ranks), 7)}
        np.savez(tmp_path / name, num_better=ranks, num_tied=np.zeros_like(ranks), **named)
        gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)
        metrics = {"hr@10": float((ranks < 10).mean()), "ndcg@10": float(gains.mean()), "coverage@10": 0.5}
        return {
            **{"id": name, "dataset": "Amazon_Beauty", "model": model, "scores": scores, "seed": seed},
            **{"kind": "trained", "known_users": known_users, "rankings": name, "metrics": metrics},
            "groups": {"target 0": {"num_users": 7, "ndcg@10": 0.125}},
            "protocol": {"fingerprint": fingerprint, "ranking": "full", "num_users": len(ranks), "num_candidates": 99},
            "hardware": {"gpu": None, "processor": "A processor", "threads": 1},
            "versions": {"modeling_transrec": "1", "torch": "2", "transformers": "3"},
            **{"git_commit": "0123456789abcdef", "num_trials": 0},
            "seconds": {"training": 10.0 * (seed or 0), "evaluation": 1.0},
            "peak_memory_bytes": 2**30,
            **facts,
        }

    return line
