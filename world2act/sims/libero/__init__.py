"""LIBERO (hf-libero 0.1.4, robosuite 1.4.0) behind the Environment contract: five suites, 130 tasks.

This module is what the rest of the project sees. It needs nothing of LIBERO: environments run in `.venv-libero`, which
`make libero` makes, behind `world2act.sims.process`; world2act/sims/libero/environment.py is what runs there.

Scenes: seeds of the set "test" are the task's official initial states, by index; every other seed samples the
task's own placement regions. So no test scene is ever trained on, and what is tested is what others test.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from world2act.core.errors import BadInput
from world2act.sims.base import Embodiment, Environment, Task
from world2act.sims.libero.assets import describe_assets
from world2act.sims.libero.tasks import SUITES, instruction
from world2act.sims.process import shared_process

if TYPE_CHECKING:
    from world2act.core.params import (
        Camera,  # the simulator's own environment, which reads this module too, lacks pydantic
    )

EMBODIMENT = Embodiment(
    name="panda",
    action_names=("delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz", "gripper"),
    proprio_names=(
        "ee_x_m",
        "ee_y_m",
        "ee_z_m",
        "ee_rx_rad",
        "ee_ry_rad",
        "ee_rz_rad",
        "gripper_left_m",
        "gripper_right_m",
    ),
    control_hz=20,
)
INSTRUCTION_PER_EPISODE = False
IMAGE_CONVENTION = "rotated by 180 degrees from robosuite's (OpenGL) picture"
RENDERER = (
    f"{os.environ.get('MUJOCO_GL', 'osmesa')}, no multisampling, no shadows, no reflections; under a camera's protocol "
    "the simulator's own quality"
)
SCENE_NAMES = tuple(f"{what}_{axis}_m" for what in ("object", "second_object", "target") for axis in "xyz")

_PACKAGES = ("hf-libero", "robosuite", "mujoco", "bddl")
_GRASPS = ("pick", "put", "place", "stack")
TASKS = {
    task.name: task
    for suite, stems in SUITES.items()
    for stem in stems
    for task in [Task(f"{suite}/{stem}", instruction(stem), instruction(stem).startswith(_GRASPS))]
}

_MODULE = "world2act.sims.libero.environment"
_PROJECT = Path(__file__).resolve().parents[3]


def make_environment(task: str, *, cameras: Sequence[Camera], image_size: int, settle_steps: int) -> Environment:
    """Make the environment of one task, in this process's LIBERO process.

    Args:
        task: a key of `TASKS`.
        cameras: of `agentview` and `eye_in_hand`, the main one first; where position_m or fovy_deg is null, as LIBERO
            has it.
        image_size: pixels a side of the observations.
        settle_steps: control steps at rest, gripper open, between reset and control step 0.

    Raises:
        BadInput: unknown task or camera, LIBERO is not installed, or its assets are missing.
        InfrastructureError: no renderer, or the process failed.
    """
    if task not in TASKS:
        raise BadInput("params.yaml", "demos.tasks", task, "<suite>/<stem> as LIBERO names them", "correct the name")
    described = [camera.model_dump(mode="json") for camera in cameras]
    return shared_process(_python(), _MODULE, _variables()).make_environment(
        task, cameras=described, image_size=image_size, settle_steps=settle_steps
    )


def describe() -> dict[str, Any]:
    """What the outcome of an episode depends on beside the parameters: versions of packages, and the assets."""
    site = _site_packages()
    versions = {name: next(iter(Distribution.discover(name=name, path=[str(site)]))).version for name in _PACKAGES}
    return {"packages": versions, "assets": describe_assets(site / "libero/libero/assets")}


def _python() -> Path:
    default = _PROJECT / ".venv-libero/bin/python"
    python = Path(os.environ.get("WORLD2ACT_LIBERO_PYTHON", default))
    if not python.exists():
        raise BadInput(
            python,
            "",
            "nothing",
            "the Python environment of LIBERO",
            "run `make libero`; WORLD2ACT_LIBERO_PYTHON names the interpreter of one that lies elsewhere",
        )
    return python


@cache
def _site_packages() -> Path:
    found = sorted(_python().parents[1].glob("lib/python3.*/site-packages"))
    if not found:
        raise BadInput(_python(), "", "no site-packages beside it", "an environment of `make libero`", "make it anew")
    return found[0]


def _variables() -> dict[str, str]:
    """The simulator's own: without its configuration file LIBERO asks on the terminal when it is imported."""
    return {
        "LIBERO_CONFIG_PATH": str(_python().parents[1] / "libero"),
        "MUJOCO_GL": os.environ.get("MUJOCO_GL", "osmesa"),
        "OMP_NUM_THREADS": "1",
        "LP_NUM_THREADS": "1",  # software rendering of small frames is slower on more threads
    }
