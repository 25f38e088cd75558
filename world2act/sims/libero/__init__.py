"""LIBERO (hf-libero 0.1.4, robosuite 1.4.0): five suites, 130 tasks. This module is what the rest of the project sees.

It needs nothing of LIBERO: environments run in `.venv-libero`, which `make libero` makes, and
world2act/sims/libero/environment.py is what runs there.

Scenes: seeds of the set "test" are the task's official initial states, by index; every other seed samples the
task's own placement regions. So no test scene is ever trained on, and what is tested is what others test.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path

from world2act.core.errors import BadInput
from world2act.sims.base import Embodiment, Environment, Task
from world2act.sims.checks import check_tasks
from world2act.sims.libero.assets import describe_assets
from world2act.sims.libero.protocols import PROTOCOLS
from world2act.sims.libero.tasks import SUITES, instruction
from world2act.sims.process import shared_process
from world2act.sims.rig import Rig
from world2act.sims.simulator import Simulator, Versions, WorkerProgram

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
IMAGE_CONVENTION = "rotated by 180 degrees from robosuite's (OpenGL) picture"
_PACKAGES = ("hf-libero", "robosuite", "mujoco", "bddl")
_GRASPS = ("pick", "put", "place", "stack")
TASKS = {
    task.name: task
    for suite, stems in SUITES.items()
    for stem in stems
    for task in [Task(f"{suite}/{stem}", instruction(stem), instruction(stem).startswith(_GRASPS))]
}

_PROJECT = Path(__file__).resolve().parents[3]


class LiberoSimulator:
    """See `world2act.sims.simulator.Simulator`.

    Cameras: `agentview` and `eye_in_hand`, the main one first; where position_m or fovy_deg is null, as LIBERO has it.
    """

    embodiment = EMBODIMENT
    tasks = TASKS
    scene_names = tuple(f"{body}_{axis}_m" for body in ("object", "second_object", "target") for axis in "xyz")
    instruction_per_episode = False
    image_convention = IMAGE_CONVENTION
    evaluation_protocols = PROTOCOLS

    @property
    def renderer(self) -> str:
        return (
            f"{os.environ.get('MUJOCO_GL', 'osmesa')}, no multisampling, no shadows, no reflections; under a camera's "
            "protocol the simulator's own quality"
        )

    def describe(self) -> Versions:
        site = _site_packages()
        versions = {name: next(iter(Distribution.discover(name=name, path=[str(site)]))).version for name in _PACKAGES}
        return {"packages": versions, "assets": describe_assets(site / "libero/libero/assets")}

    def worker(self) -> WorkerProgram:
        return WorkerProgram(_python(), "world2act.sims.libero.environment", _variables())

    def make_environment(self, task: str, rig: Rig) -> Environment:
        check_tasks(rig, [task])
        return shared_process(self.worker()).make_environment(task, rig)


SIMULATOR: Simulator = LiberoSimulator()


def _python() -> Path:
    default = _PROJECT / ".venv-libero/bin/python"
    python = Path(os.environ.get("WORLD2ACT_LIBERO_PYTHON", default))
    if not python.exists():
        raise BadInput(
            python,
            "",
            "nothing",
            "the Python environment of LIBERO",
            "run `make libero`, or name the interpreter of another environment in WORLD2ACT_LIBERO_PYTHON",
        )
    return python


@cache
def _site_packages() -> Path:
    found = sorted(_python().parents[1].glob("lib/python3.*/site-packages"))
    if not found:
        expected = "an environment made by `make libero`"
        raise BadInput(_python(), "", "no site-packages next to it", expected, "run `make libero` again")
    return found[0]


def _variables() -> dict[str, str]:
    """Those of its worker: without its configuration file, LIBERO asks on the terminal when it is imported."""
    return {
        "LIBERO_CONFIG_PATH": str(_python().parents[1] / "libero"),
        "MUJOCO_GL": os.environ.get("MUJOCO_GL", "osmesa"),
        "OMP_NUM_THREADS": "1",
        "LP_NUM_THREADS": "1",  # software rendering of small frames is slower on more threads
    }
