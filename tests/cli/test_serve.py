"""`transrec serve` as a process."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest


httpx = pytest.importorskip("httpx", reason='needs pip install ".[serve]"')
pytest.importorskip("fastapi", reason='needs pip install ".[serve]"')

from modeling_transrec import (  # noqa: E402
    DataArguments,
    ModelArguments,
    Recommender,
    TransRecTrainingArguments,
    load_items,
    load_sequences,
    train,
)
from modeling_transrec.cli import OptionError, recommend  # noqa: E402
from modeling_transrec.cli.serve import ServeArguments, loader, main, parsed_options  # noqa: E402
from modeling_transrec.export.onnx_model import OnnxModel  # noqa: E402
from modeling_transrec.serving.event_log import EventLog  # noqa: E402
from modeling_transrec.serving.indexes import INDEXES  # noqa: E402
from modeling_transrec.serving.service import Service  # noqa: E402

from ..browser import SpacePage, requests_of, served_space, wait_for  # noqa: E402
from ..environments import run  # noqa: E402


DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"
TINY = '{"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, '
TINY += '"intermediate_size": 32, "max_position_embeddings": 64}'


@contextlib.contextmanager
def served(*options, program=(sys.executable, "-m", "modeling_transrec.cli.main"), **environment):
    """A server in a process of its own, and a client that asks it; the process is killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*map(str, program), "serve", *map(str, options), "--port", str(port), "--use_cpu", "true"]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until = time.monotonic() + 240
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    if client.get("/ready").status_code == 200:
                        break
                assert process.poll() is None and time.monotonic() < until, process.stderr.read()
                time.sleep(0.2)
            yield process, client
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_loses_nothing_that_it_answered(make_model, text_processor, items, tmp_path):
    counted = {"user_id": ["u1"] * 3, "item_id": ["i001", "i002", "i003"]}
    Recommender(make_model("text"), text_processor).index(items, histories=counted).save_pretrained(tmp_path / "shop")
    options = [tmp_path / "shop", "--log_file", tmp_path / "events.jsonl"]
    expected = Recommender.from_pretrained(tmp_path / "shop").remove_items(["i009"])
    with served(*options) as (process, client):
        for number in range(5):
            new = {"item_id": f"new{number}", "text_en": "red rope"}
            assert client.put("/items", json={"items": [new]}).status_code == 200
            expected.add_items([new])
        assert client.request("DELETE", "/items", json={"item_ids": ["i009"]}).status_code == 200
        for number in range(7):
            clicks = [{"user_id": f"u{number}", "item_id": one, "timestamp": 1} for one in ("i001", "new3")]
            assert client.post("/interactions", json={"interactions": clicks}).status_code == 200
            expected.observe(clicks)
        process.send_signal(signal.SIGKILL)  # before anything else is asked
        process.wait()
    with served(*options) as (process, client):
        assert client.get("/ready").json()["catalogue"] == 41
        found = client.post("/recommend", json={"history": ["i001"], "k": 40}).json()["items"]
        scores = {one["item_id"]: one["score"] for one in expected.recommend(["i001"], k=40)}
        assert {one["item_id"]: one["score"] for one in found} == pytest.approx(scores, abs=1e-5)
        assert len(scores) == 40
        with socket.create_connection((client.base_url.host, client.base_url.port)) as other:
            other.sendall(b"nonsense\r\n\r\n")
            assert other.recv(20).startswith(b"HTTP/1.1 400")
        body = json.dumps({"interactions": clicks}).encode()
        with socket.create_connection((client.base_url.host, client.base_url.port)) as asked:
            head = f"POST /interactions HTTP/1.1\r\nHost: shop\r\nContent-Length: {len(body)}\r\n"
            asked.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body[:9])
            client.get("/health")  # it has read that by now
            process.terminate()
            with pytest.raises(httpx.TransportError):
                while True:  # until it takes no more
                    httpx.get(f"{client.base_url}/health")
                    time.sleep(0.05)
            asked.sendall(body[9:])
            assert asked.recv(100).startswith(b"HTTP/1.1 200")  # what was asked before is answered
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)  # it ends by itself, and says why
        kept = (tmp_path / "events.jsonl").read_text().splitlines()
        assert json.loads(kept[-1])["interactions"] == clicks and len(kept) == 5 + 1 + 7 + 1
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]  # nothing but JSON
        assert any(line["message"].startswith("Invalid HTTP") for line in lines)  # uvicorn's own are of JSON, too
        assert any(line.get("route") == "/recommend" and line["status"] == 200 for line in lines)


