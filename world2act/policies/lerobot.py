"""What makes a policy's folder one that LeRobot opens, too, where `lerobot_policy_world2act` is installed.

`type` in config.json sends LeRobot to that package, and two pipelines stand beside it, in LeRobot's format (0.6): names
and devices may be overridden by its commands. They normalise nothing, since a policy does that by itself.
"""

from __future__ import annotations

from pathlib import Path

from world2act.storage import read_json, write_json

TYPE = "world2act"
PIPELINES = {
    "policy_preprocessor": (
        ("rename_observations_processor", {"rename_map": {}}),
        ("to_batch_processor", {}),
        ("device_processor", {"device": "cpu", "float_dtype": None}),
    ),
    "policy_postprocessor": (("device_processor", {"device": "cpu", "float_dtype": None}),),
}


def write_lerobot(directory: Path) -> None:
    """Add both to the folder of a saved policy, whose config.json names its protocol."""
    config = directory / "config.json"
    write_json(config, read_json(config) | {"type": TYPE})
    for name, steps in PIPELINES.items():
        listed = [{"registry_name": registry, "config": settings} for registry, settings in steps]
        write_json(directory / f"{name}.json", {"name": name, "steps": listed})
