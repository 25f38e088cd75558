"""meta/modality.json, by which GR00T-N1.6 finds its keys in a LeRobot v2.1 dataset.

Elements that GR00T's configuration for LIBERO names (x, y, z, roll, pitch, yaw, gripper; image, wrist_image) get those
names, so that `libero_sim` reads the data unchanged; every other element becomes a key with its name.
Source: getting_started/data_preparation.md, gr00t/configs/data/embodiment_configs.py (github.com/NVIDIA/Isaac-GR00T).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from world2act.data.features import IMAGES, Feature, element_names
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


def modality(
    features: Mapping[str, Feature], cameras: Sequence[str], columns: Sequence[str]
) -> dict[str, Mapping[str, object]]:
    """The content of modality.json. `columns`: the annotations in the data."""
    parts = {"state": STATE, "action": ACTION}
    slices: dict[str, Mapping[str, object]]
    slices = {part: _slices(element_names(features, name)) for part, name in parts.items() if name in features}
    return slices | {
        "video": {_VIDEOS.get(camera, camera): {"original_key": IMAGES + camera} for camera in cameras},
        "annotation": {column.removeprefix("annotation."): {} for column in columns},
    }


def _slices(names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Key → slice; neighbours with the same key are one slice."""
    slices: dict[str, dict[str, int]] = {}
    for position, name in enumerate(names):
        key = _KEYS.get(name, name)
        if key in slices and slices[key]["end"] == position:
            slices[key]["end"] = position + 1
        else:
            slices[key if key not in slices else name] = {"start": position, "end": position + 1}
    return slices
