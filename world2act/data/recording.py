"""The names of a recording's arrays, and what can be read from its state: gripper opening, position, force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from world2act.core.errors import BadInput
from world2act.data.info import INFO_PATH
from world2act.data.lerobot_v3 import EpisodeDataset

STATE, SCENE, ACTION, EXECUTED = "observation.state", "observation.environment_state", "action", "action.executed"
PHASE = "expert.phase"
"""The index of the skill that the expert was executing, float32 (T, 1); -1 where unknown. Privileged: metrics only."""


def gripper_opening(dataset: EpisodeDataset, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The distance between the fingers, (T,) metres, from an episode's `arrays[STATE]`.

    It is `gripper_opening_m` where that is recorded, else the left finger's joint minus the right one's.

    Raises:
        BadInput: the dataset has neither.
    """
    names = dataset.element_names(STATE)
    if "gripper_opening_m" in names:
        return arrays[STATE][:, names.index("gripper_opening_m")]
    fingers = ["gripper_left_m", "gripper_right_m"]
    left, right = _columns(dataset, fingers, f"gripper_opening_m, or {' and '.join(fingers)}")
    return arrays[STATE][:, left] - arrays[STATE][:, right]


def ee_position(dataset: EpisodeDataset, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The position of the end effector, (T, 3) metres, from an episode's `arrays[STATE]`.

    Raises:
        BadInput: the dataset does not have it.
    """
    axes = ["ee_x_m", "ee_y_m", "ee_z_m"]
    return arrays[STATE][:, _columns(dataset, axes, ", ".join(axes))]


def ee_force(dataset: EpisodeDataset, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The size of the external force on the end effector, (T,) newtons, from `arrays[STATE]`; None if not recorded."""
    names = dataset.element_names(STATE)
    return arrays[STATE][:, names.index("ee_force_n")] if "ee_force_n" in names else None


def _columns(dataset: EpisodeDataset, wanted: Sequence[str], expected: str) -> list[int]:
    names = dataset.element_names(STATE)
    if not set(wanted) <= set(names):
        key, remedy = f"features.{STATE}.names", "name the columns: `world2act import --rename OLD=NEW`"
        raise BadInput(dataset.path / INFO_PATH, key, names, expected, remedy)
    return [names.index(name) for name in wanted]
