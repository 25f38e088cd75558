"""The protocol a policy was trained under: which robot, what it sees, what its numbers mean.

It stands in a policy's config.json under `protocol`, and is checked where the policy is put to use: one of another
robot, or of other cameras, is refused before it moves anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.core.storage import read_json, write_json
from world2act.sims.base import Observation, load_simulator

_REMEDY = "use a policy that was trained for this robot, or train one on its episodes"


@dataclass(frozen=True)
class RobotProtocol:
    """A robot as a policy knows it.

    Attributes:
        embodiment: the robot's name.
        cameras: what it sees, in this order, each `image_size` pixels a side.
        image_convention: how the pictures stand.
        proprio, actions: the names of the numbers, with their units.
        control_hz: actions a second.
    """

    embodiment: str
    cameras: tuple[str, ...]
    image_size: int
    image_convention: str
    proprio: tuple[str, ...]
    actions: tuple[str, ...]
    control_hz: int

    @classmethod
    def of_simulator(cls, demos: Demos) -> Self:
        """What the simulator of these parameters shows and takes."""
        simulator = load_simulator(demos.simulator)
        robot = simulator.EMBODIMENT
        return cls(
            robot.name,
            tuple(camera.name for camera in demos.cameras),
            demos.image_size,
            simulator.IMAGE_CONVENTION,
            tuple(robot.proprio_names),
            tuple(robot.action_names),
            robot.control_hz,
        )

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The protocol of a saved policy. Raises `BadInput` when its config.json has none, or not a whole one."""
        path = directory / "config.json"
        found = read_json(path).get("protocol")
        expected = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or set(found) != expected:
            raise BadInput(path, "protocol", found, sorted(expected), "use a policy that the base_policy stage wrote")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in found.items()})

    def write(self, directory: Path) -> None:
        """Add it to the config.json of a saved policy."""
        values: dict[str, Any] = read_json(directory / "config.json")
        write_json(directory / "config.json", values | {"protocol": asdict(self)})

    def check(self, directory: Path) -> None:
        """Whether the policy saved in `directory` was trained under this one.

        Raises:
            BadInput: it was not; the message names each difference.
        """
        trained = self.read(directory)
        wrong = [field.name for field in fields(self) if getattr(trained, field.name) != getattr(self, field.name)]
        if wrong:
            found, expected = ({name: getattr(protocol, name) for name in wrong} for protocol in (trained, self))
            where = directory / "config.json"
            raise BadInput(where, ", ".join(f"protocol.{name}" for name in wrong), found, expected, _REMEDY)


def family_config(path: Path) -> dict[str, Any]:
    """A policy's config.json without what is not its family's own: `family` and `protocol`."""
    return {key: value for key, value in read_json(path).items() if key not in ("family", "protocol")}


def stack_images(observations: Sequence[Observation], cameras: Sequence[str], size: int) -> np.ndarray:
    """The pictures of B observations, uint8 (B, V, size, size, 3).

    Raises:
        BadInput: a camera is missing, or a picture of another size or dtype.
    """
    for observation in observations:
        for camera in cameras:
            image = observation.images.get(camera)
            if image is None:
                raise _unfit(f"images.{camera}", f"cameras {sorted(observation.images)}", f"cameras {list(cameras)}")
            if image.shape != (size, size, 3) or image.dtype != np.uint8:
                raise _unfit(f"images.{camera}", f"{image.dtype} {image.shape}", f"uint8 {(size, size, 3)}")
    return np.stack([np.stack([observation.images[camera] for camera in cameras]) for observation in observations])


def stack_proprio(observations: Sequence[Observation], width: int) -> np.ndarray:
    """The proprioception of B observations, float32 (B, width).

    Raises:
        BadInput: one is of another width, or not finite.
    """
    for observation in observations:
        if observation.proprio.shape != (width,) or not np.isfinite(observation.proprio).all():
            raise _unfit("proprio", observation.proprio.tolist(), f"{width} finite numbers")
    return np.stack([observation.proprio for observation in observations]).astype(np.float32)


def _unfit(key: str, found: object, expected: object) -> BadInput:
    return BadInput("an observation", key, found, expected, "send what the policy's config.json names under `protocol`")
