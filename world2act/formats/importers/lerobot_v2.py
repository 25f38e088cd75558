"""The layout of LeRobot v2.1: per episode, one parquet file and one video per camera."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from world2act.core.errors import BadInput
from world2act.formats.importers.lerobot_files import EpisodeFiles, Failed, Record
from world2act.formats.importers.source import Source

_EPISODES = "meta/episodes.jsonl"


class EpisodesV21(EpisodeFiles):
    """A dataset in this layout. Raises `BadInput` when the metadata are incomplete."""

    def __init__(self, source: Source, info: dict[str, Any]) -> None:
        super().__init__(source, info)
        self._rows = source.json_lines(_EPISODES)
        where = f"{source.where}: {_EPISODES}"
        if len(self._rows) != info["total_episodes"]:
            expected = f"{info['total_episodes']}, the total_episodes of info.json"
            raise BadInput(where, "", f"{len(self._rows)} episodes", expected, "complete the data")
        chunk = info.get("chunks_size")
        if not isinstance(chunk, int) or chunk < 1:
            raise BadInput(f"{source.where}: meta/info.json", "chunks_size", chunk, "a number", "complete the file")
        self._chunk = chunk

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> Record:
        row = self._rows[index]
        try:
            task = row["tasks"][0]
            length = int(row["length"])
            if int(row["episode_index"]) != index:
                raise Failed(f"line {index} of {_EPISODES} describes episode {row['episode_index']}")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise Failed(f"{_EPISODES}: {row!r:.80}") from error
        return Record(row.get("task_key", task), task, row.get("seed", -1 - index), length)

    def table(self, index: int) -> pa.Table:
        name = self.path("data_path", episode_chunk=index // self._chunk, episode_index=index)
        file = self.parquet(name)
        try:
            return file.read()
        except (pa.ArrowException, OSError) as error:
            raise Failed(f"{name}: {str(error).splitlines()[0]}") from error

    def video(self, index: int, key: str) -> tuple[str, float]:
        places = {"episode_chunk": index // self._chunk, "episode_index": index}
        return self.path("video_path", video_key=key, **places), 0.0
