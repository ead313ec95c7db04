"""The service: what it answers, refuses, and keeps."""

import asyncio
import base64
import dataclasses
import io
import itertools
import json
import logging
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch

from ..tiny import tiny_image


fastapi = pytest.importorskip("fastapi", reason='needs pip install ".[serve]"')

import httpx  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from modeling_transrec import Recommender, Transitions  # noqa: E402
from modeling_transrec.serving.app import JsonFormatter, Limits, create_app  # noqa: E402
from modeling_transrec.serving.batching import Batcher, BusyError  # noqa: E402
from modeling_transrec.serving.event_log import EventLog, LogInUseError  # noqa: E402
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


def state(transitions: Transitions) -> dict:
    """Returns all that transitions know, to the last bit."""
    base, kept = transitions._base, transitions._kept
    return {
        "changes": transitions._changes.as_dict(),
        "changed": transitions._changed.as_dict(),
        "histories": transitions._histories.as_dict(),
        "counts": [] if base is None else base.to_dense().tolist(),
        "stamp": transitions.stamp,
        "times": (transitions._reference, transitions._latest),
        "kept": (kept.items.tolist(), kept.offsets.tolist(), kept.users),
        "number": transitions._num_changes,
    }


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


def test_several_are_answered_as_one_by_one(load):
    """Lists of different lengths, an item whose embedding is zero, and one that has counts but was replaced."""
    recommender = load().add_items([{"item_id": "i002", "text_en": "red rope"}]).remove_items(["i005"])
    recommender.scorer.item_embeddings[7] = 0
    histories, wanted = [["i001"], ["i003", "i010", "i001"]], [["i004"], ["i020", "i002", "i003"]]
    expected = recommender.scorer.scores(recommender.snapshot.histories_as_indices(histories))
    for scores, item_ids, found in zip(expected, wanted, recommender.score(histories, wanted), strict=True):
        assert found == pytest.approx(
            [scores[recommender.snapshot.index_of.get(one, -1)].item() for one in item_ids], abs=1e-5
        )
    assert recommender.score(histories[1], wanted[1]) == pytest.approx(recommender.score(histories, wanted)[1])
    for item_id, found in zip(ids := ["i003", "i007", "i002"], recommender.similar_items(ids, k=40), strict=True):
        alone = recommender.similar_items(item_id, k=40)
        assert len(found) == 35 and {item_id, "i005"}.isdisjoint(one["item_id"] for one in found)
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in alone], abs=1e-6)
        assert {one["item_id"]: one["score"] for one in found}.get("i007", 0) == 0
    for item_ids in (["i001"], [["i001"]]):
        with pytest.raises(ValueError, match="in the form of history"):
            recommender.score(histories, item_ids)


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


def test_a_body_that_is_no_json_is_said_to_be_none(client):
    found = client.post("/recommend", content='{"k": 1, history: 3}', headers={"content-type": "application/json"})
    assert found.status_code == 422
    assert re.fullmatch(r"the body is not JSON: .+ \(character 9\)", found.json()["error"]), found.text


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


QUESTIONS = [
    ("/recommend", {"history": ["i001"]}),
    ("/score", {"history": ["i001"], "item_ids": ["i002"]}),
    ("/similar-items", {"item_id": "i001"}),
]


@pytest.mark.parametrize(("path", "body"), QUESTIONS)
def test_what_comes_while_a_batch_is_computed_is_the_next_and_only_so_many_wait(path, body, load, monkeypatch):
    service, sizes, may_go = Service(load), [], threading.Event()
    name = path[1:].replace("-", "_")
    compute = getattr(service, name)

    def slow(values, *rest, **options):
        sizes.append(len(values))
        assert may_go.wait(10)
        return compute(values, *rest, **options)

    monkeypatch.setattr(service, name, slow)
    app = create_app(service, limits=Limits(max_waiting=2))

    async def main():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            first = asyncio.create_task(client.post(path, json=body))
            while not sizes:
                await asyncio.sleep(0.01)
            tasks = [asyncio.create_task(client.post(path, json=body)) for _ in range(4)]
            await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            may_go.set()
            answers = await asyncio.gather(first, *tasks)
            metrics = (await client.get("/metrics")).text
            return [*answers, await client.post(path, json=body)], metrics

    answers, metrics = asyncio.run(main())
    assert [one.status_code for one in answers] == [200, 200, 200, 503, 503, 200] and sizes == [1, 2, 1]
    assert answers[3].json() == {"error": "2 requests wait already"} and answers[3].headers["Retry-After"] == "1"
    assert f'transrec_batch_size_sum{{route="{path}"}} 3.0' in metrics
    assert answers[1].json() == answers[2].json()