@pytest.mark.slow
def test_a_data_set_is_encoded_and_a_token_is_asked_for(make_model, text_processor, tmp_path):
    make_model("text").save_pretrained(tmp_path)
    text_processor.save_pretrained(tmp_path)
    with served(tmp_path, "--dataset_config_name", "Sample_Target", TRANSREC_TOKEN="secret") as (_, client):
        assert client.get("/ready").json()["catalogue"] == 300
        question = {"history": ["t0001"], "k": 3}
        assert client.post("/recommend", json=question).status_code == 401
        found = client.post("/recommend", json=question, headers={"Authorization": "Bearer secret"})
        assert len(found.json()["items"]) == 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that was trained on the sample, with the catalogue of its platform."""
    folder = tmp_path_factory.mktemp("model")
    model = ModelArguments(text_config=TINY, hidden_size=16, max_seq_len=8)
    train(model, DataArguments(), TransRecTrainingArguments(str(folder), max_steps=3, use_cpu=True, disable_tqdm=True))
    return Recommender.from_pretrained(folder).index(load_items("ninerec", "Sample_Target"))


def elsewhere(folder: Path) -> dict[str, str]:
    """Returns the variables of a machine that shares only the Hub with this one."""
    return {"HF_HOME": str(folder / "elsewhere"), "HF_HUB_OFFLINE": "0", "PYTHONPATH": ""}


@pytest.mark.slow
def test_from_training_to_answers_by_a_name_on_the_hub(environment, hub, trained, tmp_path):
    """A model is trained and published; a server that has only the package and the model's name answers as it here."""
    trained.push_to_hub("shop/videos", private=True)
    programs = environment("modeling_transrec[serve]")
    with served("shop/videos", program=[programs / "transrec"], **elsewhere(tmp_path)) as (process, client):
        for history in load_sequences("ninerec", "Sample_Target", "test")["item_ids"][:7]:
            question = {"history": history, "k": 5, "explain": True}
            found, expected = client.post("/recommend", json=question).json()["items"], trained.recommend(history, 5)
            assert [one["item_id"] for one in found] == [one["item_id"] for one in expected]
            assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-5)
            assert all(one["because_of"] in history for one in found)
            similar = client.post("/similar-items", json={"item_id": history[0], "k": 3}).json()["items"]
            expected = trained.similar_items(history[0], 3)
            assert [one["item_id"] for one in similar] == [one["item_id"] for one in expected]
        (health,) = re.findall(r"HEALTHCHECK .*\n +CMD (\[.*\])", DOCKERFILE.read_text())
        command = json.loads(health.replace("127.0.0.1:8000", f"127.0.0.1:{client.base_url.port}"))
        assert subprocess.run([programs / "python", *command[1:]]).returncode == 0  # as the image asks it
    assert hub.count("GET /shop/videos/resolve/*/catalogue/*.parquet") == 1


@pytest.mark.slow
def test_from_training_to_the_page_of_the_service(environment, hub, trained, browser, tmp_path):
    """In the browser, someone who has the token tries what the service can do; nothing is asked of other servers."""
    trained.push_to_hub("shop/videos", private=True)
    programs = environment("modeling_transrec[serve]")
    variables = {**elsewhere(tmp_path), "TRANSREC_TOKEN": "secret"}
    with served("shop/videos", program=[programs / "transrec"], **variables) as (process, client):

        def find(selector: str):
            shown = [one for one in browser.find_elements("css selector", selector) if one.is_displayed()]
            return shown[0] if shown else None

        def click(selector: str):
            wait_for(lambda: find(selector), f"no {selector}").click()

        requests_of(browser)  # of earlier pages
        browser.get(f"{client.base_url}/docs")
        click(".btn.authorize")
        wait_for(lambda: find(".auth-container input"), "no place for the token").send_keys("secret")
        click(".modal-btn.auth.authorize")
        click(".modal-btn.auth.btn-done")
        question, answers = ".opblock-post[id$=recommend_post]", ".live-responses-table"
        click(f"{question} .opblock-summary-control")
        click(f"{question} .try-out__btn")
        click(f"{question} .execute")  # the example in the page
        status = wait_for(lambda: find(f"{answers} .response .response-col_status"), "no answer")
        assert status.text.split()[0] == "200"
        answer = json.loads(find(f"{answers} .highlight-code code").text)
        expected = trained.recommend(["t0001", "t0002"], 10)
        assert [one["item_id"] for one in answer["items"]] == [one["item_id"] for one in expected]
        asked = [address for address in requests_of(browser) if not address.startswith(("data:", "blob:"))]
        assert asked and all(address.startswith(str(client.base_url)) for address in asked)


