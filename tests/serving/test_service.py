"""The service: what it answers, refuses, and keeps."""

import asyncio
import base64
import io
import json
import logging
import os
import threading

import pytest
import torch

from ..tiny import tiny_image


fastapi = pytest.importorskip("fastapi", reason='needs pip install ".[serve]"')

from fastapi.testclient import TestClient  # noqa: E402

from modeling_transrec import Recommender  # noqa: E402
from modeling_transrec.serving.app import JsonFormatter, Limits, create_app  # noqa: E402
from modeling_transrec.serving.batching import Batcher, BusyError  # noqa: E402
from modeling_transrec.serving.event_log import EventLog  # noqa: E402
from modeling_transrec.serving.service import Service  # noqa: E402


HISTORIES = {
    "user_id": ["u1"] * 3 + ["u2"] * 3,
    "item_id": ["i001", "i002", "i003", "i001", "i002", "i004"],
    "timestamp": [1, 2, 3, 4, 5, 6],
}
CLICK = {"user_id": "u1", "item_id": "i001"}


@pytest.fixture(scope="module")
def checkpoint(make_model, text_processor, items, tmp_path_factory):
    """A recommender with a catalogue and counts."""
    folder = tmp_path_factory.mktemp("shop")
    dated = items.add_column("year", list(range(len(items))))
    recommender = Recommender(make_model("text"), text_processor).index(dated, histories=HISTORIES)
    recommender.save_pretrained(folder)
    return folder


@pytest.fixture
def load(checkpoint):
    return lambda: Recommender.from_pretrained(checkpoint)


@pytest.fixture
def client(load, tmp_path):
    with TestClient(create_app(Service(load, tmp_path / "events.jsonl"))) as client:
        yield client


def test_it_answers_what_the_recommender_does(client, load):
    recommender, history = load(), ["i003", "i010"]
    found = client.post("/recommend", json={"history": history, "k": 5, "explain": True})
    assert found.status_code == 200 and found.json()["items"] == recommender.recommend(history, k=5, explain=True)
    options = {"k": 5, "where": {"item_id": ["i001", "i002", "i004", "i005"]}, "diversity": 0.5}
    found = client.post("/recommend", json={"history": history, **options}).json()["items"]
    assert found == recommender.recommend(history, **options) and len(found) == 4
    found = client.post("/similar-items", json={"item_id": "i003", "k": 4}).json()["items"]
    assert found == recommender.similar_items("i003", k=4)
    ids = ["i003", "i020"]
    assert client.post("/score", json={"history": history, "item_ids": ids}).json()["scores"] == pytest.approx(
        recommender.score(history, ids)
    )
    assert client.get("/health").json() == {"status": "alive"}
    assert client.get("/ready").json()["catalogue"] == 37


def test_a_model_that_reads_times_gets_those_of_the_request(make_model, text_processor, items):
    recommender = Recommender(make_model("text", user_encoder_type="hstu"), text_processor).index(items)
    history, times = ["i003", "i010", "i011"], [[0, 1, 2], [0, 10_000, 90_000_000]]
    with TestClient(create_app(Service(lambda: recommender))) as client:
        found = [
            client.post("/recommend", json={"history": history, "k": 5, "timestamps": one}).json()["items"]
            for one in times
        ]
        assert found == [recommender.recommend(history, k=5, timestamps=one) for one in times] and found[0] != found[1]
        refused = client.post("/recommend", json={"history": history})
        assert refused.status_code == 422 and "give timestamps" in refused.json()["error"]
    with pytest.raises(ValueError, match="timestamps must be at most 4611686018427387904 before or after 1970"):
        recommender.recommend(history, timestamps=[0, 1, 10**30])


def test_a_model_of_users_gets_the_id_of_the_request(make_model, processor_of, items):
    processor = type(processor_of["id"])(item_ids=items["item_id"][:], user_ids=[f"u{n}" for n in range(13)])
    recommender = Recommender(make_model("id", user_encoder_type="dssm"), processor).index(items)
    with TestClient(create_app(Service(lambda: recommender))) as client:
        for user_id in ("u3", "u7"):
            found = client.post("/recommend", json={"history": ["i003"], "user_id": user_id, "k": 4}).json()["items"]
            assert found == recommender.recommend(["i003"], k=4, user_id=user_id)


