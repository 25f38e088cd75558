"""LeRobot datasets, v2.1 and v3.0 (features of numbers, images and videos) in, episodes out.

Frames are found by their timestamps. The format declares no lag; `--lag` may, and the lag test checks it. A dataset
that we wrote keeps its task keys, seeds and image convention.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from world2act.core.errors import BadInput
from world2act.data.episodes import Episode
from world2act.data.features import INDICES, LANGUAGE
from world2act.formats.importers import lerobot_v2, lerobot_v3
from world2act.formats.importers.lerobot_files import EpisodeFiles, Failed
from world2act.formats.importers.recording import UPRIGHT, Recording, SetAside
from world2act.formats.importers.source import Source

INFO = "meta/info.json"
_LAYOUTS: Mapping[str, Callable[[Source, dict[str, Any]], EpisodeFiles]] = {
    "v2.1": lerobot_v2.EpisodesV21,
    "v3.0": lerobot_v3.EpisodesV30,
}
_NUMBERS = ("float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_PICTURES = ("image", "video")


@dataclass(frozen=True)
class _Shape:
    """The features of a dataset. cameras: our name → feature; names: feature → names of its elements; dtypes."""

    cameras: Mapping[str, str]
    names: Mapping[str, Sequence[str]]
    dtypes: Mapping[str, str]
    left_out: Sequence[str]


RECOGNISED = f"a LeRobot dataset ({INFO})"


def recognises(source: Source) -> bool:
    return INFO in source.files


def open_recording(source: Source) -> Recording:
    """Open the dataset. Raises `BadInput` when it is of another version, or its metadata are incomplete."""
    info = source.json(INFO)
    where = f"{source.where}: {INFO}"
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if not isinstance(version, str) or version not in _LAYOUTS:
        remedy = "convert it with LeRobot's own script (lerobot.datasets.v30 / v21) first"
        raise BadInput(where, "codebase_version", version, f"one of {sorted(_LAYOUTS)}", remedy)
    required: dict[str, type | tuple[type, ...]]
    required = {"fps": (int, float), "features": dict, "data_path": str, "total_episodes": int}
    for key, kind in required.items():
        if not isinstance(info.get(key), kind):
            raise BadInput(where, key, info.get(key), "a value as LeRobot writes it", "complete the file")
    if info["fps"] <= 0 or info["fps"] != int(info["fps"]):
        raise BadInput(where, "fps", info["fps"], "a whole number of frames per second", "resample the data")
    shape, files = _shape(where, info["features"]), _LAYOUTS[version](source, info)
    ours = info["world2act"] if isinstance(info.get("world2act"), dict) else {}
    return Recording(
        format=f"lerobot {version}",
        fps=int(info["fps"]),
        robot_type=info.get("robot_type"),
        image_convention=ours.get("image_convention", UPRIGHT),
        lag=0,
        names=shape.names,
        dtypes={name: dtype for name, dtype in shape.dtypes.items() if dtype != "float32"},
        total=len(files),
        episodes=_episodes(files, shape),
        left_out=shape.left_out,
    )


def _shape(where: str, features: Mapping[str, Any]) -> _Shape:
    cameras, names, dtypes, left_out = {}, {}, {}, []
    for key, feature in features.items():
        if key in INDICES:
            continue
        dtype, shape = (feature.get(name) for name in ("dtype", "shape")) if isinstance(feature, dict) else (None, None)
        if not isinstance(shape, list) or not shape:
            raise BadInput(where, f"features.{key}", feature, "a dtype and a shape", "complete the file")
        if dtype in _PICTURES and 3 in (shape[0], shape[-1]):
            camera = key.removeprefix("observation.").removeprefix("images.")
            if camera in cameras:
                raise BadInput(where, f"features.{key}", f"two cameras named {camera}", "one", "rename one of them")
            cameras[camera] = key
        elif dtype in _NUMBERS and len(shape) == 1:
            names[key], dtypes[key] = _names(key, feature.get("names"), shape[0]), dtype
        elif key != LANGUAGE:
            left_out.append(key)
    return _Shape(cameras, names, dtypes, left_out)


def _names(key: str, names: Any, width: int) -> list[str]:
    """The names of a feature's elements: a list, or the only value of a mapping; else the feature's name, numbered."""
    if isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    if isinstance(names, list) and len(names) == width and all(isinstance(name, str) for name in names):
        return names
    return [f"{key}_{i}" for i in range(width)]


def _episodes(files: EpisodeFiles, shape: _Shape) -> Iterator[tuple[str, Episode] | SetAside]:
    with files:
        for index in range(len(files)):
            name = f"episode {index}"
            try:
                yield name, _episode(files, index, shape)
            except Failed as error:
                yield SetAside(name, str(error))


def _episode(files: EpisodeFiles, index: int, shape: _Shape) -> Episode:
    table, record = files.table(index), files.record(index)
    for name in ("timestamp", *shape.names):
        if name not in table.column_names:
            raise Failed(f"no column {name}")
        if table[name].null_count:
            raise Failed(f"{name}: {table[name].null_count} rows without a value")
    images = {}
    for camera, key in shape.cameras.items():
        if key in table.column_names:
            images[camera] = _decoded(key, table[key])
        else:
            images[camera] = files.frames(index, key, _numbers(table, "timestamp", "float64", 1)[:, 0])
    arrays = {name: _numbers(table, name, shape.dtypes[name], len(names)) for name, names in shape.names.items()}
    if len(table) != record.length:
        raise Failed(f"{len(table)} rows; the metadata say {record.length}")
    return Episode(record.task, record.instruction, record.seed, images, arrays)


def _numbers(table: pa.Table, name: str, dtype: str, width: int) -> np.ndarray:
    """A column as numbers (T, width)."""
    try:
        return np.array(table[name].to_pylist(), dtype).reshape(len(table), width)
    except (ValueError, TypeError, OverflowError) as error:
        raise Failed(f"{name}: rows that are not {width} numbers") from error


def _decoded(key: str, column: pa.ChunkedArray) -> np.ndarray:
    """PNG frames in a column, uint8 (T, H, W, 3)."""
    frames = []
    for i, value in enumerate(column.to_pylist()):
        try:
            with Image.open(io.BytesIO(value["bytes"]), formats=["PNG", "JPEG"]) as image:
                frames.append(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError, TypeError, KeyError, Image.DecompressionBombError) as error:
            raise Failed(f"{key}, frame {i}: not an image ({error})") from error
    if len({frame.shape for frame in frames}) != 1:
        raise Failed(f"{key}: images of different shapes")
    return np.stack(frames)
