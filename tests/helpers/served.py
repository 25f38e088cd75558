"""What tests serve from another process: Meta-World, and environments that fail in the ways simulators do."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np

from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims.base import Embodiment, Environment, Task


def make_environment(task: str, **options: Any) -> Environment:
    if task == "broken":
        return Broken()
    from world2act.core.params import Camera
    from world2act.sims import metaworld

    return metaworld.make_environment(task, cameras=[Camera(**each) for each in options.pop("cameras")], **options)


class Broken:
    """Each command fails in a way of its own."""

    task = Task("broken", "fail", prehensile=False)
    embodiment = Embodiment("none", ("x",), ("x",), 1)

    def reset(self, seed: int) -> None:
        print("library chatter on standard output")
        os.write(1, b"\x00\xff and bytes below Python\n")
        if seed:
            raise BadInput("params.yaml", "demos.tasks", seed, "0", "choose 0")

    def observe(self) -> None:
        print("about to fail", file=sys.stderr)
        raise ValueError("a number out of place")

    def step(self, action: np.ndarray) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    def expert_action(self) -> np.ndarray:
        raise InfrastructureError("no renderer here")

    def gripper_opening(self) -> float:
        time.sleep(60)
        return 0.0
