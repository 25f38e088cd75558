"""What a recording looks like in this pipeline: the features, embodiment, rate and camera of its datasets."""

from __future__ import annotations

from typing import Any

from world2act.data.lerobot_v3 import IMAGES, INDICES, EpisodeDataset, array_feature, image_feature
from world2act.errors import BadInput
from world2act.params import Demos

STATE, SCENE, ACTION, EXECUTED = "observation.state", "observation.environment_state", "action", "action.executed"


def dataset_features(simulator: Any, demos: Demos, name: str) -> dict[str, dict[str, Any]]:
    """The LeRobot features of the set "labelled" or "video_only"."""
    embodiment = simulator.EMBODIMENT
    features = {
        IMAGES + demos.camera.name: image_feature(demos.image_size, demos.image_size),
        STATE: array_feature(embodiment.proprio_names),
        SCENE: array_feature(simulator.SCENE_NAMES),
    }
    if name == "labelled":
        features |= {ACTION: array_feature(embodiment.action_names), EXECUTED: array_feature(embodiment.action_names)}
    return features


def check_recording(dataset: EpisodeDataset, simulator: Any, demos: Demos) -> None:
    """Check that a dataset was recorded as this pipeline records: features, embodiment, rate, camera.

    Raises:
        BadInput: it was not.
    """
    embodiment = simulator.EMBODIMENT
    name = "labelled" if ACTION in dataset.features else "video_only"
    wanted = dataset_features(simulator, demos, name)
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
        pairs["world2act.camera"] = (details.get("camera"), demos.camera.model_dump(mode="json"))
        pairs["world2act.image_convention"] = (details.get("image_convention"), simulator.IMAGE_CONVENTION)
    for key, (is_there, expected) in pairs.items():
        if is_there != expected:
            remedy = "record again with what params.yaml and the simulator say; or set demos.ingested to false"
            raise BadInput(dataset.path / "meta/info.json", key, is_there, expected, remedy)
