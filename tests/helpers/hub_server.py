"""A hub on this machine: the two endpoints of Hugging Face's protocol that fetching a commit's files takes."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """One repository at one commit. `asked`: method, path and Authorization header of every request."""

    address: str
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def serve_hub(folder: Path, name: str, commit: str, token: str | None = None) -> Iterator[Hub]:
    """Serve the files of `folder` as the model `name` at `commit`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            shown = self.headers.get("Authorization")
            hub.asked.append((self.command, path, shown))
            tree, files = f"/api/models/{name}/tree/{commit}", f"/{name}/resolve/{commit}/"
            if token and shown != f"Bearer {token}":
                self._send(
                    401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
                )
            elif path == tree:
                found = [p for p in sorted(folder.rglob("*")) if p.is_file()]
                rows = [
                    {"type": "file", "path": p.relative_to(folder).as_posix(), "size": p.stat().st_size, "oid": _oid(p)}
                    for p in found
                ]
                self._send(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
            elif path.startswith(files) and (wanted := folder / path.removeprefix(files)).is_file():
                content = wanted.read_bytes()
                self._send(200, content, {"ETag": f'"{_oid(wanted)}"', "X-Repo-Commit": commit}, body)
            else:
                code = "RevisionNotFound" if f"/{name}/" in path else "RepoNotFound"
                self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": "no such thing here"})

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
