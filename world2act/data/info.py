"""meta/info.json of a LeRobot v3.0 dataset: its keys, the splits and the order of the cameras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from world2act.core.errors import BadInput
from world2act.core.storage import read_json
from world2act.data.features import IMAGES, Feature

VERSION = "v3.0"
INFO_PATH = "meta/info.json"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
RESTORE = "restore it with `dvc checkout`, or delete it and run `dvc repro` to make it again"


class CameraDetails(TypedDict):
    """One camera of `demos.cameras`, as it was when the dataset was recorded."""

    name: str
    position_m: NotRequired[list[float] | None]
    fovy_deg: NotRequired[float | None]
    protocol: NotRequired[str | None]


class ActionLag(TypedDict):
    """The time lag between actions and observations that `world2act import` measured in a source, in control steps."""

    declared_lag: int
    measured_lag: int | None
    explained: float | None
    episodes: int


class SourceFile(TypedDict):
    path: str
    sha256: str


class SourceDetails(TypedDict):
    """The files that a dataset was imported from."""

    format: str
    files: list[SourceFile]


class RecordingDetails(TypedDict, total=False):
    """What we add to info.json, under the key `world2act`. LeRobot's reader ignores it.

    `alignment` and `source` are there in imported datasets; `recorded` holds the action lag of every imported
    dataset that the episodes were taken from; `ingested` is the range "start:end" of ingested episodes.
    """

    simulator: str
    cameras: list[CameraDetails]
    camera: CameraDetails  # what earlier versions wrote in place of `cameras`
    image_convention: str
    prehensile: dict[str, bool]
    set: str
    renderer: str
    settle_steps: int
    action_noise: float
    noise_steps: int
    max_steps: int
    ingested: str
    source: SourceDetails
    alignment: ActionLag
    recorded: dict[str, ActionLag]


class DatasetInfo(TypedDict):
    """The content of meta/info.json."""

    codebase_version: str
    robot_type: str
    fps: int
    features: dict[str, Feature]
    splits: dict[str, str]
    total_episodes: int
    total_frames: int
    total_tasks: int
    chunks_size: int
    data_files_size_in_mb: int
    video_files_size_in_mb: int
    data_path: str
    video_path: str | None
    world2act: NotRequired[RecordingDetails]


def read_info(root: Path) -> DatasetInfo:
    """Read the info.json of the dataset in `root`. Raises `BadInput` where it is missing or of another version."""
    path = root / INFO_PATH
    info: DatasetInfo = read_json(path)
    version = info.get("codebase_version")
    if version != VERSION:
        raise BadInput(path, "codebase_version", version, VERSION, "convert the dataset to v3.0")
    return info


def read_splits(root: Path, info: DatasetInfo) -> dict[str, range]:
    """Split name → range of episodes. Raises `BadInput` where they are not ranges."""
    try:
        return {name: range(*map(int, text.split(":"))) for name, text in info["splits"].items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        expected = 'ranges of episodes such as "0:40"'
        raise BadInput(root / INFO_PATH, "splits", info.get("splits"), expected, RESTORE) from error


def camera_names(info: DatasetInfo) -> list[str]:
    """The cameras in the order of recording. `features` is sorted by name; the order is in `world2act.cameras`."""
    names = [name.removeprefix(IMAGES) for name in info["features"] if name.startswith(IMAGES)]
    details: object = info.get("world2act")
    recorded: object = details.get("cameras") if isinstance(details, dict) else None
    cameras = recorded if isinstance(recorded, list) else []
    order = [camera.get("name") for camera in cameras if isinstance(camera, Mapping)]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))