def test_metrics_and_logs_have_no_personal_data(client, caplog):
    caplog.set_level(logging.INFO, logger="modeling_transrec.serving.app")
    client.post("/recommend", json={"history": ["i007"], "k": 3})
    client.post("/interactions", json={"interactions": [{"user_id": "somebody", "item_id": "i007"}]})
    metrics = client.get("/metrics").text
    assert 'transrec_requests_total{route="/recommend",status="200"} 1.0' in metrics
    assert "transrec_catalogue_items 37.0" in metrics and 'batch_size_count{route="/recommend"} 1.0' in metrics
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
        monkeypatch.setattr(service, "load", lambda: fail_to_load("somebody"))
        assert client.post("/reload").status_code == 503
    record = next(record for record in caplog.records if record.exc_info)
    (line,) = JsonFormatter().format(record).splitlines()
    assert "somebody" not in line and "somebody" not in record.getMessage()
    _, outer, inner = json.loads(line)["errors"]
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


@pytest.mark.parametrize("index", ["exact", "usearch", pytest.param("qdrant", marks=pytest.mark.slow)])
def test_a_new_checkpoint_is_swapped_in_without_a_failed_request(
    index, checkpoint, make_model, text_processor, items, tmp_path
):
    """While clients ask and change the catalogue, whose changes are in the new one, too."""
    pytest.importorskip({"exact": "torch", "qdrant": "qdrant_client"}.get(index, index))
    made = iter([Recommender.from_pretrained(checkpoint)])

    def load():
        return next(made, None) or Recommender(make_model("text", hidden_size=48), text_processor).index(
            items.select(range(20)), histories=HISTORIES
        )

    service = Service(load, tmp_path / "events.jsonl", index)
    with TestClient(create_app(service)) as client:
        statuses, stop = [], threading.Event()

        def ask(number):
            for count in itertools.count():
                if stop.is_set():
                    return count
                new = {"item_id": f"new{number}-{count}", "text_en": "red rope"}
                for path, body in (
                    ("/recommend", {"history": ["i001"], "k": 3}),
                    ("/score", {"history": ["i001"], "item_ids": ["i002"]}),
                    ("/interactions", {"interactions": [CLICK]}),
                ):
                    statuses.append(client.post(path, json=body).status_code)
                statuses.append(client.put("/items", json={"items": [new]}).status_code)

        with ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(ask, number) for number in range(4)]
            reloaded = client.post("/reload").json()
            stop.set()
            counts = [one.result() for one in asking]
        assert len(statuses) >= 16 and set(statuses) == {200}
        assert reloaded["skipped"] == 0 and client.get("/ready").json()["catalogue"] == 20 + sum(counts)
        assert service.recommender.item_embeddings.shape[1] == 48
        found = client.post("/recommend", json={"history": ["i001"], "k": 3}).json()["items"]
        expected = service.recommender.search_with("exact").recommend(["i001"], k=3)
        assert [one["item_id"] for one in found] == [one["item_id"] for one in expected]


