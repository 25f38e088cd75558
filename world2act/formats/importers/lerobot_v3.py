"""The layout of LeRobot v3.0: many episodes per parquet file and video; the episodes table says where each is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world2act.core.errors import BadInput
from world2act.formats.importers.lerobot_files import EpisodeFiles, Failed, Record
from world2act.formats.importers.source import Source

_FOLDER = "meta/episodes/"
_COLUMNS = ("episode_index", "tasks", "length", "dataset_from_index", "data/chunk_index", "data/file_index")
_OURS = ("task_key", "seed")


class EpisodesV30(EpisodeFiles):
    """A dataset in this layout. Raises `BadInput` when the metadata are incomplete."""

    def __init__(self, source: Source, info: dict[str, Any]) -> None:
        super().__init__(source, info)
        tables = [self._metadata(name) for name in source.files if name.startswith(_FOLDER)]
        found = sum(map(len, tables))
        if found != info["total_episodes"] or not found:
            expected = f"{info['total_episodes']}, the total_episodes of info.json, at least one"
            raise BadInput(f"{source.where}: {_FOLDER}", "", f"{found} episodes", expected, "complete the data")
        self._rows = pa.concat_tables(tables, promote_options="default").sort_by("episode_index")
        self._firsts: dict[str, int] = {}
        for index in range(found):
            name = self._data(index)
            first = self._value(index, "dataset_from_index")
            self._firsts[name] = min(first, self._firsts.get(name, first))
        self._group: tuple[str, int, pa.Table] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> Record:
        if self._value(index, "episode_index") != index:
            raise Failed(f"row {index} of {_FOLDER} describes episode {self._value(index, 'episode_index')}")
        tasks = self._value(index, "tasks")
        task = tasks[0] if tasks else ""
        ours = set(_OURS) <= set(self._rows.column_names)
        key, seed = (self._value(index, name) for name in _OURS) if ours else (task, -1 - index)
        return Record(key, task, seed, self._value(index, "length"))

    def table(self, index: int) -> pa.Table:
        name, length = self._data(index), self._value(index, "length")
        start = self._value(index, "dataset_from_index") - self._firsts[name]
        file = self.parquet(name)
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(rows)
        parts = []
        for group in range(int(np.searchsorted(ends, start, "right")), len(rows)):
            first = int(ends[group]) - rows[group]
            if first >= start + length:
                break
            parts.append(
                self._row_group(name, file, group).slice(max(start - first, 0), start + length - max(start, first))
            )
        table = pa.concat_tables(parts) if parts else None
        if table is None or len(table) < length:
            raise Failed(f"{name}: ends before the episode does")
        if set(table["episode_index"].to_pylist()) != {index}:
            raise Failed(f"{name}: holds rows of other episodes where the metadata say this one is")
        return table

    def video(self, index: int, key: str) -> tuple[str, float]:
        columns = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        if not set(columns) <= set(self._rows.column_names):
            raise Failed(f"{key}: {_FOLDER} does not say where its video is")
        chunk, file, start = (self._value(index, column) for column in columns)
        return self.path("video_path", video_key=key, chunk_index=chunk, file_index=file), start

    def _metadata(self, name: str) -> pa.Table:
        with self.source.open(name) as path:
            try:
                file = pq.ParquetFile(path)
                for column in _COLUMNS:
                    if column not in file.schema_arrow.names:
                        raise BadInput(f"{self.source.where}: {name}", column, "no such column", column, "complete it")
                wanted = [c for c in file.schema_arrow.names if c in (*_COLUMNS, *_OURS) or c.startswith("videos/")]
                table = file.read(columns=wanted)
            except (pa.ArrowException, OSError) as error:
                expected = "a whole parquet file"
                raise BadInput(f"{self.source.where}: {name}", "", error, expected, "get it again") from error
        for column in table.column_names:
            if table[column].null_count:
                raise BadInput(
                    f"{self.source.where}: {name}",
                    column,
                    "rows without a value",
                    "a value in every row",
                    "complete it",
                )
        return table

    def _value(self, index: int, column: str) -> Any:
        return self._rows[column][index].as_py()

    def _data(self, index: int) -> str:
        places = {name: self._value(index, f"data/{name}") for name in ("chunk_index", "file_index")}
        return self.path("data_path", **places)

    def _row_group(self, name: str, file: pq.ParquetFile, group: int) -> pa.Table:
        """Read a row group. The last one is kept, since other writers than LeRobot's put several episodes into one."""
        if self._group is None or self._group[:2] != (name, group):
            try:
                self._group = name, group, file.read_row_group(group)
            except (pa.ArrowException, OSError) as error:
                raise Failed(f"{name}, row group {group}: {str(error).splitlines()[0]}") from error
        return self._group[2]
