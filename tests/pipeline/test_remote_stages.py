"""Stages base_policy, post_train and evaluate over what another process serves: `base_policy.family: remote`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import base_policy, evaluate, post_train
from tests.helpers.gr00t_server import LANGUAGE, Gr00tServer, running_gr00t_server
from tests.helpers.remote_stages import CAMERA, CHUNK, SIZE, make_params, make_workspace, save_policy, serving
from world2act.core.errors import BadInput, InfrastructureError
from world2act.core.params import Params
from world2act.core.storage import read_json, read_parquet, read_tensors, sha256, write_json
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.gates import base_policy as base_policy_gate
from world2act.gates import post_train as post_train_gate
from world2act.policies.base import load_policy
from world2act.policies.dataset import describe_robot
from world2act.policies.imitation import make_objective
from world2act.policies.remote.openpi import OpenpiLink
from world2act.sims.base import Observation

ARTIFACTS = Path("artifacts")
BASE, POST_TRAIN = ARTIFACTS / "base_policy", ARTIFACTS / "post_train"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("world2act.policies.remote.policy._PAUSE_S", 0.01)
    make_workspace()
    return tmp_path


def served(port: int, **changes: Any) -> Params:
    common = {
        "server": "openpi",
        "address": f"ws://127.0.0.1:{port}",
        "timeout_s": 20.0,
        "connections": 2,
        "revision": "1",
    }
    return make_params(family="remote", remote=common | changes)


@pytest.mark.slow
def test_a_server_that_dies_once_changes_nothing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages over a server that is killed in the middle of post-training, and over the same policy in this process.

    The policy is one whose chunks do not depend on the batch, to the bit: a residual is to be the same weights.
    """
    save_policy(Path("served"), family="random", chunk_length=CHUNK, action_dim=4)
    with serving(Path("served")) as (process, port):
        params = served(port, revision=sha256("served"))
        metrics = base_policy.main(params)
        assert (metrics["parameters"], metrics["episodes"], metrics["errors"]) == (0, 1, 0)
        checked = read_parquet(BASE / "check.parquet", ["policy", "steps"]).to_pylist()
        assert [row["policy"] for row in checked] == ["base", "random"]
        assert read_json(BASE / "config.json")["protocol"]["embodiment"] == "sawyer"
        card = (BASE / "README.md").read_text(encoding="utf-8")
        assert "served by another process" in card and f"ws://127.0.0.1:{port}" in card
        assert [table.name for table in base_policy_gate.tables(ARTIFACTS, params)] == ["check"]
        asked, ask = [], OpenpiLink.ask

        def dying(link: OpenpiLink, *arguments: Any) -> Any:
            asked.append(arguments)
            if len(asked) == 4:  # the second chunk of the second step
                process.kill()
            return ask(link, *arguments)

        monkeypatch.setattr(OpenpiLink, "ask", dying)
        with pytest.raises(InfrastructureError, match=rf"{port}.*\n.*3 times"):
            post_train.main(params)
        assert not POST_TRAIN.exists() and [each.name for each in Path("runs/post_train").glob("*/*") if each.is_dir()]
    asked.clear()
    asked += [()] * 10
    with serving(Path("served"), port=port):
        post_train.main(params)
        assert len(asked) == 10 + 2 * 2, "it went on behind the first step's checkpoint"
        far = list(evaluate.compute(params, evaluate.plan(params)))
        evaluated = evaluate.assemble(params, far)
    assert evaluated["episodes"] == 1 and evaluated["errors"] == 0
    assert "weights" in [table.name for table in post_train_gate.tables(ARTIFACTS, params)]
    weights = read_tensors(POST_TRAIN / "model.safetensors")
    shutil.rmtree(BASE)
    shutil.copytree("served", BASE)
    shutil.rmtree(POST_TRAIN)
    post_train.main(params)
    here = read_tensors(POST_TRAIN / "model.safetensors")
    assert here.keys() == weights.keys() and all(np.array_equal(here[key], weights[key]) for key in here)
    near = list(evaluate.compute(params, evaluate.plan(params)))
    assert len(near) == 3
    for ours, theirs in zip(near, far, strict=True):
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_network_served_elsewhere_gives_what_it_gives_here(workspace: Path) -> None:
    save_policy(Path("served"))
    rng = np.random.default_rng(0)
    seen = [
        Observation(
            {CAMERA: rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)},
            rng.normal(size=4).astype(np.float32),
            "open the window",
            np.zeros(0),
        )
        for _ in range(3)
    ]
    with serving(Path("served")) as (_, port):
        declare(served(port), Path("other"))
        with pytest.raises(BadInput, match=r"revision\n  found:    [0-9a-f]{64}\n  expected: 1"):
            load_policy("other").predict(seen, [1, 2, 3])
        declare(served(port, revision=sha256("served")), Path("far"))
        far = load_policy("far").predict(seen, [1, 2, 3])
        config = read_json("far/config.json")
        config["protocol"] |= {"embodiment": "panda"}
        write_json("far/config.json", config)
        with pytest.raises(BadInput, match=r"protocol\.embodiment\n  found:    sawyer\n  expected: panda"):
            load_policy("far").predict(seen, [1, 2, 3])
    near = load_policy("served").predict(seen, [1, 2, 3])
    np.testing.assert_allclose(far, near, atol=1e-5)
    assert np.abs(np.diff(near, axis=0)).max() > 1e-3, "it does not look"


