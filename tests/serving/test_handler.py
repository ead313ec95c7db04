"""The handler of Inference Endpoints: `EndpointHandler(path)`, called with the body of each request."""

import base64
import importlib.util
import io
import json

import pytest

from modeling_transrec import Recommender

from ..environments import run


HISTORY = ["i001", "i002"]
ENDPOINT = """
import importlib.util, json, sys
folder, bodies = sys.argv[1], json.loads(sys.argv[2])
present = [name for name in ("fastapi", "faiss", "peft", "pytest", "torchvision") if importlib.util.find_spec(name)]
assert not present, present
spec = importlib.util.spec_from_file_location("handler", f"{folder}/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler, answers = module.EndpointHandler(path=folder), []
for body in bodies:
    try:
        answers.append(handler(body))
    except ValueError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""


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
        ({"inputs": HISTORY, "parameters": [3]}, '"parameters" must be names with values'),
        ({"inputs": {"items": []}}, '"inputs" has a "history"'),
        ({"inputs": {"history": HISTORY, "items": ["i001"]}}, '"items" must be a list of items'),
        ({"inputs": {"history": HISTORY, "items": [{"item_id": "new"}]}}, "id table lacks 'new'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            handler(body)


def test_models_of_times_and_of_users_get_them(handler_of, make_model, processor_of, items, tmp_path):
    users = type(processor_of["id"])(item_ids=items["item_id"][:], user_ids=[f"u{n}" for n in range(13)])
    for kind, encoder, processor, known in (
        ("text", "hstu", processor_of["text"], {"timestamps": [0, 90_000_000]}),
        ("id", "dssm", users, {"user_id": "u7"}),
    ):
        recommender = Recommender(make_model(kind, user_encoder_type=encoder), processor).index(items)
        recommender.save_pretrained(tmp_path / kind, with_handler=True)
        parameters = {"k": 3, "where": {"item_id": ["i004", "i007", "i009", "i010"]}, "diversity": 0.5, **known}
        found = handler_of(tmp_path / kind)({"inputs": HISTORY, "parameters": parameters})
        assert found == recommender.recommend(HISTORY, **parameters) and len(found) == 3


def test_images_come_as_base64(handler_of, make_model, processor_of, items, tmp_path):
    Recommender(make_model("image"), processor_of["image"]).save_pretrained(tmp_path, with_handler=True)
    handler, some = handler_of(tmp_path), []
    for row in (0, 2, 3, 4):
        file = io.BytesIO()
        items["image"][row].save(file, "PNG")
        some.append({"item_id": f"new{row}", "image": file.getvalue()})
    sent = [{**one, "image": base64.b64encode(one["image"]).decode()} for one in some]
    found = handler({"inputs": {"history": ["new0"], "items": sent}})
    expected = Recommender(make_model("image"), processor_of["image"]).index(some).recommend(["new0"])
    assert [one["item_id"] for one in found] == [one["item_id"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected])
    with pytest.raises(ValueError, match="items.1.image: give the bytes of the file in base64; paths"):
        handler({"inputs": {"history": ["new0"], "items": [sent[0], {"item_id": "b", "image": __file__}]}})


@pytest.mark.slow
def test_it_answers_where_only_its_requirements_are(environment, make_model, processor_of, items, tmp_path):
    """As https://huggingface.co/docs/inference-endpoints/guides/custom_handler says that an endpoint runs it."""
    recommender = Recommender(make_model("text"), processor_of["text"]).index(items)
    recommender.save_pretrained(tmp_path / "repository", with_handler=True)
    (requirement,) = (tmp_path / "repository" / "requirements.txt").read_text().split()
    bodies = [
        {"inputs": HISTORY, "parameters": {"k": 2}},
        {"inputs": [HISTORY, ["i010"]], "parameters": {"k": 3, "explain": True}},
        {"inputs": {"history": ["a"], "items": [{"item_id": "a", "text_en": "red"}, {"item_id": "b", "text_en": ""}]}},
        {"inputs": ["unknown"]},
    ]
    command = [environment(requirement) / "python", "-I", "-c", ENDPOINT, tmp_path / "repository", json.dumps(bodies)]
    one, two, new, error = json.loads(run(*command, cwd=tmp_path).splitlines()[-1])
    assert one == [
        {"item_id": each["item_id"], "score": pytest.approx(each["score"])}
        for each in recommender.recommend(HISTORY, k=2)
    ]
    assert [[each["item_id"] for each in user] for user in two] == [
        [each["item_id"] for each in user] for user in recommender.recommend([HISTORY, ["i010"]], k=3)
    ]
    assert {each["because_of"] for each in two[0]} <= set(HISTORY)
    assert [each["item_id"] for each in new] == ["b"]
    assert "item 'unknown' is not in the indexed catalogue" in error["error"]
