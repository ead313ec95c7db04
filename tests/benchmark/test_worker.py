"""Tasks of a benchmark, in this process."""

import pytest

from modeling_transrec.benchmark.suites import Suite
from modeling_transrec.benchmark.worker import Worker


def test_too_many_candidates_are_refused_before_anything_is_trained_or_ranked(tmp_path, monkeypatch):
    for name in ("train", "_untrained"):
        monkeypatch.setattr(Worker, name, lambda *_: pytest.fail("begun in vain"))
    suite = Suite("A suite", {"IDRec": {"modality": "id"}}, ["Sample_Target"], sampled={"num_candidates": [400]})
    tasks = suite.tasks()
    assert {task.kind for task in tasks} == {"baselines", "model"}
    for task in tasks:
        with pytest.raises(ValueError, match="400 candidates need 399; give fewer"):
            Worker(tmp_path, use_cpu=True).run(task)
