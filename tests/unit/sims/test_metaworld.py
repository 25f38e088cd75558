"""The Meta-World environment: the contract, and the traps it closes, each provoked for real."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.rigs import CAMERA, make, metaworld_rig
from world2act.core.errors import BadInput
from world2act.sims.base import Environment
from world2act.sims.metaworld.environment import make_environment


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


@pytest.mark.parametrize("task", ["hammer", "sweep-into", "plate-slide", "window-open"])
def test_same_seed_gives_the_same_episode_whatever_ran_before(task: str) -> None:
    used, fresh = make(task), make(task)
    rng = np.random.default_rng(0)
    for seed in (3, 4):
        used.reset(seed)
        for _ in range(30):
            used.step(rng.uniform(-1, 1, 4))
    used.render(64)
    for environment in (used, fresh):
        environment.reset(11)
    for _ in range(3):
        for _ in range(15):
            action = used.expert_action()
            np.testing.assert_array_equal(action, fresh.expert_action())
            assert used.step(action) == fresh.step(action)
        a, b = used.observe(), fresh.observe()
        np.testing.assert_array_equal(a.images["corner2"], b.images["corner2"])
        np.testing.assert_array_equal(a.proprio, b.proprio)
        np.testing.assert_array_equal(a.scene, b.scene)


@pytest.mark.parametrize("task", ["coffee-push", "plate-slide"])
def test_conditioning_frame_shows_this_episode(task: str) -> None:
    """Ridge regression from the first frame's pixels finds positions in episodes that it was not fitted to."""
    environment = make(task)
    frames, scenes = [], []
    for seed in range(120):
        environment.reset(seed)
        observation = environment.observe()
        frames.append(observation.images["corner2"].astype(np.float64).ravel() / 255)
        scenes.append(observation.scene)
    x, y = np.stack(frames), np.stack(scenes)
    y = y[:, y.std(0) > 0.01]
    assert y.shape[1] >= 2
    train, test = slice(0, 90), slice(90, None)
    mean_x, mean_y = x[train].mean(0), y[train].mean(0)
    kernel = (x[train] - mean_x) @ (x[train] - mean_x).T
    weights = np.linalg.solve(kernel + 1.0 * np.eye(90), y[train] - mean_y)
    predicted = (x[test] - mean_x) @ (x[train] - mean_x).T @ weights + mean_y
    r2 = 1 - ((predicted - y[test]) ** 2).sum(0) / ((y[test] - y[test].mean(0)) ** 2).sum(0)
    assert r2.min() > 0.5, r2


def test_nothing_in_view_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make("hammer")
    environment.reset(0)
    for _ in range(6):
        quick = environment.render(96)
        shown = int((environment._model.geom_group <= 2).sum())
        with monkeypatch.context() as everything:
            everything.setattr(environment, "_hide_geoms_outside", lambda view: None)
            environment._model.geom_group[:] = environment._groups
            np.testing.assert_array_equal(environment.render(96), quick)
            assert shown < (environment._groups <= 2).sum()
        for _ in range(12):
            environment.step(environment.expert_action())


def test_environments_of_one_task_do_not_share_a_scene() -> None:
    first, second = make("sweep-into"), make("sweep-into")
    first.reset(1)
    alone = first.render(64)
    second.reset(2)
    assert (second.render(64) != alone).any()
    np.testing.assert_array_equal(first.render(64), alone)


def test_blank_frames_raise() -> None:
    """The trap itself: a renderer is freed after another one's first frame."""
    result = run(
        "import mujoco, gc\n"
        "from tests.helpers.rigs import make\n"
        "other = mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 64, 64)\n"
        "environment = make('plate-slide')\n"
        "environment.reset(0)\n"
        "assert environment.render(64).std() > 10\n"
        "del other; gc.collect()\n"
        "environment.render(64)\n"
    )
    assert "InfrastructureError" in result.stderr and "blank frame" in result.stderr, result.stderr


def test_missing_backend_names_package_and_command() -> None:
    result = run(
        "import ctypes.util\n"
        "ctypes.util.find_library = lambda name: None\n"
        "import ctypes; load = ctypes.CDLL.__init__\n"
        "def refuse(self, name, *args, **options):\n"
        "    if name and 'OSMesa' in str(name): raise OSError(f'{name}: cannot open shared object file')\n"
        "    load(self, name, *args, **options)\n"
        "ctypes.CDLL.__init__ = refuse\n"
        "from tests.helpers.rigs import make\n",
        MUJOCO_GL="osmesa",
    )
    assert result.returncode and "InfrastructureError" in result.stderr, result.stderr
    assert "sudo apt-get install --no-install-recommends libosmesa6" in result.stderr
    assert "InfrastructureError" in run("import world2act.sims.metaworld.environment", MUJOCO_GL="nonsense").stderr


def test_mujoco_imported_too_early_is_said() -> None:
    code = "import os; os.environ.pop('MUJOCO_GL', None)\nimport mujoco\nimport world2act.sims.metaworld.environment\n"
    result = run(code)
    assert "InfrastructureError" in result.stderr and "before MUJOCO_GL was set" in result.stderr, result.stderr


def test_contract() -> None:
    environment = make("coffee-push")
    assert isinstance(environment, Environment)
    environment.reset(0)
    observation = environment.observe()
    assert (
        observation.proprio.shape == (environment.embodiment.proprio_dim,) and observation.proprio.dtype == np.float32
    )
    assert observation.images["corner2"].shape == (64, 64, 3) and observation.images["corner2"].dtype == np.uint8
    assert observation.instruction == environment.task.instruction
    assert environment.gripper_opening() == pytest.approx(0.1, abs=0.002)
    success = False
    for _ in range(150):
        action = environment.expert_action()
        assert action.dtype == np.float32 and np.abs(action).max() <= 1
        success = success or environment.step(action)
    assert success
    assert 0.03 < environment.gripper_opening() < 0.08


def test_unknown_task_and_camera() -> None:
    with pytest.raises(BadInput, match=r"demos\.tasks"):
        make("hamer")
    with pytest.raises(BadInput, match=r"demos\.cameras"):
        make_environment("hammer", metaworld_rig(cameras=[replace(CAMERA, name="wrist")]))
    with pytest.raises(BadInput, match="follows no published protocol"):
        make_environment("hammer", metaworld_rig(cameras=[replace(CAMERA, protocol="libero-openpi")]))
