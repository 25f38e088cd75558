"""LeRobot's own commands on a policy's folder: `lerobot-eval` in an environment, `lerobot-rollout` on a robot.

Environment and robot are small, but of the kinds that LeRobot takes: they join by its registries.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import SEED, Saved
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig
from lerobot.robots import Robot, RobotConfig

from world2act.core.seeds import derive
from world2act.policies.base import load_policy
from world2act.sims.base import Observation

CAMERAS, SIDE, WIDTH, STEPS = ("front", "hand"), 64, 3, 6


def picture(camera: str, step: int) -> np.ndarray:
    return np.random.default_rng([CAMERAS.index(camera), step]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


class Arm(gym.Env):
    """Noise to see, three joints that go where they are told, and a list of what they were told."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    _max_episode_steps = STEPS
    task_description = "push the cup"
    told: list[np.ndarray] = []  # noqa: RUF012

    def __init__(self, render_mode: str = "rgb_array", cameras: tuple[str, ...] = CAMERAS) -> None:
        self.render_mode, self.cameras, self.task = render_mode, cameras, self.task_description
        pixels = {camera: gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8) for camera in cameras}
        joints = gym.spaces.Box(-1, 1, (WIDTH,), np.float32)
        self.observation_space = gym.spaces.Dict({"pixels": gym.spaces.Dict(pixels), "agent_pos": joints})
        self.action_space = joints

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.step_number, self.joints = 0, np.zeros(WIDTH, np.float32)
        return self._observe(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        Arm.told.append(np.array(action))
        self.step_number, self.joints = self.step_number + 1, np.array(action, np.float32)
        done = self.step_number == STEPS
        return self._observe(), 1.0, done, False, {"is_success": done}

    def render(self) -> np.ndarray:
        return picture("front", self.step_number)

    def _observe(self) -> dict[str, Any]:
        return {"pixels": {c: picture(c, self.step_number) for c in self.cameras}, "agent_pos": self.joints}


@EnvConfig.register_subclass("arm")
@dataclass
class ArmConfig(EnvConfig):
    task: str | None = "Arm-v0"
    fps: int = 10
    width: int = WIDTH
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.features = {
            "action": PolicyFeature(FeatureType.ACTION, (self.width,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (WIDTH,)),
            **{f"pixels/{camera}": PolicyFeature(FeatureType.VISUAL, (SIDE, SIDE, 3)) for camera in CAMERAS},
        }
        self.features_map = {"action": "action", "agent_pos": "observation.state"}
        self.features_map |= {f"pixels/{camera}": f"observation.images.{camera}" for camera in CAMERAS}

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"render_mode": "rgb_array"}


gym.register("gym_arm/Arm-v0", Arm)


def lerobot_eval(monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path, *more: str) -> dict[str, Any]:
    from lerobot.scripts.lerobot_eval import main

    arguments = [f"--policy.path={folder}", "--policy.device=cpu", f"--policy.seed={SEED}", "--env.type=arm"]
    arguments += ["--eval.n_episodes=1", "--eval.batch_size=1", f"--output_dir={output}", *more]
    monkeypatch.setattr(sys, "argv", ["lerobot-eval", *arguments])
    monkeypatch.setattr(Arm, "told", [])
    main()
    return json.loads((output / "eval_info.json").read_text())


def acted(folder: Path) -> np.ndarray:
    """What world2act's policy does in that environment: two chunks, the second cut by the episode's end."""
    policy, joints, actions = load_policy(folder), np.zeros(WIDTH, np.float32), []
    for number in range(-(-STEPS // policy.chunk_length)):
        images = {camera: picture(camera, len(actions)) for camera in CAMERAS}
        seen = Observation(images, joints, Arm.task_description, np.zeros(0, np.float32))
        actions += list(policy.predict([seen], [derive(SEED, "noise", number, 0)])[0])
        joints = actions[-1]
    return np.stack(actions[:STEPS])


def test_lerobot_eval_does_what_the_policy_says(each: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = lerobot_eval(monkeypatch, each.lerobot, tmp_path)
    assert info["overall"]["pc_success"] == 100
    np.testing.assert_array_equal(np.stack(Arm.told[:STEPS]), acted(each.folder))


def test_lerobot_eval_refuses_an_environment_of_another_width(
    plain: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from world2act.core.errors import BadInput

    with pytest.raises(BadInput, match=r"(?s)\(7,\) of the environment.*trained for this robot"):
        lerobot_eval(monkeypatch, plain.lerobot, tmp_path, "--env.width=7")


@RobotConfig.register_subclass("arm_robot")
@dataclass(kw_only=True)
class ArmRobotConfig(RobotConfig):
    pass


class ArmRobot(Robot):
    """Two cameras, and three joints that go where they are told."""

    config_class, name = ArmRobotConfig, "arm_robot"
    joints = ("shoulder.pos", "elbow.pos", "gripper.pos")
    told: list[dict[str, float]] = []  # noqa: RUF012
    is_connected = is_calibrated = True

    def __init__(self, config: ArmRobotConfig) -> None:
        super().__init__(config)
        self.state = np.zeros(WIDTH, np.float32)

    @property
    def observation_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.joints, float) | dict.fromkeys(CAMERAS, (SIDE, SIDE, 3))

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.joints, float)

    def connect(self, calibrate: bool = True) -> None: ...
    def calibrate(self) -> None: ...
    def configure(self) -> None: ...
    def disconnect(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        pictures = {camera: picture(camera, len(ArmRobot.told)) for camera in CAMERAS}
        return dict(zip(self.joints, self.state.tolist(), strict=True)) | pictures

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        ArmRobot.told.append(action)
        self.state = np.array([action[joint] for joint in self.joints], np.float32)
        return action


def test_lerobot_rollout_moves_a_robot_as_the_policy_says(
    plain: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.scripts.lerobot_rollout import main

    arguments = [f"--policy.path={plain.lerobot}", "--policy.device=cpu", f"--policy.seed={SEED}", "--device=cpu"]
    arguments += ["--robot.type=arm_robot", f"--robot.calibration_dir={tmp_path}", f"--task={Arm.task_description}"]
    arguments += ["--fps=20", "--duration=2", "--return_to_initial_position=false"]
    monkeypatch.setattr(sys, "argv", ["lerobot-rollout", *arguments])
    monkeypatch.setattr(ArmRobot, "told", [])
    main()
    told = np.array([[action[joint] for joint in ArmRobot.joints] for action in ArmRobot.told[:STEPS]])
    np.testing.assert_allclose(told, acted(plain.folder), rtol=1e-6)
