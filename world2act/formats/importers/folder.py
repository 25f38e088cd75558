"""Plain folders, for recordings in none of the other formats: one folder per episode.

    SRC/<any folder>/episode.json     {"task": "lift", "instruction": "lift the cube", "fps": 20, "robot": "my_arm"}
                     steps.csv        a header and one line per control step; or steps.parquet
                     images/<camera>/000000.png, 000001.png, …     or images/<camera>.mp4

Columns of the steps are `action.<element>` and `observation.state.<element>`, for example `action.delta_x` and
`observation.state.ee_x_m`; others are ignored. Row t has action t and what was observed before it; image t
belongs to row t, and frame t of a video is shown at t / fps. `task` and `robot` are optional: the task's key is then
the instruction, and `--embodiment` must name the robot. Episodes are sorted by the names of their folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import NotRequired, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from world2act.core.errors import BadInput
from world2act.data.episodes import Episode
from world2act.data.recording import ACTION, STATE
from world2act.formats.importers.recording import UPRIGHT, Recording, SetAside
from world2act.formats.importers.source import Source
from world2act.formats.importers.video import FrameMissing, frames_at

MANIFEST = "episode.json"
_STEPS = ("steps.csv", "steps.parquet")
_FEATURES = (ACTION, STATE)


class _Manifest(TypedDict):
    """The content of episode.json."""

    instruction: str
    fps: int
    task: NotRequired[str]
    robot: NotRequired[str]


class _Unusable(Exception):
    """The reason why one episode cannot be used."""


RECOGNISED = f"folders with an {MANIFEST} (`python -m pydoc world2act.formats.importers.folder`)"


def recognises(source: Source) -> bool:
    return bool(folders(source))


def folders(source: Source) -> list[str]:
    """The folders of the episodes, "" for the source itself."""
    return [name.removesuffix(MANIFEST) for name in source.files if PurePosixPath(name).name == MANIFEST]


def open_recording(source: Source) -> Recording:
    """Open the folders. Raises `BadInput` when no episode can be read."""
    found = folders(source)
    for folder in found:
        try:
            manifest, table = _manifest(source, folder), _steps(source, folder)
        except (_Unusable, BadInput):
            continue
        return Recording(
            format="folder",
            fps=manifest["fps"],
            robot_type=manifest.get("robot"),
            image_convention=UPRIGHT,
            lag=0,
            names={feature: names for feature in _FEATURES if (names := _elements(table, feature))},
            total=len(found),
            episodes=_episodes(source, found, manifest["fps"]),
        )
    raise BadInput(source.where, "", f"{len(found)} episodes, none of which can be read", "at least one", __doc__ or "")


def _episodes(source: Source, found: list[str], fps: int) -> Iterator[tuple[str, Episode] | SetAside]:
    for folder in found:
        try:
            yield folder.rstrip("/") or ".", _episode(source, folder, fps)
        except _Unusable as error:
            yield SetAside(folder.rstrip("/") or ".", str(error))


def _episode(source: Source, folder: str, fps: int) -> Episode:
    manifest, table = _manifest(source, folder), _steps(source, folder)
    if manifest["fps"] != fps:
        remedy = "import episodes with different rates separately"
        raise BadInput(f"{source.where}: {folder}{MANIFEST}", "fps", manifest["fps"], f"{fps}, as before", remedy)
    arrays = {feature: _values(table, feature, names) for feature in _FEATURES if (names := _elements(table, feature))}
    images = {
        camera: _video(source, files[0], len(table), fps) if files[0].endswith(".mp4") else _pictures(source, files)
        for camera, files in _cameras(source, folder).items()
    }
    instruction = manifest["instruction"]
    return Episode(manifest.get("task", instruction), instruction, -1, images, arrays)


def _manifest(source: Source, folder: str) -> _Manifest:
    try:
        manifest = source.json(folder + MANIFEST)
    except BadInput as error:
        raise _Unusable(f"{MANIFEST}: {error.found}") from error
    kinds = {"instruction": str, "fps": int}
    if not isinstance(manifest, dict):
        raise _Unusable(f"{MANIFEST}: not a JSON object")
    for key, kind in (kinds | {key: str for key in ("task", "robot") if key in manifest}).items():
        if not isinstance(manifest.get(key), kind) or not manifest[key]:
            raise _Unusable(f"{MANIFEST}, {key}: {manifest.get(key)!r:.80}")
    return cast(_Manifest, manifest)


def _steps(source: Source, folder: str) -> pa.Table:
    for name in _STEPS:
        if folder + name in source.files:
            break
    else:
        raise _Unusable(f"neither {' nor '.join(_STEPS)}")
    with source.open(folder + name) as path:
        try:
            return pyarrow.csv.read_csv(path) if name.endswith(".csv") else pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise _Unusable(f"{name}: {str(error).splitlines()[0]}") from error


def _elements(table: pa.Table, feature: str) -> list[str]:
    return [name.removeprefix(f"{feature}.") for name in table.column_names if name.startswith(f"{feature}.")]


def _values(table: pa.Table, feature: str, names: list[str]) -> np.ndarray:
    """float32 (T, D); missing values are NaN, which the importer refuses."""
    try:
        columns = [table[f"{feature}.{name}"].cast(pa.float64()).to_numpy() for name in names]
    except pa.ArrowException as error:
        raise _Unusable(f"{feature}: {str(error).splitlines()[0]}") from error
    return np.stack(columns, 1).astype(np.float32)


def _cameras(source: Source, folder: str) -> dict[str, list[str]]:
    """Camera → its images in order, or its video."""
    cameras: dict[str, list[str]] = {}
    for name in source.files:
        inside = PurePosixPath(name.removeprefix(folder)) if name.startswith(f"{folder}images/") else None
        if inside and len(inside.parts) == 2 and inside.suffix == ".mp4":
            cameras.setdefault(inside.stem, []).append(name)
        elif inside and len(inside.parts) == 3 and inside.suffix == ".png":
            cameras.setdefault(inside.parts[1], []).append(name)
    return cameras


def _pictures(source: Source, files: list[str]) -> np.ndarray:
    frames = []
    for i, name in enumerate(files):
        if PurePosixPath(name).stem != f"{i:06d}":
            raise _Unusable(f"{name} where {i:06d}.png is expected")
        with source.open(name) as path:
            try:
                with Image.open(path, formats=["PNG"]) as image:
                    frames.append(np.asarray(image.convert("RGB")))
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise _Unusable(f"{name}: not an image ({error})") from error
    if len({frame.shape for frame in frames}) != 1:
        raise _Unusable(f"{PurePosixPath(files[0]).parent}: images of different shapes")
    return np.stack(frames)


def _video(source: Source, name: str, length: int, fps: int) -> np.ndarray:
    with ExitStack() as stack:
        try:
            return frames_at(stack.enter_context(source.open(name)), np.arange(length) / fps, 0.25 / fps)
        except FrameMissing as error:
            raise _Unusable(f"{name}: {error}") from error
