"""`transrec serve` as a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest


httpx = pytest.importorskip("httpx", reason='needs pip install ".[serve]"')
pytest.importorskip("fastapi", reason='needs pip install ".[serve]"')

from modeling_transrec import Recommender  # noqa: E402
from modeling_transrec.cli import OptionError  # noqa: E402
from modeling_transrec.cli.serve import main  # noqa: E402


@contextlib.contextmanager
def served(*options, **environment):
    """A server in a process of its own, and a client that asks it; the process is killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "modeling_transrec.cli.main", "serve", *map(str, options), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--use_cpu", "true"], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )
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
    Recommender(make_model("text"), text_processor).index(items).save_pretrained(tmp_path / "shop")
    options = [tmp_path / "shop", "--log_file", tmp_path / "events.jsonl"]
    question = {"history": ["i001"], "k": 40}
    with served(*options) as (process, client):
        for number in range(5):
            new = {"item_id": f"new{number}", "text_en": "red rope"}
            assert client.put("/items", json={"items": [new]}).status_code == 200
        before = client.post("/recommend", json=question).json()
        process.send_signal(signal.SIGKILL)
        process.wait()
    with served(*options) as (process, client):
        assert client.get("/ready").json()["catalogue"] == 42
        after = client.post("/recommend", json=question).json()
        assert [one["item_id"] for one in after["items"]] == [one["item_id"] for one in before["items"]]
        process.terminate()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)  # it ends by itself, and says why
        lines = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
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


def test_what_cannot_be_meant():
    with pytest.raises(OptionError, match="did you mean --max_k"):
        main(["checkpoint", "--maxk", "3"])
    with pytest.raises(OptionError, match="--min_rating is an option of a data set"):
        main(["checkpoint", "--min_rating", "3"])
