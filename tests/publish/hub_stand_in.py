"""A stand-in of the Hub's HTTP protocol on 127.0.0.1, as far as the real client needs it to push
and pull a model.

Endpoints: repos/create, model info, tree, validate-yaml, preupload, LFS batch, PUT of LFS objects,
commit (NDJSON), resolve (HEAD and GET). Bytes live in memory. `corrupt` flips one byte of every LFS
object that it stores.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_standInTokenStandInToken"


@dataclass
class Repo:
    """One repository: `commits[oid]` is the whole tree at that commit."""

    private: bool
    head: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]


class HubStandIn:
    """Context manager; `url` is the endpoint."""

    def __init__(self, *, corrupt: bool = False) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.corrupt = corrupt
        hub = self

        class BoundHandler(Handler):
            stand_in = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def commit_id(files: dict[str, bytes], message: str) -> str:
    digest = hashlib.sha1(message.encode(), usedforsecurity=False)
    for name, content in sorted(files.items()):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    stand_in: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.stand_in.requests.append(f"{method} {path}")
        if method == "PUT" and path.startswith("/lfs/"):
            # As on the Hub the upload link is signed: it carries no token.
            self.stand_in.lfs[path.removeprefix("/lfs/")] = self._stored(body)
            self._reply(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", path):
            self._model(found.group(1), found.group(2) or "", body)
        elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(method, *found.groups())
        else:
            self._reply(404, {"error": f"no endpoint {path}"})

    def _stored(self, body: bytes) -> bytes:
        return body[:-1] + bytes([body[-1] ^ 1]) if self.stand_in.corrupt else body

    def _create(self, request: dict[str, str]) -> None:
        name = f"{request['organization']}/{request['name']}"
        if name in self.stand_in.repos:
            url = f"{self.stand_in.url}/{name}"
            self._reply(409, {"error": "You already created this model repo", "url": url})
            return
        files = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        head = commit_id(files, "initial commit")
        private = request.get("visibility") == "private"
        self.stand_in.repos[name] = Repo(private, head, {head: files})
        self._reply(200, {"url": f"{self.stand_in.url}/{name}", "name": name})

    def _validate(self, content: str) -> None:
        """The Hub's rules that a card of ours could break: a mapping, string tags, complete
        results."""
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        values = yaml.safe_load(found.group(1)) if found else None
        errors = [] if isinstance(values, dict) else [{"message": "no YAML metadata"}]
        for entry in (values or {}).get("model-index", []):
            for result in entry["results"]:
                if not {"type", "name"} <= set(result["dataset"]) or "type" not in result["task"]:
                    errors.append({"message": '"model-index" is incomplete'})
                if any(not isinstance(m["value"], float) for m in result["metrics"]):
                    errors.append({"message": "metric values must be numbers"})
        if not all(isinstance(tag, str) for tag in (values or {}).get("tags", [])):
            errors.append({"message": '"tags" must be strings'})
        self._reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def _model(self, name: str, rest: str, body: bytes) -> None:
        repo = self.stand_in.repos.get(name)
        if repo is None:
            self._reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif rest == "" or rest.startswith("/revision/"):
            siblings = [{"rfilename": path} for path in repo.files]
            info = {"id": name, "modelId": name, "private": repo.private, "sha": repo.head}
            self._reply(200, info | {"siblings": siblings, "tags": []})
        elif rest.startswith("/tree/"):
            entries = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(content),
                    "oid": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
                }
                for path, content in repo.files.items()
            ]
            self._reply(200, entries)
        elif rest.startswith("/preupload/"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._reply(200, {"files": files})
        elif rest.startswith("/commit/"):
            self._commit(name, repo, [json.loads(line) for line in body.splitlines() if line])
        else:
            self._reply(404, {"error": f"no endpoint {rest}"})

    def _batch(self, request: dict[str, list[dict[str, object]]]) -> None:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.stand_in.url}/lfs/{one['oid']}"}},
            }
            for one in request["objects"]
        ]
        self._reply(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, lines: list[dict[str, dict[str, str]]]) -> None:
        files, message = dict(repo.files), ""
        for line in lines:
            value = line["value"]
            match str(line["key"]):
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.stand_in.lfs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case other:
                    self._reply(400, {"error": f"unknown operation {other}"})
                    return
        repo.head = commit_id(files, message)
        repo.commits[repo.head] = files
        url = f"{self.stand_in.url}/{name}/commit/{repo.head}"
        self._reply(200, {"success": True, "commitOid": repo.head, "commitUrl": url})

    def _resolve(self, method: str, name: str, revision: str, path: str) -> None:
        repo = self.stand_in.repos.get(name)
        head = repo.head if repo is not None and revision == "main" else revision
        if repo is None or path not in repo.commits.get(head, {}):
            self._reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        content = repo.commits[head][path]
        headers = {"X-Repo-Commit": head, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        self._reply(200, content, headers, has_body=method == "GET")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = list[bytes]()
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _reply(
        self,
        status: int,
        content: object,
        headers: dict[str, str] | None = None,
        *,
        has_body: bool = True,
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if has_body and self.command != "HEAD":
            self.wfile.write(body)
