"""LIBERO's HDF5 files (`<suite>/<task>_demo.hdf5`, as its `create_dataset.py` writes them) in, episodes out.

What is easily got wrong, and done here:
- observations are stored after the action of the same row was executed: they lag by one step, which the lag test of
  `world2act.data.alignment` must confirm;
- pictures stand as robosuite's macro says (attribute `macros_image_convention`); they leave here rotated by 180
  degrees from OpenGL's, as every policy for LIBERO sees them;
- the same file name occurs in several suites: a task's key is `<suite>/<file name without _demo.hdf5>`, the suite
  being the folder of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np

from world2act.data.episodes import Episode
from world2act.data.importers.hdf5 import (
    Unusable,
    attribute,
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
from world2act.data.importers.recording import ARM_ACTION, ARM_STATE, FINGERS, Recording, SetAside
from world2act.data.importers.source import Source
from world2act.data.recording import ACTION, STATE
from world2act.errors import BadInput

CAMERAS = {"agentview": "agentview_rgb", "eye_in_hand": "eye_in_hand_rgb"}
IMAGE_CONVENTION = "rotated by 180 degrees from robosuite's (OpenGL) picture"
LAG = 1
_TURNED = {"opengl": (slice(None, None, -1), slice(None, None, -1)), "opencv": (slice(None), slice(None, None, -1))}


def open_recording(source: Source) -> Recording:
    """Raises `BadInput` when no file can be read, or a file does not say what an importer must know."""
    fps, total = survey(source)
    return Recording(
        format="libero",
        fps=fps,
        robot_type="panda",
        image_convention=IMAGE_CONVENTION,
        lag=LAG,
        names={ACTION: ARM_ACTION, STATE: (*ARM_STATE, *FINGERS)},
        total=total,
        episodes=_episodes(source, fps),
    )


def _episodes(source: Source, fps: int) -> Iterator[tuple[str, Episode] | SetAside]:
    for name in hdf5_files(source):
        try:
            with open_data(source, name) as data:
                control_rate(source, name, data, fps)
                turned = _turn(source, name, data)
                task = (
                    f"{PurePosixPath(source.name, name).parent.name}/{PurePosixPath(name).stem.removesuffix('_demo')}"
                )
                instruction = _instruction(json_attribute(source, name, data, "problem_info"))
                for demo in demonstrations(data):
                    yield _episode(f"{name}:{demo}", data, demo, task, instruction, turned)
        except Unusable as error:
            yield SetAside(name, str(error))


def _episode(
    place: str, data: h5py.Group, demo: str, task: str, instruction: str, turned: tuple[slice, slice]
) -> tuple[str, Episode] | SetAside:
    try:
        group = subgroup(data, demo)
        observed = subgroup(group, "obs")
        images = {camera: pictures(observed, name)[:, *turned] for camera, name in CAMERAS.items()}
        state = np.hstack([numbers(observed, "ee_states", 6), numbers(observed, "gripper_states", 2)])
        arrays = {STATE: state, ACTION: numbers(group, "actions", len(ARM_ACTION))}
    except (Unusable, OSError, ValueError) as error:  # h5py's of a damaged block, numpy's of unequal lengths
        return SetAside(place, str(error))
    return place, Episode(task, instruction, -1, images, arrays)


def _turn(source: Source, name: str, data: h5py.Group) -> tuple[slice, slice]:
    convention = attribute(source, name, data, "macros_image_convention")
    if convention not in _TURNED:
        place = "data, attribute macros_image_convention"
        raise BadInput(f"{source.where}: {name}", place, convention, f"one of {sorted(_TURNED)}", "correct the file")
    return _TURNED[convention]


def _instruction(problem: dict[str, Any]) -> str:
    """Some files hold the instruction in quotation marks, or as a list of its letters."""
    language = problem.get("language_instruction")
    text = "".join(map(str, language)) if isinstance(language, list) else language
    return text.strip().strip('"') if isinstance(text, str) else ""
