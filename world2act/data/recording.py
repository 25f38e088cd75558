"""What a recording looks like in this pipeline: the features, embodiment, rate and cameras of its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.data.lerobot_v3 import IMAGES, INDICES, EpisodeDataset, array_feature, image_feature

STATE, SCENE, ACTION, EXECUTED = "observation.state", "observation.environment_state", "action", "action.executed"
PHASE = "expert.phase"
"""The index of the skill that the expert was at, float32 (T, 1). Privileged: for metrics only. -1: nobody knows."""
_OF_EXPERTS = (SCENE, PHASE, EXECUTED)


def dataset_features(simulator: Any, demos: Demos, name: str) -> dict[str, dict[str, Any]]:
    """The LeRobot features of the set "labelled" or "video_only". What only experts know is not recorded elsewhere."""
    embodiment = simulator.EMBODIMENT
    features = {
        **{IMAGES + each.name: image_feature(demos.image_size, demos.image_size) for each in demos.cameras},
        STATE: array_feature(embodiment.proprio_names),
        SCENE: array_feature(simulator.SCENE_NAMES),
        PHASE: array_feature(["phase"]),
    }
    if name == "labelled":
        features |= {ACTION: array_feature(embodiment.action_names), EXECUTED: array_feature(embodiment.action_names)}
    return {key: feature for key, feature in features.items() if not (demos.recorded and key in _OF_EXPERTS)}


def gripper_opening(dataset: EpisodeDataset, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The distance between the fingers, (T,) metres, from `arrays[STATE]` of an episode.

    It is `gripper_opening_m` where that is recorded, else the left finger's joint less the right one's.

    Raises:
        BadInput: the dataset names neither.
    """
    names = dataset.features[STATE]["names"] or []
    if "gripper_opening_m" in names:
        return arrays[STATE][:, names.index("gripper_opening_m")]
    fingers = ["gripper_left_m", "gripper_right_m"]
    left, right = _columns(dataset, fingers, f"gripper_opening_m, or {' and '.join(fingers)}")
    return arrays[STATE][:, left] - arrays[STATE][:, right]


def ee_position(dataset: EpisodeDataset, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The position of the end effector, (T, 3) metres, from `arrays[STATE]` of an episode.

    Raises:
        BadInput: the dataset does not name it.
    """
    axes = ["ee_x_m", "ee_y_m", "ee_z_m"]
    return arrays[STATE][:, _columns(dataset, axes, ", ".join(axes))]


def ee_force(dataset: EpisodeDataset, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The size of the outer force on the end effector, (T,) newtons, from `arrays[STATE]`; None where it has none."""
    names = dataset.features[STATE]["names"] or []
    return arrays[STATE][:, names.index("ee_force_n")] if "ee_force_n" in names else None


def _columns(dataset: EpisodeDataset, wanted: Sequence[str], expected: str) -> list[int]:
    names = dataset.features[STATE]["names"] or []
    if not set(wanted) <= set(names):
        key, remedy = f"features.{STATE}.names", "name the columns: `world2act import --rename OLD=NEW`"
        raise BadInput(dataset.path / "meta/info.json", key, names, expected, remedy)
    return [names.index(name) for name in wanted]


def check_recording(dataset: EpisodeDataset, simulator: Any, demos: Demos) -> None:
    """Check that a dataset was recorded as this pipeline records: features, embodiment, rate, cameras.

    Only scripted experts know their phase: a recording may have it or not.

    Raises:
        BadInput: it was not.
    """
    embodiment = simulator.EMBODIMENT
    name = "labelled" if ACTION in dataset.features else "video_only"
    wanted = dataset_features(simulator, demos, name)
    if PHASE not in dataset.features:
        wanted.pop(PHASE, None)
    found = {key: feature for key, feature in dataset.features.items() if key not in INDICES}
    details = dataset.info.get("world2act")
    pairs = {
        "robot_type": (dataset.info.get("robot_type"), embodiment.name),
        "fps": (dataset.fps, embodiment.control_hz),
        "features": (sorted(found), sorted(wanted)),
        **{f"features.{key}": (found.get(key), feature) for key, feature in wanted.items()},
        "world2act": (type(details), dict),
    }
    if isinstance(details, dict):
        # what earlier versions recorded names one camera
        cameras = [details["camera"]] if "camera" in details else details.get("cameras")
        pairs["world2act.cameras"] = (cameras, [camera.model_dump(mode="json") for camera in demos.cameras])
        pairs["world2act.image_convention"] = (details.get("image_convention"), simulator.IMAGE_CONVENTION)
    for key, (is_there, expected) in pairs.items():
        if is_there != expected:
            remedy = "record again with what params.yaml and the simulator say; or set demos.ingested to false"
            raise BadInput(dataset.path / "meta/info.json", key, is_there, expected, remedy)
