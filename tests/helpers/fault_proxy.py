"""A real HTTP proxy in front of an S3 server, which counts what it hands on and breaks what it is told to break.

Comes in: the server's endpoint, faults. Goes out: an endpoint of its own on loopback, a log of answers. A signature
covers the Host header, so clients are given this endpoint and the header travels on unchanged.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

_CHUNK = 64 * 1024
_SLOW_DOWN = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Slow down</Message></Error>'


@dataclass
class Fault:
    """What to do with answers to requests whose path holds `path`; with the next `times` of them.

    Attributes:
        refuse: answer 503 SlowDown without asking the server.
        cut_after: close the connection after so many bytes of body.
        flip_at: turn every bit of the body's byte at this offset.
        truncate_to: hand on so many bytes of body, under a Content-Length that says so.
        bytes_per_second: hand the body on at this pace.
        stall: take the request and never answer.
        lose_answer: let the server do what was asked, and close the connection instead of saying so.
    """

    path: str = ""
    times: int = 1
    refuse: bool = False
    cut_after: int | None = None
    flip_at: int | None = None
    truncate_to: int | None = None
    bytes_per_second: int | None = None
    stall: bool = False
    lose_answer: bool = False


@dataclass
class Answer:
    """One answer that was handed on: `sent` bytes of body, after `received` bytes of the request's."""

    method: str
    path: str
    range: str
    status: int
    sent: int = 0
    received: int = 0


class FaultProxy:
    """The proxy. `faults` may be changed while it runs; the first that fits an answer is used."""

    def __init__(self, upstream: str) -> None:
        where = urlsplit(upstream)
        self._upstream = (where.hostname, where.port)
        self.faults: list[Fault] = []
        self.log: list[Answer] = []
        self.reachable = True
        self.endpoint = ""
        self._lock = threading.Lock()

    def payload_bytes(self) -> int:
        """Bytes of DVC's objects that clients were sent."""
        return sum(each.sent for each in self.log if each.method == "GET" and "/files/md5/" in each.path)

    def refused(self) -> int:
        """How many answers were a 503."""
        return sum(each.status == 503 for each in self.log)

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=2**20)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        server.close()
        clients = asyncio.all_tasks() - {asyncio.current_task()}
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client's connection over one connection to the server."""
        server_writer = None
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(*self._upstream, limit=2**20)
            while self.reachable and await self._exchange(reader, writer, server_reader, server_writer):
                pass
        for each in (writer, server_writer):
            if each:
                each.transport.abort()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> bool:
        """Hand on one request and its answer. Returns: whether the connection may go on."""
        start, headers, head = await _read_head(reader)
        method, path, _ = start.split(" ", 2)
        if "100-continue" in headers.get("expect", ""):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        body = [piece async for piece in _body(reader, headers)]
        fault = self._fault(path)
        answer = Answer(method, path, headers.get("range", ""), 503, received=sum(map(len, body)))
        if fault.stall:
            await asyncio.sleep(3600)
        if fault.refuse:
            self.log.append(answer)
            writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(_SLOW_DOWN))
            if method != "HEAD":
                writer.write(_SLOW_DOWN)
            await writer.drain()
            return True
        server_writer.write(head)
        for piece in body:
            server_writer.write(piece)
        await server_writer.drain()
        start, headers, head = await _read_head(server_reader)
        answer.status = int(start.split()[1])
        self.log.append(answer)
        if fault.lose_answer:
            return False
        if fault.truncate_to is not None:
            length = headers["content-length"].encode()
            head = head.replace(b"Content-Length: " + length, b"Content-Length: %d" % fault.truncate_to)
        writer.write(head)
        if method != "HEAD" and answer.status not in (204, 304):
            await self._hand_on(_body(server_reader, headers), writer, answer, fault)
        await writer.drain()
        whole = fault.cut_after is None and fault.truncate_to is None
        if fault.truncate_to is not None:
            writer.write_eof()
            await asyncio.sleep(0.2)
        return whole

    async def _hand_on(
        self, body: AsyncIterator[bytes], writer: asyncio.StreamWriter, answer: Answer, fault: Fault
    ) -> None:
        ends = [end for end in (fault.cut_after, fault.truncate_to) if end is not None]
        async for piece in body:
            if not self.reachable:
                raise ConnectionAbortedError
            if ends:
                piece = piece[: max(0, min(ends) - answer.sent)]
            if fault.flip_at is not None and answer.sent <= fault.flip_at < answer.sent + len(piece):
                at = fault.flip_at - answer.sent
                piece = piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]
            writer.write(piece)
            await writer.drain()
            answer.sent += len(piece)
            if ends and answer.sent >= min(ends):
                return
            if fault.bytes_per_second:
                await asyncio.sleep(len(piece) / fault.bytes_per_second)

    def _fault(self, path: str) -> Fault:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.path in path:
                    fault.times -= 1
                    return fault
        return Fault()


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """The start line, the headers by their lower-case names, and all of it as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").rstrip().split("\r\n")
    return start, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, head


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """A message's body as it came, chunk marks included, piece by piece."""
    if headers.get("transfer-encoding") == "chunked":
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            yield line + await reader.readexactly(size + 2)
        return
    left = int(headers.get("content-length", 0))
    while left:
        piece = await reader.read(min(_CHUNK, left))
        if not piece:
            raise ConnectionAbortedError
        left -= len(piece)
        yield piece


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy in a thread of its own for the length of the block."""
    proxy, loop = FaultProxy(upstream), asyncio.new_event_loop()
    stop = asyncio.Event()
    started = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(proxy.serve(started, stop)), daemon=True)
    thread.start()
    assert started.wait(30), "the proxy did not start"
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
