"""The search for hyper-parameters, with a training that takes no time."""

import json
from types import SimpleNamespace

import pytest

from modeling_transrec.benchmark import tuning
from modeling_transrec.benchmark.suites import Task
from modeling_transrec.benchmark.tuning import Search, tune


SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "num_hidden_layers": [1, 2]}
OWN = {"learning_rate": 1e-3, "num_hidden_layers": 2}


class Killed(BaseException):
    """Stands for a signal that leaves no time."""


class FakeWorker:
    """Takes the learning rate for what a training is worth; `dies_at` names trainings by their order."""

    is_main_process = True

    def __init__(self, folder, dies_at=(), error=Killed, metric="ndcg@10"):
        self.folder, self.dies_at, self.error, self.metric = folder, dies_at, error, metric
        self.trained = []

    def tuned(self, task_id):
        return self.folder / f"{task_id}.json"

    def remove(self, folder):
        pass

    def arguments(self, *_):
        return None, SimpleNamespace(metric_for_best_model=self.metric, greater_is_better=self.metric != "loss")

    def train(self, spec, options, folder):
        self.trained.append({name: options[name] for name in SPACE})
        if len(self.trained) in self.dies_at:
            raise self.error()
        history = [{f"eval_{self.metric}": options["learning_rate"] + change} for change in (0, 1e-5, -1e-5)]
        return SimpleNamespace(state=SimpleNamespace(log_history=history))


@pytest.fixture
def task():
    return Task("tune", "IDRec: 4 settings", {"seed": 1, "space": SPACE, "num_trials": 4, "options": OWN})


def found_in(folder, task):
    return json.loads((folder / f"{task.id}.json").read_text())


def test_the_first_setting_is_the_suites_own(task, tmp_path):
    worker = FakeWorker(tmp_path)
    tune(worker, task)
    assert worker.trained[0] == OWN and len(worker.trained) == 4
    best, found = max(worker.trained, key=lambda one: one["learning_rate"]), found_in(tmp_path, task)
    assert found["options"] == best and found["value"] == pytest.approx(best["learning_rate"] + 1e-5)
    assert found["untuned"] == pytest.approx(1e-3 + 1e-5) and found["num_trials"] == 4
    assert found["metric"] == "ndcg@10" and found["seconds"] >= 0


@pytest.mark.parametrize("dies_at", [1, 3])
def test_a_killed_search_goes_on_with_the_setting_that_it_was_trying(task, tmp_path, dies_at):
    killed, again = FakeWorker(tmp_path, dies_at=[dies_at]), FakeWorker(tmp_path)
    with pytest.raises(Killed):
        tune(killed, task)
    tune(again, task)
    assert again.trained[0] == killed.trained[-1]
    tried = [*killed.trained, *again.trained[1:]]
    assert len(tried) == 4 and tried[0] == OWN and len({one["learning_rate"] for one in tried}) == 4  # none is twice
    found = found_in(tmp_path, task)
    assert found["untuned"] == pytest.approx(1e-3 + 1e-5) and found["num_trials"] == 4


def test_killed_again_and_again(task, tmp_path):
    for _ in range(3):
        with pytest.raises(Killed):
            tune(FakeWorker(tmp_path, dies_at=[1]), task)
    last = FakeWorker(tmp_path)
    tune(last, task)
    assert last.trained[0] == OWN and len(last.trained) == found_in(tmp_path, task)["num_trials"] == 4


def test_a_setting_that_cannot_be_trained_with_counts_and_is_not_tried_again(task, tmp_path):
    failing, again = FakeWorker(tmp_path, dies_at=[2], error=ValueError), FakeWorker(tmp_path)
    with pytest.raises(ValueError):
        tune(failing, task)
    tune(again, task)
    assert len(again.trained) == 2 and failing.trained[1] not in again.trained
    for _ in range(2):
        tune(again, task)  # over
    assert len(again.trained) == 2 and found_in(tmp_path, task)["num_trials"] == 4


def test_a_loss_is_best_where_it_is_lowest(task, tmp_path):
    worker = FakeWorker(tmp_path, metric="loss")
    tune(worker, task)
    best, found = min(worker.trained, key=lambda one: one["learning_rate"]), found_in(tmp_path, task)
    assert found["options"] == best and found["value"] == pytest.approx(best["learning_rate"] - 1e-5)


def test_only_the_main_process_chooses(task, tmp_path, monkeypatch):
    """Another process trains with what is sent to it, and writes nothing."""
    sent = [OWN, {**OWN, "num_hidden_layers": 1}, None]
    monkeypatch.setattr(tuning, "of_main_process", lambda find: (find(), sent.pop(0))[1])
    worker = FakeWorker(tmp_path)
    worker.is_main_process = False
    tune(worker, task)
    assert [one["num_hidden_layers"] for one in worker.trained] == [2, 1] and not list(tmp_path.iterdir())


def test_all_have_failed(task, tmp_path):
    search = Search(task.spec, tmp_path / "x.json")
    while search.ask() is not None:
        search.fail()
    with pytest.raises(ValueError, match="all 4 settings have failed"):
        search.found()
