"""Reading a LeRobotDataset v3.0: a dataset directory in, episodes out.

`world2act.data.lerobot_v3_writer` describes the layout. Memory grows with the number of episodes only by one record
for each of them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from world2act.core.errors import BadInput
from world2act.core.storage import read_parquet
from world2act.data.episodes import EncodedEpisode
from world2act.data.features import IMAGES, INDICES, LANGUAGE, Feature, data_schema, element_names, is_numeric
from world2act.data.info import (
    INFO_PATH,
    RESTORE,
    DatasetInfo,
    RecordingDetails,
    camera_names,
    read_info,
    read_splits,
)


@dataclass(frozen=True)
class EpisodeRecord:
    """One row of the episodes table. `subset` is the split that the episode belongs to, "" where there is none."""

    index: int
    task: str
    instruction: str
    seed: int
    length: int
    subset: str


@dataclass(frozen=True)
class RowGroup:
    """Where the rows of an episode are: row group `number` of a data file."""

    file: Path
    number: int


class EpisodeDataset:
    """Reads a dataset, one row group at a time.

    Attributes:
        path: its directory.
        info: meta/info.json.
        features: name → feature.
        fps: frames per second.
        episodes: the records, by index.
        lengths: frames per episode.
        splits: split name → range of episodes.
        cameras: names of the image features, without their prefix, in the order in which they were recorded.
    """

    def __init__(
        self, path: Path, info: DatasetInfo, episodes: list[EpisodeRecord], row_groups: list[RowGroup]
    ) -> None:
        self.path, self.info, self.episodes, self._row_groups = path, info, episodes, row_groups
        self.features: dict[str, Feature] = info["features"]
        self.fps = info["fps"]
        self.lengths = [episode.length for episode in episodes]
        self.splits = read_splits(path, info)
        self.cameras = camera_names(info)
        self._file = cache(partial(pq.ParquetFile, page_checksum_verification=True))

    @classmethod
    def open(cls, path: str | Path) -> EpisodeDataset:
        """Open the dataset in `path`.

        Raises:
            BadInput: a file is missing, damaged or of another version, or the dataset has no episode.
        """
        root = Path(path)
        info = read_info(root)
        splits = read_splits(root, info)
        rows = _episode_rows(root, info)
        records: list[EpisodeRecord] = []
        row_groups: list[RowGroup] = []
        counts: Counter[Path] = Counter()
        for i, row in enumerate(rows):
            chunk, number = row["data/chunk_index"], row["data/file_index"]
            file = root / info["data_path"].format(chunk_index=chunk, file_index=number)
            row_groups.append(RowGroup(file, counts[file]))
            counts[file] += 1
            subset = next((name for name, episodes in splits.items() if i in episodes), "")
            records.append(EpisodeRecord(i, row["task_key"], row["tasks"][0], row["seed"], row["length"], subset))
        return cls(root, info, records, row_groups)

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def details(self) -> RecordingDetails:
        """What info.json says under `world2act`; empty where it says nothing."""
        return self.info.get("world2act", {})

    def element_names(self, feature: str) -> list[str]:
        """The names of the elements of a feature of numbers; none where the dataset does not name them."""
        return element_names(self.features, feature)

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """All frames, uint8 (T, H, W, 3), arrays (T, D) and indices (T,) of an episode."""
        return self.columns(index, [name for name in self.features if name != LANGUAGE])

    def columns(self, index: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Some features of an episode, shaped as in `episode`; frames are read only where they are named."""
        table = self._read(index, names)
        return {name: self._decode(index, table[name], name) for name in names}

    def frames(self, index: int, camera: str, which: Sequence[int] | None = None) -> np.ndarray:
        """Frames `which` (by default all) of one camera of an episode, uint8 (N, H, W, 3)."""
        name = IMAGES + camera
        column = self._read(index, [name])[name]
        return self._decode(index, column if which is None else column.take(pa.array(which)), name)

    def pngs(self, index: int, camera: str) -> list[bytes]:
        """The frames of one camera of an episode, as they are stored."""
        return [png["bytes"] for png in self._read(index, [IMAGES + camera])[IMAGES + camera].to_pylist()]

    def encoded(self, index: int) -> EncodedEpisode:
        """An episode as `DatasetWriter.add` takes it, with its frames as they are stored.

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
            if is_numeric(feature) and name not in INDICES
        }
        language = table[LANGUAGE][0].as_py() if LANGUAGE in self.features else []
        return EncodedEpisode(
            record.task, record.instruction, record.seed, record.length, pngs, histograms, arrays, language
        )

    def verify(self) -> None:
        """Check that the data files hold what info.json and the episodes table declare, without reading them.

        Raises:
            BadInput: a file is missing or damaged, a column is missing or of another type, or an episode's rows are
                not one row group.
        """
        schema = data_schema({name: feature for name, feature in self.features.items() if name not in INDICES})
        if sum(self.lengths) != self.info["total_frames"]:
            found, expected = f"{sum(self.lengths)} frames", f"{self.info['total_frames']}, the total_frames"
            raise BadInput(self.path / "meta/episodes", "length", found, expected, RESTORE)
        for group, length in zip(self._row_groups, self.lengths, strict=True):
            self._verify_row_group(group, length, schema)

    def _verify_row_group(self, group: RowGroup, length: int, schema: pa.Schema) -> None:
        if not group.file.exists():
            raise BadInput(group.file, "", "nothing", "a data file", RESTORE)
        try:
            file = self._file(group.file)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(group.file, "", str(error).splitlines()[0], "a whole parquet file", RESTORE) from error
        names = file.schema_arrow.names
        for field in schema:
            found = file.schema_arrow.field(field.name).type if names.count(field.name) == 1 else "no such column"
            if found != field.type:
                raise BadInput(group.file, field.name, found, field.type, RESTORE)
        groups = file.metadata.num_row_groups
        rows = file.metadata.row_group(group.number).num_rows if group.number < groups else 0
        if rows != length:
            expected = f"an episode's {length} frames"
            raise BadInput(group.file, f"row group {group.number}", f"{rows} rows", expected, RESTORE)

    def _read(self, index: int, names: Sequence[str]) -> pa.Table:
        group = self._row_groups[index]
        for name in names:
            if name not in self.features:
                found, expected = sorted(self.features), "this feature"
                raise BadInput(self.path / INFO_PATH, f"features.{name}", found, expected, RESTORE)
        if not group.file.exists():
            raise BadInput(group.file, "", "nothing", f"the data of episode {index}", RESTORE)
        try:
            table = self._file(group.file).read_row_group(group.number, columns=list(names))
        except (pa.ArrowException, OSError) as error:
            fault = str(error).splitlines()[0]
            raise BadInput(group.file, f"episode {index}", fault, "a whole parquet file", RESTORE) from error
        for name in names:
            if table[name].null_count:
                missing = f"{table[name].null_count} rows without a value"
                raise BadInput(group.file, f"episode {index}, {name}", missing, "a value in every row", RESTORE)
        if len(table) != self.lengths[index]:
            expected = f"episode {index}'s {self.lengths[index]} frames"
            raise BadInput(group.file, f"row group {group.number}", f"{len(table)} rows", expected, RESTORE)
        return table

    def _decode(self, index: int, column: pa.ChunkedArray, name: str) -> np.ndarray:
        if self.features[name]["dtype"] != "image":
            numbers = number_array(column)
            return numbers.ravel() if name in INDICES else numbers
        try:
            return np.stack([np.asarray(Image.open(io.BytesIO(png["bytes"]))) for png in column.to_pylist()])
        except OSError as error:
            file = self._row_groups[index].file
            raise BadInput(file, f"episode {index}, {name}", str(error), "PNG frames", RESTORE) from error

    def _histogram(self, index: int, name: str, pngs: Sequence[bytes]) -> np.ndarray:
        shape, histogram = tuple(self.features[name]["shape"]), np.zeros((3, 256), np.int64)
        for frame, png in enumerate(pngs):
            key = f"episode {index}, {name}, frame {frame}"
            with self._readable(index, key), Image.open(io.BytesIO(png), formats=["PNG"]) as image:
                found = (image.height, image.width, len(image.getbands()))
                if found != shape:  # before the pixels take any memory
                    raise BadInput(self._row_groups[index].file, key, found, shape, RESTORE)
                pixels = np.asarray(image)
            histogram += [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
        return histogram

    @contextmanager
    def _readable(self, index: int, key: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:  # PIL's about a bad PNG
            raise BadInput(self._row_groups[index].file, key, error, "a PNG", RESTORE) from error


def number_array(column: pa.ChunkedArray) -> np.ndarray:
    """A column of a feature of numbers as an array (T, D); the inverse of `lerobot_v3_writer.number_column`."""
    values = column.combine_chunks()
    flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
    return flat.to_numpy(zero_copy_only=False).reshape(len(values), -1)


_EpisodeRow = TypedDict(
    "_EpisodeRow",
    {
        "episode_index": int,
        "tasks": list[str],
        "length": int,
        "data/chunk_index": int,
        "data/file_index": int,
        "task_key": str,
        "seed": int,
    },
)


def _episode_rows(root: Path, info: DatasetInfo) -> list[_EpisodeRow]:
    """The episodes table. Raises `BadInput` where it is not the episodes that info.json counts, in order."""
    rows: list[_EpisodeRow] = []
    for file in sorted((root / "meta/episodes").glob("*/*.parquet")):
        rows += cast(list[_EpisodeRow], read_parquet(file, list(_EpisodeRow.__annotations__)).to_pylist())
    if [row["episode_index"] for row in rows] != list(range(info["total_episodes"])) or not rows:
        expected = f"{info['total_episodes']} episodes in order, at least one"
        raise BadInput(root / "meta/episodes", "episode_index", f"{len(rows)} episodes", expected, RESTORE)
    return rows
