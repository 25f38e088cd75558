"""`world2act serve` and openpi's own server on the same policy: latency and actions per second, in alternation.

    python -m benchmarks.serving --openpi FOLDER [--clients 1 8 32] [--requests 320] [--repeats 3]

FOLDER holds openpi-client and openpi's server class, from the registry:
`pip install --no-deps --target FOLDER openpi-client openpi-server`. Both servers run at the same time on loopback, in
separate processes. This process sends requests to one of them at a time, over one connection per client; a client sends
its next observation when it has received its answer. There are two policies: "instant" costs nothing, so that only the
servers are measured; "network" reads 50 MB of weights per call, as a policy on an accelerator does, and thus gains from
batches. Both sides return the same actions. openpi's server does not check its observations; ours does.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.measure import by_turns, describe_machine, ratio, spread
from world2act.policies.remote.openpi_messages import pack, unpack
from world2act.sims.base import Observation

SIZE, PROPRIO, CHUNK, ACTIONS, WIDTH = 64, 8, 16, 7, 1024
OURS, OPENPI = "world2act serve", "openpi's server"
POLICIES = ("instant", "network")


class Dummy:
    """Two matrix products, or none."""

    cameras, proprio_dim, chunk_length, action_dim = {"agentview": SIZE}, PROPRIO, CHUNK, ACTIONS

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(0)
        shapes = [(SIZE * SIZE * 3, WIDTH), (WIDTH, CHUNK * ACTIONS)] if name == "network" else []
        self._weights = [rng.normal(scale=shape[0] ** -0.5, size=shape).astype(np.float32) for shape in shapes]

    def predict(self, observations: Sequence[Observation], seeds: Sequence[int]) -> np.ndarray:
        hidden = np.stack([o.images["agentview"] for o in observations]).reshape(len(observations), -1)
        if not self._weights:
            return np.zeros((len(observations), CHUNK, ACTIONS), np.float32)
        hidden = hidden.astype(np.float32) / 255
        for weights in self._weights:
            hidden = np.tanh(hidden @ weights)
        return hidden.reshape(-1, CHUNK, ACTIONS)

    def infer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The method that openpi's server calls."""
        image, state = message["observation/image"], message["observation/state"]
        return {"actions": self.predict([Observation({"agentview": image}, state, message["prompt"], state)], [0])[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openpi", required=True, help="the folder with openpi-client and openpi-server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=320, help="per repetition, of all clients together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", nargs=3, metavar=("SIDE", "POLICY", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        side, policy, port = arguments.serve
        serve_ours(Dummy(policy), int(port)) if side == OURS else serve_openpi(
            Dummy(policy), int(port), arguments.openpi
        )
        return
    print(f"machine: {describe_machine('websockets', 'msgpack', 'numpy')}")
    for policy in POLICIES:
        with server(OURS, policy, arguments.openpi) as ours, server(OPENPI, policy, arguments.openpi) as openpi:
            for clients in arguments.clients:
                compare(policy, {OURS: ours, OPENPI: openpi}, clients, arguments)


def compare(policy: str, ports: dict[str, int], clients: int, arguments: argparse.Namespace) -> None:
    latencies: dict[str, list[float]] = {name: [] for name in ports}
    actions: dict[str, np.ndarray] = {}

    def turn(name: str) -> float:
        wall_s, measured, actions[name] = asyncio.run(ask(ports[name], clients, arguments.requests // clients))
        latencies[name] += measured
        return len(measured) * CHUNK / wall_s

    rates = by_turns({name: lambda name=name: turn(name) for name in ports}, arguments.repeats)
    np.testing.assert_allclose(actions[OURS], actions[OPENPI], atol=1e-5)
    for name, values in rates.items():
        middle, late = np.percentile(np.asarray(latencies[name]) * 1000, [50, 99])
        latency = f"p50 {middle:.1f} ms, p99 {late:.1f} ms"
        print(f"{policy}, {clients} clients, {name}: {latency}, {spread(values, 0)} actions/s")
    print(f"{policy}, {clients} clients: ours gives {ratio(rates[OURS], rates[OPENPI])} times as many actions")


async def ask(port: int, clients: int, requests: int) -> tuple[float, list[float], np.ndarray]:
    """Send `requests` from every client. Returns the wall seconds, the latencies, and the last actions."""
    rng = np.random.default_rng(0)
    message = pack(
        {
            "observation/image": rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
            "observation/state": rng.normal(size=PROPRIO),
            "prompt": "put the bowl on the plate",
        }
    )
    connections = [await connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) for _ in range(clients)]
    latencies: list[float] = []
    answer = b""

    async def run_client(connection: ClientConnection) -> None:
        nonlocal answer
        for _ in range(requests):
            began = time.perf_counter()
            await connection.send(message)
            answer = await connection.recv()
            latencies.append(time.perf_counter() - began)

    for connection in connections:
        await connection.recv()
    began = time.perf_counter()
    await asyncio.gather(*map(run_client, connections))
    wall_s = time.perf_counter() - began
    await asyncio.gather(*(connection.close() for connection in connections))
    return wall_s, latencies, unpack(answer)["actions"]


@contextmanager
def server(side: str, policy: str, openpi: str) -> Iterator[int]:
    """Run a server in a separate process; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.serving", "--openpi", openpi, "--serve", side, policy, str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        else:
            sys.exit(f"{side} ended with exit status {process.returncode}: {' '.join(command)}")
        yield port
    finally:
        process.kill()
        process.wait()


def serve_ours(policy: Dummy, port: int) -> None:
    from world2act.serving.batching import Batcher
    from world2act.serving.observations import Observations
    from world2act.serving.server import Limits, PolicyServer

    async def run() -> None:
        limits = Limits()
        batching = Batcher(policy, batch=limits.batch, waiting=limits.waiting, timeout_s=limits.request_s)
        async with batching as batcher:
            serving = PolicyServer(batcher, Observations(policy), {}, limits=limits, seed=0, api_key=None)
            async with serving.listening("127.0.0.1", port):
                await asyncio.Event().wait()

    asyncio.run(run())


def serve_openpi(policy: Dummy, port: int, folder: str) -> None:
    # last on the path, because openpi-client pins older packages than those of this environment
    sys.path.append(folder)
    from openpi_server.websocket_policy_server import WebsocketPolicyServer  # type: ignore[import-not-found]  # is in `folder`

    WebsocketPolicyServer(policy, "127.0.0.1", port).serve_forever()


if __name__ == "__main__":
    main()
