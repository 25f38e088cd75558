"""RoboCasa (robosuite 1.5 or later) behind the Environment contract, where a user has it.

RoboCasa installs from source and its assets are a download of gigabytes, so this project does not install it:
`.venv-robocasa`, or WORLD2ACT_ROBOCASA_PYTHON, is the environment in which a user did. Environments run there, behind
`world2act.sims.process`.

Not run by this project's tests: written against RoboCasa's public source. There is no scripted expert; demonstrations
come from files (`demos.recorded`). The instruction is the episode's own, the tasks' here are what they have in common.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from world2act.core.errors import BadInput
from world2act.sims.base import Embodiment, Environment, Task
from world2act.sims.process import shared_process

if TYPE_CHECKING:
    from world2act.core.params import (
        Camera,  # the simulator's own environment, which reads this module too, lacks pydantic
    )

OBSERVED = {
    "robot0_base_pos": ("base_x_m", "base_y_m", "base_z_m"),
    "robot0_base_quat": ("base_qx", "base_qy", "base_qz", "base_qw"),
    "robot0_base_to_eef_pos": ("ee_x_m", "ee_y_m", "ee_z_m"),
    "robot0_base_to_eef_quat": ("ee_qx", "ee_qy", "ee_qz", "ee_qw"),
    "robot0_gripper_qpos": ("gripper_left_m", "gripper_right_m"),
}
"""robosuite's observations that make up proprioception, and its elements, in order; files name them so too."""
EMBODIMENT = Embodiment(
    name="panda_mobile",
    action_names=(
        "delta_x",
        "delta_y",
        "delta_z",
        "delta_rx",
        "delta_ry",
        "delta_rz",
        "gripper",
        "base_x",
        "base_y",
        "base_yaw",
        "base_torso",
        "control_mode",
    ),
    proprio_names=tuple(name for names in OBSERVED.values() for name in names),
    control_hz=20,
)
INSTRUCTION_PER_EPISODE = True  # it names the episode's objects
IMAGE_CONVENTION = "upright: robosuite's (OpenGL) picture, rows reversed"
RENDERER = f"{os.environ.get('MUJOCO_GL', 'osmesa')}, the simulator's own quality"
SCENE_NAMES = ("object_x_m", "object_y_m", "object_z_m")

_ATOMIC = {
    "PnPCounterToCab": "pick the object from the counter and place it in the cabinet",
    "PnPCabToCounter": "pick the object from the cabinet and place it on the counter",
    "PnPCounterToSink": "pick the object from the counter and place it in the sink",
    "PnPSinkToCounter": "pick the object from the sink and place it on the counter",
    "PnPCounterToMicrowave": "pick the object from the counter and place it in the microwave",
    "PnPMicrowaveToCounter": "pick the object from the microwave and place it on the counter",
    "PnPCounterToStove": "pick the object from the counter and place it in the pan",
    "PnPStoveToCounter": "pick the object from the pan and place it on the counter",
    "OpenSingleDoor": "open the door",
    "CloseSingleDoor": "close the door",
    "OpenDoubleDoor": "open the doors",
    "CloseDoubleDoor": "close the doors",
    "OpenDrawer": "open the drawer",
    "CloseDrawer": "close the drawer",
    "TurnOnStove": "turn on the burner",
    "TurnOffStove": "turn off the burner",
    "TurnOnSinkFaucet": "turn on the sink faucet",
    "TurnOffSinkFaucet": "turn off the sink faucet",
    "TurnSinkSpout": "turn the sink spout",
    "CoffeePressButton": "press the button on the coffee machine",
    "TurnOnMicrowave": "press the start button on the microwave",
    "TurnOffMicrowave": "press the stop button on the microwave",
    "CoffeeServeMug": "pick the mug from under the coffee machine and place it on the counter",
    "CoffeeSetupMug": "pick the mug from the counter and place it under the coffee machine",
}
TASKS = {name: Task(name, words, words.startswith("pick")) for name, words in _ATOMIC.items()}

_MODULE = "world2act.sims.robocasa.environment"
_PROJECT = Path(__file__).resolve().parents[3]
_VERSIONS = (
    "import json; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) for name in ('robocasa', 'robosuite', 'mujoco')}))"
)


def make_environment(task: str, *, cameras: Sequence[Camera], image_size: int, settle_steps: int) -> Environment:
    """Make the environment of one task, in this process's RoboCasa process.

    Args:
        task: a key of `TASKS`.
        cameras: cameras of the model, as they stand: position_m, fovy_deg and protocol are null.
        image_size: pixels a side of the observations.
        settle_steps: control steps at rest between reset and control step 0.

    Raises:
        BadInput: unknown task, a camera that is moved, or RoboCasa is not installed.
        InfrastructureError: the process failed.
    """
    if task not in TASKS:
        raise BadInput("params.yaml", "demos.tasks", task, f"some of {sorted(TASKS)}", "correct the task's name")
    for camera in cameras:
        if camera.position_m or camera.fovy_deg or camera.protocol:
            expected, remedy = "position_m, fovy_deg and protocol null", "name a camera as it is"
            raise BadInput("params.yaml", "demos.cameras", camera, expected, remedy)
    return shared_process(_python(), _MODULE, {}).make_environment(
        task, cameras=[camera.name for camera in cameras], image_size=image_size, settle_steps=settle_steps
    )


def describe() -> dict[str, Any]:
    """What the outcome of an episode depends on beside the parameters: versions of packages."""
    import json

    done = subprocess.run([_python(), "-c", _VERSIONS], capture_output=True, text=True)
    if done.returncode:
        raise BadInput(_python(), "", done.stderr[-500:], "robocasa and robosuite installed", "install them there")
    return {"packages": json.loads(done.stdout)}


def _python() -> Path:
    python = Path(os.environ.get("WORLD2ACT_ROBOCASA_PYTHON", _PROJECT / ".venv-robocasa/bin/python"))
    if not python.exists():
        raise BadInput(
            python,
            "",
            "nothing",
            "a Python environment (3.11 or later) with RoboCasa and its assets",
            "install RoboCasa as its README says, and name its interpreter in WORLD2ACT_ROBOCASA_PYTHON",
        )
    return python