class TestReload:
    """What a log has is made again on another checkpoint, as far as it fits."""

    @pytest.fixture
    def shop(self, checkpoint, make_model, text_processor, items, tmp_path):
        """A service, and a function by which the shop publishes another catalogue."""
        published = []

        def load():
            return published[-1]() if published else Recommender.from_pretrained(checkpoint)

        def publish(rows, histories=HISTORIES):
            published.append(lambda: Recommender(make_model("text"), text_processor).index(rows, histories=histories))

        service = Service(load, tmp_path / "events.jsonl")
        with TestClient(create_app(service)) as client:
            yield client, publish, lambda: Service(load, tmp_path / "events.jsonl")

    def test_what_does_not_fit_another_catalogue_is_left_out_and_counted(self, shop, items, tmp_path, caplog):
        client, publish, again = shop
        new = {"item_id": "new", "text_en": "red rope"}
        clicks = [{"user_id": "u9", "item_id": one, "timestamp": 1} for one in ("i020", "new", "i021")]
        assert client.request("DELETE", "/items", json={"item_ids": ["i030", "i004"]}).status_code == 200
        for row in (new | {"year": 3}, {"item_id": "i000", "text_en": "blue shoe", "year": 4}):
            assert client.put("/items", json={"items": [row]}).status_code == 200
        assert client.post("/interactions", json={"interactions": clicks}).status_code == 200
        assert client.post("/interactions", json={"interactions": clicks[:1]}).status_code == 200
        kept = (tmp_path / "events.jsonl").read_text()

        publish(items.select(range(20)))  # without i020, i021 and i030, and without the column year
        assert client.post("/reload").json() == {"catalogue": 20, "skipped": 3}
        assert "transrec_log_skipped 3.0" in client.get("/metrics").text
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        of_items, warning = warnings
        assert "1 of 20 items have nothing in text_en" in of_items
        assert "3 interactions of" in warning and "line 4" in warning and "i020" not in warning
        recommender = client.app.state.service.recommender
        assert {"new", "i000"} <= set(recommender.item_ids) and "i004" not in recommender.item_ids
        assert recommender.scorer.transitions.item_counts[recommender.scorer.transitions.index_of(["new"])] == [1]
        assert (tmp_path / "events.jsonl").read_text() == kept
        client.app.state.service.close()
        service = again()
        assert service.skipped == 3 and service.recommender.item_ids == recommender.item_ids
        service.close()

    @pytest.mark.parametrize("half_life", [None, 3.0])
    @pytest.mark.parametrize("together", [10_000, 7, 1])
    def test_interactions_of_many_events_are_counted_as_one_by_one(
        self, load, tmp_path, monkeypatch, half_life, together
    ):
        """Events out of time order, equal ones, several of a user, and some that do not fit, between other events."""
        rng = np.random.default_rng(0)
        with EventLog(tmp_path / "events.jsonl") as log:
            for number in range(120):
                some = [f"i{one:03}" if one < 40 else "gone" for one in rng.integers(42, size=rng.integers(1, 4))]
                rows = [{"user_id": f"u{rng.integers(3)}", "item_id": one, "timestamp": 0} for one in some]
                for row in rows:
                    row["timestamp"] = int(rng.integers(5)) if number % 10 else 0.5
                    row |= {"weight": float(rng.uniform())} if number // 20 % 2 else {}
                rows[-1]["timestamp"] = "yesterday" if number == 33 else rows[-1]["timestamp"]
                log.append({"kind": "observe", "interactions": rows})
                if number in (50, 51):
                    log.append({"kind": "remove", "item_ids": [f"i{number - 45:03}"]})
        counted = [["i001", "i002", "i003"], ["i001", "i002", "i004"]]

        def load_counted():
            recommender = load()
            dataset = {"user_id": ["u1", "u2"], "item_ids": counted, "timestamps": [[1.0, 2, 3], [4.0, 5, 6]]}
            transitions = Transitions.from_sequences(
                pa.table(dataset), recommender.item_ids, keep_histories=True, half_life=half_life
            )
            scorer = recommender.scorer.replace(transitions=transitions)
            recommender.restore(dataclasses.replace(recommender.snapshot, scorer=scorer))
            return recommender

        expected, skipped = load_counted(), 0
        with EventLog(tmp_path / "events.jsonl") as log:
            for event in log.events():
                if event["kind"] == "remove":
                    expected.remove_items(event["item_ids"])
                    continue
                rows = [row for row in event["interactions"] if row["item_id"] in expected.snapshot]
                rows = [row for row in rows if row["timestamp"] != "yesterday"]
                turns = [rows] if rows else []
                for turn in turns:
                    expected.observe({name: [row[name] for row in turn] for name in turn[0]})
                skipped += len(event["interactions"]) - len(rows)
        monkeypatch.setattr("modeling_transrec.serving.service._COUNTED_TOGETHER", together)
        calls = []
        monkeypatch.setattr(
            Recommender,
            "observe_in_turn",
            lambda self, *given, observe=Recommender.observe_in_turn: calls.append(given) or observe(self, *given),
        )
        service = Service(load_counted, tmp_path / "events.jsonl")
        found, expected = service.recommender.scorer.transitions, expected.scorer.transitions
        assert service.skipped == skipped > 10
        assert state(found) == state(expected)
        assert (len(calls) < 40) == (together == 10_000)

    def test_a_catalogue_without_counts_takes_no_interactions(self, shop, items):
        client, publish, _ = shop
        assert client.post("/interactions", json={"interactions": [CLICK] * 5}).status_code == 200
        publish(items, None)
        assert client.post("/reload").json() == {"catalogue": 37, "skipped": 5}

    def test_what_the_checkpoint_has_already_is_not_made_again(self, shop, items, tmp_path, monkeypatch):
        client, publish, again = shop

        def at(seconds, method, path, body):
            monkeypatch.setattr(time, "time", lambda: seconds)
            assert client.request(method, path, json=body).status_code == 200

        at(100, "POST", "/interactions", {"interactions": [CLICK]})
        at(101, "DELETE", "/items", {"item_ids": ["i005"]})
        at(200, "POST", "/interactions", {"interactions": [CLICK, CLICK]})
        monkeypatch.undo()
        publish(items)  # with i005 again, and all that was until 150
        assert client.post("/reload", json={"since": 150}).json() == {"catalogue": 37, "skipped": 0}
        moved = [json.loads(line)["time"] for line in (tmp_path / "events.jsonl.1").read_text().splitlines()]
        assert moved == [100, 101]

        def count(service):
            transitions = service.recommender.scorer.transitions
            return transitions.item_counts[transitions.index_of(["i001"])].tolist()

        assert count(client.app.state.service) == [2 + 2]  # of HISTORIES and after 150
        client.app.state.service.close()
        service = again()
        assert count(service) == [2 + 2] and "i005" in service.recommender.item_ids
        service.close()

    def test_a_time_that_cannot_be_meant_is_refused(self, shop, load):
        client, _, _ = shop
        for since, sentence in ((1e12, "since is in the future"), (-1, "since: Input should be greater")):
            found = client.post("/reload", json={"since": since})
            assert found.status_code == 422 and sentence in found.json()["error"]
        with TestClient(create_app(Service(load))) as client:
            found = client.post("/reload", json={"since": 1})
            assert found.status_code == 422 and "there is no log" in found.json()["error"]

    def test_one_that_fails_leaves_log_and_index_as_they_were(self, checkpoint, tmp_path, monkeypatch):
        pytest.importorskip("qdrant_client")
        service = Service(lambda: Recommender.from_pretrained(checkpoint), tmp_path / "events.jsonl", "qdrant")
        with TestClient(create_app(service)) as client:
            assert client.put("/items", json={"items": [{"item_id": "new", "text_en": "red"}]}).status_code == 200
            index = service.recommender.scorer.nearest.index

            def fail(*_):
                raise RuntimeError("not now")

            monkeypatch.setattr(service, "_replay", fail)
            assert client.post("/reload").status_code == 503
            assert "new" in index.item_ids() and len(index) == 38
            assert client.request("DELETE", "/items", json={"item_ids": ["new"]}).status_code == 200

    def test_a_database_of_another_checkpoint_is_filled_anew(self, load, make_model, text_processor, items, tmp_path):
        """At a start and at a reload, and what the earlier checkpoint left in it goes."""
        pytest.importorskip("qdrant_client")
        options = {"path": str(tmp_path / "qdrant")}

        def load_other():
            return Recommender(make_model("text", hidden_size=48), text_processor).index(items)

        for loads in ([load, load_other], [load, load]):
            each = iter(loads)
            service = Service(lambda: next(each)(), tmp_path / "events.jsonl", "qdrant", options)  # noqa: B023
            service.reload()
            recommender, client = service.recommender, service._index.client
            assert len(client.get_collections().collections) == 1
            index = recommender.scorer.nearest.index
            assert index.checkpoint == recommender.snapshot.stamp and len(index) == 37
            client.close()
            service.close()


