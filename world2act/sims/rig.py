"""The rig: what is mounted in a simulator and how an episode begins there.

It is made once, from the parameters, and passed to everything that makes environments. It holds plain values only,
because it also crosses into the interpreters of simulators, which have none of this project's packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class CameraParams(Protocol):
    """A camera, as parameters describe it; see `CameraMount`."""

    @property
    def name(self) -> str: ...
    @property
    def position_m(self) -> tuple[float, float, float] | None: ...
    @property
    def fovy_deg(self) -> float | None: ...
    @property
    def protocol(self) -> str | None: ...


class RigParams(Protocol):
    """What a rig is made from: the section `demos` of the parameters, or what a release recorded of it."""

    @property
    def simulator(self) -> str: ...
    @property
    def cameras(self) -> Sequence[CameraParams]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def settle_steps(self) -> int: ...


@dataclass(frozen=True)
class CameraMount:
    """A camera of the simulator's model and its pose.

    Attributes:
        name: of a camera in the model.
        position_m, fovy_deg: where the camera is moved to, and its vertical field of view; None leaves the model's.
        protocol: the published evaluation protocol that its pictures follow, or None.
    """

    name: str
    position_m: tuple[float, float, float] | None = None
    fovy_deg: float | None = None
    protocol: str | None = None


@dataclass(frozen=True)
class Rig:
    """What is mounted and how it is reset.

    Attributes:
        simulator: the name that `world2act.sims.simulator.load_simulator` knows.
        cameras: the first is the main one: what people, the gates and the residual look at.
        image_size: pixels per side of the observations.
        settle_steps: control steps at rest, gripper open, between a reset and control step 0.
    """

    simulator: str
    cameras: tuple[CameraMount, ...]
    image_size: int
    settle_steps: int

    @classmethod
    def from_params(cls, demos: RigParams) -> Rig:
        """The rig that parameters describe."""
        cameras = tuple(
            CameraMount(camera.name, camera.position_m, camera.fovy_deg, camera.protocol) for camera in demos.cameras
        )
        return cls(demos.simulator, cameras, demos.image_size, demos.settle_steps)

    @property
    def protocol(self) -> str | None:
        """The evaluation protocol of the cameras, of which they all have the same."""
        return self.cameras[0].protocol
