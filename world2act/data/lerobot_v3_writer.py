"""Writing a LeRobotDataset v3.0: episodes in, a dataset directory out.

The layout is LeRobot's (meta/info.json, stats.json, tasks.parquet, episodes/, data/; frames as PNG in parquet, one row
group per episode) with two additions that LeRobot's reader ignores: `world2act` in info.json, and the columns
`task_key` and `seed` in the episodes table. Unlike LeRobot's writer, it writes the same bytes for the same episodes.
Memory does not grow with the number of episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world2act.core.errors import BadInput
from world2act.core.storage import write_json
from world2act.data.episodes import EncodedEpisode
from world2act.data.features import IMAGES, INDICES, Feature, StoredImage, data_schema, index_features, is_numeric
from world2act.data.info import DATA_PATH, EPISODES_PATH, INFO_PATH, VERSION, DatasetInfo, RecordingDetails
from world2act.data.statistics import FeatureStatistics, array_statistics, image_statistics, streamed_statistics

_CHUNK_FILES, _DATA_MB, _VIDEO_MB = 1000, 100, 200
_EPISODES_PER_GROUP, _ROWS_PER_READ = 100, 65536


class DatasetWriter:
    """Writes episodes one by one, and the metadata when the `with` block ends without an error.

    Args:
        path: an empty directory.
        features: name → LeRobot feature.
        fps: frames per second; there is one frame per control step.
        robot_type: the embodiment's name.
        extra: the content of `world2act` in info.json, see `RecordingDetails`.
    """

    def __init__(
        self, path: Path, *, features: Mapping[str, Feature], fps: int, robot_type: str, extra: Mapping[str, object]
    ) -> None:
        self._path, self._fps, self._robot_type = path, fps, robot_type
        self._details = dict(extra)
        self._features = dict(sorted(features.items()))
        self._schema = data_schema(self._features)
        self._splits: dict[str, str] = {}
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, object]] = []
        self._histograms: dict[str, np.ndarray] = {}
        self._episodes = self._frames = self._file = 0
        self._parquet: pq.ParquetWriter | None = None
        self._table: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_rows()
        for writer in (self._parquet, self._table):
            if writer:
                writer.close()
        if kind is None:
            self._write_metadata()

    def set_splits(self, splits: Mapping[str, range]) -> None:
        """Name contiguous ranges of episodes."""
        self._splits = {name: f"{episodes.start}:{episodes.stop}" for name, episodes in splits.items()}

    def note(self, **details: object) -> None:
        """Add to the content of `world2act` in info.json."""
        self._details |= details

    def add(self, episode: EncodedEpisode) -> None:
        """Append one episode."""
        indices = self._index_columns(episode)
        columns: dict[str, object] = dict(indices)
        statistics = {name: array_statistics(values[:, None]) for name, values in indices.items()}
        for name, feature in self._features.items():
            if feature["dtype"] == "image":
                columns[name], statistics[name] = self._image_column(episode, name)
            elif feature["dtype"] == "language":
                columns[name] = pa.array([episode.language] * episode.length, self._schema.field(name).type)
            else:
                values = np.ascontiguousarray(episode.arrays[name], feature["dtype"])
                columns[name], statistics[name] = number_column(values), array_statistics(values)
        table = pa.table([columns[field.name] for field in self._schema], schema=self._schema)
        self._data_file().write_table(table, row_group_size=episode.length)
        self._rows.append(self._episode_row(episode, statistics))
        self._frames += episode.length
        self._episodes += 1
        if len(self._rows) == _EPISODES_PER_GROUP:
            self._write_rows()

    def _index_columns(self, episode: EncodedEpisode) -> dict[str, np.ndarray]:
        length = episode.length
        task_index = self._tasks.setdefault(episode.instruction, len(self._tasks))
        frame_index = np.arange(length)
        return {
            "timestamp": (frame_index / self._fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(length, self._episodes),
            "index": self._frames + frame_index,
            "task_index": np.full(length, task_index),
        }

    def _image_column(self, episode: EncodedEpisode, name: str) -> tuple[list[StoredImage], FeatureStatistics]:
        camera = name.removeprefix(IMAGES)
        histogram = episode.histograms[camera]
        self._histograms[name] = self._histograms.get(name, 0) + histogram
        images = [StoredImage(bytes=png, path=f"frame-{i:06d}.png") for i, png in enumerate(episode.pngs[camera])]
        return images, image_statistics(histogram, episode.length)

    def _episode_row(self, episode: EncodedEpisode, statistics: Mapping[str, FeatureStatistics]) -> dict[str, object]:
        chunk, file = divmod(self._file, _CHUNK_FILES)
        row: dict[str, object] = {
            "episode_index": self._episodes,
            "tasks": [episode.instruction],
            "length": episode.length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + episode.length,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "task_key": episode.task,
            "seed": episode.seed,
        }
        for name in sorted(statistics):
            row |= {f"stats/{name}/{key}": value for key, value in sorted(statistics[name].items())}
        return row

    def _write_rows(self) -> None:
        """Move the rows of the episodes table that are in memory to its file."""
        if not self._rows:
            return
        if self._table is None:
            path = self._path / EPISODES_PATH.format(chunk_index=0, file_index=0)
            path.parent.mkdir(parents=True)
            self._table = pq.ParquetWriter(path, pa.Table.from_pylist(self._rows).schema)
        self._table.write_table(pa.Table.from_pylist(self._rows, schema=self._table.schema))
        self._rows.clear()

    def _written(self, name: str) -> Iterator[np.ndarray]:
        """The rows of a feature of numbers that are in the data files, (T, D) at a time."""
        for path in sorted((self._path / "data").glob("*/*.parquet")):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_ROWS_PER_READ, columns=[name]):
                    column = batch.column(0)
                    if pa.types.is_fixed_size_list(column.type):
                        column = column.flatten()
                    yield column.to_numpy(zero_copy_only=False).reshape(len(batch), -1)

    def _data_file(self) -> pq.ParquetWriter:
        """The file being written; a new one once it has outgrown the size that LeRobot recommends."""
        chunk, number = divmod(self._file, _CHUNK_FILES)
        path = self._path / DATA_PATH.format(chunk_index=chunk, file_index=number)
        if self._parquet and path.stat().st_size > _DATA_MB * 2**20:
            self._parquet.close()
            self._parquet = None
            self._file += 1
            return self._data_file()
        if self._parquet is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pq.ParquetWriter(path, self._schema, compression="snappy", write_page_checksum=True)
        return self._parquet

    def _write_metadata(self) -> None:
        if not self._episodes:
            remedy = "raise the number of episodes in params.yaml"
            raise BadInput(self._path, "", "no episode", "at least one episode", remedy)
        numbers = [name for name, feature in self._features.items() if is_numeric(feature)]
        statistics = {name: streamed_statistics(partial(self._written, name)) for name in (*numbers, *INDICES)}
        statistics |= {name: image_statistics(histogram, self._frames) for name, histogram in self._histograms.items()}
        info: DatasetInfo = {
            "codebase_version": VERSION,
            "robot_type": self._robot_type,
            "fps": self._fps,
            "features": self._features | index_features(),
            "splits": self._splits,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK_FILES,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "data_path": DATA_PATH,
            "video_path": None,
            "world2act": cast(RecordingDetails, self._details),
        }
        write_json(self._path / INFO_PATH, info)
        write_json(self._path / "meta/stats.json", statistics)
        _write_tasks(self._path / "meta/tasks.parquet", self._tasks)


def number_column(values: np.ndarray) -> pa.Array:
    """Numbers (T, D) as a column: plain ones where D is 1, lists of D else."""
    flat = pa.array(values.ravel())
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """Write the table of instructions, with the metadata by which pandas makes `task` its index, as LeRobot does."""
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "pandas_version": None,
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
    }
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), "task": list(tasks)})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)
