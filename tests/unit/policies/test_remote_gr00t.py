"""Remote policies over GR00T's ZeroMQ protocol, against a server that is written after the upstream one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.gr00t_server import HORIZON, LANGUAGE, Gr00tServer, expected, running_gr00t_server
from tests.helpers.policy_server import CAMERA, PROPRIO, SIZE, observation
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.storage import write_json
from world2act.policies.base import load_policy
from world2act.policies.remote.policy import RemotePolicy

CHUNK = 8


def remote(folder: Path, address: str, **changes: Any) -> RemotePolicy:
    write_json(
        folder / "config.json",
        {
            "family": "remote",
            "server": "gr00t",
            "address": address,
            "timeout_s": 5.0,
            "cameras": {CAMERA: {"key": "ego_view", "size": SIZE}},
            "proprio_dim": PROPRIO,
            "state": {"arm": [0, 3], "hand": [3, 4]},
            "instruction": LANGUAGE,
            "actions": {"arm": [0, 2], "hand": [2, 3]},
            "chunk_length": CHUNK,
            "action_dim": 3,
        }
        | changes,
    )
    policy = load_policy(folder)
    assert isinstance(policy, RemotePolicy)
    return policy


def test_a_batch_is_one_request_and_comes_back_whole(tmp_path: Path) -> None:
    server, seen = Gr00tServer(), [observation(i, instruction="x" * (i + 1)) for i in range(5)]
    with running_gr00t_server(server) as address:
        far = remote(tmp_path, address)
        chunks = far.predict(seen, range(5))
        far.predict(seen[:1], [0])
    assert server.endpoints == ["ping", "reset", "get_modality_config", "get_action", "get_action"]
    wanted = [expected(each.images[CAMERA], each.proprio, each.instruction)[:CHUNK] for each in seen]
    assert chunks.dtype == np.float32
    np.testing.assert_allclose(chunks, wanted, atol=1e-6)


def test_a_server_that_restarts_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world2act.policies.remote.policy._PAUSE_S", 0.01)
    with running_gr00t_server(Gr00tServer()) as address:
        far = remote(tmp_path, address, timeout_s=0.5)
        before = far.predict([observation()], [0])
    with pytest.raises(InfrastructureError, match="3 times"):
        far.predict([observation()], [0])
    with running_gr00t_server(Gr00tServer(), port=int(address.rpartition(":")[2])):
        np.testing.assert_array_equal(far.predict([observation()], [0]), before)


def test_the_token_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_gr00t_server(Gr00tServer(token="t")) as address:
        far = remote(tmp_path, address)
        with pytest.raises(BadInput, match="WORLD2ACT_REMOTE_KEY"):
            far.predict([observation()], [0])
        monkeypatch.setenv("WORLD2ACT_REMOTE_KEY", "t")
        assert far.predict([observation()], [0]).shape == (1, CHUNK, 3)


@pytest.mark.parametrize(("mood", "says"), [("nan", "not finite"), ("foreign", "ping"), ("pickle", "array of object")])
def test_an_answer_that_does_not_fit_is_refused(tmp_path: Path, mood: str, says: str) -> None:
    with running_gr00t_server(Gr00tServer(mood=mood)) as address, pytest.raises(BadInput, match=says):
        remote(tmp_path, address).predict([observation()], [0])


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world2act.policies.remote.policy._PAUSE_S", 0.01)
    silent = running_gr00t_server(Gr00tServer(mood="silent"))
    with silent as address, pytest.raises(InfrastructureError, match=r"within 0\.3 s"):
        remote(tmp_path, address, timeout_s=0.3).predict([observation()], [0])


@pytest.mark.parametrize(
    ("modality", "served", "says"),
    [
        ("video", (["ego_view", "wrist"], [0]), "wrist"),
        ("video", (["ego_view"], [-1, 0]), "2 steps"),
        ("state", (["arm"], [0]), "'hand'"),
        ("action", (["arm", "hand", "base"], [*range(HORIZON)]), "base"),
        ("action", (["arm", "hand"], [*range(CHUNK - 1)]), "7 steps"),
        ("language", (["task"], [0]), "task"),
    ],
)
def test_a_policy_with_other_inputs_is_refused(tmp_path: Path, modality: str, served: Any, says: str) -> None:
    server = Gr00tServer()
    server.modalities[modality] = served
    with running_gr00t_server(server) as address, pytest.raises(BadInput, match=modality) as error:
        remote(tmp_path, address).predict([observation()], [0])
    assert says in str(error.value) and "get_action" not in server.endpoints


def test_what_the_server_reports_is_said_and_it_is_asked_on(tmp_path: Path) -> None:
    with running_gr00t_server(Gr00tServer()) as address:
        far = remote(tmp_path, address)
        small = observation()
        small.images[CAMERA] = small.images[CAMERA][:8]
        with pytest.raises(InfrastructureError, match="video ego_view"):
            far.predict([small], [0])
        assert far.predict([observation()], [0]).shape == (1, CHUNK, 3)
