"""A model hub of one's own: it answers what huggingface_hub asks, from memory, with faults to order."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self
from urllib.parse import unquote

# These are stored apart from the repository, and answered by a redirect to where they are.
LARGE = (".safetensors", ".pth", ".bin", ".gguf")


@dataclass
class Repository:
    """What the hub holds under one name, and how it misbehaves when asked for it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)  # branches and tags -> commits
    is_gated: bool = False
    token: str | None = None  # without which the repository does not exist
    listing: list[object] | None = None  # names to show instead of those of the files
    information: object = None  # to answer instead of what the repository is
    headers: dict[str, str] = field(
        default_factory=dict
    )  # to answer a HEAD request with, instead of the true ones
    missing: frozenset[str] = frozenset()  # files that are listed and not handed over
    cuts: int = 0  # so many times, the connection ends in the middle of a large file
    says_longer_by: int = 0  # bytes by which the size of a large file is a lie

    def commit(self, files: Mapping[str, bytes], *revisions: str) -> str:
        """Add files as a commit that `main` and other revisions are from now on; return its hash."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.revisions |= dict.fromkeys(("main", *revisions), sha)
        return sha

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit and the files that a branch, a tag or a commit stands for."""
        sha = self.revisions.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


class HubServer(ThreadingHTTPServer):
    """Serves repositories on a free port of this machine while it is entered, and remembers the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, the range of bytes asked for
        self.status: int | None = None  # to answer everything with
        self._connections: list[socket.socket] = []
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def repository(self, name: str, files: Mapping[str, bytes] | None = None) -> Repository:
        """Add a repository, with a first commit of these files."""
        self.repositories[name] = Repository()
        if files is not None:
            self.repositories[name].commit(files)
        return self.repositories[name]

    def environment(self, home: Path, **others: str) -> dict[str, str]:
        """Return an environment in which the library comes here, and keeps all below a folder."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours = {"HF_HOME": str(home), "HF_ENDPOINT": self.endpoint, "NO_PROXY": "*"}
        return kept | {"OMP_NUM_THREADS": "1"} | ours | others

    def fetched(self) -> list[str]:
        """Return the names of the files whose bytes were asked for, and forget all requests."""
        names = []
        for method, path, _ in self.requests:
            if method == "GET" and (match := re.search(r"/resolve/[^/]+/(.+)", path)):
                names.append(unquote(match[1]))
        self.requests.clear()
        return sorted(set(names))

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def stop(self) -> None:
        """End all connections, and refuse others from now on."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
            self.server_close()
            for connection in self._connections:
                with suppress(OSError):  # it has ended already
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that the client ended."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content are sent apart, and the client waits for both
    timeout = 20
    server: HubServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as in the base class
        """Print nothing."""

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if self.server.status is not None:
            return self.send(self.server.status)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path) or re.fullmatch(
            r"/(?:large/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path
        )
        if match is None:
            return self.send(404)
        repository = self.server.repositories.get(match[1])
        if repository is None or not self.may_see(repository):
            return self.refuse(401, "RepoNotFound")
        found = repository.files(unquote(match[2] or "main"))
        if found is None:
            return self.refuse(404, "RevisionNotFound")
        if path.startswith("/api/"):
            return self.tell(match[1], repository, *found)
        if repository.is_gated:
            return self.refuse(403, "GatedRepo")
        name = unquote(match[3])
        if name in repository.missing or (name not in found[1] and repository.listing is None):
            return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": found[0]} | repository.headers)
        return self.hand_over(repository, found[0], found[1].get(name, b"hostile"))

    def may_see(self, repository: Repository) -> bool:
        is_elsewhere = self.path.startswith("/large/")  # where a signed address lets in, and no token goes
        sent = self.headers.get("Authorization")
        return repository.token is None or is_elsewhere or sent == f"Bearer {repository.token}"

    def tell(self, name: str, repository: Repository, sha: str, files: Mapping[str, bytes]) -> None:
        """Answer what a repository holds."""
        names: list[object] = list(files) if repository.listing is None else repository.listing
        information = {"id": name, "sha": sha, "siblings": [{"rfilename": file} for file in names]}
        content = json.dumps(information if repository.information is None else repository.information)
        self.send(200, content.encode(), {"Content-Type": "application/json"})

    def hand_over(self, repository: Repository, sha: str, content: bytes) -> None:
        """Answer with a file, or where it is, or a part of it."""
        is_head = self.command == "HEAD"
        is_large = self.path.endswith(LARGE)
        etag = hashlib.sha256(content).hexdigest() if is_large else hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha}
        size = len(content) + repository.says_longer_by
        if is_large and not self.path.startswith("/large/"):
            port = self.server.server_address[1]
            headers["Location"] = f"http://localhost:{port}/large{self.path}"
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(size)}
            return self.send(302, b"", headers | (repository.headers if is_head else {}))
        if is_head:
            headers |= {"Content-Length": str(size)} | repository.headers
            return self.send(200, b"", headers)
        status, begin = 200, 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            status, begin = 206, int(wanted[1])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = str(len(content) - begin)
        if is_large and repository.cuts:
            repository.cuts -= 1
            content = content[: (begin + len(content)) // 2]
            self.close_connection = True
        return self.send(status, content[begin:], headers)

    def refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def send(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
