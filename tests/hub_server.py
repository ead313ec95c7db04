"""A server that speaks the Hub's HTTP API: models, data sets and Spaces, commits, LFS, tokens, and faults."""

import base64
import fnmatch
import hashlib
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Repository:
    """Branches to commits, commits to their files; a commit is made whole or not at all."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        described = [f"{path}:{hashlib.sha1(content).hexdigest()}" for path, content in sorted(files.items())]
        parent = self.branches.get(branch, "")
        sha = hashlib.sha1("\n".join([parent, *described]).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = dict(files), sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.branches["main"]]


@dataclass
class Fault:
    """What to answer instead: an HTTP status, or after so many bytes of the body a dropped connection."""

    pattern: str
    status: int | None = None
    drop_after: int | None = None
    times: int = 1_000_000
    headers: dict[str, str] = field(default_factory=dict)


class HubServer:
    """Serves repositories while the `with` block runs.

    Args:
        root: folders `ROOT/ORGANIZATION/NAME`, if given, are model repositories from the start.
        tokens: what each token may do, `"read"` or `"write"`; others are expired; without one, what is public.
        port: a port, or 0 for any free one.
    """

    def __init__(self, root: Path | None = None, tokens: dict[str, str] | None = None, port: int = 0):
        self.tokens = {"hf_write": "write", "hf_read": "read"} if tokens is None else tokens
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        for folder in sorted(root.glob("*/*")) if root is not None else ():
            files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}
            self.add(f"{folder.parent.name}/{folder.name}", files)
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes], kind: str = "models", private: bool = False) -> Repository:
        """A repository with these files."""
        repository = self.repositories[kind, name] = Repository(private)
        repository.commit("main", files)
        return repository

    def files(self, name: str, kind: str = "models") -> dict[str, bytes]:
        return self.repositories[kind, name].files

    def fail(self, pattern: str, status: int | None = None, **options) -> Fault:
        """From now on answers requests `"METHOD /path"` that match the pattern so; see [`Fault`]."""
        self.faults.append(Fault(pattern, status, **options))
        return self.faults[-1]

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        return len(fnmatch.filter(self.requests, pattern))


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        self.parsed = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(self.parsed.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self.read_chunks()
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        self.drop_after = None
        for fault in self.hub.faults:
            if fault.times > 0 and fnmatch.fnmatch(request, fault.pattern):
                fault.times -= 1
                if fault.status is not None:
                    return self.send(fault.status, b'{"error": "fault"}', fault.headers)
                self.drop_after = fault.drop_after
                break
        if self.command == "PUT" and self.drop_after is not None:
            return self.drop()
        self.route([urllib.parse.unquote(part) for part in self.parsed.path.strip("/").split("/")])

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def right(self) -> str | None:
        """What the request's token allows: `"write"`, `"read"`, `None` without one, `"expired"` with a wrong one."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        return self.hub.tokens.get(token, "expired") if token else None

    def route(self, parts: list[str]) -> None:
        if self.right == "expired":
            return self.error(401, None, "Invalid username or password.")
        if parts == ["api", "repos", "create"]:
            return self.create()
        if parts == ["api", "validate-yaml"]:
            return self.json({"errors": [], "warnings": []})
        if parts == ["api", "whoami-v2"]:
            return self.json({"name": "tester", "type": "user", "orgs": []}) if self.right else self.error(401)
        if parts[0] == "lfs":
            return self.receive_lfs(parts[1])
        if parts[0] == "api" and len(parts) > 3 and parts[1] in ("models", "datasets", "spaces"):
            return self.api(parts[1], "/".join(parts[2:4]), parts[4:])
        kind, rest = (parts[0], parts[1:]) if parts[0] in ("datasets", "spaces") else ("models", parts)
        if len(rest) > 2 and rest[1].endswith(".git"):
            return self.batch(kind, f"{rest[0]}/{rest[1].removesuffix('.git')}")
        if len(rest) > 4 and rest[2] == "resolve":
            return self.resolve(kind, f"{rest[0]}/{rest[1]}", rest[3], "/".join(rest[4:]))
        self.error(404)

    def repository(self, kind: str, name: str, write: bool = False) -> Repository | None:
        """The repository; else the error has been sent."""
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and self.right is None):
            self.error(404 if self.right else 401, "RepoNotFound", "Repository not found")
        elif write and self.right != "write":
            self.error(403 if self.right else 401, None, "Forbidden: this token has no write access")
        else:
            return found
        return None

    def create(self) -> None:
        if self.right != "write":
            return self.error(403 if self.right else 401, None, "You don't have the rights to create a repository")
        asked = json.loads(self.body)
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{'' if kind == 'models' else f'{kind}/'}{name}", "name": name}
        if (kind, name) in self.hub.repositories:
            return self.json({**answer, "error": "You already created this repo"}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, kind, private)
        self.json(answer)

    def api(self, kind: str, name: str, rest: list[str]) -> None:
        action = rest[0] if rest else "info"
        repository = self.repository(kind, name, write=action in ("preupload", "commit", "branch"))
        if repository is None:
            return
        if action == "branch":
            branch = "/".join(rest[1:])
            if branch in repository.branches:
                return self.error(409, None, "Reference already exists")
            repository.branches[branch] = repository.branches["main"]
            return self.json({})
        revision = rest[1] if len(rest) > 1 else "main"
        sha = repository.find(revision)
        if sha is None:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[sha]
        if action == "preupload":
            return self.preupload(files)
        if action == "commit":
            return self.commit(repository, name, revision, dict(files))
        if action == "tree":
            return self.tree(files, "/".join(rest[2:]))
        if action == "paths-info":
            asked = json.loads(self.body)["paths"] if self.body.startswith(b"{") else self.form("paths")
            return self.json([self.described(path, files) for path in asked if path in files])
        siblings = [{"rfilename": path} for path in sorted(files)]
        self.json({"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

    def form(self, name: str) -> list[str]:
        return urllib.parse.parse_qs(self.body.decode()).get(name, [])

    def described(self, path: str, files: dict[str, bytes]) -> dict:
        oid = hashlib.sha1(files[path]).hexdigest()
        return {"type": "file", "path": path, "size": len(files[path]), "oid": oid}

    def tree(self, files: dict[str, bytes], folder: str) -> None:
        recursive = "recursive=true" in self.parsed.query.lower()
        prefix, found = f"{folder}/" if folder else "", {}
        for path in sorted(path for path in files if path.startswith(prefix)):
            first, *deeper = path[len(prefix) :].split("/")
            if deeper:
                found[prefix + first] = {"type": "directory", "path": prefix + first, "size": 0, "oid": "0" * 40}
            if recursive or not deeper:
                found[path] = self.described(path, files)
        if folder and not found:
            return self.error(404, "EntryNotFound", f"{folder} does not exist")
        self.json(list(found.values()))

    def preupload(self, files: dict[str, bytes]) -> None:
        answer = []
        for file in json.loads(self.body)["files"]:
            is_lfs = file["path"].endswith((".safetensors", ".parquet"))
            old = files.get(file["path"])
            answer.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_lfs else "regular",
                    "shouldIgnore": False,
                    "oid": None if old is None else hashlib.sha1(b"blob %d\0" % len(old) + old).hexdigest(),
                }
            )
        self.json({"files": answer})

    def batch(self, kind: str, name: str) -> None:
        if self.repository(kind, name, write=True) is None:
            return
        objects = []
        for asked in json.loads(self.body)["objects"]:
            one = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.lfs:
                one["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}", "header": {}}}
            objects.append(one)
        self.json({"transfer": "basic", "objects": objects})

    def receive_lfs(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, None, "the content does not have this hash")
        self.hub.lfs[oid] = self.body
        self.send(200, b"", {})

    def commit(self, repository: Repository, name: str, branch: str, files: dict[str, bytes]) -> None:
        for line in self.body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    return self.error(400, None, f"{value['path']} was not uploaded")
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif operation["key"] == "deletedFolder":
                files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
        answer = {}
        if "create_pr=1" in self.parsed.query:
            number = sum(one.startswith("refs/pr/") for one in repository.branches) + 1
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{number}"
            repository.branches[f"refs/pr/{number}"] = repository.branches[branch]
            branch = f"refs/pr/{number}"
        sha = repository.commit(branch, files)
        self.json({"commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}", **answer})

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.repository(kind, name)
        if repository is None:
            return
        sha = repository.find(revision)
        if sha is None:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = repository.commits[sha].get(path)
        if content is None:
            return self.error(404, "EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        status, start = 200, 0
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            status, content = 206, content[start : end + 1]
        self.send(status, content, {**headers, "Accept-Ranges": "bytes"})

    def json(self, value, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def error(self, status: int, code: str | None = None, message: str = "", headers: dict | None = None) -> None:
        named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.send(status, json.dumps({"error": message}).encode(), named)

    def send(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.drop_after is not None and len(body) > self.drop_after:
            self.wfile.write(body[: self.drop_after])
            return self.drop()
        self.wfile.write(body)

    def drop(self) -> None:
        self.wfile.flush()
        time.sleep(0.05)  # let what was sent arrive
        self.close_connection = True
        self.connection.close()

    def log_message(self, *arguments) -> None:
        """Silent."""
