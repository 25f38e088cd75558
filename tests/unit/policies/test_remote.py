"""Remote policies over openpi's protocol: our own server serves them, and stage 2 stands over them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from websockets.sync.server import ServerConnection, serve

from tests.helpers.policy_server import (
    ACTIONS,
    CAMERA,
    CHUNK,
    PROPRIO,
    SIZE,
    KnownPolicy,
    observation,
    packed,
    running_server,
)
from tests.helpers.rigs import metaworld_rig
from world2act.bridge.adapters import Bridge
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.storage import write_json
from world2act.policies.base import Policy, load_policy
from world2act.policies.remote.policy import RemotePolicy
from world2act.post_training.residual.model import ResidualModel
from world2act.post_training.residual.objective import Imagined, ResidualObjective
from world2act.post_training.residual.policy import ResidualPolicy
from world2act.sims.pool import EnvironmentPool
from world2act.training.objective import BatchPosition
from world2act.training.ranks import initialise


def configuration(address: str, **changes: Any) -> dict[str, Any]:
    values = {
        "family": "remote",
        "server": "openpi",
        "address": address,
        "timeout_s": 5.0,
        "cameras": {CAMERA: {"key": "observation/image", "size": SIZE}},
        "proprio_dim": PROPRIO,
        "state": {"observation/state": [0, PROPRIO]},
        "instruction": "prompt",
        "actions": {"actions": [0, ACTIONS]},
        "seed": "seed",
        "chunk_length": CHUNK,
        "action_dim": ACTIONS,
    } | changes
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "base"


def remote(folder: Path, address: str, **changes: Any) -> RemotePolicy:
    write_json(folder / "config.json", configuration(address, **changes))
    policy = load_policy(folder)
    assert isinstance(policy, RemotePolicy) and isinstance(policy, Policy)
    return policy


def test_it_gives_what_the_policy_behind_it_gives(folder: Path) -> None:
    policy, seen = KnownPolicy(), [observation(i) for i in range(9)]
    with running_server(policy) as address:
        far = remote(folder, address)
        assert (far.cameras, far.proprio_dim) == (policy.cameras, policy.proprio_dim)
        np.testing.assert_array_equal(far.predict(seen, range(9)), policy.predict(seen, list(range(9))))
        np.testing.assert_array_equal(far.predict(seen[:1], [5]), policy.predict(seen[:1], [5]))


def test_several_connections_are_batched_by_the_server(folder: Path) -> None:
    policy, seen = KnownPolicy(), [observation(i, instruction="slow" if i == 0 else "go") for i in range(8)]
    with running_server(policy) as address:
        chunks = remote(folder, address, connections=8).predict(seen, range(8))
    assert max(policy.batches) > 1
    np.testing.assert_array_equal(chunks, [policy.expected(each, i) for i, each in enumerate(seen)])


def test_a_shorter_chunk_and_split_actions(folder: Path) -> None:
    with running_server(KnownPolicy()) as address:
        short = remote(folder, address, chunk_length=2).predict([observation()], [1])
    np.testing.assert_array_equal(short[0], KnownPolicy().expected(observation(), 1)[:2])


def test_a_server_that_restarts_is_found_again(folder: Path) -> None:
    with running_server(KnownPolicy()) as address:
        port, far = int(address.rpartition(":")[2]), remote(folder, address)
        before = far.predict([observation()], [1])
    with running_server(KnownPolicy(), port=port):
        np.testing.assert_array_equal(far.predict([observation()], [1]), before)
    with pytest.raises(InfrastructureError, match="3 times"):
        far.predict([observation()], [1])


def test_the_key_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(KnownPolicy(), api_key="k") as address:
        far = remote(folder, address)
        for wrong in ("", "other"):
            monkeypatch.setenv("WORLD2ACT_REMOTE_KEY", wrong)
            with pytest.raises(BadInput, match="WORLD2ACT_REMOTE_KEY") as error:
                far.predict([observation()], [1])
            assert not wrong or wrong not in str(error.value)
        monkeypatch.setenv("WORLD2ACT_REMOTE_KEY", "k")
        assert far.predict([observation()], [1]).shape == (1, CHUNK, ACTIONS)


def test_what_the_server_refuses_is_said(folder: Path) -> None:
    with running_server(KnownPolicy()) as address:
        far = remote(folder, address, cameras={CAMERA: {"key": "observation/picture", "size": SIZE}})
        with pytest.raises(InfrastructureError, match="observation/picture"):
            far.predict([observation()], [1])
        good = remote(folder, address)
        with pytest.raises(InfrastructureError, match="internal error"):
            good.predict([observation(instruction="fail")], [1])
        assert good.predict([observation()], [1]).shape == (1, CHUNK, ACTIONS)


@contextmanager
def scripted(answer: Any, **metadata: Any) -> Iterator[str]:
    """A server that gives everybody the same answer; bytes and text go as they are; None: never one."""

    connections: list[ServerConnection] = []

    def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        connection.send(packed(metadata))
        for _ in connection:
            if answer is not None:
                connection.send(answer if isinstance(answer, str | bytes) else packed(answer))

    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()
            for connection in connections:
                connection.close()


NOT_FINITE = np.full((CHUNK, ACTIONS), np.nan, np.float32)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"actions": NOT_FINITE}, "not finite"),
        ({"actions": np.zeros((CHUNK - 1, ACTIONS))}, r"\(5, 3\)"),
        ({"actions": np.zeros((CHUNK, ACTIONS + 1))}, r"\(6, 4\)"),
        ({"actions": np.zeros(CHUNK)}, r"\(6,\)"),
        ({"actions": [[0.0]]}, "list"),
        ({"action": np.zeros((CHUNK, ACTIONS))}, "NoneType"),
        ([1, 2], "list"),
        (b"\xc1", "a map"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(folder: Path, answer: Any, says: str) -> None:
    with scripted(answer) as address, pytest.raises(BadInput, match=says):
        remote(folder, address).predict([observation()], [1])


def test_actions_beyond_the_box_are_clipped(folder: Path) -> None:
    with scripted({"actions": np.full((CHUNK, ACTIONS), -3.0)}) as address:
        assert (remote(folder, address).predict([observation()], [1]) == -1).all()


def test_a_server_that_never_answers_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world2act.policies.remote.policy._PAUSE_S", 0.01)
    with scripted(None) as address, pytest.raises(InfrastructureError, match=r"within 0.2 s"):
        remote(folder, address, timeout_s=0.2).predict([observation()], [1])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"token": "secret"}, "token"),
        ({"address": "ws://me:secret@host:1"}, "address"),
        ({"address": "http://host:1"}, "address"),
        ({"address": "tcp://host:1"}, "address"),
        ({"server": "grpc"}, "server"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"chunk_length": None}, "chunk_length"),
        ({"actions": {"a": [0, 2], "b": [1, 3]}}, "each once"),
        ({"actions": {"a": [0, 2]}}, "each once"),
        ({"state": {"s": [2, 9]}}, "4 elements"),
        ({"state": {"s": [0, 1, 2]}}, "state"),
    ],
)
def test_a_bad_configuration_names_its_key(folder: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(BadInput, match=key) as error:
        remote(folder, **{"address": "ws://127.0.0.1:1"} | changes)
    assert "secret" not in str(error.value)


class BasePolicy(KnownPolicy):
    chunk_length = action_dim = 4


def residual(base: Policy) -> ResidualPolicy:
    torch.manual_seed(0)
    bridge = Bridge(latent_channels=16, action_dim=4, dim=32).eval().requires_grad_(False)
    model = ResidualModel(bridge, proprio_dim=4, image_size=64, layers=1, heads=2)
    with torch.no_grad():
        model.head[-1].bias.fill_(0.3)
    return ResidualPolicy(base, model, "corner2", torch.zeros(4), torch.ones(4))


def test_stage_2_stands_over_a_policy_that_is_elsewhere(folder: Path, tmp_path: Path) -> None:
    """The same rollouts, to the bit, as over the same policy in this process; then the result is saved and opened."""
    tasks = ["window-open", "window-open"]
    near = BasePolicy(size=64)
    states = [Imagined("window-open", seed, torch.randn(2, 32)) for seed in range(2)]
    initialise()
    sizes = {"cameras": {"corner2": {"key": "observation/image", "size": 64}}, "chunk_length": 4, "action_dim": 4}
    with (
        running_server(near) as address,
        EnvironmentPool(metaworld_rig(settle_steps=2), tasks, workers=1) as pool,
    ):
        far = remote(folder, address, actions={"actions": [0, 4]}, connections=4, **sizes)
        settings = {"temperature": 0.1, "hard_ratio": 1.0, "updates_per_rollout": 1, "seed": 0}
        settings["base_directory"] = folder
        over = [ResidualObjective(residual(base), pool, tasks, states, **settings) for base in (near, far)]
        batches = [objective.batch(BatchPosition.of(0, 0, len(tasks))) for objective in over]
        for here, there in zip(*(vars(rollouts).values() for rollouts, *_ in batches), strict=True):
            assert torch.equal(here, there)
        loss, _ = over[1].loss(over[1].model, batches[1], BatchPosition.of(0, 0, len(tasks)))
        loss.backward()
        assert over[1].model.head[-1].weight.grad.abs().sum() > 0
        residual(far).save_pretrained(tmp_path / "post_train", folder)
        seen = list(pool.reset({0: 7}).values())
        assert (load_policy(tmp_path / "post_train").predict(seen, [3]) == residual(near).predict(seen, [3])).all()


def test_a_residual_and_its_base_see_the_same(folder: Path) -> None:
    far = remote(folder, "ws://127.0.0.1:1", chunk_length=4, action_dim=4, actions={"actions": [0, 4]})
    with pytest.raises(BadInput, match="corner2"):
        residual(far)


def test_another_policy_at_the_same_address_is_refused(folder: Path) -> None:
    chunk = {"actions": np.zeros((CHUNK, ACTIONS), np.float32)}
    with scripted(chunk, revision="b") as address:
        for revision in ("b", None):
            assert remote(folder, address, revision=revision).predict([observation()], [1]).shape == (1, CHUNK, ACTIONS)
        with pytest.raises(BadInput) as error:
            remote(folder, address, revision="a").predict([observation()], [1])
        assert (error.value.key, error.value.found, error.value.expected) == ("revision", "b", "a")
    with scripted(chunk) as address:  # a server of somebody else's, which reports none
        assert remote(folder, address, revision="a").predict([observation()], [1]).shape == (1, CHUNK, ACTIONS)
