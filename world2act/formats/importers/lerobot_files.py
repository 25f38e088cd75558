"""The files of a LeRobot dataset, one episode at a time: the common part of v2.1 and v3.0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from world2act.core.errors import BadInput
from world2act.formats.importers.source import Source
from world2act.formats.importers.video import FrameMissing, frames_at


class Failed(Exception):
    """The reason why one episode cannot be used."""


@dataclass(frozen=True)
class Record:
    """The metadata of an episode; `seed` is -1 minus its index unless we wrote the dataset."""

    task: str
    instruction: str
    seed: int
    length: int


class EpisodeFiles(ABC):
    """Keeps one data file and one video per camera open at a time, since episodes are read in order."""

    def __init__(self, source: Source, info: dict[str, Any]) -> None:
        self.source, self.info = source, info
        self._held: dict[str, tuple[str, ExitStack, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, stack, _ in self._held.values():
            stack.close()
        self._held.clear()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def record(self, index: int) -> Record:
        """The metadata of an episode. Raises `Failed` where they are damaged."""

    @abstractmethod
    def table(self, index: int) -> pa.Table:
        """The rows of an episode. Raises `Failed` where they cannot be read."""

    @abstractmethod
    def video(self, index: int, key: str) -> tuple[str, float]:
        """The video of a feature, and the second at which the episode begins in it."""

    def frames(self, index: int, key: str, seconds: np.ndarray) -> np.ndarray:
        """Frames of a feature at the times of an episode, uint8 (T, H, W, 3). Raises `Failed`."""
        name, start = self.video(index, key)
        try:
            return frames_at(self.local(key, name), start + seconds, 0.25 / self.info["fps"])
        except FrameMissing as error:
            raise Failed(f"{key}: {error}") from error

    def path(self, key: str, **places: int | str) -> str:
        """A path template of info.json, filled in. Raises `BadInput` where it is not one, or leaves the source."""
        template: str | None = self.info.get(key)
        try:
            if template is None:
                raise KeyError(key)
            return self.source.inside(template.format(**places))
        except (AttributeError, KeyError, IndexError, ValueError) as error:
            where, expected = (
                f"{self.source.where}: meta/info.json",
                f"a path with placeholders for {', '.join(places)}",
            )
            raise BadInput(where, key, template, expected, "correct the file") from error

    def local(self, role: str, name: str) -> Path:
        """A local copy, kept until the same role needs another file. Raises `Failed` where there is no such file."""
        held = self._held.get(role)
        if held is None or held[0] != name:
            if held:
                del self._held[role]
                held[1].close()
            if name not in self.source.files:
                raise Failed(f"no {name}")
            stack = ExitStack()
            self._held[role] = name, stack, stack.enter_context(self.source.open(name))
        return self._held[role][2]

    def parquet(self, name: str) -> pq.ParquetFile:
        """A parquet file of data. Raises `Failed` when it is missing or damaged."""
        try:
            return pq.ParquetFile(self.local("data", name))
        except (pa.ArrowException, OSError) as error:
            raise Failed(f"{name}: {str(error).splitlines()[0]}") from error