def test_similar_items_are_the_highest_cosines(load):
    recommender = load()
    embeddings = recommender.item_embeddings / recommender.item_embeddings.norm(dim=1, keepdim=True)
    likeness = (embeddings @ embeddings[3]).tolist()
    best = sorted((likeness[n] for n in range(37) if n != 3), reverse=True)
    found = recommender.similar_items("i003", k=6)
    assert [one["score"] for one in found] == pytest.approx(best[:6], abs=1e-5)
    of = dict(zip(recommender.item_ids, likeness, strict=True))
    assert [of[one["item_id"]] for one in found] == pytest.approx(best[:6], abs=1e-5)  # an untrained model's are close
    removed = found[0]["item_id"]
    recommender.remove_items([removed])
    left = recommender.similar_items("i003", k=36)
    assert len(left) == 35 and removed not in [one["item_id"] for one in left]
    with pytest.raises(ValueError, match="'none' is not in the indexed catalogue"):
        recommender.similar_items("none")


def test_scores_are_those_of_the_recommendations(load):
    recommender, history = load(), ["i001", "i002"]
    found = recommender.recommend(history, k=37, exclude_seen=False)
    ids = [one["item_id"] for one in found]
    assert recommender.score(history, ids) == pytest.approx([one["score"] for one in found], abs=1e-5)


def test_changes_are_used_at_once_and_made_again_after_a_restart(load, tmp_path):
    new, question = {"item_id": "new", "text_en": "red rope"}, {"history": ["i001"], "k": 40}
    clicks = [{"user_id": "u9", "item_id": one, "timestamp": time} for time, one in enumerate(["i001", "new"])]
    with TestClient(create_app(Service(load, tmp_path / "events.jsonl"))) as client:
        assert client.put("/items", json={"items": [new]}).json() == {"items": 1}
        assert client.request("DELETE", "/items", json={"item_ids": ["i004"]}).json() == {"items": 1}
        assert client.post("/interactions", json={"interactions": clicks}).json() == {"interactions": 2}
        answer = client.post("/recommend", json=question).json()["items"]
    ids = [one["item_id"] for one in answer]
    assert "new" in ids and "i004" not in ids

    again = Service(load, tmp_path / "events.jsonl")
    found = again.recommend([{"history": ["i001"]}], k=40)[0]
    assert [one["item_id"] for one in found] == ids
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in answer], abs=1e-5)
    assert again.recommender.scorer.transitions["i001"]["new"] > 0
    again.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "sentence"),
    [
        ("POST", "/recommend", {"history": ["nope"]}, "'nope' is not in the indexed catalogue"),
        ("POST", "/recommend", {"history": []}, "empty history"),
        ("POST", "/recommend", {"history": ["i001"], "k": 0}, "k: Input should be greater"),
        ("POST", "/recommend", {"history": ["i001"], "k": 1001}, "k is 1,001, and at most 1,000"),
        ("POST", "/recommend", {"history": ["i001"] * 10_001}, "at most 10,000 are allowed"),
        ("POST", "/recommend", {"history": ["i001"], "kk": 3}, "kk: Extra inputs"),
        ("POST", "/recommend", {"history": [3]}, "history.0: Input should be a valid string"),
        ("POST", "/recommend", {"history": ["i001"], "cold_users": "x"}, "cold_users: String should match"),
        ("POST", "/recommend", {"history": ["i001"], "where": {"stock": True}}, "a column 'stock' that the catalogue"),
        ("POST", "/recommend", {"history": ["i001"], "where": {"item_id": 3}}, "3 for the column 'item_id', whose"),
        ("POST", "/recommend", {"history": ["i001"], "where": {"item_id": {}}}, "where.item_id"),
        ("POST", "/recommend", {"history": ["i001"], "diversity": 1.5}, "diversity: Input should be less"),
        ("POST", "/similar-items", {"item_id": "nope"}, "'nope' is not in"),
        ("POST", "/score", {"history": ["i001"], "item_ids": []}, "item_ids: List should have at least 1"),
        ("PUT", "/items", {"items": [{"text_en": "x"}]}, "items.0.item_id: Field required"),
        ("PUT", "/items", {"items": [{"item_id": ""}]}, "items.0.item_id: String"),
        (
            "PUT",
            "/items",
            {"items": [{"item_id": "a", "text_en": ["x"]}]},
            "column text_en of the catalogue holds string",
        ),
        ("PUT", "/items", {"items": [{"item_id": "a", "text_en": {"x": 1}}]}, "column text_en of the catalogue holds"),
        ("PUT", "/items", {"items": [{"item_id": "a", "year": "old"}]}, "column year of the catalogue holds int64"),
        ("PUT", "/items", {"items": [{"item_id": "a", "year": 10**30}]}, "column year of the catalogue holds int64"),
        ("PUT", "/items", {"items": [{"item_id": "a", "image": "/any/path"}]}, "items.0.image: give the bytes of the"),
        ("PUT", "/items", {"items": [{"item_id": "a", "colour": "red"}]}, "no column colour"),
        ("DELETE", "/items", {"item_ids": ["nope"]}, "'nope' is not in the catalogue"),
        ("POST", "/interactions", {"interactions": [{"user_id": "u", "item_id": "nope"}]}, "'nope' of the inter"),
        ("POST", "/interactions", {"interactions": [{"user_id": "", "item_id": "i001"}]}, "user_id: String"),
        (
            "POST",
            "/interactions",
            {"interactions": [{**CLICK, "timestamp": 2**63}]},
            "timestamp: Input should be less",
        ),
        ("POST", "/interactions", {"interactions": [{**CLICK, "weight": 1e308}]}, "weight: Input should be less"),
        ("POST", "/recommend", {"history": ["i001"], "timestamps": [10**30]}, "timestamps.0: Input should be less"),
    ],
)
def test_what_is_wrong_gets_a_sentence(client, method, path, body, sentence, tmp_path):
    found = client.request(method, path, json=body)
    assert found.status_code == 422 and sentence in found.json()["error"], found.text
    assert (tmp_path / "events.jsonl").read_text() == ""  # nothing of it is kept
    assert client.get("/ready").json()["catalogue"] == 37


