"""LeRobot v2.1 as GR00T-N1.6 reads it: per episode one parquet file and its videos, and meta/modality.json.

Videos are H.264 where the installed PyAV has it, else AV1, encoded by one thread: always the same bytes. Videos are
lossy; v3.0 is lossless.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO, TypedDict, cast

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world2act.core.errors import BadInput
from world2act.core.storage import write_json
from world2act.data.features import IMAGES, INDICES, LANGUAGE, Feature, index_features
from world2act.data.lerobot_v3 import EpisodeDataset, number_array
from world2act.data.lerobot_v3_writer import number_column
from world2act.data.statistics import FeatureStatistics, array_statistics, image_statistics, streamed_statistics
from world2act.formats.exporters.modality import SUBTASK_COLUMN, TASK_COLUMNS, modality
from world2act.formats.exporters.subtasks import Subtask

VERSION = "v2.1"
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_CHUNK = 1000
_CODEC, _OPTIONS = (
    ("libx264", {"crf": "18", "g": "2"}) if "libx264" in av.codecs_available else ("libsvtav1", {"crf": "30", "g": "2"})
)


class _VideoFeature(TypedDict):
    dtype: str
    names: list[str]
    shape: list[int]
    info: dict[str, object]


FORMAT = "lerobot-v2.1"


def write(
    dataset: EpisodeDataset,
    folder: Path,
    subtasks: Mapping[int, Sequence[Subtask]] | None,
    progress: Callable[[int, int | None], None],
) -> None:
    """Write the dataset into `folder`.

    Raises:
        BadInput: images with an odd width or height, which H.264 does not support.
    """
    for camera in dataset.cameras:
        shape = dataset.features[IMAGES + camera]["shape"]
        if shape[0] % 2 or shape[1] % 2:
            where, place = dataset.path / "meta/info.json", f"features.{IMAGES}{camera}.shape"
            raise BadInput(where, place, shape, "even numbers of pixels", "record at another size")
    numbers = {
        name: feature
        for name, feature in dataset.features.items()
        if feature["dtype"] != "image" and name not in (*INDICES, LANGUAGE)
    }
    columns = (*TASK_COLUMNS, *((SUBTASK_COLUMN,) if subtasks is not None else ()))
    tasks: dict[str, int] = {}
    (folder / "meta").mkdir()
    with (
        (folder / "meta/episodes.jsonl").open("w") as episodes,
        (folder / "meta/episodes_stats.jsonl").open("w") as statistics,
    ):
        first = 0
        for record in dataset.episodes:
            spoken = (subtasks or {}).get(record.index, [])
            table = _table(dataset, record.index, first, numbers, tasks, spoken, columns)
            path = folder / DATA_PATH.format(episode_chunk=record.index // _CHUNK, episode_index=record.index)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
            row = {"episode_index": record.index, "tasks": [record.instruction], "length": record.length}
            _write_line(episodes, row | {"task_key": record.task, "seed": record.seed})
            stats = {name: array_statistics(_values(table, name)) for name in (*numbers, *INDICES)}
            for camera in dataset.cameras:
                frames = dataset.frames(record.index, camera)
                stats[IMAGES + camera] = _picture_statistics(frames)
                _write_video(_video(folder, record.index, camera), frames, dataset.fps)
            _write_line(statistics, {"episode_index": record.index, "stats": stats})
            first += record.length
            progress(record.index + 1, len(dataset))
    with (folder / "meta/tasks.jsonl").open("w") as lines:
        for task, index in tasks.items():
            _write_line(lines, {"task_index": index, "task": task})
    write_json(folder / "meta/stats.json", _statistics(folder, numbers))
    write_json(folder / "meta/modality.json", modality(dataset.features, dataset.cameras, columns))
    write_json(folder / "meta/info.json", _info(dataset, numbers, columns, len(tasks)))


def _table(
    dataset: EpisodeDataset,
    index: int,
    first: int,
    numbers: Mapping[str, Feature],
    tasks: dict[str, int],
    subtasks: Sequence[Subtask],
    columns: Sequence[str],
) -> pa.Table:
    """The rows of an episode; new texts are added to `tasks` with the next number."""
    record, arrays = dataset.episodes[index], dataset.columns(index, list(numbers))
    task = tasks.setdefault(record.instruction, len(tasks))
    rows: dict[str, object] = {}
    for name in numbers:
        rows[name] = number_column(arrays[name])
    frames = np.arange(record.length)
    rows["timestamp"] = (frames / dataset.fps).astype(np.float32)
    rows |= {"frame_index": frames, "episode_index": np.full(record.length, index), "index": first + frames}
    rows |= {name: np.full(record.length, task) for name in ("task_index", *TASK_COLUMNS)}
    if SUBTASK_COLUMN in columns:
        starts = [subtask.start for subtask in subtasks] or [0]
        texts = [tasks.setdefault(subtask.prompt, len(tasks)) for subtask in subtasks] or [task]
        rows[SUBTASK_COLUMN] = np.array(texts)[np.searchsorted(starts, frames, "right") - 1]
    return pa.table(rows)


def _values(table: pa.Table, name: str) -> np.ndarray:
    return number_array(table[name])


def _statistics(folder: Path, numbers: Mapping[str, Feature]) -> dict[str, FeatureStatistics]:
    """The statistics of the features that GR00T normalises, under the names that it knows."""

    def chunks(name: str) -> Iterable[np.ndarray]:
        return (_values(pq.read_table(file, columns=[name]), name) for file in sorted((folder / "data").glob("*/*")))

    kept = ("mean", "std", "min", "max", "q01", "q99")
    found = {name: streamed_statistics(partial(chunks, name)) for name in numbers}
    return {name: {key: statistics[key] for key in kept} for name, statistics in found.items()}


def _picture_statistics(frames: np.ndarray) -> FeatureStatistics:
    histogram = np.stack([np.bincount(frames[..., channel].ravel(), minlength=256) for channel in range(3)])
    return image_statistics(histogram, len(frames))


def _video(folder: Path, index: int, camera: str) -> Path:
    path = folder / VIDEO_PATH.format(episode_chunk=index // _CHUNK, video_key=IMAGES + camera, episode_index=index)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(av.VideoStream, container.add_stream(_CODEC, rate=fps, options=_OPTIONS))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def _info(
    dataset: EpisodeDataset, numbers: Mapping[str, Feature], columns: Sequence[str], tasks: int
) -> dict[str, object]:
    scalars = index_features()
    scalars |= {name: {"dtype": "int64", "names": None, "shape": [1]} for name in columns}
    videos: dict[str, _VideoFeature] = {}
    for camera in dataset.cameras:
        height, width, channels = dataset.features[IMAGES + camera]["shape"]
        details: dict[str, object] = {
            "video.height": height,
            "video.width": width,
            "video.channels": channels,
            "video.codec": "h264" if _CODEC == "libx264" else "av1",
            "video.pix_fmt": "yuv420p",
            "video.fps": dataset.fps,
            "video.is_depth_map": False,
            "has_audio": False,
        }
        names = ["height", "width", "channels"]
        videos[IMAGES + camera] = {"dtype": "video", "names": names, "shape": [height, width, 3], "info": details}
    return {
        "codebase_version": VERSION,
        "robot_type": dataset.info.get("robot_type"),
        "fps": dataset.fps,
        "features": {**numbers, **videos, **scalars},
        "splits": {"train": f"0:{len(dataset)}"},
        "total_episodes": len(dataset),
        "total_frames": sum(dataset.lengths),
        "total_tasks": tasks,
        "total_videos": len(dataset) * len(dataset.cameras),
        "total_chunks": -(-len(dataset) // _CHUNK),
        "chunks_size": _CHUNK,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "world2act": dataset.details,
    }


def _write_line(lines: TextIO, value: Mapping[str, object]) -> None:
    lines.write(json.dumps(value, sort_keys=True, allow_nan=False) + "\n")