def test_answers_do_not_wait_for_changes(client):
    """However many wait."""
    service = client.app.state.service
    with ThreadPoolExecutor(60) as threads:
        with service._changing:  # as while a checkpoint is swapped in
            waiting = [threads.submit(client.post, "/interactions", json={"interactions": [CLICK]}) for _ in range(50)]
            waiting.append(threads.submit(client.post, "/reload"))
            time.sleep(0.2)
            for path, body in QUESTIONS:
                assert threads.submit(client.post, path, json=body).result(timeout=20).status_code == 200
            assert threads.submit(client.get, "/ready").result(timeout=20).status_code == 200
            assert not any(one.done() for one in waiting)
        assert {one.result().status_code for one in waiting} == {200}


def test_an_index_that_cannot_be_reached_is_told(load, monkeypatch):
    pytest.importorskip("qdrant_client")
    from qdrant_client.http.exceptions import ResponseHandlingException

    service = Service(load, index="qdrant")

    def fail(*_, **__):
        raise ResponseHandlingException(ConnectionError("gone"))

    with TestClient(create_app(service)) as client:
        for name in ("collection_exists", "query_batch_points"):
            monkeypatch.setattr(service._index.client, name, fail)
        for method, path, body in (
            ("GET", "/ready", None),
            ("POST", "/recommend", {"history": ["i001"]}),
            ("DELETE", "/items", {"item_ids": ["i001"]}),
        ):
            found = client.request(method, path, json=body)
            assert found.status_code == 503 and "the index cannot be reached" in found.json()["error"]
        monkeypatch.undo()
        assert client.get("/ready").json()["catalogue"] == 37
        assert client.post("/recommend", json={"history": ["i001"]}).status_code == 200


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


