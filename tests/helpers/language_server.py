"""A real HTTP server that answers chat completions as a test says: well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """A request as the server saw it: `headers` by their names in small letters, `at` is the monotonic clock."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def data(self) -> dict[str, Any]:
        """The JSON object that the prompt file put into the user's message."""
        return json.loads(self.body["messages"][-1]["content"])

    @property
    def is_plan(self) -> bool:
        return "task" in self.data


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        received = Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.monotonic())
        with self.server.lock:
            self.server.received.append(received)
            behaviour = self.server.script.pop(0) if self.server.script else self.server.otherwise
        behaviour(self, received)

    do_GET = do_POST

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


Behaviour = Callable[[Handler, Received], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.received: list[Received] = []
        self.script: list[Behaviour] = []
        self.otherwise: Behaviour = status(500)


@dataclass
class LanguageServer:
    """`script` holds how the next requests are answered, `otherwise` how all after them are."""

    server: _Server = field(default_factory=_Server)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def received(self) -> list[Received]:
        return self.server.received

    def answer(self, *script: Behaviour, otherwise: Behaviour | None = None) -> None:
        self.server.script = list(script)
        self.server.otherwise = otherwise or status(500)
        self.server.received.clear()


@contextmanager
def language_server() -> Iterator[LanguageServer]:
    running = LanguageServer()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()
        thread.join()


def completion(content: str | None, finish: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content} | message}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [choice],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
    ).encode()


def say(content: str | None, finish: str = "stop", **message: Any) -> Behaviour:
    """Answer with these words."""
    return lambda handler, received: handler.send(200, completion(content, finish, **message))


def status(code: int, body: bytes = b'{"error": {"message": "no"}}', **headers: str) -> Behaviour:
    return lambda handler, received: handler.send(code, body, **headers)


def after(seconds: float, behaviour: Behaviour) -> Behaviour:
    def late(handler: Handler, received: Received) -> None:
        time.sleep(seconds)
        behaviour(handler, received)

    return late


def drop(handler: Handler, received: Received) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def drip(handler: Handler, received: Received) -> None:
    """Begin a good answer and send a byte of it now and then, so that no single read takes long."""
    body = completion("{}")
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    try:
        for byte in body:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


def flood(handler: Handler, received: Received) -> None:
    """Send an answer that has no end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Connection", "close")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65536)
    except OSError:
        handler.close_connection = True
