"""The Environment contract: what demonstrations, post-training and evaluation need of one task of a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from world2act.core.errors import InfrastructureError

_MIN_CONTRAST = 1.0


@dataclass(frozen=True)
class Embodiment:
    """A robot as the policies see it. Widths in metres, rate in control steps per second."""

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
        """Draw this episode's scene from `seed`, let it settle, and stop at control step 0."""

    def observe(self) -> Observation:
        """Render and return the observation of the current control step."""

    def step(self, action: np.ndarray) -> bool:
        """Apply one action, float (action_dim,) in [-1, 1]; return whether the task is now a success."""

    def expert_action(self) -> np.ndarray:
        """The scripted expert's action for the current state, float32 (action_dim,), clipped to [-1, 1]."""

    def expert_phase(self) -> int:
        """The index, from 0, of the skill that the last `expert_action` belongs to; -1 where nobody knows.

        Segmentations are measured against it. Only a scripted expert knows it, and only metrics may use it.
        """

    def gripper_opening(self) -> float:
        """The distance between the fingers, in metres."""

    def render(self, size: int) -> np.ndarray:
        """The main camera at `size` pixels per side, uint8 (size, size, 3), for people to look at."""

    def close(self) -> None:
        """Free the simulator. Call it only at the end of the process: see `world2act.sims.metaworld.environment`."""


def check_contrast(task: str, frame: np.ndarray) -> None:
    """Raise `InfrastructureError` for a blank picture: some renderers return one without an error."""
    if frame.std() < _MIN_CONTRAST:
        raise InfrastructureError(
            f"{task}: the renderer returned a blank frame\n  found:    contrast {frame.std():.3f}"
            f"\n  expected: at least {_MIN_CONTRAST}\n  remedy:   run the stage again in a fresh process"
        )
