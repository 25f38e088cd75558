"""The form in which this pipeline records demonstrations: features, embodiment, rate and cameras of its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.data.features import IMAGES, INDICES, Feature, array_feature, image_feature
from world2act.data.info import INFO_PATH
from world2act.data.lerobot_v3 import EpisodeDataset

if TYPE_CHECKING:
    from world2act.sims.simulator import Simulator

STATE, SCENE, ACTION, EXECUTED = "observation.state", "observation.environment_state", "action", "action.executed"
PHASE = "expert.phase"
"""The index of the skill that the expert was executing, float32 (T, 1); -1 where unknown. Privileged: metrics only."""
_EXPERT_ONLY = (SCENE, PHASE, EXECUTED)


def dataset_features(simulator: Simulator, demos: Demos, name: str) -> dict[str, Feature]:
    """The LeRobot features of the set "labelled" or "video_only". What only experts know is not recorded elsewhere."""
    embodiment = simulator.embodiment
    features = {
        **{IMAGES + camera.name: image_feature(demos.image_size, demos.image_size) for camera in demos.cameras},
        STATE: array_feature(embodiment.proprio_names),
        SCENE: array_feature(simulator.scene_names),
        PHASE: array_feature(["phase"]),
    }
    if name == "labelled":
        features |= {ACTION: array_feature(embodiment.action_names), EXECUTED: array_feature(embodiment.action_names)}
    return {key: feature for key, feature in features.items() if not (demos.recorded and key in _EXPERT_ONLY)}


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


def check_recording(dataset: EpisodeDataset, simulator: Simulator, demos: Demos) -> None:
    """Check that a dataset has the form that this pipeline records: features, embodiment, rate, cameras.

    The expert's phase may be missing, since only scripted experts know it.

    Raises:
        BadInput: it has another form.
    """
    embodiment = simulator.embodiment
    name = "labelled" if ACTION in dataset.features else "video_only"
    wanted = dataset_features(simulator, demos, name)
    if PHASE not in dataset.features:
        wanted.pop(PHASE, None)
    found = {key: feature for key, feature in dataset.features.items() if key not in INDICES}
    details: object = dataset.info.get("world2act")
    pairs: dict[str, tuple[object, object]] = {
        "robot_type": (dataset.info.get("robot_type"), embodiment.name),
        "fps": (dataset.fps, embodiment.control_hz),
        "features": (sorted(found), sorted(wanted)),
        **{f"features.{key}": (found.get(key), feature) for key, feature in wanted.items()},
        "world2act": (type(details), dict),
    }
    if isinstance(details, dict):
        # earlier versions recorded a single camera
        cameras = [details["camera"]] if "camera" in details else details.get("cameras")
        pairs["world2act.cameras"] = (cameras, [camera.model_dump(mode="json") for camera in demos.cameras])
        pairs["world2act.image_convention"] = (details.get("image_convention"), simulator.image_convention)
    for key, (actual, expected) in pairs.items():
        if actual != expected:
            remedy = (
                "record again with the settings of params.yaml and of the simulator; or set demos.ingested to false"
            )
            raise BadInput(dataset.path / INFO_PATH, key, actual, expected, remedy)