def test_bodies_are_limited(load):
    with TestClient(create_app(Service(load), limits=Limits(max_body=2000))) as client:
        found = client.post("/recommend", json={"history": ["x" * 500] * 10})
        assert found.status_code == 413 and "more than 2,000 bytes" in found.json()["error"]
        found = client.post("/recommend", content=iter([b"x" * 1500] * 3))  # of a length that is not told before
        assert found.status_code == 413
        assert client.post("/recommend", content=b"{").status_code == 422
        assert client.get("/nowhere").json() == {"error": "Not Found"}


def test_a_token_is_asked_for(load):
    with TestClient(create_app(Service(load), token="secret")) as client:
        question = {"history": ["i001"]}
        for header in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
            found = client.post("/recommend", json=question, headers=header)
            assert found.status_code == 401 and "Bearer TOKEN" in found.json()["error"]
        assert client.get("/metrics").status_code == 401 and client.get("/health").status_code == 200
        found = client.post("/recommend", json=question, headers={"Authorization": "Bearer secret"})
        assert found.status_code == 200


def test_clients_have_a_rate(load):
    with TestClient(create_app(Service(load), limits=Limits(rate="3/minute"))) as client:
        answers = [client.post("/recommend", json={"history": ["i001"]}) for _ in range(4)]
    assert [one.status_code for one in answers] == [200] * 3 + [429]
    assert answers[-1].json() == {"error": "more than 3/minute requests"} and answers[-1].headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"rate": "nonsense"}, "the rate limit must be such as 100/second, got 'nonsense'"),
        ({"max_batch": 0}, "max_batch"),
    ],
)
def test_limits_that_cannot_be_meant(limits, sentence):
    with pytest.raises(ValueError, match=sentence):
        Limits(**limits)


def test_metrics_and_logs_have_no_personal_data(client, caplog):
    caplog.set_level(logging.INFO, logger="modeling_transrec.serving.app")
    client.post("/recommend", json={"history": ["i007"], "k": 3})
    client.post("/interactions", json={"interactions": [{"user_id": "somebody", "item_id": "i007"}]})
    metrics = client.get("/metrics").text
    assert 'transrec_requests_total{route="/recommend",status="200"} 1.0' in metrics
    assert "transrec_catalogue_items 37.0" in metrics and "transrec_batch_size_count 1.0" in metrics
    lines = [JsonFormatter().format(record) for record in caplog.records]
    parsed = [json.loads(line) for line in lines]
    assert [one["route"] for one in parsed if "route" in one][:2] == ["/recommend", "/interactions"]
    assert not any("somebody" in line or "i007" in line for line in lines)


