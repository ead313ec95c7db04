"""A read-only server that speaks enough of the Hub's HTTP API for `from_pretrained` and `snapshot_download`."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class HubServer:
    """Serves the folders `ROOT/ORGANIZATION/NAME` as model repositories while the `with` block runs."""

    def __init__(self, root: Path):
        handler = type("Handler", (_Handler,), {"root": root})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    root: Path

    def do_GET(self):
        self.answer(with_body=True)

    def do_HEAD(self):
        self.answer(with_body=False)

    def answer(self, with_body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        organization, name, *rest = parts[2:] if is_api else [*parts, "", ""]
        folder = self.root / organization / name
        if not folder.is_dir() or folder == self.root:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        files = sorted(path.name for path in folder.iterdir())
        sha = hashlib.sha1("".join(files).encode()).hexdigest()
        if rest[:1] == ["tree"]:
            if len(rest) > 2:  # a folder inside the repository: there is none
                return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, with_body)
            tree = [{"type": "file", "path": file, "size": 0, "oid": sha} for file in files]
            return self.send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, with_body)
        if is_api:
            siblings = [{"rfilename": file} for file in files]
            info = {"id": f"{organization}/{name}", "sha": sha, "private": False, "siblings": siblings}
            return self.send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, with_body)
        file = rest[2] if rest[:1] == ["resolve"] and len(rest) > 2 else ""
        if file not in files:
            return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}, with_body)
        body = (folder / file).read_bytes()
        etag = hashlib.sha256(body).hexdigest()
        self.send(200, body, {"X-Repo-Commit": sha, "ETag": f'"{etag}"'}, with_body)

    def send(self, status: int, body: bytes, headers: dict, with_body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        """Silent."""
