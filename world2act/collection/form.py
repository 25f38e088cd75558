"""The form in which this pipeline records demonstrations: features, embodiment, rate and cameras of its datasets."""

from __future__ import annotations

from world2act.core.errors import BadInput
from world2act.core.params import Demos
from world2act.data.features import IMAGES, INDICES, Feature, array_feature, image_feature
from world2act.data.info import INFO_PATH
from world2act.data.lerobot_v3 import EpisodeDataset
from world2act.data.recording import ACTION, EXECUTED, PHASE, SCENE, STATE
from world2act.sims.simulator import Simulator

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