def test_a_failure_is_logged_as_a_line_without_what_was_sent(load, caplog, monkeypatch):
    service = Service(load)

    def fail(*_):
        raise KeyError("somebody")

    monkeypatch.setattr(service, "similar_items", fail)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        found = client.post("/similar-items", json={"item_id": "i001"})
        assert found.status_code == 500 and "its log says where" in found.json()["error"]
        monkeypatch.setattr(service, "reload", lambda: fail_to_load("somebody"))
        assert client.post("/reload").status_code == 503
    record = next(record for record in caplog.records if record.exc_info)
    (line,) = JsonFormatter().format(record).splitlines()
    assert "somebody" not in line and "somebody" not in record.getMessage()
    outer, inner = json.loads(line)["errors"]
    assert (outer["type"], inner["type"]) == ("ValueError", "OSError") and inner["message"] == "no such file"
    assert any(place.endswith(" fail_to_load") for place in outer["traceback"])


def fail_to_load(item_id):
    try:
        raise OSError("no such file")
    except OSError as error:
        raise ValueError(f"item {item_id!r} of the interactions is not in the catalogue") from error


def test_images_come_as_base64_and_are_kept(make_model, processor_of, items, tmp_path):
    def load():
        return Recommender(make_model("image"), processor_of["image"]).index(items)

    file = io.BytesIO()
    tiny_image(99).save(file, "PNG")
    path, content = tmp_path / "new.png", file.getvalue()
    path.write_bytes(content)
    expected = load().add_items([{"item_id": "new", "image": content}]).item_embeddings[-1]
    assert not torch.allclose(expected, load().add_items([{"item_id": "new"}]).item_embeddings[-1])
    with TestClient(create_app(Service(load, tmp_path / "events.jsonl"))) as client:
        for image in (str(path), f"file://{path}", {"path": str(path), "bytes": None}, [1], 3):
            found = client.put("/items", json={"items": [{"item_id": "old"}, {"item_id": "new", "image": image}]})
            assert found.status_code == 422 and found.json()["error"].startswith("items.1.image: give the bytes"), (
                image
            )
        sent = {"item_id": "new", "image": base64.b64encode(content).decode()}
        assert client.put("/items", json={"items": [sent]}).json() == {"items": 1}
        torch.testing.assert_close(client.app.state.service.recommender.item_embeddings[-1], expected)
    again = Service(load, tmp_path / "events.jsonl")
    torch.testing.assert_close(again.recommender.item_embeddings[-1], expected)
    again.close()


def test_a_change_that_cannot_be_kept_is_not_made(client, monkeypatch, tmp_path):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = client.put("/items", json={"items": [{"item_id": "new", "text_en": "red rope"}]})
    assert found.status_code == 507 and "was not made" in found.json()["error"]
    assert client.get("/ready").json()["catalogue"] == 37 and (tmp_path / "events.jsonl").read_text() == ""
    monkeypatch.undo()
    assert client.put("/items", json={"items": [{"item_id": "new", "text_en": "red rope"}]}).status_code == 200
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 1


def test_a_new_checkpoint_is_swapped_in_without_a_failed_request(checkpoint, items):
    sizes = iter([37, 20])

    def load():
        recommender = Recommender.from_pretrained(checkpoint)
        return recommender.index(items.select(range(next(sizes))))

    with TestClient(create_app(Service(load))) as client:
        statuses, stop = [], threading.Event()

        def ask():
            while not stop.is_set():
                statuses.append(client.post("/recommend", json={"history": ["i001"], "k": 3}).status_code)

        thread = threading.Thread(target=ask)
        thread.start()
        assert client.post("/reload").json() == {"catalogue": 20}
        stop.set()
        thread.join()
        assert statuses and set(statuses) == {200}
        assert client.get("/ready").json()["catalogue"] == 20


def test_a_checkpoint_that_is_gone_leaves_the_old_one(load):
    loads = iter([load])
    with TestClient(create_app(Service(lambda: next(loads, gone)()))) as client:
        found = client.post("/reload")
        assert found.status_code == 503 and "the old one answers" in found.json()["error"]
        assert client.post("/recommend", json={"history": ["i001"]}).status_code == 200


def gone():
    raise OSError("there is no such repository")


def test_a_checkpoint_without_a_catalogue_is_refused(make_model, text_processor):
    with pytest.raises(ValueError, match="has no catalogue: save it with one"):
        Service(lambda: Recommender(make_model("text"), text_processor))


