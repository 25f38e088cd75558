"""What makes a policy's folder one that LeRobot opens, where `lerobot_policy_world2act` is installed: `lerobot/` in it.

    config.json                                      the features of the robot that the policy was trained for
    policy_preprocessor.json, _postprocessor.json    names and devices, which LeRobot's commands may override

In LeRobot's format (0.6), which refuses a config.json with more in it: so it has a folder of its own. Nothing in
it normalises, since a policy does that by itself, and it has no weights: they are those of the folder around it.
"""

from __future__ import annotations

from pathlib import Path

from world2act.core.storage import write_json
from world2act.data.features import IMAGES
from world2act.policies.normalisation import ACTION, PROPRIO
from world2act.policies.robot import RobotDescription

FOLDER, TYPE = "lerobot", "world2act"
_Step = tuple[str, dict[str, object]]
_DEVICE: _Step = ("device_processor", {"device": "cpu", "float_dtype": None})
_PIPELINES: dict[str, list[_Step]] = {
    "policy_preprocessor": [("rename_observations_processor", {"rename_map": {}}), ("to_batch_processor", {}), _DEVICE],
    "policy_postprocessor": [_DEVICE],
}


def write_lerobot(directory: Path) -> None:
    """Add it to the folder of a saved policy, whose config.json states its protocol."""
    robot = RobotDescription.read(directory)
    side = robot.image_size
    seen = {IMAGES + camera: {"type": "VISUAL", "shape": [3, side, side]} for camera in robot.cameras}
    seen[PROPRIO] = {"type": "STATE", "shape": [len(robot.proprio)]}
    config = {
        "type": TYPE,
        "input_features": seen,
        "output_features": {ACTION: {"type": "ACTION", "shape": [len(robot.actions)]}},
        "action_feature_names": list(robot.actions),
    }
    (directory / FOLDER).mkdir()
    write_json(directory / FOLDER / "config.json", config)
    for name, steps in _PIPELINES.items():
        listed = [{"registry_name": registry, "config": settings} for registry, settings in steps]
        write_json(directory / FOLDER / f"{name}.json", {"name": name, "steps": listed})
