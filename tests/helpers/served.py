"""What tests serve from another process: Meta-World, and environments that fail in the ways simulators do."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims.base import Embodiment, Environment, Observation, Task
from world2act.sims.rig import Rig
from world2act.sims.simulator import load_simulator


def make_environment(task: str, rig: Rig) -> Environment:
    if task == "broken":
        return Broken()
    if task == "no-renderer":
        raise InfrastructureError("MuJoCo's off-screen renderer: libosmesa6 is missing")
    if task == "no-camera":
        raise BadInput("params.yaml", "demos.cameras", "wrist", "corner2", "name cameras of the model")
    return load_simulator(rig.simulator).make_environment(task, rig)


class Broken:
    """Each command fails in a way of its own."""

    task = Task("broken", "fail", prehensile=False)
    embodiment = Embodiment("none", ("x",), ("x",), 1)

    def reset(self, seed: int) -> None:
        print("library chatter on standard output")
        os.write(1, b"\x00\xff and bytes below Python\n")
        if seed:
            raise BadInput("params.yaml", "demos.tasks", seed, "0", "choose 0")

    def observe(self) -> Observation:
        print("about to fail", file=sys.stderr)
        raise ValueError("a number out of place")

    def step(self, action: np.ndarray) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    def expert_action(self) -> np.ndarray:
        raise InfrastructureError("no renderer here")

    def expert_phase(self) -> int:
        return 0

    def gripper_opening(self) -> float:
        time.sleep(60)
        return 0.0

    def render(self, size: int) -> np.ndarray:
        return np.zeros((size, size, 3), np.uint8)

    def close(self) -> None:
        """Nothing."""