def test_one_wrong_history_does_not_fail_the_others(load):
    service = Service(load)
    good, bad, other = service.recommend([{"history": [item_id]} for item_id in ("i001", "nope", "i002")], k=3)
    assert isinstance(bad, ValueError) and "'nope'" in str(bad)
    assert good == load().recommend(["i001"], k=3) and other == load().recommend(["i002"], k=3)


class TestBatcher:
    def test_what_comes_meanwhile_goes_together(self):
        sizes, may_go = [], threading.Event()

        def compute(key, values):
            may_go.wait(10)
            return [(key, value) for value in values]

        async def main():
            async with Batcher(compute, max_size=4, observe=sizes.append) as batcher:
                first = asyncio.create_task(batcher.submit("a", 0))
                await asyncio.sleep(0.05)  # it is being computed
                rest = [asyncio.create_task(batcher.submit(key, n)) for n in range(1, 6) for key in "ab"]
                await asyncio.sleep(0)
                may_go.set()
                return await asyncio.gather(first, *rest)

        found = asyncio.run(main())
        assert found == [("a", 0), *((key, n) for n in range(1, 6) for key in "ab")]
        assert sizes == [1, 4, 4, 1, 1]

    def test_an_error_is_that_of_its_value(self):
        async def main():
            def compute(key, values):
                if key == "all":
                    raise RuntimeError("broken")
                return [ValueError("bad") if value == 1 else value for value in values]

            async with Batcher(compute) as batcher:
                found = await asyncio.gather(*(batcher.submit("", n) for n in range(3)), return_exceptions=True)
                with pytest.raises(RuntimeError, match="broken"):
                    await batcher.submit("all", 0)
                assert await batcher.submit("", 7) == 7  # it goes on
                return found

        first, second, third = asyncio.run(main())
        assert (first, third) == (0, 2) and isinstance(second, ValueError)

    def test_a_value_that_fails_leaves_the_others_and_what_fails_for_all_is_not_tried_again(self):
        calls = []

        def compute(key, values):
            calls.append(values)
            if key == "down":
                raise ConnectionError("the database is gone")
            return [10 // value for value in values]

        async def main():
            async with Batcher(compute) as batcher:
                tasks = [asyncio.create_task(batcher.submit(key, n)) for key in ("", "down") for n in range(3)]
                return await asyncio.gather(*tasks, return_exceptions=True)

        first, *found, gone, _, _ = asyncio.run(main())
        assert isinstance(first, ZeroDivisionError) and found == [10, 5] and isinstance(gone, ConnectionError)
        assert calls == [[0, 1, 2], [0], [1], [2], [0, 1, 2]]

    def test_too_many_that_wait_are_refused(self):
        may_go = threading.Event()

        async def main():
            async with Batcher(lambda key, values: may_go.wait(10) and values, max_waiting=2) as batcher:
                tasks = [asyncio.create_task(batcher.submit("", n)) for n in range(5)]
                await asyncio.sleep(0.05)
                may_go.set()
                return await asyncio.gather(*tasks, return_exceptions=True)

        found = asyncio.run(main())
        assert sum(isinstance(one, BusyError) for one in found) == 3


class TestEventLog:
    def test_what_a_kill_has_cut_is_cut_off(self, tmp_path):
        path = tmp_path / "events.jsonl"
        with EventLog(path) as log:
            log.append({"kind": "remove", "item_ids": ["ü"]})
        path.write_bytes(path.read_bytes() + b'{"kind": "rem')
        with EventLog(path) as log:
            log.append({"kind": "remove", "item_ids": ["b"]})
            assert [event["item_ids"] for event in log.events()] == [["ü"], ["b"]]

    def test_a_damaged_line_is_named(self, tmp_path):
        path = tmp_path / "events.jsonl"
        path.write_text('{"kind": "remove", "item_ids": []}\nnothing\n[]\n')
        with EventLog(path) as log, pytest.raises(ValueError, match="events.jsonl:2: the line is damaged"):
            list(log.events())
        path.write_text("[]\n")
        with EventLog(path) as log, pytest.raises(ValueError, match="events.jsonl:1: this is no event"):
            list(log.events())

    def test_it_belongs_to_one_process(self, tmp_path):
        path = tmp_path / "events.jsonl"
        with EventLog(path), pytest.raises(RuntimeError, match="another process writes"):
            EventLog(path)
        EventLog(path).close()