@pytest.mark.slow
def test_from_training_to_a_page_for_everyone(environment, hub, trained, browser, tmp_path):
    """The Space of the published model, written and run where only the package and the model's name are."""
    pytest.importorskip("gradio", reason='needs pip install ".[space]"')
    trained.push_to_hub("shop/videos", private=True)
    programs, variables = environment("modeling_transrec[space]"), elsewhere(tmp_path)
    folder = tmp_path / "space"
    run(programs / "transrec", "space", "shop/videos", "--output_dir", folder, cwd=tmp_path, **variables)
    assert not (folder / "checkpoint").exists()  # the model is named, and loaded from the Hub when the page starts
    titles = dict(zip(trained.item_ids, trained.items["text_en"], strict=True))
    with served_space(folder / "app.py", programs / "python", **variables) as address:
        page = SpacePage(browser, address)
        page.choose(0, 1)
        chosen = trained.item_ids[:2]
        expected = [titles[one["item_id"]] for one in trained.recommend(chosen)]
        wait_for(lambda: page.cards() == expected, f"{page.cards()} in place of {expected}")
        assert page.reasons() <= {titles[item_id] for item_id in chosen}


def test_it_searches_with_the_index_that_is_named(make_model, text_processor, items, tmp_path):
    pytest.importorskip("usearch", reason='needs pip install ".[usearch]"')
    expected = Recommender(make_model("text"), text_processor).index(items)
    expected.save_pretrained(tmp_path)
    arguments = ServeArguments(model_name_or_path=str(tmp_path), use_cpu=True)
    options = parsed_options('{"connectivity": 8}')
    found = Service(loader(arguments, None), index="usearch", index_options=options).recommender
    assert isinstance(found.scorer.nearest.index, INDEXES["usearch"])
    assert found.scorer.nearest.index.options["connectivity"] == 8
    assert found.recommend(["i001"], k=1)[0]["item_id"] == expected.recommend(["i001"], k=1)[0]["item_id"]


@pytest.mark.slow
def test_an_export_is_served_and_recommends(make_model, text_processor, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason='needs pip install ".[export]"')
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    items, history = load_items("ninerec", "Sample_Target"), ["t0001", "t0002"]
    recommender = Recommender(make_model("text"), text_processor).index(items)
    recommender.export(tmp_path)
    ids = [one["item_id"] for one in recommender.recommend(history)]
    arguments = ServeArguments(model_name_or_path=str(tmp_path), backend="onnx", use_cpu=True)
    found = loader(arguments, None)()  # with the catalogue that went along
    assert isinstance(found.model, OnnxModel) and [one["item_id"] for one in found.recommend(history)] == ids
    data = DataArguments(dataset_config_name="Sample_Target")
    counted = loader(arguments, data)().recommend(history, explain=True)
    expected = recommender.index(items, histories=data.load_training_histories()).recommend(history, explain=True)
    assert [one["item_id"] for one in counted] == [one["item_id"] for one in expected]
    assert any(one["transitions"] for one in counted)

    recommend.main([f"--model_name_or_path={tmp_path}", "--backend", "onnx", "--history", "t0001 t0002"])
    shown = capsys.readouterr().out.partition("recommended")[2]
    assert re.findall(r"^ +\d+ +(t\d+)", shown, flags=re.MULTILINE) == ids
    with pytest.raises(ValueError, match=r'has towers of ONNX: load it with backend="onnx" \(--backend onnx\)'):
        loader(ServeArguments(model_name_or_path=str(tmp_path), use_cpu=True), None)()


def test_what_is_wrong_at_the_start_is_a_sentence(make_model, text_processor, items, tmp_path):
    Recommender(make_model("text"), text_processor).index(items).save_pretrained(tmp_path)
    log = tmp_path / "events.jsonl"
    with EventLog(log), pytest.raises(OptionError, match="another process writes .*: a log belongs to one service"):
        main([str(tmp_path), "--log_file", str(log), "--use_cpu", "true"])
    with pytest.raises(ValueError, match="the index 'faiss' has no option 'factory'; it has string_factory, rescore"):
        main([str(tmp_path), "--index", "faiss", "--index_options", '{"factory": "Flat"}', "--use_cpu", "true"])


def test_what_cannot_be_meant():
    with pytest.raises(OptionError, match="an export has one platform, .* leave --platform out"):
        loader(ServeArguments(model_name_or_path="checkpoint", backend="onnx", platform="a", use_cpu=True), None)()
    for options in ("{", "[1]"):
        with pytest.raises(OptionError, match="--index_options"):
            main(["checkpoint", "--index_options", options])
    with pytest.raises(OptionError, match="the rate limit must be such as 100/second, got 'nonsense'"):
        main(["checkpoint", "--rate_limit", "nonsense"])  # before it is loaded
    with pytest.raises(OptionError, match="did you mean --max_k"):
        main(["checkpoint", "--maxk", "3"])
    with pytest.raises(OptionError, match="--min_rating is an option of a data set"):
        main(["checkpoint", "--min_rating", "3"])
