"""LIBERO's HDF5 files (`<suite>/<task>_demo.hdf5`, as its `create_dataset.py` writes them) in, episodes out.

Three things are easily done wrong, and are handled here:
- the observations of a row were made after its action was executed: they lag by one step, which the lag test of
  `world2act.formats.action_lag` must confirm;
- robosuite's macro (attribute `macros_image_convention`) says which way up the images are; they are returned rotated
  by 180 degrees relative to OpenGL, as every policy for LIBERO sees them;
- the same file name occurs in several suites: a task's key is `<suite>/<file name without _demo.hdf5>`, the suite
  being the folder of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np

from world2act.core.errors import BadInput
from world2act.data.episodes import Episode
from world2act.data.recording import ACTION, STATE
from world2act.formats.importers.hdf5 import (
    attribute,
    first_header,
    json_attribute,
    numbers,
    pictures,
    read_episodes,
    subgroup,
    survey,
)
from world2act.formats.importers.recording import Recording
from world2act.formats.importers.source import Source
from world2act.sims.libero import EMBODIMENT, IMAGE_CONVENTION

CAMERAS = {"agentview": "agentview_rgb", "eye_in_hand": "eye_in_hand_rgb"}
LAG = 1
_TURNED = {"opengl": (slice(None, None, -1), slice(None, None, -1)), "opencv": (slice(None), slice(None, None, -1))}


RECOGNISED = "LIBERO's HDF5 files"


def recognises(source: Source) -> bool:
    header = first_header(source)
    return header is not None and not header.attributes.isdisjoint({"macros_image_convention", "bddl_file_name"})


def open_recording(source: Source) -> Recording:
    """Open the files. Raises `BadInput` when none can be read, or a file lacks necessary information."""
    fps, total = survey(source)
    return Recording(
        format="libero",
        fps=fps,
        robot_type=EMBODIMENT.name,
        image_convention=IMAGE_CONVENTION,
        lag=LAG,
        names={ACTION: EMBODIMENT.action_names, STATE: EMBODIMENT.proprio_names},
        total=total,
        episodes=read_episodes(source, fps, partial(_describe, source), _read),
    )


@dataclass(frozen=True)
class _File:
    task: str
    instruction: str
    turned: tuple[slice, slice]


def _describe(source: Source, name: str, data: h5py.Group) -> _File:
    suite, stem = PurePosixPath(source.name, name).parent.name, PurePosixPath(name).stem.removesuffix("_demo")
    turned = _turn(source, name, data)
    return _File(f"{suite}/{stem}", _instruction(json_attribute(source, name, data, "problem_info")), turned)


def _read(demo: h5py.Group, file: _File) -> Episode:
    observed = subgroup(demo, "obs")
    images = {camera: pictures(observed, name)[:, *file.turned] for camera, name in CAMERAS.items()}
    state = np.hstack([numbers(observed, "ee_states", 6), numbers(observed, "gripper_states", 2)])
    arrays = {STATE: state, ACTION: numbers(demo, "actions", EMBODIMENT.action_dim)}
    return Episode(file.task, file.instruction, -1, images, arrays)


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
