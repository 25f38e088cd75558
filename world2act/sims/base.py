"""The Environment contract: what demonstrations, post-training and evaluation need of a simulator.

A simulator is one module `world2act.sims.<name>` that defines `make_environment`, `TASKS`, `EMBODIMENT`, `SCENE_NAMES`,
`INSTRUCTION_PER_EPISODE` (else it is the task's in all of them), `IMAGE_CONVENTION`, `RENDERER` and `describe`; nothing
else in the project names it. One that needs another Python environment runs there, behind `world2act.sims.process`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from world2act.core.errors import BadInput, InfrastructureError

_MIN_CONTRAST = 1.0


@dataclass(frozen=True)
class Embodiment:
    """A robot as the policies see it. Widths in metres, rate in control steps a second."""

    name: str
    action_names: tuple[str, ...]
    proprio_names: tuple[str, ...]
    control_hz: int

    @property
    def action_dim(self) -> int:
        return len(self.action_names)

    @property
    def proprio_dim(self) -> int:
        return len(self.proprio_names)


@dataclass(frozen=True)
class Task:
    """A task of a simulator: its instruction, and whether its expert grasps with the gripper."""

    name: str
    instruction: str
    prehensile: bool


@dataclass
class Observation:
    """What a policy may see before an action chunk.

    Attributes:
        images: camera name → uint8 (H, W, 3).
        proprio: float32 (proprio_dim,), units as in `Embodiment.proprio_names`.
        instruction: the task in words.
        scene: float32 (S,), object positions in metres; privileged, for gates and metrics only.
    """

    images: dict[str, np.ndarray]
    proprio: np.ndarray
    instruction: str
    scene: np.ndarray


@runtime_checkable
class Environment(Protocol):
    """One task of one simulator. Time advances by control steps; nothing is rendered unless asked for."""

    task: Task
    embodiment: Embodiment

    def reset(self, seed: int) -> None:
        """Draw this episode's scene from `seed`, settle it, and stand at control step 0."""

    def observe(self) -> Observation:
        """Render and return the observation of the current control step."""

    def step(self, action: np.ndarray) -> bool:
        """Apply one action, float (action_dim,) in [-1, 1]; return whether the task is now a success."""

    def expert_action(self) -> np.ndarray:
        """The scripted expert's action for the current state, float32 (action_dim,), clipped to [-1, 1]."""

    def expert_phase(self) -> int:
        """The index, from 0, of the skill that the last `expert_action` belongs to: what cuts into skills are measured
        against. A scripted expert knows it; nothing but a metric may."""

    def gripper_opening(self) -> float:
        """The distance between the fingers, in metres."""

    def render(self, size: int) -> np.ndarray:
        """The main camera at `size` pixels a side, uint8 (size, size, 3), for people to look at."""

    def close(self) -> None:
        """Free the simulator. Only at the end of its process: see `world2act.sims.metaworld`."""


def check_contrast(task: str, frame: np.ndarray) -> None:
    """Raise `InfrastructureError` for a blank picture: some renderers give one, without an error."""
    if frame.std() < _MIN_CONTRAST:
        raise InfrastructureError(
            f"{task}: the renderer gave a blank frame\n  found:    contrast {frame.std():.3f}"
            f"\n  expected: at least {_MIN_CONTRAST}\n  remedy:   run the stage again in a fresh process"
        )


def load_simulator(name: str) -> ModuleType:
    """Import `world2act.sims.<name>`.

    Raises:
        BadInput: there is no such module, or the simulator behind it is not installed.
    """
    try:
        return importlib.import_module(f"world2act.sims.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"world2act.sims.{name}":
            raise BadInput(
                "params.yaml", "demos.simulator", name, "a module of world2act/sims", "name one that exists"
            ) from error
        raise BadInput(
            f"world2act.sims.{name}",
            "",
            f"the Python package {error.name!r} is missing",
            "its simulator installed",
            "run `make setup`, or install the package into .venv",
        ) from error
