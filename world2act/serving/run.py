"""From a source to a running server: find the policy, run it once, and serve it until a signal arrives."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, sha256
from world2act.policies.base import Policy, load_policy
from world2act.serving.batching import Batcher
from world2act.serving.log import log, log_to_stderr
from world2act.serving.observations import Observations
from world2act.serving.server import API_KEY, Limits, PolicyServer
from world2act.serving.sources import find_policy
from world2act.sims.base import Observation


def parse_cameras(pairs: Sequence[str]) -> dict[str, str]:
    """KEY=CAMERA, as on the command line. Raises `BadInput`."""
    for pair in pairs:
        if not all(pair.partition("=")):
            raise BadInput("--camera", "", pair, "KEY=CAMERA", "for example observation/image=corner2")
    return dict(pair.split("=", 1) for pair in pairs)


def run(
    source: str, store: str | None, host: str, port: int, *, cameras: Mapping[str, str], seed: int, limits: Limits
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the process immediately.

    Raises:
        BadInput: there is no such policy or camera, or the address cannot be used.
        ReleaseError: the release cannot be fetched.
    """
    log_to_stderr()
    folder, name = find_policy(source, store)
    policy = load_policy(folder)
    robot = read_json(folder / "config.json").get("protocol") or {}
    observations = Observations(policy, cameras, robot.get("embodiment"))
    _warm_up(policy)
    metadata = describe(policy, folder, name, observations)
    asyncio.run(_serve(policy, observations, metadata, host, port, limits, seed))


def describe(policy: Policy, folder: Path, name: str, observations: Observations) -> dict[str, object]:
    """The first message to a client: what the policy reads, under which keys, and what it returns.

    `revision` is the digest of the policy's folder; a remote policy compares it with the one that it expects.
    `protocol` describes the robot that it was trained for (`world2act.policies.robot`); None if config.json has none.
    """
    config = read_json(folder / "config.json")
    return {
        "name": name,
        "revision": sha256(folder),
        "family": config["family"],
        "protocol": config.get("protocol"),
        "cameras": dict(policy.cameras),
        "proprio_dim": policy.proprio_dim,
        "chunk_length": policy.chunk_length,
        "action_dim": policy.action_dim,
        "keys": observations.aliases,
    }


async def _serve(
    policy: Policy,
    observations: Observations,
    metadata: Mapping[str, object],
    host: str,
    port: int,
    limits: Limits,
    seed: int,
) -> None:
    batching = Batcher(policy, batch=limits.batch, waiting=limits.waiting, timeout_s=limits.request_s)
    async with batching as batcher:
        server = PolicyServer(
            batcher, observations, metadata, limits=limits, seed=seed, api_key=os.environ.get(API_KEY)
        )
        async with server.listening(host, port) as opened:
            log("listening", host=host, port=opened, **metadata)
            log("stopping", signal=await _signal())
    log("stopped")


async def _signal() -> str:
    """Wait for the first signal; the next one has its usual effect."""
    loop, received = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    names = []

    def stop(number: signal.Signals) -> None:
        names.append(number.name)
        for handled in numbers:
            loop.remove_signal_handler(handled)
        received.set()

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    await received.wait()
    return names[0]


def _warm_up(policy: Policy) -> None:
    """Predict once before any client connects: a policy that cannot run fails early, and kernels are built."""
    images = {camera: np.zeros((size, size, 3), np.uint8) for camera, size in policy.cameras.items()}
    policy.predict([Observation(images, np.zeros(policy.proprio_dim, np.float32), "warm up", np.zeros(0))], [0])
