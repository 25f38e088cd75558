"""A client's message → an `Observation` and its seed, or a `BadInput` that says which key is wrong.

The keys are those of our datasets (LeRobot's), and openpi's for LIBERO:

    observation.images.CAMERA   observation/image, ...     uint8 (SIZE, SIZE, 3), as the policy was trained on
    observation.state           observation/state          floats (proprio_dim,)
    task                        prompt                     the instruction
    seed                                                   optional: seed of the sampling noise
    embodiment                                             optional: the client's robot; refused if it is another one

Keys that the policy does not read are ignored, since robots send what any of their policies may need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from world2act.core.errors import BadInput
from world2act.data.features import IMAGES
from world2act.policies.base import Policy
from world2act.sims.base import Observation

STATE, TASK, SEED, EMBODIMENT = "observation.state", "task", "seed", "embodiment"
OPENPI_IMAGE, OPENPI_STATE, OPENPI_TASK = "observation/image", "observation/state", "prompt"
MAX_INSTRUCTION = 2000
_LARGEST = float(np.finfo(np.float32).max)
_NONE = np.zeros(0, np.float32)
_WHERE = "observation"


class Observations:
    """Reads messages for one policy.

    Args:
        cameras: a client's key of an image → the policy's camera; by default `observation/image` → the policy's camera,
            if it has only one.
        embodiment: the robot that the policy was trained for; None if it is unknown.

    Raises:
        BadInput: `cameras` names a camera that the policy does not have.
    """

    def __init__(self, policy: Policy, cameras: Mapping[str, str] | None = None, embodiment: str | None = None) -> None:
        self._policy, self._embodiment = policy, embodiment
        if not cameras:
            cameras = dict.fromkeys([OPENPI_IMAGE], *policy.cameras) if len(policy.cameras) == 1 else {}
        for key, camera in cameras.items():
            if camera not in policy.cameras:
                raise BadInput("--camera", key, camera, f"one of {list(policy.cameras)}", "name a camera of the policy")
        self.aliases = {key: IMAGES + camera for key, camera in cameras.items()}
        self.aliases |= {OPENPI_STATE: STATE, OPENPI_TASK: TASK}
        keys = [STATE, TASK, *(IMAGES + camera for camera in policy.cameras)]
        self._names = {key: [key, *(alias for alias, name in self.aliases.items() if name == key)] for key in keys}

    def read(self, message: Any) -> tuple[Observation, int | None]:
        """Check a whole message. Returns: the observation, and the seed if there is one. Raises `BadInput`."""
        if not isinstance(message, dict):
            raise BadInput(_WHERE, "", _kind(message), "a map of keys", "send a map")
        policy = self._policy
        robot = message.get(EMBODIMENT, self._embodiment)
        if robot != self._embodiment:
            found = robot[:60] if isinstance(robot, str) else _kind(robot)
            expected = self._embodiment or "no embodiment: the policy does not record its robot"
            raise BadInput(_WHERE, EMBODIMENT, found, expected, "connect to a policy that was trained for this robot")
        images = {
            camera: _image(*self._find(message, IMAGES + camera), size) for camera, size in policy.cameras.items()
        }
        proprio = _NONE
        if policy.proprio_dim:
            proprio = _state(*self._find(message, STATE), policy.proprio_dim)
        instruction = _instruction(*self._find(message, TASK))
        return Observation(images, proprio, instruction, _NONE), _seed(message.get(SEED))

    def _find(self, message: Mapping[Any, Any], key: str) -> tuple[str, Any]:
        """The name under which the client sent a key, and the value."""
        names = self._names[key]
        sent = [name for name in names if name in message]
        if len(sent) != 1:
            found = f"both {' and '.join(sent)}" if sent else f"only {_names(message)}"
            raise BadInput(_WHERE, key, found, " or ".join(names), "send exactly one of them")
        return sent[0], message[sent[0]]


def _image(key: str, value: Any, size: int) -> np.ndarray:
    if not (isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape == (size, size, 3)):
        raise BadInput(
            _WHERE,
            key,
            _kind(value),
            f"uint8 ({size}, {size}, 3)",
            "resize it to the size that the policy was trained on",
        )
    return value


def _state(key: str, value: Any, width: int) -> np.ndarray:
    expected = f"{width} finite floats"
    if not (isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape == (width,)):
        raise BadInput(
            _WHERE, key, _kind(value), expected, "send the state that the policy was trained on, in the same order"
        )
    # a Python sum is faster than numpy for so few numbers, and NaN makes the comparison false
    if not sum(map(abs, value.tolist())) <= _LARGEST:
        index = int(np.flatnonzero(~(np.abs(value) <= _LARGEST / width))[0])
        raise BadInput(_WHERE, f"{key}[{index}]", value[index], expected, "check the sensor")
    return value.astype(np.float32)


def _instruction(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadInput(_WHERE, key, _kind(value), "a string", "send the task as text")
    if not value.strip() or len(value) > MAX_INSTRUCTION:
        expected = f"1 to {MAX_INSTRUCTION} characters"
        raise BadInput(_WHERE, key, f"{len(value)} characters", expected, "send the task as one sentence")
    return value


def _seed(value: Any) -> int | None:
    number = value if value is None or isinstance(value, bool) else value.item() if _is_scalar(value) else value
    if number is not None and not (type(number) is int and 0 <= number < 2**64):
        raise BadInput(
            _WHERE,
            SEED,
            _kind(value),
            "a whole number from 0 to 2**64 - 1",
            "leave the key out, or send a whole number",
        )
    return number


def _is_scalar(value: Any) -> bool:
    return isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.shape == ())


def _kind(value: Any) -> str:
    """The type and shape of a value, without its content, which may be large or private."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _names(message: Mapping[Any, Any]) -> str:
    names = [str(name)[:60] for name in list(message)[:12]]
    return ", ".join(names) or "an empty map"
