"""A Hugging Face hub of one's own: just what ``huggingface_hub``, ``datasets`` and ``transformers`` ask for.

Repositories live in memory as a list of commits (each the whole tree); ``main`` is the last one. Answers what the real
hub answers: 401 with ``RepoNotFound`` for a private repository without its token, 403 ``GatedRepo`` for a gated one,
404 with ``RepoNotFound``, ``RevisionNotFound`` or ``EntryNotFound``. Its owner may create repositories and commit to
them; it takes every file as a regular one, never by LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """One repository: its commits, newest last, and who may read it ("all", "owner", "nobody")."""

    kind: str
    name: str
    readers: str = "all"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        """A new commit of ``main``: the old tree with these files; returns its hash."""
        tree = (self.commits[self.main] if self.commits else {}) | files
        digest = hashlib.sha1(repr((self.name, len(self.commits))).encode())
        for path, content in sorted(tree.items()):
            digest.update(path.encode() + content)
        self.commits[digest.hexdigest()] = tree
        return digest.hexdigest()


class HubStandIn:
    """A hub on 127.0.0.1; ``url`` is what HF_ENDPOINT has to be, ``requests`` what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, kind: str, name: str, files: dict[str, bytes], readers: str = "all") -> Repository:
        """A new repository with one commit."""
        repository = self.repositories[(kind, name)] = Repository(kind, name, readers)
        repository.commit(files)
        return repository

    def close(self) -> None:
        """Nobody answers at the address any more."""
        self._server.shutdown()
        self._server.server_close()


class _RefusalError(Exception):
    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {self.path}")
        try:
            headers, content = self._route(body)
            status = 200
        except _RefusalError as refusal:
            status, content = refusal.status, json.dumps({"error": str(refusal)} | refusal.more).encode()
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _route(self, body: bytes) -> tuple[dict[str, str], bytes]:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if self.command == "POST" and (
            parts[:2] == ["api", "validate-yaml"] or parts[:3] == ["api", "repos", "create"]
        ):
            made = self._validated(json.loads(body)) if parts[1] == "validate-yaml" else self._created(json.loads(body))
            return {"Content-Type": "application/json"}, json.dumps(made).encode()
        if parts[0] == "api" and len(parts) >= 4 and parts[1] in ("models", "datasets"):
            repository = self._repository(parts[1][:-1], "/".join(parts[2:4]))
            return {"Content-Type": "application/json"}, json.dumps(self._api(repository, parts[4:], body)).encode()
        kind = "dataset" if parts[0] == "datasets" else "model"
        rest = parts[1:] if kind == "dataset" else parts
        if len(rest) >= 5 and rest[2] == "resolve":
            repository = self._repository(kind, "/".join(rest[:2]))
            return self._file(repository, rest[3], "/".join(rest[4:]))
        raise _RefusalError(404, "EntryNotFound", f"the stand-in knows nothing of {self.path}")

    def _repository(self, kind: str, name: str) -> Repository:
        repository = self.hub.repositories.get((kind, name))
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.readers == "owner" and not allowed):
            # As the real hub: whether a repository does not exist or is private is not told to strangers.
            raise _RefusalError(404 if allowed else 401, "RepoNotFound", "Repository not found")
        if repository.readers == "nobody":
            raise _RefusalError(403, "GatedRepo", "Access to this repository is restricted")
        return repository

    def _commit(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = repository.main if revision in ("main", "refs/heads/main") else revision
        if sha not in repository.commits:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repository.commits[sha]

    def _owner(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _RefusalError(401, "Unauthorized", "Invalid username or password.")

    def _validated(self, given: dict[str, Any]) -> dict[str, Any]:
        """The least of what the real one checks: YAML with a licence that is a word."""
        head = yaml.safe_load(given["content"].split("---\n")[1])
        if not isinstance(head.get("license"), str):
            raise _RefusalError(400, "BadRequest", "license must be a string")
        return {"errors": [], "warnings": []}

    def _created(self, given: dict[str, Any]) -> dict[str, Any]:
        self._owner()
        kind, name = given.get("type", "model"), f"{given.get('organization', 'me')}/{given['name']}"
        url, private = f"{self.hub.url}/{kind}s/{name}", given.get("private") or given.get("visibility") == "private"
        readers = "owner" if private else "all"
        if (kind, name) in self.hub.repositories:
            raise _RefusalError(409, "Conflict", "You already created this repo", url=url)
        self.hub.add(kind, name, {".gitattributes": b""}, readers=readers)
        return {"url": url, "name": name}

    def _committed(self, repository: Repository, body: bytes) -> dict[str, Any]:
        self._owner()
        operations = [json.loads(line) for line in body.decode().splitlines()]
        files = {
            each["value"]["path"]: base64.b64decode(each["value"]["content"])
            for each in operations
            if each["key"] == "file"
        }
        sha = repository.commit(files)
        return {
            "commitUrl": f"{self.hub.url}/datasets/{repository.name}/commit/{sha}",
            "commitOid": sha,
            "success": True,
        }

    def _api(self, repository: Repository, rest: list[str], body: bytes) -> Any:
        if rest and rest[0] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return {"files": files}
        if rest and rest[0] == "commit":
            return self._committed(repository, body)
        verb, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        sha, tree = self._commit(repository, revision)
        if verb == "revision":
            return {
                "_id": "0",
                "id": repository.name,
                "author": repository.name.split("/")[0],
                "sha": sha,
                "private": repository.readers == "owner",
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in tree],
            }
        if verb == "tree":
            return self._listing(tree, "/".join(rest[2:]))
        if verb == "paths-info":
            paths = parse_qs(body.decode()).get("paths", []) or json.loads(body or "{}").get("paths", [])
            return [entry for path in paths for entry in self._entries(tree) if entry["path"] == path]
        raise _RefusalError(404, "EntryNotFound", f"the stand-in knows nothing of {verb}")

    def _listing(self, tree: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
        recursive = "recursive" in self.path.lower() and "recursive=false" not in self.path.lower()
        inside = [e for e in self._entries(tree) if not folder or e["path"].startswith(f"{folder}/")]
        if folder and not inside:
            raise _RefusalError(404, "EntryNotFound", f"{folder} does not exist")
        depth = folder.count("/") + 1 if folder else 0
        return [entry for entry in inside if recursive or entry["path"].count("/") == depth]

    @staticmethod
    def _entries(tree: dict[str, bytes]) -> list[dict[str, Any]]:
        folders = {path.rsplit("/", 1)[0] for path in tree if "/" in path}
        return [
            {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
            for path in sorted(folders)
        ] + [
            {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}
            for path, content in sorted(tree.items())
        ]

    def _file(self, repository: Repository, revision: str, path: str) -> tuple[dict[str, str], bytes]:
        sha, tree = self._commit(repository, revision)
        if path not in tree:
            raise _RefusalError(404, "EntryNotFound", f"{path} not found")
        content = tree[path]
        return {
            "X-Repo-Commit": sha,
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "Content-Type": "application/octet-stream",
        }, content
