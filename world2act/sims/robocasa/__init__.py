"""RoboCasa (robosuite 1.5 or later), where a user has it. This module is what the rest of the project sees.

RoboCasa installs from source and its assets are a download of gigabytes, so this project does not install it:
`.venv-robocasa`, or WORLD2ACT_ROBOCASA_PYTHON, is the environment in which a user did. Environments run there.

This project's tests do not run it: it is written against RoboCasa's public source. There is no scripted expert;
demonstrations come from files (`demos.recorded`). Each episode has an instruction of its own; the tasks' instructions
here are what their episodes have in common.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from world2act.core.errors import BadInput
from world2act.sims.base import Embodiment, Environment, Task
from world2act.sims.checks import check_tasks
from world2act.sims.evaluation_protocols import EvaluationProtocol
from world2act.sims.process import shared_process
from world2act.sims.rig import Rig
from world2act.sims.simulator import Simulator, Versions, WorkerProgram

OBSERVED = {
    "robot0_base_pos": ("base_x_m", "base_y_m", "base_z_m"),
    "robot0_base_quat": ("base_qx", "base_qy", "base_qz", "base_qw"),
    "robot0_base_to_eef_pos": ("ee_x_m", "ee_y_m", "ee_z_m"),
    "robot0_base_to_eef_quat": ("ee_qx", "ee_qy", "ee_qz", "ee_qw"),
    "robot0_gripper_qpos": ("gripper_left_m", "gripper_right_m"),
}
"""The observations of robosuite that make up proprioception, and its elements, in order; files use these names too."""
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
TASKS = {name: Task(name, instruction, instruction.startswith("pick")) for name, instruction in _ATOMIC.items()}

_PROJECT = Path(__file__).resolve().parents[3]
_VERSIONS = (
    "import json; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) for name in ('robocasa', 'robosuite', 'mujoco')}))"
)


class RoboCasaSimulator:
    """See `world2act.sims.simulator.Simulator`. Cameras are the model's, at the model's poses."""

    embodiment = EMBODIMENT
    tasks = TASKS
    scene_names = ("object_x_m", "object_y_m", "object_z_m")
    instruction_per_episode = True  # it names the episode's objects
    image_convention = "upright: robosuite's (OpenGL) picture, rows reversed"
    evaluation_protocols: Mapping[str, EvaluationProtocol] = {}

    @property
    def renderer(self) -> str:
        return f"{os.environ.get('MUJOCO_GL', 'osmesa')}, the simulator's own quality"

    def describe(self) -> Versions:
        done = subprocess.run([_python(), "-c", _VERSIONS], capture_output=True, text=True)
        if done.returncode:
            raise BadInput(_python(), "", done.stderr[-500:], "robocasa and robosuite installed", "install them there")
        return {"packages": json.loads(done.stdout)}

    def worker(self) -> WorkerProgram:
        return WorkerProgram(_python(), "world2act.sims.robocasa.environment")

    def make_environment(self, task: str, rig: Rig) -> Environment:
        check_tasks(rig, [task])
        check_cameras(rig)
        return shared_process(self.worker()).make_environment(task, rig)


SIMULATOR: Simulator = RoboCasaSimulator()


def check_cameras(rig: Rig) -> None:
    """Raises `BadInput` for a camera that would have to be moved."""
    for mount in rig.cameras:
        if mount.position_m or mount.fovy_deg:
            expected, remedy = "position_m and fovy_deg null", "use the camera at the model's pose"
            raise BadInput("params.yaml", "demos.cameras", mount, expected, remedy)


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
