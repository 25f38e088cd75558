"""`world2act serve`: openpi's protocol over raw websockets, many clients in one batch, and an orderly end."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.helpers.gr00t_policies import tiny_network, tiny_processor
from tests.helpers.policy_server import (
    ACTIONS,
    CAMERA,
    CHUNK,
    PROPRIO,
    SIZE,
    KnownPolicy,
    ask,
    client,
    message,
    observation,
    packed,
    running_server,
    unpacked,
)
from world2act.core.errors import BadInput
from world2act.core.seeds import derive
from world2act.core.storage import sha256, write_json
from world2act.policies.base import load_policy
from world2act.policies.gr00t.model import Gr00tModel
from world2act.policies.gr00t.policy import save_pretrained
from world2act.policies.random import RandomPolicy
from world2act.serving.batching import Batcher, Refused
from world2act.serving.observations import Observations
from world2act.serving.run import describe, parse_cameras
from world2act.serving.server import Limits


def health(address: str) -> str:
    return address.replace("ws", "http", 1) + "/healthz"


def test_metadata_comes_first_then_chunks_with_their_timing() -> None:
    policy, seen = KnownPolicy(), observation()
    with running_server(policy, seed=5) as address, connect(address, compression=None) as connection:
        assert unpacked(connection.recv(10)) == {"name": "known"}
        first, second = ask(connection, message(seen)), ask(connection, message(seen))
        np.testing.assert_array_equal(first["actions"], policy.expected(seen, derive(5, "noise", 0)))
        np.testing.assert_array_equal(second["actions"], policy.expected(seen, derive(5, "noise", 1)))
        assert first["actions"].dtype == np.float32 and first["actions"].shape == (CHUNK, ACTIONS)
        assert first["server_timing"].keys() == {"infer_ms", "wait_ms", "batch"}
        assert second["server_timing"].keys() == {"infer_ms", "wait_ms", "batch", "prev_total_ms"}
        assert 0 < second["server_timing"]["infer_ms"] < 1000 and second["server_timing"]["prev_total_ms"] > 0


def test_a_seed_that_is_sent_decides_alone() -> None:
    policy, seen = KnownPolicy(), observation()
    with running_server(policy) as address, client(address) as connection:
        for seed in (7, 2**64 - 1, np.asarray(7), 0):
            answer = ask(connection, message(seen, seed=seed))
            np.testing.assert_array_equal(answer["actions"], policy.expected(seen, int(seed)))


def test_openpi_keys_mean_the_same() -> None:
    policy, seen = KnownPolicy(), observation()
    libero = {
        "observation/image": seen.images[CAMERA],
        "observation/wrist_image": seen.images[CAMERA],
        "observation/state": seen.proprio.astype(np.float64),
        "prompt": seen.instruction,
    }
    with running_server(policy) as address, client(address) as one, client(address) as other:
        np.testing.assert_array_equal(ask(one, libero)["actions"], ask(other, message(seen))["actions"])


def test_several_cameras_are_named_and_never_guessed() -> None:
    policy = KnownPolicy(["agentview", "wrist"])
    seen = observation(cameras=["agentview", "wrist"])
    sent = message(seen) | {"a/image": seen.images["agentview"], "b/image": seen.images["wrist"]}
    for camera in policy.cameras:
        del sent[f"observation.images.{camera}"]
    with pytest.raises(BadInput, match=r"observation\.images\.agentview"):
        Observations(policy).read(sent)
    read, _ = Observations(policy, parse_cameras(["b/image=wrist", "a/image=agentview"])).read(sent)
    assert all((read.images[camera] == seen.images[camera]).all() for camera in policy.cameras)
    with pytest.raises(BadInput, match="one of"):
        Observations(policy, {"a/image": "overhead"})
    with pytest.raises(BadInput, match="KEY=CAMERA"):
        parse_cameras(["wrist"])


def test_a_robot_may_say_which_one_it_is() -> None:
    policy, seen = KnownPolicy(), observation()
    with running_server(policy, embodiment="sawyer") as address, client(address) as connection:
        for who in ({}, {"embodiment": "sawyer"}):
            answer = ask(connection, message(seen, seed=1, **who))
            np.testing.assert_array_equal(answer["actions"], policy.expected(seen, 1))


def test_metadata_says_what_the_policy_wants(tmp_path: Path) -> None:
    robot = {"embodiment": "arm", "control_hz": 20}
    write_json(tmp_path / "config.json", {"family": "random", "protocol": robot})
    policy = KnownPolicy()
    metadata = describe(policy, tmp_path, "policy v3", Observations(policy))
    assert metadata == {
        "name": "policy v3",
        "revision": sha256(tmp_path),
        "family": "random",
        "protocol": robot,
        "cameras": {CAMERA: SIZE},
        "proprio_dim": PROPRIO,
        "chunk_length": CHUNK,
        "action_dim": ACTIONS,
        "keys": {
            "observation/image": f"observation.images.{CAMERA}",
            "observation/state": "observation.state",
            "prompt": "task",
        },
    }


def test_health_check_needs_no_key_and_no_websocket() -> None:
    with running_server(KnownPolicy(), api_key="k") as address, urlopen(health(address)) as response:
        assert (response.status, response.read()) == (200, b"OK\n")


def test_health_check_fails_while_the_policy_hangs() -> None:
    policy = KnownPolicy()
    with running_server(policy, limits=Limits(request_s=0.2)) as address, client(address) as connection:
        connection.send(packed(message(observation(instruction="slow"))))
        time.sleep(0.5)
        with pytest.raises(HTTPError) as refusal:
            urlopen(health(address))
        assert refusal.value.code == 503
        assert "no answer within 0.2 s" in str(connection.recv(5))


def test_many_clients_share_batches_and_each_gets_its_own_answer() -> None:
    policy, count = KnownPolicy(), 12
    with running_server(policy, limits=Limits(batch=8)) as address, client(address) as first:
        first.send(packed(message(observation(instruction="slow"))))
        time.sleep(0.2)

        def one(seed: int) -> np.ndarray:
            with client(address) as connection:
                return ask(connection, message(observation(seed), seed=seed))["actions"]

        with ThreadPoolExecutor(count) as threads:
            answers = list(threads.map(one, range(count)))
        first.recv(5)
    assert policy.batches == [1, 8, 4]
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, policy.expected(observation(seed), seed))


def test_stopping_answers_what_is_under_way_and_closes_the_rest() -> None:
    policy = KnownPolicy()
    with running_server(policy) as address:
        busy, idle = connect(address), connect(address)
        busy.recv(), idle.recv()
        busy.send(packed(message(observation(instruction="slow"))))
        time.sleep(0.2)
    assert unpacked(busy.recv(1))["actions"].shape == (CHUNK, ACTIONS)
    for connection in (busy, idle):
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(1)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def test_a_full_queue_refuses_and_what_nobody_awaits_is_not_run() -> None:
    policy = KnownPolicy()

    async def main() -> None:
        async with Batcher(policy, batch=4, waiting=2, timeout_s=0.3) as batcher:
            asked = [batcher.predict(observation(instruction="slow"), 0) for _ in range(1)]
            running = asyncio.gather(*asked, return_exceptions=True)
            await asyncio.sleep(0.1)
            waiting = asyncio.gather(*(batcher.predict(observation(), i) for i in range(2)), return_exceptions=True)
            await asyncio.sleep(0)
            with pytest.raises(Refused, match="2 requests are waiting"):
                await batcher.predict(observation(), 9)
            assert [type(error) for error in await running + await waiting] == [Refused] * 3
            await asyncio.sleep(1)
            answer = await batcher.predict(observation(), 3)
            np.testing.assert_array_equal(answer.actions, policy.expected(observation(), 3))

    asyncio.run(main())
    assert policy.batches == [1, 1]


def test_a_quick_policy_needs_no_thread_until_it_is_slow_once() -> None:
    threads: list[str] = []

    class Watched(KnownPolicy):
        def predict(self, observations: Any, seeds: Any) -> np.ndarray:
            threads.append(threading.current_thread().name)
            return super().predict(observations, seeds)

    async def main() -> None:
        policy, main_thread = Watched(), threading.current_thread().name
        async with Batcher(policy, batch=4, waiting=4, timeout_s=5) as batcher:
            assert not threads
            while main_thread not in threads[-1:]:
                assert len(threads) < 200, "it is never trusted"
                answer = await batcher.predict(observation(), 3)
            np.testing.assert_array_equal(answer.actions, policy.expected(observation(), 3))
            assert main_thread not in threads[:4]
            with pytest.raises(RuntimeError, match="secret"):
                await batcher.predict(observation(instruction="fail"), 0)
            await batcher.predict(observation(instruction="slow"), 0)
            before = len(threads)
            slow = asyncio.create_task(batcher.predict(observation(instruction="slow"), 0))
            began = time.monotonic()
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 0.5, "the loop slept with it"
            await slow
            assert main_thread not in threads[before:]

    asyncio.run(main())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "robot.example"])
def test_beyond_loopback_only_with_a_key(host: str) -> None:
    with pytest.raises(BadInput, match="WORLD2ACT_API_KEY"), running_server(KnownPolicy(), host=host):
        pass
    everywhere = running_server(KnownPolicy(), api_key="k", host="0.0.0.0")
    headers = {"Authorization": "Api-Key k"}
    with everywhere as address, client(address, additional_headers=headers) as connection:
        assert ask(connection, message(observation()))["actions"].shape == (CHUNK, ACTIONS)


def test_a_port_that_is_taken_is_said() -> None:
    with running_server(KnownPolicy()) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(BadInput, match="a free port"), running_server(KnownPolicy(), port=port):
            pass


def test_a_policy_without_eyes_is_served_too() -> None:
    with running_server(RandomPolicy(4, 2)) as address, client(address) as connection:
        answer = ask(connection, {"prompt": "anything", "seed": 3})["actions"]
        np.testing.assert_array_equal(answer, RandomPolicy(4, 2).predict([observation()], [3])[0])


def test_threads_do_not_outlive_the_server() -> None:
    before = threading.active_count()
    with running_server(KnownPolicy()) as address, client(address) as connection:
        ask(connection, message(observation()))
    time.sleep(0.2)
    assert threading.active_count() <= before


def test_a_network_answers_in_a_batch_as_it_does_alone(tmp_path: Path) -> None:
    network = tiny_network(state_dim=PROPRIO, action_dim=PROPRIO, horizon=CHUNK, patch=4)
    box = np.array([[-3] * PROPRIO, [3] * PROPRIO])
    processor = tiny_processor(
        network, cameras=[CAMERA], image_size=SIZE, instructions=["push it"], actions=box, proprio=box
    )
    save_pretrained(tmp_path, network, Gr00tModel(network, 0).state_dict(), processor)
    policy = load_policy(tmp_path)
    with running_server(policy) as address:

        def one(seed: int) -> dict[str, Any]:
            with client(address) as connection:
                return ask(connection, message(observation(seed), seed=seed))

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(one, range(24)))
    assert max(answer["server_timing"]["batch"] for answer in answers) > 1
    for seed, answer in enumerate(answers):
        alone = policy.predict([observation(seed)], [seed])[0]
        np.testing.assert_allclose(answer["actions"], alone, atol=1e-5)
