"""Loads `transrec serve` on this machine: requests a second and latency, with and without batching, under changes.

    python benchmarks/service.py --items 100000 --output benchmarks/results/service.md

A catalogue of made vectors is saved with a small text model, and served by a process of its own. `wrk` (Debian's
package) asks it for ten recommendations after a history of five items, from this machine, so that both share its
cores. Then it is asked while items are put and deleted, a tenth of the catalogue a minute, and its memory is read.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import httpx
import numpy as np
import torch

from modeling_transrec import Recommender, TransRecConfig, TransRecForSequentialRecommendation, TransRecProcessor
from modeling_transrec.models.processing_transrec import train_tokenizer
from modeling_transrec.training.model_building import SMALL_BERT


AT_LEAST, AT_MOST = 20, 1000  # items of a change; a service takes no more by default
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
    local history = {}
    for place = 1, 5 do history[place] = '"i' .. math.random(0, ITEMS - 1) .. '"' end
    return wrk.format(nil, nil, nil, '{"history": [' .. table.concat(history, ",") .. ']}')
end
"""


def save_shop(folder: str, num_items: int) -> None:
    """Saves a recommender with made item embeddings; the model is there to encode items that come."""
    texts = [f"thing {number % 100}" for number in range(1000)]
    tokenizer = train_tokenizer(texts, vocab_size=200)
    text = {**SMALL_BERT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = TransRecForSequentialRecommendation(TransRecConfig(text_config=text, hidden_size=64))
    recommender = Recommender(model, TransRecProcessor(tokenizer))
    recommender.index([{"item_id": "seed", "text_en": "thing"}])
    generator = np.random.default_rng(0)
    columns = recommender.catalogue.to_dict()
    made = {
        "item_id": [f"i{number}" for number in range(num_items)],
        "text_en": ["thing"] * num_items,
        "vector": generator.normal(size=(num_items, 64)).astype(np.float32),
        "checkpoint": columns["checkpoint"] * num_items,
    }
    catalogue = datasets.Dataset.from_dict(made).cast(recommender.catalogue.features)
    recommender.use_catalogue(catalogue).save_pretrained(folder)


class Server:
    """`transrec serve` in a process of its own."""

    def __init__(self, folder: str, *options: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "modeling_transrec.cli.main", "serve", folder, "--use_cpu", "true"]
        command += ["--port", self.address.rpartition(":")[2], *options]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while True:
            try:
                if httpx.get(f"{self.address}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                if self.process.poll() is not None:
                    raise RuntimeError("the server ended") from None
            time.sleep(0.2)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()

    def memory(self) -> float:
        """Memory of the process in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def load(self, connections: int, seconds: int, script: str) -> dict:
        """Asks from so many connections; requests a second, latencies in ms, and requests that failed."""
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script]
        output = subprocess.run(
            [*command, f"{self.address}/recommend"], capture_output=True, text=True, check=True
        ).stdout
        failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        return {
            "per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),
            "p50": to_ms(re.search(r"(?m)^\s+50%\s+(\S+)", output)[1]),
            "p99": to_ms(re.search(r"(?m)^\s+99%\s+(\S+)", output)[1]),
            "failed": (int(failed[1]) if failed else 0) + (sum(map(int, errors.groups())) if errors else 0),
        }


def to_ms(text: str) -> float:
    """Returns a time as wrk prints it, in milliseconds.

    >>> to_ms("1.50s"), to_ms("2.25ms"), to_ms("750.00us")
    (1500.0, 2.25, 0.75)
    """
    factor = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()
    return float(number) * factor[unit]


def change(server: Server, num_items: int, stop: threading.Event) -> tuple[list[tuple[float, int]], float]:
    """Puts and deletes items, a tenth of the catalogue a minute by the clock, until it is stopped.

    Returns: the server's memory in MB and the status at each change; and the share of the catalogue that was put and
        deleted again in a minute.
    """
    found, number, done, start = [], 0, 0, time.perf_counter()
    per_second = num_items / 10 / 60
    with httpx.Client(base_url=server.address, timeout=60) as client:
        while not stop.wait(max(0.0, start + (number + AT_LEAST) / per_second - time.perf_counter())):
            due = int((time.perf_counter() - start) * per_second) - number
            count = min(max(due, AT_LEAST), AT_MOST)  # more than usual after requests that took long
            ids = [f"new{number + place}" for place in range(count)]
            items = [{"item_id": one, "text_en": f"thing {one}"} for one in ids]
            statuses = [
                client.put("/items", json={"items": items}).status_code,
                client.request("DELETE", "/items", json={"item_ids": ids}).status_code,
            ]
            found += [(server.memory(), status) for status in statuses]
            number += count
            done += count if statuses == [200, 200] else 0
    return found, done / num_items / ((time.perf_counter() - start) / 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=10, help="of each row")
    parser.add_argument("--minutes", type=float, default=10, help="of load under changes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        save_shop(folder, args.items)
        script = Path(folder, "request.lua")
        script.write_text(LUA.replace("ITEMS", str(args.items)))
        rows: dict[tuple[str, int], list[dict]] = {}
        with Server(folder) as together, Server(folder, "--max_batch", "1") as apart:
            for _ in range(args.rounds):  # in turn, so that both have the same machine
                for connections in (1, 16, 64):
                    for name, server in (("batched", together), ("one by one", apart)):
                        found = server.load(connections, args.seconds, str(script))
                        rows.setdefault((name, connections), []).append(found)
                        print(name, connections, found, flush=True)
        lines = [
            f"# `transrec serve`: {args.items:,} items × 64, ten recommendations after five items",
            "",
            f"Server and wrk on the same {os.cpu_count()} cores; medians of {args.rounds} rounds of {args.seconds} s, "
            f"in turn. torch {torch.__version__}, {torch.get_num_threads()} threads.",
            "",
            "| connections | | requests a second | p50 ms | p99 ms | failed |",
            "|---:|---|---:|---:|---:|---:|",
        ]
        for (name, connections), found in sorted(rows.items(), key=lambda row: row[0][1]):
            middle = {key: statistics.median(one[key] for one in found) for key in ("per_second", "p50", "p99")}
            failed = sum(one["failed"] for one in found)
            lines.append(
                f"| {connections} | {name} | {middle['per_second']:.0f} | {middle['p50']:.1f} | {middle['p99']:.1f} | "
                f"{failed} |"
            )
        lines += ["", *under_changes(folder, str(script), args)]
    command = f"python benchmarks/service.py --items {args.items} --seconds {args.seconds} --minutes {args.minutes:g}"
    text = "\n".join([*lines, "", "```bash", command, "```", ""])
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


def under_changes(folder: str, script: str, args: argparse.Namespace) -> list[str]:
    """Asks while the catalogue changes, kills the server, and looks whether all changes are there again."""
    log = Path(folder, "events.jsonl")
    with Server(folder, "--log_file", str(log)) as server:
        server.load(16, 5, script)
        stop = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            changing = thread.submit(change, server, args.items, stop)
            try:
                found = server.load(16, round(args.minutes * 60), script)
            finally:
                stop.set()
        changes, share = changing.result()
        httpx.put(
            f"{server.address}/items", json={"items": [{"item_id": "last", "text_en": "thing"}]}
        ).raise_for_status()
        server.process.kill()
    with Server(folder, "--log_file", str(log)) as server:
        has_last = httpx.post(f"{server.address}/similar-items", json={"item_id": "last"}).status_code == 200
    events = sum(1 for line in log.read_text().splitlines() if json.loads(line))
    failed = sum(status != 200 for _, status in changes)
    memory, middle = [used for used, _ in changes], len(changes) // 2
    return [
        f"{args.minutes:g} minutes from 16 connections, while {100 * share:.1f} % of the catalogue a minute are put "
        f"and deleted again: {found['per_second']:.0f} requests a second, p99 {found['p99']:.0f} ms, "
        f"{found['failed']} failed; {len(changes)} changes, {failed} failed; memory at most "
        f"{max(memory[:middle]):.0f} MB in the first half of the time and {max(memory[middle:]):.0f} MB in the "
        f"second. Killed and started again, it has made {events} changes again; the last one is "
        f"{'there' if has_last else 'LOST'}.",
    ]


if __name__ == "__main__":
    main()
