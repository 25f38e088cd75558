"""meta/modality.json, by which GR00T-N1.6 finds its keys in a LeRobot v2.1 data set.

Elements that LIBERO's configuration of GR00T names (x, y, z, roll, pitch, yaw, gripper; image, wrist_image) get those
names, so that `libero_sim` reads the data as it is; any other element is a key of its own name.
Source: getting_started/data_preparation.md, gr00t/configs/data/embodiment_configs.py (github.com/NVIDIA/Isaac-GR00T).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from world2act.data.features import IMAGES
from world2act.data.recording import ACTION, STATE

TASK_COLUMNS = ("annotation.human.task_description", "annotation.human.action.task_description")
SUBTASK_COLUMN = "annotation.human.action.subtask"
_AXES = dict(zip(("x", "y", "z", "rx", "ry", "rz"), ("x", "y", "z", "roll", "pitch", "yaw"), strict=True))
_KEYS = (
    {f"delta_{axis}": key for axis, key in _AXES.items()}
    | {f"ee_{axis}_m": key for axis, key in _AXES.items()}
    | {f"ee_{axis}_rad": key for axis, key in _AXES.items()}
    | {name: "gripper" for name in ("gripper", "gripper_effort", "gripper_opening_m")}
    | {"gripper_left_m": "gripper", "gripper_right_m": "gripper"}
)
_VIDEOS = {"agentview": "image", "eye_in_hand": "wrist_image"}


def modality(features: dict[str, dict[str, Any]], cameras: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """The content of modality.json. `columns`: the annotations that the data hold."""
    parts = {"state": STATE, "action": ACTION}
    slices = {part: _slices(features[name]["names"]) for part, name in parts.items() if name in features}
    return slices | {
        "video": {_VIDEOS.get(camera, camera): {"original_key": IMAGES + camera} for camera in cameras},
        "annotation": {column.removeprefix("annotation."): {} for column in columns},
    }


def _slices(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Neighbours of one key are one slice."""
    slices: dict[str, dict[str, int]] = {}
    for place, name in enumerate(names):
        key = _KEYS.get(name, name)
        if key in slices and slices[key]["end"] == place:
            slices[key]["end"] = place + 1
        else:
            slices[key if key not in slices else name] = {"start": place, "end": place + 1}
    return slices
