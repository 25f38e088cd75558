"""`world2act serve` as a command: from a folder or a release to a server, its log and its end; and openpi's client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect
from world2act_client.errors import NotFound, Tampered

from tests.helpers.client_release import Shelf
from tests.helpers.policy_server import CAMERA, KnownPolicy, message, observation, packed, running_server, unpacked
from tests.helpers.remote_stages import make_workspace, save_policy, serve_command, serving
from world2act.core.errors import BadInput
from world2act.core.storage import read_json, read_tensors, sha256, write_json, write_tensors
from world2act.policies.base import load_policy
from world2act.policies.random import RandomPolicy
from world2act.serving.run import run
from world2act.serving.server import Limits
from world2act.serving.sources import find_policy

CONFIG = {"family": "random", "chunk_length": 4, "action_dim": 2}
KEY = "a-key-that-nobody-may-see"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "policy/config.json", CONFIG)
    return tmp_path / "policy"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights, as the base_policy stage saves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("workspace"))
        make_workspace()
        save_policy(Path("served"))
        return Path("served").resolve()


def test_it_serves_until_a_signal_and_logs_json_without_the_key(folder: Path, tmp_path: Path) -> None:
    with serving(folder, "--seed", "3", place=tmp_path, WORLD2ACT_API_KEY=KEY) as (process, port):
        address = f"ws://127.0.0.1:{port}"
        write_json(
            tmp_path / "remote/config.json",
            {
                "family": "remote",
                "server": "openpi",
                "address": address,
                "timeout_s": 10.0,
                "cameras": {},
                "proprio_dim": 0,
                "state": {},
                "instruction": "task",
                "actions": {"actions": [0, 2]},
                "seed": "seed",
                "chunk_length": 4,
                "action_dim": 2,
            },
        )
        os.environ["WORLD2ACT_REMOTE_KEY"] = KEY
        try:
            chunk = load_policy(tmp_path / "remote").predict([observation()], [5])
        finally:
            del os.environ["WORLD2ACT_REMOTE_KEY"]
        np.testing.assert_array_equal(chunk, RandomPolicy(4, 2).predict([observation()], [5]))
        with connect(address, additional_headers={"Authorization": f"Api-Key {KEY}"}) as connection:
            assert unpacked(connection.recv(5)) == {
                "name": "policy",
                "revision": sha256(tmp_path / "policy"),
                "family": "random",
                "protocol": None,
                "cameras": {},
                "proprio_dim": 0,
                "chunk_length": 4,
                "action_dim": 2,
                "keys": {"observation/state": "observation.state", "prompt": "task"},
            }
            connection.send(packed({"task": 1}))
            assert "task" in str(connection.recv(5))
        process.send_signal(signal.SIGTERM)
        assert process.stderr and process.wait(20) == 0
        text = process.stderr.read()
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["event"] for event in events] == ["opened", "opened", "refused", "stopping", "closed", "stopped"]
    assert all(event["time"].endswith("+00:00") for event in events)
    assert next(event["signal"] for event in events if event["event"] == "stopping") == "SIGTERM"
    assert next(event["answered"] for event in events if event["event"] == "closed") == 1
    assert KEY not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "no such folder"),
        (["policy", "--host", "0.0.0.0"], "WORLD2ACT_API_KEY"),
        (["policy", "--camera", "observation/image=corner2"], "--camera"),
        (["empty"], "config.json"),
    ],
)
def test_what_cannot_be_served_is_one_message(folder: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "empty").mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WORLD2ACT_")}
    done = subprocess.run(serve_command(*arguments), cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("statistics.json missing", "statistics.json"),
        ("statistics of another width", "action"),
        ("model.safetensors missing", "model.safetensors"),
        ("another robot's weights", "found:"),
    ],
)
def test_a_network_that_is_not_whole_is_not_served(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, says: str
) -> None:
    """The message names the file and the key, before the server listens."""
    folder = shutil.copytree(network, tmp_path / "policy")
    name = damage.split()[0]
    if damage.endswith("missing"):
        (folder / name).unlink()
    elif damage.startswith("statistics"):
        write_json(
            folder / "statistics.json", read_json(folder / "statistics.json") | {"action": {"min": [0], "max": [1]}}
        )
    else:
        values = read_tensors(folder / "model.safetensors")
        write_tensors(
            folder / "model.safetensors", {key: np.resize(value, (1, *value.shape)) for key, value in values.items()}
        )
    with pytest.raises(BadInput, match=says) as error:
        run(str(folder), None, "127.0.0.1", 0, cameras={}, seed=0, limits=Limits())
    assert "remedy:" in str(error.value)


def test_a_release_is_served_verified(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shelf.publish(1, {"config.json": json.dumps(CONFIG).encode()})
    shelf.promote(first, 1)
    for source in ("policy@prod", f"{shelf.url}/policy@prod", "policy@v1"):
        place, name = find_policy(source)
        assert name == "policy v1" and place.is_relative_to(shelf.cache)
        assert load_policy(place).chunk_length == 4
    second = shelf.publish(2, {"config.json": json.dumps(CONFIG | {"chunk_length": 8}).encode()})
    shelf.promote(second, 2)
    place, name = find_policy("policy@prod")
    assert name == "policy v2" and load_policy(place).chunk_length == 8
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert find_policy("policy@prod") == (place, "policy v2"), "a robot starts without the store too"


def test_a_release_that_nobody_trusted_signed_is_not_served(shelf: Shelf) -> None:
    shelf.use_new_key()
    shelf.promote(shelf.publish(1, {"config.json": json.dumps(CONFIG).encode()}), 1)
    with pytest.raises(Tampered):
        find_policy("policy@prod")


@pytest.mark.parametrize("source", ["s3://bucket/prefix/policy", "elsewhere/policy@prod", "policy"])
def test_what_is_neither_folder_nor_release_is_said(source: str) -> None:
    with pytest.raises((BadInput, NotFound), match="no release"):
        find_policy(source)


OPENPI_CLIENT = """
import json, sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, sent, key = int(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3]
observation = {
    "observation/image": sent["image"], "observation/wrist_image": sent["image"],
    "observation/state": sent["state"], "prompt": "push it",
}
client = WebsocketClientPolicy("127.0.0.1", port, api_key=key)
metadata = client.get_server_metadata()
chunk = client.infer(observation)
broker = ActionChunkBroker(client, action_horizon=len(chunk["actions"]))
steps = [broker.infer(observation)["actions"].tolist() for _ in range(2 * len(chunk["actions"]))]
try:
    client.infer(observation | {"observation/state": np.full(4, np.nan)})
