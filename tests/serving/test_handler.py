"""The handler of Inference Endpoints: `EndpointHandler(path)`, called with the body of each request."""

import importlib.util
import json
import subprocess
import sys

import pytest

from modeling_transrec import Recommender


HISTORY = ["i001", "i002"]


@pytest.fixture
def handler_of():
    """Loads a handler as an endpoint does: from the file beside the checkpoint."""

    def load(folder):
        spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.EndpointHandler(path=str(folder))

    return load


def test_it_recommends_from_the_catalogue_or_from_items(handler_of, make_model, processor_of, items, tmp_path):
    recommender = Recommender(make_model("text").model, processor_of["text"]).index(items)
    recommender.save_pretrained(tmp_path, with_handler=True)
    handler = handler_of(tmp_path)
    expected = recommender.recommend([HISTORY, ["i010"]], k=3)
    found = handler({"inputs": [HISTORY, ["i010"]], "parameters": {"k": 3}})
    assert [[one["item_id"] for one in each] for each in json.loads(json.dumps(found))] == [
        [one["item_id"] for one in each] for each in expected
    ]
    some = [{"item_id": items["item_id"][one], "text_en": items["text_en"][one]} for one in (1, 2, 7, 8)]
    found = handler({"inputs": {"history": HISTORY, "items": some}, "parameters": {"exclude_seen": True}})
    assert sorted(one["item_id"] for one in found) == ["i007", "i008"]
    assert handler({"inputs": HISTORY, "parameters": {"k": 3}}) == handler({"inputs": HISTORY, "parameters": {"k": 3}})
    assert (tmp_path / "requirements.txt").read_text().startswith("modeling_transrec==")


def test_what_it_cannot_answer_is_a_sentence(handler_of, make_model, processor_of, tmp_path):
    Recommender(make_model("id").model, processor_of["id"]).save_pretrained(tmp_path, with_handler=True)
    handler = handler_of(tmp_path)
    for body, sentence in (
        ({}, 'a request needs "inputs"'),
        ({"inputs": HISTORY}, "this checkpoint has no catalogue"),
        ({"inputs": HISTORY, "parameters": {"top": 3}}, "there is no parameter top"),
        ({"inputs": {"items": []}}, '"inputs" has a "history"'),
        ({"inputs": {"history": HISTORY, "items": [{"item_id": "new"}]}}, "id table lacks 'new'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            handler(body)


@pytest.mark.slow
def test_it_answers_in_a_process_of_its_own(make_model, processor_of, items, tmp_path):
    recommender = Recommender(make_model("text").model, processor_of["text"]).index(items)
    recommender.save_pretrained(tmp_path / "checkpoint", with_handler=True)
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from handler import EndpointHandler\n"
        "print(json.dumps(EndpointHandler(sys.argv[1])(json.loads(sys.argv[2]))))"
    )
    body = json.dumps({"inputs": HISTORY, "parameters": {"k": 2}})
    command = [sys.executable, "-c", code, str(tmp_path / "checkpoint"), body]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [one["item_id"] for one in json.loads(done.stdout.splitlines()[-1])]
    assert found == [one["item_id"] for one in recommender.recommend(HISTORY, k=2)]
