"""RoboCasa's HDF5 files (robomimic's layout, 12 actions) in, episodes out.

robomimic stores the observation before the action of the same row, so that nothing lags, and images upright. The task
is the environment that `env_args` names, the instruction is `lang` in a demonstration's `ep_meta`. Actions move the
hand in the frame of the robot's base, so `ee_*` is the hand's position in that frame.
"""

from __future__ import annotations

import json
from functools import partial

import h5py
import numpy as np

from world2act.core.errors import BadInput
from world2act.data.episodes import Episode
from world2act.data.recording import ACTION, STATE
from world2act.formats.importers.hdf5 import (
    Unusable,
    first_header,
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


RECOGNISED = "RoboCasa's HDF5 files"


def recognises(source: Source) -> bool:
    header = first_header(source)
    if header is None or "macros_image_convention" in header.attributes or "bddl_file_name" in header.attributes:
        return False  # none, or LIBERO's
    return "env_args" in header.attributes and header.actions[1:] == (EMBODIMENT.action_dim,)


def open_recording(source: Source) -> Recording:
    """Open the files. Raises `BadInput` when none can be read, or a file lacks necessary information."""
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


def _instruction(meta: object) -> str:
    try:
        language = json.loads(meta)["lang"] if isinstance(meta, str | bytes) else None
    except (TypeError, KeyError, ValueError):
        language = None
    if not isinstance(language, str):
        raise Unusable("attribute ep_meta has no instruction (lang)")
    return language