except RuntimeError as error:
    refused = str(error)
print(json.dumps([metadata, chunk["actions"].tolist(), chunk["server_timing"], steps, refused]))
"""


@pytest.mark.slow
def test_openpi_client_works_unchanged(tmp_path: Path) -> None:
    """The package from the registry, with the versions that it pins, in a separate environment."""
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    # the package imports typing_extensions without declaring it
    packages = ["openpi-client==0.1.2", "typing_extensions"]
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], capture_output=True)
    if installed.returncode:
        pytest.skip("openpi-client cannot be installed here")
    policy, seen = KnownPolicy(), observation()
    np.savez(tmp_path / "sent.npz", image=seen.images[CAMERA], state=seen.proprio)
    with running_server(policy, api_key="k", seed=2) as address:
        port = address.rpartition(":")[2]
        done = subprocess.run(
            [python, "-c", OPENPI_CLIENT, port, tmp_path / "sent.npz", "k"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        with connect(address, additional_headers={"Authorization": "Api-Key k"}) as ours:
            ours.recv()
            chunks = []
            for _ in range(3):
                ours.send(packed(message(seen)))
                chunks.append(unpacked(ours.recv(5))["actions"])
    metadata, chunk, timing, steps, refused = json.loads(done.stdout)
    assert metadata == {"name": "known"} and timing.keys() == {"infer_ms", "wait_ms", "batch"}
    np.testing.assert_array_equal(np.float32(chunk), chunks[0])
    np.testing.assert_array_equal(np.float32(steps), np.concatenate(chunks[1:]))
    assert "observation/state[0]" in refused and "nan" in refused
