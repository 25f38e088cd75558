"""A simulator in pure numpy, as another package would bring it: one object, found by entry point, nothing to install.

A point on a line is moved by its first action; the task is to reach 1. Pictures are noise from seed and step.
"""

from __future__ import annotations

import numpy as np

from world2act.sims.base import Embodiment, Environment, Observation, Task
from world2act.sims.rig import Rig
from world2act.sims.simulator import Simulator, Versions, WorkerProgram

TARGET = f"{__name__}:SIMULATOR"
_STEP = 0.1


class ToyEnvironment:
    """See `world2act.sims.base.Environment`."""

    embodiment = Embodiment("toy", ("move", "gripper"), ("position_m", "gripper_opening_m"), 10)

    def __init__(self, task: Task, rig: Rig) -> None:
        self.task, self._rig = task, rig
        self._seed, self._time, self._position = 0, 0, 0.0

    def reset(self, seed: int) -> None:
        self._seed, self._time = seed, 0
        self._position = float(np.random.default_rng(seed).uniform(0, 0.5))

    def observe(self) -> Observation:
        size = self._rig.image_size
        images = {mount.name: self._picture(size) for mount in self._rig.cameras}
        state = np.array([self._position, self.gripper_opening()], np.float32)
        return Observation(images, state, self.task.instruction, state[:1])

    def step(self, action: np.ndarray) -> bool:
        self._time += 1
        self._position += _STEP * float(np.clip(action[0], -1, 1))
        return self._position >= 1

    def expert_action(self) -> np.ndarray:
        return np.array([1, -1], np.float32)

    def expert_phase(self) -> int:
        return int(self._position >= 0.75)

    def gripper_opening(self) -> float:
        return 0.05

    def render(self, size: int) -> np.ndarray:
        return self._picture(size)

    def close(self) -> None:
        """Nothing."""

    def _picture(self, size: int) -> np.ndarray:
        return np.random.default_rng([self._seed, self._time]).integers(0, 256, (size, size, 3), dtype=np.uint8)


class ToySimulator:
    """See `world2act.sims.simulator.Simulator`."""

    embodiment = ToyEnvironment.embodiment
    tasks = {"reach": Task("reach", "move to the end of the line", prehensile=False)}  # noqa: RUF012
    scene_names = ("position_m",)
    instruction_per_episode = False
    image_convention = "upright"
    renderer = "numpy"
    evaluation_protocols = {}  # noqa: RUF012

    def describe(self) -> Versions:
        return {"packages": {"numpy": np.__version__}}

    def worker(self) -> WorkerProgram:
        return WorkerProgram.here(TARGET)

    def make_environment(self, task: str, rig: Rig) -> Environment:
        return ToyEnvironment(self.tasks[task], rig)


SIMULATOR: Simulator = ToySimulator()
