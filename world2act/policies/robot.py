"""The robot that a policy was trained for: what it sees, what its numbers mean.

A policy's config.json holds the description under the key `protocol`. It is checked wherever the policy is put to use:
a policy for another robot, or for other cameras, is refused before it moves anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.core.storage import read_json, write_json
from world2act.sims.simulator import load_simulator

KEY = "protocol"
"""The key in config.json, and in the metadata of `world2act serve`; saved policies and clients rely on the name."""
_REMEDY = "use a policy that was trained for this robot, or train one on its episodes"


@dataclass(frozen=True)
class RobotDescription:
    """A robot as a policy knows it.

    Attributes:
        embodiment: the robot's name.
        cameras: the names of its cameras, in this order; images are square with sides of `image_size` pixels.
        image_convention: the orientation of the images.
        proprio, actions: the names of the numbers, with their units.
        control_hz: actions per second.
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
        """The robot of the simulator that these parameters name."""
        simulator = load_simulator(demos.simulator)
        robot = simulator.embodiment
        return cls(
            robot.name,
            tuple(camera.name for camera in demos.cameras),
            demos.image_size,
            simulator.image_convention,
            tuple(robot.proprio_names),
            tuple(robot.action_names),
            robot.control_hz,
        )

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The robot of a saved policy. Raises `BadInput` where config.json has no full description."""
        path = directory / "config.json"
        found = read_json(path).get(KEY)
        expected = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or set(found) != expected:
            raise BadInput(path, KEY, found, sorted(expected), "use a policy that the base_policy stage wrote")
        return cls(
            embodiment=found["embodiment"],
            cameras=tuple(found["cameras"]),
            image_size=found["image_size"],
            image_convention=found["image_convention"],
            proprio=tuple(found["proprio"]),
            actions=tuple(found["actions"]),
            control_hz=found["control_hz"],
        )

    def write(self, directory: Path) -> None:
        """Add the description to the config.json of a saved policy."""
        values: dict[str, Any] = read_json(directory / "config.json")
        write_json(directory / "config.json", values | {KEY: asdict(self)})

    def check(self, directory: Path) -> None:
        """Check that the policy saved in `directory` was trained for this robot.

        Raises:
            BadInput: it was not; the message names each difference.
        """
        trained = self.read(directory)
        wrong = [field.name for field in fields(self) if getattr(trained, field.name) != getattr(self, field.name)]
        if wrong:
            found, expected = ({name: getattr(robot, name) for name in wrong} for robot in (trained, self))
            where = directory / "config.json"
            raise BadInput(where, ", ".join(f"{KEY}.{name}" for name in wrong), found, expected, _REMEDY)


def family_config(path: Path) -> dict[str, Any]:
    """The part of a policy's config.json that its family defines: all keys but `family` and `protocol`."""
    return {key: value for key, value in read_json(path).items() if key not in ("family", KEY)}
