"""openpi's websocket protocol for a policy: metadata first, then an action chunk for every observation.

Source: openpi's WebsocketPolicyServer and openpi-client's WebsocketClientPolicy, which works with this server
unchanged. A request that cannot be answered gets a text frame with the reason, then close code 1011; other clients are
not affected. `GET /healthz` reports whether the policy answers.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import ipaddress
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from uuid import uuid4

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State

from world2act.core.errors import BadInput
from world2act.core.seeds import derive
from world2act.policies.remote.openpi_messages import Packer, unpack
from world2act.serving.batching import Batcher, Refused
from world2act.serving.log import LOGGER, log
from world2act.serving.observations import Observations
from world2act.sims.base import Observation

API_KEY = "WORLD2ACT_API_KEY"
_CLOSE_TIMEOUT_S = 2.0
_FRAME_BYTES = 16


@dataclass(frozen=True)
class Limits:
    """What clients may ask of a server.

    Attributes:
        batch: how many requests run together.
        waiting: how many requests may wait.
        clients: how many connections there may be.
        message_bytes: the size of an observation.
        request_s: how long an answer may take, and how long the client may take to read it.
    """

    batch: int = 32
    waiting: int = 64
    clients: int = 64
    message_bytes: int = 16 * 2**20
    request_s: float = 30.0


class _Connection(ServerConnection):
    def send_at_once(self, message: bytes) -> bool:
        """Send if that is possible without waiting, and thus without timeout and lock; otherwise return False."""
        room = self.transport.get_write_buffer_limits()[1] - self.transport.get_write_buffer_size()
        if self.protocol.state is not State.OPEN or len(message) + _FRAME_BYTES > room:
            return False
        self.protocol.send_binary(message)
        self.send_data()
        return True


class PolicyServer:
    """Serves the policy that `batcher` runs.

    Args:
        metadata: the first message to every client; JSON-like values.
        seed: for clients that send no seed of the sampling noise: chunk i of a connection has a seed from (seed, i).
        api_key: the key that clients must send as `Authorization: Api-Key ...`; None if they need none.
    """

    def __init__(
        self,
        batcher: Batcher,
        observations: Observations,
        metadata: Mapping[str, object],
        *,
        limits: Limits,
        seed: int,
        api_key: str | None,
    ) -> None:
        self._batcher, self._observations, self._limits = batcher, observations, limits
        # the same for every connection
        self._noise_seed = lru_cache(4096)(lambda number: derive(seed, "noise", number))
        self._packer = Packer()
        self._metadata = self._packer.pack(dict(metadata))
        self._expected = _bytes(f"Api-Key {api_key}") if api_key else None
        self._idle: set[ServerConnection] = set()
        self._stopping = False

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Serve while the block runs, and yield the port; then answer the requests in progress, and close.

        Args:
            port: 0 for any free port.

        Raises:
            BadInput: `host` is not loopback and there is no API key, or the port is taken.
        """
        if self._expected is None and not _is_loopback(host):
            expected = f"a loopback address, or a key in {API_KEY}"
            raise BadInput("--host", "", host, expected, f"export {API_KEY}, the same here and on the robot")
        try:
            server = await serve(
                self._handle,
                host,
                port,
                process_request=self._admit,
                create_connection=_Connection,
                compression=None,
                max_size=self._limits.message_bytes,
                max_queue=1,
                close_timeout=_CLOSE_TIMEOUT_S,
                # a browser on this machine can reach loopback too, and always sends the origin of its page
                origins=[None],
                logger=LOGGER.getChild("websockets"),
            )
        except OSError as error:
            found = error.strerror or str(error)
            raise BadInput(
                "--host, --port", f"{host}:{port}", found, "a free port of this machine", "choose another"
            ) from error
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            await self._stop(server)

    async def _stop(self, server: Server) -> None:
        self._stopping = True
        server.close(close_connections=False)
        await asyncio.gather(*(connection.close(CloseCode.GOING_AWAY, "the server stops") for connection in self._idle))
        await server.wait_closed()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a health check; refuse clients without a valid key, and clients beyond the limit."""
        if request.path == "/healthz":
            if self._batcher.stuck:
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "the policy does not answer\n")
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._expected is not None:
            sent = request.headers.get_all("Authorization")
            if len(sent) != 1 or not hmac.compare_digest(_bytes(sent[0]), self._expected):
                log("refused", client=_name(connection), why="no valid API key")
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "send Authorization: Api-Key ...\n")
        if len(connection.server.connections) >= self._limits.clients:
            log("refused", client=_name(connection), why="too many clients")
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, _Connection)  # see `create_connection`
        answered, previous = 0, None
        log("opened", client=_name(connection))
        try:
            await self._send(connection, self._metadata)
            while not self._stopping:
                self._idle.add(connection)
                try:
                    message = await connection.recv()
                finally:
                    self._idle.discard(connection)
                began = time.monotonic()
                observation, seed = self._read(message)
                prediction = await self._batcher.predict(
                    observation, self._noise_seed(answered) if seed is None else seed
                )
                timing = {"infer_ms": prediction.infer_ms, "wait_ms": prediction.wait_ms, "batch": prediction.batch}
                if previous is not None:
                    timing["prev_total_ms"] = previous
                answer = self._packer.pack({"actions": prediction.actions, "server_timing": timing})
                await self._send(connection, answer)
                answered, previous = answered + 1, (time.monotonic() - began) * 1000
            await connection.close(CloseCode.GOING_AWAY, "the server stops")
        except ConnectionClosed as error:
            log("closed", client=_name(connection), answered=answered, code=error.rcvd.code if error.rcvd else None)
        except TimeoutError:
            connection.transport.abort()
            log("dropped", client=_name(connection), answered=answered, why="it does not read its answers")
        except (BadInput, Refused) as error:
            log("refused", client=_name(connection), answered=answered, why=str(error))
            await self._fail(connection, str(error))
        except Exception:
            number = uuid4().hex[:8]
            log("failed", client=_name(connection), answered=answered, number=number, failed=True)
            await self._fail(connection, f"internal error {number}; see this number in the server's log")

    def _read(self, message: str | bytes) -> tuple[Observation, int | None]:
        if isinstance(message, str):
            raise BadInput("message", "", "a text frame", "a binary frame of msgpack", "send msgpack")
        try:
            values = unpack(message)
        except ValueError as error:
            raise BadInput("message", "", error, "msgpack with numeric arrays", "use openpi-client") from error
        return self._observations.read(values)

    async def _send(self, connection: _Connection, message: str | bytes) -> None:
        if isinstance(message, bytes) and connection.send_at_once(message):
            return
        async with asyncio.timeout(self._limits.request_s):
            await connection.send(message)

    async def _fail(self, connection: _Connection, why: str) -> None:
        try:
            await self._send(connection, why)
            await connection.close(CloseCode.INTERNAL_ERROR, "the previous frame says why")
        except (ConnectionClosed, TimeoutError):
            connection.transport.abort()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(connection: ServerConnection) -> str:
    return ":".join(map(str, connection.remote_address[:2]))


def _bytes(header: str) -> bytes:
    """A header as it was received; it may contain any byte."""
    return header.encode(errors="surrogateescape")
