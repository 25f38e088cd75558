"""RoboCasa's HDF5 files (robomimic's layout, 12 actions) in, episodes out.

robomimic stores the observation of a state before the action that leaves it, so that nothing lags, and pictures
upright. The task is the environment that `env_args` names, the instruction `lang` of a demonstration's `ep_meta`.
Actions move the hand in the frame of the robot's base, and so `ee_*` is the hand's place there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from world2act.data.episodes import Episode
from world2act.data.importers.hdf5 import (
    Unusable,
    control_rate,
    demonstrations,
    hdf5_files,
    json_attribute,
    numbers,
    open_data,
    pictures,
    subgroup,
    survey,
)
from world2act.data.importers.recording import ARM_ACTION, FINGERS, UPRIGHT, Recording, SetAside
from world2act.data.importers.source import Source
from world2act.data.recording import ACTION, STATE
from world2act.errors import BadInput

ACTIONS = (*ARM_ACTION, "base_x", "base_y", "base_yaw", "base_torso", "control_mode")
_STATE = {
    "robot0_base_pos": ("base_x_m", "base_y_m", "base_z_m"),
    "robot0_base_quat": ("base_qx", "base_qy", "base_qz", "base_qw"),
    "robot0_base_to_eef_pos": ("ee_x_m", "ee_y_m", "ee_z_m"),
    "robot0_base_to_eef_quat": ("ee_qx", "ee_qy", "ee_qz", "ee_qw"),
    "robot0_gripper_qpos": FINGERS,
}
_IMAGE = "_image"
_GENERATED = "MG_"  # before the name of the environment where MimicGen made the demonstrations


def open_recording(source: Source) -> Recording:
    """Raises `BadInput` when no file can be read, or a file does not say what an importer must know."""
    fps, total = survey(source)
    return Recording(
        format="robocasa",
        fps=fps,
        robot_type="panda_mobile",
        image_convention=UPRIGHT,
        lag=0,
        names={ACTION: ACTIONS, STATE: [name for names in _STATE.values() for name in names]},
        total=total,
        episodes=_episodes(source, fps),
    )


def _episodes(source: Source, fps: int) -> Iterator[tuple[str, Episode] | SetAside]:
    for name in hdf5_files(source):
        try:
            with open_data(source, name) as data:
                control_rate(source, name, data, fps)
                task = json_attribute(source, name, data, "env_args").get("env_name")
                if not isinstance(task, str) or not task:
                    place = "data, attribute env_args, env_name"
                    raise BadInput(f"{source.where}: {name}", place, task, "the task's name", "complete the file")
                for demo in demonstrations(data):
                    yield _episode(f"{name}:{demo}", data, demo, task.removeprefix(_GENERATED))
        except Unusable as error:
            yield SetAside(name, str(error))


def _episode(place: str, data: h5py.Group, demo: str, task: str) -> tuple[str, Episode] | SetAside:
    try:
        group = subgroup(data, demo)
        observed = subgroup(group, "obs")
        cameras = [name for name in observed if name.endswith(_IMAGE)]
        images = {name.removesuffix(_IMAGE): pictures(observed, name) for name in cameras}
        state = np.hstack([numbers(observed, name, len(names)) for name, names in _STATE.items()])
        arrays = {STATE: state, ACTION: numbers(group, "actions", len(ACTIONS))}
        instruction = _instruction(group.attrs.get("ep_meta"))
    except (Unusable, OSError, ValueError) as error:  # h5py's of a damaged block, numpy's of unequal lengths
        return SetAside(place, str(error))
    return place, Episode(task, instruction, -1, images, arrays)


def _instruction(meta: Any) -> str:
    try:
        language = json.loads(meta)["lang"]
    except (TypeError, KeyError, ValueError):
        language = None
    if not isinstance(language, str):
        raise Unusable("attribute ep_meta says no instruction (lang)")
    return language
