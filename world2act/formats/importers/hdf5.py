"""HDF5 files of demonstrations, `data/demo_<i>`: files of a source in, their groups out. Nothing is unpickled.

Links to other files, and datasets whose content is in other files, are not followed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar

import h5py
import numpy as np

from world2act.core.errors import BadInput
from world2act.data.episodes import Episode
from world2act.formats.importers.recording import SetAside
from world2act.formats.importers.source import Source

_About = TypeVar("_About")
SUFFIXES = (".hdf5", ".h5")
_LARGEST = 2**34  # bytes per dataset: a file may declare a shape that it has no data for


class Unusable(Exception):
    """Why one episode cannot be used."""


def hdf5_files(source: Source) -> list[str]:
    return [name for name in source.files if PurePosixPath(name).suffix in SUFFIXES]


@contextmanager
def open_data(source: Source, name: str, *, glance: bool = False) -> Iterator[h5py.Group]:
    """The group `data` of a file.

    Raises:
        Unusable: the file is truncated or damaged, or has no such group.
    """
    with source.open(name, glance=glance) as path:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise Unusable(f"not an undamaged HDF5 file: {error}") from error
        with file:
            if not isinstance(_linked(file, "data"), h5py.Group):
                raise Unusable("no group `data`")
            yield file["data"]


@dataclass(frozen=True)
class Header:
    """What the first undamaged file says: the attributes of its group `data`, and the shape of its first actions."""

    file: str
    attributes: frozenset[str]
    actions: tuple[int, ...]


@lru_cache(maxsize=1)  # every importer asks for it, and a file of a bucket is downloaded to be read
def first_header(source: Source) -> Header | None:
    """The header of the first file that is not damaged; None where there is none."""
    for name in hdf5_files(source):
        try:
            with open_data(source, name, glance=True) as data:
                demos = demonstrations(data)
                shape = getattr(data[demos[0]].get("actions"), "shape", ()) if demos else ()
                return Header(name, frozenset(data.attrs), tuple(shape))
        except Unusable:
            continue
    return None


def demonstrations(data: h5py.Group) -> list[str]:
    """The names of the demonstrations, demo_2 before demo_10."""
    names = [name for name in data if name.startswith("demo_") and name.removeprefix("demo_").isdigit()]
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def read_episodes(
    source: Source,
    fps: int,
    describe: Callable[[str, h5py.Group], _About],
    read: Callable[[h5py.Group, _About], Episode],
) -> Iterator[tuple[str, Episode] | SetAside]:
    """Every demonstration of every file, or the reason why it, or its file, cannot be used.

    Args:
        fps: the rate that every file must have.
        describe: reads what a file says about all its demonstrations, from its name and its group `data`.
        read: makes the episode of a demonstration's group.
    """
    for name in hdf5_files(source):
        try:
            with open_data(source, name) as data:
                control_rate(source, name, data, fps)
                about = describe(name, data)
                for demo in demonstrations(data):
                    position = f"{name}:{demo}"
                    try:
                        yield position, read(subgroup(data, demo), about)
                    except (Unusable, OSError, ValueError) as error:  # h5py's for a damaged block, numpy's for lengths
                        yield SetAside(position, str(error))
        except Unusable as error:
            yield SetAside(name, str(error))


def numbers(group: h5py.Group, name: str, width: int) -> np.ndarray:
    """A dataset of numbers as float32 (T, width). Raises `Unusable` when it is missing or anything else."""
    values = _dataset(group, name)
    if values.ndim != 2 or values.shape[1] != width or values.dtype.kind not in "fiu":
        raise Unusable(f"{name}: {values.dtype} of shape {values.shape} where (frames, {width}) numbers are expected")
    return values[()].astype(np.float32)


def pictures(group: h5py.Group, name: str) -> np.ndarray:
    """A dataset of frames, uint8 (T, H, W, 3). Raises `Unusable` when it is missing or anything else."""
    values = _dataset(group, name)
    if values.ndim != 4 or values.shape[3] != 3 or values.dtype != np.uint8:
        raise Unusable(f"{name}: {values.dtype} of shape {values.shape} where uint8 (frames, H, W, 3) is expected")
    return values[()]


def subgroup(group: h5py.Group, name: str) -> h5py.Group:
    """A group in a group. Raises `Unusable` when there is none."""
    found = _linked(group, name)
    if not isinstance(found, h5py.Group):
        raise Unusable(f"no group {name}")
    return found


def attribute(source: Source, file: str, group: h5py.Group, name: str) -> str:
    """An attribute that is text. Raises `BadInput` when it is missing."""
    value = group.attrs.get(name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise BadInput(f"{source.where}: {file}", f"{group.name}, attribute {name}", value, "text", "complete the file")
    return value


def json_attribute(source: Source, file: str, group: h5py.Group, name: str) -> dict[str, Any]:
    """An attribute that is a JSON object. Raises `BadInput` when it is missing or anything else."""
    text = attribute(source, file, group, name)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        place = f"{group.name}, attribute {name}"
        raise BadInput(f"{source.where}: {file}", place, f"{text:.80}", "a JSON object", "complete the file")
    return value


def survey(source: Source) -> tuple[int, int | None]:
    """Control steps per second, and the number of demonstrations: None where counting would need a whole bucket.

    Raises:
        BadInput: all files are damaged.
    """
    rate: int | None = None
    total = 0
    for name in hdf5_files(source):
        try:
            with open_data(source, name, glance=True) as data:
                rate = rate or control_rate(source, name, data)
                total += len(demonstrations(data))
        except Unusable:
            continue
        if not source.here:
            return rate, None
    if rate is None:
        found = f"{len(hdf5_files(source))} HDF5 files, all damaged"
        raise BadInput(source.where, "", found, "at least one undamaged file", "get the files again")
    return rate, total


def control_rate(source: Source, file: str, data: h5py.Group, wanted: int | None = None) -> int:
    """Control steps per second, from robomimic's `env_args`. Raises `BadInput` if missing, or not as wanted."""
    arguments = json_attribute(source, file, data, "env_args").get("env_kwargs")
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    place = "fps: data, attribute env_args, env_kwargs.control_freq"
    if not isinstance(rate, (int, float)) or rate <= 0 or rate != int(rate):
        raise BadInput(f"{source.where}: {file}", place, rate, "control steps per second", "complete the file")
    if wanted not in (None, rate):
        raise BadInput(
            f"{source.where}: {file}", place, rate, f"{wanted}, as in the first file", "import this file separately"
        )
    return int(rate)


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    found = _linked(group, name)
    if not isinstance(found, h5py.Dataset):
        raise Unusable(f"no {name}")
    if found.is_virtual or found.external:
        raise Unusable(f"the content of {name} is in another file")
    if found.nbytes > _LARGEST:
        raise Unusable(f"{name}: {found.nbytes} bytes")
    return found


def _linked(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    try:
        link = group.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise Unusable(f"{name} is a link to another place")
        return group[name]
    except (KeyError, RuntimeError, OSError) as error:
        raise Unusable(f"{name}: {error}") from error
