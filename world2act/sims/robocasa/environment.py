"""RoboCasa's environments, as they run in a worker under RoboCasa's interpreter."""

from __future__ import annotations

import numpy as np
import robocasa  # noqa: F401  registers its tasks with robosuite
import robosuite
from robosuite.controllers import load_composite_controller_config

from world2act.core.errors import BadInput
from world2act.sims.base import Observation, Task
from world2act.sims.rig import Rig
from world2act.sims.robocasa import EMBODIMENT, OBSERVED, TASKS, check_cameras

_SEEDS = 2**32


def make_environment(task: str, rig: Rig) -> RoboCasa:
    """See `world2act.sims.simulator.Simulator.make_environment`."""
    check_cameras(rig)
    return RoboCasa(TASKS[task], rig)


class RoboCasa:
    """One RoboCasa task with the PandaOmron robot; see `world2act.sims.base.Environment`."""

    embodiment = EMBODIMENT

    def __init__(self, task: Task, rig: Rig) -> None:
        self.task, self._size, self._settle_steps = task, rig.image_size, rig.settle_steps
        self._cameras = [mount.name for mount in rig.cameras]
        self._env = robosuite.make(
            task.name,
            robots="PandaOmron",
            controller_configs=load_composite_controller_config(robot="PandaOmron"),
            has_renderer=False,
            has_offscreen_renderer=True,
            use_camera_obs=False,
            control_freq=20,
            ignore_done=True,
        )
        if self._env.action_dim != EMBODIMENT.action_dim:
            raise BadInput(
                task.name,
                "actions",
                self._env.action_dim,
                EMBODIMENT.action_dim,
                "install a RoboCasa whose actions are those of 1.5",
            )

    def reset(self, seed: int) -> None:
        self._env.rng = np.random.default_rng(seed)
        np.random.seed(seed % _SEEDS)
        self._env.reset()
        for _ in range(self._settle_steps):
            self._env.step(np.zeros(EMBODIMENT.action_dim))

    def observe(self) -> Observation:
        seen = self._env._get_observations(force_update=True)
        state = np.concatenate([np.ravel(seen[key]) for key in OBSERVED]).astype(np.float32)
        instruction = self._env.get_ep_meta().get("lang", self.task.instruction)
        images = {camera: self._picture(camera, self._size) for camera in self._cameras}
        return Observation(images, state, instruction, self._scene())

    def step(self, action: np.ndarray) -> bool:
        self._env.step(np.clip(np.asarray(action, np.float64), -1, 1))
        return bool(self._env._check_success())

    def expert_action(self) -> np.ndarray:
        raise BadInput(
            "params.yaml",
            "demos.recorded",
            "[]",
            "recorded demonstrations: RoboCasa has no scripted expert",
            "import them with `world2act import` and name them in demos.recorded",
        )

    def expert_phase(self) -> int:
        return -1

    def gripper_opening(self) -> float:
        left, right = self._env._get_observations(force_update=True)["robot0_gripper_qpos"]
        return float(left - right)

    def render(self, size: int) -> np.ndarray:
        return self._picture(self._cameras[0], size)

    def _picture(self, camera: str, size: int) -> np.ndarray:
        frame = self._env.sim.render(width=size, height=size, camera_name=camera)
        return np.ascontiguousarray(frame[::-1])

    def close(self) -> None:
        """Nothing: environments are freed with their process."""

    def _scene(self) -> np.ndarray:
        body = getattr(self._env, "obj_body_id", {}).get("obj")
        return (np.zeros(3) if body is None else self._env.sim.data.body_xpos[body]).astype(np.float32)
