"""RoboCasa's HDF5 files (robomimic's layout, 12 actions) in, episodes out.

robomimic stores the observation of a state before the action that leaves it, so that nothing lags, and pictures
upright. The task is the environment that `env_args` names, the instruction `lang` of a demonstration's `ep_meta`.
Actions move the hand in the frame of the robot's base, and so `ee_*` is the hand's place there.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import h5py
import numpy as np

from world2act.core.errors import BadInput
from world2act.data.episodes import Episode
from world2act.data.recording import ACTION, STATE
from world2act.formats.importers.hdf5 import (
    Unusable,
    json_attribute,
    numbers,
    pictures,
    read_episodes,
    subgroup,
    survey,
)
from world2act.formats.importers.recording import UPRIGHT, Recording
from world2act.formats.importers.source import Source
from world2act.sims.robocasa import EMBODIMENT, OBSERVED

_IMAGE = "_image"
_GENERATED = "MG_"  # before the name of the environment where MimicGen made the demonstrations


def open_recording(source: Source) -> Recording:
    """Raises `BadInput` when no file can be read, or a file does not say what an importer must know."""
    fps, total = survey(source)
    return Recording(
        format="robocasa",
        fps=fps,
        robot_type=EMBODIMENT.name,
        image_convention=UPRIGHT,
        lag=0,
        names={ACTION: EMBODIMENT.action_names, STATE: EMBODIMENT.proprio_names},
        total=total,
        episodes=read_episodes(source, fps, partial(_task, source), _read),
    )


def _task(source: Source, name: str, data: h5py.Group) -> str:
    task = json_attribute(source, name, data, "env_args").get("env_name")
    if not isinstance(task, str) or not task:
        place = "data, attribute env_args, env_name"
        raise BadInput(f"{source.where}: {name}", place, task, "the task's name", "complete the file")
    return task.removeprefix(_GENERATED)


def _read(demo: h5py.Group, task: str) -> Episode:
    observed = subgroup(demo, "obs")
    cameras = [name for name in observed if name.endswith(_IMAGE)]
    images = {name.removesuffix(_IMAGE): pictures(observed, name) for name in cameras}
    state = np.hstack([numbers(observed, name, len(names)) for name, names in OBSERVED.items()])
    arrays = {STATE: state, ACTION: numbers(demo, "actions", EMBODIMENT.action_dim)}
    return Episode(task, _instruction(demo.attrs.get("ep_meta")), -1, images, arrays)


def _instruction(meta: Any) -> str:
    try:
        language = json.loads(meta)["lang"]
    except (TypeError, KeyError, ValueError):
        language = None
    if not isinstance(language, str):
        raise Unusable("attribute ep_meta says no instruction (lang)")
    return language