def declare(params: Params, folder: Path) -> None:
    dataset = EpisodeDataset.open(ARTIFACTS / "demos/labelled")
    objective, _ = make_objective(params.base_policy, dataset, 0)
    folder.mkdir()
    objective.save_policy(folder, {})
    describe_robot(dataset).write(folder)


class Robot(Gr00tServer):
    """The robot of the workspace behind GR00T's protocol: what it does follows from state and picture."""

    def __init__(self) -> None:
        super().__init__()
        self.modalities["video"], self.modalities["action"] = (["front_view"], [0]), (["arm", "hand"], [*range(16)])

    @staticmethod
    def chunks(images: np.ndarray, state: np.ndarray) -> np.ndarray:
        """float32 (B, 16, 4)."""
        steps = np.arange(1, 17)[:, None] / 16
        return np.tanh(state[:, None] * steps + images.mean((1, 2, 3))[:, None, None] / 255).astype(np.float32)

    def get_action(self, observation: dict[str, Any], options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        video, state = observation["video"]["front_view"], observation["state"]
        assert video.shape[1:] == (1, SIZE, SIZE, 3) and len(observation["language"][LANGUAGE]) == len(video)
        chunks = self.chunks(video[:, 0], np.concatenate([state["arm"], state["hand"]], -1)[:, 0])
        return {"arm": chunks[..., :3], "hand": chunks[..., 3:]}, {}


def test_post_training_stands_over_gr00ts_own_server(workspace: Path) -> None:
    with running_gr00t_server(Robot()) as address:
        keys = {
            "cameras": {CAMERA: {"key": "front_view", "size": SIZE}},
            "instruction": LANGUAGE,
            "state": {"arm": [0, 3], "hand": [3, 4]},
            "actions": {"arm": [0, 3], "hand": [3, 4]},
        }
        params = served(0, server="gr00t", address=address, connections=1, **keys)
        assert base_policy.main(params)["errors"] == 0
        post_train.main(params)
        rng = np.random.default_rng(0)
        image, state = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), rng.uniform(size=4).astype(np.float32)
        seen = Observation({CAMERA: image}, state, "open the window", np.zeros(0))
        base, trained = (load_policy(folder).predict([seen], [0]) for folder in (BASE, POST_TRAIN))
    np.testing.assert_allclose(base, Robot.chunks(image[None], state[None])[:, :CHUNK], atol=1e-6)
    assert np.isfinite(trained).all() and 0 < np.abs(trained - base).max() <= 2


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"address": "ws://me:secret@host:1"}, "base_policy.remote.address"),
        ({"timeout_s": None}, "base_policy.remote.timeout_s"),
        ({"chunk_length": 4}, "base_policy.remote.chunk_length"),
        ({"token": "secret"}, "base_policy.remote.token"),
        ({"server": "gr00t", "address": "tcp://host:1"}, "base_policy.remote.cameras"),
        ({"cameras": {"overhead": {"key": "observation/image", "size": SIZE}}}, "base_policy.remote.cameras.overhead"),
        ({"cameras": {CAMERA: {"key": "observation/image", "size": 224}}}, "base_policy.remote.cameras.corner2"),
    ],
)
def test_what_cannot_be_declared_is_named(workspace: Path, changes: dict[str, Any], key: str) -> None:
    dataset = EpisodeDataset.open(ARTIFACTS / "demos/labelled")
    with pytest.raises(BadInput) as error:
        make_objective(served(1, **changes).base_policy, dataset, 0)
    assert error.value.key == key and "secret" not in str(error.value)


def test_a_server_that_is_not_there_leaves_nothing_behind(workspace: Path) -> None:
    with pytest.raises(InfrastructureError, match="start it, and run this again"):
        base_policy.main(served(1))
    assert not BASE.exists()
