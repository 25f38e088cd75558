"""A Prefect server that is starting or overloaded is asked again, for a while; what it refuses for good is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from flows.server import retry_temporary
from tests.helpers.service import free_port


@contextmanager
def server(port: int, *answers: int) -> Iterator[list[int]]:
    """Gives these answers, the last one again and again. Yields: what it answered so far."""
    given: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given.append(answers[min(len(given), len(answers) - 1)])
            self.send_response(given[-1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield given
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def post(port: int, patience_s: float = 60) -> int:
    url = f"http://127.0.0.1:{port}/api/deployments/1/create_flow_run"
    return retry_temporary(lambda: httpx.post(url).raise_for_status(), patience_s).status_code


def test_an_overloaded_server_is_asked_again() -> None:
    with server(port := free_port(), 503, 429, 503, 201) as given:
        assert post(port) == 201 and given == [503, 429, 503, 201]


def test_a_server_that_is_starting_is_waited_for() -> None:
    port = free_port()
    found: list[int] = []
    caller = threading.Thread(target=lambda: found.append(post(port)))
    caller.start()
    time.sleep(1)  # refused meanwhile
    with server(port, 201) as given:
        caller.join(60)
    assert found == given == [201]


def test_patience_ends() -> None:
    with server(port := free_port(), 503) as given, pytest.raises(httpx.HTTPStatusError, match="503"):
        post(port, 2)
    assert 2 <= len(given) <= 4


def test_what_is_refused_for_good_is_asked_once() -> None:
    with server(port := free_port(), 422) as given, pytest.raises(httpx.HTTPStatusError, match="422"):
        post(port)
    assert given == [422]
