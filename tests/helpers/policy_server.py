"""What the tests of serving share: a policy whose chunks are known, a server in a thread, and openpi's messages.

The messages are written here after openpi_client/msgpack_numpy.py, apart from the code that is tested.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
from websockets.sync.client import ClientConnection, connect

from world2act.policies.base import Policy
from world2act.serving.batching import Batcher
from world2act.serving.observations import Observations
from world2act.serving.server import Limits, PolicyServer
from world2act.sims.base import Observation

CAMERA, SIZE, PROPRIO, CHUNK, ACTIONS = "corner2", 16, 4, 6, 3


class KnownPolicy:
    """Chunks that anybody can compute from observation and seed; it notes its batches.

    The instruction "fail" makes it raise, "slow" take a second, and "nan" give what is not finite.
    """

    chunk_length, action_dim, proprio_dim = CHUNK, ACTIONS, PROPRIO

    def __init__(self, cameras: Sequence[str] = (CAMERA,), size: int = SIZE) -> None:
        self.cameras = dict.fromkeys(cameras, size)
        self.batches: list[int] = []

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        self.batches.append(len(observations))
        instructions = [o.instruction for o in observations]
        if "slow" in instructions:
            time.sleep(1)
        if "fail" in instructions:
            raise RuntimeError("a secret path")
        chunks = np.stack([self.expected(o, seed) for o, seed in zip(observations, seeds, strict=True)])
        chunks[[i for i, instruction in enumerate(instructions) if instruction == "nan"]] = np.nan
        return chunks

    def expected(self, observation: Observation, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(self.chunk_length, self.action_dim))
        seen = sum(image.mean() for image in observation.images.values()) / 255 + observation.proprio.sum()
        return np.tanh(noise + seen + len(observation.instruction)).astype(np.float32)


def observation(seed: int = 0, cameras: Sequence[str] = (CAMERA,), instruction: str = "push it") -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for camera in cameras}
    return Observation(images, rng.normal(size=PROPRIO).astype(np.float32), instruction, np.zeros(0))


def message(seen: Observation, **changes: Any) -> dict[str, Any]:
    """An observation under our keys; a change to None takes a key away."""
    values: dict[str, Any] = {f"observation.images.{camera}": image for camera, image in seen.images.items()}
    values |= {"observation.state": seen.proprio, "task": seen.instruction} | changes
    return {key: value for key, value in values.items() if value is not None}


@contextmanager
def running_server(
    policy: Policy,
    *,
    api_key: str | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    cameras: Mapping[str, str] | None = None,
    embodiment: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[str]:
    """Serve in another thread; yields ws://host:port. Leaving the block stops it as a signal does."""
    limits = limits or Limits()
    address: list[str] = []
    loop, stop, up = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        batching = Batcher(policy, batch=limits.batch, waiting=limits.waiting, timeout_s=limits.request_s)
        async with batching as batcher:
            observations = Observations(policy, cameras, embodiment)
            server = PolicyServer(batcher, observations, {"name": "known"}, limits=limits, seed=seed, api_key=api_key)
            async with server.listening(host, port) as opened:
                address.append(f"ws://127.0.0.1:{opened}")
                up.set()
                await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=run)
    thread.start()
    up.wait()
    try:
        if not failures:
            yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def packed(value: Any) -> bytes:
    def encode(array: np.ndarray) -> dict[bytes, Any]:
        return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}

    return msgpack.packb(value, default=encode)


def unpacked(data: str | bytes) -> Any:
    assert isinstance(data, bytes), data

    def decode(value: dict[Any, Any]) -> Any:
        if b"__ndarray__" not in value:
            return value
        return np.ndarray(buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"])

    return msgpack.unpackb(data, object_hook=decode)


@contextmanager
def client(address: str, **options: Any) -> Iterator[ClientConnection]:
    """A connection whose metadata is read."""
    with connect(address, compression=None, max_size=None, **options) as connection:
        assert unpacked(connection.recv(10))["name"] == "known"
        yield connection


def ask(connection: ClientConnection, value: Any) -> Any:
    connection.send(packed(value))
    return unpacked(connection.recv(20))
