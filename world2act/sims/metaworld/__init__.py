"""Meta-World 3.1: Sawyer arm, scripted experts. This module is what the rest of the project sees.

It does not import the simulator: world2act/sims/metaworld/environment.py does, in the workers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version

from world2act.sims.base import Embodiment, Environment, Task
from world2act.sims.evaluation_protocols import EvaluationProtocol
from world2act.sims.rig import Rig
from world2act.sims.simulator import Simulator, Versions, WorkerProgram

EMBODIMENT = Embodiment(
    name="sawyer",
    action_names=("delta_x", "delta_y", "delta_z", "gripper_effort"),
    proprio_names=("ee_x_m", "ee_y_m", "ee_z_m", "gripper_opening_m"),
    control_hz=80,
)
IMAGE_CONVENTION = "rotated by 180 degrees: the arm stands at the far side, up is up"
_TASKS = (
    Task("assembly", "pick up the ring by its handle and place it over the peg", prehensile=True),
    Task("button-press", "push the button into the wall", prehensile=False),
    Task("button-press-topdown", "press the button down", prehensile=False),
    Task("coffee-pull", "grasp the mug and pull it away from the coffee machine", prehensile=True),
    Task("coffee-push", "grasp the mug and push it under the coffee machine", prehensile=True),
    Task("door-open", "pull the door open", prehensile=False),
    Task("drawer-close", "push the drawer shut", prehensile=False),
    Task("hammer", "pick up the hammer and drive the nail into the block", prehensile=True),
    Task("pick-place", "pick up the puck and hold it at the target", prehensile=True),
    Task("plate-slide", "slide the plate into the cabinet", prehensile=False),
    Task("push", "grasp the puck and push it to the target", prehensile=True),
    Task("sweep-into", "grasp the cube and sweep it into the hole", prehensile=True),
    Task("window-open", "slide the window open", prehensile=False),
)
TASKS = {task.name: task for task in _TASKS}


class MetaWorldSimulator:
    """See `world2act.sims.simulator.Simulator`."""

    embodiment = EMBODIMENT
    tasks = TASKS
    scene_names = tuple(f"{body}_{axis}_m" for body in ("object", "second_object", "target") for axis in "xyz")
    instruction_per_episode = False
    image_convention = IMAGE_CONVENTION
    evaluation_protocols: Mapping[str, EvaluationProtocol] = {}

    @property
    def renderer(self) -> str:
        return f"{os.environ.get('MUJOCO_GL', 'osmesa')}, no multisampling, no shadows, no reflections"

    def describe(self) -> Versions:
        return {"packages": {name: version(name) for name in ("metaworld", "mujoco")}}

    def worker(self) -> WorkerProgram:
        return WorkerProgram.here("world2act.sims.metaworld.environment")

    def make_environment(self, task: str, rig: Rig) -> Environment:
        from world2act.sims.metaworld.environment import make_environment  # it takes a second, and a renderer

        return make_environment(task, rig)


SIMULATOR: Simulator = MetaWorldSimulator()
