"""Robot's numbers → the network's, and back: scaled by statistics, encoded as angles, relative to the state.

Source: gr00t/data/state_action/{state_action_processor,action_chunking,pose}.py and gr00t/data/utils.py of NVIDIA's
Isaac-GR00T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy.spatial.transform import Rotation

Pose = Literal["XYZ_ROT6D", "XYZ_ROTVEC"]
WIDTHS: Mapping[str, int] = {"XYZ_ROT6D": 9, "XYZ_ROTVEC": 6}
"""Numbers of a pose: position, and the rotation matrix's first two rows or the rotation vector."""


@dataclass(frozen=True)
class Scaling:
    """An affine map of a part: normalised = (x - offset) · gain, x = normalised · spread + offset.

    Attributes:
        offset, spread, gain: float64 (D,), or (T, D) where each step of a chunk has its own.
        bounded: what is restored is first clipped to [-1, 1].
    """

    offset: np.ndarray
    spread: np.ndarray
    gain: np.ndarray
    bounded: bool

    @classmethod
    def of_box(cls, low: np.ndarray, high: np.ndarray) -> Self:
        """[low, high] → [-1, 1]. A dimension that never moves becomes 0."""
        spread = (high - low) / 2
        still = np.isclose(high, low)
        return cls((high + low) / 2, spread, np.where(still, 0, 1 / np.where(still, 1, spread)), True)

    @classmethod
    def of_moments(cls, mean: np.ndarray, std: np.ndarray) -> Self:
        """Mean 0, standard deviation 1. A dimension whose standard deviation is 0 is left as it is."""
        spread = np.where(std == 0, 1, std)
        return cls(np.where(std == 0, 0, mean), spread, 1 / spread, False)

    @property
    def width(self) -> int:
        return self.offset.shape[-1]

    def first(self, steps: int) -> Self:
        """That of a chunk of fewer steps."""
        if self.offset.ndim == 1:
            return self
        return type(self)(self.offset[:steps], self.spread[:steps], self.gain[:steps], self.bounded)

    def normalise(self, values: np.ndarray) -> np.ndarray:
        return (values - self.offset) * self.gain

    def restore(self, values: np.ndarray) -> np.ndarray:
        return (np.clip(values, -1, 1) if self.bounded else values) * self.spread + self.offset


def measure(values: np.ndarray) -> dict[str, Any]:
    """A part's statistics as statistics.json holds them, of float (N, D), or (N, T, D) for each of T steps."""
    values = values.astype(np.float64)
    found = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }
    return {name: value.tolist() for name, value in found.items()}


def encode_angles(values: np.ndarray) -> np.ndarray:
    """Radians (..., D) → their sines, then their cosines (..., 2 D)."""
    return np.concatenate([np.sin(values), np.cos(values)], -1)


def relative(actions: np.ndarray, reference: np.ndarray, pose: Pose | None) -> np.ndarray:
    """Absolute targets → targets as seen from where the robot stood.

    Args:
        actions: (B, T, D) positions of joints, or poses of the end effector.
        reference: (B, D), the same of the robot when it decided.
        pose: how the poses are written; None for joints, which are subtracted.
    """
    if pose is None:
        return actions - reference[:, None]
    position, rotation = _split(_rows(reference, actions.shape[1]), pose)
    targets, turns = _split(actions.reshape(-1, WIDTHS[pose]), pose)
    back = rotation.inv()
    return _join(back.apply(targets - position), back * turns, pose).reshape(actions.shape)


def absolute(actions: np.ndarray, reference: np.ndarray, pose: Pose | None) -> np.ndarray:
    """The inverse of `relative`."""
    if pose is None:
        return actions + reference[:, None]
    position, rotation = _split(_rows(reference, actions.shape[1]), pose)
    targets, turns = _split(actions.reshape(-1, WIDTHS[pose]), pose)
    return _join(rotation.apply(targets) + position, rotation * turns, pose).reshape(actions.shape)


def _rows(reference: np.ndarray, steps: int) -> np.ndarray:
    return np.repeat(reference, steps, 0)


def _split(values: np.ndarray, pose: Pose) -> tuple[np.ndarray, Rotation]:
    if pose == "XYZ_ROTVEC":
        return values[:, :3], Rotation.from_rotvec(values[:, 3:])
    # a network's two rows are neither of length 1 nor at right angles: Gram and Schmidt
    first = values[:, 3:6] / np.linalg.norm(values[:, 3:6], axis=-1, keepdims=True)
    second = values[:, 6:] - (first * values[:, 6:]).sum(-1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    return values[:, :3], Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], 1))


def _join(position: np.ndarray, rotation: Rotation, pose: Pose) -> np.ndarray:
    turn = rotation.as_rotvec() if pose == "XYZ_ROTVEC" else rotation.as_matrix()[:, :2].reshape(-1, 6)
    return np.concatenate([position, turn], -1)
