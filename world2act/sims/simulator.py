"""The Simulator contract: what the project needs to know of a simulator, and how it finds one by name.

A simulator is one object: `SIMULATOR` in the module `world2act.sims.<name>`, or in the module to which an installed
package's entry point of that name refers, in the group `world2act.sims`. Nothing else in the project names it. Its
environments run in worker processes (`world2act.sims.serve`), under the interpreter that the simulator asks for.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

from world2act.core.errors import BadInput
from world2act.core.members import find_member
from world2act.sims.base import Embodiment, Environment, Task
from world2act.sims.evaluation_protocols import EvaluationProtocol
from world2act.sims.rig import Rig

GROUP = "world2act.sims"


@dataclass(frozen=True)
class WorkerProgram:
    """Where a simulator's environments run.

    Attributes:
        python: the interpreter.
        target: what the worker serves there, as `module` or `module:attribute`; it defines
            `make_environment(task, rig)`.
        variables: environment variables in addition to this process's own.
    """

    python: Path
    target: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, target: str, **variables: str) -> WorkerProgram:
        """A worker in this Python environment, which finds the same modules as this process."""
        path = os.pathsep.join(folder for folder in sys.path if folder)
        return cls(Path(sys.executable), target, {"PYTHONPATH": path} | variables)


class Versions(TypedDict):
    """What the outcome of an episode depends on besides the parameters: packages, and assets where they vary."""

    packages: dict[str, str]
    assets: NotRequired[Mapping[str, object]]


@runtime_checkable
class Simulator(Protocol):
    """A simulator, as the rest of the project sees it. It is cheap to load; only workers import the simulator."""

    @property
    def embodiment(self) -> Embodiment:
        """The robot in it."""

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Its tasks by name."""

    @property
    def scene_names(self) -> tuple[str, ...]:
        """The names, with units, of the numbers in `Observation.scene`."""

    @property
    def instruction_per_episode(self) -> bool:
        """Whether each episode has an instruction of its own; otherwise it is always the task's."""

    @property
    def image_convention(self) -> str:
        """Which way up its pictures are, in words; two recordings agree if these words do."""

    @property
    def renderer(self) -> str:
        """What draws the pictures, and with which settings, in words."""

    @property
    def evaluation_protocols(self) -> Mapping[str, EvaluationProtocol]:
        """The published evaluation protocols that it can follow, by name."""

    def describe(self) -> Versions:
        """The versions of its packages and assets.

        Raises:
            BadInput: it is not installed.
        """

    def worker(self) -> WorkerProgram:
        """The program of its worker processes.

        Raises:
            BadInput: it is not installed.
        """

    def make_environment(self, task: str, rig: Rig) -> Environment:
        """Make the environment of one task, for a caller that needs no pool.

        Raises:
            BadInput: the task or a camera is unknown, or the simulator is not installed.
            InfrastructureError: there is no renderer, or its process failed.
        """


def load_simulator(name: str) -> Simulator:
    """Find a simulator by its name.

    Raises:
        BadInput: there is none of that name, it does not fulfil the contract, or a package that it needs is missing.
    """
    member = find_member(name, GROUP)
    try:
        simulator = getattr(importlib.import_module(member), "SIMULATOR", None) if member else None
    except ModuleNotFoundError as error:
        remedy = "run `make setup`, or install the package into .venv"
        found = f"the Python package {error.name!r} is missing"
        raise BadInput(f"simulator {name}", "", found, "its packages installed", remedy) from error
    if simulator is None:
        expected = f"a module with a SIMULATOR in world2act/sims, or at an entry point of the group {GROUP}"
        raise BadInput("params.yaml", "demos.simulator", name, expected, "correct the name, or install its package")
    if not isinstance(simulator, Simulator):
        missing = sorted(attribute for attribute in _ATTRIBUTES if not hasattr(simulator, attribute))
        raise BadInput(f"simulator {name}", "", f"no {', '.join(missing)}", "a Simulator", "complete its contract")
    return simulator


_ATTRIBUTES = tuple(name for name in vars(Simulator) if not name.startswith("_"))
