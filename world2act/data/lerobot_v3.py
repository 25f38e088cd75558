"""LeRobotDataset v3.0: episodes in, a dataset directory out, and back.

The layout is LeRobot's own (meta/info.json, stats.json, tasks.parquet, episodes/, data/; frames as PNG in parquet,
one row group an episode), with two additions that LeRobot's reader passes over: `world2act` in info.json, and the
columns `task_key` and `seed` of the episodes. Unlike LeRobot's writer, the same episodes always give the same bytes.
Memory does not grow with the number of episodes but for the reader's records of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from world2act.core.errors import BadInput
from world2act.core.storage import read_json, read_parquet, write_json
from world2act.data.episodes import EncodedEpisode, array_statistics, image_statistics
from world2act.data.schema import INDICES, data_schema
from world2act.data.statistics import streamed_statistics

VERSION = "v3.0"
IMAGES = "observation.images."
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_CHUNK_FILES, _DATA_MB, _VIDEO_MB = 1000, 100, 200
_EPISODES_A_GROUP, _ROWS_READ = 100, 65536
LANGUAGE = "language_persistent"
_REMEDY = "restore it with `dvc checkout`, or delete it and run `dvc repro` to make it again"


class DatasetWriter:
    """Write episodes one by one; the metadata is written when the `with` block ends without an error.

    Args:
        path: an empty directory.
        features: name → LeRobot feature (`dtype` "image", "language" or of numbers, `shape`, `names`).
        fps: frames a second; one frame a control step.
        robot_type: the embodiment's name.
        extra: what stands under `world2act` in info.json.
    """

    def __init__(
        self, path: Path, *, features: Mapping[str, dict[str, Any]], fps: int, robot_type: str, extra: Mapping[str, Any]
    ) -> None:
        self._path, self._fps, self._robot_type, self._extra = path, fps, robot_type, dict(extra)
        self._features = dict(sorted(features.items()))
        self._schema = data_schema(self._features)
        self._splits: dict[str, str] = {}
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._histograms: dict[str, np.ndarray] = {}
        self._episodes = self._frames = self._file = 0
        self._parquet: pq.ParquetWriter | None = None
        self._table: pq.ParquetWriter | None = None

    def __enter__(self) -> DatasetWriter:
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

    def note(self, **details: Any) -> None:
        """Add to what stands under `world2act` in info.json."""
        self._extra |= details

    def add(self, episode: EncodedEpisode) -> None:
        """Append one episode."""
        index, length = self._episodes, episode.length
        task_index = self._tasks.setdefault(episode.instruction, len(self._tasks))
        frame_index = np.arange(length)
        columns: dict[str, Any] = {
            "timestamp": (frame_index / self._fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(length, index),
            "index": self._frames + frame_index,
            "task_index": np.full(length, task_index),
        }
        statistics = {name: array_statistics(values[:, None]) for name, values in columns.items()}
        for name, feature in self._features.items():
            if feature["dtype"] == "image":
                camera = name.removeprefix(IMAGES)
                columns[name] = [
                    {"bytes": png, "path": f"frame-{i:06d}.png"} for i, png in enumerate(episode.pngs[camera])
                ]
                statistics[name] = image_statistics(episode.histograms[camera], length)
                self._histograms[name] = self._histograms.get(name, 0) + episode.histograms[camera]
            elif feature["dtype"] == "language":
                columns[name] = pa.array([episode.language] * length, self._schema.field(name).type)
            else:
                values = np.ascontiguousarray(episode.arrays[name], feature["dtype"])
                flat = pa.array(values.ravel())
                columns[name] = (
                    flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
                )
                statistics[name] = array_statistics(values)
        self._data_file().write_table(
            pa.table([columns[f.name] for f in self._schema], schema=self._schema), row_group_size=length
        )
        chunk, file = divmod(self._file, _CHUNK_FILES)
        self._rows.append(
            {
                "episode_index": index,
                "tasks": [episode.instruction],
                "length": length,
                "dataset_from_index": self._frames,
                "dataset_to_index": self._frames + length,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                "task_key": episode.task,
                "seed": episode.seed,
            }
            | {
                f"stats/{name}/{key}": value
                for name in sorted(statistics)
                for key, value in sorted(statistics[name].items())
            }
        )
        self._frames += length
        self._episodes += 1
        if len(self._rows) == _EPISODES_A_GROUP:
            self._write_rows()

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

    def _chunks(self, name: str) -> Iterator[np.ndarray]:
        """What was written of a feature of numbers, (T, D) at a time."""
        for path in sorted((self._path / "data").glob("*/*.parquet")):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_ROWS_READ, columns=[name]):
                    column = batch.column(0)
                    if pa.types.is_fixed_size_list(column.type):
                        column = column.flatten()
                    yield column.to_numpy(zero_copy_only=False).reshape(len(batch), -1)

    def _data_file(self) -> pq.ParquetWriter:
        """The file being written; a new one once it has grown beyond the size LeRobot recommends."""
        place = divmod(self._file, _CHUNK_FILES)
        path = self._path / DATA_PATH.format(chunk_index=place[0], file_index=place[1])
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
            raise BadInput(
                self._path, "", "no episode", "at least one episode", "raise the number of episodes in params.yaml"
            )
        numbers = [name for name, feature in self._features.items() if feature["dtype"] not in ("image", "language")]
        statistics = {name: streamed_statistics(partial(self._chunks, name)) for name in (*numbers, *INDICES)}
        statistics |= {name: image_statistics(histogram, self._frames) for name, histogram in self._histograms.items()}
        indices = {name: {"dtype": dtype, "names": None, "shape": [1]} for name, dtype in INDICES.items()}
        info = {
            "codebase_version": VERSION,
            "robot_type": self._robot_type,
            "fps": self._fps,
            "features": self._features | indices,
            "splits": self._splits,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK_FILES,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "data_path": DATA_PATH,
            "video_path": None,
            "world2act": self._extra,
        }
        write_json(self._path / "meta/info.json", info)
        write_json(self._path / "meta/stats.json", statistics)
        tasks = pa.table({"task_index": pa.array(self._tasks.values(), pa.int64()), "task": list(self._tasks)})
        pandas = {
            "index_columns": ["task"],
            "column_indexes": [],
            "pandas_version": None,
            "columns": [
                {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
                for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
            ],
        }
        pq.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}), self._path / "meta/tasks.parquet")


@dataclass(frozen=True)
class EpisodeRecord:
    """One row of the episodes table. `subset` is the split the episode belongs to, "" where there is none."""

    index: int
    task: str
    instruction: str
    seed: int
    length: int
    subset: str


class EpisodeDataset:
    """Read a dataset, one row group at a time.

    Attributes:
        path: its directory.
        info: meta/info.json.
        features: name → feature.
        fps: frames a second.
        episodes: the records, by index.
        lengths: frames an episode.
        splits: split name → range of episodes.
        cameras: names of the image features, without their prefix, in the order in which they were recorded.
    """

    def __init__(
        self, path: Path, info: dict[str, Any], episodes: list[EpisodeRecord], places: list[tuple[Path, int]]
    ) -> None:
        self.path, self.info, self.episodes, self._places = path, info, episodes, places
        self.features: dict[str, dict[str, Any]] = info["features"]
        self.fps: int = info["fps"]
        self.lengths = [episode.length for episode in episodes]
        self.splits = _splits(path, info)
        self.cameras = _cameras(info)
        self._file = cache(partial(pq.ParquetFile, page_checksum_verification=True))

    @classmethod
    def open(cls, path: str | Path) -> EpisodeDataset:
        """Open the dataset in `path`.

        Raises:
            BadInput: a file is missing, damaged or of another version, or holds no episode.
        """
        root = Path(path)
        info = read_json(root / "meta/info.json")
        if info.get("codebase_version") != VERSION:
            raise BadInput(
                root / "meta/info.json",
                "codebase_version",
                info.get("codebase_version"),
                VERSION,
                "convert the dataset to v3.0",
            )
        splits = _splits(root, info)
        rows: list[dict[str, Any]] = []
        for file in sorted((root / "meta/episodes").glob("*/*.parquet")):
            table = read_parquet(
                file, ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "task_key", "seed"]
            )
            rows += table.to_pylist()
        if [row["episode_index"] for row in rows] != list(range(info["total_episodes"])) or not rows:
            found = f"{len(rows)} episodes"
            raise BadInput(
                root / "meta/episodes",
                "episode_index",
                found,
                f"{info['total_episodes']} episodes in order, at least one",
                _REMEDY,
            )
        records, places, groups = [], [], {}
        for i, row in enumerate(rows):
            file = root / info["data_path"].format(
                chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            )
            groups[file] = groups.get(file, -1) + 1
            subset = next((name for name, episodes in splits.items() if i in episodes), "")
            records.append(EpisodeRecord(i, row["task_key"], row["tasks"][0], row["seed"], row["length"], subset))
            places.append((file, groups[file]))
        return cls(root, info, records, places)

    def __len__(self) -> int:
        return len(self.episodes)

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """All frames, uint8 (T, H, W, 3), arrays (T, D) and indices (T,) of an episode."""
        return self.columns(index, [name for name in self.features if name != LANGUAGE])

    def columns(self, index: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Some features of an episode, shaped as in `episode`; frames are read only where they are named."""
        table = self._read(index, names)
        return {name: self._decode(index, table[name], name) for name in names}

    def frames(self, index: int, camera: str, which: Sequence[int] | None = None) -> np.ndarray:
        """Frames `which` (all of them without it) of one camera of an episode, uint8 (N, H, W, 3)."""
        name = IMAGES + camera
        column = self._read(index, [name])[name]
        return self._decode(index, column if which is None else column.take(pa.array(which)), name)

    def pngs(self, index: int, camera: str) -> list[bytes]:
        """The frames of one camera of an episode, as they are stored."""
        return [png["bytes"] for png in self._read(index, [IMAGES + camera])[IMAGES + camera].to_pylist()]

    def encoded(self, index: int) -> EncodedEpisode:
        """An episode as `DatasetWriter.add` takes it, its frames as they are stored.

        Raises:
            BadInput: a frame is not an image of the shape that the feature declares.
        """
        record = self.episodes[index]
        table = self._read(index, list(self.features))
        pngs = {camera: [png["bytes"] for png in table[IMAGES + camera].to_pylist()] for camera in self.cameras}
        histograms = {camera: self._histogram(index, IMAGES + camera, pngs[camera]) for camera in self.cameras}
        arrays = {
            name: self._decode(index, table[name], name)
            for name, feature in self.features.items()
            if feature["dtype"] not in ("image", "language") and name not in INDICES
        }
        language = table[LANGUAGE][0].as_py() if LANGUAGE in self.features else []
        return EncodedEpisode(
            record.task, record.instruction, record.seed, record.length, pngs, histograms, arrays, language
        )

    def _histogram(self, index: int, name: str, pngs: Sequence[bytes]) -> np.ndarray:
        shape, histogram = tuple(self.features[name]["shape"]), np.zeros((3, 256), np.int64)
        for frame, png in enumerate(pngs):
            with self._readable(index, f"{name}, frame {frame}"), Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                found = (image.height, image.width, len(image.getbands()))
                if found != shape:  # before the pixels take any memory
                    place = f"episode {index}, {name}, frame {frame}"
                    raise BadInput(self._places[index][0], place, found, shape, _REMEDY)
                pixels = np.asarray(image)
            histogram += [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
        return histogram

    @contextmanager
    def _readable(self, index: int, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:  # as PIL complains of a PNG
            raise BadInput(self._places[index][0], f"episode {index}, {what}", error, "a PNG", _REMEDY) from error

    def verify(self) -> None:
        """Check that the data files hold what info.json and the episodes table declare, without reading them.

        Raises:
            BadInput: a file is missing or damaged, a column missing or of another type, or an episode's rows are not
                one row group.
        """
        schema = data_schema({name: feature for name, feature in self.features.items() if name not in INDICES})
        if sum(self.lengths) != self.info["total_frames"]:
            found, expected = f"{sum(self.lengths)} frames", f"{self.info['total_frames']}, the total_frames"
            raise BadInput(self.path / "meta/episodes", "length", found, expected, _REMEDY)
        for (path, group), length in zip(self._places, self.lengths, strict=True):
            if not path.exists():
                raise BadInput(path, "", "nothing", "a data file", _REMEDY)
            try:
                file = self._file(path)
            except (pa.ArrowException, OSError) as error:
                raise BadInput(path, "", str(error).splitlines()[0], "a whole parquet file", _REMEDY) from error
            for field in schema:
                names = file.schema_arrow.names
                found = file.schema_arrow.field(field.name).type if names.count(field.name) == 1 else "no such column"
                if found != field.type:
                    raise BadInput(path, field.name, found, field.type, _REMEDY)
            groups = file.metadata.num_row_groups
            rows = file.metadata.row_group(group).num_rows if group < groups else 0
            if rows != length:
                raise BadInput(path, f"row group {group}", f"{rows} rows", f"an episode's {length} frames", _REMEDY)

    def _read(self, index: int, names: Sequence[str]) -> pa.Table:
        file, group = self._places[index]
        for name in names:
            if name not in self.features:
                raise BadInput(
                    self.path / "meta/info.json", f"features.{name}", sorted(self.features), "this feature", _REMEDY
                )
        if not file.exists():
            raise BadInput(file, "", "nothing", f"the data of episode {index}", _REMEDY)
        try:
            table = self._file(file).read_row_group(group, columns=list(names))
        except (pa.ArrowException, OSError) as error:
            raise BadInput(
                file, f"episode {index}", str(error).splitlines()[0], "a whole parquet file", _REMEDY
            ) from error
        for name in names:
            if table[name].null_count:
                found = f"{table[name].null_count} rows without a value"
                raise BadInput(file, f"episode {index}, {name}", found, "a value in every row", _REMEDY)
        if len(table) != self.lengths[index]:
            raise BadInput(
                file,
                f"row group {group}",
                f"{len(table)} rows",
                f"episode {index}'s {self.lengths[index]} frames",
                _REMEDY,
            )
        return table

    def _decode(self, index: int, column: pa.ChunkedArray, name: str) -> np.ndarray:
        if self.features[name]["dtype"] != "image":
            values = column.combine_chunks()
            flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
            numbers = flat.to_numpy(zero_copy_only=False)
            return numbers if name in INDICES else numbers.reshape(len(values), -1)
        try:
            return np.stack([np.asarray(Image.open(io.BytesIO(png["bytes"]))) for png in column.to_pylist()])
        except OSError as error:
            raise BadInput(
                self._places[index][0], f"episode {index}, {name}", str(error), "PNG frames", _REMEDY
            ) from error


def image_feature(height: int, width: int) -> dict[str, Any]:
    return {"dtype": "image", "names": ["height", "width", "channels"], "shape": [height, width, 3]}


def array_feature(names: Sequence[str], dtype: str = "float32") -> dict[str, Any]:
    return {"dtype": dtype, "names": list(names), "shape": [len(names)]}


def language_feature() -> dict[str, Any]:
    """The feature `LANGUAGE`: what is said of an episode, the same rows beside each of its frames."""
    return {"dtype": "language", "names": None, "shape": [1]}


def _cameras(info: dict[str, Any]) -> list[str]:
    """Features stand by name; a recording of several cameras says under `world2act` which of them comes first."""
    names = [name.removeprefix(IMAGES) for name in info["features"] if name.startswith(IMAGES)]
    details = info.get("world2act")
    recorded = details.get("cameras") if isinstance(details, dict) else None
    order = [each.get("name") for each in recorded if isinstance(each, dict)] if isinstance(recorded, list) else []
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _splits(path: Path, info: Mapping[str, Any]) -> dict[str, range]:
    try:
        return {name: range(*map(int, text.split(":"))) for name, text in info["splits"].items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            path / "meta/info.json", "splits", info.get("splits"), 'ranges of episodes such as "0:40"', _REMEDY
        ) from error