@pytest.mark.parametrize(("path", "body"), QUESTIONS)
def test_one_wrong_request_does_not_fail_those_of_its_batch(path, body, load):
    app = create_app(Service(load))
    wrong = {name: "nope" if name == "item_id" else ["nope"] for name in body}

    async def main():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            return await asyncio.gather(*(client.post(path, json=one) for one in (body, wrong, body)))

    first, failed, last = asyncio.run(main())
    assert first.status_code == last.status_code == 200 and first.json() == last.json()
    assert failed.status_code == 422 and "'nope' is not in the indexed catalogue" in failed.json()["error"]


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
        path.write_text('{"kind": "remove", "item_ids": [], "time": 1}\nnothing\n[]\n')
        with EventLog(path) as log, pytest.raises(ValueError, match="events.jsonl:2: the line is damaged"):
            list(log.events())
        for line in ("[]", '{"time": 1}', '{"kind": "remove"}'):
            path.write_text(f"{line}\n")
            with EventLog(path) as log, pytest.raises(ValueError, match="events.jsonl:1: this is no event"):
                list(log.events())

    def test_older_events_are_moved_into_a_file_beside(self, tmp_path, monkeypatch):
        path = tmp_path / "events.jsonl"
        with EventLog(path) as log:
            for second in range(1, 6):
                monkeypatch.setattr(time, "time", lambda: second)  # noqa: B023
                log.append({"kind": "remove", "item_ids": [str(second)]})
            assert [event["item_ids"] for event in log.events(since=4)] == [["4"], ["5"]]
            whole = path.read_text()
            assert log.move_before(1) is None and path.read_text() == whole
            assert [log.move_before(3).name, log.move_before(4).name] == ["events.jsonl.1", "events.jsonl.2"]
            log.append({"kind": "remove", "item_ids": ["6"]})
        beside = [tmp_path / f"events.jsonl.{number}" for number in (1, 2)]
        assert "".join(part.read_text() for part in (*beside, path)).startswith(whole)
        with EventLog(path) as log:
            assert [event["item_ids"] for event in log.events()] == [["4"], ["5"], ["6"]]
            assert sorted(one.name for one in tmp_path.iterdir() if "unfinished" in one.name) == []

    def test_a_full_disk_moves_nothing(self, tmp_path, monkeypatch):
        path = tmp_path / "events.jsonl"
        with EventLog(path) as log:
            log.append({"kind": "remove", "item_ids": ["a"]})
            before = path.read_bytes()

            def full(descriptor):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                log.move_before(2**40)
            monkeypatch.undo()
            assert path.read_bytes() == before and not [*tmp_path.glob("events.jsonl.[!l]*")]
            log.append({"kind": "remove", "item_ids": ["b"]})
            assert len([*log.events()]) == 2

    def test_it_belongs_to_one_process(self, tmp_path):
        path = tmp_path / "events.jsonl"
        with EventLog(path), pytest.raises(LogInUseError, match="another process writes"):
            EventLog(path)
        EventLog(path).close()
